//! Where the selected samples come from: the folders of the sources as they lie now, and their tars, opened once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use vlmsel_shards::Error as ShardError;
use vlmsel_shards::formats::location::{ImageLocation, open_image};
use vlmsel_shards::formats::table_images::OpenTables;
use vlmsel_shards::storage::source::{LocalFile, ReadAt, most_open_files};
use vlmsel_shards::workspace::manifest::Manifest;

use crate::error::{Error, Result};
use crate::source_roots::Roots;

/// Source and path below its root of every shard that a selected sample lies in, by number.
pub(super) type ShardNames = Vec<(String, String)>;

/// The original files, shared by all threads: `pread` needs no cursor of one's own.
pub(super) struct SourceFiles<'a> {
    roots: &'a Roots,
    names: ShardNames,
    /// Bytes of each shard when it was indexed, by unit.
    sizes: HashMap<&'a str, u64>,
    open: Mutex<HashMap<u32, Arc<LocalFile>>>,
    tables: OpenTables,
    most: usize,
}

impl<'a> SourceFiles<'a> {
    pub fn new(roots: &'a Roots, names: ShardNames, index: &'a Manifest) -> Self {
        let sizes = index.inputs.iter().map(|input| (input.name.as_str(), input.bytes)).collect();
        // Outputs, the index and the interpreter need files too.
        Self {
            roots,
            names,
            sizes,
            open: Mutex::default(),
            tables: OpenTables::default(),
            most: (most_open_files() / 2).clamp(1, 4096) as usize,
        }
    }

    fn name(&self, shard: u32) -> Result<&(String, String)> {
        self.names.get(shard as usize).ok_or_else(|| Error::Bug(format!("there is no shard number {shard}")))
    }

    /// An indexed tar, opened.
    pub fn shard(&self, shard: u32) -> Result<Arc<LocalFile>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = open.get(&shard) {
            return Ok(Arc::clone(file));
        }
        let (source, below) = self.name(shard)?;
        let file = Arc::new(LocalFile::open(&self.roots.shard(source, below)?)?);
        if let Some(size) = self.sizes.get(format!("{source}/{below}").as_str())
            && *size != file.size_bytes()
        {
            return Err(ShardError::Mismatch(format!(
                "{} changed since it was indexed: {} bytes now, {size} then; run `vlmsel index` again with --overwrite",
                file.path().display(),
                file.size_bytes()
            ))
            .into());
        }
        if open.len() >= self.most {
            open.drain().try_for_each(|(_, file)| file.check_unchanged())?;
        }
        open.insert(shard, Arc::clone(&file));
        Ok(file)
    }

    /// For whoever has read all: whether the tars are still those that were opened. (Images are compared by their hashes.)
    pub fn check_unchanged(&self) -> Result<()> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(open.values().try_for_each(|file| file.check_unchanged())?)
    }

    /// An image of a sample of `shard`, opened.
    pub fn image(&self, shard: u32, location: &ImageLocation) -> Result<Box<dyn ReadAt>> {
        let root = self.roots.image_root(&self.name(shard)?.0)?;
        let place = self.roots.shard(&self.name(shard)?.0, &self.name(shard)?.1)?;
        Ok(open_image(location, &|| Ok(Arc::new(LocalFile::open(&place)?)), root, &self.tables)?)
    }
}
