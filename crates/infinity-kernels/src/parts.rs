//! Several results of one operator.
//!
//! A node of the autodiff graph has one output, so such an operator packs its results into one
//! vector. Cut apart by slices, every result's gradient would become a vector of zeros with a part
//! filled in, and those would be added. Here the gradients wait until all are there, for the
//! operator's own node to take or for one that puts them together once.

use burn::backend::autodiff::{
    Autodiff,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::{Backend, Dispatch, TensorMetadata, backend_extension, tensor::FloatTensor};
use burn::tensor::{Shape, Tensor};
use std::any::Any;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// The gradients that wait, of whatever backend's tensors.
type Waiting = Vec<Option<Box<dyn Any + Send>>>;

/// Shapes of what a vector holds, one behind the other, and the gradients that have come in.
#[derive(Clone, Debug)]
pub struct Parts {
    shapes: Arc<[Shape]>,
    waiting: Arc<Mutex<Waiting>>,
}

impl Parts {
    fn new(shapes: impl IntoIterator<Item = Shape>) -> Self {
        let shapes: Arc<[Shape]> = shapes.into_iter().collect();
        let waiting = shapes.iter().map(|_| None).collect();
        Parts {
            shapes,
            waiting: Arc::new(Mutex::new(waiting)),
        }
    }

    /// How many results there are.
    pub(crate) fn len(&self) -> usize {
        self.shapes.len()
    }

    /// Where part `i` lies.
    fn range(&self, i: usize) -> Range<usize> {
        let from: usize = self.shapes[..i].iter().map(Shape::num_elements).sum();
        from..from + self.shapes[i].num_elements()
    }

    fn put<B: Backend>(&self, i: usize, grad: FloatTensor<B>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting[i] = Some(Box::new(grad));
    }

    /// The gradient of every part, zeros for the results that nobody used. `like` says of what type
    /// and where.
    pub(crate) fn gradients<B: Backend>(&self, like: &FloatTensor<B>) -> Vec<FloatTensor<B>> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let grads = self.shapes.iter().zip(waiting.iter_mut());
        let each = grads.map(|(shape, grad)| {
            let grad = grad.take().map(|grad| grad.downcast::<FloatTensor<B>>());
            match grad {
                Some(Ok(grad)) => *grad,
                Some(Err(_)) => unreachable!("one graph, one backend"),
                None => B::float_zeros(shape.clone(), &like.device(), like.dtype().into()),
            }
        });
        each.collect()
    }
}

/// A vector that holds several results, and where they lie in it.
pub(crate) struct Packed {
    vector: Tensor<1>,
    parts: Parts,
}

impl Packed {
    /// `vector` holds results of `shapes`, one behind the other.
    pub(crate) fn new(vector: Tensor<1>, shapes: impl IntoIterator<Item = Shape>) -> Self {
        Packed::of(shapes, |parts| {
            Dispatch::gathered(vector.into_dispatch(), parts)
        })
    }

    /// What `run` returns holds results of `shapes`, one behind the other; its node of the graph, if
    /// it has one, gets nothing but a sign and asks the parts for the gradients.
    pub(crate) fn of(
        shapes: impl IntoIterator<Item = Shape>,
        run: impl FnOnce(Parts) -> FloatTensor<Dispatch>,
    ) -> Self {
        let parts = Parts::new(shapes);
        Packed {
            vector: Tensor::from_dispatch(run(parts.clone())),
            parts,
        }
    }

    /// Result `i`, which has `D` dimensions.
    pub(crate) fn part<const D: usize>(&self, i: usize) -> Tensor<D> {
        let vector = self.vector.clone().into_dispatch();
        Tensor::from_dispatch(Dispatch::part(vector, self.parts.clone(), i))
    }
}

/// Backends on which a vector is cut apart: all of them.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    NdArray: cfg(feature = "ndarray"),
    Cube: cfg(feature = "cube"),
    Autodiff,
    Fusion: cfg(feature = "cube")
)]
pub trait PartsBackend: Backend {
    /// The vector, with a node that puts the gradients of its parts together.
    #[fusion(default)]
    #[allow(unused_variables)]
    fn gathered(vector: FloatTensor<Self>, parts: Parts) -> FloatTensor<Self> {
        vector
    }

