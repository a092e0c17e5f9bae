//! What of a record is compared: its text, its images, or both.

use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use arrow_array::{
    Array, ArrayRef, FixedSizeBinaryArray, ListArray, PrimitiveArray, RecordBatch, StringViewArray, StructArray,
};
use vlmsel_core::hash::{Hash128, image_hash, normalise_text, text_hash as text_hash_of};
use vlmsel_shards::formats::turns::Turns;
use vlmsel_shards::tables::index_reader::images_of;

use crate::error::{Error, Result};
use crate::stored_images::StoredImages;

/// A field that copies have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// Images, in order and in number, and text.
    Pair,
    /// Text alone.
    Text,
    /// Images alone, in order and in number.
    Image,
}

impl Field {
    /// Its name in options and outputs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pair => "pair",
            Self::Text => "text",
            Self::Image => "image",
        }
    }

    fn has_images(self) -> bool {
        self != Self::Text
    }

    fn has_text(self) -> bool {
        self != Self::Image
    }

    /// Columns of the index by which its records are known.
    pub fn columns(self) -> &'static [&'static str] {
        match self {
            Self::Pair => &["images", "text_hash"],
            Self::Text => &["text_hash"],
            Self::Image => &["images"],
        }
    }

    /// Columns in which the words stand.
    pub fn columns_in_full(self) -> &'static [&'static str] {
        match self {
            Self::Pair => &["images", "text", "conversations"],
            Self::Text => &["text", "conversations"],
            Self::Image => &["images"],
        }
    }
}

/// Hash by which contents are brought together; tests have worse ones.
pub type KeyHash = fn(&[u8]) -> Hash128;

/// The hash that is used: xxh3 with 128 bits.
pub const KEY_HASH: KeyHash = image_hash;

/// The columns of a batch, as the index has them.
pub struct Contents<'a> {
    images: Option<Images<'a>>,
    text_hash: Option<&'a FixedSizeBinaryArray>,
    texts: Option<Texts<'a>>,
    /// The hash of an empty text, which is none.
    no_text: Hash128,
}

/// Column `images`: for each row a list of hashes and sizes.
pub struct Images<'a> {
    lists: &'a ListArray,
    hashes: &'a FixedSizeBinaryArray,
    sizes: &'a PrimitiveArray<UInt64Type>,
}

/// What is said in a record: its text, or the turns of its conversation.
pub struct Texts<'a> {
    text: &'a StringViewArray,
    conversations: &'a StringViewArray,
}

fn column<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef> {
    batch.column_by_name(name).ok_or_else(|| Error::Bug(format!("column {name} was not read")))
}

fn wrong(name: &str) -> Error {
    let folder = std::path::Path::new("the index");
    vlmsel_shards::Error::unreadable(folder, format!("column {name} is not as an index has it")).into()
}

impl<'a> Images<'a> {
    /// The column of a batch.
    ///
    /// # Errors
    /// Where it is not as an index has it.
    pub fn of(batch: &'a RecordBatch) -> Result<Self> {
        let broken = || wrong("images");
        let lists = column(batch, "images")?.as_list_opt::<i32>().ok_or_else(broken)?;
        let table: &StructArray = lists.values().as_struct_opt().ok_or_else(broken)?;
        let field = |name: &str| table.column_by_name(name).ok_or_else(broken);
        let hashes = field("hash")?.as_fixed_size_binary_opt().filter(|h| h.value_length() == 16).ok_or_else(broken)?;
        let sizes = field("size")?.as_primitive_opt().ok_or_else(broken)?;
        Ok(Self { lists, hashes, sizes })
    }

    /// Places of a row's images in the column's values.
    pub fn of_row(&self, row: usize) -> std::ops::Range<usize> {
        let offsets = self.lists.value_offsets();
        offsets[row] as usize..offsets[row + 1] as usize
    }

    /// Appends hash and size of each of a row's images; `false` where it has none.
    pub fn append(&self, row: usize, out: &mut Vec<u8>) -> bool {
        let images = self.of_row(row);
        images.clone().for_each(|at| self.append_image(at, out));
        !images.is_empty()
    }

    /// Appends hash and size of an image of the column.
    pub fn append_image(&self, at: usize, out: &mut Vec<u8>) {
        out.extend_from_slice(self.hashes.value(at));
        out.extend_from_slice(&self.sizes.value(at).to_le_bytes());
    }
}

