//! The one way from tensors to a device's own kernels for operators of up to three tensors.
//!
//! Such an operator is a [`NativeOp`]; its kernel is a pair of functions, forward and backward, in
//! the operator's folder. Backend trait, routing and the node of the autodiff graph are the same
//! for all of them and written here once. `memory_scan`, with more tensors and states to save, has
//! its own.

use burn::backend::autodiff::{
    Autodiff,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::{Backend, Dispatch, backend_extension, tensor::FloatTensor};
use burn::tensor::Tensor;

use crate::memory_gates::GateRule;
use crate::rotary::UnitRotary;

/// An operator with native kernels, and what it knows besides its tensors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum NativeOp {
    /// `silu(gate) ⊙ up` of two tensors.
    Swiglu,
    /// `silu(conv(x))` of inputs, taps and tail.
    ConvSilu,
    /// Root-mean-square norm of inputs and weight.
    RmsNorm {
        /// Added to the mean square.
        eps: f32,
    },
    /// The same, times the sigmoid of a gate: inputs, weight, gate.
    GatedRmsNorm {
        /// Added to the mean square.
        eps: f32,
    },
    /// Feature map, unit length and rotation of inputs, cosines and sines.
    UnitRotary(UnitRotary),
    /// All gates of the memory from projections, `A_log` and biases.
    MemoryGates(GateRule),
    /// Newton–Schulz iteration of one matrix; no gradient.
    NewtonSchulz,
}

impl NativeOp {
    /// Tensors it takes; the others handed over are not looked at.
    fn arity(self) -> usize {
        match self {
            NativeOp::NewtonSchulz => 1,
            NativeOp::Swiglu | NativeOp::RmsNorm { .. } => 2,
            _ => 3,
        }
    }

    /// Runs it on a device that has kernels. Where it takes fewer than three tensors, any may
    /// stand for the missing ones.
    ///
    /// # Panics
    ///
    /// On a device without; `form::has_kernel` is asked first.
    pub(crate) fn run<const A: usize, const B: usize, const C: usize, const D: usize>(
        self,
        a: Tensor<A>,
        b: Tensor<B>,
        c: Tensor<C>,
    ) -> Tensor<D> {
        let (a, b, c) = (a.into_dispatch(), b.into_dispatch(), c.into_dispatch());
        Tensor::from_dispatch(Dispatch::native(self, a, b, c))
    }
}

/// Backends that may have native kernels.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    NdArray: cfg(feature = "ndarray"),
    Cube: cfg(feature = "cube"),
    Autodiff,
    Fusion: cfg(feature = "cube")
)]
pub trait NativeBackend: Backend {
    /// The result of `op`.
    #[fusion(default)]
    #[allow(unused_variables)]
    fn native(
        op: NativeOp,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        unreachable!("{NO_KERNEL}")
    }

    /// Gradients of the three tensors of `op`; what it does not take gets any tensor.
    #[fusion(default)]
    #[allow(unused_variables)]
    fn native_backward(
        op: NativeOp,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
        d_y: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        unreachable!("{NO_KERNEL}")
    }
}

const NO_KERNEL: &str = "no native kernel here, and no second derivative anywhere";

#[cfg(feature = "flex")]
impl NativeBackend for burn::backend::Flex {
    fn native(
        op: NativeOp,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        use crate::{memory_gates, newton_schulz, rms_norm, rotary, short_conv, swiglu};
        match op {
            NativeOp::Swiglu => swiglu::flex::forward(a, b),
            NativeOp::ConvSilu => short_conv::flex::forward(a, b, c),
            NativeOp::RmsNorm { eps } => rms_norm::flex::forward(a, b, None, eps),
            NativeOp::GatedRmsNorm { eps } => rms_norm::flex::forward(a, b, Some(c), eps),
            NativeOp::UnitRotary(rule) => rotary::flex::forward(rule, a, b, c),
            NativeOp::MemoryGates(rule) => memory_gates::flex::forward(rule, a, b, c),
            NativeOp::NewtonSchulz => newton_schulz::flex::forward(a),
        }
    }

    fn native_backward(
        op: NativeOp,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
        d_y: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        use crate::{memory_gates, rms_norm, rotary, short_conv, swiglu};
        match op {
            NativeOp::Swiglu => {
                let (d_a, d_b) = swiglu::flex::backward(a, b, d_y);
                (d_a, d_b, c)
            }
            NativeOp::ConvSilu => short_conv::flex::backward(a, b, c, d_y),
            NativeOp::RmsNorm { eps } => {
                let (d_a, d_b, _) = rms_norm::flex::backward(a, b, None, d_y, eps);
                (d_a, d_b, c)
            }
            NativeOp::GatedRmsNorm { eps } => {
                let (d_a, d_b, d_c) = rms_norm::flex::backward(a, b, Some(c), d_y, eps);
                (d_a, d_b, d_c.expect("a gate came in"))
            }
            NativeOp::UnitRotary(rule) => {
                let d_a = rotary::flex::backward(rule, a, b.clone(), c.clone(), d_y);
                (d_a, b, c)
            }
            NativeOp::MemoryGates(rule) => memory_gates::flex::backward(rule, a, b, c, d_y),
            NativeOp::NewtonSchulz => {
                unreachable!("{op:?} is never called with autodiff")
            }
        }
    }
}

#[cfg(feature = "ndarray")]
impl NativeBackend for burn::backend::NdArray {}

#[cfg(feature = "cube")]
impl NativeBackend for burn_cubecl::CubeBackend {}

/// Backward of any operator; its state is the inputs.
#[derive(Debug)]
struct NativeBackward;

impl<B: NativeBackend> Backward<B, 3> for NativeBackward {
    type State = (NativeOp, [FloatTensor<B>; 3]);

    fn backward(
        self,
        ops: Ops<Self::State, 3>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let (op, [a, b, c]) = ops.state;
        let d_y = grads.consume::<B>(&ops.node);
        let (d_a, d_b, d_c) = B::native_backward(op, a, b, c, d_y);
        let of_parents = ops.parents.into_iter().zip([d_a, d_b, d_c]);
        // Cosines and sines are no parents: nothing tracks them.
        for (parent, grad) in of_parents.take(op.arity()) {
            if let Some(parent) = parent {
                grads.register::<B>(parent.id, grad);
            }
        }
    }
}

impl<B: NativeBackend, C: CheckpointStrategy> NativeBackend for Autodiff<B, C> {
    fn native(
        op: NativeOp,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let nodes = [a.node(), b.node(), c.node()];
        let inner = [&a, &b, &c].map(|tensor| tensor.primitive().clone());
        let [a, b, c] = inner.clone();
        let y = B::native(op, a, b, c);
        match NativeBackward
            .prepare::<C>(nodes)
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(node) => node.finish((op, inner), y),
            OpsKind::UnTracked(node) => node.finish(y),
        }
    }
}
