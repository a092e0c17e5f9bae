//! Looking at one LLaVA or caption JSON file, and at the images that it names.

use std::collections::HashSet;
use std::path::Path;

use rayon::prelude::*;
use vlmsel_core::hash::{Hash128, image_hash, text_hash};
use vlmsel_shards::Error as ShardError;
use vlmsel_shards::formats::json_stream::{JsonValues, Value};
use vlmsel_shards::formats::llava::{Record, parse};
use vlmsel_shards::formats::webdataset::MAX_IMAGE_BYTES;
use vlmsel_shards::images::check::check_image;
use vlmsel_shards::images::header::{Fault, ImageHeader, read_header};
use vlmsel_shards::storage::source::{LocalFile, ReadAt};

use super::Context;
use super::findings::Seen;
use super::repeated_pairs::Pairs;
use crate::error::Result;
use crate::sources::ShardFile;

/// Records whose images are read at one time.
const BATCH_ROWS: usize = 256;
/// Bytes of records in one batch, so that long ones do not add up.
const BATCH_BYTES: usize = 8 << 20;

type Bad = (&'static str, String);
/// What became of a picture: its hash and what is wrong with it, or why it could not be read.
type Looked = std::result::Result<(Hash128, std::result::Result<ImageHeader, Fault>), Bad>;

/// A record and its pictures, or why it is bad.
type Parsed = std::result::Result<(Record, Vec<Looked>), Bad>;

pub(super) fn look_at(shard: &ShardFile, root: &Path, context: &Context<'_>) -> Result<Seen> {
    let (mut seen, name) = (Seen::default(), shard.unit());
    let mut values = match JsonValues::open(&shard.path) {
        Ok(values) => values,
        Err(error) if error.is_of_file() => {
            seen.note("unreadable_file", || error.to_string());
            return Ok(seen);
        }
        Err(error) => return Err(error.into()),
    };
    let (mut keys, mut found, mut ended) = (HashSet::new(), Vec::new(), false);
    while !ended {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < BATCH_ROWS && bytes < BATCH_BYTES && !ended {
            match values.read_next() {
                Ok(Some((row, value))) => {
                    if let Value::Json(json) = &value {
                        bytes += json.len();
                    }
                    batch.push((row, value));
                }
                Ok(None) => ended = true,
                Err(error) if error.is_of_file() => {
                    seen.note("unreadable_file", || error.to_string());
                    ended = true;
                }
                Err(error) => return Err(error.into()),
            }
        }
        let records = batch.len() as u64;
        let read: Vec<(u64, Parsed)> = context.pool.install(|| {
            let look = |(row, value)| Ok((row, take_apart(value, root)?));
            batch.into_par_iter().map(look).collect::<vlmsel_shards::Result<_>>()
        })?;
        for (row, parsed) in read {
            seen.records += 1;
            let at = format!("{name}, row {row}");
            match parsed {
                Err((reason, detail)) => seen.note(reason, || format!("{at}: {detail}")),
                Ok((record, images)) => {
                    if let Some(key) = record.key.as_ref().filter(|key| !keys.insert(image_hash(key.as_bytes()))) {
                        seen.note("repeated_key", || format!("{at}: id {key}"));
                    }
                    note_record(&mut seen, &at, &record, images, &mut found);
                }
            }
        }
        Pairs::remember(context.pairs, &mut found);
        context.progress.add(records, bytes as u64)?;
    }
    Ok(seen)
}

fn take_apart(value: Value, root: &Path) -> vlmsel_shards::Result<Parsed> {
    Ok(match value {
        Value::Refused(reason) => Err((reason, String::new())),
        Value::Json(json) => match parse(&json, None) {
            Err(bad) => Err(bad),
            Ok(record) => {
                let images =
                    record.images.iter().map(|below| look(root, below)).collect::<vlmsel_shards::Result<_>>()?;
                Ok((record, images))
            }
        },
    })
}

fn look(root: &Path, below: &str) -> vlmsel_shards::Result<Looked> {
    match read(&root.join(below)) {
        Ok((bytes, size)) if bytes.len() as u64 == size => Ok(Ok((image_hash(&bytes), check_image(&bytes)))),
        Ok((head, size)) => {
            let fault = read_header(&head).map_or_else(|fault| fault, |header| Fault::Long(header.format, size));
            Ok(Err((fault.reason(), fault.to_string())))
        }
        Err(ShardError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            Ok(Err(("missing_image", String::new())))
        }
        Err(error) if error.is_of_file() => Ok(Err(("unreadable_image", error.to_string()))),
        Err(error) => Err(error),
    }
}

/// A file's bytes and size; of one that is too long its first bytes.
fn read(path: &Path) -> vlmsel_shards::Result<(Vec<u8>, u64)> {
    let file = LocalFile::open(path)?;
    let size = file.size_bytes();
    let mut bytes = vec![0; if size <= MAX_IMAGE_BYTES { size as usize } else { 1 << 16 }];
    file.read_exact_at(&mut bytes, 0)?;
    Ok((bytes, size))
}

fn note_record(seen: &mut Seen, at: &str, record: &Record, images: Vec<Looked>, found: &mut Vec<(Hash128, Hash128)>) {
    let text = record.text.as_deref().or(record.spoken.as_deref());
    seen.note_text(text, &|detail| format!("{at}{detail}"));
    for (below, looked) in record.images.iter().zip(images) {
        seen.images += 1;
        match looked {
            Ok((hash, checked)) => {
                seen.note_image(checked, &|detail| format!("{at}, {below}{detail}"));
                if let Some(text) = text {
                    found.push((hash, text_hash(text)));
                }
            }
            Err((reason, detail)) => seen.note(reason, || format!("{at}, {below}: {detail}")),
        }
    }
}
