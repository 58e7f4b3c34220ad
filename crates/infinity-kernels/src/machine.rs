//! What a machine can do, measured: the peaks that benches hold their figures against.

use burn::tensor::{Device, Distribution, Tensor};
use std::time::Instant;

/// Sizes `(m, k, n)` of the products tried for the peak, all larger than a core's cache lines and
/// smaller than its memory.
const PRODUCTS: [(usize, usize, usize); 4] = [
    (512, 512, 512),
    (1024, 1024, 1024),
    (2048, 256, 1024),
    (1536, 128, 512),
];

/// Repetitions of each measurement; the best counts.
const REPETITIONS: usize = 5;

/// Seconds of one repetition.
const SECONDS: f64 = 0.1;

/// Calls `work` for some time, several times over, and returns the fewest seconds a call took.
fn fastest(mut work: impl FnMut()) -> f64 {
    let mut fastest = f64::INFINITY;
    for _ in 0..REPETITIONS {
        let (start, mut calls) = (Instant::now(), 0);
        while start.elapsed().as_secs_f64() < SECONDS {
            work();
            calls += 1;
        }
        fastest = fastest.min(start.elapsed().as_secs_f64() / f64::from(calls));
    }
    fastest
}

/// The best of several `f32` matrix products on `device`, in FLOP/s (a multiplication and an
/// addition are two).
///
/// # Panics
///
/// If the device fails.
pub fn matmul_flops(device: &Device) -> f64 {
    let rates = PRODUCTS.map(|(m, k, n)| {
        let random =
            |dims: [usize; 2]| Tensor::<2>::random(dims, Distribution::Uniform(-1.0, 1.0), device);
        let (a, b) = (random([m, k]), random([k, n]));
        device.sync().expect("the device works");
        let seconds = fastest(|| {
            let _ = a.clone().matmul(b.clone());
            device.sync().expect("the device works");
        });
        2.0 * (m * k * n) as f64 / seconds
    });
    rates.into_iter().fold(0.0, f64::max)
}

/// Bytes a second that all cores together read from memory: the sum of a buffer far larger than
/// any cache.
#[cfg(feature = "flex")]
pub fn read_bandwidth() -> f64 {
    use crate::math::simd::LANES;
    use rayon::prelude::*;
    const VALUES: usize = 1 << 26;
    const PIECE: usize = 1 << 16;
    let values: Vec<f32> = (0..VALUES).map(|i| (i % 7) as f32).collect();
    let sum = |piece: &[f32]| {
        let mut sums = [[0f32; LANES]; 4];
        for lanes in piece.chunks_exact(4 * LANES) {
            for (sums, lanes) in sums.iter_mut().zip(lanes.chunks_exact(LANES)) {
                sums.iter_mut().zip(lanes).for_each(|(sum, x)| *sum += x);
            }
        }
        sums.into_iter().flatten().sum::<f32>()
    };
    let seconds = fastest(|| {
        let total: f32 = values.par_chunks(PIECE).map(sum).sum();
        std::hint::black_box(total);
    });
    (VALUES * size_of::<f32>()) as f64 / seconds
}
