//! From the SRC arguments to named roots and the shards below them.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use vlmsel_shards::formats::FORMATS;
use vlmsel_shards::formats::reader::{EXAMPLES, Format};
use vlmsel_shards::storage::paths::{self, RealPlaces, real_place, text_of};
use vlmsel_shards::workspace::inputs::{Check, InputFile, expand, unlisted};

use crate::error::{Error, Result};

/// Which data a command reads.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceOptions {
    /// SRC arguments.
    #[serde(deserialize_with = "paths::json::words")]
    pub sources: Vec<OsString>,
    /// `NAME=PATH` arguments.
    #[serde(deserialize_with = "paths::json::words")]
    pub named: Vec<OsString>,
    /// Folder that image paths in JSON records are relative to; the root of the JSON file if not given.
    #[serde(deserialize_with = "paths::json::optional_path")]
    pub image_root: Option<PathBuf>,
    /// The forms that are read.
    #[serde(skip)]
    pub formats: Formats,
}

/// The forms that are read, in the order in which they are asked whether a file is theirs.
#[derive(Debug, Clone, Copy)]
pub struct Formats(pub &'static [&'static dyn Format]);

impl Default for Formats {
    fn default() -> Self {
        Self(FORMATS)
    }
}

impl Formats {
    fn of(self, path: &Path) -> Option<&'static dyn Format> {
        self.0.iter().copied().find(|format| format.recognises(path))
    }

    /// Whether a file found in a folder is data.
    fn accepts(self, path: &Path) -> bool {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        self.of(path).is_some_and(|format| !format.is_bookkeeping(&name))
    }

    /// How names of files end that are read, for a message: `.tar, .jsonl or .json`.
    fn endings(self) -> String {
        let mut endings: Vec<&str> = Vec::new();
        for ending in self.0.iter().flat_map(|format| format.endings()) {
            if !endings.contains(ending) {
                endings.push(ending);
            }
        }
        let last = endings.pop().unwrap_or_default();
        if endings.is_empty() { last.to_owned() } else { format!("{} or {last}", endings.join(", ")) }
    }
}

/// Where the shards of one source lie. Rows hold paths below it, so that data may move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// The source's name.
    pub name: String,
    /// Its folder.
    pub path: PathBuf,
}

/// One file to index: the unit of work.
#[derive(Debug, Clone)]
pub struct ShardFile {
    /// Name of its source.
    pub source: String,
    /// Path below the source's root, with `/`; bytes that are no UTF-8 are escaped.
    pub name: String,
    /// Why it cannot be read, where its name alone says so.
    pub fault: Option<String>,
    /// Where it lies.
    pub path: PathBuf,
    /// How to read it.
    pub format: &'static dyn Format,
    /// The file that belongs to it and is read with it.
    pub sidecar: Option<PathBuf>,
}

impl ShardFile {
    /// Identity of the unit, and the name of the input in the manifest.
    pub fn unit(&self) -> String {
        format!("{}/{}", self.source, self.name)
    }

    /// Name of the input that [`ShardFile::sidecar`] is.
    pub fn sidecar_unit(&self) -> String {
        Path::new(&self.unit()).with_extension("parquet").to_string_lossy().into_owned()
    }
}

/// Samples by source and class.
pub type Classes = BTreeMap<String, BTreeMap<String, u64>>;

/// Files in the folders that look like data and are not read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// How many.
    pub count: u64,
    /// The first few.
    pub first: Vec<String>,
}

/// All roots and shards of a run.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// By name.
    pub roots: Vec<Root>,
    /// By source and name.
    pub shards: Vec<ShardFile>,
    /// What the user named: outputs must not touch it.
    pub guarded: Vec<PathBuf>,
    /// What lies beside and is not read.
    pub skipped: Skipped,
}

impl Sources {
    /// The folder that image paths of a JSON shard are relative to.
    pub fn image_root(&self, shard: &ShardFile, options: &SourceOptions) -> PathBuf {
        let own = || self.roots.iter().find(|root| root.name == shard.source).map(|root| root.path.clone());
        options.image_root.clone().or_else(own).unwrap_or_default()
    }

    /// The manifest's `roots`.
    pub fn to_json(&self, image_root: Option<&Path>, classes: &Classes) -> Value {
        let image_root = image_root.map(text_of);
        let of = |root: &Root| {
            let path = text_of(&root.path);
            json!({ "path": path, "image_root": image_root, "classes": classes.get(&root.name) })
        };
        self.roots.iter().map(|root| (root.name.clone(), of(root))).collect::<serde_json::Map<_, _>>().into()
    }
}

