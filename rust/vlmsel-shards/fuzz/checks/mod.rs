//! What the fuzz targets check, one function for each kind of foreign bytes. `tests/kept_seeds.rs` calls them too.

#![allow(dead_code, clippy::expect_used, reason = "a target calls one of them; what fails here is a finding")]

pub mod json;
pub mod manifests;
pub mod parquet;
pub mod tar;
pub mod text_tables;

/// A folder for the bytes of a case, because most readers open files; in memory where the system has such a place.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("there is room")
}
