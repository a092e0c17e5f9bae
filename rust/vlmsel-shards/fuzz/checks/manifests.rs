//! No bytes in place of a manifest, of what an unfinished output says of itself, or of the record of one of its parts
//! make a reader panic, or reach outside the folder.

use std::fs;
use std::path::Path;

use serde_json::json;
use vlmsel_shards::workspace::fingerprint::fingerprint;
use vlmsel_shards::workspace::manifest::{MANIFEST, Manifest};
use vlmsel_shards::workspace::output::{Output, OutputSpec};
use vlmsel_shards::workspace::verify::verify;

/// Reads `bytes` as each of the three.
pub fn check(bytes: &[u8]) {
    let folder = super::scratch();
    let finished = folder.path().join("finished");
    write(&finished.join(MANIFEST), bytes);
    write(&finished.join("a.parquet"), b"not what the manifest says");
    let read = Manifest::read(&finished);
    if let Ok(Some(manifest)) = &read {
        let names = manifest.parts.iter().flat_map(|part| &part.files).map(|file| Path::new(&file.file));
        for name in names {
            assert!(name.is_relative() && !name.components().any(|part| part.as_os_str() == ".."));
        }
        assert!(manifest.to_bytes().is_ok());
    }
    match verify(&finished, |_| true) {
        Ok(found) if found.problems.is_empty() => {
            let manifest = read.expect("it was verified").expect("it was verified");
            assert_eq!(manifest.to_bytes().expect("it was read").0, bytes);
        }
        Ok(_) => assert!(matches!(read, Ok(Some(_)))),
        Err(_) => assert!(!matches!(read, Ok(Some(_)))),
    }
    let _ = fingerprint(&finished, "index");
    begin(&finished);

    let begun = folder.path().join("begun");
    write(&folder.path().join("begun.partial/begun.json"), bytes);
    begin(&begun);

    let parts = folder.path().join("parts");
    let unfinished = json!({"command": "index", "config": {"a": 1}, "inputs": []});
    write(&folder.path().join("parts.partial/begun.json"), unfinished.to_string().as_bytes());
    write(&folder.path().join("parts.partial/parts/0.json"), bytes);
    begin(&parts);
}

fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().expect("it has one")).expect("there is room");
    fs::write(path, bytes).expect("there is room");
}

/// Goes on with whatever is there.
fn begin(path: &Path) {
    let _ = Output::begin(OutputSpec {
        path: path.to_path_buf(),
        command: "index".to_owned(),
        config: json!({"a": 1}),
        inputs: Vec::new(),
        guarded: Vec::new(),
        overwrite: false,
        extend: true,
        resume: true,
    });
}
