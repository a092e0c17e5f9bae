//! What one thread does of a pass: reads its chunks and hands on the rows that may win.

mod gather;
mod sift;

use arrow_array::RecordBatch;
use vlmsel_shards::columns::{Column, Role};
use vlmsel_shards::parquet::pages::PageBuffers;
use vlmsel_shards::parquet::table::ParquetTable;
use vlmsel_shards::tables::{Table, text::TextTable};

use self::gather::Gatherer;
use self::sift::{ScoreSifter, Sifter};
use super::pass::{Chunk, Counts, Goal, Scan};
use super::row_layout::SortKey;
use crate::error::{Error, Result};
use crate::progress::Progress;

/// Rows of a chunk that may win.
#[derive(Debug, Default)]
struct Candidates {
    rows: Vec<u32>,
    keys: Vec<u64>,
    /// Keys of the scores, where the order is another.
    scores: Vec<u64>,
}

impl Candidates {
    fn clear(&mut self) {
        self.rows.clear();
        self.keys.clear();
        self.scores.clear();
    }
}

/// Candidates of a row group that are kept before the rest of their columns is read.
const MOST_CANDIDATES: usize = 1 << 17;

/// A thread of a pass.
pub struct Worker<'a> {
    scan: &'a Scan<'a>,
    progress: &'a Progress,
    sifter: Sifter<'a>,
    gatherer: Gatherer<'a>,
    candidates: Candidates,
    buffers: PageBuffers,
}

impl<'a> Worker<'a> {
    /// A worker of `scan`.
    pub fn new(scan: &'a Scan<'a>, goal: &'a Goal<'a>, progress: &'a Progress) -> Result<Self> {
        Ok(Self {
            scan,
            progress,
            sifter: Sifter::new(scan, goal),
            gatherer: Gatherer::new(scan, goal)?,
            candidates: Candidates::default(),
            buffers: PageBuffers::default(),
        })
    }

    /// Hands over what is left; what this worker counted.
    pub fn finish(self) -> Result<Counts> {
        self.gatherer.finish()?;
        Ok(self.sifter.finish())
    }

    /// Reads a chunk. A table that breaks is noted in the counts.
    pub fn read(&mut self, chunk: Chunk) -> Result<()> {
        let scan = self.scan;
        let (at, first_row) = match chunk {
            Chunk::Group(at, group) => match &scan.resolved.tables[at] {
                Table::Parquet(table) => (at, table.group_rows(group).0),
                _ => (at, 0),
            },
            Chunk::Batch(at, _) | Chunk::Text(at) => (at, 0),
        };
        self.sifter.begin_chunk(at, first_row)?;
        let (at, outcome) = match chunk {
            Chunk::Group(at, group) => match &scan.resolved.tables[at] {
                Table::Parquet(table) => (at, self.read_group(table, group)),
                _ => return Ok(()),
            },
            Chunk::Batch(at, batch) => match &scan.resolved.tables[at] {
                Table::Memory(table) => (at, self.read_memory(&table.batches[batch], &table.name)),
                _ => return Ok(()),
            },
            Chunk::Text(at) => match &scan.resolved.tables[at] {
                Table::Text(table) => (at, self.read_text(at, table)),
                _ => return Ok(()),
            },
        };
        match outcome {
            Err(Error::Shards(error @ vlmsel_shards::Error::Unreadable { .. })) => {
                self.sifter.counts.broken.entry(at).or_insert_with(|| error.to_string());
            }
            other => other?,
        }
        Ok(())
    }

    /// Whether the score alone decides: no filter needs another column of every row.
    fn scores_suffice(&self, table: &ParquetTable, group: usize, buffers: &mut PageBuffers) -> bool {
        let (resolved, request) = (self.scan.resolved, self.scan.request);
        matches!(self.scan.layout.sort_key, SortKey::Score)
            && !self.sifter.needs_ids()
            && resolved.include.is_none()
            && resolved.exclude.is_none()
            && resolved.columns.tokens.is_none()
            && request.min_tokens.is_none()
            && table.null_count(group, &resolved.columns.id) == Some(0)
            && resolved.columns.status.as_ref().is_none_or(|status| table.holds_only(group, status, b"ok", buffers))
    }

    fn read_group(&mut self, table: &ParquetTable, group: usize) -> Result<()> {
        let columns = &self.scan.resolved.columns;
        let rows = table.group_rows(group).1;
        let bytes = table.group_bytes(group, &[&columns.id, &columns.score]);
        self.progress.check()?;
        let mut buffers = std::mem::take(&mut self.buffers);
        let scores_suffice = self.scores_suffice(table, group, &mut buffers);
        let deciding = self.deciding_columns();
        let Self { scan, sifter, gatherer, candidates, .. } = self;
        candidates.clear();
        let mut failed = None;
        // Every row of a group may survive, and groups may be of any size: candidates are handed on as they pile up.
        let mut hand_on = |candidates: &mut Candidates, least: usize| {
            if failed.is_none() && candidates.rows.len() >= least {
                failed = gatherer.read(table, group, candidates).err();
                candidates.clear();
            }
        };
        if scores_suffice {
            let non_negative = scan.request.refuses_negative();
            let mut visitor = ScoreSifter {
                sifter,
                candidates,
                hand_on: &mut |candidates| hand_on(candidates, MOST_CANDIDATES),
                next_row: 0,
            };
            table.visit_scores(group, &columns.score, usize::MAX, non_negative, &mut buffers, &mut visitor)?;
        } else {
            let wanted: Vec<&Column> = deciding.iter().map(|(column, _)| *column).collect();
            let mut first_row = 0;
            let mut sifted = Ok(());
            table.read(group, None, &wanted, &mut |batch| {
                if sifted.is_ok() {
                    sifted = sifter.sift_batch(batch, &deciding, first_row, candidates);
                    hand_on(candidates, MOST_CANDIDATES);
                }
                first_row += batch.num_rows();
                Ok(())
            })?;
            sifted?;
        }
        hand_on(candidates, 1);
        failed.map_or(Ok(()), Err)?;
        self.buffers = buffers;
        self.sifter.counts.input += rows as u64;
        self.progress.add(rows as u64, bytes)?;
        Ok(())
    }

