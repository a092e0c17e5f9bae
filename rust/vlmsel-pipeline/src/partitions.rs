//! Records of a fixed size, divided among partitions that fit into memory one at a time.
//!
//! Up to a budget the records stay in memory; what is more goes to one scratch file, in blocks with a checksum each. The file is
//! unlinked at once: whatever kills the run, the disk is given back. Records of a partition come back in no particular order.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use vlmsel_core::hash::{Hash128, image_hash};
use vlmsel_shards::error::IoContext;

use crate::error::Result;

/// Records of a writer's partition before they are handed over.
const BLOCK_BYTES: usize = 64 << 10;
/// The same where memory is short.
const LEAST_BLOCK_BYTES: usize = 4 << 10;

/// Where a block lies.
#[derive(Debug)]
enum Block {
    Memory(Vec<u8>),
    Disk { offset: u64, bytes: usize, hash: Hash128 },
}

/// Records of `N` bytes in partitions. Shared by threads; each has a [`Writer`].
#[derive(Debug)]
pub struct Partitions<const N: usize> {
    folder: PathBuf,
    blocks: Vec<Mutex<Vec<Block>>>,
    budget: u64,
    held: AtomicU64,
    file: Mutex<Option<File>>,
    end: AtomicU64,
    block_bytes: usize,
}

impl<const N: usize> Partitions<N> {
    /// So many partitions, of which `budget` bytes may stay in memory, written by up to `threads` writers; scratch space in `folder`.
    pub fn new(folder: &Path, partitions: usize, budget: u64, threads: usize) -> Self {
        // Buffers of all writers count as a quarter of the budget.
        let share = (budget / 4) as usize / (partitions * threads).max(1);
        let block_bytes = share.clamp(LEAST_BLOCK_BYTES, BLOCK_BYTES) / N * N;
        Self {
            folder: folder.to_path_buf(),
            blocks: (0..partitions).map(|_| Mutex::default()).collect(),
            budget: budget - budget / 4,
            held: AtomicU64::new(0),
            file: Mutex::default(),
            end: AtomicU64::new(0),
            block_bytes,
        }
    }

    /// A power of two of partitions for so many records, of which a quarter of `budget` bytes is one's share, where working on a
    /// record takes `working_bytes`.
    pub fn count_for(records: u64, working_bytes: u64, budget: u64) -> usize {
        let share = (budget / 4).max(1 << 20);
        (records * working_bytes).div_ceil(share).next_power_of_two().clamp(1, 1 << 12) as usize
    }

    /// How many partitions there are.
    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Bytes that went to the scratch disk.
    pub fn spilled_bytes(&self) -> u64 {
        self.end.load(Ordering::Relaxed)
    }

    /// A writer for one thread.
    pub fn writer(&self) -> Writer<'_, N> {
        Writer { partitions: self, buffers: vec![Vec::new(); self.blocks.len()] }
    }

    fn take(&self, partition: usize, block: Vec<u8>) -> Result<()> {
        let bytes = block.len();
        let block = if self.held.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64 <= self.budget {
            Block::Memory(block)
        } else {
            self.held.fetch_sub(bytes as u64, Ordering::Relaxed);
            let offset = self.end.fetch_add(bytes as u64, Ordering::Relaxed);
            self.file()?.write_all_at(&block, offset).at("write scratch data in", &self.folder)?;
            Block::Disk { offset, bytes, hash: image_hash(&block) }
        };
        self.blocks[partition].lock().unwrap_or_else(PoisonError::into_inner).push(block);
        Ok(())
    }

    fn file(&self) -> Result<File> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if file.is_none() {
            *file = Some(tempfile::tempfile_in(&self.folder).at("create a scratch file in", &self.folder)?);
        }
        match file.as_ref().map(File::try_clone) {
            Some(clone) => Ok(clone.at("use a scratch file in", &self.folder)?),
            None => Err(crate::error::Error::Bug("a scratch file vanished".to_owned())),
        }
    }

    /// Reads a partition's records, block by block.
    ///
    /// # Errors
    /// Those of the scratch disk, also where it gives back something else than was written, and those of `each`.
    pub fn visit(&self, partition: usize, mut each: impl FnMut(&[[u8; N]]) -> Result<()>) -> Result<()> {
        let mut buffer = Vec::new();
        for block in &*self.blocks[partition].lock().unwrap_or_else(PoisonError::into_inner) {
            match block {
                Block::Memory(bytes) => each(bytes.as_chunks::<N>().0)?,
                Block::Disk { offset, bytes, hash } => {
                    buffer.resize(*bytes, 0);
                    self.file()?.read_exact_at(&mut buffer, *offset).at("read scratch data in", &self.folder)?;
                    if image_hash(&buffer) != *hash {
                        return Err(
                            vlmsel_shards::Error::unreadable(&self.folder, "scratch data came back changed").into()
                        );
                    }
                    each(buffer.as_chunks::<N>().0)?;
                }
            }
        }
        Ok(())
    }

    /// Gives the memory of a partition back.
    pub fn release(&self, partition: usize) {
        let blocks = std::mem::take(&mut *self.blocks[partition].lock().unwrap_or_else(PoisonError::into_inner));
        let held = blocks.iter().map(|block| if let Block::Memory(bytes) = block { bytes.len() as u64 } else { 0 });
        self.held.fetch_sub(held.sum(), Ordering::Relaxed);
    }
}

