//! The walk over all collected rows, in memory or on disk, that hands on the selected ones.

use std::borrow::Cow;
use std::hash::BuildHasher;
use std::path::Path;

use hashbrown::DefaultHashBuilder;
use vlmsel_core::cutoff::{Rule, Verdict, Walk};

use super::collector::{Collected, Dropped};
use super::distinct::Seen;
use super::repeated_ids::Repeats;
use super::row::{IdPlace, Row, id_of, tokens_of};
use crate::arena::Arena;
use crate::error::Result;
use crate::external_sort::{Merge, Sorter};

/// Rows that are handed on together.
const EMITTED_ROWS: usize = 16 << 10;
/// Bytes of them from which on they are handed on.
const EMITTED_BYTES: usize = 8 << 20;
/// What a walk over all collected rows came to.
#[derive(Debug, Clone, Copy, Default)]
pub struct Chosen {
    /// Rows selected.
    pub selected: u64,
    /// Rows at or above the last selected one whose id was taken.
    pub repeated: u64,
    /// How many of them are of another source than the row that has their id. Of those that were set aside while rows were
    /// still read, the better row at that time counts.
    pub across: u64,
    /// Whether the size was reached; if not, and rows were dropped, the walk must be repeated without cuts.
    pub complete: bool,
}

/// Walks the collected rows and hands the selected ones to `emit`, in order and some at a time.
///
/// # Errors
/// Those of `emit` and of the scratch disk.
pub fn choose<'a>(
    collected: &'a mut Collected,
    dropped: &Dropped,
    (rule, first_rank): (Rule, u64),
    scratch: &Path,
    budget: u64,
    emit: &mut dyn FnMut(Vec<Row<'a>>) -> Result<()>,
) -> Result<Chosen> {
    let walk = Walk::new(rule, first_rank);
    match collected {
        Collected::Memory(arena) => choose_in_memory(arena, dropped, walk, DefaultHashBuilder::default(), emit),
        // Taken out, so that its buffers are given back half-way.
        Collected::Disk(merge) => choose_on_disk(std::mem::take(merge), dropped, &walk, scratch, budget, emit),
    }
}

fn choose_in_memory<'a>(
    arena: &'a Arena,
    dropped: &Dropped,
    mut walk: Walk,
    hasher: impl BuildHasher,
    emit: &mut dyn FnMut(Vec<Row<'a>>) -> Result<()>,
) -> Result<Chosen> {
    let rule = walk.rule();
    let mut chosen = Chosen::default();
    let mut seen = Seen::new(arena, &rule, hasher);
    let mut picked = Picked::new(emit);
    let mut last_row = None;
    let mut behind_last = 0;
    for at in 0..arena.len() {
        let (row, tag) = arena.get(at);
        let mut first = None;
        let is_repeat = || {
            first = seen.first_of(at);
            Ok::<_, crate::Error>(first.is_some())
        };
        match walk.judge(tokens_of(row, &rule), is_repeat)? {
            Verdict::Selected => {
                chosen.across += std::mem::take(&mut behind_last);
                last_row = Some(row);
                picked.push((Cow::Borrowed(row), tag))?;
            }
            Verdict::Stop => {
                chosen.complete = dropped.nothing_before(row);
                break;
            }
            Verdict::Repeated => {
                let of_other = |first| dropped.sources.is_some_and(|p| p.differs((row, tag), arena.get(first)));
                behind_last += u64::from(first.is_some_and(of_other));
            }
            Verdict::Outranked => {}
        }
    }
    picked.finish()?;
    chosen.complete |= walk.is_over() && dropped.behind.is_none();
    chosen.selected = walk.selected;
    chosen.repeated = walk.repeated();
    if let Some(last) = last_row {
        chosen.repeated += dropped.repeats.before(last)?;
        chosen.across += dropped.across.before(last)?;
    }
    Ok(chosen)
}

/// Selected rows on their way: some at a time, and no more than some megabytes.
struct Picked<'e, 'a> {
    rows: Vec<Row<'a>>,
    bytes: usize,
    emit: &'e mut dyn FnMut(Vec<Row<'a>>) -> Result<()>,
}

