//! Paths: where one leads before anything is made there, and how one is written down when its bytes are no UTF-8.
//!
//! A path that a user names is bytes and is used as such. Where it has to become text (a manifest, a column of the index), bytes
//! that are no UTF-8 are written as `\xHH`; [`below`] finds the file again.

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

/// Links that lead to what does not exist are followed by their text, at most so many.
const MAX_LINKS: u32 = 40;

/// The place that a path leads to. From the left, what exists is resolved as the system would (links, `..`); behind the first
/// name that does not exist, `..` takes the name in front of it away. Nothing is made, and nothing has to exist.
pub fn real_place(path: &Path) -> PathBuf {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    // What exists as a whole the system resolves at once.
    if let Ok(real) = std::fs::canonicalize(path) {
        return real;
    }
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let mut place = PathBuf::new();
    resolve_onto(&mut place, &whole, &mut 0);
    place
}

/// Where many paths lead: those of one folder resolve it once.
#[derive(Debug, Default)]
pub struct RealPlaces {
    folders: HashMap<PathBuf, Option<PathBuf>>,
}

impl RealPlaces {
    /// The place that a path leads to, as the system resolves it; `None` where nothing is there.
    pub fn of(&mut self, path: &Path) -> Option<PathBuf> {
        let whole = || std::fs::canonicalize(path).ok();
        let (Some(folder), Some(Component::Normal(name))) = (path.parent(), path.components().next_back()) else {
            return whole();
        };
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        if !self.folders.contains_key(folder) {
            self.folders.insert(folder.to_path_buf(), std::fs::canonicalize(folder).ok());
        }
        let place = self.folders.get(folder)?.as_ref()?.join(name);
        // EINVAL says that it is there and no link.
        match std::fs::read_link(&place) {
            Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => Some(place),
            _ => whole(),
        }
    }
}

fn resolve_onto(place: &mut PathBuf, path: &Path, links: &mut u32) {
    for part in path.components() {
        match part {
            Component::ParentDir => {
                place.pop();
            }
            Component::CurDir => {}
            Component::Normal(name) => {
                place.push(name);
                if let Ok(real) = std::fs::canonicalize(&*place) {
                    *place = real;
                } else if let Ok(target) = std::fs::read_link(&*place)
                    && *links < MAX_LINKS
                {
                    // What it names would be made.
                    *links += 1;
                    place.pop();
                    resolve_onto(place, &target, links);
                }
            }
            root => place.push(root),
        }
    }
}

/// The same, but a link at the path itself is not followed: whoever is to write there wants to know that it is one.
pub fn place_of_output(path: &Path) -> PathBuf {
    match (path.parent(), path.components().next_back()) {
        (Some(parent), Some(Component::Normal(name))) => {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            real_place(parent).join(name)
        }
        _ => real_place(path),
    }
}

/// A name of ours beside a path: `beside("a/out", ".", ".lock")` is `a/.out.lock`.
pub fn beside(path: &Path, before: &str, behind: &str) -> PathBuf {
    let mut name = OsString::from(before);
    name.push(path.file_name().unwrap_or_default());
    name.push(behind);
    path.with_file_name(name)
}

/// A path as text. One that is UTF-8 stays as it is; in any other, a backslash and each byte that belongs to no character
/// become `\xHH`.
pub fn text_of(path: &Path) -> String {
    if let Some(text) = path.to_str() {
        return text.to_owned();
    }
    let mut text = String::new();
    for chunk in path.as_os_str().as_bytes().utf8_chunks() {
        text.push_str(&chunk.valid().replace('\\', "\\x5c"));
        text.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    text
}

/// The path below `root` that [`text_of`] wrote as `text`: the one of these letters where it exists, or else where there is
/// none, the one whose escapes stand for bytes.
pub fn below(root: &Path, text: &str) -> PathBuf {
    let plain = root.join(text);
    if !text.contains("\\x") || plain.symlink_metadata().is_ok() {
        return plain;
    }
    let escaped = root.join(unescaped(text));
    if escaped.symlink_metadata().is_ok() { escaped } else { plain }
}

fn unescaped(text: &str) -> OsString {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((&first, behind)) = rest.split_first() {
        let digits = rest.strip_prefix(b"\\x").and_then(|digits| digits.get(..2)).and_then(|d| str::from_utf8(d).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) if byte >= 0x80 || byte == b'\\' => {
                bytes.push(byte);
                rest = &rest[4..];
            }
            _ => {
                bytes.push(first);
                rest = behind;
            }
        }
    }
    OsString::from_vec(bytes)
}

/// Paths in JSON that Python wrote: there, bytes that are no UTF-8 are lone surrogates U+DC80 to U+DCFF (PEP 383), which JSON
/// carries as escapes and `serde_json` hands over as bytes.
pub mod json {
    use std::ffi::OsString;
    use std::fmt;
    use std::os::unix::ffi::OsStringExt;
    use std::path::{Path, PathBuf};

    use serde::de::{Deserialize, Deserializer, Error, Visitor};
    use serde::ser::Serializer;

    /// One word of a command line.
    struct Word(OsString);

