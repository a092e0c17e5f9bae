//! Records that could not be read: where each one was, and why it was put aside.

use serde::{Deserialize, Serialize};

/// Why a record, or a part of it, cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bad {
    /// One of the documented reasons, in snake case.
    pub reason: &'static str,
    /// What was found.
    pub detail: String,
}

impl Bad {
    /// A reason with what was found.
    pub fn new(reason: &'static str, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }
}

/// One record or file that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Quarantined {
    /// The file, below its root.
    pub file: String,
    /// Byte offset, line or row in the file; its meaning stands in `unit`.
    pub position: Option<u64>,
    /// `byte`, `line` or `row`.
    pub unit: String,
    /// The record's key where it is known.
    pub key: Option<String>,
    /// One of the documented reasons, in snake case.
    pub reason: String,
    /// What was found, cut to 200 characters.
    pub detail: String,
}

impl Quarantined {
    /// A record at `position` of `file`; `detail` is cut so that a hostile record cannot fill the disk a second time.
    pub fn new(file: &str, unit: &str, position: Option<u64>, reason: &str, detail: &str) -> Self {
        Self {
            file: file.to_owned(),
            position,
            unit: unit.to_owned(),
            key: None,
            reason: reason.to_owned(),
            detail: detail.chars().take(200).collect(),
        }
    }

    /// Whether the reason is damage of the tar around it rather than something of the record's own.
    pub fn is_of_tar(&self) -> bool {
        matches!(
            self.reason.as_str(),
            "truncated" | "bad_checksum" | "bad_number" | "bad_extended_header" | "second_archive"
        )
    }

    /// The same, with the record's key.
    #[must_use]
    pub fn with_key(mut self, key: &str) -> Self {
        self.key = Some(key.chars().take(4096).collect());
        self
    }
}

/// How many quarantined records a folder lists; the counts are always complete.
pub const LISTED: usize = 10_000;

/// JSON lines, in the records' order, at most [`LISTED`] of them.
pub fn to_json_lines(records: &[Quarantined]) -> Vec<u8> {
    let mut out = Vec::new();
    for record in records.iter().take(LISTED) {
        if serde_json::to_writer(&mut out, record).is_ok() {
            out.push(b'\n');
        }
    }
    out
}
