//! The pages of one column chunk, one after the other, in buffers that are used again.
//!
//! A selection looks at gigabytes of pages and keeps almost nothing of them. A page is read into a buffer that the last one
//! was in, so that neither the kernel nor the allocator has to find fresh memory for each.

use std::io::Read;
use std::ops::Range;

use ::parquet::basic::Compression;

use super::page_header::{HeaderError, MAX_HEADER_BYTES, MAX_PAGE_BYTES, PageHeader, PageKind};
use crate::error::Error;
use crate::out_of_memory::zstd_error;
use crate::storage::source::ReadAt;

/// Bytes read for a header: more than it usually has, less than is worth skipping.
const HEADER_READ: usize = 4 << 10;

/// Buffers for the pages of one thread.
#[derive(Default)]
pub struct PageBuffers {
    /// A stretch of the file.
    stored: Vec<u8>,
    /// A page decompressed.
    plain: Vec<u8>,
    zstd: Option<zstd::bulk::Decompressor<'static>>,
}

impl std::fmt::Debug for PageBuffers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PageBuffers({} + {} bytes)", self.stored.capacity(), self.plain.capacity())
    }
}

/// Why a chunk cannot be read.
#[derive(Debug)]
pub enum PageError {
    /// The file's.
    File(Error),
    /// The chunk's.
    Damaged(String),
}

impl From<Error> for PageError {
    fn from(error: Error) -> Self {
        Self::File(error)
    }
}

/// Shorthand for [`PageError::Damaged`].
pub fn damaged(what: impl Into<String>) -> PageError {
    PageError::Damaged(what.into())
}

/// Walks over the pages of a chunk.
pub struct ChunkPages<'a> {
    file: &'a dyn ReadAt,
    codec: Compression,
    /// Where the next header is.
    at: u64,
    /// Where the chunk ends.
    end: u64,
    /// File offset of the first byte of `buffers.stored`.
    base: u64,
    buffers: &'a mut PageBuffers,
}

impl<'a> ChunkPages<'a> {
    /// The pages in `range` of the file.
    pub fn new(file: &'a dyn ReadAt, range: Range<u64>, codec: Compression, buffers: &'a mut PageBuffers) -> Self {
        buffers.stored.clear();
        Self { file, codec, at: range.start, end: range.end, base: range.start, buffers }
    }

    /// Whether pages of this codec can be read here; the others are the parquet crate's.
    pub fn reads(codec: Compression) -> bool {
        !matches!(codec, Compression::LZ4 | Compression::LZO)
    }

    /// The next header; [`ChunkPages::body`] or [`ChunkPages::skip`] must follow. `None` at the end of the chunk.
    pub fn next_header(&mut self) -> Result<Option<PageHeader>, PageError> {
        if self.at >= self.end {
            return Ok(None);
        }
        let mut wanted = HEADER_READ;
        loop {
            let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
            let bytes = self.stored(wanted.min(left), HEADER_READ)?;
            match PageHeader::read(bytes) {
                Ok((header, length)) => {
                    self.at += length as u64;
                    if header.stored_bytes as u64 > self.end - self.at {
                        return Err(damaged("a page runs over the end of its column"));
                    }
                    if !header.may_expand(self.codec) {
                        return Err(damaged(format!(
                            "a page of {} bytes claims to hold {}",
                            header.stored_bytes, header.plain_bytes
                        )));
                    }
                    return Ok(Some(header));
                }
                Err(HeaderError::Short) if wanted < left && wanted < MAX_HEADER_BYTES => wanted *= 8,
                Err(HeaderError::Short) => return Err(damaged("a page header without an end")),
                Err(HeaderError::Damaged(what)) => return Err(damaged(what)),
            }
        }
    }

    /// Passes over the page that the header announced.
    pub fn skip(&mut self, header: &PageHeader) {
        self.at += header.stored_bytes as u64;
    }

    /// The stored bytes of the page that the header announced, and a way to decompress them.
    pub fn body(&mut self, header: &PageHeader) -> Result<Body<'_>, PageError> {
        // A little more, so that the next header is there already.
        self.stored(header.stored_bytes, HEADER_READ)?;
        let from = (self.at - self.base) as usize;
        self.at += header.stored_bytes as u64;
        let stored = &self.buffers.stored[from..from + header.stored_bytes];
        if header.crc.is_some_and(|crc| crc32fast::hash(stored) != crc) {
            return Err(damaged("the checksum of a page is wrong"));
        }
        let (levels, compressed) = match header.kind {
            PageKind::DataV2 { level_bytes: (repetition, definition), compressed, .. } => {
                (repetition..repetition + definition, compressed)
            }
            _ => (0..0, true),
        };
        let codec = if compressed { self.codec } else { Compression::UNCOMPRESSED };
        let values = &stored[levels.end..];
        Ok(Body {
            levels: &stored[levels.clone()],
            stored: values,
            plain_bytes: header.plain_bytes - levels.end,
            codec,
            plain: &mut self.buffers.plain,
            zstd: &mut self.buffers.zstd,
        })
    }

    /// `length` bytes of the file from `self.at` on, which the chunk has; up to `ahead` more are read with them.
    fn stored(&mut self, length: usize, ahead: usize) -> Result<&[u8], PageError> {
        let buffer = &mut self.buffers.stored;
        let offset = usize::try_from(self.at - self.base).unwrap_or(usize::MAX);
        if offset.saturating_add(length) > buffer.len() {
            if offset < buffer.len() {
                buffer.copy_within(offset.., 0);
                buffer.truncate(buffer.len() - offset);
            } else {
                buffer.clear();
            }
            self.base = self.at;
            let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
            let missing = length.saturating_add(ahead).min(left) - buffer.len();
            let at = self.at + buffer.len() as u64;
            self.file.read_onto(buffer, at, missing)?;
        }
        let from = (self.at - self.base) as usize;
        Ok(&self.buffers.stored[from..from + length])
    }
}

