//! How fast scores become keys and keys are counted: `cargo bench -p vlmsel-core`.

#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use vlmsel_core::histogram::DigitCounts;
use vlmsel_core::score_key::{from_f32, from_f64};

const SCORES: u64 = 1 << 20;

/// Scores spread like perplexities, from a small generator of our own so that every run measures the same.
fn scores() -> Vec<f64> {
    let mut state = 1_u64;
    (0..SCORES)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f64 / 1e4
        })
        .collect()
}

fn keys(criterion: &mut Criterion) {
    let wide = scores();
    let narrow: Vec<f32> = wide.iter().map(|score| *score as f32).collect();
    let keys: Vec<u64> = wide.iter().map(|score| from_f64(*score)).collect();
    let mut group = criterion.benchmark_group("keys");
    group.throughput(Throughput::Elements(SCORES));
    group.bench_function("from_f32", |b| b.iter(|| narrow.iter().fold(0, |sum, s| sum ^ from_f32(black_box(*s)))));
    group.bench_function("from_f64", |b| b.iter(|| wide.iter().fold(0, |sum, s| sum ^ from_f64(black_box(*s)))));
    group.bench_function("count digits", |b| {
        b.iter(|| {
            let mut counts = DigitCounts::highest();
            for key in &keys {
                counts.add(*key);
            }
            counts
        });
    });
    group.finish();
}

criterion_group!(benches, keys);
criterion_main!(benches);
