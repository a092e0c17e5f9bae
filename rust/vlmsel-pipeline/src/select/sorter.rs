//! Sorting byte strings within a memory budget: in memory while they fit, in runs on disk when they do not.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};

use vlmsel_shards::error::IoContext;

use crate::error::Result;

/// Runs that are merged at once; more are merged in rounds, so that open files stay few.
const MAX_RUNS: usize = 128;
/// A record of a run longer than this is damage of the scratch disk.
const MAX_RECORD_BYTES: u32 = 1 << 30;

#[derive(Debug, Clone, Copy)]
struct Entry {
    /// First eight bytes, so that most comparisons touch no other memory.
    prefix: u64,
    start: u64,
    length: u32,
    tag: u32,
}

/// What all records of an arena have in common, so that nothing needs to be said of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shape {
    length: u32,
    tag: u32,
}

impl Shape {
    /// Bytes from one record to the next, if records of this length are worth moving as a whole.
    fn stride(self) -> Option<usize> {
        STRIDES.into_iter().find(|stride| self.length as usize <= *stride)
    }
}

/// Bytes of a slot: a key and an integer, a key and 16 bytes, a key and 32 hexadecimal digits.
const STRIDES: [usize; 3] = [24, 32, 48];

/// Byte strings in one buffer, each with a number of the caller's.
///
/// Short records of one length and tag, which most selections have, lie in slots and are sorted where they are; whoever
/// walks over them afterwards reads the memory in order. As soon as one differs, all get entries that say where they lie.
#[derive(Debug, Default)]
pub struct Arena {
    bytes: Vec<u8>,
    /// Empty while there is a `shape`.
    entries: Vec<Entry>,
    /// Of records in slots.
    shape: Option<(Shape, usize)>,
}

impl Arena {
    /// Adds a record made of parts.
    pub fn push(&mut self, parts: &[&[u8]], tag: u32) {
        let length = parts.iter().map(|part| part.len()).sum::<usize>() as u32;
        let stride = self.room_for(Shape { length, tag });
        let start = self.bytes.len();
        for part in parts {
            self.bytes.extend_from_slice(part);
        }
        match stride {
            Some(stride) => self.bytes.resize(start + stride, 0),
            None => self.entries.push(entry(&self.bytes, start, length, tag)),
        }
    }

    /// The stride of the slots if a record of this shape goes into one.
    fn room_for(&mut self, shape: Shape) -> Option<usize> {
        if self.is_empty() {
            self.shape = shape.stride().map(|stride| (shape, stride));
        }
        match self.shape {
            Some((own, stride)) if own == shape => Some(stride),
            Some(_) => {
                self.loosen();
                None
            }
            None => None,
        }
    }

    /// Gives every record an entry.
    fn loosen(&mut self) {
        let Some((Shape { length, tag }, stride)) = self.shape.take() else { return };
        let starts = (0..self.bytes.len()).step_by(stride);
        self.entries = starts.map(|start| entry(&self.bytes, start, length, tag)).collect();
    }

    /// Takes over the records of another arena.
    pub fn append(&mut self, other: &mut Self) {
        if self.is_empty() {
            self.shape = other.shape;
        } else if !other.is_empty() && self.shape != other.shape {
            self.loosen();
            other.loosen();
        }
        let base = self.bytes.len() as u64;
        self.bytes.append(&mut other.bytes);
        self.entries.extend(other.entries.drain(..).map(|entry| Entry { start: entry.start + base, ..entry }));
    }

    /// Number of records.
    pub fn len(&self) -> usize {
        self.shape.map_or(self.entries.len(), |(_, stride)| self.bytes.len() / stride)
    }

    fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.entries.is_empty()
    }

    /// Memory in use.
    pub fn memory_bytes(&self) -> u64 {
        (self.bytes.len() + self.entries.len() * size_of::<Entry>()) as u64
    }

    /// The record at a place, and its tag.
    #[inline]
    pub fn get(&self, at: usize) -> (&[u8], u32) {
        if let Some((shape, stride)) = self.shape {
            return (&self.bytes[at * stride..][..shape.length as usize], shape.tag);
        }
        let entry = self.entries[at];
        (self.slice(entry), entry.tag)
    }

    fn slice(&self, entry: Entry) -> &[u8] {
        &self.bytes[entry.start as usize..][..entry.length as usize]
    }

    /// Sorts by the records' bytes.
    pub fn sort(&mut self) {
        match self.shape {
            Some((_, 24)) => sort_by(self.bytes.as_chunks_mut::<24>().0, compare_slots),
            Some((_, 32)) => sort_by(self.bytes.as_chunks_mut::<32>().0, compare_slots),
            Some(_) => sort_by(self.bytes.as_chunks_mut::<48>().0, compare_slots),
            None => {
                let mut entries = std::mem::take(&mut self.entries);
                sort_by(&mut entries, |a, b| {
                    a.prefix.cmp(&b.prefix).then_with(|| self.slice(*a).cmp(self.slice(*b))).then(a.tag.cmp(&b.tag))
                });
                self.entries = entries;
            }
        }
    }

    /// Forgets all but the first `keep` records and gives their memory back.
    pub fn truncate(&mut self, keep: usize) {
        if let Some((_, stride)) = self.shape {
            self.bytes.truncate(keep * stride);
            self.bytes.shrink_to_fit();
            return;
        }
        self.entries.truncate(keep);
        let needed: usize = self.entries.iter().map(|entry| entry.length as usize).sum();
        let mut bytes = Vec::with_capacity(needed);
        for entry in &mut self.entries {
            let start = bytes.len() as u64;
            bytes.extend_from_slice(&self.bytes[entry.start as usize..][..entry.length as usize]);
            entry.start = start;
        }
        self.bytes = bytes;
    }

    /// Forgets everything and gives the memory back.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