/// What one thread adds.
pub struct Writer<'a, const N: usize> {
    partitions: &'a Partitions<N>,
    buffers: Vec<Vec<u8>>,
}

impl<const N: usize> Writer<'_, N> {
    /// Adds a record.
    ///
    /// # Errors
    /// Those of the scratch disk.
    #[inline]
    pub fn push(&mut self, partition: usize, record: [u8; N]) -> Result<()> {
        let buffer = &mut self.buffers[partition];
        buffer.extend_from_slice(&record);
        if buffer.len() >= self.partitions.block_bytes {
            let full = std::mem::take(buffer);
            self.partitions.take(partition, full)?;
        }
        Ok(())
    }

    /// Hands over what is left.
    ///
    /// # Errors
    /// Those of the scratch disk.
    pub fn finish(self) -> Result<()> {
        for (partition, buffer) in self.buffers.into_iter().enumerate().filter(|(_, buffer)| !buffer.is_empty()) {
            self.partitions.take(partition, buffer)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_goes_in_comes_out(numbers in prop::collection::vec(any::<u32>(), 0..9000), bits in 0..5_u32, budget in prop_oneof![Just(0_u64), 0..40_000_u64]) {
            let folder = tempfile::tempdir().unwrap();
            let partitions = Partitions::<4>::new(folder.path(), 1 << bits, budget, 2);
            let mut writers = [partitions.writer(), partitions.writer()];
            let of = |number: u32| (number as usize) & ((1 << bits) - 1);
            for (at, number) in numbers.iter().enumerate() {
                writers[at % 2].push(of(*number), number.to_le_bytes()).unwrap();
            }
            for writer in writers {
                writer.finish().unwrap();
            }
            prop_assert!(budget > 0 || numbers.is_empty() || partitions.spilled_bytes() == 4 * numbers.len() as u64);
            let mut back = Vec::new();
            for partition in 0..partitions.len() {
                let mut records = Vec::new();
                partitions.visit(partition, |block| { records.extend_from_slice(block); Ok(()) }).unwrap();
                partitions.release(partition);
                prop_assert!(records.iter().all(|record| of(u32::from_le_bytes(*record)) == partition));
                back.extend(records.into_iter().map(u32::from_le_bytes));
            }
            let mut numbers = numbers;
            numbers.sort_unstable();
            back.sort_unstable();
            prop_assert_eq!(back, numbers);
            prop_assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn a_scratch_disk_that_changes_bytes_is_found_out() {
        let folder = tempfile::tempdir().unwrap();
        let partitions = Partitions::<4>::new(folder.path(), 1, 0, 1);
        let mut writer = partitions.writer();
        (0..100_u32).for_each(|number| writer.push(0, number.to_le_bytes()).unwrap());
        writer.finish().unwrap();
        partitions.file().unwrap().write_all_at(&[7], 40).unwrap();
        assert!(partitions.visit(0, |_| Ok(())).unwrap_err().to_string().contains("came back changed"));
    }
}