    impl<'de> Deserialize<'de> for Word {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Bytes;
            impl Visitor<'_> for Bytes {
                type Value = Word;
                fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                    formatter.write_str("a path")
                }
                fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Word, E> {
                    Ok(Word(OsString::from_vec(without_surrogates(bytes))))
                }
                fn visit_str<E: Error>(self, text: &str) -> Result<Word, E> {
                    Ok(Word(text.into()))
                }
            }
            deserializer.deserialize_bytes(Bytes)
        }
    }

    /// U+DC80 to U+DCFF, which take three bytes (`ED B2 80` to `ED B3 BF`), as the byte that each stands for.
    fn without_surrogates(bytes: &[u8]) -> Vec<u8> {
        let (mut out, mut rest) = (Vec::with_capacity(bytes.len()), bytes);
        while let Some((&first, behind)) = rest.split_first() {
            if let [0xed, high @ 0xb2..=0xb3, low @ 0x80..=0xbf, tail @ ..] = rest {
                out.push((high & 1) << 6 | (low & 0x3f) | 0x80);
                rest = tail;
            } else {
                out.push(first);
                rest = behind;
            }
        }
        out
    }

    /// For `#[serde(deserialize_with)]`: a path.
    pub fn path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
        Ok(Word::deserialize(deserializer)?.0.into())
    }

    /// A path or null.
    pub fn optional_path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
        Ok(Option::<Word>::deserialize(deserializer)?.map(|word| word.0.into()))
    }

    /// Paths.
    pub fn paths<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<PathBuf>, D::Error> {
        Ok(Vec::<Word>::deserialize(deserializer)?.into_iter().map(|word| word.0.into()).collect())
    }

    /// Words that may be paths, patterns, or `NAME=PATH`.
    pub fn words<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<OsString>, D::Error> {
        Ok(Vec::<Word>::deserialize(deserializer)?.into_iter().map(|word| word.0).collect())
    }

    /// For `#[serde(serialize_with)]`: a path as [`super::text_of`] writes it.
    pub fn as_text<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::text_of(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn what_exists_is_resolved_and_the_rest_is_cleaned() {
        let folder = tempfile::tempdir().unwrap();
        let root = std::fs::canonicalize(folder.path()).unwrap();
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        symlink(root.join("a/b"), root.join("link")).unwrap();
        let place = |below: &str| real_place(&root.join(below));
        assert_eq!(place("new/../a"), root.join("a"));
        assert_eq!(place("new/x/../../a/./b"), root.join("a/b"));
        // The system's rule: `..` behind a link leaves the folder that the link leads to.
        assert_eq!(place("link/.."), root.join("a"));
        assert_eq!(place("link/new/../y"), root.join("a/b/y"));
        symlink("new/place", root.join("dangling")).unwrap();
        assert_eq!(place("dangling/../x"), root.join("new/x"));
        symlink("circle", root.join("circle")).unwrap();
        assert_eq!(place("circle/x"), root.join("circle/x"));
        assert_eq!(place_of_output(&root.join("new/../link")), root.join("link"));
        assert_eq!(place_of_output(&root.join("link/..")), root.join("a"));
        assert!(!root.join("new").exists());
    }

    #[test]
    fn many_paths_lead_where_each_does() {
        let folder = tempfile::tempdir().unwrap();
        let root = std::fs::canonicalize(folder.path()).unwrap();
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::fs::write(root.join("a/b/file"), "").unwrap();
        symlink(root.join("a/b"), root.join("link")).unwrap();
        symlink("b/file", root.join("a/other")).unwrap();
        symlink("nowhere", root.join("a/dangling")).unwrap();
        let mut places = RealPlaces::default();
        for below in
            ["a/b/file", "link/file", "a/other", "a/dangling", "a/none", "no/file", "a/b/..", "link/..", "a/b/.", ""]
        {
            let path = root.join(below);
            assert_eq!(places.of(&path), std::fs::canonicalize(&path).ok(), "{below}");
        }
    }

    #[test]
    fn python_paths_arrive_as_their_bytes() {
        #[derive(serde::Deserialize)]
        struct Options {
            #[serde(deserialize_with = "json::words")]
            words: Vec<OsString>,
        }
        let options: Options =
            serde_json::from_str(r#"{"words": ["a\udcff\udc80/\ud83d\ude00.csv", "caf\u00e9"]}"#).unwrap();
        assert_eq!(options.words[0].as_bytes(), b"a\xff\x80/\xf0\x9f\x98\x80.csv");
        assert_eq!(options.words[1], "caf\u{e9}");
    }

    proptest! {
        #[test]
        fn a_file_is_found_by_its_text(name in prop::collection::vec(prop_oneof![1_u8..=255, Just(b'\\'), Just(b'x'), Just(b'8')], 1..20)) {
            let name = OsString::from_vec(name.into_iter().map(|byte| if byte == b'/' { b'_' } else { byte }).collect());
            prop_assume!(name != "." && name != "..");
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(&name);
            std::fs::write(&path, "x").unwrap();
            prop_assert_eq!(below(folder.path(), &text_of(Path::new(&name))), path);
        }
    }
}
