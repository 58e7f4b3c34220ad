//! Backward, first part: the gradient of the states carried back over the chunks of a head, last
//! to first, with the gradient of the values on the way.

use super::carry::copy;
use super::gates::to_end;
use super::product::{Lies, multiply};
use super::sizes::{Gate, Sizes, Square};
use super::tile::{
    Block, Plan, add_rows, carry_on, load, own_col, put, put_spare, store_tile, value, zeros,
};
use burn_cubecl::cubecl;
use cubecl::prelude::*;

/// A cube a head and tile of values. `d_both` is the gradient of outputs and final states;
/// `d_borders` gets the gradients of the states before every chunk and after the last,
/// `[B·H, N + 1, S, K, V]`, `d_v` that of the values and `d_state` that of the initial states.
#[cube(launch_unchecked)]
#[allow(
    clippy::too_many_arguments,
    reason = "a kernel's arguments are its buffers"
)]
pub(super) fn carry_back<F: Float, E: Float>(
    q: &[F],
    k: &[F],
    gates: &[f32],
    scores: &[E],
    d_both: &[f32],
    d_borders: &mut [f32],
    d_v: &mut [E],
    d_state: &mut [f32],
    sizes: Sizes,
    #[comptime] delta: bool,
    #[comptime] plan: Plan,
    #[define(F, E)] _dtypes: [ElemType; 2],
) {
    let side = comptime!(plan.side);
    let v_tiles = sizes.v.div_ceil(side.runtime());
    if CUBE_POS >= sizes.heads * v_tiles {
        terminate!();
    }
    let v_tile = CUBE_POS % v_tiles;
    let head = CUBE_POS / v_tiles;
    let len = comptime!(plan.len());
    let mut spare = Shared::<[f32]>::new_slice(comptime!(plan.spare_len()));
    let mut key = Shared::<[E]>::new_slice(len);
    let mut query = Shared::<[E]>::new_slice(len);
    let mut state = Shared::<[E]>::new_slice(len);
    let mut d_o = Shared::<[E]>::new_slice(len);
    let mut d_x = Shared::<[E]>::new_slice(len);
    let slots = sizes.chunks + 1;
    let all = sizes.s * sizes.k * sizes.v;
    let last = sizes.slot(head, slots, sizes.chunks, 0);
    copy(
        d_both,
        d_borders,
        sizes.outputs() + head * all,
        last,
        v_tile,
        sizes,
        plan,
    );

    for back in 0..sizes.chunks {
        let n = sizes.chunks - 1 - back;
        let block = sizes.rows(head, n, v_tile, sizes.v, side);
        load::<f32, E>(&mut d_o, d_both, block, plan);
        load::<E, E>(
            &mut query,
            scores,
            sizes.square(Square::First, head, n, side),
            plan,
        );
        sync_cube();
        // dDm = Aᵀ dO + Σ_s diag(u_s e^(b_C − b_s)) K dH_s, then dX = (I + L)⁻ᵀ dDm.
        let mut d_errors = zeros(plan);
        multiply::<E>(
            &mut d_errors,
            &query,
            &d_o,
            &mut spare,
            Lies::Transposed,
            Lies::Straight,
            plan,
        );
        sync_cube();
        let ends = sizes.slot(head, slots, n + 1, 0);
        through_writes::<F, E>(
            k,
            gates,
            &*d_borders,
            &mut key,
            &mut state,
            &mut d_errors,
            &mut spare,
            head,
            n,
            v_tile,
            ends,
            sizes,
            plan,
        );
        put::<E>(&mut d_x, &d_errors, plan);
        if comptime!(delta) {
            load::<E, E>(
                &mut query,
                scores,
                sizes.square(Square::Second, head, n, side),
                plan,
            );
            sync_cube();
            d_errors = zeros(plan);
            multiply::<E>(
                &mut d_errors,
                &query,
                &d_x,
                &mut spare,
                Lies::Transposed,
                Lies::Straight,
                plan,
            );
            sync_cube();
            put::<E>(&mut d_x, &d_errors, plan);
        }
        store_tile::<E, E>(d_v, block, &d_x, comptime!(plan.pitch()), plan);
        let starts = sizes.slot(head, slots, n, 0);
        through_states::<F, E>(
            q, k, gates, d_borders, &mut key, &mut query, &d_o, &d_x, &mut spare, head, n, v_tile,
            ends, starts, sizes, delta, plan,
        );
    }
    copy(
        &*d_borders,
        d_state,
        sizes.slot(head, slots, 0, 0),
        head * all,
        v_tile,
        sizes,
        plan,
    );
}

