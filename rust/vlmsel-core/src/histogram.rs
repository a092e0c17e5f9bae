//! Exact order statistics of keys too many to hold: counting by digits of the key, highest first.
//!
//! One pass over the keys per 16-bit digit narrows the range that holds the wanted rank until it is one key. Partial
//! counts of threads, files or nodes add up, so the result does not depend on how the keys were divided.

const DIGIT_BITS: u32 = 16;
const BINS: usize = 1 << DIGIT_BITS;

/// Counts of one digit of the keys that share a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DigitCounts {
    prefix: u64,
    /// Digits still below the counted one.
    shift: u32,
    below: u64,
    bins: Vec<u64>,
}

impl DigitCounts {
    /// Counts the highest digit of all keys.
    pub fn highest() -> Self {
        Self { prefix: 0, shift: 64 - DIGIT_BITS, below: 0, bins: vec![0; BINS] }
    }

    /// Counts one key.
    #[inline]
    pub fn add(&mut self, key: u64) {
        let above = self.shift + DIGIT_BITS;
        if above == 64 || key >> above == self.prefix {
            self.bins[(key >> self.shift) as usize & (BINS - 1)] += 1;
        }
    }

    /// Adds the counts of another share of the keys.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.bins.iter_mut().zip(&other.bins) {
            *mine += theirs;
        }
    }

    /// An empty copy, for another thread to fill.
    #[must_use]
    pub fn emptied(&self) -> Self {
        Self { bins: vec![0; BINS], ..*self }
    }

    /// Goes on to the digit that holds the key of `rank` (from 0); the keys must be counted again, unless this was the
    /// last digit. `None` if there are not that many keys.
    pub fn narrow(&self, rank: u64) -> Option<Narrowed> {
        let mut below = self.below;
        for (digit, count) in self.bins.iter().enumerate() {
            if rank < below + count {
                let prefix = (self.prefix << DIGIT_BITS) | digit as u64;
                return Some(if self.shift == 0 {
                    Narrowed::Key(KeyRank { key: prefix, below, equal: *count })
                } else {
                    Narrowed::Next(Self { prefix, shift: self.shift - DIGIT_BITS, below, bins: vec![0; BINS] })
                });
            }
            below += count;
        }
        None
    }
}

/// A step of the search for a rank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Narrowed {
    /// Count the keys once more with this.
    Next(DigitCounts),
    /// Found.
    Key(KeyRank),
}

/// The key at a rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyRank {
    /// The key.
    pub key: u64,
    /// Keys below it.
    pub below: u64,
    /// Keys equal to it.
    pub equal: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn search(keys: &[u64], rank: u64) -> Option<KeyRank> {
        let mut counts = DigitCounts::highest();
        loop {
            let (left, right) = keys.split_at(keys.len() / 2);
            let mut other = counts.emptied();
            for key in left {
                counts.add(*key);
            }
            for key in right {
                other.add(*key);
            }
            counts.merge(&other);
            match counts.narrow(rank)? {
                Narrowed::Next(next) => counts = next,
                Narrowed::Key(found) => return Some(found),
            }
        }
    }

    proptest! {
        #[test]
        fn equals_sorting(mut keys in prop::collection::vec(prop_oneof![any::<u64>(), 0_u64..4], 1..60), at in any::<prop::sample::Index>()) {
            let rank = at.index(keys.len());
            let found = search(&keys, rank as u64).unwrap();
            keys.sort_unstable();
            prop_assert_eq!(found.key, keys[rank]);
            prop_assert_eq!(found.below, keys.partition_point(|k| *k < keys[rank]) as u64);
            prop_assert_eq!(found.equal, keys.iter().filter(|k| **k == keys[rank]).count() as u64);
            prop_assert!(search(&keys, keys.len() as u64).is_none());
        }
    }
}
