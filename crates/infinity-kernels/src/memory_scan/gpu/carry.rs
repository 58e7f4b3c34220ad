//! Forward: the states carried over the chunks of a head, first to last, with errors and outputs
//! of every chunk on the way.

use super::gates::{from_start, to_end};
use super::product::{Lies, multiply};
use super::sizes::{Gate, Sizes, Square};
use super::tile::{
    Plan, add_rows, carry_on, load, own_col, own_row, put, put_spare, store_tile, value, zeros,
};
use burn_cubecl::cubecl;
use cubecl::prelude::*;

/// A cube a head and tile of values. `saved` holds the states before every chunk and after the
/// last, `[B·H, N + 1, S, K, V]`, and behind them the errors `Dm` `[B, T, H, V]`; unless `save`
/// is set, one state a head that every chunk overwrites. `both` gets outputs, then final states.
#[cube(launch_unchecked)]
#[allow(
    clippy::too_many_arguments,
    reason = "a kernel's arguments are its buffers"
)]
pub(super) fn carry<F: Float, E: Float>(
    q: &[F],
    k: &[F],
    v: &[F],
    gates: &[f32],
    scores: &[E],
    initial: &[f32],
    saved: &mut [f32],
    both: &mut [f32],
    sizes: Sizes,
    #[comptime] delta: bool,
    #[comptime] save: bool,
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
    let mut rows = Shared::<[E]>::new_slice(len);
    let step = comptime!(save as usize);
    let slots = sizes.chunks * step + 1;
    let all = sizes.s * sizes.k * sizes.v;
    copy(
        initial,
        saved,
        head * all,
        sizes.slot(head, slots, 0, 0),
        v_tile,
        sizes,
        plan,
    );

    for n in 0..sizes.chunks {
        let from = sizes.slot(head, slots, n * step, 0);
        let to = sizes.slot(head, slots, (n + 1) * step, 0);
        let block = sizes.rows(head, n, v_tile, sizes.v, side);
        let mut recalled = zeros(plan);
        let mut o = zeros(plan);
        read::<F, E>(
            q,
            k,
            gates,
            &*saved,
            &mut key,
            &mut query,
            &mut state,
            &mut recalled,
            &mut o,
            &mut spare,
            head,
            n,
            v_tile,
            from,
            sizes,
            delta,
            plan,
        );
        // X = V − recalled, then Dm = (I + L)⁻¹ X.
        let mut errors = zeros(plan);
        #[unroll]
        for i in 0..comptime!(plan.owned()) {
            #[unroll]
            for j in 0..comptime!(plan.owned()) {
                let x = value::<F>(v, block, own_row(i), own_col(j));
                errors[comptime!(i * plan.owned() + j)] =
                    x - recalled[comptime!(i * plan.owned() + j)];
            }
        }
        put::<E>(&mut rows, &errors, plan);
        if comptime!(delta) {
            load::<E, E>(
                &mut query,
                scores,
                sizes.square(Square::Second, head, n, side),
                plan,
            );
            sync_cube();
            errors = zeros(plan);
            multiply::<E>(
                &mut errors,
                &query,
                &rows,
                &mut spare,
                Lies::Straight,
                Lies::Straight,
                plan,
            );
            sync_cube();
            put::<E>(&mut rows, &errors, plan);
        }
        if comptime!(save) {
            let behind = sizes.slot(sizes.heads, slots, 0, 0);
            store_tile::<E, f32>(
                saved,
                block.shifted(behind),
                &rows,
                comptime!(plan.pitch()),
                plan,
            );
        }
        // O = A Dm + Σ_s diag(r_s e^(b_s)) Q H_s.
        load::<E, E>(
            &mut query,
            scores,
            sizes.square(Square::First, head, n, side),
            plan,
        );
        sync_cube();
        multiply::<E>(
            &mut o,
            &query,
            &rows,
            &mut spare,
            Lies::Straight,
            Lies::Straight,
            plan,
        );
        put_spare(&mut spare, &o, plan);
        store_tile::<f32, f32>(both, block, &spare, comptime!(plan.spare_pitch()), plan);
        sync_cube();
        write::<F, E>(
            k, gates, saved, &mut key, &mut rows, &errors, &mut spare, head, n, v_tile, from, to,
            sizes, plan,
        );
    }
    let last = sizes.slot(head, slots, slots - 1, 0);
    copy(
        &*saved,
        both,
        last,
        sizes.outputs() + head * all,
        v_tile,
        sizes,
        plan,
    );
}

