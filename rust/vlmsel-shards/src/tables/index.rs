//! The index table: one row per sample, saying where its bytes lie and what they hold.
//!
//! Columns: ARCHITECTURE.md, "Tables". The same rows give the same file: row groups are cut by row count and text size
//! alone, and the file carries no time and no version but the schema's.

mod small_file;

use std::io::Write;
use std::sync::{Arc, OnceLock};

use arrow_array::builder::{
    BinaryBuilder, FixedSizeBinaryBuilder, StringBuilder, StringDictionaryBuilder, UInt32Builder, UInt64Builder,
};
use arrow_array::types::Int32Type;
use arrow_array::{
    ArrayRef, DictionaryArray, Int32Array, ListArray, RecordBatch, StringArray, StructArray, UInt32Array,
};
use arrow_buffer::OffsetBuffer;
use arrow_schema::{DataType, Field, Fields, Schema, SchemaRef};
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::arrow::{ArrowSchemaConverter, ArrowWriter, add_encoded_arrow_schema_to_metadata};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::{ColumnPath, SchemaDescriptor};
use vlmsel_core::hash::Hash128;

use self::small_file::{SmallFile, Template};
use crate::error::{Error, Result};
use crate::formats::sample::{ImageRow, MemberRow};

/// A row group ends at this many rows, or
const GROUP_ROWS: usize = 16_384;
/// when its strings take this many bytes.
const GROUP_BYTES: usize = 16 << 20;

/// One sample.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IndexRow {
    /// Its id.
    pub uid: Hash128,
    /// The user's key.
    pub key: String,
    /// Its images, in the order the text speaks of them.
    pub images: Vec<ImageRow>,
    /// Every member in tar order; empty for JSON sources.
    pub members: Vec<MemberRow>,
    /// The caption.
    pub text: Option<String>,
    /// The conversation as JSON, as it was.
    pub conversations: Option<String>,
    /// Turns of the conversation.
    pub n_turns: u32,
    /// What kind of sample it is.
    pub class: Option<&'static str>,
    /// Hash of the caption, or of the turns' values joined by line feeds.
    pub text_hash: Option<Hash128>,
    /// The user's own JSON, as it was.
    pub metadata: Option<Vec<u8>>,
}

fn image_fields() -> Fields {
    Fields::from(vec![
        Field::new("file", DataType::Utf8, true),
        Field::new("offset", DataType::UInt64, false),
        Field::new("size", DataType::UInt64, false),
        Field::new("width", DataType::UInt32, false),
        Field::new("height", DataType::UInt32, false),
        Field::new("hash", DataType::FixedSizeBinary(16), false),
        Field::new("row", DataType::UInt64, true),
        Field::new("item", DataType::UInt32, true),
    ])
}

fn member_fields() -> Fields {
    Fields::from(vec![
        Field::new("extension", DataType::Utf8, false),
        Field::new("offset", DataType::UInt64, false),
        Field::new("size", DataType::UInt64, false),
    ])
}

fn list_of(fields: Fields) -> DataType {
    DataType::List(Arc::new(Field::new("item", DataType::Struct(fields), false)))
}

/// The table's schema.
pub fn schema() -> SchemaRef {
    let dictionary = || DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
    Arc::new(Schema::new(vec![
        Field::new("uid", DataType::FixedSizeBinary(16), false),
        Field::new("key", DataType::Utf8, false),
        Field::new("source", dictionary(), false),
        Field::new("shard", dictionary(), false),
        Field::new("images", list_of(image_fields()), false),
        Field::new("members", list_of(member_fields()), false),
        Field::new("n_images", DataType::UInt32, false),
        Field::new("class", dictionary(), true),
        Field::new("text", DataType::Utf8, true),
        Field::new("conversations", DataType::Utf8, true),
        Field::new("n_turns", DataType::UInt32, false),
        Field::new("text_hash", DataType::FixedSizeBinary(16), true),
        Field::new("metadata", DataType::Binary, true),
    ]))
}

/// What the files of all tables of a kind share, made once: for a table of few rows it would be most of the work.
struct Form {
    schema: SchemaRef,
    parquet: SchemaDescriptor,
    properties: WriterProperties,
}

