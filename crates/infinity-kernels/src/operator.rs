//! The one way from tensors to an operator's own kernels, and to a gradient written by hand.
//!
//! An operator is a value that holds the numbers of a call and implements [`Operator`]: what it does
//! with a list of tensors on the CPU, on a CubeCL runtime, or on the primitives of any backend, and
//! how gradients go back through that. [`run`] hands it to the backend that its tensors live on; the
//! node of the autodiff graph and the lazy operation of Burn's fusion are derived here, for all
//! operators alike. Operators name this module; it names none of them.
//!
//! Several results are several tensors. A node of Burn's graph has one, so such an operator gets a
//! node of its own and one for each result: those collect the gradients, which would otherwise be
//! cut out of, and added up as, vectors as long as all results.

pub(crate) use crate::pool::has_pool as on_cpu;
use crate::profile::{Pass, timed};
#[cfg(feature = "flex")]
use burn::backend::Flex;
use burn::backend::autodiff::{
    Autodiff, NodeId,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{self, Backward as _, Ops, OpsKind},
};
#[cfg(feature = "cube")]
use burn::backend::fusion::{Fusion, FusionBackend, FusionRuntime, custom::*};
use burn::backend::{
    Backend, BackendTensor, Dispatch, DispatchAutodiffContext, DispatchTensor, DispatchTensorKind,
    ExtensionType, TensorMetadata, backend_extension, tensor::FloatTensor,
};
use burn::tensor::{DType, Device, Shape, Tensor};
#[cfg(feature = "cube")]
use burn_cubecl::CubeBackend;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};

/// Inputs that an operator with gradients takes, at most.
pub(crate) const MOST_INPUTS: usize = 10;

/// What a forward pass gives.
#[derive(Debug)]
pub(crate) struct Forward<B: Backend> {
    pub(crate) results: Vec<FloatTensor<B>>,
    /// What backward needs besides the inputs; empty where nothing was to be saved.
    pub(crate) saved: Vec<FloatTensor<B>>,
}

/// What a backward pass starts from.
#[derive(Debug)]
pub(crate) struct Backward<B: Backend> {
    pub(crate) inputs: Vec<FloatTensor<B>>,
    /// As forward saved it.
    pub(crate) saved: Vec<FloatTensor<B>>,
    /// The gradient of every result; zeros for those that nothing was made of, or what [`is_none`] knows.
    pub(crate) grads: Vec<FloatTensor<B>>,
    /// Whether the gradient of an input is wanted; what a body returns for another one is not looked at, and has
    /// its shape and type.
    pub(crate) wanted: Vec<bool>,
}

/// Whether nothing was made of a result of this shape, by its gradient.
pub(crate) fn is_none(grad: &impl TensorMetadata, of: &Shape) -> bool {
    grad.shape() != *of
}

/// Shapes and types of what a kernel on a CubeCL runtime will give, which Burn's fusion wants to know
/// before it runs.
#[cfg(feature = "cube")]
pub(crate) struct Layout {
    pub(crate) results: Vec<TensorSpec>,
    pub(crate) saved: Vec<TensorSpec>,
}

/// A result of this shape and type.
#[cfg(feature = "cube")]
pub(crate) fn spec(shape: impl Into<Shape>, dtype: DType) -> TensorSpec {
    TensorSpec::new(shape.into(), dtype)
}

