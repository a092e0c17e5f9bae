//! Rows that may win, read in full and made into byte strings.

use arrow_array::{Array, BooleanArray, RecordBatch};
use vlmsel_shards::parquet::pages::PageBuffers;
use vlmsel_shards::parquet::table::ParquetTable;

use super::super::pass::{Goal, Scan};
use super::super::row_codec::Encoder;
use super::Candidates;
use crate::arena::Arena;
use crate::error::{Error, Result};

/// Bytes a thread collects before it hands them over.
const HAND_OVER_BYTES: u64 = 1 << 20;

/// Passes collected rows on when they have piled up.
fn hand_over<'a>(goal: &'a Goal<'a>) -> impl FnMut(&mut Arena) -> Result<()> + 'a {
    move |arena| match goal {
        Goal::Collect { collector, .. } if arena.memory_bytes() > HAND_OVER_BYTES => collector.take(arena),
        _ => Ok(()),
    }
}

/// What one thread makes of its candidates.
pub(super) struct Gatherer<'a> {
    scan: &'a Scan<'a>,
    goal: &'a Goal<'a>,
    encoder: Encoder,
    arena: Arena,
    /// For the pages of candidates, while those of scores are in use.
    buffers: PageBuffers,
}

impl<'a> Gatherer<'a> {
    pub fn new(scan: &'a Scan<'a>, goal: &'a Goal<'a>) -> Result<Self> {
        let last = if let Goal::Collect { last, .. } = goal { *last } else { None };
        let encoder = Encoder::new(&scan.resolved.columns, scan.layout, last)?;
        Ok(Self { scan, goal, encoder, arena: Arena::default(), buffers: PageBuffers::default() })
    }

    /// Whether rows are wanted, and not only counted.
    pub fn collects(&self) -> bool {
        matches!(self.goal, Goal::Collect { .. })
    }

    /// Hands over what is left.
    pub fn finish(mut self) -> Result<()> {
        if let Goal::Collect { collector, .. } = self.goal {
            collector.take(&mut self.arena)?;
        }
        Ok(())
    }

    /// Reads the rest of the rows that may win, and passes them on.
    pub fn read(&mut self, table: &ParquetTable, group: usize, candidates: &Candidates) -> Result<()> {
        if !self.collects() {
            return Ok(());
        }
        let winning = self.scan.resolved.columns.winning(self.scan.layout.with_tokens);
        let mut hand_over = hand_over(self.goal);
        let (mut done, mut encoded) = (0, Ok(()));
        table.gather(group, &candidates.rows, &winning, &mut self.buffers, &mut |batch| {
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

    /// Takes the candidates out of a batch that has all their columns.
    pub fn take(&mut self, batch: &RecordBatch, candidates: &Candidates) -> Result<()> {
        let mut mask = vec![false; batch.num_rows()];
        for row in &candidates.rows {
            mask[*row as usize] = true;
        }
        let chosen = arrow_select::filter::filter_record_batch(batch, &BooleanArray::from(mask))
            .map_err(|error| Error::usage(error.to_string()))?;
        self.encoder.encode(&candidates.keys, &candidates.scores, &chosen, &mut self.arena, &mut hand_over(self.goal))
    }
}
