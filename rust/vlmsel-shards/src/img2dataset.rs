//! The Parquet file beside an img2dataset tar, joined by `key` and never by position.
//!
//! The tar is in order of arrival and failed downloads have no member, so row n of the table is not sample n of the tar.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type, Int32Type, Int64Type};
use arrow_array::{Array, ArrayRef, RecordBatch, StringArray};
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_schema::DataType;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Map, Number, Value};
use vlmsel_core::hash::{Hash128, parse_uid};

use crate::error::{Error, IoContext, Result};

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
    File::open(path)
        .ok()
        .and_then(|file| ParquetRecordBatchReaderBuilder::try_new(file).ok())
        .is_some_and(|table| ["key", "status"].iter().all(|name| table.schema().column_with_name(name).is_some()))
}

impl Sidecar {
    /// Reads the table; `None` if it has no `key` column, which makes it something else.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        let file = File::open(path).at("open", path)?;
        let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| Error::unreadable(path, error))?;
        if builder.schema().column_with_name("key").is_none() {
            return Ok(None);
        }
        let reader = builder.with_batch_size(4096).build().map_err(|error| Error::unreadable(path, error))?;
        let mut sidecar = Self::default();
        for batch in reader {
            let batch = batch.map_err(|error| Error::unreadable(path, error))?;
            sidecar.add(&batch).map_err(|error| Error::unreadable(path, error))?;
        }
        Ok(Some(sidecar))
    }

    fn add(&mut self, batch: &RecordBatch) -> std::result::Result<(), arrow_schema::ArrowError> {
        let strings = |name: &str| -> std::result::Result<Option<StringArray>, arrow_schema::ArrowError> {
            let Some(column) = batch.column_by_name(name) else { return Ok(None) };
            let column = arrow_cast::cast(column, &DataType::Utf8)?;
            Ok(column.as_string_opt::<i32>().cloned())
        };
        let at = |column: &Option<StringArray>, i: usize| {
            column.as_ref().filter(|c| c.is_valid(i)).map(|c| c.value(i).to_owned())
        };
        let (keys, uids, status) = (strings("key")?, strings("uid")?, strings("status")?);
        let (caption, text) = (strings("caption")?, strings("text")?);
        let schema = batch.schema();
        for i in 0..batch.num_rows() {
            let Some(key) = at(&keys, i) else { continue };
            let mut object = Map::new();
            for (field, column) in schema.fields().iter().zip(batch.columns()) {
                object.insert(field.name().clone(), json_of(column, i)?);
            }
            let row = Row {
                uid: at(&uids, i).as_deref().and_then(parse_uid),
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

fn json_of(column: &ArrayRef, i: usize) -> std::result::Result<Value, arrow_schema::ArrowError> {
    if column.is_null(i) {
        return Ok(Value::Null);
    }
    let float = |x: f64| Number::from_f64(x).map_or(Value::Null, Value::Number);
    Ok(match column.data_type() {
        DataType::Utf8 => Value::from(column.as_string::<i32>().value(i)),
        DataType::LargeUtf8 => Value::from(column.as_string::<i64>().value(i)),
        DataType::Boolean => Value::from(column.as_boolean().value(i)),
        DataType::Int32 => Value::from(column.as_primitive::<Int32Type>().value(i)),
        DataType::Int64 => Value::from(column.as_primitive::<Int64Type>().value(i)),
        DataType::Float32 => float(f64::from(column.as_primitive::<Float32Type>().value(i))),
        DataType::Float64 => float(column.as_primitive::<Float64Type>().value(i)),
        DataType::List(_) => {
            let items = column.as_list::<i32>().value(i);
            Value::Array((0..items.len()).map(|j| json_of(&items, j)).collect::<std::result::Result<_, _>>()?)
        }
        _ => Value::from(ArrayFormatter::try_new(column, &FormatOptions::default())?.value(i).to_string()),
    })
}
