//! Members of a tar, grouped into samples as WebDataset does it.
//!
//! The key is the name up to the first dot of its last part, folders included; adjacent members of one key are a sample.
//! A sample with a bad member, or whose key was there before, is put aside whole: half a sample is worse than none.

use std::collections::HashSet;

use vlmsel_core::hash::{Hash128, ImageHasher, image_hash};

use crate::error::{Error, Result};
use crate::formats::tar::{Class, Damage, End, Item, Member, TarReader};
use crate::images::header::{Fault, ImageHeader, read_header};
use crate::storage::source::ReadAt;
use crate::workspace::quarantine::Quarantined;

/// Image extensions, best first: a sample that has several keeps the first of these as its image.
pub const IMAGE_EXTENSIONS: [&str; 5] = ["jpg", "png", "jpeg", "webp", "gif"];
/// Caption extensions, best first.
pub const TEXT_EXTENSIONS: [&str; 2] = ["txt", "caption"];
/// Captions and JSON members above this size put their sample aside: they are read into memory.
pub const MAX_TEXT_BYTES: u64 = 16 << 20;

/// Longer images are not handed over whole.
pub const MAX_IMAGE_BYTES: u64 = 64 << 20;

/// Splits a member's name into key and extension (all behind the first dot); `None` for hidden files, names without a
/// dot and WebDataset's own `__meta__` members, which belong to no sample.
pub fn split_key(name: &str) -> Option<(&str, &str)> {
    let base = name.rfind('/').map_or(0, |slash| slash + 1);
    let dot = base + name[base..].find('.')?;
    let hidden = dot == base || name.starts_with("__") && name.split('.').next().is_some_and(|n| n.ends_with("__"));
    (!hidden).then(|| (&name[..dot], &name[dot + 1..]))
}

/// What was learnt from a member's bytes while they passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// An image: hash of the stored bytes, what its header says, and under [`Depth::Bodies`] the bytes themselves unless
    /// there are more than [`MAX_IMAGE_BYTES`].
    Image(Hash128, std::result::Result<ImageHeader, Fault>, Option<Vec<u8>>),
    /// A caption or JSON, whole.
    Text(Vec<u8>),
    /// Anything else; not read.
    Other,
}

/// A member of a sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SampleMember {
    /// All of the name behind its key's dot, as written.
    pub extension: String,
    /// Where its data lies in the tar.
    pub offset: u64,
    /// Its bytes.
    pub size: u64,
    /// What it holds.
    pub content: Content,
}

/// Members of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// The name they share.
    pub key: String,
    /// Where the first one's header begins.
    pub header_offset: u64,
    /// In tar order.
    pub members: Vec<SampleMember>,
    /// Why the sample cannot be used, if so.
    pub fault: Option<Quarantined>,
}

impl Sample {
    fn best(&self, extensions: &[&str]) -> Option<&SampleMember> {
        extensions.iter().find_map(|wanted| self.members.iter().find(|m| m.extension.eq_ignore_ascii_case(wanted)))
    }

    /// The member that is the sample's image.
    pub fn image(&self) -> Option<&SampleMember> {
        self.best(&IMAGE_EXTENSIONS)
    }

    /// The caption's bytes.
    pub fn text(&self) -> Option<&[u8]> {
        self.best(&TEXT_EXTENSIONS)
            .and_then(|m| if let Content::Text(bytes) = &m.content { Some(&bytes[..]) } else { None })
    }

    /// The JSON member's bytes.
    pub fn json(&self) -> Option<&[u8]> {
        self.best(&["json"]).and_then(|m| if let Content::Text(bytes) = &m.content { Some(&bytes[..]) } else { None })
    }
}

/// How much is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Hashes and image headers.
    Headers,
    /// Also the bytes of each image.
    Bodies,
}

/// What a tar held beside its samples.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TarSummary {
    /// Members that belong to no sample: hidden files, names without a dot.
    pub ignored_members: u64,
    /// How the tar ended; `None` if it is damaged.
    pub end: Option<End>,
    /// Why the rest could not be read.
    pub damage: Option<Damage>,
}

/// Takes what [`scan`] finds, in the tar's order.
pub trait Visitor {
    /// What ends the scan.
    type Error: From<Error>;
    /// A sample, good or faulty.
    fn sample(&mut self, sample: Sample) -> std::result::Result<(), Self::Error>;
    /// A bad member, or bytes, that belong to no sample.
    fn stray(&mut self, record: Quarantined) -> std::result::Result<(), Self::Error>;
    /// All before this position was seen.
    fn passed(&mut self, position: u64) -> std::result::Result<(), Self::Error>;
}

