//! Near pairs: images that are equal or near, and texts that are equal or near.

use std::collections::HashMap;

use serde_json::json;

use super::alike::{Edge, EdgeList, Relation};
use super::classes::Classes;
use super::exact::Bounds;
use super::row_set::RowSet;
use crate::error::Result;

/// Bits of an image's code, by which its distance is divided to compare it with that of texts.
const CODE_BITS: f32 = 64.0;

/// The neighbours of each class of a relation.
struct Neighbours(HashMap<u32, Vec<(u32, f32)>>);

impl Neighbours {
    fn of(edges: &[Edge], scale: f32) -> Self {
        let mut all: HashMap<u32, Vec<(u32, f32)>> = HashMap::new();
        for Edge { a, b, distance } in edges {
            all.entry(*a).or_default().push((*b, distance / scale));
            all.entry(*b).or_default().push((*a, distance / scale));
        }
        Self(all)
    }

    /// The class itself and those next to it.
    fn with_itself(&self, class: u32) -> impl Iterator<Item = (u32, f32)> + '_ {
        std::iter::once((class, 0.0)).chain(self.0.get(&class).into_iter().flatten().copied())
    }
}

/// What both relations have in common. The distance of a pair is the greater one of its texts (one minus the similarity) and its
/// images (differing bits of 64).
///
/// # Errors
/// Those of the scratch disk.
pub fn relation(rows: u32, texts: &Relation, images: &Relation, bounds: Bounds<'_>) -> Result<Relation> {
    let Bounds { scratch, memory, threads, progress } = bounds;
    let members = |relation: &Relation| -> Result<RowSet> {
        let set = RowSet::new(u64::from(rows));
        relation.classes.visit(|_, row| {
            set.insert(row);
            Ok(())
        })?;
        Ok(set)
    };
    // Whoever has a neighbour is in a class of both.
    let (of_texts, both) = (members(texts)?, RowSet::new(u64::from(rows)));
    images.classes.visit(|_, row| {
        if of_texts.contains(row) {
            both.insert(row);
        }
        Ok(())
    })?;
    let ranks = both.ranks();
    let class_of = |relation: &Relation| -> Result<Vec<u32>> {
        let mut class_of = vec![0; both.count() as usize];
        relation.classes.visit(|class, row| {
            if both.contains(row) {
                class_of[ranks.before(row) as usize] = class;
            }
            Ok(())
        })?;
        Ok(class_of)
    };
    let (text_of, image_of) = (class_of(texts)?, class_of(images)?);
    // Rows come in ascending order, so that the first of a pair of classes is its smallest.
    let mut first: HashMap<(u32, u32), u32> = HashMap::new();
    let mut classes_of = Vec::with_capacity(text_of.len());
    for (rank, row) in both.rows_within(0, rows).enumerate() {
        classes_of.push((*first.entry((text_of[rank], image_of[rank])).or_insert(row), row));
    }
    let (near_texts, near_images) = (Neighbours::of(&texts.edges, 1.0), Neighbours::of(&images.edges, CODE_BITS));
    let mut edges = EdgeList::new(memory / 4);
    for ((text, image), a) in &first {
        progress.check()?;
        for (other_text, text_distance) in near_texts.with_itself(*text) {
            for (other_image, image_distance) in near_images.with_itself(*image) {
                // Each pair is met from both sides, and a pair of classes from itself.
                if let Some(b) = first.get(&(other_text, other_image)).filter(|b| a < b) {
                    edges.push(Edge { a: *a, b: *b, distance: text_distance.max(image_distance) })?;
                }
            }
        }
    }
    let edges = edges.sorted();
    let with_edges = RowSet::new(u64::from(rows));
    for Edge { a, b, .. } in &edges {
        with_edges.insert(*a);
        with_edges.insert(*b);
    }
    let mut counts: HashMap<u32, u32> = HashMap::new();
    for (class, _) in &classes_of {
        *counts.entry(*class).or_default() += 1;
    }
    let classes = Classes::new(scratch, rows, memory / 4, threads);
    let mut writer = classes.writer();
    for (class, row) in classes_of {
        if counts.get(&class).is_some_and(|count| *count > 1) || with_edges.contains(class) {
            writer.push(class, row)?;
        }
    }
    writer.finish()?;
    Ok(Relation { classes, edges, detail: json!({ "texts": texts.detail, "images": images.detail }) })
}