/// `acc += Σ_s diag(u_s e^(b_C − b_s)) K dH_s`. The tiles are free when this returns.
#[cube]
#[allow(
    clippy::too_many_arguments,
    reason = "a kernel's values live in its body"
)]
fn through_writes<F: Float, E: Float>(
    k: &[F],
    gates: &[f32],
    d_borders: &[f32],
    key: &mut Shared<[E]>,
    state: &mut Shared<[E]>,
    acc: &mut Array<f32>,
    spare: &mut Shared<[f32]>,
    head: usize,
    n: usize,
    v_tile: usize,
    ends: usize,
    sizes: Sizes,
    #[comptime] plan: Plan,
) {
    let side = comptime!(plan.side);
    let mut k_tile = 0usize;
    while k_tile * side < sizes.k {
        load::<F, E>(key, k, sizes.rows(head, n, k_tile, sizes.k, side), plan);
        for s in 0..sizes.s {
            let here = ends + s * sizes.k * sizes.v;
            load::<f32, E>(
                state,
                d_borders,
                sizes.state(here, k_tile, v_tile, side),
                plan,
            );
            sync_cube();
            let mut part = zeros(plan);
            multiply::<E>(
                &mut part,
                &*key,
                &*state,
                spare,
                Lies::Straight,
                Lies::Straight,
                plan,
            );
            let decay = sizes.gate(Gate::Decay, head, s, n, side);
            let weights = to_end(
                gates,
                decay,
                sizes.gate(Gate::Write, head, s, n, side),
                plan,
            );
            add_rows(acc, &weights, &part, plan);
            sync_cube();
        }
        k_tile += 1;
    }
}

/// `dH_s ← e^(b_C) dH_s + Qᵀ diag(r_s e^(b_s)) dO − Kᵀ diag(p_s e^(b_s)) dX`. The tiles are free
/// when this returns.
#[cube]
#[allow(
    clippy::too_many_arguments,
    reason = "a kernel's values live in its body"
)]
fn through_states<F: Float, E: Float>(
    q: &[F],
    k: &[F],
    gates: &[f32],
    d_borders: &mut [f32],
    key: &mut Shared<[E]>,
    query: &mut Shared<[E]>,
    d_o: &Shared<[E]>,
    d_x: &Shared<[E]>,
    spare: &mut Shared<[f32]>,
    head: usize,
    n: usize,
    v_tile: usize,
    ends: usize,
    starts: usize,
    sizes: Sizes,
    #[comptime] delta: bool,
    #[comptime] plan: Plan,
) {
    let side = comptime!(plan.side);
    for s in 0..sizes.s {
        let decay = sizes.gate(Gate::Decay, head, s, n, side);
        let read = sizes.gate(Gate::Read, head, s, n, side);
        let erase = sizes.gate(Gate::Erase, head, s, n, side);
        let skip = s * sizes.k * sizes.v;
        let kept = gates[decay + side - 1].exp();
        let mut k_tile = 0usize;
        while k_tile * side < sizes.k {
            let keys = sizes.rows(head, n, k_tile, sizes.k, side);
            load_weighted::<F, E>(query, q, keys, gates, decay, read, 1.0f32, plan);
            if comptime!(delta) {
                load_weighted::<F, E>(key, k, keys, gates, decay, erase, -1.0f32, plan);
            }
            sync_cube();
            let mut next = zeros(plan);
            multiply::<E>(
                &mut next,
                &*query,
                d_o,
                spare,
                Lies::Transposed,
                Lies::Straight,
                plan,
            );
            if comptime!(delta) {
                multiply::<E>(
                    &mut next,
                    &*key,
                    d_x,
                    spare,
                    Lies::Transposed,
                    Lies::Straight,
                    plan,
                );
            }
            put_spare(spare, &next, plan);
            carry_on(
                d_borders,
                sizes.state(ends + skip, k_tile, v_tile, side),
                sizes.state(starts + skip, k_tile, v_tile, side),
                kept,
                &*spare,
                plan,
            );
            sync_cube();
            k_tile += 1;
        }
    }
}

/// `factor · diag(weight . e^b)` times a block, into a tile.
#[cube]
#[allow(
    clippy::too_many_arguments,
    reason = "a kernel's values live in its body"
)]
fn load_weighted<F: Float, E: Float>(
    tile: &mut Shared<[E]>,
    buffer: &[F],
    block: Block,
    gates: &[f32],
    decay: usize,
    weight: usize,
    factor: f32,
    #[comptime] plan: Plan,
) {
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
