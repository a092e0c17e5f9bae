//! What one file gives: counts, and findings with their examples.

use std::collections::BTreeMap;

use vlmsel_core::hash::normalise_text;
use vlmsel_shards::formats::sample::SampleClass;

use crate::finding::Finding;

/// A picture smaller than this on a side has little to say to a vision tower.
const TINY_PIXELS: u32 = 32;

#[derive(Default)]
pub(super) struct Seen {
    pub records: u64,
    pub images: u64,
    pub texts: u64,
    pub classes: BTreeMap<SampleClass, u64>,
    pub findings: BTreeMap<String, Finding>,
}

impl Seen {
    pub fn note(&mut self, kind: &str, example: impl FnOnce() -> String) {
        self.note_many(kind, 1, example);
    }

    fn note_many(&mut self, kind: &str, count: u64, example: impl FnOnce() -> String) {
        self.findings.entry(kind.to_owned()).or_default().add(count, example);
    }

    /// What was counted elsewhere, with its examples.
    pub fn note_all(&mut self, kind: &str, count: u64, examples: Vec<String>) {
        self.findings.entry(kind.to_owned()).or_default().merge(Finding { count, examples });
    }

    pub fn note_size(&mut self, width: u32, height: u32, place: &dyn Fn(&str) -> String) {
        if width < TINY_PIXELS || height < TINY_PIXELS {
            self.note("tiny_image", || place(&format!(": {width} x {height} pixels")));
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
