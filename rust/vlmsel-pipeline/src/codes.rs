//! `codes`: perceptual codes of every image of an index, one part for each of its parts.
//!
//! The output lies beside the index ([`place_beside`]), in the row order of its parts, and grows with it. An index that is made
//! with `image_codes` makes it in the pass that reads the images anyway ([`beside::Ahead`]); what is missing is made here, with the same
//! bytes. Images are compared with the index's hashes as they are read.

pub(crate) mod beside;
pub(crate) mod coder;
mod part;

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use rayon::ThreadPool;
use serde::{Deserialize, Serialize};
use serde_json::json;
use vlmsel_shards::storage::paths;
use vlmsel_shards::tables::codes::{CHANGED, MISSING, UNREADABLE};
use vlmsel_shards::workspace::manifest::{FileRecord, Losses, Manifest, PartRecord};
use vlmsel_shards::workspace::noted::Noted;
use vlmsel_shards::workspace::output::{Output, Summary};

pub use self::beside::place_beside;
use self::beside::{COMMAND, PartFile, index_part_of, reasons_of};
use self::coder::Coder;
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::run_options::RunOptions;
use crate::source_roots::{Roots, read_index_manifest};
use crate::stage::{self, Done, Stage, Unit};

/// Which index, and where its data lie now.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CodesOptions {
    /// The index.
    #[serde(deserialize_with = "paths::json::path")]
    pub index: PathBuf,
    /// The output folder; usually [`place_beside`] the index.
    #[serde(deserialize_with = "paths::json::path")]
    pub output: PathBuf,
    /// `NAME=PATH`: where the data of a source lies now, if it moved since it was indexed.
    #[serde(default, deserialize_with = "paths::json::words")]
    pub named_sources: Vec<OsString>,
    /// Where images of JSON sources lie now.
    #[serde(default, deserialize_with = "paths::json::optional_path")]
    pub image_root: Option<PathBuf>,
    /// Options that every command has.
    #[serde(default)]
    pub run: RunOptions,
}

/// What came of it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct CodesSummary {
    /// The output folder.
    #[serde(serialize_with = "paths::json::as_text")]
    pub output: PathBuf,
    /// Images of the index.
    pub images: u64,
    /// Images that have codes.
    pub ok: u64,
    /// Those that have none, by reason.
    pub reasons: BTreeMap<String, u64>,
    /// Parts, as many as the index has.
    pub parts: u64,
    /// The output was complete before; nothing was touched.
    pub already_finished: bool,
    /// This was a plan; nothing was written. Counts are those of the finished output, if there is one.
    pub dry_run: bool,
}

impl CodesSummary {
    fn of<'a>(output: &Path, parts: impl IntoIterator<Item = &'a PartRecord>) -> Self {
        let mut summary = Self { output: output.to_path_buf(), ..Self::default() };
        for part in parts {
            let count = |name: &str| part.counts.get(name).copied().unwrap_or(0);
            (summary.parts, summary.images) = (summary.parts + 1, summary.images + count("images"));
            summary.ok += count("ok");
            for (reason, count) in reasons_of(part) {
                *summary.reasons.entry(reason).or_default() += count;
            }
        }
        summary
    }
}

/// Makes the codes that are missing.
///
/// # Errors
/// Exit 2 for an index that is none, 3 where too many images cannot be decoded or are not what was indexed (what was made is kept for
/// the next run), 6 for a picture that the memory limit does not allow to decode, and whatever [`Output::begin`] refuses.
pub fn codes(options: &CodesOptions, progress: &Progress) -> Result<CodesSummary> {
    let index = read_index_manifest(&options.index, &|| progress.check())?;
    options.run.tolerance().accept(&options.index, index.losses.as_ref())?;
    let roots = Roots::new(&index.roots, &options.named_sources, options.image_root.as_deref())?;
    if options.run.dry_run {
        let finished = Manifest::read(&options.output)?.map(|manifest| manifest.parts).unwrap_or_default();
        return Ok(CodesSummary { dry_run: true, ..CodesSummary::of(&options.output, &finished) });
    }
    let mut guarded = vec![options.index.clone()];
    let mut units = Vec::new();
    let mut tables = HashMap::new();
    for part in &index.parts {
        if let Some((source, below)) = part.unit.split_once('/') {
            guarded.extend(roots.shard(source, below).ok());
        }
        tables.insert(part.unit.as_str(), table_of(&options.index, part)?);
        let (command, name) = (COMMAND.to_owned(), part.unit.clone());
        units.push(Unit { command, name, inputs: vec![part.unit.clone()], range: None });
    }
    let spec = beside::spec(&options.output, &index.config, index.inputs.clone(), guarded, options.run.overwrite);
    let pool = options.run.pool()?;
    let coder = Coder::new(options.run.memory_limit);
    progress.restart();
    progress.expect(0, index.inputs.iter().map(|input| input.bytes).sum());
    let coding = Coding { options, roots: &roots, tables, coder, pool: &pool, progress };
    let ended = stage::run(&coding, spec, &units, pool.current_num_threads())?;
    let summary = CodesSummary::of(&options.output, &ended.manifest.parts);
    Ok(CodesSummary { already_finished: ended.already_finished, ..summary })
}

