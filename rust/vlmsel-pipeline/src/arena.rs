//! Byte strings in one piece of memory, sorted where they lie.

use std::cmp::Ordering;

use crate::threads::in_pool;

#[derive(Debug, Clone, Copy)]
struct Entry {
    /// First eight bytes, so that most comparisons touch no other memory.
    prefix: u64,
    start: u64,
    length: u32,
    tag: u32,
}

/// What all records of an arena have in common, so that nothing needs to be said of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shape {
    length: u32,
    tag: u32,
}

impl Shape {
    /// Bytes from one record to the next, if records of this length are worth moving as a whole.
    fn stride(self) -> Option<usize> {
        STRIDES.into_iter().find(|stride| self.length as usize <= *stride)
    }
}

/// Bytes of a slot: a key and an integer, a key and 16 bytes, a key and 32 hexadecimal digits.
const STRIDES: [usize; 3] = [24, 32, 48];

/// Byte strings in one buffer, each with a number of the caller's.
///
/// Short records of one length and tag, which most selections have, lie in slots and are sorted where they are; whoever
/// walks over them afterwards reads the memory in order. As soon as one differs, all get entries that say where they lie.
#[derive(Debug, Default)]
pub struct Arena {
    bytes: Vec<u8>,
    /// Empty while there is a `shape`.
    entries: Vec<Entry>,
    /// Of records in slots.
    shape: Option<(Shape, usize)>,
}

impl Arena {
    /// Adds a record made of parts.
    pub fn push(&mut self, parts: &[&[u8]], tag: u32) {
        let length = parts.iter().map(|part| part.len()).sum::<usize>() as u32;
        let stride = self.room_for(Shape { length, tag });
        let start = self.bytes.len();
        for part in parts {
            self.bytes.extend_from_slice(part);
        }
        match stride {
            Some(stride) => self.bytes.resize(start + stride, 0),
            None => self.entries.push(entry(&self.bytes, start, length, tag)),
        }
    }

    /// The stride of the slots if a record of this shape goes into one.
    fn room_for(&mut self, shape: Shape) -> Option<usize> {
        if self.is_empty() {
            self.shape = shape.stride().map(|stride| (shape, stride));
        }
        match self.shape {
            Some((own, stride)) if own == shape => Some(stride),
            Some(_) => {
                self.loosen();
                None
            }
            None => None,
        }
    }

    /// Gives every record an entry.
    fn loosen(&mut self) {
        let Some((Shape { length, tag }, stride)) = self.shape.take() else { return };
        let starts = (0..self.bytes.len()).step_by(stride);
        self.entries = starts.map(|start| entry(&self.bytes, start, length, tag)).collect();
    }

    /// Takes over the records of another arena.
    pub fn append(&mut self, other: &mut Self) {
        if self.is_empty() {
            self.shape = other.shape;
        } else if !other.is_empty() && self.shape != other.shape {
            self.loosen();
            other.loosen();
        }
        let base = self.bytes.len() as u64;
        self.bytes.append(&mut other.bytes);
        self.entries.extend(other.entries.drain(..).map(|entry| Entry { start: entry.start + base, ..entry }));
    }

    /// Number of records.
    pub fn len(&self) -> usize {
        self.shape.map_or(self.entries.len(), |(_, stride)| self.bytes.len() / stride)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.entries.is_empty()
    }

    /// Memory in use.
    pub fn memory_bytes(&self) -> u64 {
        (self.bytes.len() + self.entries.len() * size_of::<Entry>()) as u64
    }

    /// The record at a place, and its tag.
    #[inline]
    pub fn get(&self, at: usize) -> (&[u8], u32) {
        if let Some((shape, stride)) = self.shape {
            return (&self.bytes[at * stride..][..shape.length as usize], shape.tag);
        }
        let entry = self.entries[at];
        (self.slice(entry), entry.tag)
    }

    fn slice(&self, entry: Entry) -> &[u8] {
        &self.bytes[entry.start as usize..][..entry.length as usize]
    }

    /// Sorts by the records' bytes.
    pub fn sort(&mut self) {
        match self.shape {
            Some((_, 24)) => sort_by(self.bytes.as_chunks_mut::<24>().0, compare_slots),
            Some((_, 32)) => sort_by(self.bytes.as_chunks_mut::<32>().0, compare_slots),
            Some(_) => sort_by(self.bytes.as_chunks_mut::<48>().0, compare_slots),
            None => {
                let mut entries = std::mem::take(&mut self.entries);
                sort_by(&mut entries, |a, b| {
                    a.prefix.cmp(&b.prefix).then_with(|| self.slice(*a).cmp(self.slice(*b))).then(a.tag.cmp(&b.tag))
                });
                self.entries = entries;
            }
        }
    }

