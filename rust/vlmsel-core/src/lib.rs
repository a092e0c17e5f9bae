//! Pure types and algorithms of vlmsel: the order of scores, top-k, histograms, near names, means.
//!
//! Nothing here opens a file, starts a thread or knows Python: a top-k of a million scores is tested without a file.

pub mod blend;
pub mod hash;
pub mod histogram;
pub mod names;
pub mod quantity;
pub mod random;
pub mod score_key;
pub mod sift;

pub use score_key::ScoreKey;
