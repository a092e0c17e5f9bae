//! Which rows may win: by their scores alone, or by all the columns that a filter looks at.

use std::sync::PoisonError;

use arrow_array::types::UInt64Type;
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::DataType;
use vlmsel_core::hash::parse_uid_bytes;
use vlmsel_core::histogram::DigitCounts;
use vlmsel_core::random::random_key;
use vlmsel_shards::columns::score::{Block, ScoreClass, ScoreVisitor, visit_array};
use vlmsel_shards::columns::{Column, Role};

use super::super::pass::{Counts, DUPLICATE_AT, Goal, Scan};
use super::super::row_codec::tokens;
use super::super::row_layout::{Layout, SortKey};
use super::Candidates;
use crate::dedup::keep_bits;
use crate::error::Result;
use crate::id_set::{IdSet, for_each_id};

/// Keys a thread samples at most.
const SAMPLED_KEYS: usize = 1 << 17;

/// Blocks of each chunk whose keys go into the sample.
const SAMPLED_BLOCKS: usize = 4;

/// Says which rows may win, and counts all of them.
pub(super) struct Sifter<'a> {
    scan: &'a Scan<'a>,
    goal: &'a Goal<'a>,
    /// Of the keys' digits, where these are what the pass is for.
    digits: Option<DigitCounts>,
    pub counts: Counts,
    sample_left: usize,
    /// Which rows of the chunk dedup keeps.
    kept: Kept<'a>,
}

/// Which rows of a chunk dedup keeps.
#[derive(Clone, Copy)]
pub(super) enum Kept<'a> {
    /// All: there was no dedup.
    All,
    /// Those whose bits are set; the chunk begins with this row of the index.
    Bits(&'a keep_bits::Kept, u64),
    /// Those whose ids do not go.
    Ids(&'a IdSet),
}

impl Kept<'_> {
    fn is_row(self, row: usize) -> bool {
        match self {
            Self::Bits(kept, first) => kept.contains(first + row as u64),
            Self::All | Self::Ids(_) => true,
        }
    }
}

/// Looks at the scores of a row group, block by block.
pub(super) struct ScoreSifter<'s, 'a> {
    pub sifter: &'s mut Sifter<'a>,
    pub candidates: &'s mut Candidates,
    /// Called after every block.
    pub hand_on: &'s mut dyn FnMut(&mut Candidates),
    /// The row that the next scores begin with.
    pub next_row: usize,
}

impl ScoreVisitor for ScoreSifter<'_, '_> {
    fn wanted(&self) -> Option<(u64, u64)> {
        let Goal::Collect { collector, lower, upper, .. } = self.sifter.goal else { return None };
        if self.sifter.samples() {
            return None;
        }
        let (low, high) = (*lower, collector.cut().min(*upper));
        Some(if self.sifter.reversed() == 0 { (low, high) } else { (!high, !low) })
    }

    fn winners(&mut self, count: usize, rows: &[u32], keys: &[u64]) -> vlmsel_shards::error::Result<()> {
        let reversed = self.sifter.reversed();
        let first_row = self.next_row;
        self.next_row += count;
        if let Kept::Bits(kept, from) = self.sifter.kept {
            let start = from + first_row as u64;
            let stay = kept.count(start, start + count as u64);
            self.sifter.counts.eligible += stay;
            self.sifter.counts.rejected[DUPLICATE_AT] += count as u64 - stay;
            for (row, key) in rows.iter().zip(keys).filter(|(row, _)| kept.contains(from + u64::from(**row))) {
                self.candidates.rows.push(*row);
                self.candidates.keys.push(*key ^ reversed);
            }
        } else {
            self.sifter.counts.eligible += count as u64;
            self.candidates.rows.extend_from_slice(rows);
            self.candidates.keys.extend(keys.iter().map(|key| *key ^ reversed));
        }
        if let Goal::Collect { collector, upper, .. } = self.sifter.goal
            && rows.len() < count
            && collector.cut() < *upper
        {
            collector.note_dropped();
        }
        (self.hand_on)(self.candidates);
        Ok(())
    }

