//! `shard`: the selected samples as new tars, their bytes read by range from where the index says they lie.
//!
//! The order is that of the ids (which are hashes, so neighbours are unrelated) or a shuffle by seed; a sample's place in
//! it is known from the ids alone. So the index is read once, each sample's location goes to the scratch file of its output
//! shard, and every shard can then be written by itself. Memory: 24 bytes per selected id, plus buffers.

mod locate;
mod placement;
mod source_files;
mod write;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use vlmsel_core::hash::to_hex;
use vlmsel_shards::error::IoContext;
use vlmsel_shards::storage::disk::free_bytes;
use vlmsel_shards::storage::paths;
use vlmsel_shards::tables::npy::write_uids;
use vlmsel_shards::workspace::fingerprint::fingerprint;
use vlmsel_shards::workspace::inputs::Check;
use vlmsel_shards::workspace::manifest::{Losses, Manifest, to_json};
use vlmsel_shards::workspace::output::{Opening, Output, OutputSpec, Summary};
use vlmsel_shards::workspace::quarantine::{Quarantined, to_json_lines};

use self::locate::{Locations, locate};
use self::placement::{Placement, Selected, read_selection};
use self::source_files::{Roots, SourceFiles};
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::run_options::RunOptions;

/// What to write, and how.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardOptions {
    /// A selection folder, a DataComp `.npy`, or a text file of ids.
    #[serde(deserialize_with = "paths::json::path")]
    pub selection: PathBuf,
    /// The index that says where the samples lie.
    #[serde(deserialize_with = "paths::json::path")]
    pub index: PathBuf,
    /// The output folder.
    #[serde(deserialize_with = "paths::json::path")]
    pub output: PathBuf,
    /// Samples in each tar but the last.
    pub samples_per_shard: u64,
    /// Shuffle by this seed; by id if not given.
    #[serde(default)]
    pub shuffle: Option<u64>,
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
pub struct ShardSummary {
    /// The output folder.
    #[serde(serialize_with = "paths::json::as_text")]
    pub output: PathBuf,
    /// Ids in the selection, repeats included.
    pub input: u64,
    /// Samples written.
    pub written: u64,
    /// Ids that are not in the index, or are no ids.
    pub quarantined: u64,
    /// Tars.
    pub shards: u64,
    /// Tars that this run wrote.
    pub shards_written: u64,
    /// Bytes of all tars.
    pub bytes: u64,
    /// The output was complete before; nothing was touched.
    pub already_finished: bool,
    /// This was a plan; nothing was written.
    pub dry_run: bool,
}

const SUMMARY_UNIT: &str = "summary";
/// Room that must stay free for manifests and the file system's own needs.
const SPARE_BYTES: u64 = 16 << 20;

/// Runs the command.
///
/// # Errors
/// Exit 2 for a selection or index that is none, 3 where too many ids are not in the index, 6 where the disk cannot hold
/// the shards, 7 where the data changed since it was indexed.
pub fn shard(options: &ShardOptions, progress: &Progress) -> Result<ShardSummary> {
    if options.samples_per_shard == 0 {
        return Err(Error::usage("--samples-per-shard must be at least 1"));
    }
    let check = || progress.check();
    let index = read_index_manifest(&options.index, &check)?;
    let tolerance = options.run.tolerance();
    tolerance.accept(&options.index, index.losses.as_ref())?;
    let roots = Roots::new(&index.roots, &options.named_sources, options.image_root.as_deref())?;
    let Selected { input, uids, bad } =
        read_selection(&options.selection, options.run.memory_limit, &tolerance, &check)?;
    for record in &bad {
        options.run.refuse(record)?;
    }
    let order = Arc::new(Placement::new(uids, options.shuffle, options.samples_per_shard));
    let inputs = vec![fingerprint(&options.index, "index")?, input];
    let config = json!({ "samples_per_shard": options.samples_per_shard, "shuffle": options.shuffle });
    let pool = options.run.pool()?;
    if options.run.dry_run {
        let locations = pool.install(|| locate(&options.index, &order, None, &|_| true, progress))?;
        let summary = summary(options, &order, &locations, &bad, 0);
        options.run.judge(summary.input, summary.quarantined, &[], "ids that the index does not have")?;
        enough_disk(&options.output, summary.bytes)?;
        return Ok(ShardSummary { dry_run: true, ..summary });
    }
    let mut guarded = vec![options.index.clone(), options.selection.clone()];
    guarded.extend(
        index
            .parts
            .iter()
            .filter_map(|part| part.unit.split_once('/'))
            .filter_map(|(s, below)| roots.shard(s, below).ok()),
    );
    let spec = OutputSpec {
        path: options.output.clone(),
        command: "shard".to_owned(),
        config,
        inputs,
        guarded,
        overwrite: options.run.overwrite,
        extend: false,
        resume: true,
    };
    let output = match Output::begin(spec)? {
        Opening::Finished(found) => {
            tolerance.accept(&options.output, found.manifest().losses.as_ref())?;
            return Ok(finished(options, found.manifest()));
        }
        Opening::Open(output) => output,
    };
    let scratch = output.scratch()?;
    std::fs::remove_dir_all(&scratch).at("remove", &scratch)?;
    std::fs::create_dir_all(&scratch).at("create", &scratch)?;
    let is_done = |shard: u64| output.is_committed(&unit_name(shard));
    let locations =
        pool.install(|| locate(&options.index, &order, Some(&scratch), &|shard| !is_done(shard), progress))?;
    let todo: Vec<u64> = (0..order.shards()).filter(|&shard| !is_done(shard)).collect();
    let summary = summary(options, &order, &locations, &bad, todo.len() as u64);
    options.run.judge(summary.input, summary.quarantined, &[], "ids that the index does not have")?;
    let sizes = todo.iter().map(|&shard| locations.shard_bytes[shard as usize]);
    let to_write = sizes.fold(0, u64::saturating_add);
    enough_disk(&scratch, to_write)?;
    progress.restart();
    progress.expect(todo.iter().map(|&shard| locations.shard_rows[shard as usize]).sum(), to_write);
    let sources = SourceFiles::new(&roots, &locations.shard_names, &index);
    RunOptions::each(pool.current_num_threads(), &todo, |_, &shard| {
        write::write_shard(shard, &scratch, &sources, &output, progress)
    })?;
    sources.check_unchanged()?;
    commit_summary(&output, &order, &locations, &bad, options)?;
    let counts = [("input", summary.input), ("written", summary.written), ("quarantined", summary.quarantined)];
    if summary.input != summary.written + summary.quarantined {
        return Err(Error::Bug(format!(
            "{} ids in, {} written and {} put aside",
            summary.input, summary.written, summary.quarantined
        )));
    }
    output.finish(Summary {
        counts: counts.into_iter().map(|(name, count)| (name.to_owned(), count)).collect(),
        roots: json!({}),
        provenance: json!({}),
        run: json!({ "shards_written": summary.shards_written }),
        losses: Losses::of(summary.input, summary.quarantined, Vec::new(), tolerance.tolerated),
    })?;
    Ok(summary)
}

