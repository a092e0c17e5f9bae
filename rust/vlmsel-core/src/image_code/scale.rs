//! Resizing grey pictures as Pillow does it with its filter LANCZOS: to the same bytes.
//!
//! Two passes, across and then down, each with coefficients of 22 binary places, rounded and clipped to a byte between them.
//! Nobody else's will do: the crate `fast_image_resize` keeps 16 bits of each coefficient, and its pixels differ by one here and
//! there.

use std::collections::HashMap;
use std::f64::consts::PI;
use std::sync::Arc;

/// Binary places of a coefficient.
const PLACES: u32 = 22;
/// Lobes of the filter on either side.
const LOBES: f64 = 3.0;
/// Tables of coefficients are kept up to so many of these: about 4 MiB.
const KEPT_TAPS: usize = 1 << 20;

/// Resizes; keeps the coefficients of sizes that it has seen, because making them takes about as long as using them.
#[derive(Debug, Default)]
pub struct Scaler {
    tables: HashMap<(usize, usize, bool), Arc<Table>>,
    taps: usize,
    /// The picture between the passes, column by column.
    between: Vec<u8>,
}

/// Width and height in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    pub width: usize,
    pub height: usize,
}

/// The coefficients of one pass, for all its outputs.
///
/// They stand in two parts, `high * 2^shift + low`, because products of 16 bits are what processors of any age do eight at a time;
/// and the high parts alone nearly always tell what the sum is rounded to.
#[derive(Debug)]
struct Table {
    outputs: Vec<Output>,
    high: Vec<i16>,
    low: Vec<i16>,
    shift: u32,
    /// Whether mirrored inputs give mirrored outputs.
    is_even_handed: bool,
}

/// Which inputs an output is made of.
#[derive(Debug, Clone, Copy)]
struct Output {
    /// The first of them.
    first: usize,
    /// How many.
    taps: usize,
    /// Where their coefficients begin.
    at: usize,
    /// The most that the low parts may come to.
    slack: i32,
}

/// The coefficients of an output, from the input `first` on.
struct Taps {
    first: usize,
    whole: Vec<i32>,
}

impl Scaler {
    /// A grey picture at another size. With `by_mirror`: what comes of its mirror image (left to right), mirrored back.
    pub(super) fn scale(&mut self, luma: &[u8], from: Size, to: Size, by_mirror: bool) -> Vec<u8> {
        let across = self.table(from.width, to.width, by_mirror);
        let down = self.table(from.height, to.height, false);
        if !is_tall(from, to) {
            return self.passes(luma, from.width, &across, &down);
        }
        // The same with both axes exchanged.
        let turned = transposed(luma, from.width);
        transposed(&self.passes(&turned, from.height, &down, &across), to.height)
    }

    /// Whether the mirror image of a row is scaled to the mirror image of what the row is scaled to, to the byte.
    pub(super) fn is_even_handed(&mut self, width: usize, wide: usize) -> bool {
        self.table(width, wide, false).is_even_handed
    }

    /// Both passes; what comes out is in rows again.
    fn passes(&mut self, luma: &[u8], width: usize, across: &Table, down: &Table) -> Vec<u8> {
        let (wide, height) = (across.outputs.len(), luma.len() / width);
        self.between.resize(wide * height, 0);
        for (y, row) in luma.chunks_exact(width).enumerate() {
            for (x, output) in across.outputs.iter().enumerate() {
                self.between[x * height + y] = across.pixel(output, row);
            }
        }
        let mut small = vec![0; wide * down.outputs.len()];
        for (x, column) in self.between.chunks_exact(height).enumerate() {
            for (y, output) in down.outputs.iter().enumerate() {
                small[y * wide + x] = down.pixel(output, column);
            }
        }
        small
    }

    fn table(&mut self, inputs: usize, outputs: usize, by_mirror: bool) -> Arc<Table> {
        if let Some(table) = self.tables.get(&(inputs, outputs, by_mirror)) {
            return table.clone();
        }
        let mut taps = taps_of(inputs, outputs);
        let mirror = mirrored(&taps, inputs);
        let is_even_handed = taps.iter().zip(&mirror).all(|(one, other)| one.used() == other.used());
        if by_mirror {
            taps = mirror;
        }
        let table = Arc::new(Table::new(&taps, inputs, is_even_handed));
        self.taps += table.high.len();
        if self.taps > KEPT_TAPS {
            self.tables.clear();
            self.taps = table.high.len();
        }
        self.tables.insert((inputs, outputs, by_mirror), table.clone());
        table
    }
}

/// Whether Pillow, since its version 13, scales down before it scales across: where the height loses more than twice what the width
/// does. Versions before always began across; of tall pictures their pixels differ by one here and there.
fn is_tall(from: Size, to: Size) -> bool {
    from.height > to.height && from.height + 2 * to.width > to.height + 2 * from.width
}

/// Columns as rows.
fn transposed(plane: &[u8], width: usize) -> Vec<u8> {
    let height = plane.len() / width;
    let mut turned = vec![0; plane.len()];
    // In strips, so that the lines of the cache that are written to stay there.
    for strip in (0..width).step_by(64) {
        for (y, row) in plane.chunks_exact(width).enumerate() {
            for (x, pixel) in row.iter().enumerate().skip(strip).take(64) {
                turned[x * height + y] = *pixel;
            }
        }
    }
    turned
}

