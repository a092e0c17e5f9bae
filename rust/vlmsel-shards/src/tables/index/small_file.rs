//! Parquet files of few rows, written directly: one row group, one page for each column, PLAIN, without compression or statistics.
//!
//! The parquet crate's writers prepare for large columns; for a table of one row, making and closing 22 of them takes ten times as
//! long as its bytes do. What all such files share, the schema above all, is cut out of a file that the crate wrote; the crate's
//! reader is the oracle. Structures: parquet-format's `parquet.thrift`, in Thrift's compact protocol.

use parquet::basic::Type;
use parquet::schema::types::{ColumnDescriptor, SchemaDescriptor};
use vlmsel_core::hash::Hash128;

use crate::error::{Error, Result};

const MAGIC: &[u8] = b"PAR1";
/// In the footer of a table without rows: its number of rows, its row groups, and the beginning of its one pair of key and value.
const SEAM: &[u8] = b"\x16\x00\x19\x0c\x19\x1c\x18\x0cARROW:schema";
/// Of these, what is written anew.
const SEAM_BYTES: usize = 4;

/// Kinds of fields.
const I16: u8 = 4;
const I32: u8 = 5;
const I64: u8 = 6;
const BINARY: u8 = 8;
const LIST: u8 = 9;
const STRUCT: u8 = 12;
/// The end of a structure.
const STOP: u8 = 0;

/// The number of a field is written as the distance to the field before it.
fn field(out: &mut Vec<u8>, distance: u8, kind: u8) {
    out.push(distance << 4 | kind);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A number of any width; none of ours is negative.
fn number(out: &mut Vec<u8>, distance: u8, kind: u8, value: u64) {
    field(out, distance, kind);
    varint(out, value << 1);
}

fn list(out: &mut Vec<u8>, distance: u8, kind: u8, length: usize) {
    field(out, distance, LIST);
    if length < 15 {
        out.push((length as u8) << 4 | kind);
    } else {
        out.push(0xf0 | kind);
        varint(out, length as u64);
    }
}

/// A value as PLAIN has it.
pub trait Plain {
    /// Appends it.
    fn append(&self, out: &mut Vec<u8>);
}

impl Plain for u32 {
    fn append(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_le_bytes());
    }
}

impl Plain for u64 {
    fn append(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_le_bytes());
    }
}

impl Plain for Hash128 {
    fn append(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }
}

impl Plain for &[u8] {
    fn append(&self, out: &mut Vec<u8>) {
        (self.len() as u32).append(out);
        out.extend_from_slice(self);
    }
}

impl Plain for &str {
    fn append(&self, out: &mut Vec<u8>) {
        self.as_bytes().append(out);
    }
}

/// What all files of one schema share.
pub struct Template {
    columns: Vec<TemplateColumn>,
    /// The footer before its number of rows,
    before: Vec<u8>,
    /// and behind its row groups.
    behind: Vec<u8>,
}

struct TemplateColumn {
    /// `ColumnMetaData` up to the codec.
    metadata: Vec<u8>,
    max_definition: u8,
    is_repeated: bool,
}

impl Template {
    /// `empty` is a file without rows that the parquet crate wrote; the Arrow schema is its only pair of key and value. `None` if
    /// its footer is another one than this module knows.
    pub fn of(schema: &SchemaDescriptor, empty: &[u8]) -> Option<Self> {
        let (rest, length) = empty.strip_suffix(MAGIC)?.split_last_chunk()?;
        let footer = rest.get(rest.len().checked_sub(u32::from_le_bytes(*length) as usize)?..)?;
        let seam = footer.windows(SEAM.len()).position(|bytes| bytes == SEAM)?;
        let columns = schema.columns().iter().map(|column| TemplateColumn::of(column)).collect::<Option<_>>()?;
        Some(Self { columns, before: footer[..seam].to_vec(), behind: footer[seam + SEAM_BYTES..].to_vec() })
    }
}

impl TemplateColumn {
    /// Lists in lists are not written here.
    fn of(column: &ColumnDescriptor) -> Option<Self> {
        let kind = match column.physical_type() {
            Type::INT32 => 1,
            Type::INT64 => 2,
            Type::BYTE_ARRAY => 6,
            Type::FIXED_LEN_BYTE_ARRAY => 7,
            _ => return None,
        };
        let mut metadata = Vec::new();
        number(&mut metadata, 1, I32, kind);
        // PLAIN, and RLE for levels.
        list(&mut metadata, 1, I32, 2);
        metadata.extend([0, 3 << 1]);
        list(&mut metadata, 1, BINARY, column.path().parts().len());
        for part in column.path().parts() {
            varint(&mut metadata, part.len() as u64);
            metadata.extend_from_slice(part.as_bytes());
        }
        // Not compressed.
        number(&mut metadata, 1, I32, 0);
        let max_definition = u8::try_from(column.max_def_level()).ok()?;
        (column.max_rep_level() <= 1).then(|| Self {
            metadata,
            max_definition,
            is_repeated: column.max_rep_level() == 1,
        })
    }
}

/// A file being written: columns in the order of the schema, then [`SmallFile::finish`].
pub struct SmallFile<'a> {
    template: &'a Template,
    rows: usize,
    out: Vec<u8>,
    /// `ColumnChunk`s of the columns so far.
    chunks: Vec<u8>,
    columns: usize,
    /// Of the column being written.
    repetition: Levels,
    definition: Levels,
    entries: u64,
    values: Vec<u8>,
}

