//! The distinct sets, each with a number of its own (slot), its words and the list of its tokens.
//!
//! Where all fits into memory, the words stay where the sorter has them. Else they go to a file, and the lists of tokens
//! stay in memory if those fit, or are made again from the words by whoever needs them.

use vlmsel_core::tokens::{Frequencies, TokenLists, push_places};
use vlmsel_core::word_set::WordHash;

use super::intake::{HASH_BYTES, Intaker};
use super::run::{Run, map_in_parallel, ranges};
use super::scratch::{Scratch, ScratchWriter};
use crate::arena::Arena;
use crate::error::Result;

/// Sets that the threads gather before what they have is put together.
const CHUNK: usize = 1 << 18;

/// The words of the distinct sets.
pub enum Words {
    /// In memory.
    Memory(SortedSets),
    /// In a file, in the order of slots, the text's number as tag.
    Disk(Scratch),
}

/// Sorted sets, some of them equal.
pub struct SortedSets {
    arena: Arena,
    /// The first of each distinct set.
    first: Vec<u32>,
}

impl SortedSets {
    /// The words of a set, and the smallest number of a text that has it.
    pub fn get(&self, slot: u32) -> (&[u8], u32) {
        let (record, number) = self.arena.get(self.first[slot as usize] as usize);
        (&record[HASH_BYTES..], number)
    }
}

/// What later steps need to know of all sets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Distinct sets.
    pub sets: u64,
    /// Those of more items than the exact join takes.
    pub long: u64,
    /// Entries of the exact join.
    pub entries: u64,
    /// Bytes of all lists, once for each of their entries.
    pub spread_bytes: u64,
}

impl Totals {
    fn count<H>(&mut self, run: &Run<H>, items: usize) {
        self.sets += 1;
        if items > run.longest_exact() {
            self.long += 1;
        } else {
            let entries = run.plan.entries(items);
            self.entries += entries;
            self.spread_bytes += entries * (items as u64 * 4 + TokenLists::LIST_BYTES);
        }
    }

    fn add(&mut self, other: Self) {
        self.sets += other.sets;
        self.long += other.long;
        self.entries += other.entries;
        self.spread_bytes += other.spread_bytes;
    }
}

/// The distinct sets.
pub struct Distinct {
    pub words: Words,
    /// By slot; `None` where they do not fit into memory.
    pub lists: Option<TokenLists>,
    pub frequencies: Frequencies,
    pub totals: Totals,
}

/// Finds the distinct sets. Every text whose set another text of a smaller number has goes to `same`, with the smallest such
/// number.
pub fn distinct<H: WordHash>(
    run: &Run<H>,
    intaker: Intaker<H>,
    same: &mut dyn FnMut(u32, u32) -> Result<()>,
) -> Result<Distinct> {
    let Intaker { sorter, counts, .. } = intaker;
    let list_bytes = counts.items * 4 + counts.texts * (TokenLists::LIST_BYTES + 4);
    let mut distinct = match sorter.into_arena() {
        Ok(arena) if arena.memory_bytes() + list_bytes <= run.memory() / 4 * 3 => in_memory(run, arena, same)?,
        Ok(arena) => {
            let mut stream = Stream::new(run)?;
            for at in 0..arena.len() {
                let (record, number) = arena.get(at);
                stream.take(run, record, number, same)?;
            }
            drop(arena);
            stream.finish()?
        }
        Err(sorter) => {
            let (mut stream, mut merge) = (Stream::new(run)?, sorter.finish()?);
            while let Some((record, number)) = merge.next()? {
                stream.take(run, &record, number, same)?;
            }
            stream.finish()?
        }
    };
    if let Some(lists) = &mut distinct.lists {
        lists.rank(&distinct.frequencies, run.threads());
    }
    Ok(distinct)
}

/// What a thread finds in a range of sorted sets.
#[derive(Default)]
struct Found {
    lists: TokenLists,
    first: Vec<u32>,
    /// Numbers of texts, and how many distinct sets of the range were before each.
    same: Vec<(u32, usize)>,
    totals: Totals,
}

