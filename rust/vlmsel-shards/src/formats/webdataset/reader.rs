//! Samples of a WebDataset tar, joined by key with the table that img2dataset wrote beside it, if there is one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::value::RawValue;
use vlmsel_core::hash::{Hash128, parse_uid};

use super::pictures::{Pictures, has_dotted_key, pictures};
use super::{Content, Group, Groups, Sample as Members, SampleMember};
use crate::error::Result;
use crate::formats::img2dataset::{Row, Sidecar, is_img2dataset, sidecar_path};
use crate::formats::json_fields::{Reason, fields};
use crate::formats::json_stream::{self, MAX_DEPTH, depth_of};
use crate::formats::location::ImageLocation;
use crate::formats::reader::{
    BATCH_BYTES, Batch, Closing, Damage, Depth, EXAMPLES, Format, KeyUntil, Note, RawSample, Record, SampleReader,
    Shard,
};
use crate::formats::said::{Captions, FIELDS, Said};
use crate::formats::sample::{ImageRow, MemberRow, Position, Sample, SampleImage, Taken, is_unsupported};
use crate::images::check::check_image;
use crate::images::header::Fault;
use crate::storage::source::LocalFile;
use crate::storage::text_encoding::utf8_text;
use crate::workspace::quarantine::{Bad, Quarantined};

/// Members no longer than this are hashed and parsed in one piece.
const BUFFER_BYTES: usize = 1 << 20;
/// A batch ends behind so many records,
const BATCH_RECORDS: usize = 512;
/// or when so much of the tar was passed: what reads it looks for signals between batches.
const BATCH_PASSED: u64 = 32 << 20;

/// A tar, its samples grouped as WebDataset does it.
pub struct WebDataset;

/// Such a tar with img2dataset's table beside it.
pub struct Img2dataset;

impl Format for WebDataset {
    fn name(&self) -> &'static str {
        "webdataset"
    }

    fn endings(&self) -> &'static [&'static str] {
        &[".tar"]
    }

    fn recognises(&self, path: &Path) -> bool {
        path.extension().is_some_and(|e| e.eq_ignore_ascii_case("tar"))
    }

    fn open(&self, shard: &Shard<'_>) -> Result<Box<dyn SampleReader>> {
        Ok(Box::new(Reader::open(shard)?))
    }
}

impl Format for Img2dataset {
    fn name(&self) -> &'static str {
        "img2dataset"
    }

    fn endings(&self) -> &'static [&'static str] {
        WebDataset.endings()
    }

    fn recognises(&self, path: &Path) -> bool {
        WebDataset.recognises(path) && self.sidecar(path).is_some()
    }

    fn sidecar(&self, shard: &Path) -> Option<PathBuf> {
        sidecar_path(shard)
    }

    fn lost_shard(&self, table: &Path) -> Option<PathBuf> {
        let tar = table.with_extension("tar");
        (!tar.exists() && is_img2dataset(table)).then_some(tar)
    }

    fn open(&self, shard: &Shard<'_>) -> Result<Box<dyn SampleReader>> {
        Ok(Box::new(Reader::open(shard)?))
    }
}

/// What all samples of a tar share.
struct Common {
    unit: String,
    has_sidecar: bool,
    id_field: Option<String>,
    depth: Depth,
}

struct Reader {
    groups: Groups<LocalFile>,
    common: Arc<Common>,
    sidecar_unit: String,
    sidecar: Option<Sidecar>,
    passed: u64,
    ended: bool,
    /// Samples whose keys seem to hold dots.
    dotted: Note,
    looks_for_dots: bool,
    closing: Closing,
}

impl Reader {
    fn open(shard: &Shard<'_>) -> Result<Self> {
        let mut closing = Closing::default();
        let sidecar = match shard.sidecar.map(|(_, path)| Sidecar::read(path)).transpose() {
            Ok(sidecar) => sidecar.flatten(),
            Err(error) if error.is_of_file() => {
                closing.damage.push(Damage::unreadable(error));
                None
            }
            Err(error) => return Err(error),
        };
        let file = LocalFile::open(shard.path)?;
        let common = Common {
            unit: shard.unit.to_owned(),
            has_sidecar: sidecar.is_some(),
            id_field: shard.options.id_column.clone(),
            depth: shard.depth,
        };
        Ok(Self {
            groups: Groups::new(file, shard.unit, holds_images(shard.depth), shard.options.key_until, BUFFER_BYTES),
            common: Arc::new(common),
            sidecar_unit: shard.sidecar.map(|(unit, _)| unit.to_owned()).unwrap_or_default(),
            sidecar,
            passed: 0,
            ended: false,
            dotted: Note { kind: "dotted_key", count: 0, examples: Vec::new() },
            looks_for_dots: shard.options.key_until == KeyUntil::FirstDot,
            closing,
        })
    }

