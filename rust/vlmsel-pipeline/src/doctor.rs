//! `doctor`: what is wrong with a data set, before anyone pays for GPUs. Reads everything, writes nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use vlmsel_core::hash::{Hash128, image_hash, normalise_text, text_hash, to_hex};
use vlmsel_shards::Error as ShardError;
use vlmsel_shards::image_header::{Fault, check_complete};
use vlmsel_shards::img2dataset::Sidecar;
use vlmsel_shards::json_values::{JsonValues, Value};
use vlmsel_shards::llava::{Record, parse};
use vlmsel_shards::samples::{Content, Depth, Sample, scan};
use vlmsel_shards::source::LocalFile;

use crate::error::Result;
use crate::policy::RunOptions;
use crate::progress::Progress;
use crate::sources::{Kind, ShardFile, resolve};

/// Examples kept of each finding.
const EXAMPLES: usize = 5;
/// Pairs of hashes kept while looking for one picture under many captions, unless a memory limit says otherwise.
const DEFAULT_PAIR_BYTES: u64 = 2 << 30;
const BUFFER_BYTES: usize = 1 << 20;
/// Images above this size are looked at by their header only.
const MAX_IMAGE_BYTES: u64 = 256 << 20;
/// A picture smaller than this on a side has little to say to a vision tower.
const TINY_PIXELS: u32 = 32;

/// What to look at.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DoctorOptions {
    /// SRC arguments.
    pub sources: Vec<String>,
    /// `NAME=PATH` arguments.
    #[serde(default)]
    pub named_sources: Vec<String>,
    /// Folder that image paths in JSON records are relative to.
    #[serde(default)]
    pub image_root: Option<PathBuf>,
    /// Options that every command has.
    #[serde(default)]
    pub run: RunOptions,
}

/// One kind of trouble.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How often.
    pub count: u64,
    /// Where, for the first few in the order of file and place.
    pub examples: Vec<String>,
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
    /// By kind of trouble.
    pub findings: BTreeMap<String, Finding>,
    /// One of so many distinct pictures and captions was followed to find repeats; 1 means all.
    pub repeats_sampled: u64,
    /// Whether nothing is wrong.
    pub healthy: bool,
}

/// Hash pairs, thinned by the picture's hash so that each picture is followed wholly or not at all.
struct Pairs {
    kept: Vec<(Hash128, Hash128)>,
    capacity: usize,
    shift: u32,
}

impl Pairs {
    fn keeps(&self, image: &Hash128) -> bool {
        self.shift == 0 || u128::from_be_bytes(*image) >> (128 - self.shift) == 0
    }

    fn push(&mut self, image: Hash128, text: Hash128) {
        if self.keeps(&image) {
            self.kept.push((image, text));
            while self.kept.len() > self.capacity && self.shift < 100 {
                self.shift += 1;
                let pairs = std::mem::take(&mut self.kept);
                self.kept = pairs.into_iter().filter(|(image, _)| self.keeps(image)).collect();
            }
        }
    }
}

/// What one file gives.
#[derive(Default)]
struct Seen {
    records: u64,
    images: u64,
    texts: u64,
    findings: BTreeMap<String, Finding>,
}

impl Seen {
    fn note(&mut self, kind: &str, count: u64, example: impl FnOnce() -> String) {
        let finding = self.findings.entry(kind.to_owned()).or_default();
        finding.count += count;
        if finding.examples.len() < EXAMPLES {
            finding.examples.push(example());
        }
    }
}

