//! Indexing one WebDataset tar, with the Parquet file that img2dataset wrote beside it.

use serde_json::value::RawValue;
use vlmsel_core::hash::{Hash128, parse_uid, text_hash, uid};
use vlmsel_shards::formats::img2dataset::{Row, Sidecar};
use vlmsel_shards::formats::json_fields::fields;
use vlmsel_shards::formats::json_stream;
use vlmsel_shards::formats::webdataset::{Content, Depth, Sample, Visitor, scan};
use vlmsel_shards::storage::source::LocalFile;
use vlmsel_shards::storage::text_encoding::utf8_text;
use vlmsel_shards::tables::index::{ImageRow, IndexRow, MemberRow};
use vlmsel_shards::workspace::quarantine::Quarantined;

use super::Unit;
use crate::error::{Error, Result};

/// Members no longer than this are hashed and parsed in one piece.
pub(crate) const BUFFER_BYTES: usize = 1 << 20;

pub(super) fn read(unit: &mut Unit<'_>) -> Result<()> {
    let sidecar = match &unit.shard.sidecar {
        None => None,
        Some(path) => match Sidecar::read(path) {
            Ok(sidecar) => sidecar,
            Err(error) if error.is_of_file() => {
                unit.damage = Some(error.to_string());
                None
            }
            Err(error) => return Err(error.into()),
        },
    };
    let file = match LocalFile::open(&unit.shard.path) {
        Ok(file) => file,
        Err(error) if error.is_of_file() => {
            unit.damage = Some(error.to_string());
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    let name = unit.shard.unit();
    let mut visitor = Indexing { unit, sidecar, before: 0 };
    let scanned = scan(&file, &name, Depth::Headers, BUFFER_BYTES, &mut visitor);
    let Indexing { unit, sidecar, .. } = visitor;
    match scanned {
        Ok(summary) => {
            unit.detail.insert("ignored_members".to_owned(), summary.ignored_members.into());
            if let Some(end) = summary.end {
                unit.detail.insert("end_marker".to_owned(), end.has_marker.into());
            }
            if let Some(damage) = summary.damage {
                unit.damage = Some(format!("{} at byte {} ({})", damage.reason, damage.offset, damage.detail));
            }
        }
        Err(Error::Shards(error)) if error.is_of_file() => unit.damage = Some(error.to_string()),
        Err(error) => return Err(error),
    }
    // Behind damage, a row without a member says nothing that the damage does not.
    if let Some(sidecar) = sidecar.filter(|_| unit.damage.is_none()) {
        unit.detail.insert("repeated_sidecar_keys".to_owned(), sidecar.repeated.into());
        let mut not_downloaded = 0_u64;
        for (key, row) in sidecar.rest() {
            if row.expected {
                unit.quarantine(
                    Quarantined::new(&unit.shard.sidecar_unit(), "row", None, "row_without_member", &row.json)
                        .with_key(&key),
                )?;
            } else {
                not_downloaded += 1;
            }
        }
        unit.detail.insert("not_downloaded".to_owned(), not_downloaded.into());
    }
    Ok(())
}

struct Indexing<'a, 'b> {
    unit: &'a mut Unit<'b>,
    sidecar: Option<Sidecar>,
    before: u64,
}

impl Visitor for Indexing<'_, '_> {
    type Error = Error;

    fn sample(&mut self, sample: Sample) -> Result<()> {
        let row = self.sidecar.as_mut().and_then(|sidecar| sidecar.take(&sample.key));
        add(self.unit, sample, row)
    }

    fn stray(&mut self, record: Quarantined) -> Result<()> {
        self.unit.quarantine(record)
    }

    fn passed(&mut self, position: u64) -> Result<()> {
        self.unit.progress.add(0, position - self.before)?;
        self.before = position;
        Ok(())
    }
}

fn add(unit: &mut Unit<'_>, sample: Sample, row: Option<Row>) -> Result<()> {
    let (shard, place) = (unit.shard.unit(), sample.header_offset);
    let bad = |reason: &str, detail: &str| {
        Quarantined::new(&shard, "byte", Some(place), reason, detail).with_key(&sample.key)
    };
    if let Some(fault) = sample.fault {
        return unit.quarantine(fault);
    }
    let mut images = Vec::new();
    if let Some(member) = sample.image()
        && let Content::Image(hash, header, _) = &member.content
    {
        match header {
            Ok(header) => images.push(ImageRow {
                file: None,
                offset: member.offset,
                size: member.size,
                width: header.width,
                height: header.height,
                hash: *hash,
            }),
            Err(fault) => {
                let record = bad(fault.reason(), &format!(".{}: {fault}", member.extension));
                return unit.quarantine(record);
            }
        }
    }
    let declared = match sample.json().map(|json| read_json(json, unit.options.id_column.as_deref())).transpose() {
        Ok(declared) => declared.unwrap_or_default(),
        Err(detail) => {
            let record = bad("bad_json", &detail);
            return unit.quarantine(record);
        }
    };
    let own = declared.uid.or_else(|| row.as_ref().and_then(|row| row.uid));
    if let (Some(field), None) = (&unit.options.id_column, own) {
        let record = bad("bad_id", &format!("{field} is no id of 32 hexadecimal characters"));
        return unit.quarantine(record);
    }
    let text = match sample.text().map(utf8_text).transpose() {
        Ok(text) => text.map(ToOwned::to_owned),
        Err(error) => {
            let record = bad("text_not_utf8", &error);
            return unit.quarantine(record);
        }
    };
    let (row_text, row_json) = row.map(|row| (row.text, Some(row.json))).unwrap_or_default();
    let text = text.or(row_text).or(declared.caption);
    let members = sample
        .members
        .iter()
        .map(|m| MemberRow { extension: m.extension.clone(), offset: m.offset, size: m.size })
        .collect();
    unit.push(IndexRow {
        uid: own.unwrap_or_else(|| uid(&unit.shard.source, &unit.shard.name, &sample.key, 0)),
        images,
        members,
        text_hash: text.as_deref().map(text_hash),
        text,
        conversations: None,
        n_turns: 0,
        metadata: sample.json().map(<[u8]>::to_vec).or_else(|| row_json.map(String::into_bytes)),
        key: sample.key,
    })?;
    Ok(())
}

/// What a JSON member declares.
#[derive(Default)]
struct Declared {
    uid: Option<Hash128>,
    caption: Option<String>,
}

fn read_json(bytes: &[u8], id_field: Option<&str>) -> std::result::Result<Declared, String> {
    let mut spare = Vec::new();
    let value: &RawValue = json_stream::parse(bytes, &mut spare).map_err(|error| error.to_string())?;
    let id_field = id_field.unwrap_or("uid");
    let names = [id_field, "caption", "text"];
    let Ok(fields) = fields(value.get().as_bytes(), &names) else {
        return Ok(Declared::default());
    };
    let string = |name: &str| fields.get(name).and_then(|raw| serde_json::from_str::<String>(raw).ok());
    Ok(Declared {
        uid: string(id_field).as_deref().and_then(parse_uid),
        caption: string("caption").or_else(|| string("text")),
    })
}
