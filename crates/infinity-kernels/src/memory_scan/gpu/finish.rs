//! Backward, last part: the parts of the gates' gradients summed, and the log decay's gradient,
//! which is theirs summed from every chunk's end.

use super::sizes::{Chunk, Gate, Sizes};
use super::tile::Plan;
use burn_cubecl::cubecl;
use cubecl::prelude::*;

/// One unit a head, state and chunk. Gradients go to `[B, T, H, S]`.
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
    #[comptime] delta: bool,
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
                    if comptime!(delta) {
                        p += parts[chunk.part(part, Gate::Erase, s) + i];
                    }
                }
                sum += gates[read + i] * r - gates[write + i] * u;
                if comptime!(delta) {
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
