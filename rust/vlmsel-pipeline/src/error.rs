//! What ends a run, beside what can go wrong with a single file.

use vlmsel_shards::error::ErrorClass;

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a run ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file, folder or resource.
    #[error(transparent)]
    Shards(#[from] vlmsel_shards::Error),
    /// More of the input than allowed could not be read; nothing was committed.
    #[error("{0}")]
    TooMuchUnreadable(String),
    /// The first bad record under `--strict`; nothing was committed.
    #[error("{0}")]
    Strict(String),
    /// The counts do not add up: a bug, and reason enough to commit nothing.
    #[error("{0}")]
    Bug(String),
}

impl Error {
    /// Which exit code this leads to.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Shards(error) => error.class(),
            Self::TooMuchUnreadable(_) => ErrorClass::Unreadable,
            Self::Strict(_) => ErrorClass::Strict,
            Self::Bug(_) => ErrorClass::Bug,
        }
    }

    /// A request that makes no sense for this data.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::Shards(vlmsel_shards::Error::Usage(message.into()))
    }
}
