//! Writing one tar: headers made here, data by range from where it lies, hashed on its way while the cache still holds it.
//!
//! A chunk of the tar is filled while another thread hashes and writes the one before it. Members of a sample are neighbours
//! in their tar, with one header block between them: they come in one read, straight to their place in the chunk, and the
//! old headers between them are overwritten by the new ones.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use serde_json::json;
use vlmsel_core::hash::{ImageHasher, image_hash};
use vlmsel_shards::Error as ShardError;
use vlmsel_shards::error::IoContext;
use vlmsel_shards::formats::location::ImageLocation;
use vlmsel_shards::formats::tar::{BLOCK_BYTES, header_bytes, write_header};
use vlmsel_shards::storage::disk::start_writeback;
use vlmsel_shards::storage::source::{LocalFile, ReadAt};
use vlmsel_shards::workspace::manifest::to_json;
use vlmsel_shards::workspace::output::Output;

use super::locate::{Member, SampleLocation, scratch_path};
use super::source_files::SourceFiles;
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::stage::Done;
use crate::threads::start;

/// Small enough that a chunk is still in the cache when it is written.
const CHUNK_BYTES: usize = 512 << 10;
/// One is filled, one is written, one waits.
const CHUNKS: usize = 3;
/// The disk begins to write after this many bytes, so that the final sync waits for little.
const WRITEBACK_BYTES: u64 = 16 << 20;
const BLOCK: usize = BLOCK_BYTES as usize;

pub(super) fn write_shard(
    shard: u64,
    scratch: &Path,
    sources: &SourceFiles,
    output: &Output,
    progress: &Progress,
) -> Result<Done> {
    progress.check()?;
    let unit = super::unit_name(shard);
    let samples = read_locations(&scratch_path(scratch, shard))?;
    let (tar_name, stats_name) = (format!("{unit}.tar"), format!("{unit}_stats.json"));
    let path = output.temporary(&tar_name)?;
    let mut source =
        Source { sources, samples: &samples, member: 0, passed: 0, image: None, hasher: ImageHasher::default() };
    let hash = write_behind(TarFile::new(&path)?, |chunk| {
        let left = source.samples.len();
        source.fill(chunk)?;
        Ok(progress.add((left - source.samples.len()) as u64, chunk.filled as u64)?)
    })?;
    let stats_path = output.temporary(&stats_name)?;
    let stats = to_json(&json!({ "successes": samples.len() }))?;
    std::fs::write(&stats_path, &stats).at("write", &stats_path)?;
    let counts = std::iter::once(("written".to_owned(), samples.len() as u64)).collect();
    let files = vec![(tar_name, Some(hash)), (stats_name, Some(blake3::hash(&stats)))];
    Ok(Done { files, rows: samples.len() as u64, counts, detail: json!({}), noted: None })
}

/// Fills chunks until one stays empty, while another thread hashes and writes those before it.
fn write_behind(mut tar: TarFile, mut fill: impl FnMut(&mut Chunk) -> Result<()>) -> Result<blake3::Hash> {
    std::thread::scope(|scope| {
        let (ready, to_write) = sync_channel::<Chunk>(CHUNKS);
        let (empty, to_fill) = sync_channel::<Chunk>(CHUNKS);
        for _ in 0..CHUNKS {
            // There is room for all of them.
            let _ = empty.send(Chunk::default());
        }
        let write = move || {
            for mut chunk in to_write {
                tar.write(chunk.bytes())?;
                chunk.filled = 0;
                let _ = empty.send(chunk);
            }
            tar.finish()
        };
        let writer = start(scope, write)?;
        // The channels close where either side fails; the error itself comes back from the thread.
        let filled = loop {
            let Ok(mut chunk) = to_fill.recv() else { break Ok(()) };
            match fill(&mut chunk) {
                Err(error) => break Err(error),
                Ok(()) if chunk.filled == 0 => break Ok(()),
                Ok(()) if ready.send(chunk).is_err() => break Ok(()),
                Ok(()) => {}
            }
        };
        drop(ready);
        let written = writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        filled.and(written)
    })
}

fn read_locations(path: &Path) -> Result<Vec<SampleLocation>> {
    let file = match File::open(path) {
        Ok(file) => file,
        // None of the shard's ids is in the index.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(ShardError::Io { action: "open", path: path.to_path_buf(), source }.into()),
    };
    let mut samples = Vec::new();
    for line in BufReader::with_capacity(1 << 18, file).split(b'\n') {
        let line = line.at("read", path)?;
        samples.push(
            serde_json::from_slice::<SampleLocation>(&line).map_err(|error| ShardError::unreadable(path, error))?,
        );
    }
    samples.sort_by_key(|sample| sample.place);
    Ok(samples)
}

