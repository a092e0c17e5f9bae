//! Exact copies with hashes that tell too little: what is equal, contents say.

use std::collections::BTreeMap;

use serde_json::json;
use vlmsel_core::hash::{Hash128, normalise_text};
use vlmsel_shards::formats::reader::ReadOptions;
use vlmsel_shards::workspace::manifest::Manifest;

use super::*;
use crate::index::{IndexOptions, index};
use crate::run_options::RunOptions;
use crate::sources::SourceOptions;

/// A record: its images by number, and its text.
type Record = (Vec<usize>, Option<String>);

const PICTURES: usize = 5;
// A GIF of one pixel; the byte at 13 is of its colours.
const GIF: &[u8] = b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;";

fn zero(_: &[u8]) -> Hash128 {
    [0; 16]
}

fn eight_bits(content: &[u8]) -> Hash128 {
    let mut key = [0; 16];
    key[0] = KEY_HASH(content)[0];
    key
}

/// Records with few texts and few pictures, so that every field repeats alone and with the other.
fn records(count: usize) -> Vec<Record> {
    let mut state = 1_u64;
    let mut below = |end: usize| {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (state >> 33) as usize % end
    };
    let mut draw = || {
        let images = [0, 1, 1, 1, 2][below(5)];
        let images: Vec<usize> = (0..images).map(|_| below(PICTURES)).collect();
        let number = below(300);
        let text = [format!("text {number}"), format!(" text\t {number}  "), format!("T{number}"), " \n".to_owned()];
        let text = Some(text[below(4)].clone()).filter(|_| images.is_empty() || below(10) > 0);
        (images, text)
    };
    (0..count).map(|_| draw()).collect()
}

fn indexed(folder: &Path, records: &[Record]) -> IndexRows {
    let root = folder.join("pool");
    std::fs::create_dir(&root).unwrap();
    for number in 0..PICTURES {
        let mut picture = GIF.to_vec();
        picture[13] = number as u8;
        std::fs::write(root.join(format!("{number}.gif")), picture).unwrap();
    }
    let line = |(at, (images, text)): (usize, &Record)| {
        let images: Vec<String> = images.iter().map(|number| format!("{number}.gif")).collect();
        let mut record = json!({ "id": at, "images": images });
        if let Some(text) = text {
            record["caption"] = json!(text);
        }
        format!("{record}\n")
    };
    std::fs::write(root.join("list.jsonl"), records.iter().enumerate().map(line).collect::<String>()).unwrap();
    let data = SourceOptions { sources: vec![root.into_os_string()], ..SourceOptions::default() };
    let output = folder.join("index");
    let run = RunOptions { threads: 2, ..RunOptions::default() };
    let options = IndexOptions { data, read: ReadOptions::default(), output: output.clone(), image_codes: false, run };
    let summary = index(&options, &Progress::default()).unwrap();
    assert_eq!(summary.ok, records.len() as u64, "{:?}", summary.reasons);
    IndexRows::new(&output, Manifest::read(&output).unwrap().unwrap()).unwrap()
}

/// Rows of each content that is there more than once, by the smallest of them.
fn reference(field: Field, records: &[Record]) -> Vec<(u32, Vec<u32>)> {
    type Known<'a> = (Option<&'a [usize]>, Option<String>);
    let mut rows: BTreeMap<Known<'_>, Vec<u32>> = BTreeMap::new();
    for (row, (images, text)) in records.iter().enumerate() {
        let text = text.as_deref().map(normalise_text).filter(|text| !text.is_empty());
        let (wants_images, wants_text) = (field != Field::Text, field != Field::Image);
        if (wants_images && images.is_empty()) || (wants_text && text.is_none()) {
            continue;
        }
        let content = (wants_images.then_some(&images[..]), text.filter(|_| wants_text));
        rows.entry(content).or_default().push(row as u32);
    }
    let mut classes: Vec<_> = rows.into_values().filter(|rows| rows.len() > 1).map(|rows| (rows[0], rows)).collect();
    classes.sort_unstable();
    classes
}

#[test]
fn hashes_that_tell_little_or_nothing_give_the_same_classes() {
    let folder = tempfile::tempdir().unwrap();
    let records = records(2000);
    let index = indexed(folder.path(), &records);
    let progress = Progress::default();
    for field in [Field::Pair, Field::Text, Field::Image] {
        let expected = reference(field, &records);
        assert!(expected.len() > 20, "{field:?}: {} classes", expected.len());
        for hash in [KEY_HASH, zero, eight_bits] {
            for (memory, threads) in [(1 << 30, 2), (1 << 16, 1)] {
                let bounds = Bounds { scratch: folder.path(), memory, threads, progress: &progress };
                let mut found = Vec::new();
                let take = |class, rows: &[u32]| {
                    found.push((class, rows.to_vec()));
                    Ok(())
                };
                classes(&index, field, Equality { hash, images: None }, bounds).unwrap().in_order(take).unwrap();
                assert_eq!(found, expected, "{field:?}");
            }
        }
    }
}
