//! From what people type to files: paths, folders, globs, braces and `@list` files.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, IoContext, Result};
use crate::manifest::{MANIFEST, Manifest};

/// One argument may not expand to more files than this: `{0..999999999999}` is a slip of the hand.
const MAX_EXPANSION: usize = 10_000_000;
/// Nesting of `@list` files.
const MAX_LIST_DEPTH: usize = 8;

/// A file to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputFile {
    /// Where it lies.
    pub path: PathBuf,
    /// Its path below the argument that named it, with `/`; what manifests record.
    pub name: String,
    /// The folder that was named in the file's place, if any; outputs must stay out of it.
    pub folder: Option<PathBuf>,
}

/// Expands the arguments in order. Folders give the files below them that `accept`s (hidden, `_`-prefixed and `.crc` ones
/// apart, sorted by name); a folder that vlmsel finished gives the files its manifest names.
///
/// # Errors
/// [`Error::NotFound`] for a path that is not there or a pattern that matches nothing, [`Error::Usage`] for a folder with
/// no accepted file, [`Error::Mismatch`] for a folder that vlmsel began and did not finish.
pub fn expand(arguments: &[String], what: &str, accept: &dyn Fn(&Path) -> bool) -> Result<Vec<InputFile>> {
    let mut found = Vec::new();
    for argument in arguments {
        expand_one(argument, what, accept, 0, &mut found)?;
    }
    let mut seen = BTreeSet::new();
    found.retain(|file: &InputFile| seen.insert(fs::canonicalize(&file.path).unwrap_or_else(|_| file.path.clone())));
    distinguish_names(&mut found);
    Ok(found)
}

/// Two files of one name below different roots are told apart by as much of their folders as it takes.
fn distinguish_names(files: &mut [InputFile]) {
    let mut counts = std::collections::HashMap::new();
    for file in files.iter() {
        *counts.entry(file.name.clone()).or_insert(0_u32) += 1;
    }
    for file in files.iter_mut().filter(|file| counts[&file.name] > 1) {
        file.name = file.path.components().collect::<PathBuf>().to_string_lossy().into_owned();
    }
}

