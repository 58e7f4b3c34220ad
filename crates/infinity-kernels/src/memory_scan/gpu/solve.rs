//! `(I + L)⁻¹` of a unit lower triangular tile, in shared memory: forward substitution on 16 × 16
//! blocks, then pairs of blocks joined until the tile is one.
//!
//! Not by powers of `L`, whose terms explode for repeated keys.

use super::tile::{Plan, UNITS, col_of, row_of};
use burn_cubecl::cubecl;
use cubecl::prelude::*;

/// Rows of a block that is solved by substitution.
const BLOCK: usize = 16;

/// Writes the inverse to `out`. `l` is zero on and above the diagonal; `spare` is overwritten.
/// All tiles have to be in sync on entry, and are when this returns.
#[cube]
pub(super) fn invert(
    l: &Shared<[f32]>,
    out: &mut Shared<[f32]>,
    spare: &mut Shared<[f32]>,
    #[comptime] plan: Plan,
) {
    let side = comptime!(plan.side);
    let pitch = comptime!(plan.spare_pitch());
    let unit = UNIT_POS as usize;
    #[unroll]
    for at in 0..comptime!(plan.all_owned()) {
        out[row_of(at, plan) * pitch + col_of(at, plan)] = 0.0f32;
    }
    sync_cube();
    // A unit a column: it reads back only what it wrote itself.
    if unit < side {
        let first = unit / BLOCK * BLOCK;
        for i in 0..BLOCK {
            let row = first + i;
            if row == unit {
                out[row * pitch + unit] = 1.0f32;
            } else if row > unit {
                let mut x = 0.0f32;
                for m in unit..row {
                    x -= l[row * pitch + m] * out[m * pitch + unit];
                }
                out[row * pitch + unit] = x;
            }
        }
    }
    sync_cube();
    #[unroll]
    for level in 0..comptime!((side / BLOCK).ilog2() as usize) {
        join(l, out, spare, comptime!(BLOCK << level), plan);
    }
}

/// Joins pairs of solved blocks of `size`: `X₂₁ = −X₂₂ L₂₁ X₁₁`.
#[cube]
fn join(
    l: &Shared<[f32]>,
    out: &mut Shared<[f32]>,
    spare: &mut Shared<[f32]>,
    #[comptime] size: usize,
    #[comptime] plan: Plan,
) {
    let side = comptime!(plan.side);
    let pitch = comptime!(plan.spare_pitch());
    let each = comptime!(side * size / 2 / (UNITS * UNITS));
    #[unroll]
    for e in 0..each {
        let element = UNIT_POS as usize + comptime!(e * UNITS * UNITS);
        let first = element / comptime!(size * size) * comptime!(2 * size);
        let row = first + size + element / size % size;
        let col = first + element % size;
        let mut x = 0.0f32;
        for m in 0..size {
            x += l[row * pitch + first + m] * out[(first + m) * pitch + col];
        }
        spare[row * pitch + col] = x;
    }
    sync_cube();
    #[unroll]
    for e in 0..each {
        let element = UNIT_POS as usize + comptime!(e * UNITS * UNITS);
        let first = element / comptime!(size * size) * comptime!(2 * size);
        let row = first + size + element / size % size;
        let col = first + element % size;
        let mut x = 0.0f32;
        for m in 0..size {
            x -= out[row * pitch + first + size + m] * spare[(first + size + m) * pitch + col];
        }
        out[row * pitch + col] = x;
    }
    sync_cube();
}
