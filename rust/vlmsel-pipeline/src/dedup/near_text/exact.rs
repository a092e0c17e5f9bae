//! The exact join of small sets: over lists in memory, or over parts of them that come from scratch disk one after another.

use vlmsel_core::prefix_join::{MAX_ITEMS, Part, PrefixJoin, Sink};
use vlmsel_core::tokens::{TokenLists, is_alone};
use vlmsel_core::word_set::WordHash;

use super::run::{Outlet, Run, TextEdge, in_parallel};
use super::scratch::{BUFFER_BYTES, Scratch, ScratchWriter};
use super::sets::{Distinct, SortedSets, Words, for_each_list};
use super::verify::edge;
use crate::error::Result;

/// What the join found.
pub enum Pairs {
    /// Texts, verified.
    Edges(Vec<TextEdge>),
    /// Slots whose lists reach the threshold; their words do not, where hashes agree by chance.
    Candidates(Vec<(u32, u32)>),
}

const BATCH_PAIRS: usize = 4096;
/// Entries that a thread sorts at once take this much memory, or an eighth of the limit.
const JOB_BYTES: u64 = 256 << 20;
const MAX_PARTS: u64 = 1 << 14;

/// Gives every pair of small sets that are near to `take`, each once.
pub fn join<H: WordHash>(
    run: &Run<H>,
    distinct: &mut Distinct,
    take: &mut dyn FnMut(Pairs) -> Result<()>,
) -> Result<()> {
    if distinct.totals.entries == 0 {
        return Ok(());
    }
    if let Some(lists) = &distinct.lists {
        let sets = match &distinct.words {
            Words::Memory(sets) => Some(sets),
            Words::Disk(_) => None,
        };
        let job = Job { lists, slots: None, sets, apart: None };
        return job.join(run, Part::ALL, distinct.totals.entries, take);
    }
    let Words::Disk(words) = &mut distinct.words else { return Ok(()) };
    let room = (run.memory() / 4).max(1);
    // No more files than may have buffers.
    let most = (room / BUFFER_BYTES as u64).clamp(16, 1024);
    let parts = distinct.totals.spread_bytes.div_ceil(room).clamp(1, most) as u32;
    let mut files: Vec<ScratchWriter> =
        (0..parts).map(|_| ScratchWriter::create(run.scratch)).collect::<Result<_>>()?;
    let (mut bytes, mut to) = (Vec::new(), Vec::new());
    for_each_list(run, words, &distinct.frequencies, |slot, tokens| {
        let prefix = &tokens[..run.plan.prefix(tokens.len())];
        to.clear();
        to.extend(prefix.iter().filter(|token| !is_alone(**token)).map(|token| Part::of_token(*token, parts)));
        to.sort_unstable();
        to.dedup();
        bytes.clear();
        bytes.extend(
            tokens.iter().take(if to.is_empty() { 0 } else { MAX_ITEMS }).flat_map(|token| token.to_le_bytes()),
        );
        to.iter().try_for_each(|part| files[*part as usize].write(&[&bytes], slot))
    })?;
    let files: Vec<Scratch> = files.into_iter().map(ScratchWriter::finish).collect::<Result<_>>()?;
    for (number, mut file) in (0..).zip(files) {
        join_file(run, &mut file, Part { number, of: parts }, room, take)?;
    }
    Ok(())
}

/// Joins a part that lies in a file. Where it is larger than `room`, as when very many sets share a token and no other, pieces
/// of it are joined, each with itself and with each of the others.
fn join_file<H: WordHash>(
    run: &Run<H>,
    file: &mut Scratch,
    part: Part,
    room: u64,
    take: &mut dyn FnMut(Pairs) -> Result<()>,
) -> Result<()> {
    let pieces = file.bytes().div_ceil(room).max(1);
    let piece_bytes = file.bytes().div_ceil(pieces).max(1);
    for first in 0..pieces {
        for second in first..pieces {
            let (mut lists, mut slots) = (TokenLists::default(), Vec::new());
            load(run, file, piece_bytes, first, &mut lists, &mut slots)?;
            let border = lists.len();
            if second > first {
                load(run, file, piece_bytes, second, &mut lists, &mut slots)?;
            }
            let entries = (0..lists.len()).map(|at| run.plan.entries(lists.get(at).len())).sum();
            let job = Job { lists: &lists, slots: Some(&slots), sets: None, apart: (second > first).then_some(border) };
            job.join(run, part, entries, take)?;
        }
    }
    Ok(())
}

