//! `doctor`: what is wrong with a data set, before anyone pays for GPUs. Reads everything, writes nothing.

mod file;
mod findings;
mod repeated_pairs;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use vlmsel_shards::formats::reader::ReadOptions;
use vlmsel_shards::storage::identity::Identity;

use self::findings::Seen;
use self::repeated_pairs::Pairs;
use crate::error::Result;
use crate::finding::Finding;
use crate::progress::Progress;
use crate::run_options::RunOptions;
use crate::sources::{Classes, Skipped, SourceOptions, resolve};

/// Pairs of hashes kept while looking for one picture under many captions, unless a memory limit says otherwise.
const DEFAULT_PAIR_BYTES: u64 = 2 << 30;

/// What to look at.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DoctorOptions {
    /// The data.
    pub data: SourceOptions,
    /// How to read it.
    #[serde(default)]
    pub read: ReadOptions,
    /// Options that every command has.
    #[serde(default)]
    pub run: RunOptions,
}

/// What was found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Findings {
    /// Files read.
    pub files: u64,
    /// Bytes of these files.
    pub bytes: u64,
    /// Records.
    pub records: u64,
    /// Images.
    pub images: u64,
    /// Captions and conversations.
    pub texts: u64,
    /// Samples by source and class.
    pub classes: Classes,
    /// Files that look like data and are not read.
    pub skipped: Skipped,
    /// By kind of trouble.
    pub findings: BTreeMap<String, Finding>,
    /// One of so many distinct pictures and captions was followed to find repeats; 1 means all.
    pub repeats_sampled: u64,
    /// Whether nothing is wrong.
    pub healthy: bool,
}

/// What all files share.
struct Context<'a> {
    pairs: &'a Mutex<Pairs>,
    progress: &'a Progress,
    pool: &'a rayon::ThreadPool,
}

/// Runs the command. Findings are a result, not an error; under `--strict` the front end turns them into exit 5.
pub fn doctor(options: &DoctorOptions, progress: &Progress) -> Result<Findings> {
    let sources = resolve(&options.data, &|| progress.check())?;
    let size = |path: &Path| std::fs::metadata(path).map_or(0, |meta| meta.len());
    let bytes = sources.shards.iter().map(|shard| size(&shard.path)).sum();
    progress.expect(0, bytes);
    let (files, skipped) = (sources.shards.len() as u64, sources.skipped.clone());
    let mut findings = Findings { files, bytes, skipped, ..Findings::default() };
    if options.run.dry_run {
        return Ok(findings);
    }
    // Half of the memory is for the threads, half for the pairs.
    let half = options.run.memory_limit / 2;
    let pool = RunOptions { memory_limit: half, ..options.run.clone() }.pool()?;
    let pairs = Mutex::new(Pairs::new(if half == 0 { DEFAULT_PAIR_BYTES } else { half }));
    let context = Context { pairs: &pairs, progress, pool: &pool };
    let seen: Vec<Mutex<Seen>> = sources.shards.iter().map(|_| Mutex::default()).collect();
    RunOptions::each(pool.current_num_threads(), &sources.shards, |number, shard| {
        progress.check()?;
        let before = Identity::at(&shard.path).ok();
        let mut found = file::look_at(shard, &sources.image_root(shard, &options.data), &options.read, &context)?;
        if let Some(Err(changed)) = before.map(|before| before.check_unchanged(&shard.path)) {
            found.note("changed_while_read", || changed.to_string());
        }
        *seen[number].lock().unwrap_or_else(PoisonError::into_inner) = found;
        Ok(())
    })?;
    for (shard, one) in sources.shards.iter().zip(seen) {
        let one = one.into_inner().unwrap_or_else(PoisonError::into_inner);
        for (class, count) in one.classes {
            *findings.classes.entry(shard.source.clone()).or_default().entry(class.name().to_owned()).or_default() +=
                count;
        }
        findings.records += one.records;
        findings.images += one.images;
        findings.texts += one.texts;
        for (kind, found) in one.findings {
            findings.findings.entry(kind).or_default().merge(found);
        }
    }
    let pairs = pairs.into_inner().unwrap_or_else(PoisonError::into_inner);
    findings.repeats_sampled = pairs.sampled();
    pairs.note_repeats(&mut findings.findings);
    findings.healthy = findings.findings.is_empty();
    Ok(findings)
}
