//! The manifest: what an output folder holds, how it was made, and how to tell that it is still whole.
//!
//! It holds only what is the same on every run of the same work (no time, host or output path), with sorted keys,
//! so that two runs of the same work give the same bytes.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, IoContext, Result};
use crate::storage::source::open_plain;

/// Name of the file whose presence makes a folder a finished output.
pub const MANIFEST: &str = "manifest.json";
/// Name of the file with what differs from run to run.
pub const RUN: &str = "run.json";
/// Version of the manifest's form.
pub const SCHEMA: u32 = 2;
/// The oldest schema that is still read.
pub const OLDEST_SCHEMA: u32 = 1;
/// A manifest larger than this is not one (it is read whole).
const MAX_MANIFEST_BYTES: u64 = 1 << 30;

/// One committed file of a part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// Path below the output folder.
    pub file: String,
    /// Size.
    pub bytes: u64,
    /// BLAKE3 of the content, hex.
    pub blake3: String,
}

/// One committed unit of work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PartRecord {
    /// Identity of the unit.
    pub unit: String,
    /// Rows in the part's main file.
    pub rows: u64,
    /// Rows by class.
    pub counts: BTreeMap<String, u64>,
    /// What the stage wants to remember of the unit.
    #[serde(default)]
    pub detail: Value,
    /// The part's files.
    pub files: Vec<FileRecord>,
}

/// One input, recognised by content and not by time stamps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputRecord {
    /// Path below its root.
    pub name: String,
    /// Size.
    pub bytes: u64,
    /// Hash; see [`crate::workspace::fingerprint`].
    pub fingerprint: String,
}

/// How much unreadable input a run put up with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Tolerated {
    /// Quarantined records over input records.
    pub max_bad_fraction: f64,
    /// Files that may be unreadable.
    pub allow_bad_files: u64,
}

/// What a run could not read, and what it was allowed to go without. A run that lost nothing has none, whatever it would have
/// put up with, so that the same work gives the same bytes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Losses {
    /// Records seen.
    pub input: u64,
    /// Records put aside.
    pub quarantined: u64,
    /// Files left out, or not read to their end.
    pub bad_files: Vec<String>,
    /// What the run was told to accept.
    pub tolerated: Tolerated,
}

impl Eq for Losses {}

impl Losses {
    /// `None` where nothing was lost.
    pub fn of(input: u64, quarantined: u64, mut bad_files: Vec<String>, tolerated: Tolerated) -> Option<Self> {
        bad_files.sort();
        (quarantined > 0 || !bad_files.is_empty()).then_some(Self { input, quarantined, bad_files, tolerated })
    }
}

/// A finished output, described.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The stage that wrote the folder.
    pub command: String,
    /// Version of vlmsel that wrote it.
    pub version: String,
    /// The resolved options that decide the content.
    pub config: Value,
    /// The inputs.
    pub inputs: Vec<InputRecord>,
    /// Where the data lies, by source name; may be overridden when data moves.
    #[serde(default)]
    pub roots: Value,
    /// What made the numbers (model, prompt, dtype ...), where that matters.
    #[serde(default)]
    pub provenance: Value,
    /// The parts, by unit.
    pub parts: Vec<PartRecord>,
    /// Every input row by class.
    pub counts: BTreeMap<String, u64>,
    /// What the run could not read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub losses: Option<Losses>,
}

/// No count, number of rows or size is larger; sums of them then stay far from where 64 bits end.
const MAX_NUMBER: u64 = 1 << 53;

