//! JSON records one at a time: lines of JSONL (plain, gzip, zstd) or elements of a JSON list, never the whole file.
//!
//! Nothing is parsed here; a scanner finds where each value ends and caps its length and depth, so that a hostile file costs
//! no more memory than one value may.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use crate::error::{Error, Result};
use crate::storage::text_stream::{Compression, open_text};

/// A longer value is put aside.
pub const MAX_VALUE_BYTES: usize = 64 << 20;
/// Deeper nesting is put aside (`serde_json` refuses the same depth).
pub const MAX_DEPTH: u32 = 127;

/// One record: its bytes, or why there are none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A whole value, not parsed yet.
    Json(Vec<u8>),
    /// Too long or nested too deep; it was skipped.
    Refused(&'static str),
}

enum Form {
    /// One value a line.
    Lines,
    /// One list.
    List,
    /// One value after the other, over several lines each.
    Values,
}

/// Reads the values of a file in order.
pub struct JsonValues {
    input: Box<dyn BufRead + Send>,
    form: Form,
    path: std::path::PathBuf,
    row: u64,
}

/// How the names end that [`JsonValues::open`] reads.
pub const JSON_ENDINGS: [&str; 9] =
    [".jsonl", ".jsonl.gz", ".jsonl.zst", ".json", ".json.gz", ".json.zst", ".ndjson", ".ndjson.gz", ".ndjson.zst"];

/// Whether the name is one that [`JsonValues::open`] reads.
pub fn is_json_name(path: &Path) -> bool {
    let name = path.file_name().map(|n| n.to_string_lossy().to_lowercase()).unwrap_or_default();
    JSON_ENDINGS.iter().any(|end| name.ends_with(end))
}

/// Whether the first line of what follows is no whole value, so that values go over several lines. A line longer than the
/// buffer is taken for a whole one.
fn goes_over_lines(input: &mut impl BufRead, path: &Path) -> Result<bool> {
    let buffer = input.fill_buf().map_err(|error| damaged(path, &error))?;
    let Some(end) = buffer.iter().position(|&c| c == b'\n') else { return Ok(false) };
    let mut scanner = Scanner::default();
    buffer[..end].iter().for_each(|&c| {
        scanner.ends_before(c);
    });
    Ok(scanner.depth > 0)
}

impl JsonValues {
    /// Opens a file; its name says how it is compressed, its first character whether it is a list or lines.
    pub fn open(path: &Path) -> Result<Self> {
        let stream = open_text(path, Compression::of(path))?;
        let mut input: Box<dyn BufRead + Send> = Box::new(BufReader::with_capacity(1 << 18, stream));
        skip(&mut input, path, b"\xef\xbb\xbf")?;
        let first = skip_space(&mut input, path)?;
        let name = path.file_name().map(|n| n.to_string_lossy().to_lowercase()).unwrap_or_default();
        let form = match first {
            Some(b'[') => Form::List,
            // A pretty-printed object, or several.
            Some(b'{') if name.contains(".json") && !name.contains(".jsonl") && goes_over_lines(&mut input, path)? => {
                Form::Values
            }
            _ => Form::Lines,
        };
        if matches!(form, Form::List) {
            input.consume(1);
        }
        Ok(Self { input, form, path: path.to_path_buf(), row: 0 })
    }

    /// The next value and its number, from 0; `None` at a proper end.
    ///
    /// # Errors
    /// [`Error::Unreadable`] where the rest of the file cannot be read: cut short, or no JSON list.
    pub fn read_next(&mut self) -> Result<Option<(u64, Value)>> {
        let value = match self.form {
            Form::Lines => self.next_line()?,
            Form::List => self.next_element()?,
            Form::Values => self.next_object()?,
        };
        Ok(value.map(|value| {
            self.row += 1;
            (self.row - 1, value)
        }))
    }

    fn next_line(&mut self) -> Result<Option<Value>> {
        loop {
            let mut line = Vec::new();
            let read = Read::take(&mut self.input, MAX_VALUE_BYTES as u64 + 1)
                .read_until(b'\n', &mut line)
                .map_err(|error| damaged(&self.path, &error))?;
            if read == 0 {
                return Ok(None);
            }
            if line.len() > MAX_VALUE_BYTES && line.last() != Some(&b'\n') {
                self.skip_line()?;
                return Ok(Some(Value::Refused("line_too_long")));
            }
            let trimmed = line.trim_ascii();
            if trimmed.is_empty() {
                continue;
            }
            return Ok(Some(match depth_of(trimmed) {
                depth if depth > MAX_DEPTH => Value::Refused("json_too_deep"),
                _ => Value::Json(trimmed.to_vec()),
            }));
        }
    }

