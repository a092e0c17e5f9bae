//! Pure types and algorithms of vlmsel: the order of scores and where it is cut, histograms, hashes, codes of pictures, near names,
//! means.
//!
//! Nothing here opens a file, starts a thread or knows Python: where an order is cut is tested without a file.

pub mod cover;
pub mod cutoff;
pub mod decimal;
pub mod hamming;
pub mod hash;
pub mod histogram;
pub mod image_code;
pub mod jaccard;
pub mod mean;
pub mod minhash;
pub mod prefix_join;
pub mod random;
pub mod range_filter;
pub mod score_key;
pub mod suggest;
pub mod tokens;
pub mod word_set;
pub mod words;