/// An operator with the numbers of one call: sizes, switches, constants.
///
/// Every body takes the inputs in the order that [`run`] is given them. Backward bodies return
/// gradients in the same order, for all but the [`CONSTANTS`](Self::CONSTANTS).
#[allow(unused_variables, reason = "bodies that an operator does not have")]
pub(crate) trait Operator: Clone + Debug + Send + Sync + 'static {
    /// Its name, for messages and traces.
    const NAME: &'static str;

    /// How many inputs, the last ones, have no gradient.
    const CONSTANTS: usize = 0;

    /// Whether backward reads the inputs. If not, they are let go, and it is given none; fusion wants
    /// them where there is a [`layout`](Self::layout).
    const READS_INPUTS: bool = true;

    /// Whether backward knows the gradient of a result that nothing was made of by its shape, `[1]` ([`is_none`]). If
    /// not, it is given zeros.
    const KNOWS_NONE: bool = false;

    /// On the primitives of any backend. `save` asks for what backward needs.
    fn composed<B: Backend>(&self, inputs: Vec<FloatTensor<B>>, save: bool) -> Forward<B> {
        unreachable!("{} has no kernel on this device", Self::NAME)
    }

    /// The gradients of [`composed`](Self::composed).
    fn composed_backward<B: Backend>(&self, call: Backward<B>) -> Vec<FloatTensor<B>> {
        unreachable!("{} has no gradient on this device", Self::NAME)
    }

    /// The kernel of the CPU.
    #[cfg(feature = "flex")]
    fn cpu(&self, inputs: Vec<FloatTensor<Flex>>, save: bool) -> Forward<Flex> {
        self.composed(inputs, save)
    }

    /// The gradients of [`cpu`](Self::cpu).
    #[cfg(feature = "flex")]
    fn cpu_backward(&self, call: Backward<Flex>) -> Vec<FloatTensor<Flex>> {
        self.composed_backward(call)
    }

    /// The kernel of the CubeCL runtimes; an operator that has one has a [`layout`](Self::layout).
    #[cfg(feature = "cube")]
    fn gpu(&self, inputs: Vec<FloatTensor<CubeBackend>>, save: bool) -> Forward<CubeBackend> {
        self.composed(inputs, save)
    }

    /// The gradients of [`gpu`](Self::gpu).
    #[cfg(feature = "cube")]
    fn gpu_backward(&self, call: Backward<CubeBackend>) -> Vec<FloatTensor<CubeBackend>> {
        self.composed_backward(call)
    }

    /// What [`gpu`](Self::gpu) will give for inputs like these; `None` where there is only
    /// [`composed`](Self::composed), whose primitives fusion sees one by one.
    #[cfg(feature = "cube")]
    fn layout(&self, inputs: &[TensorSpec], save: bool) -> Option<Layout> {
        None
    }
}

/// The bodies of an [`Operator`] with a kernel that saves nothing: results of the inputs, and gradients of the inputs, of
/// those of the results and, where it asks, of which are wanted. Each list is named as a whole, or in brackets one by one.
macro_rules! kernel {
    ($feature:literal, $backend:ty, $forward:ident, $backward:ident: |$self:ident, $inputs:tt| $results:expr
        $(; |$self_back:ident, $inputs_back:tt, $grads:tt $(, $wanted:ident)?| $gradients:expr)?) => {
        #[cfg(feature = $feature)]
        fn $forward(
            &$self,
            inputs: Vec<burn::backend::tensor::FloatTensor<$backend>>,
            _save: bool,
        ) -> crate::operator::Forward<$backend> {
            crate::operator::kernel!(@let $inputs = inputs);
            crate::operator::Forward {
                results: Vec::from($results),
                saved: Vec::new(),
            }
        }

        $(#[cfg(feature = $feature)]
        fn $backward(
            &$self_back,
            call: crate::operator::Backward<$backend>,
        ) -> Vec<burn::backend::tensor::FloatTensor<$backend>> {
            crate::operator::kernel!(@let $inputs_back = call.inputs);
            crate::operator::kernel!(@let $grads = call.grads);
            $(let $wanted = call.wanted;)?
            Vec::from($gradients)
        })?
    };
    (@let [$($name:ident),*] = $list:expr) => {
        let [$($name),*] = crate::operator::exactly($list);
    };
    (@let $name:ident = $list:expr) => {
        let $name = $list;
    };
}
pub(crate) use kernel;

/// [`kernel!`] of the CPU.
macro_rules! cpu_kernel {
    ($($bodies:tt)*) => {
        crate::operator::kernel!("flex", burn::backend::Flex, cpu, cpu_backward: $($bodies)*);
    };
}
pub(crate) use cpu_kernel;

/// [`kernel!`] of the CubeCL runtimes, behind the specs of its results for those of its inputs.
macro_rules! gpu_kernel {
    (|$self:ident, $specs:tt| $layout:expr; $($bodies:tt)*) => {
        #[cfg(feature = "cube")]
        fn layout(
            &$self,
            inputs: &[burn::backend::fusion::custom::TensorSpec],
            _save: bool,
        ) -> Option<crate::operator::Layout> {
            let $specs = inputs;
            Some(crate::operator::Layout {
                results: Vec::from($layout),
                saved: Vec::new(),
            })
        }

        crate::operator::kernel!("cube", burn_cubecl::CubeBackend, gpu, gpu_backward: $($bodies)*);
    };
}
pub(crate) use gpu_kernel;