    fn raw(&mut self, members: Members) -> RawMembers {
        if self.looks_for_dots && has_dotted_key(&members) {
            self.dotted.count += 1;
            if self.dotted.examples.len() < EXAMPLES {
                let names: Vec<String> = members.members.iter().take(4).map(|m| format!(".{}", m.extension)).collect();
                self.dotted.examples.push(format!("{}: {} has {}", self.common.unit, members.key, names.join(" ")));
            }
        }
        // `tar -C folder .` writes `./` before every name.
        let key = members.key.trim_start_matches("./");
        let row = self.sidecar.as_mut().and_then(|sidecar| sidecar.take(&members.key).or_else(|| sidecar.take(key)));
        RawMembers { members, row, common: self.common.clone() }
    }
}

impl SampleReader for Reader {
    fn next_batch(&mut self) -> Result<Option<Batch>> {
        if self.ended {
            return Ok(None);
        }
        let mut batch = Batch { is_costly: holds_images(self.common.depth), ..Batch::default() };
        let mut held = 0;
        let begun = self.passed;
        while batch.records.len() < BATCH_RECORDS && held < BATCH_BYTES && self.passed - begun < BATCH_PASSED {
            let group = self.groups.next();
            self.passed = self.groups.position();
            match group {
                Ok(Group::Sample(members)) => {
                    held += members.members.iter().map(|member| member.content.held_bytes()).sum::<usize>();
                    batch.records.push(Record::Raw(Box::new(self.raw(members))));
                    continue;
                }
                Ok(Group::Stray(stray)) => {
                    batch.records.push(Record::Stray(stray));
                    continue;
                }
                Ok(Group::End(end)) => {
                    let marker = ("end_marker".to_owned(), end.has_marker.into());
                    self.closing.detail.extend([marker, ignored(self.groups.ignored_members)]);
                    if !end.has_marker {
                        let example = format!("{}: its writer may have been stopped", self.common.unit);
                        self.closing.notes.push(Note { kind: "no_end_marker", count: 1, examples: vec![example] });
                    }
                }
                Ok(Group::Damage(damage)) => {
                    self.closing.detail.extend([ignored(self.groups.ignored_members)]);
                    let (reason, offset) = (Some(damage.reason), Some(damage.offset));
                    self.closing.damage.push(Damage { reason, offset, detail: damage.detail });
                }
                Err(error) if error.is_of_file() => self.closing.damage.push(Damage::unreadable(error)),
                Err(error) => return Err(error),
            }
            self.ended = true;
            break;
        }
        batch.bytes = self.passed - begun;
        Ok(Some(batch))
    }

    fn close(self: Box<Self>) -> Closing {
        let Self { sidecar, mut closing, sidecar_unit, dotted, .. } = *self;
        closing.notes.extend(Some(dotted).filter(|dotted| dotted.count > 0));
        // Behind damage, a row without a member says nothing that the damage does not.
        let Some(sidecar) = sidecar.filter(|_| closing.damage.is_empty()) else { return closing };
        closing.detail.insert("repeated_sidecar_keys".to_owned(), sidecar.repeated.into());
        if sidecar.repeated > 0 {
            let examples = vec![sidecar_unit.clone()];
            closing.notes.push(Note { kind: "repeated_row_key", count: sidecar.repeated, examples });
        }
        let mut failed = Note { kind: "failed_download", count: 0, examples: Vec::new() };
        for (key, row) in sidecar.rest() {
            if row.expected {
                let lost = Quarantined::new(&sidecar_unit, "row", None, "row_without_member", &row.json);
                closing.lost.push(lost.with_key(&key));
            } else {
                failed.count += 1;
                if failed.examples.len() < EXAMPLES {
                    failed.examples.push(format!("{sidecar_unit}: {key}"));
                }
            }
        }
        closing.detail.insert("not_downloaded".to_owned(), failed.count.into());
        closing.notes.extend(Some(failed).filter(|failed| failed.count > 0));
        closing
    }
}

fn ignored(members: u64) -> (String, serde_json::Value) {
    ("ignored_members".to_owned(), members.into())
}

/// Members of a sample and the table's row for them.
struct RawMembers {
    members: Members,
    row: Option<Row>,
    common: Arc<Common>,
}

