//! Parts that are done and wait to be made durable together ([`Output::commit_soon`]).
//!
//! A record of a batch is one file of lines in `parts/`, each a part with what was noted of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::durable::sync_files;
use super::files::{clear, sync_folder, write_atomically};
use super::{Output, is_settled, temporary_of};
use crate::error::{Error, IoContext, Result};
use crate::workspace::manifest::PartRecord;
use crate::workspace::noted::Noted;

/// What is lost by a kill is what waits: no more parts than this,
const MOST_PARTS: usize = 1024;
/// no more bytes (so large parts wait for nothing),
const MOST_BYTES: u64 = 64 << 20;
/// and no more work, over all threads.
const MOST_WORK: Duration = Duration::from_secs(2);

/// How the records of batches end; those of single parts are `.json`.
pub(super) const RECORDS: &str = "jsonl";

/// A line of a record.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Recorded {
    pub part: PartRecord,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub noted: Option<Noted>,
}

/// What waits.
#[derive(Debug, Default)]
pub(super) struct Batch {
    units: Vec<Recorded>,
    bytes: u64,
    work: Duration,
}

impl Batch {
    fn add(&mut self, unit: Recorded, took: Duration) {
        self.bytes += unit.part.files.iter().map(|file| file.bytes).sum::<u64>();
        self.work += took;
        self.units.push(unit);
    }

    fn is_full(&self) -> bool {
        self.units.len() >= MOST_PARTS || self.bytes >= MOST_BYTES || self.work >= MOST_WORK
    }
}

fn locked<T>(mutex: &std::sync::Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads the record of a batch.
pub(super) fn read_records(path: &Path) -> Result<Vec<Recorded>> {
    let bytes = fs::read(path).at("read", path)?;
    let lines = bytes.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).map_err(|error| Error::unreadable(path, error))).collect()
}

impl Output {
    /// As [`Output::commit`], for units of which there may be very many: this one is made durable and recorded together with
    /// others, when they are many, large, or took long, at the latest by [`Output::flush`]. Until then a kill loses it; this run
    /// takes it for committed. `took` is how long it took to do.
    ///
    /// # Errors
    /// [`Error::Io`]; the units that waited are not committed then.
    #[allow(clippy::too_many_arguments, reason = "those of `commit`, and two")]
    pub fn commit_soon(
        &self,
        unit: &str,
        names: &[(&str, Option<blake3::Hash>)],
        rows: u64,
        counts: BTreeMap<String, u64>,
        detail: Value,
        noted: Option<Noted>,
        took: Duration,
    ) -> Result<()> {
        self.displace(unit)?;
        let files = names.iter().map(|(name, hash)| self.file_record(name, *hash)).collect::<Result<Vec<_>>>()?;
        let part = PartRecord { unit: unit.to_owned(), rows, counts, detail, files };
        let noted = noted.filter(is_settled);
        if let Some(noted) = &noted {
            locked(&self.noted).insert(unit.to_owned(), noted.clone());
        }
        self.lock_parts().insert(unit.to_owned(), part.clone());
        let is_full = {
            let mut waiting = locked(&self.waiting);
            waiting.add(Recorded { part, noted }, took);
            waiting.is_full()
        };
        if is_full { self.flush() } else { Ok(()) }
    }

    /// Makes durable what waits, and records it.
    ///
    /// # Errors
    /// As [`Output::commit_soon`].
    pub fn flush(&self) -> Result<()> {
        // One at a time; other threads may go on to add.
        let mut batches = locked(&self.batches);
        let batch = std::mem::take(&mut *locked(&self.waiting));
        if batch.units.is_empty() {
            return Ok(());
        }
        let flushed = self.put_in_place(&batch.units).and_then(|()| self.record_batch(&mut batches, &batch.units));
        if flushed.is_err() {
            for unit in &batch.units {
                self.lock_parts().remove(&unit.part.unit);
                locked(&self.noted).remove(&unit.part.unit);
            }
        }
        flushed
    }

    fn put_in_place(&self, units: &[Recorded]) -> Result<()> {
        self.check_process()?;
        let places: Vec<PathBuf> =
            units.iter().flat_map(|unit| &unit.part.files).map(|file| self.content.join(&file.file)).collect();
        let temporaries: Vec<PathBuf> = places.iter().map(|place| temporary_of(place)).collect();
        sync_files(&self.content, &temporaries)?;
        for (temporary, place) in temporaries.iter().zip(&places) {
            fs::rename(temporary, place).at("rename", temporary)?;
        }
        let folders: BTreeSet<&Path> = places.iter().filter_map(|place| place.parent()).collect();
        folders.into_iter().try_for_each(sync_folder)
    }

    /// Records parts whose files are in their places.
    pub(super) fn record_all(&self, units: &[Recorded]) -> Result<()> {
        self.record_batch(&mut locked(&self.batches), units)
    }

    fn record_batch(&self, batches: &mut Batches, units: &[Recorded]) -> Result<()> {
        let mut lines = Vec::new();
        let mut hasher = blake3::Hasher::new();
        for unit in units {
            serde_json::to_writer(&mut lines, unit)
                .map_err(|error| Error::Usage(format!("cannot write as JSON: {error}")))?;
            lines.push(b'\n');
            hasher.update(unit.part.unit.as_bytes()).update(b"\0");
        }
        let path = self.partial.join("parts").join(format!("{}.{RECORDS}", &hasher.finalize().to_hex()[..32]));
        write_atomically(&path, &lines)?;
        batches.insert(path, units.iter().map(|unit| unit.part.unit.clone()).collect());
        Ok(())
    }

    /// Takes units out of the records of their batches.
    pub(super) fn forget_in_batches(&self, units: &BTreeSet<&str>) -> Result<()> {
        let mut batches = locked(&self.batches);
        let touched: Vec<PathBuf> = batches
            .iter()
            .filter(|(_, held)| held.iter().any(|unit| units.contains(unit.as_str())))
            .map(|(path, _)| path.clone())
            .collect();
        for path in touched {
            let held = batches.remove(&path).unwrap_or_default();
            let (parts, noted) = (self.lock_parts(), locked(&self.noted));
            let kept: Vec<Recorded> = held
                .iter()
                .filter(|unit| !units.contains(unit.as_str()))
                .filter_map(|unit| parts.get(unit))
                .map(|part| Recorded { part: part.clone(), noted: noted.get(&part.unit).cloned() })
                .collect();
            drop((parts, noted));
            // The rest is recorded anew before its record goes.
            if !kept.is_empty() {
                self.record_batch(&mut batches, &kept)?;
            }
            clear(&path)?;
        }
        Ok(())
    }
}

/// Which units each record holds.
pub(super) type Batches = BTreeMap<PathBuf, BTreeSet<String>>;

#[cfg(test)]
mod tests;