/// Whether `device` is of a CubeCL runtime that can run the kernels.
pub(crate) fn has_gpu_kernels(device: &Device) -> bool {
    #[cfg(all(test, feature = "cuda"))]
    if crate::gpu::tests::is_here() {
        return true;
    }
    #[cfg(feature = "cube")]
    return crate::gpu::has_kernels(device);
    #[cfg(not(feature = "cube"))]
    {
        let _ = device;
        false
    }
}

/// Whether `device` has kernels of the operators that go row by row: the CPU, and CubeCL runtimes.
pub(crate) fn has_row_kernels(device: &Device) -> bool {
    has_gpu_kernels(device) || on_cpu(device)
}

/// The tensors of a list that has as many.
pub(crate) fn exactly<T, const N: usize>(list: Vec<T>) -> [T; N] {
    let len = list.len();
    let array = <[T; N]>::try_from(list);
    array.unwrap_or_else(|_| unreachable!("{len} tensors, not {N}"))
}

/// `work` of all items of one key at once, for one key after the other; results in the order of the items.
pub(crate) fn by_key<T, K: PartialEq, R>(
    items: Vec<T>,
    key: impl Fn(&T) -> K,
    work: impl Fn(K, Vec<T>) -> Vec<R>,
) -> Vec<R> {
    let mut groups: Vec<(K, Vec<usize>, Vec<T>)> = Vec::new();
    for (place, item) in items.into_iter().enumerate() {
        let key = key(&item);
        match groups.iter_mut().find(|(of, ..)| *of == key) {
            Some((_, places, all)) => {
                places.push(place);
                all.push(item);
            }
            None => groups.push((key, vec![place], vec![item])),
        }
    }
    let results = groups.into_iter();
    let results = results.flat_map(|(key, places, all)| places.into_iter().zip(work(key, all)));
    let results: BTreeMap<usize, R> = results.collect();
    results.into_values().collect()
}

/// The results of `op`, on the device of its inputs: at least one, with autodiff at most [`MOST_INPUTS`].
pub(crate) fn run<O: Operator>(op: O, inputs: Vec<FloatTensor<Dispatch>>) -> Results {
    Results(Dispatch::run(op, Tensors(inputs)).0.into_iter())
}

/// Results of an operator, to be taken in their order.
pub(crate) struct Results(std::vec::IntoIter<FloatTensor<Dispatch>>);

impl Results {
    /// The next one, which has `D` dimensions.
    pub(crate) fn take<const D: usize>(&mut self) -> Tensor<D> {
        Tensor::from_dispatch(self.0.next().expect("as many as the operator has results"))
    }
}

/// A list of tensors on its way to a backend or back.
#[derive(Clone, Debug)]
pub(crate) struct Tensors<B: Backend>(Vec<FloatTensor<B>>);

impl<B: Backend> ExtensionType<B> for Tensors<B> {
    type Target = Tensors<Dispatch>;

    fn map_to_dispatch<F>(self, kind: F, autodiff: DispatchAutodiffContext) -> Tensors<Dispatch>
    where
        F: Fn(BackendTensor<B>) -> DispatchTensorKind,
    {
        let wrap = |x| DispatchTensor {
            kind: kind(BackendTensor::Float(x)),
            autodiff,
        };
        Tensors(self.0.into_iter().map(wrap).collect())
    }

    fn map_from_dispatch<F>(target: Tensors<Dispatch>, unwrap: F) -> Self
    where
        F: Fn(DispatchTensor) -> BackendTensor<B>,
    {
        Tensors(target.0.into_iter().map(|x| unwrap(x).float()).collect())
    }

    fn routing_tensor(target: &Tensors<Dispatch>) -> Option<&DispatchTensor> {
        target.0.first()
    }

    fn routing_float_tensor(target: &Tensors<Dispatch>) -> Option<&DispatchTensor> {
        target.0.first()
    }

    fn autodiff_context(target: &Tensors<Dispatch>) -> DispatchAutodiffContext {
        let contexts = target.0.iter().map(|x| x.autodiff);
        contexts.fold(DispatchAutodiffContext::Disabled, |all, x| all.merge(x))
    }
}

