//! Bytes of Parquet files: read by position, and decoded under guard.

use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;

use ::parquet::errors::ParquetError;
use ::parquet::file::reader::{ChunkReader, Length};
use bytes::Bytes;

use crate::error::{Error, Result};
use crate::out_of_memory::{panic_text, zstd_error};
use crate::storage::caught::caught;
use crate::storage::source::{ReadAt, Sequential, into_io};

/// Result of the parquet crate.
type ParquetResult<T> = std::result::Result<T, ParquetError>;

/// Runs the parquet crate on bytes that may be hostile: its errors and panics name the file. The panic's own message is
/// held back, because the error says it better. Where zstd had no memory, the file is not to blame and nothing is said of it.
pub(super) fn guarded<T>(path: &Path, work: impl FnOnce() -> ParquetResult<T>) -> Result<T> {
    match caught(work) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => {
            let text = error.to_string();
            Err(zstd_error(&text).unwrap_or_else(|| Error::unreadable(path, format!("damaged Parquet: {text}"))))
        }
        Err(panic) => Err(panic_text(panic.as_ref())
            .and_then(zstd_error)
            .unwrap_or_else(|| Error::unreadable(path, "damaged Parquet: its pages make no sense"))),
    }
}

/// Bytes read by position: many readers share them without sharing a cursor.
#[derive(Debug, Clone)]
pub(crate) struct Shared(pub(crate) Arc<dyn ReadAt>);

impl Length for Shared {
    fn len(&self) -> u64 {
        self.0.size_bytes()
    }
}

impl ChunkReader for Shared {
    type T = BufReader<Sequential>;

    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        Ok(BufReader::with_capacity(4096, Sequential::new(self.0.clone(), start)))
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        let size = self.0.size_bytes();
        if start.checked_add(length as u64).is_none_or(|end| end > size) {
            return Err(ParquetError::EOF(format!("{length} bytes at {start} of a file of {size}")));
        }
        let mut buffer = Vec::new();
        self.0.read_onto(&mut buffer, start, length).map_err(into_io)?;
        Ok(buffer.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorClass;

    fn class_of(work: impl FnOnce() -> ParquetResult<()>) -> ErrorClass {
        guarded(Path::new("a.parquet"), work).unwrap_err().class()
    }

    #[test]
    fn a_file_is_not_damaged_where_zstd_had_no_memory() {
        let error = |text: &str| Err(ParquetError::General(text.to_owned()));
        assert_eq!(class_of(|| error("a page ends early")), ErrorClass::Unreadable);
        assert_eq!(class_of(|| panic!("index {} out of range", 7)), ErrorClass::Unreadable);
        // The library's words, as its header `zstd_errors.h` numbers them.
        let words = zstd::zstd_safe::get_error_name(-64_isize as usize);
        assert_eq!(class_of(|| error(words)), ErrorClass::Resource, "{words}");
        assert_eq!(class_of(|| panic!("can create zstd decompressor: {words}")), ErrorClass::Resource);
        assert_eq!(class_of(|| panic!("zstd returned null pointer when creating new context")), ErrorClass::Resource);
    }
}