    fn skip_line(&mut self) -> Result<()> {
        loop {
            let buffer = self.input.fill_buf().map_err(|error| damaged(&self.path, &error))?;
            let (length, ends) = match buffer.iter().position(|&c| c == b'\n') {
                Some(at) => (at + 1, true),
                None => (buffer.len(), buffer.is_empty()),
            };
            self.input.consume(length);
            if ends {
                return Ok(());
            }
        }
    }

    fn next_object(&mut self) -> Result<Option<Value>> {
        let path = &self.path;
        match skip_space(&mut self.input, path)? {
            None => return Ok(None),
            Some(b'{') => {}
            Some(other) => {
                let text = format!("{:?} where record {} should begin", char::from(other), self.row);
                return Err(Error::unreadable(path, text));
            }
        }
        let (mut value, mut scanner) = (Vec::new(), Scanner::default());
        loop {
            let buffer = self.input.fill_buf().map_err(|error| damaged(path, &error))?;
            if buffer.is_empty() {
                return Err(Error::unreadable(path, "ends inside an object: the file is cut short"));
            }
            let end = buffer.iter().position(|&c| {
                scanner.ends_before(c);
                scanner.depth == 0 && !scanner.in_string
            });
            let taken = end.map_or(buffer.len(), |end| end + 1);
            if value.len() <= MAX_VALUE_BYTES {
                value.extend_from_slice(&buffer[..taken]);
            }
            self.input.consume(taken);
            if end.is_some() {
                return Ok(Some(as_value(&value, scanner.deepest)));
            }
        }
    }

    fn next_element(&mut self) -> Result<Option<Value>> {
        let path = &self.path;
        let cut = |what: &str| Error::unreadable(path, format!("the JSON list {what}"));
        let mut first = skip_space(&mut self.input, path)?;
        if self.row > 0 && first == Some(b',') {
            self.input.consume(1);
            first = skip_space(&mut self.input, path)?;
        } else if self.row > 0 && first.is_some() && first != Some(b']') {
            return Err(cut(&format!("has no comma behind element {}", self.row - 1)));
        }
        match first {
            None => return Err(cut("ends without its closing bracket: the file is cut short")),
            Some(b']') => {
                self.input.consume(1);
                if skip_space(&mut self.input, path)?.is_some() {
                    return Err(cut("is followed by something else"));
                }
                return Ok(None);
            }
            Some(_) => {}
        }
        let (mut value, mut scanner) = (Vec::new(), Scanner::default());
        loop {
            let buffer = self.input.fill_buf().map_err(|error| damaged(path, &error))?;
            if buffer.is_empty() {
                return Err(cut("ends inside an element: the file is cut short"));
            }
            let end = buffer.iter().position(|&c| scanner.ends_before(c));
            let taken = end.unwrap_or(buffer.len());
            if value.len() <= MAX_VALUE_BYTES {
                value.extend_from_slice(&buffer[..taken]);
            }
            self.input.consume(taken);
            if end.is_some() {
                break;
            }
        }
        Ok(Some(as_value(&value, scanner.deepest)))
    }
}

fn as_value(value: &[u8], deepest: u32) -> Value {
    if value.len() > MAX_VALUE_BYTES {
        Value::Refused("line_too_long")
    } else if deepest > MAX_DEPTH {
        Value::Refused("json_too_deep")
    } else {
        Value::Json(value.trim_ascii().to_vec())
    }
}

/// Follows strings and brackets, nothing else.
#[derive(Default)]
struct Scanner {
    depth: u32,
    deepest: u32,
    in_string: bool,
    escaped: bool,
}

impl Scanner {
    /// Takes the next byte; whether it lies behind the value (a comma or bracket of the list around it).
    fn ends_before(&mut self, c: u8) -> bool {
        if self.in_string {
            if self.escaped {
                self.escaped = false;
            } else if c == b'\\' {
                self.escaped = true;
            } else if c == b'"' {
                self.in_string = false;
            }
            return false;
        }
        match c {
            b'"' => self.in_string = true,
            b'{' | b'[' => {
                self.depth = self.depth.saturating_add(1);
                self.deepest = self.deepest.max(self.depth);
            }
            b'}' | b']' if self.depth == 0 => return true,
            b'}' | b']' => self.depth -= 1,
            b',' => return self.depth == 0,
            _ => {}
        }
        false
    }
}

/// How deep the lists and objects of a value lie in each other, told without parsing them.
pub fn depth_of(value: &[u8]) -> u32 {
    let mut scanner = Scanner::default();
    for &c in value {
        scanner.ends_before(c);
    }
    scanner.deepest
}

