//! The turns of a conversation, as LLaVA (`from`, `value`) or chat templates (`role`, `content`) write them, read straight into what
//! is wanted of them: as trees they would take some 30 times their bytes.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::formats::json_fields::{Reason, bad_json};

/// What stands for the next image in what a user says.
const PLACEHOLDER: &str = "<image>";

/// What is said in a conversation.
#[derive(Debug, Default)]
pub struct Turns {
    /// How many turns there are.
    pub count: u32,
    /// What is said in them, joined by line feeds.
    pub spoken: String,
    /// How many places for images the user's turns have.
    pub placeholders: u32,
    /// Paths that parts of type `image` name, in order; empty where they only mark the place.
    pub images: Vec<String>,
    /// The first value that is no text that can be read.
    broken: Option<serde_json::Error>,
}

impl Turns {
    /// Reads a list of turns; `name` is the field that it stands in.
    ///
    /// # Errors
    /// `bad_conversation` for anything else, `bad_json` for strings that are none.
    pub fn read(name: &str, list: &str) -> Result<Self, Reason> {
        // That it is JSON was seen before, so an error says that it is a list of something else.
        match serde_json::from_str::<Self>(list) {
            Ok(Self { broken: Some(error), .. }) if error.is_data() => {
                Err(("bad_conversation", format!("{name}: {error}")))
            }
            Ok(Self { broken: Some(error), .. }) => Err(bad_json(&error)),
            Ok(turns) if turns.count > 0 => Ok(turns),
            Ok(_) => Err(("bad_conversation", format!("{name} has no turns"))),
            Err(error) => Err(("bad_conversation", format!("{name} is no list of turns: {error}"))),
        }
    }

    fn add(&mut self, turn: &Turn<'_>) {
        if self.count > 0 {
            self.spoken.push('\n');
        }
        self.count += 1;
        let is_user = matches!(&*turn.speaker, "human" | "user");
        let said = if turn.said.starts_with('[') {
            self.add_parts(turn.said, is_user)
        } else {
            self.add_text(turn.said, is_user)
        };
        if let Err(error) = said {
            self.broken.get_or_insert(error);
        }
    }

    fn add_text(&mut self, raw: &str, is_user: bool) -> serde_json::Result<()> {
        let text: Cow<'_, str> = serde_json::from_str(raw)?;
        if is_user {
            self.placeholders += text.matches(PLACEHOLDER).count() as u32;
        }
        self.spoken.push_str(&text);
        Ok(())
    }

    fn add_parts(&mut self, raw: &str, is_user: bool) -> serde_json::Result<()> {
        let mut deserializer = serde_json::Deserializer::from_str(raw);
        Parts { turns: self, is_user }.deserialize(&mut deserializer)
    }

    fn add_part(&mut self, part: Part<'_>, is_user: bool) {
        if let Some(text) = part.text.filter(|_| part.kind == "text") {
            self.spoken.push_str(&text);
        }
        if is_user && matches!(&*part.kind, "image" | "image_url") {
            self.placeholders += 1;
            let named = [part.image, part.path, part.url, part.image_url].into_iter().flatten().find_map(path_of);
            self.images.extend(named);
        }
    }
}

/// Takes the parts of a message in one by one: there may be millions.
struct Parts<'t> {
    turns: &'t mut Turns,
    is_user: bool,
}

impl<'a> DeserializeSeed<'a> for Parts<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'a> Visitor<'a> for Parts<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a list of parts")
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(part) = list.next_element::<Part<'_>>()? {
            self.turns.add_part(part, self.is_user);
        }
        Ok(())
    }
}

/// A path that stands as a string, or as the `url` or `path` of an object.
fn path_of(raw: &RawValue) -> Option<String> {
    #[derive(Deserialize)]
    struct Named {
        url: Option<String>,
        path: Option<String>,
    }
    let text = raw.get();
    if text.starts_with('"') {
        return serde_json::from_str(text).ok();
    }
    let named: Named = serde_json::from_str(text).ok()?;
    named.url.or(named.path)
}

/// A part of a message's content.
#[derive(Deserialize)]
#[serde(expecting = "a part")]
struct Part<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    text: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    image: Option<&'a RawValue>,
    #[serde(borrow, default)]
    path: Option<&'a RawValue>,
    #[serde(borrow, default)]
    url: Option<&'a RawValue>,
    #[serde(borrow, default)]
    image_url: Option<&'a RawValue>,
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
                let mut turns = Turns::default();
                while let Some(turn) = list.next_element::<Turn<'_>>()? {
                    turns.add(&turn);
                }
                Ok(turns)
            }
        }
        deserializer.deserialize_seq(List)
    }
}

/// Who speaks, and what is said: a string or a list of parts, as it is written.
struct Turn<'a> {
    speaker: Cow<'a, str>,
    said: &'a str,
}

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
                let (mut speaker, mut said) = (None, "");
                while let Some(key) = map.next_key::<Cow<'_, str>>()? {
                    let raw: &RawValue = map.next_value()?;
                    match &*key {
                        "value" | "content" => said = raw.get(),
                        "from" | "role" => speaker = Some(raw.get()),
                        _ => {}
                    }
                }
                let Some(speaker) = speaker else { return Err(A::Error::custom("a turn without a speaker")) };
                if !said.starts_with(['"', '[']) {
                    return Err(A::Error::custom("a turn in which nothing is said"));
                }
                // A speaker that is no string is nobody that is known; whoever scores the turn says so.
                let speaker = serde_json::from_str(speaker).unwrap_or(Cow::Borrowed(""));
                Ok(Turn { speaker, said })
            }
        }
        deserializer.deserialize_map(Object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(list: &str) -> Turns {
        Turns::read("messages", list).unwrap()
    }

    #[test]
    fn both_forms_say_the_same() {
        let llava = read(r#"[{"from":"human","value":"<image>\nWhat?"},{"from":"gpt","value":"A <image> tag."}]"#);
        assert_eq!((llava.count, llava.placeholders, llava.spoken.as_str()), (2, 1, "<image>\nWhat?\nA <image> tag."));
        let chat = read(
            r#"[{"role":"system","content":"Be brief."},
                {"role":"user","content":[{"type":"image"},{"type":"text","text":"What?"},{"type":"image","image":"b.jpg"}]},
                {"role":"assistant","content":[{"type":"text","text":"A cat."}]}]"#,
        );
        assert_eq!((chat.count, chat.placeholders, chat.spoken.as_str()), (3, 2, "Be brief.\nWhat?\nA cat."));
        assert_eq!(chat.images, ["b.jpg"]);
        let urls = read(
            r#"[{"role":"user","content":[{"type":"image_url","image_url":{"url":"c.jpg"}},{"type":"image","path":"d.jpg"}]}]"#,
        );
        assert_eq!((urls.placeholders, urls.images), (2, vec!["c.jpg".to_owned(), "d.jpg".to_owned()]));
    }

    #[test]
    fn what_is_no_conversation_has_a_name() {
        for wrong in [
            "[]",
            "{}",
            r#"["x"]"#,
            r#"[{"value": "x"}]"#,
            r#"[{"from": "human"}]"#,
            r#"[{"role": "user", "content": null}]"#,
        ] {
            assert_eq!(Turns::read("messages", wrong).unwrap_err().0, "bad_conversation", "{wrong}");
        }
        assert_eq!(Turns::read("messages", r#"[{"from": "a", "value": "\ud800"}]"#).unwrap_err().0, "bad_json");
    }
}