/// Adds the lists of a piece of a file: those that begin within its share of the bytes.
fn load<H>(
    run: &Run<H>,
    file: &mut Scratch,
    piece_bytes: u64,
    piece: u64,
    lists: &mut TokenLists,
    slots: &mut Vec<u32>,
) -> Result<()> {
    run.progress.check()?;
    let (mut reader, mut record, mut at) = (file.read()?, Vec::new(), 0);
    while let Some(slot) = reader.next(&mut record)? {
        if at / piece_bytes == piece {
            slots.push(slot);
            lists.push(|out| out.extend(record.as_chunks::<4>().0.iter().map(|token| u32::from_le_bytes(*token))));
        }
        at += 8 + record.len() as u64;
    }
    Ok(())
}

/// Lists to be joined.
struct Job<'a> {
    lists: &'a TokenLists,
    /// The slots of the lists, where those are not their places.
    slots: Option<&'a [u32]>,
    /// The words, where they are in memory.
    sets: Option<&'a SortedSets>,
    apart: Option<usize>,
}

impl Job<'_> {
    fn join<H: WordHash>(
        &self,
        run: &Run<H>,
        part: Part,
        entries: u64,
        take: &mut dyn FnMut(Pairs) -> Result<()>,
    ) -> Result<()> {
        let threads = run.threads() as u64;
        let of_job = JOB_BYTES.min(run.memory() / 8 / threads).max(1);
        let needed = (entries / u64::from(part.of) * 2 * PrefixJoin::ENTRY_BYTES).div_ceil(of_job);
        // A few for each thread, so that all end at about the same time.
        let least = if threads == 1 { 1 } else { 4 * threads };
        let parts = needed.clamp(least, MAX_PARTS.max(least)) as u32;
        let work = |number, outlet: &Outlet<Pairs>| {
            let mut finder = Finder { run, job: self, outlet, edges: Vec::new(), candidates: Vec::new() };
            let part = Part { number: part.number * parts + number, of: part.of * parts };
            run.plan.run(self.lists, part, self.apart, &mut finder)?;
            finder.flush()
        };
        in_parallel(run.threads(), parts, work, take)
    }
}

/// Takes pairs of lists and hands on pairs of texts or of slots.
struct Finder<'a, H> {
    run: &'a Run<'a, H>,
    job: &'a Job<'a>,
    outlet: &'a Outlet<Pairs>,
    edges: Vec<TextEdge>,
    candidates: Vec<(u32, u32)>,
}

impl<H> Finder<'_, H> {
    fn flush(&mut self) -> Result<()> {
        if !self.edges.is_empty() {
            self.outlet.give(Pairs::Edges(std::mem::take(&mut self.edges)))?;
        }
        if !self.candidates.is_empty() {
            self.outlet.give(Pairs::Candidates(std::mem::take(&mut self.candidates)))?;
        }
        Ok(())
    }
}

impl<H: WordHash> Sink for Finder<'_, H> {
    type Error = crate::error::Error;

    fn pair(&mut self, a: usize, b: usize) -> Result<()> {
        let slot = |at: usize| self.job.slots.map_or(at as u32, |slots| slots[at]);
        let (a, b) = (slot(a), slot(b));
        match self.job.sets {
            Some(sets) => self.edges.extend(edge(self.run, sets.get(a), sets.get(b))),
            None => self.candidates.push((a.min(b), a.max(b))),
        }
        if self.edges.len() + self.candidates.len() >= BATCH_PAIRS { self.flush() } else { Ok(()) }
    }

    fn pause(&mut self) -> Result<()> {
        Ok(self.run.progress.check()?)
    }
}
