//! Sums over the rows or columns of a tile in registers, always in the same order.

use super::tile::{Plan, UNITS, own_col, own_row};
use burn_cubecl::cubecl;
use cubecl::prelude::*;

/// What is summed up.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub(super) enum Over {
    Rows,
    Cols,
}

/// `out[at + col] = Σ_row acc`, or `out[at + row] = Σ_col acc`. `spare` is free before and after.
#[cube]
pub(super) fn sums(
    acc: &Array<f32>,
    #[comptime] over: Over,
    out: &mut [f32],
    at: usize,
    spare: &mut Shared<[f32]>,
    #[comptime] plan: Plan,
) {
    let own = comptime!(plan.owned());
    let rows = comptime!(over == Over::Rows);
    #[unroll]
    for i in 0..own {
        let mut sum = 0.0f32;
        #[unroll]
        for j in 0..own {
            sum += acc[comptime!(if rows { j * own + i } else { i * own + j })];
        }
        if comptime!(rows) {
            spare[own_col(i) * UNITS + UNIT_POS_Y as usize] = sum;
        } else {
            spare[own_row(i) * UNITS + UNIT_POS_X as usize] = sum;
        }
    }
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