/// Runs the command. Findings are a result, not an error; under `--strict` the front end turns them into exit 5.
pub fn doctor(options: &DoctorOptions, progress: &Progress) -> Result<Findings> {
    let sources = resolve(&options.sources, &options.named_sources)?;
    let size = |path: &Path| std::fs::metadata(path).map_or(0, |meta| meta.len());
    let bytes = sources.shards.iter().map(|shard| size(&shard.path)).sum();
    progress.expect(0, bytes);
    let mut findings = Findings { files: sources.shards.len() as u64, bytes, ..Findings::default() };
    if options.run.dry_run {
        return Ok(findings);
    }
    let budget = if options.run.memory_limit == 0 { DEFAULT_PAIR_BYTES } else { options.run.memory_limit / 2 };
    let pairs = Mutex::new(Pairs { kept: Vec::new(), capacity: (budget / 64).max(1024) as usize, shift: 0 });
    let pool = options.run.pool()?;
    let seen: Vec<Seen> = pool.install(|| {
        sources
            .shards
            .par_iter()
            .map(|shard| {
                progress.check()?;
                let root = sources.roots.iter().find(|root| root.name == shard.source).map(|root| root.path.clone());
                match shard.kind {
                    Kind::Tar => look_at_tar(shard, &pairs, progress),
                    Kind::Json => {
                        let root = options.image_root.clone().or(root).unwrap_or_default();
                        look_at_json(shard, &root, &pairs, progress)
                    }
                }
            })
            .collect::<Result<_>>()
    })?;
    for one in seen {
        findings.records += one.records;
        findings.images += one.images;
        findings.texts += one.texts;
        for (kind, found) in one.findings {
            let all = findings.findings.entry(kind).or_default();
            all.count += found.count;
            all.examples.extend(found.examples);
            all.examples.truncate(EXAMPLES);
        }
    }
    let pairs = pairs.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    findings.repeats_sampled = 1 << pairs.shift.min(63);
    count_repeats(pairs.kept, &mut findings.findings);
    findings.healthy = findings.findings.is_empty();
    Ok(findings)
}

/// One picture under many captions, and pairs that are there more than once.
fn count_repeats(mut pairs: Vec<(Hash128, Hash128)>, findings: &mut BTreeMap<String, Finding>) {
    pairs.sort_unstable();
    let mut note = |kind: &str, count: u64, example: String| {
        let finding = findings.entry(kind.to_owned()).or_default();
        finding.count += count;
        if finding.examples.len() < EXAMPLES {
            finding.examples.push(example);
        }
    };
    for group in pairs.chunk_by(|a, b| a.0 == b.0).filter(|group| group.len() > 1) {
        let captions = group.chunk_by(|a, b| a.1 == b.1).count();
        let (image, records) = (to_hex(&group[0].0), group.len());
        if captions > 1 {
            note("one_image_many_captions", 1, format!("image {image}: {captions} captions in {records} records"));
        }
        if records > captions {
            note(
                "repeated_pair",
                (records - captions) as u64,
                format!("image {image}: {records} records, {captions} captions"),
            );
        }
    }
}

type SharedPairs = Mutex<Pairs>;

fn remember(pairs: &SharedPairs, found: Vec<(Hash128, Hash128)>) {
    let mut pairs = pairs.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for (image, text) in found {
        pairs.push(image, text);
    }
}

