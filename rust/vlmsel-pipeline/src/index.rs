//! `index`: where every sample's bytes lie and what they hold, one part per shard.

mod part;
mod sameness;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use rayon::ThreadPool;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use vlmsel_shards::formats::reader::{READER_VERSION, ReadOptions};
use vlmsel_shards::formats::sample::SampleClass;
use vlmsel_shards::storage::paths;
use vlmsel_shards::workspace::fingerprint::fingerprint;
use vlmsel_shards::workspace::manifest::{InputRecord, Losses, Manifest, PartRecord};
use vlmsel_shards::workspace::noted::Noted;
use vlmsel_shards::workspace::output::{Output, OutputSpec, Summary};

use crate::codes::beside::Ahead;
use crate::codes::coder::Coder;
use crate::codes::{CodesOptions, CodesSummary, codes, place_beside};
use crate::error::{Error, Result};
use crate::finding::Finding;
use crate::progress::Progress;
use crate::run_options::RunOptions;
use crate::sources::{Classes, ShardFile, Skipped, SourceOptions, Sources, resolve};
use crate::stage::{self, Done, Stage, Unit};

/// What to index, and how.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexOptions {
    /// The data.
    pub data: SourceOptions,
    /// How to read it.
    #[serde(default)]
    pub read: ReadOptions,
    /// The output folder.
    #[serde(deserialize_with = "paths::json::path")]
    pub output: PathBuf,
    /// Also make codes of the images, beside the index ([`place_beside`](crate::codes::place_beside)).
    #[serde(default)]
    pub image_codes: bool,
    /// Options that every command has.
    #[serde(default)]
    pub run: RunOptions,
}

/// What came of it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct IndexSummary {
    /// The output folder.
    #[serde(serialize_with = "paths::json::as_text")]
    pub output: PathBuf,
    /// Records seen.
    pub input: u64,
    /// Records indexed.
    pub ok: u64,
    /// Records put aside.
    pub quarantined: u64,
    /// The same by reason.
    pub reasons: BTreeMap<String, u64>,
    /// Of the records indexed, those whose picture or other medium is of a kind that is not read.
    pub unsupported: u64,
    /// Samples by source and class.
    pub classes: Classes,
    /// What a user should know, by kind: how often, and where for the first few.
    pub notes: BTreeMap<String, Finding>,
    /// Files that look like data and are not read.
    pub skipped: Skipped,
    /// Of the quarantined, those that went with the damage of a file.
    #[serde(skip)]
    pub lost_with_files: u64,
    /// Shards in the index.
    pub shards: u64,
    /// Shards that this run read.
    pub shards_read: u64,
    /// Bytes of all shards.
    pub bytes: u64,
    /// Files that could not be read to their end, and why.
    pub damaged: Vec<String>,
    /// What came of the codes of images, where they were asked for.
    pub image_codes: Option<CodesSummary>,
    /// The output was complete before; nothing was touched.
    pub already_finished: bool,
    /// This was a plan; nothing was written.
    pub dry_run: bool,
}

