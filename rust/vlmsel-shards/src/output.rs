//! Committing an output folder: old or new, never between (promises 1 to 5).
//!
//! ```text
//! <out>.partial/begun.json          config and inputs of the run that is under way
//! <out>.partial/parts/<hash>.json   one record per committed unit
//! <out>.partial/output/             the folder itself; renamed to <out> when its manifest is written
//! ```
//! A part is written under a temporary name, fsynced, renamed, and only then recorded; what is not recorded is written
//! again on resume. State and content are apart so that publishing is one rename (or one exchange).

mod files;
mod state;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, IoContext, Result};
use crate::lock::Lock;
use crate::manifest::{
    FileRecord, InputRecord, MANIFEST, Manifest, PartRecord, RUN, SCHEMA, is_plain_relative, to_json,
};

use self::files::{exchange, sync_folder};
pub use self::files::{hash_file, write_atomically};
use self::state::{
    BEGUN, absolute, difference_text, extends, finished_output, guard, is_empty_or_temporary, read_begun,
    remove_partial,
};

/// What a run is about to write.
#[derive(Debug, Clone)]
pub struct OutputSpec {
    /// The output folder.
    pub path: PathBuf,
    /// The stage's name.
    pub command: String,
    /// The resolved options that decide the content.
    pub config: Value,
    /// The inputs; together with `config` the fingerprint of the work.
    pub inputs: Vec<InputRecord>,
    /// Paths that must not be written into: the inputs as they lie on disk.
    pub guarded: Vec<PathBuf>,
    /// Replace a finished output of another fingerprint.
    pub overwrite: bool,
    /// A finished output may be extended by new inputs.
    pub extend: bool,
    /// Keep the parts of a killed run. Without it a run starts afresh.
    pub resume: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct Begun {
    command: String,
    config: Value,
    inputs: Vec<InputRecord>,
}

/// What [`Output::begin`] found.
#[derive(Debug)]
pub enum Opening {
    /// The work is already done; nothing was touched.
    Finished(Box<Manifest>),
    /// There is work to do.
    Open(Box<Output>),
}

/// An output folder being written. Shared by threads; dropping it releases the lock and keeps the committed parts.
#[derive(Debug)]
pub struct Output {
    spec: OutputSpec,
    partial: PathBuf,
    content: PathBuf,
    parts: Mutex<BTreeMap<String, PartRecord>>,
    /// Whether what cannot be resumed goes with this object: from when it is known to be this run's until it is published.
    discard: bool,
    _lock: Lock,
}

impl Drop for Output {
    fn drop(&mut self) {
        if self.discard {
            let _ = remove_partial(&self.partial);
        }
    }
}

/// What a finished run adds to the manifest.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// Every input row by class.
    pub counts: BTreeMap<String, u64>,
    /// Where the data lies.
    pub roots: Value,
    /// What made the numbers.
    pub provenance: Value,
    /// What differs from run to run; goes to `run.json`.
    pub run: Value,
}

impl Output {
    /// Locks the output and finds out what is left to do.
    ///
    /// # Errors
    /// [`Error::Locked`] if another run holds it; [`Error::Usage`] for a foreign folder or one that is an input;
    /// [`Error::Mismatch`] if another configuration was begun or finished there.
    pub fn begin(mut spec: OutputSpec) -> Result<Opening> {
        spec.path = absolute(&spec.path)?;
        guard(&spec)?;
        let parent = spec.path.parent().unwrap_or(Path::new("/")).to_path_buf();
        fs::create_dir_all(&parent).at("create", &parent)?;
        let lock = Lock::acquire(&spec.path, &spec.command)?;
        let name = spec.path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let partial = spec.path.with_file_name(format!("{name}.partial"));
        let content = partial.join("output");

        let finished = finished_output(&spec)?;
        if let Some(manifest) = &finished {
            let same = manifest.config == spec.config && manifest.inputs == spec.inputs;
            if same && !spec.overwrite {
                if read_begun(&partial)?.is_some_and(|b| b.config == spec.config && b.inputs == spec.inputs) {
                    // Published, then killed before tidying up.
                    remove_partial(&partial)?;
                }
                return Ok(Opening::Finished(Box::new(manifest.clone())));
            }
            let extends = spec.extend && manifest.config == spec.config && extends(&manifest.inputs, &spec.inputs);
            if !extends && !spec.overwrite {
                let what = difference_text(&manifest.config, &manifest.inputs, &spec);
                return Err(Error::Mismatch(format!(
                    "{} was made by another configuration or from other inputs:\n{what}\nChoose another output with -o, or replace it with --overwrite",
                    spec.path.display()
                )));
            }
        }
        let mut output = Self { spec, partial, content, parts: Mutex::default(), discard: false, _lock: lock };
        output.open_partial(finished.is_some())?;
        output.discard = !output.spec.resume;
        if let (Some(manifest), true) = (finished, output.spec.extend)
            && manifest.config == output.spec.config
            && extends(&manifest.inputs, &output.spec.inputs)
        {
            output.adopt(&manifest)?;
        }
        Ok(Opening::Open(Box::new(output)))
    }

