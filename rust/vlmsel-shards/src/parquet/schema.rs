//! The Arrow schema of a Parquet file, column by column: one of a type that nobody here knows leaves the others readable.
//!
//! Writers put their Arrow schema into the footer. The parquet crate takes all of it or fails, so that a file in which Polars
//! wrote an `Int128` could not be opened at all. What lies in its pages is then seen by Parquet's own types, with
//! the writer's where these are known.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use ::parquet::arrow::ARROW_SCHEMA_META_KEY;
use ::parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use ::parquet::file::metadata::ParquetMetaData;
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use base64::Engine;

use super::file::guarded;
use crate::error::Result;

/// What is known of a file's columns.
pub(super) struct FileSchema {
    /// For reading: strings and binaries are views.
    pub metadata: ArrowReaderMetadata,
    /// As the file's writer meant it.
    pub original: SchemaRef,
    /// Columns of types that cannot be read, with what these are called.
    pub unknown: BTreeMap<String, String>,
}

impl FileSchema {
    /// # Errors
    /// [`crate::Error::Unreadable`] for damage.
    pub fn of(parsed: &Arc<ParquetMetaData>, path: &Path) -> Result<Self> {
        let viewing = |schema: &Schema| {
            let options = ArrowReaderOptions::new().with_schema(viewed(schema));
            guarded(path, || ArrowReaderMetadata::try_new(parsed.clone(), options))
        };
        let plain = guarded(path, || ArrowReaderMetadata::try_new(parsed.clone(), ArrowReaderOptions::new()));
        let failed = match plain.and_then(|plain| Ok((viewing(plain.schema())?, plain.schema().clone()))) {
            Ok((metadata, original)) => return Ok(Self { metadata, original, unknown: BTreeMap::new() }),
            Err(error) => error,
        };
        let (meant, unknown) = writers_types(parsed, path);
        if unknown.is_empty() {
            return Err(failed);
        }
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let stored = guarded(path, || ArrowReaderMetadata::try_new(parsed.clone(), options))?;
        let fields = stored.schema().fields().iter().map(|field| {
            let data_type = meant.get(field.name()).unwrap_or_else(|| field.data_type());
            field.as_ref().clone().with_data_type(data_type.clone())
        });
        let original = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        // Where what the writer meant does not fit what is stored, the latter counts.
        let (metadata, original) = match viewing(&original) {
            Ok(metadata) => (metadata, original),
            Err(_) => (viewing(stored.schema())?, stored.schema().clone()),
        };
        Ok(Self { metadata, original, unknown })
    }
}

/// The columns' types in the schema that the writer left, by name, and the names of those that are not known.
fn writers_types(parsed: &ParquetMetaData, path: &Path) -> (BTreeMap<String, DataType>, BTreeMap<String, String>) {
    let (mut known, mut unknown) = (BTreeMap::new(), BTreeMap::new());
    let pairs = parsed.file_metadata().key_value_metadata();
    let text = pairs.into_iter().flatten().find(|pair| pair.key == ARROW_SCHEMA_META_KEY).and_then(|p| p.value.clone());
    let bytes = text.and_then(|text| base64::engine::general_purpose::STANDARD.decode(text).ok()).unwrap_or_default();
    // A length stands in front, behind a mark, but not in old files.
    let message = if bytes.starts_with(&[0xff; 4]) { bytes.get(8..).unwrap_or_default() } else { &bytes };
    let Ok(message) = arrow_ipc::root_as_message(message) else { return (known, unknown) };
    for field in message.header_as_schema().and_then(|schema| schema.fields()).into_iter().flatten() {
        let name = field.name().unwrap_or_default().to_owned();
        // It panics for what it does not know.
        match guarded(path, || Ok(Field::from(field))) {
            Ok(found) => drop(known.insert(name, found.data_type().clone())),
            Err(_) => drop(unknown.insert(name, name_of(&field))),
        }
    }
    (known, unknown)
}

fn name_of(field: &arrow_ipc::Field<'_>) -> String {
    match field.type_as_int() {
        Some(int) => format!("{}Int{}", if int.is_signed() { "" } else { "U" }, int.bitWidth()),
        None => field.type_type().variant_name().unwrap_or("a type of a later version").to_owned(),
    }
}

/// The same schema with strings and binaries as views, so that a dictionary of long values is never spread out.
fn viewed(schema: &Schema) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| {
        let data_type = match field.data_type() {
            DataType::Utf8 | DataType::LargeUtf8 => DataType::Utf8View,
            DataType::Binary | DataType::LargeBinary => DataType::BinaryView,
            other => other.clone(),
        };
        Arc::new(Field::clone(field).with_data_type(data_type))
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()).with_metadata(schema.metadata().clone()))
}

#[cfg(test)]
mod tests {
    use ::parquet::arrow::arrow_writer::{ArrowWriter, ArrowWriterOptions};
    use ::parquet::arrow::encode_arrow_schema;
    use ::parquet::file::metadata::KeyValue;
    use ::parquet::file::properties::WriterProperties;
    use arrow_array::{Array, ArrayRef, FixedSizeBinaryArray, LargeStringArray, RecordBatch};
    use base64::engine::general_purpose::STANDARD;

    use super::super::table::ParquetTable;
    use super::*;

    /// A table whose writer calls the type of its last column `Int128`.
    fn write(path: &Path) {
        let ids: ArrayRef = Arc::new(LargeStringArray::from(vec!["a", "b"]));
        let wide: ArrayRef = Arc::new(FixedSizeBinaryArray::try_from_iter([[1_u8; 16], [2; 16]].iter()).unwrap());
        let meant =
            Schema::new(vec![Field::new("uid", DataType::LargeUtf8, false), Field::new("n", DataType::Int64, false)]);
        let mut message = STANDARD.decode(encode_arrow_schema(&meant)).unwrap();
        let places: Vec<usize> = (0..message.len()).filter(|at| message[*at..].starts_with(&[64, 0, 0, 0])).collect();
        assert_eq!(places.len(), 1);
        message[places[0]] = 128;
        let pair = KeyValue::new(ARROW_SCHEMA_META_KEY.to_owned(), STANDARD.encode(message));
        let properties = WriterProperties::builder().set_key_value_metadata(Some(vec![pair])).build();
        let options = ArrowWriterOptions::new().with_properties(properties).with_skip_arrow_metadata(true);
        let batch = RecordBatch::try_from_iter([("uid", ids), ("n", wide)]).unwrap();
        let file = std::fs::File::create(path).unwrap();
        let mut writer = ArrowWriter::try_new_with_options(file, batch.schema(), options).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
    }

    #[test]
    fn a_column_of_an_unknown_type_leaves_the_others_readable() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.parquet");
        write(&path);
        let table = ParquetTable::open(&path, "t.parquet").unwrap();
        assert_eq!(table.readable_columns().collect::<Vec<_>>(), ["uid"]);
        assert_eq!((table.unknown_type("n"), table.unknown_type("uid")), (Some("Int128"), None));
        assert_eq!(table.schema().field(0).data_type(), &DataType::LargeUtf8);
        let names: Vec<&str> = table.readable_columns().collect();
        let batches: Vec<_> = table.rows_of(0, None, &names, u64::MAX).unwrap().collect::<Result<_>>().unwrap();
        assert_eq!((batches.len(), batches[0].column(0).len()), (1, 2));
        let refused = table.rows_of(0, None, &["uid", "n"], u64::MAX).err().unwrap().to_string();
        assert!(refused.contains("\"n\" is Int128"), "{refused}");
    }
}
