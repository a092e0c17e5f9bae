//! The second step: of each record, whether it is kept, and by which kept one it is covered otherwise.
//!
//! Only records that are like some other one are looked at. Where there is one exact kind, the best of each class is kept, and
//! memory is that of a sort; otherwise the classes and edges of all kinds are held, and [`cover`] walks the records.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use vlmsel_core::cover::{Covered, NO_CLASS, Relation, components, cover};
use vlmsel_core::hash::Hash128;

use super::against::Matched;
use super::content::uids_of;
use super::dropped::{Dropped, DroppedRows};
use super::exact::Bounds;
use super::keep_order::{Criterion, KeepOrder};
use super::kinds::Kind;
use super::relation::{classes_file, edges_file, read_classes, read_edges};
use super::row_set::{Ranks, RowSet};
use super::rows::IndexRows;
use super::scores::Scores;
use crate::error::{Error, Result};
use crate::external_sort::Sorter;

/// What keepers are chosen from.
pub struct Choice<'a> {
    /// The index.
    pub index: &'a IndexRows,
    /// The folder of the edges.
    pub edges: &'a Path,
    /// Its kinds, in order.
    pub kinds: &'a [Kind],
    /// What makes a record better.
    pub criteria: &'a [Criterion],
    /// Scores, where a criterion asks for them.
    pub scores: Option<&'a Scores>,
    /// Connected components instead of direct neighbours.
    pub chains: bool,
    /// Records that go whatever they are like.
    pub against: &'a [Matched],
    /// A content with more neighbours is a hub.
    pub max_neighbours: u32,
    /// What becomes of hubs.
    pub hubs: Hubs,
}

/// What becomes of a content that has very many neighbours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hubs {
    /// Hubs are walked first, so that one record stands for all of a hub's neighbours.
    KeepOne,
    /// A hub has no neighbours: only what equals it goes.
    Leave,
}

impl Hubs {
    /// Reads the option.
    ///
    /// # Errors
    /// Exit 2, with what is possible.
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "keep-one" => Ok(Self::KeepOne),
            "leave" => Ok(Self::Leave),
            _ => Err(Error::usage(format!("--hubs {text}: it is keep-one or leave"))),
        }
    }
}

/// A content with very many neighbours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hub {
    /// Place of the kind.
    pub kind: usize,
    /// The smallest row of the content.
    pub row: u32,
    /// Contents that are near it.
    pub neighbours: u32,
}

impl Choice<'_> {
    /// The records that go.
    ///
    /// # Errors
    /// Exit 6 where the classes and edges do not fit into the memory limit; those of reading.
    pub fn dropped(&self, bounds: Bounds<'_>) -> Result<(DroppedRows, Vec<Hub>)> {
        let gone = RowSet::new(u64::from(self.index.rows));
        let mut dropped = DroppedRows::new(bounds.scratch, bounds.memory / 4);
        for matched in self.against {
            gone.insert(matched.row);
            dropped.push(&matched.dropped())?;
        }
        let rows = RowSet::new(u64::from(self.index.rows));
        let mut edges = 0;
        for kind in self.kinds {
            read_classes(&self.edges.join(classes_file(&kind.unit())), self.index.rows, |_, members| {
                bounds.progress.check()?;
                members.iter().filter(|row| !gone.contains(**row)).for_each(|row| rows.insert(*row));
                Ok(())
            })?;
            read_edges(&self.edges.join(edges_file(&kind.unit())), self.index.rows, |_, _, _| {
                edges += 1;
                Ok(())
            })?;
        }
        let ranks = rows.ranks();
        let alike = Alike { choice: self, rows: &rows, ranks: &ranks, bounds };
        let hubs = if let ([kind @ Kind::Exact(_)], 0) = (self.kinds, edges) {
            alike.best_of_classes(*kind, &mut dropped)?;
            Vec::new()
        } else {
            alike.covered(edges, &mut dropped)?
        };
        Ok((dropped, hubs))
    }
}

/// Records that are like some other one.
struct Alike<'a> {
    choice: &'a Choice<'a>,
    rows: &'a RowSet,
    ranks: &'a Ranks<'a>,
    bounds: Bounds<'a>,
}

