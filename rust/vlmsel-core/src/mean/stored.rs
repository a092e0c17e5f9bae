//! The stored types: how each is widened, summed and rounded.
//!
//! Conversions choose without branches, so that the compiler makes vectors of them. Those of the crate `half` were tried in their
//! place: a third of the speed for f16, a fourteenth for bf16 (benches/runs, half-kernel.txt); it is the oracle in the tests.

use std::ops::{AddAssign, Div, Mul};

/// A type that sums are kept in.
pub trait Wide: Copy + AddAssign + Mul<Output = Self> + Div<Output = Self> {
    /// What a sum starts from. Minus zero changes nothing that is added to it, zero would take the sign of -0.0.
    const NOTHING: Self;
    /// The nearest value of this type.
    fn from_f64(value: f64) -> Self;
    /// Neither NaN nor infinite.
    fn is_finite(self) -> bool;
}

impl Wide for f32 {
    const NOTHING: Self = -0.0;

    fn from_f64(value: f64) -> Self {
        value as Self
    }

    #[inline]
    fn is_finite(self) -> bool {
        self.is_finite()
    }
}

impl Wide for f64 {
    const NOTHING: Self = -0.0;

    fn from_f64(value: f64) -> Self {
        value
    }

    #[inline]
    fn is_finite(self) -> bool {
        self.is_finite()
    }
}

/// A type stored in `N` little-endian bytes.
pub trait StoredFloat<const N: usize> {
    type Wide: Wide;

    /// The same value; NaN stays NaN.
    fn widen(bytes: [u8; N]) -> Self::Wide;

    /// The nearest stored value, of two the even one. What lies beyond the largest becomes infinite; NaN is not asked for.
    fn narrow(value: Self::Wide) -> [u8; N];

    /// Adds each value times `weight` to its sum.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "compiled once for each instruction set")]
    fn add(sums: &mut [Self::Wide], values: &[[u8; N]], weight: Self::Wide)
    where
        Self: Sized,
    {
        add_each::<Self, N>(sums, values, weight);
    }

    /// Writes each sum over `divisor`; whether all of these were finite.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "compiled once for each instruction set")]
    fn round(sums: &[Self::Wide], divisor: Self::Wide, out: &mut [[u8; N]]) -> bool
    where
        Self: Sized,
    {
        round_each::<Self, N>(sums, divisor, out)
    }
}

#[inline(always)]
#[allow(clippy::inline_always, reason = "compiled once for each instruction set")]
pub fn add_each<S: StoredFloat<N>, const N: usize>(sums: &mut [S::Wide], values: &[[u8; N]], weight: S::Wide) {
    for (sum, bytes) in sums.iter_mut().zip(values) {
        *sum += S::widen(*bytes) * weight;
    }
}

#[inline(always)]
#[allow(clippy::inline_always, reason = "compiled once for each instruction set")]
pub fn round_each<S: StoredFloat<N>, const N: usize>(sums: &[S::Wide], divisor: S::Wide, out: &mut [[u8; N]]) -> bool {
    let mut finite = true;
    for (sum, out) in sums.iter().zip(out) {
        let mean = *sum / divisor;
        finite &= mean.is_finite();
        *out = S::narrow(mean);
    }
    finite
}

/// The upper half of an f32.
pub struct Bf16;

impl StoredFloat<2> for Bf16 {
    type Wide = f32;

    #[inline]
    fn widen(bytes: [u8; 2]) -> f32 {
        f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16)
    }

    #[inline]
    fn narrow(value: f32) -> [u8; 2] {
        ((add_half_to_even(value.to_bits(), 16) >> 16) as u16).to_le_bytes()
    }
}

/// IEEE binary32.
pub struct F32;

impl StoredFloat<4> for F32 {
    type Wide = f64;

    #[inline]
    fn widen(bytes: [u8; 4]) -> f64 {
        f64::from(f32::from_le_bytes(bytes))
    }

    #[inline]
    fn narrow(value: f64) -> [u8; 4] {
        (value as f32).to_le_bytes()
    }
}

/// IEEE binary16.
pub struct F16;

/// Bits of a binary16 fraction that an f32 has more.
const MORE: u32 = 13;
/// What the exponents' biases differ by, where an f32 has its exponent.
const REBIAS: u32 = (127 - 15) << 23;
/// Two to the power that the biases differ by.
const SCALE: f32 = f32::from_bits((127 + 127 - 15) << 23);

impl StoredFloat<2> for F16 {
    type Wide = f32;

    #[inline]
    fn widen(bytes: [u8; 2]) -> f32 {
        let bits = u32::from(u16::from_le_bytes(bytes));
        let magnitude = (bits & 0x7FFF) << MORE;
        // Read as an f32 it is too small by this power of two, whether it is normal or not.
        let value = (f32::from_bits(magnitude) * SCALE).to_bits();
        let special = if magnitude >= 0x7C00 << MORE { 0x7F80_0000 } else { 0 };
        f32::from_bits(value | special | ((bits & 0x8000) << 16))
    }

    #[inline]
    fn narrow(value: f32) -> [u8; 2] {
        let sign = value.to_bits() & 0x8000_0000;
        // From 65,536 on all is infinite; so is what rounds up to it.
        let magnitude = (value.to_bits() ^ sign).min(0x4780_0000);
        let normal = add_half_to_even(magnitude.wrapping_sub(REBIAS), MORE) >> MORE;
        // The last bit of a sum with one half is worth 2^-24, as that of a subnormal: the addition rounds.
        let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0.5_f32.to_bits());
        let rounded = if magnitude < REBIAS + (1 << 23) { subnormal } else { normal };
        ((rounded | (sign >> 16)) as u16).to_le_bytes()
    }

    #[cfg(target_arch = "x86_64")]
    #[inline]
    fn add(sums: &mut [f32], values: &[[u8; 2]], weight: f32) {
        // SAFETY: this machine has the features.
        let done = if super::f16c::is_here() { unsafe { super::f16c::add(sums, values, weight) } } else { 0 };
        add_each::<Self, 2>(&mut sums[done..], &values[done..], weight);
    }

    #[cfg(target_arch = "x86_64")]
    #[inline]
    fn round(sums: &[f32], divisor: f32, out: &mut [[u8; 2]]) -> bool {
        let (done, finite) = if super::f16c::is_here() {
            // SAFETY: this machine has the features.
            unsafe { super::f16c::round(sums, divisor, out) }
        } else {
            (0, true)
        };
        finite & round_each::<Self, 2>(&sums[done..], divisor, &mut out[done..])
    }
}

/// Adds to `bits` what makes dropping the lowest `dropped` of them a rounding to nearest, ties to even.
#[inline]
fn add_half_to_even(bits: u32, dropped: u32) -> u32 {
    let last = (bits >> dropped) & 1;
    bits.wrapping_add((1 << (dropped - 1)) - 1).wrapping_add(last)
}
