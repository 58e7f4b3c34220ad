//! Muon's step of matrices of one shape on CubeCL runtimes: their products side by side, and a launch around them for
//! as many matrices as a device binds buffers for.

#![allow(
    clippy::too_many_arguments,
    reason = "a kernel's arguments are its buffers"
)]

use super::rule::Muon;
use crate::gpu::many::launches;
use crate::gpu::sums::over_lanes;
use crate::gpu::{UNITS, contiguous, cubes, empty, single, units};
use crate::newton_schulz::reference::{COEFFICIENTS, SMALLEST_NORM, SMALLEST_SQUARE};
use burn::backend::{TensorMetadata, ops::FloatTensorOps};
use burn::tensor::DType;
use burn_cubecl::cubecl;
use burn_cubecl::{CubeBackend, tensor::CubeTensor};
use cubecl::prelude::*;

/// Cubes that share the squares of a matrix; at most [`UNITS`].
const CUBES: usize = 64;

/// Gradient and momentum of a matrix, and their place.
#[derive(CubeType, CubeLaunch)]
struct Before {
    g: Box<[f32]>,
    m: Box<[f32]>,
    first: usize,
    start: usize,
}

/// `from`: where the first of them is among all that is to be made orthogonal.
#[cube(launch)]
fn momentum_units(
    before: &Sequence<Before>,
    new_m: &mut [f32],
    update: &mut [f32],
    momentum: f32,
    scale: f32,
    len: usize,
    from: usize,
    #[comptime] count: usize,
) {
    #[unroll]
    for i in 0..count {
        let x = before.index(i);
        let at = (CUBE_POS - x.first) * UNITS + UNIT_POS as usize;
        if CUBE_POS >= x.first && at < len {
            let grad = x.g[at] * scale;
            let m = grad + x.m[at] * momentum;
            new_m[x.start + at] = m;
            update[from + i * len + at] = m * momentum + grad;
        }
    }
}

/// `cubes` sums of squares of every matrix.
#[cube(launch)]
fn square_units(update: &[f32], sums: &mut [f32], len: usize, #[comptime] cubes: usize) {
    let mut spare = Shared::<[f32]>::new_slice(UNITS);
    let matrix = CUBE_POS / cubes;
    let mut sum = 0.0f32;
    let mut at = CUBE_POS % cubes * UNITS + UNIT_POS as usize;
    while at < len {
        let x = update[matrix * len + at];
        sum += x * x;
        at += comptime!(UNITS * cubes);
    }
    let sum = over_lanes(sum, &mut spare, UNITS);
    if UNIT_POS == 0 {
        sums[CUBE_POS] = sum;
    }
}

/// Matrices over their norms, on their side where they are tall: `each` cubes take one.
#[cube(launch)]
fn scaled_units(
    update: &[f32],
    sums: &[f32],
    x: &mut [f32],
    rows: usize,
    columns: usize,
    matrices: usize,
    each: usize,
    smallest: f32,
    #[comptime] tall: bool,
    #[comptime] cubes: usize,
) {
    let mut spare = Shared::<[f32]>::new_slice(UNITS);
    let matrix = CUBE_POS / each;
    let unit = UNIT_POS as usize;
    let mut sum = 0.0f32;
    if matrix < matrices && unit < cubes {
        sum = sums[matrix * cubes + unit];
    }
    let norm = max(over_lanes(sum, &mut spare, UNITS).sqrt(), smallest);
    let len = rows * columns;
    let at = CUBE_POS % each * UNITS + unit;
    if matrix < matrices && at < len {
        let mut to = at;
        if comptime!(tall) {
            to = at % columns * rows + at / columns;
        }
        x[matrix * len + to] = update[matrix * len + at] / norm;
    }
}

