//! `dedup`: which records are copies of which, and which of them is kept.
//!
//! Two steps, two outputs. The *edges* say who is like whom; they know nothing of scores ([`edges`]). *Keepers* are chosen from
//! them in an order of the user's, and cover their neighbours ([`keepers`]): every record that goes is within the threshold of one
//! that stays. Rows are known by their place in the index, all through; ids come back with the result.

mod against;
mod alike;
mod classes;
pub mod code_pairs;
mod content;
mod dropped;
mod edges;
pub mod equal;
mod exact;
mod images;
pub mod keep_bits;
mod keep_order;
mod keepers;
mod kinds;
mod merged;
mod near_pair;
pub mod near_text;
mod outside;
mod plan;
mod relation;
mod result;
pub mod row_set;
mod rows;
mod scores;
mod texts;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use vlmsel_core::word_set::{MAX_SHINGLE, SetsOf};
use vlmsel_shards::error::IoContext;
use vlmsel_shards::storage::paths::{self, beside};
use vlmsel_shards::workspace::fingerprint::fingerprint;
use vlmsel_shards::workspace::manifest::{InputRecord, Manifest};
use vlmsel_shards::workspace::output::{Opening, Output, OutputSpec, Summary};

use self::edges::Finding;
use self::exact::{Bounds, Equality};
use self::images::{ImageHash, ImageRule};
use self::keep_order::Criterion;
use self::keepers::{Choice, Hubs};
use self::kinds::Kind;
use self::plan::Step;
use self::result::{Found, ResultWriter, SUMMARY};
use self::rows::IndexRows;
use self::scores::Scores;
use crate::codes::{CodesOptions, codes, place_beside};
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::run_options::RunOptions;
use crate::source_roots::{Roots, read_index_manifest};

/// What to compare, and which copy to keep.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DedupOptions {
    /// The index.
    #[serde(deserialize_with = "paths::json::path")]
    pub index: PathBuf,
    /// Scores of the index, for keepers.
    #[serde(default, deserialize_with = "paths::json::optional_path")]
    pub scores: Option<PathBuf>,
    /// The output folder; the edges lie beside it, in `<output>-edges`.
    #[serde(deserialize_with = "paths::json::path")]
    pub output: PathBuf,
    /// Kinds: an option of the command and its value.
    #[serde(default)]
    pub kinds: Vec<(String, String)>,
    /// Which code of images is compared: `phash`, `dhash` or `both`.
    pub image_hash: String,
    /// Mirrored images are near, too.
    #[serde(default)]
    pub flips: bool,
    /// The folder of the images' codes; beside the index if not given. What is missing of it is made.
    #[serde(default, deserialize_with = "paths::json::optional_path")]
    pub codes: Option<PathBuf>,
    /// `NAME=PATH`: where the data of a source lies now, if codes are to be made and it moved since it was indexed.
    #[serde(default, deserialize_with = "paths::json::words")]
    pub named_sources: Vec<OsString>,
    /// Where images of JSON sources lie now.
    #[serde(default, deserialize_with = "paths::json::optional_path")]
    pub image_root: Option<PathBuf>,
    /// `hash`: images are equal where 128 bits and their sizes are; `bytes`: a hit is confirmed by reading them again.
    pub confirm: String,
    /// What near texts are sets of: `words` or `chars:N`.
    pub near_text_sets: String,
    /// What makes a copy the best, the first criterion first.
    #[serde(default)]
    pub keep: Vec<String>,
    /// Connected components instead of direct neighbours.
    #[serde(default)]
    pub chains: bool,
    /// A content with more neighbours is a hub.
    pub max_neighbours: u32,
    /// What becomes of hubs: `keep-one` or `leave`.
    pub hubs: String,
    /// A source may lose this share of its records.
    pub max_removed: f64,
    /// Where scratch files go; beside the output if not given.
    #[serde(default, deserialize_with = "paths::json::optional_path")]
    pub scratch: Option<PathBuf>,
    /// Options that every command has.
    #[serde(default)]
    pub run: RunOptions,
}

/// What came of it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct DedupSummary {
    /// The output folder.
    #[serde(serialize_with = "paths::json::as_text")]
    pub output: PathBuf,
    /// The folder of the edges.
    #[serde(serialize_with = "paths::json::as_text")]
    pub edges: PathBuf,
    /// What was found.
    #[serde(flatten)]
    pub found: Found,
    /// Classes, rows and edges by kind.
    pub compared: BTreeMap<String, BTreeMap<String, u64>>,
    /// Of a plan: what each step takes at most.
    pub plan: Vec<Step>,
    /// The edges were there before.
    pub edges_reused: bool,
    /// The output was complete before; nothing was touched.
    pub already_finished: bool,
    /// This was a plan; nothing was written.
    pub dry_run: bool,
}

const COMMAND: &str = "dedup";
/// Memory where no limit is given.
const USUAL_MEMORY: u64 = 2 << 30;

