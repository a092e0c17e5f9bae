//! CSV and JSON lines, plain or compressed, streamed.
//!
//! Ids are strings; scores are read as `f64`. A record that cannot be read is quarantined with its line and goes on; a
//! stream that breaks (damaged compression) makes the file unreadable.

mod cells;
mod json_cells;
mod lines;

use std::collections::BTreeSet;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow_array::RecordBatch;

use self::cells::{BatchBuilder, cells_of_record};
use self::json_cells::{add_keys, cells_of_line};
use self::lines::{LineEnd, Lines, MAX_RECORD_BYTES};
use crate::columns::partitions::Partition;
use crate::columns::{Column, Role};
use crate::error::{Error, Result};
use crate::formats::json_fields::MAX_KEYS;
use crate::storage::source::open;
pub use crate::storage::text_stream::Compression;
use crate::storage::text_stream::{Capped, open_text};
use crate::workspace::quarantine::Quarantined;

/// Rows per batch.
const BATCH_ROWS: usize = 4096;
/// JSON lines whose keys make the list of columns.
const PEEKED_LINES: usize = 100;

/// How records are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Syntax {
    /// Comma-separated values with a header.
    Csv,
    /// The same with tabs.
    Tsv,
    /// One JSON object per line.
    JsonLines,
}

/// An opened text table.
#[derive(Debug, Clone)]
pub struct TextTable {
    /// Where it lies.
    pub path: PathBuf,
    /// Its path below the argument that named it.
    pub name: String,
    /// Its size on disk.
    pub bytes: u64,
    syntax: Syntax,
    compression: Compression,
    header: Vec<String>,
    /// Columns that stand in the header, or in one of the first records, more than once.
    twice: BTreeSet<String>,
    /// Columns that stand in its path.
    partitions: Vec<Partition>,
}

impl TextTable {
    /// Opens the file and finds its columns: the CSV header, or the keys of the first JSON lines.
    ///
    /// # Errors
    /// [`Error::Unreadable`] if it does not decompress or has no header.
    pub fn open(path: &Path, name: &str, syntax: Syntax, compression: Compression) -> Result<Self> {
        let bytes = open(path)?.size_bytes();
        let mut table = Self {
            path: path.to_path_buf(),
            name: name.to_owned(),
            bytes,
            syntax,
            compression,
            header: Vec::new(),
            twice: BTreeSet::new(),
            partitions: Vec::new(),
        };
        table.header = match syntax {
            Syntax::Csv | Syntax::Tsv => {
                let (mut reader, _) = table.csv_reader()?;
                let header = reader.byte_headers().map_err(|error| Error::unreadable(path, error))?;
                if header.len() > MAX_KEYS {
                    let reason = format!("{} columns: a table has at most {MAX_KEYS}", header.len());
                    return Err(Error::unreadable(path, reason));
                }
                let names = header.iter().map(|field| String::from_utf8_lossy(field).into_owned()).collect::<Vec<_>>();
                let mut seen = BTreeSet::new();
                table.twice = names.iter().filter(|name| !seen.insert(*name)).cloned().collect();
                if names.is_empty() {
                    return Err(Error::unreadable(path, "empty: a CSV table needs a header line"));
                }
                names
            }
            Syntax::JsonLines => table.peek_keys()?,
        };
        Ok(table)
    }

    fn peek_keys(&mut self) -> Result<Vec<String>> {
        let mut keys = BTreeSet::new();
        let mut lines = self.lines()?;
        let mut line = Vec::new();
        for _ in 0..PEEKED_LINES {
            match lines.next(&mut line)? {
                LineEnd::End => break,
                LineEnd::TooLong => {}
                // What is wrong with a line is told when it is read.
                LineEnd::Line => drop(add_keys(&line, &mut keys, &mut self.twice)),
            }
            // Lines that share no key are no table; their keys may be megabytes each.
            if keys.len() > MAX_KEYS {
                break;
            }
        }
        Ok(keys.into_iter().collect())
    }

    /// The columns' names; for JSON lines those seen at the beginning.
    pub fn header(&self) -> Option<&[String]> {
        Some(&self.header)
    }

    /// The same table with columns of one value each; those that the file has itself count.
    #[must_use]
    pub fn with_partitions(mut self, partitions: Vec<Partition>) -> Self {
        self.partitions = partitions;
        self
    }

    /// The columns that stand in its path.
    pub fn partitions(&self) -> &[Partition] {
        &self.partitions
    }

