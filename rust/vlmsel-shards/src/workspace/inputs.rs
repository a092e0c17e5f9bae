//! From what people type to files: paths, folders, globs, braces and `@list` files.
//!
//! Words are bytes: a path that is no UTF-8 works where it names something, and only patterns must be text. Whatever the words say,
//! the work is bounded, and whoever waits for it may stop it.

mod braces;
mod managed;
mod pattern;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, IoContext, Result};
use crate::storage::paths::{RealPlaces, text_of};
use crate::storage::source::{Sequential, name_of, open};
use crate::storage::text_encoding::foreign_encoding;
use crate::workspace::manifest::{Losses, MANIFEST, Manifest};

/// All words may not expand to more files than this: `{0..999999999999}` is a slip of the hand.
const MAX_EXPANSION: usize = if cfg!(test) { 100_000 } else { 10_000_000 };
/// Nesting of `@list` files.
const MAX_LIST_DEPTH: usize = 8;
/// A list of paths is not longer than this.
const MAX_LIST_BYTES: u64 = 1 << 30;
/// Nesting of folders.
const MAX_FOLDER_DEPTH: usize = 64;

/// Called often while words are expanded; its error ends the expansion.
pub type Check<'a> = &'a dyn Fn() -> Result<()>;

/// A file to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputFile {
    /// Where it lies.
    pub path: PathBuf,
    /// Its path below the argument that named it, with `/`; what manifests record. Bytes that are no UTF-8 are escaped.
    pub name: String,
    /// The folder that was named in the file's place, if any; outputs must stay out of it.
    pub folder: Option<PathBuf>,
    /// BLAKE3 of its content, as the manifest of its folder has it.
    pub blake3: Option<String>,
    /// What the run that made its folder lost.
    pub losses: Option<Arc<Losses>>,
}

impl InputFile {
    /// A file that was named by itself.
    pub fn named(path: &Path) -> Self {
        let name = path.file_name().map(|name| text_of(Path::new(name))).unwrap_or_default();
        Self { path: path.to_path_buf(), name, folder: None, blake3: None, losses: None }
    }

    /// Refuses a file that was found in a folder and whose name is no UTF-8: rows could not say where they are from.
    ///
    /// # Errors
    /// [`Error::Unreadable`], which names it with escapes.
    pub fn check_name(&self) -> Result<()> {
        let below = self.folder.as_ref().and_then(|folder| self.path.strip_prefix(folder).ok());
        match below.filter(|below| below.to_str().is_none()) {
            Some(below) => Err(Error::unreadable(
                text_of(&self.path),
                format!("the name {} is no UTF-8; rename the file, or name it by itself", text_of(below)),
            )),
            None => Ok(()),
        }
    }
}

/// Expands the words in order. Folders give the files below them that `accept`s (hidden, `_`-prefixed and `.crc` ones
/// apart, sorted by name); a folder that vlmsel finished gives the files its manifest names.
///
/// # Errors
/// [`Error::NotFound`] for a path that is not there or a pattern that matches nothing, [`Error::NotPlain`] for a pipe or device,
/// [`Error::Usage`] for a folder with no accepted file, for one in which a log says which Parquet files count and for words
/// without end, [`Error::Mismatch`] for a folder that
/// vlmsel began and did not finish, and those of `check`.
pub fn expand(
    words: &[OsString],
    what: &str,
    accept: &dyn Fn(&Path) -> bool,
    check: Check<'_>,
) -> Result<Vec<InputFile>> {
    let expansion = Expansion { what, accept, check, steps: Cell::new(0) };
    let mut found = Vec::new();
    for word in unlisted(words, check)? {
        expansion.word(&word, &mut found)?;
    }
    let (mut seen, mut places) = (BTreeSet::new(), RealPlaces::default());
    found.retain(|file: &InputFile| seen.insert(places.of(&file.path).unwrap_or_else(|| file.path.clone())));
    distinguish_names(&mut found);
    Ok(found)
}

