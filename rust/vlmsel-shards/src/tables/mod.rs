//! Tables of ids and scores: Parquet, CSV, JSON lines, and Arrow batches in memory.
//!
//! A table is opened once ([`open`]), checked against the columns that a command wants ([`schema::resolve`]), and then
//! read in chunks: the score column by itself in small blocks of keys ([`crate::columns::score`]), the other columns only for the rows
//! that are asked for.

pub mod index;
pub mod index_reader;
pub mod npy;
pub mod schema;
pub mod stream;
pub mod text;

use std::path::Path;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;

use crate::error::{Error, Result};
use crate::parquet::table::ParquetTable;
use crate::workspace::inputs::InputFile;

/// What the formats are called in messages.
pub const KINDS: &str = "table (.parquet, .jsonl, .csv, also with .gz or .zst)";

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
        "csv" => Some(Format::Text(text::Syntax::Csv, compression)),
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
        Some(Format::Parquet) => Ok(Table::Parquet(ParquetTable::open(&file.path, &file.name)?)),
        Some(Format::Text(syntax, compression)) => {
            Ok(Table::Text(text::TextTable::open(&file.path, &file.name, syntax, compression)?))
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

    /// Rows and bytes, as far as they are known before reading.
    pub fn extent(&self) -> (u64, u64) {
        match self {
            Self::Parquet(table) => (table.rows(), table.bytes),
            Self::Text(table) => (0, table.bytes),
            Self::Memory(table) => (table.batches.iter().map(|b| b.num_rows() as u64).sum(), 0),
        }
    }
}
