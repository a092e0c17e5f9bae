//! What dedup leaves: a table with the rows of each index part, the keep bits of all rows, and a summary to look at.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use arrow_array::builder::{BooleanBuilder, FixedSizeBinaryBuilder, Float32Builder, StringBuilder};
use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use serde::{Deserialize, Serialize};
use serde_json::json;
use vlmsel_core::hash::{Hash128, to_hex};
use vlmsel_shards::error::IoContext;
use vlmsel_shards::parquet::writer::TableWriter;
use vlmsel_shards::workspace::manifest::to_json;
use vlmsel_shards::workspace::output::Output;

use super::content::{Field as FieldOf, Texts};
use super::dropped::{AGAINST, Dropped, DroppedRows};
use super::keepers::Hub;
use super::kinds::Kind;
use super::row_set::RowSet;
use super::rows::{Batch, IndexRows};
use crate::error::{Error, Result};
use crate::progress::Progress;

/// The file with a bit for each row of the index: row `8 * i + j` is kept if bit `j` of byte `i` is set.
pub const KEEP_BITS: &str = "keep.bits";
/// The file with what was found, for people.
pub const SUMMARY: &str = "summary.json";
/// The unit that both are committed as.
pub const SUMMARY_UNIT: &str = "summary";
/// Dropped records of a group that the summary shows.
const MEMBERS_SHOWN: usize = 3;
/// Hubs that the summary names.
const HUBS_SHOWN: usize = 100;
/// Characters of a text that the summary shows.
const TEXT_SHOWN: usize = 200;

/// What happened to the records of a source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfSource {
    /// Its records.
    pub input: u64,
    /// Those that go, by kind.
    pub dropped: BTreeMap<String, u64>,
}

impl OfSource {
    /// All that go.
    pub fn lost(&self) -> u64 {
        self.dropped.values().sum()
    }
}

/// One record, for people.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// Its id in hex.
    pub uid: String,
    /// The beginning of its text.
    pub text: Option<String>,
    /// By what it is covered; `None` for a keeper.
    pub kind: Option<String>,
    /// How far it is from the keeper; null where that is not known.
    pub distance: Option<f32>,
}

/// A record that is kept for others.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// Records that go for it.
    pub dropped: u64,
    /// The record.
    pub keeper: Member,
    /// The first of those that go.
    pub members: Vec<Member>,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// Records of the index.
    pub input: u64,
    /// Those that stay.
    pub kept: u64,
    /// Those that go, by kind.
    pub dropped: BTreeMap<String, u64>,
    /// The same by source.
    pub sources: BTreeMap<String, OfSource>,
    /// The records for which most others go.
    pub groups: Vec<Group>,
    /// Contents with more neighbours than allowed, those with most of them first.
    pub hubs: Vec<HubFound>,
    /// How many there are.
    pub hub_count: u64,
    /// Where images alone were compared: records that go for one with another text.
    pub other_texts: Option<u64>,
}

/// A content with very many neighbours, for people.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct HubFound {
    /// Its kind.
    pub kind: String,
    /// Contents that are near it.
    pub neighbours: u32,
    /// One of its records.
    pub record: Member,
}

fn schema() -> SchemaRef {
    let id = DataType::FixedSizeBinary(16);
    Arc::new(Schema::new(vec![
        Field::new("uid", id.clone(), false),
        Field::new("keeper", id, true),
        Field::new("keep", DataType::Boolean, false),
        Field::new("kind", DataType::Utf8, true),
        Field::new("distance", DataType::Float32, true),
        Field::new("against", DataType::Utf8, true),
    ]))
}

#[derive(Default)]
struct Rows {
    uids: Vec<Hash128>,
    dropped: Vec<Option<Dropped>>,
}

/// Writes the tables.
pub struct ResultWriter<'a> {
    index: &'a IndexRows,
    kinds: &'a [Kind],
    /// Names of the items that records must not match.
    items: &'a [String],
    progress: &'a Progress,
    keep: RowSet,
    /// Rows that must be kept, because others go for them.
    keepers: RowSet,
    /// Where images alone are compared: rows that go, and what they go for.
    by_image: Option<Vec<(u32, u32)>>,
    found: Found,
}

impl<'a> ResultWriter<'a> {
    /// A writer for `index`.
    pub fn new(index: &'a IndexRows, kinds: &'a [Kind], items: &'a [String], progress: &'a Progress) -> Self {
        let keep = RowSet::new(u64::from(index.rows));
        let keepers = RowSet::new(u64::from(index.rows));
        let is_image = |kind: &Kind| matches!(kind, Kind::Exact(FieldOf::Image) | Kind::NearImage(_));
        let by_image = kinds.iter().all(is_image).then(Vec::new);
        Self { index, kinds, items, progress, keep, keepers, by_image, found: Found::default() }
    }

