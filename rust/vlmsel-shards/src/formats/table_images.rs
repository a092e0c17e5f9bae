//! Images that lie in the rows of a Parquet table, as Hugging Face's `datasets` keeps them.
//!
//! The column is a binary, a struct with a field `bytes` (beside `path`, in either order), or a list of one of these.

use std::path::Path;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef};
use arrow_schema::{DataType, Field};

use crate::error::{Error, Result};
use crate::images::MAX_IMAGE_BYTES;
use crate::parquet::table::ParquetTable;

/// A row group that takes more than this, decompressed, is not read for one image.
const MAX_GROUP_BYTES: u64 = 4 << 30;

/// A table, opened, whose column of images is known.
#[derive(Debug)]
pub struct TableImages {
    table: ParquetTable,
    column: String,
}

impl TableImages {
    /// Opens a table.
    ///
    /// # Errors
    /// [`Error::Unreadable`] where it is damaged, or has no column of images or several of which none is called `image` or
    /// `images`.
    pub fn open(path: &Path) -> Result<Self> {
        let table = ParquetTable::open(path, &path.to_string_lossy())?;
        let fields = table.schema().fields();
        let found: Vec<&str> =
            fields.iter().filter(|field| holds_images(field.data_type())).map(|field| field.name().as_str()).collect();
        let usual = found.iter().copied().find(|name| matches!(*name, "image" | "images"));
        let column = match (usual, found.as_slice()) {
            (Some(name), _) => name.to_owned(),
            (None, [name]) => (*name).to_owned(),
            (None, []) => return Err(Error::unreadable(path, "has no column of images")),
            (None, several) => {
                let text = format!("has several columns that may hold images: {}", several.join(", "));
                return Err(Error::unreadable(path, text));
            }
        };
        Ok(Self { table, column })
    }

    /// The bytes of the image in `row`, counted from 0 through the whole table; in a column of lists that of `item`.
    ///
    /// # Errors
    /// [`Error::Unreadable`] for damage, and where there is no such row, item or image.
    pub fn read(&self, row: u64, item: Option<u32>) -> Result<Vec<u8>> {
        let wrong = |what: &str| Error::unreadable(&self.table.path, format!("row {row} of {}: {what}", self.column));
        let group = (0..self.table.groups()).find(|&group| {
            let (first, rows) = self.table.group_rows(group);
            (first..first + rows as u64).contains(&row)
        });
        let group = group.ok_or_else(|| wrong("the table has no such row"))?;
        let at = (row - self.table.group_rows(group).0) as u32;
        let mut batches = self.table.rows_of(group, Some(&[at]), &[&self.column], MAX_GROUP_BYTES)?;
        let batch = batches.next().ok_or_else(|| wrong("the table has no such row"))??;
        let cell = batch.column(0);
        let bytes = match (list_at(cell), item) {
            (None, None) => bytes_of(cell, 0),
            (Some(items), Some(item)) if (item as usize) < items.len() => bytes_of(&items, item as usize),
            (Some(_), Some(item)) => return Err(wrong(&format!("its list has no item {item}"))),
            (Some(_), None) => return Err(wrong("it holds a list, and no item was named")),
            (None, Some(_)) => return Err(wrong("it holds no list, and an item was named")),
        };
        let bytes = bytes.ok_or_else(|| wrong("it holds no bytes"))?;
        if bytes.len() as u64 > MAX_IMAGE_BYTES {
            return Err(wrong(&format!("{} bytes, more than {MAX_IMAGE_BYTES}", bytes.len())));
        }
        Ok(bytes)
    }
}

fn holds_images(data_type: &DataType) -> bool {
    let item = |field: &Field| holds_bytes(field.data_type());
    match data_type {
        DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _) => item(field),
        other => holds_bytes(other),
    }
}

fn holds_bytes(data_type: &DataType) -> bool {
    match data_type {
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => true,
        DataType::Struct(fields) => {
            fields.iter().any(|field| field.name() == "bytes" && holds_bytes(field.data_type()))
        }
        _ => false,
    }
}

/// The items of the first row, where rows are lists. A null row has none.
fn list_at(column: &ArrayRef) -> Option<ArrayRef> {
    match column.data_type() {
        DataType::List(_) => Some(column.as_list::<i32>().value(0)),
        DataType::LargeList(_) => Some(column.as_list::<i64>().value(0)),
        DataType::FixedSizeList(..) => Some(column.as_fixed_size_list().value(0)),
        _ => None,
    }
}

