//! The list of a record's images, read straight into what is wanted of it: as a tree it would take some 30 times its bytes.

use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};

use crate::formats::json_fields::{Reason, bad_json};

/// More images than this are no record's. Each is a file that is opened.
const MAX_IMAGES: usize = 10_000;

/// A list of paths.
pub struct Paths {
    kept: Vec<String>,
    count: usize,
}

impl Paths {
    /// Adds the paths that `list` holds to those of the record.
    pub fn add(name: &str, list: &str, to: &mut Vec<String>) -> Result<(), Reason> {
        let Self { kept, count } = serde_json::from_str(list).map_err(|error| {
            if error.is_data() { ("bad_image_path", format!("{name}: {error}")) } else { bad_json(&error) }
        })?;
        if to.len() + count > MAX_IMAGES {
            return Err(("too_many_images", format!("{count} images, a record has at most {MAX_IMAGES}")));
        }
        to.extend(kept);
        Ok(())
    }
}

impl<'a> Deserialize<'a> for Paths {
    fn deserialize<D: Deserializer<'a>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;

        impl<'a> Visitor<'a> for List {
            type Value = Paths;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a path or a list of paths")
            }

            fn visit_seq<A: SeqAccess<'a>>(self, mut list: A) -> Result<Paths, A::Error> {
                let mut paths = Paths { kept: Vec::new(), count: 0 };
                while let Some(path) = list.next_element::<String>()? {
                    paths.count += 1;
                    if paths.count <= MAX_IMAGES {
                        paths.kept.push(path);
                    }
                }
                Ok(paths)
            }
        }
        deserializer.deserialize_seq(List)
    }
}
