//! A file that is hashed while it is written, so that nobody has to read it again.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::error::{IoContext, Result};

/// Bytes that are collected before they are hashed and written. A file of fewer takes no more memory than it has bytes.
const BUFFER_BYTES: usize = 256 << 10;

/// A file being written from its first byte to its last. It is whole when [`HashedFile::finish`] has returned.
#[derive(Debug)]
pub struct HashedFile {
    file: File,
    path: PathBuf,
    hasher: blake3::Hasher,
    buffer: Vec<u8>,
}

impl HashedFile {
    /// Creates the file, or empties the one that is there.
    ///
    /// # Errors
    /// [`crate::Error::Io`].
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).at("create", path)?;
        Ok(Self { file, path: path.to_path_buf(), hasher: blake3::Hasher::new(), buffer: Vec::new() })
    }

    /// Writes what is left; the BLAKE3 of all that was written.
    ///
    /// # Errors
    /// [`crate::Error::Io`].
    pub fn finish(mut self) -> Result<blake3::Hash> {
        self.write_buffer().at("write", &self.path)?;
        Ok(self.hasher.finalize())
    }

    fn write_buffer(&mut self) -> io::Result<()> {
        self.file.write_all(&self.buffer)?;
        self.hasher.update(&self.buffer);
        self.buffer.clear();
        Ok(())
    }
}

impl Write for HashedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.len() + bytes.len() > BUFFER_BYTES {
            self.write_buffer()?;
        }
        if bytes.len() < BUFFER_BYTES {
            self.buffer.extend_from_slice(bytes);
        } else {
            // A column of a large table is not copied.
            self.file.write_all(bytes)?;
            self.hasher.update(bytes);
        }
        Ok(bytes.len())
    }

    /// Nothing: who writes a table flushes often, and only a whole file is of use.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_hash_is_that_of_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        for pieces in [vec![], vec![1], vec![BUFFER_BYTES], vec![7, 3 * BUFFER_BYTES, 0, 5], vec![100_000; 9]] {
            let mut file = HashedFile::create(&path).unwrap();
            let mut all = Vec::new();
            for (number, length) in pieces.into_iter().enumerate() {
                let piece: Vec<u8> = (0..length).map(|at| (at * 31 + number) as u8).collect();
                file.write_all(&piece).unwrap();
                file.flush().unwrap();
                all.extend(piece);
            }
            let hash = file.finish().unwrap();
            assert!(fs::read(&path).unwrap() == all && blake3::hash(&all) == hash);
        }
        assert!(HashedFile::create(folder.path()).is_err());
    }
}