/// The options, understood.
struct Asked {
    kinds: Vec<Kind>,
    units: Vec<String>,
    sets: SetsOf,
    hash: ImageHash,
    by_bytes: bool,
    criteria: Vec<Criterion>,
    hubs: Hubs,
}

impl Asked {
    fn of(options: &DedupOptions) -> Result<Self> {
        let kinds =
            options.kinds.iter().map(|(option, value)| Kind::parse(option, value)).collect::<Result<Vec<_>>>()?;
        let kinds = Kind::in_order(kinds);
        let sets = SetsOf::parse(&options.near_text_sets).ok_or_else(|| {
            Error::usage(format!(
                "--near-text-shingles {}: it is chars:N with N from 1 to {MAX_SHINGLE}",
                options.near_text_sets
            ))
        })?;
        let by_bytes = match options.confirm.as_str() {
            "hash" => false,
            "bytes" => true,
            other => return Err(Error::usage(format!("--confirm {other}: it is hash or bytes"))),
        };
        Ok(Self {
            units: kinds.iter().map(|kind| kind.unit()).collect(),
            kinds,
            sets,
            hash: ImageHash::parse(&options.image_hash)?,
            by_bytes,
            criteria: Criterion::parse_all(&options.keep, options.scores.is_some())?,
            hubs: Hubs::parse(&options.hubs)?,
        })
    }
}

/// Runs the command.
///
/// # Errors
/// Exit 2 for what cannot be compared, 3 where a source would lose more than `max_removed`, 6 where memory or disk do not suffice,
/// and whatever [`Output::begin`] refuses.
pub fn dedup(options: &DedupOptions, progress: &Progress) -> Result<DedupSummary> {
    let asked = Asked::of(options)?;
    let manifest = read_index_manifest(&options.index, &|| progress.check())?;
    options.run.tolerance().accept(&options.index, manifest.losses.as_ref())?;
    let index = IndexRows::new(&options.index, manifest)?;
    let inputs = index.inputs()?;
    let scores = options.scores.as_deref().map(|folder| Scores::open(folder, &index, &inputs)).transpose()?;
    let memory = if options.run.memory_limit == 0 { USUAL_MEMORY } else { options.run.memory_limit };
    let threads = options.run.pool()?.current_num_threads();
    let scratch = scratch_folder(options)?;
    let bounds = Bounds { scratch: &scratch, memory, threads, progress };
    let edges_folder = beside(&options.output, "", "-edges");
    let summary = DedupSummary {
        output: options.output.clone(),
        edges: edges_folder.clone(),
        found: Found { input: u64::from(index.rows), ..Found::default() },
        ..DedupSummary::default()
    };
    if options.run.dry_run {
        let steps = plan::steps(u64::from(index.rows), &asked.kinds, memory);
        // A run itself is not refused: what it needs at its worst is seldom what it needs.
        plan::refuse_a_full_disk(&steps, bounds)?;
        return Ok(DedupSummary { plan: steps, dry_run: true, ..summary });
    }
    let (edges, edges_reused) = find(options, &asked, &index, &inputs, &edges_folder, bounds)?;
    let compared = edges.parts.iter().map(|part| (part.unit.clone(), part.counts.clone())).collect();
    let summary = DedupSummary { compared, edges_reused, ..summary };
    let spec = spec(options, &asked, inputs, of_manifest("edges", &edges_folder, &edges)?, &edges_folder)?;
    let output = match Output::begin(spec)? {
        Opening::Finished(_) => {
            let found = read_summary(&options.output)?;
            refuse_large_losses(&found, options.max_removed)?;
            return Ok(DedupSummary { found, already_finished: true, ..summary });
        }
        Opening::Open(output) => output,
    };
    let choice = Choice {
        index: &index,
        edges: &edges_folder,
        kinds: &asked.kinds,
        criteria: &asked.criteria,
        scores: scores.as_ref(),
        chains: options.chains,
        against: &[],
        max_neighbours: options.max_neighbours,
        hubs: asked.hubs,
    };
    let (dropped, hubs) = choice.dropped(bounds)?;
    let found = ResultWriter::new(&index, &asked.kinds, &[], progress).write(dropped, &hubs, &output)?;
    refuse_large_losses(&found, options.max_removed)?;
    progress.check()?;
    let mut counts: BTreeMap<String, u64> =
        found.dropped.iter().map(|(kind, count)| (format!("dropped.{kind}"), *count)).collect();
    counts.insert("input".to_owned(), found.input);
    counts.insert("kept".to_owned(), found.kept);
    output.finish(Summary { counts, roots: Value::Null, provenance: json!({}), run: json!({}), losses: None })?;
    Ok(DedupSummary { found, ..summary })
}

