//! Folders whose files are not all rows of the table: Delta Lake, Apache Iceberg and Apache Hudi keep old files beside new ones,
//! and a log says which of them count.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Refuses such a folder.
///
/// # Errors
/// [`Error::Usage`], with what to do instead.
pub fn check(folder: &Path) -> Result<()> {
    let (kind, log, library) = if folder.join("_delta_log").is_dir() {
        ("Delta Lake", "_delta_log/", "deltalake.DeltaTable(...).to_pyarrow_table()")
    } else if folder.join(".hoodie").is_dir() {
        ("Apache Hudi", ".hoodie/", "Spark or hudi-rs")
    } else if has_iceberg_metadata(&folder.join("metadata")) {
        ("Apache Iceberg", "metadata/", "pyiceberg's table.scan().to_arrow()")
    } else {
        return Ok(());
    };
    Err(Error::Usage(format!(
        "{}: a table of {kind}, whose log ({log}) says which files are rows of it; others in the folder are old. Read it with its own library ({library}) and hand the Arrow table to vlmsel.select, or write it to plain Parquet first",
        folder.components().collect::<PathBuf>().display()
    )))
}

fn has_iceberg_metadata(folder: &Path) -> bool {
    let names = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
    names.map(|name| name.to_string_lossy().into_owned()).any(|name| name.ends_with(".metadata.json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_with_a_log_is_named_by_its_kind() {
        for (kind, file) in [
            ("Delta Lake", "_delta_log/00000000000000000001.json"),
            ("Apache Hudi", ".hoodie/hoodie.properties"),
            ("Apache Iceberg", "metadata/v1.metadata.json"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let plain = folder.path().join("metadata/notes.json");
            std::fs::create_dir_all(plain.parent().unwrap()).unwrap();
            std::fs::write(plain, "{}").unwrap();
            assert!(check(folder.path()).is_ok());
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "{}").unwrap();
            assert!(check(folder.path()).unwrap_err().to_string().contains(kind));
        }
    }
}
