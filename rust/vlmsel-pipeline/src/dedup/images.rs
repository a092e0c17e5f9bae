//! Near images of an index: pictures whose codes differ in few bits.
//!
//! Records with the same codes are one class. A picture of low quality (a blank one) is known by its bytes instead, and is near
//! nothing. Records of several images are alike where all of them are, in order and in number: candidates are near in the first
//! image that can be compared.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use serde_json::json;
use vlmsel_core::hamming::Pair;
use vlmsel_core::hash::image_hash;
use vlmsel_core::image_code::{ImageCodes, LOW_QUALITY, mirrored_dhash};
use vlmsel_shards::tables::codes::CodesReader;

use super::alike::{Edge, EdgeList, Relation};
use super::classes::Classes;
use super::code_pairs::{BYTES_A_CODE, code_pairs};
use super::content::Images;
use super::equal::EqualKeys;
use super::exact::{Bounds, classes_of};
use super::merged::{Merged, one_of_each};
use super::row_set::RowSet;
use super::rows::IndexRows;
use crate::error::{Error, Result};
use crate::run_options::RunOptions;

/// Which code says whether two pictures are near.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageHash {
    /// That of low frequencies.
    Phash,
    /// That of differences between neighbours.
    Dhash,
    /// Both: within the radius on each.
    Both,
}

impl ImageHash {
    /// Reads the option.
    ///
    /// # Errors
    /// Exit 2, with what is possible.
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "phash" => Ok(Self::Phash),
            "dhash" => Ok(Self::Dhash),
            "both" => Ok(Self::Both),
            _ => Err(Error::usage(format!("--image-hash {text}: it is phash, dhash or both"))),
        }
    }
}

/// How pictures are compared.
#[derive(Debug, Clone)]
pub struct ImageRule {
    /// The folder of the codes.
    pub codes: PathBuf,
    /// Which code.
    pub hash: ImageHash,
    /// Mirrored pictures are near, too.
    pub flips: bool,
}

/// What an image is compared by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// Its codes.
    Coded(ImageCodes),
    /// Hash and size of its bytes, where there is too little to see.
    Bytes([u8; 24]),
}

impl ImageRule {
    /// The code by which candidates are found.
    fn first_code(&self, codes: &ImageCodes) -> u64 {
        if self.hash == ImageHash::Dhash { codes.dhash } else { codes.phash }
    }

    fn first_mirrored(&self, codes: &ImageCodes) -> u64 {
        if self.hash == ImageHash::Dhash { mirrored_dhash(codes.dhash) } else { codes.mirror }
    }

    /// Puts what two images must share to be of one class into `out`.
    fn write(&self, codes: &ImageCodes, out: &mut Vec<u8>) {
        if self.hash != ImageHash::Dhash {
            out.extend_from_slice(&codes.phash.to_le_bytes());
            if self.flips {
                out.extend_from_slice(&codes.mirror.to_le_bytes());
            }
        }
        if self.hash != ImageHash::Phash {
            out.extend_from_slice(&codes.dhash.to_le_bytes());
        }
    }

    /// In how many bits two images differ, the more on several codes.
    fn distance(&self, a: &ImageCodes, b: &ImageCodes) -> u32 {
        let of = |a: &ImageCodes, phash: u64, dhash: u64| {
            let (p, d) = ((a.phash ^ phash).count_ones(), (a.dhash ^ dhash).count_ones());
            match self.hash {
                ImageHash::Phash => p,
                ImageHash::Dhash => d,
                ImageHash::Both => p.max(d),
            }
        };
        let straight = of(a, b.phash, b.dhash);
        if !self.flips {
            return straight;
        }
        // A mirror's median is another one, so that either of the two may be the nearer when it is turned round.
        let mirrored = |a: &ImageCodes, b: &ImageCodes| of(a, b.mirror, mirrored_dhash(b.dhash));
        straight.min(mirrored(a, b)).min(mirrored(b, a))
    }

