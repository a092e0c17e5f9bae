//! A sample as any reader gives it: where it stands, where its images lie, what it says, and what is wrong with it.

use vlmsel_core::hash::Hash128;
use vlmsel_core::image_code::ImageCodes;

use crate::formats::location::ImageLocation;
use crate::formats::said::Said;
use crate::images::header::Fault;
use crate::storage::identity::Identity;
use crate::workspace::quarantine::{Bad, Quarantined};

/// Where a record begins in its shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// What is counted: `byte`, `line` or `row`.
    pub unit: &'static str,
    /// Its number.
    pub number: u64,
}

/// An image that could be read: where its bytes lie and what they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRow {
    /// Where its bytes lie.
    pub location: ImageLocation,
    /// Pixels per row, as stored.
    pub width: u32,
    /// Rows of pixels.
    pub height: u32,
    /// Hash of the bytes.
    pub hash: Hash128,
}

/// An image of a sample, good or bad.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SampleImage {
    /// What the record calls it: a member's extension with its dot, or a path.
    pub name: String,
    /// Hash of its bytes, where they could be read.
    pub hash: Option<Hash128>,
    /// What it is, or why it cannot be used; the detail names the image.
    pub found: Result<ImageRow, Bad>,
    /// What is kept of its content.
    pub kept: Kept,
}

/// Perceptual codes of a picture, or the reason why it has none.
pub type Coded = Result<ImageCodes, &'static str>;

/// What is kept of an image's content when its record was taken apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Kept {
    /// Nothing.
    #[default]
    Nothing,
    /// The bytes, under [`Depth::Contents`](crate::formats::reader::Depth::Contents), unless there are too many to be held.
    Bytes(Vec<u8>),
    /// What somebody made of the bytes.
    Codes(Coded),
}

impl SampleImage {
    /// An image whose bytes are there but no picture.
    pub fn faulty(name: String, hash: Option<Hash128>, fault: Fault) -> Self {
        let bad = Bad::new(fault.reason(), format!("{name}: {fault}"));
        Self { name, hash, found: Err(bad), kept: Kept::Nothing }
    }

    /// An image that cannot be used.
    pub fn bad(name: String, bad: Bad) -> Self {
        Self { name, hash: None, found: Err(bad), kept: Kept::Nothing }
    }

    /// An image that can.
    pub fn good(name: String, row: ImageRow, content: Option<Vec<u8>>) -> Self {
        let kept = content.map_or(Kept::Nothing, Kept::Bytes);
        Self { name, hash: Some(row.hash), found: Ok(row), kept }
    }
}

/// A member of the sample in its tar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberRow {
    /// All of its name behind the key's dot.
    pub extension: String,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
}

/// A file that a record names, and what the file system says of it, if it is there.
pub type NamedFile = (String, Option<Identity>);

/// One sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// Where it stands.
    pub position: Position,
    /// The user's key; `None` where the record has none.
    pub key: Option<String>,
    /// An id of 128 bits that it declares.
    pub uid: Option<Hash128>,
    /// Its images, in the order the text speaks of them.
    pub images: Vec<SampleImage>,
    /// Every member in tar order; empty where the shard is no tar.
    pub members: Vec<MemberRow>,
    /// What it says.
    pub said: Said,
    /// The user's own JSON, as it was.
    pub metadata: Option<Vec<u8>>,
    /// Why it cannot be used, images apart.
    pub faults: Vec<Bad>,
    /// What a user should know although it can be used.
    pub notes: Vec<Bad>,
    /// Files that it names, whether or not they were read.
    pub named_files: Vec<NamedFile>,
}

impl Sample {
    /// A sample that says nothing yet.
    pub fn at(position: Position) -> Self {
        Self {
            position,
            key: None,
            uid: None,
            images: Vec::new(),
            members: Vec::new(),
            said: Said::default(),
            metadata: None,
            faults: Vec::new(),
            notes: Vec::new(),
            named_files: Vec::new(),
        }
    }

    /// The first reason why it cannot be used: an image's, else its own. Images of kinds that are named and not read are no
    /// such reason: they make its class.
    pub fn fault(&self) -> Option<&Bad> {
        let of_images = self.images.iter().filter_map(|image| image.found.as_ref().err());
        of_images.filter(|bad| !is_unsupported(bad.reason)).chain(&self.faults).next()
    }

    /// The text that it is known by: its caption, else what is spoken.
    pub fn text(&self) -> Option<&str> {
        self.said.text.as_deref().or(self.said.spoken.as_deref())
    }

    /// What kind of sample it is; `None` where it has neither images nor text.
    pub fn class(&self) -> Option<SampleClass> {
        let is_unread = |image: &SampleImage| image.found.as_ref().is_err_and(|bad| is_unsupported(bad.reason));
        match (self.images.len(), self.said.conversations.is_some(), self.said.text.is_some()) {
            _ if self.images.iter().any(is_unread) => Some(SampleClass::Unsupported),
            (_, true, _) => Some(SampleClass::Conversation),
            (2.., ..) => Some(SampleClass::MultiImage),
            (1, _, true) => Some(SampleClass::Pair),
            (0, _, true) => Some(SampleClass::TextOnly),
            (1, _, false) => Some(SampleClass::ImageOnly),
            (0, _, false) => None,
        }
    }
}

/// What kind of sample one is: the first that fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SampleClass {
    /// A picture or another medium was meant, of a kind that is named and not read. Never scored as text.
    Unsupported,
    /// Turns, with any number of images.
    Conversation,
    /// Several images.
    MultiImage,
    /// One image and a caption.
    Pair,
    /// A caption alone.
    TextOnly,
    /// One image alone.
    ImageOnly,
}

impl SampleClass {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Unsupported, Self::Conversation, Self::MultiImage, Self::Pair, Self::TextOnly, Self::ImageOnly];

    /// As the index and reports name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unsupported => "unsupported",
            Self::Conversation => "conversation",
            Self::MultiImage => "multi-image",
            Self::Pair => "pair",
            Self::TextOnly => "text-only",
            Self::ImageOnly => "image-only",
        }
    }
}

/// Whether a reason names something that is known and not read, rather than something broken.
pub fn is_unsupported(reason: &str) -> bool {
    matches!(reason, "unsupported_image_format" | "unsupported_medium" | "remote_image")
}

/// What taking a record apart came to: a sample, or a record of which nothing can be used.
pub type Taken = Result<Sample, Quarantined>;
