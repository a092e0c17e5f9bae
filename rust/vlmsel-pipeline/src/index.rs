//! `index`: where every sample's bytes lie and what they hold, one part per shard.

mod json_shard;
mod sameness;
mod tar_shard;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use rayon::ThreadPool;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use vlmsel_shards::error::IoContext;
use vlmsel_shards::storage::paths;
use vlmsel_shards::tables::index::IndexTableWriter;
use vlmsel_shards::workspace::fingerprint::fingerprint;
use vlmsel_shards::workspace::manifest::{InputRecord, Losses, PartRecord};
use vlmsel_shards::workspace::noted::Noted;
use vlmsel_shards::workspace::output::{Finished, Opening, Output, OutputSpec, Summary};
use vlmsel_shards::workspace::quarantine::{Quarantined, to_json_lines};

use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::run_options::RunOptions;
use crate::sources::{Kind, ShardFile, SourceOptions, Sources, resolve};

/// What to index, and how.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexOptions {
    /// The data.
    pub data: SourceOptions,
    /// JSON field (or img2dataset column) that holds an id of 32 hexadecimal characters.
    #[serde(default)]
    pub id_column: Option<String>,
    /// The output folder.
    #[serde(deserialize_with = "paths::json::path")]
    pub output: PathBuf,
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
    /// Shards in the index.
    pub shards: u64,
    /// Shards that this run read.
    pub shards_read: u64,
    /// Bytes of all shards.
    pub bytes: u64,
    /// Files that could not be read to their end, and why.
    pub damaged: Vec<String>,
    /// The output was complete before; nothing was touched.
    pub already_finished: bool,
    /// This was a plan; nothing was written.
    pub dry_run: bool,
}

/// Collects what one shard gives.
struct Unit<'a> {
    shard: &'a ShardFile,
    options: &'a IndexOptions,
    progress: &'a Progress,
    table: IndexTableWriter<BufWriter<File>>,
    quarantined: Vec<Quarantined>,
    reasons: BTreeMap<String, u64>,
    bad: u64,
    rows: u64,
    damage: Option<String>,
    detail: serde_json::Map<String, Value>,
}

impl Unit<'_> {
    fn push(&mut self, row: vlmsel_shards::tables::index::IndexRow) -> vlmsel_shards::Result<()> {
        self.rows += 1;
        self.progress.add(1, 0)?;
        self.table.push(row)
    }

    fn quarantine(&mut self, record: Quarantined) -> Result<()> {
        self.options.run.refuse(&record)?;
        self.bad += 1;
        *self.reasons.entry(record.reason.clone()).or_default() += 1;
        if self.quarantined.len() < vlmsel_shards::workspace::quarantine::LISTED {
            self.quarantined.push(record);
        }
        Ok(())
    }
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
        return Ok(IndexSummary {
            output: options.output.clone(),
            shards,
            bytes,
            dry_run: true,
            ..IndexSummary::default()
        });
    }
    let spec = OutputSpec {
        path: options.output.clone(),
        command: "index".to_owned(),
        config: json!({ "id_column": options.id_column }),
        inputs,
        guarded: sources.guarded.clone(),
        overwrite: options.run.overwrite,
        extend: true,
        resume: true,
    };
    let work =
        Work { sources: &sources, options, image_root: image_root.as_deref(), noted: &noted, progress, pool: &pool };
    let output = match Output::begin(spec)? {
        Opening::Finished(finished) => return stand(&work, *finished),
        Opening::Open(output) => output,
    };
    let mut todo = Vec::new();
    for shard in &sources.shards {
        let unit = shard.unit();
        match output.committed().get(&unit) {
            None => todo.push((shard, Purpose::Commit)),
            Some(part) => {
                refuse_other_files(shard, part, image_root.as_deref())?;
                if work.is_same(shard, part, output.noted(&unit).as_ref())? {
                    continue;
                }
                // What stands in a finished index is not changed unasked.
                let stands = output.standing().is_some_and(|standing| standing.parts.contains(part));
                if stands && !options.run.overwrite {
                    todo.push((shard, Purpose::Compare));
                } else {
                    output.forget(&unit)?;
                    todo.push((shard, Purpose::Commit));
                }
            }
        }
    }
    work.each(&output, &todo)?;

    let parts: Vec<PartRecord> = output.committed().into_values().collect();
    let mut summary = summarise(options, &parts, todo.len() as u64, false);
    summary.bytes = bytes;
    let summary = judge(options, summary)?;
    let counts = [("input", summary.input), ("ok", summary.ok), ("quarantined", summary.quarantined)];
    let bad_files = parts.iter().filter(|part| is_damaged(part)).map(|part| part.unit.clone()).collect();
    output.finish(Summary {
        counts: counts.into_iter().map(|(name, count)| (name.to_owned(), count)).collect(),
        roots: sources.to_json(image_root.as_deref()),
        provenance: json!({}),
        run: json!({ "shards_read": summary.shards_read }),
        losses: Losses::of(summary.input, summary.quarantined, bad_files, options.run.tolerance().tolerated),
    })?;
    Ok(summary)
}

