//! Which samples, and in which place each one goes.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use vlmsel_core::hash::parse_uid;
use vlmsel_core::random::random_key;
use vlmsel_shards::error::IoContext;
use vlmsel_shards::storage::identity::Identity;
use vlmsel_shards::storage::source::{Sequential, open};
use vlmsel_shards::storage::text_encoding::foreign_encoding;
use vlmsel_shards::tables::npy::read_uids;
use vlmsel_shards::workspace::fingerprint::fingerprint;
use vlmsel_shards::workspace::inputs::{Check, expand};
use vlmsel_shards::workspace::manifest::InputRecord;
use vlmsel_shards::workspace::output::hash_file;
use vlmsel_shards::workspace::quarantine::Quarantined;

use crate::error::{Error, Result};
use crate::tolerance::Tolerance;

/// A line of a text file of ids is not longer than this.
const MAX_LINE_BYTES: u64 = 4096;

/// The selected ids.
pub(super) struct Selected {
    /// The folder or file that they came from, as an input.
    pub input: InputRecord,
    /// Sorted, with repeats.
    pub uids: Vec<u128>,
    /// Lines that are no ids.
    pub bad: Vec<Quarantined>,
}

pub(super) fn read_selection(
    path: &Path,
    memory_limit: u64,
    tolerance: &Tolerance,
    check: Check<'_>,
) -> Result<Selected> {
    let accept = |file: &Path| file.file_name().is_some_and(|name| name == "uids.npy");
    let files = expand(&[path.into()], "uids.npy (ids of 128 bits)", &accept, check)?;
    let [file] = files.as_slice() else {
        return Err(Error::usage(format!("{}: give one selection folder, .npy or text file of ids", path.display())));
    };
    tolerance.accept(path, file.losses.as_deref())?;
    let before = Identity::at(&file.path).at("inspect", &file.path)?;
    let size = before.bytes;
    if memory_limit > 0 && size / 16 * 24 > memory_limit {
        let text = format!(
            "{} ids need {} bytes of memory, the limit is {memory_limit}; raise --memory-limit",
            size / 16,
            size / 16 * 24
        );
        return Err(vlmsel_shards::Error::Resource(text).into());
    }
    let (mut uids, bad) = match file.path.extension().and_then(|e| e.to_str()) {
        Some("npy") => (read_uids(&file.path)?, Vec::new()),
        Some("parquet") => {
            return Err(Error::usage(format!(
                "{}: give the selection folder, its uids.npy, or a text file of ids",
                file.path.display()
            )));
        }
        _ => read_lines(&file.path)?,
    };
    uids.sort_unstable();
    let input = if file.folder.is_some() { fingerprint(path, "selection")? } else { whole(&file.path)? };
    before.check_unchanged(&file.path)?;
    Ok(Selected { input, uids, bad })
}

/// A list of ids as an input: no fingerprint of parts of it, which would miss a line changed in the middle.
fn whole(path: &Path) -> Result<InputRecord> {
    let file = open(path)?;
    let bytes = file.size_bytes();
    let fingerprint = hash_file(Sequential::new(file, 0), path)?.to_hex()[..32].to_owned();
    Ok(InputRecord { name: "selection".to_owned(), bytes, fingerprint })
}

fn read_lines(path: &Path) -> Result<(Vec<u128>, Vec<Quarantined>)> {
    let mut reader = BufReader::with_capacity(1 << 20, Sequential::new(open(path)?, 0));
    let head = reader.fill_buf().at("read", path)?;
    if let Some(what) = foreign_encoding(head) {
        return Err(Error::usage(format!("{}: {what}", path.display())));
    }
    if head.starts_with(b"\xef\xbb\xbf") {
        reader.consume(3);
    }
    let (mut uids, mut bad, mut line, mut number) = (Vec::new(), Vec::new(), Vec::new(), 0);
    loop {
        line.clear();
        if Read::take(&mut reader, MAX_LINE_BYTES).read_until(b'\n', &mut line).at("read", path)? == 0 {
            break;
        }
        number += 1;
        let text = String::from_utf8_lossy(&line);
        let text = text.trim();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        match parse_uid(text) {
            Some(uid) => uids.push(u128::from_be_bytes(uid)),
            None => bad.push(Quarantined::new("selection", "line", Some(number), "bad_id", text)),
        }
    }
    if uids.is_empty() && !bad.is_empty() {
        return Err(Error::usage(format!("{}: no line is an id of 32 hexadecimal characters", path.display())));
    }
    Ok((uids, bad))
}

