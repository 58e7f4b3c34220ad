//! The extension trait behind [`short_conv_silu`](super::short_conv_silu), and its autodiff node.

#[cfg(feature = "flex")]
use super::flex;
use burn::backend::autodiff::{
    Autodiff,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::{Backend, backend_extension, tensor::FloatTensor};

/// Backends with a native convolution and SiLU in one. Shapes as in
/// [`short_conv`](super::short_conv).
#[allow(deprecated)] // NdArray stays supported for those who have it.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    NdArray: cfg(feature = "ndarray"),
    Cube: cfg(feature = "cube"),
    Autodiff,
    Fusion: cfg(feature = "cube")
)]
pub trait ShortConvBackend: Backend {
    /// `silu(conv(x))` `[B, T, channels]`.
    ///
    /// # Panics
    ///
    /// Where no kernel exists; [`short_conv_silu`](super::short_conv_silu) does not ask there.
    #[fusion(default)]
    #[allow(unused_variables)]
    fn native_conv_silu(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        tail: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        unreachable!("{NO_KERNEL}")
    }

    /// Gradients of `x`, `weight` and `tail`.
    #[fusion(default)]
    #[allow(unused_variables)]
    fn native_conv_silu_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        tail: FloatTensor<Self>,
        d_y: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        unreachable!("{NO_KERNEL}")
    }
}

const NO_KERNEL: &str = "no native convolution here, and no second derivative anywhere";

#[cfg(feature = "flex")]
impl ShortConvBackend for burn::backend::Flex {
    fn native_conv_silu(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        tail: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        flex::forward(x, weight, tail)
    }

    fn native_conv_silu_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        tail: FloatTensor<Self>,
        d_y: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        flex::backward(x, weight, tail, d_y)
    }
}

#[cfg(feature = "ndarray")]
#[allow(deprecated)] // As above.
impl ShortConvBackend for burn::backend::NdArray {}

#[cfg(feature = "cube")]
impl ShortConvBackend for burn_cubecl::CubeBackend {}

#[derive(Debug)]
struct ConvBackward;

impl<B: ShortConvBackend> Backward<B, 3> for ConvBackward {
    /// `x`, `weight` and `tail`.
    type State = [FloatTensor<B>; 3];

    fn backward(
        self,
        ops: Ops<Self::State, 3>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let [x, weight, tail] = ops.state;
        let d_y = grads.consume::<B>(&ops.node);
        let (d_x, d_weight, d_tail) = B::native_conv_silu_backward(x, weight, tail, d_y);
        for (parent, grad) in ops.parents.into_iter().zip([d_x, d_weight, d_tail]) {
            if let Some(parent) = parent {
                grads.register::<B>(parent.id, grad);
            }
        }
    }
}

impl<B: ShortConvBackend, C: CheckpointStrategy> ShortConvBackend for Autodiff<B, C> {
    fn native_conv_silu(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        tail: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), weight.node(), tail.node()];
        let inner = [&x, &weight, &tail].map(|tensor| tensor.primitive().clone());
        let [x, weight, tail] = inner.clone();
        let y = B::native_conv_silu(x, weight, tail);
        match ConvBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(node) => node.finish(inner, y),
            OpsKind::UnTracked(node) => node.finish(y),
        }
    }
}