fn bytes_of(column: &ArrayRef, at: usize) -> Option<Vec<u8>> {
    if column.is_null(at) {
        return None;
    }
    match column.data_type() {
        DataType::Struct(_) => column.as_struct().column_by_name("bytes").and_then(|bytes| bytes_of(bytes, at)),
        DataType::Binary => Some(column.as_binary::<i32>().value(at).to_vec()),
        DataType::LargeBinary => Some(column.as_binary::<i64>().value(at).to_vec()),
        DataType::BinaryView => Some(column.as_binary_view().value(at).to_vec()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::builder::{BinaryBuilder, ListBuilder};
    use arrow_array::{BinaryArray, Int64Array, RecordBatch, StringArray, StructArray};
    use parquet::arrow::ArrowWriter;
    use parquet::file::properties::WriterProperties;

    use super::*;
    use crate::formats::location::{ImageLocation, read_image};
    use crate::storage::source::{LocalFile, ReadAt};

    fn table(columns: Vec<(&str, ArrayRef)>) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let file = std::fs::File::create(folder.path().join("t.parquet")).unwrap();
        let properties = WriterProperties::builder().set_max_row_group_row_count(Some(2)).build();
        let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        folder
    }

    fn bytes(values: &[Option<&str>]) -> ArrayRef {
        Arc::new(values.iter().map(|value| value.map(str::as_bytes)).collect::<BinaryArray>())
    }

    fn read(folder: &tempfile::TempDir, row: u64, item: Option<u32>) -> Result<Vec<u8>> {
        TableImages::open(&folder.path().join("t.parquet"))?.read(row, item)
    }

    #[test]
    fn a_struct_of_bytes_and_path() {
        let paths: ArrayRef = Arc::new(StringArray::from(vec![None::<&str>; 5]));
        let pictures = bytes(&[Some("zero"), None, Some("two"), Some(""), Some("four")]);
        let image = StructArray::try_from(vec![("path", paths), ("bytes", pictures)]).unwrap();
        let other: ArrayRef = Arc::new(Int64Array::from(vec![0; 5]));
        let folder = table(vec![("mask", bytes(&[Some("m"); 5])), ("n", other), ("image", Arc::new(image))]);
        assert_eq!(read(&folder, 0, None).unwrap(), b"zero");
        assert_eq!(read(&folder, 4, None).unwrap(), b"four");
        assert_eq!(read(&folder, 3, None).unwrap(), b"");
        for (row, item, reason) in [(1, None, "no bytes"), (5, None, "no such row"), (0, Some(0), "no list")] {
            assert!(read(&folder, row, item).unwrap_err().to_string().contains(reason));
        }
        // The same through a location, of the shard itself and of a file below the image root.
        let shard = || Ok(Arc::new(LocalFile::open(&folder.path().join("t.parquet"))?) as Arc<dyn ReadAt>);
        for file in [None, Some("t.parquet".to_owned())] {
            let location = ImageLocation::Row { file, row: 2, item: None, size: 3 };
            assert_eq!(read_image(&location, &shard, folder.path()).unwrap(), b"two");
        }
    }

    #[test]
    fn lists_have_items() {
        let mut lists = ListBuilder::new(BinaryBuilder::new());
        for row in [&["a", "bb"][..], &[], &["c"]] {
            for item in row {
                lists.values().append_value(item);
            }
            lists.append(true);
        }
        let folder = table(vec![("pictures", Arc::new(lists.finish()))]);
        assert_eq!(read(&folder, 0, Some(1)).unwrap(), b"bb");
        assert_eq!(read(&folder, 2, Some(0)).unwrap(), b"c");
        for (row, item, reason) in
            [(1, Some(0), "no item 0"), (0, None, "no item was named"), (2, Some(1), "no item 1")]
        {
            assert!(read(&folder, row, item).unwrap_err().to_string().contains(reason));
        }
    }

    #[test]
    fn which_column_it_is_must_be_plain() {
        let none: ArrayRef = Arc::new(Int64Array::from(vec![0]));
        assert!(read(&table(vec![("n", none)]), 0, None).unwrap_err().to_string().contains("no column of images"));
        let two = table(vec![("a", bytes(&[Some("x")])), ("b", bytes(&[Some("y")]))]);
        assert!(read(&two, 0, None).unwrap_err().to_string().contains("several columns"));
    }
}
