//! Records of a LLaVA or caption JSON file; their images are files below the image root.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use vlmsel_core::hash::{Hash128, ImageHasher, image_hash};

use super::{is_remote, parse};
use crate::error::{Error, Result};
use crate::formats::json_stream::{JSON_ENDINGS, JsonValues, Value, is_json_name};
use crate::formats::location::{ImageLocation, join};
use crate::formats::reader::{
    BATCH_BYTES, BATCH_RECORDS, Batch, Closing, Damage, Depth, Format, MAX_CHECKED_BYTES, RawSample, Record,
    SampleReader, Shard,
};
use crate::formats::sample::{ImageRow, Position, Sample, SampleImage, Taken};
use crate::images::check::check_image;
use crate::images::header::{Fault, ImageHeader, read_header};
use crate::storage::identity::Identity;
use crate::storage::source::{LocalFile, ReadAt};
use crate::storage::stand_in::refuse_stand_in_at;
use crate::workspace::quarantine::{Bad, Quarantined};

const BLOCK_BYTES: usize = 1 << 20;

/// LLaVA's JSON, and captions in JSON: as lines or as a list.
pub struct Llava;

impl Format for Llava {
    fn name(&self) -> &'static str {
        "llava"
    }

    fn endings(&self) -> &'static [&'static str] {
        &JSON_ENDINGS
    }

    fn recognises(&self, path: &Path) -> bool {
        is_json_name(path)
    }

    fn is_bookkeeping(&self, name: &str) -> bool {
        const NAMES: [&str; 8] = [
            "sizes.json",
            "meta.json",
            "manifest.json",
            "run.json",
            "dataset_info.json",
            "dataset_infos.json",
            "dataset_dict.json",
            "state.json",
        ];
        name.ends_with("_stats.json") || NAMES.contains(&name)
    }

    // The JSON files beside tars are statistics that img2dataset and others leave.
    fn rank(&self) -> u8 {
        1
    }

    fn names_files(&self) -> bool {
        true
    }

    fn keys_repeat(&self) -> bool {
        true
    }

    fn open(&self, shard: &Shard<'_>) -> Result<Box<dyn SampleReader>> {
        Ok(Box::new(Reader::new(JsonValues::open(shard.path)?, shard)))
    }
}

/// What all records of a file share.
struct Common {
    unit: String,
    image_root: PathBuf,
    id_field: Option<String>,
    depth: Depth,
}

/// Records in JSON, one after the other, with their numbers from 0; as [`JsonValues::read_next`].
pub(in crate::formats) trait Values {
    fn read_next(&mut self) -> Result<Option<(u64, Value)>>;
}

impl Values for JsonValues {
    fn read_next(&mut self) -> Result<Option<(u64, Value)>> {
        Self::read_next(self)
    }
}

/// Reads samples from records in JSON, wherever these come from.
pub(in crate::formats) struct Reader<V> {
    values: V,
    common: Arc<Common>,
    /// Bytes of the file that were not told yet. A compressed file is read faster than its own size tells: the sum never
    /// runs past it.
    left: u64,
    ended: bool,
    damage: Option<Damage>,
}

impl<V: Values> Reader<V> {
    pub fn new(values: V, shard: &Shard<'_>) -> Self {
        let common = Common {
            unit: shard.unit.to_owned(),
            image_root: shard.image_root.to_path_buf(),
            id_field: shard.options.id_column.clone(),
            depth: shard.depth,
        };
        let left = std::fs::metadata(shard.path).map_or(0, |meta| meta.len());
        Self { values, common: Arc::new(common), left, ended: false, damage: None }
    }
}

impl<V: Values> SampleReader for Reader<V> {
    fn next_batch(&mut self) -> Result<Option<Batch>> {
        if self.ended {
            return Ok(None);
        }
        let mut batch = Batch { is_costly: true, ..Batch::default() };
        let mut bytes = 0;
        while batch.records.len() < BATCH_RECORDS && bytes < BATCH_BYTES && !self.ended {
            match self.values.read_next() {
                Ok(Some((row, value))) => {
                    if let Value::Json(json) = &value {
                        bytes += json.len();
                    }
                    batch.records.push(Record::Raw(Box::new(RawRecord { row, value, common: self.common.clone() })));
                }
                Ok(None) => self.ended = true,
                Err(error) if error.is_of_file() => {
                    self.damage = Some(Damage::unreadable(error));
                    self.ended = true;
                }
                Err(error) => return Err(error),
            }
        }
        batch.bytes = if self.ended { self.left } else { (bytes as u64).min(self.left) };
        self.left -= batch.bytes;
        Ok(Some(batch))
    }

