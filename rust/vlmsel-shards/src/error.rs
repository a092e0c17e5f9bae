//! What can go wrong with files, as facts; [`Error::class`] says which exit code a fact leads to.

use std::io;
use std::path::{Path, PathBuf};

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Classes of failure, in the order of the exit codes that users see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorClass {
    /// A bug in vlmsel (exit 1).
    Bug,
    /// Usage: a wrong option, column or type (exit 2).
    Usage,
    /// A path that does not exist (exit 2).
    NotFound,
    /// Too much of the input cannot be read; nothing was committed (exit 3).
    Unreadable,
    /// Another run holds the output (exit 4).
    Locked,
    /// The first bad record under `--strict` (exit 5).
    Strict,
    /// Disk, memory or file handles (exit 6).
    Resource,
    /// The output, or an input, belongs to another configuration or is unfinished (exit 7).
    Mismatch,
    /// The user stopped the run (exit 130).
    Cancelled,
}

/// What went wrong, where.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}{}", path.display(), advice(source))]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A named path that is not there.
    #[error("{}: no such file or folder{}", path.display(), hint)]
    NotFound {
        /// The path as given.
        path: PathBuf,
        /// What to try, beginning with a separator; may be empty.
        hint: String,
    },
    /// The request makes no sense for this data.
    #[error("{0}")]
    Usage(String),
    /// A folder, pipe, socket or device where a plain file is wanted.
    #[error("{}: {kind}; a plain file is needed", path.display())]
    NotPlain {
        /// The path.
        path: PathBuf,
        /// What it is, with its article.
        kind: &'static str,
    },
    /// A file that is damaged, encrypted, or not of the kind its name says.
    #[error("{}: {reason}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Another run works on the same output.
    #[error("{} is in use by {holder}; wait for it, or choose another output with -o", path.display())]
    Locked {
        /// The output folder.
        path: PathBuf,
        /// Who holds it.
        holder: String,
    },
    /// The output holds something else than what was asked for.
    #[error("{0}")]
    Mismatch(String),
    /// Not enough of a resource.
    #[error("{0}")]
    Resource(String),
    /// The user stopped the run.
    #[error("stopped; what was finished is kept, run the same command again to go on")]
    Cancelled,
}

fn advice(source: &io::Error) -> &'static str {
    if source.kind() == io::ErrorKind::UnexpectedEof {
        return "; it became shorter while it was read: is it still being written?";
    }
    match source.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => "; free some space and run the same command again",
        Some(libc::EROFS) => "; choose a writable folder with -o",
        Some(libc::ENAMETOOLONG) => "; give a shorter path",
        Some(libc::ELOOP) => "; its links lead in a circle",
        Some(libc::EMFILE | libc::ENFILE) => "; raise the limit of open files (ulimit -n) or lower --threads",
        _ => "",
    }
}

impl Error {
    /// Which exit code this leads to.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Io { source, .. } => match source.raw_os_error() {
                Some(libc::ENOENT) => ErrorClass::NotFound,
                // The path itself is wrong: no disk and no memory would make it right.
                Some(libc::ENAMETOOLONG | libc::ENOTDIR | libc::EISDIR | libc::EEXIST | libc::ELOOP | libc::ENXIO) => {
                    ErrorClass::Usage
                }
                _ => match source.kind() {
                    io::ErrorKind::NotFound => ErrorClass::NotFound,
                    io::ErrorKind::UnexpectedEof => ErrorClass::Unreadable,
                    _ => ErrorClass::Resource,
                },
            },
            Self::NotFound { .. } => ErrorClass::NotFound,
            Self::Usage(_) | Self::NotPlain { .. } => ErrorClass::Usage,
            Self::Unreadable { .. } => ErrorClass::Unreadable,
            Self::Locked { .. } => ErrorClass::Locked,
            Self::Mismatch(_) => ErrorClass::Mismatch,
            Self::Resource(_) => ErrorClass::Resource,
            Self::Cancelled => ErrorClass::Cancelled,
        }
    }

    /// Whether this says something about a file that is read, so that a run may go on without it; not so where the machine
    /// is short of something (file handles, memory), which would make a good file look bad.
    pub fn is_of_file(&self) -> bool {
        match self {
            Self::Unreadable { .. } | Self::NotFound { .. } | Self::NotPlain { .. } => true,
            Self::Io { action, source, .. } => {
                matches!(*action, "open" | "inspect" | "read")
                    && !matches!(source.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM))
            }
            _ => false,
        }
    }

    /// A damaged or foreign file.
    #[allow(clippy::needless_pass_by_value, reason = "callers hand over errors and literals alike")]
    pub fn unreadable(path: impl Into<PathBuf>, reason: impl ToString) -> Self {
        Self::Unreadable { path: path.into(), reason: reason.to_string() }
    }
}

/// Names the path and the action in an `io::Error` on its way up.
pub trait IoContext<T> {
    /// Wraps the error as [`Error::Io`].
    fn at(self, action: &'static str, path: impl AsRef<Path>) -> Result<T>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn at(self, action: &'static str, path: impl AsRef<Path>) -> Result<T> {
        self.map_err(|source| Error::Io { action, path: path.as_ref().to_path_buf(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_is_short_of_something_says_nothing_about_a_file() {
        let error = |action, code| Error::Io { action, path: "a".into(), source: io::Error::from_raw_os_error(code) };
        for code in [libc::ENOENT, libc::EACCES, libc::EIO] {
            assert!(error("open", code).is_of_file() && error("read", code).is_of_file());
            assert!(!error("write", code).is_of_file());
        }
        for code in [libc::EMFILE, libc::ENFILE, libc::ENOMEM] {
            assert!(!error("open", code).is_of_file());
        }
        assert!(Error::unreadable("a", "cut").is_of_file() && !Error::Cancelled.is_of_file());
    }
}
