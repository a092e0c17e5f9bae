//! Bytes of Parquet files: read by position, and decoded under guard.

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
type ParquetResult<T> = std::result::Result<T, ParquetError>;

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
pub(crate) struct Pread {
    pub(crate) file: Arc<File>,
    pub(crate) bytes: u64,
}

pub(crate) struct Cursor {
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

fn read_at(file: &File, start: u64, length: usize) -> std::io::Result<Vec<u8>> {
    let mut buffer = Vec::new();
    read_into(file, start, length, &mut buffer)?;
    Ok(buffer)
}

/// Appends bytes of a file. Their place is not zeroed first: these reads are most of what a selection does.
pub(super) fn read_into(file: &File, start: u64, length: usize, buffer: &mut Vec<u8>) -> std::io::Result<()> {
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