fn entry(bytes: &[u8], start: usize, length: u32, tag: u32) -> Entry {
    let record = &bytes[start..start + length as usize];
    let mut head = [0; 8];
    let known = record.len().min(8);
    head[..known].copy_from_slice(&record[..known]);
    Entry { prefix: u64::from_be_bytes(head), start: start as u64, length, tag }
}

/// By bytes; the first eight are compared as one number. What fills a slot up is the same in all.
fn compare_slots<const N: usize>(a: &[u8; N], b: &[u8; N]) -> Ordering {
    let head = |slot: &[u8; N]| slot.first_chunk::<8>().map(|head| u64::from_be_bytes(*head));
    head(a).cmp(&head(b)).then_with(|| a.cmp(b))
}

fn sort_by<T: Send>(records: &mut [T], compare: impl Fn(&T, &T) -> Ordering + Sync) {
    use rayon::slice::ParallelSliceMut;
    if records.len() > 1 << 15 {
        records.par_sort_unstable_by(compare);
    } else {
        records.sort_unstable_by(compare);
    }
}

/// Sorts records within `budget` bytes of memory.
#[derive(Debug)]
pub struct Sorter {
    folder: PathBuf,
    budget: u64,
    arena: Arena,
    runs: Vec<File>,
}

impl Sorter {
    /// A sorter with scratch files in `folder`.
    pub fn new(folder: &Path, budget: u64) -> Self {
        Self { folder: folder.to_path_buf(), budget, arena: Arena::default(), runs: Vec::new() }
    }

    /// Adds a record.
    ///
    /// # Errors
    /// Those of the scratch disk.
    pub fn push(&mut self, parts: &[&[u8]], tag: u32) -> Result<()> {
        self.arena.push(parts, tag);
        if self.arena.memory_bytes() > self.budget { self.spill() } else { Ok(()) }
    }

    fn spill(&mut self) -> Result<()> {
        let mut arena = std::mem::take(&mut self.arena);
        arena.sort();
        self.add_run(&arena)
    }

    /// Adds a sorted arena as a run.
    ///
    /// # Errors
    /// Those of the scratch disk.
    pub fn add_run(&mut self, sorted: &Arena) -> Result<()> {
        let folder = self.folder.clone();
        let mut writer = RunWriter::create(&folder)?;
        for at in 0..sorted.len() {
            let (record, tag) = sorted.get(at);
            writer.write(record, tag)?;
        }
        self.runs.push(writer.finish()?);
        if self.runs.len() >= MAX_RUNS {
            let mut merge = Merge::of_runs(std::mem::take(&mut self.runs), &self.folder)?;
            let mut writer = RunWriter::create(&folder)?;
            while let Some((record, tag)) = merge.next()? {
                writer.write(&record, tag)?;
            }
            self.runs.push(writer.finish()?);
        }
        Ok(())
    }

    /// Whether anything went to disk.
    pub fn has_runs(&self) -> bool {
        !self.runs.is_empty()
    }

    /// All records in order.
    ///
    /// # Errors
    /// Those of the scratch disk.
    pub fn finish(mut self) -> Result<Merge> {
        if self.runs.is_empty() {
            self.arena.sort();
            return Ok(Merge::of_arena(self.arena));
        }
        if !self.arena.is_empty() {
            self.spill()?;
        }
        Merge::of_runs(self.runs, &self.folder)
    }
}

struct RunWriter {
    out: BufWriter<File>,
    folder: PathBuf,
}

impl RunWriter {
    fn create(folder: &Path) -> Result<Self> {
        // Unlinked at once: whatever kills the run, the scratch disk is given back.
        let file = tempfile::tempfile_in(folder).at("create a scratch file in", folder)?;
        Ok(Self { out: BufWriter::with_capacity(1 << 20, file), folder: folder.to_path_buf() })
    }

    fn write(&mut self, record: &[u8], tag: u32) -> Result<()> {
        let length = record.len() as u32;
        self.out
            .write_all(&length.to_le_bytes())
            .and_then(|()| self.out.write_all(&tag.to_le_bytes()))
            .and_then(|()| self.out.write_all(record))
            .at("write scratch data in", &self.folder)?;
        Ok(())
    }

    fn finish(self) -> Result<File> {
        let mut file = self
            .out
            .into_inner()
            .map_err(std::io::IntoInnerError::into_error)
            .at("write scratch data in", &self.folder)?;
        file.rewind().at("read scratch data in", &self.folder)?;
        Ok(file)
    }
}

