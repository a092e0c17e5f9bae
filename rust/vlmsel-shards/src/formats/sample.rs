//! A sample as any reader gives it: where it stands, where its images lie, what it says, and what is wrong with it.

use vlmsel_core::hash::Hash128;

use crate::formats::location::ImageLocation;
use crate::images::header::Fault;
use crate::storage::identity::Identity;
use crate::workspace::quarantine::Quarantined;

/// Why a record, or a part of it, cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bad {
    /// One of the documented reasons, in snake case.
    pub reason: &'static str,
    /// What was found.
    pub detail: String,
}

impl Bad {
    /// A reason with what was found.
    pub fn new(reason: &'static str, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }
}

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
}

impl SampleImage {
    /// An image whose bytes are there but no picture.
    pub fn faulty(name: String, hash: Option<Hash128>, fault: Fault) -> Self {
        let bad = Bad::new(fault.reason(), format!("{name}: {fault}"));
        Self { name, hash, found: Err(bad) }
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
    /// The caption.
    pub text: Option<String>,
    /// The conversation as JSON, as it was.
    pub conversations: Option<String>,
    /// Turns of the conversation.
    pub n_turns: u32,
    /// The turns' values joined by line feeds.
    pub spoken: Option<String>,
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
            text: None,
            conversations: None,
            n_turns: 0,
            spoken: None,
            metadata: None,
            faults: Vec::new(),
            notes: Vec::new(),
            named_files: Vec::new(),
        }
    }

    /// The first reason why it cannot be used: an image's, else its own.
    pub fn fault(&self) -> Option<&Bad> {
        self.images.iter().find_map(|image| image.found.as_ref().err()).or_else(|| self.faults.first())
    }

    /// What it says: its caption, else what is spoken.
    pub fn said(&self) -> Option<&str> {
        self.text.as_deref().or(self.spoken.as_deref())
    }
}

/// What taking a record apart came to: a sample, or a record of which nothing can be used.
pub type Taken = Result<Sample, Quarantined>;
