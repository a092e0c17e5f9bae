//! One run per output: an advisory lock (flock) beside the folder, naming its holder.
//!
//! The lock's name can be foreseen, so somebody may have put something else there: it is never opened through a link, and
//! nothing is written into a file that is not known to be a lock of ours.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use fs4::FileExt;

use crate::error::{Error, IoContext, Result};
use crate::storage::paths::beside;

/// Held while a run works on an output; released when dropped, or by the kernel when the process dies.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
    /// A forked child has a copy of this object, and must leave the lock to its parent.
    process: u32,
}

impl Lock {
    /// Locks `output` for `command`, or fails with [`Error::Locked`] naming the holder.
    pub fn acquire(output: &Path, command: &str) -> Result<Self> {
        let path = beside(output, ".", ".lock");
        loop {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
                .open(&path)
                .map_err(|error| {
                    if fs::symlink_metadata(&path).is_ok_and(|meta| !meta.is_file()) {
                        in_the_way(&path)
                    } else {
                        Error::Io { action: "open the lock", path: path.clone(), source: error }
                    }
                })?;
            let held = file.metadata().at("inspect", &path)?;
            let mut holder = String::new();
            if held.is_file() {
                // What is no text is no lock of ours, and `is_ours` says so.
                let _ = Read::by_ref(&mut file).take(MAX_LOCK_BYTES).read_to_string(&mut holder);
            }
            if !held.is_file() || held.nlink() > 1 || !is_ours(&holder, held.len()) {
                return Err(in_the_way(&path));
            }
            match FileExt::try_lock(&file) {
                Ok(()) => {}
                Err(fs4::TryLockError::WouldBlock) => {
                    let holder =
                        if holder.trim().is_empty() { "another run".to_owned() } else { holder.trim().to_owned() };
                    return Err(Error::Locked { path: output.to_path_buf(), holder });
                }
                Err(fs4::TryLockError::Error(error)) => return Err(error).at("lock", &path),
            }
            // The holder before us unlinks its file when it is done: a lock on an unlinked file protects nothing.
            match fs::symlink_metadata(&path) {
                Ok(named) if named.ino() == held.ino() && named.dev() == held.dev() => {}
                _ => continue,
            }
            file.set_len(0).at("write", &path)?;
            file.seek(SeekFrom::Start(0)).at("write", &path)?;
            write!(file, "process {} (vlmsel {command})", std::process::id()).at("write", &path)?;
            return Ok(Self { file, path, process: std::process::id() });
        }
    }
}

/// How long a holder's line may be.
const MAX_LOCK_BYTES: u64 = 512;

/// Whether a file with this content is a lock: the line of a holder, or the beginning of one that is being written.
fn is_ours(content: &str, bytes: u64) -> bool {
    bytes == content.len() as u64
        && bytes <= MAX_LOCK_BYTES
        && (content.starts_with("process ") || "process ".starts_with(content))
        && !content.contains('\n')
}

fn in_the_way(path: &Path) -> Error {
    Error::Usage(format!(
        "{} is in the way and no lock that vlmsel made; move it, or choose another output with -o",
        path.display()
    ))
}

impl Lock {
    /// Whether this is the process that locked, and no forked child of it.
    pub fn is_own(&self) -> bool {
        self.process == std::process::id()
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if !self.is_own() {
            return;
        }
        let _ = fs::remove_file(&self.path);
        let _ = FileExt::unlock(&self.file);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_lock_of_ours_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (output, lock) = (folder.path().join("x"), folder.path().join(".x.lock"));
        let precious = folder.path().join("table.csv");
        fs::write(&precious, "uid,ppl\n1,2\n").unwrap();
        std::os::unix::fs::symlink(&precious, &lock).unwrap();
        assert!(matches!(Lock::acquire(&output, "select"), Err(Error::Usage(_))));
        fs::remove_file(&lock).unwrap();
        fs::hard_link(&precious, &lock).unwrap();
        assert!(matches!(Lock::acquire(&output, "select"), Err(Error::Usage(_))));
        fs::remove_file(&lock).unwrap();
        fs::write(&lock, "my notes").unwrap();
        assert!(matches!(Lock::acquire(&output, "select"), Err(Error::Usage(_))));
        assert_eq!(fs::read_to_string(&lock).unwrap(), "my notes");
        assert_eq!(fs::read_to_string(&precious).unwrap(), "uid,ppl\n1,2\n");
        // What a killed run left.
        fs::write(&lock, "process 1 (vlmsel index)").unwrap();
        let held = Lock::acquire(&output, "select").unwrap();
        assert!(
            matches!(Lock::acquire(&output, "select"), Err(Error::Locked { holder, .. }) if holder.contains("select"))
        );
        drop(held);
        assert!(!lock.exists());
    }
}
