//! Parquet: the one way in to every such file, and the writer.
//!
//! The parquet crate decodes most of it, behind checks: a hostile footer or page header makes it allocate what it claims, overflow or
//! panic ([`table`], `footer`, `header_check`). Pages of ids and scores of the usual kinds are read here by ourselves, because a
//! selection looks at gigabytes of them and keeps almost nothing.

pub mod batches;
mod constant;
mod file;
mod footer;
mod header_check;
mod id_pages;
mod page_header;
pub mod pages;
mod plain_rows;
#[cfg(test)]
mod reader_tests;
mod rle;
mod schema;
mod score_pages;
mod score_rows;
mod snappy_literals;
pub mod table;
pub mod writer;

pub use self::batches::Batches;
