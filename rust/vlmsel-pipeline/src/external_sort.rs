//! Sorting byte strings within a memory budget: in memory while they fit, in runs on disk when they do not.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};

use vlmsel_shards::error::IoContext;

use super::arena::Arena;
use crate::error::Result;

/// Runs that are merged into one when there are as many of about one size. So every record is written again as often as the
/// number of runs has powers of this, and a few times as many files are open.
const MERGED_RUNS: usize = 32;
/// Memory of each run that is written or read.
const RUN_BUFFER_BYTES: usize = 1 << 18;
/// A record of a run longer than this is damage of the scratch disk.
const MAX_RECORD_BYTES: u32 = 1 << 30;

/// Sorts records within `budget` bytes of memory.
#[derive(Debug)]
pub struct Sorter {
    folder: PathBuf,
    budget: u64,
    arena: Arena,
    /// Sorted runs; those of a level were merged from [`MERGED_RUNS`] of the one before it.
    levels: Vec<Vec<File>>,
}

impl Sorter {
    /// A sorter with scratch files in `folder`.
    pub fn new(folder: &Path, budget: u64) -> Self {
        Self { folder: folder.to_path_buf(), budget, arena: Arena::default(), levels: Vec::new() }
    }

    /// Adds a record.
    ///
    /// # Errors
    /// Those of the scratch disk.
    pub fn push(&mut self, parts: &[&[u8]], tag: u32) -> Result<()> {
        self.arena.push(parts, tag);
        if self.arena.memory_bytes() > self.budget { self.spill() } else { Ok(()) }
    }

    /// Takes over the records of an arena.
    ///
    /// # Errors
    /// Those of the scratch disk.
    pub fn append(&mut self, arena: &mut Arena) -> Result<()> {
        self.arena.append(arena);
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
        let mut writer = RunWriter::create(&self.folder)?;
        writer.write_all(sorted)?;
        let mut run = writer.finish()?;
        for level in 0.. {
            if level == self.levels.len() {
                self.levels.push(Vec::new());
            }
            self.levels[level].push(run);
            if self.levels[level].len() < MERGED_RUNS {
                break;
            }
            let mut merge = Merge::of_runs(std::mem::take(&mut self.levels[level]), &self.folder)?;
            let mut writer = RunWriter::create(&self.folder)?;
            while let Some((record, tag)) = merge.next()? {
                writer.write(&record, tag)?;
            }
            run = writer.finish()?;
        }
        Ok(())
    }

    /// Whether anything went to disk.
    pub fn has_runs(&self) -> bool {
        !self.levels.is_empty()
    }

    /// The sorted records in one piece, where nothing went to disk.
    ///
    /// # Errors
    /// The sorter as it was, where something did.
    pub fn into_arena(mut self) -> std::result::Result<Arena, Box<Self>> {
        if self.has_runs() {
            return Err(Box::new(self));
        }
        self.arena.sort();
        Ok(self.arena)
    }

    /// All records in order.
    ///
    /// # Errors
    /// Those of the scratch disk.
    pub fn finish(mut self) -> Result<Merge> {
        if !self.has_runs() {
            self.arena.sort();
            return Ok(Merge::of_arena(self.arena));
        }
        if !self.arena.is_empty() {
            self.spill()?;
        }
        Merge::of_runs(self.levels.into_iter().flatten().collect(), &self.folder)
    }
}

/// Writes records to a scratch file.
pub struct RunWriter {
    out: BufWriter<File>,
    folder: PathBuf,
}

impl RunWriter {
    /// A file in `folder` that nobody else sees.
    ///
    /// # Errors
    /// Those of the scratch disk.
    pub fn create(folder: &Path) -> Result<Self> {
        // Unlinked at once: whatever kills the run, the scratch disk is given back.
        let file = tempfile::tempfile_in(folder).at("create a scratch file in", folder)?;
        Ok(Self { out: BufWriter::with_capacity(RUN_BUFFER_BYTES, file), folder: folder.to_path_buf() })
    }