    /// The same of all images of two records; `None` where they are not near. What has too little to see must be equal.
    fn distance_of_all(&self, a: &[Seen], b: &[Seen], radius: u32) -> Option<u32> {
        if a.len() != b.len() {
            return None;
        }
        a.iter().zip(b).try_fold(0, |most, images| {
            let bits = match images {
                (Seen::Coded(a), Seen::Coded(b)) => self.distance(a, b),
                (Seen::Bytes(a), Seen::Bytes(b)) if a == b => 0,
                _ => return None,
            };
            (bits <= radius).then_some(most.max(bits))
        })
    }

    /// Calls `each` with the row, the images' codes and the bytes that the record's class is known by, of every record with images;
    /// from any thread.
    fn read<S>(
        &self,
        index: &IndexRows,
        bounds: Bounds<'_>,
        begin: impl Fn() -> S + Sync,
        each: impl Fn(&mut S, u32, &[Seen], &[u8]) -> Result<()> + Sync,
        end: impl Fn(S) -> Result<()> + Sync,
    ) -> Result<()> {
        let Bounds { threads, progress, .. } = bounds;
        progress.restart();
        progress.expect(u64::from(index.rows), 0);
        let parts: Vec<usize> = (0..index.parts.len()).filter(|part| index.holds_any_of(*part)).collect();
        RunOptions::each(threads, &parts, |_, part| {
            let path = self.codes.join(&index.parts[*part].file);
            let mut codes = CodesReader::open(&path)?.flat_map(|rows| match rows {
                Ok(rows) => rows.into_iter().map(Ok).collect::<Vec<_>>(),
                Err(error) => vec![Err(error)],
            });
            let other = || vlmsel_shards::Error::unreadable(&path, "its rows are not those of the index; make it anew");
            let (mut all, mut content, mut state): (Vec<Seen>, Vec<u8>, S) = (Vec::new(), Vec::new(), begin());
            index.in_order_of(*part, &["uid", "images"], None, progress, &mut |batch| {
                let images = Images::of(&batch.columns)?;
                let uids = super::content::uids_of(&batch.columns)?;
                for (at, row) in batch.rows.iter().enumerate() {
                    all.clear();
                    content.clear();
                    for image in images.of_row(at) {
                        let found = codes.next().ok_or_else(other)??;
                        if found.uid[..] != *uids.value(at) {
                            return Err(other().into());
                        }
                        let seen = found.coded.ok().filter(|codes| codes.quality >= LOW_QUALITY);
                        content.push(u8::from(seen.is_some()));
                        let start = content.len();
                        all.push(if let Some(codes) = seen {
                            self.write(&codes, &mut content);
                            Seen::Coded(codes)
                        } else {
                            images.append_image(image, &mut content);
                            Seen::Bytes(content[start..].try_into().unwrap_or_default())
                        });
                    }
                    if !all.is_empty() && index.holds(*row) {
                        each(&mut state, *row, &all, &content)?;
                    }
                }
                Ok(())
            })?;
            if codes.next().is_some() {
                return Err(other().into());
            }
            end(state)
        })
    }

    fn classes(&self, index: &IndexRows, bounds: Bounds<'_>) -> Result<Classes> {
        let Bounds { scratch, memory, threads, .. } = bounds;
        let keys = EqualKeys::new(scratch, u64::from(index.rows), memory / 2, threads);
        self.read(
            index,
            bounds,
            || keys.writer(),
            |writer, row, _, content| writer.push(&image_hash(content), row),
            super::equal::KeyWriter::finish,
        )?;
        classes_of(keys, index.rows, bounds)
    }
}

/// One record of each class whose pictures can be compared.
struct Distinct {
    /// The code of the first image that has one, and the row; with a bit above the row for the mirrored picture.
    codes: Vec<(u64, u64)>,
    /// All images of a record, where one code does not tell all.
    all: HashMap<u32, Vec<Seen>>,
}

const MIRRORED: u64 = 1 << 32;

