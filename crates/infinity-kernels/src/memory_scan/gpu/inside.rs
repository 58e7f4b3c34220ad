//! Backward, second part: what stays inside a chunk, for all chunks at once. The gradients of the
//! two score matrices, and what reaches the gates through the masks.

use super::product::{Turned, multiply};
use super::reduce::{Over, sums};
use super::scores::{Pair, masks, products};
use super::sizes::{Chunk, Gate, Sizes, Square};
use super::tile::{Plan, col_of, load, put, row_of, store, zeros};
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
    d_outputs: &[f32],
    d_v: &[E],
    out: &mut [E],
    parts: &mut [f32],
    sizes: Sizes,
    #[comptime] plan: Plan,
    #[define(F, E)] _dtypes: [ElemType; 2],
) {
    if CUBE_POS >= sizes.heads * sizes.chunks {
        terminate!();
    }
    let chunk = Chunk::numbered(sizes, CUBE_POS, plan);
    let len = comptime!(plan.len());
    let pitch = comptime!(plan.spare_pitch());
    let mut spare = Shared::<[f32]>::new_slice(comptime!(plan.spare_len()));
    let mut first = Shared::<[E]>::new_slice(len);
    let mut second = Shared::<[E]>::new_slice(len);
    let mut third = Shared::<[E]>::new_slice(len);
    // dA = lower(dO Dmᵀ) and dL = −strictlower(dX Dmᵀ).
    let mut grads = Pair::zeros(plan);
    let behind = sizes.slot(sizes.heads, sizes.chunks + 1, 0);
    for tile in 0..chunk.tiles(sizes.v) {
        let block = chunk.values(tile);
        load::<f32, E>(&mut first, d_outputs, block, plan);
        load::<f32, E>(&mut second, saved, block.shifted(behind), plan);
        if comptime!(plan.delta) {
            load::<E, E>(&mut third, d_v, block, plan);
        }
        sync_cube();
        let turned = comptime!(Turned::Right);
        multiply::<E>(&mut grads.read, &first, &second, &mut spare, turned, plan);
        if comptime!(plan.delta) {
            multiply::<E>(&mut grads.erase, &third, &second, &mut spare, turned, plan);
        }
        sync_cube();
    }
    #[unroll]
    for at in 0..comptime!(plan.all_owned()) {
        grads.erase[at] = 0.0f32 - grads.erase[at];
        if row_of(at, plan) < col_of(at, plan) {
            grads.read[at] = 0.0f32;
        }
        if row_of(at, plan) <= col_of(at, plan) {
            grads.erase[at] = 0.0f32;
        }
    }
    let pair = products::<F, E>(q, k, &mut first, &mut second, &mut spare, chunk);
    let mut mask = masks(gates, chunk);
    // dP = dA . M and dM = dA . P; dG = dL . Nm and dNm = dL . G.
    #[unroll]
    for at in 0..comptime!(plan.all_owned()) {
        mask.read[at] *= grads.read[at];
        mask.erase[at] *= grads.erase[at];
        grads.read[at] *= pair.read[at];
        grads.erase[at] *= pair.erase[at];
    }
    store::<E>(out, chunk.square(Square::First), &mask.read, plan);
    if comptime!(plan.delta) {
        put::<f32>(&mut spare, &mask.erase, pitch, plan);
        sync_cube();
        #[unroll]
        for at in 0..comptime!(plan.all_owned()) {
            mask.erase[at] += spare[col_of(at, plan) * pitch + row_of(at, plan)];
        }
        store::<E>(out, chunk.square(Square::Second), &mask.erase, plan);
        sync_cube();
    }
    through_masks(gates, parts, &mut spare, &grads, chunk);
}

/// The gradients of a chunk's gates, given `dM` and `dNm`.
#[cube]
fn through_masks(
    gates: &[f32],
    parts: &mut [f32],
    spare: &mut Shared<[f32]>,
    grads: &Pair,
    chunk: Chunk,
) {
    let plan = comptime!(chunk.plan);
    for s in 0..chunk.sizes.s {
        let decay = chunk.gate(Gate::Decay, s);
        let read = chunk.gate(Gate::Read, s);
        let write = chunk.gate(Gate::Write, s);
        let erase = chunk.gate(Gate::Erase, s);
        let mut of_read = zeros(plan);
        let mut of_write = zeros(plan);
        let mut of_erase = zeros(plan);
        #[unroll]
        for at in 0..comptime!(plan.all_owned()) {
            let row = row_of(at, plan);
            let col = col_of(at, plan);
            if row >= col {
                let within = (gates[decay + row] - gates[decay + col]).exp();
                let mut through = grads.read[at] * gates[read + row];
                of_read[at] = grads.read[at] * within * gates[write + col];
                if comptime!(plan.delta) {
                    through += grads.erase[at] * gates[erase + row];
                    of_erase[at] = grads.erase[at] * within * gates[write + col];
                }
                of_write[at] = through * within;
            }
        }
        let to = chunk.part(0, Gate::Read, s);
        sums(&of_read, Over::Cols, parts, to, spare, plan);
        let to = chunk.part(0, Gate::Write, s);
        sums(&of_write, Over::Rows, parts, to, spare, plan);
        if comptime!(plan.delta) {
            let to = chunk.part(0, Gate::Erase, s);
            sums(&of_erase, Over::Cols, parts, to, spare, plan);
        }
    }
}
