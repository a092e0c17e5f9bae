//! Codes of an index's images, made of the index alone, as dedup makes them.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::ffi::OsString;
use std::path::Path;

use vlmsel_core::image_code::{ImageCodes, LOW_QUALITY};
use vlmsel_pipeline::codes::{self, CodesOptions, CodesSummary, place_beside};
use vlmsel_pipeline::error::Result;
use vlmsel_pipeline::index::{IndexOptions, IndexSummary, index};
use vlmsel_pipeline::progress::Progress;
use vlmsel_pipeline::run_options::RunOptions;
use vlmsel_pipeline::sources::SourceOptions;
use vlmsel_shards::error::ErrorClass;
use vlmsel_shards::formats::reader::ReadOptions;
use vlmsel_shards::tables::codes::{CodeRow, CodesReader};
use vlmsel_shards::workspace::manifest::Manifest;

/// A bitmap of 24 bits and 8 rows; every picture another one.
fn picture(number: u32, width: u32) -> Vec<u8> {
    let row_bytes = (width * 3).next_multiple_of(4);
    let mut bytes = b"BM".to_vec();
    for word in [54 + row_bytes * 8, 0, 54, 40, width, 8, 24 << 16 | 1, 0, row_bytes * 8, 0, 0, 0, 0] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend((0..row_bytes * 8).map(|at| (at * (7 + number) * 40 % 251 + at / row_bytes * 13 % 200) as u8));
    bytes
}

/// A folder of eight pictures that ten records name, two of them both of the last.
fn data(folder: &Path) {
    let mut lines = Vec::new();
    for number in 0..8 {
        std::fs::write(folder.join(format!("{number}.bmp")), picture(number, 40)).unwrap();
        lines.push(format!("{{\"image\": \"{number}.bmp\", \"text\": \"t{number}\"}}"));
    }
    lines.push("{\"text\": \"no image\"}".to_owned());
    lines.push("{\"images\": [\"6.bmp\", \"7.bmp\"], \"text\": \"both\"}".to_owned());
    std::fs::write(folder.join("list.jsonl"), lines.join("\n")).unwrap();
}

fn make_index(folder: &Path, image_codes: bool) -> Result<IndexSummary> {
    let sources = vec![OsString::from(folder.join("data/list.jsonl"))];
    let options = IndexOptions {
        data: SourceOptions { sources, ..SourceOptions::default() },
        read: ReadOptions::default(),
        output: folder.join("index"),
        image_codes,
        run: RunOptions::default(),
    };
    index(&options, &Progress::default())
}

fn make_codes(folder: &Path, run: RunOptions) -> Result<CodesSummary> {
    let (index, output) = (folder.join("index"), place_beside(&folder.join("index")));
    let options = CodesOptions { index, output, named_sources: Vec::new(), image_root: None, run };
    codes::codes(&options, &Progress::default())
}

fn rows(folder: &Path) -> Vec<CodeRow> {
    let codes = folder.join("codes");
    let manifest = Manifest::read(&codes).unwrap().unwrap();
    let files = manifest.parts.iter().flat_map(|part| &part.files);
    let readers = files.map(|file| CodesReader::open(&codes.join(&file.file)).unwrap());
    readers.flatten().flat_map(|rows| rows.unwrap()).collect()
}

fn lenient() -> RunOptions {
    RunOptions { max_bad_fraction: 1.0, ..RunOptions::default() }
}

fn prepared() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("data")).unwrap();
    data(&folder.path().join("data"));
    folder
}

