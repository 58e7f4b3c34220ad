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
