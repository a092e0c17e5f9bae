//! Candidates are verified by the words of their sets: what hashes say is never the answer.

use vlmsel_core::jaccard::similarity;
use vlmsel_core::word_set::{WordHash, overlap};

use super::run::{Run, TextEdge, map_in_parallel, ranges};
use super::scratch::{Scratch, ScratchWriter};
use super::sets::{SortedSets, Words};
use crate::error::Result;
use crate::external_sort::Sorter;

/// Candidates that the threads verify before what they found is handed on.
const BATCH: usize = 1 << 15;

/// The edge between two texts, given by their words and numbers, if they are near.
pub fn edge<H: WordHash>(run: &Run<H>, a: (&[u8], u32), b: (&[u8], u32)) -> Option<TextEdge> {
    let words = overlap(run.hasher, a.0, b.0);
    run.options.threshold.holds(words.shared, words.a, words.b).then(|| TextEdge {
        a: a.1.min(b.1),
        b: a.1.max(b.1),
        similarity: similarity(words.shared, words.a, words.b),
    })
}

/// Pairs of slots that are still to be verified.
pub struct Candidates {
    sorter: Sorter,
    /// A bit for each slot that is in a pair; empty where the words are in memory.
    needed: Vec<u64>,
}

impl Candidates {
    pub fn new<H>(run: &Run<H>, words: &Words, sets: u64) -> Self {
        let bits = match words {
            Words::Memory(_) => 0,
            Words::Disk(_) => sets.div_ceil(64) as usize,
        };
        Self { sorter: Sorter::new(run.scratch, run.memory() / 8), needed: vec![0; bits] }
    }

    /// Adds a pair, `a` below `b`. It may be there already.
    pub fn push(&mut self, a: u32, b: u32) -> Result<()> {
        if !self.needed.is_empty() {
            for slot in [a, b] {
                self.needed[slot as usize / 64] |= 1 << (slot % 64);
            }
        }
        self.sorter.push(&[&a.to_be_bytes(), &b.to_be_bytes()], 0)
    }

    /// Gives every pair that is near to `take`, each once.
    pub fn verify<H: WordHash>(
        self,
        run: &Run<H>,
        words: &mut Words,
        take: &mut dyn FnMut(TextEdge) -> Result<()>,
    ) -> Result<()> {
        match words {
            Words::Memory(sets) => in_memory(run, self.sorter, sets, take),
            Words::Disk(words) => {
                let blocks = Blocks::build(run, words, &self.needed)?;
                blocks.verify(run, self.sorter, take)
            }
        }
    }
}

fn in_memory<H: WordHash>(
    run: &Run<H>,
    sorter: Sorter,
    sets: &SortedSets,
    take: &mut dyn FnMut(TextEdge) -> Result<()>,
) -> Result<()> {
    let mut pairs = Pairs { merge: sorter.finish()?, before: Vec::new() };
    let mut batch = Vec::new();
    loop {
        let next = pairs.next()?;
        let done = next.is_none();
        batch.extend(next.map(|(_, a, b)| (a, b)));
        if done || batch.len() == BATCH {
            verify_batch(run, &batch, |a| sets.get(a), |b| sets.get(b), take)?;
            batch.clear();
        }
        if done {
            return Ok(());
        }
    }
}

