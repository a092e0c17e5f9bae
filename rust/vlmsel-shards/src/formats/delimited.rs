//! Tables of text with a header (CSV, TSV): each row is a record, its images are files below the image root.
//!
//! Rows become records in JSON with the fields that JSON files have, so that both are read alike.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Map, Value as Json};

use crate::error::{Error, IoContext, Result};
use crate::formats::json_stream::{MAX_VALUE_BYTES, Value};
use crate::formats::llava::reader::{Common, RawRecord};
use crate::formats::reader::{BATCH_BYTES, BATCH_RECORDS, Batch, Closing, Damage, Format, Record, SampleReader, Shard};
use crate::storage::source::{Sequential, open};
use crate::storage::text_encoding::utf8_stream;

/// Columns that name an image file, best first, where none is called `image` or `images`.
const IMAGE_COLUMNS: [&str; 5] = ["file_name", "image_path", "filepath", "file_path", "path"];
/// A column of captions, where none is called `caption` or `text`.
const CAPTION_COLUMNS: [&str; 2] = ["title", "sentence"];
/// A column of keys, where none is called `id`.
const KEY_COLUMNS: [&str; 2] = ["key", "index"];
/// The largest zstd window accepted, as a power of two.
const MAX_WINDOW_LOG: u32 = 27;

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
        let path = shard.path;
        let since_record = Arc::new(AtomicU64::new(0));
        let stream = Capped { inner: stream_of(path)?, since_record: since_record.clone() };
        let delimiter = delimiter_of(path).unwrap_or(b',');
        let mut reader =
            csv::ReaderBuilder::new().delimiter(delimiter).flexible(true).buffer_capacity(1 << 16).from_reader(stream);
        let header = reader.headers().map_err(|error| Error::unreadable(path, error))?;
        let header: Vec<String> = header.iter().map(|name| name.trim_start_matches('\u{feff}').to_owned()).collect();
        let names = renamed(&header).map_err(|error| Error::unreadable(path, error))?;
        let left = std::fs::metadata(path).map_or(0, |meta| meta.len());
        Ok(Box::new(Reader {
            csv: reader,
            names,
            since_record,
            common: Common::of(shard),
            row: 0,
            left,
            ended: false,
            damage: None,
        }))
    }
}

fn stream_of(path: &Path) -> Result<Box<dyn Read + Send>> {
    let file = Sequential::new(open(path)?, 0);
    let ending = path.extension().map(std::ffi::OsStr::to_ascii_lowercase).unwrap_or_default();
    let (stream, is_compressed): (Box<dyn Read + Send>, bool) = if ending == "gz" {
        (Box::new(flate2::read::MultiGzDecoder::new(file)), true)
    } else if ending == "zst" {
        let mut decoder = zstd::Decoder::new(file).at("read", path)?;
        decoder.window_log_max(MAX_WINDOW_LOG).at("read", path)?;
        (Box::new(decoder), true)
    } else {
        (Box::new(file), false)
    };
    Ok(Box::new(utf8_stream(stream, path, is_compressed)?))
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

/// Ends a stream in which one record takes too much: a quote that is never closed would take all of it.
struct Capped {
    inner: Box<dyn Read + Send>,
    since_record: Arc<AtomicU64>,
}

impl Read for Capped {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(buffer)?;
        if self.since_record.fetch_add(read as u64, Ordering::Relaxed) > MAX_VALUE_BYTES as u64 {
            return Err(std::io::Error::other("a record of more than 64 MiB; is a quote not closed?"));
        }
        Ok(read)
    }
}

struct Reader {
    csv: csv::Reader<Capped>,
    names: Vec<String>,
    since_record: Arc<AtomicU64>,
    common: Arc<Common>,
    row: u64,
    /// Bytes of the file that were not told yet.
    left: u64,
    ended: bool,
    damage: Option<Damage>,
}

impl Reader {
    fn value_of(&self, record: &csv::StringRecord) -> Value {
        if record.len() != self.names.len() {
            return Value::Refused("wrong_field_count");
        }
        let cells = self.names.iter().zip(record).filter(|(_, cell)| !cell.is_empty());
        let object: Map<String, Json> = cells.map(|(name, cell)| (name.clone(), Json::from(cell))).collect();
        Value::Json(Json::Object(object).to_string().into_bytes())
    }
}

impl SampleReader for Reader {
    fn next_batch(&mut self) -> Result<Option<Batch>> {
        if self.ended {
            return Ok(None);
        }
        let mut batch = Batch { is_costly: true, ..Batch::default() };
        let (mut bytes, mut record) = (0, csv::StringRecord::new());
        while batch.records.len() < BATCH_RECORDS && bytes < BATCH_BYTES && !self.ended {
            self.since_record.store(0, Ordering::Relaxed);
            let value = match self.csv.read_record(&mut record) {
                Ok(false) => {
                    self.ended = true;
                    break;
                }
                Ok(true) => self.value_of(&record),
                Err(error) if matches!(error.kind(), csv::ErrorKind::Utf8 { .. }) => Value::Refused("text_not_utf8"),
                Err(error) => {
                    self.damage = Some(Damage::unreadable(format!("cannot be read to its end: {error}")));
                    self.ended = true;
                    break;
                }
            };
            bytes += record.as_slice().len();
            let raw = RawRecord { row: self.row, value, common: self.common.clone() };
            batch.records.push(Record::Raw(Box::new(raw)));
            self.row += 1;
        }
        batch.bytes = if self.ended { self.left } else { (bytes as u64).min(self.left) };
        self.left -= batch.bytes;
        Ok(Some(batch))
    }

    fn close(self: Box<Self>) -> Closing {
        Closing { damage: self.damage.into_iter().collect(), ..Closing::default() }
    }
}
