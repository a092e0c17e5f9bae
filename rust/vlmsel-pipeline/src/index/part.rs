//! Doing one unit: a shard read to its end becomes a table of its samples and a list of what was put aside.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use serde_json::{Map, Value, json};
use vlmsel_core::hash::{Hash128, image_hash, text_hash, uid};
use vlmsel_shards::error::IoContext;
use vlmsel_shards::formats::reader::{Depth, Note};
use vlmsel_shards::formats::sample::{ImageRow, Kept, Position, Sample, SampleClass, SampleImage};
use vlmsel_shards::tables::codes::CodeRow;
use vlmsel_shards::tables::index::{IndexRow, IndexTableWriter};
use vlmsel_shards::workspace::noted::Noted;
use vlmsel_shards::workspace::output::{HashedFile, Output};
use vlmsel_shards::workspace::quarantine::{LISTED, Quarantined, to_json_lines};

use super::sameness::{NamedFiles, check_unchanged};
use super::{Indexing, root_text};
use crate::codes::beside::PartFile;
use crate::error::{Error, Result};
use crate::finding::Finding;
use crate::progress::Progress;
use crate::read_shard::{Found, read_shard};
use crate::sources::ShardFile;
use crate::stage::Done;
use crate::tolerance::Tolerance;

/// Reads `shard` and writes its part.
pub(super) fn make(stage: &Indexing<'_>, shard: &ShardFile, mut noted: Noted, output: &Output) -> Result<Done> {
    let &Indexing { options, image_root, progress, pool, .. } = stage;
    progress.check()?;
    let begun = Instant::now();
    let name = part_name(&shard.unit());
    let (table_name, quarantine_name) = (format!("{name}.parquet"), format!("{name}.quarantine.jsonl"));
    let path = output.temporary(&table_name)?;
    let table = IndexTableWriter::new(HashedFile::create(&path)?, &shard.source, &shard.name)?;
    let mut part = Part {
        shard,
        tolerance: options.run.tolerance(),
        progress,
        table,
        codes: match &stage.ahead {
            Some(ahead) => ahead.part(&shard.unit(), &table_name)?,
            None => None,
        },
        ordinals: HashMap::new(),
        named: NamedFiles::new(),
        quarantined: Vec::new(),
        reasons: BTreeMap::new(),
        bad: 0,
        rows: 0,
        lost_with_file: 0,
        classes: BTreeMap::new(),
        notes: BTreeMap::new(),
        text_only: Finding::default(),
    };
    let root = stage.image_root_of(shard);
    let (depth, coder) = match part.codes {
        Some(_) => (Depth::Contents, Some(&stage.coder)),
        None => (Depth::Headers, None),
    };
    let closing = read_shard(shard, &root, &options.read, depth, pool, coder, &mut |found| part.take(found))?;
    for lost in closing.lost {
        part.put_aside(lost)?;
    }
    for Note { kind, count, examples } in closing.notes {
        // Told by the counts of the manifest.
        if !matches!(kind, "failed_download" | "repeated_row_key") {
            part.notes.entry(kind.to_owned()).or_default().merge(Finding { count, examples });
        }
    }
    part.note_text_among_pairs();
    let mut damage = closing.damage.last().map(ToString::to_string);
    if shard.format.names_files() {
        noted.named_files = part.named.finish().filter(|_| damage.is_none());
    }
    if let Err(changed) = check_unchanged(shard, &noted) {
        damage.get_or_insert(changed.to_string());
    }
    let Part { table, codes, quarantined, reasons, bad, rows, classes, notes, lost_with_file, .. } = part;
    let (written, file) = table.finish()?;
    let hash = file.finish()?;
    if written != rows {
        return Err(Error::Bug(format!("{rows} rows of {} became {written}", shard.path.display())));
    }
    if let (Some(ahead), Some(codes)) = (&stage.ahead, codes) {
        ahead.commit(&shard.unit(), codes, hash, begun.elapsed())?;
    }
    let mut files = vec![(table_name, Some(hash))];
    if !quarantined.is_empty() {
        let path = output.temporary(&quarantine_name)?;
        std::fs::write(&path, to_json_lines(&quarantined)).at("write", &path)?;
        files.push((quarantine_name, None));
    }
    let counts = [("input", rows + bad), ("ok", rows), ("quarantined", bad)];
    let counts = counts.into_iter().map(|(name, count)| (name.to_owned(), count)).collect();
    let mut detail: Map<String, Value> = closing.detail;
    if shard.format.names_files() {
        detail.insert("image_root".to_owned(), json!(root_text(image_root)));
    }
    detail.insert("sidecar".to_owned(), shard.sidecar.is_some().into());
    detail.insert("reasons".to_owned(), json!(reasons));
    detail.insert("damage".to_owned(), json!(damage));
    detail.insert("lost_with_file".to_owned(), lost_with_file.into());
    let classes: BTreeMap<&str, u64> = classes.iter().map(|(class, count)| (class.name(), *count)).collect();
    detail.insert("classes".to_owned(), json!(classes));
    detail.insert("notes".to_owned(), json!(notes));
    // What names files, and could not say which, is looked at again.
    let noted = Some(noted).filter(|noted| noted.named_files.is_some() || !shard.format.names_files());
    Ok(Done { files, rows, counts, detail: detail.into(), noted })
}

