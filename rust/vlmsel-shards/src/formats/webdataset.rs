//! Members of a tar, grouped into samples as WebDataset does it.
//!
//! The key is the name up to the first dot of its last part, folders included; adjacent members of one key are a sample.
//! A sample with a bad member, or whose key was there before, is put aside whole: half a sample is worse than none.

pub mod pictures;
pub mod reader;

use std::collections::HashSet;

use vlmsel_core::hash::{Hash128, ImageHasher, image_hash};

use self::pictures::is_picture_name;
use crate::error::Result;
use crate::formats::reader::{KeyUntil, MAX_CHECKED_BYTES};
use crate::formats::tar::{Damage, End, Item, Member, MemberKind, TarReader};
use crate::images::header::{Fault, ImageHeader, read_header};
use crate::storage::source::ReadAt;
use crate::workspace::quarantine::Quarantined;

/// Caption extensions, best first.
pub const TEXT_EXTENSIONS: [&str; 2] = ["txt", "caption"];
/// Captions and JSON members above this size put their sample aside: they are read into memory.
pub const MAX_TEXT_BYTES: u64 = 16 << 20;

/// Splits a member's name into key and extension at a dot of its last part; `None` for hidden files, names without a
/// dot and WebDataset's own `__meta__` members, which belong to no sample.
pub fn split_key(name: &str, key_until: KeyUntil) -> Option<(&str, &str)> {
    let base = name.rfind('/').map_or(0, |slash| slash + 1);
    let first = base + name[base..].find('.')?;
    let hidden = first == base || name.starts_with("__") && name.split('.').next().is_some_and(|n| n.ends_with("__"));
    let dot = match key_until {
        KeyUntil::FirstDot => first,
        KeyUntil::LastDot => name.rfind('.')?,
    };
    (!hidden).then(|| (&name[..dot], &name[dot + 1..]))
}

/// What was learnt from a member's bytes while they passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// An image: hash of the stored bytes, what its header says, and the bytes themselves where they are kept.
    Image(Hash128, std::result::Result<ImageHeader, Fault>, Option<Vec<u8>>),
    /// A caption or JSON, whole.
    Text(Vec<u8>),
    /// Anything else; not read.
    Other,
}

impl Content {
    /// Bytes that it holds.
    fn held_bytes(&self) -> usize {
        match self {
            Self::Image(.., bytes) => bytes.as_ref().map_or(0, Vec::len),
            Self::Text(bytes) => bytes.len(),
            Self::Other => 0,
        }
    }
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
    /// Extensions in lower case.
    fn extensions(&self) -> HashSet<String> {
        self.members.iter().map(|member| member.extension.to_ascii_lowercase()).collect()
    }

    fn best(&self, extensions: &[&str]) -> Option<&SampleMember> {
        extensions.iter().find_map(|wanted| self.members.iter().find(|m| m.extension.eq_ignore_ascii_case(wanted)))
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

/// What a tar holds, in its order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Group {
    /// A sample, good or faulty.
    Sample(Sample),
    /// A bad member, or bytes, that belong to no sample.
    Stray(Quarantined),
    /// All was seen.
    End(End),
    /// The rest cannot be read.
    Damage(Damage),
}

/// Groups the members of a tar.
///
/// In a damaged tar the last sample before the damage is handed over as faulty (it may lack members).
pub struct Groups<S: ReadAt> {
    reader: TarReader<S>,
    shard: String,
    keep_images: bool,
    key_until: KeyUntil,
    /// Extensions that all samples so far have.
    common: Option<HashSet<String>>,
    /// Members that belong to no sample: hidden files, names without a dot.
    pub ignored_members: u64,
    open: Option<Sample>,
    seen: HashSet<String>,
    /// Extensions of the open sample in lower case: it may have hundreds of thousands of members.
    extensions: HashSet<String>,
    /// What was found while the sample before it was handed over.
    waiting: Option<Result<Group>>,
}

impl<S: ReadAt> Groups<S> {
    /// Reads `source`, which messages call `shard`. Under `keep_images` the bytes of images are kept, unless there are more than
    /// [`MAX_CHECKED_BYTES`].
    pub fn new(source: S, shard: &str, keep_images: bool, key_until: KeyUntil, buffer_bytes: usize) -> Self {
        Self {
            reader: TarReader::new(source, buffer_bytes),
            shard: shard.to_owned(),
            keep_images,
            key_until,
            common: None,
            ignored_members: 0,
            open: None,
            seen: HashSet::new(),
            extensions: HashSet::new(),
            waiting: None,
        }
    }

    /// All before this position was seen.
    pub fn position(&self) -> u64 {
        self.reader.position()
    }

