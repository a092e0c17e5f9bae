//! The manifest: what an output folder holds, how it was made, and how to tell that it is still whole.
//!
//! It holds only what is the same on every run of the same work (no time, host or output path), with sorted keys,
//! so that two runs of the same work give the same bytes. What may be large is declared here in the order of its keys.

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
    /// BLAKE3 of the content, hex.
    pub blake3: String,
    /// Size.
    pub bytes: u64,
    /// Path below the output folder.
    pub file: String,
}

/// One committed unit of work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PartRecord {
    /// Rows by class.
    pub counts: BTreeMap<String, u64>,
    /// What the stage wants to remember of the unit.
    #[serde(default)]
    pub detail: Value,
    /// The part's files.
    pub files: Vec<FileRecord>,
    /// Rows in the part's main file.
    pub rows: u64,
    /// Identity of the unit.
    pub unit: String,
}

/// One input, recognised by content and not by time stamps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputRecord {
    /// Size.
    pub bytes: u64,
    /// Hash; see [`crate::workspace::fingerprint`].
    pub fingerprint: String,
    /// Path below its root.
    pub name: String,
}

/// How much unreadable input a run put up with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Tolerated {
    /// Files that may be unreadable.
    pub allow_bad_files: u64,
    /// Quarantined records over input records.
    pub max_bad_fraction: f64,
}

/// What a run could not read, and what it was allowed to go without. A run that lost nothing has none, whatever it would have
/// put up with, so that the same work gives the same bytes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Losses {
    /// Files left out, or not read to their end.
    pub bad_files: Vec<String>,
    /// Records seen.
    pub input: u64,
    /// Records put aside.
    pub quarantined: u64,
    /// What the run was told to accept.
    pub tolerated: Tolerated,
}

impl Eq for Losses {}

impl Losses {
    /// `None` where nothing was lost.
    pub fn of(input: u64, quarantined: u64, mut bad_files: Vec<String>, tolerated: Tolerated) -> Option<Self> {
        bad_files.sort();
        (quarantined > 0 || !bad_files.is_empty()).then_some(Self { bad_files, input, quarantined, tolerated })
    }
}

/// A finished output, described.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The stage that wrote the folder.
    pub command: String,
    /// The resolved options that decide the content.
    pub config: Value,
    /// Every input row by class.
    pub counts: BTreeMap<String, u64>,
    /// The inputs.
    pub inputs: Vec<InputRecord>,
    /// What the run could not read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub losses: Option<Losses>,
    /// The parts, by unit.
    pub parts: Vec<PartRecord>,
    /// What made the numbers (model, prompt, dtype ...), where that matters.
    #[serde(default)]
    pub provenance: Value,
    /// Where the data lies, by source name; may be overridden when data moves.
    #[serde(default)]
    pub roots: Value,
    /// [`SCHEMA`].
    pub schema: u32,
    /// Version of vlmsel that wrote it.
    pub version: String,
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

    /// The file's bytes, canonical JSON with a checksum of itself, so that a flipped bit shows here as in every part; and the checksum.
    pub fn to_bytes(&self) -> Result<(Vec<u8>, String)> {
        let plain = ordered_to_json(self)?;
        let checksum = blake3::hash(&plain).to_hex().to_string();
        // No key stands before it.
        let Some(rest) = plain.strip_prefix(b"{") else {
            return Err(Error::Usage("a manifest is an object".to_owned()));
        };
        let mut bytes = format!("{{\n  \"{CHECKSUM}\": \"{checksum}\",").into_bytes();
        bytes.extend_from_slice(rest);
        Ok((bytes, checksum))
    }

    /// The checksum that [`Manifest::to_bytes`] writes.
    pub fn checksum(&self) -> Result<String> {
        Ok(blake3::hash(&ordered_to_json(self)?).to_hex().to_string())
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

/// The same bytes, of something large whose fields are declared in the order of their names: without a copy of it as a
/// [`Value`], which would sort them.
pub(crate) fn ordered_to_json<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    let mut bytes =
        serde_json::to_vec_pretty(value).map_err(|error| Error::Usage(format!("cannot write as JSON: {error}")))?;
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::storage::identity::Identity;
    use crate::workspace::noted::{Identities, Noted, NotedFile};

    fn manifest(losses: Option<Losses>) -> Manifest {
        let file = FileRecord { file: "a \u{e9}.parquet".to_owned(), bytes: 7, blake3: "00".to_owned() };
        let part = PartRecord {
            unit: "u/\"0\".tar".to_owned(),
            rows: 3,
            counts: BTreeMap::from([("ok".to_owned(), 3), ("input".to_owned(), 4)]),
            detail: json!({ "z": [1, 2.5, null], "a": { "y": true, "b": "\n" }, "empty": {} }),
            files: vec![file],
        };
        let bare = PartRecord { unit: "v".to_owned(), files: Vec::new(), detail: Value::Null, ..part.clone() };
        Manifest {
            schema: SCHEMA,
            command: "index".to_owned(),
            version: "0".to_owned(),
            config: json!({ "b": 1, "a": [] }),
            inputs: vec![InputRecord { name: "n".to_owned(), bytes: 1 << 52, fingerprint: "f".to_owned() }],
            roots: json!({}),
            provenance: Value::Null,
            parts: vec![part, bare],
            counts: BTreeMap::new(),
            losses,
        }
    }

    /// The slow way: everything a [`Value`], whose keys are sorted.
    fn slow(manifest: &Manifest) -> (Vec<u8>, String) {
        let mut value = serde_json::to_value(manifest).unwrap();
        let checksum = checksum_of(&value).unwrap();
        value.as_object_mut().unwrap().insert(CHECKSUM.to_owned(), json!(checksum));
        (to_json(&value).unwrap(), checksum)
    }

    #[test]
    fn what_is_written_at_once_has_the_bytes_of_sorted_values() {
        let tolerated = Tolerated { max_bad_fraction: 0.1, allow_bad_files: 2 };
        let losses = Losses { input: 5, quarantined: 1, bad_files: vec!["n".to_owned()], tolerated };
        for manifest in [manifest(None), manifest(Some(losses))] {
            assert_eq!(manifest.to_bytes().unwrap(), slow(&manifest));
            assert_eq!(manifest.checksum().unwrap(), slow(&manifest).1);
        }
        let identity = Identity { bytes: 1, modified_ns: -2, inode: 3 };
        let file = |blake3| NotedFile { blake3, identity };
        let files = BTreeMap::from([("b".to_owned(), file(None)), ("a".to_owned(), file(Some("00".to_owned())))]);
        let noted = Noted { files, named_files: Some("hash".to_owned()) };
        let units = BTreeMap::from([("v".to_owned(), noted), ("u".to_owned(), Noted::default())]);
        let identities = Identities { manifest: "m".to_owned(), units };
        assert_eq!(ordered_to_json(&identities).unwrap(), to_json(&identities).unwrap());
    }
}
