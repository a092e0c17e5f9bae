//! Records on scratch disk that come back as they were, or not at all: every file has a checksum.

use std::fs::File;
use std::io::{BufReader, Read, Seek, Write};
use std::path::{Path, PathBuf};

use vlmsel_shards::error::IoContext;

use crate::error::Result;

/// Memory of each file that is written or read.
pub const BUFFER_BYTES: usize = 1 << 16;

/// Writes records to a file that nobody else sees.
pub struct ScratchWriter {
    file: File,
    folder: PathBuf,
    buffer: Vec<u8>,
    checksum: blake3::Hasher,
    bytes: u64,
}

impl ScratchWriter {
    /// A file in `folder`, unlinked at once: whatever kills the run, the disk is given back.
    ///
    /// # Errors
    /// Those of the scratch disk.
    pub fn create(folder: &Path) -> Result<Self> {
        Ok(Self::over(tempfile::tempfile_in(folder).at("create a scratch file in", folder)?, folder))
    }

    fn over(file: File, folder: &Path) -> Self {
        let buffer = Vec::with_capacity(BUFFER_BYTES);
        Self { file, folder: folder.to_path_buf(), buffer, checksum: blake3::Hasher::new(), bytes: 0 }
    }

    /// Adds a record of less than 4 GiB, made of parts, with a number of the caller's.
    ///
    /// # Errors
    /// Those of the scratch disk.
    pub fn write(&mut self, parts: &[&[u8]], tag: u32) -> Result<()> {
        let length = parts.iter().map(|part| part.len()).sum::<usize>() as u32;
        self.buffer.extend_from_slice(&length.to_le_bytes());
        self.buffer.extend_from_slice(&tag.to_le_bytes());
        for part in parts {
            self.buffer.extend_from_slice(part);
        }
        if self.buffer.len() >= BUFFER_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        self.checksum.update(&self.buffer);
        self.file.write_all(&self.buffer).at("write scratch data in", &self.folder)?;
        self.bytes += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// The file, to be read.
    ///
    /// # Errors
    /// Those of the scratch disk.
    pub fn finish(mut self) -> Result<Scratch> {
        self.flush()?;
        Ok(Scratch { file: self.file, folder: self.folder, checksum: self.checksum.finalize(), bytes: self.bytes })
    }
}

/// Records on disk.
pub struct Scratch {
    file: File,
    folder: PathBuf,
    checksum: blake3::Hash,
    bytes: u64,
}

impl Scratch {
    /// Size of the file.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reads the records from the first on.
    ///
    /// # Errors
    /// Those of the scratch disk.
    pub fn read(&mut self) -> Result<ScratchReader<'_>> {
        self.file.rewind().at("read scratch data in", &self.folder)?;
        let input = Summed { file: &self.file, checksum: blake3::Hasher::new() };
        let input = BufReader::with_capacity(BUFFER_BYTES, input);
        Ok(ScratchReader { input, left: self.bytes, checksum: self.checksum, folder: &self.folder })
    }
}

/// Takes the checksum of what is read.
struct Summed<'a> {
    file: &'a File,
    checksum: blake3::Hasher,
}

impl Read for Summed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.file.read(buffer)?;
        self.checksum.update(&buffer[..n]);
        Ok(n)
    }
}

/// Reads records in turn.
pub struct ScratchReader<'a> {
    input: BufReader<Summed<'a>>,
    left: u64,
    checksum: blake3::Hash,
    folder: &'a Path,
}

impl ScratchReader<'_> {
    /// Puts the next record in place of `record` and says its tag; `None` behind the last, if the checksum is right.
    ///
    /// # Errors
    /// Those of the scratch disk.
    pub fn next(&mut self, record: &mut Vec<u8>) -> Result<Option<u32>> {
        let changed = || vlmsel_shards::Error::unreadable(self.folder, "scratch data came back changed");
        if self.left == 0 {
            let right = self.input.get_ref().checksum.finalize() == self.checksum;
            return if right { Ok(None) } else { Err(changed().into()) };
        }
        let mut head = [0; 8];
        self.input.read_exact(&mut head).at("read scratch data in", self.folder)?;
        let [a, b, c, d, tag @ ..] = head;
        let length = u64::from(u32::from_le_bytes([a, b, c, d]));
        self.left = self.left.checked_sub(8 + length).ok_or_else(changed)?;
        record.resize(length as usize, 0);
        self.input.read_exact(record).at("read scratch data in", self.folder)?;
        Ok(Some(u32::from_le_bytes(tag)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use std::os::unix::fs::FileExt;
    use vlmsel_shards::error::ErrorClass;

    fn read(scratch: &mut Scratch) -> Result<Vec<(Vec<u8>, u32)>> {
        let (mut reader, mut record, mut all) = (scratch.read()?, Vec::new(), Vec::new());
        while let Some(tag) = reader.next(&mut record)? {
            all.push((record.clone(), tag));
        }
        Ok(all)
    }

    #[test]
    fn records_come_back_or_the_damage_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = ScratchWriter::create(folder.path()).unwrap();
        let records: Vec<(Vec<u8>, u32)> = (0..5000_u32).map(|at| (vec![at as u8; at as usize % 97], at * 7)).collect();
        for (record, tag) in &records {
            let (front, back) = record.split_at(record.len() / 3);
            writer.write(&[front, back], *tag).unwrap();
        }
        let mut scratch = writer.finish().unwrap();
        assert!(read(&mut scratch).unwrap() == records && read(&mut scratch).unwrap() == records);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        // A byte of a record, one of a length, the last.
        for at in [100_000, 0, 3, scratch.bytes() - 1] {
            let mut byte = [0];
            scratch.file.read_exact_at(&mut byte, at).unwrap();
            scratch.file.write_all_at(&[byte[0] ^ 0x40], at).unwrap();
            assert!(read(&mut scratch).is_err(), "{at}");
            scratch.file.write_all_at(&byte, at).unwrap();
        }
        assert!(read(&mut scratch).is_ok());
        scratch.file.set_len(scratch.bytes() - 1).unwrap();
        assert!(read(&mut scratch).is_err());
    }

    #[test]
    fn a_full_disk_is_a_lack_of_resources() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut writer = ScratchWriter::over(full, Path::new("/dev"));
        writer.write(&[b"a"], 0).unwrap();
        let error: Error = writer.finish().err().unwrap();
        assert_eq!(error.class(), ErrorClass::Resource);
        assert!(error.to_string().contains("free some space"), "{error}");
    }
}
