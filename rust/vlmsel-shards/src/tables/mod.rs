//! Tables of ids and scores: Parquet, CSV, JSON lines, and Arrow batches in memory.
//!
//! A table is opened once ([`open`]), checked against the columns that a command wants ([`schema::resolve`]), and then
//! read in chunks: the score column by itself in small blocks of keys ([`crate::columns::score`]), the other columns only for the rows
//! that are asked for.

pub mod codes;
pub mod index;
pub mod index_reader;
pub mod npy;
mod path_columns;
pub mod schema;
pub mod stream;
pub mod text;

use std::path::Path;

use arrow_array::{Array, RecordBatch};
use arrow_schema::SchemaRef;

use crate::columns::partitions::{self, Partition};
use crate::error::{Error, Result};
use crate::parquet::table::ParquetTable;
use crate::workspace::inputs::InputFile;

/// What the formats are called in messages.
pub const KINDS: &str = "table (.parquet, .jsonl, .ndjson, .csv, .tsv, also with .gz or .zst; .json.gz, .json.zst)";

/// One opened table.
#[derive(Debug, Clone)]
pub enum Table {
    /// A Parquet file with its footer.
    Parquet(ParquetTable),
    /// A text file.
    Text(text::TextTable),
    /// Batches in memory, all of one schema.
    Memory(MemoryTable),
}

/// Arrow batches in memory, with the name that messages use.
#[derive(Debug, Clone)]
pub struct MemoryTable {
    /// How messages call it.
    pub name: String,
    /// The batches' schema.
    pub schema: SchemaRef,
    /// The rows.
    pub batches: Vec<RecordBatch>,
}

/// Whether the file's name says that it is a table.
pub fn is_table(path: &Path) -> bool {
    format_of(path).is_some()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Parquet,
    Text(text::Syntax, text::Compression),
}

fn format_of(path: &Path) -> Option<Format> {
    let name = path.file_name()?.to_string_lossy().to_lowercase();
    let (stem, compression) = match name.rsplit_once('.') {
        Some((stem, "gz")) => (stem, text::Compression::Gzip),
        Some((stem, "zst" | "zstd")) => (stem, text::Compression::Zstd),
        _ => (name.as_str(), text::Compression::None),
    };
    match stem.rsplit_once('.')?.1 {
        "parquet" | "pq" | "parq" if compression == text::Compression::None => Some(Format::Parquet),
        "jsonl" | "ndjson" => Some(Format::Text(text::Syntax::JsonLines, compression)),
        // What is compressed is lines; a plain .json is one document, such as the statistics that lie beside tables.
        "json" if compression != text::Compression::None => Some(Format::Text(text::Syntax::JsonLines, compression)),
        "csv" => Some(Format::Text(text::Syntax::Csv, compression)),
        "tsv" => Some(Format::Text(text::Syntax::Tsv, compression)),
        _ => None,
    }
}

/// Opens a file by its name's ending.
///
/// # Errors
/// [`Error::Usage`] for an ending that is no table's, [`Error::Unreadable`] for a damaged or encrypted file.
pub fn open(file: &InputFile) -> Result<Table> {
    file.check_name()?;
    match format_of(&file.path) {
        Some(Format::Parquet) => {
            let table = ParquetTable::open(&file.path, &file.name)?;
            Ok(Table::Parquet(table.with_partitions(partitions::of_path(&file.path))))
        }
        Some(Format::Text(syntax, compression)) => {
            let table = text::TextTable::open(&file.path, &file.name, syntax, compression)?;
            Ok(Table::Text(table.with_partitions(partitions::of_path(&file.path))))
        }
        None => Err(Error::Usage(format!("{}: not a {KINDS}", file.path.display()))),
    }
}

impl Table {
    /// How messages call the table.
    pub fn label(&self) -> String {
        match self {
            Self::Parquet(table) => table.path.display().to_string(),
            Self::Text(table) => table.path.display().to_string(),
            Self::Memory(table) => table.name.clone(),
        }
    }

    /// The name that manifests and quarantine lists use: the path below the argument that named it.
    pub fn name(&self) -> &str {
        match self {
            Self::Parquet(table) => &table.name,
            Self::Text(table) => &table.name,
            Self::Memory(table) => &table.name,
        }
    }

    /// The columns that stand in the table's path.
    pub fn partitions(&self) -> &[Partition] {
        match self {
            Self::Parquet(table) => table.partitions(),
            Self::Text(table) => table.partitions(),
            Self::Memory(_) => &[],
        }
    }

    /// What the type of a column is called, if it is one that cannot be read.
    pub fn unknown_type(&self, name: &str) -> Option<&str> {
        match self {
            Self::Parquet(table) => table.unknown_type(name),
            Self::Text(_) | Self::Memory(_) => None,
        }
    }

    /// Whether it is known to have no row.
    pub fn is_empty(&self) -> bool {
        !matches!(self, Self::Text(_)) && self.extent().0 == 0
    }

    /// Whether a column is known to have no value.
    fn holds_only_nulls(&self, name: &str) -> bool {
        match self {
            Self::Parquet(table) => table.holds_only_nulls(name),
            Self::Text(_) => false,
            Self::Memory(table) => {
                let columns = || table.batches.iter().filter_map(|batch| batch.column_by_name(name));
                columns().count() == table.batches.len() && columns().all(|c| c.logical_null_count() == c.len())
            }
        }
    }

    /// Rows and bytes, as far as they are known before reading.
    pub fn extent(&self) -> (u64, u64) {
        match self {
            Self::Parquet(table) => (table.rows(), table.bytes),
            Self::Text(table) => (0, table.bytes),
            Self::Memory(table) => (table.batches.iter().map(|b| b.num_rows() as u64).sum(), 0),
        }
    }
}