/// The words with every `@list` replaced by the lines of its file, which may name lists themselves.
///
/// # Errors
/// [`Error::Usage`] for lists that name each other in a circle, too deep or too often, [`Error::NotFound`], [`Error::NotPlain`].
pub fn unlisted(words: &[OsString], check: Check<'_>) -> Result<Vec<OsString>> {
    let mut out = Vec::new();
    for word in words {
        unlist(word, &mut Vec::new(), &mut out, check)?;
    }
    Ok(out)
}

fn unlist(word: &OsStr, open: &mut Vec<PathBuf>, out: &mut Vec<OsString>, check: Check<'_>) -> Result<()> {
    check()?;
    let list = word.as_bytes().strip_prefix(b"@").filter(|_| !Path::new(word).exists());
    let Some(list) = list.map(|list| Path::new(OsStr::from_bytes(list))) else {
        if out.len() >= MAX_EXPANSION {
            return Err(Error::Usage(format!("the lists name more than {MAX_EXPANSION} files")));
        }
        out.push(word.to_owned());
        return Ok(());
    };
    let place = fs::canonicalize(list).unwrap_or_else(|_| list.to_path_buf());
    if open.contains(&place) {
        return Err(Error::Usage(format!("{}: the list names itself", list.display())));
    }
    if open.len() >= MAX_LIST_DEPTH {
        return Err(Error::Usage(format!("{}: lists name each other more than {MAX_LIST_DEPTH} deep", list.display())));
    }
    open.push(place);
    for line in read_list(list)?.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii) {
        if !line.is_empty() && !line.starts_with(b"#") {
            unlist(OsStr::from_bytes(line), open, out, check)?;
        }
    }
    open.pop();
    Ok(())
}

fn read_list(path: &Path) -> Result<Vec<u8>> {
    let file = match open(path) {
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => return Err(missing(path)),
        other => other?,
    };
    let mut text = Vec::new();
    Sequential::new(file, 0).take(MAX_LIST_BYTES + 1).read_to_end(&mut text).at("read", path)?;
    if let Some(what) = foreign_encoding(&text) {
        return Err(Error::Usage(format!("{}: {what}", path.display())));
    }
    if text.len() as u64 > MAX_LIST_BYTES || text.contains(&0) {
        return Err(Error::Usage(format!("{}: not a list of paths, one a line", path.display())));
    }
    if text.starts_with(b"\xef\xbb\xbf") {
        text.drain(..3);
    }
    Ok(text)
}

/// Two files of one name below different roots are told apart by as much of their folders as it takes.
fn distinguish_names(files: &mut [InputFile]) {
    let mut counts = std::collections::HashMap::new();
    for file in files.iter() {
        *counts.entry(file.name.clone()).or_insert(0_u32) += 1;
    }
    for file in files.iter_mut().filter(|file| counts[&file.name] > 1) {
        file.name = text_of(&file.path.components().collect::<PathBuf>());
    }
}

/// Files that other files name have no bound; words do.
struct Expansion<'a> {
    what: &'a str,
    accept: &'a dyn Fn(&Path) -> bool,
    check: Check<'a>,
    steps: Cell<usize>,
}

