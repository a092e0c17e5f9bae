//! Tables of ids and scores: Parquet, CSV, JSON lines, and Arrow batches in memory.
//!
//! A table is opened once ([`open`]), checked against the columns that a command wants ([`schema::resolve`]), and then
//! read in chunks: the score column by itself in small blocks of keys ([`score`]), the other columns only for the rows
//! that are asked for.

pub mod batches;
pub mod chunk_pages;
pub(crate) mod column_bytes;
mod constant;
mod dictionaries;
mod footer;
mod header_check;
mod hybrid;
mod id_pages;
mod native_scores;
mod page_header;
pub mod parquet;
mod plain_rows;
#[cfg(test)]
mod reader_tests;
pub mod schema;
pub mod score;
mod score_rows;
mod snappy_literals;
pub mod stream;
pub mod text;
pub mod threshold;

use std::path::Path;

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::{Decimal128Type, Decimal256Type};
use arrow_schema::{DataType, SchemaRef};

use crate::error::{Error, Result};
use crate::inputs::InputFile;

/// What the formats are called in messages.
pub const KINDS: &str = "table (.parquet, .jsonl, .csv, also with .gz or .zst)";

/// One opened table.
#[derive(Debug, Clone)]
pub enum Table {
    /// A Parquet file with its footer.
    Parquet(parquet::ParquetTable),
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
        Some(Format::Parquet) => Ok(Table::Parquet(parquet::ParquetTable::open(&file.path, &file.name)?)),
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

/// A column in its working type; `label` names the table in the error.
///
/// # Errors
/// [`Error::Usage`] if it does not convert.
pub fn to_working(
    array: &arrow_array::ArrayRef,
    column: &schema::Column,
    label: &str,
) -> Result<arrow_array::ArrayRef> {
    let wrong = |error: arrow_schema::ArrowError| Error::Usage(format!("{label}: column {:?}: {error}", column.name));
    if let DataType::Decimal256(precision, _) = array.data_type() {
        array.as_primitive::<Decimal256Type>().validate_decimal_precision(*precision).map_err(wrong)?;
    }
    let working = if array.data_type() == &column.working {
        array.clone()
    } else {
        let array = dictionaries::narrowed(array).map_err(wrong)?;
        cast_whole(&array, &column.working).map_err(wrong)?
    };
    // Whether keys may be shared depends on how many digits the type says that there are.
    if let DataType::Decimal128(precision, _) = &column.working {
        working.as_primitive::<Decimal128Type>().validate_decimal_precision(*precision).map_err(wrong)?;
    }
    Ok(working)
}

/// Casts an array; what does not fit is an error and never becomes a null.
///
/// # Errors
/// Values that do not fit, and types between which there is no cast.
pub fn cast_whole(
    array: &arrow_array::ArrayRef,
    to: &DataType,
) -> std::result::Result<arrow_array::ArrayRef, arrow_schema::ArrowError> {
    let options = arrow_cast::CastOptions { safe: false, ..Default::default() };
    arrow_cast::cast_with_options(array, to, &options)
}
