//! The forms in which people keep samples, each behind the one trait [`reader::Format`] and listed in the one table [`FORMATS`].

pub mod cell_json;
pub mod delimited;
pub mod img2dataset;
pub mod json_fields;
pub mod json_stream;
pub mod llava;
pub mod location;
pub mod parquet_rows;
pub mod reader;
pub mod said;
pub mod sample;
pub mod table_images;
pub mod tar;
pub mod turns;
pub mod webdataset;

use self::delimited::Delimited;
use self::llava::reader::Llava;
use self::parquet_rows::ParquetRows;
use self::reader::Format;
use self::webdataset::reader::{Img2dataset, WebDataset};

/// Every form that is read. A file belongs to the first that recognises it.
pub static FORMATS: &[&dyn Format] = &[&Img2dataset, &WebDataset, &Llava, &ParquetRows, &Delimited];
