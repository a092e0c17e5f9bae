//! CSV and JSON lines, plain or compressed, streamed.
//!
//! Ids are strings; scores are read as `f64`. A record that cannot be read is quarantined with its line and goes on; a
//! stream that breaks (damaged compression) makes the file unreadable.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow_array::builder::{Float64Builder, StringViewBuilder, UInt64Builder};
use arrow_array::{ArrayRef, RecordBatch};
use serde_json::{Map, Value};

use super::schema::{Column, MAX_ID_BYTES, Role, working_schema};
use crate::error::{Error, IoContext, Result};
use crate::quarantine::Quarantined;

/// A line or record longer than this is no record (an unclosed quote, a binary file).
const MAX_RECORD_BYTES: usize = 16 << 20;
/// Largest window a zstd stream may ask for, as a power of two (128 MiB).
const MAX_ZSTD_WINDOW_LOG: u32 = 27;
/// Rows per batch.
const BATCH_ROWS: usize = 4096;
/// JSON lines whose keys make the list of columns.
const PEEKED_LINES: usize = 100;

/// How records are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Syntax {
    /// Comma-separated values with a header.
    Csv,
    /// One JSON object per line.
    JsonLines,
}

/// How the file is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// It is not.
    None,
    /// gzip, any number of members.
    Gzip,
    /// zstd, any number of frames.
    Zstd,
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
}

impl TextTable {
    /// Opens the file and finds its columns: the CSV header, or the keys of the first JSON lines.
    ///
    /// # Errors
    /// [`Error::Unreadable`] if it does not decompress or has no header.
    pub fn open(path: &Path, name: &str, syntax: Syntax, compression: Compression) -> Result<Self> {
        let bytes = std::fs::metadata(path).at("inspect", path)?.len();
        let mut table =
            Self { path: path.to_path_buf(), name: name.to_owned(), bytes, syntax, compression, header: Vec::new() };
        table.header = match syntax {
            Syntax::Csv => {
                let (mut reader, _) = table.csv_reader()?;
                let header = reader.byte_headers().map_err(|error| Error::unreadable(path, error))?;
                let names = header.iter().map(|field| String::from_utf8_lossy(field).into_owned()).collect::<Vec<_>>();
                if names.is_empty() {
                    return Err(Error::unreadable(path, "empty: a CSV table needs a header line"));
                }
                names
            }
            Syntax::JsonLines => table.peek_keys()?,
        };
        Ok(table)
    }

    fn peek_keys(&self) -> Result<Vec<String>> {
        let mut keys = Vec::new();
        let mut lines = self.lines()?;
        let mut line = Vec::new();
        for _ in 0..PEEKED_LINES {
            match lines.next(&mut line)? {
                LineEnd::End => break,
                LineEnd::TooLong => {}
                LineEnd::Line => {
                    if let Ok(record) = parse_object(&line) {
                        keys.extend(record.into_iter().map(|(key, _)| key));
                    }
                }
            }
        }
        keys.sort();
        keys.dedup();
        Ok(keys)
    }

    /// The columns' names; for JSON lines those seen at the beginning.
    pub fn header(&self) -> Option<&[String]> {
        Some(&self.header)
    }

    /// Whether a column is there, as far as the beginning of the file tells; an empty file has every column.
    pub fn has_column(&self, name: &str) -> Option<bool> {
        if self.header.is_empty() { None } else { Some(self.header.iter().any(|h| h == name)) }
    }