/// `P(A / s²) / s` with `P = a + b A + c A²`, for matrices of `side` rows and columns: `each` cubes take one. `s` is the fourth
/// root of the norm of `A²`, whose squares' `sums` are there, where `scaled`, and 1 elsewhere.
#[cube(launch)]
fn polynomial_units(
    gram: &[f32],
    square: &[f32],
    sums: &[f32],
    p: &mut [f32],
    a: f32,
    b: f32,
    c: f32,
    side: usize,
    matrices: usize,
    each: usize,
    smallest: f32,
    #[comptime] scaled: bool,
    #[comptime] cubes: usize,
) {
    let mut spare = Shared::<[f32]>::new_slice(UNITS);
    let matrix = CUBE_POS / each;
    let unit = UNIT_POS as usize;
    let mut norm = 1.0f32;
    if comptime!(scaled) {
        let mut sum = 0.0f32;
        if matrix < matrices && unit < cubes {
            sum = sums[matrix * cubes + unit];
        }
        norm = max(over_lanes(sum, &mut spare, UNITS).sqrt(), smallest);
    }
    let s_2 = norm.sqrt();
    let at = CUBE_POS % each * UNITS + unit;
    if matrix < matrices && at < side * side {
        let place = matrix * side * side + at;
        let mut value = gram[place] / s_2 * b + square[place] / norm * c;
        if at % side == at / side {
            value += a;
        }
        p[place] = value / s_2.sqrt();
    }
}

/// The weights of a matrix, and their place.
#[derive(CubeType, CubeLaunch)]
struct Weights {
    w: Box<[f32]>,
    first: usize,
    start: usize,
}

#[cube(launch)]
fn moved_units(
    weights: &Sequence<Weights>,
    orthogonal: &[f32],
    new_w: &mut [f32],
    decay: f32,
    rate: f32,
    rows: usize,
    columns: usize,
    from: usize,
    #[comptime] tall: bool,
    #[comptime] cautious: bool,
    #[comptime] count: usize,
) {
    let len = rows * columns;
    #[unroll]
    for i in 0..count {
        let x = weights.index(i);
        let at = (CUBE_POS - x.first) * UNITS + UNIT_POS as usize;
        if CUBE_POS >= x.first && at < len {
            let mut of = at;
            if comptime!(tall) {
                of = at % columns * rows + at / columns;
            }
            let w = x.w[at];
            let update = orthogonal[from + i * len + of] * rate;
            let mut lost = w * decay;
            if comptime!(cautious) {
                if update * w <= 0.0f32 {
                    lost = 0.0f32;
                }
            }
            new_w[x.start + at] = w - lost - update;
        }
    }
}

/// Matrices of a call, contiguous and in `f32`.
struct Call {
    rule: Muon,
    /// Weights, gradient, momentum of each.
    matrices: Vec<[CubeTensor; 3]>,
    rows: usize,
    columns: usize,
}

/// Weights and momentum of each matrix after the step.
pub(super) fn step(rule: Muon, inputs: Vec<CubeTensor>) -> Vec<CubeTensor> {
    let [rows, columns] = inputs[0].shape().dims();
    if rows * columns == 0 {
        let kept = inputs.into_iter().enumerate().filter(|(i, _)| i % 3 != 1);
        return kept.map(|(_, x)| x).collect();
    }
    let call = Call {
        rule,
        matrices: single(inputs).as_chunks().0.to_vec(),
        rows,
        columns,
    };
    let (momenta, update) = call.momenta();
    let weights = call.moved(call.orthogonal(update));
    let pairs = weights.into_iter().zip(momenta);
    pairs.flat_map(<[CubeTensor; 2]>::from).collect()
}

/// `left · right` of every matrix.
fn product(left: CubeTensor, right: CubeTensor) -> CubeTensor {
    contiguous(CubeBackend::float_matmul(left, right), DType::F32)
}

impl Call {
    fn of(&self) -> &CubeTensor {
        &self.matrices[0][0]
    }

    fn len(&self) -> usize {
        self.rows * self.columns
    }

    fn is_tall(&self) -> bool {
        self.rows > self.columns
    }