/// The filter: `sinc(x) * sinc(x / 3)` within three lobes.
fn lanczos(x: f64) -> f64 {
    let sinc = |x: f64| if x == 0.0 { 1.0 } else { (PI * x).sin() / (PI * x) };
    if (-LOBES..LOBES).contains(&x) { sinc(x) * sinc(x / LOBES) } else { 0.0 }
}

/// The filter's coefficients for each output.
fn taps_of(inputs: usize, outputs: usize) -> Vec<Taps> {
    let scale = inputs as f64 / outputs as f64;
    let stretch = scale.max(1.0);
    let (support, narrow) = (LOBES * stretch, 1.0 / stretch);
    let of_output = |output: usize| {
        let centre = (output as f64 + 0.5) * scale;
        // Both are rounded to the nearest; what would be below zero is cut off.
        let first = (centre - support + 0.5).max(0.0) as usize;
        let end = ((centre + support + 0.5) as usize).min(inputs);
        let weights: Vec<f64> = (first..end).map(|input| lanczos((input as f64 - centre + 0.5) * narrow)).collect();
        let sum: f64 = weights.iter().sum();
        // Away from zero at a half.
        let whole = |weight: &f64| (weight / sum * f64::from(1 << PLACES)).round() as i32;
        Taps { first, whole: weights.iter().map(whole).collect() }
    };
    (0..outputs).map(of_output).collect()
}

/// The coefficients for the mirror image, each at the place of the input and the output that it is the mirror of.
fn mirrored(taps: &[Taps], inputs: usize) -> Vec<Taps> {
    let of_output = |taps: &Taps| {
        let whole: Vec<i32> = taps.whole.iter().rev().copied().collect();
        Taps { first: inputs - taps.first - whole.len(), whole }
    };
    taps.iter().rev().map(of_output).collect()
}

impl Taps {
    /// Without zeros at the ends.
    fn used(&self) -> (usize, &[i32]) {
        let is_used = |tap: &i32| *tap != 0;
        let first = self.whole.iter().position(is_used).unwrap_or(0);
        let end = self.whole.iter().rposition(is_used).map_or(first, |last| last + 1);
        (self.first + first, &self.whole[first..end])
    }
}

impl Table {
    fn new(all: &[Taps], inputs: usize, is_even_handed: bool) -> Self {
        let largest = all.iter().flat_map(|taps| &taps.whole).map(|tap| tap.unsigned_abs()).max().unwrap_or(0);
        let shift = (u32::BITS - largest.leading_zeros()).saturating_sub(15);
        let mut table = Self { outputs: Vec::new(), high: Vec::new(), low: Vec::new(), shift, is_even_handed };
        for Taps { first, whole } in all {
            let (at, mut slack) = (table.high.len(), 0);
            // As many as are done at a time, where there are as many inputs.
            let taps = whole.len().next_multiple_of(LANES).min(inputs);
            let moved = (*first).min(inputs - taps);
            let before = first - moved;
            for tap in 0..taps {
                let whole = tap.checked_sub(before).and_then(|tap| whole.get(tap)).copied().unwrap_or(0);
                let low = whole & ((1 << shift) - 1);
                slack += low * 255;
                table.high.push((whole >> shift) as i16);
                table.low.push(low as i16);
            }
            table.outputs.push(Output { first: moved, taps, at, slack });
        }
        table
    }

    /// One output of a pass: the sum of its inputs times their coefficients, rounded and clipped.
    #[inline]
    fn pixel(&self, output: &Output, inputs: &[u8]) -> u8 {
        let &Output { first, taps, at, slack } = output;
        let inputs = &inputs[first..first + taps];
        // At most 255 * 2^22 and a third of that.
        let mut sum = (dot(inputs, &self.high[at..at + taps]) << self.shift) + (1 << (PLACES - 1));
        if sum >> PLACES != (sum + slack) >> PLACES {
            sum += dot(inputs, &self.low[at..at + taps]);
        }
        (sum >> PLACES).clamp(0, 255) as u8
    }
}

/// Products that are done at a time.
const LANES: usize = 32;

#[inline]
fn dot(inputs: &[u8], taps: &[i16]) -> i32 {
    let product = |input: u8, tap: i16| i32::from(input).wrapping_mul(i32::from(tap));
    let (inputs, inputs_left) = inputs.as_chunks::<LANES>();
    let (taps, taps_left) = taps.as_chunks::<LANES>();
    let sum = |inputs: &[u8; LANES], taps: &[i16; LANES]| {
        (0..LANES).fold(0_i32, |sum, lane| sum.wrapping_add(product(inputs[lane], taps[lane])))
    };
    let sums = inputs.iter().zip(taps).map(|(inputs, taps)| sum(inputs, taps));
    let left = inputs_left.iter().zip(taps_left).map(|(input, tap)| product(*input, *tap));
    sums.chain(left).fold(0, i32::wrapping_add)
}
