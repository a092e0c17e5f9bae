//! Indexing one LLaVA or caption JSON file; its images are files below the image root.

use std::collections::HashMap;
use std::path::Path;

use rayon::prelude::*;
use vlmsel_core::hash::{Hash128, ImageHasher, text_hash, uid};
use vlmsel_shards::Error as ShardError;
use vlmsel_shards::image_header::{ImageHeader, read_header};
use vlmsel_shards::index_table::{ImageRow, IndexRow};
use vlmsel_shards::json_values::{JsonValues, Value};
use vlmsel_shards::llava::{Record, parse};
use vlmsel_shards::quarantine::Quarantined;
use vlmsel_shards::source::{LocalFile, ReadAt};

use super::Unit;
use crate::error::Result;

/// A record with its pictures, or why it is bad.
type Parsed = std::result::Result<(Record, Vec<ImageRow>), Bad>;

/// Records whose images are read at one time.
const BATCH_ROWS: usize = 256;
/// Bytes of records in one batch, so that long ones do not add up.
const BATCH_BYTES: usize = 8 << 20;
const BLOCK_BYTES: usize = 1 << 20;

type Bad = (&'static str, String);

pub(super) fn read(unit: &mut Unit<'_>, image_root: &Path) -> Result<()> {
    let mut values = match JsonValues::open(&unit.shard.path) {
        Ok(values) => values,
        Err(error) => {
            unit.damage = Some(error.to_string());
            return Ok(());
        }
    };
    let total = std::fs::metadata(&unit.shard.path).map_or(0, |meta| meta.len());
    let mut passed = 0;
    let mut ordinals: HashMap<String, u64> = HashMap::new();
    loop {
        let (mut batch, mut bytes, mut ended) = (Vec::new(), 0, false);
        while batch.len() < BATCH_ROWS && bytes < BATCH_BYTES {
            match values.read_next() {
                Ok(Some((row, value))) => {
                    if let Value::Json(json) = &value {
                        bytes += json.len();
                    }
                    batch.push((row, value));
                }
                Ok(None) => {
                    ended = true;
                    break;
                }
                Err(error @ ShardError::Unreadable { .. }) => {
                    unit.damage = Some(error.to_string());
                    ended = true;
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
        let id_field = unit.options.id_column.as_deref();
        let progress = unit.progress;
        let read: Vec<(u64, Parsed)> = batch
            .into_par_iter()
            .map(|(row, value)| {
                let result = match value {
                    Value::Refused(reason) => Err((reason, String::new())),
                    Value::Json(json) => parse(&json, id_field).and_then(|record| {
                        let images = record
                            .images
                            .iter()
                            .map(|path| open_image(image_root, path))
                            .collect::<std::result::Result<_, _>>()?;
                        Ok((record, images))
                    }),
                };
                (row, result)
            })
            .collect();
        // A compressed file is read faster than its own size tells: the counter never runs past it.
        let step = (bytes as u64).min(total - passed);
        passed += step;
        progress.add(0, step)?;
        for (row, result) in read {
            match result {
                Ok((record, images)) => push(unit, row, record, images, &mut ordinals)?,
                Err((reason, detail)) => {
                    unit.put_aside(Quarantined::new(&unit.shard.unit(), "row", Some(row), reason, &detail))?;
                }
            }
        }
        if ended {
            return Ok(progress.add(0, total - passed)?);
        }
    }
}

fn push(
    unit: &mut Unit<'_>,
    row: u64,
    record: Record,
    images: Vec<ImageRow>,
    ordinals: &mut HashMap<String, u64>,
) -> Result<()> {
    // A record without an id is known by its number.
    let key = record.key.unwrap_or_else(|| row.to_string());
    let ordinal = if record.uid.is_some() {
        0
    } else {
        let next = ordinals.entry(key.clone()).or_default();
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

fn open_image(root: &Path, below: &str) -> std::result::Result<ImageRow, Bad> {
    let path = root.join(below);
    let unreadable = |error: &ShardError| ("unreadable_image", error.to_string());
    let file = match LocalFile::open(&path) {
        Ok(file) => file,
        Err(ShardError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            return Err(("missing_image", below.to_owned()));
        }
        Err(error) => return Err(unreadable(&error)),
    };
    let (hash, header) = hash_image(&file).map_err(|error| unreadable(&error))?;
    let header = header.map_err(|fault| (fault.reason(), format!("{below}: {fault}")))?;
    let size = file.size_bytes();
    Ok(ImageRow { file: Some(below.to_owned()), offset: 0, size, width: header.width, height: header.height, hash })
}

type Header = std::result::Result<ImageHeader, vlmsel_shards::image_header::Fault>;

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