/// The first step: the edges, as far as they are not there.
fn find(
    options: &DedupOptions,
    asked: &Asked,
    index: &IndexRows,
    inputs: &[InputRecord],
    folder: &Path,
    bounds: Bounds<'_>,
) -> Result<(Manifest, bool)> {
    let mut inputs = inputs.to_vec();
    let images = if asked.kinds.iter().any(|kind| kind.needs_codes()) {
        let (rule, input) = images_rule(options, asked.hash, bounds.progress)?;
        inputs.push(input);
        Some(rule)
    } else {
        None
    };
    let (named, root) = (&options.named_sources, options.image_root.as_deref());
    let roots = asked.by_bytes.then(|| Roots::new(&index.manifest.roots, named, root)).transpose()?;
    let equality = Equality { images: roots.as_ref(), ..Equality::default() };
    let scratch = options.scratch.as_deref();
    let finding = Finding { index, kinds: &asked.kinds, images, equality, sets: asked.sets, scratch, bounds };
    finding.run(folder, edges_config(options, &asked.units), inputs, options.run.overwrite)
}

/// The output of the second step.
fn spec(
    options: &DedupOptions,
    asked: &Asked,
    mut inputs: Vec<InputRecord>,
    edges: InputRecord,
    edges_folder: &Path,
) -> Result<OutputSpec> {
    inputs.push(edges);
    if let Some(folder) = &options.scores {
        inputs.push(fingerprint(folder, "scores")?);
    }
    let mut guarded = vec![options.index.clone(), edges_folder.to_path_buf()];
    guarded.extend(options.scores.clone());
    Ok(OutputSpec {
        path: options.output.clone(),
        command: COMMAND.to_owned(),
        config: json!({
            "kinds": asked.units,
            "keep": keep_order::to_json(&asked.criteria),
            "chains": options.chains,
            "max_neighbours": options.max_neighbours,
            "hubs": options.hubs,
        }),
        inputs,
        guarded,
        overwrite: options.run.overwrite,
        extend: false,
        resume: false,
    })
}

/// What decides the edges, as far as the kinds look at it.
fn edges_config(options: &DedupOptions, units: &[String]) -> Value {
    let is_near = |what: &str| units.iter().any(|unit| unit.starts_with("near-pair") || unit.starts_with(what));
    let mut config = json!({ "kinds": units, "confirm": options.confirm });
    if is_near("near-text") {
        config["near_text_sets"] = json!(options.near_text_sets);
    }
    if is_near("near-image") {
        config["image_hash"] = json!(options.image_hash);
        config["flips"] = json!(options.flips);
    }
    config
}

/// Makes what is missing of the images' codes; how they are compared, and their folder as an input.
fn images_rule(options: &DedupOptions, hash: ImageHash, progress: &Progress) -> Result<(ImageRule, InputRecord)> {
    let folder = options.codes.clone().unwrap_or_else(|| place_beside(&options.index));
    let making = CodesOptions {
        index: options.index.clone(),
        output: folder.clone(),
        named_sources: options.named_sources.clone(),
        image_root: options.image_root.clone(),
        run: RunOptions { overwrite: false, ..options.run.clone() },
    };
    codes(&making, progress)?;
    let manifest = Manifest::read(&folder)?;
    let manifest = manifest.ok_or_else(|| Error::Bug(format!("{} was not made", folder.display())))?;
    let input = of_manifest("codes", &folder, &manifest)?;
    Ok((ImageRule { codes: folder, hash, flips: options.flips }, input))
}

fn of_manifest(name: &str, folder: &Path, manifest: &Manifest) -> Result<InputRecord> {
    let fingerprint = manifest.checksum()?;
    let bytes = std::fs::metadata(folder.join("manifest.json")).at("inspect", folder)?.len();
    Ok(InputRecord { name: name.to_owned(), bytes, fingerprint })
}

fn read_summary(folder: &Path) -> Result<Found> {
    let path = folder.join(SUMMARY);
    let bytes = std::fs::read(&path).at("read", &path)?;
    Ok(serde_json::from_slice(&bytes).map_err(|error| vlmsel_shards::Error::unreadable(&path, error))?)
}

fn scratch_folder(options: &DedupOptions) -> Result<PathBuf> {
    let folder = options.scratch.clone().or_else(|| {
        let parent = paths::place_of_output(&options.output).parent().map(Path::to_path_buf);
        parent.filter(|parent| parent.is_dir())
    });
    let folder = folder.unwrap_or_else(std::env::temp_dir);
    if folder.is_dir() {
        return Ok(folder);
    }
    Err(Error::usage(format!("--scratch {}: it is no folder", folder.display())))
}

/// A source that loses most of its records was hardly meant to.
fn refuse_large_losses(found: &Found, max_removed: f64) -> Result<()> {
    for (source, of_source) in &found.sources {
        let share = of_source.lost() as f64 / of_source.input.max(1) as f64;
        if share > max_removed {
            let kinds: Vec<String> = of_source.dropped.iter().map(|(kind, n)| format!("{n} {kind}")).collect();
            return Err(Error::TooMuchUnreadable(format!(
                "source {source} would lose {} of its {} records ({}), {share:.4} of them, allowed {max_removed}; look at the edges, then raise --max-removed to {:.4}, or ask for smaller thresholds",
                of_source.lost(),
                of_source.input,
                kinds.join(", "),
                (share * 1e4).ceil() / 1e4
            )));
        }
    }
    Ok(())
}