/// Runs the command.
///
/// # Errors
/// Exit 3 where too much cannot be read (what was read is kept for the next run), 7 where inputs changed, and whatever
/// [`Output::begin`] refuses.
pub fn index(options: &IndexOptions, progress: &Progress) -> Result<IndexSummary> {
    let sources = resolve(&options.data, &|| progress.check())?;
    let image_root =
        options.data.image_root.as_ref().map(|path| std::fs::canonicalize(path).unwrap_or_else(|_| path.clone()));
    let pool = options.run.pool()?;
    // Before anything of a file is read: what changes from here on will show.
    let noted: HashMap<String, Noted> =
        pool.install(|| sources.shards.par_iter().map(|shard| (shard.unit(), sameness::noted(shard))).collect());
    let inputs = pool.install(|| fingerprints(&sources, progress))?;
    let bytes: u64 = inputs.iter().map(|input| input.bytes).sum();
    progress.expect(0, bytes);
    if options.run.dry_run {
        let shards = sources.shards.len() as u64;
        let output = options.output.clone();
        let skipped = sources.skipped.clone();
        return Ok(IndexSummary { output, shards, bytes, skipped, dry_run: true, ..IndexSummary::default() });
    }
    let spec = OutputSpec {
        path: options.output.clone(),
        command: "index".to_owned(),
        config: config(&options.read),
        inputs,
        guarded: sources.guarded.clone(),
        overwrite: options.run.overwrite,
        extend: true,
        resume: true,
    };
    let ahead = options.image_codes.then(|| {
        let (config, overwrite) = (&spec.config, options.run.overwrite);
        Ahead::begin(&options.output, config, &spec.inputs, sources.guarded.clone(), overwrite)
    });
    let shards = sources.shards.iter().map(|shard| (shard.unit(), shard)).collect();
    let indexing = Indexing {
        sources: &sources,
        shards,
        options,
        image_root: image_root.as_deref(),
        noted,
        progress,
        pool: &pool,
        ahead: ahead.transpose()?,
        coder: Coder::new(options.run.memory_limit),
    };
    let ended = stage::run(&indexing, spec, &units(&sources), pool.current_num_threads());
    // Codes that were made are kept, also where the run ends here.
    let kept = indexing.ahead.map_or(Ok(()), Ahead::end);
    let ended = ended?;
    kept?;
    let mut summary = summarise(options, &ended.manifest.parts);
    (summary.shards_read, summary.already_finished) = (ended.done, ended.already_finished);
    summary.skipped.clone_from(&sources.skipped);
    summary.bytes =
        if ended.already_finished { ended.manifest.inputs.iter().map(|input| input.bytes).sum() } else { bytes };
    if options.image_codes {
        // Those of parts that were there before, and the output as a whole.
        summary.image_codes = Some(codes(&of_images(options), progress)?);
    }
    Ok(summary)
}

/// How codes of the images are made.
fn of_images(options: &IndexOptions) -> CodesOptions {
    CodesOptions {
        index: options.output.clone(),
        output: place_beside(&options.output),
        named_sources: Vec::new(),
        image_root: None,
        run: options.run.clone(),
    }
}

/// What decides the content, beside the inputs.
fn config(read: &ReadOptions) -> Value {
    let ReadOptions { id_column, caption_column, key_until } = read;
    json!({
        "id_column": id_column,
        "caption_column": caption_column,
        "key_until": key_until,
        "reader_version": READER_VERSION,
    })
}

/// One unit for each shard.
fn units(sources: &Sources) -> Vec<Unit> {
    let unit = |shard: &ShardFile| {
        let sidecar = shard.sidecar.is_some().then(|| shard.sidecar_unit());
        let inputs = std::iter::once(shard.unit()).chain(sidecar).collect();
        Unit { command: "index".to_owned(), name: shard.unit(), inputs, range: None }
    };
    sources.shards.iter().map(unit).collect()
}

/// What all units share.
struct Indexing<'a> {
    sources: &'a Sources,
    shards: HashMap<String, &'a ShardFile>,
    options: &'a IndexOptions,
    image_root: Option<&'a Path>,
    /// What the file system said of each unit's files before they were read.
    noted: HashMap<String, Noted>,
    progress: &'a Progress,
    pool: &'a ThreadPool,
    /// Codes of the images, where they are asked for.
    ahead: Option<Ahead>,
    coder: Coder,
}

impl Indexing<'_> {
    fn shard(&self, unit: &Unit) -> Result<&ShardFile> {
        let found = self.shards.get(&unit.name).copied();
        found.ok_or_else(|| Error::Bug(format!("there is no shard {}", unit.name)))
    }

    fn noted(&self, unit: &Unit) -> Noted {
        self.noted.get(&unit.name).cloned().unwrap_or_default()
    }

    fn image_root_of(&self, shard: &ShardFile) -> PathBuf {
        self.sources.image_root(shard, &self.options.data)
    }

    fn judge<'a>(&self, parts: impl IntoIterator<Item = &'a PartRecord>) -> Result<IndexSummary> {
        let summary = summarise(self.options, parts);
        let tolerance = self.options.run.tolerance();
        let mut reasons: Vec<String> =
            summary.reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        if summary.unsupported > 0 {
            reasons.push(format!("{} of kinds that are not read", summary.unsupported));
        }
        // What is lost with a damaged file is judged with the file.
        let bad = summary.quarantined - summary.lost_with_files + summary.unsupported;
        if tolerance.exceeded(summary.input, bad, 0).is_some() {
            self.refuse_a_wrong_root(&summary)?;
        }
        tolerance.judge(summary.input, bad, &summary.damaged, &reasons.join(", "))?;
        if let (true, Some(note)) = (tolerance.strict, summary.notes.get("no_end_marker")) {
            return Err(Error::Strict(format!(
                "{} tar(s) without an end marker, which may have been cut short ({}); without --strict this is a warning",
                note.count,
                note.examples.join("; ")
            )));
        }
        if summary.input != summary.ok + summary.quarantined {
            return Err(Error::Bug(format!(
                "{} records in, {} indexed and {} put aside",
                summary.input, summary.ok, summary.quarantined
            )));
        }
        Ok(summary)
    }
}

