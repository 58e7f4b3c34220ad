//! Gates cut into chunks: the log decay summed from every chunk's start, and the three weights
//! beside it, all `[B·H, S, N·C]`. Behind the sequence's end weights are 0 and nothing decays.

use super::sizes::{Gate, Sizes};
use super::tile::{Plan, own_row};
use burn_cubecl::cubecl;
use cubecl::prelude::*;

/// One unit a head, state and chunk.
#[cube(launch_unchecked)]
pub(super) fn gates(
    log_decay: &[f32],
    read: &[f32],
    write: &[f32],
    erase: &[f32],
    out: &mut [f32],
    sizes: Sizes,
    #[comptime] side: usize,
) {
    let unit = ABSOLUTE_POS;
    if unit < sizes.heads * sizes.s * sizes.chunks {
        let n = unit % sizes.chunks;
        let s = unit / sizes.chunks % sizes.s;
        let head = unit / (sizes.chunks * sizes.s);
        let to_decay = sizes.gate(Gate::Decay, head, s, n, side);
        let to_read = sizes.gate(Gate::Read, head, s, n, side);
        let to_write = sizes.gate(Gate::Write, head, s, n, side);
        let to_erase = sizes.gate(Gate::Erase, head, s, n, side);
        let batch = head / sizes.h;
        let mut sum = 0.0f32;
        for i in 0..side {
            let t = n * side + i;
            let mut r = 0.0f32;
            let mut u = 0.0f32;
            let mut p = 0.0f32;
            if t < sizes.t {
                let at = ((batch * sizes.t + t) * sizes.h + head % sizes.h) * sizes.s + s;
                sum += log_decay[at];
                r = read[at];
                u = write[at];
                p = erase[at];
            }
            out[to_decay + i] = sum;
            out[to_read + i] = r;
            out[to_write + i] = u;
            out[to_erase + i] = p;
        }
    }
}

/// `out_i = weight_i · e^{b_i}` for own rows: what multiplies a state that comes into the chunk.
#[cube]
pub(super) fn from_start(
    gates: &[f32],
    decay: usize,
    weight: usize,
    #[comptime] plan: Plan,
) -> Array<f32> {
    let own = comptime!(plan.owned());
    let mut out = Array::<f32>::new(own);
    #[unroll]
    for i in 0..own {
        let row = own_row(i);
        out[i] = gates[weight + row] * gates[decay + row].exp();
    }
    out
}

/// `out_i = u_i · e^{b_C − b_i}` for own rows: what a write still weighs when the chunk ends.
#[cube]
pub(super) fn to_end(
    gates: &[f32],
    decay: usize,
    write: usize,
    #[comptime] plan: Plan,
) -> Array<f32> {
    let own = comptime!(plan.owned());
    let last = gates[decay + comptime!(plan.side - 1)];
    let mut out = Array::<f32>::new(own);
    #[unroll]
    for i in 0..own {
        let row = own_row(i);
        out[i] = gates[write + row] * (last - gates[decay + row]).exp();
    }
    out
}
