//! Reading what dedup left: which rows of the index are kept.
//!
//! Tables that `vlmsel score` made are ranges of the index's rows, and bits tell; of all other tables the ids that go.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use arrow_array::cast::AsArray;
use vlmsel_shards::error::IoContext;
use vlmsel_shards::parquet::table::ParquetTable;
use vlmsel_shards::tables::index_reader::MAX_GROUP_BYTES;
use vlmsel_shards::workspace::manifest::{InputRecord, Manifest};

use super::result::{KEEP_BITS, SUMMARY_UNIT};
use super::scores::place_of;
use crate::error::{Error, Result};
use crate::id_set::IdSet;

/// What `vlmsel dedup` found, opened.
#[derive(Debug)]
pub struct Kept {
    folder: PathBuf,
    bits: Vec<u8>,
    /// First row and rows of each index part, by the name of its file.
    parts: HashMap<String, (u64, u64)>,
    inputs: Vec<InputRecord>,
    record: InputRecord,
    /// Folders of tables, and whether they hold scores of the same index.
    folders: Mutex<HashMap<PathBuf, bool>>,
    dropped: OnceLock<IdSet>,
}

impl Kept {
    /// Opens the folder.
    ///
    /// # Errors
    /// Exit 2 for what is no finished output of dedup.
    pub fn open(folder: &Path) -> Result<Self> {
        let manifest = match Manifest::read(folder)? {
            Some(manifest) if manifest.command == "dedup" => manifest,
            _ => {
                return Err(Error::usage(format!(
                    "--dedup {}: give the folder that `vlmsel dedup` wrote",
                    folder.display()
                )));
            }
        };
        let (mut first, mut parts) = (0, HashMap::new());
        for part in manifest.parts.iter().filter(|part| part.unit != SUMMARY_UNIT) {
            for file in &part.files {
                parts.insert(file.file.clone(), (first, part.rows));
            }
            first += part.rows;
        }
        let path = folder.join(KEEP_BITS);
        let bits = std::fs::read(&path).at("read", &path)?;
        if bits.len() as u64 != first.div_ceil(8) {
            let text =
                format!("it has {} bytes for {first} rows; run `vlmsel verify {}`", bits.len(), folder.display());
            return Err(vlmsel_shards::Error::unreadable(&path, text).into());
        }
        let record =
            InputRecord { name: "dedup".to_owned(), bytes: bits.len() as u64, fingerprint: manifest.checksum()? };
        let (folder, inputs) = (folder.to_path_buf(), manifest.inputs);
        Ok(Self { folder, bits, parts, inputs, record, folders: Mutex::default(), dropped: OnceLock::new() })
    }

