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
//! Backward computes gates and scores again and goes on with `carry_back.rs` (the same loop,
//! reversed), `inside.rs` and `through.rs` (all chunks at once), and `finish.rs`. A few tokens
//! without gradients are one launch of `step.rs`. `tile.rs`, `product.rs` and `reduce.rs`
//! are what kernels are made of; `call.rs` and `call_back.rs` launch them.
//!
//! Sums run in a fixed order and nothing is added atomically: two runs on one device give the
//! same bits.

mod call;
mod call_back;
mod carry;
mod carry_back;
mod finish;
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

use super::inputs::ScanTensors;
use crate::gpu::many::side_by_side;
use crate::operator::is_none;
use burn::backend::{TensorMetadata, ops::FloatTensorOps};
use burn::tensor::Shape;
use burn_cubecl::cubecl::ir::{DeviceProperties, FloatKind};
use burn_cubecl::{CubeBackend, CubeDevice, tensor::CubeTensor};
use call::Call;
use product::has_matrix_units;
use tile::{Plan, UNITS};

/// Up to this many tokens steps cost less than a chunk.
const STEPS_UP_TO: usize = 4;
/// Tiles that are multiplied, in shared memory at once, at most.
const TILES: usize = 5;
/// Buffers of the kernel that has most, and one for the sizes.
const BUFFERS: u32 = 12;

/// Positions in a chunk on `device`; `None` if it cannot run the kernels.
pub(crate) fn chunk(device: &CubeDevice) -> Option<usize> {
    side(device.client().properties())
}

/// 64 where matrix units take half precision, else what fits into shared memory.
fn side(properties: &DeviceProperties) -> Option<usize> {
    let hardware = &properties.hardware;
    let (x, y, _) = hardware.max_cube_dim;
    let units = UNITS as u32;
    if hardware.max_bindings < BUFFERS || hardware.max_units_per_cube < units * units {
        return None;
    }
    if x < units || y < units {
        return None;
    }
    let fits = |side: usize| bytes(side) <= hardware.max_shared_memory_size;
    let sides: &[usize] = match has_matrix_units(properties, FloatKind::BF16) {
        true => &[64, 32, 16],
        false => &[32, 16],
    };
    sides.iter().copied().find(|&side| fits(side))
}

/// Shared memory of the kernel that needs most, in `f32`: half precision needs less.
const fn bytes(side: usize) -> usize {
    let plan = Plan {
        side,
        matrix: false,
    };
    (TILES * plan.len() + plan.spare_len()) * size_of::<f32>()
}

/// Outputs and final state; for training also the states at the chunk borders and the errors.
pub(super) fn forward(
    x: ScanTensors<CubeBackend>,
    chunk: usize,
    delta: bool,
    save: bool,
) -> [Vec<CubeTensor>; 2] {
    let shapes = [x.v.shape(), x.state.shape()];
    let call = Call::new(x, chunk, delta);
    if !save && (1..=STEPS_UP_TO).contains(&call.t) {
        return [apart(call.steps(), shapes), Vec::new()];
    }
    let gates = call.gates();
    let scores = call.scores(&gates);
    let (both, saved) = call.carry(gates, scores, save);
    let saved = if save { vec![saved] } else { Vec::new() };
    [apart(both, shapes), saved]
}

/// Tensors that a kernel wrote one behind the other.
fn apart(both: CubeTensor, shapes: [Shape; 2]) -> Vec<CubeTensor> {
    let mut from = 0;
    let part = |shape: Shape| {
        let to = from + shape.num_elements();
        let part = CubeBackend::float_slice(both.clone(), &[(from..to).into()]);
        from = to;
        CubeBackend::float_reshape(part, shape)
    };
    shapes.map(part).into()
}

/// Gradients of every input, given what `forward` saved and the gradients of its results, if any. In additive
/// mode the one of `erase` is zero.
pub(super) fn backward(
    x: ScanTensors<CubeBackend>,
    saved: CubeTensor,
    grads: [CubeTensor; 2],
    chunk: usize,
    delta: bool,
) -> ScanTensors<CubeBackend> {
    let shapes = [x.v.shape(), x.state.shape()];
    let parts = grads.into_iter().zip(shapes);
    let parts = parts.map(|(grad, shape)| {
        let there = !is_none(&grad, &shape);
        (there.then_some(grad), shape.num_elements())
    });
    let d_both = side_by_side(&saved, 1, parts.collect());
    Call::new(x, chunk, delta).backward(saved, d_both)
}
