//! Reading bytes by range: the one way tars are read, so that a remote store adds a room and changes none.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, IoContext, Result};

/// Something with a size and bytes at offsets.
pub trait ReadAt: Send + Sync {
    /// Size in bytes when it was opened.
    fn size_bytes(&self) -> u64;
    /// Fills `buffer` from `offset` on; fails if there are not that many bytes.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> Result<()>;
    /// What to call it in messages.
    fn path(&self) -> &Path;
}

/// A plain local file, read with `pread`: a file that shrinks meanwhile is an error, not a SIGBUS.
#[derive(Debug)]
pub struct LocalFile {
    file: File,
    path: PathBuf,
    size_bytes: u64,
}

impl LocalFile {
    /// Opens a plain file; anything else (a folder, pipe or device, which could block for ever) is refused.
    pub fn open(path: &Path) -> Result<Self> {
        let meta = std::fs::metadata(path).at("open", path)?;
        if !meta.is_file() {
            return Err(Error::unreadable(path, "not a plain file"));
        }
        let file = File::open(path).at("open", path)?;
        let size_bytes = file.metadata().at("inspect", path)?.len();
        Ok(Self { file, path: path.to_path_buf(), size_bytes })
    }
}

/// How many files this process may have open.
pub fn most_open_files() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the struct is filled by the call, or stays as it is.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 };
    if known { limit.rlim_cur } else { 256 }
}

impl ReadAt for LocalFile {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.file.read_exact_at(buffer, offset).map_err(|source| match source.kind() {
            std::io::ErrorKind::UnexpectedEof => {
                Error::unreadable(&self.path, "the file became shorter while it was read")
            }
            _ => Error::Io { action: "read", path: self.path.clone(), source },
        })
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

impl ReadAt for Vec<u8> {
    fn size_bytes(&self) -> u64 {
        self.len() as u64
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let range = offset as usize..offset as usize + buffer.len();
        let bytes = self.get(range).ok_or_else(|| Error::unreadable("(memory)", "read past the end"))?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }

    fn path(&self) -> &Path {
        Path::new("(memory)")
    }
}
