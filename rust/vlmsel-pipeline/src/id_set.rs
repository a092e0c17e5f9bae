//! Lists of ids to include or exclude: text, Parquet, CSV, JSON lines, or DataComp's `.npy` subset files.

mod read;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Array, ArrayRef};
use arrow_schema::DataType;
use serde::{Deserialize, Serialize};
use vlmsel_core::hash::{bare_id, parse_uid_bytes, to_hex};

/// A set of ids in one canonical form: 16 bytes and every spelling of them are the same id. It remembers which of its ids
/// were asked for, so that a list of another table does not go unnoticed.
#[derive(Debug, Default)]
pub struct IdSet {
    /// In order, each once.
    wide: Vec<u128>,
    /// Each with its place behind those of `wide`.
    other: HashMap<Box<[u8]>, usize>,
    /// A bit for each id, set once it was found.
    met: Vec<AtomicU64>,
    files: Vec<PathBuf>,
    /// One id that was looked up, for messages.
    looked_up: OnceLock<String>,
}

/// How many ids a list has, and how many of them met no row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Listed {
    /// Distinct ids.
    pub ids: u64,
    /// Those that no table has.
    pub unmatched: u64,
}

/// An id as the set knows it.
enum Canonical<'a> {
    Wide(u128),
    Other(&'a [u8]),
}

/// How the bytes of an id are to be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A string: a spelling of 128 bits is these bits; white space and quotes around it do not count.
    Text,
    /// Bytes as they are, unless they are text that spells 128 bits.
    Bytes,
    /// The decimal digits of an integer.
    Digits,
}

impl Kind {
    fn of(data_type: &DataType) -> Self {
        match data_type {
            DataType::Utf8View => Self::Text,
            DataType::BinaryView | DataType::FixedSizeBinary(_) => Self::Bytes,
            _ => Self::Digits,
        }
    }
}

/// The 128 bits that the bytes of an id stand for, if they do; `working` is the working type of its column.
pub fn wide_id(id: &[u8], working: &DataType) -> Option<u128> {
    wide_of(id, Kind::of(working))
}

fn wide_of(id: &[u8], kind: Kind) -> Option<u128> {
    let wide = match kind {
        Kind::Text => parse_uid_bytes(id),
        // Many writers of Parquet do not say that their bytes are text.
        Kind::Bytes => <[u8; 16]>::try_from(id).ok().or_else(|| parse_uid_bytes(id)),
        Kind::Digits => None,
    };
    wide.map(u128::from_be_bytes)
}

fn canonical(id: &[u8], kind: Kind) -> Canonical<'_> {
    match wide_of(id, kind) {
        Some(wide) => Canonical::Wide(wide),
        None if kind == Kind::Text => Canonical::Other(bare_id(id)),
        None => Canonical::Other(id),
    }
}

/// An id as messages show it.
fn shown(id: &Canonical<'_>) -> String {
    match id {
        Canonical::Wide(value) => to_hex(&value.to_be_bytes()),
        Canonical::Other(bytes) => String::from_utf8_lossy(bytes).chars().take(80).collect(),
    }
}

impl IdSet {
    /// The files that were read, for the fingerprint.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Ids of 128 bits.
    pub fn of_wide(wide: Vec<u128>) -> Self {
        let mut set = Self { wide, ..Self::default() };
        set.settle();
        set
    }

    fn insert(&mut self, id: &[u8], kind: Kind) {
        match canonical(id, kind) {
            Canonical::Wide(value) => self.wide.push(value),
            Canonical::Other(bytes) if self.other.contains_key(bytes) => {}
            Canonical::Other(bytes) => {
                self.other.insert(bytes.into(), self.other.len());
            }
        }
    }

    /// Puts the ids in order when all are there.
    fn settle(&mut self) {
        self.wide.sort_unstable();
        self.wide.dedup();
        self.met.resize_with(self.len().div_ceil(64), AtomicU64::default);
    }

    fn len(&self) -> usize {
        self.wide.len() + self.other.len()
    }

    /// The place of an id, from 0 to the number of ids.
    fn place(&self, id: &Canonical<'_>) -> Option<usize> {
        match id {
            Canonical::Wide(value) => self.wide.binary_search(value).ok(),
            Canonical::Other(bytes) => self.other.get(*bytes).map(|place| self.wide.len() + place),
        }
    }

    /// Whether each id of `array` is in the set; a null never is. Those that are count as met from now on.
    pub fn contains_each(&self, array: &ArrayRef, found: &mut Vec<bool>) {
        found.clear();
        let kind = Kind::of(array.data_type());
        for_each_id(array, |_, id| {
            let place = id.and_then(|id| self.place(&canonical(id, kind)));
            if let Some(place) = place {
                let (word, bit) = (&self.met[place / 64], 1 << (place % 64));
                // Most rows of a long table find a bit that is set; a write would take the line from other threads.
                if word.load(Ordering::Relaxed) & bit == 0 {
                    word.fetch_or(bit, Ordering::Relaxed);
                }
            }
            found.push(place.is_some());
        });
        if self.looked_up.get().is_none() {
            for_each_id(&array.slice(0, array.len().min(1)), |_, id| {
                if let Some(id) = id {
                    self.looked_up.get_or_init(|| shown(&canonical(id, kind)));
                }
            });
        }
    }

    /// Forgets which ids were met, before the tables are read anew.
    pub fn forget(&self) {
        self.met.iter().for_each(|word| word.store(0, Ordering::Relaxed));
    }

