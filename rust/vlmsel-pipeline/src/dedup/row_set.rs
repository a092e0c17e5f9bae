//! A set of rows: one bit for each, set by any thread.

use std::sync::atomic::{AtomicU64, Ordering};

/// Rows of 0 to some number.
#[derive(Debug, Default)]
pub struct RowSet {
    words: Vec<AtomicU64>,
    rows: u64,
}

impl RowSet {
    /// The empty set among so many rows.
    pub fn new(rows: u64) -> Self {
        Self { words: (0..rows.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(), rows }
    }

    /// Adds a row.
    #[inline]
    pub fn insert(&self, row: u32) {
        self.words[row as usize / 64].fetch_or(1 << (row % 64), Ordering::Relaxed);
    }

    /// Takes a row out.
    #[inline]
    pub fn remove(&self, row: u32) {
        self.words[row as usize / 64].fetch_and(!(1 << (row % 64)), Ordering::Relaxed);
    }

    /// Adds all rows.
    pub fn insert_all(&self) {
        for (at, word) in self.words.iter().enumerate() {
            let rest = self.rows - at as u64 * 64;
            word.store(if rest < 64 { (1 << rest) - 1 } else { u64::MAX }, Ordering::Relaxed);
        }
    }

    /// Whether a row is in it.
    #[inline]
    pub fn contains(&self, row: u32) -> bool {
        self.words[row as usize / 64].load(Ordering::Relaxed) >> (row % 64) & 1 == 1
    }

    /// How many rows are in it.
    pub fn count(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.load(Ordering::Relaxed).count_ones())).sum()
    }

    /// The rows from `start` up to, not including, `end` that are in it, in order.
    pub fn rows_within(&self, start: u32, end: u32) -> impl Iterator<Item = u32> + '_ {
        let words = start / 64..u64::from(end).div_ceil(64) as u32;
        words
            .flat_map(move |at| {
                let mut word = self.words[at as usize].load(Ordering::Relaxed);
                std::iter::from_fn(move || {
                    let bit = (word != 0).then(|| word.trailing_zeros())?;
                    word &= word - 1;
                    Some(64 * at + bit)
                })
            })
            .filter(move |row| (start..end).contains(row))
    }

    /// The set as bytes: row `8 * i + j` is bit `j` of byte `i`.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> =
            self.words.iter().flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes()).collect();
        bytes.truncate(self.rows.div_ceil(8) as usize);
        bytes
    }

    /// How many rows before each are in the set.
    pub fn ranks(&self) -> Ranks<'_> {
        let mut before = Vec::with_capacity(self.words.len() / WORDS_A_STEP + 1);
        let mut sum = 0_u32;
        for step in self.words.chunks(WORDS_A_STEP) {
            before.push(sum);
            sum += step.iter().map(|word| word.load(Ordering::Relaxed).count_ones()).sum::<u32>();
        }
        Ranks { set: self, before }
    }
}

const WORDS_A_STEP: usize = 8;

/// Counts of a set that does not change any more.
#[derive(Debug)]
pub struct Ranks<'a> {
    set: &'a RowSet,
    before: Vec<u32>,
}

impl Ranks<'_> {
    /// How many rows of the set are before `row`.
    #[inline]
    pub fn before(&self, row: u32) -> u32 {
        let at = row as usize / 64;
        let step = at / WORDS_A_STEP;
        let words = &self.set.words[step * WORDS_A_STEP..at];
        let here = self.set.words[at].load(Ordering::Relaxed) & ((1 << (row % 64)) - 1);
        let whole: u32 = words.iter().map(|word| word.load(Ordering::Relaxed).count_ones()).sum();
        self.before[step] + whole + here.count_ones()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn is_a_set_of_numbers(rows in 1..2000_u64, some in prop::collection::btree_set(0..2000_u32, 0..300), gone in prop::collection::vec(0..2000_u32, 0..50), window in (0..2000_u32, 0..2000_u32)) {
            let mut expected: BTreeSet<u32> = some.into_iter().filter(|row| u64::from(*row) < rows).collect();
            let set = RowSet::new(rows);
            for row in &expected {
                set.insert(*row);
            }
            for row in gone.into_iter().filter(|row| u64::from(*row) < rows) {
                expected.remove(&row);
                set.remove(row);
            }
            let end = rows as u32;
            prop_assert_eq!(set.count(), expected.len() as u64);
            prop_assert_eq!(set.rows_within(0, end).collect::<Vec<_>>(), expected.iter().copied().collect::<Vec<_>>());
            let (start, stop) = (window.0.min(window.1).min(end), window.0.max(window.1).min(end));
            prop_assert_eq!(set.rows_within(start, stop).collect::<Vec<_>>(), expected.range(start..stop).copied().collect::<Vec<_>>());
            let (ranks, bytes) = (set.ranks(), set.to_bytes());
            prop_assert_eq!(bytes.len() as u64, rows.div_ceil(8));
            for row in 0..end {
                prop_assert_eq!(ranks.before(row) as usize, expected.range(..row).count());
                prop_assert_eq!(bytes[row as usize / 8] >> (row % 8) & 1 == 1, expected.contains(&row));
                prop_assert_eq!(set.contains(row), expected.contains(&row));
            }
            set.insert_all();
            prop_assert_eq!(set.count(), rows);
        }
    }
}
