//! `memory_scan` on every CubeCL runtime: wgpu, Vulkan, Metal, CUDA, ROCm. One source.
//!
//! Chunks of `C` positions, `C × C` tiles, all accumulated in `f32`. Forward is three launches:
//!
//! | file | runs over | gives |
//! |---|---|---|
//! | `gates.rs` | heads, states, chunks | the gates cut into chunks |
//! | `scores.rs`, `solve.rs` | heads, chunks | `A` and `(I + L)⁻¹` |
//! | `carry.rs` | heads, tiles of values | states, errors, outputs, one chunk after the other |
//!
//! Backward has gates and scores from there and goes on with `carry_back.rs` (the same loop,
//! reversed), `inside.rs` and `through.rs` (all chunks at once), and `finish` of `gates.rs`. A few tokens
//! without gradients are one launch of `step.rs`. `tile.rs`, `product.rs` and `reduce.rs`
//! are what kernels are made of; `call.rs` launches them, without bounds checks: what a kernel reads and
//! writes is within its buffers by their lengths and the blocks of `sizes.rs`. (CubeCL's
//! `[compilation] check_mode = "validate"` checks it all the same.)
//!
//! Sums run in a fixed order and nothing is added atomically: two runs on one device give the
//! same bits.
#![allow(
    clippy::too_many_arguments,
    reason = "a kernel's arguments are its buffers, and its values live in its body"
)]

mod call;
mod carry;
mod carry_back;
mod gates;
mod inside;
mod product;
mod reduce;
mod scores;
mod sizes;
mod solve;
mod step;
mod through;
mod tile;

pub(super) use call::Call;

use super::inputs::Plan;
use crate::operator::{Layout, spec};
use burn::backend::fusion::custom::TensorSpec;
use burn::tensor::DType;
use burn_cubecl::CubeDevice;
use product::has_matrix_units;
use tile::{UNITS, native};

/// Tiles that are multiplied, in shared memory at once, at most.
const TILES: usize = 5;
/// Buffers of the kernel that has most, and one for the sizes.
const BUFFERS: u32 = 12;

/// How the kernels run on `device`: with tiles of 64 where matrix units take half precision, else of what fits into
/// shared memory; `None` if it cannot run them.
pub(crate) fn plan(device: &CubeDevice) -> Option<Plan> {
    let client = device.client();
    let (properties, units) = (client.properties(), UNITS as u32);
    let (hardware, matrix) = (&properties.hardware, has_matrix_units(properties));
    let (x, y, _) = hardware.max_cube_dim;
    let enough = hardware.max_bindings >= BUFFERS && hardware.max_units_per_cube >= units * units;
    if !enough || x < units || y < units {
        return None;
    }
    let plan = |side, matrix| Plan {
        side,
        matrix,
        delta: true,
    };
    // Of the kernel that needs most, in `f32`: half precision needs less.
    let fits = |side: &usize| {
        let plan = plan(*side, false);
        let bytes = (TILES * plan.len() + plan.spare_len()) * size_of::<f32>();
        bytes <= hardware.max_shared_memory_size
    };
    let sides = &[64, 32, 16][usize::from(!matrix)..];
    sides
        .iter()
        .copied()
        .find(fits)
        .map(|side| plan(side, matrix))
}

/// What [`Call::forward`] gives for inputs like these, and saves: states at the chunk borders and errors, the gates cut into
/// chunks, `A` and `(I + L)⁻¹`.
pub(super) fn layout(inputs: &[TensorSpec], plan: Plan, save: bool) -> Layout {
    let [q, k, v, .., state] = &inputs[..7] else {
        unreachable!("seven tensors or eight")
    };
    let [b, h, s, ..] = state.shape.dims::<5>();
    let chunks = q.shape[1].div_ceil(plan.side);
    let rows = b * h * chunks * plan.side;
    let holds = plan.for_rows(native([q.dtype, k.dtype, v.dtype])).holds();
    let len = v.shape.num_elements() + state.shape.num_elements() * (chunks + 1);
    let saved = [
        spec([len], DType::F32),
        spec([4 * rows * s], DType::F32),
        spec([2 * rows * plan.side], holds),
    ];
    Layout {
        results: vec![spec(v.shape.clone(), state.dtype), state.clone()],
        saved: if save { saved.into() } else { Vec::new() },
    }
}
