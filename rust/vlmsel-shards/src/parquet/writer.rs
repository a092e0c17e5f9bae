//! Writing Parquet whose bytes depend on the rows alone, hashed on the way to the disk.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use ::parquet::arrow::ArrowWriter;
use ::parquet::arrow::arrow_writer::ArrowWriterOptions;
use ::parquet::basic::{Compression, ZstdLevel};
use ::parquet::file::metadata::KeyValue;
use ::parquet::file::properties::WriterProperties;
use arrow_array::RecordBatch;
use arrow_schema::{DataType, SchemaRef};

use crate::error::{Error, IoContext, Result};

/// Rows per row group.
const GROUP_ROWS: usize = 1 << 20;

/// A file that hashes what is written to it.
#[derive(Debug)]
pub struct HashedFile {
    inner: BufWriter<File>,
    hasher: blake3::Hasher,
}

impl HashedFile {
    /// Creates the file.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn create(path: &Path) -> Result<Self> {
        Ok(Self::new(File::create(path).at("create", path)?))
    }

    fn new(file: File) -> Self {
        Self { inner: BufWriter::with_capacity(1 << 20, file), hasher: blake3::Hasher::new() }
    }

    /// Flushes and returns the hash of everything written.
    ///
    /// # Errors
    /// The system's.
    pub fn finish(mut self) -> io::Result<blake3::Hash> {
        self.inner.flush()?;
        Ok(self.hasher.finalize())
    }
}

impl Write for HashedFile {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(buffer)?;
        self.hasher.update(&buffer[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Writes one Parquet file.
pub struct TableWriter {
    path: PathBuf,
    writer: ArrowWriter<HashedFile>,
}

impl TableWriter {
    /// Creates the file at `path` with `metadata` pairs in its footer.
    ///
    /// # Errors
    /// [`Error::Io`], or a schema that Parquet cannot hold.
    pub fn create(path: &Path, schema: &SchemaRef, metadata: &[(&str, &str)]) -> Result<Self> {
        Self::new(File::create(path).at("create", path)?, path, schema, metadata)
    }

    /// Writes to an open file, which messages call `path`.
    ///
    /// # Errors
    /// A schema that Parquet cannot hold.
    pub fn new(file: File, path: &Path, schema: &SchemaRef, metadata: &[(&str, &str)]) -> Result<Self> {
        let pairs = metadata.iter().map(|(key, value)| KeyValue::new((*key).to_owned(), (*value).to_owned())).collect();
        let level = ZstdLevel::try_new(1).map_err(|error| Error::Usage(error.to_string()))?;
        let mut properties = WriterProperties::builder()
            .set_created_by(concat!("vlmsel ", env!("CARGO_PKG_VERSION")).to_owned())
            .set_compression(Compression::ZSTD(level))
            .set_max_row_group_row_count(Some(GROUP_ROWS))
            .set_key_value_metadata(Some(pairs));
        // Ids and scores hardly repeat and hashes do not compress: a dictionary and a compressor would only cost time.
        for field in schema.fields() {
            if matches!(
                field.data_type(),
                DataType::FixedSizeBinary(_) | DataType::UInt64 | DataType::Float32 | DataType::Float64
            ) {
                properties = properties.set_column_dictionary_enabled(field.name().as_str().into(), false);
            }
            if matches!(field.data_type(), DataType::FixedSizeBinary(_)) {
                properties = properties.set_column_compression(field.name().as_str().into(), Compression::UNCOMPRESSED);
            }
        }
        let options = ArrowWriterOptions::new().with_properties(properties.build());
        let writer = ArrowWriter::try_new_with_options(HashedFile::new(file), schema.clone(), options)
            .map_err(|error| into_error(error, path))?;
        Ok(Self { path: path.to_path_buf(), writer })
    }

    /// Adds rows.
    ///
    /// # Errors
    /// [`Error::Io`], among them a full disk.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.writer.write(batch).map_err(|error| into_error(error, &self.path))
    }

    /// Ends the row group: what was written so far leaves memory.
    ///
    /// # Errors
    /// [`Error::Io`], among them a full disk.
    pub fn end_group(&mut self) -> Result<()> {
        self.writer.flush().map_err(|error| into_error(error, &self.path))
    }

    /// Writes the footer and returns the file's BLAKE3.
    ///
    /// # Errors
    /// [`Error::Io`], among them a full disk.
    pub fn finish(self) -> Result<blake3::Hash> {
        let path = self.path;
        let file = self.writer.into_inner().map_err(|error| into_error(error, &path))?;
        file.finish().at("write", &path)
    }
}

/// Finds the system's error inside the parquet crate's, so that a full disk is told as one.
fn into_error(error: ::parquet::errors::ParquetError, path: &Path) -> Error {
    if let ::parquet::errors::ParquetError::External(inner) = error {
        return match inner.downcast::<io::Error>() {
            Ok(source) => Error::Io { action: "write", path: path.to_path_buf(), source: *source },
            Err(other) => Error::Usage(format!("{}: {other}", path.display())),
        };
    }
    Error::Usage(format!("{}: {error}", path.display()))
}
