//! The wanted fields of one JSON object, as they are written; of the others nothing is kept but their number.
//!
//! A tree of the whole object costs some 20 times its bytes, and a record may have many megabytes of them.

use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Why a record is put aside, and what was found.
pub type Reason = (&'static str, String);

/// An object of more keys is no record.
pub const MAX_KEYS: usize = 10_000;

/// The wanted fields of an object.
#[derive(Debug)]
pub struct Fields<'a, 'n> {
    names: &'n [&'n str],
    values: Vec<Option<&'a RawValue>>,
    /// Keys of the object, repeats included.
    pub keys: usize,
    /// Whether it has a key that is not wanted.
    pub has_others: bool,
}

impl<'a> Fields<'a, '_> {
    /// The field as it is written; of a key that comes twice the last one, as Python's `json` has it.
    pub fn get(&self, name: &str) -> Option<&'a str> {
        let place = self.names.iter().position(|wanted| *wanted == name)?;
        self.values.get(place).copied().flatten().map(RawValue::get)
    }

    /// The reason for which a record of so many keys is put aside, with what was found.
    ///
    /// # Errors
    /// If it has more than [`MAX_KEYS`].
    pub fn check_keys(&self) -> Result<(), Reason> {
        check_keys(self.keys)
    }
}

/// As [`Fields::check_keys`].
pub(crate) fn check_keys(keys: usize) -> Result<(), Reason> {
    if keys > MAX_KEYS {
        return Err(("too_many_keys", format!("{keys} keys, a record has at most {MAX_KEYS}")));
    }
    Ok(())
}

/// Reads the object that `json` is.
///
/// # Errors
/// What is wrong with the JSON; one that is no object is an error of [`serde_json::error::Category::Data`].
pub fn fields<'a, 'n>(json: &'a [u8], names: &'n [&'n str]) -> serde_json::Result<Fields<'a, 'n>> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let fields = Fields { names, values: vec![None; names.len()], keys: 0, has_others: false };
    let found = Object(fields).deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(found)
}

pub(super) fn bad_json(error: &serde_json::Error) -> Reason {
    ("bad_json", error.to_string())
}

pub(super) fn string(raw: &str) -> Result<String, Reason> {
    serde_json::from_str(raw).map_err(|error| bad_json(&error))
}

/// As much as a message shows of what may be many megabytes.
pub(super) fn shown(raw: &str) -> String {
    raw.chars().take(200).collect()
}

struct Object<'a, 'n>(Fields<'a, 'n>);

impl<'a, 'n> DeserializeSeed<'a> for Object<'a, 'n> {
    type Value = Fields<'a, 'n>;

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'a, 'n> Visitor<'a> for Object<'a, 'n> {
    type Value = Fields<'a, 'n>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = self.0;
        while let Some(place) = map.next_key_seed(Key(fields.names))? {
            // Also of a field that nobody wants, so that all of the record is seen to be UTF-8.
            let value: &RawValue = map.next_value()?;
            fields.keys += 1;
            match place {
                Some(place) => fields.values[place] = Some(value),
                None => fields.has_others = true,
            }
        }
        Ok(fields)
    }
}

/// Finds a key's place among the wanted ones.
struct Key<'n>(&'n [&'n str]);

impl<'a> DeserializeSeed<'a> for Key<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.iter().position(|name| *name == key))
    }
}

/// Names the keys of an object to `visit`, in order, repeats included.
///
/// # Errors
/// As of [`fields`].
pub(crate) fn visit_keys(json: &str, visit: &mut dyn FnMut(&str)) -> serde_json::Result<()> {
    struct Names<'v>(&'v mut dyn FnMut(&str));
    struct Name<'v>(&'v mut dyn FnMut(&str));

    impl<'a> Visitor<'a> for Names<'_> {
        type Value = ();

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
            while map.next_key_seed(Name(&mut *self.0))?.is_some() {
                map.next_value::<serde::de::IgnoredAny>()?;
            }
            Ok(())
        }
    }

    impl<'a> DeserializeSeed<'a> for Name<'_> {
        type Value = ();

        fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<(), D::Error> {
            deserializer.deserialize_str(self)
        }
    }

    impl Visitor<'_> for Name<'_> {
        type Value = ();

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a key")
        }

        fn visit_str<E>(self, key: &str) -> Result<(), E> {
            (self.0)(key);
            Ok(())
        }
    }

    let mut deserializer = serde_json::Deserializer::from_str(json);
    deserializer.deserialize_map(Names(visit))?;
    deserializer.end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wanted_fields_are_kept_and_the_last_of_a_repeated_key_holds() {
        let json = br#" {"a": [1, {"b": 2}], "b": 1, "\u0062": "x", "c": null} "#;
        let found = fields(json, &["b", "c", "d"]).unwrap();
        assert_eq!((found.get("b"), found.get("c"), found.get("d")), (Some(r#""x""#), Some("null"), None));
        assert_eq!((found.get("a"), found.keys, found.has_others), (None, 4, true));
        assert!(!fields(br#"{"b": 1}"#, &["b"]).unwrap().has_others);
    }

    #[test]
    fn what_is_no_object_is_told_apart() {
        for wrong in ["[1]", "3", "null", "\"a\""] {
            assert!(fields(wrong.as_bytes(), &["a"]).unwrap_err().is_data(), "{wrong}");
        }
        for wrong in ["{", "{} x", "{\"a\": }", "{a: 1}", "{1: 1}", "{\"a\": 1,}", ""] {
            assert!(!fields(wrong.as_bytes(), &["a"]).unwrap_err().is_data(), "{wrong}");
        }
        assert!(fields(b"{\"b\": \"\xff\"}", &["a"]).is_err(), "not UTF-8 where nobody looks");
    }

    #[test]
    fn a_million_keys_are_counted_and_not_kept() {
        let mut json = String::from("{");
        json.extend((0..1_000_000).map(|n| format!("\"{n}\":0,")));
        json.push_str("\"a\":1}");
        let found = fields(json.as_bytes(), &["a"]).unwrap();
        assert_eq!((found.get("a"), found.keys), (Some("1"), 1_000_001));
        assert_eq!(found.check_keys().unwrap_err().0, "too_many_keys");
    }
}
