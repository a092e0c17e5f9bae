//! Every byte vlmsel reads or writes.
//!
//! This crate knows files: how inputs are named and found, how tables and tars are read, how outputs are committed so that
//! a killed run leaves the old state or the new one. It decides nothing about *which* samples are wanted (that is
//! `vlmsel-core`) and runs nothing in parallel by itself (that is `vlmsel-pipeline`).

pub mod disk;
pub mod error;
pub mod fingerprint;
pub mod identity;
pub mod inputs;
pub mod lock;
pub mod manifest;
pub mod noted;
pub mod npy;
pub mod output;
pub mod parquet_writer;
pub mod paths;
pub mod quarantine;
pub mod tables;
pub mod verify;

pub use error::{Error, Result};

pub mod image_check;
pub mod image_header;
pub mod img2dataset;
pub mod index_table;
pub mod json_fields;
pub mod json_values;
pub mod llava;
pub mod samples;
pub mod source;
pub mod tar;
pub mod text_encoding;
