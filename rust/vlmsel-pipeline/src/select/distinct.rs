//! Which rows repeat an id: a walk over sorted rows that remembers the ids it has seen.

use std::convert::Infallible;
use std::hash::BuildHasher;

use hashbrown::hash_table::Entry;
use hashbrown::{DefaultHashBuilder, HashTable};
use vlmsel_core::cutoff::{Rule, Verdict, Walk};

use super::row::{SourcePlace, id_of, tokens_of};
use crate::arena::Arena;

/// Rows that are held in memory at most, whatever the budget.
pub const MOST_ROWS: usize = 1 << 31;
/// Rows that are hashed together: sorted rows lie all over the memory, and waiting for many at once is waiting once.
const HASHED_TOGETHER: usize = 64;

/// The ids of rows that were seen, by the rows' places. A hash only says where to look; ids are compared as bytes.
pub struct Seen<'a, S> {
    arena: &'a Arena,
    /// Numbers below [`MOST_ROWS`]: half the size is twice as much of the table in the cache.
    places: HashTable<u32>,
    hasher: S,
    /// Hashes of the rows from `first` on.
    hashes: Vec<u64>,
    first: usize,
}

impl<'a, S: BuildHasher> Seen<'a, S> {
    pub fn new(arena: &'a Arena, rule: &Rule, hasher: S) -> Self {
        let room = if rule.distinct { arena.len() } else { 0 };
        let places = HashTable::with_capacity(room);
        Self { arena, places, hasher, hashes: Vec::with_capacity(HASHED_TOGETHER), first: 0 }
    }

    /// Remembers the id of a row; the first row that has it, if that is another. Rows are asked for in order.
    pub fn first_of(&mut self, at: usize) -> Option<usize> {
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
            Entry::Occupied(first) => Some(*first.get() as usize),
            Entry::Vacant(place) => {
                place.insert(at as u32);
                None
            }
        }
    }
}

/// What a walk over sorted rows came to.
pub struct Walked {
    /// Rows that it needs.
    pub needed: usize,
    /// Whether it stopped before or at the last row.
    pub stopped: bool,
    /// How many of the needed rows are repeats.
    pub repeats: usize,
    /// Which they are.
    pub is_repeat: Vec<bool>,
    /// Which of them are of another source than the row that has their id, in order.
    pub across: Vec<usize>,
}

pub fn walk(arena: &Arena, rule: Rule, first_rank: u64, sources: Option<SourcePlace>) -> Walked {
    let mut walk = Walk::new(rule, first_rank);
    let mut seen = Seen::new(arena, &rule, DefaultHashBuilder::default());
    let (mut repeats, mut is_repeat, mut across) = (0, vec![false; arena.len()], Vec::new());
    for at in 0..arena.len() {
        let mut first = None;
        let is_repeat_of_any = || {
            first = seen.first_of(at);
            Ok::<_, Infallible>(first.is_some())
        };
        match walk.judge(tokens_of(arena.get(at).0, &rule), is_repeat_of_any) {
            Ok(Verdict::Stop) => return Walked { needed: at, stopped: true, repeats, is_repeat, across },
            Ok(Verdict::Repeated) => {
                repeats += 1;
                is_repeat[at] = true;
                let of_other = |first| sources.is_some_and(|place| place.differs(arena.get(at), arena.get(first)));
                if first.is_some_and(of_other) {
                    across.push(at);
                }
            }
            _ => {}
        }
    }
    Walked { needed: arena.len(), stopped: false, repeats, is_repeat, across }
}
