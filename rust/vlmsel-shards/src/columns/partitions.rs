//! Columns that stand in a table's path: `source=laion/part-0.parquet` is a table whose `source` is `laion` in every row.
//!
//! Hive wrote tables like this, and Spark, pyarrow, `DuckDB` and Polars do. Names and values are URL-encoded; values are strings
//! here, whatever they look like.

use std::path::{Component, Path, PathBuf};

/// The value that stands for a null.
const NULL: &str = "__HIVE_DEFAULT_PARTITION__";

/// A column of one value, or of nulls alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Its name.
    pub name: String,
    /// The value of every row; `None` for nulls.
    pub value: Option<String>,
}

/// The columns in the folders of a path, as it was given. Of a name that comes twice the innermost counts.
pub fn of_path(path: &Path) -> Vec<Partition> {
    let mut found: Vec<Partition> = Vec::new();
    for part in path.parent().into_iter().flat_map(Path::components).filter_map(partition) {
        found.retain(|other| other.name != part.name);
        found.push(part);
    }
    found
}

/// The path from its first such folder on, which says what the columns are; `None` if it has none.
pub fn name_with_partitions(path: &Path) -> Option<PathBuf> {
    let parts: Vec<Component<'_>> = path.components().collect();
    let first = parts.iter().take(parts.len().saturating_sub(1)).position(|part| partition(*part).is_some())?;
    Some(parts[first..].iter().collect())
}

fn partition(part: Component<'_>) -> Option<Partition> {
    let Component::Normal(folder) = part else { return None };
    let (name, value) = folder.to_str()?.split_once('=')?;
    let name = decoded(name).filter(|name| !name.is_empty())?;
    let value = if value == NULL { None } else { Some(decoded(value)?) };
    Some(Partition { name, value })
}

/// Text with `%41` read as `A`; `None` if that is no UTF-8. A `%` that no two digits follow stands for itself.
fn decoded(text: &str) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((first, behind)) = rest.split_first() {
        let digit = |at: usize| behind.get(at).and_then(|digit| char::from(*digit).to_digit(16));
        if let (b'%', Some(high), Some(low)) = (first, digit(0), digit(1)) {
            bytes.push((high << 4 | low) as u8);
            rest = &behind[2..];
        } else {
            bytes.push(*first);
            rest = behind;
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str) -> Vec<(String, Option<String>)> {
        of_path(Path::new(path)).into_iter().map(|part| (part.name, part.value)).collect()
    }

    #[test]
    fn folders_of_the_form_name_value_are_columns() {
        let some = |name: &str, value: &str| (name.to_owned(), Some(value.to_owned()));
        assert_eq!(
            found("t/source=laion/day=2024-01-01/a.parquet"),
            [some("source", "laion"), some("day", "2024-01-01")]
        );
        assert_eq!(found("/x/a=b=c/p.csv"), [some("a", "b=c")]);
        assert_eq!(found("a%3D%20b=%C3%A9%/p.csv"), [some("a= b", "é%")]);
        assert_eq!(found("a=/p.csv"), [some("a", "")]);
        assert_eq!(found("a=1/a=2/p.csv"), [some("a", "2")]);
        assert_eq!(found("s=__HIVE_DEFAULT_PARTITION__/p.csv"), [("s".to_owned(), None)]);
        for none in ["a=b.parquet", "x/=1/p.csv", "x/a=%ff/p.csv", "plain/p.csv"] {
            assert_eq!(found(none), [], "{none}");
        }
    }

    #[test]
    fn a_name_says_which_columns_there_are() {
        let name = |path: &str| name_with_partitions(Path::new(path));
        assert_eq!(name("/d/t/a=1/x/b=2/p.csv"), Some("a=1/x/b=2/p.csv".into()));
        assert_eq!(name("/d/t/a=1.csv"), None);
    }
}
