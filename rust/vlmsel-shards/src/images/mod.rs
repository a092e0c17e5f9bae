//! Pictures, without pixels: what a header says, and whether a file is whole.

mod bitmap;
pub mod check;
pub mod header;
pub mod kinds;

/// Longer images are not read into memory.
pub const MAX_IMAGE_BYTES: u64 = 1 << 30;
