//! Columns of any type by their names, nested ones too, as `vlmsel` reads its own tables and those beside tars.

use std::sync::Arc;

use ::parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use arrow_schema::{DataType, FieldRef, Schema, SchemaRef};

use super::batches::Batches;
use super::file::guarded;
use super::table::ParquetTable;
use crate::columns::{Column, unknown_type};
use crate::error::{Error, Result};

impl ParquetTable {
    /// Columns of a row group by name: all rows, or those of `rows` (ascending, counted within the group). They have the
    /// file's own types, but strings and binaries are views at every depth, also where the file has dictionaries of them:
    /// a value that many rows share is there once. A row group that takes more than `most_bytes` decompressed (values in
    /// lists count for at least 16) is refused before it is read.
    ///
    /// # Errors
    /// [`Error::Usage`] for a column of a type that cannot be read ([`ParquetTable::readable_columns`] has the others),
    /// [`Error::Unreadable`] for damage, a column that is not there, and a row group that is too large; here and from the
    /// iterator.
    pub fn rows_of(&self, group: usize, rows: Option<&[u32]>, names: &[&str], most_bytes: u64) -> Result<Batches> {
        let schema = plain(self.schema());
        let columns = names.iter().map(|name| {
            if let Some(what) = self.unknown_type(name) {
                return Err(Error::Usage(unknown_type(&self.path.display().to_string(), name, what)));
            }
            let field = schema
                .field_with_name(name)
                .map_err(|_| Error::unreadable(&self.path, format!("it has no column {name:?}")))?;
            let data_type = field.data_type().clone();
            Ok(Column { name: (*name).to_owned(), working: data_type.clone(), output: data_type })
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let metadata = guarded(&self.path, || {
            let options = ArrowReaderOptions::new().with_schema(schema.clone());
            ArrowReaderMetadata::try_new(self.metadata.metadata().clone(), options)
        })?;
        self.batches_as(&metadata, most_bytes, group, rows, &columns.iter().collect::<Vec<_>>())
    }
}

/// The schema with views in place of strings and binaries.
fn plain(schema: &Schema) -> SchemaRef {
    let fields = schema.fields().iter().map(plain_field).collect::<Vec<_>>();
    Arc::new(Schema::new(fields).with_metadata(schema.metadata().clone()))
}

fn plain_field(field: &FieldRef) -> FieldRef {
    Arc::new(field.as_ref().clone().with_data_type(plain_type(field.data_type())))
}

fn plain_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 => DataType::Utf8View,
        DataType::Binary | DataType::LargeBinary => DataType::BinaryView,
        DataType::Dictionary(_, value) if plain_type(value) != **value => plain_type(value),
        DataType::List(item) => DataType::List(plain_field(item)),
        DataType::LargeList(item) => DataType::LargeList(plain_field(item)),
        DataType::FixedSizeList(item, size) => DataType::FixedSizeList(plain_field(item), *size),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(plain_field).collect()),
        other => other.clone(),
    }
}