impl Form {
    fn of(is_small: bool) -> Result<&'static Self> {
        static FORMS: [OnceLock<Form>; 2] = [const { OnceLock::new() }; 2];
        let made = &FORMS[usize::from(is_small)];
        if let Some(form) = made.get() {
            return Ok(form);
        }
        let schema = schema();
        let parquet = ArrowSchemaConverter::new().convert(&schema).map_err(failed)?;
        let mut properties = if is_small { small_properties() } else { large_properties()? };
        add_encoded_arrow_schema_to_metadata(&schema, &mut properties);
        Ok(made.get_or_init(|| Self { schema, parquet, properties }))
    }

    fn options(&self) -> ArrowWriterOptions {
        ArrowWriterOptions::new()
            .with_properties(self.properties.clone())
            .with_parquet_schema(self.parquet.clone())
            .with_skip_arrow_metadata(true)
    }
}

fn large_properties() -> Result<WriterProperties> {
    let level = ZstdLevel::try_new(1).map_err(|error| Error::Usage(error.to_string()))?;
    let mut builder = WriterProperties::builder()
        .set_compression(Compression::ZSTD(level))
        .set_created_by("vlmsel".to_owned())
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_max_row_group_row_count(Some(GROUP_ROWS));
    // Hashes, texts and offsets hardly repeat: a dictionary would be built and thrown away.
    for column in ["uid", "key", "text", "conversations", "text_hash", "metadata"] {
        builder = builder.set_column_dictionary_enabled(ColumnPath::from(column), false);
    }
    for leaf in ["images.list.item.hash", "images.list.item.offset", "members.list.item.offset"] {
        builder = builder.set_column_dictionary_enabled(ColumnPath::from(leaf), false);
    }
    // The largest values are texts; a footer need not repeat them.
    for column in ["text", "conversations", "metadata"] {
        builder = builder.set_column_statistics_enabled(ColumnPath::from(column), EnabledStatistics::None);
    }
    Ok(builder.build())
}

/// Of few rows nothing is compressed, nobody skips any of them by statistics, and dictionaries save nothing.
fn small_properties() -> WriterProperties {
    WriterProperties::builder()
        .set_compression(Compression::UNCOMPRESSED)
        .set_created_by("vlmsel".to_owned())
        .set_statistics_enabled(EnabledStatistics::None)
        .set_dictionary_enabled(false)
        .set_max_row_group_row_count(Some(GROUP_ROWS))
        .build()
}

/// A table of no more rows than this, with no more text than [`SMALL_BYTES`], is not compressed, and written by [`small_file`]: what
/// is made to write large columns would take most of the time.
const SMALL_ROWS: usize = 64;
/// Text of a small table.
const SMALL_BYTES: usize = 64 << 10;
/// Images and members of a small table.
const SMALL_ITEMS: usize = 1024;

/// Where the table goes; the writer is made when it is known whether the table is small.
enum Target<W: Write + Send> {
    Waiting(W),
    Writing(Box<ArrowWriter<W>>),
    Gone,
}

/// Writes the index of one shard.
pub struct IndexTableWriter<W: Write + Send> {
    target: Target<W>,
    source: String,
    shard: String,
    rows: Vec<IndexRow>,
    bytes: usize,
    /// Images and members.
    items: usize,
    written: u64,
}

impl<W: Write + Send> IndexTableWriter<W> {
    /// A table for `shard` of `source`.
    pub fn new(out: W, source: &str, shard: &str) -> Result<Self> {
        let (source, shard) = (source.to_owned(), shard.to_owned());
        Ok(Self { target: Target::Waiting(out), source, shard, rows: Vec::new(), bytes: 0, items: 0, written: 0 })
    }

    /// Adds a row.
    pub fn push(&mut self, row: IndexRow) -> Result<()> {
        let texts = [row.text.as_deref(), row.conversations.as_deref()];
        self.bytes += texts.iter().flatten().map(|t| t.len()).sum::<usize>()
            + row.metadata.as_ref().map_or(0, Vec::len)
            + row.key.len();
        self.items += row.images.len() + row.members.len();
        self.rows.push(row);
        self.written += 1;
        if self.rows.len() >= GROUP_ROWS || self.bytes >= GROUP_BYTES {
            self.flush(false)?;
        }
        Ok(())
    }

    /// Ends the file; returns its rows and the writer it went to.
    pub fn finish(mut self) -> Result<(u64, W)> {
        let is_small = self.rows.len() <= SMALL_ROWS && self.bytes <= SMALL_BYTES && self.items <= SMALL_ITEMS;
        if is_small
            && !self.rows.is_empty()
            && let Target::Waiting(mut out) = self.target
        {
            out.write_all(&small_table(&self.rows, &self.source, &self.shard)?).map_err(unwritten)?;
            return Ok((self.written, out));
        }
        self.flush(is_small)?;
        match self.target {
            Target::Writing(writer) => Ok((self.written, writer.into_inner().map_err(failed)?)),
            Target::Waiting(_) | Target::Gone => Err(Error::Resource("the index part was not begun".to_owned())),
        }
    }

