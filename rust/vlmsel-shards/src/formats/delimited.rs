//! Tables of text with a header (CSV, TSV): each row is a record, its images are files below the image root.
//!
//! Rows become records in JSON with the fields that JSON files have, so that both are read alike.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Map, Value as Json};

use crate::error::{Error, Result};
use crate::formats::json_stream::{MAX_VALUE_BYTES, Value};
use crate::formats::llava::reader::{Reader, Values};
use crate::formats::reader::{Format, SampleReader, Shard};
use crate::storage::text_stream::{Capped, Compression, open_text};

/// Columns that name an image file, best first, where none is called `image` or `images`.
const IMAGE_COLUMNS: [&str; 5] = ["file_name", "image_path", "filepath", "file_path", "path"];
/// A column of captions, where none is called `caption` or `text`.
const CAPTION_COLUMNS: [&str; 2] = ["title", "sentence"];
/// A column of keys, where none is called `id`.
const KEY_COLUMNS: [&str; 2] = ["key", "index"];

/// CSV and TSV with a header.
pub struct Delimited;

/// What stands between the fields of a file of this name; `None` for other files.
fn delimiter_of(path: &Path) -> Option<u8> {
    let ending = |path: &Path| path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
    let plain =
        if matches!(ending(path).as_str(), "gz" | "zst") { path.with_extension("") } else { path.to_path_buf() };
    match ending(&plain).as_str() {
        "csv" => Some(b','),
        "tsv" => Some(b'\t'),
        _ => None,
    }
}

impl Format for Delimited {
    fn name(&self) -> &'static str {
        "delimited"
    }

    fn endings(&self) -> &'static [&'static str] {
        &[".csv", ".tsv"]
    }

    fn recognises(&self, path: &Path) -> bool {
        delimiter_of(path).is_some()
    }

    // Beside shards they are tables about these.
    fn rank(&self) -> u8 {
        2
    }

    fn names_files(&self) -> bool {
        true
    }

    fn keys_repeat(&self) -> bool {
        true
    }

    fn open(&self, shard: &Shard<'_>) -> Result<Box<dyn SampleReader>> {
        Ok(Box::new(Reader::new(Rows::open(shard.path)?, shard)))
    }
}

/// The columns by the names that records have.
fn renamed(header: &[String]) -> std::result::Result<Vec<String>, String> {
    let mut names = header.to_vec();
    for (at, name) in names.iter().enumerate() {
        if names[..at].contains(name) {
            return Err(format!("its header names the column {name:?} twice"));
        }
    }
    for (usual, others) in [
        (&["image", "images"][..], &IMAGE_COLUMNS[..]),
        (&["caption", "text"], &CAPTION_COLUMNS),
        (&["id"], &KEY_COLUMNS),
    ] {
        if names.iter().any(|name| usual.contains(&name.as_str())) {
            continue;
        }
        if let Some(at) = others.iter().find_map(|other| names.iter().position(|name| name == other)) {
            usual[0].clone_into(&mut names[at]);
        }
    }
    let says = |name: &String| matches!(name.as_str(), "image" | "images" | "caption" | "text");
    if names.iter().any(says) {
        Ok(names)
    } else {
        Err(format!("its header names neither an image nor a caption column: {}", header.join(", ")))
    }
}

/// The rows of a file as records in JSON.
struct Rows {
    csv: csv::Reader<Capped>,
    since_record: Arc<AtomicU64>,
    names: Vec<String>,
    record: csv::StringRecord,
    row: u64,
    path: PathBuf,
}

impl Rows {
    fn open(path: &Path) -> Result<Self> {
        let (stream, since_record) = Capped::new(open_text(path, Compression::of(path))?, MAX_VALUE_BYTES);
        let delimiter = delimiter_of(path).unwrap_or(b',');
        let mut csv =
            csv::ReaderBuilder::new().delimiter(delimiter).flexible(true).buffer_capacity(1 << 16).from_reader(stream);
        let header = csv.headers().map_err(|error| Error::unreadable(path, error))?;
        let header: Vec<String> = header.iter().map(|name| name.trim_start_matches('\u{feff}').to_owned()).collect();
        let names = renamed(&header).map_err(|error| Error::unreadable(path, error))?;
        Ok(Self { csv, since_record, names, record: csv::StringRecord::new(), row: 0, path: path.to_path_buf() })
    }

    fn value(&self) -> Value {
        if self.record.len() != self.names.len() {
            return Value::Refused("wrong_field_count");
        }
        let cells = self.names.iter().zip(&self.record).filter(|(_, cell)| !cell.is_empty());
        let object: Map<String, Json> = cells.map(|(name, cell)| (name.clone(), Json::from(cell))).collect();
        Value::Json(Json::Object(object).to_string().into_bytes())
    }
}

impl Values for Rows {
    fn read_next(&mut self) -> Result<Option<(u64, Value)>> {
        self.since_record.store(0, Ordering::Relaxed);
        let value = match self.csv.read_record(&mut self.record) {
            Ok(false) => return Ok(None),
            Ok(true) => self.value(),
            Err(error) if matches!(error.kind(), csv::ErrorKind::Utf8 { .. }) => Value::Refused("text_not_utf8"),
            Err(error) => return Err(Error::unreadable(&self.path, format!("cannot be read to its end: {error}"))),
        };
        self.row += 1;
        Ok(Some((self.row - 1, value)))
    }
}
