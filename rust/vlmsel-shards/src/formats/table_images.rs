//! Images that lie in the rows of a Parquet table, as Hugging Face's `datasets` keeps them.
//!
//! The column is a binary, a struct with a field `bytes` (beside `path`, in either order), or a list of one of these.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef};
use arrow_schema::{DataType, Field, Schema};

use crate::error::{Error, Result};
use crate::images::MAX_IMAGE_BYTES;
use crate::parquet::batches::Batches;
use crate::parquet::table::ParquetTable;

/// A row group that takes more than this, decompressed, is not read for one image.
const MAX_GROUP_BYTES: u64 = 4 << 30;

/// Names by which a column of images goes, best first.
const USUAL_NAMES: [&str; 8] = ["image", "images", "jpg", "png", "jpeg", "webp", "img", "picture"];
/// Decoded stretches of a table that are kept for rows near them.
const KEPT_BATCHES: usize = 4;
/// A row farther ahead than this is sought anew.
const NEAR_ROWS: u64 = 4096;

/// The column of a table that holds its images, and others that might.
///
/// # Errors
/// Where several may and none has a usual name.
pub fn image_column(schema: &Schema) -> std::result::Result<Option<(String, Vec<String>)>, String> {
    let found: Vec<&str> = schema
        .fields()
        .iter()
        .filter(|field| holds_images(field.data_type()))
        .map(|field| field.name().as_str())
        .collect();
    let structs = schema.fields().iter().filter(|field| holds_structs(field.data_type()));
    let structs: Vec<&str> = structs.map(|field| field.name().as_str()).collect();
    let usual = USUAL_NAMES.iter().copied().find(|name| found.contains(name));
    let chosen = match (usual, structs.as_slice(), found.as_slice()) {
        (Some(name), ..) => name,
        (None, [name], _) | (None, _, [name]) => name,
        (None, _, []) => return Ok(None),
        (None, _, several) => return Err(format!("has several columns that may hold images: {}", several.join(", "))),
    };
    let others = structs.iter().filter(|name| **name != chosen).map(|name| (*name).to_owned()).collect();
    Ok(Some((chosen.to_owned(), others)))
}

/// A table, opened, whose column of images is known. Rows near each other cost one decoding.
#[derive(Debug)]
pub struct TableImages {
    table: ParquetTable,
    column: String,
    near: Mutex<Near>,
}

/// What was decoded last.
#[derive(Default)]
struct Near {
    /// First row and rows of each.
    batches: VecDeque<(u64, ArrayRef)>,
    /// What comes next, and its first row.
    ahead: Option<(u64, u64, Batches)>,
}

impl std::fmt::Debug for Near {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Near({} batches)", self.batches.len())
    }
}

impl TableImages {
    /// Opens a table.
    ///
    /// # Errors
    /// [`Error::Unreadable`] where it is damaged, or has no column of images or several of which none has a usual name.
    pub fn open(path: &Path) -> Result<Self> {
        let table = ParquetTable::open(path, &path.to_string_lossy())?;
        let found = image_column(table.schema()).map_err(|error| Error::unreadable(path, error))?;
        let (column, _) = found.ok_or_else(|| Error::unreadable(path, "has no column of images"))?;
        Ok(Self { table, column, near: Mutex::default() })
    }

