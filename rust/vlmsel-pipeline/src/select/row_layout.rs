//! How the byte strings that order rows are made up.

/// What rows are ordered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SortKey {
    /// The score.
    Score,
    /// The hash of (seed, id).
    Random(u64),
}

/// How rows are made up: key, id, source and kept columns, and what else a selection needs of them. Scores that may share
/// a key stand behind it in full; where the key is a random one, the score stands behind the id.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// What the key is.
    pub sort_key: SortKey,
    /// Whether high scores come first in the order of scores.
    pub reversed: bool,
    /// Whether the tokens stand at the end.
    pub with_tokens: bool,
}

impl Layout {
    pub(super) fn is_random(self) -> bool {
        matches!(self.sort_key, SortKey::Random(_))
    }

    /// A score in full, as bytes in the order of the selection.
    pub(super) fn full(self, value: i128) -> [u8; 16] {
        let bits = value.cast_unsigned() ^ (1 << 127);
        (if self.reversed { !bits } else { bits }).to_be_bytes()
    }

    pub(super) fn value(self, full: [u8; 16]) -> i128 {
        let bits = u128::from_be_bytes(full);
        ((if self.reversed { !bits } else { bits }) ^ (1 << 127)).cast_signed()
    }
}
