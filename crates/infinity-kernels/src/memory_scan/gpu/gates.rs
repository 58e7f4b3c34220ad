//! Gates cut into chunks: the log decay summed from every chunk's start, and the three weights
//! beside it, all `[B·H, S, N·C]`. Behind the sequence's end weights are 0 and nothing decays.

use super::sizes::{Chunk, ChunkExpand, Gate, Sizes};
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
    #[comptime] plan: Plan,
) {
    let side = comptime!(plan.side);
    let unit = ABSOLUTE_POS;
    if unit < sizes.heads * sizes.s * sizes.chunks {
        let n = unit % sizes.chunks;
        let s = unit / sizes.chunks % sizes.s;
        let head = unit / (sizes.chunks * sizes.s);
        let chunk = Chunk::new(sizes, head, n, plan);
        let to_decay = chunk.gate(Gate::Decay, s);
        let to_read = chunk.gate(Gate::Read, s);
        let to_write = chunk.gate(Gate::Write, s);
        let to_erase = chunk.gate(Gate::Erase, s);
        let first = sizes.token(head, n * side);
        let mut sum = 0.0f32;
        for i in 0..side {
            let mut r = 0.0f32;
            let mut u = 0.0f32;
            let mut p = 0.0f32;
            if n * side + i < sizes.t {
                let at = (first + i * sizes.h) * sizes.s + s;
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

/// Backward, last part: the parts of the gates' gradients summed, and the log decay's gradient, which is theirs summed
/// from every chunk's end. One unit a head, state and chunk; gradients go to `[B, T, H, S]`.
#[cube(launch_unchecked)]
pub(super) fn finish(
    gates: &[f32],
    parts: &[f32],
    d_log_decay: &mut [f32],
    d_read: &mut [f32],
    d_write: &mut [f32],
    d_erase: &mut [f32],
    sizes: Sizes,
    k_tiles: usize,
    #[comptime] plan: Plan,
) {
    let side = comptime!(plan.side);
    let unit = ABSOLUTE_POS;
    if unit < sizes.heads * sizes.s * sizes.chunks {
        let n = unit % sizes.chunks;
        let s = unit / sizes.chunks % sizes.s;
        let head = unit / (sizes.chunks * sizes.s);
        let chunk = Chunk::new(sizes, head, n, plan);
        let read = chunk.gate(Gate::Read, s);
        let write = chunk.gate(Gate::Write, s);
        let erase = chunk.gate(Gate::Erase, s);
        let first = sizes.token(head, n * side);
        let mut sum = 0.0f32;
        for tile in 0..k_tiles {
            sum += parts[chunk.end(tile, s)];
        }
        for back in 0..side {
            let i = side - 1 - back;
            if n * side + i < sizes.t {
                let mut r = 0.0f32;
                let mut u = 0.0f32;
                let mut p = 0.0f32;
                for part in 0..k_tiles + 1 {
                    r += parts[chunk.part(part, Gate::Read, s) + i];
                    u += parts[chunk.part(part, Gate::Write, s) + i];
                    if comptime!(plan.delta) {
                        p += parts[chunk.part(part, Gate::Erase, s) + i];
                    }
                }
                sum += gates[read + i] * r - gates[write + i] * u;
                if comptime!(plan.delta) {
                    sum += gates[erase + i] * p;
                }
                let at = (first + i * sizes.h) * sizes.s + s;
                d_log_decay[at] = sum;
                d_read[at] = r;
                d_write[at] = u;
                d_erase[at] = p;
            }
        }
    }
}

#[cube]
impl Chunk {
    /// `weight_i · e^{b_i}` for own rows: what multiplies a state that comes into the chunk.
    pub(super) fn from_start(
        &self,
        gates: &[f32],
        #[comptime] weight: Gate,
        s: usize,
    ) -> Array<f32> {
        let own = comptime!(self.plan.owned());
        let decay = self.gate(Gate::Decay, s);
        let weight = self.gate(weight, s);
        let mut out = Array::<f32>::new(own);
        #[unroll]
        for i in 0..own {
            let row = own_row(i);
            out[i] = gates[weight + row] * gates[decay + row].exp();
        }
        out
    }

    /// `u_i · e^{b_C − b_i}` for own rows: what a write still weighs when the chunk ends.
    pub(super) fn to_end(&self, gates: &[f32], s: usize) -> Array<f32> {
        let own = comptime!(self.plan.owned());
        let decay = self.gate(Gate::Decay, s);
        let write = self.gate(Gate::Write, s);
        let last = gates[decay + comptime!(self.plan.side - 1)];
        let mut out = Array::<f32>::new(own);
        #[unroll]
        for i in 0..own {
            let row = own_row(i);
            out[i] = gates[write + row] * (last - gates[decay + row]).exp();
        }
        out
    }

    /// `e^{b_C}`: what is left of a state when the chunk ends.
    pub(super) fn kept(&self, gates: &[f32], s: usize) -> f32 {
        gates[self.gate(Gate::Decay, s) + comptime!(self.plan.side - 1)].exp()
    }
}
