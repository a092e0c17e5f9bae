//! Rows of Parquet tables with the images inside, as Hugging Face's `datasets` keeps them.
//!
//! Of each row the image column gives the images (a binary, a struct with `bytes`, or a list of these), and all other columns make
//! up a record in JSON that is read as any other: `caption` or `text`, `messages`, `conversations`, `texts`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch};
use serde_json::{Map, Value};
use vlmsel_core::hash::image_hash;

use crate::error::{Error, Result};
use crate::formats::cell_json::{Room, json_of};
use crate::formats::img2dataset::{is_img2dataset, uid_of};
use crate::formats::json_fields::fields;
use crate::formats::location::ImageLocation;
use crate::formats::reader::{
    BATCH_RECORDS, Batch, Closing, Damage, Depth, Format, MAX_CHECKED_BYTES, Note, RawSample, Record, SampleReader,
    Shard,
};
use crate::formats::said::{Captions, FIELDS, KEPT, Said};
use crate::formats::sample::{ImageRow, Position, Sample, SampleImage, Taken};
use crate::formats::table_images::{bytes_of, image_column, list_at};
use crate::images::check::check_image;
use crate::images::header::{Fault, read_header};
use crate::parquet::batches::Batches;
use crate::parquet::table::ParquetTable;
use crate::workspace::quarantine::{Bad, Quarantined};

/// A row group that takes more than this, decompressed, is refused.
const MAX_GROUP_BYTES: u64 = 16 << 30;
/// A row whose other columns take more than this as JSON is put aside.
const MAX_ROW_JSON: usize = 64 << 20;
/// Columns that hold a row's key, best first.
const KEY_COLUMNS: [&str; 3] = ["key", "__key__", "id"];

/// Parquet with images in it.
pub struct ParquetRows;

impl Format for ParquetRows {
    fn name(&self) -> &'static str {
        "parquet"
    }

    fn endings(&self) -> &'static [&'static str] {
        &[".parquet"]
    }

    fn recognises(&self, path: &Path) -> bool {
        path.extension().is_some_and(|e| e.eq_ignore_ascii_case("parquet"))
    }

    // Beside shards they are tables about these.
    fn rank(&self) -> u8 {
        1
    }

    fn belongs_to_another(&self, path: &Path) -> bool {
        path.with_extension("tar").exists() || is_img2dataset(path)
    }

    fn keys_repeat(&self) -> bool {
        true
    }

    fn open(&self, shard: &Shard<'_>) -> Result<Box<dyn SampleReader>> {
        Ok(Box::new(Reader::open(shard)?))
    }
}

/// What all rows of a table share.
struct Common {
    unit: String,
    depth: Depth,
    id_column: Option<String>,
    caption_column: Option<String>,
    image: Option<String>,
}

struct Reader {
    table: ParquetTable,
    names: Vec<String>,
    common: Arc<Common>,
    group: usize,
    batches: Option<Batches>,
    row: u64,
    told: u64,
    ended: bool,
    closing: Closing,
}

impl Reader {
    fn open(shard: &Shard<'_>) -> Result<Self> {
        let path: PathBuf = shard.path.to_path_buf();
        let table = ParquetTable::open(&path, shard.unit)?;
        let found = image_column(table.schema()).map_err(|error| Error::unreadable(&path, error))?;
        let names: Vec<String> = table.readable_columns().map(ToOwned::to_owned).collect();
        let has = |name: &str| names.iter().any(|known| known == name);
        if found.is_none() && has("key") && has("status") {
            return Err(Error::unreadable(&path, "img2dataset's table of a tar that is not beside it"));
        }
        if found.is_none() && (has("url") || has("URL")) {
            return Err(Error::unreadable(&path, "a list of URLs without images; fetch them first, with img2dataset"));
        }
        if let Some(column) = shard.options.caption_column.as_deref().filter(|column| !has(column)) {
            let text = format!("has no column {column:?} (--caption-column), only {}", names.join(", "));
            return Err(Error::unreadable(&path, text));
        }
        let mut closing = Closing::default();
        let unknown: Vec<&str> =
            table.schema().fields().iter().map(|field| field.name().as_str()).filter(|name| !has(name)).collect();
        if !unknown.is_empty() {
            let example = format!("{}: {} (types that are not known)", shard.unit, unknown.join(", "));
            closing.notes.push(Note { kind: "unread_field", count: unknown.len() as u64, examples: vec![example] });
        }
        let image = found.map(|(name, others)| {
            if !others.is_empty() {
                let example = format!("{}: {} (the images are those of {name})", shard.unit, others.join(", "));
                closing.notes.push(Note { kind: "unread_field", count: others.len() as u64, examples: vec![example] });
            }
            name
        });
        let common = Common {
            unit: shard.unit.to_owned(),
            depth: shard.depth,
            id_column: shard.options.id_column.clone(),
            caption_column: shard.options.caption_column.clone(),
            image,
        };
        Ok(Self {
            table,
            names,
            common: Arc::new(common),
            group: 0,
            batches: None,
            row: 0,
            told: 0,
            ended: false,
            closing,
        })
    }

