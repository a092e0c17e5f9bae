//! Bytes on disks: where a path leads, opening and reading files, what the file system says of them.

pub mod caught;
pub mod disk;
pub mod identity;
pub mod paths;
pub mod source;
pub mod stand_in;
pub mod text_encoding;
pub mod text_stream;
