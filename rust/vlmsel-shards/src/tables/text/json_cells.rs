//! The values of one JSON line, of which no tree is made.

use std::collections::BTreeSet;

use serde::de::IgnoredAny;
use serde_json::{Number, Value};

use super::cells::{Bad, Cell, id_cell};
use crate::columns::{Column, Role};
use crate::formats::json_fields::{Fields, MAX_KEYS, check_keys, fields, visit_keys};
use crate::formats::json_stream::count_values;

/// Lists and objects of more values are not kept as text: while they are put in order each takes some 100 bytes.
const MAX_KEPT_VALUES: usize = 100_000;
/// Characters of a bad record that its message shows.
const SHOWN: usize = 200;

/// The wanted values of a line that is a JSON object; `names` are those of `columns`.
pub fn cells_of_line(line: &[u8], names: &[&str], columns: &[(&Column, Role)]) -> std::result::Result<Vec<Cell>, Bad> {
    with_object(line, |text| fields(text.as_bytes(), names).map(|found| cells_of_object(&found, columns)))?
}

/// Adds the keys of a line that is a JSON object, and to `twice` those that it has more than once.
pub fn add_keys(
    line: &[u8],
    keys: &mut BTreeSet<String>,
    twice: &mut BTreeSet<String>,
) -> std::result::Result<(), Bad> {
    let (count, found) = with_object(line, |text| {
        let (mut count, mut found) = (0, Vec::new());
        visit_keys(text, &mut |key| {
            count += 1;
            if count <= MAX_KEYS {
                found.push(key.to_owned());
            }
        })?;
        Ok((count, found))
    })?;
    check_keys(count)?;
    let mut own = BTreeSet::new();
    for key in found {
        if own.contains(&key) {
            twice.insert(key);
        } else {
            own.insert(key);
        }
    }
    keys.append(&mut own);
    Ok(())
}

/// What `read` makes of a line that it takes for an object.
fn with_object<T>(line: &[u8], mut read: impl FnMut(&str) -> serde_json::Result<T>) -> std::result::Result<T, Bad> {
    let text = std::str::from_utf8(line).map_err(|error| ("not_utf8", error.to_string()))?;
    let error = match read(text) {
        Ok(found) => return Ok(found),
        Err(error) => error,
    };
    if let Some(found) = quote_constants(text).and_then(|quoted| read(&quoted).ok()) {
        return Ok(found);
    }
    if error.is_data() && serde_json::from_str::<IgnoredAny>(text).is_ok() {
        return Err(("not_an_object", shown(text)));
    }
    Err(("bad_json", format!("{error}: {}", shown(text))))
}

