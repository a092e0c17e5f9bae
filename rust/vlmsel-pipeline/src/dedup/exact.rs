//! Exact copies: records whose text, images or both are equal.

use std::path::Path;
use std::sync::Mutex;
use std::sync::PoisonError;

use super::classes::{ClassWriter, Classes};
use super::content::{Contents, Field, KEY_HASH, KeyHash};
use super::equal::EqualKeys;
use super::row_set::RowSet;
use super::rows::IndexRows;
use crate::error::Result;
use crate::external_sort::Sorter;
use crate::progress::Progress;
use crate::source_roots::Roots;
use crate::stored_images::StoredImages;

/// Within which bounds the work is done.
#[derive(Clone, Copy)]
pub struct Bounds<'a> {
    /// Where scratch files go.
    pub scratch: &'a Path,
    /// Bytes of memory.
    pub memory: u64,
    /// Threads.
    pub threads: usize,
    /// Progress, and whether to stop.
    pub progress: &'a Progress,
}

/// How equality is told.
#[derive(Clone, Copy)]
pub struct Equality<'a> {
    /// What brings contents together.
    pub hash: KeyHash,
    /// Where the images lie, if a hit is to be confirmed by their bytes.
    pub images: Option<&'a Roots>,
}

impl Default for Equality<'_> {
    fn default() -> Self {
        Self { hash: KEY_HASH, images: None }
    }
}

/// Classes of rows that are equal in `field`. Rows are brought together by 128 bits; where they have words, a hit is confirmed by
/// a second hash of the words themselves, and images by their hash and size, or by a second hash of their bytes, read again.
///
/// # Errors
/// Those of reading the index and of the scratch disk.
pub fn classes(index: &IndexRows, field: Field, equality: Equality<'_>, bounds: Bounds<'_>) -> Result<Classes> {
    let Bounds { scratch, memory, threads, progress } = bounds;
    let keys = EqualKeys::new(scratch, u64::from(index.rows), memory / 2, threads);
    progress.restart();
    progress.expect(u64::from(index.rows), 0);
    index.each(
        field.columns(),
        None,
        threads,
        progress,
        || (keys.writer(), Vec::new()),
        |(writer, content), batch| {
            let contents = Contents::of(field, &batch.columns)?;
            for (at, row) in batch.rows.iter().enumerate() {
                if contents.write(at, content)? {
                    writer.push(&(equality.hash)(content), *row)?;
                }
            }
            Ok(())
        },
        |(writer, _)| writer.finish(),
    )?;
    let classes = classes_of(keys, index.rows, bounds)?;
    let is_sure = field == Field::Image && equality.images.is_none() && std::ptr::fn_addr_eq(equality.hash, KEY_HASH);
    if is_sure { Ok(classes) } else { confirm(index, field, &classes, equality.images, bounds) }
}

/// Classes of rows whose keys are equal.
///
/// # Errors
/// Those of the scratch disk, and cancellation.
pub fn classes_of(keys: EqualKeys, rows: u32, bounds: Bounds<'_>) -> Result<Classes> {
    let Bounds { scratch, memory, threads, progress } = bounds;
    let classes = Classes::new(scratch, rows, memory / 4, threads);
    keys.finish(threads, progress, || classes.writer(), ClassWriter::push, ClassWriter::finish)?;
    Ok(classes)
}

/// Divides classes whose rows have the same key by what these hold.
fn confirm(
    index: &IndexRows,
    field: Field,
    classes: &Classes,
    roots: Option<&Roots>,
    bounds: Bounds<'_>,
) -> Result<Classes> {
    let Bounds { scratch, memory, threads, progress } = bounds;
    let rows = RowSet::new(u64::from(index.rows));
    classes.visit(|_, row| {
        rows.insert(row);
        Ok(())
    })?;
    let ranks = rows.ranks();
    let mut class_of = vec![0_u32; rows.count() as usize];
    classes.visit(|class, row| {
        class_of[ranks.before(row) as usize] = class;
        Ok(())
    })?;
    let sorter = Mutex::new(Sorter::new(scratch, memory / 4));
    progress.restart();
    progress.expect(u64::from(index.rows), 0);
    let flush = |found: &mut Vec<(u32, Vec<u8>, u32)>| {
        let mut sorter = sorter.lock().unwrap_or_else(PoisonError::into_inner);
        found
            .drain(..)
            .try_for_each(|(class, content, row)| sorter.push(&[&class.to_be_bytes(), &content, &row.to_be_bytes()], 0))
    };
    index.each(
        field.columns_in_full(),
        Some(&rows),
        threads,
        progress,
        Vec::new,
        |found, batch| {
            let contents = Contents::in_full(field, &batch.columns)?;
            let unit = &index.parts[batch.part].unit;
            let stored = roots.map(|roots| StoredImages::of(roots, unit)).transpose()?;
            for (at, row) in batch.rows.iter().enumerate() {
                progress.check()?;
                let mut content = Vec::new();
                contents.write(at, &mut content)?;
                if let Some(stored) = &stored {
                    contents.write_bytes(at, stored, &mut content)?;
                }
                found.push((class_of[ranks.before(*row) as usize], content, *row));
            }
            flush(found)
        },
        |mut found| flush(&mut found),
    )?;
    let confirmed = Classes::new(scratch, index.rows, memory / 4, threads);
    let mut writer = confirmed.writer();
    let mut merge = sorter.into_inner().unwrap_or_else(PoisonError::into_inner).finish()?;
    // What is equal comes together, its smallest row first.
    let (mut content, mut first, mut alone): (Vec<u8>, u32, bool) = (Vec::new(), 0, true);
    while let Some((record, _)) = merge.next()? {
        let (front, row) = record.split_at(record.len().saturating_sub(4));
        let row = row.try_into().map_or(0, u32::from_be_bytes);
        if front != content {
            content.clear();
            content.extend_from_slice(front);
            (first, alone) = (row, true);
            continue;
        }
        if std::mem::replace(&mut alone, false) {
            writer.push(first, first)?;
        }
        writer.push(first, row)?;
        progress.check()?;
    }
    writer.finish()?;
    Ok(confirmed)
}

#[cfg(test)]
mod tests;
