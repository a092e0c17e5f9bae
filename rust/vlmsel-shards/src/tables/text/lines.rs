//! Lines and records of a stream, never longer than a record may be.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;

use crate::error::{Error, Result};

/// A line or record longer than this is no record (an unclosed quote, a binary file).
pub const MAX_RECORD_BYTES: usize = 16 << 20;

/// How a line ended.
pub enum LineEnd {
    /// It is whole.
    Line,
    /// It is no record; the rest of it was passed over.
    TooLong,
    /// There is none.
    End,
}

/// The lines of a stream.
pub struct Lines {
    pub(super) reader: BufReader<Box<dyn Read + Send>>,
    pub(super) path: PathBuf,
    /// Number of the last line.
    pub(super) number: u64,
}

impl Lines {
    /// The next line that is not blank, without its end.
    pub fn next(&mut self, line: &mut Vec<u8>) -> Result<LineEnd> {
        loop {
            line.clear();
            let limit = MAX_RECORD_BYTES as u64 + 1;
            let read = Read::by_ref(&mut self.reader)
                .take(limit)
                .read_until(b'\n', line)
                .map_err(|error| Error::unreadable(&self.path, format!("behind line {}: {error}", self.number)))?;
            if read == 0 {
                return Ok(LineEnd::End);
            }
            self.number += 1;
            if line.len() > MAX_RECORD_BYTES && !line.ends_with(b"\n") {
                self.skip_line()?;
                return Ok(LineEnd::TooLong);
            }
            if self.number == 1 && line.starts_with(b"\xef\xbb\xbf") {
                line.drain(..3);
            }
            if line.iter().any(|byte| !byte.is_ascii_whitespace()) {
                return Ok(LineEnd::Line);
            }
        }
    }

    fn skip_line(&mut self) -> Result<()> {
        loop {
            let buffer = self.reader.fill_buf().map_err(|error| Error::unreadable(&self.path, error))?;
            if buffer.is_empty() {
                return Ok(());
            }
            if let Some(at) = buffer.iter().position(|byte| *byte == b'\n') {
                self.reader.consume(at + 1);
                return Ok(());
            }
            let all = buffer.len();
            self.reader.consume(all);
        }
    }
}