    /// The next rows that were decoded together.
    fn next_rows(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            if let Some(batch) = self.batches.as_mut().and_then(Iterator::next).transpose()? {
                return Ok(Some(batch));
            }
            if self.group == self.table.groups() {
                return Ok(None);
            }
            let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
            self.batches = Some(self.table.rows_of(self.group, None, &names, MAX_GROUP_BYTES)?);
            self.group += 1;
        }
    }
}

impl SampleReader for Reader {
    fn next_batch(&mut self) -> Result<Option<Batch>> {
        if self.ended {
            return Ok(None);
        }
        let mut batch = Batch { is_costly: true, ..Batch::default() };
        while batch.records.len() < BATCH_RECORDS {
            match self.next_rows() {
                Ok(Some(rows)) => {
                    let rows = Arc::new(rows);
                    for at in 0..rows.num_rows() {
                        let raw = RawRow { rows: rows.clone(), at, row: self.row, common: self.common.clone() };
                        batch.records.push(Record::Raw(Box::new(raw)));
                        self.row += 1;
                    }
                    // Rows that were decoded together hold as much as a batch may.
                    break;
                }
                Ok(None) => self.ended = true,
                Err(error) if error.is_of_file() => {
                    self.closing.damage.push(Damage::unreadable(error));
                    self.ended = true;
                }
                Err(error) => return Err(error),
            }
            if self.ended {
                break;
            }
        }
        let part = u128::from(self.table.bytes) * u128::from(self.row) / u128::from(self.table.rows().max(1));
        let passed = if self.ended { self.table.bytes } else { part as u64 };
        batch.bytes = passed.saturating_sub(self.told);
        self.told = self.told.max(passed);
        Ok(Some(batch))
    }

    fn close(self: Box<Self>) -> Closing {
        self.closing
    }
}

struct RawRow {
    rows: Arc<RecordBatch>,
    at: usize,
    row: u64,
    common: Arc<Common>,
}

impl RawSample for RawRow {
    fn take_apart(self: Box<Self>) -> Result<Taken> {
        let bad = |(reason, detail): (&str, String)| {
            Quarantined::new(&self.common.unit, "row", Some(self.row), reason, &detail)
        };
        Ok(self.read().map_err(bad))
    }
}

