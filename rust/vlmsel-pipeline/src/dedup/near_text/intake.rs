//! Texts come in one after another; batches of them become sets on all threads, sorted so that equal sets are neighbours.

use std::path::Path;

use vlmsel_core::word_set::{SetBuilder, WordHash};

use super::run::{NearTextOptions, map_in_parallel, memory};
use crate::arena::Arena;
use crate::error::Result;
use crate::external_sort::Sorter;

/// Texts of more bytes are left out and counted.
pub const MAX_TEXT_BYTES: usize = 64 << 20;
/// Text that is gathered for each thread before sets are made.
const BATCH_BYTES: usize = 1 << 20;
/// Bytes of a set's hash in front of it: what sorting looks at first.
pub const HASH_BYTES: usize = 8;

/// What came in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Intake {
    /// Texts.
    pub texts: u64,
    /// Texts without a word: they match nothing.
    pub empty: u64,
    /// Texts of more than [`MAX_TEXT_BYTES`]: left out.
    pub too_long: u64,
    /// Items of all sets.
    pub items: u64,
}

/// Makes sets of texts.
pub struct Intaker<H> {
    builders: Vec<SetBuilder<H>>,
    hasher: H,
    text: String,
    /// Where each text of the batch ends, and its number.
    ends: Vec<(usize, u32)>,
    pub sorter: Sorter,
    pub counts: Intake,
}

impl<H: WordHash> Intaker<H> {
    pub fn new(options: &NearTextOptions, scratch: &Path) -> Self {
        Self {
            builders: (0..options.threads.max(1)).map(|_| SetBuilder::new(options.sets)).collect(),
            hasher: H::default(),
            text: String::new(),
            ends: Vec::new(),
            sorter: Sorter::new(scratch, memory(options) / 2),
            counts: Intake::default(),
        }
    }

    pub fn push(&mut self, number: u32, text: &str) -> Result<()> {
        self.counts.texts += 1;
        if text.len() > MAX_TEXT_BYTES {
            self.counts.too_long += 1;
            return Ok(());
        }
        self.text.push_str(text);
        self.ends.push((self.text.len(), number));
        if self.text.len() >= BATCH_BYTES * self.builders.len() { self.flush() } else { Ok(()) }
    }

    /// Makes the sets of what has been gathered.
    pub fn flush(&mut self) -> Result<()> {
        let (text, hasher) = (&self.text, self.hasher);
        let each = self.ends.len().div_ceil(self.builders.len()).max(1);
        let mut begin = 0;
        let mut batches = Vec::new();
        for (ends, builder) in self.ends.chunks(each).zip(&mut self.builders) {
            batches.push((begin, ends, builder));
            begin = ends.last().map_or(begin, |(end, _)| *end);
        }
        let made = map_in_parallel(batches, |(mut begin, ends, builder)| {
            let (mut arena, mut empty, mut n_items) = (Arena::default(), 0, 0);
            for (end, number) in ends {
                let (set, n) = builder.build(&text[begin..*end]);
                begin = *end;
                if set.is_empty() {
                    empty += 1;
                } else {
                    n_items += n as u64;
                    arena.push(&[&hasher.hash(set).to_be_bytes(), set], *number);
                }
            }
            (arena, empty, n_items)
        })?;
        for (mut arena, empty, n_items) in made {
            self.counts.empty += empty;
            self.counts.items += n_items;
            self.sorter.append(&mut arena)?;
        }
        self.text.clear();
        self.ends.clear();
        Ok(())
    }
}