/// Resolves the arguments.
///
/// A folder is its own root; the root of a file is its folder, that of a pattern the folder before its first wildcard. A
/// root is named after its last folder unless `NAME=PATH` says otherwise.
///
/// # Errors
/// Exit 2 for a path that is not there, a file of another kind, or two roots of one name; and those of `check`, which is called
/// often.
pub fn resolve(options: &SourceOptions, check: Check<'_>) -> Result<Sources> {
    let SourceOptions { sources: arguments, named, image_root, formats } = options;
    if let Some(root) = image_root.as_ref().filter(|root| !root.is_dir()) {
        return Err(vlmsel_shards::Error::NotFound { path: root.clone(), hint: " (--image-root)".to_owned() }.into());
    }
    let mut asked = Vec::new();
    asked.extend(unlisted(arguments, check)?.into_iter().map(|argument| (None, argument)));
    for pair in named {
        let (name, path) = split_named(pair)?;
        asked.extend(unlisted(&[path], check)?.into_iter().map(|argument| (Some(name.clone()), argument)));
    }
    if asked.is_empty() {
        return Err(Error::usage("nothing to read: name a tar, a JSONL file, a folder or a pattern"));
    }
    let mut roots: BTreeMap<String, PathBuf> = BTreeMap::new();
    let (mut sources, mut seen, mut places) = (Sources::default(), HashSet::new(), RealPlaces::default());
    for (name, argument) in asked {
        let root = root_of(&argument);
        let passed_over = RefCell::new(BTreeSet::new());
        let accept = |path: &Path| {
            let accepts = formats.accepts(path);
            if !accepts && looks_like_data(path) {
                passed_over.borrow_mut().insert(path.to_path_buf());
            }
            accepts
        };
        let files = expand(std::slice::from_ref(&argument), "file of samples", &accept, check)
            .map_err(|error| with_passed_over(error, &passed_over.borrow()))?;
        let ranks = files.iter().filter_map(|file| formats.of(&file.path)).map(Format::rank);
        let lowest = ranks.min().unwrap_or(0);
        let is_folder = Path::new(&argument).is_dir();
        let name = match name {
            Some(name) => name,
            None => root.file_name().map_or_else(|| "root".to_owned(), |name| text_of(Path::new(name))),
        };
        match roots.get(&name) {
            Some(known) if *known != root => {
                return Err(Error::usage(format!(
                    "two sources are named {name}: {} and {}; tell them apart with --source NAME=PATH",
                    known.display(),
                    root.display()
                )));
            }
            _ => roots.insert(name.clone(), root.clone()),
        };
        if is_folder {
            sources.guarded.push(PathBuf::from(&argument));
        }
        let lost = if is_folder && lowest == 0 { lost_shards(&root, *formats, check)? } else { Vec::new() };
        for (path, table, format) in lost {
            let below = text_of(path.strip_prefix(&root).unwrap_or(&path));
            let (source, sidecar) = (name.clone(), Some(table));
            sources.shards.push(ShardFile { source, name: below, path, format, sidecar, fault: None });
        }
        for file in files {
            let format = formats.of(&file.path).ok_or_else(|| wrong_kind(&file.path, *formats))?;
            if is_folder && format.rank() > lowest {
                if !format.belongs_to_another(&file.path) {
                    passed_over.borrow_mut().insert(file.path.clone());
                }
                continue;
            }
            check()?;
            let real = places.of(&file.path).unwrap_or_else(|| real_place(&file.path));
            let below = if is_folder { file.name.clone() } else { below_root(&real, &root, &file) };
            if !seen.insert(real) {
                continue;
            }
            let sidecar = format.sidecar(&file.path);
            if !is_folder {
                sources.guarded.push(file.path.clone());
            }
            let fault = file.check_name().err().map(|error| error.to_string());
            let source = name.clone();
            sources.shards.push(ShardFile { source, name: below, path: file.path, format, sidecar, fault });
        }
        for path in passed_over.into_inner() {
            sources.skipped.count += 1;
            if sources.skipped.first.len() < EXAMPLES {
                sources.skipped.first.push(text_of(&path));
            }
        }
    }
    sources.roots = roots.into_iter().map(|(name, path)| Root { name, path }).collect();
    sources.shards.sort_by(|a, b| (&a.source, &a.name).cmp(&(&b.source, &b.name)));
    Ok(sources)
}

/// A file's name below its root.
fn below_root(real: &Path, root: &Path, file: &InputFile) -> String {
    real.strip_prefix(root).map_or_else(|_| file.name.clone(), text_of)
}

/// `NAME=PATH`, taken apart.
///
/// # Errors
/// Usage, with an example.
pub(crate) fn split_named(pair: &OsStr) -> Result<(String, OsString)> {
    let shown = text_of(Path::new(pair));
    let bytes = pair.as_bytes();
    let parts = bytes.iter().position(|byte| *byte == b'=').map(|at| (&bytes[..at], &bytes[at + 1..]));
    match parts.map(|(name, path)| (str::from_utf8(name), path)) {
        Some((Ok(name), path)) if !name.is_empty() && !path.is_empty() => {
            if name.contains(['/', '\0']) {
                return Err(Error::usage(format!("--source {shown}: a source's name holds no `/`")));
            }
            Ok((name.to_owned(), OsStr::from_bytes(path).to_owned()))
        }
        _ => Err(Error::usage(format!("--source {shown}: write NAME=PATH, for example laion=/data/laion"))),
    }
}

