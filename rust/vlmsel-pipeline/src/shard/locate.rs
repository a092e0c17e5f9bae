//! Where the selected samples' bytes lie: the index streamed once, each location sent to its output shard's scratch file.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, UInt64Type};
use arrow_array::{Array, BooleanArray, RecordBatch};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use vlmsel_core::hash::to_hex;
use vlmsel_shards::error::IoContext;
use vlmsel_shards::index_table::filtered_batches;
use vlmsel_shards::inputs::expand;
use vlmsel_shards::tar::written_bytes;

use super::selection::Order;
use crate::error::{Error, Result};
use crate::progress::Progress;

/// Bytes of locations kept before they go to their files.
const SPILL_BYTES: usize = 32 << 20;
/// Index parts read at one time.
const PARTS_AT_ONCE: usize = 16;

/// Where sources lie now.
#[derive(Debug)]
pub(super) struct Roots {
    paths: BTreeMap<String, PathBuf>,
    images: BTreeMap<String, PathBuf>,
}

impl Roots {
    pub fn new(recorded: &Value, moved: &[String], image_root: Option<&Path>) -> Result<Self> {
        let (mut paths, mut images) = (BTreeMap::new(), BTreeMap::new());
        for (name, root) in recorded.as_object().into_iter().flatten() {
            let path = root.get("path").and_then(Value::as_str).unwrap_or_default();
            let own = root.get("image_root").and_then(Value::as_str).unwrap_or(path);
            paths.insert(name.clone(), PathBuf::from(path));
            images.insert(name.clone(), image_root.map_or_else(|| PathBuf::from(own), Path::to_path_buf));
        }
        for pair in moved {
            let Some((name, path)) = pair.split_once('=') else {
                return Err(Error::usage(format!("--source {pair}: write NAME=PATH")));
            };
            let Some(known) = paths.get_mut(name) else {
                let names: Vec<&str> = paths.keys().map(String::as_str).collect();
                return Err(Error::usage(format!(
                    "--source {pair}: the index has no source {name:?}, only {}",
                    names.join(", ")
                )));
            };
            if images.get(name) == Some(known) {
                images.insert(name.to_owned(), PathBuf::from(path));
            }
            *known = PathBuf::from(path);
        }
        Ok(Self { paths, images })
    }

    /// A shard's place.
    pub fn shard(&self, source: &str, below: &str) -> Result<PathBuf> {
        self.paths
            .get(source)
            .map(|root| root.join(below))
            .ok_or_else(|| Error::usage(format!("the index does not say where source {source} lies")))
    }

    /// An image file's place.
    pub fn image(&self, source: &str, below: &str) -> Result<PathBuf> {
        self.images
            .get(source)
            .map(|root| root.join(below))
            .ok_or_else(|| Error::usage(format!("the index does not say where the images of {source} lie")))
    }
}

/// A member to write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Piece {
    /// Bytes of the sample's own tar.
    Range { extension: String, offset: u64, size: u64, image: Option<String>, is_text: bool },
    /// A file below the image root.
    File { extension: String, file: String, size: u64, image: String },
    /// Bytes that the index holds itself.
    Bytes { extension: String, bytes: String },
}

