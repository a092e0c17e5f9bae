//! Rows that are alike, class by class. A class is named by its smallest row.

use std::path::Path;

use crate::error::Result;
use crate::partitions::{Partitions, Writer};

/// Rows with their classes; only those of classes with more than one row, or with neighbours.
#[derive(Debug)]
pub struct Classes {
    partitions: Partitions<8>,
    /// Classes of one partition.
    span: u32,
}

impl Classes {
    /// For an index of so many rows, within `budget` bytes, with scratch space in `folder`.
    pub fn new(folder: &Path, rows: u32, budget: u64, threads: usize) -> Self {
        let count = Partitions::<8>::count_for(u64::from(rows), 8, budget);
        Self { partitions: Partitions::new(folder, count, budget, threads), span: rows.div_ceil(count as u32).max(1) }
    }

    /// A writer for one thread.
    pub fn writer(&self) -> ClassWriter<'_> {
        ClassWriter { writer: self.partitions.writer(), span: self.span }
    }

    /// Calls `each` with every class and its rows, both in ascending order.
    ///
    /// # Errors
    /// Those of the scratch disk and of `each`.
    pub fn in_order(&self, mut each: impl FnMut(u32, &[u32]) -> Result<()>) -> Result<()> {
        let mut rows = Vec::new();
        for partition in 0..self.partitions.len() {
            let mut all: Vec<u64> = Vec::new();
            self.partitions.visit(partition, |block| {
                all.extend(block.iter().map(|record| u64::from_be_bytes(*record)));
                Ok(())
            })?;
            all.sort_unstable();
            for class in all.chunk_by(|a, b| a >> 32 == b >> 32) {
                rows.clear();
                rows.extend(class.iter().map(|record| *record as u32));
                each((class[0] >> 32) as u32, &rows)?;
            }
        }
        Ok(())
    }

    /// Calls `each` with every (class, row), in no order.
    ///
    /// # Errors
    /// Those of the scratch disk and of `each`.
    pub fn visit(&self, mut each: impl FnMut(u32, u32) -> Result<()>) -> Result<()> {
        (0..self.partitions.len()).try_for_each(|partition| {
            self.partitions.visit(partition, |block| {
                block
                    .iter()
                    .map(|record| u64::from_be_bytes(*record))
                    .try_for_each(|at| each((at >> 32) as u32, at as u32))
            })
        })
    }
}

/// What one thread adds.
pub struct ClassWriter<'a> {
    writer: Writer<'a, 8>,
    span: u32,
}

impl ClassWriter<'_> {
    /// Adds a row to a class.
    ///
    /// # Errors
    /// Those of the scratch disk.
    pub fn push(&mut self, class: u32, row: u32) -> Result<()> {
        let record = (u64::from(class) << 32 | u64::from(row)).to_be_bytes();
        self.writer.push((class / self.span) as usize, record)
    }

    /// Hands over what is left.
    ///
    /// # Errors
    /// Those of the scratch disk.
    pub fn finish(self) -> Result<()> {
        self.writer.finish()
    }
}
