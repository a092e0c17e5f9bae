//! No bytes make the readers of JSON records panic, and what they take for a record is one value.

use vlmsel_shards::formats::json_stream::{JsonValues, MAX_VALUE_BYTES, Value, parse};
use vlmsel_shards::formats::llava;

/// Reads `bytes` as JSON lines or a JSON list, compressed if they begin so, and every value as a record.
pub fn check(bytes: &[u8]) {
    let folder = super::scratch();
    let name = match bytes {
        [0x1f, 0x8b, ..] => "t.jsonl.gz",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "t.jsonl.zst",
        _ => "t.json",
    };
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).expect("there is room");
    let Ok(mut values) = JsonValues::open(&path) else { return };
    let mut expected = 0;
    while let Ok(Some((number, value))) = values.read_next() {
        assert_eq!(number, expected);
        expected += 1;
        match value {
            Value::Refused(reason) => assert!(!reason.is_empty()),
            Value::Json(json) => {
                assert!(json.len() <= MAX_VALUE_BYTES && json == json.trim_ascii());
                read(&json);
            }
        }
    }
}

fn read(json: &[u8]) {
    let (mut spare, mut other) = (Vec::new(), Vec::new());
    let _ = parse::<serde_json::Value>(json, &mut spare);
    // What stands in unknown fields is kept as it was, half a surrogate pair too, which is no value.
    let is_json = parse::<&serde_json::value::RawValue>(json, &mut other).is_ok();
    for id_field in [None, Some("uid"), Some("id")] {
        if let Ok(record) = llava::parse(json, id_field) {
            assert!(is_json);
            assert!(
                !record.images.iter().any(|path| path.starts_with('/') || path.split('/').any(|part| part == ".."))
            );
            assert!(record.said.conversations.is_some() == (record.said.n_turns > 0));
        }
    }
}
