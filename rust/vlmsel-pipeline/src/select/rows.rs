//! The rows that may win, cut back as they pile up.
//!
//! A row is one byte string whose byte order is the total order: key (8 bytes, big-endian), the score where the key may be
//! shared, id, then source and kept columns, each in arrow-row's self-delimiting encoding, then tokens (8 bytes) where the
//! size is a budget. (Where the key is random, the score stands behind the id.) Its tag says where in it the id lies.

use std::borrow::Cow;
use std::convert::Infallible;
use std::hash::BuildHasher;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hashbrown::hash_table::Entry;
use hashbrown::{DefaultHashBuilder, HashTable};

use super::repeated_ids::{Counted, Repeats};
use crate::arena::Arena;
use crate::error::Result;
use crate::external_sort::{Merge, Sorter};
use vlmsel_core::cutoff::{Limit, Rule, Verdict, Walk};

/// Bytes of the key at the front of a row.
pub const KEY_BYTES: usize = 8;
/// Rows collected before the first cut is worth its sort.
const LEAST_ROWS: usize = 64 << 10;

/// A row and its tag.
pub type Row<'a> = (Cow<'a, [u8]>, u32);

/// Where in a row its id lies.
#[derive(Debug, Clone, Copy)]
pub struct IdPlace {
    start: usize,
    length: usize,
}

impl IdPlace {
    /// Bits of a tag that hold the length: enough for the longest id encoded.
    const LENGTH_BITS: u32 = 24;

    /// The id's first byte and its length.
    pub fn new(start: usize, length: usize) -> Self {
        Self { start, length }
    }

    /// As a number that goes with the row.
    pub fn tag(self) -> u32 {
        (self.start as u32) << Self::LENGTH_BITS | self.length as u32
    }

    /// The counterpart of [`IdPlace::tag`].
    pub fn of_tag(tag: u32) -> Self {
        let length = tag & ((1 << Self::LENGTH_BITS) - 1);
        Self { start: (tag >> Self::LENGTH_BITS) as usize, length: length as usize }
    }

    /// The first byte behind the id.
    pub fn end(self) -> usize {
        self.start + self.length
    }

    /// The id, and what is behind it.
    pub fn split(self, row: &[u8]) -> (&[u8], &[u8]) {
        row[self.start..].split_at(self.length)
    }
}

/// The id's bytes of a row.
pub fn id_of(row: &[u8], tag: u32) -> &[u8] {
    IdPlace::of_tag(tag).split(row).0
}

/// The key of a row.
pub fn key_of(row: &[u8]) -> u64 {
    let mut key = [0; KEY_BYTES];
    key.copy_from_slice(&row[..KEY_BYTES]);
    u64::from_be_bytes(key)
}

/// The tokens of a row: its last eight bytes, where the size is a budget.
fn tokens_of(row: &[u8], rule: &Rule) -> u64 {
    if !matches!(rule.limit, Limit::Tokens(_)) {
        return 0;
    }
    let mut tokens = [0; 8];
    tokens.copy_from_slice(&row[row.len() - 8..]);
    u64::from_be_bytes(tokens)
}

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
    repeats: Counted,
    /// Up to this row, which a token budget ended at, all are there.
    behind: Option<Vec<u8>>,
}

impl Dropped {
    /// Whether a walk that ends at this row has seen all that is in front of it. Where repeats are dropped, a better copy
    /// of fewer tokens, found late, can take a walk further than an earlier one came.
    fn nothing_before(&self, row: &[u8]) -> bool {
        self.behind.as_deref().is_none_or(|last| row <= last)
    }
}

/// Shared by the scanning threads.
pub struct Collector {
    rule: Rule,
    first_rank: u64,
    budget: u64,
    /// Rows kept before a cut is looked for.
    room: usize,
    may_cut: bool,
    /// Keys above this cannot win.
    cut: AtomicU64,
    /// Whether a row was dropped because of a cut that was found or guessed (not one that was asked for).
    dropped: AtomicBool,
    state: Mutex<State>,
}

struct State {
    arena: Arena,
    /// Rows from which on a cut is looked for.
    enough: usize,
    disk: Sorter,
    repeats: Repeats,
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
            repeats: Repeats::new(scratch, budget / 4),
            ended_at: None,
        };
        Self {
            rule,
            first_rank,
            budget,
            room,
            may_cut,
            cut: AtomicU64::new(guess.unwrap_or(u64::MAX)),
            dropped: AtomicBool::new(false),
            state: Mutex::new(state),
        }
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
        let memory_bytes = state.arena.memory_bytes() + state.repeats.memory_bytes();
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
            let Walked { needed, stopped, repeats, is_repeat } = walk(&state.arena, self.rule, self.first_rank);
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
        let State { mut arena, mut disk, repeats, ended_at, .. } =
            self.state.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        let dropped = Dropped { any, behind: ended_at, repeats: repeats.finish()? };
        arena.sort();
        if !disk.has_runs() {
            return Ok((Collected::Memory(arena), dropped));
        }
        disk.add_run(&arena)?;
        drop(arena);
        Ok((Collected::Disk(disk.finish()?), dropped))
    }
}

