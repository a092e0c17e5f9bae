//! What one thread does of a pass: reads its chunks and hands on the rows that may win.

mod sift;

use std::sync::PoisonError;

use arrow_array::{Array, BooleanArray, RecordBatch};
use vlmsel_core::histogram::DigitCounts;
use vlmsel_shards::columns::{Column, Role};
use vlmsel_shards::parquet::pages::PageBuffers;
use vlmsel_shards::parquet::table::ParquetTable;
use vlmsel_shards::tables::{Table, text::TextTable};

use self::sift::Sifter;
use super::pass::{Chunk, Scan, Sink, Tally};
use super::row_codec::Encoder;
use super::row_layout::SortKey;
use crate::arena::Arena;
use crate::error::{Error, Result};
use crate::progress::Progress;

/// Bytes a thread collects before it hands them over.
const HAND_OVER_BYTES: u64 = 1 << 20;

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

/// Blocks of each chunk whose keys go into the sample.
const SAMPLED_BLOCKS: usize = 4;
/// Candidates of a row group that are kept before the rest of their columns is read.
const MOST_SURVIVORS: usize = 1 << 17;

/// Passes collected rows on when they have piled up.
fn hand_over<'a>(sink: &'a Sink<'a>) -> impl FnMut(&mut Arena) -> Result<()> + 'a {
    move |arena| match sink {
        Sink::Collect { collector, .. } if arena.memory_bytes() > HAND_OVER_BYTES => collector.take(arena),
        _ => Ok(()),
    }
}

/// A thread of a pass.
pub struct Worker<'a> {
    scan: &'a Scan<'a>,
    sink: &'a Sink<'a>,
    progress: &'a Progress,
    encoder: Encoder,
    counts: Option<DigitCounts>,
    arena: Arena,
    tally: Tally,
    candidates: Candidates,
    buffers: PageBuffers,
    /// Buffers for the pages of candidates, while those of scores are in use.
    gathering: PageBuffers,
    sample_left: usize,
}

impl<'a> Worker<'a> {
    /// A worker of `scan`.
    pub fn new(scan: &'a Scan<'a>, sink: &'a Sink<'a>, progress: &'a Progress) -> Result<Self> {
        let last = if let Sink::Collect { last, .. } = sink { *last } else { None };
        let counts = match sink {
            Sink::Count(counts) => Some(counts.lock().unwrap_or_else(PoisonError::into_inner).emptied()),
            _ => None,
        };
        Ok(Self {
            scan,
            sink,
            progress,
            encoder: Encoder::new(&scan.resolved.columns, scan.layout, last)?,
            counts,
            arena: Arena::default(),
            tally: Tally::default(),
            candidates: Candidates::default(),
            buffers: PageBuffers::default(),
            gathering: PageBuffers::default(),
            sample_left: 0,
        })
    }

    /// Hands over what is left; what this worker counted.
    pub fn finish(mut self) -> Result<Tally> {
        match (self.sink, self.counts) {
            (Sink::Collect { collector, .. }, _) => collector.take(&mut self.arena)?,
            (Sink::Count(total), Some(counts)) => {
                total.lock().unwrap_or_else(PoisonError::into_inner).merge(&counts);
            }
            _ => {}
        }
        Ok(self.tally)
    }

