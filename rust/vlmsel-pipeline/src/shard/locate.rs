//! Where the selected samples' bytes lie: the index streamed once, each location sent to its output shard's scratch file.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use arrow_array::cast::AsArray;
use arrow_array::{Array, RecordBatch};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use vlmsel_core::hash::{Hash128, image_hash, to_hex};
use vlmsel_shards::error::IoContext;
use vlmsel_shards::formats::location::ImageLocation;
use vlmsel_shards::formats::sample::MemberRow;
use vlmsel_shards::formats::tar::written_bytes;
use vlmsel_shards::formats::webdataset::TEXT_EXTENSIONS;
use vlmsel_shards::tables::index_reader::{filtered_batches, images_of, members_of};
use vlmsel_shards::workspace::inputs::expand;

use super::placement::Placement;
use super::source_files::ShardNames;
use crate::error::{Error, Result};
use crate::progress::Progress;

/// Bytes of locations kept before they go to their files.
const SPILL_BYTES: usize = 32 << 20;
/// Index parts read at one time.
const PARTS_AT_ONCE: usize = 16;

/// A member to write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Member {
    /// Bytes of the sample's own tar.
    Range { extension: String, offset: u64, size: u64, hash: Option<Hash128> },
    /// An image that lies apart: in a file of its own, or in a row of a table.
    Image { extension: String, location: ImageLocation, hash: Hash128 },
    /// Bytes that the index holds itself.
    Bytes { extension: String, bytes: String },
}

impl Member {
    fn extension(&self) -> &str {
        match self {
            Self::Range { extension, .. } | Self::Image { extension, .. } | Self::Bytes { extension, .. } => extension,
        }
    }

    /// Hash of the bytes as they were indexed, where the index knows it.
    pub fn hash(&self) -> Option<Hash128> {
        match self {
            Self::Range { hash, .. } => *hash,
            Self::Image { hash, .. } => Some(*hash),
            Self::Bytes { .. } => None,
        }
    }

    pub fn size(&self) -> u64 {
        match self {
            Self::Range { size, .. } => *size,
            Self::Image { location, .. } => location.size(),
            Self::Bytes { bytes, .. } => bytes.len() as u64,
        }
    }
}

/// One sample to write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SampleLocation {
    /// Its place among all samples.
    pub place: u64,
    pub uid: Hash128,
    /// How many times the same id was selected before.
    pub copy: u32,
    /// Number of its shard among [`Locations::shard_names`].
    pub shard: u32,
    pub members: Vec<Member>,
}

impl SampleLocation {
    /// Its key in the new tar.
    pub fn name(&self) -> String {
        let uid = to_hex(&self.uid);
        if self.copy > 0 { format!("{uid}-{}", self.copy) } else { uid }
    }

    pub fn member_name(&self, member: &Member) -> String {
        format!("{}.{}", self.name(), member.extension())
    }
}

/// What [`locate`] found.
#[derive(Debug)]
pub(super) struct Locations {
    /// Per selected id, whether the index has it.
    pub is_found: Vec<bool>,
    /// How many are.
    pub found: u64,
    /// Bytes of each output tar.
    pub shard_bytes: Vec<u64>,
    /// Samples in each output tar.
    pub shard_rows: Vec<u64>,
    /// The shards that selected samples lie in.
    pub shard_names: ShardNames,
}

pub(super) fn scratch_path(scratch: &Path, shard: u64) -> PathBuf {
    scratch.join(format!("{shard:08}.locations"))
}

