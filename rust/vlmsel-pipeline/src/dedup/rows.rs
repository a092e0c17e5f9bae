//! The rows of an index, numbered through its parts in the order of its manifest.

use std::path::{Path, PathBuf};

use arrow_array::RecordBatch;
use vlmsel_core::random::random_key;
use vlmsel_shards::parquet::table::ParquetTable;
use vlmsel_shards::tables::index_reader::MAX_GROUP_BYTES;
use vlmsel_shards::workspace::fingerprint::fingerprint;
use vlmsel_shards::workspace::manifest::{InputRecord, Manifest};

use super::row_set::RowSet;
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::run_options::RunOptions;

/// Rows of a part that one thread reads before it takes the next piece of work.
const ROWS_AT_ONCE: u32 = 1 << 20;
/// Neighbours that a sample takes or leaves together: they lie in the same row groups, so that most of the index is not read.
const ROWS_OF_SAMPLE: u32 = 4096;

/// One part of the index, or of an output that has the same parts.
#[derive(Debug, Clone)]
pub struct Part {
    /// Its name in the manifest: source and shard.
    pub unit: String,
    /// The Parquet file below the index.
    pub file: String,
    /// Number of its first row.
    pub first: u32,
    /// Its rows.
    pub rows: u32,
}

/// An index, opened.
#[derive(Debug)]
pub struct IndexRows {
    /// The folder.
    pub folder: PathBuf,
    /// Its manifest.
    pub manifest: Manifest,
    /// Its parts.
    pub parts: Vec<Part>,
    /// All rows.
    pub rows: u32,
    /// The rows that are read, where this is a sample.
    sample: Option<RowSet>,
}

/// Rows of a batch: which they are, and their columns as asked for.
#[derive(Debug)]
pub struct Batch<'a> {
    /// Number of each row.
    pub rows: &'a [u32],
    /// Place of the part in [`IndexRows::parts`].
    pub part: usize,
    /// The columns, strings and binaries as views.
    pub columns: RecordBatch,
}

impl IndexRows {
    /// Opens the index that `manifest` describes.
    ///
    /// # Errors
    /// More rows than a 32-bit number holds.
    pub fn new(folder: &Path, manifest: Manifest) -> Result<Self> {
        let mut first = 0_u64;
        let mut parts = Vec::with_capacity(manifest.parts.len());
        for part in &manifest.parts {
            let file = part.files.iter().find(|file| Path::new(&file.file).extension().is_some_and(|e| e == "parquet"));
            let Some(file) = file else { continue };
            let number = |rows: u64| {
                u32::try_from(rows).ok().filter(|rows| *rows < u32::MAX).ok_or_else(|| {
                    Error::usage(format!(
                        "{}: dedup numbers rows with 32 bits, and the index has more than {}; index and dedup its sources in several folders",
                        folder.display(),
                        u32::MAX - 1
                    ))
                })
            };
            number(first + part.rows)?;
            parts.push(Part {
                unit: part.unit.clone(),
                file: file.file.clone(),
                first: number(first)?,
                rows: number(part.rows)?,
            });
            first += part.rows;
        }
        Ok(Self { folder: folder.to_path_buf(), manifest, parts, rows: first as u32, sample: None })
    }

    /// The same index, of which whatever compares its rows reads `most` at most: stretches of neighbours, drawn by a hash of their
    /// place. Rows keep their numbers.
    pub fn sampled(&self, most: u32) -> Self {
        let Self { folder, manifest, parts, rows, .. } = self;
        let sample = (*rows > most).then(|| {
            let mut drawn: Vec<u32> = (0..rows.div_ceil(ROWS_OF_SAMPLE)).collect();
            drawn.sort_unstable_by_key(|at| (random_key(0, &at.to_be_bytes()), *at));
            let set = RowSet::new(u64::from(*rows));
            for at in drawn.iter().take((most / ROWS_OF_SAMPLE) as usize) {
                let first = at * ROWS_OF_SAMPLE;
                (first..rows.min(&first.saturating_add(ROWS_OF_SAMPLE)).to_owned()).for_each(|row| set.insert(row));
            }
            set
        });
        let (folder, manifest, parts) = (folder.clone(), manifest.clone(), parts.clone());
        Self { folder, manifest, parts, rows: *rows, sample }
    }

    /// Whether a row is read: in a sample not all are.
    pub fn holds(&self, row: u32) -> bool {
        self.sample.as_ref().is_none_or(|sample| sample.contains(row))
    }

    /// How many rows are read.
    pub fn count(&self) -> u64 {
        self.sample.as_ref().map_or(u64::from(self.rows), RowSet::count)
    }

    /// Whether any row of a part is read.
    pub fn holds_any_of(&self, part: usize) -> bool {
        let Part { first, rows, .. } = &self.parts[part];
        self.sample.as_ref().is_none_or(|sample| sample.rows_within(*first, first + rows).next().is_some())
    }

    /// The parts as inputs of what is made from them.
    ///
    /// # Errors
    /// Those of reading them.
    pub fn inputs(&self) -> Result<Vec<InputRecord>> {
        self.parts.iter().map(|part| Ok(fingerprint(&self.folder.join(&part.file), &part.file)?)).collect()
    }

