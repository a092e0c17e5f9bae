//! Reading bytes by range: the one way in which the user's data are read, so that a remote store adds a room and changes none.

use std::fmt;
use std::fs::{File, FileType, Metadata, OpenOptions};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

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
    /// Appends `length` bytes from `offset` on to `buffer`; fails if there are not that many.
    fn read_onto(&self, buffer: &mut Vec<u8>, offset: u64, length: usize) -> Result<()> {
        let before = buffer.len();
        buffer.resize(before + length, 0);
        self.read_exact_at(&mut buffer[before..], offset)
    }
}

impl fmt::Debug for dyn ReadAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path().display())
    }
}

/// Opens the user's data at a path.
///
/// # Errors
/// Those of [`LocalFile::open`].
pub fn open(path: &Path) -> Result<Arc<dyn ReadAt>> {
    Ok(Arc::new(LocalFile::open(path)?))
}

/// Reads all of it from the first byte to the last.
#[derive(Debug)]
pub struct Sequential {
    of: Arc<dyn ReadAt>,
    at: u64,
}

impl Sequential {
    /// Begins at `at`.
    pub fn new(of: Arc<dyn ReadAt>, at: u64) -> Self {
        Self { of, at }
    }
}

impl std::io::Read for Sequential {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length =
            buffer.len().min(usize::try_from(self.of.size_bytes().saturating_sub(self.at)).unwrap_or(usize::MAX));
        self.of.read_exact_at(&mut buffer[..length], self.at).map_err(into_io)?;
        self.at += length as u64;
        Ok(length)
    }
}

/// As an error of the standard library's traits, which know no other.
pub fn into_io(error: Error) -> std::io::Error {
    match error {
        Error::Io { source, .. } => source,
        other => std::io::Error::other(other),
    }
}

/// Opens a plain file for reading. Everything else that a name may lead to (a folder, pipe, socket or device, which could block or
/// never end) is refused: the one way in for every file that is read.
///
/// # Errors
/// [`Error::NotPlain`], [`Error::Io`].
pub fn open_plain(path: &Path) -> Result<File> {
    Ok(open_inspected(path)?.0)
}

/// The same, with what the file system says of it.
fn open_inspected(path: &Path) -> Result<(File, Metadata)> {
    // Looked at before it is opened, because opening can do something to a device; and once more behind, because the name may
    // lead elsewhere by then. Meanwhile O_NONBLOCK keeps a pipe from blocking.
    let meta = match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && path.is_symlink() => {
            return Err(Error::unreadable(path, "a link to nothing"));
        }
        other => other.at("open", path)?,
    };
    plain(path, meta.file_type())?;
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).at("open", path)?;
    let meta = file.metadata().at("inspect", path)?;
    plain(path, meta.file_type())?;
    Ok((file, meta))
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
        let (file, meta) = open_inspected(path)?;
        Ok(Self { file, path: path.to_path_buf(), identity: Identity::of(&meta) })
    }

    /// A file that is open already, which messages call `path`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn of(file: File, path: &Path) -> Result<Self> {
        let identity = Identity::of(&file.metadata().at("inspect", path)?);
        Ok(Self { file, path: path.to_path_buf(), identity })
    }

    fn error(&self, source: std::io::Error) -> Error {
        match source.kind() {
            std::io::ErrorKind::UnexpectedEof => {
                Error::unreadable(&self.path, "the file became shorter while it was read; is it still being written?")
            }
            _ => Error::Io { action: "read", path: self.path.clone(), source },
        }
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
        self.file.read_exact_at(buffer, offset).map_err(|source| self.error(source))
    }

    fn path(&self) -> &Path {
        &self.path
    }

    /// The place of the bytes is not zeroed first: these reads are most of what a selection does.
    fn read_onto(&self, buffer: &mut Vec<u8>, offset: u64, length: usize) -> Result<()> {
        append(&self.file, buffer, offset, length).map_err(|source| self.error(source))
    }
}

fn append(file: &File, buffer: &mut Vec<u8>, start: u64, length: usize) -> std::io::Result<()> {
    use std::os::fd::AsRawFd;
    buffer.reserve(length);
    let mut done = 0;
    while done < length {
        let offset = libc::off_t::try_from(start + done as u64).map_err(std::io::Error::other)?;
        // SAFETY: `reserve` made room for `length` bytes, of which `done` are filled, and the descriptor is open.
        let read = unsafe {
            libc::pread(file.as_raw_fd(), buffer.as_mut_ptr().add(buffer.len()).cast(), length - done, offset)
        };
        match usize::try_from(read) {
            Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                done += read;
                // SAFETY: the kernel has written `read` bytes there.
                unsafe { buffer.set_len(buffer.len() + read) };
            }
            Err(_) => {
                let error = std::io::Error::last_os_error();
                if error.kind() != std::io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}

/// A part of something.
pub struct ByteRange {
    of: Arc<dyn ReadAt>,
    offset: u64,
    size: u64,
}

impl ByteRange {
    /// `size` bytes from `offset` on.
    ///
    /// # Errors
    /// [`Error::Unreadable`] where there are not that many.
    pub fn of(of: Arc<dyn ReadAt>, offset: u64, size: u64) -> Result<Self> {
        if offset.checked_add(size).is_none_or(|end| end > of.size_bytes()) {
            let text = format!("{size} bytes at {offset} lie behind its end, it has {}", of.size_bytes());
            return Err(Error::unreadable(of.path(), text));
        }
        Ok(Self { of, offset, size })
    }
}

impl ReadAt for ByteRange {
    fn size_bytes(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        if offset.checked_add(buffer.len() as u64).is_none_or(|end| end > self.size) {
            return Err(Error::unreadable(self.path(), "read past the end of a range"));
        }
        self.of.read_exact_at(buffer, self.offset + offset)
    }

    fn path(&self) -> &Path {
        self.of.path()
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
