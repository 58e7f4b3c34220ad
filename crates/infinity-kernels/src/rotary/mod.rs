//! Rotary position embedding, exact at any `u64` position.
//!
//! The first `rotated` key dims are taken as pairs `(x_i, x_{i + rotated/2})` and pair `i` is
//! turned by `t · ω_i`, `ω_i = base^(−2i/rotated)` (Su et al., arXiv:2104.09864).
//!
//! A product `t · ω` in floating point loses its fraction as `t` grows. Here the angle is a 64-bit
//! fixed-point fraction of a turn, `t · round(ω/2π · 2⁶⁴) mod 2⁶⁴`: wrapping integer arithmetic
//! drops whole turns exactly, and the error at position 1e12 stays below 2e-7 rad.

#[cfg(feature = "flex")]
mod cpu;
#[cfg(feature = "cube")]
mod gpu;
pub mod reference;
mod unit;

use crate::borders::Borders;
use crate::feature_map::{FeatureMap, unit_length};
use crate::operator::{self, Operator, cpu_kernel, gpu_kernel};
use burn::tensor::{Device, Tensor, TensorData, assert_shape};
use std::f64::consts::TAU;
use unit::Unit;

/// Cosines and sines for one call of a model: `T` positions of every row.
///
/// Made once and used by every layer.
#[derive(Clone, Debug)]
pub struct Rotary {
    /// `[B or 1, T, 1, K]`, one where a dim is not rotated.
    cos: Tensor<4>,
    /// `[B or 1, T, 1, K]`, zero where a dim is not rotated.
    sin: Tensor<4>,
    /// Signed permutation `[1, 1, K, K]` that takes a vector to its quarter turn.
    quarter_turn: Tensor<4>,
    /// Pairs that are turned.
    half: usize,
}

/// Which dims are rotated, and how fast.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RotaryDims {
    /// Key dim of a head, `K`.
    pub key_dim: usize,
    /// Leading dims that are rotated; even, at most `key_dim`.
    pub rotated: usize,
    /// Base of the frequencies, 10,000 in the paper.
    pub base: f64,
    /// What becomes of a frequency, for texts longer than those that a model was trained with.
    pub scaling: Scaling,
}

/// A rule for the frequencies.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Scaling {
    /// They are as they are.
    #[default]
    None,
    /// All are divided by a factor (position interpolation; Chen et al., arXiv:2306.15595).
    Linear(f64),
    /// Those that turn slowly within the text of `original` tokens are divided by `factor`, those that turn fast
    /// are not (Llama 3.1; arXiv:2407.21783).
    Llama3 {
        /// What slow ones are divided by.
        factor: f64,
        /// Slow are those with fewer turns than this.
        low: f64,
        /// Fast are those with more.
        high: f64,
        /// Length of the texts of the training.
        original: f64,
    },
}

impl Scaling {
    /// The rule applied to a frequency in radians per position.
    fn apply(self, omega: f64) -> f64 {
        match self {
            Scaling::None => omega,
            Scaling::Linear(factor) => omega / factor,
            Scaling::Llama3 {
                factor,
                low,
                high,
                original,
            } => {
                let turns = original * omega / TAU;
                let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                omega * ((1.0 - kept) / factor + kept)
            }
        }
    }
}

impl RotaryDims {
    /// Turns per position of every pair, as a 64-bit fraction of a turn.
    fn frequencies(&self) -> Vec<u64> {
        (0..self.rotated / 2)
            .map(|i| {
                let omega = self.base.powf(-2.0 * i as f64 / self.rotated as f64);
                (self.scaling.apply(omega) / TAU * 2f64.powi(64)).round() as u64
            })
            .collect()
    }
}

/// Angle in radians, in `[0, 2π)`, of a pair of fixed-point frequency at `position`.
fn angle(position: u64, frequency: u64) -> f64 {
    position.wrapping_mul(frequency) as f64 / 2f64.powi(64) * TAU
}

