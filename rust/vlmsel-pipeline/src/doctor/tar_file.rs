//! Looking at one tar, and at the Parquet file that img2dataset wrote beside it.

use rayon::prelude::*;
use vlmsel_core::hash::{Hash128, text_hash};
use vlmsel_shards::formats::img2dataset::{Row, Sidecar};
use vlmsel_shards::formats::json_stream;
use vlmsel_shards::formats::webdataset::{Content, Depth, Sample, TarSummary, Visitor, scan};
use vlmsel_shards::images::check::check_image;
use vlmsel_shards::images::header::{Fault, ImageHeader};
use vlmsel_shards::storage::source::LocalFile;
use vlmsel_shards::storage::text_encoding::utf8_text;
use vlmsel_shards::workspace::quarantine::Quarantined;

use super::Context;
use super::findings::Seen;
use super::repeated_pairs::Pairs;
use crate::error::{Error, Result};
use crate::sources::ShardFile;

const BUFFER_BYTES: usize = 1 << 20;
/// Samples whose images are checked at one time: as many as have these bytes, at most so many.
const BATCH_BYTES: usize = 8 << 20;
const BATCH_SAMPLES: usize = 512;

pub(super) fn look_at(shard: &ShardFile, context: &Context<'_>) -> Result<Seen> {
    let name = shard.unit();
    let mut seen = Seen::default();
    let sidecar = match shard.sidecar.as_deref().map(Sidecar::read).transpose() {
        Ok(sidecar) => sidecar.flatten(),
        Err(error) if error.is_of_file() => {
            seen.note("unreadable_file", || error.to_string());
            None
        }
        Err(error) => return Err(error.into()),
    };
    let mut look = Look {
        name: &name,
        context,
        seen,
        has_sidecar: sidecar.is_some(),
        sidecar,
        batch: Vec::new(),
        batch_bytes: 0,
        before: 0,
        found: Vec::new(),
    };
    let scanned = LocalFile::open(&shard.path)
        .map_err(Error::from)
        .and_then(|file| scan(&file, &name, Depth::Bodies, BUFFER_BYTES, &mut look))
        .and_then(|summary| look.check_batch().map(|()| summary));
    let Look { mut seen, sidecar, mut found, .. } = look;
    Pairs::remember(context.pairs, &mut found);
    match scanned {
        Ok(summary) => note_end(&mut seen, shard, &summary, sidecar),
        Err(Error::Shards(error)) if error.is_of_file() => seen.note("unreadable_file", || error.to_string()),
        Err(error) => return Err(error),
    }
    Ok(seen)
}

fn note_end(seen: &mut Seen, shard: &ShardFile, summary: &TarSummary, sidecar: Option<Sidecar>) {
    let name = shard.unit();
    if let Some(damage) = &summary.damage {
        let kind = if damage.reason == "truncated" { "truncated_tar" } else { damage.reason };
        seen.note(kind, || format!("{name}, byte {}: {}", damage.offset, damage.detail));
    }
    if summary.end.is_some_and(|end| !end.has_marker) {
        seen.note("no_end_marker", || format!("{name}: its writer may have been stopped"));
    }
    // Behind damage, a row without a member says nothing that the damage does not.
    if let (Some(sidecar), None) = (sidecar, &summary.damage) {
        if sidecar.repeated > 0 {
            seen.note_many("repeated_row_key", sidecar.repeated, || shard.sidecar_unit());
        }
        for (key, row) in sidecar.rest() {
            let kind = if row.expected { "row_without_member" } else { "failed_download" };
            seen.note(kind, || format!("{}: {key}", shard.sidecar_unit()));
        }
    }
}

struct Look<'a> {
    name: &'a str,
    context: &'a Context<'a>,
    seen: Seen,
    sidecar: Option<Sidecar>,
    has_sidecar: bool,
    /// Samples whose images are not checked yet, with their rows.
    batch: Vec<(Sample, Option<Row>)>,
    batch_bytes: usize,
    before: u64,
    found: Vec<(Hash128, Hash128)>,
}

