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

/// Where in a row its source stands: so many bytes behind the id.
#[derive(Debug, Clone, Copy)]
pub struct SourcePlace(pub usize);

impl SourcePlace {
    /// The encoded source.
    fn of(self, row: &[u8], tag: u32) -> &[u8] {
        let rest = row.get(IdPlace::of_tag(tag).end() + self.0..).unwrap_or_default();
        &rest[..string_bytes(rest).min(rest.len())]
    }

    /// Whether two rows are of different sources.
    pub fn differs(self, (row, tag): (&[u8], u32), (other, other_tag): (&[u8], u32)) -> bool {
        self.of(row, tag) != self.of(other, other_tag)
    }
}

/// Bytes of the string in arrow-row's encoding at the front of `rest`: a mark, then blocks of 8, from the fifth on of 32
/// bytes, each with a byte behind it that says whether another follows.
fn string_bytes(rest: &[u8]) -> usize {
    const NOT_EMPTY: u8 = 2;
    const GOES_ON: u8 = 0xff;
    let mut at = 1;
    if rest.first() != Some(&NOT_EMPTY) {
        return at;
    }
    for block in 0.. {
        at += if block < 4 { 9 } else { 33 };
        if rest.get(at - 1) != Some(&GOES_ON) {
            break;
        }
    }
    at
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{ArrayRef, StringViewArray, UInt8Array};
    use arrow_row::{RowConverter, SortField};
    use arrow_schema::DataType;

    use super::*;

    #[test]
    fn the_source_ends_where_arrow_says() {
        let texts = [0, 1, 7, 8, 9, 31, 32, 33, 63, 64, 65, 1000].map(|length| Some("\u{7f}".repeat(length)));
        let texts: Vec<Option<String>> = texts.into_iter().chain([None]).collect();
        let sources: ArrayRef = Arc::new(texts.iter().map(|text| text.as_deref()).collect::<StringViewArray>());
        let kept: ArrayRef = Arc::new(UInt8Array::from_iter_values((0..texts.len()).map(|n| 255 - n as u8)));
        let alone = RowConverter::new(vec![SortField::new(DataType::Utf8View)]).unwrap();
        let both = [SortField::new(DataType::Utf8View), SortField::new(DataType::UInt8)];
        let both = RowConverter::new(both.into()).unwrap().convert_columns(&[sources.clone(), kept]).unwrap();
        for (source, row) in alone.convert_columns(&[sources]).unwrap().iter().zip(&both) {
            let whole = [&[0; KEY_BYTES], b"id".as_slice(), b"score", row.as_ref()].concat();
            assert_eq!(SourcePlace(5).of(&whole, IdPlace::new(KEY_BYTES, 2).tag()), source.as_ref());
        }
    }
}
