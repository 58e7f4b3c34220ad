//! Feature map, unit length and rotation on the CPU: one pass forward, one pass back.
//!
//! ```text
//! φ = map(x)      u = φ / n, n = sqrt(Σ φ² + eps)      y = R u
//! du = Rᵀ dy      dφ = du / n − φ (φ · du) / n³         dx = dφ ⊙ map'(x)
//! ```

use super::unit::Unit;
use crate::cpu::exp::exp;
use crate::cpu::results::zeroed;
use crate::cpu::simd::{Level, dot, leveled, multiply_add};
use crate::cpu::tensors::{Primitive, single, slice, tensor};
use crate::feature_map::FeatureMap;
use burn::backend::TensorMetadata;
use rayon::prelude::*;
use std::mem::MaybeUninit;

/// Tokens a thread takes at a time.
const TOKENS: usize = 32;

/// Some tokens of one row of the batch: their values `[tokens, H, K]` and their tables
/// `[tokens, K]`.
#[derive(Clone, Copy)]
pub(crate) struct Tokens<'a> {
    x: &'a [f32],
    cos: &'a [f32],
    sin: &'a [f32],
    n_heads: usize,
    key_dim: usize,
    map: FeatureMap,
    half: usize,
    eps: f32,
}

#[inline(always)]
fn map<const FMA: bool>(map: FeatureMap, x: &[f32], y: &mut [f32]) {
    let values = y.iter_mut().zip(x);
    match map {
        FeatureMap::Identity => y.copy_from_slice(x),
        FeatureMap::Relu => {
            for (y, x) in values {
                *y = x.max(0.0);
            }
        }
        FeatureMap::EluPlusOne => {
            for (y, x) in values {
                *y = if *x > 0.0 { x + 1.0 } else { exp::<FMA>(*x) };
            }
        }
    }
}

/// Length of a vector, never zero.
#[inline(always)]
fn length<const FMA: bool>(x: &[f32], eps: f32) -> f32 {
    (dot::<FMA>(x, x) + eps).sqrt()
}

/// Turns the first `2 · half` values of `x` by the angles of a token, or back with `turn` −1.
#[inline(always)]
fn rotate(x: &mut [f32], cos: &[f32], sin: &[f32], half: usize, turn: f32) {
    let (first, rest) = x.split_at_mut(half);
    for (((a, b), c), s) in first.iter_mut().zip(&mut rest[..half]).zip(cos).zip(sin) {
        let (x, y, s) = (*a, *b, turn * s);
        *a = c * x - s * y;
        *b = c * y + s * x;
    }
}

