//! Which place each selected sample goes to.

use vlmsel_core::random::random_key;

/// The place of every selected sample: its rank by id, or by the hash of (seed, id).
#[derive(Debug)]
pub(super) struct Placement {
    uids: Vec<u128>,
    /// Place of `uids[i]`; empty where that is `i`.
    places: Vec<u64>,
    samples_per_shard: u64,
}

impl Placement {
    pub fn new(uids: Vec<u128>, shuffle: Option<u64>, samples_per_shard: u64) -> Self {
        let mut places = Vec::new();
        if let Some(seed) = shuffle {
            let mut by_key: Vec<u64> = (0..uids.len() as u64).collect();
            // Repeats of one id part, each going by the hash of id and ordinal.
            let key = |i: u64| {
                let uid = uids[i as usize];
                let copy = i - uids.partition_point(|&other| other < uid) as u64;
                let bytes = uid.to_be_bytes();
                let random = if copy == 0 {
                    random_key(seed, &bytes)
                } else {
                    random_key(seed, &[&bytes[..], &copy.to_le_bytes()].concat())
                };
                (random, i)
            };
            by_key.sort_by_cached_key(|&i| key(i));
            places = vec![0; uids.len()];
            for (place, i) in by_key.into_iter().enumerate() {
                places[i as usize] = place as u64;
            }
        }
        Self { uids, places, samples_per_shard }
    }

    pub fn len(&self) -> u64 {
        self.uids.len() as u64
    }

    pub fn shards(&self) -> u64 {
        self.len().div_ceil(self.samples_per_shard)
    }

    pub fn shard_of(&self, place: u64) -> u64 {
        place / self.samples_per_shard
    }

    /// The places that are in a shard.
    pub fn places(&self, shard: u64) -> std::ops::Range<u64> {
        let first = shard * self.samples_per_shard;
        first..first.saturating_add(self.samples_per_shard).min(self.len())
    }

    /// The indices of an id; empty if it is not selected.
    pub fn find(&self, uid: u128) -> std::ops::Range<usize> {
        let first = self.uids.partition_point(|&other| other < uid);
        // Not counted one by one: an id may be selected a million times and stand in as many rows of the index.
        first..first + self.uids[first..].partition_point(|&other| other == uid)
    }

    pub fn contains(&self, uid: u128) -> bool {
        self.uids.binary_search(&uid).is_ok()
    }

    pub fn place(&self, index: usize) -> u64 {
        self.places.get(index).copied().unwrap_or(index as u64)
    }

    /// Ids found in the index, in order, with repeats.
    pub fn present<'a>(&'a self, is_found: &'a [bool]) -> impl Iterator<Item = u128> + 'a {
        self.uids.iter().zip(is_found).filter(|(_, found)| **found).map(|(uid, _)| *uid)
    }

    /// Ids that the index does not have.
    pub fn missing<'a>(&'a self, is_found: &'a [bool]) -> impl Iterator<Item = u128> + 'a {
        self.uids.iter().zip(is_found).filter(|(_, found)| !**found).map(|(uid, _)| *uid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_has_one_place() {
        let uids = vec![1, 5, 5, 5, 9];
        for shuffle in [None, Some(0), Some(7)] {
            let order = Placement::new(uids.clone(), shuffle, 2);
            let mut places: Vec<u64> = (0..5).map(|i| order.place(i)).collect();
            places.sort_unstable();
            assert_eq!(places, [0, 1, 2, 3, 4]);
            assert_eq!((order.find(5), order.find(2), order.shards()), (1..4, 1..1, 3));
        }
        let same = Placement::new([vec![3; 1_000_000], vec![9]].concat(), None, 2);
        assert!((0..1_000_000).all(|_| same.find(3) == (0..1_000_000)));
        let many: Vec<u128> = (0..100).collect();
        let places = |seed| (0..100).map(|i| Placement::new(many.clone(), Some(seed), 9).place(i)).collect::<Vec<_>>();
        assert_ne!(places(1), places(2));
    }
}