    /// Forgets all but the first `keep` records and gives their memory back.
    pub fn truncate(&mut self, keep: usize) {
        if let Some((_, stride)) = self.shape {
            self.bytes.truncate(keep * stride);
            self.bytes.shrink_to_fit();
            return;
        }
        self.entries.truncate(keep);
        self.gather();
    }

    /// Forgets the marked records and gives their memory back; the others stay in their order.
    pub fn remove(&mut self, marked: &[bool]) {
        let Some((_, stride)) = self.shape else {
            let mut marks = marked.iter();
            self.entries.retain(|_| marks.next() == Some(&false));
            self.gather();
            return;
        };
        let mut end = 0;
        for at in (0..self.len()).filter(|at| !marked[*at]) {
            self.bytes.copy_within(at * stride..(at + 1) * stride, end);
            end += stride;
        }
        self.bytes.truncate(end);
        self.bytes.shrink_to_fit();
    }

    /// Makes the bytes those of the entries alone, in their order.
    fn gather(&mut self) {
        let needed: usize = self.entries.iter().map(|entry| entry.length as usize).sum();
        let mut bytes = Vec::with_capacity(needed);
        for entry in &mut self.entries {
            let start = bytes.len() as u64;
            bytes.extend_from_slice(&self.bytes[entry.start as usize..][..entry.length as usize]);
            entry.start = start;
        }
        self.bytes = bytes;
    }

    /// Forgets everything and gives the memory back.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

fn entry(bytes: &[u8], start: usize, length: u32, tag: u32) -> Entry {
    let record = &bytes[start..start + length as usize];
    let mut head = [0; 8];
    let known = record.len().min(8);
    head[..known].copy_from_slice(&record[..known]);
    Entry { prefix: u64::from_be_bytes(head), start: start as u64, length, tag }
}

/// By bytes; the first eight are compared as one number. What fills a slot up is the same in all.
fn compare_slots<const N: usize>(a: &[u8; N], b: &[u8; N]) -> Ordering {
    let head = |slot: &[u8; N]| slot.first_chunk::<8>().map(|head| u64::from_be_bytes(*head));
    head(a).cmp(&head(b)).then_with(|| a.cmp(b))
}

fn sort_by<T: Send>(records: &mut [T], compare: impl Fn(&T, &T) -> Ordering + Send + Sync) {
    use rayon::slice::ParallelSliceMut;
    if records.len() > 1 << 15 {
        in_pool(
            |parallel| {
                if parallel { records.par_sort_unstable_by(compare) } else { records.sort_unstable_by(compare) }
            },
        );
    } else {
        records.sort_unstable_by(compare);
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Records of one shape, which lie in slots, of a few shapes, and of any.
    pub fn records() -> impl Strategy<Value = Vec<(Vec<u8>, u32)>> {
        let of_length = |length: usize| prop::collection::vec(0_u8..4, length);
        let alike = (0_usize..60, any::<u32>())
            .prop_flat_map(move |(length, tag)| prop::collection::vec((of_length(length), Just(tag)), 0..400));
        let mixed = prop::collection::vec(
            (prop_oneof![20 => of_length(17), 1 => of_length(25)], prop_oneof![20 => Just(9_u32), 1 => Just(8)]),
            0..400,
        );
        let any = prop::collection::vec((prop::collection::vec(any::<u8>(), 0..60), any::<u32>()), 0..400);
        prop_oneof![alike, mixed, any]
    }

    proptest! {
        #[test]
        fn arenas_hold_what_was_put_together(parts in prop::collection::vec(records(), 0..4), keep in 0_usize..500) {
            let mut whole = Arena::default();
            for records in &parts {
                let mut part = Arena::default();
                for (record, tag) in records {
                    let (front, back) = record.split_at(record.len() / 2);
                    part.push(&[front, back], *tag);
                }
                whole.append(&mut part);
                prop_assert_eq!(part.len(), 0);
                // What was emptied is used again, for records of another shape.
                part.push(&[b"x"], 1);
                prop_assert_eq!(part.get(0), (b"x".as_slice(), 1));
            }
            let held = |arena: &Arena| (0..arena.len()).map(|at| arena.get(at)).map(|(record, tag)| (record.to_vec(), tag)).collect::<Vec<_>>();
            let mut expected = parts.concat();
            prop_assert_eq!(&held(&whole), &expected);
            whole.sort();
            expected.sort();
            prop_assert_eq!(&held(&whole), &expected);
            // Any marks, one of three or so.
            let marked: Vec<bool> = expected.iter().enumerate().map(|(at, record)| (at + record.0.len()) % 3 == keep % 3).collect();
            whole.remove(&marked);
            let mut marks = marked.iter();
            expected.retain(|_| marks.next() == Some(&false));
            prop_assert_eq!(&held(&whole), &expected);
            whole.truncate(keep);
            expected.truncate(keep);
            prop_assert_eq!(&held(&whole), &expected);
        }
    }
}
