//! One node of the autodiff graph for a whole `memory_scan`, with the backward written by hand.

use super::backend::{MemoryScanBackend, ScanTensors};
use super::chunkwise::{self, Saved};
use crate::parts::{Parts, packed};
use burn::backend::autodiff::{
    Autodiff, NodeId,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, NodeGuard, Ops, OpsKind},
};
use burn::backend::{Backend, tensor::FloatTensor};

/// Backward of the chunk form. Its state is what forward saved and the shapes of both outputs.
#[derive(Debug)]
struct ChunkwiseBackward;

impl<B: Backend> Backward<B, 8> for ChunkwiseBackward {
    type State = (Saved<B>, Parts);

    fn backward(
        self,
        ops: Ops<Self::State, 8>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let (saved, parts) = ops.state;
        let [d_o, d_state] = incoming::<B>(grads.consume::<B>(&ops.node), &parts);
        let d = chunkwise::backward(saved, d_o, d_state);
        let of_parents = [
            Some(d.q),
            Some(d.k),
            Some(d.v),
            Some(d.log_decay),
            Some(d.read),
            Some(d.write),
            d.erase,
            Some(d.state),
        ];
        let ids = ops.parents.map(|parent| parent.map(|parent| parent.id));
        register::<B>(grads, ids, of_parents);
    }
}

/// Backward of the fused form. Its state is what the kernel needs to compute the rest again: the
/// inputs, what forward saved, the chunk's length, and whether writes correct.
#[derive(Debug)]
struct FusedBackward;

impl<B: MemoryScanBackend> Backward<B, 8> for FusedBackward {
    type State = (ScanTensors<B>, FloatTensor<B>, usize, bool, Parts);

    fn backward(
        self,
        ops: Ops<Self::State, 8>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let (x, saved, chunk, delta, parts) = ops.state;
        let [d_o, d_state] = incoming::<B>(grads.consume::<B>(&ops.node), &parts);
        let d = B::memory_scan_fused_backward(x, saved, d_o, d_state, chunk, delta);
        let of_parents = [
            Some(d.q),
            Some(d.k),
            Some(d.v),
            Some(d.log_decay),
            Some(d.read),
            Some(d.write),
            delta.then_some(d.erase),
            Some(d.state),
        ];
        let ids = ops.parents.map(|parent| parent.map(|parent| parent.id));
        register::<B>(grads, ids, of_parents);
    }
}

/// Gradients of outputs and final state, of which `sign` says that there are some.
fn incoming<B: Backend>(sign: FloatTensor<B>, parts: &Parts) -> [FloatTensor<B>; 2] {
    let both = parts.gradients::<B>(&sign).try_into();
    both.unwrap_or_else(|_| unreachable!("memory_scan has two results"))
}

/// Hands every parent that is tracked its gradient.
fn register<B: Backend>(
    grads: &mut Gradients,
    ids: [Option<NodeId>; 8],
    of_parents: [Option<FloatTensor<B>>; 8],
) {
    for (id, grad) in ids.into_iter().zip(of_parents) {
        if let (Some(id), Some(grad)) = (id, grad) {
            grads.register::<B>(id, grad);
        }
    }
}

/// The nodes of the graph that the inputs are.
fn nodes<B: Backend, C: CheckpointStrategy>(x: &ScanTensors<Autodiff<B, C>>) -> [NodeGuard; 8] {
    [
        x.q.node(),
        x.k.node(),
        x.v.node(),
        x.log_decay.node(),
        x.read.node(),
        x.write.node(),
        x.erase.node(),
        x.state.node(),
    ]
}

/// The inputs below autodiff.
fn inner<B: Backend, C: CheckpointStrategy>(x: &ScanTensors<Autodiff<B, C>>) -> ScanTensors<B> {
    ScanTensors {
        q: x.q.primitive().clone(),
        k: x.k.primitive().clone(),
        v: x.v.primitive().clone(),
        log_decay: x.log_decay.primitive().clone(),
        read: x.read.primitive().clone(),
        write: x.write.primitive().clone(),
        erase: x.erase.primitive().clone(),
        state: x.state.primitive().clone(),
    }
}

impl<B: MemoryScanBackend, C: CheckpointStrategy> MemoryScanBackend for Autodiff<B, C> {
    fn memory_scan_chunkwise(
        x: ScanTensors<Self>,
        chunk: usize,
        delta: bool,
        parts: Parts,
    ) -> FloatTensor<Self> {
        let (nodes, inner) = (nodes(&x), inner(&x));
        match ChunkwiseBackward
            .prepare::<C>(nodes)
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(node) => {
                let (o, state, saved) = chunkwise::forward::<B>(inner, chunk, delta);
                node.finish((saved, parts), packed::<B>([o, state]))
            }
            OpsKind::UnTracked(node) => {
                node.finish(B::memory_scan_chunkwise(inner, chunk, delta, parts))
            }
        }
    }

    fn memory_scan_fused(
        x: ScanTensors<Self>,
        chunk: usize,
        delta: bool,
        parts: Parts,
    ) -> FloatTensor<Self> {
        let (nodes, inner) = (nodes(&x), inner(&x));
        match FusedBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(node) => {
                let (both, saved) = B::memory_scan_fused_saving(inner.clone(), chunk, delta);
                node.finish((inner, saved, chunk, delta, parts), both)
            }
            OpsKind::UnTracked(node) => {
                node.finish(B::memory_scan_fused(inner, chunk, delta, parts))
            }
        }
    }
}