/// The place of every selected sample: its rank by id, or by the hash of (seed, id).
#[derive(Debug)]
pub(super) struct Placement {
    uids: Vec<u128>,
    /// Place of `uids[i]`; empty where that is `i`.
    places: Vec<u64>,
    samples_per_shard: u64,
}

impl Placement {
    pub fn new(uids: Vec<u128>, shuffle: Option<u64>, samples_per_shard: u64) -> Self {
        let mut places = Vec::new();
        if let Some(seed) = shuffle {
            let mut by_key: Vec<u64> = (0..uids.len() as u64).collect();
            // Repeats of one id part, each going by the hash of id and ordinal.
            let key = |i: u64| {
                let uid = uids[i as usize];
                let copy = i - uids.partition_point(|&other| other < uid) as u64;
                let bytes = uid.to_be_bytes();
                let random = if copy == 0 {
                    random_key(seed, &bytes)
                } else {
                    random_key(seed, &[&bytes[..], &copy.to_le_bytes()].concat())
                };
                (random, i)
            };
            by_key.sort_by_cached_key(|&i| key(i));
            places = vec![0; uids.len()];
            for (place, i) in by_key.into_iter().enumerate() {
                places[i as usize] = place as u64;
            }
        }
        Self { uids, places, samples_per_shard }
    }

    pub fn len(&self) -> u64 {
        self.uids.len() as u64
    }

    pub fn shards(&self) -> u64 {
        self.len().div_ceil(self.samples_per_shard)
    }

    pub fn shard_of(&self, place: u64) -> u64 {
        place / self.samples_per_shard
    }

    /// The places that are in a shard.
    pub fn places(&self, shard: u64) -> std::ops::Range<u64> {
        let first = shard * self.samples_per_shard;
        first..first.saturating_add(self.samples_per_shard).min(self.len())
    }

    /// The indices of an id; empty if it is not selected.
    pub fn find(&self, uid: u128) -> std::ops::Range<usize> {
        let first = self.uids.partition_point(|&other| other < uid);
        // Not counted one by one: an id may be selected a million times and stand in as many rows of the index.
        first..first + self.uids[first..].partition_point(|&other| other == uid)
    }

    pub fn contains(&self, uid: u128) -> bool {
        self.uids.binary_search(&uid).is_ok()
    }

    pub fn place(&self, index: usize) -> u64 {
        self.places.get(index).copied().unwrap_or(index as u64)
    }

    /// Ids found in the index, in order, with repeats.
    pub fn present<'a>(&'a self, is_found: &'a [bool]) -> impl Iterator<Item = u128> + 'a {
        self.uids.iter().zip(is_found).filter(|(_, found)| **found).map(|(uid, _)| *uid)
    }

    /// Ids that the index does not have.
    pub fn missing<'a>(&'a self, is_found: &'a [bool]) -> impl Iterator<Item = u128> + 'a {
        self.uids.iter().zip(is_found).filter(|(_, found)| !**found).map(|(uid, _)| *uid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_has_one_place() {
        let uids = vec![1, 5, 5, 5, 9];
        for shuffle in [None, Some(0), Some(7)] {
            let order = Placement::new(uids.clone(), shuffle, 2);
            let mut places: Vec<u64> = (0..5).map(|i| order.place(i)).collect();
            places.sort_unstable();
            assert_eq!(places, [0, 1, 2, 3, 4]);
            assert_eq!((order.find(5), order.find(2), order.shards()), (1..4, 1..1, 3));
        }
        let same = Placement::new([vec![3; 1_000_000], vec![9]].concat(), None, 2);
        assert!((0..1_000_000).all(|_| same.find(3) == (0..1_000_000)));
        let many: Vec<u128> = (0..100).collect();
        let places = |seed| (0..100).map(|i| Placement::new(many.clone(), Some(seed), 9).place(i)).collect::<Vec<_>>();
        assert_ne!(places(1), places(2));
    }
}