    /// The next group; behind [`Group::End`] and [`Group::Damage`] comes nothing.
    ///
    /// # Errors
    /// The file system's.
    #[allow(clippy::should_implement_trait, reason = "ends in a group, not in nothing")]
    pub fn next(&mut self) -> Result<Group> {
        if let Some(waiting) = self.waiting.take() {
            return waiting;
        }
        loop {
            let found = match self.reader.next() {
                Ok(Item::Member(member)) => match self.add(&member) {
                    Ok(None) => continue,
                    Ok(Some(group)) => return Ok(group),
                    Err(error) => Err(error),
                },
                Ok(Item::End(end)) => Ok(self.end(end)),
                Ok(Item::Damage(damage)) => {
                    if let Some(sample) = &mut self.open {
                        let record =
                            Quarantined::new(&self.shard, "byte", Some(damage.offset), damage.reason, &damage.detail);
                        let record = record.with_key(&sample.key);
                        sample.fault.get_or_insert(record);
                    }
                    Ok(Group::Damage(damage))
                }
                Err(error) => {
                    self.open = None;
                    Err(error)
                }
            };
            return match self.open.take() {
                // What was read before is handed over first.
                Some(sample) => {
                    self.waiting = Some(found);
                    Ok(Group::Sample(sample))
                }
                None => found,
            };
        }
    }

    fn end(&mut self, end: End) -> Group {
        if !end.has_marker {
            self.suspect_last();
        }
        let Some(offset) = end.trailing else { return Group::End(end) };
        let detail = "bytes behind the end of the archive";
        let stray = Quarantined::new(&self.shard, "byte", Some(offset), "trailing_garbage", detail);
        if let Some(sample) = self.open.take() {
            // The sample goes first, the stray bytes wait, and the reader says once more that this is the end.
            self.waiting = Some(Ok(Group::Stray(stray)));
            return Group::Sample(sample);
        }
        Group::Stray(stray)
    }

    /// A tar without an end marker may have been cut between two members. A last sample that lacks what all others have
    /// has probably lost it.
    fn suspect_last(&mut self) {
        let (Some(sample), Some(common)) = (&mut self.open, &self.common) else { return };
        let own = sample.extensions();
        let mut lacking: Vec<&str> = common.difference(&own).map(String::as_str).collect();
        lacking.sort_unstable();
        if !lacking.is_empty() && own.is_subset(common) {
            let detail = format!("the tar has no end marker, and its last sample has no {}", lacking.join(", "));
            let record = Quarantined::new(&self.shard, "byte", Some(sample.header_offset), "cut_off", &detail);
            sample.fault.get_or_insert(record.with_key(&sample.key));
        }
    }

    /// Adds a member to its sample; gives what is complete by that.
    fn add(&mut self, member: &Member) -> Result<Option<Group>> {
        if member.kind == MemberKind::Folder {
            return Ok(None);
        }
        let Some((key, extension)) = split_key(&member.name, self.key_until) else {
            let Some(reason) = member.kind.reason() else {
                self.ignored_members += 1;
                return Ok(None);
            };
            return Ok(Some(Group::Stray(quarantined(&self.shard, member, None, reason))));
        };
        let mut complete = None;
        if self.open.as_ref().is_none_or(|sample| sample.key != key) {
            let mut sample =
                Sample { key: key.to_owned(), header_offset: member.header_offset, members: Vec::new(), fault: None };
            if !self.seen.insert(key.to_owned()) {
                sample.fault = Some(quarantined(&self.shard, member, Some(key), "repeated_key"));
            }
            complete = self.open.replace(sample);
            if let Some(whole) = complete.as_ref().filter(|whole| whole.fault.is_none()) {
                match &mut self.common {
                    None => self.common = Some(whole.extensions()),
                    Some(common) if common.iter().all(|extension| self.extensions.contains(extension)) => {}
                    Some(common) => common.retain(|extension| self.extensions.contains(extension)),
                }
            }
            self.extensions.clear();
        }
        if let Err(error) = self.add_to_open(member, extension) {
            // What may lack members is no sample; the one before it is whole.
            self.open = complete;
            return Err(error);
        }
        Ok(complete.map(Group::Sample))
    }