/// Backends that operators run on, with or without autodiff.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    NdArray: cfg(feature = "ndarray"),
    Cube: cfg(feature = "cube"),
    Autodiff
)]
pub(crate) trait OperatorBackend: Backend {
    /// The results of `op`.
    fn run<O: Operator>(op: O, #[extension_type] inputs: Tensors<Self>) -> Tensors<Self>;
}

/// Backends below autodiff, each with the body of an operator that it takes.
pub(crate) trait Kernels: Backend {
    fn forward<O: Operator>(op: &O, inputs: Vec<FloatTensor<Self>>, save: bool) -> Forward<Self>;
    fn backward<O: Operator>(op: &O, call: Backward<Self>) -> Vec<FloatTensor<Self>>;
}

/// `Kernels` of a backend by two methods of `Operator`, and `OperatorBackend` of that or of what is around it.
macro_rules! kernels {
    ($backend:ty, $around:ty: $forward:ident, $backward:ident) => {
        impl Kernels for $backend {
            fn forward<O: Operator>(
                op: &O,
                inputs: Vec<FloatTensor<Self>>,
                save: bool,
            ) -> Forward<Self> {
                #[cfg(all(test, feature = "cuda"))]
                if crate::gpu::tests::is_here() {
                    return crate::gpu::tests::forward(op, inputs, save);
                }
                timed(O::NAME, Pass::Forward, || op.$forward(inputs, save))
            }

            fn backward<O: Operator>(op: &O, call: Backward<Self>) -> Vec<FloatTensor<Self>> {
                #[cfg(all(test, feature = "cuda"))]
                if crate::gpu::tests::is_here() {
                    return crate::gpu::tests::backward(op, call);
                }
                timed(O::NAME, Pass::Backward, || op.$backward(call))
            }
        }

        impl OperatorBackend for $around {
            fn run<O: Operator>(op: O, inputs: Tensors<Self>) -> Tensors<Self> {
                Tensors(Self::forward(&op, inputs.0, false).results)
            }
        }
    };
}

#[cfg(feature = "flex")]
kernels!(Flex, Flex: cpu, cpu_backward);
#[cfg(feature = "ndarray")]
kernels!(burn::backend::NdArray, burn::backend::NdArray: composed, composed_backward);
#[cfg(feature = "cube")]
kernels!(CubeBackend, burn::backend::Cube: gpu, gpu_backward);

/// A kernel becomes one operation of fusion's stream; without one the primitives do.
#[cfg(feature = "cube")]
impl<B: FusionBackend + Kernels> Kernels for Fusion<B> {
    fn forward<O: Operator>(op: &O, inputs: Vec<FloatTensor<Self>>, save: bool) -> Forward<Self> {
        let Some(Layout { mut results, saved }) = op.layout(&specs::<B>(&inputs), save) else {
            return op.composed(inputs, save);
        };
        let (n, op) = (results.len(), op.clone());
        results.extend(saved);
        let mut results = lazily::<B>(O::NAME, inputs, results, move |inputs| {
            let Forward { mut results, saved } = B::forward(&op, inputs, save);
            results.extend(saved);
            results
        });
        let saved = results.split_off(n);
        Forward { results, saved }
    }

