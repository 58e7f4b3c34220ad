//! Backward, first part: the gradient of the states carried back over the chunks of a head, last
//! to first, with the gradient of the values on the way. One long body, as forward.

use super::carry::copy;
use super::product::{Turned, multiply};
use super::sizes::{Chunk, Gate, Sizes, Square};
use super::tile::{Plan, add_rows, carry_on, load, own_col, put, store_tile, value, zeros};
use burn_cubecl::cubecl;
use cubecl::prelude::*;

/// A cube a head and tile of values. From the gradients of outputs and final states
/// `d_borders` gets the gradients of the states before every chunk and after the last,
/// `[B·H, N + 1, S, K, V]`, `d_v` that of the values and `d_state` that of the initial states.
#[cube(launch_unchecked)]
pub(super) fn carry_back<F: Float, E: Float>(
    q: &[F],
    k: &[F],
    gates: &[f32],
    scores: &[E],
    d_outputs: &[f32],
    d_finals: &[f32],
    d_borders: &mut [f32],
    d_v: &mut [E],
    d_state: &mut [f32],
    sizes: Sizes,
    #[comptime] plan: Plan,
    #[define(F, E)] _dtypes: [ElemType; 2],
) {
    let side = comptime!(plan.side);
    let v_tiles = sizes.v.div_ceil(side.runtime());
    let k_tiles = sizes.k.div_ceil(side.runtime());
    if CUBE_POS >= sizes.heads * v_tiles {
        terminate!();
    }
    let v_tile = CUBE_POS % v_tiles;
    let head = CUBE_POS / v_tiles;
    let len = comptime!(plan.len());
    let pitch = comptime!(plan.pitch());
    let mut spare = Shared::<[f32]>::new_slice(comptime!(plan.spare_len()));
    let mut key = Shared::<[E]>::new_slice(len);
    let mut query = Shared::<[E]>::new_slice(len);
    let mut state = Shared::<[E]>::new_slice(len);
    let mut d_o = Shared::<[E]>::new_slice(len);
    let mut d_x = Shared::<[E]>::new_slice(len);
    let slots = sizes.chunks + 1;
    let all = sizes.s * sizes.k * sizes.v;
    let last = sizes.slot(head, slots, sizes.chunks);
    copy(d_finals, d_borders, head * all, last, v_tile, sizes, plan);

    for back in 0..sizes.chunks {
        let n = sizes.chunks - 1 - back;
        let chunk = Chunk::new(sizes, head, n, plan);
        let ends = sizes.slot(head, slots, n + 1);
        let starts = sizes.slot(head, slots, n);
        let block = chunk.values(v_tile);
        load::<f32, E>(&mut d_o, d_outputs, block, plan);
        load::<E, E>(&mut query, scores, chunk.square(Square::First), plan);
        sync_cube();
        // dDm = Aᵀ dO + Σ_s diag(u_s e^(b_C − b_s)) K dH_s, then dX = (I + L)⁻ᵀ dDm.
        let mut d_errors = zeros(plan);
        multiply::<E>(&mut d_errors, &query, &d_o, &mut spare, Turned::Left, plan);
        sync_cube();
        for k_tile in 0..k_tiles {
            load::<F, E>(&mut key, k, chunk.keys(k_tile), plan);
            for s in 0..sizes.s {
                let end = sizes.state(ends, s, k_tile, v_tile, side);
                load::<f32, E>(&mut state, &*d_borders, end, plan);
                sync_cube();
                let mut part = zeros(plan);
                multiply::<E>(&mut part, &key, &state, &mut spare, Turned::No, plan);
                add_rows(&mut d_errors, &chunk.to_end(gates, s), &part, plan);
                sync_cube();
            }
        }
        put::<E>(&mut d_x, &d_errors, pitch, plan);
        if comptime!(plan.delta) {
            load::<E, E>(&mut query, scores, chunk.square(Square::Second), plan);
            sync_cube();
            d_errors = zeros(plan);
            multiply::<E>(&mut d_errors, &query, &d_x, &mut spare, Turned::Left, plan);
            sync_cube();
            put::<E>(&mut d_x, &d_errors, pitch, plan);
        }
        store_tile::<E, E>(d_v, block, &d_x, pitch, plan);
        // dH_s ← e^(b_C) dH_s + Qᵀ diag(r_s e^(b_s)) dO − Kᵀ diag(p_s e^(b_s)) dX.
        for s in 0..sizes.s {
            let kept = chunk.kept(gates, s);
            for k_tile in 0..k_tiles {
                load_weighted::<F, E>(&mut query, q, k_tile, gates, Gate::Read, s, 1.0f32, chunk);
                if comptime!(plan.delta) {
                    let erase = comptime!(Gate::Erase);
                    load_weighted::<F, E>(&mut key, k, k_tile, gates, erase, s, -1.0f32, chunk);
                }
                sync_cube();
                let mut next = zeros(plan);
                multiply::<E>(&mut next, &query, &d_o, &mut spare, Turned::Left, plan);
                if comptime!(plan.delta) {
                    multiply::<E>(&mut next, &key, &d_x, &mut spare, Turned::Left, plan);
                }
                put::<f32>(&mut spare, &next, comptime!(plan.spare_pitch()), plan);
                let end = sizes.state(ends, s, k_tile, v_tile, side);
                let start = sizes.state(starts, s, k_tile, v_tile, side);
                carry_on(d_borders, end, start, kept, &spare, plan);
                sync_cube();
            }
        }
    }
    let first = sizes.slot(head, slots, 0);
    copy(&*d_borders, d_state, first, head * all, v_tile, sizes, plan);
}

/// `factor · diag(weight . e^b)` times a tile of keys or queries.
#[cube]
fn load_weighted<F: Float, E: Float>(
    tile: &mut Shared<[E]>,
    buffer: &[F],
    k_tile: usize,
    gates: &[f32],
    #[comptime] weight: Gate,
    s: usize,
    factor: f32,
    chunk: Chunk,
) {
    let plan = comptime!(chunk.plan);
    let block = chunk.keys(k_tile);
    let decay = chunk.gate(Gate::Decay, s);
    let weight = chunk.gate(weight, s);
    let mut row = UNIT_POS_Y as usize;
    while row < comptime!(plan.side) {
        let scale = factor * gates[weight + row] * gates[decay + row].exp();
        #[unroll]
        for j in 0..comptime!(plan.owned()) {
            let col = own_col(j);
            tile[row * comptime!(plan.pitch()) + col] =
                E::cast_from(scale * value::<F>(buffer, block, row, col));
        }
        row += CUBE_DIM_Y as usize;
    }
}