fn distinct(index: &IndexRows, rule: &ImageRule, rows: &RowSet, bounds: Bounds<'_>) -> Result<Distinct> {
    let found = Mutex::new(Distinct { codes: Vec::new(), all: HashMap::new() });
    let needs_all = rule.hash == ImageHash::Both || rule.flips;
    rule.read(
        index,
        bounds,
        || (Vec::new(), Vec::new()),
        |(codes, all), row, images, _| {
            let first = images.iter().find_map(|image| if let Seen::Coded(codes) = image { Some(codes) } else { None });
            let (Some(first), true) = (first, rows.contains(row)) else { return Ok(()) };
            codes.push((rule.first_code(first), u64::from(row)));
            if rule.flips {
                codes.push((rule.first_mirrored(first), u64::from(row) | MIRRORED));
            }
            if needs_all || images.len() > 1 {
                all.push((row, images.to_vec()));
            }
            Ok(())
        },
        |(codes, all)| {
            let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
            found.codes.extend(codes);
            found.all.extend(all);
            let needed = found.codes.len() as u64 * (16 + BYTES_A_CODE) + found.all.len() as u64 * 80;
            if needed > bounds.memory {
                let text = format!(
                    "comparing the codes of more than {} images takes {needed} bytes and more, --memory-limit allows {}; raise it",
                    found.codes.len(),
                    bounds.memory
                );
                return Err(vlmsel_shards::Error::Resource(text).into());
            }
            Ok(())
        },
    )?;
    let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    found.codes.sort_unstable();
    Ok(found)
}

/// Images within `radius` bits.
///
/// # Errors
/// Exit 6 where codes or edges do not fit into the memory limit, and those of reading.
pub fn relation(index: &IndexRows, radius: u32, rule: &ImageRule, bounds: Bounds<'_>) -> Result<Relation> {
    let equal = rule.classes(index, bounds)?;
    let rows = one_of_each(index.rows, &equal)?;
    let distinct = distinct(index, rule, &rows, bounds)?;
    drop(rows);
    let mut codes: Vec<u64> = distinct.codes.iter().map(|(code, _)| *code).collect();
    codes.dedup();
    let edges = Mutex::new(EdgeList::new(bounds.memory / 4));
    let of_code = |code: u64| {
        let start = distinct.codes.partition_point(|(other, _)| *other < code);
        distinct.codes[start..].iter().take_while(move |(other, _)| *other == code).map(|(_, row)| *row)
    };
    let candidate = |a: u64, b: u64, distance: u32| -> Result<()> {
        let (first, second) = ((a as u32).min(b as u32), (a as u32).max(b as u32));
        // A picture is near its own mirror image where it is symmetric; and two mirrored ones are as near as they are.
        if first == second || a & b & MIRRORED != 0 {
            return Ok(());
        }
        let distance = match (distinct.all.get(&first), distinct.all.get(&second)) {
            (Some(first), Some(second)) => rule.distance_of_all(first, second, radius),
            (None, None) => Some(distance),
            // One image and several.
            _ => None,
        };
        let Some(distance) = distance else { return Ok(()) };
        let edge = Edge { a: first, b: second, distance: distance as f32 };
        edges.lock().unwrap_or_else(PoisonError::into_inner).push(edge)
    };
    for same in distinct.codes.chunk_by(|a, b| a.0 == b.0) {
        bounds.progress.check()?;
        for (at, (_, a)) in same.iter().enumerate() {
            same[at + 1..].iter().try_for_each(|(_, b)| candidate(*a, *b, 0))?;
        }
    }
    code_pairs(codes, radius, bounds.threads, bounds.progress, |pairs| {
        for Pair { a, b, distance } in pairs {
            for row in of_code(*a) {
                of_code(*b).try_for_each(|other| candidate(row, other, *distance))?;
            }
        }
        Ok(())
    })?;
    let mut edges = edges.into_inner().unwrap_or_else(PoisonError::into_inner).sorted();
    // Mirrored, a pair may be met twice.
    edges.dedup_by_key(|edge| (edge.a, edge.b));
    let detail = json!({ "compared": distinct.codes.len() });
    Ok(Relation { classes: Merged::new(index.rows, bounds).classes(&equal, &edges, None)?, edges, detail })
}