impl Indexing<'_> {
    /// Where not one image is found below the root, it is another root that is wanted, not more tolerance.
    fn refuse_a_wrong_root(&self, summary: &IndexSummary) -> Result<()> {
        let missing = summary.reasons.get("missing_image").copied().unwrap_or(0);
        let found = summary.classes.values().flatten().any(|(class, count)| class != "text-only" && *count > 0);
        if missing == 0 || found {
            return Ok(());
        }
        let names_files = |shard: &&ShardFile| shard.format.names_files();
        let root = self.sources.shards.iter().find(names_files).map(|shard| self.image_root_of(shard));
        Err(Error::TooMuchUnreadable(format!(
            "none of the images that {missing} records name is below {}; say with --image-root which folder their paths begin in",
            root.unwrap_or_default().display()
        )))
    }
}

impl Stage for Indexing<'_> {
    fn accept(&self, standing: &Manifest) -> Result<()> {
        self.judge(&standing.parts).map(drop)
    }

    /// Whether a part may be taken for what its files would give now.
    fn is_current(&self, unit: &Unit, part: &PartRecord, before: Option<&Noted>) -> Result<bool> {
        let shard = self.shard(unit)?;
        refuse_other_files(shard, part, self.image_root)?;
        self.progress.check()?;
        // What could not be read is tried again.
        if is_damaged(part) || before.is_none_or(|before| before.files != self.noted(unit).files) {
            return Ok(false);
        }
        if !shard.format.names_files() {
            return Ok(true);
        }
        let (root, read) = (self.image_root_of(shard), &self.options.read);
        let now = sameness::named_files(shard, &root, read, self.pool, self.progress)?;
        Ok(now.is_some() && before.is_some_and(|before| before.named_files == now))
    }

    fn changed(&self, unit: &Unit) -> Error {
        self.shard(unit).map_or_else(|error| error, |shard| sameness::changed(shard).into())
    }

    fn work(&self, unit: &Unit, output: &Output) -> Result<Done> {
        part::make(self, self.shard(unit)?, self.noted(unit), output)
    }

    fn conclude(&self, done: u64, output: &Output) -> Result<Summary> {
        let parts = output.committed();
        let summary = self.judge(parts.values())?;
        let mut counts: BTreeMap<String, u64> =
            SampleClass::ALL.iter().map(|class| (format!("class.{}", class.name()), 0)).collect();
        for (class, count) in summary.classes.values().flatten() {
            *counts.entry(format!("class.{class}")).or_default() += count;
        }
        let main = [("input", summary.input), ("ok", summary.ok), ("quarantined", summary.quarantined)];
        counts.extend(main.map(|(name, count)| (name.to_owned(), count)));
        let bad_files = parts.values().filter(|part| is_damaged(part)).map(|part| part.unit.clone()).collect();
        let tolerated = self.options.run.tolerance().tolerated;
        Ok(Summary {
            counts,
            roots: self.sources.to_json(self.image_root, &summary.classes),
            provenance: json!({}),
            run: json!({ "shards_read": done }),
            losses: Losses::of(summary.input, summary.quarantined - summary.lost_with_files, bad_files, tolerated),
        })
    }
}

fn is_damaged(part: &PartRecord) -> bool {
    part.detail.get("damage").is_some_and(|damage| !damage.is_null())
}

