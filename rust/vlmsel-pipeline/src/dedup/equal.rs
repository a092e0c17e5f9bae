//! Rows with equal keys: the engine of every exact kind.
//!
//! Keys of 128 bits and row numbers are divided by their first bits among partitions that fit into memory; a table of the distinct
//! keys of one partition gives each row its *class*, the smallest row that has its key. Memory is that of distinct keys, so that a
//! key that millions of rows share costs no more than one.

use std::path::Path;

use hashbrown::HashTable;
use vlmsel_core::hash::Hash128;

use crate::error::Result;
use crate::partitions::{Partitions, Writer};
use crate::progress::Progress;
use crate::run_options::RunOptions;

/// Bytes of a key and its row.
const RECORD: usize = 20;
/// What a record takes while its partition is worked on: a distinct key with its row, and its entry in a table that is half empty.
const WORKING_BYTES: u64 = 40;

/// What is looked up in a table of more bytes than this comes from memory and not from a cache.
const CACHE_BYTES: u64 = 4 << 20;
/// Each has a buffer in every writer.
const MOST_PARTITIONS: u64 = 1 << 11;

/// Keys with their rows.
#[derive(Debug)]
pub struct EqualKeys {
    partitions: Partitions<RECORD>,
    shift: u32,
}

/// The distinct keys of a partition.
#[derive(Default)]
struct Distinct {
    table: HashTable<u32>,
    keys: Vec<Hash128>,
    /// The smallest row of each, and whether another row has it too.
    first: Vec<(u32, bool)>,
}

fn low_bits(key: &Hash128) -> u64 {
    u64::from_le_bytes([key[8], key[9], key[10], key[11], key[12], key[13], key[14], key[15]])
}

fn parse(record: &[u8; RECORD]) -> (&Hash128, u32) {
    let (key, row) = record.split_at(16);
    let key: &Hash128 = key.try_into().unwrap_or(&[0; 16]);
    (key, row.try_into().map_or(0, u32::from_le_bytes))
}

impl Distinct {
    fn find(&self, key: &Hash128) -> Option<u32> {
        self.table.find(low_bits(key), |at| self.keys[*at as usize] == *key).copied()
    }

    fn add(&mut self, key: &Hash128, row: u32) {
        let Self { table, keys, first } = self;
        let entry = table.entry(low_bits(key), |at| keys[*at as usize] == *key, |at| low_bits(&keys[*at as usize]));
        match entry {
            hashbrown::hash_table::Entry::Occupied(at) => {
                let first = &mut first[*at.get() as usize];
                *first = (first.0.min(row), true);
            }
            hashbrown::hash_table::Entry::Vacant(free) => {
                free.insert(keys.len() as u32);
                keys.push(*key);
                first.push((row, false));
            }
        }
    }
}

impl EqualKeys {
    /// For about `rows` rows, within `budget` bytes, with scratch space in `folder`.
    pub fn new(folder: &Path, rows: u64, budget: u64, threads: usize) -> Self {
        let by_memory = Partitions::<RECORD>::count_for(rows, WORKING_BYTES, budget / threads as u64);
        let by_cache = (rows * WORKING_BYTES / CACHE_BYTES).next_power_of_two().min(MOST_PARTITIONS);
        let count = by_memory.max(by_cache as usize);
        // Half of the budget is for the tables of the partitions that are worked on.
        let partitions = Partitions::new(folder, count, budget / 2, threads);
        Self { partitions, shift: 32 - count.trailing_zeros() }
    }

