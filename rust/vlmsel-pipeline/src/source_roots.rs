//! An index's manifest, and where the data that it speaks of lie now.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde_json::Value;
use vlmsel_shards::storage::paths::below;
use vlmsel_shards::workspace::inputs::Check;
use vlmsel_shards::workspace::manifest::Manifest;

use crate::error::{Error, Result};
use crate::sources::split_named;

/// The manifest of a folder that `vlmsel index` wrote.
pub(crate) fn read_index_manifest(folder: &Path, check: Check<'_>) -> Result<Manifest> {
    let accept = |path: &Path| path.extension().is_some_and(|e| e == "parquet");
    vlmsel_shards::workspace::inputs::expand(&[folder.into()], "index part", &accept, check)?;
    match Manifest::read(folder)? {
        Some(manifest) if manifest.command == "index" => Ok(manifest),
        Some(manifest) => Err(Error::usage(format!(
            "{} holds the output of `vlmsel {}`; give the folder that `vlmsel index` wrote with --index",
            folder.display(),
            manifest.command
        ))),
        None => Err(Error::usage(format!("{} is no index: `vlmsel index` did not write it", folder.display()))),
    }
}

/// Where sources lie now.
#[derive(Debug)]
pub(crate) struct Roots {
    paths: BTreeMap<String, PathBuf>,
    images: BTreeMap<String, PathBuf>,
}

impl Roots {
    pub fn new(recorded: &Value, moved: &[OsString], image_root: Option<&Path>) -> Result<Self> {
        let (mut paths, mut images) = (BTreeMap::new(), BTreeMap::new());
        for (name, root) in recorded.as_object().into_iter().flatten() {
            let path = root.get("path").and_then(Value::as_str).unwrap_or_default();
            let own = root.get("image_root").and_then(Value::as_str).unwrap_or(path);
            let place = |text: &str| below(Path::new(""), text);
            paths.insert(name.clone(), place(path));
            images.insert(name.clone(), image_root.map_or_else(|| place(own), Path::to_path_buf));
        }
        for pair in moved {
            let (name, path) = split_named(pair)?;
            let path = PathBuf::from(path);
            let Some(known) = paths.get_mut(&name) else {
                let names: Vec<&str> = paths.keys().map(String::as_str).collect();
                return Err(Error::usage(format!(
                    "--source {name}={}: the index has no source {name:?}, only {}",
                    path.display(),
                    names.join(", ")
                )));
            };
            if images.get(&name) == Some(known) {
                images.insert(name, path.clone());
            }
            *known = path;
        }
        Ok(Self { paths, images })
    }

    /// A shard's place.
    pub fn shard(&self, source: &str, name: &str) -> Result<PathBuf> {
        self.paths
            .get(source)
            .map(|root| below(root, name))
            .ok_or_else(|| Error::usage(format!("the index does not say where source {source} lies")))
    }

    /// The folder that images of a source lie below.
    pub fn image_root(&self, source: &str) -> Result<&Path> {
        let root = self.images.get(source).map(PathBuf::as_path);
        root.ok_or_else(|| Error::usage(format!("the index does not say where the images of {source} lie")))
    }
}
