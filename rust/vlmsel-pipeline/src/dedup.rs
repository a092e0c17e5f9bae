//! Finding what is there twice, or nearly.

pub mod near_text;