impl Expansion<'_> {
    fn step(&self) -> Result<()> {
        self.steps.set(self.steps.get() + 1);
        if self.steps.get() > MAX_EXPANSION {
            return Err(Error::Usage(format!("more than {MAX_EXPANSION} files and folders; name fewer at a time")));
        }
        (self.check)()
    }

    fn word(&self, word: &OsStr, found: &mut Vec<InputFile>) -> Result<()> {
        let path = Path::new(word);
        if path.exists() {
            return self.path(path, found);
        }
        // Only text can be a pattern.
        let Some(text) = word.to_str() else { return Err(missing(path)) };
        let mut matched = false;
        let words = braces::expand(text, self.check)?;
        let patterned = words.len() > 1 || pattern::is_pattern(text);
        for word in &words {
            self.step()?;
            if pattern::is_pattern(word) && !Path::new(word).exists() {
                for path in pattern::matches(word, &|| self.step())? {
                    matched = true;
                    self.path(&path, found)?;
                }
            } else if Path::new(word).exists() {
                matched = true;
                self.path(Path::new(word), found)?;
            } else if words.len() > 1 {
                return Err(missing(Path::new(word)));
            }
        }
        match (matched, patterned) {
            (true, _) => Ok(()),
            (false, true) => Err(Error::NotFound { path: path.into(), hint: " matches this pattern".to_owned() }),
            (false, false) => Err(missing(path)),
        }
    }

    fn path(&self, path: &Path, found: &mut Vec<InputFile>) -> Result<()> {
        self.step()?;
        let kind = fs::metadata(path).at("open", path)?.file_type();
        if !kind.is_dir() {
            if !kind.is_file() {
                return Err(Error::NotPlain { path: path.to_path_buf(), kind: name_of(kind) });
            }
            found.push(InputFile::named(path));
            return Ok(());
        }
        if is_unfinished(path) {
            return Err(Error::Mismatch(format!(
                "{} is unfinished; run the command that makes it again and use the folder without `.partial`",
                path.display()
            )));
        }
        match Manifest::read(path)? {
            Some(manifest) => self.parts(path, &manifest, found),
            None => self.foreign_folder(path, found),
        }
    }

    /// The files of a folder that vlmsel finished.
    fn parts(&self, path: &Path, manifest: &Manifest, found: &mut Vec<InputFile>) -> Result<()> {
        let before = found.len();
        let losses = manifest.losses.clone().map(Arc::new);
        for record in manifest.parts.iter().flat_map(|part| &part.files) {
            self.step()?;
            let file = path.join(&record.file);
            // A list of what could not be read is no data.
            if (self.accept)(&file) && !record.file.ends_with("quarantine.jsonl") {
                match fs::metadata(&file) {
                    Ok(meta) if meta.len() == record.bytes => {}
                    Ok(meta) => {
                        let found = format!("{} bytes, its manifest says {}", meta.len(), record.bytes);
                        return Err(Error::unreadable(&file, format!("{found}; {}", advice(path))));
                    }
                    Err(error) => {
                        return Err(Error::unreadable(
                            &file,
                            format!("named by the manifest: {error}; {}", advice(path)),
                        ));
                    }
                }
                found.push(InputFile {
                    path: file,
                    name: record.file.clone(),
                    folder: Some(path.to_path_buf()),
                    blake3: Some(record.blake3.clone()),
                    losses: losses.clone(),
                });
            }
        }
        if found.len() == before {
            return Err(Error::Usage(format!(
                "{} holds the output of `vlmsel {}`, which has no {}",
                path.display(),
                manifest.command,
                self.what
            )));
        }
        Ok(())
    }

    fn foreign_folder(&self, path: &Path, found: &mut Vec<InputFile>) -> Result<()> {
        let mut below = self.walk(path)?;
        if below.is_empty() {
            return Err(Error::Usage(format!("{}: no {} in this folder", path.display(), self.what)));
        }
        below.sort();
        found.extend(below.into_iter().map(|below| InputFile {
            path: path.join(&below),
            name: text_of(&below),
            folder: Some(path.to_path_buf()),
            blake3: None,
            losses: None,
        }));
        Ok(())
    }

    /// Accepted files below a folder. No folder is entered twice, whatever links lead to it: real folders come first, then those
    /// behind links, by name, so that the paths do not depend on the order in which the system lists them.
    fn walk(&self, root: &Path) -> Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        let mut entered = BTreeSet::new();
        let (mut folders, mut links) = (vec![(PathBuf::new(), 0)], BTreeSet::new());
        loop {
            let Some((below, depth)) = folders.pop().or_else(|| links.pop_first()) else { return Ok(files) };
            let at = root.join(&below);
            let meta = fs::metadata(&at).at("inspect", &at)?;
            if !entered.insert((meta.dev(), meta.ino())) {
                continue;
            }
            if depth > MAX_FOLDER_DEPTH {
                let text = format!("{}: folders nest more than {MAX_FOLDER_DEPTH} deep", at.display());
                return Err(Error::Usage(text));
            }
            if depth > 0 && is_unfinished(&at) {
                return Err(Error::Mismatch(format!(
                    "{} is unfinished; finish it or name the tables one by one",
                    at.display()
                )));
            }
            if (self.accept)(Path::new("part.parquet")) {
                managed::check(&at)?;
            }
            for entry in fs::read_dir(&at).at("list", &at)? {
                self.step()?;
                let entry = entry.at("list", &at)?;
                let (name, path) = (entry.file_name(), entry.path());
                if is_hidden(&name) {
                    continue;
                }
                let below = below.join(&name);
                if path.is_dir() {
                    if entry.file_type().at("inspect", &path)?.is_symlink() {
                        links.insert((below, depth + 1));
                    } else {
                        folders.push((below, depth + 1));
                    }
                } else if name != MANIFEST && (self.accept)(&path) {
                    files.push(below);
                }
            }
        }
    }
}

