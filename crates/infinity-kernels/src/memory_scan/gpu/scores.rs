//! What does not depend on the states, for all chunks at once: `A = Q Kᵀ . M` and `(I + L)⁻¹` with
//! `L = K Kᵀ . Nm`.

use super::product::{Turned, multiply};
use super::sizes::{Chunk, Gate, Sizes, Square};
use super::solve::invert;
use super::tile::{Plan, col_of, load, put, row_of, store, zeros};
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
    #[comptime] plan: Plan,
    #[define(F, E)] _dtypes: [ElemType; 2],
) {
    if CUBE_POS >= sizes.heads * sizes.chunks {
        terminate!();
    }
    let chunk = Chunk::numbered(sizes, CUBE_POS, plan);
    let len = comptime!(plan.len());
    let mut spare = Shared::<[f32]>::new_slice(comptime!(plan.spare_len()));
    let mut query = Shared::<[E]>::new_slice(len);
    let mut key = Shared::<[E]>::new_slice(len);
    let mut pair = products::<F, E>(q, k, &mut query, &mut key, &mut spare, chunk);
    let mask = masks(gates, chunk);
    #[unroll]
    for at in 0..comptime!(plan.all_owned()) {
        pair.read[at] *= mask.read[at];
        pair.erase[at] *= mask.erase[at];
    }
    store::<E>(out, chunk.square(Square::First), &pair.read, plan);
    if comptime!(plan.delta) {
        let mut l = Shared::<[f32]>::new_slice(comptime!(plan.spare_len()));
        let mut inverse = Shared::<[f32]>::new_slice(comptime!(plan.spare_len()));
        let pitch = comptime!(plan.spare_pitch());
        put::<f32>(&mut l, &pair.erase, pitch, plan);
        sync_cube();
        invert(&l, &mut inverse, &mut spare, plan);
        #[unroll]
        for at in 0..comptime!(plan.all_owned()) {
            pair.erase[at] = inverse[row_of(at, plan) * pitch + col_of(at, plan)];
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
) -> Pair {
    let plan = comptime!(chunk.plan);
    let mut out = Pair::zeros(plan);
    for tile in 0..chunk.tiles(chunk.sizes.k) {
        let block = chunk.keys(tile);
        load::<F, E>(query, q, block, plan);
        load::<F, E>(key, k, block, plan);
        sync_cube();
        multiply::<E>(&mut out.read, &*query, &*key, spare, Turned::Right, plan);
        if comptime!(plan.delta) {
            multiply::<E>(&mut out.erase, &*key, &*key, spare, Turned::Right, plan);
        }
        sync_cube();
    }
    out
}

/// `M` and, below the diagonal, `Nm`.
#[cube]
pub(super) fn masks(gates: &[f32], chunk: Chunk) -> Pair {
    let plan = comptime!(chunk.plan);
    let mut out = Pair::zeros(plan);
    for s in 0..chunk.sizes.s {
        let decay = chunk.gate(Gate::Decay, s);
        let read = chunk.gate(Gate::Read, s);
        let write = chunk.gate(Gate::Write, s);
        let erase = chunk.gate(Gate::Erase, s);
        #[unroll]
        for at in 0..comptime!(plan.all_owned()) {
            let row = row_of(at, plan);
            let col = col_of(at, plan);
            if row >= col {
                // Below the diagonal the exponent is at most 0.
                let written = gates[write + col] * (gates[decay + row] - gates[decay + col]).exp();
                out.read[at] += gates[read + row] * written;
                if comptime!(plan.delta) {
                    if row > col {
                        out.erase[at] += gates[erase + row] * written;
                    }
                }
            }
        }
    }
    out
}
