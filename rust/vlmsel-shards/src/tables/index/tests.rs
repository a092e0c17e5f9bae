use arrow_array::Array;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::formats::location::ImageLocation;

fn table(rows: u32) -> Vec<u8> {
    let mut writer = IndexTableWriter::new(Vec::new(), "s", "a/0.tar").unwrap();
    for i in 0..rows {
        let location = ImageLocation::Range { offset: u64::from(i), size: 1 };
        let image = ImageRow { location, width: 2, height: 3, hash: [4; 16] };
        let member = MemberRow { extension: "jpg".to_owned(), offset: u64::from(i), size: 1 };
        let text = (i % 3 > 0).then(|| format!("caption {i}"));
        let (images, members) = (vec![image; (i % 3) as usize], vec![member; 2]);
        writer
            .push(IndexRow { uid: u128::from(i).to_be_bytes(), images, members, text, ..IndexRow::default() })
            .unwrap();
    }
    let (written, bytes) = writer.finish().unwrap();
    assert_eq!(written, u64::from(rows));
    bytes
}

#[test]
fn rows_come_back_and_bytes_repeat() {
    let bytes = table(20_000);
    assert_eq!(bytes, table(20_000));
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(bytes)).unwrap();
    assert_eq!(reader.metadata().num_row_groups(), 2);
    assert_eq!(reader.schema().fields(), schema().fields());
    let rows: usize = reader.build().unwrap().map(|batch| batch.unwrap().column(0).len()).sum();
    assert_eq!(rows, 20_000);
}

#[test]
fn an_empty_shard_has_an_empty_table() {
    assert!(ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(table(0))).is_ok());
}

fn location() -> impl Strategy<Value = ImageLocation> {
    let row = (option::of(".{0,9}"), any::<u64>(), option::of(any::<u32>()), any::<u64>());
    prop_oneof![
        (".{0,9}", any::<u64>()).prop_map(|(file, size)| ImageLocation::File { file, size }),
        any::<(u64, u64)>().prop_map(|(offset, size)| ImageLocation::Range { offset, size }),
        row.prop_map(|(file, row, item, size)| ImageLocation::Row { file, row, item, size }),
    ]
}

fn image() -> impl Strategy<Value = ImageRow> {
    (location(), any::<(u32, u32, Hash128)>()).prop_map(|(location, (width, height, hash))| ImageRow {
        location,
        width,
        height,
        hash,
    })
}

fn member() -> impl Strategy<Value = MemberRow> {
    (".{0,9}", any::<(u64, u64)>()).prop_map(|(extension, (offset, size))| MemberRow { extension, offset, size })
}

fn row() -> impl Strategy<Value = IndexRow> {
    let lists = (prop::collection::vec(image(), 0..4), prop::collection::vec(member(), 0..4));
    let texts = (".{0,40}", option::of(".{0,40}"), option::of(".{0,40}"), option::of(any::<Vec<u8>>()));
    let class = prop_oneof![Just(None), Just(Some("pair")), Just(Some("text-only"))];
    (any::<(Hash128, u32)>(), lists, texts, class, option::of(any::<Hash128>())).prop_map(
        |((uid, n_turns), (images, members), (key, text, conversations, metadata), class, text_hash)| IndexRow {
            uid,
            key,
            images,
            members,
            text,
            conversations,
            n_turns,
            class,
            text_hash,
            metadata,
        },
    )
}

/// What the parquet crate reads: its Arrow schema with what it says besides, and its one batch.
fn read(file: Vec<u8>) -> (SchemaRef, RecordBatch) {
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(file)).unwrap();
    let schema = reader.schema().clone();
    let batches: Vec<RecordBatch> = reader.build().unwrap().map(|batch| batch.unwrap()).collect();
    assert_eq!(batches.len(), 1);
    (schema, batches[0].clone())
}

/// The oracle: the crate's writer with the properties of large tables, or of small ones.
fn by_the_crate(rows: &[IndexRow], is_small: bool) -> Vec<u8> {
    let form = Form::of(is_small).unwrap();
    let mut writer = ArrowWriter::try_new_with_options(Vec::new(), form.schema.clone(), form.options()).unwrap();
    writer.write(&to_batch(rows, "source", "a/0.tar").unwrap()).unwrap();
    writer.into_inner().unwrap()
}

proptest! {
    #[test]
    fn small_files_hold_what_the_crate_writes(rows in prop::collection::vec(row(), 1..=SMALL_ROWS)) {
        let small = small_table(&rows, "source", "a/0.tar").unwrap();
        let read_small = read(small.clone());
        prop_assert_eq!(&read_small, &read(by_the_crate(&rows, false)));
        let crates = by_the_crate(&rows, true);
        prop_assert_eq!(&read_small, &read(crates.clone()));
        let footer = |file: Vec<u8>| {
            let reader = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(file)).unwrap();
            let metadata = reader.metadata().clone();
            let group = metadata.row_group(0);
            let columns: Vec<(String, i64)> =
                group.columns().iter().map(|c| (c.column_path().string(), c.num_values())).collect();
            (metadata.file_metadata().clone(), group.num_rows(), columns)
        };
        let (ours, theirs) = (footer(small), footer(crates));
        prop_assert_eq!((&ours.1, &ours.2), (&theirs.1, &theirs.2));
        prop_assert_eq!(ours.0.key_value_metadata(), theirs.0.key_value_metadata());
        prop_assert_eq!(ours.0.schema_descr(), theirs.0.schema_descr());
        prop_assert_eq!((ours.0.created_by(), ours.0.version()), (theirs.0.created_by(), theirs.0.version()));
        prop_assert_eq!(ours.0.column_orders(), theirs.0.column_orders());
    }
}

#[test]
fn a_table_is_small_up_to_its_bounds() {
    let is_compressed = |rows: u32, images: usize, text: usize| {
        let mut writer = IndexTableWriter::new(Vec::new(), "s", "a").unwrap();
        let location = ImageLocation::Range { offset: 0, size: 1 };
        let image = ImageRow { location, width: 1, height: 1, hash: [0; 16] };
        for _ in 0..rows {
            let (images, text) = (vec![image.clone(); images], Some("x".repeat(text)));
            writer.push(IndexRow { images, text, ..IndexRow::default() }).unwrap();
        }
        let file = bytes::Bytes::from(writer.finish().unwrap().1);
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
        reader.metadata().row_group(0).column(0).compression() != Compression::UNCOMPRESSED
    };
    let most = SMALL_ROWS as u32;
    assert!(!is_compressed(most, 1, 1) && is_compressed(most + 1, 1, 1));
    assert!(!is_compressed(1, SMALL_ITEMS, 1) && is_compressed(1, SMALL_ITEMS + 1, 1));
    assert!(!is_compressed(1, 1, SMALL_BYTES) && is_compressed(1, 1, SMALL_BYTES + 1));
}

#[test]
fn another_footer_is_not_taken_for_the_known_one() {
    let form = Form::of(true).unwrap();
    assert!(Template::of(&form.parquet, &table(0)).is_some());
    assert!(Template::of(&form.parquet, &by_the_crate(&[IndexRow::default()], true)).is_none());
    for damaged in [&b""[..], b"PAR1", b"\xff\xff\xff\xffPAR1", b"\0\0\0\0PAR1"] {
        assert!(Template::of(&form.parquet, damaged).is_none());
    }
}