fn in_memory<H: WordHash>(
    run: &Run<H>,
    arena: Arena,
    same: &mut dyn FnMut(u32, u32) -> Result<()>,
) -> Result<Distinct> {
    let mut tables = vec![Frequencies::default(); run.threads()];
    let (mut first, mut lists, mut totals) = (Vec::new(), TokenLists::default(), Totals::default());
    for begin in (0..arena.len()).step_by(CHUNK) {
        run.progress.check()?;
        let range = begin..(begin + CHUNK).min(arena.len());
        let work: Vec<_> = ranges(range.len(), run.threads()).into_iter().zip(&mut tables).collect();
        let found = map_in_parallel(work, |(part, frequencies)| {
            let mut found = Found::default();
            for at in part.start + range.start..part.end + range.start {
                let (record, number) = arena.get(at);
                if at > 0 && arena.get(at - 1).0 == record {
                    found.same.push((number, found.first.len()));
                    continue;
                }
                found.first.push(at as u32);
                found.lists.push(|out| push_places(run.hasher, &record[HASH_BYTES..], out));
                let places = found.lists.get(found.lists.len() - 1);
                frequencies.count(places);
                found.totals.count(run, places.len());
            }
            found
        })?;
        for mut found in found {
            let before = first.len();
            first.append(&mut found.first);
            lists.append(&mut found.lists);
            totals.add(found.totals);
            for (number, ahead) in found.same {
                same(number, arena.get(first[before + ahead - 1] as usize).1)?;
            }
        }
    }
    let mut frequencies = Frequencies::default();
    for table in &tables {
        frequencies.add(table);
    }
    Ok(Distinct { words: Words::Memory(SortedSets { arena, first }), lists: Some(lists), frequencies, totals })
}

/// Sorted sets that come by.
struct Stream {
    words: ScratchWriter,
    before: Vec<u8>,
    representative: u32,
    lists: Option<TokenLists>,
    places: Vec<u32>,
    frequencies: Frequencies,
    totals: Totals,
}

impl Stream {
    fn new<H>(run: &Run<H>) -> Result<Self> {
        Ok(Self {
            words: ScratchWriter::create(run.scratch)?,
            before: Vec::new(),
            representative: 0,
            lists: Some(TokenLists::default()),
            places: Vec::new(),
            frequencies: Frequencies::default(),
            totals: Totals::default(),
        })
    }

    fn take<H: WordHash>(
        &mut self,
        run: &Run<H>,
        record: &[u8],
        number: u32,
        same: &mut dyn FnMut(u32, u32) -> Result<()>,
    ) -> Result<()> {
        if self.before == record {
            return same(number, self.representative);
        }
        if self.totals.sets.is_multiple_of(4096) {
            run.progress.check()?;
        }
        self.before.clear();
        self.before.extend_from_slice(record);
        self.representative = number;
        let set = &record[HASH_BYTES..];
        self.words.write(&[set], number)?;
        self.places.clear();
        push_places(run.hasher, set, &mut self.places);
        self.frequencies.count(&self.places);
        self.totals.count(run, self.places.len());
        if let Some(lists) = &mut self.lists {
            lists.push(|out| out.extend_from_slice(&self.places));
            // What the sorter holds while it merges is not much beside this.
            if lists.memory_bytes() > run.memory() / 2 {
                self.lists = None;
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Distinct> {
        Ok(Distinct {
            words: Words::Disk(self.words.finish()?),
            lists: self.lists,
            frequencies: self.frequencies,
            totals: self.totals,
        })
    }
}

/// Calls `each` with the slot and the tokens of every set in a file of words.
pub fn for_each_list<H: WordHash>(
    run: &Run<H>,
    words: &mut Scratch,
    frequencies: &Frequencies,
    mut each: impl FnMut(u32, &[u32]) -> Result<()>,
) -> Result<()> {
    let (mut reader, mut record, mut tokens) = (words.read()?, Vec::new(), Vec::new());
    let mut slot = 0;
    while reader.next(&mut record)?.is_some() {
        if slot % 4096 == 0 {
            run.progress.check()?;
        }
        tokens.clear();
        push_places(run.hasher, &record, &mut tokens);
        frequencies.rank(&mut tokens);
        each(slot, &tokens)?;
        slot += 1;
    }
    Ok(())
}
