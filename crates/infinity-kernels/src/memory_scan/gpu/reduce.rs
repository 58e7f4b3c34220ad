//! Sums over the rows or columns of a tile in registers, always in the same order.

use super::tile::{Plan, UNITS, own_col, own_row};
use burn_cubecl::cubecl;
use cubecl::prelude::*;

/// `out[at + row] = Σ_col acc`. `spare` is free before and after.
#[cube]
pub(super) fn over_cols(
    acc: &Array<f32>,
    out: &mut [f32],
    at: usize,
    spare: &mut Shared<[f32]>,
    #[comptime] plan: Plan,
) {
    let own = comptime!(plan.owned());
    #[unroll]
    for i in 0..own {
        let mut sum = 0.0f32;
        #[unroll]
        for j in 0..own {
            sum += acc[comptime!(i * own + j)];
        }
        spare[own_row(i) * UNITS + UNIT_POS_X as usize] = sum;
    }
    finish(out, at, spare, plan);
}

/// `out[at + col] = Σ_row acc`. `spare` is free before and after.
#[cube]
pub(super) fn over_rows(
    acc: &Array<f32>,
    out: &mut [f32],
    at: usize,
    spare: &mut Shared<[f32]>,
    #[comptime] plan: Plan,
) {
    let own = comptime!(plan.owned());
    #[unroll]
    for j in 0..own {
        let mut sum = 0.0f32;
        #[unroll]
        for i in 0..own {
            sum += acc[comptime!(i * own + j)];
        }
        spare[own_col(j) * UNITS + UNIT_POS_Y as usize] = sum;
    }
    finish(out, at, spare, plan);
}

#[cube]
fn finish(out: &mut [f32], at: usize, spare: &mut Shared<[f32]>, #[comptime] plan: Plan) {
    sync_cube();
    let unit = UNIT_POS as usize;
    if unit < comptime!(plan.side) {
        let mut sum = 0.0f32;
        for i in 0..UNITS {
            sum += spare[unit * UNITS + i];
        }
        out[at + unit] = sum;
    }
    sync_cube();
}

/// `out[at] = Σ` of every unit's `x`. `spare` is free before and after.
#[cube]
pub(super) fn over_units(x: f32, out: &mut [f32], at: usize, spare: &mut Shared<[f32]>) {
    spare[UNIT_POS as usize] = x;
    sync_cube();
    if UNIT_POS == 0 {
        let mut sum = 0.0f32;
        for i in 0..comptime!(UNITS * UNITS) {
            sum += spare[i];
        }
        out[at] = sum;
    }
    sync_cube();
}
