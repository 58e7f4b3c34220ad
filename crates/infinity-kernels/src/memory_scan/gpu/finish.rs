//! Backward, last part: the parts of the gates' gradients summed, and the log decay's gradient,
//! which is theirs summed from every chunk's end.

use super::sizes::{Gate, Sizes};
use burn_cubecl::cubecl;
use cubecl::prelude::*;

/// One unit a head, state and chunk. Gradients go to `[B, T, H, S]`.
#[cube(launch_unchecked)]
#[allow(
    clippy::too_many_arguments,
    reason = "a kernel's arguments are its buffers"
)]
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
    #[comptime] side: usize,
) {
    let unit = ABSOLUTE_POS;
    if unit < sizes.heads * sizes.s * sizes.chunks {
        let n = unit % sizes.chunks;
        let s = unit / sizes.chunks % sizes.s;
        let head = unit / (sizes.chunks * sizes.s);
        let batch = head / sizes.h;
        let read = sizes.gate(Gate::Read, head, s, n, side);
        let write = sizes.gate(Gate::Write, head, s, n, side);
        let erase = sizes.gate(Gate::Erase, head, s, n, side);
        let mut sum = 0.0f32;
        for tile in 0..k_tiles {
            sum += parts[sizes.end(tile, head, s, n, side)];
        }
        for back in 0..side {
            let i = side - 1 - back;
            let t = n * side + i;
            if t < sizes.t {
                let mut r = 0.0f32;
                let mut u = 0.0f32;
                let mut p = 0.0f32;
                for part in 0..k_tiles + 1 {
                    r += parts[sizes.part(part, Gate::Read, head, s, n, side) + i];
                    u += parts[sizes.part(part, Gate::Write, head, s, n, side) + i];
                    if comptime!(delta) {
                        p += parts[sizes.part(part, Gate::Erase, head, s, n, side) + i];
                    }
                }
                sum += gates[read + i] * r - gates[write + i] * u;
                if comptime!(delta) {
                    sum += gates[erase + i] * p;
                }
                let at = ((batch * sizes.t + t) * sizes.h + head % sizes.h) * sizes.s + s;
                d_log_decay[at] = sum;
                d_read[at] = r;
                d_write[at] = u;
                d_erase[at] = p;
            }
        }
    }
}