    /// The columns that decide a row's class and key, with their roles.
    fn deciding_columns(&self) -> Vec<(&'a Column, Role)> {
        let columns = &self.scan.resolved.columns;
        let mut deciding = vec![(&columns.id, Role::Id), (&columns.score, Role::Score)];
        deciding.extend(columns.tokens.iter().map(|column| (column, Role::Tokens)));
        deciding.extend(columns.status.iter().map(|column| (column, Role::Status)));
        deciding
    }

    /// A batch whose columns are all in memory already.
    fn read_memory(&mut self, batch: &RecordBatch, name: &str) -> Result<()> {
        let deciding = self.deciding_columns();
        let winning = self.scan.resolved.columns.winning(self.scan.layout.with_tokens);
        // Slices bound the memory of casts.
        for start in (0..batch.num_rows()).step_by(1 << 16) {
            let slice = batch.slice(start, (batch.num_rows() - start).min(1 << 16));
            let pick = |columns: &[&Column]| -> Result<RecordBatch> {
                let arrays = columns
                    .iter()
                    .map(|column| {
                        let array = slice
                            .column_by_name(&column.name)
                            .ok_or_else(|| Error::usage(format!("{name}: column {:?} vanished", column.name)))?;
                        vlmsel_shards::columns::to_working(array, column, name).map_err(Error::from)
                    })
                    .collect::<Result<Vec<_>>>()?;
                RecordBatch::try_new(vlmsel_shards::columns::working_schema(columns), arrays)
                    .map_err(|error| Error::usage(format!("{name}: {error}")))
            };
            let deciding_batch = pick(&deciding.iter().map(|(column, _)| *column).collect::<Vec<_>>())?;
            let mut candidates = Candidates::default();
            self.sifter.sift_batch(&deciding_batch, &deciding, 0, &mut candidates)?;
            if self.gatherer.collects() && !candidates.rows.is_empty() {
                self.gatherer.take(&pick(&winning)?, &candidates)?;
            }
            self.sifter.counts.input += slice.num_rows() as u64;
            self.progress.add(slice.num_rows() as u64, 0)?;
        }
        Ok(())
    }

    fn read_text(&mut self, at: usize, table: &TextTable) -> Result<()> {
        let columns = &self.scan.resolved.columns;
        let deciding = self.deciding_columns();
        let mut wanted = deciding.clone();
        wanted.extend(columns.source.iter().map(|column| (column, Role::Source)));
        wanted.extend(columns.kept.iter().map(|column| (column, Role::Kept)));
        let winning = columns.winning(self.scan.layout.with_tokens);
        let places: Vec<usize> = winning
            .iter()
            .filter_map(|column| wanted.iter().position(|(other, _)| std::ptr::eq(*other, *column)))
            .collect();
        let strict = self.scan.request.strict;
        let mut failed: Option<Error> = None;
        let (mut bad, mut bad_count) = (Vec::new(), 0);
        let stop = || vlmsel_shards::Error::Cancelled;
        let outcome = table.read(
            &wanted,
            &mut |batch| {
                let mut candidates = Candidates::default();
                let done = self.sifter.sift_batch(batch, &deciding, 0, &mut candidates).and_then(|()| {
                    if self.gatherer.collects() && !candidates.rows.is_empty() {
                        let chosen = batch.project(&places).map_err(|error| Error::usage(error.to_string()))?;
                        self.gatherer.take(&chosen, &candidates)?;
                    }
                    Ok(())
                });
                self.sifter.counts.input += batch.num_rows() as u64;
                if let Err(error) = done {
                    failed = Some(error);
                    return Err(stop());
                }
                self.progress.add(batch.num_rows() as u64, 0)
            },
            &mut |record| {
                bad_count += 1;
                if bad.len() < vlmsel_shards::workspace::quarantine::LISTED {
                    bad.push(record);
                }
                if strict { Err(stop()) } else { Ok(()) }
            },
        );
        if let (Some(record), true) = (bad.first(), strict) {
            let place = record.position.map(|line| format!(", line {line}")).unwrap_or_default();
            return Err(Error::Strict(format!(
                "{}{place}: {} ({}); --strict ends at the first bad record",
                table.path.display(),
                record.reason,
                record.detail
            )));
        }
        if let Some(error) = failed {
            return Err(error);
        }
        self.sifter.counts.input += bad_count;
        self.sifter.counts.quarantined += bad_count;
        self.sifter.counts.listed.entry(at).or_default().append(&mut bad);
        outcome?;
        self.progress.add(0, table.bytes)?;
        Ok(())
    }
}
