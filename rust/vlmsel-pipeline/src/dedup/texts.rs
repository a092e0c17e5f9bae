//! Near texts of an index: equal texts are one, and those that are near by their words are edges between them.

use serde_json::json;
use vlmsel_core::decimal::Decimal;
use vlmsel_core::jaccard::Jaccard;
use vlmsel_core::word_set::SetsOf;
use vlmsel_core::words::Runs;

use super::alike::{Edge, EdgeList, Relation};
use super::content::{Field, Texts};
use super::exact::{self, Bounds, Equality};
use super::merged::{Merged, one_of_each};
use super::near_text::{NearText, NearTextOptions, TextMatch};
use super::row_set::RowSet;
use super::rows::IndexRows;
use crate::error::{Error, Result};

/// Texts of a Jaccard similarity of `threshold` or more.
///
/// # Errors
/// Those of reading the index and of the scratch disk.
pub fn relation(
    index: &IndexRows,
    threshold: Decimal,
    sets: SetsOf,
    equality: Equality<'_>,
    bounds: Bounds<'_>,
) -> Result<Relation> {
    let Bounds { scratch, memory, threads, progress } = bounds;
    let equal = exact::classes(index, Field::Text, equality, bounds)?;
    let texts = one_of_each(index.rows, &equal)?;
    let threshold = Jaccard::parse(&threshold.to_string()).map_err(|error| Error::usage(error.to_string()))?;
    let options = NearTextOptions { threshold, sets, memory_limit: memory / 2, threads };
    let mut search = NearText::new(options, scratch);
    progress.restart();
    progress.expect(u64::from(index.rows), 0);
    // Equal texts without a word are no copies of each other: a set of nothing says nothing.
    let wordless = RowSet::new(u64::from(index.rows));
    let mut runs = Runs::default();
    index.in_order(&["text", "conversations"], Some(&texts), progress, |batch| {
        let said = Texts::of(&batch.columns)?;
        for (at, row) in batch.rows.iter().enumerate() {
            let Some(text) = said.of_row(at)? else { continue };
            if !text.bytes().any(|byte| byte.is_ascii_alphanumeric()) {
                runs.read(&text);
                if runs.text().is_empty() {
                    wordless.insert(*row);
                }
            }
            search.push(*row, &text)?;
        }
        Ok(())
    })?;
    drop(texts);
    let mut merged = Merged::new(index.rows, bounds);
    let mut edges = EdgeList::new(memory / 4);
    progress.restart();
    let summary = search.finish(progress, &mut |found| match found {
        TextMatch::Same { text, representative } => {
            merged.join(text, representative);
            Ok(())
        }
        TextMatch::Near(edge) => edges.push(Edge { a: edge.a, b: edge.b, distance: 1.0 - edge.similarity }),
    })?;
    let detail = json!({
        "texts": summary.texts,
        "without_words": summary.empty,
        "too_long": summary.too_long,
        "sets": summary.sets,
        "banded_sets": summary.banded_sets,
        "expected_recall": summary.expected_recall,
    });
    let edges = edges.sorted();
    Ok(Relation { classes: merged.classes(&equal, &edges, Some(&wordless))?, edges, detail })
}
