//! Every byte vlmsel reads or writes.
//!
//! This crate knows files: how inputs are named and found, how tables and tars are read, how outputs are committed so that
//! a killed run leaves the old state or the new one. It decides nothing about *which* samples are wanted (that is
//! `vlmsel-core`) and runs nothing in parallel by itself (that is `vlmsel-pipeline`).
//!
//! Its rooms, each of which may use those before it: [`storage`], [`columns`], [`workspace`], [`images`], [`parquet`],
//! [`formats`], [`tables`].

pub mod columns;
pub mod error;
pub mod formats;
pub mod images;
pub mod out_of_memory;
pub mod parquet;
pub mod storage;
pub mod tables;
pub mod workspace;

pub use error::{Error, Result};
