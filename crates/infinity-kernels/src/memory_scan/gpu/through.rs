//! Backward, third part: the gradients of queries and keys, and what reaches the gates through the
//! states, for all chunks at once.

use super::gates::{from_start, to_end};
use super::product::{Lies, multiply};
use super::reduce::{over_cols, over_units};
use super::sizes::{Gate, Sizes, Square};
use super::tile::{Plan, add_rows, load, own_col, own_row, store, value, zeros};
use burn_cubecl::cubecl;
use cubecl::prelude::*;

/// A cube a tile of keys, chunk and head. `parts` gets the gradients of the gates through this
/// tile of keys, and behind them `⟨dH_s, H_s⟩` at every chunk's end, `[tiles of K, B·H, S, N]`.
#[cube(launch_unchecked)]
#[allow(
    clippy::too_many_arguments,
    reason = "a kernel's arguments are its buffers"
)]
pub(super) fn through<F: Float, E: Float>(
    q: &[F],
    k: &[F],
    gates: &[f32],
    saved: &[f32],
    d_both: &[f32],
    d_v: &[E],
    d_borders: &[f32],
    d_scores: &[E],
    d_q: &mut [F],
    d_k: &mut [F],
    parts: &mut [f32],
    sizes: Sizes,
    #[comptime] delta: bool,
    #[comptime] plan: Plan,
    #[define(F, E)] _dtypes: [ElemType; 2],
) {
    let side = comptime!(plan.side);
    let k_tiles = sizes.k.div_ceil(side.runtime());
    if CUBE_POS >= sizes.heads * sizes.chunks * k_tiles {
        terminate!();
    }
    let k_tile = CUBE_POS % k_tiles;
    let n = CUBE_POS / k_tiles % sizes.chunks;
    let head = CUBE_POS / (k_tiles * sizes.chunks);
    let len = comptime!(plan.len());
    let mut spare = Shared::<[f32]>::new_slice(comptime!(plan.spare_len()));
    let mut query = Shared::<[E]>::new_slice(len);
    let mut key = Shared::<[E]>::new_slice(len);
    let mut first = Shared::<[E]>::new_slice(len);
    let mut second = Shared::<[E]>::new_slice(len);
    let mut third = Shared::<[E]>::new_slice(len);
    let keys = sizes.rows(head, n, k_tile, sizes.k, side);
    load::<F, E>(&mut query, q, keys, plan);
    load::<F, E>(&mut key, k, keys, plan);
    // dQ = dP K, dK = dPᵀ Q + (dG + dGᵀ) K.
    load::<E, E>(
        &mut first,
        d_scores,
        sizes.square(Square::First, head, n, side),
        plan,
    );
    if comptime!(delta) {
        load::<E, E>(
            &mut second,
            d_scores,
            sizes.square(Square::Second, head, n, side),
            plan,
        );
    }
    sync_cube();
    let mut of_q = zeros(plan);
    let mut of_k = zeros(plan);
    multiply::<E>(
        &mut of_q,
        &first,
        &key,
        &mut spare,
        Lies::Straight,
        Lies::Straight,
        plan,
    );
    multiply::<E>(
        &mut of_k,
        &first,
        &query,
        &mut spare,
        Lies::Transposed,
        Lies::Straight,
        plan,
    );
    if comptime!(delta) {
        multiply::<E>(
            &mut of_k,
            &second,
            &key,
            &mut spare,
            Lies::Straight,
            Lies::Straight,
            plan,
        );
    }
    sync_cube();
    for s in 0..sizes.s {
        let mut y = zeros(plan);
        let mut z = zeros(plan);
        let mut recalled = zeros(plan);
        let end = states::<E>(
            saved,
            d_both,
            d_v,
            d_borders,
            &mut first,
            &mut second,
            &mut third,
            &mut y,
            &mut z,
            &mut recalled,
            &mut spare,
            head,
            n,
            s,
            k_tile,
            sizes,
            delta,
            plan,
        );
        let decay = sizes.gate(Gate::Decay, head, s, n, side);
        let reads = from_start(gates, decay, sizes.gate(Gate::Read, head, s, n, side), plan);
        let writes = to_end(
            gates,
            decay,
            sizes.gate(Gate::Write, head, s, n, side),
            plan,
        );
        add_rows(&mut of_q, &reads, &y, plan);
        add_rows(&mut of_k, &writes, &z, plan);
        if comptime!(delta) {
            let erase = sizes.gate(Gate::Erase, head, s, n, side);
            add_rows(
                &mut of_k,
                &from_start(gates, decay, erase, plan),
                &recalled,
                plan,
            );
        }
        // The gates' own: e^b q·Y, e^(b_C − b) k·Z, e^b k·Y'.
        let last = gates[decay + side - 1];
        #[unroll]
        for i in 0..comptime!(plan.owned()) {
            let row = own_row(i);
            let start = gates[decay + row].exp();
            let rest = (last - gates[decay + row]).exp();
            #[unroll]
            for j in 0..comptime!(plan.owned()) {
                let at = comptime!(i * plan.owned() + j);
                let here = row * comptime!(plan.pitch()) + own_col(j);
                y[at] *= start * f32::cast_from(query[here]);
                z[at] *= rest * f32::cast_from(key[here]);
                recalled[at] *= start * f32::cast_from(key[here]);
            }
        }
        let read = sizes.part(k_tile + 1, Gate::Read, head, s, n, side);
        over_cols(&y, parts, read, &mut spare, plan);
        let write = sizes.part(k_tile + 1, Gate::Write, head, s, n, side);
        over_cols(&z, parts, write, &mut spare, plan);
        if comptime!(delta) {
            let erase = sizes.part(k_tile + 1, Gate::Erase, head, s, n, side);
            over_cols(&recalled, parts, erase, &mut spare, plan);
        }
        over_units(end, parts, sizes.end(k_tile, head, s, n, side), &mut spare);
    }
    store::<F>(d_q, keys, &of_q, plan);
    store::<F>(d_k, keys, &of_k, plan);
}

