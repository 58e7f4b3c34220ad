//! Backward, second part: what stays inside a chunk, for all chunks at once. The gradients of the
//! two score matrices, and what reaches the gates through the masks.

use super::product::{Turned, multiply};
use super::reduce::{over_cols, over_rows};
use super::scores::{Pair, masks, products};
use super::sizes::{Chunk, Gate, Sizes, Square};
use super::tile::{Plan, load, own_col, own_row, put, store, zeros};
use burn_cubecl::cubecl;
use cubecl::prelude::*;

/// A cube a chunk and head. `out` gets `dP` and `dG + dGᵀ`; `parts` the gradients of the gates,
/// first of `[1 + tiles of K, 3, B·H, S, N·C]`.
#[cube(launch_unchecked)]
pub(super) fn inside<F: Float, E: Float>(
    q: &[F],
    k: &[F],
    gates: &[f32],
    saved: &[f32],
    d_both: &[f32],
    d_v: &[E],
    out: &mut [E],
    parts: &mut [f32],
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
    let own = comptime!(plan.owned());
    let len = comptime!(plan.len());
    let pitch = comptime!(plan.spare_pitch());
    let mut spare = Shared::<[f32]>::new_slice(comptime!(plan.spare_len()));
    let mut first = Shared::<[E]>::new_slice(len);
    let mut second = Shared::<[E]>::new_slice(len);
    let mut third = Shared::<[E]>::new_slice(len);
    // dA = lower(dO Dmᵀ) and dL = −strictlower(dX Dmᵀ).
    let mut grads = Pair::zeros(plan);
    let behind = sizes.slot(sizes.heads, sizes.chunks + 1, 0);
    let mut tile = 0usize;
    while tile * comptime!(plan.side) < sizes.v {
        let block = chunk.values(tile);
        load::<f32, E>(&mut first, d_both, block, plan);
        load::<f32, E>(&mut second, saved, block.shifted(behind), plan);
        if comptime!(delta) {
            load::<E, E>(&mut third, d_v, block, plan);
        }
        sync_cube();
        multiply::<E>(
            &mut grads.read,
            &first,
            &second,
            &mut spare,
            Turned::Right,
            plan,
        );
        if comptime!(delta) {
            multiply::<E>(
                &mut grads.erase,
                &third,
                &second,
                &mut spare,
                Turned::Right,
                plan,
            );
        }
        sync_cube();
        tile += 1;
    }
    #[unroll]
    for i in 0..own {
        #[unroll]
        for j in 0..own {
            let at = comptime!(i * own + j);
            grads.erase[at] = 0.0f32 - grads.erase[at];
            if own_row(i) < own_col(j) {
                grads.read[at] = 0.0f32;
            }
            if own_row(i) <= own_col(j) {
                grads.erase[at] = 0.0f32;
            }
        }
    }
    let pair = products::<F, E>(q, k, &mut first, &mut second, &mut spare, chunk, delta);
    let mut mask = masks(gates, chunk, delta);
    // dP = dA . M and dM = dA . P; dG = dL . Nm and dNm = dL . G.
    #[unroll]
    for i in 0..comptime!(own * own) {
        mask.read[i] *= grads.read[i];
        mask.erase[i] *= grads.erase[i];
        grads.read[i] *= pair.read[i];
        grads.erase[i] *= pair.erase[i];
    }
    store::<E>(out, chunk.square(Square::First), &mask.read, plan);
    if comptime!(delta) {
        put::<f32>(&mut spare, &mask.erase, pitch, plan);
        sync_cube();
        #[unroll]
        for i in 0..own {
            #[unroll]
            for j in 0..own {
                mask.erase[comptime!(i * own + j)] += spare[own_col(j) * pitch + own_row(i)];
            }
        }
        store::<E>(out, chunk.square(Square::Second), &mask.erase, plan);
        sync_cube();
    }
    through_masks(gates, parts, &mut spare, &grads, chunk, delta);
}

/// The gradients of a chunk's gates, given `dM` and `dNm`.
#[cube]
fn through_masks(
    gates: &[f32],
    parts: &mut [f32],
    spare: &mut Shared<[f32]>,
    grads: &Pair,
    chunk: Chunk,
    #[comptime] delta: bool,
) {
    let plan = comptime!(chunk.plan);
    let own = comptime!(plan.owned());
    for s in 0..chunk.sizes.s {
        let decay = chunk.gate(Gate::Decay, s);
        let read = chunk.gate(Gate::Read, s);
        let write = chunk.gate(Gate::Write, s);
        let erase = chunk.gate(Gate::Erase, s);
        let mut of_read = zeros(plan);
        let mut of_write = zeros(plan);
        let mut of_erase = zeros(plan);
        #[unroll]
        for i in 0..own {
            let row = own_row(i);
            #[unroll]
            for j in 0..own {
                let col = own_col(j);
                let at = comptime!(i * own + j);
                if row >= col {
                    let within = (gates[decay + row] - gates[decay + col]).exp();
                    let mut through = grads.read[at] * gates[read + row];
                    of_read[at] = grads.read[at] * within * gates[write + col];
                    if comptime!(delta) {
                        through += grads.erase[at] * gates[erase + row];
                        of_erase[at] = grads.erase[at] * within * gates[write + col];
                    }
                    of_write[at] = through * within;
                }
            }
        }
        over_cols(&of_read, parts, chunk.part(0, Gate::Read, s), spare, plan);
        over_rows(&of_write, parts, chunk.part(0, Gate::Write, s), spare, plan);
        if comptime!(delta) {
            over_cols(&of_erase, parts, chunk.part(0, Gate::Erase, s), spare, plan);
        }
    }
}