fn expand_one(
    argument: &str,
    what: &str,
    accept: &dyn Fn(&Path) -> bool,
    depth: usize,
    found: &mut Vec<InputFile>,
) -> Result<()> {
    if let Some(list) = argument.strip_prefix('@').filter(|_| !Path::new(argument).exists()) {
        if depth >= MAX_LIST_DEPTH {
            return Err(Error::Usage(format!("{argument}: lists name each other more than {MAX_LIST_DEPTH} deep")));
        }
        let text = fs::read_to_string(list).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => missing(Path::new(list)),
            _ => Error::unreadable(list, format!("not a list of paths: {error}")),
        })?;
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            expand_one(line, what, accept, depth + 1, found)?;
        }
        return Ok(());
    }
    let path = Path::new(argument);
    if path.exists() {
        return expand_path(path, what, accept, found);
    }
    let mut matched = false;
    let mut words = Vec::new();
    expand_braces(argument, &mut words)?;
    let patterned = words.len() > 1 || argument.contains(['*', '?', '[']);
    for word in &words {
        if word.contains(['*', '?', '[']) && !Path::new(word).exists() {
            let paths = glob::glob(word).map_err(|error| Error::Usage(format!("{word}: not a pattern: {error}")))?;
            for path in paths {
                let path = path.map_err(|error| Error::unreadable(error.path(), error.error()))?;
                if !enters_hidden(word, &path) {
                    matched = true;
                    expand_path(&path, what, accept, found)?;
                }
            }
        } else if Path::new(word).exists() {
            matched = true;
            expand_path(Path::new(word), what, accept, found)?;
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

fn missing(path: &Path) -> Error {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let partial = path.with_file_name(format!("{name}.partial"));
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
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let near = fs::read_dir(folder)
        .map(|entries| {
            let names: Vec<String> =
                entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
            vlmsel_core::names::near(&name, names.iter().map(String::as_str))
        })
        .unwrap_or_default();
    let hint = match near.first() {
        Some(near) => format!("; did you mean {}?", folder.join(near).display()),
        None if folder.exists() => String::new(),
        None => format!(" (the folder {} does not exist either)", folder.display()),
    };
    Error::NotFound { path: path.to_path_buf(), hint }
}

fn expand_path(path: &Path, what: &str, accept: &dyn Fn(&Path) -> bool, found: &mut Vec<InputFile>) -> Result<()> {
    if !path.is_dir() {
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        found.push(InputFile { path: path.to_path_buf(), name, folder: None });
        return Ok(());
    }
    if path.join("begun.json").is_file() && path.join("parts").is_dir() {
        return Err(Error::Mismatch(format!(
            "{} is unfinished; run the command that makes it again and use the folder without `.partial`",
            path.display()
        )));
    }
    if let Some(manifest) = Manifest::read(path)? {
        let before = found.len();
        for record in manifest.parts.iter().flat_map(|part| &part.files) {
            let file = path.join(&record.file);
            if accept(&file) {
                match fs::metadata(&file) {
                    Ok(meta) if meta.len() == record.bytes => {}
                    Ok(meta) => {
                        let reason = format!("{} bytes, its manifest says {}", meta.len(), record.bytes);
                        return Err(Error::unreadable(&file, reason));
                    }
                    Err(error) => return Err(Error::unreadable(&file, format!("named by the manifest: {error}"))),
                }
                found.push(InputFile { path: file, name: record.file.clone(), folder: Some(path.to_path_buf()) });
            }
        }
        if found.len() == before {
            return Err(Error::Usage(format!(
                "{} holds the output of `vlmsel {}`, which has no {what}",
                path.display(),
                manifest.command
            )));
        }
        return Ok(());
    }
    let mut names = Vec::new();
    walk(path, path, accept, &mut names, 0)?;
    if names.is_empty() {
        return Err(Error::Usage(format!("{}: no {what} in this folder", path.display())));
    }
    names.sort();
    found.extend(names.into_iter().map(|name| InputFile {
        path: path.join(&name),
        name,
        folder: Some(path.to_path_buf()),
    }));
    Ok(())
}

/// Whether a pattern led into something hidden that it does not name itself: `**` enters every folder.
fn enters_hidden(pattern: &str, path: &Path) -> bool {
    let named: Vec<_> = Path::new(pattern).components().collect();
    path.components().any(|part| {
        matches!(part, std::path::Component::Normal(name) if is_hidden(Path::new(name))) && !named.contains(&part)
    })
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| {
        let name = name.to_string_lossy();
        name.starts_with(['.', '_']) || name.ends_with(".crc")
    })
}

fn walk(root: &Path, at: &Path, accept: &dyn Fn(&Path) -> bool, names: &mut Vec<String>, depth: usize) -> Result<()> {
    if depth > 64 {
        return Err(Error::Usage(format!("{}: folders nest more than 64 deep (a link to itself?)", at.display())));
    }
    for entry in fs::read_dir(at).at("list", at)? {
        let path = entry.at("list", at)?.path();
        if is_hidden(&path) {
            continue;
        }
        if path.is_dir() {
            if path.join("begun.json").is_file() && path.join("parts").is_dir() {
                return Err(Error::Mismatch(format!(
                    "{} is unfinished; finish it or name the tables one by one",
                    path.display()
                )));
            }
            walk(root, &path, accept, names, depth + 1)?;
        } else if accept(&path) && path.file_name().is_none_or(|n| n != MANIFEST) {
            let below = path.strip_prefix(root).unwrap_or(&path);
            names.push(below.to_string_lossy().into_owned());
        }
    }
    Ok(())
}

/// Shell braces: `{a,b}` and `{00..41}` (zero-padded as written), nested ones too. Unbalanced braces stay as they are.
fn expand_braces(word: &str, out: &mut Vec<String>) -> Result<()> {
    let Some((open, close)) = outer_braces(word) else {
        if out.len() >= MAX_EXPANSION {
            return Err(Error::Usage(format!("braces expand to more than {MAX_EXPANSION} names")));
        }
        out.push(word.to_owned());
        return Ok(());
    };
    let (head, body, tail) = (&word[..open], &word[open + 1..close], &word[close + 1..]);
    let mut choices = split_commas(body);
    if choices.len() == 1 {
        if let Some(numbers) = range(body)? {
            choices = numbers;
        } else {
            // `{abc}` is no expansion: keep the braces, go on behind them.
            let mut tails = Vec::new();
            expand_braces(tail, &mut tails)?;
            out.extend(tails.into_iter().map(|tail| format!("{head}{{{body}}}{tail}")));
            return Ok(());
        }
    }
    for choice in choices {
        expand_braces(&format!("{head}{choice}{tail}"), out)?;
    }
    Ok(())
}

fn outer_braces(word: &str) -> Option<(usize, usize)> {
    let open = word.find('{')?;
    let mut depth = 0;
    for (at, c) in word[open..].char_indices() {
        match c {
            '{' => depth += 1,
            '}' => {
                depth -= 1;
                if depth == 0 {
                    return Some((open, open + at));
                }
            }
            _ => {}
        }
    }
    None
}

fn split_commas(body: &str) -> Vec<String> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, c) in body.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(body[start..at].to_owned());
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(body[start..].to_owned());
    parts
}