#[inline(always)]
fn forward_loop<const FMA: bool, const ROWS: usize>(tokens: Tokens<'_>, y: &mut [f32]) {
    let Tokens {
        key_dim, half, eps, ..
    } = tokens;
    for (i, y) in y.chunks_exact_mut(key_dim).enumerate() {
        map::<FMA>(tokens.map, &tokens.x[i * key_dim..][..key_dim], y);
        let inverse = 1.0 / length::<FMA>(y, eps);
        for y in y.iter_mut() {
            *y *= inverse;
        }
        let at = i / tokens.n_heads * key_dim;
        rotate(y, &tokens.cos[at..], &tokens.sin[at..], half, 1.0);
    }
}
leveled!(fn forward_tokens(tokens: Tokens<'_>, y: &mut [f32]) = forward_loop);

#[inline(always)]
fn backward_loop<const FMA: bool, const ROWS: usize>(
    tokens: Tokens<'_>,
    d_y: &[f32],
    d_x: &mut [f32],
) {
    let Tokens {
        key_dim, half, eps, ..
    } = tokens;
    let mut mapped = vec![0f32; key_dim];
    for (i, d) in d_x.chunks_exact_mut(key_dim).enumerate() {
        let (x, at) = (
            &tokens.x[i * key_dim..][..key_dim],
            i / tokens.n_heads * key_dim,
        );
        map::<FMA>(tokens.map, x, &mut mapped);
        let inverse = 1.0 / length::<FMA>(&mapped, eps);
        d.copy_from_slice(&d_y[i * key_dim..][..key_dim]);
        rotate(d, &tokens.cos[at..], &tokens.sin[at..], half, -1.0);
        let along = -dot::<FMA>(&mapped, d) * inverse * inverse * inverse;
        for (d, phi) in d.iter_mut().zip(&mapped) {
            *d = multiply_add::<FMA>(along, *phi, *d * inverse);
        }
        let values = d.iter_mut().zip(x).zip(&mapped);
        match tokens.map {
            FeatureMap::Identity => {}
            FeatureMap::Relu => {
                for ((d, x), _) in values {
                    *d = if *x > 0.0 { *d } else { 0.0 };
                }
            }
            FeatureMap::EluPlusOne => {
                for ((d, x), phi) in values {
                    *d *= if *x > 0.0 { 1.0 } else { *phi };
                }
            }
        }
    }
}
leveled!(
    fn backward_tokens(tokens: Tokens<'_>, d_y: &[f32], d_x: &mut [f32]) = backward_loop
);

/// Values like `x` `[B, T, H, K]`, of which `run` computes some tokens' at a time: it gets the tokens,
/// where they start, and their values to write, zeros so far.
fn in_pieces(
    Unit { map, half, eps }: Unit,
    [x, cos, sin]: [&Primitive; 3],
    run: impl Fn(Tokens<'_>, usize, &mut [f32]) + Sync,
) -> Vec<f32> {
    let [_, t, n_heads, key_dim] = x.shape().dims();
    let [table_rows, ..] = cos.shape().dims::<4>();
    let (x, cos, sin) = (slice(x), slice(cos), slice(sin));
    let mut out: Box<[MaybeUninit<f32>]> = Box::new_uninit_slice(x.len());
    let row = t * n_heads * key_dim;
    let piece = TOKENS * n_heads * key_dim;
    out.par_chunks_mut(row.max(1))
        .enumerate()
        .for_each(|(b, out)| {
            let table = if table_rows == 1 { 0 } else { b * t * key_dim };
            out.par_chunks_mut(piece).enumerate().for_each(|(i, out)| {
                let at = b * row + i * piece;
                let tables = table + i * TOKENS * key_dim..;
                let tokens = Tokens {
                    x: &x[at..at + out.len()],
                    cos: &cos[tables.clone()],
                    sin: &sin[tables],
                    n_heads,
                    key_dim,
                    map,
                    half,
                    eps,
                };
                run(tokens, at, zeroed(out));
            });
        });
    // SAFETY: the pieces cover all rows and the rows all values, and each piece was filled.
    unsafe { out.assume_init() }.into_vec()
}

/// The rotated unit vectors.
pub(super) fn forward(rule: Unit, x: Primitive, cos: Primitive, sin: Primitive) -> Primitive {
    let (shape, dtype) = (x.shape(), x.dtype());
    let [x, cos, sin] = [x, cos, sin].map(single);
    let level = Level::detect();
    let y = in_pieces(rule, [&x, &cos, &sin], |tokens, _, y| {
        forward_tokens(level, tokens, y);
    });
    tensor(y, shape, dtype)
}

/// Gradient of the inputs.
pub(super) fn backward(
    rule: Unit,
    x: Primitive,
    cos: Primitive,
    sin: Primitive,
    d_y: Primitive,
) -> Primitive {
    let (shape, dtype) = (x.shape(), x.dtype());
    let [x, cos, sin, d_y] = [x, cos, sin, d_y].map(single);
    let d_y = slice(&d_y);
    let level = Level::detect();
    let d_x = in_pieces(rule, [&x, &cos, &sin], |tokens, at, d_x| {
        backward_tokens(level, tokens, &d_y[at..at + d_x.len()], d_x);
    });
    tensor(d_x, shape, dtype)
}