    fn backward<O: Operator>(op: &O, call: Backward<Self>) -> Vec<FloatTensor<Self>> {
        let mut like = specs::<B>(&call.inputs);
        if op.layout(&like, true).is_none() {
            return op.composed_backward(call);
        }
        let (n, saved, op) = (like.len(), call.saved.len(), op.clone());
        let wanted = call.wanted;
        like.truncate(n - O::CONSTANTS);
        let all = [call.inputs, call.saved, call.grads].concat();
        lazily::<B>(O::NAME, all, like, move |mut inputs| {
            let grads = inputs.split_off(n + saved);
            let saved = inputs.split_off(n);
            let call = Backward {
                inputs,
                saved,
                grads,
                wanted: wanted.clone(),
            };
            B::backward(&op, call)
        })
    }
}

#[cfg(feature = "cube")]
fn specs<B: FusionBackend>(tensors: &[FloatTensor<Fusion<B>>]) -> Vec<TensorSpec> {
    let spec = |x: &FloatTensor<Fusion<B>>| TensorSpec::new(x.shape.clone(), x.dtype);
    tensors.iter().map(spec).collect()
}

/// Puts an operation at the end of fusion's stream: `body` runs when the stream gets there, and gives
/// tensors like `outputs`.
#[cfg(feature = "cube")]
fn lazily<B: FusionBackend>(
    name: &'static str,
    inputs: Vec<FloatTensor<Fusion<B>>>,
    outputs: Vec<TensorSpec>,
    body: impl Fn(Vec<FloatTensor<B>>) -> Vec<FloatTensor<B>> + Send + Sync + 'static,
) -> Vec<FloatTensor<Fusion<B>>> {
    type Handles<B> =
        HandleContainer<<<B as FusionBackend>::FusionRuntime as FusionRuntime>::FusionHandle>;
    let client = inputs[0].client.clone();
    let inputs: Vec<TensorIr> = inputs.into_iter().map(|x| x.into_ir()).collect();
    let output =
        |spec: TensorSpec| TensorIr::uninit(client.create_empty_handle(), spec.shape, spec.dtype);
    let outputs: Vec<TensorIr> = outputs.into_iter().map(output).collect();
    let operation = OperationIr::Custom(CustomOpIr {
        id: name.to_owned(),
        inputs: inputs.clone(),
        outputs: outputs.clone(),
        scalars: Vec::new(),
    });
    let body = OperationFn(move |handles: &mut Handles<B>| {
        let inputs = inputs.iter().map(|x| handles.get_float_tensor::<B>(x));
        let inputs = inputs.collect();
        for (output, tensor) in outputs.iter().zip(body(inputs)) {
            handles.register_float_tensor::<B>(&output.id, tensor);
        }
        Ok(())
    });
    client.register(StreamId::current(), operation, body)
}

impl<B: Kernels, C: CheckpointStrategy> OperatorBackend for Autodiff<B, C> {
    fn run<O: Operator>(op: O, Tensors(inputs): Tensors<Self>) -> Tensors<Self> {
        assert!((1..=MOST_INPUTS).contains(&inputs.len()), "{}", O::NAME);
        // A node has a fixed number of parents: the last input stands for those that are missing.
        let last = inputs.len() - 1;
        let parents = std::array::from_fn(|i| inputs[i.min(last)].node());
        let inputs: Vec<_> = inputs.into_iter().map(|x| x.into_primitive()).collect();
        let node = Node(op.clone(), inputs.len()).prepare::<C>(parents);
        let node = node.compute_bound().stateful();
        let tracked = matches!(node, OpsKind::Tracked(_));
        let kept = match tracked && O::READS_INPUTS {
            true => inputs.clone(),
            false => Vec::new(),
        };
        let Forward { results, saved } = B::forward(&op, inputs, tracked);
        let (incoming, first) = (Incoming::new(&results), results[0].clone());
        let node = match node {
            OpsKind::Tracked(node) => node.finish((kept, saved, incoming.clone()), first),
            OpsKind::UnTracked(node) => node.finish(first),
        };
        if results.len() == 1 {
            return Tensors(vec![node]);
        }
        let result = |(i, result)| {
            let part = PartOf(i).prepare::<C>([node.node()]);
            match part.compute_bound().stateful() {
                OpsKind::Tracked(part) => part.finish(incoming.clone(), result),
                OpsKind::UnTracked(part) => part.finish(result),
            }
        };
        Tensors(results.into_iter().enumerate().map(result).collect())
    }
}

/// The gradients of several results, which come in one by one, and what the results are like.
#[derive(Clone, Debug)]
struct Incoming<B: Backend> {
    like: Arc<[(Shape, DType)]>,
    grads: Arc<Mutex<Vec<Option<FloatTensor<B>>>>>,
}

impl<B: Backend> Incoming<B> {
    fn new(results: &[FloatTensor<B>]) -> Self {
        let like = results.iter().map(|x| (x.shape(), x.dtype()));
        Incoming {
            like: like.collect(),
            grads: Arc::new(Mutex::new(vec![None; results.len()])),
        }
    }

    /// Whether it is the first.
    fn put(&self, i: usize, grad: FloatTensor<B>) -> bool {
        let mut grads = self.grads.lock().unwrap_or_else(PoisonError::into_inner);
        let first = grads.iter().all(Option::is_none);
        grads[i] = Some(grad);
        first
    }

    /// All of them, zeros or nothing where none came in.
    fn take(&self, device: &B::Device, knows_none: bool) -> Vec<FloatTensor<B>> {
        let mut grads = self.grads.lock().unwrap_or_else(PoisonError::into_inner);
        let each = grads.iter_mut().zip(self.like.iter());
        each.map(|(grad, (shape, dtype))| match grad.take() {
            Some(grad) => grad,
            None if knows_none => nothing::<B>(device, *dtype),
            None => B::float_zeros(shape.clone(), device, (*dtype).into()),
        })
        .collect()
    }
}

/// The node of an operator with some inputs.
#[derive(Debug)]
struct Node<O>(O, usize);

impl<O: Operator, B: Kernels> ops::Backward<B, MOST_INPUTS> for Node<O> {
    /// The inputs, what forward saved, and where the gradients of several results wait.
    type State = (Vec<FloatTensor<B>>, Vec<FloatTensor<B>>, Incoming<B>);

