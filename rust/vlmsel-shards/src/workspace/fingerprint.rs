//! Recognising an input file by its content without reading all of it; never by its time stamp.
//!
//! It recognises most changes, not all: what it says is believed only of a file that is the same by its
//! [identity](crate::storage::identity).

use std::path::Path;

use crate::error::Result;
use crate::storage::source::{ReadAt, open};
use crate::workspace::manifest::{InputRecord, MANIFEST};

const EDGE_BYTES: u64 = 1 << 20;
const BLOCKS: u64 = 16;
const BLOCK_BYTES: u64 = 64 << 10;
/// Bytes of a manifest read at a time.
const BLOCK: usize = 1 << 20;

/// Fingerprint of `path`, recorded under `name` (its path below its root).
///
/// Parquet: size and footer (which holds every page's place and statistics). A folder that vlmsel finished: its manifest.
/// Anything else: size, first and last MiB, and 16 blocks of 64 KiB spread between.
pub fn fingerprint(path: &Path, name: &str) -> Result<InputRecord> {
    let folder = path.is_dir();
    let path = if folder { &path.join(MANIFEST) } else { path };
    let file = open(path)?;
    let bytes = file.size_bytes();
    let mut hasher = blake3::Hasher::new();
    hasher.update(&bytes.to_le_bytes());
    // A manifest stands for everything in its folder: all of it counts.
    let ranges = if folder {
        (0..bytes).step_by(BLOCK).map(|at| (at, (bytes - at).min(BLOCK as u64))).collect()
    } else {
        ranges(&*file)
    };
    for (offset, length) in ranges {
        let mut buffer = vec![0; length as usize];
        file.read_exact_at(&mut buffer, offset)?;
        hasher.update(&buffer);
    }
    Ok(InputRecord { name: name.to_owned(), bytes, fingerprint: hasher.finalize().to_hex()[..32].to_owned() })
}

fn ranges(file: &dyn ReadAt) -> Vec<(u64, u64)> {
    let bytes = file.size_bytes();
    let mut tail = [0; 8];
    if bytes >= 12 && file.read_exact_at(&mut tail, bytes - 8).is_ok() && &tail[4..] == b"PAR1" {
        let footer = u64::from(u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]])) + 8;
        if footer <= bytes && footer <= 1 << 28 {
            return vec![(bytes - footer, footer)];
        }
    }
    if bytes <= 2 * EDGE_BYTES + BLOCKS * BLOCK_BYTES {
        return vec![(0, bytes)];
    }
    let mut ranges = vec![(0, EDGE_BYTES)];
    let middle = bytes - 2 * EDGE_BYTES - BLOCK_BYTES;
    ranges.extend((1..=BLOCKS).map(|i| (EDGE_BYTES + middle / (BLOCKS + 1) * i, BLOCK_BYTES)));
    ranges.push((bytes - EDGE_BYTES, EDGE_BYTES));
    ranges
}
