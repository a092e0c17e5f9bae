//! The readers of pages against the general one, over files of every shape that matters.

use std::sync::Arc;

use ::parquet::arrow::ArrowWriter;
use ::parquet::basic::{BrotliLevel, Compression, GzipLevel, ZstdLevel};
use ::parquet::file::metadata::{
    ColumnChunkMetaDataBuilder, FileMetaData, ParquetMetaData, ParquetMetaDataReader, ParquetMetaDataWriter,
};
use ::parquet::file::properties::{WriterProperties, WriterVersion};
use arrow_array::{
    ArrayRef, BinaryArray, FixedSizeBinaryArray, Float32Array, Float64Array, Int32Array, Int64Array, RecordBatch,
    StringArray, UInt32Array, UInt64Array,
};
use proptest::prelude::*;

use super::pages::{ChunkPages, PageBuffers};
use super::table::ParquetTable;
use crate::columns::score::{Block, ScoreClass, ScoreVisitor, visit_array};
use crate::columns::{Column, Role};
use crate::error::Result;
use crate::tables::Table;
use crate::tables::schema::{Wanted, resolve};

/// How a file is laid out.
#[derive(Debug, Clone)]
struct Layout {
    codec: Compression,
    v2: bool,
    dictionary: bool,
    page_rows: usize,
    group_rows: usize,
    nullable: bool,
}

fn layouts() -> impl Strategy<Value = Layout> {
    let codec = prop_oneof![
        Just(Compression::UNCOMPRESSED),
        Just(Compression::SNAPPY),
        Just(Compression::ZSTD(ZstdLevel::default())),
        Just(Compression::GZIP(GzipLevel::default())),
        Just(Compression::LZ4_RAW),
        Just(Compression::BROTLI(BrotliLevel::default())),
    ];
    (codec, any::<bool>(), any::<bool>(), 1_usize..200, 1_usize..400, any::<bool>()).prop_map(
        |(codec, v2, dictionary, page_rows, group_rows, nullable)| Layout {
            codec,
            v2,
            dictionary,
            page_rows,
            group_rows,
            nullable,
        },
    )
}

