//! One pass over all tables: every row is classed, and those that may win are handed on.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use vlmsel_core::histogram::DigitCounts;
use vlmsel_shards::quarantine::Quarantined;
use vlmsel_shards::tables::Table;

use super::gather::Layout;
use super::plan::{Request, Resolved};
use super::rows::Collector;
use super::worker::Worker;
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::threads::start;

/// Why a row is not eligible, in the order of precedence.
pub const REASONS: [&str; 8] =
    ["missing", "nan", "infinite", "negative", "failed", "excluded", "too_short", "too_long"];

/// What rows are ordered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keying {
    /// The score.
    Score,
    /// The hash of (seed, id).
    Random(u64),
}

/// What a pass is for.
pub enum Sink<'a> {
    /// Counting the keys' digits.
    Count(&'a Mutex<DigitCounts>),
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
    /// Classing alone.
    Tally,
}

/// What a pass found.
#[derive(Debug, Default, Clone)]
pub struct Tally {
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

impl Tally {
    fn add(&mut self, other: Self) {
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
    fn chunks(&self) -> Vec<Chunk> {
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

    /// Reads everything once.
    ///
    /// # Errors
    /// Those of the options (`--strict`) and of the scratch disk, and cancellation. A broken table is in
    /// [`Tally::broken`].
    pub fn run(&self, sink: &Sink<'_>, progress: &Progress) -> Result<Tally> {
        let chunks = self.chunks();
        let next = AtomicUsize::new(0);
        let total = Mutex::new(Tally::default());
        let failure: Mutex<Option<Error>> = Mutex::new(None);
        let failed = || failure.lock().unwrap_or_else(PoisonError::into_inner);
        let work = || {
            let outcome = Worker::new(self, sink, progress).and_then(|mut worker| {
                while let Some(chunk) = chunks.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if failed().is_some() {
                        break;
                    }
                    worker.read(*chunk)?;
                }
                worker.finish()
            });
            match outcome {
                Ok(tally) => total.lock().unwrap_or_else(PoisonError::into_inner).add(tally),
                Err(error) => {
                    failed().get_or_insert(error);
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..self.request.threads.clamp(1, chunks.len().max(1)) {
                if let Err(error) = start(scope, work) {
                    failed().get_or_insert(error);
                }
            }
        });
        if let Some(error) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        let mut tally = total.into_inner().unwrap_or_else(PoisonError::into_inner);
        for records in tally.listed.values_mut() {
            records.sort();
        }
        Ok(tally)
    }
}
