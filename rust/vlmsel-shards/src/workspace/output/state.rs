//! What is at the place of an output already: an input, a foreign folder, a finished or an unfinished output.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Begun, OutputSpec};
use crate::error::{Error, IoContext, Result};
use crate::storage::paths::{place_of_output, real_place};
use crate::storage::source::name_of;
use crate::workspace::manifest::{InputRecord, Manifest, differences};

/// The place of an output, cleaned before anything is made.
pub fn place(path: &Path) -> Result<PathBuf> {
    let place = place_of_output(path);
    if place.file_name().is_none() {
        return Err(Error::Usage(format!("{} cannot be an output folder", path.display())));
    }
    Ok(place)
}

/// What a partial folder says of itself.
pub const BEGUN: &str = "begun.json";

/// Refuses an output that would touch an input: its folder, and what stands beside it while it is made.
pub fn guard(spec: &OutputSpec, ours: &[PathBuf]) -> Result<()> {
    let places: Vec<PathBuf> = std::iter::once(&spec.path).chain(ours).map(|path| real_place(path)).collect();
    for input in &spec.guarded {
        let input_place = real_place(input);
        if places.iter().any(|place| place.starts_with(&input_place) || input_place.starts_with(place)) {
            return Err(Error::Usage(format!(
                "the output {} is, holds or lies inside the input {}; choose another output with -o",
                spec.path.display(),
                input.display()
            )));
        }
    }
    Ok(())
}

/// Whether a folder of ours is there. What else lies at its place is in the way, a link too: what it leads to is not ours.
pub fn is_folder(path: &Path) -> Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => Ok(true),
        Ok(meta) => Err(Error::Usage(format!(
            "{} is in the way ({}); move it or choose another output with -o",
            path.display(),
            name_of(meta.file_type())
        ))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).at("inspect", path),
    }
}

pub fn finished_output(spec: &OutputSpec) -> Result<Option<Manifest>> {
    let path = &spec.path;
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.file_type().is_symlink() => {
            return Err(Error::Usage(format!("{} is a link; give the real folder with -o", path.display())));
        }
        Ok(meta) if !meta.is_dir() => {
            return Err(Error::Usage(format!(
                "{} is {}; outputs are folders, choose another with -o",
                path.display(),
                if meta.is_file() { "a file" } else { name_of(meta.file_type()) }
            )));
        }
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).at("inspect", path),
    }
    if let Some(manifest) = Manifest::read(path)? {
        if manifest.command != spec.command {
            return Err(Error::Usage(format!(
                "{} holds the output of `vlmsel {}`; choose another output with -o",
                path.display(),
                manifest.command
            )));
        }
        return Ok(Some(manifest));
    }
    if fs::read_dir(path).at("list", path)?.next().is_some() {
        return Err(Error::Usage(format!(
            "{} is not empty and vlmsel did not make it; choose another output with -o",
            path.display()
        )));
    }
    Ok(None)
}

pub fn read_begun(partial: &Path) -> Result<Option<Begun>> {
    let path = partial.join(BEGUN);
    match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| Error::unreadable(&path, error)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).at("read", &path),
    }
}

/// Removes a partial folder, what says whose it is last: a kill on the way must not leave a folder that nobody knows.
pub fn remove_partial(partial: &Path) -> Result<()> {
    for entry in fs::read_dir(partial).at("list", partial)? {
        let entry = entry.at("list", partial)?;
        let path = entry.path();
        if entry.file_type().at("inspect", &path)?.is_dir() {
            fs::remove_dir_all(&path).at("remove", &path)?;
        } else if entry.file_name() != BEGUN {
            fs::remove_file(&path).at("remove", &path)?;
        }
    }
    fs::remove_dir_all(partial).at("remove", partial)
}

pub fn is_empty_or_temporary(partial: &Path) -> Result<bool> {
    for entry in fs::read_dir(partial).at("list", partial)? {
        let name = entry.at("list", partial)?.file_name();
        let ours = name.to_string_lossy();
        if !(ours.starts_with('.') && ours.ends_with(".tmp")) && ours != "parts" && ours != "output" {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Every old input is there unchanged; there may be new ones.
pub fn extends(old: &[InputRecord], new: &[InputRecord]) -> bool {
    let by_name: BTreeMap<&str, &InputRecord> = new.iter().map(|i| (i.name.as_str(), i)).collect();
    old.iter().all(|i| by_name.get(i.name.as_str()).is_some_and(|n| *n == i))
}

pub fn difference_text(config: &Value, inputs: &[InputRecord], spec: &OutputSpec) -> String {
    let as_value = |inputs: &[InputRecord]| {
        Value::Object(
            inputs
                .iter()
                .map(|i| (i.name.clone(), Value::String(format!("{} bytes, {}", i.bytes, i.fingerprint))))
                .collect(),
        )
    };
    let mut lines: Vec<String> =
        differences(config, &spec.config, 20).into_iter().map(|line| format!("  option {line}")).collect();
    lines.extend(
        differences(&as_value(inputs), &as_value(&spec.inputs), 20).into_iter().map(|l| format!("  input {l}")),
    );
    lines.join("\n")
}
