//! The chunk form and the fused form at the level of Burn tensors: dispatch in, outputs and state
//! out.

use super::backend::{MemoryScanBackend, ScanTensors};
use super::{Dims, MemoryScanInputs, MemoryScanOutput};
use crate::parts::{Packed, Parts};
use burn::backend::{Dispatch, tensor::FloatTensor};
use burn::tensor::{Shape, Tensor};

/// Runs `chunk` positions at a time from `state` `[B, H, S, K, V]`. The chunk size changes speed
/// and rounding, not the function.
pub fn forward(x: MemoryScanInputs, state: Tensor<5>, chunk: usize) -> MemoryScanOutput {
    dispatched(x, state, |x, delta, parts| {
        Dispatch::memory_scan_chunkwise(x, chunk, delta, parts)
    })
}

/// Runs the backend's own kernel from state `[B, H, S, K, V]`, in chunks of what the device asked
/// for.
pub(super) fn fused(x: MemoryScanInputs, state: Tensor<5>, chunk: usize) -> MemoryScanOutput {
    dispatched(x, state, |x, delta, parts| {
        Dispatch::memory_scan_fused(x, chunk, delta, parts)
    })
}

fn dispatched(
    x: MemoryScanInputs,
    state: Tensor<5>,
    run: impl FnOnce(ScanTensors<Dispatch>, bool, Parts) -> FloatTensor<Dispatch>,
) -> MemoryScanOutput {
    let Dims { b, t, h, s, k, v } = x.dims();
    let delta = x.erase.is_some();
    let erase = x.erase.unwrap_or_else(|| x.write.clone().detach());
    let tensors = ScanTensors::<Dispatch> {
        q: x.q.into_dispatch(),
        k: x.k.into_dispatch(),
        v: x.v.into_dispatch(),
        log_decay: x.log_decay.into_dispatch(),
        read: x.read.into_dispatch(),
        write: x.write.into_dispatch(),
        erase: erase.into_dispatch(),
        state: state.into_dispatch(),
    };
    let shapes = [Shape::from([b, t, h, v]), Shape::from([b, h, s, k, v])];
    let packed = Packed::of(shapes, |parts| run(tensors, delta, parts));
    MemoryScanOutput {
        o: packed.part(0),
        state: packed.part(1),
    }
}