impl Manifest {
    /// Reads `folder/manifest.json`; `None` where there is none.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(MANIFEST);
        let size = match fs::metadata(&path) {
            Ok(meta) => meta.len(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).at("read", &path),
        };
        if size > MAX_MANIFEST_BYTES {
            return Err(Error::unreadable(&path, format!("a manifest of {size} bytes is not one that vlmsel wrote")));
        }
        let mut bytes = Vec::new();
        open_plain(&path)?.take(MAX_MANIFEST_BYTES).read_to_end(&mut bytes).at("read", &path)?;
        let value: Value = serde_json::from_slice(&bytes)
            .map_err(|error| Error::unreadable(&path, format!("not a manifest that vlmsel wrote: {error}")))?;
        match value.get("schema").and_then(Value::as_u64) {
            Some(schema) if (u64::from(OLDEST_SCHEMA)..=u64::from(SCHEMA)).contains(&schema) => {}
            other => {
                let found = other.map_or_else(|| "none".to_owned(), |schema| schema.to_string());
                let text = format!("manifest schema {found}, this version reads {OLDEST_SCHEMA} to {SCHEMA}");
                return Err(Error::unreadable(&path, text));
            }
        }
        // Other tools may make folders that vlmsel reads, without one; `verify` wants it.
        if let Some(claimed) = value.get(CHECKSUM)
            && claimed.as_str() != Some(&checksum_of(&value)?)
        {
            return Err(Error::unreadable(&path, "it was changed since vlmsel wrote it (its checksum differs)"));
        }
        let manifest: Self = serde_json::from_value(value)
            .map_err(|error| Error::unreadable(&path, format!("not a manifest that vlmsel wrote: {error}")))?;
        for record in manifest.parts.iter().flat_map(|part| &part.files) {
            if !is_plain_relative(&record.file) {
                return Err(Error::unreadable(&path, format!("names a file outside its folder: {:?}", record.file)));
            }
        }
        if manifest
            .numbers()
            .try_fold(0_u64, |sum, number| sum.checked_add(number).filter(|_| number <= MAX_NUMBER))
            .is_none()
        {
            return Err(Error::unreadable(&path, "its numbers of rows and bytes make no sense"));
        }
        Ok(Some(manifest))
    }

    /// Every number that is ever added to others.
    fn numbers(&self) -> impl Iterator<Item = u64> {
        let parts = self.parts.iter().flat_map(|part| {
            let files = part.files.iter().map(|file| file.bytes);
            files.chain(part.counts.values().copied()).chain([part.rows])
        });
        let losses = self.losses.iter().flat_map(|losses| [losses.input, losses.quarantined]);
        parts.chain(self.counts.values().copied()).chain(self.inputs.iter().map(|input| input.bytes)).chain(losses)
    }

    /// The file's bytes: canonical JSON with a checksum of itself, so that a flipped bit shows here as in every part.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut value =
            serde_json::to_value(self).map_err(|error| Error::Usage(format!("cannot write as JSON: {error}")))?;
        let checksum = checksum_of(&value)?;
        if let Value::Object(map) = &mut value {
            map.insert(CHECKSUM.to_owned(), Value::String(checksum));
        }
        to_json(&value)
    }

    /// The checksum that [`Manifest::to_bytes`] writes.
    pub fn checksum(&self) -> Result<String> {
        let value =
            serde_json::to_value(self).map_err(|error| Error::Usage(format!("cannot write as JSON: {error}")))?;
        checksum_of(&value)
    }

    /// Whether `folder` is a finished output.
    pub fn exists(folder: &Path) -> bool {
        folder.join(MANIFEST).is_file()
    }
}

/// The key of a manifest's checksum of itself.
const CHECKSUM: &str = "checksum";

/// BLAKE3 of a manifest's canonical JSON without its checksum.
fn checksum_of(manifest: &Value) -> Result<String> {
    let mut manifest = manifest.clone();
    if let Value::Object(map) = &mut manifest {
        map.remove(CHECKSUM);
    }
    Ok(blake3::hash(&to_json(&manifest)?).to_hex().to_string())
}

/// A relative path that stays below its folder.
pub(crate) fn is_plain_relative(path: &str) -> bool {
    !path.is_empty() && Path::new(path).components().all(|part| matches!(part, std::path::Component::Normal(_)))
}

/// Pretty JSON with a final newline; maps are sorted by key (`serde_json`'s default map).
pub fn to_json<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    let value = serde_json::to_value(value).map_err(|error| Error::Usage(format!("cannot write as JSON: {error}")))?;
    let mut bytes =
        serde_json::to_vec_pretty(&value).map_err(|error| Error::Usage(format!("cannot write as JSON: {error}")))?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// The places where two JSON values differ, as `path: old -> new`, at most `limit` of them.
pub fn differences(old: &Value, new: &Value, limit: usize) -> Vec<String> {
    fn walk(at: &str, old: Option<&Value>, new: Option<&Value>, found: &mut Vec<String>) {
        match (old, new) {
            (Some(Value::Object(a)), Some(Value::Object(b))) => {
                let keys: std::collections::BTreeSet<_> = a.keys().chain(b.keys()).collect();
                for key in keys {
                    let below = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
                    walk(&below, a.get(key), b.get(key), found);
                }
            }
            (a, b) if a == b => {}
            (a, b) => {
                let show = |v: Option<&Value>| v.map_or_else(|| "(absent)".to_owned(), ToString::to_string);
                found.push(format!("{at}: {} -> {}", show(a), show(b)));
            }
        }
    }
    let mut found = Vec::new();
    walk("", Some(old), Some(new), &mut found);
    let more = found.len().saturating_sub(limit);
    found.truncate(limit);
    if more > 0 {
        found.push(format!("and {more} more"));
    }
    found
}
