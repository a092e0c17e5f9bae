//! Rows of LLaVA and caption JSON: what stands in one record, before any image is opened.

use vlmsel_core::hash::{Hash128, parse_uid};

use crate::formats::json_fields::{Fields, Reason, bad_json, fields, shown, string};
use crate::formats::json_stream::with_nulls;
use crate::formats::location::path_fault;
use crate::formats::said::{Captions, FIELDS, KEPT, Said};
use crate::workspace::quarantine::Bad;

mod lists;
pub mod reader;

use self::lists::Paths;

/// A record, taken apart.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    /// `id` as text; `None` where the record has none.
    pub key: Option<String>,
    /// An id of 128 bits that the record declares.
    pub uid: Option<Hash128>,
    /// Paths below the image root, in order.
    pub images: Vec<String>,
    /// Media of other kinds that it names, which are not read.
    pub others: Vec<Bad>,
    /// What it says.
    pub said: Said,
    /// The whole record as it was, if it has fields that the index has no columns for.
    pub metadata: Option<Vec<u8>>,
}

/// Fields that the index has columns for.
const KEPT_HERE: [&str; 5] = ["id", "uid", "image", "images", "file_name"];
/// Fields that name media which are not read.
const OTHER_MEDIA: [&str; 4] = ["video", "videos", "audio", "audios"];

/// Takes a record apart; the error is the reason it is quarantined for, with what was found.
pub fn parse(bytes: &[u8], id_field: Option<&str>) -> Result<Record, Reason> {
    let known = [&KEPT_HERE[..], &FIELDS, &OTHER_MEDIA].concat();
    let foreign = id_field.filter(|field| !known.contains(field));
    let names: Vec<&str> = known.iter().copied().chain(foreign).collect();
    let read = |json: &[u8]| {
        fields(json, &names).map(|found| {
            let is_more =
                |name: &&&str| !KEPT_HERE.contains(*name) && !KEPT.contains(*name) && found.get(name).is_some();
            let has_more = found.has_others || names.iter().any(|name| is_more(&name));
            take_apart(&found, id_field, has_more.then_some(bytes))
        })
    };
    with_nulls(bytes, read).map_err(|error| bad_json(&error))?
}

fn take_apart(fields: &Fields<'_, '_>, id_field: Option<&str>, metadata: Option<&[u8]>) -> Result<Record, Reason> {
    fields.check_keys()?;
    let get = |name: &str| fields.get(name).filter(|raw| *raw != "null");
    let mut record = Record::default();
    if let Some(id) = get("id") {
        record.key = match id.as_bytes().first() {
            Some(b'"') => Some(string(id)?),
            // As written: 64 bits and more survive.
            Some(b'-' | b'0'..=b'9') => Some(id.to_owned()),
            _ => return Err(("bad_id", format!("id is {}", shown(id)))),
        };
    }
    let declared = get(id_field.unwrap_or("uid"));
    if let Some(declared) = declared.filter(|raw| raw.starts_with('"')) {
        record.uid = parse_uid(&string(declared)?);
    }
    if let (Some(field), None) = (id_field, record.uid) {
        let found = declared.map_or_else(|| "absent".to_owned(), shown);
        return Err(("bad_id", format!("{field} is no id of 128 bits: {found}")));
    }
    let mut said = Said::read(fields, Captions::Strict)?;
    for name in ["image", "images"] {
        match get(name) {
            None => {}
            Some("\"\"") => said.notes.push(Bad::new("empty_image_path", format!("{name} is an empty string"))),
            Some(path) if path.starts_with('"') => record.images.push(string(path)?),
            Some(list) => Paths::add(name, list, &mut record.images)?,
        }
    }
    if record.images.is_empty() {
        record.images = std::mem::take(&mut said.images);
    }
    // Hugging Face's folders of images have a metadata.jsonl with this field.
    if let (true, Some(name)) =
        (record.images.is_empty(), get("file_name").filter(|raw| raw.len() > 2 && raw.starts_with('"')))
    {
        record.images.push(string(name)?);
    }
    for path in &record.images {
        // What lies elsewhere is no path; it is told when the image is looked at.
        if let Some(reason) = path_fault(path).filter(|_| !is_remote(path)) {
            return Err((reason, path.clone()));
        }
    }
    for name in OTHER_MEDIA {
        if let Some(found) = get(name).filter(|raw| !matches!(*raw, "\"\"" | "[]")) {
            record.others.push(Bad::new("unsupported_medium", format!("{name}: {}", shown(found))));
        }
    }
    if record.images.is_empty() && record.others.is_empty() && said.is_empty() {
        let unread: Vec<&str> = said.notes.iter().map(|note| note.detail.as_str()).collect();
        let text = if unread.is_empty() {
            "neither image, caption, text nor conversation".to_owned()
        } else {
            format!("nothing that is read: {}", unread.join(", "))
        };
        return Err(("no_content", text));
    }
    record.said = said;
    record.metadata = metadata.map(ToOwned::to_owned);
    Ok(record)
}