    /// Reads a chunk. A table that breaks is noted in the tally.
    pub fn read(&mut self, chunk: Chunk) -> Result<()> {
        let scan = self.scan;
        self.sample_left = SAMPLED_BLOCKS;
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
                self.tally.broken.entry(at).or_insert_with(|| error.to_string());
            }
            other => other?,
        }
        Ok(())
    }

    /// Whether the score alone decides: no filter needs another column of every row.
    fn scores_suffice(&self, table: &ParquetTable, group: usize, buffers: &mut PageBuffers) -> bool {
        let (resolved, request) = (self.scan.resolved, self.scan.request);
        matches!(self.scan.layout.sort_key, SortKey::Score)
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
        let mut candidates = std::mem::take(&mut self.candidates);
        candidates.clear();
        let mut buffers = std::mem::take(&mut self.buffers);
        let mut failed = None;
        // Every row of a group may survive, and groups may be of any size: candidates are handed on as they pile up.
        let mut hand_on = |worker: &mut Self, candidates: &mut Candidates, least: usize| {
            if failed.is_none() && candidates.rows.len() >= least {
                failed = worker.collect(table, group, candidates).err();
                candidates.clear();
            }
        };
        if self.scores_suffice(table, group, &mut buffers) {
            let non_negative = self.scan.request.refuses_negative();
            let mut sifter = Sifter {
                worker: self,
                candidates: &mut candidates,
                hand_on: &mut |worker, candidates| hand_on(worker, candidates, MOST_SURVIVORS),
            };
            table.visit_scores(group, &columns.score, usize::MAX, non_negative, &mut buffers, &mut sifter)?;
        } else {
            let deciding = self.deciding_columns();
            let wanted: Vec<&Column> = deciding.iter().map(|(column, _)| *column).collect();
            let mut first_row = 0;
            let mut sifted = Ok(());
            table.read(group, None, &wanted, &mut |batch| {
                if sifted.is_ok() {
                    sifted = self.sift_batch(batch, &deciding, first_row, &mut candidates);
                    hand_on(self, &mut candidates, MOST_SURVIVORS);
                }
                first_row += batch.num_rows();
                Ok(())
            })?;
            sifted?;
        }
        hand_on(self, &mut candidates, 1);
        failed.map_or(Ok(()), Err)?;
        self.candidates = candidates;
        self.buffers = buffers;
        self.tally.input += rows as u64;
        self.progress.add(rows as u64, bytes)?;
        Ok(())
    }

    /// Reads the rest of the rows that may win, and passes them on.
    fn collect(&mut self, table: &ParquetTable, group: usize, candidates: &Candidates) -> Result<()> {
        let Sink::Collect { .. } = self.sink else { return Ok(()) };
        let winning = self.scan.resolved.columns.winning(self.scan.layout.with_tokens);
        let mut hand_over = hand_over(self.sink);
        let (mut done, mut encoded) = (0, Ok(()));
        table.gather(group, &candidates.rows, &winning, &mut self.gathering, &mut |batch| {
            let end = done + batch.num_rows();
            if batch.column(0).null_count() > 0 {
                // Rows with null ids are rejected before, or the statistics said that there are none.
                return Err(table.damaged(group, "its statistics say that no id is null, its pages hold nulls"));
            }
            if encoded.is_ok() {
                let scores = candidates.scores.get(done..end).unwrap_or_default();
                let keys = &candidates.keys[done..end];
                encoded = self.encoder.encode(keys, scores, batch, &mut self.arena, &mut hand_over);
            }
            done = end;
            Ok(())
        })?;
        encoded
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
            self.sift_batch(&deciding_batch, &deciding, 0, &mut candidates)?;
            if matches!(self.sink, Sink::Collect { .. }) && !candidates.rows.is_empty() {
                self.encode_some(&pick(&winning)?, &candidates)?;
            }
            self.tally.input += slice.num_rows() as u64;
            self.progress.add(slice.num_rows() as u64, 0)?;
        }
        Ok(())
    }

    fn encode_some(&mut self, batch: &RecordBatch, candidates: &Candidates) -> Result<()> {
        let mut mask = vec![false; batch.num_rows()];
        for row in &candidates.rows {
            mask[*row as usize] = true;
        }
        let chosen = arrow_select::filter::filter_record_batch(batch, &BooleanArray::from(mask))
            .map_err(|error| Error::usage(error.to_string()))?;
        self.encoder.encode(&candidates.keys, &candidates.scores, &chosen, &mut self.arena, &mut hand_over(self.sink))
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
                let done = self.sift_batch(batch, &deciding, 0, &mut candidates).and_then(|()| {
                    if matches!(self.sink, Sink::Collect { .. }) && !candidates.rows.is_empty() {
                        let chosen = batch.project(&places).map_err(|error| Error::usage(error.to_string()))?;
                        self.encode_some(&chosen, &candidates)?;
                    }
                    Ok(())
                });
                self.tally.input += batch.num_rows() as u64;
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
        self.tally.input += bad_count;
        self.tally.quarantined += bad_count;
        self.tally.listed.entry(at).or_default().append(&mut bad);
        outcome?;
        self.progress.add(0, table.bytes)?;
        Ok(())
    }
}
