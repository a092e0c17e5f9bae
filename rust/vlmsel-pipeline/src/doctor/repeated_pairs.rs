//! One picture under many captions, and pairs that are there more than once.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use vlmsel_core::hash::{Hash128, to_hex};

use crate::finding::Finding;

/// Hashes of pictures and their captions, thinned by the picture's hash so that each picture is followed wholly or not at all.
pub(super) struct Pairs {
    kept: Vec<(Hash128, Hash128)>,
    capacity: usize,
    shift: u32,
}

impl Pairs {
    pub fn new(bytes: u64) -> Self {
        // A vector that grows has its old half beside the new.
        Self { kept: Vec::new(), capacity: (bytes / 64).max(1024) as usize, shift: 0 }
    }

    fn keeps(&self, image: &Hash128) -> bool {
        self.shift == 0 || u128::from_be_bytes(*image) >> (128 - self.shift) == 0
    }

    fn push(&mut self, image: Hash128, text: Hash128) {
        if self.keeps(&image) {
            self.kept.push((image, text));
            while self.kept.len() > self.capacity && self.shift < 100 {
                self.shift += 1;
                let pairs = std::mem::take(&mut self.kept);
                self.kept = pairs.into_iter().filter(|(image, _)| self.keeps(image)).collect();
            }
        }
    }

    /// Adds what one file gave so far, and empties it.
    pub fn remember(pairs: &Mutex<Self>, found: &mut Vec<(Hash128, Hash128)>) {
        let mut pairs = pairs.lock().unwrap_or_else(PoisonError::into_inner);
        for (image, text) in found.drain(..) {
            pairs.push(image, text);
        }
    }

    /// One of so many pictures is followed.
    pub fn sampled(&self) -> u64 {
        1 << self.shift.min(63)
    }

    pub fn note_repeats(mut self, findings: &mut BTreeMap<String, Finding>) {
        self.kept.sort_unstable();
        let mut note = |kind: &str, count: usize, example: String| {
            findings.entry(kind.to_owned()).or_default().add(count as u64, || example);
        };
        for group in self.kept.chunk_by(|a, b| a.0 == b.0).filter(|group| group.len() > 1) {
            let captions = group.chunk_by(|a, b| a.1 == b.1).count();
            let (image, records) = (to_hex(&group[0].0), group.len());
            if captions > 1 {
                note("one_image_many_captions", 1, format!("image {image}: {captions} captions in {records} records"));
            }
            if records > captions {
                let example = format!("image {image}: {records} records, {captions} captions");
                note("repeated_pair", records - captions, example);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vlmsel_core::hash::image_hash;

    #[test]
    fn pairs_are_thinned_by_picture() {
        let mut pairs = Pairs { kept: Vec::new(), capacity: 100, shift: 0 };
        for i in 0..5000_u32 {
            let image = image_hash(&(i / 5).to_le_bytes());
            pairs.push(image, [(i % 5) as u8; 16]);
        }
        assert!(pairs.kept.len() <= 100 && pairs.sampled() > 1);
        let mut findings = BTreeMap::new();
        let kept = pairs.kept.len() as u64;
        pairs.note_repeats(&mut findings);
        // A picture that is followed is followed wholly: all five captions of each.
        assert_eq!(findings["one_image_many_captions"].count, kept / 5);
    }
}
