//! Reading bytes by range: the one way tars are read, so that a remote store adds a room and changes none.

use std::fs::{File, FileType, OpenOptions};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::error::{Error, IoContext, Result};
use crate::storage::identity::Identity;

/// Something with a size and bytes at offsets.
pub trait ReadAt: Send + Sync {
    /// Size in bytes when it was opened.
    fn size_bytes(&self) -> u64;
    /// Fills `buffer` from `offset` on; fails if there are not that many bytes.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> Result<()>;
    /// What to call it in messages.
    fn path(&self) -> &Path;
}

/// Opens a plain file for reading. Everything else that a name may lead to (a folder, pipe, socket or device, which could block or
/// never end) is refused: the one way in for every file that is read.
///
/// # Errors
/// [`Error::NotPlain`], [`Error::Io`].
pub fn open_plain(path: &Path) -> Result<File> {
    // Looked at before it is opened, because opening can do something to a device; and once more behind, because the name may
    // lead elsewhere by then. Meanwhile O_NONBLOCK keeps a pipe from blocking.
    plain(path, std::fs::metadata(path).at("open", path)?.file_type())?;
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).at("open", path)?;
    plain(path, file.metadata().at("inspect", path)?.file_type())?;
    Ok(file)
}

/// Refuses what is no plain file.
fn plain(path: &Path, kind: FileType) -> Result<()> {
    if kind.is_file() { Ok(()) } else { Err(Error::NotPlain { path: path.to_path_buf(), kind: name_of(kind) }) }
}

/// What a user would call this kind of thing.
pub fn name_of(kind: FileType) -> &'static str {
    match kind {
        kind if kind.is_dir() => "a folder",
        kind if kind.is_fifo() => "a named pipe (FIFO)",
        kind if kind.is_socket() => "a socket",
        kind if kind.is_char_device() || kind.is_block_device() => "a device",
        kind if kind.is_symlink() => "a link",
        _ => "no plain file",
    }
}

/// A plain local file, read with `pread`: a file that shrinks meanwhile is an error, not a SIGBUS.
#[derive(Debug)]
pub struct LocalFile {
    file: File,
    path: PathBuf,
    identity: Identity,
}

impl LocalFile {
    /// Opens a plain file, as [`open_plain`] does.
    pub fn open(path: &Path) -> Result<Self> {
        let file = open_plain(path)?;
        let identity = Identity::of(&file.metadata().at("inspect", path)?);
        Ok(Self { file, path: path.to_path_buf(), identity })
    }

    /// Whether it is still the file that was opened, for whoever has read it.
    ///
    /// # Errors
    /// [`Error::Unreadable`] if it was written to or replaced meanwhile.
    pub fn check_unchanged(&self) -> Result<()> {
        self.identity.check_unchanged(&self.path)
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
        self.identity.bytes
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

impl<T: ReadAt + ?Sized> ReadAt for &T {
    fn size_bytes(&self) -> u64 {
        (**self).size_bytes()
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        (**self).read_exact_at(buffer, offset)
    }

    fn path(&self) -> &Path {
        (**self).path()
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