/// The part's file name: readable, unique, and short whatever the shard is called.
fn part_name(unit: &str) -> String {
    let plain: String =
        unit.chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_') { c } else { '-' }).collect();
    let tail: String = plain.chars().rev().take(80).collect::<Vec<_>>().into_iter().rev().collect();
    let hash = vlmsel_core::hash::to_hex(&vlmsel_core::hash::image_hash(unit.as_bytes()));
    format!("{}-{}", tail.trim_start_matches(['.', '_', '-']), &hash[..8])
}

/// Collects what one shard gives.
struct Part<'a> {
    shard: &'a ShardFile,
    tolerance: Tolerance,
    progress: &'a Progress,
    table: IndexTableWriter<HashedFile>,
    /// Codes of the images, where they are made in the same pass.
    codes: Option<PartFile>,
    /// How often each key was there, where keys may repeat. By the key's hash, which is smaller; keys that share one would only
    /// get ordinals that nobody needed.
    ordinals: HashMap<Hash128, u64>,
    named: NamedFiles,
    quarantined: Vec<Quarantined>,
    reasons: BTreeMap<String, u64>,
    bad: u64,
    rows: u64,
    /// Of the bad, those that went with the damage of the file.
    lost_with_file: u64,
    classes: BTreeMap<SampleClass, u64>,
    notes: BTreeMap<String, Finding>,
    /// Samples of text alone.
    text_only: Finding,
}

/// Notes on samples that say nothing about whether they are whole.
const QUIET: [&str; 2] = ["no_image", "member_without_row"];

