//! The extension trait behind [`swiglu`](super::swiglu()), and its autodiff node.

#[cfg(feature = "flex")]
use super::flex;
use burn::backend::autodiff::{
    Autodiff,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::{Backend, backend_extension, tensor::FloatTensor};

/// Backends with a native SwiGLU gate.
#[allow(deprecated)] // NdArray stays supported for those who have it.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    NdArray: cfg(feature = "ndarray"),
    Cube: cfg(feature = "cube"),
    Autodiff,
    Fusion: cfg(feature = "cube")
)]
pub trait SwigluBackend: Backend {
    /// `silu(gate) ⊙ up`.
    ///
    /// # Panics
    ///
    /// Where no kernel exists; [`swiglu`](super::swiglu()) does not ask there.
    #[fusion(default)]
    #[allow(unused_variables)]
    fn native_swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        unreachable!("{NO_KERNEL}")
    }

    /// Gradients of `gate` and `up`.
    #[fusion(default)]
    #[allow(unused_variables)]
    fn native_swiglu_backward(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        d_y: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        unreachable!("{NO_KERNEL}")
    }
}

const NO_KERNEL: &str = "no native SwiGLU here, and no second derivative anywhere";

#[cfg(feature = "flex")]
impl SwigluBackend for burn::backend::Flex {
    fn native_swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        flex::forward(gate, up)
    }

    fn native_swiglu_backward(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        d_y: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        flex::backward(gate, up, d_y)
    }
}

#[cfg(feature = "ndarray")]
#[allow(deprecated)] // As above.
impl SwigluBackend for burn::backend::NdArray {}

#[cfg(feature = "cube")]
impl SwigluBackend for burn_cubecl::CubeBackend {}

#[derive(Debug)]
struct SwigluBackward;

impl<B: SwigluBackend> Backward<B, 2> for SwigluBackward {
    /// `gate` and `up`.
    type State = [FloatTensor<B>; 2];

    fn backward(
        self,
        ops: Ops<Self::State, 2>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let [gate, up] = ops.state;
        let d_y = grads.consume::<B>(&ops.node);
        let (d_gate, d_up) = B::native_swiglu_backward(gate, up, d_y);
        for (parent, grad) in ops.parents.into_iter().zip([d_gate, d_up]) {
            if let Some(parent) = parent {
                grads.register::<B>(parent.id, grad);
            }
        }
    }
}

impl<B: SwigluBackend, C: CheckpointStrategy> SwigluBackend for Autodiff<B, C> {
    fn native_swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        let nodes = [gate.node(), up.node()];
        let inner = [&gate, &up].map(|tensor| tensor.primitive().clone());
        let [gate, up] = inner.clone();
        let y = B::native_swiglu(gate, up);
        match SwigluBackward
            .prepare::<C>(nodes)
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(node) => node.finish(inner, y),
            OpsKind::UnTracked(node) => node.finish(y),
        }
    }
}