    /// A writer for one thread.
    pub fn writer(&self) -> KeyWriter<'_> {
        KeyWriter { writer: self.partitions.writer(), shift: self.shift }
    }

    /// Bytes that went to the scratch disk.
    pub fn spilled_bytes(&self) -> u64 {
        self.partitions.spilled_bytes()
    }

    /// Calls `each` with (class, row) of every row that does not stand alone, class members included; in no order, from any thread.
    ///
    /// # Errors
    /// Those of the scratch disk and of `each`.
    pub fn finish<S>(
        self,
        threads: usize,
        progress: &Progress,
        begin: impl Fn() -> S + Sync,
        each: impl Fn(&mut S, u32, u32) -> Result<()> + Sync,
        end: impl Fn(S) -> Result<()> + Sync,
    ) -> Result<()> {
        let partitions: Vec<usize> = (0..self.partitions.len()).collect();
        RunOptions::each(threads, &partitions, |_, partition| {
            progress.check()?;
            let mut distinct = Distinct::default();
            self.partitions.visit(*partition, |block| {
                progress.check()?;
                for record in block {
                    let (key, row) = parse(record);
                    distinct.add(key, row);
                }
                Ok(())
            })?;
            let mut state = begin();
            self.partitions.visit(*partition, |block| {
                progress.check()?;
                for record in block {
                    let (key, row) = parse(record);
                    if let Some((first, true)) = distinct.find(key).map(|at| distinct.first[at as usize]) {
                        each(&mut state, first, row)?;
                    }
                }
                Ok(())
            })?;
            self.partitions.release(*partition);
            end(state)
        })
    }
}

/// What one thread adds.
pub struct KeyWriter<'a> {
    writer: Writer<'a, RECORD>,
    shift: u32,
}

impl KeyWriter<'_> {
    /// Adds a row.
    ///
    /// # Errors
    /// Those of the scratch disk.
    #[inline]
    pub fn push(&mut self, key: &Hash128, row: u32) -> Result<()> {
        let mut record = [0; RECORD];
        record[..16].copy_from_slice(key);
        record[16..].copy_from_slice(&row.to_le_bytes());
        let high = u32::from_be_bytes([key[0], key[1], key[2], key[3]]);
        // One partition is shifted by all 32 bits.
        self.writer.push((u64::from(high) >> self.shift) as usize, record)
    }

    /// Hands over what is left.
    ///
    /// # Errors
    /// Those of the scratch disk.
    pub fn finish(self) -> Result<()> {
        self.writer.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    proptest! {
        #[test]
        fn finds_the_rows_whose_keys_are_equal(keys in prop::collection::vec(0..60_u32, 0..3000), spread: bool, budget in prop_oneof![Just(0_u64), Just(1 << 20), Just(1 << 30)], threads in 1..5_usize) {
            let folder = tempfile::tempdir().unwrap();
            let equal = EqualKeys::new(folder.path(), 1 << 22, budget, threads);
            let key = |number: u32| -> Hash128 {
                // Spread over all partitions, or all in one with keys that differ in their middle alone.
                if spread { vlmsel_core::hash::image_hash(&number.to_le_bytes()) } else { let mut key = [0; 16]; key[4] = number as u8; key }
            };
            let mut writer = equal.writer();
            for (row, number) in keys.iter().enumerate() {
                writer.push(&key(*number), row as u32).unwrap();
            }
            writer.finish().unwrap();
            let found = Mutex::new(Vec::new());
            let each = |state: &mut Vec<(u32, u32)>, class, row| { state.push((class, row)); Ok(()) };
            let end = |state: Vec<(u32, u32)>| { found.lock().unwrap().extend(state); Ok(()) };
            equal.finish(threads, &Progress::default(), Vec::new, each, end).unwrap();
            let mut rows: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
            for (row, number) in keys.iter().enumerate() {
                rows.entry(*number).or_default().push(row as u32);
            }
            let mut expected: Vec<(u32, u32)> =
                rows.values().filter(|rows| rows.len() > 1).flat_map(|rows| rows.iter().map(|row| (rows[0], *row))).collect();
            expected.sort_unstable();
            let mut found = found.into_inner().unwrap();
            found.sort_unstable();
            prop_assert_eq!(found, expected);
        }
    }
}