/// Reads the index and writes the locations for those output shards that are `wanted` to `scratch`.
///
/// An id that stands in the index more than once is taken from the first part that has it.
pub(super) fn locate(
    index: &Path,
    order: &Placement,
    scratch: Option<&Path>,
    wanted: &(dyn Fn(u64) -> bool + Sync),
    progress: &Progress,
) -> Result<Locations> {
    let accept = |path: &Path| path.extension().is_some_and(|e| e == "parquet");
    let mut parts = expand(&[index.into()], "index part", &accept, &|| progress.check())?;
    parts.sort_by(|a, b| a.name.cmp(&b.name));
    let shards = order.shards() as usize;
    let mut locations = Locations {
        is_found: vec![false; order.len() as usize],
        found: 0,
        shard_bytes: vec![1024; shards],
        shard_rows: vec![0; shards],
        shard_names: ShardNames::new(),
    };
    let mut numbers: HashMap<(String, String), u32> = HashMap::new();
    let mut spill = Spill { buffers: HashMap::new(), bytes: 0, folder: scratch };
    progress.expect(0, parts.iter().filter_map(|part| std::fs::metadata(&part.path).ok()).map(|meta| meta.len()).sum());
    for group in parts.chunks(PARTS_AT_ONCE) {
        let read: Vec<LocatedPart> =
            group.par_iter().map(|part| read_part(index, &part.path, order, progress)).collect::<Result<_>>()?;
        for LocatedPart { shards, samples } in read {
            let own: Vec<u32> = shards
                .into_iter()
                .map(|name| {
                    *numbers.entry(name.clone()).or_insert_with(|| {
                        locations.shard_names.push(name);
                        locations.shard_names.len() as u32 - 1
                    })
                })
                .collect();
            for mut located in samples {
                let indices = order.find(u128::from_be_bytes(located.uid));
                if indices.is_empty() || locations.is_found[indices.start] {
                    continue;
                }
                located.shard = own[located.shard as usize];
                for (copy, index) in indices.enumerate() {
                    located.place = order.place(index);
                    located.copy = copy as u32;
                    let shard = order.shard_of(located.place);
                    let size = |member: &Member| written_bytes(&located.member_name(member), member.size());
                    locations.is_found[index] = true;
                    locations.found += 1;
                    // What a damaged index says may not fit into 64 bits; then it fits no disk either.
                    let bytes = &mut locations.shard_bytes[shard as usize];
                    *bytes = located.members.iter().map(size).fold(*bytes, u64::saturating_add);
                    locations.shard_rows[shard as usize] += 1;
                    if wanted(shard) {
                        spill.push(shard, &located)?;
                    }
                }
            }
        }
    }
    spill.flush()?;
    Ok(locations)
}

struct Spill<'a> {
    buffers: HashMap<u64, Vec<u8>>,
    bytes: usize,
    folder: Option<&'a Path>,
}

impl Spill<'_> {
    fn push(&mut self, shard: u64, located: &SampleLocation) -> Result<()> {
        if self.folder.is_none() {
            return Ok(());
        }
        let buffer = self.buffers.entry(shard).or_default();
        let before = buffer.len();
        serde_json::to_writer(&mut *buffer, located).map_err(|error| Error::Bug(error.to_string()))?;
        buffer.push(b'\n');
        self.bytes += buffer.len() - before;
        if self.bytes >= SPILL_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        let Some(folder) = self.folder else { return Ok(()) };
        for (shard, buffer) in self.buffers.drain() {
            let path = scratch_path(folder, shard);
            let mut file: File = OpenOptions::new().create(true).append(true).open(&path).at("open", &path)?;
            file.write_all(&buffer).at("write", &path)?;
        }
        self.bytes = 0;
        Ok(())
    }
}

/// The wanted samples of one index part; their `shard` counts among the names beside them.
#[derive(Default)]
struct LocatedPart {
    shards: ShardNames,
    samples: Vec<SampleLocation>,
}

/// The columns that say where a sample lies and what goes with it.
const COLUMNS: [&str; 8] = ["uid", "source", "shard", "images", "members", "text", "conversations", "metadata"];

fn read_part(index: &Path, path: &Path, order: &Placement, progress: &Progress) -> Result<LocatedPart> {
    let mut out = LocatedPart::default();
    let is_wanted = |uid: &[u8]| uid.try_into().is_ok_and(|uid| order.contains(u128::from_be_bytes(uid)));
    let read = filtered_batches(path, &COLUMNS, is_wanted, |batch| {
        progress.check()?;
        add_batch(&batch, &mut out).map_err(|reason| vlmsel_shards::Error::unreadable(path, reason))
    });
    read.map_err(|error| match error {
        vlmsel_shards::Error::Unreadable { path, reason } => vlmsel_shards::Error::Unreadable {
            path,
            reason: format!("{reason}; run `vlmsel verify {}`", index.display()),
        },
        other => other,
    })?;
    progress.add(0, std::fs::metadata(path).map_or(0, |meta| meta.len()))?;
    Ok(out)
}