fn padded(size: u64) -> u64 {
    size.next_multiple_of(BLOCK_BYTES)
}

fn changed(path: &Path, sample: &SampleLocation, what: &str) -> Error {
    let text = format!(
        "{} changed since it was indexed (sample {}: {what}); stretch `vlmsel index` again with --overwrite",
        path.display(),
        sample.name()
    );
    ShardError::Mismatch(text).into()
}

/// A part of the tar, in memory.
struct Chunk {
    bytes: Vec<u8>,
    filled: usize,
}

impl Default for Chunk {
    fn default() -> Self {
        Self { bytes: vec![0; CHUNK_BYTES], filled: 0 }
    }
}

impl Chunk {
    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }

    fn free(&self) -> usize {
        self.bytes.len() - self.filled
    }

    /// The next `length` bytes, to be filled; the caller knows that they are free.
    fn take(&mut self, length: usize) -> &mut [u8] {
        self.filled += length;
        &mut self.bytes[self.filled - length..self.filled]
    }

    fn push(&mut self, bytes: &[u8]) {
        self.take(bytes.len()).copy_from_slice(bytes);
    }
}

/// Hands out the tar chunk by chunk.
struct Source<'a> {
    sources: &'a SourceFiles<'a>,
    /// What is left; the first one may be begun.
    samples: &'a [SampleLocation],
    /// Pieces of the first sample that are done.
    member: usize,
    /// Bytes of the next member that are done: only a member longer than a chunk is taken in parts.
    passed: u64,
    /// An image that is taken in parts.
    image: Option<Box<dyn ReadAt>>,
    hasher: ImageHasher,
}

