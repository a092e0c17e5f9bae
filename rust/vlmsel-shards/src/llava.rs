//! Rows of LLaVA and caption JSON: what stands in one record, before any image is opened.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use serde_json::Value;
use serde_json::value::RawValue;
use vlmsel_core::hash::{Hash128, parse_uid};

use crate::json_values;

/// A record, taken apart.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    /// `id` as text; `None` where the record has none.
    pub key: Option<String>,
    /// An id of 32 hexadecimal characters that the record declares.
    pub uid: Option<Hash128>,
    /// Paths below the image root, in order.
    pub images: Vec<String>,
    /// `caption` or `text`.
    pub text: Option<String>,
    /// `conversations`, as JSON, as it was.
    pub conversations: Option<String>,
    /// Turns of the conversation.
    pub n_turns: u32,
    /// The turns' values joined by line feeds.
    pub spoken: Option<String>,
    /// The whole record as it was, if it has fields beside these.
    pub metadata: Option<Vec<u8>>,
}

const KNOWN: [&str; 7] = ["id", "uid", "image", "images", "caption", "text", "conversations"];

/// Takes a record apart; the error is the reason it is quarantined for, with what was found.
pub fn parse(bytes: &[u8], id_field: Option<&str>) -> Result<Record, (&'static str, String)> {
    let mut spare = Vec::new();
    let fields: BTreeMap<String, &RawValue> =
        json_values::parse(bytes, &mut spare).map_err(|error| ("bad_json", error.to_string()))?;
    let get = |name: &str| fields.get(name).map(|raw| raw.get()).filter(|raw| *raw != "null");
    let parsed = |name: &str| -> Result<Option<Value>, (&'static str, String)> {
        get(name).map(serde_json::from_str).transpose().map_err(|error| ("bad_json", error.to_string()))
    };
    let key = match parsed("id")? {
        None => None,
        Some(Value::String(id)) => Some(id),
        // As written: 64 bits and more survive.
        Some(Value::Number(_)) => get("id").map(ToOwned::to_owned),
        Some(other) => return Err(("bad_id", format!("id is {other}"))),
    };
    let mut record = Record { key, ..Record::default() };
    let declared = parsed(id_field.unwrap_or("uid"))?;
    record.uid = declared.as_ref().and_then(Value::as_str).and_then(parse_uid);
    if let (Some(field), None) = (id_field, record.uid) {
        let found = declared.map_or_else(|| "absent".to_owned(), |value| value.to_string());
        return Err(("bad_id", format!("{field} is no id of 32 hexadecimal characters: {found}")));
    }
    for name in ["image", "images"] {
        match parsed(name)? {
            None => {}
            Some(Value::String(path)) => record.images.push(path),
            Some(Value::Array(paths)) => {
                for path in paths {
                    match path {
                        Value::String(path) => record.images.push(path),
                        other => return Err(("bad_image_path", format!("{name} holds {other}"))),
                    }
                }
            }
            Some(other) => return Err(("bad_image_path", format!("{name} is {other}"))),
        }
    }
    for path in &record.images {
        if let Some(reason) = path_fault(path) {
            return Err((reason, path.clone()));
        }
    }
    for name in ["caption", "text"] {
        match parsed(name)? {
            None => {}
            Some(Value::String(text)) => {
                record.text.get_or_insert(text);
            }
            Some(other) => return Err(("bad_text", format!("{name} is {other}"))),
        }
    }
    if let Some(turns) = parsed("conversations")? {
        let values: Option<Vec<&str>> = turns.as_array().and_then(|turns| {
            turns.iter().map(|turn| turn.get("from").and(turn.get("value")).and_then(Value::as_str)).collect()
        });
        let Some(values) = values.filter(|values| !values.is_empty()) else {
            return Err(("bad_conversation", "conversations is no list of {from, value}".to_owned()));
        };
        record.n_turns = values.len() as u32;
        record.spoken = Some(values.join("\n"));
        record.conversations = get("conversations").map(ToOwned::to_owned);
    }
    if record.images.is_empty() && record.text.is_none() && record.conversations.is_none() {
        return Err(("no_content", "neither image, caption, text nor conversations".to_owned()));
    }
    if fields.keys().any(|name| !KNOWN.contains(&name.as_str())) {
        record.metadata = Some(bytes.to_vec());
    }
    Ok(record)
}

/// Why a path must not be opened below the image root.
fn path_fault(path: &str) -> Option<&'static str> {
    if path.is_empty() || path.contains('\0') {
        return Some("bad_image_path");
    }
    if path.len() > 4096 {
        return Some("long_name");
    }
    Path::new(path).components().find_map(|part| match part {
        Component::ParentDir => Some("parent_path"),
        Component::RootDir | Component::Prefix(_) => Some("absolute_path"),
        Component::Normal(_) | Component::CurDir => None,
    })
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
        assert_eq!((single.images.len(), single.n_turns), (1, 2));
        assert_eq!(single.spoken.as_deref(), Some("<image>\nWhat?\nA cat."));
        assert!(single.conversations.unwrap().starts_with(r#"[{"from":"human""#));
        assert_eq!(single.metadata, None);
        let many = parse(br#"{"id": "x", "image": ["a.jpg", "b.jpg"], "caption": "two", "score": 1}"#, None).unwrap();
        assert_eq!((many.images.len(), many.text.as_deref()), (2, Some("two")));
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
        assert_eq!(parse(br#"{"text": "t"}"#, Some("mine")).err().map(|e| e.0), Some("bad_id"));
    }
}