    /// Reads columns of all rows, or of those in `wanted`, batch by batch, in `threads` threads; each has a state of its own, which
    /// `end` gets when it has done its share. A thread sees rows in order, but not all of them.
    ///
    /// # Errors
    /// Those of reading, of `each` and of `end`.
    #[allow(clippy::too_many_arguments, reason = "what, with how much, and what to do with it")]
    pub fn each<S>(
        &self,
        names: &[&str],
        wanted: Option<&RowSet>,
        threads: usize,
        progress: &Progress,
        begin: impl Fn() -> S + Sync,
        each: impl Fn(&mut S, &Batch<'_>) -> Result<()> + Sync,
        end: impl Fn(S) -> Result<()> + Sync,
    ) -> Result<()> {
        let pieces: Vec<(usize, u32, u32)> = (0..self.parts.len())
            .flat_map(|at| {
                let count = self.parts[at].rows.div_ceil(ROWS_AT_ONCE).max(1);
                (0..count).map(move |piece| (at, piece, count))
            })
            .collect();
        // Pieces are dealt out one by one; a thread's state lives through all of them.
        let next = std::sync::atomic::AtomicUsize::new(0);
        let lanes: Vec<()> = vec![(); threads.clamp(1, pieces.len().max(1))];
        RunOptions::each(lanes.len(), &lanes, |_, ()| {
            let mut state = begin();
            loop {
                let at = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let Some((part, piece, count)) = pieces.get(at).copied() else { break };
                let wanted = [wanted, self.sample.as_ref()];
                self.read_piece(part, piece, count, names, wanted, progress, &mut |batch| each(&mut state, batch))?;
            }
            end(state)
        })
    }

    /// Reads columns of all rows, or of those in `wanted`, in their order.
    ///
    /// # Errors
    /// Those of reading and of `each`.
    pub fn in_order(
        &self,
        names: &[&str],
        wanted: Option<&RowSet>,
        progress: &Progress,
        mut each: impl FnMut(&Batch<'_>) -> Result<()>,
    ) -> Result<()> {
        for part in 0..self.parts.len() {
            self.read_piece(part, 0, 1, names, [wanted, self.sample.as_ref()], progress, &mut each)?;
        }
        Ok(())
    }

    /// The same of one part, and of all its rows also where this is a sample.
    ///
    /// # Errors
    /// Those of reading and of `each`.
    pub fn in_order_of(
        &self,
        part: usize,
        names: &[&str],
        wanted: Option<&RowSet>,
        progress: &Progress,
        each: &mut impl FnMut(&Batch<'_>) -> Result<()>,
    ) -> Result<()> {
        self.read_piece(part, 0, 1, names, [wanted, None], progress, each)
    }

    #[allow(clippy::too_many_arguments, reason = "what both orders have in common")]
    fn read_piece(
        &self,
        part: usize,
        piece: u32,
        pieces: u32,
        names: &[&str],
        wanted: [Option<&RowSet>; 2],
        progress: &Progress,
        each: &mut impl FnMut(&Batch<'_>) -> Result<()>,
    ) -> Result<()> {
        let Part { file, first, rows, .. } = &self.parts[part];
        // Only rows that are in both.
        let sets: Vec<&RowSet> = wanted.into_iter().flatten().collect();
        let within = |start: u32, end: u32| {
            let set = sets.first()?;
            Some(set.rows_within(start, end).filter(|row| sets.iter().all(|set| set.contains(*row))))
        };
        let none = within(*first, first + rows).is_some_and(|mut rows| rows.next().is_none());
        if *rows == 0 || none {
            return Ok(progress.add(u64::from(*rows) / u64::from(pieces), 0)?);
        }
        let path = self.folder.join(file);
        let table = ParquetTable::open(&path, file)?;
        if table.rows() != u64::from(*rows) {
            let text =
                format!("it has {} rows, its manifest says {rows}; run `vlmsel verify` on the index", table.rows());
            return Err(vlmsel_shards::Error::unreadable(&path, text).into());
        }
        let groups = table.groups();
        let share = |piece: u32| groups * piece as usize / pieces as usize;
        for group in share(piece)..share(piece + 1) {
            let (start, count) = table.group_rows(group);
            let start = first + start as u32;
            let chosen: Option<Vec<u32>> =
                within(start, start + count as u32).map(|rows| rows.map(|row| row - start).collect());
            if chosen.as_ref().is_none_or(|chosen| !chosen.is_empty()) {
                let mut at = 0;
                for columns in table.rows_of(group, chosen.as_deref(), names, MAX_GROUP_BYTES)? {
                    let columns = columns?;
                    let length = columns.num_rows();
                    let numbers: Vec<u32> = match &chosen {
                        Some(chosen) => chosen[at..at + length].iter().map(|row| row + start).collect(),
                        None => (start + at as u32..).take(length).collect(),
                    };
                    at += length;
                    each(&Batch { rows: &numbers, part, columns })?;
                }
            }
            progress.add(count as u64, 0)?;
        }
        Ok(())
    }
}
