//! One way to read samples, whatever form they are kept in.
//!
//! A [`Format`] says which files it recognises and opens a [`SampleReader`] over one of them. A reader yields its records in the
//! file's order, batch by batch. What costs time and can be done by any thread (parsing, reading images) waits in
//! [`RawSample::take_apart`]; the reader itself does only what must be done in order.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::Result;
use crate::formats::sample::Taken;
use crate::workspace::quarantine::Quarantined;

/// Stands in the fingerprint of an index: it rises whenever a reader makes something else of the same bytes, or the index writes the same
/// rows as other bytes.
pub const READER_VERSION: u32 = 3;
/// Longer images are not held whole, and so not decoded, nor looked at under [`Depth::Bodies`].
pub const MAX_CHECKED_BYTES: u64 = 64 << 20;
/// A batch ends behind so many records,
pub(super) const BATCH_RECORDS: usize = 256;
/// or when they hold so many bytes.
pub(super) const BATCH_BYTES: usize = 8 << 20;

/// How much is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Records, and what the file system says of the files that they name; no image is read.
    Names,
    /// Also hashes and headers of images.
    Headers,
    /// As `Headers`, and the bytes of images are handed over, unless there are more than [`MAX_CHECKED_BYTES`] of one.
    Contents,
    /// Also every code of each image.
    Bodies,
}

/// Where the key of a tar's member ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyUntil {
    /// At the first dot of its last part, as WebDataset has it.
    #[default]
    FirstDot,
    /// At the last dot.
    LastDot,
}

/// What a user says of how to read.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReadOptions {
    /// Field or column that holds an id of 128 bits.
    pub id_column: Option<String>,
    /// Column of a table that holds the captions.
    pub caption_column: Option<String>,
    /// Where the key of a tar's member ends.
    pub key_until: KeyUntil,
}

/// A shard as a reader opens it.
#[derive(Debug, Clone, Copy)]
pub struct Shard<'a> {
    /// Its source and name, for messages and quarantined records.
    pub unit: &'a str,
    /// Where it lies.
    pub path: &'a Path,
    /// The file that belongs to it ([`Format::sidecar`]), and its name in messages.
    pub sidecar: Option<(&'a str, &'a Path)>,
    /// Folder that paths in its records are relative to.
    pub image_root: &'a Path,
    /// What the user says of how to read.
    pub options: &'a ReadOptions,
    /// How much to look at.
    pub depth: Depth,
}

/// A form in which people keep samples.
pub trait Format: Sync {
    /// Its name.
    fn name(&self) -> &'static str;

    /// How its files' names end, as a user would say it: `.tar`.
    fn endings(&self) -> &'static [&'static str];

    /// Whether a file is of this form; asked in the order of the table, the first that says yes has it.
    fn recognises(&self, path: &Path) -> bool;

    /// Whether a recognised file is no data where it is found in a folder rather than named: what tools leave beside it.
    fn is_bookkeeping(&self, _name: &str) -> bool {
        false
    }

    /// Of a folder, only files of the forms with the lowest rank in it are data; the others are what tools left beside them.
    fn rank(&self) -> u8 {
        0
    }

    /// Whether a file of this form belongs to a shard of another, and is read with that.
    fn belongs_to_another(&self, _path: &Path) -> bool {
        false
    }

    /// A file that belongs to the shard and is read with it.
    fn sidecar(&self, _shard: &Path) -> Option<PathBuf> {
        None
    }

    /// The shard that should lie beside this Parquet file and does not: it is a shard that cannot be read, rather than none.
    fn lost_shard(&self, _table: &Path) -> Option<PathBuf> {
        None
    }

    /// Whether records name image files of their own.
    fn names_files(&self) -> bool {
        false
    }

    /// Whether several samples of one shard may have one key.
    fn keys_repeat(&self) -> bool {
        false
    }

    /// Opens a shard.
    ///
    /// # Errors
    /// Of the file ([`crate::Error::is_of_file`]) where it cannot be read at all; what is wrong further on is in [`Closing`].
    fn open(&self, shard: &Shard<'_>) -> Result<Box<dyn SampleReader>>;
}

impl fmt::Debug for dyn Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A shard being read.
pub trait SampleReader {
    /// The next records; `None` behind the last.
    ///
    /// # Errors
    /// Those of the system; what is wrong with the file ends the records and is in [`Closing::damage`].
    fn next_batch(&mut self) -> Result<Option<Batch>>;

    /// What is known when all is read.
    fn close(self: Box<Self>) -> Closing;
}

/// Some records in the file's order.
#[derive(Default)]
pub struct Batch {
    /// The records.
    pub records: Vec<Record>,
    /// Bytes of the file that were passed since the batch before; all of them together are at most its size.
    pub bytes: u64,
    /// Whether taking them apart is worth other threads.
    pub is_costly: bool,
}

/// One record of a batch.
pub enum Record {
    /// To be taken apart.
    Raw(Box<dyn RawSample>),
    /// Something that belongs to no sample.
    Stray(Quarantined),
}

/// A record as it lies in the file.
pub trait RawSample: Send {
    /// Makes a sample of it.
    ///
    /// # Errors
    /// Those of the system; what is wrong with the record is in what it comes to.
    fn take_apart(self: Box<Self>) -> Result<Taken>;
}

/// Why a file could not be read to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// What kind of damage, in snake case; `None` where the file as a whole cannot be read.
    pub reason: Option<&'static str>,
    /// Where in the file.
    pub offset: Option<u64>,
    /// What was found.
    pub detail: String,
}

impl Damage {
    /// A file that cannot be read, or not further.
    pub fn unreadable(detail: impl fmt::Display) -> Self {
        Self { reason: None, offset: None, detail: detail.to_string() }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.reason, self.offset) {
            (Some(reason), Some(offset)) => write!(f, "{reason} at byte {offset} ({})", self.detail),
            _ => f.write_str(&self.detail),
        }
    }
}

/// Something about the whole file that a user should know although it can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// What it is, in snake case.
    pub kind: &'static str,
    /// How often.
    pub count: u64,
    /// Where, for the first few.
    pub examples: Vec<String>,
}

/// Examples that a [`Note`] has at most.
pub const EXAMPLES: usize = 5;

/// What is known of a shard when all of it was read.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Closing {
    /// Why it could not be read to its end; the last is what ended it.
    pub damage: Vec<Damage>,
    /// Records that something in it speaks of and that are not there.
    pub lost: Vec<Quarantined>,
    /// What a user should know.
    pub notes: Vec<Note>,
    /// Facts for the index's manifest.
    pub detail: Map<String, Value>,
}
