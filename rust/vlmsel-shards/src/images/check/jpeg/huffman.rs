//! A Huffman table of a JPEG, for decoding.

/// Codes up to this length are looked up at once.
const FAST_BITS: u32 = 9;

pub(super) struct Table {
    /// For every beginning of 9 bits the code's length and symbol; length 0 where the code is longer or none.
    fast: [(u8, u8); 1 << FAST_BITS],
    /// For each length, the first 16-bit value that is beyond its codes.
    ends: [u32; 17],
    /// For each length, its first code and that one's place in `values`.
    firsts: [(u32, usize); 17],
    values: Vec<u8>,
}

impl Table {
    /// `counts[i]` codes have `i + 1` bits; `None` if there are more than fit.
    pub fn new(counts: &[u8; 16], values: &[u8]) -> Option<Self> {
        let mut table =
            Self { fast: [(0, 0); 1 << FAST_BITS], ends: [0; 17], firsts: [(0, 0); 17], values: values.to_vec() };
        let (mut code, mut place) = (0_u32, 0_usize);
        for length in 1..=16_u32 {
            let count = usize::from(counts[length as usize - 1]);
            table.firsts[length as usize] = (code, place);
            for &value in values.get(place..place + count)? {
                if code >= 1 << length {
                    return None;
                }
                if length <= FAST_BITS {
                    let shift = FAST_BITS - length;
                    let first = (code << shift) as usize;
                    table.fast[first..first + (1 << shift)].fill((length as u8, value));
                }
                code += 1;
            }
            place += count;
            table.ends[length as usize] = code << (16 - length);
            code <<= 1;
        }
        Some(table)
    }

    /// Whether all symbols are numbers of bits that a mean may have: decoders refuse the whole table otherwise.
    pub fn is_of_means(&self) -> bool {
        self.values.iter().all(|&value| value <= 15)
    }

    /// Length and symbol of the code that the 16 bits begin with.
    #[inline]
    pub fn decode(&self, bits: u32) -> Option<(u32, u8)> {
        let (length, value) = self.fast[(bits >> (16 - FAST_BITS)) as usize];
        if length > 0 {
            return Some((u32::from(length), value));
        }
        self.decode_long(bits)
    }

    fn decode_long(&self, bits: u32) -> Option<(u32, u8)> {
        let length = (FAST_BITS as usize + 1..=16).find(|&length| bits < self.ends[length])?;
        let (first, place) = self.firsts[length];
        let beyond = (bits >> (16 - length)).checked_sub(first)? as usize;
        Some((length as u32, *self.values.get(place + beyond)?))
    }
}