impl RawSample for RawMembers {
    fn take_apart(self: Box<Self>) -> Result<Taken> {
        let Self { members, row, common } = *self;
        let Common { unit, has_sidecar, id_field, depth } = &*common;
        if let Some(fault) = members.fault {
            return Ok(Err(fault));
        }
        let mut sample = Sample::at(Position { unit: "byte", number: members.header_offset });
        if *has_sidecar && row.is_none() {
            sample.notes.push(Bad::new("member_without_row", format!("{unit}: {}", members.key)));
        }
        let Pictures { images, fault, others } = pictures(&members);
        sample.images = images.into_iter().map(|member| look_at(member, *depth)).collect();
        match fault {
            Some(bad) if is_unsupported(bad.reason) => {
                sample.images.push(SampleImage::bad(bad.detail.clone(), bad));
            }
            Some(bad) => sample.faults.push(bad),
            None if sample.images.is_empty() => sample.notes.push(Bad::new("no_image", "")),
            None => {}
        }
        if others > 0 && !sample.images.is_empty() {
            sample.notes.push(Bad::new("more_pictures", format!("{others} beside its image")));
        }
        let json = members.json();
        let mut declared = match json.map(|json| Declared::read(json, id_field.as_deref())).transpose() {
            Ok(declared) => declared.unwrap_or_default(),
            Err((reason, detail)) => {
                sample.faults.push(Bad { reason, detail });
                Declared::default()
            }
        };
        sample.uid = declared.uid.or_else(|| row.as_ref().and_then(|row| row.uid));
        if let (Some(field), None) = (id_field, sample.uid) {
            sample.faults.push(Bad::new("bad_id", format!("{field} is no id of 128 bits")));
        }
        let (row_text, row_json) = row.map(|row| (row.text, Some(row.json))).unwrap_or_default();
        let caption = declared.said.text.take();
        sample.said = declared.said;
        sample.said.text = match members.text().map(utf8_text).transpose() {
            Ok(text) => text.map(ToOwned::to_owned).or(row_text).or(caption),
            Err(error) => {
                sample.faults.push(Bad::new("text_not_utf8", error));
                None
            }
        };
        sample.notes.extend(sample.said.placeholder_fault(sample.images.len()));
        if sample.class().is_none() && sample.faults.is_empty() {
            let names: Vec<String> = members.members.iter().take(5).map(|m| format!(".{}", m.extension)).collect();
            sample.faults.push(Bad::new("no_content", format!("neither image nor text: {}", names.join(" "))));
        }
        sample.metadata = json.map(<[u8]>::to_vec).or_else(|| row_json.map(String::into_bytes));
        let as_row = |m: SampleMember| MemberRow { extension: m.extension, offset: m.offset, size: m.size };
        sample.members = members.members.into_iter().map(as_row).collect();
        sample.key = Some(members.key);
        Ok(Ok(sample))
    }
}

/// Whether images are held whole.
fn holds_images(depth: Depth) -> bool {
    matches!(depth, Depth::Contents | Depth::Bodies)
}

fn look_at(member: &SampleMember, depth: Depth) -> SampleImage {
    let name = format!(".{}", member.extension);
    let Content::Image(hash, header, bytes) = &member.content else {
        return SampleImage::faulty(name, None, Fault::UnknownFormat);
    };
    let checked = match (depth, bytes) {
        (Depth::Bodies, Some(bytes)) => check_image(bytes),
        (Depth::Bodies, None) => header.and_then(|header| Err(Fault::Long(header.format, member.size))),
        _ => *header,
    };
    match checked {
        Ok(header) => {
            let location = ImageLocation::Range { offset: member.offset, size: member.size };
            let row = ImageRow { location, width: header.width, height: header.height, hash: *hash };
            SampleImage::good(name, row, bytes.clone().filter(|_| depth == Depth::Contents))
        }
        Err(fault) => SampleImage::faulty(name, Some(*hash), fault),
    }
}

/// What a JSON member declares.
#[derive(Default)]
struct Declared {
    uid: Option<Hash128>,
    said: Said,
}

impl Declared {
    fn read(bytes: &[u8], id_field: Option<&str>) -> std::result::Result<Self, Reason> {
        if depth_of(bytes) > MAX_DEPTH {
            return Err(("json_too_deep", format!("deeper than {MAX_DEPTH}")));
        }
        let mut spare = Vec::new();
        let value: &RawValue =
            json_stream::parse(bytes, &mut spare).map_err(|error| ("bad_json", error.to_string()))?;
        let id_field = id_field.unwrap_or("uid");
        let names = [&[id_field], &FIELDS[..]].concat();
        let Ok(fields) = fields(value.get().as_bytes(), &names) else { return Ok(Self::default()) };
        let id = fields.get(id_field).and_then(|raw| serde_json::from_str::<String>(raw).ok());
        let mut said = Said::read(&fields, Captions::Lenient)?;
        // Beside a tar's own members nothing else is looked for, and most JSON holds much else.
        said.notes.clear();
        Ok(Self { uid: id.as_deref().and_then(parse_uid), said })
    }
}
