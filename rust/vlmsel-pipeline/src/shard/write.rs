//! Writing one tar: headers made here, data by range from where it lies, one buffer, hashed once on its way out.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde_json::json;
use vlmsel_core::hash::{ImageHasher, text_hash, to_hex};
use vlmsel_shards::Error as ShardError;
use vlmsel_shards::error::IoContext;
use vlmsel_shards::manifest::to_json;
use vlmsel_shards::output::Output;
use vlmsel_shards::source::{LocalFile, ReadAt};
use vlmsel_shards::tar::{BLOCK_BYTES, write_header};

use super::locate::{Located, Piece, Roots, scratch_path};
use crate::error::{Error, Result};
use crate::progress::Progress;

const BUFFER_BYTES: usize = 2 << 20;
/// Source files open at one time, per thread.
const MAX_OPEN_FILES: usize = 64;

pub(super) fn write_shard(
    shard: u64,
    scratch: &Path,
    roots: &Roots,
    output: &Output,
    progress: &Progress,
) -> Result<()> {
    progress.check()?;
    let unit = super::unit_name(shard);
    let samples = read_locations(&scratch_path(scratch, shard))?;
    let (tar_name, stats_name) = (format!("{unit}.tar"), format!("{unit}_stats.json"));
    let path = output.temporary(&tar_name)?;
    let mut writer = Writer::new(&path)?;
    let mut files = Files { open: HashMap::new() };
    for sample in &samples {
        let before = writer.written;
        for piece in &sample.pieces {
            write_piece(&mut writer, &mut files, roots, sample, piece)?;
        }
        progress.add(1, writer.written - before)?;
    }
    let hash = writer.finish()?;
    let stats_path = output.temporary(&stats_name)?;
    let stats = to_json(&json!({ "successes": samples.len() }))?;
    std::fs::write(&stats_path, &stats).at("write", &stats_path)?;
    let counts = std::iter::once(("written".to_owned(), samples.len() as u64)).collect();
    let names = [(tar_name.as_str(), hash), (stats_name.as_str(), blake3::hash(&stats))];
    Ok(output.commit_hashed(&unit, &names, samples.len() as u64, counts, json!({}))?)
}

fn read_locations(path: &Path) -> Result<Vec<Located>> {
    let file = match File::open(path) {
        Ok(file) => file,
        // None of the shard's ids is in the index.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(ShardError::Io { action: "open", path: path.to_path_buf(), source }.into()),
    };
    let mut samples = Vec::new();
    for line in BufReader::with_capacity(1 << 18, file).split(b'\n') {
        let line = line.at("read", path)?;
        samples.push(serde_json::from_slice::<Located>(&line).map_err(|error| ShardError::unreadable(path, error))?);
    }
    samples.sort_by_key(|sample| sample.place);
    Ok(samples)
}

fn write_piece(writer: &mut Writer, files: &mut Files, roots: &Roots, sample: &Located, piece: &Piece) -> Result<()> {
    writer.header(&format!("{}.{}", sample.name, piece.extension()), piece.size())?;
    let (path, found, expected) = match piece {
        Piece::Bytes { bytes, .. } => {
            writer.push(bytes.as_bytes())?;
            return writer.pad();
        }
        Piece::Range { offset, size, image, is_text, .. } => {
            let path = roots.shard(&sample.source, &sample.shard)?;
            let file = files.get(&path)?;
            if offset.checked_add(*size).is_none_or(|end| end > file.size_bytes()) {
                return Err(changed(&path, &sample.name, "it is shorter now"));
            }
            let mut check = Check::new(image.is_some(), *is_text && sample.text_hash.is_some());
            writer.copy(file, *offset, *size, &mut check)?;
            let expected = if *is_text { sample.text_hash.clone() } else { image.clone() };
            (path, check.finish(), expected)
        }
        Piece::File { file, size, image, .. } => {
            let path = roots.image(&sample.source, file)?;
            let file = LocalFile::open(&path)?;
            if file.size_bytes() != *size {
                return Err(changed(&path, &sample.name, "its size is another"));
            }
            let mut check = Check::new(true, false);
            writer.copy(&file, 0, *size, &mut check)?;
            (path, check.finish(), Some(image.clone()))
        }
    };
    if found.is_some() && found != expected {
        return Err(changed(&path, &sample.name, "the bytes are others"));
    }
    writer.pad()
}