    fn backward(
        self,
        ops: Ops<Self::State, MOST_INPUTS>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let (inputs, saved, incoming) = ops.state;
        let grad = grads.consume::<B>(&ops.node);
        let call = Backward {
            inputs,
            saved,
            grads: match incoming.like.len() {
                1 => vec![grad],
                // That one only said that there are some.
                _ => incoming.take(&grad.device(), O::KNOWS_NONE),
            },
            wanted: ops.parents[..self.1].iter().map(Option::is_some).collect(),
        };
        let of_inputs = B::backward(&self.0, call);
        assert_eq!(of_inputs.len() + O::CONSTANTS, self.1, "{}", O::NAME);
        for (parent, grad) in ops.parents.into_iter().zip(of_inputs) {
            register::<B>(grads, parent.map(|parent| parent.id), grad);
        }
    }
}

/// A tensor whose value nobody reads, which costs a GPU no launch.
fn nothing<B: Backend>(device: &B::Device, dtype: DType) -> FloatTensor<B> {
    B::float_empty(Shape::from([1]), device, dtype.into())
}

fn register<B: Backend>(grads: &mut Gradients, parent: Option<NodeId>, grad: FloatTensor<B>) {
    if let Some(parent) = parent {
        grads.register::<B>(parent, grad);
    }
}

/// The node of one of several results. It puts its gradient where that of the operator looks for it.
#[derive(Debug)]
struct PartOf(usize);

impl<B: Backend> ops::Backward<B, 1> for PartOf {
    type State = Incoming<B>;

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let grad = grads.consume::<B>(&ops.node);
        let sign = nothing::<B>(&grad.device(), grad.dtype());
        let [parent] = ops.parents;
        // One is enough; several would be added up.
        if ops.state.put(self.0, grad) {
            register::<B>(grads, parent.map(|parent| parent.id), sign);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::values;
    use burn::tensor::TensorData;

    /// `x`, `2x` and `3x`; its gradients come from what forward saved.
    #[derive(Clone, Debug)]
    struct Multiples;

    impl Operator for Multiples {
        const NAME: &'static str = "multiples";

        fn composed<B: Backend>(&self, inputs: Vec<FloatTensor<B>>, save: bool) -> Forward<B> {
            let times = |factor: f64| B::float_mul_scalar(inputs[0].clone(), factor.into());
            Forward {
                results: vec![times(1.0), times(2.0), times(3.0)],
                saved: if save { vec![times(0.0)] } else { Vec::new() },
            }
        }

        fn composed_backward<B: Backend>(&self, call: Backward<B>) -> Vec<FloatTensor<B>> {
            let factors = [1.0f64, 2.0, 3.0].into_iter();
            let each = call.grads.into_iter().zip(factors);
            let each = each.map(|(grad, factor)| B::float_mul_scalar(grad, factor.into()));
            let zero = call.saved.into_iter().next().expect("saved");
            vec![each.fold(zero, B::float_add)]
        }
    }

    fn multiples(device: &Device) -> (Tensor<1>, [Tensor<1>; 3]) {
        let x = TensorData::new(vec![1f32, 2.0, 3.0], [3]);
        let x = Tensor::<1>::from_data(x, device);
        let x = if device.is_autodiff() {
            x.require_grad()
        } else {
            x
        };
        let mut y = run(Multiples, vec![x.clone().into_dispatch()]);
        (x, [y.take(), y.take(), y.take()])
    }

    /// Two of three results used, one of them twice.
    #[test]
    fn gradients_come_together_and_what_is_not_used_has_none() {
        let (x, [a, _, c]) = multiples(&Device::flex().autodiff());
        assert_eq!(values(c.clone().inner()), [3.0, 6.0, 9.0]);
        let loss = (a.clone() * a).sum() + c.clone().sum() + (c * 10.0).sum();
        let grads = loss.backward();
        let grad = values(x.grad(&grads).expect("a gradient"));
        // 2x + 3 · 11
        assert_eq!(grad, [35.0, 37.0, 39.0]);
    }

    #[test]
    fn without_autodiff_there_are_the_results_alone() {
        let (_, [a, b, c]) = multiples(&Device::flex());
        let all = [a, b, c].map(values);
        assert_eq!(all[1], [2.0, 4.0, 6.0]);
        assert_eq!([&all[0], &all[2]], [&[1.0, 2.0, 3.0], &[3.0, 6.0, 9.0]]);
    }
}