fn look_at_tar(shard: &ShardFile, pairs: &SharedPairs, progress: &Progress) -> Result<Seen> {
    let (mut seen, name) = (Seen::default(), shard.unit());
    let mut sidecar = match shard.sidecar.as_deref().map(Sidecar::read).transpose() {
        Ok(sidecar) => sidecar.flatten(),
        Err(error) => {
            seen.note("unreadable_file", 1, || error.to_string());
            None
        }
    };
    let file = match LocalFile::open(&shard.path) {
        Ok(file) => file,
        Err(error) => {
            seen.note("unreadable_file", 1, || error.to_string());
            return Ok(seen);
        }
    };
    let (mut before, mut found, mut without_row) = (0, Vec::new(), Vec::new());
    let has_sidecar = sidecar.is_some();
    let mut strays = Vec::new();
    let summary = scan(
        &file,
        &name,
        Depth::Bodies,
        BUFFER_BYTES,
        |sample| {
            let row = sidecar.as_mut().and_then(|sidecar| sidecar.take(&sample.key));
            if has_sidecar && row.is_none() && sample.fault.is_none() {
                without_row.push(sample.key.clone());
            }
            look_at_sample(&mut seen, &name, &sample, row.and_then(|row| row.text), &mut found);
            if found.len() > 4096 {
                remember(pairs, std::mem::take(&mut found));
            }
            progress.add(1, 0)
        },
        |stray| {
            strays.push(stray);
            Ok(())
        },
        |position| {
            let passed = position - before;
            before = position;
            progress.add(0, passed)
        },
    );
    remember(pairs, found);
    for stray in strays {
        seen.note(&stray.reason, 1, || format!("{name}, byte {}: {}", stray.position.unwrap_or(0), stray.detail));
    }
    for key in without_row {
        seen.note("member_without_row", 1, || format!("{name}: {key}"));
    }
    match summary {
        Ok(summary) => {
            if let Some(damage) = &summary.damage {
                let kind = if damage.reason == "truncated" { "truncated_tar" } else { damage.reason };
                seen.note(kind, 1, || format!("{name}, byte {}: {}", damage.offset, damage.detail));
            }
            if summary.end.is_some_and(|end| !end.has_marker) {
                seen.note("no_end_marker", 1, || format!("{name}: its writer may have been stopped"));
            }
            if let (Some(sidecar), None) = (sidecar, summary.damage) {
                if sidecar.repeated > 0 {
                    seen.note("repeated_row_key", sidecar.repeated, || shard.sidecar_unit());
                }
                for (key, row) in sidecar.rest() {
                    let kind = if row.expected { "row_without_member" } else { "failed_download" };
                    seen.note(kind, 1, || format!("{}: {key}", shard.sidecar_unit()));
                }
            }
        }
        Err(ShardError::Cancelled) => return Err(ShardError::Cancelled.into()),
        Err(error) => seen.note("unreadable_file", 1, || error.to_string()),
    }
    Ok(seen)
}

fn look_at_sample(
    seen: &mut Seen,
    name: &str,
    sample: &Sample,
    row_text: Option<String>,
    found: &mut Vec<(Hash128, Hash128)>,
) {
    let place = |detail: &str| format!("{name}, byte {}, key {}{detail}", sample.header_offset, sample.key);
    seen.records += 1;
    if let Some(fault) = &sample.fault {
        // The damage itself is told once per file.
        if !matches!(
            fault.reason.as_str(),
            "truncated" | "bad_checksum" | "bad_number" | "bad_extended_header" | "second_archive"
        ) {
            seen.note(&fault.reason, 1, || place(&format!(": {}", fault.detail)));
        }
        return;
    }
    if let Some(error) = sample.json().and_then(|json| serde_json::from_slice::<serde::de::IgnoredAny>(json).err()) {
        seen.note("bad_json", 1, || place(&format!(": {error}")));
    }
    let text = match sample.text().map(std::str::from_utf8) {
        Some(Ok(text)) => Some(text.to_owned()),
        Some(Err(_)) => {
            seen.note("text_not_utf8", 1, || place(""));
            None
        }
        None => row_text,
    };
    note_text(seen, text.as_deref(), &place);
    let mut image = None;
    match sample.image().map(|member| &member.content) {
        Some(Content::Image(hash, header)) => {
            seen.images += 1;
            note_image(seen, *header, &place);
            image = Some(*hash);
        }
        _ => seen.note("no_image", 1, || place("")),
    }
    if let (Some(image), Some(text)) = (image, &text) {
        found.push((image, text_hash(text)));
    }
}

fn note_image(
    seen: &mut Seen,
    header: std::result::Result<vlmsel_shards::image_header::ImageHeader, Fault>,
    place: &dyn Fn(&str) -> String,
) {
    match header {
        Err(fault) => seen.note(fault.reason(), 1, || place(&format!(": {fault}"))),
        Ok(header) if header.width < TINY_PIXELS || header.height < TINY_PIXELS => {
            seen.note("tiny_image", 1, || place(&format!(": {} x {} pixels", header.width, header.height)));
        }
        Ok(_) => {}
    }
}