fn range(body: &str) -> Result<Option<Vec<String>>> {
    let Some((from, to)) = body.split_once("..") else { return Ok(None) };
    let (Ok(first), Ok(last)) = (from.parse::<u64>(), to.parse::<u64>()) else { return Ok(None) };
    let count = first.abs_diff(last);
    if count >= MAX_EXPANSION as u64 {
        return Err(Error::Usage(format!("{{{body}}} expands to more than {MAX_EXPANSION} names")));
    }
    let padded = (from.len() > 1 && from.starts_with('0')) || (to.len() > 1 && to.starts_with('0'));
    let width = if padded { from.len().max(to.len()) } else { 0 };
    let number = |n: u64| format!("{n:0width$}");
    Ok(Some(if first <= last {
        (first..=last).map(number).collect()
    } else {
        (last..=first).rev().map(number).collect()
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn braces(word: &str) -> Vec<String> {
        let mut out = Vec::new();
        expand_braces(word, &mut out).unwrap();
        out
    }

    #[test]
    fn braces_expand_as_a_shell_does() {
        assert_eq!(braces("a{1,2}b"), ["a1b", "a2b"]);
        assert_eq!(braces("{00..03}.tar"), ["00.tar", "01.tar", "02.tar", "03.tar"]);
        assert_eq!(braces("{3..1}"), ["3", "2", "1"]);
        assert_eq!(braces("{a,{b,c}}x{1..2}"), ["ax1", "ax2", "bx1", "bx2", "cx1", "cx2"]);
        assert_eq!(braces("{abc}{1,2}"), ["{abc}1", "{abc}2"]);
        assert_eq!(braces("open{1,2"), ["open{1,2"]);
        assert!(expand_braces("{0..99999999999}", &mut Vec::new()).is_err());
    }

    #[test]
    fn folders_lists_and_patterns_name_the_same_files() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("sub")).unwrap();
        for name in ["b.csv", "a.csv", "sub/c.csv", ".hidden.csv", "_temp.csv", "x.csv.crc", "other.txt"] {
            fs::write(at(name), "x").unwrap();
        }
        let accept = |p: &Path| p.extension().is_some_and(|e| e == "csv");
        let run = |argument: &str| {
            expand(&[argument.to_owned()], "table", &accept).map(|f| f.into_iter().map(|f| f.name).collect::<Vec<_>>())
        };
        let root = folder.path().to_string_lossy().into_owned();
        assert_eq!(run(&root).unwrap(), ["a.csv", "b.csv", "sub/c.csv"]);
        assert_eq!(run(&format!("{root}/*.csv")).unwrap(), ["a.csv", "b.csv"]);
        assert_eq!(run(&format!("{root}/{{b,a}}.csv")).unwrap(), ["b.csv", "a.csv"]);
        fs::write(at("list"), format!("# mine\n{root}/a.csv\n\n{root}/sub\n")).unwrap();
        assert_eq!(run(&format!("@{root}/list")).unwrap(), ["a.csv", "c.csv"]);
        assert!(matches!(run(&format!("{root}/c.csv")), Err(Error::NotFound { .. })));
        assert!(matches!(run(&format!("{root}/{{a,z}}.csv")), Err(Error::NotFound { .. })));
        assert!(matches!(run(&format!("{root}/*.parquet")), Err(Error::NotFound { .. })));
    }
}