impl<'e, 'a> Picked<'e, 'a> {
    fn new(emit: &'e mut dyn FnMut(Vec<Row<'a>>) -> Result<()>) -> Self {
        Self { rows: Vec::with_capacity(EMITTED_ROWS), bytes: 0, emit }
    }

    fn push(&mut self, row: Row<'a>) -> Result<()> {
        self.bytes += row.0.len();
        self.rows.push(row);
        if self.rows.len() < EMITTED_ROWS && self.bytes < EMITTED_BYTES {
            return Ok(());
        }
        self.bytes = 0;
        (self.emit)(std::mem::replace(&mut self.rows, Vec::with_capacity(EMITTED_ROWS)))
    }

    fn finish(self) -> Result<()> {
        (self.emit)(self.rows)
    }
}

/// The same with disk in place of memory: the set of seen ids becomes a sort by id, which finds each id's first row, and
/// a sort back into the total order. Repeats are set aside and counted when the last selected row is known.
fn choose_on_disk<'a>(
    mut merge: Merge,
    dropped: &Dropped,
    walk: &Walk,
    scratch: &Path,
    budget: u64,
    emit: &mut dyn FnMut(Vec<Row<'a>>) -> Result<()>,
) -> Result<Chosen> {
    let rule = walk.rule();
    let mut chosen = Chosen::default();
    let mut ranks = walk.by_rank_alone();
    let mut by_id = Sorter::new(scratch, budget / 3);
    let mut rows = Sorter::new(scratch, budget / 3);
    while let Some((row, tag)) = merge.next()? {
        match ranks.judge(0, || Ok::<_, crate::Error>(false))? {
            Verdict::Stop => break,
            Verdict::Selected if rule.distinct => by_id.push(&[id_of(&row, tag), &row], tag)?,
            Verdict::Selected => rows.push(&[&row], tag)?,
            Verdict::Repeated | Verdict::Outranked => {}
        }
    }
    chosen.complete = ranks.is_over();
    drop(merge);
    let mut repeats = Repeats::new(scratch, budget / 6);
    let mut across = Repeats::new(scratch, budget / 6);
    if rule.distinct {
        let mut by_id = by_id.finish()?;
        let mut first: Option<(Vec<u8>, u32)> = None;
        while let Some((record, tag)) = by_id.next()? {
            let (id, row) = record.split_at(IdPlace::of_tag(tag).length);
            match &first {
                Some((first, first_tag)) if id_of(first, *first_tag) == id => {
                    repeats.add(row)?;
                    if dropped.sources.is_some_and(|place| place.differs((row, tag), (first, *first_tag))) {
                        across.add(row)?;
                    }
                }
                _ => {
                    rows.push(&[row], tag)?;
                    first = Some((row.to_vec(), tag));
                }
            }
        }
    }
    // Ranks were settled above; what is left is the size.
    let mut walk = Walk::new(Rule { start_rank: 0, end_rank: None, distinct: false, limit: rule.limit }, 0);
    let mut rows = rows.finish()?;
    let mut last_row = None;
    let mut picked = Picked::new(emit);
    while let Some((row, tag)) = rows.next()? {
        if walk.judge(tokens_of(&row, &rule), || Ok::<_, crate::Error>(false))? == Verdict::Selected {
            last_row = Some(row.clone());
            picked.push((Cow::Owned(row), tag))?;
        } else {
            chosen.complete = dropped.nothing_before(&row);
            break;
        }
    }
    picked.finish()?;
    chosen.complete |= walk.is_over() && dropped.behind.is_none();
    if let Some(last) = &last_row {
        chosen.repeated = repeats.finish()?.before(last)? + dropped.repeats.before(last)?;
        chosen.across = across.finish()?.before(last)? + dropped.across.before(last)?;
    }
    chosen.selected = walk.selected;
    Ok(chosen)
}

#[cfg(test)]
mod tests;