    /// Part `i` of what [`gathered`](Self::gathered) returned.
    #[fusion(default)]
    fn part(vector: FloatTensor<Self>, parts: Parts, i: usize) -> FloatTensor<Self> {
        let part = Self::float_slice(vector, &[parts.range(i).into()]);
        Self::float_reshape(part, parts.shapes[i].clone())
    }
}

#[cfg(feature = "flex")]
impl PartsBackend for burn::backend::Flex {}

#[cfg(feature = "ndarray")]
impl PartsBackend for burn::backend::NdArray {}

#[cfg(feature = "cube")]
impl PartsBackend for burn_cubecl::CubeBackend {}

/// Tensors flat, one behind the other.
pub(crate) fn packed<B: Backend>(
    tensors: impl IntoIterator<Item = FloatTensor<B>>,
) -> FloatTensor<B> {
    let flat = |x: FloatTensor<B>| {
        let len = x.shape().num_elements();
        B::float_reshape(x, Shape::from([len]))
    };
    B::float_cat(tensors.into_iter().map(flat).collect(), 0)
}

/// Puts the gradient of a part with those that wait. What it hands on is only a sign that they do.
#[derive(Debug)]
struct Part;

impl<B: Backend> Backward<B, 1> for Part {
    type State = (Parts, usize);

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let (parts, i) = ops.state;
        let grad = grads.consume::<B>(&ops.node);
        let [parent] = ops.parents;
        if let Some(parent) = parent {
            let sign = B::float_zeros(Shape::from([1]), &grad.device(), grad.dtype().into());
            parts.put::<B>(i, grad);
            grads.register::<B>(parent.id, sign);
        }
    }
}

/// Puts the gradients of all parts together.
#[derive(Debug)]
struct Gather;

impl<B: Backend> Backward<B, 1> for Gather {
    type State = Parts;

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let sign = grads.consume::<B>(&ops.node);
        let [parent] = ops.parents;
        if let Some(parent) = parent {
            grads.register::<B>(parent.id, packed::<B>(ops.state.gradients::<B>(&sign)));
        }
    }
}

impl<B: PartsBackend, C: CheckpointStrategy> PartsBackend for Autodiff<B, C> {
    fn gathered(vector: FloatTensor<Self>, parts: Parts) -> FloatTensor<Self> {
        let inner = vector.primitive().clone();
        match Gather
            .prepare::<C>([vector.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(node) => node.finish(parts, inner),
            OpsKind::UnTracked(node) => node.finish(inner),
        }
    }

    fn part(vector: FloatTensor<Self>, parts: Parts, i: usize) -> FloatTensor<Self> {
        let part = B::part(vector.primitive().clone(), parts.clone(), i);
        match Part
            .prepare::<C>([vector.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(node) => node.finish((parts, i), part),
            OpsKind::UnTracked(node) => node.finish(part),
        }
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;
    use crate::testing::values;
    use burn::tensor::{Device, TensorData};

    /// Two of three results used, one of them twice.
    #[test]
    fn gradients_come_together_and_what_is_not_used_has_none() {
        let device = Device::flex().autodiff();
        let counted: Vec<f32> = (0..9).map(|x| x as f32).collect();
        let x = Tensor::<1>::from_data(TensorData::new(counted, [9]), &device).require_grad();
        let packed = Packed::new(
            x.clone() * 2.0,
            [Shape::from([2, 2]), Shape::from([3]), Shape::from([2])],
        );
        let (a, c) = (packed.part::<2>(0), packed.part::<1>(2));
        assert_eq!(a.dims(), [2, 2]);
        assert_eq!(values(c.clone().inner()), [14.0, 16.0]);
        let loss = (a.clone() * a).sum() + c.clone().sum() + (c * 10.0).sum();
        let grads = loss.backward();
        let grad = values(x.grad(&grads).expect("a gradient"));
        let expected = vec![0.0, 8.0, 16.0, 24.0, 0.0, 0.0, 0.0, 22.0, 22.0];
        assert_eq!(grad, expected);
    }
}
