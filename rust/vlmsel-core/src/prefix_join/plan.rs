//! What a threshold means for sets of every size up to 64: looked up, not computed, where pairs are compared.

use crate::jaccard::Jaccard;

/// Items of the largest sets that are joined.
pub const MAX_ITEMS: usize = 64;

const SIZES: usize = MAX_ITEMS + 1;

/// A threshold, ready for joins.
#[derive(Debug, Clone)]
pub struct PrefixJoin {
    /// Items that sets of two sizes share at least; 0 where they cannot be similar enough.
    required: Box<[[u8; SIZES]; SIZES]>,
    least: [u8; SIZES],
    longest: [u8; SIZES],
}

impl PrefixJoin {
    /// A join at this threshold.
    pub fn new(threshold: &Jaccard) -> Self {
        let mut required = Box::new([[0; SIZES]; SIZES]);
        let (mut least, mut longest) = ([0; SIZES], [0; SIZES]);
        for a in 1..SIZES {
            least[a] = threshold.least(a) as u8;
            longest[a] = threshold.largest(a).min(MAX_ITEMS) as u8;
            for b in 1..SIZES {
                let overlap = threshold.required_overlap(a, b);
                required[a][b] = if overlap <= a.min(b) { overlap as u8 } else { 0 };
            }
        }
        Self { required, least, longest }
    }

    /// Items that sets of these sizes share at least, if they can be similar enough.
    pub(super) fn required(&self, a: u8, b: u8) -> Option<usize> {
        let required = usize::from(self.required[usize::from(a)][usize::from(b)]);
        (required > 0).then_some(required)
    }

    /// Items, counted on both sides, in which sets of these sizes may differ; 0 too where they cannot be similar enough.
    #[inline]
    pub(super) fn slack(&self, a: u8, b: u8) -> u32 {
        match u32::from(self.required[usize::from(a)][usize::from(b)]) {
            0 => 0,
            required => u32::from(a) + u32::from(b) - 2 * required,
        }
    }

    pub(super) fn least(&self, a: usize) -> usize {
        usize::from(self.least[a])
    }

    pub(super) fn longest(&self, a: u8) -> u8 {
        self.longest[usize::from(a)]
    }

    /// Tokens of the prefix of a list of so many, none where it is too long for this join.
    pub fn prefix(&self, length: usize) -> usize {
        if length == 0 || length > MAX_ITEMS { 0 } else { length - self.least(length) + 1 }
    }
}