fn changed(path: &Path, name: &str, what: &str) -> Error {
    let text = format!(
        "{} changed since it was indexed (sample {name}: {what}); run `vlmsel index` again with --overwrite",
        path.display()
    );
    ShardError::Mismatch(text).into()
}

/// Hashes data on its way, to notice a source that changed since it was indexed.
enum Check {
    Nothing,
    Image(ImageHasher),
    Text(Vec<u8>),
}

impl Check {
    fn new(is_image: bool, is_text: bool) -> Self {
        match (is_image, is_text) {
            (true, _) => Self::Image(ImageHasher::default()),
            (_, true) => Self::Text(Vec::new()),
            _ => Self::Nothing,
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Nothing => {}
            Self::Image(hasher) => hasher.update(bytes),
            Self::Text(text) => text.extend_from_slice(bytes),
        }
    }

    fn finish(self) -> Option<String> {
        match self {
            Self::Nothing => None,
            Self::Image(hasher) => Some(to_hex(&hasher.finish())),
            Self::Text(text) => Some(to_hex(&text_hash(&String::from_utf8_lossy(&text)))),
        }
    }
}

struct Files {
    open: HashMap<PathBuf, LocalFile>,
}

impl Files {
    fn get(&mut self, path: &Path) -> Result<&LocalFile> {
        if !self.open.contains_key(path) {
            if self.open.len() >= MAX_OPEN_FILES {
                self.open.clear();
            }
            let file = LocalFile::open(path)?;
            self.open.insert(path.to_path_buf(), file);
        }
        self.open.get(path).ok_or_else(|| Error::Bug(format!("{} was opened and is gone", path.display())))
    }
}

struct Writer {
    file: File,
    path: PathBuf,
    buffer: Vec<u8>,
    filled: usize,
    hasher: blake3::Hasher,
    written: u64,
}

impl Writer {
    fn new(path: &Path) -> Result<Self> {
        let file = File::create(path).at("create", path)?;
        let path = path.to_path_buf();
        Ok(Self { file, path, buffer: vec![0; BUFFER_BYTES], filled: 0, hasher: blake3::Hasher::new(), written: 0 })
    }

    fn flush(&mut self) -> Result<()> {
        let full = &self.buffer[..self.filled];
        self.hasher.update(full);
        self.file.write_all(full).at("write", &self.path)?;
        self.filled = 0;
        Ok(())
    }

    fn push(&mut self, mut bytes: &[u8]) -> Result<()> {
        self.written += bytes.len() as u64;
        while !bytes.is_empty() {
            if self.filled == self.buffer.len() {
                self.flush()?;
            }
            let step = bytes.len().min(self.buffer.len() - self.filled);
            self.buffer[self.filled..self.filled + step].copy_from_slice(&bytes[..step]);
            self.filled += step;
            bytes = &bytes[step..];
        }
        Ok(())
    }

    fn header(&mut self, name: &str, size: u64) -> Result<()> {
        let mut header = Vec::with_capacity(1536);
        write_header(&mut header, name, size);
        self.push(&header)
    }

    /// Reads straight into the buffer.
    fn copy(&mut self, file: &LocalFile, offset: u64, size: u64, check: &mut Check) -> Result<()> {
        let mut done = 0;
        while done < size {
            if self.filled == self.buffer.len() {
                self.flush()?;
            }
            let step = (size - done).min((self.buffer.len() - self.filled) as u64) as usize;
            let into = &mut self.buffer[self.filled..self.filled + step];
            file.read_exact_at(into, offset + done)?;
            check.update(into);
            self.filled += step;
            done += step as u64;
        }
        self.written += size;
        Ok(())
    }

    fn pad(&mut self) -> Result<()> {
        let missing = self.written.next_multiple_of(BLOCK_BYTES) - self.written;
        self.push(&[0; BLOCK_BYTES as usize][..missing as usize])
    }

    fn finish(mut self) -> Result<blake3::Hash> {
        self.push(&[0; 2 * BLOCK_BYTES as usize])?;
        self.flush()?;
        Ok(self.hasher.finalize())
    }
}
