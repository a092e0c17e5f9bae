//! What a run noted of the files that it read, for the next one.
//!
//! Identities differ from machine to machine; they stand in a hidden file beside the output, which names the manifest that they
//! belong to, and never in a manifest. There may be many: fields are declared in the order of their keys.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, IoContext, Result};
use crate::storage::identity::Identity;
use crate::storage::paths::beside;
use crate::storage::source::open_plain;
use crate::workspace::manifest::ordered_to_json;

/// One file that a unit of work read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotedFile {
    /// What the manifest of its own folder says of its content, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blake3: Option<String>,
    /// What the file system said before it was read.
    pub identity: Identity,
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
        file.write_all(&ordered_to_json(self)?).at("write", &path)?;
        file.persist(&path).map_err(|error| error.error).at("rename to", &path)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
