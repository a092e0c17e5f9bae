//! Selections by key: scores that were not made from an index know samples by what their shards call them.

use std::collections::HashMap;
use std::path::Path;

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use vlmsel_shards::tables::index_reader::batches_of_keys;
use vlmsel_shards::workspace::inputs::expand;
use vlmsel_shards::workspace::quarantine::Quarantined;

use crate::error::{Error, Result};
use crate::progress::Progress;

/// A key of the selection, and the sample that has it.
#[derive(Default)]
struct Sample {
    /// How often it was selected.
    copies: usize,
    /// Its id, and the source and shard that it lies in.
    found: Option<(u128, String)>,
}

/// The ids of the samples that have these keys in the index, in no order, and the keys that it does not have.
///
/// # Errors
/// [`Error::Usage`] for a key that two samples have, and where the index has none of them; what makes an index unreadable.
pub(super) fn uids_of_keys(
    index: &Path,
    keys: Vec<String>,
    progress: &Progress,
) -> Result<(Vec<u128>, Vec<Quarantined>)> {
    let mut samples: HashMap<String, Sample> = HashMap::with_capacity(keys.len());
    for key in keys {
        samples.entry(key).or_default().copies += 1;
    }
    let accept = |path: &Path| path.extension().is_some_and(|e| e == "parquet");
    let mut parts = expand(&[index.into()], "index part", &accept, &|| progress.check())?;
    parts.sort_by(|a, b| a.name.cmp(&b.name));
    for part in parts {
        let mut batches = Vec::new();
        let names = ["uid", "key", "source", "shard"];
        batches_of_keys(
            &part.path,
            &names,
            |key| samples.contains_key(key),
            |batch| {
                batches.push(batch);
                progress.check()
            },
        )?;
        batches.iter().try_for_each(|batch| add(&mut samples, batch, &part.path))?;
    }
    if samples.values().all(|sample| sample.found.is_none()) {
        let key = samples.keys().min().cloned().unwrap_or_default();
        return Err(Error::usage(format!(
            "the selection has ids like {key:?}: they are not of 128 bits, and the index {} has none of them as a key. Select from scores that were made from this index, or index the shards that the scores are of",
            index.display()
        )));
    }
    let (mut uids, mut missing) = (Vec::new(), Vec::new());
    for (key, Sample { copies, found }) in samples {
        if let Some((uid, _)) = found {
            uids.extend(std::iter::repeat_n(uid, copies));
        } else {
            let record = Quarantined::new("selection", "row", None, "not_in_index", "").with_key(&key);
            missing.extend(std::iter::repeat_n(record, copies));
        }
    }
    missing.sort();
    Ok((uids, missing))
}

fn add(samples: &mut HashMap<String, Sample>, batch: &RecordBatch, part: &Path) -> Result<()> {
    let wrong = |name: &str| vlmsel_shards::Error::unreadable(part, format!("column {name} is not as an index has it"));
    let column = |at: usize, name: &str| batch.column(at).as_string_view_opt().ok_or_else(|| wrong(name));
    let uids = batch.column(0).as_fixed_size_binary_opt().ok_or_else(|| wrong("uid"))?;
    let (keys, sources, shards) = (column(1, "key")?, column(2, "source")?, column(3, "shard")?);
    for row in 0..batch.num_rows() {
        let uid = u128::from_be_bytes(uids.value(row).try_into().map_err(|_| wrong("uid"))?);
        let Some(sample) = samples.get_mut(keys.value(row)) else { continue };
        let place = format!("source {:?}, shard {:?}", sources.value(row), shards.value(row));
        match &sample.found {
            None => sample.found = Some((uid, place)),
            Some((other, _)) if *other == uid => {}
            Some((_, before)) => {
                return Err(Error::usage(format!(
                    "the key {:?} names two samples of the index, in {before} and in {place}; select by uid (scores made from this index have it), or index one of them alone",
                    keys.value(row)
                )));
            }
        }
    }
    Ok(())
}
