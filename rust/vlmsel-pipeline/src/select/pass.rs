//! One pass over all tables: what it is for, what it reads, and what it finds.

use std::collections::BTreeMap;
use std::sync::Mutex;

use vlmsel_core::histogram::DigitCounts;
use vlmsel_shards::tables::Table;
use vlmsel_shards::workspace::quarantine::Quarantined;

use super::collector::Collector;
use super::plan::{Request, Resolved};
use super::row_layout::Layout;

/// Why a row is not eligible, in the order of precedence.
pub const REASONS: [&str; 9] =
    ["missing", "nan", "infinite", "negative", "failed", "excluded", "too_short", "too_long", DUPLICATE];
/// A copy of a row that is kept, as `vlmsel dedup` found.
const DUPLICATE: &str = "duplicate";
/// Its place.
pub const DUPLICATE_AT: usize = 8;

/// What a pass is for.
pub enum Goal<'a> {
    /// Counting the keys' digits.
    Digits(&'a Mutex<DigitCounts>),
    /// Collecting the rows that may win, from key `lower` on.
    Collect {
        /// Where they go.
        collector: &'a Collector,
        /// Rows below this key cannot be selected; they are only counted.
        lower: u64,
        /// Rows above this key were not asked for (`--threshold`).
        upper: u64,
        /// Nor were scores beyond this one, where different ones share a key.
        last: Option<i128>,
    },
    /// Counting rows by class alone.
    Counts,
}

/// What a pass found.
#[derive(Debug, Default, Clone)]
pub struct Counts {
    /// Records read, quarantined ones included.
    pub input: u64,
    /// Rows by reason, as in [`REASONS`].
    pub rejected: [u64; REASONS.len()],
    /// Rows that rank.
    pub eligible: u64,
    /// Records that could not be read.
    pub quarantined: u64,
    /// The first of them, by table.
    pub listed: BTreeMap<usize, Vec<Quarantined>>,
    /// Tables that broke, with the reason.
    pub broken: BTreeMap<usize, String>,
    /// Some of the eligible rows' score keys.
    pub sample: Vec<u64>,
}

impl Counts {
    pub(super) fn add(&mut self, other: Self) {
        self.input += other.input;
        self.eligible += other.eligible;
        self.quarantined += other.quarantined;
        for (mine, theirs) in self.rejected.iter_mut().zip(other.rejected) {
            *mine += theirs;
        }
        for (table, mut records) in other.listed {
            self.listed.entry(table).or_default().append(&mut records);
        }
        self.broken.extend(other.broken);
        self.sample.extend(other.sample);
    }
}

/// A piece of the input that one thread reads at a time.
#[derive(Debug, Clone, Copy)]
pub enum Chunk {
    /// Row group of a Parquet table.
    Group(usize, usize),
    /// Batch of a table in memory.
    Batch(usize, usize),
    /// A whole text table.
    Text(usize),
}

/// The fixed circumstances of a pass.
pub struct Scan<'a> {
    /// Options.
    pub request: &'a Request,
    /// Tables and columns.
    pub resolved: &'a Resolved,
    /// Tables left out because they broke before.
    pub left_out: &'a BTreeMap<usize, String>,
    /// Order, and what rows carry.
    pub layout: Layout,
}

impl Scan<'_> {
    pub(super) fn chunks(&self) -> Vec<Chunk> {
        let mut chunks = Vec::new();
        for (at, table) in self.resolved.tables.iter().enumerate() {
            if self.left_out.contains_key(&at) {
                continue;
            }
            match table {
                Table::Parquet(parquet) => chunks.extend((0..parquet.groups()).map(|group| Chunk::Group(at, group))),
                Table::Memory(memory) => chunks.extend((0..memory.batches.len()).map(|batch| Chunk::Batch(at, batch))),
                Table::Text(_) => chunks.push(Chunk::Text(at)),
            }
        }
        chunks
    }
}
