//! Plans and runs one command over many shards.
//!
//! A run gets its whole configuration as a value, reports through [`progress::Progress`], stops when that is cancelled, and
//! ends with an error or a summary in which every input row has exactly one class.

mod arena;
pub mod codes;
pub mod dedup;
pub mod doctor;
pub mod error;
mod external_sort;
pub mod finding;
mod id_set;
pub mod index;
mod partitions;
pub mod pick_rows;
pub mod progress;
mod read_shard;
pub mod run_options;
pub mod select;
pub mod shard;
mod source_roots;
pub mod sources;
pub mod stage;
mod stored_images;
pub mod threads;
pub mod tolerance;

pub use error::{Error, Result};
