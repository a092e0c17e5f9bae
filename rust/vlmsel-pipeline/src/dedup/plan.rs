//! What a run is about to take, before it begins.

use serde::Serialize;

use super::exact::Bounds;
use super::kinds::Kind;
use crate::error::Result;
use vlmsel_shards::error::IoContext;
use vlmsel_shards::storage::disk::free_bytes;

/// Bytes on scratch disk of a key and its row, of a text with its lists of words, and of a record in a sort.
const KEY_BYTES: u64 = 20;
const TEXT_BYTES: u64 = 800;
const SORTED_BYTES: u64 = 48;
/// Bytes in memory of an image's code, with room to divide it and the row it is of.
const CODE_BYTES: u64 = 32;
/// Room that must stay free.
const SPARE_BYTES: u64 = 64 << 20;

/// What one step takes at most.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Step {
    /// The kind, as its edges are called, or `keepers`.
    #[serde(rename = "step")]
    pub name: String,
    /// Records that are compared.
    pub entries: u64,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Bytes of scratch disk.
    pub scratch_bytes: u64,
}

fn step(name: String, entries: u64, held: u64, a_record: u64, memory: u64) -> Step {
    let needed = entries * a_record;
    // What fits into half of the memory stays there.
    let scratch_bytes = if needed > memory / 2 { needed } else { 0 };
    Step { name, entries, memory_bytes: (held + needed.min(memory)).min(memory.max(held)), scratch_bytes }
}

/// The steps of a run over so many rows, at their worst: every record has every field, and a copy.
pub fn steps(rows: u64, kinds: &[Kind], memory: u64) -> Vec<Step> {
    let of_kind = |kind: &Kind| {
        let (held, a_record) = match kind {
            Kind::Exact(_) => (rows / 8, KEY_BYTES + SORTED_BYTES),
            Kind::NearText(_) => (rows / 8, TEXT_BYTES),
            Kind::NearImage(_) => (rows * CODE_BYTES, KEY_BYTES),
            Kind::NearPair(..) => (rows * CODE_BYTES, TEXT_BYTES),
        };
        step(kind.unit(), rows, held, a_record, memory)
    };
    let mut steps: Vec<Step> = kinds.iter().map(of_kind).collect();
    steps.push(step("keepers".to_owned(), rows, rows / 2, SORTED_BYTES, memory));
    steps
}

/// Refuses a run whose scratch files the disk cannot hold. Steps come one after the other, and each gives its disk back.
///
/// # Errors
/// Exit 6.
pub fn refuse_a_full_disk(steps: &[Step], bounds: Bounds<'_>) -> Result<()> {
    let free = free_bytes(bounds.scratch).at("inspect", bounds.scratch)?;
    let Some(most) = steps.iter().max_by_key(|step| step.scratch_bytes) else { return Ok(()) };
    if most.scratch_bytes == 0 || most.scratch_bytes + SPARE_BYTES <= free {
        return Ok(());
    }
    let text = format!(
        "{}: {} may need {} bytes of scratch files, the disk has {free} free; raise --memory-limit, or choose another folder with --scratch",
        bounds.scratch.display(),
        most.name,
        most.scratch_bytes
    );
    Err(vlmsel_shards::Error::Resource(text).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_runs_need_no_disk_and_large_ones_say_how_much() {
        let kinds = [Kind::parse("exact", "pair").unwrap(), Kind::parse("near-image", "6").unwrap()];
        let small = steps(1000, &kinds, 1 << 30);
        assert_eq!(small.iter().map(|step| step.scratch_bytes).sum::<u64>(), 0);
        let large = steps(200_000_000, &kinds, 2 << 30);
        assert_eq!(large[0].scratch_bytes, 200_000_000 * 68);
        assert_eq!(large[1].memory_bytes, 200_000_000 * 32);
        assert_eq!(large.last().unwrap().name, "keepers");
    }

    #[test]
    fn a_disk_that_is_too_small_is_refused() {
        let progress = crate::progress::Progress::default();
        let folder = tempfile::tempdir().unwrap();
        let bounds = Bounds { scratch: folder.path(), memory: 1, threads: 1, progress: &progress };
        let step = |scratch_bytes| [Step { name: "near-text-0.8".to_owned(), scratch_bytes, ..Step::default() }];
        assert!(refuse_a_full_disk(&step(1), bounds).is_ok());
        let error = refuse_a_full_disk(&step(1 << 60), bounds).unwrap_err().to_string();
        assert!(error.contains("near-text-0.8 may need") && error.contains("--scratch"), "{error}");
    }
}
