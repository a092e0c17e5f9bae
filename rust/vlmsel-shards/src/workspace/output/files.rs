//! Single files and folders: written, hashed and exchanged so that a reader sees the old or the new.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;

use crate::error::{Error, IoContext, Result};
use crate::storage::paths::beside;

/// Writes a small file so that a reader sees the old content or the new.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = beside(path, ".", ".tmp");
    let mut file = create_new(&temporary)?;
    file.write_all(bytes).at("write", &temporary)?;
    file.sync_all().at("write", &temporary)?;
    fs::rename(&temporary, path).at("rename", &temporary)?;
    sync_folder(path.parent().unwrap_or(Path::new(".")))
}

/// Makes a file that was not there. What lies at its place, such as what a killed run left, goes: a link, and not what it leads to.
pub fn create_new(path: &Path) -> Result<File> {
    clear(path)?;
    File::create_new(path).at("create", path)
}

/// Takes away a file or link, if there is one.
pub fn clear(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).at("remove", path),
        _ => Ok(()),
    }
}

/// Makes the names in a folder durable.
pub fn sync_folder(path: &Path) -> Result<()> {
    File::open(path).and_then(|folder| folder.sync_all()).at("sync", path)
}

/// BLAKE3 of a whole file.
pub fn hash_file(mut file: impl Read, path: &Path) -> Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut buffer).at("read", path)?;
        if read == 0 {
            return Ok(hasher.finalize());
        }
        hasher.update(&buffer[..read]);
    }
}

/// Exchanges two folders, at once where the system can.
pub fn exchange(new: &Path, old: &Path) -> Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let as_c = |path: &Path| {
        std::ffi::CString::new(path.as_os_str().as_bytes())
            .map_err(|_| Error::Usage(format!("{} holds a NUL byte", path.display())))
    };
    #[cfg(target_os = "linux")]
    {
        let (a, b) = (as_c(new)?, as_c(old)?);
        // SAFETY: both pointers are NUL-terminated strings that outlive the call.
        let result =
            unsafe { libc::renameat2(libc::AT_FDCWD, a.as_ptr(), libc::AT_FDCWD, b.as_ptr(), libc::RENAME_EXCHANGE) };
        if result == 0 {
            return Ok(());
        }
    }
    let _ = as_c;
    // A file system without exchange: the old folder steps aside first; a kill between the two renames leaves both whole.
    let aside = new.with_file_name("replaced");
    fs::rename(old, &aside).at("rename", old)?;
    fs::rename(new, old).at("rename", new)
}
