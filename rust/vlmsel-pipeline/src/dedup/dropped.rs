//! Records that go, in the order of the index.

use std::path::Path;

use vlmsel_core::hash::Hash128;

use crate::error::Result;
use crate::external_sort::{Merge, Sorter};

/// In [`Dropped::kind`]: it matches an item that training data must not hold.
pub const AGAINST: u8 = u8::MAX;

/// A record that goes, and why.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropped {
    /// Its row.
    pub row: u32,
    /// The row that is kept for it.
    pub keeper: u32,
    /// That row's id.
    pub keeper_uid: Hash128,
    /// How far they are.
    pub distance: f32,
    /// Place of the kind among those asked for, or [`AGAINST`].
    pub kind: u8,
    /// Of [`AGAINST`], which item; below 2^24.
    pub item: u32,
}

/// Groups that people are shown.
const LARGEST: usize = 10;

/// Dropped records, sorted by row, and the keepers that most of them go for.
pub struct DroppedRows {
    sorter: Sorter,
    /// Records that go, and the row they go for; the largest groups first.
    pub largest: Vec<(u64, u32)>,
}

impl DroppedRows {
    /// Within `budget` bytes, with scratch space in `folder`.
    pub fn new(folder: &Path, budget: u64) -> Self {
        Self { sorter: Sorter::new(folder, budget), largest: Vec::new() }
    }

    /// Says for how many records a keeper is kept.
    pub fn note_group(&mut self, dropped: u64, keeper: u32) {
        let order = |(size, row): &(u64, u32)| (std::cmp::Reverse(*size), *row);
        let at = self.largest.partition_point(|group| order(group) < order(&(dropped, keeper)));
        if dropped > 0 && at < LARGEST {
            self.largest.insert(at, (dropped, keeper));
            self.largest.truncate(LARGEST);
        }
    }

    /// Adds a record.
    ///
    /// # Errors
    /// Those of the scratch disk.
    pub fn push(&mut self, dropped: &Dropped) -> Result<()> {
        let Dropped { row, keeper, keeper_uid, distance, kind, item } = dropped;
        let reason = u32::from(*kind) << 24 | item;
        let parts: [&[u8]; 5] =
            [&row.to_be_bytes(), &keeper.to_be_bytes(), keeper_uid, &distance.to_be_bytes(), &reason.to_be_bytes()];
        self.sorter.push(&parts, 0)
    }

    /// The records in the order of their rows.
    ///
    /// # Errors
    /// Those of the scratch disk.
    pub fn finish(self) -> Result<InOrder> {
        Ok(InOrder { merge: self.sorter.finish()?, next: None, ended: false })
    }
}

/// Dropped records in the order of their rows.
pub struct InOrder {
    merge: Merge,
    next: Option<Dropped>,
    ended: bool,
}

impl InOrder {
    fn fill(&mut self) -> Result<()> {
        if self.next.is_none() && !self.ended {
            self.next = self.merge.next()?.map(|(record, _)| parse(&record));
            self.ended = self.next.is_none();
        }
        Ok(())
    }

    /// The record of a row, if it goes. Rows are asked for in ascending order.
    ///
    /// # Errors
    /// Those of the scratch disk.
    pub fn of_row(&mut self, row: u32) -> Result<Option<Dropped>> {
        self.fill()?;
        Ok(if self.next.is_some_and(|next| next.row == row) { self.next.take() } else { None })
    }

    /// Whether all records were asked for.
    ///
    /// # Errors
    /// Those of the scratch disk.
    pub fn is_done(&mut self) -> Result<bool> {
        self.fill()?;
        Ok(self.ended)
    }
}

fn parse(record: &[u8]) -> Dropped {
    let number = |at: usize| record[at..].first_chunk().copied().map_or(0, u32::from_be_bytes);
    let keeper_uid = record[8..].first_chunk().copied().unwrap_or_default();
    let reason = number(28);
    Dropped {
        row: number(0),
        keeper: number(4),
        keeper_uid,
        distance: f32::from_bits(number(24)),
        kind: (reason >> 24) as u8,
        item: reason & 0xff_ffff,
    }
}