/// How many values the lists and objects within `value` have at most, told without parsing them.
pub(crate) fn count_values(value: &[u8]) -> usize {
    let mut scanner = Scanner::default();
    let is_counted = |c: u8| {
        let outside = !scanner.in_string;
        scanner.ends_before(c);
        outside && matches!(c, b',' | b'[' | b'{')
    };
    value.iter().copied().map(is_counted).filter(|counted| *counted).count()
}

/// Parses one value. `NaN`, `Infinity` and `-Infinity`, which Python's `json` writes and the standard does not know, are
/// taken for null; `spare` then holds the text that was parsed.
///
/// # Errors
/// What the parser says of the text as it was.
pub fn parse<'a, T: serde::Deserialize<'a>>(json: &'a [u8], spare: &'a mut Vec<u8>) -> serde_json::Result<T> {
    match serde_json::from_slice(json) {
        Ok(value) => Ok(value),
        Err(error) => {
            *spare = without_nan(json);
            serde_json::from_slice(spare).map_err(|_| error)
        }
    }
}

/// What `read` makes of a value, of which `NaN` and the like are taken for null as in [`parse`].
///
/// # Errors
/// What the parser says of the text as it was.
pub fn with_nulls<T>(json: &[u8], read: impl Fn(&[u8]) -> serde_json::Result<T>) -> serde_json::Result<T> {
    read(json).or_else(|error| read(&without_nan(json)).map_err(|_| error))
}

fn without_nan(json: &[u8]) -> Vec<u8> {
    let (mut out, mut rest, mut scanner) = (Vec::with_capacity(json.len()), json, Scanner::default());
    while let Some((&first, behind)) = rest.split_first() {
        let word = [&b"NaN"[..], b"Infinity", b"-Infinity"].into_iter().find(|word| rest.starts_with(word));
        if let (Some(word), false) = (word, scanner.in_string) {
            out.extend_from_slice(b"null");
            rest = &rest[word.len()..];
        } else {
            scanner.ends_before(first);
            out.push(first);
            rest = behind;
        }
    }
    out
}

fn damaged(path: &Path, error: &std::io::Error) -> Error {
    Error::unreadable(path, format!("cannot be read to its end: {error}"))
}

fn skip(input: &mut impl BufRead, path: &Path, prefix: &[u8]) -> Result<()> {
    if input.fill_buf().map_err(|error| damaged(path, &error))?.starts_with(prefix) {
        input.consume(prefix.len());
    }
    Ok(())
}