    fn kind(&self, dropped: &Dropped) -> &'static str {
        if dropped.kind == AGAINST { "against" } else { self.kinds[usize::from(dropped.kind)].name() }
    }

    /// Writes the parts; what was found. Nothing is published by it.
    ///
    /// # Errors
    /// Those of reading and writing, and a bug where a record goes for one that is not kept.
    pub fn write(mut self, dropped: DroppedRows, hubs: &[Hub], output: &Output) -> Result<Found> {
        let largest = dropped.largest.clone();
        let mut dropped = dropped.finish()?;
        self.progress.restart();
        self.progress.expect(u64::from(self.index.rows), 0);
        let mut first_of: BTreeMap<u32, Vec<Dropped>> = largest.iter().map(|(_, row)| (*row, Vec::new())).collect();
        for (at, part) in self.index.parts.iter().enumerate() {
            let begun = Instant::now();
            let source = part.unit.split('/').next().unwrap_or_default().to_owned();
            let mut of_part = OfSource::default();
            let mut writer = TableWriter::create(&output.temporary(&part.file)?, &schema(), &[])?;
            self.index.in_order_of(at, &["uid"], None, self.progress, &mut |batch: &Batch<'_>| {
                let uids = batch.columns.column(0).as_fixed_size_binary();
                let mut rows = Rows::default();
                for (at, row) in batch.rows.iter().enumerate() {
                    let gone = dropped.of_row(*row)?;
                    match gone {
                        Some(gone) => {
                            *of_part.dropped.entry(self.kind(&gone).to_owned()).or_default() += 1;
                            if gone.kind != AGAINST {
                                self.keepers.insert(gone.keeper);
                                self.by_image.iter_mut().for_each(|all| all.push((*row, gone.keeper)));
                                let first = first_of.get_mut(&gone.keeper);
                                first
                                    .filter(|first| first.len() < MEMBERS_SHOWN)
                                    .into_iter()
                                    .for_each(|f| f.push(gone));
                            }
                        }
                        None => self.keep.insert(*row),
                    }
                    rows.uids.push(uids.value(at).try_into().unwrap_or_default());
                    rows.dropped.push(gone);
                }
                of_part.input += batch.rows.len() as u64;
                Ok(writer.write(&self.batch(&rows)?)?)
            })?;
            let hash = writer.finish()?;
            let counts = [("input", of_part.input), ("kept", of_part.input - of_part.lost())];
            let counts = counts.into_iter().map(|(name, count)| (name.to_owned(), count)).collect();
            let files = [(part.file.as_str(), Some(hash))];
            output.commit_soon(&part.unit, &files, of_part.input, counts, json!({}), None, begun.elapsed())?;
            let of_source = self.found.sources.entry(source).or_default();
            of_source.input += of_part.input;
            for (kind, count) in of_part.dropped {
                *of_source.dropped.entry(kind).or_default() += count;
            }
        }
        if !dropped.is_done()? {
            return Err(Error::Bug("a record goes that the index does not have".to_owned()));
        }
        let all = u64::from(self.index.rows);
        let orphans = self.keepers.rows_within(0, self.index.rows).find(|row| !self.keep.contains(*row));
        if let Some(row) = orphans {
            return Err(Error::Bug(format!("row {row} goes, and others go for it")));
        }
        self.found.input = all;
        self.found.kept = self.keep.count();
        for of_source in self.found.sources.values() {
            for (kind, count) in &of_source.dropped {
                *self.found.dropped.entry(kind.clone()).or_default() += count;
            }
        }
        if self.found.kept + self.found.dropped.values().sum::<u64>() != all {
            return Err(Error::Bug(format!("{} kept and {:?} dropped of {all}", self.found.kept, self.found.dropped)));
        }
        self.found.other_texts = self.by_image.take().map(|pairs| self.other_texts(&pairs)).transpose()?;
        self.describe(&largest, &first_of, hubs)?;
        self.commit_summary(output)?;
        Ok(self.found)
    }

    fn batch(&self, rows: &Rows) -> Result<RecordBatch> {
        let count = rows.uids.len();
        let (mut uids, mut keepers) =
            (FixedSizeBinaryBuilder::with_capacity(count, 16), FixedSizeBinaryBuilder::with_capacity(count, 16));
        let (mut keep, mut kinds) = (BooleanBuilder::with_capacity(count), StringBuilder::new());
        let (mut distances, mut against) = (Float32Builder::with_capacity(count), StringBuilder::new());
        let bug = |error: arrow_schema::ArrowError| Error::Bug(format!("a table of dedup: {error}"));
        for (uid, gone) in rows.uids.iter().zip(&rows.dropped) {
            uids.append_value(uid).map_err(bug)?;
            keep.append_value(gone.is_none());
            let Some(gone) = gone else {
                keepers.append_value(uid).map_err(bug)?;
                kinds.append_null();
                distances.append_null();
                against.append_null();
                continue;
            };
            kinds.append_value(self.kind(gone));
            distances.append_option(Some(gone.distance).filter(|distance| !distance.is_nan()));
            if gone.kind == AGAINST {
                keepers.append_null();
                against.append_option(self.items.get(gone.item as usize));
            } else {
                keepers.append_value(gone.keeper_uid).map_err(bug)?;
                against.append_null();
            }
        }
        let columns: Vec<ArrayRef> = vec![
            Arc::new(uids.finish()),
            Arc::new(keepers.finish()),
            Arc::new(keep.finish()),
            Arc::new(kinds.finish()),
            Arc::new(distances.finish()),
            Arc::new(against.finish()),
        ];
        RecordBatch::try_new(schema(), columns).map_err(bug)
    }

    /// Records whose text is not that of the record that they go for.
    fn other_texts(&self, pairs: &[(u32, u32)]) -> Result<u64> {
        let rows = RowSet::new(u64::from(self.index.rows));
        for (gone, keeper) in pairs {
            rows.insert(*gone);
            rows.insert(*keeper);
        }
        let ranks = rows.ranks();
        let mut hashes: Vec<Option<Hash128>> = vec![None; rows.count() as usize];
        self.index.in_order(&["text_hash"], Some(&rows), self.progress, |batch| {
            let column = batch.columns.column(0).as_fixed_size_binary_opt();
            for (at, row) in batch.rows.iter().enumerate() {
                let hash =
                    column.filter(|column| column.is_valid(at)).and_then(|column| column.value(at).try_into().ok());
                hashes[ranks.before(*row) as usize] = hash;
            }
            Ok(())
        })?;
        let of = |row: &u32| hashes[ranks.before(*row) as usize];
        Ok(pairs.iter().filter(|(gone, keeper)| of(gone) != of(keeper)).count() as u64)
    }

    /// Looks up what the largest groups and the hubs hold.
    fn describe(&mut self, largest: &[(u64, u32)], first_of: &BTreeMap<u32, Vec<Dropped>>, hubs: &[Hub]) -> Result<()> {
        let mut hubs = hubs.to_vec();
        self.found.hub_count = hubs.len() as u64;
        hubs.sort_unstable_by_key(|hub| (std::cmp::Reverse(hub.neighbours), hub.kind, hub.row));
        hubs.truncate(HUBS_SHOWN);
        let rows = RowSet::new(u64::from(self.index.rows));
        for (_, keeper) in largest {
            rows.insert(*keeper);
            first_of.get(keeper).into_iter().flatten().for_each(|gone| rows.insert(gone.row));
        }
        for hub in &hubs {
            rows.insert(hub.row);
        }
        let mut members: BTreeMap<u32, Member> = BTreeMap::new();
        self.index.in_order(&["uid", "text", "conversations"], Some(&rows), self.progress, |batch| {
            let uids = batch.columns.column_by_name("uid").and_then(|column| column.as_fixed_size_binary_opt());
            let texts = Texts::of(&batch.columns)?;
            for (at, row) in batch.rows.iter().enumerate() {
                let uid = uids.and_then(|uids| uids.value(at).try_into().ok()).unwrap_or_default();
                let text = texts.of_row(at)?.map(|text| text.chars().take(TEXT_SHOWN).collect());
                members.insert(*row, Member { uid: to_hex(&uid), text, ..Member::default() });
            }
            Ok(())
        })?;
        for (size, keeper) in largest.iter().copied() {
            let of_row = |row: &u32| members.get(row).cloned().unwrap_or_default();
            let gone = first_of.get(&keeper).into_iter().flatten().map(|gone| Member {
                kind: Some(self.kind(gone).to_owned()),
                distance: Some(gone.distance).filter(|distance| !distance.is_nan()),
                ..of_row(&gone.row)
            });
            let members = gone.collect();
            self.found.groups.push(Group { dropped: size, keeper: of_row(&keeper), members });
        }
        let record = |hub: &Hub| members.get(&hub.row).cloned().unwrap_or_default();
        let kinds = self.kinds;
        self.found.hubs.extend(hubs.iter().map(|hub| HubFound {
            kind: kinds[hub.kind].name().to_owned(),
            neighbours: hub.neighbours,
            record: record(hub),
        }));
        Ok(())
    }

    fn commit_summary(&self, output: &Output) -> Result<()> {
        let write = |name: &str, bytes: &[u8]| -> Result<()> {
            let path = output.temporary(name)?;
            Ok(std::fs::write(&path, bytes).at("write", &path)?)
        };
        write(KEEP_BITS, &self.keep.to_bytes())?;
        write(SUMMARY, &to_json(&self.found)?)?;
        let files = [(KEEP_BITS, None), (SUMMARY, None)];
        Ok(output.commit(SUMMARY_UNIT, &files, 0, BTreeMap::new(), json!({}))?)
    }
}