/// What to do about a folder of ours that is not as it was written.
fn advice(folder: &Path) -> String {
    format!("run `vlmsel verify {}`, and make it again", folder.display())
}

/// Whether a folder is the unfinished output of a run.
fn is_unfinished(path: &Path) -> bool {
    path.join("begun.json").is_file() && path.join("parts").is_dir()
}

fn missing(path: &Path) -> Error {
    let name = path.file_name().unwrap_or_default();
    let partial = path.with_file_name([name, OsStr::new(".partial")].into_iter().collect::<OsString>());
    if partial.join("begun.json").is_file() {
        return Error::Mismatch(format!(
            "{} is not finished ({} holds what is done so far); run the command that makes it again",
            path.display(),
            partial.display()
        ));
    }
    if path.to_string_lossy().contains("://") {
        return Error::Usage(format!(
            "{}: remote stores are not supported by this version; copy or mount it",
            path.display()
        ));
    }
    if let Err(source) = fs::symlink_metadata(path)
        && source.kind() != std::io::ErrorKind::NotFound
    {
        return Error::Io { action: "open", path: path.to_path_buf(), source };
    }
    if path.symlink_metadata().is_ok() {
        return Error::NotFound { path: path.to_path_buf(), hint: " behind this link".to_owned() };
    }
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let near = fs::read_dir(folder)
        .map(|entries| {
            let names: Vec<String> =
                entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
            vlmsel_core::suggest::near(&name.to_string_lossy(), names.iter().map(String::as_str))
        })
        .unwrap_or_default();
    let hint = match near.first() {
        Some(near) => format!("; did you mean {}?", folder.join(near).display()),
        None if folder.exists() => String::new(),
        None => format!(" (the folder {} does not exist either)", folder.display()),
    };
    Error::NotFound { path: path.to_path_buf(), hint }
}

fn is_hidden(name: &OsStr) -> bool {
    let name = name.as_bytes();
    name.starts_with(b".") || name.starts_with(b"_") || name.ends_with(b".crc")
}

