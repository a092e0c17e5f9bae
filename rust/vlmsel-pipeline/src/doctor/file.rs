//! Looking at one shard, whatever its form.

use std::collections::HashSet;
use std::path::Path;

use vlmsel_core::hash::{Hash128, image_hash, text_hash};
use vlmsel_shards::formats::reader::{Closing, Depth, ReadOptions};
use vlmsel_shards::formats::sample::Sample;
use vlmsel_shards::workspace::quarantine::Bad;

use super::Context;
use super::findings::Seen;
use super::repeated_pairs::Pairs;
use crate::error::Result;
use crate::read_shard::{Found, read_shard};
use crate::sources::ShardFile;

pub(super) fn look_at(
    shard: &ShardFile,
    image_root: &Path,
    options: &ReadOptions,
    context: &Context<'_>,
) -> Result<Seen> {
    let mut look = Look {
        unit: shard.unit(),
        keys_repeat: shard.format.keys_repeat(),
        seen: Seen::default(),
        keys: HashSet::new(),
        found: Vec::new(),
    };
    let closing = read_shard(shard, image_root, options, Depth::Bodies, context.pool, None, &mut |found| {
        if let Found::Passed(bytes, records) = found {
            Pairs::remember(context.pairs, &mut look.found);
            return Ok(context.progress.add(records, bytes)?);
        }
        look.take(found);
        Ok(())
    })?;
    Pairs::remember(context.pairs, &mut look.found);
    look.close(closing);
    Ok(look.seen)
}

struct Look {
    unit: String,
    keys_repeat: bool,
    seen: Seen,
    keys: HashSet<Hash128>,
    /// Hashes of images and of what is said of them.
    found: Vec<(Hash128, Hash128)>,
}

impl Look {
    fn take(&mut self, found: Found) {
        match found {
            Found::Passed(..) => {}
            Found::Stray(stray) => {
                let (unit, at) = (&self.unit, stray.position.unwrap_or(0));
                self.seen.note(&stray.reason, || format!("{unit}, {} {at}: {}", stray.unit, stray.detail));
            }
            Found::Record(Err(bad)) => {
                self.seen.records += 1;
                // Damage of the file itself is told once.
                if !bad.is_of_tar() {
                    let key = bad.key.map(|key| format!(", key {key}")).unwrap_or_default();
                    let (unit, at) = (&self.unit, bad.position.unwrap_or(0));
                    self.seen.note(&bad.reason, || format!("{unit}, {} {at}{key}: {}", bad.unit, bad.detail));
                }
            }
            Found::Record(Ok(sample)) => self.note_sample(&sample),
        }
    }

    fn note_sample(&mut self, sample: &Sample) {
        let Self { unit, seen, .. } = self;
        let key = sample.key.as_deref().filter(|_| !self.keys_repeat);
        let key = key.map(|key| format!(", key {key}")).unwrap_or_default();
        let position = sample.position;
        let place = |detail: &str| format!("{unit}, {} {}{key}{detail}", position.unit, position.number);
        seen.records += 1;
        if self.keys_repeat
            && let Some(key) = &sample.key
            && !self.keys.insert(image_hash(key.as_bytes()))
        {
            seen.note("repeated_key", || place(&format!(": id {key}")));
        }
        for Bad { reason, detail } in sample.faults.iter().chain(&sample.notes) {
            let shown = if detail.is_empty() { String::new() } else { format!(": {detail}") };
            seen.note(reason, || place(&shown));
        }
        if let Some(class) = sample.class() {
            *seen.classes.entry(class).or_default() += 1;
        }
        seen.note_text(sample.text(), &place);
        for image in &sample.images {
            // What is not there is no image.
            seen.images += u64::from(image.hash.is_some());
            match &image.found {
                Err(bad) => seen.note(bad.reason, || place(&format!(", {}", bad.detail))),
                Ok(row) => seen.note_size(row.width, row.height, &|detail| place(&format!(", {}{detail}", image.name))),
            }
            if let (Some(hash), Some(said)) = (image.hash, sample.text()) {
                self.found.push((hash, text_hash(said)));
            }
        }
    }

    fn close(&mut self, closing: Closing) {
        let Self { unit, seen, .. } = self;
        for damage in closing.damage {
            let kind = match damage.reason {
                Some("truncated") => "truncated_tar",
                Some(reason) => reason,
                None => "unreadable_file",
            };
            let place = damage.offset.map(|offset| format!("{unit}, byte {offset}: ")).unwrap_or_default();
            seen.note(kind, || format!("{place}{}", damage.detail));
        }
        for lost in closing.lost {
            seen.note(&lost.reason, || format!("{}: {}", lost.file, lost.key.unwrap_or_default()));
        }
        for note in closing.notes {
            seen.note_all(note.kind, note.count, note.examples);
        }
    }
}
