//! What does not depend on the states, for all chunks at once: `A = Q Kᵀ . M` and `(I + L)⁻¹` with
//! `L = K Kᵀ . Nm`.

use super::product::{Turned, multiply};
use super::sizes::{Chunk, Gate, Sizes, Square};
use super::solve::invert;
use super::tile::{Plan, load, own_col, own_row, put, store, zeros};
use burn_cubecl::cubecl;
use cubecl::prelude::*;

/// A cube a chunk and head.
#[cube(launch_unchecked)]
pub(super) fn scores<F: Float, E: Float>(
    q: &[F],
    k: &[F],
    gates: &[f32],
    out: &mut [E],
    sizes: Sizes,
    #[comptime] delta: bool,
    #[comptime] plan: Plan,
    #[define(F, E)] _dtypes: [ElemType; 2],
) {
    if CUBE_POS >= sizes.heads * sizes.chunks {
        terminate!();
    }
    let n = CUBE_POS % sizes.chunks;
    let head = CUBE_POS / sizes.chunks;
    let chunk = Chunk::new(sizes, head, n, plan);
    let len = comptime!(plan.len());
    let mut spare = Shared::<[f32]>::new_slice(comptime!(plan.spare_len()));
    let mut query = Shared::<[E]>::new_slice(len);
    let mut key = Shared::<[E]>::new_slice(len);
    let mut pair = products::<F, E>(q, k, &mut query, &mut key, &mut spare, chunk, delta);
    let mask = masks(gates, chunk, delta);
    #[unroll]
    for i in 0..comptime!(plan.owned() * plan.owned()) {
        pair.read[i] *= mask.read[i];
        pair.erase[i] *= mask.erase[i];
    }
    store::<E>(out, chunk.square(Square::First), &pair.read, plan);
    if comptime!(delta) {
        let mut l = Shared::<[f32]>::new_slice(comptime!(plan.spare_len()));
        let mut inverse = Shared::<[f32]>::new_slice(comptime!(plan.spare_len()));
        let pitch = comptime!(plan.spare_pitch());
        put::<f32>(&mut l, &pair.erase, pitch, plan);
        sync_cube();
        invert(&l, &mut inverse, &mut spare, plan);
        #[unroll]
        for i in 0..comptime!(plan.owned()) {
            #[unroll]
            for j in 0..comptime!(plan.owned()) {
                pair.erase[comptime!(i * plan.owned() + j)] =
                    inverse[own_row(i) * pitch + own_col(j)];
            }
        }
        store::<E>(out, chunk.square(Square::Second), &pair.erase, plan);
    }
}

/// A unit's own elements of a matrix of what is read, and of one of what the delta rule erases.
#[derive(CubeType)]
pub(super) struct Pair {
    pub(super) read: Array<f32>,
    pub(super) erase: Array<f32>,
}

#[cube]
impl Pair {
    pub(super) fn zeros(#[comptime] plan: Plan) -> Pair {
        Pair {
            read: zeros(plan),
            erase: zeros(plan),
        }
    }
}

/// `Q Kᵀ` and, for the delta rule, `K Kᵀ`. The tiles are free when this returns.
#[cube]
pub(super) fn products<F: Float, E: Float>(
    q: &[F],
    k: &[F],
    query: &mut Shared<[E]>,
    key: &mut Shared<[E]>,
    spare: &mut Shared<[f32]>,
    chunk: Chunk,
    #[comptime] delta: bool,
) -> Pair {
    let plan = comptime!(chunk.plan);
    let mut out = Pair::zeros(plan);
    let mut tile = 0usize;
    while tile * comptime!(plan.side) < chunk.sizes.k {
        let block = chunk.keys(tile);
        load::<F, E>(query, q, block, plan);
        load::<F, E>(key, k, block, plan);
        sync_cube();
        multiply::<E>(&mut out.read, &*query, &*key, spare, Turned::Right, plan);
        if comptime!(delta) {
            multiply::<E>(&mut out.erase, &*key, &*key, spare, Turned::Right, plan);
        }
        sync_cube();
        tile += 1;
    }
    out
}

/// `M` and, below the diagonal, `Nm`.
#[cube]
pub(super) fn masks(gates: &[f32], chunk: Chunk, #[comptime] delta: bool) -> Pair {
    let plan = comptime!(chunk.plan);
    let own = comptime!(plan.owned());
    let mut out = Pair::zeros(plan);
    for s in 0..chunk.sizes.s {
        let decay = chunk.gate(Gate::Decay, s);
        let read = chunk.gate(Gate::Read, s);
        let write = chunk.gate(Gate::Write, s);
        let erase = chunk.gate(Gate::Erase, s);
        #[unroll]
        for i in 0..own {
            let row = own_row(i);
            #[unroll]
            for j in 0..own {
                let col = own_col(j);
                let at = comptime!(i * own + j);
                if row >= col {
                    // Below the diagonal the exponent is at most 0.
                    let written =
                        gates[write + col] * (gates[decay + row] - gates[decay + col]).exp();
                    out.read[at] += gates[read + row] * written;
                    if comptime!(delta) {
                        if row > col {
                            out.erase[at] += gates[erase + row] * written;
                        }
                    }
                }
            }
        }
    }
    out
}