/// Fingerprints of all shards and their Parquet files.
pub(crate) fn fingerprints(sources: &Sources, progress: &Progress) -> Result<Vec<InputRecord>> {
    let all: Vec<(PathBuf, String)> = sources
        .shards
        .iter()
        .flat_map(|shard| {
            let sidecar = shard.sidecar.iter().map(|path| (path.clone(), shard.sidecar_unit()));
            std::iter::once((shard.path.clone(), shard.unit())).chain(sidecar).collect::<Vec<_>>()
        })
        .collect();
    let records: Result<Vec<InputRecord>> = all
        .par_iter()
        .map(|(path, name)| {
            progress.check()?;
            match fingerprint(path, name) {
                Ok(record) => Ok(record),
                // The unit itself reports it, and `--allow-bad-files` decides.
                Err(error) if error.is_of_file() => {
                    Ok(InputRecord { name: name.clone(), bytes: 0, fingerprint: "unreadable".to_owned() })
                }
                Err(error) => Err(error.into()),
            }
        })
        .collect();
    records
}

/// A part made without the Parquet file that now lies beside its tar, or with the images of another root, is a mismatch.
fn refuse_other_files(shard: &ShardFile, part: &PartRecord, image_root: Option<&Path>) -> Result<()> {
    let had = part.detail.get("sidecar").and_then(Value::as_bool).unwrap_or(false);
    if had != shard.sidecar.is_some() {
        return Err(vlmsel_shards::Error::Mismatch(format!(
            "{} was indexed {} the Parquet file beside it; index into another folder with -o, or again with --overwrite",
            shard.path.display(),
            if had { "with" } else { "without" }
        ))
        .into());
    }
    let root = root_text(image_root);
    if let Some(before) = part.detail.get("image_root").filter(|_| shard.format.names_files())
        && *before != json!(root)
    {
        let shown = |root: &Value| root.as_str().map_or_else(|| "none".to_owned(), ToOwned::to_owned);
        return Err(vlmsel_shards::Error::Mismatch(format!(
            "{} was indexed with --image-root {}, not {}; if the images moved, `shard` takes --image-root, else index into another folder with -o, or again with --overwrite",
            shard.path.display(),
            shown(before),
            shown(&json!(root))
        ))
        .into());
    }
    Ok(())
}

fn root_text(image_root: Option<&Path>) -> Option<String> {
    image_root.map(paths::text_of)
}

/// Adds up what the parts say.
fn summarise<'a>(options: &IndexOptions, parts: impl IntoIterator<Item = &'a PartRecord>) -> IndexSummary {
    let mut summary = IndexSummary { output: options.output.clone(), ..IndexSummary::default() };
    for part in parts {
        summary.shards += 1;
        let count = |name: &str| part.counts.get(name).copied().unwrap_or(0);
        summary.input += count("input");
        summary.ok += count("ok");
        summary.quarantined += count("quarantined");
        if let Some(reasons) = part.detail.get("reasons").and_then(Value::as_object) {
            for (reason, n) in reasons {
                *summary.reasons.entry(reason.clone()).or_default() += n.as_u64().unwrap_or(0);
            }
        }
        if let Some(Value::Object(classes)) = part.detail.get("classes") {
            let source = part.unit.split('/').next().unwrap_or_default().to_owned();
            let of_source = summary.classes.entry(source).or_default();
            for (class, n) in classes {
                *of_source.entry(class.clone()).or_default() += n.as_u64().unwrap_or(0);
            }
            summary.unsupported += classes.get(SampleClass::Unsupported.name()).and_then(Value::as_u64).unwrap_or(0);
        }
        if let Some(notes) = part.detail.get("notes") {
            // Written by us; what cannot be read says nothing.
            let notes: BTreeMap<String, Finding> = serde_json::from_value(notes.clone()).unwrap_or_default();
            for (kind, note) in notes {
                summary.notes.entry(kind).or_default().merge(note);
            }
        }
        if is_damaged(part) {
            summary.lost_with_files += part.detail.get("lost_with_file").and_then(Value::as_u64).unwrap_or(0);
        }
        if let Some(damage) = part.detail.get("damage").and_then(Value::as_str) {
            summary.damaged.push(format!("{}: {damage}", part.unit));
        }
    }
    summary
}
