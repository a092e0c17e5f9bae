//! Codes of the images of one index part: read from where the index says they lie.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use rayon::prelude::*;
use vlmsel_core::hash::{Hash128, image_hash};
use vlmsel_shards::Error as ShardError;
use vlmsel_shards::error::ErrorClass;
use vlmsel_shards::formats::location::{ImageLocation, open_image};
use vlmsel_shards::formats::reader::MAX_CHECKED_BYTES;
use vlmsel_shards::formats::sample::Coded;
use vlmsel_shards::formats::table_images::OpenTables;
use vlmsel_shards::parquet::table::ParquetTable;
use vlmsel_shards::storage::source::{LocalFile, ReadAt};
use vlmsel_shards::tables::codes::{CHANGED, CodeRow, HUGE, MISSING, UNREADABLE};
use vlmsel_shards::tables::index_reader::{MAX_GROUP_BYTES, images_of};

use super::Coding;
use super::beside::PartFile;
use crate::error::{Error, Result};

/// Images that are handed to threads at a time.
const AT_A_TIME: usize = 512;

/// Where the images of a shard lie now.
struct Place<'a> {
    shard: &'a Path,
    opened: OnceLock<Arc<dyn ReadAt>>,
    image_root: &'a Path,
    tables: OpenTables,
}

/// An image to be coded.
struct Wanted {
    uid: Hash128,
    image: u32,
    location: ImageLocation,
    hash: Hash128,
}

/// Reads the images of the part at `index_part` and writes their codes.
pub(super) fn fill(stage: &Coding<'_>, unit: &str, index_part: &Path, file: &mut PartFile) -> Result<()> {
    let (source, below) = unit.split_once('/').ok_or_else(|| Error::Bug(format!("{unit} is no unit of an index")))?;
    let shard = stage.roots.shard(source, below)?;
    let image_root = stage.roots.image_root(source)?;
    let place = Place { shard: &shard, opened: OnceLock::new(), image_root, tables: OpenTables::default() };
    let table = ParquetTable::open(index_part, &index_part.to_string_lossy())?;
    for group in 0..table.groups() {
        for batch in table.rows_of(group, None, &["uid", "images"], MAX_GROUP_BYTES)? {
            let wanted = wanted_of(&batch?).map_err(|what| ShardError::unreadable(index_part, what))?;
            for some in wanted.chunks(AT_A_TIME) {
                stage.progress.check()?;
                let code = |image: &Wanted| {
                    stage.progress.check().map_err(Error::from).and_then(|()| place.code(stage, image))
                };
                let coded: Vec<Coded> = stage.pool.install(|| some.par_iter().map(code).collect::<Result<_>>())?;
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

impl Place<'_> {
    fn code(&self, stage: &Coding<'_>, wanted: &Wanted) -> Result<Coded> {
        if wanted.location.size() > MAX_CHECKED_BYTES {
            return Ok(Err(HUGE));
        }
        let bytes = match self.read(&wanted.location) {
            Ok(Some(bytes)) if image_hash(&bytes) == wanted.hash => bytes,
            Ok(_) => return Ok(Err(CHANGED)),
            Err(error) if error.class() == ErrorClass::NotFound => return Ok(Err(MISSING)),
            Err(error) if error.is_of_file() => return Ok(Err(UNREADABLE)),
            Err(error) => return Err(error.into()),
        };
        stage.coder.code(&bytes)
    }

    /// The image's bytes; `None` where there are more or fewer than were indexed.
    fn read(&self, location: &ImageLocation) -> vlmsel_shards::Result<Option<Vec<u8>>> {
        let image = open_image(location, &|| self.shard(), self.image_root, &self.tables)?;
        if image.size_bytes() != location.size() {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        image.read_onto(&mut bytes, 0, location.size() as usize)?;
        Ok(Some(bytes))
    }

    fn shard(&self) -> vlmsel_shards::Result<Arc<dyn ReadAt>> {
        if let Some(opened) = self.opened.get() {
            return Ok(opened.clone());
        }
        let opened: Arc<dyn ReadAt> = Arc::new(LocalFile::open(self.shard)?);
        Ok(self.opened.get_or_init(|| opened).clone())
    }
}