    /// Adds the records of an arena.
    ///
    /// # Errors
    /// Those of the scratch disk.
    pub fn write_all(&mut self, arena: &Arena) -> Result<()> {
        for at in 0..arena.len() {
            let (record, tag) = arena.get(at);
            self.write(record, tag)?;
        }
        Ok(())
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

    /// The file, from its begin on.
    ///
    /// # Errors
    /// Those of the scratch disk.
    pub fn finish(self) -> Result<File> {
        let mut file = self
            .out
            .into_inner()
            .map_err(std::io::IntoInnerError::into_error)
            .at("write scratch data in", &self.folder)?;
        file.rewind().at("read scratch data in", &self.folder)?;
        Ok(file)
    }
}

/// Reads the records of a scratch file in turn.
pub struct RunReader<R> {
    input: BufReader<R>,
    folder: PathBuf,
}

impl<R: Read> RunReader<R> {
    /// Reads what a [`RunWriter`] wrote in `folder`.
    pub fn new(file: R, folder: &Path) -> Self {
        Self { input: BufReader::with_capacity(RUN_BUFFER_BYTES, file), folder: folder.to_path_buf() }
    }

    /// Puts the next record in place of `record` and says its tag.
    ///
    /// # Errors
    /// Those of the scratch disk.
    pub fn next(&mut self, record: &mut Vec<u8>) -> Result<Option<u32>> {
        let mut head = [0; 8];
        match self.input.read_exact(&mut head) {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other.at("read scratch data in", &self.folder)?,
        }
        let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
        let tag = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
        if length > MAX_RECORD_BYTES {
            return Err(vlmsel_shards::Error::unreadable(&self.folder, "scratch data came back changed").into());
        }
        record.resize(length as usize, 0);
        self.input.read_exact(record).at("read scratch data in", &self.folder)?;
        Ok(Some(tag))
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
    runs: Vec<RunReader<File>>,
    heap: BinaryHeap<Head>,
}

impl Merge {
    fn of_arena(arena: Arena) -> Self {
        Self { arena, ..Self::default() }
    }

    fn of_runs(runs: Vec<File>, folder: &Path) -> Result<Self> {
        let runs = runs.into_iter().map(|file| RunReader::new(file, folder)).collect();
        let mut merge = Self { runs, ..Self::default() };
        for run in 0..merge.runs.len() {
            merge.refill(run, Vec::new())?;
        }
        Ok(merge)
    }

    fn refill(&mut self, run: usize, mut record: Vec<u8>) -> Result<()> {
        if let Some(tag) = self.runs[run].next(&mut record)? {
            self.heap.push(Head { record, tag, run });
        }
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
        self.refill(head.run, Vec::new())?;
        Ok(Some((head.record, head.tag)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::arena::tests::records;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_budget_sorts_alike(records in records(), budget in 1_u64..8000) {
            let folder = tempfile::tempdir().unwrap();
            let mut sorter = Sorter::new(folder.path(), budget);
            let (one_by_one, together) = records.split_at(records.len() / 2);
            for (record, tag) in one_by_one {
                sorter.push(&[record], *tag).unwrap();
            }
            let mut arena = Arena::default();
            for (record, tag) in together {
                arena.push(&[record], *tag);
            }
            sorter.append(&mut arena).unwrap();
            let mut sorted = records.clone();
            sorted.sort();
            let mut merge = match sorter.into_arena() {
                Ok(arena) => {
                    prop_assert!((0..arena.len()).map(|at| arena.get(at)).eq(sorted.iter().map(|(record, tag)| (record.as_slice(), *tag))));
                    return Ok(());
                }
                Err(sorter) => sorter.finish().unwrap(),
            };
            for expected in sorted {
                prop_assert_eq!(merge.next().unwrap(), Some(expected));
            }
            prop_assert!(merge.next().unwrap().is_none());
        }
    }
}
