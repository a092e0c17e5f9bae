//! Rows that cannot be selected because a better row has their id, kept for their count alone.
//!
//! How many of them stand in front of the last selected row is known only when that row is. Equal ones are one record with a
//! count, in no order: in memory for a while, then on disk.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::arena::Arena;
use crate::error::Result;
use crate::external_sort::{RunReader, RunWriter};

/// Takes rows that are repeats.
pub struct Repeats {
    folder: PathBuf,
    /// Bytes of memory that they may take.
    room: u64,
    /// Tags are counts.
    arena: Arena,
    /// The last row and how often it came, while it may come again.
    last: Option<(Vec<u8>, u32)>,
    disk: Option<RunWriter>,
}

impl Repeats {
    /// Keeps `room` bytes in memory, and what is more in a scratch file in `folder`.
    pub fn new(folder: &Path, room: u64) -> Self {
        Self { folder: folder.to_path_buf(), room, arena: Arena::default(), last: None, disk: None }
    }

    /// Memory in use.
    pub fn memory_bytes(&self) -> u64 {
        self.arena.memory_bytes()
    }

    /// Adds a row. Equal ones cost the least where they come one after the other.
    ///
    /// # Errors
    /// Those of the scratch disk.
    pub fn add(&mut self, row: &[u8]) -> Result<()> {
        match &mut self.last {
            Some((last, count)) if last.as_slice() == row && *count < u32::MAX => {
                *count += 1;
                return Ok(());
            }
            Some((last, count)) => {
                self.arena.push(&[last], *count);
                last.clear();
                last.extend_from_slice(row);
                *count = 1;
            }
            None => self.last = Some((row.to_vec(), 1)),
        }
        if self.arena.memory_bytes() > self.room { self.spill() } else { Ok(()) }
    }

    fn spill(&mut self) -> Result<()> {
        let disk = match &mut self.disk {
            Some(disk) => disk,
            None => self.disk.insert(RunWriter::create(&self.folder)?),
        };
        disk.write_all(&self.arena)?;
        self.arena.clear();
        Ok(())
    }

    /// All that were added, ready to be counted.
    ///
    /// # Errors
    /// Those of the scratch disk.
    pub fn finish(mut self) -> Result<Counted> {
        if let Some((last, count)) = self.last.take() {
            self.arena.push(&[&last], count);
        }
        let disk = self.disk.map(RunWriter::finish).transpose()?;
        Ok(Counted { folder: self.folder, arena: self.arena, disk })
    }
}

/// Repeats and how often each came.
#[derive(Debug, Default)]
pub struct Counted {
    folder: PathBuf,
    arena: Arena,
    disk: Option<File>,
}

impl Counted {
    /// How many of them stand in front of `row`; to be asked once.
    ///
    /// # Errors
    /// Those of the scratch disk.
    pub fn before(&self, row: &[u8]) -> Result<u64> {
        let held = (0..self.arena.len()).map(|at| self.arena.get(at));
        let mut count: u64 = held.filter(|(repeat, _)| *repeat < row).map(|(_, count)| u64::from(count)).sum();
        if let Some(disk) = &self.disk {
            let mut reader = RunReader::new(disk, &self.folder);
            let mut repeat = Vec::new();
            while let Some(times) = reader.next(&mut repeat)? {
                count += if repeat.as_slice() < row { u64::from(times) } else { 0 };
            }
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn counts_are_those_of_all_rows(
            rows in prop::collection::vec((prop::collection::vec(0_u8..3, 0..4), 1_usize..5), 0..60),
            cut in prop::collection::vec(0_u8..3, 0..4),
            room in 0_u64..400,
        ) {
            let folder = tempfile::tempdir().unwrap();
            let mut repeats = Repeats::new(folder.path(), room);
            for (row, times) in &rows {
                for _ in 0..*times {
                    repeats.add(row).unwrap();
                }
            }
            let expected: usize = rows.iter().filter(|(row, _)| *row < cut).map(|(_, times)| times).sum();
            prop_assert_eq!(repeats.finish().unwrap().before(&cut).unwrap(), expected as u64);
        }
    }
}
