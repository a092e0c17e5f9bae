//! What a selection came to, as people and programs are told.

use std::collections::BTreeMap;
use std::path::PathBuf;

use arrow_array::ArrayRef;
use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type, UInt64Type};
use arrow_schema::DataType;
use serde_json::{Value, json};
use vlmsel_shards::columns::score::scores_from_keys;
use vlmsel_shards::workspace::manifest::Manifest;

use super::plan::{Control, Resolved};
use crate::error::{Error, Result};
use crate::id_set::Listed;

/// One selection or control, as committed.
#[derive(Debug, Clone)]
pub struct SelectionReport {
    /// The folder.
    pub output: PathBuf,
    /// The control, or `None` for the selection itself.
    pub control: Option<Control>,
    /// Whether it was there already, with the same fingerprint.
    pub already_done: bool,
    /// Rows by class: `input`, `selected`, `quarantined`, and the reasons of rejection.
    pub counts: BTreeMap<String, u64>,
    /// Score of the last selected row.
    pub threshold: Value,
    /// Rows that are missing to the size asked for.
    pub short_by: u64,
    /// Rows that count as repeated though they are of another source than the row that has their id; not known of a selection
    /// that was there already.
    pub repeated_across_sources: u64,
    /// For the options `include` and `exclude`, where given: how many ids they list, and how many of these met no row.
    pub lists: BTreeMap<String, Listed>,
    /// Files that were left out.
    pub bad_files: Vec<String>,
    /// Some of the eligible scores, ascending, for the histogram; empty for controls.
    pub sample: Vec<f64>,
}

/// What a run came to.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The selection.
    pub selection: SelectionReport,
    /// Its controls, in the order asked for.
    pub controls: Vec<SelectionReport>,
}

/// The report of a selection that was there already.
pub fn already_done(
    output: PathBuf,
    control: Option<Control>,
    wanted: Option<u64>,
    manifest: &Manifest,
) -> SelectionReport {
    let detail = manifest.parts.first().map(|part| part.detail.clone()).unwrap_or_default();
    let selected = manifest.counts.get("selected").copied().unwrap_or(0);
    SelectionReport {
        output,
        control,
        already_done: true,
        counts: manifest.counts.clone(),
        threshold: detail.get("threshold").cloned().unwrap_or(Value::Null),
        short_by: wanted.map_or(0, |wanted| wanted.saturating_sub(selected)),
        repeated_across_sources: 0,
        // A manifest of an earlier version does not say.
        lists: detail.get("lists").cloned().and_then(|lists| serde_json::from_value(lists).ok()).unwrap_or_default(),
        bad_files: Vec::new(),
        sample: Vec::new(),
    }
}

/// The one score of an array as JSON has it: integers whole, decimals as their digits.
pub fn score_value(score: &ArrayRef) -> Result<Value> {
    let as_type =
        |to: &DataType| arrow_cast::cast(score, to).map_err(|error| Error::Bug(format!("threshold: {error}")));
    Ok(match score.data_type() {
        DataType::UInt64 => json!(score.as_primitive::<UInt64Type>().value(0)),
        other if other.is_integer() => json!(as_type(&DataType::Int64)?.as_primitive::<Int64Type>().value(0)),
        other if other.is_floating() => json!(as_type(&DataType::Float64)?.as_primitive::<Float64Type>().value(0)),
        _ => json!(as_type(&DataType::Utf8)?.as_string::<i32>().value(0)),
    })
}

/// The sampled scores as numbers, in order; some thousand are enough to draw a histogram of.
pub fn sample_values(keys: &[u64], reversed: bool, resolved: &Resolved) -> Result<Vec<f64>> {
    const ENOUGH: usize = 8192;
    let thinned = keys.iter().step_by(keys.len().div_ceil(ENOUGH).max(1));
    let keys: Vec<u64> = thinned.map(|key| if reversed { !*key } else { *key }).collect();
    let scores = scores_from_keys(&keys, &resolved.columns.score.output)?;
    let scores =
        arrow_cast::cast(&scores, &DataType::Float64).map_err(|error| Error::Bug(format!("histogram: {error}")))?;
    let mut values = scores.as_primitive::<Float64Type>().values().to_vec();
    values.sort_unstable_by(f64::total_cmp);
    Ok(values)
}