    /// How many ids there are, and how many were not met.
    pub fn listed(&self) -> Listed {
        let met: u64 = self.met.iter().map(|word| u64::from(word.load(Ordering::Relaxed).count_ones())).sum();
        Listed { ids: self.len() as u64, unmatched: self.len() as u64 - met }
    }

    /// An id of the set and one of the tables, for a message about sets that do not meet.
    pub fn examples(&self) -> (String, Option<&str>) {
        let other = || self.other.keys().min().map(|id| Canonical::Other(id));
        let first = self.wide.first().map(|value| Canonical::Wide(*value)).or_else(other);
        (first.map(|id| shown(&id)).unwrap_or_default(), self.looked_up.get().map(String::as_str))
    }
}

/// Calls `visit` with each id's bytes: integers as decimal digits, strings and binaries as they are.
pub fn for_each_id(array: &ArrayRef, mut visit: impl FnMut(usize, Option<&[u8]>)) {
    match array.data_type() {
        DataType::FixedSizeBinary(_) => {
            let ids = array.as_fixed_size_binary();
            (0..ids.len()).for_each(|at| visit(at, (!ids.is_null(at)).then(|| ids.value(at))));
        }
        DataType::Utf8View => {
            let ids = array.as_string_view();
            (0..ids.len()).for_each(|at| visit(at, (!ids.is_null(at)).then(|| ids.value(at).as_bytes())));
        }
        DataType::BinaryView => {
            let ids = array.as_binary_view();
            (0..ids.len()).for_each(|at| visit(at, (!ids.is_null(at)).then(|| ids.value(at))));
        }
        DataType::UInt64 => {
            let ids = array.as_primitive::<arrow_array::types::UInt64Type>();
            (0..ids.len()).for_each(|at| {
                visit(at, (!ids.is_null(at)).then(|| ids.value(at).to_string()).as_deref().map(str::as_bytes));
            });
        }
        _ => {
            if let Ok(wide) = arrow_cast::cast(array, &DataType::Int64) {
                let ids = wide.as_primitive::<Int64Type>();
                (0..ids.len()).for_each(|at| {
                    visit(at, (!ids.is_null(at)).then(|| ids.value(at).to_string()).as_deref().map(str::as_bytes));
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{BinaryViewArray, FixedSizeBinaryArray, StringViewArray};

    use super::*;

    const DASHED: &str = "{00010203-0405-0607-0809-0A0B0C0D0E0F}";

    fn set(ids: &[(&[u8], Kind)]) -> IdSet {
        let mut set = IdSet::default();
        for (id, kind) in ids {
            set.insert(id, *kind);
        }
        set.settle();
        set
    }

    fn found(set: &IdSet, array: &ArrayRef) -> Vec<bool> {
        let mut found = Vec::new();
        set.contains_each(array, &mut found);
        found
    }

    #[test]
    fn an_id_is_found_in_every_type_and_spelling() {
        let raw: Vec<u8> = (0..16).collect();
        let hex = "000102030405060708090a0b0c0d0e0f";
        let arrays: [ArrayRef; 4] = [
            Arc::new(FixedSizeBinaryArray::try_from_iter([raw.clone()].iter()).unwrap()),
            Arc::new(BinaryViewArray::from_iter_values([raw.as_slice()])),
            Arc::new(BinaryViewArray::from_iter_values([hex.as_bytes()])),
            Arc::new(StringViewArray::from_iter_values([format!(" {}\t", DASHED.to_lowercase())])),
        ];
        for (listed, kind) in [(DASHED.as_bytes(), Kind::Text), (&raw, Kind::Bytes), (hex.as_bytes(), Kind::Bytes)] {
            for array in &arrays {
                let set = set(&[(listed, kind), (b"other", Kind::Text)]);
                assert_eq!(found(&set, array), [true], "{array:?}");
                assert_eq!(set.listed(), Listed { ids: 2, unmatched: 1 });
            }
        }
    }

    #[test]
    fn quotes_and_white_space_around_an_id_do_not_count() {
        let set = set(&[(b"\"a b\" ", Kind::Text), (b"a b", Kind::Text), (b"'", Kind::Text)]);
        let array: ArrayRef = Arc::new(StringViewArray::from(vec![Some(" a b"), Some("ab"), None, Some("'")]));
        assert_eq!(found(&set, &array), [true, false, false, true]);
        assert_eq!(set.listed(), Listed { ids: 2, unmatched: 0 });
        set.forget();
        assert_eq!((set.listed().unmatched, set.examples()), (2, ("'".to_owned(), Some("a b"))));
    }

    #[test]
    fn threads_together_count_what_one_would() {
        let ids: Vec<String> = (0..1000).map(|n| format!("{n:032x}")).chain((0..1000).map(|n| n.to_string())).collect();
        let listed: Vec<(&[u8], Kind)> = ids.iter().map(|id| (id.as_bytes(), Kind::Text)).collect();
        let set = set(&listed);
        std::thread::scope(|scope| {
            for start in 0..8 {
                let (set, ids) = (&set, &ids);
                scope.spawn(move || {
                    let share = ids.iter().skip(start).step_by(3).map(String::as_str);
                    let array: ArrayRef = Arc::new(StringViewArray::from_iter_values(share.filter(|id| *id != "7")));
                    found(set, &array);
                });
            }
        });
        assert_eq!(set.listed(), Listed { ids: 2000, unmatched: 1 });
    }
}