/// What a unit is done for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// To be part of the output.
    Commit,
    /// To see whether what stands is still what its files give.
    Compare,
}

/// A finished index of the same inputs, by their fingerprints: units whose files may have changed all the same are done again
/// and compared.
fn stand(work: &Work<'_>, finished: Finished) -> Result<IndexSummary> {
    let mut doubtful = Vec::new();
    for shard in &work.sources.shards {
        let unit = shard.unit();
        let Some(part) = finished.manifest().parts.iter().find(|part| part.unit == unit) else { continue };
        refuse_other_files(shard, part, work.image_root)?;
        if !work.is_same(shard, part, finished.noted(&unit))? {
            doubtful.push((shard, Purpose::Compare));
        }
    }
    let mut summary = summarise(work.options, &finished.manifest().parts, 0, true);
    summary.bytes = finished.manifest().inputs.iter().map(|input| input.bytes).sum();
    let summary = judge(work.options, summary)?;
    if !doubtful.is_empty() {
        let output = finished.again()?;
        work.each(&output, &doubtful)?;
        output.stands()?;
    }
    Ok(summary)
}

fn is_damaged(part: &PartRecord) -> bool {
    part.detail.get("damage").is_some_and(|damage| !damage.is_null())
}

fn judge(options: &IndexOptions, summary: IndexSummary) -> Result<IndexSummary> {
    let reasons: Vec<String> = summary.reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    options.run.judge(summary.input, summary.quarantined, &summary.damaged, &reasons.join(", "))?;
    if summary.input != summary.ok + summary.quarantined {
        return Err(Error::Bug(format!(
            "{} records in, {} indexed and {} put aside",
            summary.input, summary.ok, summary.quarantined
        )));
    }
    Ok(summary)
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
    if let (Kind::Json, Some(before)) = (shard.kind, part.detail.get("image_root"))
        && *before != json!(root)
    {
        let shown = |root: &Value| root.as_str().map_or_else(|| "none".to_owned(), ToOwned::to_owned);
        return Err(vlmsel_shards::Error::Mismatch(format!(
            "{} was indexed with --image-root {}, not {}; if the images moved, tell `score` and `shard` with --image-root, else index into another folder with -o, or again with --overwrite",
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

/// The part's file name: readable, unique, and short whatever the shard is called.
fn part_name(unit: &str) -> String {
    let plain: String =
        unit.chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_') { c } else { '-' }).collect();
    let tail: String = plain.chars().rev().take(80).collect::<Vec<_>>().into_iter().rev().collect();
    let hash = vlmsel_core::hash::to_hex(&vlmsel_core::hash::image_hash(unit.as_bytes()));
    format!("{}-{}", tail.trim_start_matches(['.', '_', '-']), &hash[..8])
}

/// What all units share.
struct Work<'a> {
    sources: &'a Sources,
    options: &'a IndexOptions,
    image_root: Option<&'a Path>,
    /// What the file system said of each unit's files before they were read.
    noted: &'a HashMap<String, Noted>,
    progress: &'a Progress,
    pool: &'a ThreadPool,
}

impl Work<'_> {
    fn noted(&self, shard: &ShardFile) -> Noted {
        self.noted.get(&shard.unit()).cloned().unwrap_or_default()
    }

    /// Whether a part may be taken for what its files would give now.
    fn is_same(&self, shard: &ShardFile, part: &PartRecord, before: Option<&Noted>) -> Result<bool> {
        self.progress.check()?;
        // What could not be read is tried again.
        if is_damaged(part) || before.is_none_or(|before| before.files != self.noted(shard).files) {
            return Ok(false);
        }
        match shard.kind {
            Kind::Tar => Ok(true),
            Kind::Json => {
                let root = self.sources.image_root(shard, &self.options.data);
                let now =
                    json_shard::named_files(shard, &root, self.options.id_column.as_deref(), self.pool, self.progress)?;
                Ok(now.is_some() && before.is_some_and(|before| before.named_files == now))
            }
        }
    }

    fn each(&self, output: &Output, todo: &[(&ShardFile, Purpose)]) -> Result<()> {
        RunOptions::each(self.pool.current_num_threads(), todo, |_, (shard, purpose)| {
            index_shard(shard, self, output, *purpose)
        })
    }
}

fn index_shard(shard: &ShardFile, work: &Work<'_>, output: &Output, purpose: Purpose) -> Result<()> {
    let &Work { sources, options, image_root, progress, pool, .. } = work;
    progress.check()?;
    let name = part_name(&shard.unit());
    let (table_name, quarantine_name) = (format!("{name}.parquet"), format!("{name}.quarantine.jsonl"));
    let path = output.temporary(&table_name)?;
    let file = File::create(&path).at("create", &path)?;
    let table = IndexTableWriter::new(BufWriter::with_capacity(1 << 18, file), &shard.source, &shard.name)?;
    let mut unit = Unit {
        shard,
        options,
        progress,
        table,
        quarantined: Vec::new(),
        reasons: BTreeMap::new(),
        bad: 0,
        rows: 0,
        damage: None,
        detail: serde_json::Map::new(),
    };
    let mut noted = work.noted(shard);
    match (&shard.fault, shard.kind) {
        (Some(fault), _) => unit.damage = Some(fault.clone()),
        (None, Kind::Tar) => tar_shard::read(&mut unit)?,
        (None, Kind::Json) => {
            noted.named_files = json_shard::read(&mut unit, &sources.image_root(shard, &options.data), pool)?;
            unit.detail.insert("image_root".to_owned(), json!(root_text(image_root)));
        }
    }
    if let Err(changed) = sameness::check_unchanged(shard, &noted) {
        unit.damage.get_or_insert(changed.to_string());
    }
    let Unit { table, quarantined, reasons, bad, rows, damage, mut detail, .. } = unit;
    let (written, writer) = table.finish()?;
    writer.into_inner().map_err(std::io::IntoInnerError::into_error).at("write", &path)?;
    if written != rows {
        return Err(Error::Bug(format!("{rows} rows of {} became {written}", shard.path.display())));
    }
    let mut names = vec![table_name.as_str()];
    if !quarantined.is_empty() {
        let path = output.temporary(&quarantine_name)?;
        std::fs::write(&path, to_json_lines(&quarantined)).at("write", &path)?;
        names.push(&quarantine_name);
    }
    let counts = [("input", rows + bad), ("ok", rows), ("quarantined", bad)];
    let counts = counts.into_iter().map(|(name, count)| (name.to_owned(), count)).collect();
    detail.insert("sidecar".to_owned(), shard.sidecar.is_some().into());
    detail.insert("reasons".to_owned(), json!(reasons));
    detail.insert("damage".to_owned(), json!(damage));
    let unit = shard.unit();
    match purpose {
        Purpose::Commit => output.commit(&unit, &names, rows, counts, detail.into())?,
        Purpose::Compare => {
            let names: Vec<_> = names.into_iter().map(|name| (name, None)).collect();
            if !output.compare(&unit, &names, rows, counts, detail.into())? {
                return Err(sameness::changed(shard).into());
            }
        }
    }
    if noted.named_files.is_some() || shard.kind == Kind::Tar {
        output.note(&unit, noted);
    }
    Ok(())
}

fn summarise(options: &IndexOptions, parts: &[PartRecord], read: u64, finished: bool) -> IndexSummary {
    let mut summary = IndexSummary {
        output: options.output.clone(),
        shards: parts.len() as u64,
        shards_read: read,
        already_finished: finished,
        ..IndexSummary::default()
    };
    for part in parts {
        let count = |name: &str| part.counts.get(name).copied().unwrap_or(0);
        summary.input += count("input");
        summary.ok += count("ok");
        summary.quarantined += count("quarantined");
        if let Some(reasons) = part.detail.get("reasons").and_then(Value::as_object) {
            for (reason, n) in reasons {
                *summary.reasons.entry(reason.clone()).or_default() += n.as_u64().unwrap_or(0);
            }
        }
        if let Some(damage) = part.detail.get("damage").and_then(Value::as_str) {
            summary.damaged.push(format!("{}: {damage}", part.unit));
        }
    }
    summary
}