impl Rotary {
    /// Tables for `t` positions from `starts[row]` on. Rows that start together share a table.
    ///
    /// # Panics
    ///
    /// If `rotated` is odd or exceeds `key_dim`, or if `starts` is empty.
    pub fn new(starts: &[u64], t: usize, dims: RotaryDims, device: &Device) -> Self {
        Self::packed(starts, t, &Borders::default(), dims, device)
    }

    /// [`new`](Self::new) for rows of several documents, each of which has positions of its own, from 0.
    ///
    /// # Panics
    ///
    /// As [`new`](Self::new), and if `borders` are of other sizes.
    pub fn packed(
        starts: &[u64],
        t: usize,
        borders: &Borders,
        dims: RotaryDims,
        device: &Device,
    ) -> Self {
        let [cos, sin] = Self::angles(starts, t, borders, dims);
        let rows = tables_of(starts, borders).len();
        let table =
            |values| Tensor::from_data(TensorData::new(values, [rows, t, 1, dims.key_dim]), device);
        Self::of_tables(table(cos), table(sin), dims)
    }

    /// The same with tables that are there: `[B or 1, T, 1, K]`, of the numbers that [`angles`](Self::angles) gives.
    pub fn of_tables(cos: Tensor<4>, sin: Tensor<4>, dims: RotaryDims) -> Self {
        let half = dims.rotated / 2;
        Rotary {
            quarter_turn: quarter_turn(dims.key_dim, half, &cos.device()),
            cos,
            sin,
            half,
        }
    }

    /// The tables of cosines and sines.
    pub fn tables(&self) -> [Tensor<4>; 2] {
        [self.cos.clone(), self.sin.clone()]
    }

    /// Numbers of the tables of [`packed`](Self::packed): cosines and sines, for one row where all are alike.
    ///
    /// # Panics
    ///
    /// As there.
    pub fn angles(starts: &[u64], t: usize, borders: &Borders, dims: RotaryDims) -> [Vec<f32>; 2] {
        borders.check(starts.len(), t);
        let (key_dim, rotated) = (dims.key_dim, dims.rotated);
        assert!(
            rotated.is_multiple_of(2) && rotated <= key_dim,
            "rotated dims {rotated} of {key_dim}"
        );
        let rows = tables_of(starts, borders);
        let frequencies = dims.frequencies();
        let half = rotated / 2;
        let mut cos = vec![1f32; rows.len() * t * key_dim];
        let mut sin = vec![0f32; cos.len()];
        for (row, start) in rows.iter().enumerate() {
            for i in 0..t {
                let at = (row * t + i) * key_dim;
                let position = borders.position(row, *start, i);
                for (pair, frequency) in frequencies.iter().enumerate() {
                    let (s, c) = angle(position, *frequency).sin_cos();
                    for dim in [at + pair, at + pair + half] {
                        cos[dim] = c as f32;
                        sin[dim] = s as f32;
                    }
                }
            }
        }
        [cos, sin]
    }

    /// The same positions without any rotation, whose [`unit`](Self::unit) gives unit vectors alone.
    pub fn unrotated(&self) -> Self {
        Rotary {
            half: 0,
            ..self.clone()
        }
    }

    /// Rotates `x` `[B, T, H, K]`.
    ///
    /// # Panics
    ///
    /// If `x` has other sizes than the tables.
    #[track_caller]
    pub fn apply(&self, x: Tensor<4>) -> Tensor<4> {
        let [_, t, _, key_dim] = self.cos.dims();
        assert_shape!(x, [_, t, _, key_dim]);
        if self.half == 0 {
            return x;
        }
        let turned = x.clone().matmul(self.quarter_turn.clone());
        x * self.cos.clone() + turned * self.sin.clone()
    }

    /// The rotated unit vectors of `map(x)`, `x` `[B, T, H, K]`, with `eps` added to the squares of their
    /// lengths: in one pass where the device has a native kernel, else on tensors.
    ///
    /// # Panics
    ///
    /// As [`apply`](Self::apply).
    #[track_caller]
    pub fn unit(&self, x: Tensor<4>, map: FeatureMap, eps: f64) -> Tensor<4> {
        if !operator::has_row_kernels(&x.device()) {
            return self.apply(unit_length(map.apply(x), eps));
        }
        self.run(vec![x], map, eps).take()
    }