impl Source<'_> {
    /// Fills the chunk; it stays empty only behind the last sample.
    fn fill(&mut self, chunk: &mut Chunk) -> Result<()> {
        while let Some(sample) = self.samples.first() {
            let Some(members) = sample.members.get(self.member..).filter(|members| !members.is_empty()) else {
                (self.samples, self.member) = (&self.samples[1..], 0);
                continue;
            };
            let stretch = stretch_of(sample, members);
            let length = stretch.bytes + stretch.header.len() + BLOCK;
            if self.passed == 0 && length > chunk.free() && chunk.filled > 0 {
                return Ok(());
            }
            if self.passed == 0 && length <= chunk.free() {
                self.copy_stretch(sample, &members[..stretch.count], &stretch, chunk)?;
                self.member += stretch.count;
            } else {
                self.copy_part(sample, &members[0], &stretch.header, chunk)?;
                if chunk.free() == 0 {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Members that [`stretch_of`] put together, in one read.
    fn copy_stretch(
        &self,
        sample: &SampleLocation,
        members: &[Member],
        stretch: &Stretch,
        chunk: &mut Chunk,
    ) -> Result<()> {
        chunk.push(&stretch.header);
        let bytes = chunk.take(stretch.bytes.next_multiple_of(BLOCK));
        let (data, padding) = bytes.split_at_mut(stretch.bytes);
        padding.fill(0);
        let place = match &members[0] {
            Member::Bytes { bytes, .. } => {
                data.copy_from_slice(bytes.as_bytes());
                return Ok(());
            }
            Member::Image { location, .. } => {
                let opened = self.open(sample, location)?;
                opened.read_exact_at(data, 0)?;
                opened.path().to_path_buf()
            }
            Member::Range { offset, .. } => {
                let origin = self.range(sample, *offset, stretch.bytes as u64)?;
                origin.read_exact_at(data, *offset)?;
                origin.path().to_path_buf()
            }
        };
        let (mut from, mut header) = (0_usize, Vec::with_capacity(BLOCK));
        for (number, member) in members.iter().enumerate() {
            if number > 0 {
                header.clear();
                write_header(&mut header, &sample.member_name(member), member.size());
                // The padding of the original may hold anything.
                let begins = from.next_multiple_of(BLOCK);
                data[from..begins].fill(0);
                data[begins..begins + BLOCK].copy_from_slice(&header);
                from = begins + BLOCK;
            }
            let to = from + member.size() as usize;
            if member.hash().is_some_and(|hash| image_hash(&data[from..to]) != hash) {
                return Err(changed(&place, sample, "the bytes are others"));
            }
            from = to;
        }
        Ok(())
    }

    /// As much of a long member as the chunk takes.
    fn copy_part(&mut self, sample: &SampleLocation, member: &Member, header: &[u8], chunk: &mut Chunk) -> Result<()> {
        if self.passed == 0 {
            chunk.push(header);
            self.hasher = ImageHasher::default();
        }
        let (size, passed) = (member.size(), self.passed);
        // What is free is whole blocks, so the padding of the last part fits behind it.
        let part = chunk.take((size - passed).min(chunk.free() as u64) as usize);
        let place = match member {
            Member::Bytes { bytes, .. } => {
                part.copy_from_slice(&bytes.as_bytes()[passed as usize..passed as usize + part.len()]);
                PathBuf::new()
            }
            Member::Image { location, .. } => {
                let opened = match self.image.take() {
                    Some(opened) if passed > 0 => opened,
                    _ => self.open(sample, location)?,
                };
                opened.read_exact_at(part, passed)?;
                self.image.insert(opened).path().to_path_buf()
            }
            Member::Range { offset, .. } => {
                let origin = self.range(sample, *offset, size)?;
                origin.read_exact_at(part, offset + passed)?;
                origin.path().to_path_buf()
            }
        };
        self.hasher.update(part);
        self.passed += part.len() as u64;
        if self.passed == size {
            let padding = padded(size) - size;
            chunk.take(padding as usize).fill(0);
            if member.hash().is_some_and(|hash| self.hasher.finish() != hash) {
                return Err(changed(&place, sample, "the bytes are others"));
            }
            (self.member, self.passed, self.image) = (self.member + 1, 0, None);
        }
        Ok(())
    }

    fn range(&self, sample: &SampleLocation, offset: u64, length: u64) -> Result<Arc<LocalFile>> {
        let origin = self.sources.shard(sample.shard)?;
        match offset.checked_add(length) {
            Some(end) if end <= origin.size_bytes() => Ok(origin),
            _ => Err(changed(origin.path(), sample, "it is shorter now")),
        }
    }

    /// An image that lies apart.
    fn open(&self, sample: &SampleLocation, location: &ImageLocation) -> Result<Box<dyn ReadAt>> {
        let opened = self.sources.image(sample.shard, location)?;
        if opened.size_bytes() == location.size() {
            Ok(opened)
        } else {
            Err(changed(opened.path(), sample, "its size is another"))
        }
    }
}

/// Pieces that come in one read.
struct Stretch {
    count: usize,
    /// From the first byte of the first to the last byte of the last.
    bytes: usize,
    /// Header of the first.
    header: Vec<u8>,
}

/// The first of `members`, and those that lie right behind it in its tar, with one header block before each, now and then.
fn stretch_of(sample: &SampleLocation, members: &[Member]) -> Stretch {
    let mut header = Vec::with_capacity(3 * BLOCK);
    write_header(&mut header, &sample.member_name(&members[0]), members[0].size());
    let mut stretch = Stretch { count: 1, bytes: members[0].size() as usize, header };
    let Member::Range { offset: first, .. } = members[0] else { return stretch };
    for member in &members[1..] {
        let Member::Range { offset, size, .. } = member else { break };
        let next = stretch.bytes.next_multiple_of(BLOCK) + BLOCK;
        let fits = next + *size as usize + 4 * BLOCK <= CHUNK_BYTES;
        if !fits || *offset != first + next as u64 || header_bytes(&sample.member_name(member), *size) != BLOCK_BYTES {
            break;
        }
        (stretch.count, stretch.bytes) = (stretch.count + 1, next + *size as usize);
    }
    stretch
}

/// The file, written and hashed.
struct TarFile {
    file: File,
    path: PathBuf,
    hasher: blake3::Hasher,
    written: u64,
    /// Of these, the bytes that the disk was told to write.
    handed_over: u64,
}

impl TarFile {
    fn new(path: &Path) -> Result<Self> {
        let file = File::create(path).at("create", path)?;
        Ok(Self { file, path: path.to_path_buf(), hasher: blake3::Hasher::new(), written: 0, handed_over: 0 })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        self.file.write_all(bytes).at("write", &self.path)?;
        self.written += bytes.len() as u64;
        if self.written - self.handed_over >= WRITEBACK_BYTES {
            start_writeback(&self.file, self.handed_over, self.written - self.handed_over);
            self.handed_over = self.written;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<blake3::Hash> {
        self.write(&[0; 2 * BLOCK])?;
        Ok(self.hasher.finalize())
    }
}
