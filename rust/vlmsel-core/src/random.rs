//! Random order that does not depend on where a sample lies: the hash of (seed, id).

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Rank of an id in the random order of `seed`; the same for a 128-bit id and its 32 hexadecimal digits if the caller
/// passes the 16 bytes of both.
pub fn random_key(seed: u64, id: &[u8]) -> u64 {
    xxh3_64_with_seed(id, seed)
}

#[cfg(test)]
mod tests {
    use super::random_key;

    #[test]
    fn the_order_is_fixed() {
        // Selections made with a seed must stay what they are.
        assert_eq!(random_key(0, b""), 0x2d06_8005_38d3_94c2);
        assert_ne!(random_key(1, b"a"), random_key(2, b"a"));
    }
}
