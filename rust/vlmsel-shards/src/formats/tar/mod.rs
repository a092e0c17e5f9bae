//! Tars, read by entry and never unpacked, and written with the same bytes every time.
//!
//! The reader is our own because Python's `tarfile` and the usual crates either stop without a word at a bad header that is
//! not the first, or are built to unpack. Ours yields each member with its byte range, gives every member that has no
//! business in a data set (links, devices, names that climb out) a named kind, and ends in [`End`] or [`Damage`]: the
//! caller always learns whether all of the file was seen.

mod header;
mod reader;
mod writer;

pub use header::{BLOCK_BYTES, MemberKind};
pub use reader::{Damage, End, Item, Member, TarReader};
pub use writer::{TarWriter, header_bytes, write_header, written_bytes};

#[cfg(test)]
mod tests;
