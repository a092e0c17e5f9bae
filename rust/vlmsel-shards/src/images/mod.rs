//! Pictures, without pixels: what a header says, and whether a file is whole.

pub mod check;
pub mod header;

/// Longer images are not read into memory.
pub const MAX_IMAGE_BYTES: u64 = 1 << 30;