/// Words from text, for tests and for callers that have text.
pub fn words<'a>(texts: impl IntoIterator<Item = &'a str>) -> Vec<OsString> {
    texts.into_iter().map(OsString::from).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;
    use std::os::unix::fs::symlink;

    use super::*;

    fn files(words: &[OsString]) -> Result<Vec<InputFile>> {
        let accept = |p: &Path| p.extension().is_some_and(|e| e == "csv");
        expand(words, "table", &accept, &|| Ok(()))
    }

    fn names(word: &str) -> Result<Vec<String>> {
        Ok(files(&words([word]))?.into_iter().map(|f| f.name).collect())
    }

    #[test]
    fn folders_lists_and_patterns_name_the_same_files() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("sub")).unwrap();
        for name in ["b.csv", "a.csv", "sub/c.csv", ".hidden.csv", "_temp.csv", "x.csv.crc", "other.txt"] {
            fs::write(at(name), "x").unwrap();
        }
        let root = folder.path().to_string_lossy().into_owned();
        assert_eq!(names(&root).unwrap(), ["a.csv", "b.csv", "sub/c.csv"]);
        assert_eq!(names(&format!("{root}/*.csv")).unwrap(), ["a.csv", "b.csv"]);
        assert_eq!(names(&format!("{root}/{{b,a}}.csv")).unwrap(), ["b.csv", "a.csv"]);
        fs::write(at("list"), format!("# mine\n{root}/a.csv\n\n{root}/sub\n")).unwrap();
        assert_eq!(names(&format!("@{root}/list")).unwrap(), ["a.csv", "c.csv"]);
        assert!(matches!(names(&format!("{root}/c.csv")), Err(Error::NotFound { .. })));
        assert!(matches!(names(&format!("{root}/{{a,z}}.csv")), Err(Error::NotFound { .. })));
        assert!(matches!(names(&format!("{root}/*.parquet")), Err(Error::NotFound { .. })));
    }

    #[test]
    fn no_folder_is_entered_twice() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("d/z")).unwrap();
        fs::write(at("d/z/c.csv"), "x").unwrap();
        for link in ["d/a", "d/b", "d/z/up"] {
            symlink(at("d"), at(link)).unwrap();
        }
        let root = at("d").to_string_lossy().into_owned();
        assert_eq!(names(&root).unwrap(), ["z/c.csv"]);
        assert_eq!(names(&format!("{root}/**/*.csv")).unwrap(), ["c.csv"]);
        // Through a link alone it is found, by the first name.
        fs::create_dir(at("e")).unwrap();
        symlink(at("d/z"), at("e/l2")).unwrap();
        symlink(at("d/z"), at("e/l1")).unwrap();
        assert_eq!(names(&at("e").to_string_lossy()).unwrap(), ["l1/c.csv"]);
    }

    #[test]
    fn lists_without_end_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
        let text = |name: &str, word: &str| fs::write(at(name), format!("{word}\n").repeat(2000)).unwrap();
        text("self", &format!("@{}", at("self")));
        text("a", &format!("@{}", at("b")));
        text("b", &format!("@{}", at("a")));
        for name in ["self", "a"] {
            let error = names(&format!("@{}", at(name))).unwrap_err().to_string();
            assert!(error.contains("the list names itself"), "{error}");
        }
        text("last", "x");
        text("middle", &format!("@{}", at("last")));
        text("first", &format!("@{}", at("middle")));
        text("zeroth", &format!("@{}", at("first")));
        assert!(names(&format!("@{}", at("zeroth"))).unwrap_err().to_string().contains("name more than"));
    }

    #[test]
    fn what_is_no_plain_file_is_refused_before_it_is_opened() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("p.csv");
        let name = std::ffi::CString::new(pipe.as_os_str().as_bytes()).unwrap();
        // SAFETY: the name is a NUL-terminated string.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        let _socket = std::os::unix::net::UnixListener::bind(folder.path().join("s.csv")).unwrap();
        let pipe = pipe.to_string_lossy().into_owned();
        let socket = folder.path().join("s.csv").to_string_lossy().into_owned();
        for word in [pipe.clone(), socket, "/dev/zero".to_owned(), format!("@{pipe}"), "@/dev/zero".to_owned()] {
            assert!(matches!(names(&word), Err(Error::NotPlain { .. })), "{word}: {:?}", names(&word));
        }
        // Found in a folder it is a file that cannot be read.
        let found = files(&[folder.path().into()]).unwrap();
        assert_eq!(found.len(), 2);
        assert!(found.iter().all(|file| matches!(open(&file.path), Err(Error::NotPlain { .. }))));
    }

    #[test]
    fn a_path_is_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(OsString::from_vec(b"caf\xe9.csv".to_vec()));
        fs::write(&path, "x").unwrap();
        let named = files(&[path.clone().into()]).unwrap();
        assert_eq!((named[0].path.clone(), named[0].name.as_str()), (path.clone(), "caf\\xe9.csv"));
        assert!(named[0].check_name().is_ok());
        let found = files(&[folder.path().into()]).unwrap();
        assert_eq!((found[0].path.clone(), found[0].name.as_str()), (path, "caf\\xe9.csv"));
        assert!(found[0].check_name().unwrap_err().to_string().contains("the name caf\\xe9.csv is no UTF-8"));
    }

    #[test]
    fn whoever_waits_may_stop_it() {
        let folder = tempfile::tempdir().unwrap();
        let stop = |words: &[OsString]| expand(words, "table", &|_| true, &|| Err(Error::Cancelled));
        assert!(matches!(stop(&[folder.path().into()]), Err(Error::Cancelled)));
        assert!(matches!(stop(&words(["{0..99999}"])), Err(Error::Cancelled)));
    }
}
