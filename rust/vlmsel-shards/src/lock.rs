//! One run per output: an advisory lock (flock) beside the folder, naming its holder.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use fs4::FileExt;

use crate::error::{Error, IoContext, Result};

/// Held while a run works on an output; released when dropped, or by the kernel when the process dies.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    /// Locks `output` for `command`, or fails with [`Error::Locked`] naming the holder.
    pub fn acquire(output: &Path, command: &str) -> Result<Self> {
        let name = output.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let path = output.with_file_name(format!(".{name}.lock"));
        loop {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
                .at("open the lock", &path)?;
            match FileExt::try_lock(&file) {
                Ok(()) => {}
                Err(fs4::TryLockError::WouldBlock) => {
                    let mut holder = String::new();
                    let _ = Read::by_ref(&mut file).take(512).read_to_string(&mut holder);
                    let holder =
                        if holder.trim().is_empty() { "another run".to_owned() } else { holder.trim().to_owned() };
                    return Err(Error::Locked { path: output.to_path_buf(), holder });
                }
                Err(fs4::TryLockError::Error(error)) => return Err(error).at("lock", &path),
            }
            // The holder before us unlinks its file when it is done: a lock on an unlinked file protects nothing.
            let held = file.metadata().at("inspect", &path)?;
            match fs::metadata(&path) {
                Ok(named) if named.ino() == held.ino() && named.dev() == held.dev() => {}
                _ => continue,
            }
            file.set_len(0).at("write", &path)?;
            file.seek(SeekFrom::Start(0)).at("write", &path)?;
            write!(file, "process {} (vlmsel {command})", std::process::id()).at("write", &path)?;
            return Ok(Self { file, path });
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
        let _ = FileExt::unlock(&self.file);
    }
}