/// `Y = dO H⁰ᵀ`, `Z = Dm dH¹ᵀ` and `Y' = −dX H⁰ᵀ` of one state, and this unit's part of
/// `⟨dH¹, H¹⟩`. The tiles are free when this returns.
#[cube]
#[allow(
    clippy::too_many_arguments,
    reason = "a kernel's values live in its body"
)]
fn states<E: Float>(
    saved: &[f32],
    d_both: &[f32],
    d_v: &[E],
    d_borders: &[f32],
    first: &mut Shared<[E]>,
    second: &mut Shared<[E]>,
    third: &mut Shared<[E]>,
    y: &mut Array<f32>,
    z: &mut Array<f32>,
    recalled: &mut Array<f32>,
    spare: &mut Shared<[f32]>,
    head: usize,
    n: usize,
    s: usize,
    k_tile: usize,
    sizes: Sizes,
    #[comptime] delta: bool,
    #[comptime] plan: Plan,
) -> f32 {
    let side = comptime!(plan.side);
    let slots = sizes.chunks + 1;
    let behind = sizes.slot(sizes.heads, slots, 0, 0);
    let start = sizes.slot(head, slots, n, s);
    let end = sizes.slot(head, slots, n + 1, s);
    let mut dot = 0.0f32;
    let mut v_tile = 0usize;
    while v_tile * side < sizes.v {
        let values = sizes.rows(head, n, v_tile, sizes.v, side);
        load::<f32, E>(first, saved, sizes.state(start, k_tile, v_tile, side), plan);
        load::<f32, E>(second, d_both, values, plan);
        if comptime!(delta) {
            load::<E, E>(third, d_v, values, plan);
        }
        sync_cube();
        multiply::<E>(
            y,
            &*second,
            &*first,
            spare,
            Lies::Straight,
            Lies::Transposed,
            plan,
        );
        if comptime!(delta) {
            multiply::<E>(
                recalled,
                &*third,
                &*first,
                spare,
                Lies::Straight,
                Lies::Transposed,
                plan,
            );
        }
        sync_cube();
        let ends = sizes.state(end, k_tile, v_tile, side);
        load::<f32, E>(first, d_borders, ends, plan);
        load::<f32, E>(second, saved, values.shifted(behind), plan);
        #[unroll]
        for i in 0..comptime!(plan.owned()) {
            #[unroll]
            for j in 0..comptime!(plan.owned()) {
                dot += value::<f32>(saved, ends, own_row(i), own_col(j))
                    * value::<f32>(d_borders, ends, own_row(i), own_col(j));
            }
        }
        sync_cube();
        multiply::<E>(
            z,
            &*second,
            &*first,
            spare,
            Lies::Straight,
            Lies::Transposed,
            plan,
        );
        sync_cube();
        v_tile += 1;
    }
    #[unroll]
    for i in 0..comptime!(plan.owned() * plan.owned()) {
        recalled[i] = 0.0f32 - recalled[i];
    }
    dot
}
