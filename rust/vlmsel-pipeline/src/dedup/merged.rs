//! Classes of equal contents, some of which turn out to be the same to a nearer look, and which have neighbours.

use super::alike::Edge;
use super::classes::Classes;
use super::exact::Bounds;
use super::row_set::RowSet;
use crate::error::Result;

/// The smallest row of each class, and every row that is in none.
///
/// # Errors
/// Those of the scratch disk.
pub fn one_of_each(rows: u32, classes: &Classes) -> Result<RowSet> {
    let set = RowSet::new(u64::from(rows));
    set.insert_all();
    classes.visit(|class, row| {
        if class != row {
            set.remove(row);
        }
        Ok(())
    })?;
    Ok(set)
}

/// Representatives of classes that are the same.
pub struct Merged<'a> {
    rows: u32,
    bounds: Bounds<'a>,
    /// A class, and the smaller one that it is the same as.
    same: Vec<(u32, u32)>,
}

impl<'a> Merged<'a> {
    /// Nothing is the same yet.
    pub fn new(rows: u32, bounds: Bounds<'a>) -> Self {
        Self { rows, bounds, same: Vec::new() }
    }

    /// Says that a class is the same as another, whose name is smaller and which is not the same as a third.
    pub fn join(&mut self, class: u32, representative: u32) {
        self.same.push((class, representative));
    }

    /// All classes with more than one row or with an edge, but for those that are left out.
    ///
    /// # Errors
    /// Those of the scratch disk.
    pub fn classes(mut self, equal: &Classes, edges: &[Edge], left_out: Option<&RowSet>) -> Result<Classes> {
        let Bounds { scratch, memory, threads, .. } = self.bounds;
        self.same.sort_unstable();
        let of = |class: u32| match self.same.binary_search_by_key(&class, |(class, _)| *class) {
            Ok(at) => self.same[at].1,
            Err(_) => class,
        };
        let merged = Classes::new(scratch, self.rows, memory / 4, threads);
        let mut writer = merged.writer();
        let done = RowSet::new(u64::from(self.rows));
        equal.visit(|class, row| {
            if left_out.is_some_and(|set| set.contains(class)) {
                return Ok(());
            }
            done.insert(row);
            writer.push(of(class), row)
        })?;
        let mut add = |class: u32, row: u32| {
            if done.contains(row) {
                return Ok(());
            }
            done.insert(row);
            writer.push(class, row)
        };
        for (class, representative) in &self.same {
            add(*representative, *class)?;
            add(*representative, *representative)?;
        }
        for Edge { a, b, .. } in edges {
            add(*a, *a)?;
            add(*b, *b)?;
        }
        writer.finish()?;
        Ok(merged)
    }
}
