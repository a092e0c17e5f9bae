//! Rows as byte strings.
//!
//! A row is one byte string whose byte order is the total order: key (8 bytes, big-endian), the score where the key may be
//! shared, id, then source and kept columns, each in arrow-row's self-delimiting encoding, then tokens (8 bytes) where the
//! size is a budget. (Where the key is random, the score stands behind the id.) Its tag says where in it the id lies.

use std::borrow::Cow;

use vlmsel_core::cutoff::{Limit, Rule};

/// Bytes of the key at the front of a row.
pub const KEY_BYTES: usize = 8;

/// A row and its tag.
pub type Row<'a> = (Cow<'a, [u8]>, u32);

/// Where in a row its id lies.
#[derive(Debug, Clone, Copy)]
pub struct IdPlace {
    start: usize,
    pub(super) length: usize,
}

impl IdPlace {
    /// Bits of a tag that hold the length: enough for the longest id encoded.
    const LENGTH_BITS: u32 = 24;

    /// The id's first byte and its length.
    pub fn new(start: usize, length: usize) -> Self {
        Self { start, length }
    }

    /// As a number that goes with the row.
    pub fn tag(self) -> u32 {
        (self.start as u32) << Self::LENGTH_BITS | self.length as u32
    }

    /// The counterpart of [`IdPlace::tag`].
    pub fn of_tag(tag: u32) -> Self {
        let length = tag & ((1 << Self::LENGTH_BITS) - 1);
        Self { start: (tag >> Self::LENGTH_BITS) as usize, length: length as usize }
    }

    /// The first byte behind the id.
    pub fn end(self) -> usize {
        self.start + self.length
    }

    /// The id, and what is behind it.
    pub fn split(self, row: &[u8]) -> (&[u8], &[u8]) {
        row[self.start..].split_at(self.length)
    }
}

/// The id's bytes of a row.
pub fn id_of(row: &[u8], tag: u32) -> &[u8] {
    IdPlace::of_tag(tag).split(row).0
}

/// The key of a row.
pub fn key_of(row: &[u8]) -> u64 {
    let mut key = [0; KEY_BYTES];
    key.copy_from_slice(&row[..KEY_BYTES]);
    u64::from_be_bytes(key)
}

/// The tokens of a row: its last eight bytes, where the size is a budget.
pub fn tokens_of(row: &[u8], rule: &Rule) -> u64 {
    if !matches!(rule.limit, Limit::Tokens(_)) {
        return 0;
    }
    let mut tokens = [0; 8];
    tokens.copy_from_slice(&row[row.len() - 8..]);
    u64::from_be_bytes(tokens)
}
