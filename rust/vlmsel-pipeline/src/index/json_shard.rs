//! Indexing one LLaVA or caption JSON file; its images are files below the image root.

use std::collections::HashMap;
use std::path::Path;

use rayon::ThreadPool;
use rayon::prelude::*;
use vlmsel_core::hash::{Hash128, ImageHasher, image_hash, text_hash, uid};
use vlmsel_shards::Error as ShardError;
use vlmsel_shards::formats::json_stream::{JsonValues, Value};
use vlmsel_shards::formats::llava::{Record, parse};
use vlmsel_shards::images::header::{ImageHeader, read_header};
use vlmsel_shards::storage::identity::Identity;
use vlmsel_shards::storage::source::{LocalFile, ReadAt};
use vlmsel_shards::tables::index::{ImageRow, IndexRow};
use vlmsel_shards::workspace::quarantine::Quarantined;

use super::Unit;
use super::sameness::NamedFiles;
use crate::error::Result;
use crate::progress::Progress;
use crate::sources::ShardFile;

/// A record with its pictures, or why it is bad.
type Parsed = std::result::Result<(Record, Vec<ImageRow>), Bad>;

/// Records whose images are read at one time.
const BATCH_ROWS: usize = 256;
/// Bytes of records in one batch, so that long ones do not add up.
const BATCH_BYTES: usize = 8 << 20;
const BLOCK_BYTES: usize = 1 << 20;

