//! How projections of one input reach a device's kernel, and their node of the autodiff graph.
#![allow(missing_docs, reason = "what is derived has no documentation")]

use crate::parts::Parts;
use burn::backend::autodiff::{
    Autodiff,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::{Backend, ExtensionType, backend_extension, tensor::FloatTensor};

/// Weights that one call takes, at most.
pub(crate) const MOST: usize = 5;

/// An input `[B, T, D]` and weights `[D, N]`, or the gradients of both, or those of all results. Where
/// there are fewer weights, any tensor stands for the missing ones: an operation's inputs have to be
/// tensors.
#[derive(ExtensionType, Clone, Debug)]
#[extension_type(fusion: cfg(feature = "cube"))]
pub struct ProjectionTensors<B: Backend> {
    pub x: FloatTensor<B>,
    pub a: FloatTensor<B>,
    pub b: FloatTensor<B>,
    pub c: FloatTensor<B>,
    pub d: FloatTensor<B>,
    pub e: FloatTensor<B>,
}

impl<B: Backend> ProjectionTensors<B> {
    /// `x` with up to [`MOST`] others.
    pub(crate) fn new(x: FloatTensor<B>, others: Vec<FloatTensor<B>>) -> Self {
        let missing = x.clone();
        let mut others = others.into_iter();
        let mut next = || others.next().unwrap_or_else(|| missing.clone());
        ProjectionTensors {
            a: next(),
            b: next(),
            c: next(),
            d: next(),
            e: next(),
            x,
        }
    }

    /// The first `n` of the others.
    #[cfg(feature = "flex")]
    pub(crate) fn others(self, n: usize) -> Vec<FloatTensor<B>> {
        let mut others = vec![self.a, self.b, self.c, self.d, self.e];
        others.truncate(n);
        others
    }
}

/// Backends that may have a kernel for projections of one input.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    NdArray: cfg(feature = "ndarray"),
    Cube: cfg(feature = "cube"),
    Autodiff,
    Fusion: cfg(feature = "cube")
)]
pub trait ProjectionsBackend: Backend {
    /// `x · weight` for every weight that `parts` has a shape for, one behind the other.
    #[fusion(default)]
    #[allow(unused_variables)]
    fn projections(
        #[extension_type] x: ProjectionTensors<Self>,
        parts: Parts,
    ) -> FloatTensor<Self> {
        unreachable!("{NO_KERNEL}")
    }

    /// Gradients of input and weights, given those of the results in the places of the weights.
    #[fusion(default)]
    #[allow(unused_variables)]
    fn projections_backward(
        #[extension_type] x: ProjectionTensors<Self>,
        #[extension_type] d_y: ProjectionTensors<Self>,
        parts: Parts,
    ) -> ProjectionTensors<Self> {
        unreachable!("{NO_KERNEL}")
    }
}

const NO_KERNEL: &str = "no kernel for projections here, and no second derivative anywhere";

#[cfg(feature = "flex")]
impl ProjectionsBackend for burn::backend::Flex {
    fn projections(x: ProjectionTensors<Self>, parts: Parts) -> FloatTensor<Self> {
        let input = x.x.clone();
        super::flex::forward(input, x.others(parts.len()))
    }

    fn projections_backward(
        x: ProjectionTensors<Self>,
        d_y: ProjectionTensors<Self>,
        parts: Parts,
    ) -> ProjectionTensors<Self> {
        let (input, n) = (x.x.clone(), parts.len());
        let (d_x, d_weights) = super::flex::backward(input, x.others(n), d_y.others(n));
        ProjectionTensors::new(d_x, d_weights)
    }
}

#[cfg(feature = "ndarray")]
impl ProjectionsBackend for burn::backend::NdArray {}

#[cfg(feature = "cube")]
impl ProjectionsBackend for burn_cubecl::CubeBackend {}

/// Backward of projections; its state is the inputs.
#[derive(Debug)]
struct ProjectionsBackward;

impl<B: ProjectionsBackend> Backward<B, { MOST + 1 }> for ProjectionsBackward {
    type State = (ProjectionTensors<B>, Parts);

    fn backward(
        self,
        ops: Ops<Self::State, { MOST + 1 }>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let (x, parts) = ops.state;
        let sign = grads.consume::<B>(&ops.node);
        let n = parts.len();
        let d_y = ProjectionTensors::new(x.x.clone(), parts.gradients::<B>(&sign));
        let d = B::projections_backward(x, d_y, parts);
        let each = [d.x, d.a, d.b, d.c, d.d, d.e];
        for (parent, grad) in ops.parents.into_iter().zip(each).take(n + 1) {
            if let Some(parent) = parent {
                grads.register::<B>(parent.id, grad);
            }
        }
    }
}

impl<B: ProjectionsBackend, C: CheckpointStrategy> ProjectionsBackend for Autodiff<B, C> {
    fn projections(x: ProjectionTensors<Self>, parts: Parts) -> FloatTensor<Self> {
        let all = [&x.x, &x.a, &x.b, &x.c, &x.d, &x.e];
        let nodes = all.map(|tensor| tensor.node());
        let [input, a, b, c, d, e] = all.map(|tensor| tensor.primitive().clone());
        let inner = ProjectionTensors::new(input, vec![a, b, c, d, e]);
        let y = B::projections(inner.clone(), parts.clone());
        match ProjectionsBackward
            .prepare::<C>(nodes)
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(node) => node.finish((inner, parts), y),
            OpsKind::UnTracked(node) => node.finish(y),
        }
    }
}
