//! Committing an output folder: old or new, never between (promises 1 to 5).
//!
//! ```text
//! <out>.partial/begun.json          config and inputs of the run that is under way
//! <out>.partial/parts/<hash>.json   one record per committed unit; <hash>.jsonl of many that were committed together
//! <out>.partial/output/             the folder itself; renamed to <out> when its manifest is written
//! ```
//! A part is written under a temporary name, fsynced, renamed, and only then recorded; what is not recorded is written
//! again on resume. Parts of which there may be very many wait under their temporary names until some of them go that way
//! together ([`Output::commit_soon`]). State and content are apart so that publishing is one rename (or one exchange).
//!
//! What a run noted of the files that it read ([`crate::workspace::noted`]) stands in `parts/<hash>.noted` while it runs, and then in
//! `.<out>.identities` beside the output. A finished output whose inputs cannot be believed to be the same is made once more in
//! `.<out>.check/` and compared ([`Finished::again`]).

mod batch;
mod durable;
mod files;
mod hashed_file;
mod state;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, IoContext, Result};
use crate::storage::paths::beside;
use crate::workspace::lock::Lock;
use crate::workspace::manifest::{
    FileRecord, InputRecord, Losses, MANIFEST, Manifest, OLDEST_SCHEMA, PartRecord, RUN, SCHEMA, is_plain_relative,
    ordered_to_json, to_json,
};
use crate::workspace::noted::{Identities, Noted};

