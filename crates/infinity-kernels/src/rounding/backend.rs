//! The extension trait behind [`rounded`](super::rounded()), and its autodiff node. It is not one of
//! [`NativeOp`](crate::native::NativeOp), whose node keeps its inputs: this one keeps nothing.

use super::Half;
#[cfg(feature = "flex")]
use super::flex;
use burn::backend::autodiff::{
    Autodiff,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::{Backend, backend_extension, tensor::FloatTensor};

/// Backends with native rounding to a half format.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    NdArray: cfg(feature = "ndarray"),
    Cube: cfg(feature = "cube"),
    Autodiff,
    Fusion: cfg(feature = "cube")
)]
pub trait RoundingBackend: Backend {
    /// The values of an `f32` tensor as `half` has them.
    ///
    /// # Panics
    ///
    /// Where no kernel exists; [`rounded`](super::rounded()) does not ask there.
    #[fusion(default)]
    #[allow(unused_variables)]
    fn native_rounded(x: FloatTensor<Self>, half: Half) -> FloatTensor<Self> {
        unreachable!("no native rounding here")
    }
}

#[cfg(feature = "flex")]
impl RoundingBackend for burn::backend::Flex {
    fn native_rounded(x: FloatTensor<Self>, half: Half) -> FloatTensor<Self> {
        flex::rounded(x, half)
    }
}

#[cfg(feature = "ndarray")]
impl RoundingBackend for burn::backend::NdArray {}

#[cfg(feature = "cube")]
impl RoundingBackend for burn_cubecl::CubeBackend {}

#[derive(Debug)]
struct RoundedBackward;

impl<B: RoundingBackend> Backward<B, 1> for RoundedBackward {
    type State = Half;

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let d_y = grads.consume::<B>(&ops.node);
        let [parent] = ops.parents;
        if let Some(parent) = parent {
            grads.register::<B>(parent.id, B::native_rounded(d_y, ops.state));
        }
    }
}

impl<B: RoundingBackend, C: CheckpointStrategy> RoundingBackend for Autodiff<B, C> {
    fn native_rounded(x: FloatTensor<Self>, half: Half) -> FloatTensor<Self> {
        let node = x.node();
        let y = B::native_rounded(x.primitive().clone(), half);
        match RoundedBackward
            .prepare::<C>([node])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(node) => node.finish(half, y),
            OpsKind::UnTracked(node) => node.finish(y),
        }
    }
}
