//! Backward, third part: the gradients of queries and keys, and what reaches the gates through the
//! states, for all chunks at once.

use super::product::{Turned, multiply};
use super::reduce::{Over, over_units, sums};
use super::sizes::{Chunk, Gate, Sizes, Square};
use super::tile::{Plan, add_rows, col_of, load, own_col, own_row, row_of, store, value, zeros};
use burn_cubecl::cubecl;
use cubecl::prelude::*;

/// A cube a tile of keys, chunk and head. `parts` gets the gradients of the gates through this
/// tile of keys, and behind them `⟨dH_s, H_s⟩` at every chunk's end, `[tiles of K, B·H, S, N]`.
#[cube(launch_unchecked)]
pub(super) fn through<F: Float, E: Float>(
    q: &[F],
    k: &[F],
    gates: &[f32],
    saved: &[f32],
    d_outputs: &[f32],
    d_v: &[E],
    d_borders: &[f32],
    d_scores: &[E],
    d_q: &mut [F],
    d_k: &mut [F],
    parts: &mut [f32],
    sizes: Sizes,
    #[comptime] plan: Plan,
    #[define(F, E)] _dtypes: [ElemType; 2],
) {
    let side = comptime!(plan.side);
    let k_tiles = sizes.k.div_ceil(side.runtime());
    if CUBE_POS >= sizes.heads * sizes.chunks * k_tiles {
        terminate!();
    }
    let k_tile = CUBE_POS % k_tiles;
    let chunk = Chunk::numbered(sizes, CUBE_POS / k_tiles, plan);
    let own = comptime!(plan.owned());
    let all = comptime!(plan.all_owned());
    let len = comptime!(plan.len());
    let mut spare = Shared::<[f32]>::new_slice(comptime!(plan.spare_len()));
    let mut query = Shared::<[E]>::new_slice(len);
    let mut key = Shared::<[E]>::new_slice(len);
    let mut first = Shared::<[E]>::new_slice(len);
    let mut second = Shared::<[E]>::new_slice(len);
    let mut third = Shared::<[E]>::new_slice(len);
    let keys = chunk.keys(k_tile);
    load::<F, E>(&mut query, q, keys, plan);
    load::<F, E>(&mut key, k, keys, plan);
    // dQ = dP K, dK = dPᵀ Q + (dG + dGᵀ) K.
    load::<E, E>(&mut first, d_scores, chunk.square(Square::First), plan);
    if comptime!(plan.delta) {
        load::<E, E>(&mut second, d_scores, chunk.square(Square::Second), plan);
    }
    sync_cube();
    let mut of_q = zeros(plan);
    let mut of_k = zeros(plan);
    multiply::<E>(&mut of_q, &first, &key, &mut spare, Turned::No, plan);
    multiply::<E>(&mut of_k, &first, &query, &mut spare, Turned::Left, plan);
    if comptime!(plan.delta) {
        multiply::<E>(&mut of_k, &second, &key, &mut spare, Turned::No, plan);
    }
    sync_cube();
    let slots = sizes.chunks + 1;
    let behind = sizes.slot(sizes.heads, slots, 0);
    let starts = sizes.slot(chunk.head, slots, chunk.n);
    let ends = sizes.slot(chunk.head, slots, chunk.n + 1);
    for s in 0..sizes.s {
        // Y = dO H⁰ᵀ, Z = Dm dH¹ᵀ, Y' = −dX H⁰ᵀ, and this unit's part of ⟨dH¹, H¹⟩.
        let mut y = zeros(plan);
        let mut z = zeros(plan);
        let mut recalled = zeros(plan);
        let mut dot = 0.0f32;
        for v_tile in 0..chunk.tiles(sizes.v) {
            let values = chunk.values(v_tile);
            let start = sizes.state(starts, s, k_tile, v_tile, side);
            load::<f32, E>(&mut first, saved, start, plan);
            load::<f32, E>(&mut second, d_outputs, values, plan);
            if comptime!(plan.delta) {
                load::<E, E>(&mut third, d_v, values, plan);
            }
            sync_cube();
            let turned = comptime!(Turned::Right);
            multiply::<E>(&mut y, &second, &first, &mut spare, turned, plan);
            if comptime!(plan.delta) {
                multiply::<E>(&mut recalled, &third, &first, &mut spare, turned, plan);
            }
            sync_cube();
            let end = sizes.state(ends, s, k_tile, v_tile, side);
            load::<f32, E>(&mut first, d_borders, end, plan);
            load::<f32, E>(&mut second, saved, values.shifted(behind), plan);
            #[unroll]
            for at in 0..all {
                let row = row_of(at, plan);
                let col = col_of(at, plan);
                dot += value::<f32>(saved, end, row, col) * value::<f32>(d_borders, end, row, col);
            }
            sync_cube();
            multiply::<E>(&mut z, &second, &first, &mut spare, turned, plan);
            sync_cube();
        }
        #[unroll]
        for at in 0..all {
            recalled[at] = 0.0f32 - recalled[at];
        }
        let reads = chunk.from_start(gates, Gate::Read, s);
        add_rows(&mut of_q, &reads, &y, plan);
        add_rows(&mut of_k, &chunk.to_end(gates, s), &z, plan);
        if comptime!(plan.delta) {
            let recalls = chunk.from_start(gates, Gate::Erase, s);
            add_rows(&mut of_k, &recalls, &recalled, plan);
        }
        // The gates' own: e^b q·Y, e^(b_C − b) k·Z, e^b k·Y'.
        let decay = chunk.gate(Gate::Decay, s);
        let last = gates[decay + side - 1];
        #[unroll]
        for i in 0..own {
            let row = own_row(i);
            let start = gates[decay + row].exp();
            let rest = (last - gates[decay + row]).exp();
            #[unroll]
            for j in 0..own {
                let at = comptime!(i * own + j);
                let here = row * comptime!(plan.pitch()) + own_col(j);
                y[at] *= start * f32::cast_from(query[here]);
                z[at] *= rest * f32::cast_from(key[here]);
                recalled[at] *= start * f32::cast_from(key[here]);
            }
        }
        let part = k_tile + 1;
        let read = chunk.part(part, Gate::Read, s);
        sums(&y, Over::Cols, parts, read, &mut spare, plan);
        let write = chunk.part(part, Gate::Write, s);
        sums(&z, Over::Cols, parts, write, &mut spare, plan);
        if comptime!(plan.delta) {
            let erase = chunk.part(part, Gate::Erase, s);
            sums(&recalled, Over::Cols, parts, erase, &mut spare, plan);
        }
        over_units(dot, parts, chunk.end(k_tile, s), &mut spare);
    }
    store::<F>(d_q, keys, &of_q, plan);
    store::<F>(d_k, keys, &of_k, plan);
}