use self::batch::{Batch, Batches, RECORDS, Recorded, read_records};
use self::durable::sync_files;
use self::files::{clear, exchange, sync_folder};
pub use self::files::{create_new, hash_file, write_atomically};
pub use self::hashed_file::HashedFile;
use self::state::{
    BEGUN, difference_text, extends, finished_output, guard, is_empty_or_temporary, is_folder, place, read_begun,
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

/// In the order of its keys, as a manifest.
#[derive(Debug, Serialize, Deserialize)]
struct Begun {
    command: String,
    config: Value,
    inputs: Vec<InputRecord>,
    /// Before there was a second one it was not written.
    #[serde(default = "oldest_schema")]
    schema: u32,
}

fn oldest_schema() -> u32 {
    OLDEST_SCHEMA
}

/// What [`Output::begin`] found.
#[derive(Debug)]
pub enum Opening {
    /// The work is already done; nothing was touched.
    Finished(Box<Finished>),
    /// There is work to do.
    Open(Box<Output>),
}

/// An output that stands, locked.
#[derive(Debug)]
pub struct Finished {
    spec: OutputSpec,
    manifest: Manifest,
    noted: Identities,
    lock: Lock,
}

impl Finished {
    /// What stands there.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// What the run that made it noted of the files that the unit read.
    pub fn noted(&self, unit: &str) -> Option<&Noted> {
        self.noted.units.get(unit)
    }

    /// Opens a folder in which units are done once more, to be compared with what stands ([`Output::compare`]). It goes when
    /// it is dropped, or with [`Output::stands`].
    ///
    /// # Errors
    /// As [`Output::begin`].
    pub fn again(self) -> Result<Output> {
        let Self { mut spec, manifest, noted, lock } = self;
        spec.resume = false;
        let partial = beside(&spec.path, ".", ".check");
        let mut output = Output::new(spec, partial, lock);
        output.open_partial(true)?;
        output.discard = true;
        output.parts = Mutex::new(manifest.parts.iter().map(|part| (part.unit.clone(), part.clone())).collect());
        output.noted = Mutex::new(noted.units);
        output.standing = Some(Box::new(manifest));
        Ok(output)
    }
}

/// An output folder being written. Shared by threads; dropping it releases the lock and keeps the committed parts.
#[derive(Debug)]
pub struct Output {
    spec: OutputSpec,
    partial: PathBuf,
    content: PathBuf,
    parts: Mutex<BTreeMap<String, PartRecord>>,
    /// What committed units read.
    noted: Mutex<BTreeMap<String, Noted>>,
    /// Committed units that are not durable yet.
    waiting: Mutex<Batch>,
    /// Where units that were committed together are recorded.
    batches: Mutex<Batches>,
    /// Whether what cannot be resumed goes with this object: from when it is known to be this run's until it is published.
    discard: bool,
    /// What this extends, or is compared with.
    standing: Option<Box<Manifest>>,
    lock: Lock,
}

impl Drop for Output {
    fn drop(&mut self) {
        // A forked child has a copy of this object; the folder is its parent's.
        if self.discard && self.lock.is_own() {
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
    /// What could not be read.
    pub losses: Option<Losses>,
}

/// The place of a file until it is committed.
fn temporary_of(place: &Path) -> PathBuf {
    beside(place, ".", ".tmp")
}

/// Whether none of the files changed a moment ago: another change might not show.
fn is_settled(noted: &Noted) -> bool {
    noted.files.values().all(|file| file.identity.is_settled())
}

fn old_schema(path: &Path, command: &str, schema: u32) -> Error {
    Error::Mismatch(format!(
        "{} was written by an earlier version of vlmsel (schema {schema}, now {SCHEMA}): such folders are read, not written on. Run `vlmsel {command}` anew into another folder with -o, or replace this one with --overwrite",
        path.display()
    ))
}

/// The record of one unit, and what was noted of it.
fn read_record(path: &Path) -> Result<Recorded> {
    let bytes = fs::read(path).at("read", path)?;
    let part: PartRecord = serde_json::from_slice(&bytes).map_err(|error| Error::unreadable(path, error))?;
    // Without it, or where it was cut short, nothing is believed of the unit.
    let read = fs::read(path.with_extension("noted")).ok();
    let noted = read.and_then(|bytes| serde_json::from_slice::<Noted>(&bytes).ok());
    Ok(Recorded { part, noted })
}

impl Output {
    /// Locks the output and finds out what is left to do.
    ///
    /// # Errors
    /// [`Error::Locked`] if another run holds it; [`Error::Usage`] for a foreign folder or one that is an input;
    /// [`Error::Mismatch`] if another configuration was begun or finished there.
    pub fn begin(mut spec: OutputSpec) -> Result<Opening> {
        spec.path = place(&spec.path)?;
        let partial = beside(&spec.path, "", ".partial");
        let hidden = [".lock", ".identities", ".check"].map(|name| beside(&spec.path, ".", name));
        guard(&spec, &[hidden.as_slice(), std::slice::from_ref(&partial)].concat())?;
        let parent = spec.path.parent().unwrap_or(Path::new("/")).to_path_buf();
        fs::create_dir_all(&parent).at("create", &parent)?;
        let lock = Lock::acquire(&spec.path, &spec.command)?;
        let finished = finished_output(&spec)?;
        let checksum = finished.as_ref().map(Manifest::checksum).transpose()?.unwrap_or_default();
        let noted = Identities::read(&spec.path, &checksum)?;
        if let Some(manifest) = &finished {
            let same = manifest.config == spec.config && manifest.inputs == spec.inputs;
            if same && !spec.overwrite {
                if is_folder(&partial)?
                    && read_begun(&partial)?.is_some_and(|b| b.config == spec.config && b.inputs == spec.inputs)
                {
                    // Published, then killed before tidying up.
                    remove_partial(&partial)?;
                }
                let manifest = manifest.clone();
                return Ok(Opening::Finished(Box::new(Finished { spec, manifest, noted, lock })));
            }
            if manifest.schema < SCHEMA && !spec.overwrite {
                return Err(old_schema(&spec.path, &spec.command, manifest.schema));
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
        let mut output = Self::new(spec, partial, lock);
        output.open_partial(finished.is_some())?;
        output.discard = !output.spec.resume;
        if let (Some(manifest), true) = (finished, output.spec.extend)
            && manifest.schema == SCHEMA
            && manifest.config == output.spec.config
            && extends(&manifest.inputs, &output.spec.inputs)
        {
            output.adopt(&manifest, &noted)?;
            output.standing = Some(Box::new(manifest));
        }
        Ok(Opening::Open(Box::new(output)))
    }

    fn new(spec: OutputSpec, partial: PathBuf, lock: Lock) -> Self {
        let content = partial.join("output");
        Self {
            spec,
            partial,
            content,
            parts: Mutex::default(),
            noted: Mutex::default(),
            waiting: Mutex::default(),
            batches: Mutex::default(),
            discard: false,
            standing: None,
            lock,
        }
    }

    fn open_partial(&mut self, has_finished: bool) -> Result<()> {
        if is_folder(&self.partial)? {
            let begun = read_begun(&self.partial)?;
            let resumable = match &begun {
                Some(begun) => {
                    begun.schema == SCHEMA
                        && begun.config == self.spec.config
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
                Some(begun) if begun.schema < SCHEMA => {
                    return Err(old_schema(&self.partial, &self.spec.command, begun.schema));
                }
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
        for folder in [&parts, &self.content] {
            if !is_folder(folder)? {
                fs::create_dir_all(folder).at("create", folder)?;
            }
        }
        let begun = Begun {
            schema: SCHEMA,
            command: self.spec.command.clone(),
            config: self.spec.config.clone(),
            inputs: self.spec.inputs.clone(),
        };
        write_atomically(&self.partial.join(BEGUN), &ordered_to_json(&begun)?)
    }

    fn wipe(&self) -> Result<()> {
        remove_partial(&self.partial)
    }

    fn load_parts(&mut self) -> Result<()> {
        let folder = self.partial.join("parts");
        let (mut found, mut noted, mut batches) = (BTreeMap::new(), BTreeMap::new(), Batches::new());
        let mut broken = BTreeSet::new();
        if is_folder(&folder)? {
            for entry in fs::read_dir(&folder).at("list", &folder)? {
                let path = entry.at("list", &folder)?.path();
                let records = match path.extension() {
                    Some(end) if end == "json" => vec![read_record(&path)?],
                    // What was being written under a temporary name ends otherwise.
                    Some(end) if end == RECORDS => read_records(&path)?,
                    _ => continue,
                };
                if path.extension().is_some_and(|end| end == RECORDS) {
                    let units = records.iter().map(|record| record.part.unit.clone()).collect();
                    batches.insert(path, units);
                }
                for Recorded { part, noted: read } in records {
                    noted.extend(read.map(|read| (part.unit.clone(), read)));
                    if self.is_whole(&part) {
                        found.insert(part.unit.clone(), part);
                    } else {
                        broken.insert(part.unit);
                    }
                }
            }
        }
        self.parts = Mutex::new(found);
        self.noted = Mutex::new(noted);
        self.batches = Mutex::new(batches);
        // They are committed anew: no older record may be there besides.
        self.forget_in_batches(&broken.iter().map(String::as_str).collect())
    }

    fn is_whole(&self, part: &PartRecord) -> bool {
        part.files.iter().all(|file| {
            is_plain_relative(&file.file)
                && fs::metadata(self.content.join(&file.file)).is_ok_and(|meta| meta.len() == file.bytes)
        })
    }

    /// Takes over the parts of the finished output that this run extends; hard links, so nothing is copied.
    fn adopt(&self, manifest: &Manifest, noted: &Identities) -> Result<()> {
        let (mut adopted, mut folders, mut copied) = (Vec::new(), BTreeSet::from([self.content.clone()]), Vec::new());
        for part in &manifest.parts {
            if self.is_committed(&part.unit) {
                continue;
            }
            for record in &part.files {
                let (old, new) = (self.spec.path.join(&record.file), self.content.join(&record.file));
                if let Some(parent) = new.parent()
                    && folders.insert(parent.to_path_buf())
                {
                    fs::create_dir_all(parent).at("create", parent)?;
                }
                clear(&new)?;
                if fs::hard_link(&old, &new).is_err() {
                    fs::copy(&old, &new).at("copy", &old)?;
                    copied.push(new);
                }
            }
            adopted.push(Recorded { part: part.clone(), noted: noted.units.get(&part.unit).cloned() });
        }
        if adopted.is_empty() {
            return Ok(());
        }
        sync_files(&self.content, &copied)?;
        folders.iter().try_for_each(|folder| sync_folder(folder))?;
        self.record_all(&adopted)?;
        for Recorded { part, noted } in adopted {
            if let Some(noted) = noted {
                self.noted.lock().unwrap_or_else(PoisonError::into_inner).insert(part.unit.clone(), noted);
            }
            self.lock_parts().insert(part.unit.clone(), part);
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
        self.check_process()?;
        let path = self.partial.join("scratch");
        if !is_folder(&path)? {
            fs::create_dir_all(&path).at("create", &path)?;
        }
        Ok(path)
    }

    /// A forked child has a copy of this object. What it wrote would be mixed with its parent's work unseen.
    fn check_process(&self) -> Result<()> {
        if self.lock.is_own() {
            return Ok(());
        }
        Err(Error::Usage(format!(
            "{} is being written by the process that this one was forked from; only that one may write to it",
            self.spec.path.display()
        )))
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
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where to write the file that will be committed as `name` (a relative path).
    pub fn temporary(&self, name: &str) -> Result<PathBuf> {
        if !is_plain_relative(name) || matches!(name, MANIFEST | RUN) {
            return Err(Error::Usage(format!("{name:?} is no name for a file of an output")));
        }
        self.check_process()?;
        let path = self.content.join(name);
        // The folder itself is there from the beginning.
        if let Some(parent) = path.parent().filter(|parent| *parent != self.content) {
            fs::create_dir_all(parent).at("create", parent)?;
        }
        Ok(temporary_of(&path))
    }

    /// Notes what a unit read, before or after it is committed. Of a file that changed a moment ago nothing is noted: another
    /// change might not show. It costs work if this is lost, and never more, so nothing waits for the disk here.
    pub fn note(&self, unit: &str, noted: Noted) {
        if !is_settled(&noted) {
            return;
        }
        if let Ok(bytes) = to_json(&noted) {
            let _ = fs::write(self.part_path(unit, "noted"), bytes);
        }
        self.noted.lock().unwrap_or_else(PoisonError::into_inner).insert(unit.to_owned(), noted);
    }

    /// What was noted of a committed unit, by this run or by the one that it resumes or extends.
    pub fn noted(&self, unit: &str) -> Option<Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner).get(unit).cloned()
    }

    /// Forgets committed units, so that they are done again. Their files are overwritten then, or removed at the end.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn forget(&self, units: &[&str]) -> Result<()> {
        self.flush()?;
        self.forget_in_batches(&units.iter().copied().collect())?;
        for unit in units {
            for kind in ["noted", "json"] {
                clear(&self.part_path(unit, kind))?;
            }
            self.noted.lock().unwrap_or_else(PoisonError::into_inner).remove(*unit);
            self.lock_parts().remove(*unit);
        }
        Ok(())
    }

    /// A unit has one record: the one that it had goes before it is committed again.
    fn displace(&self, unit: &str) -> Result<()> {
        if self.is_committed(unit) { self.forget(&[unit]) } else { Ok(()) }
    }

    fn part_path(&self, unit: &str, kind: &str) -> PathBuf {
        let name = blake3::hash(unit.as_bytes()).to_hex();
        self.partial.join("parts").join(format!("{}.{kind}", &name[..32]))
    }

    /// Commits the unit whose files were written to [`Output::temporary`] places: fsync, hash (unless it was computed while they
    /// were written), rename, record.
    pub fn commit(
        &self,
        unit: &str,
        names: &[(&str, Option<blake3::Hash>)],
        rows: u64,
        counts: BTreeMap<String, u64>,
        detail: Value,
    ) -> Result<()> {
        self.displace(unit)?;
        let files = names.iter().map(|(name, hash)| self.seal(name, *hash)).collect::<Result<Vec<_>>>()?;
        self.record(PartRecord { unit: unit.to_owned(), rows, counts, detail, files })
    }

    /// Compares the unit, done once more, with what was committed of it; its files go. A `None` hash is computed here.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn compare(
        &self,
        unit: &str,
        names: &[(&str, Option<blake3::Hash>)],
        rows: u64,
        counts: BTreeMap<String, u64>,
        detail: Value,
    ) -> Result<bool> {
        let mut files = Vec::new();
        for (name, hash) in names {
            files.push(self.file_record(name, *hash)?);
            clear(&self.temporary(name)?)?;
        }
        let again = PartRecord { unit: unit.to_owned(), rows, counts, detail, files };
        Ok(self.lock_parts().get(unit) == Some(&again))
    }

    /// What the manifest will say of the file at a temporary place.
    fn file_record(&self, name: &str, hash: Option<blake3::Hash>) -> Result<FileRecord> {
        let temporary = self.temporary(name)?;
        let bytes = fs::metadata(&temporary).at("inspect", &temporary)?.len();
        let hash = match hash {
            Some(hash) => hash,
            None => hash_file(File::open(&temporary).at("open", &temporary)?, &temporary)?,
        };
        Ok(FileRecord { file: name.to_owned(), bytes, blake3: hash.to_hex().to_string() })
    }

    fn seal(&self, name: &str, hash: Option<blake3::Hash>) -> Result<FileRecord> {
        let (temporary, place) = (self.temporary(name)?, self.content.join(name));
        sync_files(&self.content, std::slice::from_ref(&temporary))?;
        let record = self.file_record(name, hash)?;
        fs::rename(&temporary, &place).at("rename", &temporary)?;
        Ok(record)
    }

    fn record(&self, part: PartRecord) -> Result<()> {
        sync_folder(&self.content)?;
        write_atomically(&self.part_path(&part.unit, "json"), &to_json(&part)?)?;
        self.lock_parts().insert(part.unit.clone(), part);
        Ok(())
    }

    /// Writes the manifest and puts the folder in its place.
    pub fn finish(mut self, summary: Summary) -> Result<Manifest> {
        self.check_process()?;
        self.flush()?;
        let parts = std::mem::take(&mut *self.lock_parts()).into_values().collect();
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
            losses: summary.losses,
        };
        self.remove_unrecorded(&manifest)?;
        write_atomically(&self.content.join(RUN), &to_json(&summary.run)?)?;
        let (bytes, checksum) = manifest.to_bytes()?;
        write_atomically(&self.content.join(MANIFEST), &bytes)?;
        drop(bytes);
        self.publish()?;
        self.discard = false;
        self.write_identities(|| Ok(checksum))?;
        Ok(manifest)
    }

    /// Ends a comparison that found nothing else: what stands is left as it is, and what was noted is noted with it.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn stands(mut self) -> Result<Manifest> {
        let Some(standing) = self.standing.take() else {
            return Err(Error::Usage(format!("{} is compared with nothing", self.spec.path.display())));
        };
        self.write_identities(|| standing.checksum())?;
        Ok(*standing)
    }

    /// The manifest of what this extends or is compared with.
    pub fn standing(&self) -> Option<&Manifest> {
        self.standing.as_deref()
    }

    fn write_identities(&self, manifest_checksum: impl FnOnce() -> Result<String>) -> Result<()> {
        let units = std::mem::take(&mut *self.noted.lock().unwrap_or_else(PoisonError::into_inner));
        if units.is_empty() && !Identities::path(&self.spec.path).exists() {
            return Ok(());
        }
        Identities { manifest: manifest_checksum()?, units }.write(&self.spec.path)
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
