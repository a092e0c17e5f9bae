//! Whether the tables of a selection are those that it was made from.
//!
//! A table that lies in a folder of ours is known by the checksum in its manifest, and hashed where the file system says that it
//! was touched. Of any other one, the fingerprint is believed only while size, time of change and inode are those that were
//! noted; else the selection is made again and compared.

use std::collections::BTreeMap;
use std::path::PathBuf;

use vlmsel_shards::Error as ShardError;
use vlmsel_shards::storage::identity::Identity;
use vlmsel_shards::storage::source::{Sequential, open};
use vlmsel_shards::workspace::inputs::InputFile;
use vlmsel_shards::workspace::noted::{Noted, NotedFile};
use vlmsel_shards::workspace::output::hash_file;

use crate::error::Result;
use crate::progress::Progress;

/// The files of a selection as they were before anything of them was read.
pub struct Files {
    files: Vec<(InputFile, Option<Identity>)>,
    lists: Vec<(PathBuf, Option<Identity>)>,
}

impl Files {
    /// Looks at the tables and at the lists of ids.
    pub fn look(tables: &[InputFile], lists: impl Iterator<Item = PathBuf>) -> Self {
        let files = tables.iter().map(|file| (file.clone(), Identity::at(&file.path).ok())).collect();
        let lists = lists.map(|path| (path.clone(), Identity::at(&path).ok())).collect();
        Self { files, lists }
    }

    /// What is noted with the selection.
    pub fn noted(&self) -> Noted {
        let note = |(file, identity): &(InputFile, Option<Identity>)| {
            identity.map(|identity| (file.name.clone(), NotedFile { identity, blake3: file.blake3.clone() }))
        };
        Noted { files: self.files.iter().filter_map(note).collect::<BTreeMap<_, _>>(), named_files: None }
    }

    /// For whoever has read them: whether they are still what they were.
    ///
    /// # Errors
    /// Exit 3, with the first that was written to.
    pub fn check_unchanged(&self) -> Result<()> {
        let tables = self.files.iter().map(|(file, identity)| (&file.path, identity));
        for (path, identity) in tables.chain(self.lists.iter().map(|(path, identity)| (path, identity))) {
            if let Some(identity) = identity {
                identity.check_unchanged(path)?;
            }
        }
        Ok(())
    }

    /// The tables of which it cannot be said that they are the same as noted before.
    ///
    /// # Errors
    /// Exit 3 for a table of ours that is not what its manifest says.
    pub fn doubtful(&self, before: Option<&Noted>, progress: &Progress) -> Result<Vec<PathBuf>> {
        let mut doubtful = Vec::new();
        for (file, identity) in &self.files {
            progress.check()?;
            let noted = before.and_then(|before| before.files.get(&file.name));
            let is_same = match (noted, identity) {
                (Some(noted), Some(identity)) if noted.blake3 == file.blake3 => match &file.blake3 {
                    Some(blake3) if noted.identity != *identity => {
                        check_hash(file, blake3)?;
                        true
                    }
                    _ => noted.identity == *identity,
                },
                _ => false,
            };
            if !is_same {
                doubtful.push(file.path.clone());
            }
        }
        Ok(doubtful)
    }
}

fn check_hash(file: &InputFile, blake3: &str) -> Result<()> {
    if hash_file(Sequential::new(open(&file.path)?, 0), &file.path)?.to_hex().as_str() == blake3 {
        return Ok(());
    }
    let reason =
        "its content is not what the manifest of its folder says; `vlmsel verify` that folder, and make it again";
    Err(ShardError::unreadable(&file.path, reason).into())
}

/// Says that other rows would be selected now.
pub fn changed(output: &std::path::Path, doubtful: &[PathBuf]) -> ShardError {
    let shown: Vec<String> = doubtful.iter().take(5).map(|path| path.display().to_string()).collect();
    let more = if doubtful.len() > 5 { ", ..." } else { "" };
    ShardError::Mismatch(format!(
        "{} was made from other rows: {}{more} changed since, although size and fingerprint are as before. Choose another output with -o, or replace it with --overwrite",
        output.display(),
        shown.join(", ")
    ))
}