/// The table of an index part.
fn table_of<'a>(index: &Path, part: &'a PartRecord) -> Result<&'a FileRecord> {
    let is_table = |file: &&FileRecord| Path::new(&file.file).extension().is_some_and(|e| e == "parquet");
    let table = part.files.iter().find(is_table);
    Ok(table.ok_or_else(|| vlmsel_shards::Error::unreadable(index, format!("{} has no table", part.unit)))?)
}

/// What all parts share.
struct Coding<'a> {
    options: &'a CodesOptions,
    roots: &'a Roots,
    /// The index's tables, by unit.
    tables: HashMap<&'a str, &'a FileRecord>,
    coder: Coder,
    pool: &'a ThreadPool,
    progress: &'a Progress,
}

impl Coding<'_> {
    fn table(&self, unit: &Unit) -> Result<&FileRecord> {
        let found = self.tables.get(unit.name.as_str()).copied();
        found.ok_or_else(|| Error::Bug(format!("the index has no part {}", unit.name)))
    }

    fn judge<'a>(&self, parts: impl IntoIterator<Item = &'a PartRecord>) -> Result<CodesSummary> {
        let summary = CodesSummary::of(&self.options.output, parts);
        let bad: u64 = summary.reasons.values().sum();
        let reasons: Vec<String> = summary.reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        let reasons = format!("no codes can be made of their images: {}", reasons.join(", "));
        self.options.run.tolerance().judge(summary.images, bad, &[], &reasons)?;
        if summary.images != summary.ok + bad {
            return Err(Error::Bug(format!("{} images, {} with codes and {bad} without", summary.images, summary.ok)));
        }
        Ok(summary)
    }
}

impl Stage for Coding<'_> {
    fn accept(&self, standing: &Manifest) -> Result<()> {
        self.judge(&standing.parts).map(drop)
    }

    /// Made of this very index part, and of images that could be read then: what the file system refused is tried again.
    fn is_current(&self, unit: &Unit, part: &PartRecord, _noted: Option<&Noted>) -> Result<bool> {
        let reasons = reasons_of(part);
        let may_be_mended = [CHANGED, MISSING, UNREADABLE].iter().any(|reason| reasons.contains_key(*reason));
        Ok(!may_be_mended && index_part_of(part) == Some(self.table(unit)?.blake3.as_str()))
    }

    fn changed(&self, unit: &Unit) -> Error {
        let text = format!(
            "the images of {} are no longer those that {} was made of; make it again with --overwrite",
            unit.name,
            self.options.output.display()
        );
        vlmsel_shards::Error::Mismatch(text).into()
    }

    fn work(&self, unit: &Unit, output: &Output) -> Result<Done> {
        self.progress.check()?;
        let table = self.table(unit)?;
        let mut file = PartFile::create(output, &table.file)?;
        part::fill(self, &unit.name, &self.options.index.join(&table.file), &mut file)?;
        file.finish(&table.blake3)
    }

    fn conclude(&self, _done: u64, output: &Output) -> Result<Summary> {
        let summary = self.judge(output.committed().values())?;
        let bad = summary.images - summary.ok;
        let mut counts = BTreeMap::from([("images".to_owned(), summary.images), ("ok".to_owned(), summary.ok)]);
        counts.extend(summary.reasons.into_iter().map(|(reason, count)| (format!("reason.{reason}"), count)));
        let tolerated = self.options.run.tolerance().tolerated;
        let losses = Losses::of(summary.images, bad, Vec::new(), tolerated);
        Ok(Summary { counts, roots: json!({}), provenance: json!({}), run: json!({}), losses })
    }
}
