//! By what a file is believed to be the one that an earlier run read: size, time of its last change, and inode.
//!
//! A fingerprint ([`crate::fingerprint`]) looks at parts of a file and recognises most changes, not all. So it is believed only
//! while the file's identity is the one that the earlier run noted. Identities differ from machine to machine; they stand in a
//! hidden file beside the output, which names the manifest that they belong to, and never in a manifest.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::error::{Error, IoContext, Result};
use crate::manifest::{MANIFEST, to_json};
use crate::paths::beside;
use crate::source::open_plain;

/// What the file system says of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Size.
    pub bytes: u64,
    /// Time of the last change, in nanoseconds since 1970.
    pub modified_ns: i64,
    /// The file's number on its disk.
    pub inode: u64,
}

/// Within so long after a change, another one may get the same time stamp.
const CLOCK_TICK_NS: i64 = 50_000_000;
/// The same where the file system counts in whole seconds or two.
const COARSE_CLOCK_TICK_NS: i64 = 2_000_000_000;

impl Identity {
    /// Of an open file.
    pub fn of(meta: &Metadata) -> Self {
        let modified_ns = meta.mtime().saturating_mul(1_000_000_000).saturating_add(meta.mtime_nsec());
        Self { bytes: meta.len(), modified_ns, inode: meta.ino() }
    }

    /// Of the file at a path, links followed; of a folder that vlmsel finished, that of its manifest.
    ///
    /// # Errors
    /// The system's.
    pub fn at(path: &Path) -> io::Result<Self> {
        let meta = fs::metadata(path)?;
        if meta.is_dir() { fs::metadata(path.join(MANIFEST)).map(|meta| Self::of(&meta)) } else { Ok(Self::of(&meta)) }
    }

    /// Whether a change from now on will show: not so right after the last one, before the file system's clock moves on.
    pub fn is_settled(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i64);
        let tick = if self.modified_ns % 1_000_000_000 == 0 { COARSE_CLOCK_TICK_NS } else { CLOCK_TICK_NS };
        now.saturating_sub(self.modified_ns) > tick
    }

    /// Compares with what is at the path now, for whoever has read the file.
    ///
    /// # Errors
    /// [`Error::Unreadable`] if it was written to, replaced or removed meanwhile.
    pub fn check_unchanged(&self, path: &Path) -> Result<()> {
        let what = match Self::at(path) {
            Ok(now) if now == *self => return Ok(()),
            Ok(now) if now.bytes != self.bytes => format!("{} bytes at first, then {}", self.bytes, now.bytes),
            Ok(now) if now.inode != self.inode => "another file lies at its place".to_owned(),
            Ok(_) => "it was written to".to_owned(),
            Err(error) => error.to_string(),
        };
        Err(Error::unreadable(path, format!("changed while it was read ({what}); is it still being written?")))
    }
}

/// One file that a unit of work read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotedFile {
    /// What the file system said before it was read.
    pub identity: Identity,
    /// What the manifest of its own folder says of its content, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blake3: Option<String>,
}

/// What a unit of work read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Noted {
    /// Its inputs, by their names in the manifest.
    pub files: BTreeMap<String, NotedFile>,
    /// Hash over the names and identities of the files that its records name (images).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub named_files: Option<String>,
}

/// What a run noted of everything it read, by unit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identities {
    /// Checksum of the manifest that it belongs to.
    pub manifest: String,
    /// By unit.
    pub units: BTreeMap<String, Noted>,
}

/// A larger file is not one of ours.
const MAX_BYTES: u64 = 1 << 30;

impl Identities {
    /// Where they stand: beside the output.
    pub fn path(output: &Path) -> PathBuf {
        beside(output, ".", ".identities")
    }

    /// Those noted with the manifest of this checksum. If they are missing or another manifest's, nothing is believed.
    ///
    /// # Errors
    /// [`Error::Usage`] if something that is not ours lies at their place: it would be overwritten later.
    pub fn read(output: &Path, manifest: &str) -> Result<Self> {
        Ok(Self::find(output)?.filter(|found| found.manifest == manifest).unwrap_or_default())
    }

    fn find(output: &Path) -> Result<Option<Self>> {
        let path = Self::path(output);
        let foreign = || {
            let path = path.display();
            Error::Usage(format!(
                "{path} is in the way and vlmsel did not make it; move it or choose another output with -o"
            ))
        };
        match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).at("inspect", &path),
            Ok(meta) if !meta.is_file() || meta.len() > MAX_BYTES => return Err(foreign()),
            Ok(_) => {}
        }
        let file = io::BufReader::new(open_plain(&path)?);
        serde_json::from_reader(file).map(Some).map_err(|_| foreign())
    }

    /// Writes them beside the output: whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`], and as [`Identities::read`].
    pub fn write(&self, output: &Path) -> Result<()> {
        Self::find(output)?;
        let path = Self::path(output);
        let folder = path.parent().unwrap_or(Path::new("."));
        // A name that nobody can foresee. Losing it costs work and no more, so nothing waits for the disk.
        let mut file = tempfile::Builder::new()
            .prefix(".identities-")
            // As any file of the output: what the user's umask leaves.
            .permissions(fs::Permissions::from_mode(0o666))
            .tempfile_in(folder)
            .at("create a file in", folder)?;
        file.write_all(&to_json(self)?).at("write", &path)?;
        file.persist(&path).map_err(|error| error.error).at("rename to", &path)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_shows_and_a_fresh_file_is_not_settled() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, "one").unwrap();
        let first = Identity::at(&path).unwrap();
        assert!(!first.is_settled());
        assert!(first.check_unchanged(&path).is_ok());
        fs::write(&path, "longer").unwrap();
        assert!(first.check_unchanged(&path).unwrap_err().to_string().contains("3 bytes at first, then 6"));
        let old = Identity { modified_ns: first.modified_ns - 60_000_000_000, ..first };
        assert!(old.is_settled());
        fs::remove_file(&path).unwrap();
        assert!(first.check_unchanged(&path).is_err());
    }

    #[test]
    fn identities_are_believed_with_their_manifest_alone() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out");
        let identity = Identity { bytes: 1, modified_ns: 2, inode: 3 };
        let files = BTreeMap::from([("a".to_owned(), NotedFile { identity, blake3: None })]);
        let units = BTreeMap::from([("u".to_owned(), Noted { files, named_files: None })]);
        let noted = Identities { manifest: "sum".to_owned(), units };
        noted.write(&output).unwrap();
        assert_eq!(Identities::read(&output, "sum").unwrap(), noted);
        assert_eq!(Identities::read(&output, "other").unwrap(), Identities::default());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let place = Identities::path(&output);
        let precious = folder.path().join("precious");
        fs::write(&precious, "mine").unwrap();
        fs::remove_file(&place).unwrap();
        assert_eq!(Identities::read(&output, "sum").unwrap(), Identities::default());
        std::os::unix::fs::symlink(&precious, &place).unwrap();
        assert!(Identities::read(&output, "sum").is_err() && noted.write(&output).is_err());
        fs::remove_file(&place).unwrap();
        fs::write(&place, "my notes").unwrap();
        assert!(Identities::read(&output, "sum").is_err() && noted.write(&output).is_err());
        assert_eq!(
            (fs::read_to_string(&place).unwrap(), fs::read_to_string(&precious).unwrap()),
            ("my notes".into(), "mine".into())
        );
    }
}
