//! The rows that may win, cut back as they pile up.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use vlmsel_core::cutoff::{Limit, Rule};

use super::distinct::{MOST_ROWS, Walked, walk};
use super::repeated_ids::{Counted, Repeats};
use super::row::{SourcePlace, key_of};
use crate::arena::Arena;
use crate::error::Result;
use crate::external_sort::{Merge, Sorter};

/// Rows collected before the first cut is worth its sort.
pub(super) const LEAST_ROWS: usize = 64 << 10;

/// What the collection ended with.
pub enum Collected {
    /// All in memory, sorted.
    Memory(Arena),
    /// In sorted runs on disk.
    Disk(Merge),
}

/// What is not among the collected rows any more.
#[derive(Debug, Default)]
pub struct Dropped {
    /// Whether cuts dropped any row.
    pub any: bool,
    /// Rows whose id a better row has.
    pub(super) repeats: Counted,
    /// Those of them whose source is another than that of the row which had their id then.
    pub(super) across: Counted,
    /// Where rows have their source, if they have one.
    pub(super) sources: Option<SourcePlace>,
    /// Up to this row, which a token budget ended at, all are there.
    pub(super) behind: Option<Vec<u8>>,
}

impl Dropped {
    /// Whether a walk that ends at this row has seen all that is in front of it. Where repeats are dropped, a better copy
    /// of fewer tokens, found late, can take a walk further than an earlier one came.
    pub(super) fn nothing_before(&self, row: &[u8]) -> bool {
        self.behind.as_deref().is_none_or(|last| row <= last)
    }
}

/// Shared by the scanning threads.
pub struct Collector {
    rule: Rule,
    first_rank: u64,
    budget: u64,
    /// Rows kept before a cut is looked for.
    pub(super) room: usize,
    may_cut: bool,
    sources: Option<SourcePlace>,
    /// Keys above this cannot win.
    cut: AtomicU64,
    /// Whether a row was dropped because of a cut that was found or guessed (not one that was asked for).
    dropped: AtomicBool,
    pub(super) state: Mutex<State>,
}

pub(super) struct State {
    pub(super) arena: Arena,
    /// Rows from which on a cut is looked for.
    pub(super) enough: usize,
    disk: Sorter,
    repeats: Repeats,
    across: Repeats,
    /// The best row that a token budget ended at when rows behind it were dropped.
    ended_at: Option<Vec<u8>>,
}

impl Collector {
    /// Collects for `rule` within `budget` bytes. Rows above `guess` are dropped from the start; `may_cut` allows cuts.
    pub fn new(rule: Rule, first_rank: u64, budget: u64, scratch: &Path, guess: Option<u64>, may_cut: bool) -> Self {
        let room = match rule.limit {
            Limit::Rows(k) => {
                usize::try_from(k.saturating_add(rule.start_rank - first_rank).saturating_mul(2)).unwrap_or(usize::MAX)
            }
            Limit::Tokens(_) => 0,
            Limit::All => usize::MAX,
        };
        let room = room.max(LEAST_ROWS);
        let state = State {
            arena: Arena::default(),
            enough: room,
            disk: Sorter::new(scratch, budget),
            repeats: Repeats::new(scratch, budget / 8),
            across: Repeats::new(scratch, budget / 8),
            ended_at: None,
        };
        Self {
            rule,
            first_rank,
            budget,
            room,
            may_cut,
            sources: None,
            cut: AtomicU64::new(guess.unwrap_or(u64::MAX)),
            dropped: AtomicBool::new(false),
            state: Mutex::new(state),
        }
    }

    /// Counts repeats of other sources, too.
    #[must_use]
    pub fn with_sources(mut self, sources: Option<SourcePlace>) -> Self {
        self.sources = sources;
        self
    }

    /// Keys above this need not be collected. Whoever leaves one out must call [`Collector::note_dropped`].
    pub fn cut(&self) -> u64 {
        self.cut.load(Ordering::Relaxed)
    }

    /// Remembers that a row was left out because of [`Collector::cut`].
    pub fn note_dropped(&self) {
        self.dropped.store(true, Ordering::Relaxed);
    }

    /// Takes over a thread's rows.
    ///
    /// # Errors
    /// Those of the scratch disk.
    pub fn take(&self, rows: &mut Arena) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        state.arena.append(rows);
        let set_aside = state.repeats.memory_bytes() + state.across.memory_bytes();
        let memory_bytes = state.arena.memory_bytes() + set_aside;
        if state.arena.len() >= state.enough.min(MOST_ROWS) || memory_bytes > self.budget {
            self.cut_back(&mut state)?;
        }
        Ok(())
    }

    /// Whether a row whose id a better row has can be taken out: where ranks count, it counts as well.
    fn sets_repeats_aside(&self) -> bool {
        self.rule.distinct && self.rule.start_rank == 0 && self.rule.end_rank.is_none()
    }

    fn cut_back(&self, state: &mut State) -> Result<()> {
        state.arena.sort();
        if self.may_cut || self.sets_repeats_aside() {
            let Walked { needed, stopped, repeats, is_repeat, across } =
                walk(&state.arena, self.rule, self.first_rank, self.sources);
            // The row that a budget ends at is kept: without it the next walk would go on to what is behind.
            let is_budget = matches!(self.rule.limit, Limit::Tokens(_));
            let kept = needed + usize::from(is_budget);
            if self.may_cut && stopped && kept < state.arena.len() {
                let bound = if kept == 0 { 0 } else { key_of(state.arena.get(kept - 1).0) };
                self.cut.fetch_min(bound, Ordering::Relaxed);
                self.note_dropped();
                let end = state.arena.get(needed).0;
                if is_budget && state.ended_at.as_deref().is_none_or(|known| end < known) {
                    state.ended_at = Some(end.to_vec());
                }
                state.arena.truncate(kept);
            }
            // A few cost less where they are.
            if self.sets_repeats_aside() && repeats >= state.arena.len() / 4 {
                for at in (0..state.arena.len()).filter(|at| is_repeat[*at]) {
                    state.repeats.add(state.arena.get(at).0)?;
                }
                for at in across.into_iter().filter(|at| *at < state.arena.len()) {
                    state.across.add(state.arena.get(at).0)?;
                }
                state.arena.remove(&is_repeat);
            }
        }
        if state.arena.memory_bytes() > self.budget / 2 || state.arena.len() >= MOST_ROWS / 2 {
            state.disk.add_run(&state.arena)?;
            state.arena.clear();
        }
        // Where little could be cut, the next sort waits until there is as much again, so that all sorts together cost
        // about what the last one does.
        state.enough = self.room.max(state.arena.len().saturating_mul(2));
        Ok(())
    }

    /// Everything that was collected, in order, and whether cuts dropped rows.
    ///
    /// # Errors
    /// Those of the scratch disk.
    pub fn finish(self) -> Result<(Collected, Dropped)> {
        let any = self.dropped.load(Ordering::Relaxed);
        let State { mut arena, mut disk, repeats, across, ended_at, .. } =
            self.state.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (repeats, across) = (repeats.finish()?, across.finish()?);
        let dropped = Dropped { any, behind: ended_at, repeats, across, sources: self.sources };
        arena.sort();
        if !disk.has_runs() {
            return Ok((Collected::Memory(arena), dropped));
        }
        disk.add_run(&arena)?;
        drop(arena);
        Ok((Collected::Disk(disk.finish()?), dropped))
    }
}
