//! States of a head between device memory and registers, tile by tile.

use super::sizes::Sizes;
use super::tile::{Block, Plan, own_col, own_row, store, value, zeros};
use burn_cubecl::cubecl;
use cubecl::prelude::*;

/// `acc += factor · block`, own elements.
#[cube]
pub(super) fn add_block(
    acc: &mut Array<f32>,
    buffer: &[f32],
    block: Block,
    factor: f32,
    #[comptime] plan: Plan,
) {
    #[unroll]
    for i in 0..comptime!(plan.owned()) {
        #[unroll]
        for j in 0..comptime!(plan.owned()) {
            acc[comptime!(i * plan.owned() + j)] +=
                factor * value::<f32>(buffer, block, own_row(i), own_col(j));
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
            let mut own = zeros(plan);
            let old = sizes.state(from + skip, k_tile, v_tile, side);
            add_block(&mut own, source, old, 1.0f32, plan);
            let new = sizes.state(to + skip, k_tile, v_tile, side);
            store::<f32>(target, new, &own, plan);
            k_tile += 1;
        }
    }
}