/// As much as a message shows of what may be many megabytes.
fn shown(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

/// Python writes `NaN`, `Infinity` and `-Infinity` into JSON; as strings they can be parsed. `None` if there are none.
fn quote_constants(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len() + 16);
    let (mut rest, mut changed) = (text, false);
    while let Some(first) = rest.chars().next() {
        if first == '"' {
            let mut escaped = false;
            let end = rest.char_indices().skip(1).find_map(|(at, c)| {
                let closes = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                closes.then_some(at + 1)
            })?;
            out.push_str(&rest[..end]);
            rest = &rest[end..];
        } else if let Some(constant) = ["NaN", "-Infinity", "Infinity"].iter().find(|c| rest.starts_with(**c)) {
            out.push('"');
            out.push_str(constant);
            out.push('"');
            rest = &rest[constant.len()..];
            changed = true;
        } else {
            out.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    changed.then_some(out)
}

fn cells_of_object(record: &Fields<'_, '_>, columns: &[(&Column, Role)]) -> std::result::Result<Vec<Cell>, Bad> {
    record.check_keys()?;
    let cell = |(column, role): &(&Column, Role)| match record.get(&column.name) {
        None | Some("null") => Ok(Cell::Null),
        Some(raw) => cell_of_json(raw, &column.name, *role),
    };
    columns.iter().map(cell).collect()
}

/// A value as it is written in JSON, for its role.
fn cell_of_json(raw: &str, name: &str, role: Role) -> std::result::Result<Cell, Bad> {
    let bad = |reason| (reason, format!("{name}: {}", shown(raw)));
    let broken = |error: serde_json::Error| ("bad_json", format!("{error}: {name}: {}", shown(raw)));
    // The first character says what it is: all of it was seen to be JSON.
    match raw.as_bytes().first() {
        Some(b'"') => {
            let text: String = serde_json::from_str(raw).map_err(broken)?;
            match (role, text.as_str()) {
                (Role::Score, "NaN") => Ok(Cell::Float(f64::NAN)),
                (Role::Score, "Infinity") => Ok(Cell::Float(f64::INFINITY)),
                (Role::Score, "-Infinity") => Ok(Cell::Float(f64::NEG_INFINITY)),
                (Role::Score | Role::Tokens, _) => Err(bad("bad_number")),
                (Role::Id, _) => id_cell(text),
                _ => Ok(Cell::Text(text)),
            }
        }
        Some(b'-' | b'0'..=b'9') => {
            let number: Number = serde_json::from_str(raw).map_err(broken)?;
            match role {
                Role::Score => {
                    let float = number.as_f64().filter(|float| exact(&number, *float));
                    float.map(Cell::Float).ok_or_else(|| bad("bad_number"))
                }
                Role::Tokens => number.as_u64().map(Cell::Count).ok_or_else(|| bad("bad_number")),
                Role::Id if number.is_f64() => Err(bad("bad_id")),
                _ => Ok(Cell::Text(number.to_string())),
            }
        }
        _ => match role {
            Role::Score | Role::Tokens => Err(bad("bad_number")),
            Role::Id => Err(bad("bad_id")),
            _ if count_values(raw.as_bytes()) > MAX_KEPT_VALUES => {
                Err(("too_many_values", format!("{name}: a list or object of more than {MAX_KEPT_VALUES} values")))
            }
            _ => {
                let value: Value = serde_json::from_str(raw).map_err(broken)?;
                Ok(Cell::Text(value.to_string()))
            }
        },
    }
}

/// An integer beyond 2^53 that a float would round cannot be ranked exactly.
fn exact(value: &Number, number: f64) -> bool {
    match (value.as_u64(), value.as_i64()) {
        (Some(whole), _) => number as u128 == u128::from(whole),
        (None, Some(whole)) => number as i128 == i128::from(whole),
        (None, None) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_are_quoted_outside_strings_only() {
        assert_eq!(
            quote_constants(r#"{"a": NaN, "b": "NaN \" Infinity", "c": -Infinity}"#).unwrap(),
            r#"{"a": "NaN", "b": "NaN \" Infinity", "c": "-Infinity"}"#
        );
        assert_eq!(quote_constants(r#"{"a": 1}"#), None);
    }

    #[test]
    fn integers_that_a_float_would_round_are_refused() {
        let column = Column {
            name: "s".into(),
            working: arrow_schema::DataType::Float64,
            output: arrow_schema::DataType::Float64,
        };
        let cells = |text: &str| cells_of_line(text.as_bytes(), &["s"], &[(&column, Role::Score)]);
        assert!(cells(r#"{"s": 9007199254740992}"#).is_ok());
        assert!(cells(r#"{"s": 9007199254740993}"#).is_err());
        assert!(cells(r#"{"s": "abc"}"#).is_err());
        assert!(matches!(cells(r#"{"s": NaN}"#).unwrap()[0], Cell::Float(f) if f.is_nan()));
    }
    fn column(name: &str) -> Column {
        Column { name: name.into(), working: arrow_schema::DataType::Utf8View, output: arrow_schema::DataType::Utf8 }
    }

    /// Ids and scores as text, or the reason why there are none.
    fn read(line: &str) -> std::result::Result<(String, f64), &'static str> {
        let columns = [column("id"), column("s")];
        let columns = [(&columns[0], Role::Id), (&columns[1], Role::Score)];
        match cells_of_line(line.as_bytes(), &["id", "s"], &columns) {
            Ok(cells) => match &cells[..] {
                [Cell::Text(id), Cell::Float(score)] => Ok((id.clone(), *score)),
                _ => Err("null"),
            },
            Err((reason, _)) => Err(reason),
        }
    }

    #[test]
    fn of_a_key_that_comes_twice_the_last_one_holds() {
        assert_eq!(read(r#"{"id": "a", "s": 1, "s": 2.5, "id": 7}"#), Ok(("7".to_owned(), 2.5)));
        assert_eq!(read(r#"{"id": "a", "s": "no number", "s": 3}"#), Ok(("a".to_owned(), 3.0)));
        assert_eq!(read(r#"{"id": "a", "s": 1, "s": null}"#), Err("null"));
        assert_eq!(read(r#"{"id": "a", "s": 1, "\u0073": NaN, "s": 4}"#), Ok(("a".to_owned(), 4.0)));
    }

    #[test]
    fn what_is_wrong_with_a_line_has_a_name() {
        let with = |id: &str, score: &str| read(&format!(r#"{{"id": {id}, "s": {score}, "more": [[1e5]]}}"#));
        assert_eq!(with("12345678901234567890", "-0.5e1"), Ok(("12345678901234567890".to_owned(), -5.0)));
        assert_eq!(with("\"a\"", "\"-Infinity\""), Ok(("a".to_owned(), f64::NEG_INFINITY)));
        for (id, score, reason) in [
            ("1.5", "1", "bad_id"),
            ("{}", "1", "bad_id"),
            ("true", "1", "bad_id"),
            ("1", "[]", "bad_number"),
            ("1", "true", "bad_number"),
            ("1", "\"1\"", "bad_number"),
            ("1", "1e999", "bad_json"),
            ("1", "01", "bad_json"),
            ("\"\\ud800\"", "1", "bad_json"),
            ("1", "nan", "bad_json"),
        ] {
            assert_eq!(with(id, score), Err(reason), "{id} {score}");
        }
        assert_eq!(read("[1]"), Err("not_an_object"));
        assert_eq!(read("[1"), Err("bad_json"));
        assert_eq!(read("{} {}"), Err("bad_json"));
    }

    #[test]
    fn a_line_of_too_many_keys_is_put_aside() {
        let line = |keys: usize| {
            let mut line = String::from(r#"{"id": "a", "s": 1"#);
            line.extend((2..keys).map(|n| format!(", \"{n}\": 0")));
            line + "}"
        };
        let (mut keys, mut twice) = (BTreeSet::new(), BTreeSet::new());
        assert!(read(&line(MAX_KEYS)).is_ok() && add_keys(line(MAX_KEYS).as_bytes(), &mut keys, &mut twice).is_ok());
        assert_eq!(keys.len(), MAX_KEYS);
        assert_eq!(read(&line(MAX_KEYS + 1)), Err("too_many_keys"));
        assert!(add_keys(line(MAX_KEYS + 1).as_bytes(), &mut keys, &mut twice).is_err());
        assert_eq!((keys.len(), twice.len()), (MAX_KEYS, 0));
        assert!(add_keys(br#"{"2": 1, "new": 2, "new": 3, "new": 4}"#, &mut keys, &mut twice).is_ok());
        assert_eq!((keys.len(), twice), (MAX_KEYS + 1, BTreeSet::from(["new".to_owned()])));
    }

    #[test]
    fn kept_values_are_text_and_not_without_end() {
        let kept = column("kept");
        let cell = |value: &str| {
            let line = format!(r#"{{"kept": {value}}}"#);
            match cells_of_line(line.as_bytes(), &["kept"], &[(&kept, Role::Kept)]).map(|mut cells| cells.remove(0)) {
                Ok(Cell::Text(text)) => text,
                Ok(_) => "no text".to_owned(),
                Err((reason, _)) => reason.to_owned(),
            }
        };
        assert_eq!(cell(r#"{"b": [1, 2.50, "x,y"], "a" : true}"#), r#"{"a":true,"b":[1,2.5,"x,y"]}"#);
        assert_eq!((cell("true"), cell("1.0"), cell("null")), ("true".into(), "1.0".into(), "no text".into()));
        assert_eq!(cell(&format!("\"{}\"", "[,".repeat(200_000))), "[,".repeat(200_000));
        assert_eq!(cell(&format!("[{}1]", "1,".repeat(MAX_KEPT_VALUES))), "too_many_values");
    }
}