impl RawRow {
    fn read(&self) -> std::result::Result<Sample, (&'static str, String)> {
        let Self { rows, at, row, common } = self;
        let mut sample = Sample::at(Position { unit: "row", number: *row });
        let (mut object, mut room) = (Map::new(), Room::new(MAX_ROW_JSON, "row of samples"));
        for (field, column) in rows.schema().fields().iter().zip(rows.columns()) {
            if common.image.as_deref() == Some(field.name()) {
                sample.images = self.images(column);
            } else {
                let value = json_of(column, *at, &mut room).map_err(|error| ("row_too_long", error))?;
                object.insert(field.name().clone(), transposed(field.name(), value));
            }
        }
        let text = |name: &str| object.get(name).and_then(Value::as_str).map(ToOwned::to_owned);
        sample.key = KEY_COLUMNS.iter().find_map(|name| match object.get(*name) {
            Some(Value::String(key)) => Some(key.clone()),
            Some(Value::Number(key)) => Some(key.to_string()),
            _ => None,
        });
        let id_column = rows.column_by_name(common.id_column.as_deref().unwrap_or("uid"));
        sample.uid = id_column.and_then(|column| uid_of(column, *at));
        if let (Some(field), None) = (&common.id_column, sample.uid) {
            return Err(("bad_id", format!("{field} is no id of 128 bits")));
        }
        let caption = common.caption_column.as_deref().map(&text);
        let json = Value::Object(object).to_string();
        let known = fields(json.as_bytes(), &FIELDS).map_err(|error| ("bad_json", error.to_string()))?;
        sample.said = Said::read(&known, Captions::Lenient)?;
        if let Some(caption) = caption {
            sample.said.text = caption;
        }
        sample.notes.append(&mut sample.said.notes);
        sample.notes.extend(sample.said.placeholder_fault(sample.images.len()));
        if sample.class().is_none() {
            return Err(("no_content", "neither image, caption, text nor conversation".to_owned()));
        }
        let is_kept = |name: &str| KEPT.contains(&name) || KEY_COLUMNS.contains(&name) || name == "uid";
        let has_more = known.has_others || FIELDS.iter().any(|name| !is_kept(name) && known.get(name).is_some());
        sample.metadata = has_more.then(|| json.into_bytes());
        Ok(sample)
    }

    fn images(&self, column: &ArrayRef) -> Vec<SampleImage> {
        if column.is_null(self.at) {
            return Vec::new();
        }
        match list_at(column, self.at) {
            None => vec![self.image(column, self.at, None)],
            Some(items) => (0..items.len()).map(|at| self.image(&items, at, Some(at as u32))).collect(),
        }
    }

    fn image(&self, column: &ArrayRef, at: usize, item: Option<u32>) -> SampleImage {
        let name = item.map_or_else(|| "image".to_owned(), |item| format!("image {item}"));
        let Some(bytes) = bytes_of(column, at) else {
            let path = path_of(column, at).map_or_else(String::new, |path| format!(", only the path {path}"));
            let bad = Bad::new("no_image_bytes", format!("{name}: no bytes{path}"));
            return SampleImage::bad(name, bad);
        };
        let (hash, size) = (image_hash(bytes), bytes.len() as u64);
        let checked = match self.common.depth {
            Depth::Bodies if size <= MAX_CHECKED_BYTES => check_image(bytes),
            Depth::Bodies => read_header(bytes).and_then(|header| Err(Fault::Long(header.format, size))),
            Depth::Names | Depth::Headers | Depth::Contents => read_header(bytes),
        };
        match checked {
            Err(fault) => SampleImage::faulty(name, Some(hash), fault),
            Ok(header) => {
                let location = ImageLocation::Row { file: None, row: self.row, item, size };
                let row = ImageRow { location, width: header.width, height: header.height, hash };
                let is_held = self.common.depth == Depth::Contents && size <= MAX_CHECKED_BYTES;
                SampleImage::good(name, row, is_held.then(|| bytes.to_vec()))
            }
        }
    }
}

/// What a struct of `bytes` and `path` has as its path.
fn path_of(column: &ArrayRef, at: usize) -> Option<&str> {
    let paths = column.as_struct_opt()?.column_by_name("path")?.as_string_view_opt()?;
    (column.is_valid(at) && paths.is_valid(at)).then(|| paths.value(at))
}

/// A sequence of objects, which older versions of `datasets` keep as an object of sequences, as a list of objects.
fn transposed(name: &str, value: Value) -> Value {
    match value {
        Value::Object(columns)
            if matches!(name, "conversations" | "messages" | "texts") && columns.values().all(Value::is_array) =>
        {
            let longest = columns.values().filter_map(Value::as_array).map(Vec::len).max().unwrap_or(0);
            let item = |at: usize| {
                let value = |column: &Value| column.get(at).cloned().unwrap_or(Value::Null);
                columns.iter().map(|(key, column)| (key.clone(), value(column))).collect::<Map<_, _>>()
            };
            Value::Array((0..longest).map(|at| Value::Object(item(at))).collect())
        }
        other => other,
    }
}