    /// [`unit`](Self::unit) of both, on a GPU in one launch if they are alike.
    ///
    /// # Panics
    ///
    /// As [`apply`](Self::apply).
    #[track_caller]
    pub fn units(&self, [x, y]: [Tensor<4>; 2], map: FeatureMap, eps: f64) -> [Tensor<4>; 2] {
        let alike = x.dims() == y.dims() && x.dtype() == y.dtype();
        if !alike || !operator::has_gpu_kernels(&x.device()) {
            return [x, y].map(|x| self.unit(x, map, eps));
        }
        let mut results = self.run(vec![x, y], map, eps);
        [results.take(), results.take()]
    }

    #[track_caller]
    fn run(&self, vectors: Vec<Tensor<4>>, map: FeatureMap, eps: f64) -> operator::Results {
        let [_, t, _, key_dim] = self.cos.dims();
        vectors
            .iter()
            .for_each(|x| assert_shape!(x, [_, t, _, key_dim]));
        let unit = Unit {
            map,
            half: self.half,
            eps: eps as f32,
        };
        let tables = [&self.cos, &self.sin].map(|table| table.clone().into_dispatch());
        let inputs = vectors.into_iter().map(Tensor::into_dispatch);
        operator::run(unit, inputs.chain(tables).collect())
    }
}

impl Operator for Unit {
    const NAME: &'static str = "rotary_unit";
    const CONSTANTS: usize = 2;

    cpu_kernel! {
        |self, [x, cos, sin]| [cpu::forward(*self, [x, cos, sin])];
        |self, [x, cos, sin], [d_y]| [cpu::backward(*self, [x, cos, sin], d_y)]
    }

    gpu_kernel! {
        |self, specs| specs[..specs.len() - 2].to_vec();
        |self, inputs| gpu::run(*self, inputs, None);
        |self, inputs, grads| gpu::run(*self, inputs, Some(grads))
    }
}

/// The rows that need a table: one where all are alike.
fn tables_of<'a>(starts: &'a [u64], borders: &Borders) -> &'a [u64] {
    let together = starts.iter().all(|start| *start == starts[0]);
    match together && borders.is_none() {
        true => &starts[..1],
        false => starts,
    }
}

