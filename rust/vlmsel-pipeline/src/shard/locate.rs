//! Where the selected samples' bytes lie: the index streamed once, each location sent to its output shard's scratch file.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use arrow_array::{Array, RecordBatch};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use vlmsel_core::hash::{Hash128, image_hash, to_hex};
use vlmsel_shards::error::IoContext;
use vlmsel_shards::formats::tar::written_bytes;
use vlmsel_shards::formats::webdataset::TEXT_EXTENSIONS;
use vlmsel_shards::tables::index::filtered_batches;
use vlmsel_shards::workspace::inputs::expand;

use super::placement::Placement;
use super::source_files::ShardNames;
use crate::error::{Error, Result};
use crate::progress::Progress;

/// Bytes of locations kept before they go to their files.
const SPILL_BYTES: usize = 32 << 20;
/// No member begins behind this place of a file or has more bytes (1 EiB): a row that says so is damaged.
const MAX_PLACE: u64 = 1 << 60;
/// Index parts read at one time.
const PARTS_AT_ONCE: usize = 16;

/// A member to write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Piece {
    /// Bytes of the sample's own tar.
    Range { extension: String, offset: u64, size: u64, hash: Option<Hash128> },
    /// A file below the image root.
    File { extension: String, file: String, size: u64, hash: Hash128 },
    /// Bytes that the index holds itself.
    Bytes { extension: String, bytes: String },
}

impl Piece {
    fn extension(&self) -> &str {
        match self {
            Self::Range { extension, .. } | Self::File { extension, .. } | Self::Bytes { extension, .. } => extension,
        }
    }

    /// Hash of the bytes as they were indexed, where the index knows it.
    pub fn hash(&self) -> Option<Hash128> {
        match self {
            Self::Range { hash, .. } => *hash,
            Self::File { hash, .. } => Some(*hash),
            Self::Bytes { .. } => None,
        }
    }