    fn stream(&self) -> Result<(Box<dyn Read + Send>, Arc<AtomicU64>)> {
        let read = Arc::new(AtomicU64::new(0));
        let file = Counted { inner: File::open(&self.path).at("open", &self.path)?, read: read.clone() };
        let stream: Box<dyn Read + Send> = match self.compression {
            Compression::None => Box::new(file),
            Compression::Gzip => Box::new(flate2::read::MultiGzDecoder::new(BufReader::with_capacity(1 << 16, file))),
            Compression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::new(file).at("decompress", &self.path)?;
                decoder.window_log_max(MAX_ZSTD_WINDOW_LOG).at("decompress", &self.path)?;
                Box::new(decoder)
            }
        };
        Ok((stream, read))
    }

    fn lines(&self) -> Result<Lines> {
        let (stream, read) = self.stream()?;
        Ok(Lines { reader: BufReader::with_capacity(1 << 16, stream), path: self.path.clone(), number: 0, read })
    }

    fn csv_reader(&self) -> Result<(csv::Reader<Capped>, Arc<AtomicU64>)> {
        let (stream, _) = self.stream()?;
        let since_record = Arc::new(AtomicU64::new(0));
        let capped = Capped { inner: stream, since_record: since_record.clone() };
        Ok((csv::ReaderBuilder::new().flexible(true).buffer_capacity(1 << 16).from_reader(capped), since_record))
    }

    /// Streams the columns in batches of their working types. `visit` also gets how many bytes of the file were read so
    /// far; records that cannot be read go to `bad`.
    ///
    /// # Errors
    /// [`Error::Unreadable`] if the stream breaks, and those of `visit`.
    pub fn read(
        &self,
        columns: &[(&Column, Role)],
        visit: &mut dyn FnMut(&RecordBatch) -> Result<()>,
        bad: &mut dyn FnMut(Quarantined) -> Result<()>,
    ) -> Result<()> {
        let mut batch = BatchBuilder::new(columns);
        match self.syntax {
            Syntax::JsonLines => {
                let mut lines = self.lines()?;
                let mut line = Vec::new();
                loop {
                    match lines.next(&mut line)? {
                        LineEnd::End => break,
                        LineEnd::TooLong => bad(self.bad_line(lines.number, "line_too_long", ""))?,
                        LineEnd::Line => match parse_object(&line).and_then(|record| cells_of_object(&record, columns))
                        {
                            Ok(cells) => batch.push(cells),
                            Err((reason, detail)) => bad(self.bad_line(lines.number, reason, &detail))?,
                        },
                    }
                    batch.flush_if(BATCH_ROWS, visit)?;
                }
            }
            Syntax::Csv => self.read_csv(columns, &mut batch, visit, bad)?,
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

type Bad = (&'static str, String);

/// One value of a record, read for its role.
enum Cell {
    Null,
    Text(String),
    Float(f64),
    Count(u64),
}

fn parse_object(line: &[u8]) -> std::result::Result<Map<String, Value>, Bad> {
    let text = std::str::from_utf8(line).map_err(|error| ("not_utf8", error.to_string()))?;
    let parsed = match serde_json::from_str::<Value>(text) {
        Ok(value) => Ok(value),
        Err(error) => match quote_constants(text) {
            Some(quoted) => serde_json::from_str(&quoted).map_err(|_| error),
            None => Err(error),
        },
    };
    match parsed {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(("not_an_object", text.to_owned())),
        Err(error) => Err(("bad_json", format!("{error}: {text}"))),
    }
}

/// Python writes `NaN`, `Infinity` and `-Infinity` into JSON; as strings they can be parsed. `None` if there are none.
fn quote_constants(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len() + 16);
    let (mut rest, mut changed) = (text, false);
    while let Some(first) = rest.chars().next() {
        if first == '"' {
            let mut escaped = false;
            let end = rest.char_indices().skip(1).find_map(|(at, c)| {
                let closes = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                closes.then_some(at + 1)
            })?;
            out.push_str(&rest[..end]);
            rest = &rest[end..];
        } else if let Some(constant) = ["NaN", "-Infinity", "Infinity"].iter().find(|c| rest.starts_with(**c)) {
            out.push('"');
            out.push_str(constant);
            out.push('"');
            rest = &rest[constant.len()..];
            changed = true;
        } else {
            out.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    changed.then_some(out)
}

fn cells_of_object(record: &Map<String, Value>, columns: &[(&Column, Role)]) -> std::result::Result<Vec<Cell>, Bad> {
    columns
        .iter()
        .map(|(column, role)| match (record.get(&column.name), role) {
            (None | Some(Value::Null), _) => Ok(Cell::Null),
            (Some(Value::String(text)), Role::Score) => match text.as_str() {
                "NaN" => Ok(Cell::Float(f64::NAN)),
                "Infinity" => Ok(Cell::Float(f64::INFINITY)),
                "-Infinity" => Ok(Cell::Float(f64::NEG_INFINITY)),
                _ => Err(("bad_number", format!("{}: {text:?}", column.name))),
            },
            (Some(value), Role::Score) => value
                .as_f64()
                .filter(|number| exact(value, *number))
                .map(Cell::Float)
                .ok_or_else(|| ("bad_number", format!("{}: {value}", column.name))),
            (Some(value), Role::Tokens) => {
                value.as_u64().map(Cell::Count).ok_or_else(|| ("bad_number", format!("{}: {value}", column.name)))
            }
            (Some(Value::String(text)), Role::Id) => id_cell(text.clone()),
            (Some(Value::Number(number)), Role::Id) if !number.is_f64() => Ok(Cell::Text(number.to_string())),
            (Some(value), Role::Id) => Err(("bad_id", format!("{}: {value}", column.name))),
            (Some(Value::String(text)), _) => Ok(Cell::Text(text.clone())),
            (Some(value), _) => Ok(Cell::Text(value.to_string())),
        })
        .collect()
}

/// An integer beyond 2^53 that a float would round cannot be ranked exactly.
fn exact(value: &Value, number: f64) -> bool {
    match (value.as_u64(), value.as_i64()) {
        (Some(whole), _) => number as u128 == u128::from(whole),
        (None, Some(whole)) => number as i128 == i128::from(whole),
        (None, None) => true,
    }
}

fn id_cell(text: String) -> std::result::Result<Cell, Bad> {
    if text.len() > MAX_ID_BYTES {
        return Err(("id_too_long", format!("{} bytes", text.len())));
    }
    Ok(Cell::Text(text))
}

fn cells_of_record(
    record: &csv::ByteRecord,
    places: &[Option<usize>],
    columns: &[(&Column, Role)],
) -> std::result::Result<Vec<Cell>, Bad> {
    let mut cells = Vec::with_capacity(columns.len());
    for ((column, role), place) in columns.iter().zip(places) {
        let Some(field) = place.and_then(|at| record.get(at)).filter(|field| !field.is_empty()) else {
            cells.push(Cell::Null);
            continue;
        };
        let text = std::str::from_utf8(field).map_err(|error| ("not_utf8", error.to_string()))?;
        let bad_number = || ("bad_number", format!("{}: {text:?}", column.name));
        cells.push(match role {
            Role::Score => {
                let trimmed = text.trim();
                let number: f64 = trimmed.parse().map_err(|_| bad_number())?;
                let whole: Option<i128> = trimmed.parse().ok();
                if whole.is_some_and(|whole| number as i128 != whole) {
                    return Err(bad_number());
                }
                Cell::Float(number)
            }
            Role::Tokens => Cell::Count(text.trim().parse().map_err(|_| bad_number())?),
            Role::Id => id_cell(text.to_owned())?,
            _ => Cell::Text(text.to_owned()),
        });
    }
    Ok(cells)
}

enum ColumnBuilder {
    Text(StringViewBuilder),
    Float(Float64Builder),
    Count(UInt64Builder),
}

struct BatchBuilder {
    builders: Vec<ColumnBuilder>,
    schema: arrow_schema::SchemaRef,
    rows: usize,
}

impl BatchBuilder {
    fn new(columns: &[(&Column, Role)]) -> Self {
        let builders = columns
            .iter()
            .map(|(_, role)| match role {
                Role::Score => ColumnBuilder::Float(Float64Builder::new()),
                Role::Tokens => ColumnBuilder::Count(UInt64Builder::new()),
                _ => ColumnBuilder::Text(StringViewBuilder::new()),
            })
            .collect();
        let columns: Vec<&Column> = columns.iter().map(|(column, _)| *column).collect();
        Self { builders, schema: working_schema(&columns), rows: 0 }
    }

    fn push(&mut self, cells: Vec<Cell>) {
        for (builder, cell) in self.builders.iter_mut().zip(cells) {
            match (builder, cell) {
                (ColumnBuilder::Text(builder), Cell::Text(text)) => builder.append_value(text),
                (ColumnBuilder::Float(builder), Cell::Float(number)) => builder.append_value(number),
                (ColumnBuilder::Count(builder), Cell::Count(number)) => builder.append_value(number),
                (ColumnBuilder::Text(builder), _) => builder.append_null(),
                (ColumnBuilder::Float(builder), _) => builder.append_null(),
                (ColumnBuilder::Count(builder), _) => builder.append_null(),
            }
        }
        self.rows += 1;
    }

    fn flush_if(&mut self, rows: usize, visit: &mut dyn FnMut(&RecordBatch) -> Result<()>) -> Result<()> {
        if self.rows < rows {
            return Ok(());
        }
        self.rows = 0;
        let arrays: Vec<ArrayRef> = self
            .builders
            .iter_mut()
            .map(|builder| match builder {
                ColumnBuilder::Text(builder) => Arc::new(builder.finish()) as ArrayRef,
                ColumnBuilder::Float(builder) => Arc::new(builder.finish()),
                ColumnBuilder::Count(builder) => Arc::new(builder.finish()),
            })
            .collect();
        let batch = RecordBatch::try_new(self.schema.clone(), arrays)
            .map_err(|error| Error::Usage(format!("text columns do not fit their schema: {error}")))?;
        visit(&batch)
    }
}

enum LineEnd {
    Line,
    TooLong,
    End,
}

struct Lines {
    reader: BufReader<Box<dyn Read + Send>>,
    path: PathBuf,
    number: u64,
    #[allow(dead_code, reason = "keeps the counter of the file's bytes alive")]
    read: Arc<AtomicU64>,
}

impl Lines {
    /// The next line that is not blank, without its end.
    fn next(&mut self, line: &mut Vec<u8>) -> Result<LineEnd> {
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

struct Counted {
    inner: File,
    read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.read.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// Stops a CSV record that never ends: a quote that is not closed would otherwise swallow the file into memory.
struct Capped {
    inner: Box<dyn Read + Send>,
    since_record: Arc<AtomicU64>,
}

impl Read for Capped {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.since_record.load(Ordering::Relaxed) > MAX_RECORD_BYTES as u64 {
            return Err(std::io::Error::other(format!(
                "a record of more than {MAX_RECORD_BYTES} bytes (an unclosed quote?)"
            )));
        }
        let read = self.inner.read(buffer)?;
        self.since_record.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_are_quoted_outside_strings_only() {
        assert_eq!(
            quote_constants(r#"{"a": NaN, "b": "NaN \" Infinity", "c": -Infinity}"#).unwrap(),
            r#"{"a": "NaN", "b": "NaN \" Infinity", "c": "-Infinity"}"#
        );
        assert_eq!(quote_constants(r#"{"a": 1}"#), None);
    }

    #[test]
    fn integers_that_a_float_would_round_are_refused() {
        let column = Column {
            name: "s".into(),
            working: arrow_schema::DataType::Float64,
            output: arrow_schema::DataType::Float64,
        };
        let cells = |text: &str| cells_of_object(&parse_object(text.as_bytes()).unwrap(), &[(&column, Role::Score)]);
        assert!(cells(r#"{"s": 9007199254740992}"#).is_ok());
        assert!(cells(r#"{"s": 9007199254740993}"#).is_err());
        assert!(cells(r#"{"s": "abc"}"#).is_err());
        assert!(matches!(cells(r#"{"s": NaN}"#).unwrap()[0], Cell::Float(f) if f.is_nan()));
    }
}
