//! The Hamming join in threads: all pairs of distinct codes within a radius.

use std::sync::{Mutex, PoisonError};

use vlmsel_core::hamming::{HammingJoin, Pair};

use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::run_options::RunOptions;

/// Bytes of memory for each code: itself, and the room in which codes are divided.
pub const BYTES_A_CODE: u64 = 16;

type Bucket<'a> = Mutex<Option<(&'a mut [u64], &'a mut [u64])>>;

/// Calls `found` from any thread with pairs of `codes`, which are distinct; each pair once, in no order.
///
/// # Errors
/// Those of `found`, and cancellation.
pub fn code_pairs(
    mut codes: Vec<u64>,
    radius: u32,
    threads: usize,
    progress: &Progress,
    found: impl Fn(&[Pair]) -> Result<()> + Sync,
) -> Result<()> {
    let join = HammingJoin::new(radius, codes.len() as u64);
    for code in &mut codes {
        *code = join.prepare(*code);
    }
    let mut room = vec![0; codes.len()];
    progress.restart();
    progress.expect(codes.len() as u64 * join.first_blocks().len() as u64, 0);
    for block in join.first_blocks() {
        progress.check()?;
        let ends = join.divide(block, &codes, &mut room);
        {
            let buckets = buckets_of(&mut room, &mut codes, &ends);
            RunOptions::each(threads, &buckets, |_, bucket| {
                let taken = bucket.lock().unwrap_or_else(PoisonError::into_inner).take();
                let (codes, room) = taken.ok_or_else(|| Error::Bug("a bucket was taken twice".to_owned()))?;
                let count = codes.len() as u64;
                join.pairs_of(HammingJoin::group_of(block), codes, room, &mut |pairs| {
                    progress.check()?;
                    if pairs.is_empty() {
                        return Ok(());
                    }
                    let restored: Vec<Pair> = pairs
                        .iter()
                        .map(|pair| {
                            let (a, b) = (join.restore(pair.a), join.restore(pair.b));
                            Pair { a: a.min(b), b: a.max(b), distance: pair.distance }
                        })
                        .collect();
                    found(&restored)
                })?;
                Ok(progress.add(count, 0)?)
            })?;
        }
        // The buckets hold all codes; what they were divided from was written over.
        std::mem::swap(&mut codes, &mut room);
    }
    Ok(())
}

fn buckets_of<'a>(mut codes: &'a mut [u64], mut room: &'a mut [u64], ends: &[usize]) -> Vec<Bucket<'a>> {
    let (mut buckets, mut start) = (Vec::new(), 0);
    for end in ends {
        let (bucket, rest) = std::mem::take(&mut codes).split_at_mut(end - start);
        let (bucket_room, rest_room) = std::mem::take(&mut room).split_at_mut(end - start);
        (codes, room, start) = (rest, rest_room, *end);
        if bucket.len() > 1 {
            buckets.push(Mutex::new(Some((bucket, bucket_room))));
        }
    }
    buckets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_find_what_one_finds() {
        let mut state = 7_u64;
        let mut codes: Vec<u64> = (0..4000)
            .map(|n| {
                state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                // Half of them near one of a few centres.
                if n % 2 == 0 {
                    state
                } else {
                    (n % 7 * 0x0123_4567_89ab_cdef) ^ (1 << (state >> 58)) ^ (1 << (state >> 50 & 63))
                }
            })
            .collect();
        codes.sort_unstable();
        codes.dedup();
        let mut expected = Vec::new();
        for (at, a) in codes.iter().enumerate() {
            let near = codes[at + 1..].iter().map(|b| Pair { a: *a, b: *b, distance: (a ^ b).count_ones() });
            expected.extend(near.filter(|pair| pair.distance <= 6));
        }
        expected.sort_unstable();
        for threads in [1, 2, 8] {
            let pairs = Mutex::new(Vec::new());
            let take = |found: &[Pair]| {
                pairs.lock().unwrap().extend_from_slice(found);
                Ok(())
            };
            code_pairs(codes.clone(), 6, threads, &Progress::default(), take).unwrap();
            let mut pairs = pairs.into_inner().unwrap();
            pairs.sort_unstable();
            assert_eq!(pairs, expected);
        }
    }
}