    /// Writes the rows so far as a group. Whether the table is small counts for its first group alone.
    fn flush(&mut self, is_small: bool) -> Result<()> {
        let mut writer = match std::mem::replace(&mut self.target, Target::Gone) {
            Target::Waiting(out) => {
                let form = Form::of(is_small)?;
                let writer = ArrowWriter::try_new_with_options(out, form.schema.clone(), form.options());
                Box::new(writer.map_err(failed)?)
            }
            Target::Writing(writer) => writer,
            Target::Gone => return Err(Error::Resource("an index part that failed is written on".to_owned())),
        };
        if !self.rows.is_empty() {
            let rows = std::mem::take(&mut self.rows);
            self.bytes = 0;
            writer.write(&to_batch(&rows, &self.source, &self.shard)?).map_err(failed)?;
            writer.flush().map_err(failed)?;
        }
        self.target = Target::Writing(writer);
        Ok(())
    }
}

fn failed(error: parquet::errors::ParquetError) -> Error {
    match error {
        parquet::errors::ParquetError::External(inner) => match inner.downcast::<std::io::Error>() {
            Ok(source) => unwritten(*source),
            Err(inner) => Error::Resource(format!("cannot write the index: {inner}")),
        },
        error => Error::Resource(format!("cannot write the index: {error}")),
    }
}

fn unwritten(source: std::io::Error) -> Error {
    Error::Io { action: "write", path: "the index part".into(), source }
}

/// The file of a small table, whose rows are `to_batch`'s.
fn small_table(rows: &[IndexRow], source: &str, shard: &str) -> Result<Vec<u8>> {
    let mut file = SmallFile::new(template()?, rows.len());
    let images = || rows.iter().map(|row| row.images.iter());
    let members = || rows.iter().map(|row| row.members.iter());
    file.flat(rows.iter().map(|row| Some(row.uid)))?;
    file.flat(rows.iter().map(|row| Some(row.key.as_str())))?;
    file.flat(rows.iter().map(|_| Some(source)))?;
    file.flat(rows.iter().map(|_| Some(shard)))?;
    file.nested(images().map(|images| images.map(|image| image.location.file())))?;
    file.nested(images().map(|images| images.map(|image| Some(image.location.offset_in_shard()))))?;
    file.nested(images().map(|images| images.map(|image| Some(image.location.size()))))?;
    file.nested(images().map(|images| images.map(|image| Some(image.width))))?;
    file.nested(images().map(|images| images.map(|image| Some(image.height))))?;
    file.nested(images().map(|images| images.map(|image| Some(image.hash))))?;
    file.nested(images().map(|images| images.map(|image| image.location.row_and_item().0)))?;
    file.nested(images().map(|images| images.map(|image| image.location.row_and_item().1)))?;
    file.nested(members().map(|members| members.map(|member| Some(member.extension.as_str()))))?;
    file.nested(members().map(|members| members.map(|member| Some(member.offset))))?;
    file.nested(members().map(|members| members.map(|member| Some(member.size))))?;
    file.flat(rows.iter().map(|row| Some(row.images.len() as u32)))?;
    file.flat(rows.iter().map(|row| row.class))?;
    file.flat(rows.iter().map(|row| row.text.as_deref()))?;
    file.flat(rows.iter().map(|row| row.conversations.as_deref()))?;
    file.flat(rows.iter().map(|row| Some(row.n_turns)))?;
    file.flat(rows.iter().map(|row| row.text_hash))?;
    file.flat(rows.iter().map(|row| row.metadata.as_deref()))?;
    file.finish()
}

fn template() -> Result<&'static Template> {
    static TEMPLATE: OnceLock<Template> = OnceLock::new();
    if let Some(made) = TEMPLATE.get() {
        return Ok(made);
    }
    let form = Form::of(true)?;
    let writer = ArrowWriter::try_new_with_options(Vec::new(), form.schema.clone(), form.options()).map_err(failed)?;
    let empty = writer.into_inner().map_err(failed)?;
    let template = Template::of(&form.parquet, &empty)
        .ok_or_else(|| Error::Resource("cannot write the index: the footer of small tables is unknown".to_owned()))?;
    Ok(TEMPLATE.get_or_init(|| template))
}