/// Shards that are not where tables beside them say they were: units that cannot be read, rather than no units.
fn lost_shards(
    folder: &Path,
    formats: Formats,
    check: Check<'_>,
) -> Result<Vec<(PathBuf, PathBuf, &'static dyn Format)>> {
    let is_parquet = |path: &Path| path.extension().is_some_and(|e| e == "parquet");
    let tables = match expand(&[folder.into()], "Parquet file", &is_parquet, check) {
        Ok(tables) => tables,
        Err(vlmsel_shards::Error::Usage(_)) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let lost = |table: InputFile| {
        formats.0.iter().find_map(|format| Some((format.lost_shard(&table.path)?, table.path.clone(), *format)))
    };
    Ok(tables.into_iter().filter_map(lost).collect())
}

/// The real folder that shard names are relative to.
fn root_of(argument: &OsStr) -> PathBuf {
    let path = Path::new(argument);
    let folder = if path.is_dir() {
        path.to_path_buf()
    } else {
        let bytes = argument.as_bytes();
        let wildcard = bytes.iter().position(|byte| b"*?[{".contains(byte)).filter(|_| !path.exists());
        let literal = &bytes[..wildcard.unwrap_or(bytes.len())];
        let cut = literal.iter().rposition(|byte| *byte == b'/').map_or(&b"."[..], |at| &literal[..=at]);
        PathBuf::from(OsStr::from_bytes(cut))
    };
    // A folder that is not there is reported by `expand`, in better words.
    real_place(&folder)
}

/// An error that says there is nothing to read, with what is there and cannot be.
fn with_passed_over(error: vlmsel_shards::Error, passed_over: &BTreeSet<PathBuf>) -> vlmsel_shards::Error {
    match error {
        vlmsel_shards::Error::Usage(text) if !passed_over.is_empty() => {
            let first: Vec<String> = passed_over.iter().take(EXAMPLES).map(|path| text_of(path)).collect();
            let count = passed_over.len();
            vlmsel_shards::Error::Usage(format!(
                "{text}; {count} look like data and are not read: {}",
                first.join(", ")
            ))
        }
        other => other,
    }
}

/// Whether a file that is not read looks as if somebody kept samples in it.
fn looks_like_data(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    COMPRESSED_TARS.iter().chain(&[".zip", ".arrow", ".lance", ".mds", ".tfrecord"]).any(|end| name.ends_with(end))
}

/// Endings of tars that cannot be read by range.
const COMPRESSED_TARS: [&str; 6] = [".tar.gz", ".tgz", ".tar.zst", ".tar.bz2", ".tar.xz", ".tar.lz4"];

fn wrong_kind(path: &Path, formats: Formats) -> Error {
    let name = path.to_string_lossy().to_lowercase();
    let advice = if COMPRESSED_TARS.iter().any(|end| name.ends_with(end)) {
        "a compressed tar has no byte ranges to read samples by; decompress it first".to_owned()
    } else {
        format!("expected {}", formats.endings())
    };
    Error::usage(format!("{}: {advice}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn roots_and_names() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
        for name in ["a/x/0.tar", "a/1.tar", "a/0_stats.json", "a/list.json", "b/0.tar", "c/x/0.tar", "c/r.jsonl"] {
            fs::create_dir_all(Path::new(&at(name)).parent().unwrap()).unwrap();
            fs::write(at(name), "").unwrap();
        }
        let units = |arguments: &[String], named: &[String]| {
            let words = |texts: &[String]| texts.iter().map(OsString::from).collect();
            let (sources, named) = (words(arguments), words(named));
            let options = SourceOptions { sources, named, ..SourceOptions::default() };
            resolve(&options, &|| Ok(()))
                .map(|s| s.shards.iter().map(ShardFile::unit).collect::<Vec<_>>())
                .map_err(|e| e.to_string())
        };
        assert_eq!(units(&[at("a")], &[]).unwrap(), ["a/1.tar", "a/x/0.tar"]);
        assert_eq!(units(&[at("a/*.tar"), at("b/0.tar"), at("b")], &[]).unwrap(), ["a/1.tar", "b/0.tar"]);
        assert_eq!(units(&[at("a/{x/0,1}.tar")], &[]).unwrap(), ["a/1.tar", "a/x/0.tar"]);
        assert_eq!(units(&[at("c/r.jsonl")], &[]).unwrap(), ["c/r.jsonl"]);
        assert!(units(&[at("a/x"), at("c/x")], &[]).unwrap_err().contains("two sources are named x"));
        assert_eq!(units(&[at("a/x")], &[format!("y={}", at("c/x"))]).unwrap(), ["x/0.tar", "y/0.tar"]);
        assert!(units(&[], &["x".to_owned()]).unwrap_err().contains("NAME=PATH"));
        fs::write(at("list"), format!("{}\n", at("b"))).unwrap();
        assert_eq!(units(&[format!("@{}", at("list"))], &[]).unwrap(), ["b/0.tar"]);
        fs::write(at("d.tar.gz"), "").unwrap();
        assert!(units(&[at("d.tar.gz")], &[]).unwrap_err().contains("decompress"));
    }
}