/// Walks a tar and hands what it finds to `visitor`.
///
/// In a damaged tar the last sample before the damage is handed over as faulty (it may lack members).
pub fn scan<S: ReadAt + ?Sized, V: Visitor>(
    source: &S,
    shard: &str,
    depth: Depth,
    buffer_bytes: usize,
    visitor: &mut V,
) -> std::result::Result<TarSummary, V::Error> {
    let mut reader = TarReader::new(source, buffer_bytes);
    let mut summary = TarSummary::default();
    let mut open: Option<Sample> = None;
    let mut seen: HashSet<String> = HashSet::new();
    // Extensions of the open sample in lower case: it may have hundreds of thousands of members.
    let mut extensions: HashSet<String> = HashSet::new();
    loop {
        let item = reader.next()?;
        visitor.passed(reader.position())?;
        match item {
            Item::Member(member) => {
                if member.class == Class::Folder {
                    continue;
                }
                let Some((key, extension)) = split_key(&member.name) else {
                    match member.class.reason() {
                        Some(reason) => visitor.stray(quarantined(shard, &member, reason))?,
                        None => summary.ignored_members += 1,
                    }
                    continue;
                };
                if open.as_ref().is_none_or(|sample| sample.key != key) {
                    if let Some(sample) = open.take() {
                        visitor.sample(sample)?;
                    }
                    let mut sample = Sample {
                        key: key.to_owned(),
                        header_offset: member.header_offset,
                        members: Vec::new(),
                        fault: None,
                    };
                    if !seen.insert(key.to_owned()) {
                        sample.fault = Some(quarantined(shard, &member, "repeated_key"));
                    }
                    open = Some(sample);
                    extensions.clear();
                }
                let Some(sample) = open.as_mut() else { continue };
                let repeated = !extensions.insert(extension.to_ascii_lowercase());
                let fault = member.class.reason().or(repeated.then_some("repeated_member"));
                let content = match fault {
                    Some(reason) => {
                        sample.fault.get_or_insert_with(|| quarantined(shard, &member, reason));
                        Content::Other
                    }
                    None => read_content(&mut reader, &member, extension, depth)?,
                };
                if content == Content::Other && is_text(extension) && member.size > MAX_TEXT_BYTES {
                    sample.fault.get_or_insert_with(|| quarantined(shard, &member, "text_too_large"));
                }
                let extension = extension.to_owned();
                sample.members.push(SampleMember { extension, offset: member.offset, size: member.size, content });
            }
            Item::End(end) => {
                if let Some(sample) = open.take() {
                    visitor.sample(sample)?;
                }
                if let Some(offset) = end.trailing {
                    let detail = "bytes behind the end of the archive";
                    visitor.stray(Quarantined::new(shard, "byte", Some(offset), "trailing_garbage", detail))?;
                }
                summary.end = Some(end);
                return Ok(summary);
            }
            Item::Damage(damage) => {
                if let Some(mut sample) = open.take() {
                    let record = Quarantined::new(shard, "byte", Some(damage.offset), damage.reason, &damage.detail);
                    let record = record.with_key(&sample.key);
                    sample.fault.get_or_insert(record);
                    visitor.sample(sample)?;
                }
                summary.damage = Some(damage);
                return Ok(summary);
            }
        }
    }
}

fn quarantined(shard: &str, member: &Member, reason: &str) -> Quarantined {
    let record = Quarantined::new(shard, "byte", Some(member.header_offset), reason, &member.name);
    match split_key(&member.name) {
        Some((key, _)) => record.with_key(key),
        None => record,
    }
}

fn is_any(extension: &str, of: &[&str]) -> bool {
    of.iter().any(|e| extension.eq_ignore_ascii_case(e))
}

fn is_text(extension: &str) -> bool {
    is_any(extension, &TEXT_EXTENSIONS) || extension.eq_ignore_ascii_case("json")
}