fn file(folder: &std::path::Path, layout: &Layout, ids: ArrayRef, scores: ArrayRef) -> ParquetTable {
    let batch =
        RecordBatch::try_from_iter_with_nullable([("id", ids, layout.nullable), ("score", scores, layout.nullable)])
            .unwrap();
    let version = if layout.v2 { WriterVersion::PARQUET_2_0 } else { WriterVersion::PARQUET_1_0 };
    let properties = WriterProperties::builder()
        .set_compression(layout.codec)
        .set_writer_version(version)
        .set_dictionary_enabled(layout.dictionary)
        // Small, so that chunks begin with a dictionary and fall back to plain values.
        .set_dictionary_page_size_limit(600)
        .set_data_page_row_count_limit(layout.page_rows)
        .set_write_batch_size(layout.page_rows.min(64))
        .set_max_row_group_row_count(Some(layout.group_rows))
        .build();
    let path = folder.join("t.parquet");
    let mut writer =
        ArrowWriter::try_new(std::fs::File::create(&path).unwrap(), batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    ParquetTable::open(&path, "t.parquet").unwrap()
}

fn column(table: &ParquetTable, name: &str, role: Role) -> Column {
    let wanted = Wanted { name: name.to_owned(), role, required: true };
    resolve(&[Table::Parquet(table.clone())], &[wanted]).unwrap().columns.remove(0).unwrap()
}

/// Keys (0 where it does not rank) and classes, as blocks give them.
#[derive(Debug, Default, PartialEq)]
struct Seen(Vec<u64>, Vec<ScoreClass>);

impl Seen {
    fn add(&mut self, block: &Block<'_>) {
        assert_eq!(block.first_row, self.0.len());
        for (at, key) in block.keys.iter().enumerate() {
            let class = block.classes.map_or(ScoreClass::Finite, |classes| classes[at]);
            self.0.push(if class == ScoreClass::Finite { *key } else { 0 });
            self.1.push(class);
        }
    }
}

/// Looks for the keys between two.
struct Between {
    bounds: (u64, u64),
    /// Scores that were looked at.
    seen: usize,
    found: Vec<(usize, u64)>,
}

impl ScoreVisitor for Between {
    fn wanted(&self) -> Option<(u64, u64)> {
        Some(self.bounds)
    }

    fn block(&mut self, block: &Block<'_>) -> Result<()> {
        let finite = |at: usize| block.classes.is_none_or(|classes| classes[at] == ScoreClass::Finite);
        let keys = block.keys.iter().enumerate().filter(|(at, _)| finite(*at));
        let wanted = keys.filter(|(_, key)| (self.bounds.0..=self.bounds.1).contains(key));
        self.found.extend(wanted.map(|(at, key)| (block.first_row + at, *key)));
        self.seen += block.keys.len();
        Ok(())
    }

    fn winners(&mut self, count: usize, rows: &[u32], keys: &[u64]) -> Result<()> {
        self.found.extend(rows.iter().map(|row| *row as usize).zip(keys.iter().copied()));
        self.seen += count;
        Ok(())
    }
}

fn id_arrays(raw: &[Option<u64>]) -> Vec<ArrayRef> {
    let wide = |n: u64| [n.to_be_bytes(), n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()].concat();
    let fixed = raw.iter().map(|n| n.map(wide));
    vec![
        Arc::new(FixedSizeBinaryArray::try_from_sparse_iter_with_size(fixed, 16).unwrap()),
        Arc::new(raw.iter().map(|n| n.map(|n| format!("{n:032x}"))).collect::<StringArray>()),
        Arc::new(raw.iter().map(|n| n.map(|n| "é".repeat((n % 5) as usize))).collect::<StringArray>()),
        Arc::new(raw.iter().map(|n| n.map(u64::to_le_bytes)).collect::<BinaryArray>()),
        Arc::new(raw.iter().copied().collect::<UInt64Array>()),
        Arc::new(raw.iter().map(|n| n.map(u64::cast_signed)).collect::<Int64Array>()),
        Arc::new(raw.iter().map(|n| n.map(|n| n as u32)).collect::<UInt32Array>()),
        Arc::new(raw.iter().map(|n| n.map(|n| n as i32)).collect::<Int32Array>()),
    ]
}

/// `odd` scores are NaN and infinite, too.
fn score_arrays(raw: &[Option<u64>], odd: bool) -> Vec<ArrayRef> {
    let special = [-0.0, 0.0, -1.5, f64::MAX, f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
    let special = if odd { &special[..] } else { &special[..3] };
    let float = |n: u64| special.get((n % 29) as usize).copied().unwrap_or(n as f64 / 7.0);
    vec![
        Arc::new(raw.iter().map(|n| n.map(|n| float(n) as f32)).collect::<Float32Array>()),
        Arc::new(raw.iter().map(|n| n.map(float)).collect::<Float64Array>()),
        Arc::new(raw.iter().map(|n| n.map(|n| n as i32)).collect::<Int32Array>()),
        Arc::new(raw.iter().map(|n| n.map(u64::cast_signed)).collect::<Int64Array>()),
        Arc::new(raw.iter().map(|n| n.map(|n| n as u32)).collect::<UInt32Array>()),
        Arc::new(raw.iter().copied().collect::<UInt64Array>()),
    ]
}

/// Values with and without repeats, so that dictionaries pay or do not; nulls where the column may have them.
fn raw_values() -> impl Strategy<Value = Vec<Option<u64>>> {
    let value = prop_oneof![0_u64..12, any::<u64>()];
    prop::collection::vec(prop_oneof![9 => value.prop_map(Some), 1 => Just(None)], 1..900)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn pages_say_what_the_general_reader_says(
        layout in layouts(),
        mut raw in raw_values(),
        wanted in prop::collection::btree_set(0_u32..900, 0..120),
        few_nulls in any::<bool>(),
        odd in any::<bool>(),
        non_negative in any::<bool>(),
        bounds in (any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0_u64..3, 0_u64..3),
    ) {
        if few_nulls || !layout.nullable {
            for value in &mut raw {
                value.get_or_insert(3);
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let mut buffers = PageBuffers::default();
        for (ids, scores) in id_arrays(&raw).into_iter().zip(score_arrays(&raw, odd).into_iter().cycle()) {
            let table = file(folder.path(), &layout, ids, scores);
            let (id, score) = (column(&table, "id", Role::Id), column(&table, "score", Role::Score));
            for group in 0..table.groups() {
                let (mut fast, mut slow) = (Seen::default(), Seen::default());
                table.visit_scores(group, &score, usize::MAX, non_negative, &mut buffers, &mut |block: &Block<'_>| {
                    fast.add(block);
                    Ok(())
                }).unwrap();
                let mut row = 0;
                table.read(group, None, &[&score], &mut |batch| {
                    visit_array(batch.column(0), row, non_negative, &mut |block: &Block<'_>| {
                        slow.add(block);
                        Ok(())
                    })?;
                    row += batch.num_rows();
                    Ok(())
                }).unwrap();
                prop_assert_eq!(&fast, &slow);
                // At keys that there are, and beside them.
                let bound = |index: prop::sample::Index, by: u64| index.get(&slow.0).wrapping_add(by).wrapping_sub(1);
                let (low, high) = (bound(bounds.0, bounds.2), bound(bounds.1, bounds.3));
                let mut between = Between { bounds: (low, high), seen: 0, found: Vec::new() };
                table.visit_scores(group, &score, usize::MAX, non_negative, &mut buffers, &mut between).unwrap();
                let finite = (0..slow.0.len()).filter(|row| slow.1[*row] == ScoreClass::Finite);
                let expected = finite.map(|row| (row, slow.0[row])).filter(|(_, key)| (low..=high).contains(key));
                prop_assert_eq!(between.found, expected.collect::<Vec<_>>());
                prop_assert_eq!(between.seen, slow.0.len());
                let here = table.group_rows(group).1;
                let rows: Vec<u32> = wanted.iter().copied().filter(|row| (*row as usize) < here).collect();
                let collect = |by_page: bool, buffers: &mut PageBuffers| {
                    let mut batches = Vec::new();
                    let take = &mut |batch: &RecordBatch| {
                        batches.push(batch.clone());
                        Ok(())
                    };
                    if by_page {
                        table.gather(group, &rows, &[&id, &score], buffers, take).unwrap();
                    } else {
                        table.read(group, Some(&rows), &[&id, &score], take).unwrap();
                    }
                    let schema = crate::columns::working_schema(&[&id, &score]);
                    arrow_select::concat::concat_batches(&schema, &batches).unwrap()
                };
                let (fast, slow) = (collect(true, &mut buffers), collect(false, &mut buffers));
                prop_assert_eq!(fast.num_rows(), rows.len());
                prop_assert_eq!(fast, slow);
            }
        }
    }

    #[test]
    fn a_column_that_says_the_same_everywhere_is_known_from_its_pages(
        layout in layouts(),
        rows in 1_usize..400,
        other in prop_oneof![2 => Just(None), 3 => (any::<prop::sample::Index>(), prop_oneof![Just(Some("no")), Just(Some("okay")), Just(None)]).prop_map(Some)],
    ) {
        let mut values = vec![Some("ok"); rows];
        if let Some((at, value)) = other {
            values[at.index(rows)] = if layout.nullable { value } else { value.or(Some("")) };
        }
        let folder = tempfile::tempdir().unwrap();
        let scores = Arc::new((0..rows as u64).map(Some).collect::<UInt64Array>());
        let table = file(folder.path(), &layout, Arc::new(values.iter().copied().collect::<StringArray>()), scores);
        let column = column(&table, "id", Role::Id);
        let mut buffers = PageBuffers::default();
        for group in 0..table.groups() {
            let (first, count) = table.group_rows(group);
            let alike = values[first as usize..][..count].iter().all(|value| *value == Some("ok"));
            let readable = ChunkPages::reads(layout.codec) && layout.dictionary;
            prop_assert_eq!(table.holds_only(group, &column, b"ok", &mut buffers), alike && readable);
            prop_assert!(!table.holds_only(group, &column, b"o", &mut buffers));
        }
    }

    /// Damage is found or changes values, but never panics and never makes up rows.
    #[test]
    fn damaged_pages_end_in_an_error(
        layout in layouts(),
        raw in raw_values(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0_u8..8), 1..6),
    ) {
        let raw: Vec<Option<u64>> = raw.into_iter().map(|value| Some(value.unwrap_or(3))).collect();
        let folder = tempfile::tempdir().unwrap();
        let ids = id_arrays(&raw).swap_remove(raw.len() % 8);
        let table = file(folder.path(), &layout, ids, score_arrays(&raw, true).swap_remove(raw.len() % 6));
        let (id, score) = (column(&table, "id", Role::Id), column(&table, "score", Role::Score));
        let mut bytes = std::fs::read(&table.path).unwrap();
        let footer = u32::from_le_bytes(*bytes[..bytes.len() - 4].last_chunk::<4>().unwrap()) as usize + 8;
        let pages = 4..bytes.len() - footer;
        for (place, bit) in flips {
            bytes[pages.start + place.index(pages.len())] ^= 1 << bit;
        }
        std::fs::write(&table.path, bytes).unwrap();
        let mut buffers = PageBuffers::default();
        for group in 0..table.groups() {
            let here = table.group_rows(group).1;
            let mut rows = 0;
            let read = table.visit_scores(group, &score, usize::MAX, false, &mut buffers, &mut |block: &Block<'_>| {
                rows += block.keys.len();
                Ok(())
            });
            prop_assert!(rows <= here);
            prop_assert!(read.is_err() || rows == here);
            let every: Vec<u32> = (0..here as u32).step_by(3).collect();
            let mut found = 0;
            let read = table.gather(group, &every, &[&id], &mut buffers, &mut |batch| {
                found += batch.num_rows();
                Ok(())
            });
            prop_assert!(read.is_err() || found == every.len());
        }
    }
}