/// `x · R = (−x₂, x₁, 0)` for `x = (x₁, x₂, rest)`.
fn quarter_turn(key_dim: usize, half: usize, device: &Device) -> Tensor<4> {
    let mut values = vec![0f32; key_dim * key_dim];
    for pair in 0..half {
        values[(pair + half) * key_dim + pair] = -1.0;
        values[pair * key_dim + pair + half] = 1.0;
    }
    Tensor::from_data(TensorData::new(values, [1, 1, key_dim, key_dim]), device)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIMS: RotaryDims = RotaryDims {
        key_dim: 32,
        rotated: 16,
        base: 10_000.0,
        scaling: Scaling::None,
    };

    /// The frequencies of a pair of positions that are scaled, by the words of the rule.
    #[test]
    fn scaled_frequencies_are_those_of_the_rule() {
        let of = |scaling| RotaryDims { scaling, ..DIMS }.frequencies();
        let plain = of(Scaling::None);
        let quarter: Vec<u64> = plain.iter().map(|turns| turns / 4).collect();
        for (scaled, quarter) in of(Scaling::Linear(4.0)).iter().zip(&quarter) {
            assert!(scaled.abs_diff(*quarter) <= 1);
        }
        let llama = of(Scaling::Llama3 {
            factor: 4.0,
            low: 1.0,
            high: 4.0,
            original: 64.0,
        });
        // ω = 10^(−i/2); turns in 64 tokens: 10.2, 3.2, 1.02, 0.32, …
        let between = |i: i32| {
            let omega = 10f64.powf(-f64::from(i) / 2.0);
            let kept = (64.0 * omega / TAU - 1.0) / 3.0;
            omega * ((1.0 - kept) / 4.0 + kept) / TAU * 2f64.powi(64)
        };
        assert_eq!(llama[0], plain[0], "fast");
        for i in [1, 2] {
            let off = llama[i] as f64 / between(i as i32) - 1.0;
            assert!(off.abs() < 1e-12, "pair {i}: {off}");
        }
        for i in 3..8 {
            assert!(llama[i].abs_diff(quarter[i]) <= 1, "slow pair {i}");
        }
        assert!(llama[2] != plain[2] && llama[2] > quarter[2] + 1);
    }

    /// `t · ω mod 2π` with 128-bit integers: no rounding but that of ω itself to 2⁻¹⁰⁰ turns.
    fn exact_angle(position: u64, pair: usize) -> f64 {
        let omega = DIMS.base.powf(-2.0 * pair as f64 / DIMS.rotated as f64) / TAU;
        let scaled = (omega * 2f64.powi(60)) as u128;
        let below = ((omega * 2f64.powi(60) - scaled as f64) * 2f64.powi(40)) as u128;
        let turns = u128::from(position) * (scaled << 40) + u128::from(position) * below;
        (turns & ((1 << 100) - 1)) as f64 / 2f64.powi(100) * TAU
    }

    #[test]
    fn angles_are_exact_far_out() {
        for position in [0, 1, 2048, 1 << 24, 1_000_000_007, 1_000_000_000_000] {
            for (pair, frequency) in DIMS.frequencies().iter().enumerate() {
                let error = (angle(position, *frequency) - exact_angle(position, pair)).abs();
                let error = error.min(TAU - error);
                assert!(
                    error < 1e-6,
                    "position {position} pair {pair}: {error:e} rad"
                );
            }
        }
    }

    #[test]
    fn a_float_product_would_be_caught() {
        let position = 1_000_000_000_000u64;
        let omega = DIMS.base.powf(-2.0 / DIMS.rotated as f64) as f32;
        let naive = f64::from((position as f32 * omega) % TAU as f32);
        assert!((naive - exact_angle(position, 1)).abs() > 1e-3);
    }

    #[test]
    fn products_depend_on_distance_only() {
        let device = Device::flex();
        let product = |start: u64| {
            let rotary = Rotary::new(&[start], 8, DIMS, &device);
            let x = Tensor::<1, burn::tensor::Int>::arange(0..8 * 32, &device)
                .float()
                .sin();
            let x = rotary.apply(x.reshape([1, 8, 1, 32])).reshape([8, 32]);
            x.clone()
                .matmul(x.transpose())
                .into_data()
                .try_to_vec::<f32>()
                .unwrap()
        };
        let near = product(0);
        for start in [1, 4096, 1_000_000_000_000] {
            for (a, b) in near.iter().zip(product(start)) {
                assert!((a - b).abs() < 2e-5, "start {start}: {a} {b}");
            }
        }
    }

    #[test]
    fn documents_in_a_row_start_again() {
        let device = Device::flex();
        let x = Tensor::<4>::ones([2, 5, 1, 32], &device);
        let borders = Borders::new(vec![vec![2], vec![]]);
        let rotary = Rotary::packed(&[7, 7], 5, &borders, DIMS, &device);
        let both = rotary.apply(x.clone());
        for (row, start, from, len) in [(0, 7, 0, 2), (0, 0, 2, 3), (1, 7, 0, 5)] {
            let part = x.clone().slice([0..1, 0..len]);
            let one = Rotary::new(&[start], len, DIMS, &device).apply(part);
            let from_both = both.clone().slice([row..row + 1, from..from + len]);
            from_both.into_data().assert_eq(&one.into_data(), true);
        }
    }

    #[test]
    fn rows_may_start_apart() {
        let device = Device::flex();
        let x = Tensor::<4>::ones([2, 3, 1, 32], &device);
        let both = Rotary::new(&[5, 900], 3, DIMS, &device).apply(x.clone());
        for (row, start) in [5, 900].into_iter().enumerate() {
            let one = Rotary::new(&[start], 3, DIMS, &device).apply(x.clone().slice([0..1]));
            let from_both = both.clone().slice([row..row + 1]);
            from_both.into_data().assert_eq(&one.into_data(), true);
        }
    }
}
