//! Where an image's bytes lie, and the one way from there to the bytes.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::formats::table_images::OpenTables;
use crate::images::MAX_IMAGE_BYTES;
use crate::storage::paths::below;
use crate::storage::source::{ByteRange, LocalFile, ReadAt};

/// Longer paths are no image's.
const MAX_PATH_BYTES: usize = 4096;

/// Where the bytes of an image lie.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ImageLocation {
    /// A file of its own, at a path below the image root of its source.
    File {
        /// The path.
        file: String,
        /// Bytes.
        size: u64,
    },
    /// A range of bytes of the shard.
    Range {
        /// First byte.
        offset: u64,
        /// Bytes.
        size: u64,
    },
    /// A row of a table: of the shard, or of a file below the image root.
    Row {
        /// The table's path, if it is not the shard.
        file: Option<String>,
        /// Its number in the table, from 0.
        row: u64,
        /// Its place in the row's list, where the column holds lists.
        item: Option<u32>,
        /// Bytes.
        size: u64,
    },
}

impl ImageLocation {
    /// Bytes.
    pub fn size(&self) -> u64 {
        match self {
            Self::File { size, .. } | Self::Range { size, .. } | Self::Row { size, .. } => *size,
        }
    }

    /// Its file below the image root, if it does not lie in the shard.
    pub fn file(&self) -> Option<&str> {
        match self {
            Self::File { file, .. } => Some(file),
            Self::Row { file, .. } => file.as_deref(),
            Self::Range { .. } => None,
        }
    }

    /// Its first byte in the shard; 0 where it is no range of that.
    pub fn offset_in_shard(&self) -> u64 {
        if let Self::Range { offset, .. } = self { *offset } else { 0 }
    }

    /// Its row in a table, and its place in the row's list.
    pub fn row_and_item(&self) -> (Option<u64>, Option<u32>) {
        match self {
            Self::Row { row, item, .. } => (Some(*row), *item),
            Self::File { .. } | Self::Range { .. } => (None, None),
        }
    }
}

/// Why a path in a record must not be opened below its root, if so. Links below the root are followed: the folder is the
/// user's own.
pub fn path_fault(path: &str) -> Option<&'static str> {
    if path.is_empty() || path.contains('\0') {
        return Some("bad_image_path");
    }
    if path.len() > MAX_PATH_BYTES {
        return Some("long_name");
    }
    Path::new(path).components().find_map(|part| match part {
        Component::ParentDir => Some("parent_path"),
        Component::RootDir | Component::Prefix(_) => Some("absolute_path"),
        Component::Normal(_) | Component::CurDir => None,
    })
}

/// The place of a file that a record names, below its root: the one way to join the two.
///
/// # Errors
/// [`Error::Unreadable`] for a path that leaves the root or can be none.
pub fn join(root: &Path, path: &str) -> Result<PathBuf> {
    match path_fault(path) {
        None => Ok(below(root, path)),
        Some(reason) => {
            let shown: String = path.chars().take(200).collect();
            Err(Error::unreadable(root, format!("{reason}: {shown:?} is no path below it")))
        }
    }
}

/// Opens an image's bytes, to be read by range. `shard` opens the shard, where it is needed; `image_root` the folder that files of its source lie
/// below; tables stay open in `tables`. Of a file or a row, all bytes that are there now, which need not be as many as were indexed.
///
/// # Errors
/// [`Error::Io`] where a file is not there; [`Error::Unreadable`] for a path that leaves its root, a range that the shard does not
/// have, and a row that is not there.
pub fn open_image(
    location: &ImageLocation,
    shard: &dyn Fn() -> Result<Arc<dyn ReadAt>>,
    image_root: &Path,
    tables: &OpenTables,
) -> Result<Box<dyn ReadAt>> {
    Ok(match location {
        ImageLocation::Range { offset, size } => Box::new(ByteRange::of(shard()?, *offset, *size)?),
        ImageLocation::File { file, .. } => Box::new(LocalFile::open(&join(image_root, file)?)?),
        ImageLocation::Row { file, row, item, .. } => {
            let table = match file {
                Some(file) => join(image_root, file)?,
                None => shard()?.path().to_path_buf(),
            };
            Box::new(tables.get(&table)?.read(*row, *item)?)
        }
    })
}

/// The bytes of an image, as many as were indexed.
///
/// # Errors
/// Those of [`open_image`]; [`Error::Unreadable`] where there are more or fewer bytes now, and for more than [`MAX_IMAGE_BYTES`].
pub fn read_image(
    location: &ImageLocation,
    shard: &dyn Fn() -> Result<Arc<dyn ReadAt>>,
    image_root: &Path,
    tables: &OpenTables,
) -> Result<Vec<u8>> {
    let size = location.size();
    let image = open_image(location, shard, image_root, tables)?;
    let wrong = |text: String| Error::unreadable(image.path(), text);
    if size > MAX_IMAGE_BYTES {
        return Err(wrong(format!("an image of {size} bytes, more than {MAX_IMAGE_BYTES}")));
    }
    if image.size_bytes() != size {
        return Err(wrong(format!("{} bytes, {size} were indexed", image.size_bytes())));
    }
    let mut bytes = vec![0; size as usize];
    image.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_stays_below_its_root() {
        let root = Path::new("/data");
        assert_eq!(join(root, "a/./b.jpg").unwrap(), Path::new("/data/a/./b.jpg"));
        for (path, reason) in [
            ("", "bad_image_path"),
            ("a\0", "bad_image_path"),
            ("../a", "parent_path"),
            ("a/../../b", "parent_path"),
            ("/etc/passwd", "absolute_path"),
        ] {
            assert!(join(root, path).unwrap_err().to_string().contains(reason), "{path:?}");
        }
        assert_eq!(path_fault(&"a".repeat(5000)), Some("long_name"));
    }

    #[test]
    fn bytes_of_a_file_and_of_a_range() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.jpg"), b"picture").unwrap();
        let shard = || Ok(Arc::new(b"..range..".to_vec()) as Arc<dyn ReadAt>);
        let read = |location: ImageLocation| read_image(&location, &shard, folder.path(), &OpenTables::default());
        assert_eq!(read(ImageLocation::File { file: "a.jpg".into(), size: 7 }).unwrap(), b"picture");
        assert_eq!(read(ImageLocation::Range { offset: 2, size: 5 }).unwrap(), b"range");
        assert!(matches!(read(ImageLocation::File { file: "b.jpg".into(), size: 7 }), Err(Error::Io { .. })));
        for wrong in [
            ImageLocation::File { file: "a.jpg".into(), size: 8 },
            ImageLocation::File { file: "../a.jpg".into(), size: 7 },
            ImageLocation::Range { offset: 5, size: 5 },
            ImageLocation::Range { offset: 0, size: MAX_IMAGE_BYTES + 1 },
        ] {
            assert!(matches!(read(wrong), Err(Error::Unreadable { .. })));
        }
    }
}