/// The pages of a small file under a footer that says something else of them.
fn with_footer(
    folder: &std::path::Path,
    rows: i64,
    change: fn(ColumnChunkMetaDataBuilder) -> ColumnChunkMetaDataBuilder,
) -> crate::error::Result<ParquetTable> {
    let layout = Layout {
        codec: Compression::SNAPPY,
        v2: false,
        dictionary: true,
        page_rows: 50,
        group_rows: 100,
        nullable: false,
    };
    let raw: Vec<Option<u64>> = (0..100).map(Some).collect();
    let table = file(folder, &layout, id_arrays(&raw).remove(0), score_arrays(&raw, true).remove(0));
    let honest = ParquetMetaDataReader::new().parse_and_finish(&std::fs::File::open(&table.path).unwrap()).unwrap();
    let columns = honest.row_group(0).columns().iter().map(|c| change(c.clone().into_builder()).build().unwrap());
    let columns = columns.collect();
    let group = honest.row_group(0).clone().into_builder().set_column_metadata(columns).set_num_rows(rows);
    let before = honest.file_metadata();
    let footer = FileMetaData::new(before.version(), rows, None, None, before.schema_descr_ptr(), None);
    let lying = ParquetMetaData::new(footer, vec![group.build().unwrap()]);
    let mut bytes = std::fs::read(&table.path).unwrap();
    let end = bytes.len() - 8 - u32::from_le_bytes(*bytes[..bytes.len() - 4].last_chunk::<4>().unwrap()) as usize;
    bytes.truncate(end);
    ParquetMetaDataWriter::new(&mut bytes, &lying).finish().unwrap();
    std::fs::write(&table.path, bytes).unwrap();
    ParquetTable::open(&table.path, "t.parquet")
}