    fn close(self: Box<Self>) -> Closing {
        Closing { damage: self.damage.into_iter().collect(), ..Closing::default() }
    }
}

/// A record in JSON, not taken apart yet.
struct RawRecord {
    row: u64,
    value: Value,
    common: Arc<Common>,
}

impl RawSample for RawRecord {
    fn take_apart(self: Box<Self>) -> Result<Taken> {
        let Self { row, value, common } = *self;
        let parsed = match value {
            Value::Refused(reason) => Err((reason, String::new())),
            Value::Json(json) => parse(&json, common.id_field.as_deref()),
        };
        let record = match parsed {
            Ok(record) => record,
            Err((reason, detail)) => return Ok(Err(Quarantined::new(&common.unit, "row", Some(row), reason, &detail))),
        };
        let mut sample = Sample::at(Position { unit: "row", number: row });
        for name in record.images {
            if is_remote(&name) {
                let bad = Bad::new("remote_image", name.chars().take(200).collect::<String>());
                sample.images.push(SampleImage::bad(name, bad));
                continue;
            }
            // Looked at before it is read: what changes from here on will show.
            let identity = join(&common.image_root, &name).ok().and_then(|path| Identity::at(&path).ok());
            if common.depth != Depth::Names {
                sample.images.push(look_at(&common.image_root, &name, common.depth)?);
            }
            sample.named_files.push((name, identity));
        }
        for other in record.others {
            sample.images.push(SampleImage::bad(other.detail.clone(), other));
        }
        sample.key = record.key;
        sample.uid = record.uid;
        sample
            .notes
            .extend(record.said.placeholder_fault(sample.images.len()).filter(|_| common.depth != Depth::Names));
        sample.said = record.said;
        sample.notes.append(&mut sample.said.notes);
        sample.metadata = record.metadata;
        Ok(Ok(sample))
    }
}

type Checked = std::result::Result<ImageHeader, Fault>;

/// The image at a path below the root.
fn look_at(root: &Path, name: &str, depth: Depth) -> Result<SampleImage> {
    let read = join(root, name).and_then(|path| LocalFile::open(&path)).and_then(|file| {
        let size = file.size_bytes();
        let content = match depth {
            Depth::Contents | Depth::Bodies if size <= MAX_CHECKED_BYTES => Some(read_whole(&file)?),
            _ => None,
        };
        let (hash, checked) = match &content {
            Some(bytes) if depth == Depth::Bodies => (image_hash(bytes), check_image(bytes)),
            Some(bytes) => (image_hash(bytes), read_header(bytes)),
            None => hash_image(&file)?,
        };
        let is_long = depth == Depth::Bodies && size > MAX_CHECKED_BYTES;
        let checked =
            checked.and_then(|header| if is_long { Err(Fault::Long(header.format, size)) } else { Ok(header) });
        file.check_unchanged()?;
        Ok((size, hash, checked, content.filter(|_| depth == Depth::Contents)))
    });
    let name = name.to_owned();
    let bad = |reason, detail: String| SampleImage::bad(name.clone(), Bad { reason, detail });
    Ok(match read {
        Ok((_, hash, Err(fault), _)) => {
            let mut image = SampleImage::faulty(name.clone(), Some(hash), fault);
            if let (Fault::UnknownFormat, Err(bad)) = (fault, &mut image.found)
                && let Some(what) = join(root, &name).ok().and_then(|path| refuse_stand_in_at(&path).err())
            {
                bad.detail = format!("{name}: {what}");
            }
            image
        }
        Ok((size, hash, Ok(ImageHeader { width, height, .. }), content)) => {
            let location = ImageLocation::File { file: name.clone(), size };
            SampleImage::good(name, ImageRow { location, width, height, hash }, content)
        }
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            bad("missing_image", name.clone())
        }
        Err(error) if error.is_of_file() => bad("unreadable_image", error.to_string()),
        Err(error) => return Err(error),
    })
}

fn read_whole(file: &LocalFile) -> Result<Vec<u8>> {
    let mut bytes = vec![0; file.size_bytes() as usize];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

fn hash_image(file: &LocalFile) -> Result<(Hash128, Checked)> {
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
