//! Forward: the states carried over the chunks of a head, first to last, with errors and outputs
//! of every chunk on the way. One long body: its steps share the tiles that lie in shared memory.

use super::product::{Turned, multiply};
use super::sizes::{Chunk, Gate, Sizes, Square};
use super::tile::{
    Plan, add_rows, carry_on, col_of, load, own_col, put, row_of, store_tile, value, zeros,
};
use burn_cubecl::cubecl;
use cubecl::prelude::*;

/// A cube a head and tile of values. `saved` holds the states before every chunk and after the
/// last, `[B·H, N + 1, S, K, V]`, and behind them the errors `Dm` `[B, T, H, V]`; unless `save`
/// is set, one state a head that every chunk overwrites. `finals` get the states after the last.
#[cube(launch_unchecked)]
pub(super) fn carry<F: Float, E: Float>(
    q: &[F],
    k: &[F],
    v: &[F],
    gates: &[f32],
    scores: &[E],
    initial: &[f32],
    saved: &mut [f32],
    outputs: &mut [f32],
    finals: &mut [f32],
    sizes: Sizes,
    #[comptime] save: bool,
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
    let spare_pitch = comptime!(plan.spare_pitch());
    let mut spare = Shared::<[f32]>::new_slice(comptime!(plan.spare_len()));
    let mut key = Shared::<[E]>::new_slice(len);
    let mut query = Shared::<[E]>::new_slice(len);
    let mut state = Shared::<[E]>::new_slice(len);
    let mut rows = Shared::<[E]>::new_slice(len);
    let step = comptime!(save as usize);
    let slots = sizes.chunks * step + 1;
    let all = sizes.s * sizes.k * sizes.v;
    let first = sizes.slot(head, slots, 0);
    copy(initial, saved, head * all, first, v_tile, sizes, plan);

    for n in 0..sizes.chunks {
        let chunk = Chunk::new(sizes, head, n, plan);
        let from = sizes.slot(head, slots, n * step);
        let to = sizes.slot(head, slots, (n + 1) * step);
        let block = chunk.values(v_tile);
        // What the states recall, Σ_s diag(p_s e^(b_s)) K H_s, and answer, Σ_s diag(r_s e^(b_s)) Q H_s.
        let mut recalled = zeros(plan);
        let mut o = zeros(plan);
        for k_tile in 0..k_tiles {
            let keys = chunk.keys(k_tile);
            load::<F, E>(&mut key, k, keys, plan);
            load::<F, E>(&mut query, q, keys, plan);
            for s in 0..sizes.s {
                let old = sizes.state(from, s, k_tile, v_tile, side);
                load::<f32, E>(&mut state, &*saved, old, plan);
                sync_cube();
                if comptime!(plan.delta) {
                    let mut part = zeros(plan);
                    multiply::<E>(&mut part, &key, &state, &mut spare, Turned::No, plan);
                    let weights = chunk.from_start(gates, Gate::Erase, s);
                    add_rows(&mut recalled, &weights, &part, plan);
                }
                let mut part = zeros(plan);
                multiply::<E>(&mut part, &query, &state, &mut spare, Turned::No, plan);
                let weights = chunk.from_start(gates, Gate::Read, s);
                add_rows(&mut o, &weights, &part, plan);
                sync_cube();
            }
        }
        // X = V − recalled, then Dm = (I + L)⁻¹ X.
        let mut errors = zeros(plan);
        #[unroll]
        for at in 0..comptime!(plan.all_owned()) {
            let there = value::<F>(v, block, row_of(at, plan), col_of(at, plan));
            errors[at] = there - recalled[at];
        }
        put::<E>(&mut rows, &errors, pitch, plan);
        if comptime!(plan.delta) {
            load::<E, E>(&mut query, scores, chunk.square(Square::Second), plan);
            sync_cube();
            errors = zeros(plan);
            multiply::<E>(&mut errors, &query, &rows, &mut spare, Turned::No, plan);
            sync_cube();
            put::<E>(&mut rows, &errors, pitch, plan);
        }
        if comptime!(save) {
            let behind = sizes.slot(sizes.heads, slots, 0);
            store_tile::<E, f32>(saved, block.shifted(behind), &rows, pitch, plan);
        }
        // O = A Dm + Σ_s diag(r_s e^(b_s)) Q H_s.
        load::<E, E>(&mut query, scores, chunk.square(Square::First), plan);
        sync_cube();
        multiply::<E>(&mut o, &query, &rows, &mut spare, Turned::No, plan);
        put::<f32>(&mut spare, &o, spare_pitch, plan);
        store_tile::<f32, f32>(outputs, block, &spare, spare_pitch, plan);
        sync_cube();
        // H_s ← e^(b_C) H_s + Kᵀ diag(u_s e^(b_C − b_s)) Dm.
        for s in 0..sizes.s {
            let kept = chunk.kept(gates, s);
            let mut weighted = zeros(plan);
            add_rows(&mut weighted, &chunk.to_end(gates, s), &errors, plan);
            put::<E>(&mut rows, &weighted, pitch, plan);
            for k_tile in 0..k_tiles {
                load::<F, E>(&mut key, k, chunk.keys(k_tile), plan);
                sync_cube();
                let mut next = zeros(plan);
                multiply::<E>(&mut next, &key, &rows, &mut spare, Turned::Left, plan);
                put::<f32>(&mut spare, &next, spare_pitch, plan);
                let old = sizes.state(from, s, k_tile, v_tile, side);
                let new = sizes.state(to, s, k_tile, v_tile, side);
                carry_on(saved, old, new, kept, &spare, plan);
                sync_cube();
            }
        }
    }
    let last = sizes.slot(head, slots, slots - 1);
    copy(&*saved, finals, last, head * all, v_tile, sizes, plan);
}

/// A tile of values of all states of a head, from `[S, K, V]` at `from` to `[S, K, V]` at `to`.
#[cube]
pub(super) fn copy(
    source: &[f32],
    target: &mut [f32],
    from: usize,
    to: usize,
    v_tile: usize,
    sizes: Sizes,
    #[comptime] plan: Plan,
) {
    let side = comptime!(plan.side);
    for s in 0..sizes.s {
        for k_tile in 0..sizes.k.div_ceil(side.runtime()) {
            let old = sizes.state(from, s, k_tile, v_tile, side);
            let new = sizes.state(to, s, k_tile, v_tile, side);
            let mut row = UNIT_POS_Y as usize;
            while row < side {
                #[unroll]
                for j in 0..comptime!(plan.owned()) {
                    let col = own_col(j);
                    if row < old.rows && col < old.cols {
                        target[new.start + row * new.stride + col] =
                            source[old.start + row * old.stride + col];
                    }
                }
                row += CUBE_DIM_Y as usize;
            }
        }
    }
}
