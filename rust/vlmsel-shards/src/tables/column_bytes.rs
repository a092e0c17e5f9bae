//! Bytes of Parquet files: read by position, a column chunk at once where it is of a usual size, and decoded under guard.

use std::cell::Cell;
use std::fs::File;
use std::io::{BufReader, Read};
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Once};

use ::parquet::errors::ParquetError;
use ::parquet::file::reader::{ChunkReader, Length};
use bytes::Bytes;

use crate::error::{Error, Result};

/// Result of the parquet crate.
pub(super) type ParquetResult<T> = std::result::Result<T, ParquetError>;

/// Runs the parquet crate on bytes that may be hostile: its errors and panics name the file. The panic's own message is
/// held back, because the error says it better.
pub(super) fn guarded<T>(path: &Path, work: impl FnOnce() -> ParquetResult<T>) -> Result<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !GUARDED.get() {
                usual(info);
            }
        }));
    });
    let before = GUARDED.replace(true);
    let outcome = catch_unwind(AssertUnwindSafe(work));
    GUARDED.set(before);
    match outcome {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(Error::unreadable(path, format!("damaged Parquet: {error}"))),
        Err(_) => Err(Error::unreadable(path, "damaged Parquet: its pages make no sense")),
    }
}

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// A file read by position: many readers share it without sharing a cursor.
#[derive(Debug, Clone)]
pub(super) struct Pread {
    pub(super) file: Arc<File>,
    pub(super) bytes: u64,
}

pub(super) struct Cursor {
    file: Arc<File>,
    at: u64,
}

impl Read for Cursor {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.file.read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl Length for Pread {
    fn len(&self) -> u64 {
        self.bytes
    }
}

impl ChunkReader for Pread {
    type T = BufReader<Cursor>;

    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        Ok(BufReader::with_capacity(4096, Cursor { file: self.file.clone(), at: start }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        if start.checked_add(length as u64).is_none_or(|end| end > self.bytes) {
            return Err(ParquetError::EOF(format!("{length} bytes at {start} of a file of {}", self.bytes)));
        }
        Ok(read_at(&self.file, start, length)?.into())
    }
}

/// Bytes of a file. The buffer is not zeroed first: these reads are most of what a selection does.
pub(super) fn read_at(file: &File, start: u64, length: usize) -> std::io::Result<Vec<u8>> {
    use std::os::fd::AsRawFd;
    let mut buffer: Vec<u8> = Vec::with_capacity(length);
    while buffer.len() < length {
        let done = buffer.len();
        let offset = libc::off_t::try_from(start + done as u64).map_err(std::io::Error::other)?;
        // SAFETY: the spare capacity behind `done` is `length - done` bytes or more, and the descriptor is open.
        let read =
            unsafe { libc::pread(file.as_raw_fd(), buffer.as_mut_ptr().add(done).cast(), length - done, offset) };
        match usize::try_from(read) {
            Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            // SAFETY: the kernel has written `read` bytes there.
            Ok(read) => unsafe { buffer.set_len(done + read) },
            Err(_) => {
                let error = std::io::Error::last_os_error();
                if error.kind() != std::io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(buffer)
}

/// One column chunk, in memory where it is of a usual size.
pub(super) struct ColumnBytes {
    pub(super) file: Pread,
    /// The chunk's first byte and content.
    pub(super) whole: Option<(u64, Bytes)>,
}

impl ColumnBytes {
    fn slice(&self, start: u64, length: Option<usize>) -> Option<Bytes> {
        let (base, bytes) = self.whole.as_ref()?;
        let from = usize::try_from(start.checked_sub(*base)?).ok()?;
        let to = length.map_or(Some(bytes.len()), |length| from.checked_add(length))?;
        (from <= to && to <= bytes.len()).then(|| bytes.slice(from..to))
    }
}

impl Length for ColumnBytes {
    fn len(&self) -> u64 {
        self.file.bytes
    }
}

impl ChunkReader for ColumnBytes {
    type T = Box<dyn Read + Send>;

    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        match self.slice(start, None) {
            Some(bytes) => Ok(Box::new(std::io::Cursor::new(bytes))),
            None => Ok(Box::new(self.file.get_read(start)?)),
        }
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        self.slice(start, Some(length)).map_or_else(|| self.file.get_bytes(start, length), Ok)
    }
}