struct Head {
    record: Vec<u8>,
    tag: u32,
    run: usize,
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Head {}
impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Head {
    /// Turned round, because the heap gives its greatest first.
    fn cmp(&self, other: &Self) -> Ordering {
        other.record.cmp(&self.record).then(other.tag.cmp(&self.tag)).then(other.run.cmp(&self.run))
    }
}

/// Records in order, from memory or from runs.
#[derive(Default)]
pub struct Merge {
    arena: Arena,
    at: usize,
    runs: Vec<BufReader<File>>,
    heap: BinaryHeap<Head>,
    folder: PathBuf,
}

impl Merge {
    fn of_arena(arena: Arena) -> Self {
        Self { arena, at: 0, runs: Vec::new(), heap: BinaryHeap::new(), folder: PathBuf::new() }
    }

    fn of_runs(runs: Vec<File>, folder: &Path) -> Result<Self> {
        let runs = runs.into_iter().map(|file| BufReader::with_capacity(1 << 18, file)).collect();
        let mut merge =
            Self { arena: Arena::default(), at: 0, runs, heap: BinaryHeap::new(), folder: folder.to_path_buf() };
        for run in 0..merge.runs.len() {
            merge.refill(run)?;
        }
        Ok(merge)
    }

    fn refill(&mut self, run: usize) -> Result<()> {
        let reader = &mut self.runs[run];
        let mut head = [0; 8];
        match reader.read_exact(&mut head) {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
            other => other.at("read scratch data in", &self.folder)?,
        }
        let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
        let tag = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
        if length > MAX_RECORD_BYTES {
            return Err(vlmsel_shards::Error::unreadable(&self.folder, "scratch data came back changed").into());
        }
        let mut record = vec![0; length as usize];
        reader.read_exact(&mut record).at("read scratch data in", &self.folder)?;
        self.heap.push(Head { record, tag, run });
        Ok(())
    }

    /// The next record in order, and its tag.
    ///
    /// # Errors
    /// Those of the scratch disk.
    pub fn next(&mut self) -> Result<Option<(Vec<u8>, u32)>> {
        if self.at < self.arena.len() {
            let (record, tag) = self.arena.get(self.at);
            self.at += 1;
            return Ok(Some((record.to_vec(), tag)));
        }
        let Some(head) = self.heap.pop() else { return Ok(None) };
        self.refill(head.run)?;
        Ok(Some((head.record, head.tag)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Records of one shape, which lie in slots, of a few shapes, and of any.
    fn records() -> impl Strategy<Value = Vec<(Vec<u8>, u32)>> {
        let of_length = |length: usize| prop::collection::vec(0_u8..4, length);
        let alike = (0_usize..60, any::<u32>())
            .prop_flat_map(move |(length, tag)| prop::collection::vec((of_length(length), Just(tag)), 0..400));
        let mixed = prop::collection::vec(
            (prop_oneof![20 => of_length(17), 1 => of_length(25)], prop_oneof![20 => Just(9_u32), 1 => Just(8)]),
            0..400,
        );
        let any = prop::collection::vec((prop::collection::vec(any::<u8>(), 0..60), any::<u32>()), 0..400);
        prop_oneof![alike, mixed, any]
    }

    proptest! {
        #[test]
        fn any_budget_sorts_alike(records in records(), budget in 1_u64..8000) {
            let folder = tempfile::tempdir().unwrap();
            let mut sorter = Sorter::new(folder.path(), budget);
            for (record, tag) in &records {
                sorter.push(&[record], *tag).unwrap();
            }
            let mut merge = sorter.finish().unwrap();
            let mut sorted = records.clone();
            sorted.sort();
            for expected in sorted {
                prop_assert_eq!(merge.next().unwrap(), Some(expected));
            }
            prop_assert!(merge.next().unwrap().is_none());
        }

        #[test]
        fn arenas_hold_what_was_put_together(parts in prop::collection::vec(records(), 0..4), keep in 0_usize..500) {
            let mut whole = Arena::default();
            for records in &parts {
                let mut part = Arena::default();
                for (record, tag) in records {
                    let (front, back) = record.split_at(record.len() / 2);
                    part.push(&[front, back], *tag);
                }
                whole.append(&mut part);
                prop_assert_eq!(part.len(), 0);
                // What was emptied is used again, for records of another shape.
                part.push(&[b"x"], 1);
                prop_assert_eq!(part.get(0), (b"x".as_slice(), 1));
            }
            let held = |arena: &Arena| (0..arena.len()).map(|at| arena.get(at)).map(|(record, tag)| (record.to_vec(), tag)).collect::<Vec<_>>();
            let mut expected = parts.concat();
            prop_assert_eq!(&held(&whole), &expected);
            whole.sort();
            expected.sort();
            prop_assert_eq!(&held(&whole), &expected);
            whole.truncate(keep);
            expected.truncate(keep);
            prop_assert_eq!(&held(&whole), &expected);
        }
    }
}
