//! Whether the files of a unit are those that were indexed.
//!
//! A fingerprint looks at parts of a file. It is believed only while size, time of change and inode are those that the run before
//! noted, of the shard, of the Parquet file beside it, and of every image that its records name.

use std::path::Path;

use rayon::ThreadPool;
use vlmsel_shards::Error;
use vlmsel_shards::formats::reader::{Depth, ReadOptions};
use vlmsel_shards::storage::identity::Identity;
use vlmsel_shards::workspace::noted::{Noted, NotedFile};

use crate::error::Result;
use crate::progress::Progress;
use crate::read_shard::{Found, read_shard};
use crate::sources::ShardFile;

fn files(shard: &ShardFile) -> impl Iterator<Item = (String, &Path)> {
    let sidecar = shard.sidecar.as_deref().map(|path| (shard.sidecar_unit(), path));
    std::iter::once((shard.unit(), shard.path.as_path())).chain(sidecar)
}

/// What the file system says of a shard's files. One that cannot be looked at is left out.
pub(super) fn noted(shard: &ShardFile) -> Noted {
    let identity = |path| Identity::at(path).ok().map(|identity| NotedFile { identity, blake3: None });
    Noted { files: files(shard).filter_map(|(name, path)| Some((name, identity(path)?))).collect(), named_files: None }
}

/// For whoever has read a shard: whether its files are still those that were noted before.
pub(super) fn check_unchanged(shard: &ShardFile, noted: &Noted) -> vlmsel_shards::Result<()> {
    for (name, path) in files(shard) {
        if let Some(file) = noted.files.get(&name) {
            file.identity.check_unchanged(path)?;
        }
    }
    Ok(())
}

/// Says that a shard gives something else than what stands in the index.
pub(super) fn changed(shard: &ShardFile) -> Error {
    Error::Mismatch(format!(
        "{} (or a file that it names) was changed or repaired since it was indexed, although size and fingerprint are as before; index into another folder with -o, or again with --overwrite",
        shard.path.display()
    ))
}

/// Hash over the files that a shard's records name, as the file system shows them.
pub(super) struct NamedFiles {
    hasher: blake3::Hasher,
    settled: bool,
}

impl NamedFiles {
    pub fn new() -> Self {
        Self { hasher: blake3::Hasher::new(), settled: true }
    }

    /// Adds the next file in the order of the records; `None` for one that is not there.
    pub fn add(&mut self, name: &str, identity: Option<Identity>) {
        self.hasher.update(&(name.len() as u64).to_le_bytes());
        self.hasher.update(name.as_bytes());
        let Some(identity) = identity else {
            self.hasher.update(&[0]);
            return;
        };
        self.settled &= identity.is_settled();
        let Identity { bytes, modified_ns, inode } = identity;
        self.hasher.update(&[1]);
        for number in [bytes, modified_ns.cast_unsigned(), inode] {
            self.hasher.update(&number.to_le_bytes());
        }
    }

    /// The hash, in hex; `None` where a file changed a moment ago, so that another change might not show.
    pub fn finish(&self) -> Option<String> {
        self.settled.then(|| self.hasher.finalize().to_hex().to_string())
    }
}

/// Hash over the images that a shard's records name, without reading one; `None` where it cannot be said.
pub(super) fn named_files(
    shard: &ShardFile,
    image_root: &Path,
    options: &ReadOptions,
    pool: &ThreadPool,
    progress: &Progress,
) -> Result<Option<String>> {
    let mut named = NamedFiles::new();
    let closing = read_shard(shard, image_root, options, Depth::Names, pool, None, &mut |found| {
        match found {
            Found::Passed(..) => progress.check()?,
            Found::Record(Ok(sample)) => {
                sample.named_files.iter().for_each(|(name, identity)| named.add(name, *identity));
            }
            Found::Record(Err(_)) | Found::Stray(_) => {}
        }
        Ok(())
    })?;
    Ok(named.finish().filter(|_| closing.damage.is_empty()))
}