    fn block(&mut self, block: &Block<'_>) -> vlmsel_shards::error::Result<()> {
        let reversed = self.sifter.reversed();
        self.next_row = block.first_row + block.keys.len();
        self.sifter.sample(block.keys.iter().map(|key| *key ^ reversed), block.classes);
        let kept = self.sifter.kept;
        for (at, key) in block.keys.iter().enumerate() {
            match block.classes.map_or(ScoreClass::Finite, |classes| classes[at]) {
                ScoreClass::Finite if !kept.is_row(block.first_row + at) => {
                    self.sifter.counts.rejected[DUPLICATE_AT] += 1;
                }
                ScoreClass::Finite => {
                    self.sifter.sift_key(*key ^ reversed, None, block.first_row + at, self.candidates);
                }
                other => self.sifter.counts.rejected[other as usize - 1] += 1,
            }
        }
        (self.hand_on)(self.candidates);
        Ok(())
    }
}

impl<'a> Sifter<'a> {
    pub fn new(scan: &'a Scan<'a>, goal: &'a Goal<'a>) -> Self {
        let digits = match goal {
            Goal::Digits(total) => Some(total.lock().unwrap_or_else(PoisonError::into_inner).emptied()),
            _ => None,
        };
        Self { scan, goal, digits, counts: Counts::default(), sample_left: 0, kept: Kept::All }
    }

    /// Whether dedup is known by the ids of rows.
    pub fn needs_ids(&self) -> bool {
        matches!(self.kept, Kept::Ids(_))
    }

    /// A chunk of a table begins, with this row of it.
    pub fn begin_chunk(&mut self, table: usize, row: u64) -> Result<()> {
        self.sample_left = SAMPLED_BLOCKS;
        let resolved = self.scan.resolved;
        self.kept = match (&resolved.kept, resolved.kept_from[table]) {
            (None, _) => Kept::All,
            (Some(kept), Some(from)) => Kept::Bits(kept, from + row),
            (Some(kept), None) => Kept::Ids(kept.dropped()?),
        };
        Ok(())
    }

    /// What was counted.
    pub fn finish(self) -> Counts {
        if let (Goal::Digits(total), Some(digits)) = (self.goal, self.digits) {
            total.lock().unwrap_or_else(PoisonError::into_inner).merge(&digits);
        }
        self.counts
    }

    /// 0, or all ones to turn the order round.
    fn reversed(&self) -> u64 {
        if self.scan.layout.reversed { u64::MAX } else { 0 }
    }

    /// Whether keys are still wanted for the histogram.
    fn samples(&self) -> bool {
        self.sample_left > 0 && self.counts.sample.len() <= SAMPLED_KEYS
    }

    /// Remembers some keys of each chunk for the histogram that users see.
    fn sample(&mut self, keys: impl Iterator<Item = u64>, classes: Option<&[ScoreClass]>) {
        if !self.samples() {
            return;
        }
        self.sample_left -= 1;
        match classes {
            None => self.counts.sample.extend(keys),
            Some(classes) => {
                let finite = keys.zip(classes).filter(|(_, class)| **class == ScoreClass::Finite);
                self.counts.sample.extend(finite.map(|(key, _)| key));
            }
        }
    }

    fn sift_key(&mut self, key: u64, score: Option<u64>, row: usize, candidates: &mut Candidates) {
        self.counts.eligible += 1;
        match self.goal {
            Goal::Collect { collector, lower, upper, .. } => {
                if key > collector.cut() {
                    collector.note_dropped();
                } else if key <= *upper && key >= *lower {
                    candidates.rows.push(row as u32);
                    candidates.keys.push(key);
                    candidates.scores.extend(score);
                }
            }
            Goal::Digits(_) => {
                if let Some(digits) = &mut self.digits {
                    digits.add(key);
                }
            }
            Goal::Counts => {}
        }
    }