    /// The bytes of the image in `row`, counted from 0 through the whole table; in a column of lists that of `item`.
    ///
    /// # Errors
    /// [`Error::Unreadable`] for damage, and where there is no such row, item or image.
    pub fn read(&self, row: u64, item: Option<u32>) -> Result<Vec<u8>> {
        let wrong = |what: &str| Error::unreadable(&self.table.path, format!("row {row} of {}: {what}", self.column));
        let mut near = self.near.lock().unwrap_or_else(PoisonError::into_inner);
        let (cells, at) = self.cells(&mut near, row)?.ok_or_else(|| wrong("the table has no such row"))?;
        let bytes = match (list_at(&cells, at), item) {
            (None, None) => bytes_of(&cells, at).map(<[u8]>::to_vec),
            (Some(items), Some(item)) if (item as usize) < items.len() => {
                bytes_of(&items, item as usize).map(<[u8]>::to_vec)
            }
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

    /// The decoded stretch that a row lies in, and its place there.
    fn cells(&self, near: &mut Near, row: u64) -> Result<Option<(ArrayRef, usize)>> {
        let inside = |(first, cells): &(u64, ArrayRef)| (*first..*first + cells.len() as u64).contains(&row);
        if let Some((first, cells)) = near.batches.iter().find(|batch| inside(batch)) {
            return Ok(Some((cells.clone(), (row - first) as usize)));
        }
        let is_near = |next: u64, end: u64| (next..end.min(next + NEAR_ROWS)).contains(&row);
        if !near.ahead.as_ref().is_some_and(|(next, end, _)| is_near(*next, *end)) {
            let group = (0..self.table.groups()).find(|&group| {
                let (first, rows) = self.table.group_rows(group);
                (first..first + rows as u64).contains(&row)
            });
            let Some(group) = group else { return Ok(None) };
            let (first, rows) = self.table.group_rows(group);
            // Pages before the row are passed over, those behind it are decoded as they are asked for.
            let wanted: Vec<u32> = ((row - first) as u32..rows as u32).collect();
            let batches = self.table.rows_of(group, Some(&wanted), &[&self.column], MAX_GROUP_BYTES)?;
            near.ahead = Some((row, first + rows as u64, batches));
        }
        loop {
            let Some((next, end, batches)) = &mut near.ahead else { return Ok(None) };
            let Some(batch) = batches.next().transpose()? else {
                near.ahead = None;
                return Ok(None);
            };
            let (first, cells) = (*next, batch.column(0).clone());
            *next += cells.len() as u64;
            if *next >= *end {
                near.ahead = None;
            }
            if near.batches.len() >= KEPT_BATCHES {
                near.batches.pop_front();
            }
            near.batches.push_back((first, cells.clone()));
            if row < first + cells.len() as u64 {
                return Ok(Some((cells, (row - first) as usize)));
            }
        }
    }
}

/// Tables that were opened for their images, the last few.
#[derive(Debug, Default)]
pub struct OpenTables(Mutex<VecDeque<(PathBuf, Arc<TableImages>)>>);

/// Tables kept open.
const KEPT_TABLES: usize = 16;

impl OpenTables {
    /// The table at a path, opened if it is not yet.
    ///
    /// # Errors
    /// Those of [`TableImages::open`].
    pub fn get(&self, path: &Path) -> Result<Arc<TableImages>> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, table)) = open.iter().find(|(known, _)| known == path) {
            return Ok(table.clone());
        }
        let table = Arc::new(TableImages::open(path)?);
        if open.len() >= KEPT_TABLES {
            open.pop_front();
        }
        open.push_back((path.to_path_buf(), table.clone()));
        Ok(table)
    }
}

fn holds_structs(data_type: &DataType) -> bool {
    match data_type {
        DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _) => {
            holds_structs(field.data_type())
        }
        DataType::Struct(_) => holds_bytes(data_type),
        _ => false,
    }
}

pub(super) fn holds_images(data_type: &DataType) -> bool {
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

/// The items of a row, where rows are lists. A null row has none.
pub(super) fn list_at(column: &ArrayRef, at: usize) -> Option<ArrayRef> {
    match column.data_type() {
        DataType::List(_) => Some(column.as_list::<i32>().value(at)),
        DataType::LargeList(_) => Some(column.as_list::<i64>().value(at)),
        DataType::FixedSizeList(..) => Some(column.as_fixed_size_list().value(at)),
        _ => None,
    }
}

/// The bytes of a cell, if it has any.
pub(super) fn bytes_of(column: &ArrayRef, at: usize) -> Option<&[u8]> {
    if column.is_null(at) {
        return None;
    }
    match column.data_type() {
        DataType::Struct(_) => column.as_struct().column_by_name("bytes").and_then(|bytes| bytes_of(bytes, at)),
        DataType::Binary => Some(column.as_binary::<i32>().value(at)),
        DataType::LargeBinary => Some(column.as_binary::<i64>().value(at)),
        DataType::BinaryView => Some(column.as_binary_view().value(at)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
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
            assert_eq!(read_image(&location, &shard, folder.path(), &OpenTables::default()).unwrap(), b"two");
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
