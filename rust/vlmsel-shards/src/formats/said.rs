//! What a record says: its caption or its conversation, in any of the forms that people write.

use serde_json::{Value, json};

use crate::formats::json_fields::{Fields, Reason, shown, string};
use crate::formats::turns::Turns;
use crate::workspace::quarantine::Bad;

/// Fields that say something, in the order in which they are asked for it.
pub const FIELDS: [&str; 12] = [
    "caption",
    "text",
    "conversations",
    "messages",
    "texts",
    "instruction",
    "input",
    "output",
    "query",
    "response",
    "captions",
    "history",
];
/// Of these, the ones that the index keeps in columns of their own as they were.
pub const KEPT: [&str; 3] = ["caption", "text", "conversations"];

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Said {
    /// `caption`, else `text`.
    pub text: Option<String>,
    /// The conversation, as JSON: as it was, or as turns made of a form that has none.
    pub conversations: Option<String>,
    /// Turns of the conversation.
    pub n_turns: u32,
    /// What is said in them, joined by line feeds.
    pub spoken: Option<String>,
    /// Places for images in the user's turns.
    pub placeholders: u32,
    /// Paths of images that stand in the turns themselves.
    pub images: Vec<String>,
    /// Fields that say something and are not read.
    pub notes: Vec<Bad>,
}

/// How wrong types of `caption` and `text` are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Captions {
    /// As a fault of the record.
    Strict,
    /// As no caption: what lies beside a picture may use these names for something else.
    Lenient,
}

impl Said {
    /// Reads what an object's fields say.
    ///
    /// # Errors
    /// The reason to put the record aside.
    pub fn read(fields: &Fields<'_, '_>, captions: Captions) -> Result<Self, Reason> {
        // Beside a picture an empty list says nothing; a record that consists of one is wrong.
        let is_nothing = |raw: &str| raw == "null" || (captions == Captions::Lenient && raw == "[]");
        let get = |name: &str| fields.get(name).filter(|raw| !is_nothing(raw));
        let text_in = |name: &str| get(name).filter(|raw| raw.starts_with('"')).map(string).transpose();
        let mut said = Self::default();
        for name in ["caption", "text"] {
            match (get(name), captions) {
                (None, _) => {}
                (Some(text), _) if text.starts_with('"') => {
                    let text = string(text)?;
                    said.text.get_or_insert(text);
                }
                (Some(other), Captions::Strict) => return Err(("bad_text", format!("{name} is {}", shown(other)))),
                (Some(_), Captions::Lenient) => said.notes.push(unread(name)),
            }
        }
        let named = ["conversations", "messages"].into_iter().find_map(|name| Some((name, get(name)?)));
        if let Some((name, turns)) = named {
            said.take(Turns::read(name, turns)?, turns.to_owned());
        } else if let Some(pairs) = get("texts") {
            said.take_made(question_pairs(pairs)?)?;
        } else if let (Some(question), Some(answer)) = (text_in("instruction")?, text_in("output")?) {
            let more = text_in("input")?.filter(|more| !more.is_empty());
            let question = more.map_or_else(|| question.clone(), |more| format!("{question}\n{more}"));
            said.take_made(vec![turn("human", &question), turn("gpt", &answer)])?;
        } else if let (Some(question), Some(answer)) = (text_in("query")?, text_in("response")?) {
            said.take_made(vec![turn("human", &question), turn("gpt", &answer)])?;
        } else {
            said.notes.extend(["instruction", "query"].into_iter().filter(|name| get(name).is_some()).map(unread));
        }
        let lists = ["captions", "history"].into_iter();
        said.notes.extend(lists.filter(|name| get(name).is_some_and(|list| list != "[]")).map(unread));
        Ok(said)
    }

    fn take(&mut self, turns: Turns, written: String) {
        let Turns { count, spoken, placeholders, images, .. } = turns;
        (self.n_turns, self.spoken, self.placeholders, self.images) = (count, Some(spoken), placeholders, images);
        self.conversations = Some(written);
    }

    fn take_made(&mut self, turns: Vec<Value>) -> Result<(), Reason> {
        let written = Value::from(turns).to_string();
        self.take(Turns::read("the turns", &written)?, written);
        Ok(())
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.text.is_none() && self.conversations.is_none()
    }

    /// Says that a conversation has places for another number of images than the sample has. One that names none shows all
    /// images in its first turn, as LLaVA's data do.
    pub fn placeholder_fault(&self, images: usize) -> Option<Bad> {
        let places = self.placeholders as usize;
        (self.conversations.is_some() && places != 0 && places != images)
            .then(|| Bad::new("placeholder_mismatch", format!("{places} places for {images} images")))
    }
}

fn unread(name: &'static str) -> Bad {
    Bad::new("unread_field", name)
}

fn turn(speaker: &str, said: &str) -> Value {
    json!({ "from": speaker, "value": said })
}

/// `texts`: a list of `{user, assistant}`.
fn question_pairs(list: &str) -> Result<Vec<Value>, Reason> {
    #[derive(serde::Deserialize)]
    struct Pair {
        user: String,
        assistant: String,
    }
    let pairs: Vec<Pair> = serde_json::from_str(list)
        .map_err(|error| ("bad_conversation", format!("texts is no list of {{user, assistant}}: {error}")))?;
    Ok(pairs.iter().flat_map(|pair| [turn("human", &pair.user), turn("gpt", &pair.assistant)]).collect())
}
