//! The forms in which people keep pairs of images and text.

pub mod img2dataset;
pub mod json_fields;
pub mod json_stream;
pub mod llava;
pub mod tar;
pub mod webdataset;