/// Verifies pairs on all threads and hands on what is near.
fn verify_batch<'a, H: WordHash>(
    run: &Run<H>,
    pairs: &[(u32, u32)],
    get_a: impl Fn(u32) -> (&'a [u8], u32) + Sync,
    get_b: impl Fn(u32) -> (&'a [u8], u32) + Sync,
    take: &mut dyn FnMut(TextEdge) -> Result<()>,
) -> Result<()> {
    run.progress.check()?;
    let found = map_in_parallel(ranges(pairs.len(), run.threads()), |range| {
        let mut edges = Vec::new();
        for (a, b) in &pairs[range] {
            // Large sets take long to compare.
            if run.progress.is_cancelled() {
                break;
            }
            edges.extend(edge(run, get_a(*a), get_b(*b)));
        }
        edges
    })?;
    run.progress.check()?;
    found.into_iter().flatten().try_for_each(take)
}

/// Sorted pairs, behind the blocks that they are in, each once.
struct Pairs {
    merge: crate::external_sort::Merge,
    before: Vec<u8>,
}

impl Pairs {
    fn next(&mut self) -> Result<Option<([u16; 2], u32, u32)>> {
        while let Some((record, _)) = self.merge.next()? {
            if record == self.before {
                continue;
            }
            let number = |at: usize| {
                record.get(at..at + 4).map_or(0, |four| four.iter().fold(0, |n, byte| n << 8 | u32::from(*byte)))
            };
            let (blocks, behind) = if record.len() == 8 { (0, 0) } else { (number(0), 4) };
            let pair = ([(blocks >> 16) as u16, blocks as u16], number(behind), number(behind + 4));
            self.before = record;
            return Ok(Some(pair));
        }
        Ok(None)
    }
}

/// The words of the sets that are in a pair, in files each of which fits into memory.
struct Blocks {
    files: Vec<Scratch>,
    /// The first slot of each.
    first: Vec<u32>,
}

impl Blocks {
    fn build<H>(run: &Run<H>, words: &mut Scratch, needed: &[u64]) -> Result<Self> {
        // Two blocks are in memory at a time. There are never more than their numbers can name.
        let room = (run.memory() / 4).max(words.bytes() / u64::from(u16::MAX / 2)).max(1);
        let mut blocks = Self { files: Vec::new(), first: Vec::new() };
        let mut writer: Option<(ScratchWriter, u64)> = None;
        let (mut reader, mut record, mut slot) = (words.read()?, Vec::new(), 0_u32);
        while let Some(number) = reader.next(&mut record)? {
            if slot % 4096 == 0 {
                run.progress.check()?;
            }
            if needed[slot as usize / 64] >> (slot % 64) & 1 == 1 {
                let bytes = record.len() as u64 + Block::RECORD_BYTES;
                if let Some((full, _)) = writer.take_if(|(_, held)| *held + bytes > room) {
                    blocks.files.push(full.finish()?);
                }
                let (file, held) = match &mut writer {
                    Some((file, held)) => (file, held),
                    none => {
                        blocks.first.push(slot);
                        let (file, held) = none.insert((ScratchWriter::create(run.scratch)?, 0));
                        (file, held)
                    }
                };
                file.write(&[&slot.to_le_bytes(), &record], number)?;
                *held += bytes;
            }
            slot += 1;
        }
        if let Some((last, _)) = writer {
            blocks.files.push(last.finish()?);
        }
        Ok(blocks)
    }

    fn of(&self, slot: u32) -> u16 {
        (self.first.partition_point(|first| *first <= slot) - 1) as u16
    }

    fn verify<H: WordHash>(
        mut self,
        run: &Run<H>,
        sorter: Sorter,
        take: &mut dyn FnMut(TextEdge) -> Result<()>,
    ) -> Result<()> {
        let mut in_order = Sorter::new(run.scratch, run.memory() / 8);
        let mut pairs = Pairs { merge: sorter.finish()?, before: Vec::new() };
        while let Some((_, a, b)) = pairs.next()? {
            let blocks = u32::from(self.of(a)) << 16 | u32::from(self.of(b));
            in_order.push(&[&blocks.to_be_bytes(), &a.to_be_bytes(), &b.to_be_bytes()], 0)?;
        }
        let mut pairs = Pairs { merge: in_order.finish()?, before: Vec::new() };
        let (mut held, mut a_block, mut b_block) = (None, Block::default(), Block::default());
        let mut batch = Vec::new();
        loop {
            let next = pairs.next()?;
            let blocks = next.map(|(blocks, ..)| blocks);
            if blocks != held || batch.len() == BATCH {
                let other = held.is_some_and(|[a, b]: [u16; 2]| a != b);
                let right = if other { &b_block } else { &a_block };
                verify_batch(run, &batch, |a| a_block.get(a), |b| right.get(b), take)?;
                batch.clear();
            }
            let (Some([a, b]), Some((_, slot_a, slot_b))) = (blocks, next) else { return Ok(()) };
            if blocks != held {
                if held.is_none_or(|[before, _]| before != a) {
                    drop(std::mem::take(&mut a_block));
                    a_block = Block::load(&mut self.files[usize::from(a)])?;
                }
                drop(std::mem::take(&mut b_block));
                if a != b {
                    b_block = Block::load(&mut self.files[usize::from(b)])?;
                }
                held = blocks;
            }
            batch.push((slot_a, slot_b));
        }
    }
}

/// Words of some sets in memory.
#[derive(Default)]
struct Block {
    slots: Vec<u32>,
    numbers: Vec<u32>,
    ends: Vec<usize>,
    bytes: Vec<u8>,
}

impl Block {
    /// Memory of a set beside its words.
    const RECORD_BYTES: u64 = 16;

    fn load(file: &mut Scratch) -> Result<Self> {
        let mut block = Self::default();
        let (mut reader, mut record) = (file.read()?, Vec::new());
        while let Some(number) = reader.next(&mut record)? {
            let Some((slot, words)) = record.split_first_chunk::<4>() else { continue };
            block.slots.push(u32::from_le_bytes(*slot));
            block.numbers.push(number);
            block.bytes.extend_from_slice(words);
            block.ends.push(block.bytes.len());
        }
        Ok(block)
    }

    /// The words and the number of a set; no words where it is not here.
    fn get(&self, slot: u32) -> (&[u8], u32) {
        let Ok(at) = self.slots.binary_search(&slot) else { return (&[], 0) };
        let start = if at == 0 { 0 } else { self.ends[at - 1] };
        (&self.bytes[start..self.ends[at]], self.numbers[at])
    }
}