    fn open_partial(&mut self, has_finished: bool) -> Result<()> {
        if self.partial.exists() {
            let begun = read_begun(&self.partial)?;
            let resumable = match &begun {
                Some(begun) => {
                    begun.config == self.spec.config
                        && (begun.inputs == self.spec.inputs
                            || (self.spec.extend && extends(&begun.inputs, &self.spec.inputs)))
                }
                None => false,
            };
            match begun {
                // Killed before `begun.json` was in place: nothing of value can be there.
                None if is_empty_or_temporary(&self.partial)? => self.wipe()?,
                None => {
                    return Err(Error::Usage(format!(
                        "{} is in the way and vlmsel did not make it; move it or choose another output with -o",
                        self.partial.display()
                    )));
                }
                Some(begun) if begun.command != self.spec.command => {
                    return Err(Error::Usage(format!(
                        "{} holds an unfinished `vlmsel {}`; finish that, or choose another output with -o",
                        self.partial.display(),
                        begun.command
                    )));
                }
                Some(_) if !self.spec.resume => self.wipe()?,
                Some(_) if resumable && self.spec.overwrite && has_finished => self.load_parts()?,
                Some(_) if resumable => self.load_parts()?,
                Some(_) if self.spec.overwrite => self.wipe()?,
                Some(begun) => {
                    let what = difference_text(&begun.config, &begun.inputs, &self.spec);
                    return Err(Error::Mismatch(format!(
                        "{} holds an unfinished `vlmsel {}` with another configuration or other inputs:\n{what}\nFinish it with its own options, start again with --overwrite, or choose another output with -o",
                        self.partial.display(),
                        begun.command
                    )));
                }
            }
        }
        let parts = self.partial.join("parts");
        fs::create_dir_all(&parts).at("create", &parts)?;
        fs::create_dir_all(&self.content).at("create", &self.content)?;
        let begun = Begun {
            command: self.spec.command.clone(),
            config: self.spec.config.clone(),
            inputs: self.spec.inputs.clone(),
        };
        write_atomically(&self.partial.join(BEGUN), &to_json(&begun)?)
    }

    fn wipe(&self) -> Result<()> {
        remove_partial(&self.partial)
    }

    fn load_parts(&mut self) -> Result<()> {
        let folder = self.partial.join("parts");
        let mut found = BTreeMap::new();
        if folder.is_dir() {
            for entry in fs::read_dir(&folder).at("list", &folder)? {
                let path = entry.at("list", &folder)?.path();
                if path.extension().is_some_and(|e| e == "json") {
                    let bytes = fs::read(&path).at("read", &path)?;
                    let record: PartRecord =
                        serde_json::from_slice(&bytes).map_err(|error| Error::unreadable(&path, error))?;
                    let whole = record.files.iter().all(|f| {
                        is_plain_relative(&f.file)
                            && fs::metadata(self.content.join(&f.file)).is_ok_and(|m| m.len() == f.bytes)
                    });
                    if whole {
                        found.insert(record.unit.clone(), record);
                    }
                }
            }
        }
        self.parts = Mutex::new(found);
        Ok(())
    }

    /// Takes over the parts of the finished output that this run extends; hard links, so nothing is copied.
    fn adopt(&self, manifest: &Manifest) -> Result<()> {
        for part in &manifest.parts {
            if self.is_committed(&part.unit) {
                continue;
            }
            for record in &part.files {
                let (old, new) = (self.spec.path.join(&record.file), self.content.join(&record.file));
                if let Some(parent) = new.parent() {
                    fs::create_dir_all(parent).at("create", parent)?;
                }
                if new.exists() {
                    fs::remove_file(&new).at("remove", &new)?;
                }
                if fs::hard_link(&old, &new).is_err() {
                    fs::copy(&old, &new).at("copy", &old)?;
                }
            }
            self.record(part.clone())?;
        }
        Ok(())
    }

    /// The folder's final place.
    pub fn path(&self) -> &Path {
        &self.spec.path
    }

    /// The folder that parts are written to.
    pub fn staging(&self) -> &Path {
        &self.content
    }

    /// A folder for scratch files; it disappears with the partial folder.
    pub fn scratch(&self) -> Result<PathBuf> {
        let path = self.partial.join("scratch");
        fs::create_dir_all(&path).at("create", &path)?;
        Ok(path)
    }

    /// Whether the unit was committed, by this run or by one that it resumes.
    pub fn is_committed(&self, unit: &str) -> bool {
        self.lock_parts().contains_key(unit)
    }

