//! The output that codes go to, beside the index: what it is known by, and what a part of it is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use vlmsel_core::image_code::{HASH_NAME, HASH_VERSION};
use vlmsel_shards::tables::codes::{CodeRow, CodesWriter};
use vlmsel_shards::workspace::manifest::{InputRecord, PartRecord};
use vlmsel_shards::workspace::output::{Opening, Output, OutputSpec};

use crate::error::{Error, Result};
use crate::stage::Done;

/// As users call it: no command does nothing else.
pub(super) const COMMAND: &str = "index --image-codes";
/// The fact of a part that says which index part it was made of.
const INDEX_PART: &str = "index_part";

/// Where the codes of an index lie: `codes` beside `index`, `NAME-codes` beside an index of another name.
pub fn place_beside(index: &Path) -> PathBuf {
    match index.file_name() {
        Some(name) if name != "index" => {
            let mut name = name.to_owned();
            name.push("-codes");
            index.with_file_name(name)
        }
        Some(_) => index.with_file_name("codes"),
        // A path that ends in `..`, or is `/`.
        None => index.join("codes"),
    }
}

/// The output's specification. Its inputs are those of the index, so that it is known before the index is made; which index
/// part a part was made of stands in its facts.
pub(super) fn spec(
    path: &Path,
    index_config: &Value,
    inputs: Vec<InputRecord>,
    guarded: Vec<PathBuf>,
    overwrite: bool,
) -> OutputSpec {
    OutputSpec {
        path: path.to_path_buf(),
        command: COMMAND.to_owned(),
        config: json!({ "hash": HASH_NAME, "hash_version": HASH_VERSION, "index": index_config }),
        inputs,
        guarded,
        overwrite,
        extend: true,
        resume: true,
    }
}

/// The index part that this part was made of, by its BLAKE3.
pub(super) fn index_part_of(part: &PartRecord) -> Option<&str> {
    part.detail.get(INDEX_PART).and_then(Value::as_str)
}

/// Images without codes, by reason.
pub(super) fn reasons_of(part: &PartRecord) -> BTreeMap<String, u64> {
    let reasons = part.detail.get("reasons").and_then(Value::as_object);
    let count = |(reason, count): (&String, &Value)| (reason.clone(), count.as_u64().unwrap_or(0));
    reasons.into_iter().flatten().map(count).collect()
}

/// A part being written.
pub(crate) struct PartFile {
    table: CodesWriter,
    name: String,
    images: u64,
    reasons: BTreeMap<&'static str, u64>,
}

impl PartFile {
    /// `name` is that of the index part's table.
    pub fn create(output: &Output, name: &str) -> Result<Self> {
        let table = CodesWriter::create(&output.temporary(name)?)?;
        Ok(Self { table, name: name.to_owned(), images: 0, reasons: BTreeMap::new() })
    }

    /// Adds a row.
    pub fn push(&mut self, row: CodeRow) -> Result<()> {
        self.images += 1;
        if let Err(reason) = row.coded {
            *self.reasons.entry(reason).or_default() += 1;
        }
        Ok(self.table.push(row)?)
    }

    /// Ends it; `index_part` is the BLAKE3 of the table that it was made of.
    pub fn finish(self, index_part: &str) -> Result<Done> {
        let hash = self.table.finish()?;
        let bad: u64 = self.reasons.values().sum();
        let counts = [("images", self.images), ("ok", self.images - bad)];
        Ok(Done {
            files: vec![(self.name, Some(hash))],
            rows: self.images,
            counts: counts.into_iter().map(|(name, count)| (name.to_owned(), count)).collect(),
            detail: json!({ INDEX_PART: index_part, "reasons": self.reasons }),
            noted: None,
        })
    }
}

/// Codes that are made while an index is: parts are committed as they come. Whoever publishes the output finds them there, and makes
/// what is missing.
#[derive(Debug)]
pub(crate) struct Ahead {
    output: Option<Box<Output>>,
}

impl Ahead {
    /// Opens the output beside the index.
    ///
    /// # Errors
    /// Those of [`Output::begin`], before anything of the index is done.
    pub fn begin(
        index: &Path,
        index_config: &Value,
        inputs: &[InputRecord],
        mut guarded: Vec<PathBuf>,
        overwrite: bool,
    ) -> Result<Self> {
        guarded.push(index.to_path_buf());
        let spec = spec(&place_beside(index), index_config, inputs.to_vec(), guarded, overwrite);
        Ok(match Output::begin(spec)? {
            Opening::Finished(_) => Self { output: None },
            Opening::Open(output) => Self { output: Some(output) },
        })
    }

    /// A new part for the unit, unless there is one.
    pub fn part(&self, unit: &str, name: &str) -> Result<Option<PartFile>> {
        match &self.output {
            Some(output) if !output.is_committed(unit) => PartFile::create(output, name).map(Some),
            _ => Ok(None),
        }
    }

    /// Ends a part and commits it; `hash` is the BLAKE3 of the index part's table.
    pub fn commit(&self, unit: &str, part: PartFile, hash: blake3::Hash, took: Duration) -> Result<()> {
        let output = self.output.as_ref().ok_or_else(|| Error::Bug("codes without an output".to_owned()))?;
        let done = part.finish(hash.to_hex().as_str())?;
        let files: Vec<_> = done.files.iter().map(|(name, hash)| (name.as_str(), *hash)).collect();
        Ok(output.commit_soon(unit, &files, done.rows, done.counts, done.detail, None, took)?)
    }

    /// Makes durable what was committed, and lets go of the output.
    ///
    /// # Errors
    /// The file system's.
    pub fn end(self) -> Result<()> {
        Ok(self.output.map_or(Ok(()), |output| output.flush())?)
    }
}
