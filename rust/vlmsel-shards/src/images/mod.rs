//! Pictures: what a header says, whether a file is whole, and its pixels in grey.

mod bitmap;
pub mod check;
pub mod header;
pub mod kinds;
pub mod pixels;

/// Longer images are not read into memory.
pub const MAX_IMAGE_BYTES: u64 = 1 << 30;