#[test]
fn one_row_for_each_image_in_the_order_of_the_index() {
    let folder = prepared();
    make_index(folder.path(), false).unwrap();
    let summary = make_codes(folder.path(), RunOptions::default()).unwrap();
    assert_eq!((summary.images, summary.ok, summary.parts), (10, 10, 1));
    let made = rows(folder.path());
    let places: Vec<u32> = made.iter().map(|row| row.image).collect();
    assert_eq!(places, [0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    assert_eq!((made[8].coded, made[9].coded), (made[6].coded, made[7].coded));
    assert_eq!(made[8].uid, made[9].uid);
    let different: std::collections::BTreeSet<u64> =
        made.iter().map(|row| row.coded.map(|ImageCodes { phash, .. }| phash).unwrap()).collect();
    assert_eq!(different.len(), 8);
    assert!(made.iter().all(|row| row.coded.is_ok_and(|codes| codes.quality >= LOW_QUALITY)));
    assert!(make_codes(folder.path(), RunOptions::default()).unwrap().already_finished);
}

#[test]
fn what_is_no_longer_what_was_indexed_is_named_and_tried_again() {
    let folder = prepared();
    make_index(folder.path(), false).unwrap();
    let at = |name: &str| folder.path().join("data").join(name);
    std::fs::write(at("1.bmp"), picture(100, 40)).unwrap();
    std::fs::write(at("2.bmp"), picture(2, 44)).unwrap();
    std::fs::remove_file(at("3.bmp")).unwrap();
    assert_eq!(make_codes(folder.path(), RunOptions::default()).unwrap_err().class(), ErrorClass::Unreadable);
    assert!(!folder.path().join("codes").exists());
    let summary = make_codes(folder.path(), lenient()).unwrap();
    let reasons: Vec<(&str, u64)> = summary.reasons.iter().map(|(reason, count)| (reason.as_str(), *count)).collect();
    assert_eq!(reasons, [("changed", 2), ("missing_image", 1)]);
    assert_eq!((summary.images, summary.ok), (10, 7));
    let named: Vec<_> = rows(folder.path()).iter().map(|row| row.coded.err()).collect();
    assert_eq!(named[..4], [None, Some("changed"), Some("changed"), Some("missing_image")]);
    // Whoever tolerates less is refused what stands; nothing in it is changed unasked.
    data(&folder.path().join("data"));
    assert_eq!(make_codes(folder.path(), lenient()).unwrap_err().class(), ErrorClass::Mismatch);
    let mended = make_codes(folder.path(), RunOptions { overwrite: true, ..RunOptions::default() }).unwrap();
    assert_eq!((mended.ok, mended.reasons.len()), (10, 0));
}

#[test]
fn codes_of_an_index_that_was_made_anew_are_made_anew() {
    let folder = prepared();
    make_index(folder.path(), true).unwrap();
    let before = rows(folder.path());
    // The list is as it was, so its fingerprint is too; the pictures are others.
    for number in 0..8 {
        std::fs::write(folder.path().join(format!("data/{number}.bmp")), picture(number + 20, 40)).unwrap();
    }
    std::fs::remove_dir_all(folder.path().join("index")).unwrap();
    make_index(folder.path(), false).unwrap();
    assert_eq!(make_codes(folder.path(), RunOptions::default()).unwrap_err().class(), ErrorClass::Mismatch);
    make_codes(folder.path(), RunOptions { overwrite: true, ..RunOptions::default() }).unwrap();
    let after = rows(folder.path());
    assert_eq!(after.len(), before.len());
    assert!(before.iter().zip(&after).all(|(before, after)| before.uid == after.uid && before.coded != after.coded));
}

#[test]
fn a_picture_beyond_the_memory_limit_ends_the_run_and_leaves_none_out() {
    let folder = prepared();
    // 3,000 x 8 pixels are nothing; a header of 20,000 rows is a picture that no small limit decodes.
    let mut large = picture(0, 40);
    large[22..26].copy_from_slice(&200_000_u32.to_le_bytes());
    large[18..22].copy_from_slice(&40_u32.to_le_bytes());
    std::fs::write(folder.path().join("data/0.bmp"), &large).unwrap();
    make_index(folder.path(), false).unwrap();
    let summary = make_codes(folder.path(), lenient()).unwrap();
    assert_eq!(summary.reasons.get("huge_image"), Some(&1), "a side beyond what is decoded");
    large[18..26].copy_from_slice(&[0x00, 0x10, 0, 0, 0x00, 0x10, 0, 0]);
    std::fs::write(folder.path().join("data/0.bmp"), &large).unwrap();
    let folder_of = |name: &str| folder.path().join(name);
    std::fs::remove_dir_all(folder_of("index")).unwrap();
    std::fs::remove_dir_all(folder_of("codes")).unwrap();
    make_index(folder.path(), false).unwrap();
    let small = RunOptions { memory_limit: 96 << 20, ..lenient() };
    assert_eq!(make_codes(folder.path(), small).unwrap_err().class(), ErrorClass::Resource);
    assert_eq!(make_codes(folder.path(), lenient()).unwrap().reasons.get("truncated_image"), Some(&1));
}
