//! The lists of a record, read straight into what is wanted of them: as trees they would take some 30 times their bytes.

use std::borrow::Cow;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{Bad, bad_json};

/// More images than this are no record's. Each is a file that is opened.
const MAX_IMAGES: usize = 10_000;

/// A list of paths.
pub struct Paths {
    kept: Vec<String>,
    count: usize,
}

impl Paths {
    /// Adds the paths that `list` holds to those of the record.
    pub fn add(name: &str, list: &str, to: &mut Vec<String>) -> Result<(), Bad> {
        let Self { kept, count } = serde_json::from_str(list).map_err(|error| {
            if error.is_data() { ("bad_image_path", format!("{name}: {error}")) } else { bad_json(&error) }
        })?;
        if to.len() + count > MAX_IMAGES {
            return Err(("too_many_images", format!("{count} images, a record has at most {MAX_IMAGES}")));
        }
        to.extend(kept);
        Ok(())
    }
}

impl<'a> Deserialize<'a> for Paths {
    fn deserialize<D: Deserializer<'a>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;

        impl<'a> Visitor<'a> for List {
            type Value = Paths;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a path or a list of paths")
            }

            fn visit_seq<A: SeqAccess<'a>>(self, mut list: A) -> Result<Paths, A::Error> {
                let mut paths = Paths { kept: Vec::new(), count: 0 };
                while let Some(path) = list.next_element::<String>()? {
                    paths.count += 1;
                    if paths.count <= MAX_IMAGES {
                        paths.kept.push(path);
                    }
                }
                Ok(paths)
            }
        }
        deserializer.deserialize_seq(List)
    }
}

/// What is said in a conversation.
pub struct Turns {
    /// How many turns there are.
    pub count: u32,
    /// Their values joined by line feeds.
    pub spoken: String,
    /// The first value that is no text that can be read.
    broken: Option<serde_json::Error>,
}

impl Turns {
    /// Reads a list of `{from, value}`.
    pub fn read(list: &str) -> Result<Self, Bad> {
        // That it is JSON was seen before, so an error says that it is a list of something else.
        match serde_json::from_str::<Self>(list) {
            Ok(Self { broken: Some(error), .. }) => Err(bad_json(&error)),
            Ok(turns) if turns.count > 0 => Ok(turns),
            _ => Err(("bad_conversation", "conversations is no list of {from, value}".to_owned())),
        }
    }
}

impl<'a> Deserialize<'a> for Turns {
    fn deserialize<D: Deserializer<'a>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;

        impl<'a> Visitor<'a> for List {
            type Value = Turns;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a list of turns")
            }

            fn visit_seq<A: SeqAccess<'a>>(self, mut list: A) -> Result<Turns, A::Error> {
                let mut turns = Turns { count: 0, spoken: String::new(), broken: None };
                while let Some(Turn(value)) = list.next_element()? {
                    if turns.count > 0 {
                        turns.spoken.push('\n');
                    }
                    turns.count += 1;
                    match serde_json::from_str::<Cow<'_, str>>(value) {
                        Ok(value) => turns.spoken.push_str(&value),
                        Err(error) => {
                            turns.broken.get_or_insert(error);
                        }
                    }
                }
                Ok(turns)
            }
        }
        deserializer.deserialize_seq(List)
    }
}

/// What one turn says, a string as it is written. It also has to say who speaks.
struct Turn<'a>(&'a str);

impl<'a> Deserialize<'a> for Turn<'a> {
    fn deserialize<D: Deserializer<'a>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'a> Visitor<'a> for Object {
            type Value = Turn<'a>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a turn")
            }

            fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<Turn<'a>, A::Error> {
                // The last of a repeated key holds, as everywhere.
                let (mut has_speaker, mut value) = (false, "");
                while let Some(key) = map.next_key::<Cow<'_, str>>()? {
                    let raw: &RawValue = map.next_value()?;
                    if key == "value" {
                        value = raw.get();
                    }
                    has_speaker |= key == "from";
                }
                if has_speaker && value.starts_with('"') {
                    Ok(Turn(value))
                } else {
                    Err(A::Error::custom("a turn without speaker or value"))
                }
            }
        }
        deserializer.deserialize_map(Object)
    }
}