impl Visitor for Look<'_> {
    type Error = Error;

    fn sample(&mut self, sample: Sample) -> Result<()> {
        let row = self.sidecar.as_mut().and_then(|sidecar| sidecar.take(&sample.key));
        if self.has_sidecar && row.is_none() && sample.fault.is_none() {
            self.seen.note("member_without_row", || format!("{}: {}", self.name, sample.key));
        }
        if let Some(Content::Image(.., Some(bytes))) = sample.image().map(|member| &member.content) {
            self.batch_bytes += bytes.len();
        }
        self.batch.push((sample, row));
        if self.batch_bytes >= BATCH_BYTES || self.batch.len() >= BATCH_SAMPLES { self.check_batch() } else { Ok(()) }
    }

    fn stray(&mut self, record: Quarantined) -> Result<()> {
        let place = || format!("{}, byte {}: {}", self.name, record.position.unwrap_or(0), record.detail);
        self.seen.note(&record.reason, place);
        Ok(())
    }

    fn passed(&mut self, position: u64) -> Result<()> {
        self.context.progress.add(0, position - self.before)?;
        self.before = position;
        Ok(())
    }
}

impl Look<'_> {
    /// Reads the images that wait, in parallel, and notes what is wrong with their samples, in order.
    fn check_batch(&mut self) -> Result<()> {
        let batch = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        let checked: Vec<Option<std::result::Result<ImageHeader, Fault>>> =
            self.context.pool.install(|| batch.par_iter().map(|(sample, _)| check(sample)).collect());
        for ((sample, row), checked) in batch.iter().zip(checked) {
            self.note_sample(sample, row.as_ref(), checked);
            self.context.progress.add(1, 0)?;
        }
        Pairs::remember(self.context.pairs, &mut self.found);
        Ok(())
    }

    fn note_sample(
        &mut self,
        sample: &Sample,
        row: Option<&Row>,
        checked: Option<std::result::Result<ImageHeader, Fault>>,
    ) {
        let (seen, name) = (&mut self.seen, self.name);
        let place = |detail: &str| format!("{name}, byte {}, key {}{detail}", sample.header_offset, sample.key);
        seen.records += 1;
        if let Some(fault) = &sample.fault {
            // The damage itself is told once per file.
            if !fault.is_of_tar() {
                seen.note(&fault.reason, || place(&format!(": {}", fault.detail)));
            }
            return;
        }
        let mut spare = Vec::new();
        let json = sample.json().map(|json| json_stream::parse::<serde::de::IgnoredAny>(json, &mut spare));
        if let Some(Err(error)) = json {
            seen.note("bad_json", || place(&format!(": {error}")));
        }
        let text = match sample.text().map(utf8_text) {
            Some(Ok(text)) => Some(text),
            Some(Err(found)) => {
                seen.note("text_not_utf8", || place(&format!(": {found}")));
                None
            }
            None => row.and_then(|row| row.text.as_deref()),
        };
        seen.note_text(text, &place);
        let hash = match sample.image().map(|member| &member.content) {
            Some(Content::Image(hash, ..)) => Some(*hash),
            _ => None,
        };
        match checked {
            Some(checked) => {
                seen.images += 1;
                seen.note_image(checked, &place);
            }
            None => seen.note("no_image", || place("")),
        }
        if let (Some(image), Some(text)) = (hash, text) {
            self.found.push((image, text_hash(text)));
        }
    }
}

fn check(sample: &Sample) -> Option<std::result::Result<ImageHeader, Fault>> {
    let member = sample.image()?;
    match &member.content {
        Content::Image(_, _, Some(bytes)) => Some(check_image(bytes)),
        Content::Image(_, Err(fault), None) => Some(Err(*fault)),
        Content::Image(_, Ok(header), None) => Some(Err(Fault::Long(header.format, member.size))),
        _ => None,
    }
}