    /// Momenta, and all that is to be made orthogonal, `[matrices, rows, columns]`.
    fn momenta(&self) -> (Vec<CubeTensor>, CubeTensor) {
        let (of, n) = (self.of(), self.matrices.len());
        let update = empty(of, [n, self.rows, self.columns], DType::F32);
        let mut momenta = Vec::new();
        for (from, some, places) in launches(of, &self.matrices, [2, 2], |_| self.len()) {
            let new_m = places.buffer(of);
            let before = some.iter().enumerate().map(|(i, [_, g, m])| {
                let [g, m] = [g, m].map(|x| x.clone().into_buffer_arg());
                BeforeLaunch::new(g, m, places.first[i], places.start[i])
            });
            momentum_units::launch(
                &of.client,
                places.cubes(),
                units(),
                before.collect(),
                new_m.clone().into_buffer_arg(),
                update.clone().into_buffer_arg(),
                self.rule.momentum,
                self.rule.scale as f32,
                self.len(),
                from * self.len(),
                some.len(),
            );
            let shapes = some.iter().map(|_| [self.rows, self.columns]);
            momenta.extend(places.parts(&new_m, shapes));
        }
        (momenta, update)
    }

    /// [`CUBES`] sums of squares of every matrix of `len` values in `x`.
    fn square_sums(&self, x: &CubeTensor, len: usize) -> CubeTensor {
        let (of, n) = (self.of(), self.matrices.len());
        let sums = empty(of, [n, CUBES], DType::F32);
        square_units::launch(
            &of.client,
            cubes(n * CUBES),
            units(),
            x.clone().into_buffer_arg(),
            sums.clone().into_buffer_arg(),
            len,
            CUBES,
        );
        sums
    }

    /// [`newton_schulz`](crate::newton_schulz) of each, on its side where it is tall.
    fn orthogonal(&self, update: CubeTensor) -> CubeTensor {
        let (of, n) = (self.of(), self.matrices.len());
        let side = self.rows.min(self.columns);
        let sums = self.square_sums(&update, self.len());
        let mut x = empty(of, [n, side, self.len() / side], DType::F32);
        let each = self.len().div_ceil(UNITS);
        scaled_units::launch(
            &of.client,
            cubes(n * each),
            units(),
            update.into_buffer_arg(),
            sums.into_buffer_arg(),
            x.clone().into_buffer_arg(),
            self.rows,
            self.columns,
            n,
            each,
            SMALLEST_NORM as f32,
            self.is_tall(),
            CUBES,
        );
        let mut norms = None;
        for [a, b, c] in COEFFICIENTS {
            let transposed = CubeBackend::float_swap_dims(x.clone(), 1, 2);
            let gram = product(x.clone(), transposed);
            let square = product(gram.clone(), gram.clone());
            let scaled = norms.is_none();
            let sums = norms.get_or_insert_with(|| self.square_sums(&square, side * side));
            let p = empty(of, [n, side, side], DType::F32);
            let each = (side * side).div_ceil(UNITS);
            polynomial_units::launch(
                &of.client,
                cubes(n * each),
                units(),
                gram.into_buffer_arg(),
                square.into_buffer_arg(),
                sums.clone().into_buffer_arg(),
                p.clone().into_buffer_arg(),
                a as f32,
                b as f32,
                c as f32,
                side,
                n,
                each,
                SMALLEST_SQUARE as f32,
                scaled,
                CUBES,
            );
            x = product(p, x);
        }
        x
    }

    /// Weights after their orthogonal updates.
    fn moved(&self, orthogonal: CubeTensor) -> Vec<CubeTensor> {
        let (of, rule) = (self.of(), self.rule);
        let mut weights = Vec::new();
        for (from, some, places) in launches(of, &self.matrices, [1, 2], |_| self.len()) {
            let new_w = places.buffer(of);
            let before = some.iter().enumerate().map(|(i, [w, ..])| {
                let w = w.clone().into_buffer_arg();
                WeightsLaunch::new(w, places.first[i], places.start[i])
            });
            moved_units::launch(
                &of.client,
                places.cubes(),
                units(),
                before.collect(),
                orthogonal.clone().into_buffer_arg(),
                new_w.clone().into_buffer_arg(),
                rule.decay as f32,
                rule.rate as f32,
                self.rows,
                self.columns,
                from * self.len(),
                self.is_tall(),
                rule.cautious,
                some.len(),
            );
            let shapes = some.iter().map(|_| [self.rows, self.columns]);
            weights.extend(places.parts(&new_w, shapes));
        }
        weights
    }
}