impl Part<'_> {
    fn take(&mut self, found: Found) -> Result<()> {
        match found {
            Found::Passed(bytes, _) => Ok(self.progress.add(0, bytes)?),
            Found::Stray(stray) | Found::Record(Err(stray)) => self.put_aside(stray),
            Found::Record(Ok(sample)) => {
                for (name, identity) in &sample.named_files {
                    self.named.add(name, *identity);
                }
                if let Some(bad) = sample.fault() {
                    let position = sample.position;
                    let unit = self.shard.unit();
                    let record = Quarantined::new(&unit, position.unit, Some(position.number), bad.reason, &bad.detail);
                    // A key that may repeat says less than the position.
                    let key = sample.key.as_deref().filter(|_| !self.shard.format.keys_repeat());
                    return self.put_aside(match key {
                        Some(key) => record.with_key(key),
                        None => record,
                    });
                }
                self.add(sample)
            }
        }
    }

    fn add(&mut self, sample: Sample) -> Result<()> {
        let class = sample.class();
        for note in sample.notes.iter().filter(|note| !QUIET.contains(&note.reason)) {
            let Position { unit, number } = sample.position;
            let shard = &self.shard;
            let place = || format!("{}, {unit} {number}: {}", shard.unit(), note.detail);
            self.notes.entry(note.reason.to_owned()).or_default().add(1, place);
        }
        if class == Some(SampleClass::TextOnly) && !self.shard.format.names_files() {
            let key = sample.key.clone().unwrap_or_default();
            self.text_only.add(1, || format!("{}: {key}", self.shard.unit()));
        }
        if let Some(class) = class {
            *self.classes.entry(class).or_default() += 1;
        }
        if class == Some(SampleClass::Unsupported) {
            self.note_unsupported(&sample)?;
        }
        // A record without a key is known by its number.
        let hashed = sample.text().map(text_hash);
        let key = sample.key.unwrap_or_else(|| sample.position.number.to_string());
        let ordinal = if sample.uid.is_none() && self.shard.format.keys_repeat() {
            let next = self.ordinals.entry(image_hash(key.as_bytes())).or_default();
            *next += 1;
            *next - 1
        } else {
            0
        };
        self.rows += 1;
        self.progress.add(1, 0)?;
        let uid = sample.uid.unwrap_or_else(|| uid(&self.shard.source, &self.shard.name, &key, ordinal));
        self.add_codes(uid, &sample.images)?;
        let images: Vec<ImageRow> = sample.images.into_iter().filter_map(|image| image.found.ok()).collect();
        Ok(self.table.push(IndexRow {
            uid,
            key,
            images,
            members: sample.members,
            text: sample.said.text,
            conversations: sample.said.conversations,
            n_turns: sample.said.n_turns,
            text_hash: hashed,
            class: class.map(SampleClass::name),
            metadata: sample.metadata,
        })?)
    }

    /// Codes of the images that the index has. Where bytes were not handed over, which is so for the longest images and for
    /// forms that know nothing of it, the part is left to be made of the index.
    fn add_codes(&mut self, uid: Hash128, images: &[SampleImage]) -> Result<()> {
        let good = images.iter().filter(|image| image.found.is_ok());
        for (image, found) in (0..).zip(good) {
            match (&mut self.codes, &found.kept) {
                (Some(file), Kept::Codes(coded)) => file.push(CodeRow { uid, image, coded: *coded })?,
                _ => self.codes = None,
            }
        }
        Ok(())
    }

    /// A medium of a kind that is not read: a row, and counted like what could not be read.
    fn note_unsupported(&mut self, sample: &Sample) -> Result<()> {
        let bad = sample.images.iter().find_map(|image| image.found.as_ref().err());
        let Some(bad) = bad else { return Ok(()) };
        let Position { unit, number } = sample.position;
        let record = Quarantined::new(&self.shard.unit(), unit, Some(number), bad.reason, &bad.detail);
        self.tolerance.refuse(&record)?;
        let place = format!("{}, {unit} {number}: {}", self.shard.unit(), bad.detail);
        self.notes.entry(bad.reason.to_owned()).or_default().add(1, || place);
        Ok(())
    }

    /// Among samples with pictures, one of text alone may have lost its own.
    fn note_text_among_pairs(&mut self) {
        let has_pictures =
            self.classes.keys().any(|class| !matches!(class, SampleClass::TextOnly | SampleClass::Unsupported));
        if self.text_only.count > 0 && has_pictures {
            self.notes.insert("text_without_picture".to_owned(), std::mem::take(&mut self.text_only));
        }
    }

    fn put_aside(&mut self, record: Quarantined) -> Result<()> {
        self.tolerance.refuse(&record)?;
        self.bad += 1;
        self.lost_with_file += u64::from(record.is_of_tar());
        *self.reasons.entry(record.reason.clone()).or_default() += 1;
        if self.quarantined.len() < LISTED {
            self.quarantined.push(record);
        }
        Ok(())
    }
}