fn skip_space(input: &mut impl BufRead, path: &Path) -> Result<Option<u8>> {
    loop {
        let buffer = input.fill_buf().map_err(|error| damaged(path, &error))?;
        let Some(&first) = buffer.first() else { return Ok(None) };
        if !first.is_ascii_whitespace() {
            return Ok(Some(first));
        }
        let spaces = buffer.iter().take_while(|c| c.is_ascii_whitespace()).count();
        input.consume(spaces);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(name: &str, bytes: &[u8]) -> Result<Vec<Value>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let mut values = JsonValues::open(&path)?;
        let mut out = Vec::new();
        while let Some((_, value)) = values.read_next()? {
            out.push(value);
        }
        Ok(out)
    }

    fn json(values: &[&str]) -> Vec<Value> {
        values.iter().map(|v| Value::Json(v.as_bytes().to_vec())).collect()
    }

    #[test]
    fn lines_lists_and_compressed_lines_hold_the_same_values() {
        let values = [r#"{"a": "x,]}\" ["}"#, "[1, 2]", "3"];
        let lines = values.join("\r\n\n");
        let list = format!("\u{feff} [ {} ]\n", values.join(" , "));
        assert_eq!(read("a.jsonl", lines.as_bytes()).unwrap(), [&json(&values)[..1], &json(&values)[1..]].concat());
        assert_eq!(read("a.json", list.as_bytes()).unwrap(), json(&values));
        assert_eq!(read("a.jsonl.zst", &zstd::encode_all(lines.as_bytes(), 1).unwrap()).unwrap(), json(&values));
        assert_eq!(read("a.json", b"[]").unwrap(), []);
        assert_eq!(read("a.jsonl", b"").unwrap(), []);
    }

    #[test]
    fn objects_may_go_over_lines() {
        let pretty = "{\n  \"a\": \"} {\",\n  \"b\": [1,\n 2]\n}\n";
        let one = json(&[pretty.trim()]);
        assert_eq!(read("a.json", pretty.as_bytes()).unwrap(), one);
        assert_eq!(read("a.json", pretty.repeat(2).as_bytes()).unwrap(), [&one[..], &one].concat());
        // Lines of whole objects stay lines, whatever is wrong with one.
        assert_eq!(read("a.json", b"{\"a\": 1}\n{\"a\":\n").unwrap().len(), 2);
        assert_eq!(read("a.ndjson", b"{\"a\": 1}\n{}").unwrap().len(), 2);
        for wrong in ["{\n", "{\n}\n,{\n}", "{\n}]"] {
            assert!(read("a.json", wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn cut_and_foreign_lists_are_errors() {
        for wrong in ["[", "[1", "[1,", "[{\"a\": 1}", "[1] 2", "[1 {}", "[\"a"] {
            assert!(read("a.json", wrong.as_bytes()).is_err(), "{wrong}");
        }
        let cut = zstd::encode_all(vec![b'1'; 100_000].as_slice(), 1).unwrap();
        assert!(read("a.jsonl.zst", &cut[..cut.len() - 4]).is_err());
        assert!(read("a.jsonl.gz", b"\x1f\x8b\x08nonsense").is_err());
    }

    #[test]
    fn checksums_behind_the_last_value_are_checked() {
        let gzip = |text: &[u8]| {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            std::io::Write::write_all(&mut encoder, text).unwrap();
            encoder.finish().unwrap()
        };
        let zstd = |text: &[u8]| {
            let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
            encoder.include_checksum(true).unwrap();
            std::io::Write::write_all(&mut encoder, text).unwrap();
            encoder.finish().unwrap()
        };
        for text in [&b"[1, 2]"[..], b"[1, 2]\n", b"1\n2\n", b"1\n2"] {
            for (name, whole) in [("a.jsonl.gz", gzip(text)), ("a.jsonl.zst", zstd(text))] {
                assert_eq!(read(name, &whole).unwrap(), json(&["1", "2"]));
                for at in whole.len() - 4..whole.len() {
                    let mut damaged = whole.clone();
                    damaged[at] ^= 1;
                    assert!(read(name, &damaged).is_err(), "{name}: byte {at}");
                }
                assert!(read(name, &whole[..whole.len() - 1]).is_err(), "{name}: cut");
                assert!(read(name, &[&whole[..], b"behind"].concat()).is_err(), "{name}: something behind");
            }
        }
    }

    #[test]
    fn utf_16_is_named_also_when_it_is_compressed() {
        let wide: Vec<u8> = "\u{feff}[1]\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let says = |name: &str, bytes: &[u8]| read(name, bytes).unwrap_err().to_string();
        assert!(says("a.json", &wide).contains("UTF-16 text (little-endian); convert it to UTF-8: iconv -f UTF-16 "));
        let packed = zstd::encode_all(&wide[2..], 1).unwrap();
        assert!(says("a.jsonl.zst", &packed).contains("; decompress it, then convert it to UTF-8: iconv -f UTF-16LE "));
    }

    #[test]
    fn numbers_as_python_writes_them_are_null() {
        let mut spare = Vec::new();
        let value: serde_json::Value =
            super::parse(br#"{"NaN": [NaN, -Infinity, 1], "a": "NaN\"NaN"}"#, &mut spare).unwrap();
        assert_eq!(value, serde_json::json!({"NaN": [null, null, 1], "a": "NaN\"NaN"}));
        for wrong in ["{NaN: 1}", "NaNNaN", "[-NaN]", "nan", "{\"a\": }"] {
            let error = super::parse::<serde_json::Value>(wrong.as_bytes(), &mut spare).unwrap_err();
            assert_eq!(error.to_string(), serde_json::from_str::<serde_json::Value>(wrong).unwrap_err().to_string());
        }
    }

    #[test]
    fn deep_values_are_refused() {
        let deep = "[".repeat(100_000);
        assert_eq!(
            read("a.jsonl", format!("{{\"a\":{deep}\n1\n").as_bytes()).unwrap()[0],
            Value::Refused("json_too_deep")
        );
        let closed = format!("{}{}", "[".repeat(200), "]".repeat(200));
        assert_eq!(read("a.json", format!("[{closed}]").as_bytes()).unwrap(), [Value::Refused("json_too_deep")]);
    }

    proptest! {
        #[test]
        fn a_list_splits_where_a_parser_would(texts in proptest::collection::vec("[\\[\\]{},\"\\\\ a]{0,8}", 0..6)) {
            let values: Vec<serde_json::Value> = texts.iter().map(|t| serde_json::json!({ "k": t, t: [t] })).collect();
            let list = serde_json::to_vec(&values).unwrap();
            let found: Vec<serde_json::Value> = read("a.json", &list).unwrap().into_iter().map(|v| match v {
                Value::Json(bytes) => serde_json::from_slice(&bytes).unwrap(),
                Value::Refused(_) => serde_json::Value::Null,
            }).collect();
            prop_assert_eq!(found, values);
        }
    }
}