fn read_content<S: ReadAt + ?Sized>(
    reader: &mut TarReader<'_, S>,
    member: &Member,
    extension: &str,
    depth: Depth,
) -> Result<Content> {
    if is_any(extension, &IMAGE_EXTENSIONS) {
        let keep = depth == Depth::Bodies && member.size <= MAX_IMAGE_BYTES;
        let head = reader.prefix(member)?;
        let header = read_header(head);
        if head.len() as u64 == member.size {
            return Ok(Content::Image(image_hash(head), header, keep.then(|| head.to_vec())));
        }
        let (mut hasher, mut bytes) = (ImageHasher::default(), Vec::new());
        reader.pieces(member, |piece| {
            hasher.update(piece);
            if keep {
                bytes.extend_from_slice(piece);
            }
            Ok(())
        })?;
        return Ok(Content::Image(hasher.finish(), header, keep.then_some(bytes)));
    }
    if is_text(extension) && member.size <= MAX_TEXT_BYTES {
        let mut bytes = Vec::with_capacity(member.size as usize);
        reader.pieces(member, |piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        })?;
        return Ok(Content::Text(bytes));
    }
    Ok(Content::Other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::tar::TarWriter;

    #[derive(Default)]
    struct Found(Vec<Sample>, Vec<Quarantined>);

    impl Visitor for Found {
        type Error = Error;

        fn sample(&mut self, sample: Sample) -> Result<()> {
            self.0.push(sample);
            Ok(())
        }

        fn stray(&mut self, record: Quarantined) -> Result<()> {
            self.1.push(record);
            Ok(())
        }

        fn passed(&mut self, _: u64) -> Result<()> {
            Ok(())
        }
    }

    fn scan_all(bytes: &Vec<u8>) -> (Vec<Sample>, Vec<Quarantined>, TarSummary) {
        let mut found = Found::default();
        let summary = scan(bytes, "t.tar", Depth::Headers, 4096, &mut found).unwrap();
        (found.0, found.1, summary)
    }

    fn tar(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut writer = TarWriter::default();
        for (name, data) in members {
            writer.append(name, data);
        }
        writer.finish()
    }

    #[test]
    fn keys_end_at_the_first_dot_of_the_last_part() {
        assert_eq!(split_key("a.jpg"), Some(("a", "jpg")));
        assert_eq!(split_key("d.x/a.seg.png"), Some(("d.x/a", "seg.png")));
        assert_eq!(split_key("d.x/.hidden"), None);
        assert_eq!(split_key("._a.jpg"), None);
        assert_eq!(split_key("README"), None);
        assert_eq!(split_key("__meta__.json"), None);
        assert_eq!(split_key("a."), Some(("a", "")));
    }

    #[test]
    fn adjacent_members_make_a_sample_and_the_first_kind_of_image_wins() {
        let bytes = tar(&[
            ("a.png", b"x"),
            ("a.jpg", b"y"),
            ("a.json", b"{}"),
            ("README", b""),
            ("b.caption", b"t"),
            ("b.TXT", b"u"),
        ]);
        let (samples, strays, summary) = scan_all(&bytes);
        assert_eq!(samples.iter().map(|s| s.key.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(samples[0].image().unwrap().extension, "jpg");
        assert_eq!(samples[0].json().unwrap(), b"{}");
        assert_eq!(samples[1].text().unwrap(), b"u");
        assert!(samples.iter().all(|s| s.fault.is_none()) && strays.is_empty());
        assert_eq!((summary.ignored_members, summary.damage), (1, None));
    }

    #[test]
    fn what_spoils_a_sample_is_named() {
        let bytes = tar(&[
            ("a.jpg", b"x"),
            ("b.jpg", b"x"),
            ("b.jpg", b"y"),
            ("a.txt", b"z"),
            ("../c.jpg", b""),
            ("/d.txt", b""),
        ]);
        let (samples, _, _) = scan_all(&bytes);
        let reasons: Vec<_> = samples.iter().map(|s| s.fault.as_ref().map(|f| f.reason.as_str())).collect();
        assert_eq!(
            reasons,
            [None, Some("repeated_member"), Some("repeated_key"), Some("parent_path"), Some("absolute_path")]
        );
    }

    #[test]
    fn a_sample_may_have_very_many_members() {
        const MEMBERS: usize = 300_000;
        let names: Vec<String> = (0..MEMBERS).map(|n| format!("a.{n}")).collect();
        let mut members: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &b""[..])).collect();
        members.push(("a.X", b""));
        let (samples, ..) = scan_all(&tar(&members));
        assert_eq!((samples[0].members.len(), &samples[0].fault), (MEMBERS + 1, &None));
        members.extend([("a.x", &b""[..]), ("b.x", b"")]);
        let (samples, ..) = scan_all(&tar(&members));
        assert_eq!(samples[0].fault.as_ref().map(|fault| fault.reason.as_str()), Some("repeated_member"));
        assert_eq!(samples[1].fault, None);
    }

    #[test]
    fn images_longer_than_the_buffer_hash_alike() {
        let data: Vec<u8> = (0..50_000_u32).map(|i| (i * 7 % 251) as u8).collect();
        let (samples, _, _) = scan_all(&tar(&[("a.jpg", &data)]));
        assert!(matches!(&samples[0].members[0].content, Content::Image(hash, ..) if *hash == image_hash(&data)));
    }

    #[test]
    fn a_cut_tar_spoils_its_last_sample() {
        let bytes = tar(&[("a.jpg", b"x"), ("b.jpg", b"x"), ("b.txt", &[b'x'; 600])]);
        let (samples, _, summary) = scan_all(&bytes[..512 * 6].to_vec());
        assert_eq!(samples[1].fault.as_ref().unwrap().reason, "truncated");
        assert_eq!(summary.damage.unwrap().reason, "truncated");
        let (samples, _, summary) = scan_all(&bytes[..512 * 2].to_vec());
        assert_eq!((samples.len(), summary.end.unwrap().has_marker), (1, false));
    }
}