#[test]
fn a_footer_that_lies_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(with_footer(folder.path(), 100, |column| column).unwrap().rows(), 100);
    for (rows, said) in [
        (-1, "a row group of -1 rows"),
        (1 << 40, "a row group of 1099511627776 rows"),
        (i64::from(u32::MAX), "bytes that claim to hold 4294967295 rows"),
        (99, "100 values in 99 rows"),
    ] {
        let error = with_footer(folder.path(), rows, |column| column).unwrap_err().to_string();
        assert!(error.contains(said) && error.contains("t.parquet"), "{rows}: {error}");
    }
    type Change = fn(ColumnChunkMetaDataBuilder) -> ColumnChunkMetaDataBuilder;
    let lies: [(Change, &str); 5] = [
        (|column| column.set_num_values(-100), "-100 values in 100 rows"),
        (|column| column.set_total_compressed_size(-5), "lies outside the file"),
        (|column| column.set_total_compressed_size(1 << 60), "lies outside the file"),
        (|column| column.set_data_page_offset(-8).set_dictionary_page_offset(None), "lies outside the file"),
        (|column| column.set_file_path("../other.parquet".to_owned()), "lies in another file"),
    ];
    for (change, said) in lies {
        let error = with_footer(folder.path(), 100, change).unwrap_err().to_string();
        assert!(error.contains(said), "{said}: {error}");
    }
}
