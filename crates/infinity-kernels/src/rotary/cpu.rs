//! Feature map, unit length and rotation on the CPU: one pass forward, one pass back.
//!
//! ```text
//! φ = map(x)      u = φ / n, n = sqrt(Σ φ² + eps)      y = R u
//! du = Rᵀ dy      dφ = du / n − φ (φ · du) / n³         dx = dφ ⊙ map'(x)
//! ```

use super::unit::Unit;
use crate::cpu::exp::exp;
use crate::cpu::results::in_pieces;
use crate::cpu::simd::{Level, dot, leveled, multiply_add};
use crate::cpu::tensors::{Input, Primitive};
use crate::feature_map::FeatureMap;

/// Tokens a thread takes at a time.
const TOKENS: usize = 32;

/// Some tokens, and the tables of all.
#[derive(Clone, Copy)]
pub(crate) struct Tokens<'a> {
    unit: Unit,
    /// `[tokens, H, K]`, from the token `first` on.
    x: &'a [f32],
    first: usize,
    /// `[B · T or T, K]`.
    cos: &'a [f32],
    sin: &'a [f32],
    /// Values of a token.
    width: usize,
    key_dim: usize,
}

impl<'a> Tokens<'a> {
    /// All of a call.
    fn new(unit: Unit, [x, cos, sin]: [&'a Input; 3]) -> Self {
        let [_, _, h, key_dim] = x.dims();
        Tokens {
            unit,
            x,
            first: 0,
            cos,
            sin,
            width: h * key_dim,
            key_dim,
        }
    }

    /// Those of `len` values that are the `i`-th piece.
    fn part(&self, i: usize, len: usize) -> Self {
        Tokens {
            x: &self.x[i * TOKENS * self.width..][..len],
            first: i * TOKENS,
            ..*self
        }
    }

    /// Vectors of token `i`, its cosines and its sines: as many as there are angles, or the loop over them is not
    /// one of lanes.
    #[inline(always)]
    fn token(&self, i: usize) -> (impl Iterator<Item = &'a [f32]>, [&'a [f32]; 2]) {
        let x = &self.x[i * self.width..][..self.width];
        let at = (self.first + i) * self.key_dim % self.cos.len();
        let half = at..at + self.unit.half;
        let tables = [self.cos, self.sin].map(|table| &table[half.clone()]);
        (x.chunks_exact(self.key_dim), tables)
    }
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
fn rotate(x: &mut [f32], [cos, sin]: [&[f32]; 2], half: usize, turn: f32) {
    let (first, rest) = x.split_at_mut(half);
    for (((a, b), c), s) in first.iter_mut().zip(&mut rest[..half]).zip(cos).zip(sin) {
        let (x, y, s) = (*a, *b, turn * s);
        *a = c * x - s * y;
        *b = c * y + s * x;
    }
}

leveled!(
    fn forward_tokens<const FMA: bool, const ROWS: usize>(tokens: Tokens<'_>, y: &mut [f32]) {
        let unit = tokens.unit;
        for (i, y) in y.chunks_exact_mut(tokens.width).enumerate() {
            let (vectors, tables) = tokens.token(i);
            for (x, y) in vectors.zip(y.chunks_exact_mut(tokens.key_dim)) {
                map::<FMA>(unit.map, x, y);
                let inverse = 1.0 / length::<FMA>(y, unit.eps);
                for y in y.iter_mut() {
                    *y *= inverse;
                }
                rotate(y, tables, unit.half, 1.0);
            }
        }
    }
);

leveled!(
    /// `d` is the gradient of the vectors, and becomes that of the inputs.
    fn backward_tokens<const FMA: bool, const ROWS: usize>(tokens: Tokens<'_>, d: &mut [f32]) {
        let unit = tokens.unit;
        let mut mapped = vec![0f32; tokens.key_dim];
        for (i, d) in d.chunks_exact_mut(tokens.width).enumerate() {
            let (vectors, tables) = tokens.token(i);
            for (x, d) in vectors.zip(d.chunks_exact_mut(tokens.key_dim)) {
                map::<FMA>(unit.map, x, &mut mapped);
                let inverse = 1.0 / length::<FMA>(&mapped, unit.eps);
                rotate(d, tables, unit.half, -1.0);
                let along = -dot::<FMA>(&mapped, d) * inverse * inverse * inverse;
                for (d, phi) in d.iter_mut().zip(&mapped) {
                    *d = multiply_add::<FMA>(along, *phi, *d * inverse);
                }
                let values = d.iter_mut().zip(x).zip(&mapped);
                match unit.map {
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
    }
);

/// The rotated unit vectors.
pub(super) fn forward(unit: Unit, inputs: [Primitive; 3]) -> Primitive {
    let [x, cos, sin] = inputs.map(Input::new);
    let (all, level) = (Tokens::new(unit, [&x, &cos, &sin]), Level::detect());
    let [y] = in_pieces([x.len()], [TOKENS * all.width], |i, [y]| {
        forward_tokens(level, all.part(i, y.len()), y);
    });
    x.like(y)
}

/// Gradient of the inputs.
pub(super) fn backward(unit: Unit, inputs: [Primitive; 3], d_y: Primitive) -> Primitive {
    let ([x, cos, sin], d_y) = (inputs.map(Input::new), Input::new(d_y));
    let (all, level) = (Tokens::new(unit, [&x, &cos, &sin]), Level::detect());
    let piece = TOKENS * all.width;
    let [d_x] = in_pieces([x.len()], [piece], |i, [d]| {
        d.copy_from_slice(&d_y[i * piece..][..d.len()]);
        backward_tokens(level, all.part(i, d.len()), d);
    });
    x.like(d_x)
}
