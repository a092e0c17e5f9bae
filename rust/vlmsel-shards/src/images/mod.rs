//! Pictures, without pixels: what a header says, and whether a file is whole.

pub mod check;
pub mod header;
