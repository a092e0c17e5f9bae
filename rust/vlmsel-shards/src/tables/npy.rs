//! DataComp's subset files: `.npy` arrays of dtype `"u8,u8"`, one 128-bit id per row, sorted.

use std::io::{BufReader, Read, Write};
use std::path::Path;

use crate::error::{Error, IoContext, Result};
use crate::parquet::writer::HashedFile;
use crate::storage::source::{Sequential, open};

const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// Bytes written and hashed at a time.
const PENDING_BYTES: usize = 1 << 18;

/// Reads the ids of a subset file: the first field holds an id's high 64 bits, the second its low ones.
///
/// # Errors
/// [`Error::Unreadable`] for any other dtype or shape, or a file that is cut short.
pub fn read_uids(path: &Path) -> Result<Vec<u128>> {
    let file = open(path)?;
    let size = file.size_bytes();
    let mut reader = BufReader::with_capacity(1 << 20, Sequential::new(file, 0));
    let mut head = [0; 8];
    reader.read_exact(&mut head).map_err(|_| Error::unreadable(path, "too short for an .npy file"))?;
    if &head[..6] != MAGIC || !matches!(head[6], 1..=3) {
        return Err(Error::unreadable(path, "not an .npy file"));
    }
    let length_bytes = if head[6] == 1 { 2 } else { 4 };
    let mut length = [0; 4];
    reader
        .read_exact(&mut length[..length_bytes])
        .map_err(|_| Error::unreadable(path, "too short for an .npy file"))?;
    let length = u32::from_le_bytes(length) as usize;
    if length > 1 << 16 {
        return Err(Error::unreadable(path, format!("an .npy header of {length} bytes")));
    }
    let mut header = vec![0; length];
    reader.read_exact(&mut header).map_err(|_| Error::unreadable(path, "too short for its .npy header"))?;
    let header = String::from_utf8_lossy(&header).replace(' ', "");
    if !header.contains("[('f0','<u8'),('f1','<u8')]") || header.contains("'fortran_order':True") {
        let what = format!("dtype \"u8,u8\" (DataComp's subset format) expected, found {}", header.trim());
        return Err(Error::unreadable(path, what));
    }
    let rows: u64 = header
        .split_once("'shape':(")
        .and_then(|(_, rest)| rest.split_once(",)"))
        .and_then(|(rows, _)| rows.parse().ok())
        .ok_or_else(|| Error::unreadable(path, format!("one dimension expected, found {}", header.trim())))?;
    let expected = rows.checked_mul(16).and_then(|bytes| bytes.checked_add((8 + length_bytes + length) as u64));
    if expected != Some(size) {
        return Err(Error::unreadable(path, format!("{rows} rows do not fill {size} bytes (cut short?)")));
    }
    let mut uids = Vec::with_capacity(rows as usize);
    let mut row = [0; 16];
    for _ in 0..rows {
        reader.read_exact(&mut row).at("read", path)?;
        let (mut high, mut low) = ([0; 8], [0; 8]);
        high.copy_from_slice(&row[..8]);
        low.copy_from_slice(&row[8..]);
        uids.push((u128::from(u64::from_le_bytes(high)) << 64) | u128::from(u64::from_le_bytes(low)));
    }
    Ok(uids)
}

/// Writes a subset file from ids in ascending order; returns its BLAKE3.
///
/// # Errors
/// [`Error::Io`].
pub fn write_uids(path: &Path, rows: u64, sorted: impl Iterator<Item = Result<u128>>) -> Result<blake3::Hash> {
    let mut out = HashedFile::create(path)?;
    let mut header =
        format!("{{'descr': [('f0', '<u8'), ('f1', '<u8')], 'fortran_order': False, 'shape': ({rows},), }}");
    while (10 + header.len() + 1) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let length = u16::try_from(header.len()).unwrap_or(u16::MAX);
    let mut pending = [MAGIC.as_slice(), &[1, 0], &length.to_le_bytes(), header.as_bytes()].concat();
    for uid in sorted {
        let uid = uid?;
        pending.extend_from_slice(&((uid >> 64) as u64).to_le_bytes());
        pending.extend_from_slice(&(uid as u64).to_le_bytes());
        if pending.len() >= PENDING_BYTES {
            out.write_all(&pending).at("write", path)?;
            pending.clear();
        }
    }
    out.write_all(&pending).at("write", path)?;
    out.finish().at("write", path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("uids.npy");
        for ids in [vec![], vec![0, 1, u128::MAX], (0..1000).map(|i| i << 70).collect()] {
            write_uids(&path, ids.len() as u64, ids.iter().copied().map(Ok)).unwrap();
            assert_eq!(read_uids(&path).unwrap(), ids);
            let bytes = std::fs::read(&path).unwrap();
            for cut in [1, 9, bytes.len() - 1] {
                std::fs::write(&path, &bytes[..cut]).unwrap();
                assert!(read_uids(&path).is_err());
            }
        }
    }
}
