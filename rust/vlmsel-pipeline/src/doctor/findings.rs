//! What one file gives: counts, and findings with their examples.

use std::collections::BTreeMap;

use serde::Serialize;
use vlmsel_core::hash::normalise_text;
use vlmsel_shards::images::header::{Fault, ImageHeader};

/// Examples kept of each finding.
pub(super) const EXAMPLES: usize = 5;
/// A picture smaller than this on a side has little to say to a vision tower.
const TINY_PIXELS: u32 = 32;

/// One kind of trouble.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How often.
    pub count: u64,
    /// Where, for the first few in the order of file and place.
    pub examples: Vec<String>,
}

impl Finding {
    pub(super) fn add(&mut self, count: u64, example: impl FnOnce() -> String) {
        self.count += count;
        if self.examples.len() < EXAMPLES {
            self.examples.push(example());
        }
    }
}

#[derive(Default)]
pub(super) struct Seen {
    pub records: u64,
    pub images: u64,
    pub texts: u64,
    pub findings: BTreeMap<String, Finding>,
}

impl Seen {
    pub fn note(&mut self, kind: &str, example: impl FnOnce() -> String) {
        self.note_many(kind, 1, example);
    }

    pub fn note_many(&mut self, kind: &str, count: u64, example: impl FnOnce() -> String) {
        self.findings.entry(kind.to_owned()).or_default().add(count, example);
    }

    pub fn note_image(&mut self, checked: Result<ImageHeader, Fault>, place: &dyn Fn(&str) -> String) {
        match checked {
            Err(fault) => self.note(fault.reason(), || place(&format!(": {fault}"))),
            Ok(header) if header.width < TINY_PIXELS || header.height < TINY_PIXELS => {
                self.note("tiny_image", || place(&format!(": {} x {} pixels", header.width, header.height)));
            }
            Ok(_) => {}
        }
    }

    pub fn note_text(&mut self, text: Option<&str>, place: &dyn Fn(&str) -> String) {
        match text {
            None => self.note("no_caption", || place("")),
            Some(text) => {
                self.texts += 1;
                if normalise_text(text).is_empty() {
                    self.note("empty_caption", || place(""));
                }
            }
        }
    }
}