    pub fn size(&self) -> u64 {
        match self {
            Self::Range { size, .. } | Self::File { size, .. } => *size,
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
    pub pieces: Vec<Piece>,
}

impl SampleLocation {
    /// Its key in the new tar.
    pub fn name(&self) -> String {
        let uid = to_hex(&self.uid);
        if self.copy > 0 { format!("{uid}-{}", self.copy) } else { uid }
    }

    pub fn member_name(&self, piece: &Piece) -> String {
        format!("{}.{}", self.name(), piece.extension())
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
        let read: Vec<Part> =
            group.par_iter().map(|part| read_part(index, &part.path, order, progress)).collect::<Result<_>>()?;
        for Part { shards, samples } in read {
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
                    let size = |piece: &Piece| written_bytes(&located.member_name(piece), piece.size());
                    locations.is_found[index] = true;
                    locations.found += 1;
                    // What a damaged index says may not fit into 64 bits; then it fits no disk either.
                    let bytes = &mut locations.shard_bytes[shard as usize];
                    *bytes = located.pieces.iter().map(size).fold(*bytes, u64::saturating_add);
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
struct Part {
    shards: ShardNames,
    samples: Vec<SampleLocation>,
}

/// The columns that say where a sample lies and what goes with it.
const COLUMNS: [&str; 8] = ["uid", "source", "shard", "images", "members", "text", "conversations", "metadata"];

fn read_part(index: &Path, path: &Path, order: &Placement, progress: &Progress) -> Result<Part> {
    let mut out = Part::default();
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
fn add_batch(batch: &RecordBatch, out: &mut Part) -> std::result::Result<(), String> {
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
        let stored = Stored {
            images: images_of(images.value(row).as_struct_opt().ok_or_else(|| wrong("images"))?)?,
            members: members_of(members.value(row).as_struct_opt().ok_or_else(|| wrong("members"))?)?,
            text: texts.is_valid(row).then(|| texts.value(row)),
            conversations: conversations.is_valid(row).then(|| conversations.value(row)),
            metadata: metadata.is_valid(row).then(|| metadata.value(row)),
        };
        let is_last = |name: &(String, String)| name.0 == sources.value(row) && name.1 == shards.value(row);
        if !out.shards.last().is_some_and(is_last) {
            out.shards.push((sources.value(row).to_owned(), shards.value(row).to_owned()));
        }
        let shard = out.shards.len() as u32 - 1;
        out.samples.push(SampleLocation { place: 0, uid, copy: 0, shard, pieces: stored.pieces() });
    }
    Ok(())
}

/// What an index row says of a sample's bytes.
struct Stored<'a> {
    images: Vec<Image>,
    members: Vec<(String, u64, u64)>,
    text: Option<&'a str>,
    conversations: Option<&'a str>,
    metadata: Option<&'a [u8]>,
}

impl Stored<'_> {
    fn pieces(&self) -> Vec<Piece> {
        let has = |wanted: &str| self.members.iter().any(|m| m.0.eq_ignore_ascii_case(wanted));
        let text_extension = TEXT_EXTENSIONS.into_iter().find(|wanted| has(wanted));
        // By place, because both lists may be long. The first of several at one place, as in the index.
        let in_tar = self.images.iter().rev().filter(|image| image.file.is_none());
        let hashes: HashMap<u64, Hash128> = in_tar.map(|image| (image.offset, image.hash)).collect();
        let mut pieces = Vec::new();
        for (extension, offset, size) in &self.members {
            let is = |wanted: &str| extension.eq_ignore_ascii_case(wanted);
            // The index holds captions and JSON as they were, so these can be told from changed ones too.
            let hash = if is("json") {
                self.metadata.map(image_hash)
            } else if text_extension.is_some_and(is) {
                self.text.map(|text| image_hash(text.as_bytes()))
            } else {
                hashes.get(offset).copied()
            };
            pieces.push(Piece::Range { extension: extension.clone(), offset: *offset, size: *size, hash });
        }
        let files: Vec<_> =
            self.images.iter().filter_map(|image| image.file.as_ref().map(|file| (file, image))).collect();
        for (number, (file, image)) in files.iter().enumerate() {
            let kind =
                Path::new(file).extension().map_or_else(|| "jpg".to_owned(), |e| e.to_string_lossy().to_lowercase());
            let extension = if files.len() == 1 { kind } else { format!("{number}.{kind}") };
            pieces.push(Piece::File { extension, file: (*file).clone(), size: image.size, hash: image.hash });
        }
        // A caption or JSON that lies outside the tar (a Parquet file beside it, a JSON record) travels along.
        let mut push = |extension: &str, bytes: String| {
            pieces.push(Piece::Bytes { extension: extension.to_owned(), bytes });
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
        pieces
    }
}

struct Image {
    file: Option<String>,
    offset: u64,
    size: u64,
    hash: Hash128,
}

fn images_of(table: &arrow_array::StructArray) -> std::result::Result<Vec<Image>, String> {
    let wrong = || "column images is not as an index has it".to_owned();
    let column = |name: &str| table.column_by_name(name).ok_or_else(wrong);
    let files = column("file")?.as_string_view_opt().ok_or_else(wrong)?;
    let offsets = column("offset")?.as_primitive_opt::<UInt64Type>().ok_or_else(wrong)?;
    let sizes = column("size")?.as_primitive_opt::<UInt64Type>().ok_or_else(wrong)?;
    let hashes = column("hash")?.as_fixed_size_binary_opt().ok_or_else(wrong)?;
    (0..table.len())
        .map(|i| {
            let file = files.is_valid(i).then(|| files.value(i).to_owned());
            let hash = hashes.value(i).try_into().map_err(|_| wrong())?;
            let (offset, size) = possible(offsets.value(i), sizes.value(i))?;
            Ok(Image { file, offset, size, hash })
        })
        .collect()
}

/// A byte range, unless no file can have it.
fn possible(offset: u64, size: u64) -> std::result::Result<(u64, u64), String> {
    if offset > MAX_PLACE || size > MAX_PLACE {
        return Err(format!("{size} bytes at {offset} are no place in a file"));
    }
    Ok((offset, size))
}

fn members_of(table: &arrow_array::StructArray) -> std::result::Result<Vec<(String, u64, u64)>, String> {
    let wrong = || "column members is not as an index has it".to_owned();
    let column = |name: &str| table.column_by_name(name).ok_or_else(wrong);
    let extensions = column("extension")?.as_string_view_opt().ok_or_else(wrong)?;
    let offsets = column("offset")?.as_primitive_opt::<UInt64Type>().ok_or_else(wrong)?;
    let sizes = column("size")?.as_primitive_opt::<UInt64Type>().ok_or_else(wrong)?;
    (0..table.len())
        .map(|i| {
            let (offset, size) = possible(offsets.value(i), sizes.value(i))?;
            Ok((extensions.value(i).to_owned(), offset, size))
        })
        .collect()
}
