//! By what a file is believed to be the one that an earlier run read: size, time of its last change, and inode.
//!
//! A fingerprint ([`crate::workspace::fingerprint`]) looks at parts of a file and recognises most changes, not all. So it is believed only
//! while the file's identity is the one that the earlier run noted ([`crate::workspace::noted`]).

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// What the file system says of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Size.
    pub bytes: u64,
    /// The file's number on its disk.
    pub inode: u64,
    /// Time of the last change, in nanoseconds since 1970.
    pub modified_ns: i64,
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

    /// Of the file at a path, links followed.
    ///
    /// # Errors
    /// The system's.
    pub fn at(path: &Path) -> io::Result<Self> {
        Ok(Self::of(&fs::metadata(path)?))
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
}