    /// What a manifest says of it.
    pub fn record(&self) -> &InputRecord {
        &self.record
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether a row of the index is kept.
    #[inline]
    pub fn contains(&self, row: u64) -> bool {
        self.bits[(row / 8) as usize] >> (row % 8) & 1 == 1
    }

    /// How many of a range of rows are kept.
    pub fn count(&self, start: u64, end: u64) -> u64 {
        let (first, last) = (start.div_ceil(8).min(end), (end / 8).max(start.div_ceil(8)).min(end));
        let edge = |rows: std::ops::Range<u64>| rows.filter(|row| self.contains(*row)).count() as u64;
        if first * 8 >= end {
            return edge(start..end);
        }
        let (words, rest) = self.bits[first as usize..last as usize].as_chunks::<8>();
        let whole: u32 = words.iter().map(|word| u64::from_le_bytes(*word).count_ones()).sum();
        let rest: u32 = rest.iter().map(|byte| byte.count_ones()).sum();
        edge(start..first * 8) + u64::from(whole + rest) + edge(last * 8..end)
    }

    /// The row of the index that a table of scores begins with; `None` for a table that is no range of it.
    ///
    /// # Errors
    /// Exit 7 for scores of another index.
    pub fn first_row_of(&self, table: &ParquetTable) -> Result<Option<u64>> {
        let place = table.path.file_stem().and_then(|stem| place_of(&stem.to_string_lossy()));
        let Some((file, start)) = place else { return Ok(None) };
        let Some((first, rows)) = self.parts.get(&file) else { return Ok(None) };
        let folder = table.path.parent().unwrap_or(Path::new(".")).to_path_buf();
        let mut folders = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        let is_of_index = if let Some(known) = folders.get(&folder) {
            *known
        } else {
            let known = self.is_of_index(&folder)?;
            folders.insert(folder, known);
            known
        };
        Ok((is_of_index && start + table.rows() <= *rows).then_some(first + start))
    }

    fn is_of_index(&self, folder: &Path) -> Result<bool> {
        let Some(scores) = Manifest::read(folder)?.filter(|manifest| manifest.command == "score") else {
            return Ok(false);
        };
        for scored in &scores.inputs {
            let ours = self.inputs.iter().find(|input| input.name == scored.name);
            if ours.is_none_or(|ours| ours.fingerprint != scored.fingerprint) {
                return Err(vlmsel_shards::Error::Mismatch(format!(
                    "{} and {} were made from different indexes: {} is not the same in both. Run `vlmsel dedup` on the index that was scored",
                    folder.display(),
                    self.folder.display(),
                    scored.name
                ))
                .into());
            }
        }
        Ok(true)
    }

    /// The ids that go; an id that is also kept somewhere stays.
    ///
    /// # Errors
    /// Those of reading.
    pub fn dropped(&self) -> Result<&IdSet> {
        if let Some(ids) = self.dropped.get() {
            return Ok(ids);
        }
        let mut ids = self.ids(|_, is_kept| !is_kept)?;
        ids.sort_unstable();
        let mut kept = self.ids(|id, is_kept| is_kept && ids.binary_search(&id).is_ok())?;
        kept.sort_unstable();
        ids.retain(|id| kept.binary_search(id).is_err());
        Ok(self.dropped.get_or_init(|| IdSet::of_wide(ids)))
    }

    fn ids(&self, is_wanted: impl Fn(u128, bool) -> bool) -> Result<Vec<u128>> {
        let mut ids = Vec::new();
        self.each_id(|id, is_kept| {
            if is_wanted(id, is_kept) {
                ids.push(id);
            }
        })?;
        Ok(ids)
    }

    fn each_id(&self, mut each: impl FnMut(u128, bool)) -> Result<()> {
        for file in self.parts.keys() {
            let path = self.folder.join(file);
            let table = ParquetTable::open(&path, file)?;
            let other = || vlmsel_shards::Error::unreadable(&path, "it has other columns than dedup writes");
            for group in 0..table.groups() {
                for batch in table.rows_of(group, None, &["uid", "keep"], MAX_GROUP_BYTES)? {
                    let batch = batch?;
                    let uids = batch.column(0).as_fixed_size_binary_opt().ok_or_else(other)?;
                    let keep = batch.column(1).as_boolean_opt().ok_or_else(other)?;
                    for at in 0..batch.num_rows() {
                        let uid = uids.value(at).try_into().map_err(|_| other())?;
                        each(u128::from_be_bytes(uid), keep.value(at));
                    }
                }
            }
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
        fn counts_what_it_contains(bits in prop::collection::vec(any::<u8>(), 1..60), a in 0..480_u64, b in 0..480_u64) {
            let rows = bits.len() as u64 * 8;
            let (start, end) = (a.min(b).min(rows), a.max(b).min(rows));
            let record = InputRecord { name: String::new(), bytes: 0, fingerprint: String::new() };
            let kept = Kept {
                folder: PathBuf::new(), bits, parts: HashMap::new(), inputs: Vec::new(), record,
                folders: Mutex::default(), dropped: OnceLock::new(),
            };
            prop_assert_eq!(kept.count(start, end), (start..end).filter(|row| kept.contains(*row)).count() as u64);
        }
    }
}
