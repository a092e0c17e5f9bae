//! Text files from their first byte to their last, plain or compressed.

use std::io::{BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{IoContext, Result};
use crate::storage::source::{Sequential, open};
use crate::storage::text_encoding::utf8_stream;

/// Largest window a zstd stream may ask for, as a power of two: 128 MiB, what `zstd --long` writes.
const MAX_WINDOW_LOG: u32 = 27;

/// How a file is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// It is not.
    None,
    /// gzip, any number of members.
    Gzip,
    /// zstd, any number of frames.
    Zstd,
}

impl Compression {
    /// What a file's name says.
    pub fn of(path: &Path) -> Self {
        let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase()).unwrap_or_default();
        match ending.as_str() {
            "gz" => Self::Gzip,
            "zst" => Self::Zstd,
            _ => Self::None,
        }
    }
}

/// Opens a file of text; UTF-16 and UTF-32 are refused by name.
///
/// # Errors
/// Those of opening it and of its first bytes.
pub fn open_text(path: &Path, compression: Compression) -> Result<Box<dyn Read + Send>> {
    let file = Sequential::new(open(path)?, 0);
    let stream: Box<dyn Read + Send> = match compression {
        Compression::None => Box::new(file),
        Compression::Gzip => Box::new(flate2::read::MultiGzDecoder::new(BufReader::with_capacity(1 << 16, file))),
        Compression::Zstd => {
            let mut decoder = zstd::Decoder::new(file).at("decompress", path)?;
            decoder.window_log_max(MAX_WINDOW_LOG).at("decompress", path)?;
            Box::new(decoder)
        }
    };
    Ok(Box::new(utf8_stream(stream, path, compression != Compression::None)?))
}

/// Ends a stream in which one record takes too much: a quote that is never closed would take all of it. Whoever reads records
/// sets the count back with each.
pub struct Capped {
    inner: Box<dyn Read + Send>,
    since_record: Arc<AtomicU64>,
    most_bytes: usize,
}

impl Capped {
    /// A stream whose records have at most `most_bytes`, and the count of bytes since the last of them.
    pub fn new(inner: Box<dyn Read + Send>, most_bytes: usize) -> (Self, Arc<AtomicU64>) {
        let since_record = Arc::new(AtomicU64::new(0));
        (Self { inner, since_record: since_record.clone(), most_bytes }, since_record)
    }
}

impl Read for Capped {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.since_record.load(Ordering::Relaxed) > self.most_bytes as u64 {
            let text = format!("a record of more than {} bytes (an unclosed quote?)", self.most_bytes);
            return Err(std::io::Error::other(text));
        }
        let read = self.inner.read(buffer)?;
        self.since_record.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}