impl Images<'_> {
    /// Appends a second hash of the bytes of each of a row's images.
    fn append_bytes(&self, row: usize, stored: &StoredImages<'_>, out: &mut Vec<u8>) -> Result<()> {
        let images = images_of(&self.lists.value(row)).map_err(|_| wrong("images"))?;
        for (location, hash) in images {
            let bytes = stored.read(&location)?.filter(|bytes| image_hash(bytes) == hash);
            let bytes = bytes.ok_or_else(|| {
                vlmsel_shards::Error::Mismatch(
                    "an image is not the one that was indexed; index the data anew, then compare".to_owned(),
                )
            })?;
            out.extend_from_slice(blake3::hash(&bytes).as_bytes());
        }
        Ok(())
    }
}

impl<'a> Texts<'a> {
    /// The columns of a batch.
    ///
    /// # Errors
    /// Where they are not as an index has them.
    pub fn of(batch: &'a RecordBatch) -> Result<Self> {
        let strings = |name: &str| column(batch, name)?.as_string_view_opt().ok_or_else(|| wrong(name));
        Ok(Self { text: strings("text")?, conversations: strings("conversations")? })
    }

    /// What is said in a row.
    ///
    /// # Errors
    /// Where a conversation is none.
    pub fn of_row(&self, row: usize) -> Result<Option<std::borrow::Cow<'a, str>>> {
        if self.text.is_valid(row) {
            return Ok(Some(self.text.value(row).into()));
        }
        if !self.conversations.is_valid(row) {
            return Ok(None);
        }
        let turns = Turns::read("conversations", self.conversations.value(row));
        Ok(Some(turns.map_err(|_| wrong("conversations"))?.spoken.into()))
    }
}

impl<'a> Contents<'a> {
    /// What [`Field::columns`] gave.
    ///
    /// # Errors
    /// Where a column is not as an index has it.
    pub fn of(field: Field, batch: &'a RecordBatch) -> Result<Self> {
        let images = field.has_images().then(|| Images::of(batch)).transpose()?;
        let hash = |batch: &'a RecordBatch| {
            let array = column(batch, "text_hash")?.as_fixed_size_binary_opt().filter(|h| h.value_length() == 16);
            array.ok_or_else(|| wrong("text_hash"))
        };
        let text_hash = field.has_text().then(|| hash(batch)).transpose()?;
        Ok(Self { images, text_hash, texts: None, no_text: text_hash_of("") })
    }

    /// What [`Field::columns_in_full`] gave.
    ///
    /// # Errors
    /// Where a column is not as an index has it.
    pub fn in_full(field: Field, batch: &'a RecordBatch) -> Result<Self> {
        let images = field.has_images().then(|| Images::of(batch)).transpose()?;
        let texts = field.has_text().then(|| Texts::of(batch)).transpose()?;
        Ok(Self { images, text_hash: None, texts, no_text: text_hash_of("") })
    }

    /// Appends a second hash of the images themselves.
    ///
    /// # Errors
    /// Exit 7 for an image that is not the one that was indexed, and those of reading.
    pub fn write_bytes(&self, row: usize, stored: &StoredImages<'_>, out: &mut Vec<u8>) -> Result<()> {
        self.images.as_ref().map_or(Ok(()), |images| images.append_bytes(row, stored, out))
    }

    /// Puts what a row is known by into `out`. `false` where it lacks the field, or part of it: such a row is no copy of anything.
    ///
    /// # Errors
    /// Where a conversation is none.
    pub fn write(&self, row: usize, out: &mut Vec<u8>) -> Result<bool> {
        out.clear();
        if let Some(hashes) = self.text_hash {
            if hashes.is_null(row) || hashes.value(row) == self.no_text {
                return Ok(false);
            }
            out.extend_from_slice(hashes.value(row));
        }
        if let Some(texts) = &self.texts {
            let Some(text) = texts.of_row(row)? else { return Ok(false) };
            // A second hash, of the words themselves and of another kind.
            out.extend_from_slice(&blake3::hash(normalise_text(&text).as_bytes()).as_bytes()[..]);
        }
        Ok(self.images.as_ref().is_none_or(|images| images.append(row, out)))
    }
}

/// Column `uid` of a batch.
///
/// # Errors
/// Where it is not as an index has it.
pub fn uids_of(batch: &RecordBatch) -> Result<&FixedSizeBinaryArray> {
    let uids = batch.column_by_name("uid").and_then(|column| column.as_fixed_size_binary_opt());
    uids.filter(|uids| uids.value_length() == 16 && uids.null_count() == 0)
        .ok_or_else(|| Error::usage("column uid of the index does not hold ids of 16 bytes"))
}