impl<'a> SmallFile<'a> {
    /// A file of `rows` rows, at least one.
    pub fn new(template: &'a Template, rows: usize) -> Self {
        let mut out = Vec::with_capacity(8 << 10);
        out.extend_from_slice(MAGIC);
        Self {
            template,
            rows,
            out,
            chunks: Vec::with_capacity(4 << 10),
            columns: 0,
            repetition: Levels::default(),
            definition: Levels::default(),
            entries: 0,
            values: Vec::new(),
        }
    }

    /// Writes the next column, of one value or null for each row.
    pub fn flat<V: Plain>(&mut self, values: impl Iterator<Item = Option<V>>) -> Result<()> {
        let max_definition = self.next_column()?.max_definition;
        for value in values {
            self.entry(0, max_definition, value)?;
        }
        self.end_column()
    }

    /// Writes the next column, a field of the elements of one list for each row.
    pub fn nested<V: Plain, I: Iterator<Item = Option<V>>>(&mut self, rows: impl Iterator<Item = I>) -> Result<()> {
        let max_definition = self.next_column()?.max_definition;
        for values in rows {
            let before = self.entries;
            for value in values {
                self.entry(u8::from(self.entries > before), max_definition, value)?;
            }
            if self.entries == before {
                self.levels(0, 0);
            }
        }
        self.end_column()
    }

    fn next_column(&self) -> Result<&'a TemplateColumn> {
        self.template.columns.get(self.columns).ok_or_else(|| wrong("more columns than it has"))
    }

    fn entry<V: Plain>(&mut self, repetition: u8, max_definition: u8, value: Option<V>) -> Result<()> {
        match value {
            Some(value) => {
                self.levels(repetition, max_definition);
                value.append(&mut self.values);
            }
            // What is not there is defined one level less.
            None => self.levels(repetition, max_definition.checked_sub(1).ok_or_else(|| wrong("a null"))?),
        }
        Ok(())
    }

    fn levels(&mut self, repetition: u8, definition: u8) {
        self.repetition.add(repetition);
        self.definition.add(definition);
        self.entries += 1;
    }

    /// Writes the page, and notes where it is.
    fn end_column(&mut self) -> Result<()> {
        let TemplateColumn { metadata, max_definition, is_repeated } = self.next_column()?;
        let (repetition, definition) = (self.repetition.take(), self.definition.take());
        let levels: Vec<&[u8]> = [(*is_repeated, &repetition), (*max_definition > 0, &definition)]
            .into_iter()
            .filter_map(|(is_written, levels)| is_written.then_some(levels.as_slice()))
            .collect();
        let page_bytes = levels.iter().map(|levels| 4 + levels.len()).sum::<usize>() + self.values.len();
        let (offset, entries) = (self.out.len(), std::mem::take(&mut self.entries));
        let out = &mut self.out;
        // PageHeader: a page of data, its sizes (before and after no compression), DataPageHeader.
        number(out, 1, I32, 0);
        number(out, 1, I32, page_bytes as u64);
        number(out, 1, I32, page_bytes as u64);
        field(out, 2, STRUCT);
        number(out, 1, I32, entries);
        for encoding in [0, 3, 3] {
            number(out, 1, I32, encoding);
        }
        out.extend([STOP, STOP]);
        for levels in levels {
            (levels).append(out);
        }
        out.append(&mut self.values);
        let bytes = (out.len() - offset) as u64;
        // ColumnChunk: where its metadata would be in another file, ColumnMetaData.
        let chunks = &mut self.chunks;
        number(chunks, 2, I64, 0);
        field(chunks, 1, STRUCT);
        chunks.extend_from_slice(metadata);
        number(chunks, 1, I64, entries);
        number(chunks, 1, I64, bytes);
        number(chunks, 1, I64, bytes);
        number(chunks, 2, I64, offset as u64);
        chunks.extend([STOP, STOP]);
        self.columns += 1;
        Ok(())
    }

    /// The file.
    ///
    /// # Errors
    /// Where columns are missing.
    pub fn finish(self) -> Result<Vec<u8>> {
        let Self { template, rows, mut out, chunks, columns, .. } = self;
        if columns != template.columns.len() {
            return Err(wrong("fewer columns than it has"));
        }
        let (offset, rows) = (out.len(), rows as u64);
        let bytes = (offset - MAGIC.len()) as u64;
        out.extend_from_slice(&template.before);
        number(&mut out, 1, I64, rows);
        list(&mut out, 1, STRUCT, 1);
        // RowGroup: columns, bytes, rows, where it begins, bytes compressed, its number.
        list(&mut out, 1, STRUCT, columns);
        out.extend_from_slice(&chunks);
        number(&mut out, 1, I64, bytes);
        number(&mut out, 1, I64, rows);
        number(&mut out, 2, I64, MAGIC.len() as u64);
        number(&mut out, 1, I64, bytes);
        number(&mut out, 1, I16, 0);
        out.push(STOP);
        out.extend_from_slice(&template.behind);
        ((out.len() - offset) as u32).append(&mut out);
        out.extend_from_slice(MAGIC);
        Ok(out)
    }
}

fn wrong(what: &str) -> Error {
    Error::Resource(format!("cannot write the index: a column of a small table has {what}"))
}

/// Levels as runs of equal ones: of the hybrid of runs and packed bits, the runs.
#[derive(Default)]
struct Levels {
    encoded: Vec<u8>,
    level: u8,
    length: u64,
}

impl Levels {
    fn add(&mut self, level: u8) {
        if level != self.level {
            self.end_run();
            self.level = level;
        }
        self.length += 1;
    }

    fn end_run(&mut self) {
        if self.length > 0 {
            varint(&mut self.encoded, self.length << 1);
            self.encoded.push(self.level);
        }
        self.length = 0;
    }

    fn take(&mut self) -> Vec<u8> {
        self.end_run();
        std::mem::take(&mut self.encoded)
    }
}
