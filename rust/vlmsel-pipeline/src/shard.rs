//! `shard`: the selected samples as new tars, their bytes read by range from where the index says they lie.
//!
//! The order is that of the ids (which are hashes, so neighbours are unrelated) or a shuffle by seed; a sample's place in
//! it is known from the ids alone. So the index is read once, each sample's location goes to the scratch file of its output
//! shard, and every shard can then be written by itself. Memory: 24 bytes per selected id, plus buffers.

mod keys;
mod locate;
mod placement;
mod selection;
mod source_files;
mod write;

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rayon::ThreadPool;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use vlmsel_core::hash::to_hex;
use vlmsel_shards::error::IoContext;
use vlmsel_shards::storage::disk::free_bytes;
use vlmsel_shards::storage::paths;
use vlmsel_shards::tables::npy::write_uids;
use vlmsel_shards::workspace::fingerprint::fingerprint;
use vlmsel_shards::workspace::manifest::{Losses, Manifest, to_json};
use vlmsel_shards::workspace::output::{Output, OutputSpec, Summary};
use vlmsel_shards::workspace::quarantine::{Quarantined, to_json_lines};

use self::locate::{Locations, locate};
use self::placement::Placement;
use self::selection::{Selected, read_selection};
use self::source_files::SourceFiles;
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::run_options::RunOptions;
use crate::source_roots::{Roots, read_index_manifest};
use crate::stage::{self, Done, Stage, Unit};

/// What to write, and how.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardOptions {
    /// A selection folder, a DataComp `.npy`, a Parquet table with `uid`, or a text file of ids; where none of the ids has 128
    /// bits, they are keys of the index.
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
        read_selection(&options.selection, &options.index, options.run.memory_limit, &tolerance, progress)?;
    bad.iter().try_for_each(|record| tolerance.refuse(record))?;
    let order = Placement::new(uids, options.shuffle, options.samples_per_shard);
    let inputs = vec![fingerprint(&options.index, "index")?, input];
    let config = json!({ "samples_per_shard": options.samples_per_shard, "shuffle": options.shuffle });
    let pool = options.run.pool()?;
    let mut sharding = Sharding {
        options,
        index: &index,
        roots: &roots,
        order: &order,
        bad: &bad,
        pool: &pool,
        progress,
        found: OnceLock::new(),
    };
    if options.run.dry_run {
        let locations = pool.install(|| locate(&options.index, &order, None, &|_| true, progress))?;
        let summary = sharding.summary(&locations);
        tolerance.judge(summary.input, summary.quarantined, &[], NOT_IN_INDEX)?;
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
        command: COMMAND.to_owned(),
        config,
        inputs,
        guarded,
        overwrite: options.run.overwrite,
        extend: false,
        resume: true,
    };
    let ended = stage::run(&sharding, spec, &units(&order), pool.current_num_threads())?;
    Ok(match sharding.found.take() {
        Some(found) => ShardSummary { shards_written: ended.done, ..sharding.summary(&found.locations) },
        None => finished(options, &ended.manifest),
    })
}

const COMMAND: &str = "shard";
const NOT_IN_INDEX: &str = "ids that the index does not have";

/// One unit for each tar: a range of places in the order of the samples.
fn units(order: &Placement) -> Vec<Unit> {
    let inputs = vec!["index".to_owned(), "selection".to_owned()];
    let unit = |shard| Unit {
        command: COMMAND.to_owned(),
        name: unit_name(shard),
        inputs: inputs.clone(),
        range: Some(order.places(shard)),
    };
    (0..order.shards()).map(unit).collect()
}

/// What all tars share.
struct Sharding<'a> {
    options: &'a ShardOptions,
    index: &'a Manifest,
    roots: &'a Roots,
    order: &'a Placement,
    bad: &'a [Quarantined],
    pool: &'a ThreadPool,
    progress: &'a Progress,
    /// Where the samples lie, once it is known.
    found: OnceLock<Located<'a>>,
}

/// Where the samples lie that are left to write.
struct Located<'a> {
    scratch: PathBuf,
    locations: Locations,
    sources: SourceFiles<'a>,
}