impl Alike<'_> {
    fn rank(&self, row: u32) -> usize {
        self.ranks.before(row) as usize
    }

    /// Sorts the records by `front`, their key, their id and their row.
    fn sorted(&self, front: impl Fn(u32) -> u32 + Sync, memory: u64) -> Result<Sorter> {
        let Bounds { scratch, threads, progress, .. } = self.bounds;
        let Choice { index, criteria, scores, .. } = *self.choice;
        let order = KeepOrder::new(criteria, index, scores, self.rows, self.ranks, progress)?;
        let mut columns = order.columns();
        columns.push("uid");
        let sorter = Mutex::new(Sorter::new(scratch, memory));
        progress.restart();
        progress.expect(u64::from(index.rows), 0);
        index.each(
            &columns,
            Some(self.rows),
            threads,
            progress,
            || (),
            |(), batch| {
                let (keys, uids) = (order.of(batch)?, uids_of(&batch.columns)?);
                let mut records = Vec::with_capacity(batch.rows.len());
                for (at, row) in batch.rows.iter().enumerate() {
                    let mut record = front(*row).to_be_bytes().to_vec();
                    order.write(&keys, at, *row, &mut record)?;
                    record.extend_from_slice(uids.value(at));
                    record.extend_from_slice(&row.to_be_bytes());
                    records.push(record);
                }
                let mut sorter = sorter.lock().unwrap_or_else(PoisonError::into_inner);
                records.iter().try_for_each(|record| sorter.push(&[record], 0))
            },
            |()| Ok(()),
        )?;
        Ok(sorter.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn best_of_classes(&self, kind: Kind, dropped: &mut DroppedRows) -> Result<()> {
        let mut class_of = vec![NO_CLASS; self.rows.count() as usize];
        let path = self.choice.edges.join(classes_file(&kind.unit()));
        read_classes(&path, self.choice.index.rows, |class, members| {
            let here = members.iter().filter(|row| self.rows.contains(**row));
            here.for_each(|row| class_of[self.rank(*row)] = class);
            Ok(())
        })?;
        let sorter = self.sorted(|row| class_of[self.rank(row)], self.bounds.memory / 2)?;
        let mut merge = sorter.finish()?;
        let mut best: Option<(u32, u32, Hash128)> = None;
        let mut size = 0;
        while let Some((record, _)) = merge.next()? {
            let (uid, row) = id_and_row(&record);
            let class = record.first_chunk().copied().map_or(0, u32::from_be_bytes);
            match best {
                Some((of, keeper, keeper_uid)) if of == class => {
                    dropped.push(&Dropped { row, keeper, keeper_uid, distance: 0.0, kind: 0, item: 0 })?;
                    size += 1;
                }
                _ => {
                    best.inspect(|(_, keeper, _)| dropped.note_group(size, *keeper));
                    (best, size) = (Some((class, row, uid)), 0);
                }
            }
            self.bounds.progress.check()?;
        }
        best.inspect(|(_, keeper, _)| dropped.note_group(size, *keeper));
        Ok(())
    }

    fn covered(&self, edges: u64, dropped: &mut DroppedRows) -> Result<Vec<Hub>> {
        let count = self.rows.count() as usize;
        self.enough_memory(count as u64, edges)?;
        let (mut relations, mut hubs) = (Vec::new(), Vec::new());
        let of_hubs = RowSet::new(u64::from(self.choice.index.rows));
        for at in 0..self.choice.kinds.len() {
            relations.push(self.relation(at, &mut hubs, &of_hubs)?);
        }
        let is_first = |row: u32| self.choice.hubs == Hubs::KeepOne && of_hubs.contains(row);
        let mut merge = self.sorted(|row| u32::from(!is_first(row)), self.bounds.memory / 4)?.finish()?;
        let (mut order, mut uids, mut row_of) = (Vec::with_capacity(count), vec![[0; 16]; count], vec![0; count]);
        while let Some((record, _)) = merge.next()? {
            let (uid, row) = id_and_row(&record);
            let rank = self.rank(row);
            order.push(rank as u32);
            (uids[rank], row_of[rank]) = (uid, row);
            self.bounds.progress.check()?;
        }
        let covered = if self.choice.chains { components(&order, &relations) } else { cover(&order, &relations) };
        let is_covered = |record: usize| covered[record].is_some();
        let mut sizes = vec![0_u32; count];
        for (rank, covered) in covered.iter().enumerate() {
            let Some(Covered { keeper, relation, distance }) = covered else { continue };
            let keeper = *keeper as usize;
            if is_covered(keeper) {
                return Err(Error::Bug("a record is covered by one that goes".to_owned()));
            }
            sizes[keeper] += 1;
            dropped.push(&Dropped {
                row: row_of[rank],
                keeper: row_of[keeper],
                keeper_uid: uids[keeper],
                distance: *distance,
                kind: *relation as u8,
                item: 0,
            })?;
        }
        for (keeper, size) in sizes.iter().enumerate() {
            dropped.note_group(u64::from(*size), row_of[keeper]);
        }
        Ok(hubs)
    }

    /// A kind's classes and edges, among the records that do not go anyway; its hubs, and the rows of these.
    fn relation(&self, at: usize, hubs: &mut Vec<Hub>, of_hubs: &RowSet) -> Result<Relation> {
        let (folder, index, kind) = (self.choice.edges, self.choice.index, self.choice.kinds[at]);
        let mut class_of = vec![NO_CLASS; self.rows.count() as usize];
        // Numbers of classes by their names, for the edges: names are in order.
        let mut names = Vec::new();
        read_classes(&folder.join(classes_file(&kind.unit())), index.rows, |name, members| {
            let number = names.len() as u32;
            let mut here = members.iter().filter(|row| self.rows.contains(**row)).peekable();
            if here.peek().is_some() {
                here.for_each(|row| class_of[self.rank(*row)] = number);
                names.push(name);
            }
            Ok(())
        })?;
        let mut edges = Vec::new();
        read_edges(&folder.join(edges_file(&kind.unit())), index.rows, |a, b, distance| {
            self.bounds.progress.check()?;
            // All rows of a class may be gone.
            if let (Ok(a), Ok(b)) = (names.binary_search(&a), names.binary_search(&b)) {
                edges.push((a as u32, b as u32, distance));
            }
            Ok(())
        })?;
        let mut degrees = vec![0_u32; names.len()];
        for (a, b, _) in &edges {
            degrees[*a as usize] += 1;
            degrees[*b as usize] += 1;
        }
        let is_hub = |class: u32| degrees[class as usize] > self.choice.max_neighbours;
        let found = (0..names.len() as u32).filter(|class| is_hub(*class));
        hubs.extend(found.map(|class| {
            let (row, neighbours) = (names[class as usize], degrees[class as usize]);
            Hub { kind: at, row, neighbours }
        }));
        if self.choice.hubs == Hubs::Leave {
            edges.retain(|(a, b, _)| !is_hub(*a) && !is_hub(*b));
        }
        for row in self.rows.rows_within(0, index.rows) {
            let class = class_of[self.rank(row)];
            if class != NO_CLASS && is_hub(class) {
                of_hubs.insert(row);
            }
        }
        Ok(Relation::new(class_of, names.len(), &edges))
    }

    fn enough_memory(&self, records: u64, edges: u64) -> Result<()> {
        let needed = records * (40 + 24 * self.choice.kinds.len() as u64) + edges * 28;
        if needed <= self.bounds.memory {
            return Ok(());
        }
        let text = format!(
            "choosing keepers among {records} records and {edges} edges takes {needed} bytes, --memory-limit allows {}; raise it, or ask for fewer kinds or smaller thresholds",
            self.bounds.memory
        );
        Err(vlmsel_shards::Error::Resource(text).into())
    }
}

/// The end of a sorted record.
fn id_and_row(record: &[u8]) -> (Hash128, u32) {
    let (front, row) = record.split_at(record.len() - 4);
    let uid = front.last_chunk::<16>().copied().unwrap_or_default();
    (uid, row.try_into().map_or(0, u32::from_be_bytes))
}