/// Whether an image lies somewhere else than in a file below the root: at a URL, or in the record itself.
pub fn is_remote(path: &str) -> bool {
    ["http://", "https://", "s3://", "gs://", "hf://", "data:"].iter().any(|start| path.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(text: &str) -> &'static str {
        parse(text.as_bytes(), None).err().map_or("", |(reason, _)| reason)
    }

    #[test]
    fn the_forms_that_people_write() {
        let single = parse(br#"{"id": 12345678901234567890123, "image": "a/b.jpg", "conversations": [{"from":"human","value":"<image>\nWhat?"}, {"from": "gpt", "value": "A cat."}]}"#, None).unwrap();
        assert_eq!(single.key.as_deref(), Some("12345678901234567890123"));
        assert_eq!((single.images.len(), single.said.n_turns), (1, 2));
        assert_eq!(single.said.spoken.as_deref(), Some("<image>\nWhat?\nA cat."));
        assert!(single.said.conversations.unwrap().starts_with(r#"[{"from":"human""#));
        assert_eq!(single.metadata, None);
        let many = parse(br#"{"id": "x", "image": ["a.jpg", "b.jpg"], "caption": "two", "score": 1}"#, None).unwrap();
        assert_eq!((many.images.len(), many.said.text.as_deref()), (2, Some("two")));
        assert!(many.metadata.is_some());
        let text_only = parse(br#"{"image": null, "text": "t"}"#, None).unwrap();
        assert_eq!((text_only.images.len(), text_only.key), (0, None));
        let declared = parse(br#"{"uid": "000102030405060708090a0b0c0d0e0f", "text": "t"}"#, None).unwrap();
        assert_eq!(declared.uid.map(|uid| uid[15]), Some(15));
    }

    #[test]
    fn what_is_wrong_has_a_name() {
        assert_eq!(reason("{"), "bad_json");
        assert_eq!(reason("[1]"), "bad_json");
        assert_eq!(reason(r#"{"id": {}, "text": "t"}"#), "bad_id");
        assert_eq!(reason(r#"{"image": 3}"#), "bad_image_path");
        assert_eq!(reason(r#"{"image": ["a", 3]}"#), "bad_image_path");
        assert_eq!(reason(r#"{"image": "../a.jpg"}"#), "parent_path");
        assert_eq!(reason(r#"{"image": "/etc/passwd"}"#), "absolute_path");
        assert_eq!(reason(r#"{"image": "a\u0000.jpg"}"#), "bad_image_path");
        assert_eq!(reason(r#"{"text": []}"#), "bad_text");
        assert_eq!(reason(r#"{"conversations": [{"value": "x"}]}"#), "bad_conversation");
        assert_eq!(reason(r#"{"id": 1}"#), "no_content");
        assert_eq!(reason(r#"{"conversations": [["human", "x"]]}"#), "bad_conversation");
        assert_eq!(reason(r#"{"conversations": [{"from": "human", "value": 3}]}"#), "bad_conversation");
        assert_eq!(reason(r#"{"conversations": []}"#), "bad_conversation");
        assert_eq!(reason(r#"{"conversations": {"from": "human", "value": "x"}}"#), "bad_conversation");
        assert_eq!(reason(r#"{"conversations": [{"from": "human", "value": "\ud800"}]}"#), "bad_json");
        assert_eq!(reason(r#"{"image": {"path": "a.jpg"}}"#), "bad_image_path");
        assert_eq!(reason(r#"{"image": [["a.jpg"]]}"#), "bad_image_path");
        assert_eq!(parse(br#"{"text": "t"}"#, Some("mine")).err().map(|e| e.0), Some("bad_id"));
    }

    #[test]
    fn of_a_key_that_comes_twice_the_last_one_holds() {
        let json = br#"{"text": 3, "id": 1, "text": "t", "id": "x", "conversations": [{"value": 1, "from": null, "value": "v", "more": []}]}"#;
        let record = parse(json, None).unwrap();
        assert_eq!((record.key.as_deref(), record.said.text.as_deref()), (Some("x"), Some("t")));
        assert_eq!((record.said.n_turns, record.said.spoken.as_deref(), record.metadata), (1, Some("v"), None));
    }

    #[test]
    fn a_field_for_ids_is_kept_with_the_record() {
        let json = br#"{"text": "t", "mine": "000102030405060708090a0b0c0d0e0f"}"#;
        assert_eq!(parse(json, Some("mine")).unwrap().metadata.as_deref(), Some(&json[..]));
        let json = br#"{"text": "t", "uid": "000102030405060708090a0b0c0d0e0f"}"#;
        assert_eq!(parse(json, Some("uid")).unwrap().metadata, None);
    }

    #[test]
    fn constants_that_python_writes_are_null() {
        let record = parse(br#"{"text": "NaN", "caption": NaN, "score": -Infinity}"#, None).unwrap();
        assert_eq!(record.said.text.as_deref(), Some("NaN"));
        assert!(record.metadata.unwrap().ends_with(b"-Infinity}"));
    }

    #[test]
    fn records_without_end_are_put_aside() {
        let many = |count: usize, piece: &dyn Fn(usize) -> String| -> String {
            (0..count).map(piece).collect::<Vec<_>>().join(",")
        };
        assert_eq!(
            reason(&format!(r#"{{"text": "t", {}}}"#, many(20_000, &|n| format!("\"{n}\": 0")))),
            "too_many_keys"
        );
        let paths = |count| format!(r#"{{"images": [{}]}}"#, many(count, &|_| "\"a\"".to_owned()));
        assert_eq!((reason(&paths(10_000)), reason(&paths(10_001))), ("", "too_many_images"));
        // Turns cost what is spoken.
        let turns = many(1_000_000, &|_| r#"{"from":0,"value":""}"#.to_owned());
        let record = parse(format!(r#"{{"conversations": [{turns}]}}"#).as_bytes(), None).unwrap();
        assert_eq!((record.said.n_turns, record.said.spoken.map(|spoken| spoken.len())), (1_000_000, Some(999_999)));
    }
}