impl<'a> Sharding<'a> {
    fn found(&self) -> Result<&Located<'a>> {
        self.found.get().ok_or_else(|| Error::Bug("the samples were not located".to_owned()))
    }

    fn summary(&self, locations: &Locations) -> ShardSummary {
        let (order, bad) = (self.order, self.bad.len() as u64);
        ShardSummary {
            output: self.options.output.clone(),
            input: order.len() + bad,
            written: locations.found,
            quarantined: order.len() - locations.found + bad,
            shards: order.shards(),
            bytes: locations.shard_bytes.iter().copied().fold(0, u64::saturating_add),
            ..ShardSummary::default()
        }
    }
}

impl Stage for Sharding<'_> {
    fn accept(&self, standing: &Manifest) -> Result<()> {
        self.options.run.tolerance().accept(&self.options.output, standing.losses.as_ref())
    }

    /// Reads the index once: locations of the shards that are left go to scratch files.
    fn prepare(&self, left: &[Unit], output: &Output) -> Result<()> {
        let Self { options, order, progress, .. } = *self;
        let scratch = output.scratch()?;
        std::fs::remove_dir_all(&scratch).at("remove", &scratch)?;
        std::fs::create_dir_all(&scratch).at("create", &scratch)?;
        let left = left.iter().map(|unit| shard_of(unit, order)).collect::<Result<HashSet<u64>>>()?;
        let is_left = |shard: u64| left.contains(&shard);
        let mut locations = self.pool.install(|| locate(&options.index, order, Some(&scratch), &is_left, progress))?;
        let summary = self.summary(&locations);
        let tolerance = options.run.tolerance();
        tolerance.judge(summary.input, summary.quarantined, &[], NOT_IN_INDEX)?;
        let sizes = left.iter().map(|&shard| locations.shard_bytes[shard as usize]);
        let to_write = sizes.fold(0, u64::saturating_add);
        enough_disk(&scratch, to_write)?;
        progress.restart();
        progress.expect(left.iter().map(|&shard| locations.shard_rows[shard as usize]).sum(), to_write);
        let names = std::mem::take(&mut locations.shard_names);
        let sources = SourceFiles::new(self.roots, names, self.index);
        let _ = self.found.set(Located { scratch, locations, sources });
        Ok(())
    }

    fn work(&self, unit: &Unit, output: &Output) -> Result<Done> {
        let Located { scratch, sources, .. } = self.found()?;
        write::write_shard(shard_of(unit, self.order)?, scratch, sources, output, self.progress)
    }

    fn conclude(&self, done: u64, output: &Output) -> Result<Summary> {
        let Located { locations, sources, .. } = self.found()?;
        sources.check_unchanged()?;
        commit_summary(output, self.order, locations, self.bad, self.options)?;
        let summary = self.summary(locations);
        if summary.input != summary.written + summary.quarantined {
            return Err(Error::Bug(format!(
                "{} ids in, {} written and {} put aside",
                summary.input, summary.written, summary.quarantined
            )));
        }
        let counts = [("input", summary.input), ("written", summary.written), ("quarantined", summary.quarantined)];
        let tolerated = self.options.run.tolerance().tolerated;
        Ok(Summary {
            counts: counts.into_iter().map(|(name, count)| (name.to_owned(), count)).collect(),
            roots: json!({}),
            provenance: json!({}),
            run: json!({ "shards_written": done }),
            losses: Losses::of(summary.input, summary.quarantined, Vec::new(), tolerated),
        })
    }
}

/// The number of the tar that a unit makes.
fn shard_of(unit: &Unit, order: &Placement) -> Result<u64> {
    let first = unit.range.as_ref().map(|places| places.start);
    first.map(|place| order.shard_of(place)).ok_or_else(|| Error::Bug(format!("{} has no range", unit.name)))
}

fn unit_name(shard: u64) -> String {
    format!("{shard:08}")
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
    let names: Vec<_> = names.into_iter().map(|name| (name, None)).collect();
    output.commit(SUMMARY_UNIT, &names, 0, BTreeMap::new(), json!({}))?;
    Ok(())
}