/// Locations of a batch of index rows; the error says which column is not as `vlmsel index` writes it.
fn add_batch(batch: &RecordBatch, out: &mut LocatedPart) -> std::result::Result<(), String> {
    let column = |name: &str| batch.column_by_name(name).ok_or_else(|| format!("has no column {name}"));
    let wrong = |name: &str| format!("column {name} is not of the type that an index has");
    let uids = column("uid")?.as_fixed_size_binary_opt().ok_or_else(|| wrong("uid"))?;
    let text_of = |name: &str| column(name)?.as_string_view_opt().ok_or_else(|| wrong(name));
    let (sources, shards) = (text_of("source")?, text_of("shard")?);
    let (texts, conversations) = (text_of("text")?, text_of("conversations")?);
    let metadata = column("metadata")?.as_binary_view_opt().ok_or_else(|| wrong("metadata"))?;
    let members = column("members")?.as_list_opt::<i32>().ok_or_else(|| wrong("members"))?;
    let images = column("images")?.as_list_opt::<i32>().ok_or_else(|| wrong("images"))?;
    for row in 0..batch.num_rows() {
        let uid: Hash128 = uids.value(row).try_into().map_err(|_| wrong("uid"))?;
        let sample = IndexedSample {
            images: images_of(&images.value(row))?,
            members: members_of(&members.value(row))?,
            text: texts.is_valid(row).then(|| texts.value(row)),
            conversations: conversations.is_valid(row).then(|| conversations.value(row)),
            metadata: metadata.is_valid(row).then(|| metadata.value(row)),
        };
        let is_last = |name: &(String, String)| name.0 == sources.value(row) && name.1 == shards.value(row);
        if !out.shards.last().is_some_and(is_last) {
            out.shards.push((sources.value(row).to_owned(), shards.value(row).to_owned()));
        }
        let shard = out.shards.len() as u32 - 1;
        out.samples.push(SampleLocation { place: 0, uid, copy: 0, shard, members: sample.members() });
    }
    Ok(())
}

/// What an index row says of a sample's bytes.
struct IndexedSample<'a> {
    images: Vec<(ImageLocation, Hash128)>,
    members: Vec<MemberRow>,
    text: Option<&'a str>,
    conversations: Option<&'a str>,
    metadata: Option<&'a [u8]>,
}

impl IndexedSample<'_> {
    fn members(&self) -> Vec<Member> {
        let has = |wanted: &str| self.members.iter().any(|m| m.extension.eq_ignore_ascii_case(wanted));
        let text_extension = TEXT_EXTENSIONS.into_iter().find(|wanted| has(wanted));
        // By place, because both lists may be long. The first of several at one place, as in the index.
        let in_tar = self.images.iter().rev().filter_map(|(location, hash)| match location {
            ImageLocation::Range { offset, .. } => Some((*offset, *hash)),
            ImageLocation::File { .. } | ImageLocation::Row { .. } => None,
        });
        let hashes: HashMap<u64, Hash128> = in_tar.collect();
        let mut members = Vec::new();
        for MemberRow { extension, offset, size } in &self.members {
            let is = |wanted: &str| extension.eq_ignore_ascii_case(wanted);
            // The index holds captions and JSON as they were, so these can be told from changed ones too.
            let hash = if is("json") {
                self.metadata.map(image_hash)
            } else if text_extension.is_some_and(is) {
                self.text.map(|text| image_hash(text.as_bytes()))
            } else {
                hashes.get(offset).copied()
            };
            members.push(Member::Range { extension: extension.clone(), offset: *offset, size: *size, hash });
        }
        let apart = self.images.iter().filter(|(location, _)| !matches!(location, ImageLocation::Range { .. }));
        let apart: Vec<_> = apart.collect();
        for (number, (location, hash)) in apart.iter().enumerate() {
            let kind = location.file().and_then(|file| Path::new(file).extension());
            let kind = kind.map_or_else(|| "jpg".to_owned(), |e| e.to_string_lossy().to_lowercase());
            // What an image in a table is, is known when it is read; readers of tars tell by content.
            let kind = if matches!(location, ImageLocation::Row { .. }) { "jpg".to_owned() } else { kind };
            let extension = if apart.len() == 1 { kind } else { format!("{number}.{kind}") };
            members.push(Member::Image { extension, location: location.clone(), hash: *hash });
        }
        // A caption or JSON that lies outside the tar (a Parquet file beside it, a JSON record) travels along.
        let mut push = |extension: &str, bytes: String| {
            members.push(Member::Bytes { extension: extension.to_owned(), bytes });
        };
        if let (None, Some(text)) = (text_extension, self.text) {
            push("txt", text.to_owned());
        }
        if !has("json") {
            let own = self.metadata.map(|metadata| String::from_utf8_lossy(metadata).into_owned());
            let spoken = self.conversations.map(|turns| format!("{{\"conversations\":{turns}}}"));
            if let Some(json) = own.or(spoken) {
                push("json", json);
            }
        }
        members
    }
}
