//! Small files that stand where the real one should: pointers of Git LFS, and what servers answer instead.

use std::path::Path;

use crate::error::{Error, Result};
use crate::storage::source::ReadAt;

/// A stand-in shows in its first bytes.
const HEAD_BYTES: u64 = 256;

/// What a file with these first bytes stands in for, if it is no data at all.
pub fn stand_in(head: &[u8]) -> Option<&'static str> {
    let text = String::from_utf8_lossy(&head[..head.len().min(HEAD_BYTES as usize)]).trim_start().to_ascii_lowercase();
    if text.starts_with("version https://git-lfs.github.com/spec/") {
        Some("a pointer of Git LFS, not the file; fetch it with `git lfs pull`")
    } else if text.starts_with("<!doctype html") || text.starts_with("<html") {
        Some("an HTML page, which a server may have sent in place of the file; fetch it again")
    } else if text.starts_with("<?xml") && text.contains("<error>") {
        Some("a server's error message in place of the file; fetch it again")
    } else {
        None
    }
}

/// Refuses a file that is a stand-in.
///
/// # Errors
/// [`Error::Unreadable`] with what it is, and those of reading.
pub fn refuse_stand_in(file: &dyn ReadAt) -> Result<()> {
    let mut head = vec![0; file.size_bytes().min(HEAD_BYTES) as usize];
    file.read_exact_at(&mut head, 0)?;
    stand_in(&head).map_or(Ok(()), |what| Err(Error::unreadable(file.path(), what)))
}

/// The same of the file at a path.
///
/// # Errors
/// Those of opening it, and [`refuse_stand_in`].
pub fn refuse_stand_in_at(path: &Path) -> Result<()> {
    refuse_stand_in(&*crate::storage::source::open(path)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_data_is_called_by_its_name() {
        for (head, word) in [
            (&b"version https://git-lfs.github.com/spec/v1\noid sha256:00"[..], "Git LFS"),
            (b"\n<!DOCTYPE html><title>404", "HTML"),
            (b"<?xml version=\"1.0\"?><Error><Code>AccessDenied", "error message"),
        ] {
            assert!(stand_in(head).is_some_and(|what| what.contains(word)));
            assert!(refuse_stand_in(&head.to_vec()).is_err());
        }
        for head in [&b""[..], b"{\"a\": 1}", b"PAR1", b"<svg>"] {
            assert_eq!(stand_in(head), None);
        }
    }
}