fn fixed(values: impl Iterator<Item = Option<Hash128>>, count: usize) -> Result<ArrayRef> {
    let mut builder = FixedSizeBinaryBuilder::with_capacity(count, 16);
    for value in values {
        match value {
            Some(hash) => builder.append_value(hash).map_err(|error| Error::Resource(error.to_string()))?,
            None => builder.append_null(),
        }
    }
    Ok(Arc::new(builder.finish()))
}

fn repeated(value: &str, count: usize) -> Result<ArrayRef> {
    let keys = Int32Array::from(vec![0; count]);
    let values = Arc::new(StringArray::from(vec![value]));
    Ok(Arc::new(DictionaryArray::<Int32Type>::try_new(keys, values).map_err(arrow)?))
}

#[allow(clippy::needless_pass_by_value, reason = "given to map_err")]
fn arrow(error: arrow_schema::ArrowError) -> Error {
    Error::Resource(format!("cannot build the index: {error}"))
}

fn list(fields: Fields, columns: Vec<ArrayRef>, lengths: impl Iterator<Item = usize>) -> Result<ArrayRef> {
    let items = StructArray::try_new(fields.clone(), columns, None).map_err(arrow)?;
    let field = Arc::new(Field::new("item", DataType::Struct(fields), false));
    Ok(Arc::new(ListArray::try_new(field, OffsetBuffer::from_lengths(lengths), Arc::new(items), None).map_err(arrow)?))
}

fn to_batch(rows: &[IndexRow], source: &str, shard: &str) -> Result<RecordBatch> {
    let mut files = StringBuilder::new();
    let (mut table_rows, mut items) = (UInt64Builder::new(), UInt32Builder::new());
    let (mut offsets, mut sizes) = (UInt64Builder::new(), UInt64Builder::new());
    let (mut widths, mut heights) = (UInt32Builder::new(), UInt32Builder::new());
    for image in rows.iter().flat_map(|r| &r.images) {
        files.append_option(image.location.file());
        offsets.append_value(image.location.offset_in_shard());
        sizes.append_value(image.location.size());
        widths.append_value(image.width);
        heights.append_value(image.height);
        let (row, item) = image.location.row_and_item();
        table_rows.append_option(row);
        items.append_option(item);
    }
    let image_hashes = fixed(rows.iter().flat_map(|r| &r.images).map(|i| Some(i.hash)), rows.len())?;
    let images: Vec<ArrayRef> = vec![
        Arc::new(files.finish()),
        Arc::new(offsets.finish()),
        Arc::new(sizes.finish()),
        Arc::new(widths.finish()),
        Arc::new(heights.finish()),
        image_hashes,
        Arc::new(table_rows.finish()),
        Arc::new(items.finish()),
    ];
    let (mut extensions, mut offsets, mut sizes) = (StringBuilder::new(), UInt64Builder::new(), UInt64Builder::new());
    for member in rows.iter().flat_map(|r| &r.members) {
        extensions.append_value(&member.extension);
        offsets.append_value(member.offset);
        sizes.append_value(member.size);
    }
    let members: Vec<ArrayRef> =
        vec![Arc::new(extensions.finish()), Arc::new(offsets.finish()), Arc::new(sizes.finish())];
    let (mut keys, mut texts, mut conversations) = (StringBuilder::new(), StringBuilder::new(), StringBuilder::new());
    let mut classes = StringDictionaryBuilder::<Int32Type>::new();
    let (mut turns, mut metadata) = (UInt32Builder::new(), BinaryBuilder::new());
    for row in rows {
        keys.append_value(&row.key);
        texts.append_option(row.text.as_deref());
        conversations.append_option(row.conversations.as_deref());
        classes.append_option(row.class);
        turns.append_value(row.n_turns);
        metadata.append_option(row.metadata.as_deref());
    }
    let columns: Vec<ArrayRef> = vec![
        fixed(rows.iter().map(|r| Some(r.uid)), rows.len())?,
        Arc::new(keys.finish()),
        repeated(source, rows.len())?,
        repeated(shard, rows.len())?,
        list(image_fields(), images, rows.iter().map(|r| r.images.len()))?,
        list(member_fields(), members, rows.iter().map(|r| r.members.len()))?,
        Arc::new(UInt32Array::from_iter_values(rows.iter().map(|r| r.images.len() as u32))),
        Arc::new(classes.finish()),
        Arc::new(texts.finish()),
        Arc::new(conversations.finish()),
        Arc::new(turns.finish()),
        fixed(rows.iter().map(|r| r.text_hash), rows.len())?,
        Arc::new(metadata.finish()),
    ];
    RecordBatch::try_new(schema(), columns).map_err(arrow)
}

#[cfg(test)]
mod tests;
