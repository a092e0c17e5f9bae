//! Codes of the images of one index part: read from where the index says they lie.

use std::path::Path;

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use rayon::prelude::*;
use vlmsel_core::hash::{Hash128, image_hash};
use vlmsel_shards::Error as ShardError;
use vlmsel_shards::error::ErrorClass;
use vlmsel_shards::formats::location::ImageLocation;
use vlmsel_shards::formats::reader::MAX_CHECKED_BYTES;
use vlmsel_shards::formats::sample::Coded;
use vlmsel_shards::parquet::table::ParquetTable;
use vlmsel_shards::tables::codes::{CHANGED, CodeRow, HUGE, MISSING, UNREADABLE};
use vlmsel_shards::tables::index_reader::{MAX_GROUP_BYTES, images_of};

use super::Coding;
use super::beside::PartFile;
use crate::error::{Error, Result};
use crate::stored_images::StoredImages;

/// Images that are handed to threads at a time.
const AT_A_TIME: usize = 512;

/// An image to be coded.
struct Wanted {
    uid: Hash128,
    image: u32,
    location: ImageLocation,
    hash: Hash128,
}

/// Reads the images of the part at `index_part` and writes their codes.
pub(super) fn fill(stage: &Coding<'_>, unit: &str, index_part: &Path, file: &mut PartFile) -> Result<()> {
    let place = StoredImages::of(stage.roots, unit)?;
    let table = ParquetTable::open(index_part, &index_part.to_string_lossy())?;
    for group in 0..table.groups() {
        for batch in table.rows_of(group, None, &["uid", "images"], MAX_GROUP_BYTES)? {
            let wanted = wanted_of(&batch?).map_err(|what| ShardError::unreadable(index_part, what))?;
            for some in wanted.chunks(AT_A_TIME) {
                stage.progress.check()?;
                let coded = |image: &Wanted| {
                    stage.progress.check().map_err(Error::from).and_then(|()| code(&place, stage, image))
                };
                let coded: Vec<Coded> = stage.pool.install(|| some.par_iter().map(coded).collect::<Result<_>>())?;
                for (wanted, coded) in some.iter().zip(coded) {
                    file.push(CodeRow { uid: wanted.uid, image: wanted.image, coded })?;
                }
                let bytes = some.iter().map(|wanted| wanted.location.size()).sum();
                stage.progress.add(some.len() as u64, bytes)?;
            }
        }
    }
    Ok(())
}

/// The images of a batch of index rows, or what is wrong with it.
fn wanted_of(batch: &RecordBatch) -> std::result::Result<Vec<Wanted>, String> {
    let wrong = || "its columns are not those of an index".to_owned();
    let uids = batch.column(0).as_fixed_size_binary_opt().ok_or_else(wrong)?;
    let lists = batch.column(1).as_list_opt::<i32>().ok_or_else(wrong)?;
    let mut wanted = Vec::new();
    for row in 0..batch.num_rows() {
        let uid = uids.value(row).try_into().map_err(|_| wrong())?;
        for (image, (location, hash)) in (0..).zip(images_of(&lists.value(row))?) {
            wanted.push(Wanted { uid, image, location, hash });
        }
    }
    Ok(wanted)
}

fn code(place: &StoredImages<'_>, stage: &Coding<'_>, wanted: &Wanted) -> Result<Coded> {
    if wanted.location.size() > MAX_CHECKED_BYTES {
        return Ok(Err(HUGE));
    }
    let bytes = match place.read(&wanted.location) {
        Ok(Some(bytes)) if image_hash(&bytes) == wanted.hash => bytes,
        Ok(_) => return Ok(Err(CHANGED)),
        Err(error) if error.class() == ErrorClass::NotFound => return Ok(Err(MISSING)),
        Err(error) if error.is_of_file() => return Ok(Err(UNREADABLE)),
        Err(error) => return Err(error.into()),
    };
    stage.coder.code(&bytes)
}