type Bad = (&'static str, String);

/// Records with their numbers, and their bytes in all.
type Batch = (Vec<(u64, Value)>, usize);

/// The records of a file, some at a time.
struct Batches {
    values: JsonValues,
    /// Why the file cannot be read further.
    damage: Option<String>,
    ended: bool,
}

impl Batches {
    /// `Err` with the reason for a file that cannot be opened.
    fn open(path: &Path) -> Result<std::result::Result<Self, String>> {
        match JsonValues::open(path) {
            Ok(values) => Ok(Ok(Self { values, damage: None, ended: false })),
            Err(error) if error.is_of_file() => Ok(Err(error.to_string())),
            Err(error) => Err(error.into()),
        }
    }

    /// The next records; `None` behind the last.
    fn next(&mut self) -> Result<Option<Batch>> {
        if self.ended {
            return Ok(None);
        }
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < BATCH_ROWS && bytes < BATCH_BYTES {
            match self.values.read_next() {
                Ok(Some((row, value))) => {
                    if let Value::Json(json) = &value {
                        bytes += json.len();
                    }
                    batch.push((row, value));
                }
                Ok(None) => {
                    self.ended = true;
                    break;
                }
                Err(error) if error.is_of_file() => {
                    self.damage = Some(error.to_string());
                    self.ended = true;
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Some((batch, bytes)))
    }
}

/// Indexes the records; returns the hash over the images that they name.
pub(super) fn read(unit: &mut Unit<'_>, image_root: &Path, pool: &ThreadPool) -> Result<Option<String>> {
    let mut batches = match Batches::open(&unit.shard.path)? {
        Ok(batches) => batches,
        Err(damage) => {
            unit.damage = Some(damage);
            return Ok(None);
        }
    };
    let total = std::fs::metadata(&unit.shard.path).map_or(0, |meta| meta.len());
    let mut counted = 0;
    let mut named = NamedFiles::new();
    // By the key's hash, which is smaller; keys that share one would only get ordinals that nobody needed.
    let mut ordinals: HashMap<Hash128, u64> = HashMap::new();
    let id_field = unit.options.id_column.as_deref();
    let progress = unit.progress;
    while let Some((batch, bytes)) = batches.next()? {
        let read: Vec<(u64, Parsed, Vec<Named>)> = pool.install(|| {
            batch
                .into_par_iter()
                .map(|(row, value)| {
                    let parsed = parse_value(&value, id_field);
                    // Looked at before it is read: what changes from here on will show.
                    let files = named_by(&parsed, image_root);
                    Ok((row, with_images(parsed, image_root)?, files))
                })
                .collect::<vlmsel_shards::Result<_>>()
        })?;
        // A compressed file is read faster than its own size tells: the counter never runs past it.
        let step = (bytes as u64).min(total - counted);
        counted += step;
        progress.add(0, step)?;
        for (row, result, files) in read {
            for (name, identity) in &files {
                named.add(name, *identity);
            }
            match result {
                Ok((record, images)) => push(unit, row, record, images, &mut ordinals)?,
                Err((reason, detail)) => {
                    unit.quarantine(Quarantined::new(&unit.shard.unit(), "row", Some(row), reason, &detail))?;
                }
            }
        }
    }
    unit.damage = batches.damage;
    progress.add(0, total - counted)?;
    Ok(named.finish())
}

/// Hash over the images that the records name, without reading one.
pub(super) fn named_files(
    shard: &ShardFile,
    image_root: &Path,
    id_field: Option<&str>,
    pool: &ThreadPool,
    progress: &Progress,
) -> Result<Option<String>> {
    let Ok(mut batches) = Batches::open(&shard.path)? else { return Ok(None) };
    let mut named = NamedFiles::new();
    while let Some((batch, _)) = batches.next()? {
        progress.check()?;
        let files: Vec<Vec<Named>> = pool.install(|| {
            batch.into_par_iter().map(|(_, value)| named_by(&parse_value(&value, id_field), image_root)).collect()
        });
        for (name, identity) in files.iter().flatten() {
            named.add(name, *identity);
        }
    }
    Ok(named.finish().filter(|_| batches.damage.is_none()))
}

/// A file that a record names, and what the file system says of it, if it is there.
type Named = (String, Option<Identity>);

fn named_by(parsed: &std::result::Result<Record, Bad>, image_root: &Path) -> Vec<Named> {
    let images = parsed.iter().flat_map(|record| &record.images);
    images.map(|below| (below.clone(), Identity::at(&image_root.join(below)).ok())).collect()
}

fn parse_value(value: &Value, id_field: Option<&str>) -> std::result::Result<Record, Bad> {
    match value {
        Value::Refused(reason) => Err((reason, String::new())),
        Value::Json(json) => parse(json, id_field),
    }
}

fn with_images(parsed: std::result::Result<Record, Bad>, image_root: &Path) -> vlmsel_shards::Result<Parsed> {
    let record = match parsed {
        Ok(record) => record,
        Err(bad) => return Ok(Err(bad)),
    };
    let mut images = Vec::with_capacity(record.images.len());
    for path in &record.images {
        match open_image(image_root, path)? {
            Ok(image) => images.push(image),
            Err(bad) => return Ok(Err(bad)),
        }
    }
    Ok(Ok((record, images)))
}

fn push(
    unit: &mut Unit<'_>,
    row: u64,
    record: Record,
    images: Vec<ImageRow>,
    ordinals: &mut HashMap<Hash128, u64>,
) -> Result<()> {
    // A record without an id is known by its number.
    let key = record.key.unwrap_or_else(|| row.to_string());
    let ordinal = if record.uid.is_some() {
        0
    } else {
        let next = ordinals.entry(image_hash(key.as_bytes())).or_default();
        *next += 1;
        *next - 1
    };
    let hashed = record.text.as_deref().or(record.spoken.as_deref()).map(text_hash);
    unit.push(IndexRow {
        uid: record.uid.unwrap_or_else(|| uid(&unit.shard.source, &unit.shard.name, &key, ordinal)),
        key,
        images,
        members: Vec::new(),
        text: record.text,
        conversations: record.conversations,
        n_turns: record.n_turns,
        text_hash: hashed,
        metadata: record.metadata,
    })?;
    Ok(())
}

/// The picture at a path below the root, or why it is bad. Links are followed: the folder is the user's own.
fn open_image(root: &Path, below: &str) -> vlmsel_shards::Result<std::result::Result<ImageRow, Bad>> {
    let read = LocalFile::open(&root.join(below)).and_then(|file| {
        let hashed = hash_image(&file)?;
        file.check_unchanged()?;
        Ok((file.size_bytes(), hashed))
    });
    let (size, (hash, header)) = match read {
        Ok(read) => read,
        Err(ShardError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            return Ok(Err(("missing_image", below.to_owned())));
        }
        Err(error) if error.is_of_file() => return Ok(Err(("unreadable_image", error.to_string()))),
        Err(error) => return Err(error),
    };
    Ok(match header {
        Ok(ImageHeader { width, height, .. }) => {
            Ok(ImageRow { file: Some(below.to_owned()), offset: 0, size, width, height, hash })
        }
        Err(fault) => Err((fault.reason(), format!("{below}: {fault}"))),
    })
}

type Header = std::result::Result<ImageHeader, vlmsel_shards::images::header::Fault>;

fn hash_image(file: &LocalFile) -> vlmsel_shards::Result<(Hash128, Header)> {
    let size = file.size_bytes();
    let mut buffer = vec![0; (size as usize).min(BLOCK_BYTES)];
    let (mut hasher, mut header, mut at) = (ImageHasher::default(), read_header(&[]), 0);
    while at < size {
        let length = ((size - at) as usize).min(BLOCK_BYTES);
        file.read_exact_at(&mut buffer[..length], at)?;
        if at == 0 {
            header = read_header(&buffer[..length]);
        }
        hasher.update(&buffer[..length]);
        at += length as u64;
    }
    Ok((hasher.finish(), header))
}
