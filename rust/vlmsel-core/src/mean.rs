//! The mean of equally long chunks of stored floats, rounded once.
//!
//! Summands are widened, weighted, added in the order given and divided once; what comes out is rounded to nearest, ties
//! to even. 16-bit types are summed in f32, f32 in f64. Chunks are bytes as files hold them, little-endian, at any address.
//! A block of sums stays in the first-level cache while all chunks are added to it, by loops that the compiler turns into
//! vector instructions.

#[cfg(target_arch = "x86_64")]
mod f16c;
mod stored;

use stored::{Bf16, F16, F32, StoredFloat, Wide};

/// Sums that are kept at once.
const BLOCK: usize = 1024;

/// The stored types that are averaged here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// Upper half of an f32.
    Bf16,
    /// IEEE binary16.
    F16,
    /// IEEE binary32.
    F32,
}

impl Dtype {
    /// Reads the name that safetensors gives the type.
    pub fn parse(name: &str) -> Result<Self, BlendError> {
        match name {
            "BF16" => Ok(Self::Bf16),
            "F16" => Ok(Self::F16),
            "F32" => Ok(Self::F32),
            _ => Err(BlendError::Dtype { name: name.to_owned() }),
        }
    }

    const fn size_bytes(self) -> usize {
        match self {
            Self::Bf16 | Self::F16 => 2,
            Self::F32 => 4,
        }
    }
}

/// Chunks that have no mean.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlendError {
    /// Another type.
    #[error("dtype {name:?} is not averaged; BF16, F16 and F32 are")]
    Dtype {
        /// What was given.
        name: String,
    },
    /// An empty list.
    #[error("a mean needs at least one chunk, none was given")]
    NoChunks,
    /// Too few or too many weights.
    #[error("{weights} weights for {chunks} chunks; give one for each chunk")]
    Weights {
        /// How many weights.
        weights: usize,
        /// How many chunks.
        chunks: usize,
    },
    /// Not as long as the output.
    #[error("chunk {index} has {found} bytes where the output has {expected}; all must be equally long")]
    Length {
        /// Which chunk, from 0.
        index: usize,
        /// Its bytes.
        found: usize,
        /// The output's bytes.
        expected: usize,
    },
    /// A part of a value at the end.
    #[error("{bytes} bytes are not a whole number of {dtype:?} values")]
    Ragged {
        /// Bytes of each chunk.
        bytes: usize,
        /// The type that does not fit in.
        dtype: Dtype,
    },
}

/// Writes the weighted mean of `chunks` to `out`: the sum of values times weights over the sum of weights, both in the
/// order given. Equal weights are ones.
///
/// Returns whether every mean was finite before it was rounded. If not, a chunk holds NaN or infinity or a sum has left
/// the wider type's range, and `out` means nothing.
pub fn mean(dtype: Dtype, chunks: &[&[u8]], weights: &[f64], out: &mut [u8]) -> Result<bool, BlendError> {
    if chunks.is_empty() {
        return Err(BlendError::NoChunks);
    }
    if weights.len() != chunks.len() {
        return Err(BlendError::Weights { weights: weights.len(), chunks: chunks.len() });
    }
    if let Some((index, chunk)) = chunks.iter().enumerate().find(|(_, chunk)| chunk.len() != out.len()) {
        return Err(BlendError::Length { index, found: chunk.len(), expected: out.len() });
    }
    if !out.len().is_multiple_of(dtype.size_bytes()) {
        return Err(BlendError::Ragged { bytes: out.len(), dtype });
    }
    Ok(match dtype {
        Dtype::Bf16 => mean_of::<Bf16, 2>(chunks, weights, out),
        Dtype::F16 => mean_of::<F16, 2>(chunks, weights, out),
        Dtype::F32 => mean_of::<F32, 4>(chunks, weights, out),
    })
}

fn mean_of<S: StoredFloat<N>, const N: usize>(chunks: &[&[u8]], weights: &[f64], out: &mut [u8]) -> bool {
    let summands: Vec<(&[[u8; N]], S::Wide)> =
        chunks.iter().zip(weights).map(|(chunk, weight)| (chunk.as_chunks().0, S::Wide::from_f64(*weight))).collect();
    let divisor = S::Wide::from_f64(weights.iter().sum());
    let out = out.as_chunks_mut().0;
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2")]
        fn blend_avx2<S: StoredFloat<N>, const N: usize>(
            summands: &[(&[[u8; N]], S::Wide)],
            divisor: S::Wide,
            out: &mut [[u8; N]],
        ) -> bool {
            blend::<S, N>(summands, divisor, out)
        }
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: this machine has the feature.
            return unsafe { blend_avx2::<S, N>(&summands, divisor, out) };
        }
    }
    blend::<S, N>(&summands, divisor, out)
}

/// The same for any machine; inlined into both.
#[inline(always)]
#[allow(clippy::inline_always, reason = "compiled once for each instruction set")]
fn blend<S: StoredFloat<N>, const N: usize>(
    summands: &[(&[[u8; N]], S::Wide)],
    divisor: S::Wide,
    out: &mut [[u8; N]],
) -> bool {
    let mut sums = [S::Wide::NOTHING; BLOCK];
    let mut finite = true;
    for (number, out) in out.chunks_mut(BLOCK).enumerate() {
        let sums = &mut sums[..out.len()];
        sums.fill(S::Wide::NOTHING);
        let start = number * BLOCK;
        for (values, weight) in summands {
            S::add(sums, &values[start..start + out.len()], *weight);
        }
        finite &= S::round(sums, divisor, out);
    }
    finite
}

#[cfg(test)]
mod tests;