impl Piece {
    pub fn extension(&self) -> &str {
        match self {
            Self::Range { extension, .. } | Self::File { extension, .. } | Self::Bytes { extension, .. } => extension,
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
pub(super) struct Located {
    pub place: u64,
    pub name: String,
    pub source: String,
    pub shard: String,
    pub text_hash: Option<String>,
    pub pieces: Vec<Piece>,
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
}

pub(super) fn scratch_path(scratch: &Path, shard: u64) -> PathBuf {
    scratch.join(format!("{shard:08}.locations"))
}

/// Reads the index and writes the locations for those output shards that are `wanted` to `scratch`.
///
/// An id that stands in the index more than once is taken from the first part that has it.
pub(super) fn locate(
    index: &Path,
    order: &Arc<Order>,
    scratch: Option<&Path>,
    wanted: &(dyn Fn(u64) -> bool + Sync),
    progress: &Progress,
) -> Result<Locations> {
    let accept = |path: &Path| path.extension().is_some_and(|e| e == "parquet");
    let mut parts = expand(&[index.to_string_lossy().into_owned()], "index part", &accept)?;
    parts.sort_by(|a, b| a.name.cmp(&b.name));
    let shards = order.shards() as usize;
    let mut locations = Locations {
        is_found: vec![false; order.len() as usize],
        found: 0,
        shard_bytes: vec![1024; shards],
        shard_rows: vec![0; shards],
    };
    let mut spill = Spill { buffers: HashMap::new(), bytes: 0, folder: scratch };
    progress.expect(0, parts.iter().filter_map(|part| std::fs::metadata(&part.path).ok()).map(|meta| meta.len()).sum());
    for group in parts.chunks(PARTS_AT_ONCE) {
        let read: Vec<Vec<(u128, Located)>> =
            group.par_iter().map(|part| read_part(&part.path, order, progress)).collect::<Result<_>>()?;
        for (uid, located) in read.into_iter().flatten() {
            let indices = order.find(uid);
            if indices.is_empty() || locations.is_found[indices.start] {
                continue;
            }
            for (copy, index) in indices.enumerate() {
                let mut located = located.clone();
                located.place = order.place(index);
                if copy > 0 {
                    located.name = format!("{}-{copy}", located.name);
                }
                let shard = order.shard_of(located.place);
                let name = |piece: &Piece| format!("{}.{}", located.name, piece.extension());
                let bytes: u64 = located.pieces.iter().map(|piece| written_bytes(&name(piece), piece.size())).sum();
                locations.is_found[index] = true;
                locations.found += 1;
                locations.shard_bytes[shard as usize] += bytes;
                locations.shard_rows[shard as usize] += 1;
                if wanted(shard) {
                    spill.push(shard, &located)?;
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
    fn push(&mut self, shard: u64, located: &Located) -> Result<()> {
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

fn read_part(path: &Path, order: &Arc<Order>, progress: &Progress) -> Result<Vec<(u128, Located)>> {
    let mut out = Vec::new();
    let order = Arc::clone(order);
    filtered_batches(
        path,
        move |uids| {
            let is_wanted = |uid: Option<&[u8]>| {
                uid.and_then(|uid| uid.try_into().ok()).is_some_and(|uid| order.contains(u128::from_be_bytes(uid)))
            };
            uids.iter().map(|uid| Some(is_wanted(uid))).collect::<BooleanArray>()
        },
        |batch| {
            progress.check()?;
            add_batch(&batch, &mut out).map_err(|reason| vlmsel_shards::Error::unreadable(path, reason))
        },
    )?;
    progress.add(0, std::fs::metadata(path).map_or(0, |meta| meta.len()))?;
    Ok(out)
}

/// Locations of a batch of index rows; the error says which column is not as `vlmsel index` writes it.
fn add_batch(batch: &RecordBatch, out: &mut Vec<(u128, Located)>) -> std::result::Result<(), String> {
    let column = |name: &str| batch.column_by_name(name).ok_or_else(|| format!("has no column {name}"));
    let wrong = |name: &str| format!("column {name} is not of the type that an index has");
    let fixed = |name: &str| column(name)?.as_fixed_size_binary_opt().ok_or_else(|| wrong(name));
    let text_of = |name: &str| column(name)?.as_string_opt::<i32>().ok_or_else(|| wrong(name));
    let name_of = |name: &str| -> std::result::Result<Vec<String>, String> {
        let dictionary = column(name)?.as_dictionary_opt::<Int32Type>().ok_or_else(|| wrong(name))?;
        let values = dictionary.values().as_string_opt::<i32>().ok_or_else(|| wrong(name))?;
        Ok(dictionary
            .keys()
            .iter()
            .map(|key| key.map_or_else(String::new, |key| values.value(key as usize).to_owned()))
            .collect())
    };
    let (uids, text_hashes) = (fixed("uid")?, fixed("text_hash")?);
    let (sources, shards) = (name_of("source")?, name_of("shard")?);
    let (texts, conversations) = (text_of("text")?, text_of("conversations")?);
    let metadata = column("metadata")?.as_binary_opt::<i32>().ok_or_else(|| wrong("metadata"))?;
    let members = column("members")?.as_list_opt::<i32>().ok_or_else(|| wrong("members"))?;
    let images = column("images")?.as_list_opt::<i32>().ok_or_else(|| wrong("images"))?;
    for row in 0..batch.num_rows() {
        let uid: [u8; 16] = uids.value(row).try_into().map_err(|_| wrong("uid"))?;
        let found_images = images_of(images.value(row).as_struct_opt().ok_or_else(|| wrong("images"))?)?;
        let found_members = members_of(members.value(row).as_struct_opt().ok_or_else(|| wrong("members"))?)?;
        let mut pieces = Vec::new();
        let lower = |extension: &str| extension.to_ascii_lowercase();
        let text_extension =
            ["txt", "caption"].into_iter().find(|wanted| found_members.iter().any(|m| lower(&m.0) == *wanted));
        for (extension, offset, size) in &found_members {
            let image =
                found_images.iter().find(|image| image.0.is_none() && image.1 == *offset).map(|image| image.3.clone());
            let is_text = text_extension.is_some_and(|wanted| lower(extension) == wanted);
            pieces.push(Piece::Range { extension: extension.clone(), offset: *offset, size: *size, image, is_text });
        }
        let files: Vec<_> =
            found_images.iter().filter_map(|image| image.0.as_ref().map(|file| (file, image))).collect();
        for (number, (file, image)) in files.iter().enumerate() {
            let kind =
                Path::new(file).extension().map_or_else(|| "jpg".to_owned(), |e| e.to_string_lossy().to_lowercase());
            let extension = if files.len() == 1 { kind } else { format!("{number}.{kind}") };
            pieces.push(Piece::File { extension, file: (*file).clone(), size: image.2, image: image.3.clone() });
        }
        // A caption or JSON that lies outside the tar (a Parquet file beside it, a JSON record) travels along.
        if text_extension.is_none() && texts.is_valid(row) {
            pieces.push(Piece::Bytes { extension: "txt".to_owned(), bytes: texts.value(row).to_owned() });
        }
        if !found_members.iter().any(|m| lower(&m.0) == "json") {
            let own = metadata.is_valid(row).then(|| String::from_utf8_lossy(metadata.value(row)).into_owned());
            let spoken =
                conversations.is_valid(row).then(|| format!("{{\"conversations\":{}}}", conversations.value(row)));
            if let Some(bytes) = own.or(spoken) {
                pieces.push(Piece::Bytes { extension: "json".to_owned(), bytes });
            }
        }
        let text_hash = text_hashes
            .is_valid(row)
            .then(|| text_hashes.value(row).try_into().map(|hash| to_hex(&hash)).unwrap_or_default());
        let (source, shard) = (sources[row].clone(), shards[row].clone());
        out.push((
            u128::from_be_bytes(uid),
            Located { place: 0, name: to_hex(&uid), source, shard, text_hash, pieces },
        ));
    }
    Ok(())
}

type Image = (Option<String>, u64, u64, String);

fn images_of(table: &arrow_array::StructArray) -> std::result::Result<Vec<Image>, String> {
    let wrong = || "column images is not as an index has it".to_owned();
    let column = |name: &str| table.column_by_name(name).ok_or_else(wrong);
    let files = column("file")?.as_string_opt::<i32>().ok_or_else(wrong)?;
    let offsets = column("offset")?.as_primitive_opt::<UInt64Type>().ok_or_else(wrong)?;
    let sizes = column("size")?.as_primitive_opt::<UInt64Type>().ok_or_else(wrong)?;
    let hashes = column("hash")?.as_fixed_size_binary_opt().ok_or_else(wrong)?;
    (0..table.len())
        .map(|i| {
            let hash = hashes.value(i).try_into().map(|hash| to_hex(&hash)).map_err(|_| wrong())?;
            Ok((files.is_valid(i).then(|| files.value(i).to_owned()), offsets.value(i), sizes.value(i), hash))
        })
        .collect()
}

fn members_of(table: &arrow_array::StructArray) -> std::result::Result<Vec<(String, u64, u64)>, String> {
    let wrong = || "column members is not as an index has it".to_owned();
    let column = |name: &str| table.column_by_name(name).ok_or_else(wrong);
    let extensions = column("extension")?.as_string_opt::<i32>().ok_or_else(wrong)?;
    let offsets = column("offset")?.as_primitive_opt::<UInt64Type>().ok_or_else(wrong)?;
    let sizes = column("size")?.as_primitive_opt::<UInt64Type>().ok_or_else(wrong)?;
    Ok((0..table.len()).map(|i| (extensions.value(i).to_owned(), offsets.value(i), sizes.value(i))).collect())
}
