//! A few tokens, one by one: decoding, in one launch.
//!
//! Recall and read both look at the decayed state before the write, since
//! `o = Σ_s r_s e^(g_s) H_sᵀ q + (Σ_s r_s u_s) (q · k) d`: one pass over the state finds what both
//! need, a second one writes.

use super::sizes::Sizes;
use super::tile::UNITS;
use burn_cubecl::cubecl;
use cubecl::prelude::*;

/// A cube a head and `UNITS` values. Units of a column share its keys.
#[cube(launch_unchecked)]
pub(super) fn steps<F: Float>(
    q: &[F],
    k: &[F],
    v: &[F],
    log_decay: &[f32],
    read: &[f32],
    write: &[f32],
    erase: &[f32],
    initial: &[f32],
    outputs: &mut [f32],
    state: &mut [f32],
    sizes: Sizes,
    #[comptime] delta: bool,
    #[define(F)] _dtype: ElemType,
) {
    let side = comptime!(UNITS);
    let tiles = sizes.v.div_ceil(side.runtime());
    if CUBE_POS >= sizes.heads * tiles {
        terminate!();
    }
    let x = UNIT_POS_X as usize;
    let y = UNIT_POS_Y as usize;
    let head = CUBE_POS / tiles;
    let col = CUBE_POS % tiles * UNITS + x;
    let kv = sizes.k * sizes.v;
    let from = head * sizes.s * kv + col;
    let mut recalls = Shared::<[f32]>::new_slice(comptime!(UNITS * UNITS));
    let mut answers = Shared::<[f32]>::new_slice(comptime!(UNITS * UNITS));
    let mut dots = Shared::<[f32]>::new_slice(comptime!(UNITS * UNITS));
    for t in 0..sizes.t {
        let row = sizes.token(head, t);
        let mut recalled = 0.0f32;
        let mut answered = 0.0f32;
        let mut dot = 0.0f32;
        let mut at = y;
        while at < sizes.k {
            let key = f32::cast_from(k[row * sizes.k + at]);
            let query = f32::cast_from(q[row * sizes.k + at]);
            dot += query * key;
            if col < sizes.v {
                for s in 0..sizes.s {
                    let gate = row * sizes.s + s;
                    let mut h = if t == 0 {
                        initial[from + s * kv + at * sizes.v]
                    } else {
                        state[from + s * kv + at * sizes.v]
                    };
                    h *= log_decay[gate].exp();
                    state[from + s * kv + at * sizes.v] = h;
                    answered += read[gate] * h * query;
                    if comptime!(delta) {
                        recalled += erase[gate] * h * key;
                    }
                }
            }
            at += UNITS;
        }
        recalls[y * UNITS + x] = recalled;
        answers[y * UNITS + x] = answered;
        dots[y * UNITS + x] = dot;
        sync_cube();
        if col < sizes.v {
            let mut error = f32::cast_from(v[row * sizes.v + col]);
            let mut o = 0.0f32;
            let mut qk = 0.0f32;
            #[unroll]
            for i in 0..UNITS {
                error -= recalls[i * UNITS + x];
                o += answers[i * UNITS + x];
                qk += dots[i * UNITS + x];
            }
            let mut weight = 0.0f32;
            for s in 0..sizes.s {
                let gate = row * sizes.s + s;
                weight += read[gate] * write[gate];
                let mut at = y;
                while at < sizes.k {
                    let key = f32::cast_from(k[row * sizes.k + at]);
                    state[from + s * kv + at * sizes.v] += write[gate] * key * error;
                    at += UNITS;
                }
            }
            if y == 0 {
                outputs[row * sizes.v + col] = o + weight * qk * error;
            }
        }
        sync_cube();
    }
}