fn note_text(seen: &mut Seen, text: Option<&str>, place: &dyn Fn(&str) -> String) {
    match text {
        None => seen.note("no_caption", 1, || place("")),
        Some(text) => {
            seen.texts += 1;
            if normalise_text(text).is_empty() {
                seen.note("empty_caption", 1, || place(""));
            }
        }
    }
}

fn look_at_json(shard: &ShardFile, root: &Path, pairs: &SharedPairs, progress: &Progress) -> Result<Seen> {
    let (mut seen, name, mut found) = (Seen::default(), shard.unit(), Vec::new());
    let mut keys = std::collections::HashSet::new();
    let mut values = match JsonValues::open(&shard.path) {
        Ok(values) => values,
        Err(error) => {
            seen.note("unreadable_file", 1, || error.to_string());
            return Ok(seen);
        }
    };
    loop {
        let (row, value) = match values.read_next() {
            Ok(Some(next)) => next,
            Ok(None) => break,
            Err(error) => {
                seen.note("unreadable_file", 1, || error.to_string());
                break;
            }
        };
        seen.records += 1;
        let (parsed, bytes) = match value {
            Value::Refused(reason) => (Err((reason, String::new())), 0),
            Value::Json(json) => (parse(&json, None), json.len() as u64),
        };
        match parsed {
            Err((reason, detail)) => seen.note(reason, 1, || format!("{name}, row {row}: {detail}")),
            Ok(record) => {
                if record.key.as_ref().is_some_and(|key| !keys.insert(image_hash(key.as_bytes()))) {
                    seen.note("repeated_key", 1, || {
                        format!("{name}, row {row}: id {}", record.key.clone().unwrap_or_default())
                    });
                }
                look_at_record(&mut seen, &format!("{name}, row {row}"), root, &record, &mut found);
            }
        }
        if found.len() > 4096 {
            remember(pairs, std::mem::take(&mut found));
        }
        progress.add(1, bytes)?;
    }
    remember(pairs, found);
    Ok(seen)
}

fn look_at_record(seen: &mut Seen, at: &str, root: &Path, record: &Record, found: &mut Vec<(Hash128, Hash128)>) {
    let place = |detail: &str| format!("{at}{detail}");
    let text = record.text.as_deref().or(record.spoken.as_deref());
    note_text(seen, text, &place);
    for below in &record.images {
        seen.images += 1;
        let path = root.join(below);
        match std::fs::metadata(&path) {
            Ok(meta) if meta.is_file() && meta.len() <= MAX_IMAGE_BYTES => match std::fs::read(&path) {
                Ok(bytes) => {
                    note_image(seen, check_complete(&bytes), &|detail| format!("{at}, {below}{detail}"));
                    if let Some(text) = text {
                        found.push((image_hash(&bytes), text_hash(text)));
                    }
                }
                Err(error) => seen.note("unreadable_image", 1, || format!("{at}, {below}: {error}")),
            },
            Ok(_) => seen.note("unreadable_image", 1, || format!("{at}, {below}: no plain file of at most 256 MiB")),
            Err(_) => seen.note("missing_image", 1, || format!("{at}, {below}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_thinned_by_picture() {
        let mut pairs = Pairs { kept: Vec::new(), capacity: 100, shift: 0 };
        for i in 0..5000_u32 {
            let image = image_hash(&(i / 5).to_le_bytes());
            pairs.push(image, [(i % 5) as u8; 16]);
        }
        assert!(pairs.kept.len() <= 100 && pairs.shift > 0);
        let mut findings = BTreeMap::new();
        let kept = pairs.kept.len() as u64;
        count_repeats(pairs.kept, &mut findings);
        // A picture that is followed is followed wholly: all five captions of each.
        assert_eq!(findings["one_image_many_captions"].count, kept / 5);
    }
}