    /// Whether a column is there, as far as the beginning of the file tells; an empty file has every column.
    pub fn has_column(&self, name: &str) -> Option<bool> {
        if self.header.is_empty() { None } else { Some(self.header.iter().any(|h| h == name)) }
    }

    /// Refuses a wanted column that stands in the file twice: which one is meant?
    ///
    /// # Errors
    /// [`Error::Usage`].
    pub fn check_once(&self, name: &str) -> Result<()> {
        if !self.twice.contains(name) {
            return Ok(());
        }
        Err(Error::Usage(format!("{}: column {name:?} stands there twice", self.path.display())))
    }

    fn lines(&self) -> Result<Lines> {
        let stream = open_text(&self.path, self.compression)?;
        Ok(Lines { reader: BufReader::with_capacity(1 << 16, stream), path: self.path.clone(), number: 0 })
    }

    fn csv_reader(&self) -> Result<(csv::Reader<Capped>, Arc<AtomicU64>)> {
        let (capped, since_record) = Capped::new(open_text(&self.path, self.compression)?, MAX_RECORD_BYTES);
        let delimiter = if self.syntax == Syntax::Tsv { b'\t' } else { b',' };
        Ok((
            csv::ReaderBuilder::new().delimiter(delimiter).flexible(true).buffer_capacity(1 << 16).from_reader(capped),
            since_record,
        ))
    }

    /// Streams the columns in batches of their working types; records that cannot be read go to `bad`.
    ///
    /// # Errors
    /// [`Error::Unreadable`] if the stream breaks, and those of `visit`.
    pub fn read(
        &self,
        columns: &[(&Column, Role)],
        visit: &mut dyn FnMut(&RecordBatch) -> Result<()>,
        bad: &mut dyn FnMut(Quarantined) -> Result<()>,
    ) -> Result<()> {
        let of_path = |column: &Column| {
            let is_own = self.header.contains(&column.name);
            self.partitions.iter().find(|part| !is_own && part.name == column.name).cloned()
        };
        let mut batch = BatchBuilder::new(columns, columns.iter().map(|(column, _)| of_path(column)).collect());
        match self.syntax {
            Syntax::JsonLines => {
                let names: Vec<&str> = columns.iter().map(|(column, _)| column.name.as_str()).collect();
                let mut lines = self.lines()?;
                let mut line = Vec::new();
                loop {
                    match lines.next(&mut line)? {
                        LineEnd::End => break,
                        LineEnd::TooLong => bad(self.bad_line(lines.number, "line_too_long", ""))?,
                        LineEnd::Line => match cells_of_line(&line, &names, columns) {
                            Ok(cells) => batch.push(cells),
                            Err((reason, detail)) => bad(self.bad_line(lines.number, reason, &detail))?,
                        },
                    }
                    batch.flush_if(BATCH_ROWS, visit)?;
                }
            }
            Syntax::Csv | Syntax::Tsv => self.read_csv(columns, &mut batch, visit, bad)?,
        }
        batch.flush_if(1, visit)
    }

    fn read_csv(
        &self,
        columns: &[(&Column, Role)],
        batch: &mut BatchBuilder,
        visit: &mut dyn FnMut(&RecordBatch) -> Result<()>,
        bad: &mut dyn FnMut(Quarantined) -> Result<()>,
    ) -> Result<()> {
        let (mut reader, since_record) = self.csv_reader()?;
        let places: Vec<Option<usize>> =
            columns.iter().map(|(column, _)| self.header.iter().position(|name| *name == column.name)).collect();
        let mut record = csv::ByteRecord::new();
        loop {
            since_record.store(0, Ordering::Relaxed);
            let more = reader.read_byte_record(&mut record).map_err(|error| Error::unreadable(&self.path, error))?;
            if !more {
                return Ok(());
            }
            let line = record.position().map_or(0, csv::Position::line);
            if record.len() == self.header.len() {
                match cells_of_record(&record, &places, columns) {
                    Ok(cells) => batch.push(cells),
                    Err((reason, detail)) => bad(self.bad_line(line, reason, &detail))?,
                }
            } else {
                let detail = format!("{} fields, the header has {}", record.len(), self.header.len());
                bad(self.bad_line(line, "wrong_field_count", &detail))?;
            }
            batch.flush_if(BATCH_ROWS, visit)?;
        }
    }

    fn bad_line(&self, line: u64, reason: &str, detail: &str) -> Quarantined {
        Quarantined::new(&self.name, "line", Some(line), reason, detail)
    }
}