    /// Classes a batch of the deciding columns and keeps the rows that may win.
    pub(super) fn sift_batch(
        &mut self,
        batch: &RecordBatch,
        deciding: &[(&Column, Role)],
        first_row: usize,
        candidates: &mut Candidates,
    ) -> Result<()> {
        let column = |role| deciding.iter().position(|(_, r)| *r == role).map(|at| batch.column(at));
        let (Some(ids), Some(scores)) = (column(Role::Id), column(Role::Score)) else { return Ok(()) };
        let classes = self.classify(ids, scores, column(Role::Tokens), column(Role::Status), first_row)?;
        let Layout { sort_key, reversed, .. } = self.scan.layout;
        let mut by_score: Vec<u64> = Vec::with_capacity(batch.num_rows());
        visit_array(scores, 0, false, &mut |block: &Block<'_>| {
            by_score.extend(block.keys.iter().map(|key| if reversed { !key } else { *key }));
            Ok(())
        })?;
        let eligible = classes.iter().zip(&by_score).filter(|(class, _)| class.is_none());
        let sampled: Vec<u64> = if self.sample_left > 0 { eligible.map(|(_, key)| *key).collect() } else { Vec::new() };
        self.sample(sampled.into_iter(), None);
        let mut random: Vec<u64> = Vec::new();
        if let SortKey::Random(seed) = sort_key {
            let may_be_hex = ids.data_type() == &DataType::Utf8View;
            for_each_id(ids, |_, id| {
                let id = id.unwrap_or_default();
                let wide = may_be_hex.then(|| parse_uid_bytes(id)).flatten();
                random.push(random_key(seed, wide.as_ref().map_or(id, |bytes| bytes.as_slice())));
            });
        }
        for (at, class) in classes.into_iter().enumerate() {
            match (class, random.get(at)) {
                (None, None) => self.sift_key(by_score[at], None, first_row + at, candidates),
                (None, Some(key)) => self.sift_key(*key, Some(by_score[at]), first_row + at, candidates),
                (Some(reason), _) => self.counts.rejected[reason] += 1,
            }
        }
        Ok(())
    }

    /// For each row the index of its reason in [`REASONS`], or `None` if it is eligible.
    fn classify(
        &self,
        ids: &ArrayRef,
        scores: &ArrayRef,
        token_counts: Option<&ArrayRef>,
        statuses: Option<&ArrayRef>,
        first_row: usize,
    ) -> Result<Vec<Option<usize>>> {
        let (request, resolved) = (self.scan.request, self.scan.resolved);
        let mut classes: Vec<Option<usize>> = Vec::with_capacity(ids.len());
        visit_array(scores, 0, request.refuses_negative(), &mut |block: &Block<'_>| {
            match block.classes {
                None => classes.extend(std::iter::repeat_n(None, block.keys.len())),
                Some(found) => classes.extend(found.iter().map(|class| (*class as usize).checked_sub(1))),
            }
            Ok(())
        })?;
        let counts = token_counts.map(tokens).transpose()?;
        let counts = counts.as_ref().map(arrow_array::cast::AsArray::as_primitive::<UInt64Type>);
        let statuses = statuses.map(arrow_array::cast::AsArray::as_string_view);
        let (mut included, mut excluded, mut dropped) = (Vec::new(), Vec::new(), Vec::new());
        if let Kept::Ids(ids_that_go) = self.kept {
            ids_that_go.contains_each(ids, &mut dropped);
        }
        if let Some(include) = &resolved.include {
            include.contains_each(ids, &mut included);
        }
        if let Some(exclude) = &resolved.exclude {
            exclude.contains_each(ids, &mut excluded);
        }
        for (at, class) in classes.iter_mut().enumerate() {
            if ids.is_null(at) || counts.is_some_and(|counts| counts.is_null(at)) {
                *class = Some(0);
            }
            if class.is_some() {
                continue;
            }
            let count = counts.map(|counts| counts.value(at));
            if statuses.is_some_and(|statuses| statuses.is_null(at) || statuses.value(at) != "ok") {
                *class = Some(4);
            } else if (resolved.include.is_some() && !included[at]) || (resolved.exclude.is_some() && excluded[at]) {
                *class = Some(5);
            } else if request.min_tokens.is_some_and(|least| count.is_some_and(|count| count < least)) {
                *class = Some(6);
            } else if request.max_tokens.is_some_and(|most| count.is_some_and(|count| count > most)) {
                *class = Some(7);
            } else if dropped.get(at) == Some(&true) || !self.kept.is_row(first_row + at) {
                *class = Some(DUPLICATE_AT);
            }
        }
        Ok(classes)
    }
}
