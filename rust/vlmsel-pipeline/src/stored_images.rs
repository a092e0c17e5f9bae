//! Bytes of the images of one index part, from where they lie now.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use vlmsel_shards::formats::location::{ImageLocation, open_image};
use vlmsel_shards::formats::table_images::OpenTables;
use vlmsel_shards::storage::source::{LocalFile, ReadAt};

use crate::error::{Error, Result};
use crate::source_roots::Roots;

/// Where the images of a shard lie now; what was opened stays open.
pub(crate) struct StoredImages<'a> {
    shard: PathBuf,
    opened: OnceLock<Arc<dyn ReadAt>>,
    image_root: &'a std::path::Path,
    tables: OpenTables,
}

impl<'a> StoredImages<'a> {
    /// Those of an index part, by its unit.
    pub fn of(roots: &'a Roots, unit: &str) -> Result<Self> {
        let (source, below) =
            unit.split_once('/').ok_or_else(|| Error::Bug(format!("{unit} is no unit of an index")))?;
        Ok(Self {
            shard: roots.shard(source, below)?,
            opened: OnceLock::new(),
            image_root: roots.image_root(source)?,
            tables: OpenTables::default(),
        })
    }

    /// An image's bytes; `None` where there are more or fewer than were indexed.
    pub fn read(&self, location: &ImageLocation) -> vlmsel_shards::Result<Option<Vec<u8>>> {
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
        let opened: Arc<dyn ReadAt> = Arc::new(LocalFile::open(&self.shard)?);
        Ok(self.opened.get_or_init(|| opened).clone())
    }
}