    /// The committed units.
    pub fn committed(&self) -> BTreeMap<String, PartRecord> {
        self.lock_parts().clone()
    }

    fn lock_parts(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, PartRecord>> {
        self.parts.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Where to write the file that will be committed as `name` (a relative path).
    pub fn temporary(&self, name: &str) -> Result<PathBuf> {
        if !is_plain_relative(name) || matches!(name, MANIFEST | RUN) {
            return Err(Error::Usage(format!("{name:?} is no name for a file of an output")));
        }
        let path = self.content.join(name);
        let parent = path.parent().unwrap_or(&self.content).to_path_buf();
        fs::create_dir_all(&parent).at("create", &parent)?;
        let base = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        Ok(parent.join(format!(".{base}.tmp")))
    }

    /// Commits the unit whose files were written to [`Output::temporary`] places: fsync, hash, rename, record.
    pub fn commit(
        &self,
        unit: &str,
        names: &[&str],
        rows: u64,
        counts: BTreeMap<String, u64>,
        detail: Value,
    ) -> Result<()> {
        let files = names.iter().map(|name| self.seal(name, None)).collect::<Result<Vec<_>>>()?;
        self.record(PartRecord { unit: unit.to_owned(), rows, counts, detail, files })
    }

    /// As [`Output::commit`], for files whose BLAKE3 was computed while they were written.
    pub fn commit_hashed(
        &self,
        unit: &str,
        names: &[(&str, blake3::Hash)],
        rows: u64,
        counts: BTreeMap<String, u64>,
        detail: Value,
    ) -> Result<()> {
        let files = names.iter().map(|(name, hash)| self.seal(name, Some(*hash))).collect::<Result<Vec<_>>>()?;
        self.record(PartRecord { unit: unit.to_owned(), rows, counts, detail, files })
    }

    fn seal(&self, name: &str, hash: Option<blake3::Hash>) -> Result<FileRecord> {
        let temporary = self.temporary(name)?;
        let file = File::open(&temporary).at("open", &temporary)?;
        file.sync_all().at("write", &temporary)?;
        let bytes = file.metadata().at("inspect", &temporary)?.len();
        let hash = match hash {
            Some(hash) => hash,
            None => hash_file(file, &temporary)?,
        };
        let place = self.content.join(name);
        fs::rename(&temporary, &place).at("rename", &temporary)?;
        Ok(FileRecord { file: name.to_owned(), bytes, blake3: hash.to_hex().to_string() })
    }

    fn record(&self, part: PartRecord) -> Result<()> {
        sync_folder(&self.content)?;
        let name = blake3::hash(part.unit.as_bytes()).to_hex();
        write_atomically(&self.partial.join("parts").join(format!("{}.json", &name[..32])), &to_json(&part)?)?;
        self.lock_parts().insert(part.unit.clone(), part);
        Ok(())
    }

    /// Writes the manifest and puts the folder in its place.
    pub fn finish(mut self, summary: Summary) -> Result<Manifest> {
        let parts: Vec<PartRecord> = self.lock_parts().values().cloned().collect();
        let manifest = Manifest {
            schema: SCHEMA,
            command: self.spec.command.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            config: self.spec.config.clone(),
            inputs: self.spec.inputs.clone(),
            roots: summary.roots,
            provenance: summary.provenance,
            parts,
            counts: summary.counts,
        };
        self.remove_unrecorded(&manifest)?;
        write_atomically(&self.content.join(RUN), &to_json(&summary.run)?)?;
        write_atomically(&self.content.join(MANIFEST), &manifest.to_bytes()?)?;
        self.publish()?;
        self.discard = false;
        Ok(manifest)
    }

    /// A part that was written but not recorded before a kill must not be in the folder: same work, same bytes.
    fn remove_unrecorded(&self, manifest: &Manifest) -> Result<()> {
        let known: std::collections::HashSet<PathBuf> =
            manifest.parts.iter().flat_map(|p| &p.files).map(|f| self.content.join(&f.file)).collect();
        let mut folders = vec![self.content.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).at("list", &folder)? {
                let entry = entry.at("list", &folder)?;
                let path = entry.path();
                if entry.file_type().at("inspect", &path)?.is_dir() {
                    folders.push(path);
                } else if !known.contains(&path) {
                    fs::remove_file(&path).at("remove", &path)?;
                }
            }
        }
        Ok(())
    }

    fn publish(&self) -> Result<()> {
        let target = &self.spec.path;
        if target.exists() && fs::remove_dir(target).is_err() {
            exchange(&self.content, target)?;
        } else {
            fs::rename(&self.content, target).at("rename", &self.content)?;
        }
        if let Some(parent) = target.parent() {
            sync_folder(parent)?;
        }
        remove_partial(&self.partial)
    }
}