fn unit_name(shard: u64) -> String {
    format!("{shard:08}")
}

fn read_index_manifest(folder: &Path, check: Check<'_>) -> Result<Manifest> {
    let accept = |path: &Path| path.extension().is_some_and(|e| e == "parquet");
    vlmsel_shards::workspace::inputs::expand(&[folder.into()], "index part", &accept, check)?;
    match Manifest::read(folder)? {
        Some(manifest) if manifest.command == "index" => Ok(manifest),
        Some(manifest) => Err(Error::usage(format!(
            "{} holds the output of `vlmsel {}`; give the folder that `vlmsel index` wrote with --index",
            folder.display(),
            manifest.command
        ))),
        None => Err(Error::usage(format!("{} is no index: `vlmsel index` did not write it", folder.display()))),
    }
}

fn enough_disk(path: &Path, needed: u64) -> Result<()> {
    let free = free_bytes(path).at("inspect", path)?;
    if needed.saturating_add(SPARE_BYTES) > free {
        let text = format!(
            "{}: the shards need {needed} bytes, the disk has {free} free; free some space or choose another output with -o",
            path.display()
        );
        return Err(vlmsel_shards::Error::Resource(text).into());
    }
    Ok(())
}

fn summary(
    options: &ShardOptions,
    order: &Placement,
    locations: &Locations,
    bad: &[Quarantined],
    todo: u64,
) -> ShardSummary {
    let written = locations.found;
    ShardSummary {
        output: options.output.clone(),
        input: order.len() + bad.len() as u64,
        written,
        quarantined: order.len() - written + bad.len() as u64,
        shards: order.shards(),
        shards_written: todo,
        bytes: locations.shard_bytes.iter().copied().fold(0, u64::saturating_add),
        ..ShardSummary::default()
    }
}

fn finished(options: &ShardOptions, manifest: &Manifest) -> ShardSummary {
    let count = |name: &str| manifest.counts.get(name).copied().unwrap_or(0);
    let tars = manifest
        .parts
        .iter()
        .flat_map(|part| &part.files)
        .filter(|file| Path::new(&file.file).extension().is_some_and(|e| e == "tar"));
    ShardSummary {
        output: options.output.clone(),
        input: count("input"),
        written: count("written"),
        quarantined: count("quarantined"),
        shards: manifest.parts.len().saturating_sub(1) as u64,
        bytes: tars.map(|file| file.bytes).sum(),
        already_finished: true,
        ..ShardSummary::default()
    }
}

/// What DataComp's resharder leaves beside its tars, so that scripts made for it work here.
fn commit_summary(
    output: &Output,
    order: &Placement,
    locations: &Locations,
    bad: &[Quarantined],
    options: &ShardOptions,
) -> Result<()> {
    let committed = output.committed();
    let sizes: BTreeMap<String, u64> = (0..order.shards())
        .map(|shard| {
            (format!("{}.tar", unit_name(shard)), committed.get(&unit_name(shard)).map_or(0, |part| part.rows))
        })
        .collect();
    let meta = json!({ "samples": locations.found, "shards": order.shards(), "samples_per_shard": options.samples_per_shard, "shuffle": options.shuffle });
    let mut missing = bad.to_vec();
    missing.extend(
        order
            .missing(&locations.is_found)
            .map(|uid| {
                Quarantined::new("selection", "row", None, "not_in_index", "").with_key(&to_hex(&uid.to_be_bytes()))
            })
            .take(vlmsel_shards::workspace::quarantine::LISTED),
    );
    let write = |name: &'static str, value: &Value| -> Result<&'static str> {
        let path = output.temporary(name)?;
        std::fs::write(&path, to_json(value)?).at("write", &path)?;
        Ok(name)
    };
    let mut names = vec![write("sizes.json", &json!(sizes))?, write("meta.json", &meta)?, "sample_ids.npy"];
    let path = output.temporary("sample_ids.npy")?;
    write_uids(&path, locations.found, order.present(&locations.is_found).map(Ok))?;
    if !missing.is_empty() {
        let path = output.temporary("quarantine.jsonl")?;
        std::fs::write(&path, to_json_lines(&missing)).at("write", &path)?;
        names.push("quarantine.jsonl");
    }
    output.commit(SUMMARY_UNIT, &names, 0, BTreeMap::new(), json!({}))?;
    Ok(())
}
