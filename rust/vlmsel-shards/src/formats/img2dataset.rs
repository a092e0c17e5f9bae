//! The Parquet file beside an img2dataset tar, joined by `key` and never by position.
//!
//! The tar is in order of arrival and failed downloads have no member, so row n of the table is not sample n of the tar.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch, StringViewArray};
use arrow_schema::DataType;
use serde_json::{Map, Value};
use vlmsel_core::hash::{Hash128, parse_uid, parse_uid_bytes};

use crate::error::{Error, Result};
use crate::formats::cell_json::{Room, json_of};
use crate::parquet::table::ParquetTable;

/// A table of more rows than this belongs to no tar (img2dataset puts 10,000 samples into one). All rows are held, and a
/// hostile file can claim millions in a few bytes.
const MAX_ROWS: u64 = 1 << 20;
/// Nor does one whose rows take more than this as JSON; also the most that a row group may take decompressed.
const MAX_JSON_BYTES: usize = 512 << 20;
/// What a row takes beside its text.
const ROW_BYTES: usize = 64;

/// What the table says about one key.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Row {
    /// `uid`, where the table has that column and it holds 32 hexadecimal characters.
    pub uid: Option<Hash128>,
    /// `caption` or `text`.
    pub text: Option<String>,
    /// Whether a member is to be expected: `status` is `success`, or the table has no such column.
    pub expected: bool,
    /// The row as JSON.
    pub json: String,
}

/// The table, by key.
#[derive(Debug, Default)]
pub struct Sidecar {
    rows: HashMap<String, Row>,
    /// Keys that stand in more than one row.
    pub repeated: u64,
}

/// The Parquet file that belongs to `tar`, if there is one.
pub fn sidecar_path(tar: &Path) -> Option<PathBuf> {
    let path = tar.with_extension("parquet");
    path.is_file().then_some(path)
}

/// Whether a Parquet file has the columns by which img2dataset's are known; no row is read.
pub fn is_img2dataset(path: &Path) -> bool {
    ParquetTable::open(path, &path.to_string_lossy())
        .is_ok_and(|table| ["key", "status"].iter().all(|name| table.schema().column_with_name(name).is_some()))
}

impl Sidecar {
    /// Reads the table; `None` if it has no `key` column, which makes it something else.
    ///
    /// # Errors
    /// [`Error::Unreadable`] for a damaged file, and for one that is too large to be what belongs to a tar.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        let table = ParquetTable::open(path, &path.to_string_lossy())?;
        let names: BTreeSet<&str> = table.readable_columns().collect();
        if !names.contains("key") {
            return Ok(None);
        }
        if table.rows() > MAX_ROWS {
            let text = format!("{} rows, a table beside a tar has no more than {MAX_ROWS}", table.rows());
            return Err(Error::unreadable(path, text));
        }
        let names: Vec<&str> = names.into_iter().collect();
        let (mut sidecar, mut room) = (Self::default(), Room::new(MAX_JSON_BYTES, "table beside a tar"));
        for group in 0..table.groups() {
            for batch in table.rows_of(group, None, &names, MAX_JSON_BYTES as u64)? {
                sidecar.add(&batch?, &mut room).map_err(|error| Error::unreadable(path, error))?;
            }
        }
        Ok(Some(sidecar))
    }

    fn add(&mut self, batch: &RecordBatch, room: &mut Room) -> std::result::Result<(), String> {
        let strings = |name: &str| -> std::result::Result<Option<StringViewArray>, String> {
            let Some(column) = batch.column_by_name(name) else { return Ok(None) };
            let column = arrow_cast::cast(column, &DataType::Utf8View).map_err(|error| error.to_string())?;
            Ok(column.as_string_view_opt().cloned())
        };
        let at = |column: &Option<StringViewArray>, i: usize| {
            column.as_ref().filter(|c| c.is_valid(i)).map(|c| c.value(i).to_owned())
        };
        let (keys, status) = (strings("key")?, strings("status")?);
        let uids = batch.column_by_name("uid");
        let (caption, text) = (strings("caption")?, strings("text")?);
        let schema = batch.schema();
        for i in 0..batch.num_rows() {
            room.take(ROW_BYTES)?;
            let Some(key) = at(&keys, i) else { continue };
            let mut object = Map::new();
            for (field, column) in schema.fields().iter().zip(batch.columns()) {
                object.insert(field.name().clone(), json_of(column, i, room)?);
            }
            let row = Row {
                uid: uids.and_then(|column| uid_of(column, i)),
                text: at(&caption, i).or_else(|| at(&text, i)),
                expected: status.is_none() || at(&status, i).as_deref() == Some("success"),
                json: Value::Object(object).to_string(),
            };
            if self.rows.insert(key, row).is_some() {
                self.repeated += 1;
            }
        }
        Ok(())
    }

    /// Takes the row of `key` out.
    pub fn take(&mut self, key: &str) -> Option<Row> {
        self.rows.remove(key)
    }

    /// Rows that nobody took, by key.
    pub fn rest(self) -> Vec<(String, Row)> {
        let mut rest: Vec<_> = self.rows.into_iter().collect();
        rest.sort_by(|a, b| a.0.cmp(&b.0));
        rest
    }
}

/// An id of 128 bits, in any type and spelling.
pub(super) fn uid_of(column: &ArrayRef, at: usize) -> Option<Hash128> {
    if column.is_null(at) {
        return None;
    }
    match column.data_type() {
        DataType::Utf8View => parse_uid(column.as_string_view().value(at)),
        DataType::FixedSizeBinary(16) => column.as_fixed_size_binary().value(at).try_into().ok(),
        DataType::BinaryView => {
            let bytes = column.as_binary_view().value(at);
            bytes.try_into().ok().or_else(|| parse_uid_bytes(bytes))
        }
        _ => None,
    }
}
