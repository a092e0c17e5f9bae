//! Making many files durable at once.
//!
//! Each `fsync` waits for the disk, three milliseconds and more; ten thousand small parts would wait half a minute. `syncfs` waits
//! once for all that the file system has to write, also for others. It is used where there are many files and the file system is
//! known to mean it: those in user space may do nothing. Before Linux 5.8 it does not tell of a disk's errors; `verify` does.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, IoContext, Result};

/// From so many files on, waiting for the whole file system is taken to cost less.
const MANY: usize = 16;
/// Where each is waited for, so many are at a time: the file system writes its journal once for all that wait.
const THREADS: usize = 16;

/// Waits until the content of all files, which lie in the file system of `folder`, is on the disk.
///
/// # Errors
/// [`Error::Io`].
pub fn sync_files(folder: &Path, files: &[PathBuf]) -> Result<()> {
    if files.len() < MANY {
        return files.iter().try_for_each(|path| sync_file(path));
    }
    if sync_all_at_once(folder)? { Ok(()) } else { sync_side_by_side(files) }
}

fn sync_file(path: &Path) -> Result<()> {
    File::open(path).and_then(|file| file.sync_all()).at("write", path)
}

/// `Ok(false)` where the file system is not known to take part.
#[cfg(target_os = "linux")]
fn sync_all_at_once(folder: &Path) -> Result<bool> {
    use std::mem::MaybeUninit;
    use std::os::fd::AsRawFd;

    // ext2 to ext4, XFS, Btrfs, F2FS, tmpfs, overlayfs.
    const KNOWN: [u32; 6] = [0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010, 0x0102_1994, 0x794c_7630];

    let opened = File::open(folder).at("open", folder)?;
    let mut stat = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the descriptor is open, `stat` is large enough and read only if the call filled it.
    let kind = unsafe {
        if libc::fstatfs(opened.as_raw_fd(), stat.as_mut_ptr()) != 0 {
            return Ok(false);
        }
        stat.assume_init().f_type
    };
    // Its type differs between C libraries; the number has 32 bits.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of 32 bits in a wider type")]
    if !KNOWN.contains(&(kind as u32)) {
        return Ok(false);
    }
    // SAFETY: the descriptor is open.
    if unsafe { libc::syncfs(opened.as_raw_fd()) } != 0 {
        return Err(std::io::Error::last_os_error()).at("write", folder);
    }
    Ok(true)
}

#[cfg(not(target_os = "linux"))]
fn sync_all_at_once(_folder: &Path) -> Result<bool> {
    Ok(false)
}

fn sync_side_by_side(files: &[PathBuf]) -> Result<()> {
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(None::<Error>));
    let work = || {
        while let Some(path) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(error) = sync_file(path) {
                failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                return;
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..THREADS {
            // Where the system gives no more threads, those that there are do it.
            if std::thread::Builder::new().spawn_scoped(scope, work).is_err() {
                break;
            }
        }
        work();
    });
    failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_not_there_is_an_error_however_many_there_are() {
        let folder = tempfile::tempdir().unwrap();
        let files: Vec<PathBuf> = (0..50).map(|number| folder.path().join(number.to_string())).collect();
        for path in &files[1..] {
            std::fs::write(path, "x").unwrap();
        }
        assert!(sync_side_by_side(&files).is_err() && sync_files(folder.path(), &files[..3]).is_err());
        sync_side_by_side(&files[1..]).unwrap();
        sync_files(folder.path(), &files[1..]).unwrap();
    }
}
