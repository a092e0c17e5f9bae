//! Patterns: `*`, `?`, `[a-z]` within a name, and `**` for any number of folders.
//!
//! Every step of a pattern looks into each folder once, whatever links lead to it: a folder that links to itself would otherwise
//! be found by two to the power of its depth names.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use glob::Pattern;

use super::{Check, is_hidden};
use crate::error::{Error, Result};

/// Whether a word is a pattern.
pub(super) fn is_pattern(word: &str) -> bool {
    word.contains(['*', '?', '['])
}

/// What matches, by name. Hidden names match only where the pattern writes them out.
pub(super) fn matches(pattern: &str, check: Check<'_>) -> Result<Vec<PathBuf>> {
    let start = if pattern.starts_with('/') { PathBuf::from("/") } else { PathBuf::new() };
    let mut found = vec![start];
    let mut parts = pattern.split('/').filter(|part| !part.is_empty()).peekable();
    while let Some(part) = parts.next() {
        let mut next = Vec::new();
        if part == "**" {
            // Nothing behind it: the folders themselves, which stand for all that is below them.
            next = if parts.peek().is_none() { found } else { with_folders_below(found, check)? };
        } else if is_pattern(part) {
            let wanted = Pattern::new(part)
                .map_err(|error| Error::Usage(format!("{pattern}: not a pattern: {error} in {part:?}")))?;
            for folder in &found {
                let names = names_in(folder, check)?;
                let names =
                    names.into_iter().filter(|name| !is_hidden(name) && wanted.matches(&name.to_string_lossy()));
                next.extend(names.map(|name| folder.join(name)));
            }
        } else {
            next.extend(found.iter().map(|folder| folder.join(part)).filter(|path| path.symlink_metadata().is_ok()));
        }
        found = if parts.peek().is_some() { distinct_folders(next) } else { next };
    }
    found.sort();
    Ok(found)
}

/// The names in a folder, in order.
fn names_in(folder: &Path, check: Check<'_>) -> Result<Vec<OsString>> {
    let at = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let unreadable = |error| Error::unreadable(at, error);
    let mut names = Vec::new();
    for entry in fs::read_dir(at).map_err(unreadable)? {
        check()?;
        names.push(entry.map_err(unreadable)?.file_name());
    }
    names.sort();
    Ok(names)
}

/// Those that are folders, each by the first of its names.
fn distinct_folders(mut paths: Vec<PathBuf>) -> Vec<PathBuf> {
    let mut seen = BTreeSet::new();
    paths.sort();
    paths.retain(|path| {
        let at = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        fs::metadata(at).is_ok_and(|meta| meta.is_dir() && seen.insert((meta.dev(), meta.ino())))
    });
    paths
}

fn with_folders_below(mut found: Vec<PathBuf>, check: Check<'_>) -> Result<Vec<PathBuf>> {
    let mut new = found.clone();
    while !new.is_empty() {
        let mut below = Vec::new();
        for folder in &new {
            let names = names_in(folder, check)?.into_iter().filter(|name| !is_hidden(name));
            below.extend(names.map(|name| folder.join(name)).filter(|path| path.is_dir()));
        }
        let before = found.len();
        // What was found before comes first, so that it keeps its name.
        let mut seen: BTreeSet<_> = found.iter().filter_map(|path| number_of(path)).collect();
        below.sort();
        found.extend(below.into_iter().filter(|path| number_of(path).is_some_and(|number| seen.insert(number))));
        new = found[before..].to_vec();
    }
    Ok(found)
}

fn number_of(path: &Path) -> Option<(u64, u64)> {
    let at = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    fs::metadata(at).ok().map(|meta| (meta.dev(), meta.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_the_glob_crate_says() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a/1.tar", "a/b/2.tar", "a/b/c/3.tar", "a/b/x.txt", "z/4.tar", "a/[q]/5.tar"] {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let root = folder.path().to_str().unwrap();
        let patterns = [
            "*",
            "*/*.tar",
            "a/**/*.tar",
            "**/*.tar",
            "?/b/*",
            "a/b/[0-9].tar",
            "[az]/?.tar",
            "a/*/c/*",
            "none*",
            "**/b/*",
        ];
        for pattern in patterns {
            let pattern = format!("{root}/{pattern}");
            let mut expected: Vec<PathBuf> = glob::glob(&pattern).unwrap().map(|path| path.unwrap()).collect();
            expected.sort();
            assert_eq!(matches(&pattern, &|| Ok(())).unwrap(), expected, "{pattern}");
        }
    }
}