/// The content of a page.
pub struct Body<'a> {
    /// Definition levels of a version-2 page.
    pub levels: &'a [u8],
    /// Values (with their levels in front in version 1) as they are in the file.
    pub stored: &'a [u8],
    /// Their size decompressed.
    pub plain_bytes: usize,
    /// How `stored` is compressed.
    pub codec: Compression,
    plain: &'a mut Vec<u8>,
    zstd: &'a mut Option<zstd::bulk::Decompressor<'static>>,
}

impl<'a> Body<'a> {
    /// The values decompressed (with their levels in front in version 1).
    pub fn decompress(self) -> Result<&'a [u8], PageError> {
        if self.codec == Compression::UNCOMPRESSED {
            return Ok(self.stored);
        }
        let size = self.plain_bytes;
        if self.plain.len() < size {
            self.plain.resize(size, 0);
        }
        let plain = &mut self.plain[..size];
        let wrong = |error: &dyn std::fmt::Display| damaged(format!("a page does not decompress: {error}"));
        let written = match self.codec {
            // A page of nulls alone may have no bytes of values at all.
            _ if self.stored.is_empty() => 0,
            Compression::SNAPPY => {
                snap::raw::Decoder::new().decompress(self.stored, plain).map_err(|error| wrong(&error))?
            }
            Compression::LZ4_RAW => {
                lz4_flex::block::decompress_into(self.stored, plain).map_err(|error| wrong(&error))?
            }
            Compression::GZIP(_) => {
                fill(flate2::read::MultiGzDecoder::new(self.stored), plain).map_err(|e| wrong(&e))?
            }
            Compression::BROTLI(_) => {
                fill(brotli::Decompressor::new(self.stored, 4096), plain).map_err(|e| wrong(&e))?
            }
            _ => {
                let decoder = match self.zstd {
                    Some(decoder) => decoder,
                    empty => empty.insert(
                        zstd::bulk::Decompressor::new().map_err(|error| Error::Resource(format!("zstd: {error}")))?,
                    ),
                };
                decoder
                    .decompress_to_buffer(self.stored, plain)
                    .map_err(|error| zstd_error(&error.to_string()).map_or_else(|| wrong(&error), PageError::File))?
            }
        };
        if written != size {
            return Err(damaged(format!("a page decompresses to {written} bytes, its header says {size}")));
        }
        Ok(&self.plain[..size])
    }

    /// Definition levels of one bit (`None` in a column that cannot be null), and the values.
    pub fn levels_and_values(
        self,
        header: &PageHeader,
        nullable: bool,
    ) -> Result<(Option<&'a [u8]>, &'a [u8]), PageError> {
        let levels = self.levels;
        let values = self.decompress()?;
        if !nullable {
            return Ok((None, values));
        }
        if matches!(header.kind, PageKind::DataV2 { .. }) {
            return Ok((Some(levels), values));
        }
        let cut = || damaged("its levels are cut short");
        let length = level_bytes(values).ok_or_else(cut)?;
        let levels = values.get(4..4 + length).ok_or_else(cut)?;
        Ok((Some(levels), &values[4 + length..]))
    }
}

/// Fills `plain` from the stream, which has to end there: what checks a stream (gzip's CRC and length) stands at its end, and
/// a decoder looks at it only when it is asked for more.
fn fill(mut stream: impl Read, plain: &mut [u8]) -> std::io::Result<usize> {
    let mut done = 0;
    while done < plain.len() {
        match stream.read(&mut plain[done..])? {
            0 => return Ok(done),
            read => done += read,
        }
    }
    match stream.read(&mut [0])? {
        0 => Ok(done),
        _ => Err(std::io::Error::other("more bytes than its header says")),
    }
}

/// Length of the definition levels at the front of a page of version 1.
pub fn level_bytes(values: &[u8]) -> Option<usize> {
    let length = values.first_chunk::<4>().map(|length| u32::from_le_bytes(*length) as usize)?;
    (length <= MAX_PAGE_BYTES).then_some(length)
}