    fn add_to_open(&mut self, member: &Member, extension: &str) -> Result<()> {
        let Self { open: Some(sample), reader, shard, .. } = self else { return Ok(()) };
        let repeated = !self.extensions.insert(extension.to_ascii_lowercase());
        let fault = member.kind.reason().or(repeated.then_some("repeated_member"));
        let content = match fault {
            Some(reason) => {
                let key = sample.key.clone();
                sample.fault.get_or_insert_with(|| quarantined(shard, member, Some(&key), reason));
                Content::Other
            }
            None => read_content(reader, member, extension, self.keep_images)?,
        };
        if content == Content::Other && is_text(extension) && member.size > MAX_TEXT_BYTES {
            let key = sample.key.clone();
            sample.fault.get_or_insert_with(|| quarantined(shard, member, Some(&key), "text_too_large"));
        }
        let extension = extension.to_owned();
        sample.members.push(SampleMember { extension, offset: member.offset, size: member.size, content });
        Ok(())
    }
}

fn quarantined(shard: &str, member: &Member, key: Option<&str>, reason: &str) -> Quarantined {
    let record = Quarantined::new(shard, "byte", Some(member.header_offset), reason, &member.name);
    match key {
        Some(key) => record.with_key(key),
        None => record,
    }
}

fn is_any(extension: &str, of: &[&str]) -> bool {
    of.iter().any(|e| extension.eq_ignore_ascii_case(e))
}

fn is_text(extension: &str) -> bool {
    is_any(extension, &TEXT_EXTENSIONS) || extension.eq_ignore_ascii_case("json")
}

fn read_content<S: ReadAt>(
    reader: &mut TarReader<S>,
    member: &Member,
    extension: &str,
    keep_images: bool,
) -> Result<Content> {
    if is_text(extension) {
        if member.size > MAX_TEXT_BYTES {
            return Ok(Content::Other);
        }
        let mut bytes = Vec::with_capacity(member.size as usize);
        reader.pieces(member, |piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        })?;
        return Ok(Content::Text(bytes));
    }
    let head = reader.prefix(member)?;
    let header = read_header(head);
    let is_picture = !matches!(header, Err(Fault::Empty | Fault::UnknownFormat));
    if !is_picture && !is_picture_name(extension) {
        return Ok(Content::Other);
    }
    let keep = keep_images && member.size <= MAX_CHECKED_BYTES;
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
    Ok(Content::Image(hasher.finish(), header, keep.then_some(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::tar::TarWriter;

    fn scan_all(bytes: &Vec<u8>) -> (Vec<Sample>, Vec<Quarantined>, u64, Group) {
        let mut groups = Groups::new(bytes, "t.tar", false, KeyUntil::FirstDot, 4096);
        let (mut samples, mut strays) = (Vec::new(), Vec::new());
        loop {
            match groups.next().unwrap() {
                Group::Sample(sample) => samples.push(sample),
                Group::Stray(stray) => strays.push(stray),
                last => return (samples, strays, groups.ignored_members, last),
            }
        }
    }

    fn tar(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut writer = TarWriter::default();
        for (name, data) in members {
            writer.append(name, data);
        }
        writer.finish()
    }

    #[test]
    fn keys_end_at_a_dot_of_the_last_part() {
        for (name, first, last) in [
            ("a.jpg", Some(("a", "jpg")), Some(("a", "jpg"))),
            ("d.x/a.seg.png", Some(("d.x/a", "seg.png")), Some(("d.x/a.seg", "png"))),
            ("d.x/.hidden", None, None),
            ("._a.jpg", None, None),
            ("README", None, None),
            ("__meta__.json", None, None),
            ("a.", Some(("a", "")), Some(("a", ""))),
        ] {
            assert_eq!(split_key(name, KeyUntil::FirstDot), first, "{name}");
            assert_eq!(split_key(name, KeyUntil::LastDot), last, "{name}");
        }
    }

    #[test]
    fn a_last_sample_that_lacks_what_all_others_have_was_cut_off() {
        let members: Vec<(String, &[u8])> =
            (0..3).flat_map(|n| ["jpg", "txt"].map(|extension| (format!("{n}.{extension}"), &b"x"[..]))).collect();
        let members: Vec<(&str, &[u8])> = members.iter().map(|(name, data)| (name.as_str(), *data)).collect();
        let bytes = tar(&members);
        let faults = |bytes: Vec<u8>| {
            let (samples, ..) = scan_all(&bytes);
            samples.into_iter().map(|s| s.fault.map(|fault| fault.reason)).collect::<Vec<_>>()
        };
        // Five members of two blocks each, and no end marker.
        assert_eq!(faults(bytes[..512 * 10].to_vec()), [None, None, Some("cut_off".to_owned())]);
        assert_eq!(faults(bytes[..512 * 12].to_vec()), [None, None, None]);
        assert_eq!(faults(bytes.clone()), [None, None, None]);
        // With an end marker nothing was cut off.
        assert_eq!(faults(tar(&members[..5])), [None, None, None]);
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
        let (samples, strays, ignored, last) = scan_all(&bytes);
        assert_eq!(samples.iter().map(|s| s.key.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(samples[0].json().unwrap(), b"{}");
        assert_eq!(samples[1].text().unwrap(), b"u");
        assert!(samples.iter().all(|s| s.fault.is_none()) && strays.is_empty());
        assert!(ignored == 1 && matches!(last, Group::End(_)));
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
        let (samples, ..) = scan_all(&bytes);
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
        let (samples, ..) = scan_all(&tar(&[("a.jpg", &data)]));
        assert!(matches!(&samples[0].members[0].content, Content::Image(hash, ..) if *hash == image_hash(&data)));
    }

    #[test]
    fn a_cut_tar_spoils_its_last_sample() {
        let bytes = tar(&[("a.jpg", b"x"), ("b.jpg", b"x"), ("b.txt", &[b'x'; 600])]);
        let (samples, .., last) = scan_all(&bytes[..512 * 6].to_vec());
        assert_eq!(samples[1].fault.as_ref().unwrap().reason, "truncated");
        assert!(matches!(last, Group::Damage(Damage { reason: "truncated", .. })));
        let (samples, .., last) = scan_all(&bytes[..512 * 2].to_vec());
        assert!(samples.len() == 1 && last == Group::End(End { has_marker: false, trailing: None }));
    }
}
