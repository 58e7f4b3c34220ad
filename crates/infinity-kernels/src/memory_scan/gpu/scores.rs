//! What does not depend on the states, for all chunks at once: `A = Q Kᵀ . M` and `(I + L)⁻¹` with
//! `L = K Kᵀ . Nm`.

use super::product::{Lies, multiply};
use super::sizes::{Gate, Sizes, Square};
use super::solve::invert;
use super::tile::{Plan, load, own_col, own_row, put_spare, store, zeros};
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
    let side = comptime!(plan.side);
    if CUBE_POS >= sizes.heads * sizes.chunks {
        terminate!();
    }
    let n = CUBE_POS % sizes.chunks;
    let head = CUBE_POS / sizes.chunks;
    let len = comptime!(plan.len());
    let mut spare = Shared::<[f32]>::new_slice(comptime!(plan.spare_len()));
    let mut query = Shared::<[E]>::new_slice(len);
    let mut key = Shared::<[E]>::new_slice(len);
    let mut read_products = zeros(plan);
    let mut key_products = zeros(plan);
    products::<F, E>(
        q,
        k,
        &mut query,
        &mut key,
        &mut read_products,
        &mut key_products,
        &mut spare,
        head,
        n,
        sizes,
        delta,
        plan,
    );
    let mut read_mask = zeros(plan);
    let mut erase_mask = zeros(plan);
    masks(
        gates,
        &mut read_mask,
        &mut erase_mask,
        head,
        n,
        sizes,
        delta,
        plan,
    );
    #[unroll]
    for i in 0..comptime!(plan.owned() * plan.owned()) {
        read_products[i] *= read_mask[i];
        key_products[i] *= erase_mask[i];
    }
    store::<E>(
        out,
        sizes.square(Square::First, head, n, side),
        &read_products,
        plan,
    );
    if comptime!(delta) {
        let mut l = Shared::<[f32]>::new_slice(comptime!(plan.spare_len()));
        let mut inverse = Shared::<[f32]>::new_slice(comptime!(plan.spare_len()));
        let pitch = comptime!(plan.spare_pitch());
        put_spare(&mut l, &key_products, plan);
        sync_cube();
        invert(&l, &mut inverse, &mut spare, plan);
        #[unroll]
        for i in 0..comptime!(plan.owned()) {
            #[unroll]
            for j in 0..comptime!(plan.owned()) {
                key_products[comptime!(i * plan.owned() + j)] =
                    inverse[own_row(i) * pitch + own_col(j)];
            }
        }
        store::<E>(
            out,
            sizes.square(Square::Second, head, n, side),
            &key_products,
            plan,
        );
    }
}

/// `Q Kᵀ` and, for the delta rule, `K Kᵀ`. The tiles are free when this returns.
#[cube]
#[allow(
    clippy::too_many_arguments,
    reason = "a kernel's values live in its body"
)]
pub(super) fn products<F: Float, E: Float>(
    q: &[F],
    k: &[F],
    query: &mut Shared<[E]>,
    key: &mut Shared<[E]>,
    read_products: &mut Array<f32>,
    key_products: &mut Array<f32>,
    spare: &mut Shared<[f32]>,
    head: usize,
    n: usize,
    sizes: Sizes,
    #[comptime] delta: bool,
    #[comptime] plan: Plan,
) {
    let side = comptime!(plan.side);
    let mut tile = 0usize;
    while tile * side < sizes.k {
        let block = sizes.rows(head, n, tile, sizes.k, side);
        load::<F, E>(query, q, block, plan);
        load::<F, E>(key, k, block, plan);
        sync_cube();
        multiply::<E>(
            read_products,
            &*query,
            &*key,
            spare,
            Lies::Straight,
            Lies::Transposed,
            plan,
        );
        if comptime!(delta) {
            multiply::<E>(
                key_products,
                &*key,
                &*key,
                spare,
                Lies::Straight,
                Lies::Transposed,
                plan,
            );
        }
        sync_cube();
        tile += 1;
    }
}

/// `M` and, below the diagonal, `Nm`.
#[cube]
#[allow(
    clippy::too_many_arguments,
    reason = "a kernel's values live in its body"
)]
pub(super) fn masks(
    gates: &[f32],
    read_mask: &mut Array<f32>,
    erase_mask: &mut Array<f32>,
    head: usize,
    n: usize,
    sizes: Sizes,
    #[comptime] delta: bool,
    #[comptime] plan: Plan,
) {
    let side = comptime!(plan.side);
    let own = comptime!(plan.owned());
    for s in 0..sizes.s {
        let decay = sizes.gate(Gate::Decay, head, s, n, side);
        let read = sizes.gate(Gate::Read, head, s, n, side);
        let write = sizes.gate(Gate::Write, head, s, n, side);
        let erase = sizes.gate(Gate::Erase, head, s, n, side);
        #[unroll]
        for i in 0..own {
            let row = own_row(i);
            #[unroll]
            for j in 0..own {
                let col = own_col(j);
                if row >= col {
                    // Below the diagonal the exponent is at most 0.
                    let written =
                        gates[write + col] * (gates[decay + row] - gates[decay + col]).exp();
                    read_mask[comptime!(i * own + j)] += gates[read + row] * written;
                    if comptime!(delta) {
                        if row > col {
                            erase_mask[comptime!(i * own + j)] += gates[erase + row] * written;
                        }
                    }
                }
            }
        }
    }
}
