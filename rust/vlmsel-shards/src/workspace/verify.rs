//! Re-reading an output folder: every byte against its manifest.

use std::fs::{self, File};
use std::path::Path;

use crate::error::{Error, IoContext, Result};
use crate::workspace::manifest::{MANIFEST, Manifest, RUN};
use crate::workspace::output::hash_file;

/// What [`verify`] found.
#[derive(Debug, Clone, Default)]
pub struct Verification {
    /// Files re-read.
    pub files: u64,
    /// Bytes re-read.
    pub bytes: u64,
    /// Each problem, with the file it is in.
    pub problems: Vec<String>,
    /// The stage that wrote the folder.
    pub command: String,
}

/// Re-reads every file that the manifest of `folder` names and looks for files that it does not name.
///
/// # Errors
/// [`Error::NotFound`] without a folder, [`Error::Mismatch`] without a manifest in it. Damage is no error but a problem.
pub fn verify(folder: &Path, mut progress: impl FnMut(u64) -> bool) -> Result<Verification> {
    if !folder.is_dir() {
        return Err(Error::NotFound {
            path: folder.to_path_buf(),
            hint: "; give a folder that vlmsel wrote".to_owned(),
        });
    }
    let Some(manifest) = Manifest::read(folder)? else {
        return Err(Error::Mismatch(format!("{} has no {MANIFEST}: vlmsel did not finish it", folder.display())));
    };
    let mut found = Verification { command: manifest.command.clone(), ..Verification::default() };
    let place = folder.join(MANIFEST);
    if !fs::symlink_metadata(&place).at("inspect", &place)?.is_file() {
        found.problems.push(format!("{MANIFEST}: not a plain file"));
    } else if fs::read(&place).at("read", &place)? != manifest.to_bytes()?.0 {
        found.problems.push(format!("{MANIFEST}: written otherwise than vlmsel writes it"));
    }
    let mut known = std::collections::HashSet::new();
    for record in manifest.parts.iter().flat_map(|part| &part.files) {
        let path = folder.join(&record.file);
        known.insert(path.clone());
        if !progress(found.bytes) {
            return Err(Error::Cancelled);
        }
        let opened = fs::symlink_metadata(&path).and_then(|meta| {
            if meta.is_file() {
                File::open(&path).map(|f| (f, meta.len()))
            } else {
                Err(std::io::Error::other("not a plain file"))
            }
        });
        match opened {
            Err(error) => found.problems.push(format!("{}: {error}", record.file)),
            Ok((file, size)) => {
                found.files += 1;
                found.bytes += size;
                if size == record.bytes {
                    match hash_file(file, &path) {
                        Ok(hash) if hash.to_hex().as_str() == record.blake3 => {}
                        Ok(_) => found.problems.push(format!("{}: content differs from its checksum", record.file)),
                        Err(error) => found.problems.push(error.to_string()),
                    }
                } else {
                    found.problems.push(format!("{}: {size} bytes, the manifest says {}", record.file, record.bytes));
                }
            }
        }
    }
    let total: u64 = manifest.parts.iter().map(|part| part.rows).sum();
    if let Some(selected) = manifest.counts.get("selected").filter(|_| manifest.command == "select")
        && *selected != total
    {
        found.problems.push(format!("{MANIFEST}: counts {selected} selected but its parts hold {total} rows"));
    }
    let mut folders = vec![folder.to_path_buf()];
    while let Some(at) = folders.pop() {
        for entry in fs::read_dir(&at).at("list", &at)? {
            let entry = entry.at("list", &at)?;
            let path = entry.path();
            if entry.file_type().at("inspect", &path)?.is_dir() {
                folders.push(path);
            } else if !known.contains(&path) && path != folder.join(MANIFEST) && path != folder.join(RUN) {
                let below = path.strip_prefix(folder).unwrap_or(&path);
                found.problems.push(format!("{}: not in the manifest", below.display()));
            }
        }
    }
    found.problems.sort();
    Ok(found)
}