/// What the states recall, `Σ_s diag(p_s e^(b_s)) K H_s`, and what they answer,
/// `Σ_s diag(r_s e^(b_s)) Q H_s`. The tiles are free when this returns.
#[cube]
#[allow(
    clippy::too_many_arguments,
    reason = "a kernel's values live in its body"
)]
fn read<F: Float, E: Float>(
    q: &[F],
    k: &[F],
    gates: &[f32],
    saved: &[f32],
    key: &mut Shared<[E]>,
    query: &mut Shared<[E]>,
    state: &mut Shared<[E]>,
    recalled: &mut Array<f32>,
    o: &mut Array<f32>,
    spare: &mut Shared<[f32]>,
    head: usize,
    n: usize,
    v_tile: usize,
    from: usize,
    sizes: Sizes,
    #[comptime] delta: bool,
    #[comptime] plan: Plan,
) {
    let side = comptime!(plan.side);
    let mut k_tile = 0usize;
    while k_tile * side < sizes.k {
        let keys = sizes.rows(head, n, k_tile, sizes.k, side);
        load::<F, E>(key, k, keys, plan);
        load::<F, E>(query, q, keys, plan);
        for s in 0..sizes.s {
            let decay = sizes.gate(Gate::Decay, head, s, n, side);
            let here = from + s * sizes.k * sizes.v;
            load::<f32, E>(state, saved, sizes.state(here, k_tile, v_tile, side), plan);
            sync_cube();
            if comptime!(delta) {
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
                let erase = sizes.gate(Gate::Erase, head, s, n, side);
                add_rows(
                    recalled,
                    &from_start(gates, decay, erase, plan),
                    &part,
                    plan,
                );
            }
            let mut part = zeros(plan);
            multiply::<E>(
                &mut part,
                &*query,
                &*state,
                spare,
                Lies::Straight,
                Lies::Straight,
                plan,
            );
            let read = sizes.gate(Gate::Read, head, s, n, side);
            add_rows(o, &from_start(gates, decay, read, plan), &part, plan);
            sync_cube();
        }
        k_tile += 1;
    }
}

/// `H_s ← e^(b_C) H_s + Kᵀ diag(u_s e^(b_C − b_s)) Dm`. The tiles have to be free on entry, and
/// are when this returns.
#[cube]
#[allow(
    clippy::too_many_arguments,
    reason = "a kernel's values live in its body"
)]
fn write<F: Float, E: Float>(
    k: &[F],
    gates: &[f32],
    saved: &mut [f32],
    key: &mut Shared<[E]>,
    rows: &mut Shared<[E]>,
    errors: &Array<f32>,
    spare: &mut Shared<[f32]>,
    head: usize,
    n: usize,
    v_tile: usize,
    from: usize,
    to: usize,
    sizes: Sizes,
    #[comptime] plan: Plan,
) {
    let side = comptime!(plan.side);
    for s in 0..sizes.s {
        let decay = sizes.gate(Gate::Decay, head, s, n, side);
        let skip = s * sizes.k * sizes.v;
        let kept = gates[decay + side - 1].exp();
        let weights = to_end(
            gates,
            decay,
            sizes.gate(Gate::Write, head, s, n, side),
            plan,
        );
        let mut weighted = zeros(plan);
        add_rows(&mut weighted, &weights, errors, plan);
        put::<E>(rows, &weighted, plan);
        let mut k_tile = 0usize;
        while k_tile * side < sizes.k {
            load::<F, E>(key, k, sizes.rows(head, n, k_tile, sizes.k, side), plan);
            sync_cube();
            let mut next = zeros(plan);
            multiply::<E>(
                &mut next,
                &*key,
                &*rows,
                spare,
                Lies::Transposed,
                Lies::Straight,
                plan,
            );
            put_spare(spare, &next, plan);
            carry_on(
                saved,
                sizes.state(from + skip, k_tile, v_tile, side),
                sizes.state(to + skip, k_tile, v_tile, side),
                kept,
                &*spare,
                plan,
            );
            sync_cube();
            k_tile += 1;
        }
    }
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
        let skip = s * sizes.k * sizes.v;
        let mut k_tile = 0usize;
        while k_tile * side < sizes.k {
            let old = sizes.state(from + skip, k_tile, v_tile, side);
            let new = sizes.state(to + skip, k_tile, v_tile, side);
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
            k_tile += 1;
        }
    }
}