/// Rows that are held in memory at most, whatever the budget.
const MOST_ROWS: usize = 1 << 31;
/// Rows that are handed on together.
const EMITTED_ROWS: usize = 16 << 10;
/// Bytes of them from which on they are handed on.
const EMITTED_BYTES: usize = 8 << 20;
/// Rows that are hashed together: sorted rows lie all over the memory, and waiting for many at once is waiting once.
const HASHED_TOGETHER: usize = 64;

/// The ids of rows that were seen, by the rows' places. A hash only says where to look; ids are compared as bytes.
struct Seen<'a, S> {
    arena: &'a Arena,
    /// Numbers below [`MOST_ROWS`]: half the size is twice as much of the table in the cache.
    places: HashTable<u32>,
    hasher: S,
    /// Hashes of the rows from `first` on.
    hashes: Vec<u64>,
    first: usize,
}

impl<'a, S: BuildHasher> Seen<'a, S> {
    fn new(arena: &'a Arena, rule: &Rule, hasher: S) -> Self {
        let room = if rule.distinct { arena.len() } else { 0 };
        let places = HashTable::with_capacity(room);
        Self { arena, places, hasher, hashes: Vec::with_capacity(HASHED_TOGETHER), first: 0 }
    }

    /// Remembers the id of a row; whether it was seen before. Rows are asked for in order.
    fn is_repeat(&mut self, at: usize) -> bool {
        let Self { arena, places, hasher, .. } = self;
        let id = |at: usize| {
            let (row, tag) = arena.get(at);
            id_of(row, tag)
        };
        // An encoded id begins with a marker that says nothing, and without it most ids are 16 bytes, which hash fastest.
        let hash_of = |at: usize| hasher.hash_one(id(at).get(1..).unwrap_or_default());
        if at < self.first || at - self.first >= self.hashes.len() {
            self.first = at;
            self.hashes.clear();
            self.hashes.extend((at..arena.len().min(at + HASHED_TOGETHER)).map(hash_of));
        }
        let this = id(at);
        let (same, rehash) = (|other: &u32| id(*other as usize) == this, |other: &u32| hash_of(*other as usize));
        match places.entry(self.hashes[at - self.first], same, rehash) {
            Entry::Occupied(_) => true,
            Entry::Vacant(place) => {
                place.insert(at as u32);
                false
            }
        }
    }
}

/// What a walk over sorted rows came to.
struct Walked {
    /// Rows that it needs.
    needed: usize,
    /// Whether it stopped before or at the last row.
    stopped: bool,
    /// How many of the needed rows are repeats.
    repeats: usize,
    /// Which they are.
    is_repeat: Vec<bool>,
}

fn walk(arena: &Arena, rule: Rule, first_rank: u64) -> Walked {
    let mut walk = Walk::new(rule, first_rank);
    let mut seen = Seen::new(arena, &rule, DefaultHashBuilder::default());
    let (mut repeats, mut is_repeat) = (0, vec![false; arena.len()]);
    for at in 0..arena.len() {
        match walk.judge(tokens_of(arena.get(at).0, &rule), || Ok::<_, Infallible>(seen.is_repeat(at))) {
            Ok(Verdict::Stop) => return Walked { needed: at, stopped: true, repeats, is_repeat },
            Ok(Verdict::Repeated) => {
                repeats += 1;
                is_repeat[at] = true;
            }
            _ => {}
        }
    }
    Walked { needed: arena.len(), stopped: false, repeats, is_repeat }
}

/// What a walk over all collected rows came to.
#[derive(Debug, Clone, Copy, Default)]
pub struct Chosen {
    /// Rows selected.
    pub selected: u64,
    /// Rows at or above the last selected one whose id was taken.
    pub repeated: u64,
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
    for at in 0..arena.len() {
        let (row, tag) = arena.get(at);
        match walk.judge(tokens_of(row, &rule), || Ok::<_, crate::Error>(seen.is_repeat(at)))? {
            Verdict::Selected => {
                last_row = Some(row);
                picked.push((Cow::Borrowed(row), tag))?;
            }
            Verdict::Stop => {
                chosen.complete = dropped.nothing_before(row);
                break;
            }
            Verdict::Repeated | Verdict::Outranked => {}
        }
    }
    picked.finish()?;
    chosen.complete |= walk.is_over() && dropped.behind.is_none();
    chosen.selected = walk.selected;
    chosen.repeated = walk.repeated() + last_row.map_or(Ok(0), |last| dropped.repeats.before(last))?;
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
    let mut repeats = Repeats::new(scratch, budget / 3);
    if rule.distinct {
        let mut by_id = by_id.finish()?;
        let mut last: Option<Vec<u8>> = None;
        while let Some((record, tag)) = by_id.next()? {
            let (id, row) = record.split_at(IdPlace::of_tag(tag).length);
            if last.as_deref() == Some(id) {
                repeats.add(row)?;
            } else {
                rows.push(&[row], tag)?;
                last = Some(id.to_vec());
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
    }
    chosen.selected = walk.selected;
    Ok(chosen)
}

#[cfg(test)]
mod tests;
