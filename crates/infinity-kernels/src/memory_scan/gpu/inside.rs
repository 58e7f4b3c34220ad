//! Backward, second part: what stays inside a chunk, for all chunks at once. The gradients of the
//! two score matrices, and what reaches the gates through the masks.

use super::product::{Lies, multiply};
use super::reduce::{over_cols, over_rows};
use super::scores::{masks, products};
use super::sizes::{Gate, Sizes, Square};
use super::tile::{Plan, load, own_col, own_row, put_spare, store, zeros};
use burn_cubecl::cubecl;
use cubecl::prelude::*;

/// A cube a chunk and head. `out` gets `dP` and `dG + dGᵀ`; `parts` the gradients of the gates,
/// first of `[1 + tiles of K, 3, B·H, S, N·C]`.
#[cube(launch_unchecked)]
#[allow(
    clippy::too_many_arguments,
    reason = "a kernel's arguments are its buffers"
)]
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
    let side = comptime!(plan.side);
    if CUBE_POS >= sizes.heads * sizes.chunks {
        terminate!();
    }
    let n = CUBE_POS % sizes.chunks;
    let head = CUBE_POS / sizes.chunks;
    let own = comptime!(plan.owned());
    let len = comptime!(plan.len());
    let mut spare = Shared::<[f32]>::new_slice(comptime!(plan.spare_len()));
    let mut first = Shared::<[E]>::new_slice(len);
    let mut second = Shared::<[E]>::new_slice(len);
    let mut third = Shared::<[E]>::new_slice(len);
    let mut d_read = zeros(plan);
    let mut d_erase = zeros(plan);
    outer::<E>(
        saved,
        d_both,
        d_v,
        &mut first,
        &mut second,
        &mut third,
        &mut d_read,
        &mut d_erase,
        &mut spare,
        head,
        n,
        sizes,
        delta,
        plan,
    );
    let mut read_products = zeros(plan);
    let mut key_products = zeros(plan);
    products::<F, E>(
        q,
        k,
        &mut first,
        &mut second,
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
    // dP = dA . M and dM = dA . P; dG = dL . Nm and dNm = dL . G.
    #[unroll]
    for i in 0..comptime!(own * own) {
        read_mask[i] *= d_read[i];
        erase_mask[i] *= d_erase[i];
        d_read[i] *= read_products[i];
        d_erase[i] *= key_products[i];
    }
    store::<E>(
        out,
        sizes.square(Square::First, head, n, side),
        &read_mask,
        plan,
    );
    if comptime!(delta) {
        put_spare(&mut spare, &erase_mask, plan);
        sync_cube();
        #[unroll]
        for i in 0..own {
            #[unroll]
            for j in 0..own {
                erase_mask[comptime!(i * own + j)] +=
                    spare[own_col(j) * comptime!(plan.spare_pitch()) + own_row(i)];
            }
        }
        store::<E>(
            out,
            sizes.square(Square::Second, head, n, side),
            &erase_mask,
            plan,
        );
        sync_cube();
    }
    through_masks(
        gates, parts, &mut spare, &d_read, &d_erase, head, n, sizes, delta, plan,
    );
}

/// `dA = lower(dO Dmᵀ)` and `dL = −strictlower(dX Dmᵀ)`. The tiles are free when this returns.
#[cube]
#[allow(
    clippy::too_many_arguments,
    reason = "a kernel's values live in its body"
)]
fn outer<E: Float>(
    saved: &[f32],
    d_both: &[f32],
    d_v: &[E],
    d_o: &mut Shared<[E]>,
    errors: &mut Shared<[E]>,
    d_x: &mut Shared<[E]>,
    d_read: &mut Array<f32>,
    d_erase: &mut Array<f32>,
    spare: &mut Shared<[f32]>,
    head: usize,
    n: usize,
    sizes: Sizes,
    #[comptime] delta: bool,
    #[comptime] plan: Plan,
) {
    let side = comptime!(plan.side);
    let behind = sizes.slot(sizes.heads, sizes.chunks + 1, 0, 0);
    let mut tile = 0usize;
    while tile * side < sizes.v {
        let block = sizes.rows(head, n, tile, sizes.v, side);
        load::<f32, E>(d_o, d_both, block, plan);
        load::<f32, E>(errors, saved, block.shifted(behind), plan);
        if comptime!(delta) {
            load::<E, E>(d_x, d_v, block, plan);
        }
        sync_cube();
        multiply::<E>(
            d_read,
            &*d_o,
            &*errors,
            spare,
            Lies::Straight,
            Lies::Transposed,
            plan,
        );
        if comptime!(delta) {
            multiply::<E>(
                d_erase,
                &*d_x,
                &*errors,
                spare,
                Lies::Straight,
                Lies::Transposed,
                plan,
            );
        }
        sync_cube();
        tile += 1;
    }
    #[unroll]
    for i in 0..comptime!(plan.owned()) {
        #[unroll]
        for j in 0..comptime!(plan.owned()) {
            let at = comptime!(i * plan.owned() + j);
            d_erase[at] = 0.0f32 - d_erase[at];
            if own_row(i) < own_col(j) {
                d_read[at] = 0.0f32;
            }
            if own_row(i) <= own_col(j) {
                d_erase[at] = 0.0f32;
            }
        }
    }
}

/// The gradients of a chunk's gates, given `dM` and `dNm`.
#[cube]
#[allow(
    clippy::too_many_arguments,
    reason = "a kernel's values live in its body"
)]
fn through_masks(
    gates: &[f32],
    parts: &mut [f32],
    spare: &mut Shared<[f32]>,
    d_read: &Array<f32>,
    d_erase: &Array<f32>,
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
                    let mut through = d_read[at] * gates[read + row];
                    of_read[at] = d_read[at] * within * gates[write + col];
                    if comptime!(delta) {
                        through += d_erase[at] * gates[erase + row];
                        of_erase[at] = d_erase[at] * within * gates[write + col];
                    }
                    of_write[at] = through * within;
                }
            }
        }
        over_cols(
            &of_read,
            parts,
            sizes.part(0, Gate::Read, head, s, n, side),
            spare,
            plan,
        );
        over_rows(
            &of_write,
            parts,
            sizes.part(0, Gate::Write, head, s, n, side),
            spare,
            plan,
        );
        if comptime!(delta) {
            over_cols(
                &of_erase,
                parts,
                sizes.part(0, Gate::Erase, head, s, n, side),
                spare,
                plan,
            );
        }
    }
}
