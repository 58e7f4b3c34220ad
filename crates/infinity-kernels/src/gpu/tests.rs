//! Every kernel compiled for a Hopper GPU on a machine without one: operators are called on the CPU, and what they would
//! launch goes to a device of paper that compiles it and runs nothing.
//!
//! `cargo xtask gpu cuda --compile-only` runs [`every_kernel`] and looks at the machine code.

mod server;

use crate::adamw::{AdamW, Parameter, adamw};
use crate::cross_entropy::{Targets, with_gradient};
use crate::embedding::embedding;
use crate::feature_map::FeatureMap;
use crate::linear::{joined, projections_and};
use crate::memory_gates::{DecayRule, GateInputs, GateRule, memory_gates};
use crate::operator::{Backward, Forward, Operator};
use crate::replay::Keeping;
use crate::rms_norm::{GateAct, gated_rms_norm, rms_norm};
use crate::rotary::{Rotary, RotaryDims, Scaling};
use crate::short_conv::{Conv, short_conv_silu_each};
use crate::square_sum::square_sum;
use crate::swiglu::swiglu;
use crate::{Form, MemoryScanInputs, memory_scan};
use burn::backend::fusion::custom::TensorSpec;
use burn::backend::{Backend, TensorMetadata, tensor::FloatTensor};
use burn::tensor::{DType, Device, Int, Shape, Tensor};
use burn_cubecl::cubecl::device::{CudaDevice, Device as CubeDevice};
use burn_cubecl::tensor::CubeTensor;
use std::cell::Cell;

thread_local! {
    static REHEARSING: Cell<bool> = const { Cell::new(false) };
}

/// Whether operators of this thread go to paper.
pub(crate) fn is_here() -> bool {
    REHEARSING.get()
}

/// A tensor of paper like `x`.
fn paper(shape: Shape, dtype: DType) -> CubeTensor {
    let client = server::client();
    let handle = client.empty(shape.num_elements().max(1) * dtype.size());
    let device = CubeDevice::Cuda(CudaDevice::new(0));
    CubeTensor::new_contiguous(client, device, shape, handle, dtype)
}

fn papers<B: Backend>(like: &[FloatTensor<B>]) -> Vec<CubeTensor> {
    let each = like.iter().map(|x| paper(x.shape(), x.dtype()));
    each.collect()
}

/// Zeros of these specs.
fn zeros<B: Backend>(specs: Vec<TensorSpec>) -> Vec<FloatTensor<B>> {
    let device = Default::default();
    let zeros = |spec: TensorSpec| B::float_zeros(spec.shape, &device, spec.dtype.into());
    specs.into_iter().map(zeros).collect()
}

/// What `op` would launch, and zeros for its results.
pub(crate) fn forward<O: Operator, B: Backend>(
    op: &O,
    inputs: Vec<FloatTensor<B>>,
    save: bool,
) -> Forward<B> {
    let specs: Vec<_> = inputs
        .iter()
        .map(|x| TensorSpec::new(x.shape(), x.dtype()))
        .collect();
    let layout = op.layout(&specs, save).expect("an operator with kernels");
    drop(op.gpu(papers::<B>(&inputs), save));
    Forward {
        results: zeros::<B>(layout.results),
        saved: zeros::<B>(layout.saved),
    }
}

/// What its gradient would launch, and zeros for gradients.
pub(crate) fn backward<O: Operator, B: Backend>(op: &O, call: Backward<B>) -> Vec<FloatTensor<B>> {
    let grads = op.gpu_backward(Backward {
        inputs: papers::<B>(&call.inputs),
        saved: papers::<B>(&call.saved),
        grads: papers::<B>(&call.grads),
        wanted: call.wanted.clone(),
    });
    let specs = grads.iter().map(|x| TensorSpec::new(x.shape(), x.dtype));
    zeros::<B>(specs.collect())
}

/// Sizes of `configs/novels-large.toml`, but for few tokens: kernels take their number from the call.
const D: usize = 1024;
const H: usize = 8;
const K: usize = 128;
const T: usize = 128;
const VOCABULARY: usize = 256;

fn ones<const N: usize>(dims: [usize; N], dtype: DType, device: &Device) -> Tensor<N> {
    let x = Tensor::<N>::ones(dims, device).cast(dtype);
    match device.is_autodiff() {
        true => x.detach().require_grad(),
        false => x,
    }
}

/// The operators of a layer with `s` states and rows of `dtype`, forward and backward.
fn layer(s: usize, dtype: DType) {
    let plain = Device::flex();
    let device = plain.clone().autodiff();
    let single = DType::F32;
    let rows = |width| ones([1, T, width], dtype, &device);
    let weight = |columns| ones([D, columns], dtype, &device);
    let rule = GateRule {
        n_heads: H,
        n_states: s,
        delta: true,
        doubled: false,
        routed: false,
        decay: DecayRule::Adaptive,
        memory_gate: true,
    };
    let mut sum = Tensor::<1>::zeros([1], &device);
    let mut add = |x: Tensor<3>| sum = sum.clone() + x.cast(single).sum();
    add(rms_norm(rows(D), ones([D], single, &device), 1e-5));
    add(swiglu(rows(4 * D), rows(4 * D)));
    let many = if s > 1 { 2 * H * s + H } else { 0 };
    let gates = H * s + H + many;
    projections_and(rows(D), vec![weight(D), weight(D)], vec![weight(gates)])
        .0
        .into_iter()
        .for_each(&mut add);
    let conv = || Conv {
        x: ones([1, T, D], single, &device),
        weight: ones([D, 4], single, &device),
        tail: ones([1, D, 3], single, &plain),
    };
    let convs = vec![conv(), conv(), conv()];
    for (y, _) in short_conv_silu_each(convs, &Default::default()) {
        add(y);
    }
    let dims = RotaryDims {
        key_dim: K,
        rotated: K / 2,
        base: 1e4,
        scaling: Scaling::None,
    };
    let rotary = Rotary::new(&[0], T, dims, &plain);
    let heads = |dtype| ones([1, T, H, K], dtype, &device);
    for x in rotary.units([heads(single), heads(single)], FeatureMap::Identity, 1e-12) {
        add(x.reshape([1, T, H * K]));
    }
    let biases = [H * s, many].map(|len| ones([len], single, &device));
    let gates = memory_gates(
        rule,
        GateInputs {
            projections: ones([1, T, gates], single, &device),
            a_log: ones([H, s], single, &device),
            bias: joined(biases.into_iter().take(1 + usize::from(s > 1)).collect()),
        },
    );
    let scan = |t: usize| {
        let part = |x: Tensor<4>| x.narrow(1, 0, t);
        let inputs = MemoryScanInputs {
            q: part(heads(dtype)),
            k: part(heads(dtype)),
            v: part(heads(dtype)),
            log_decay: part(gates.log_decay.clone()),
            read: part(gates.read.clone()),
            write: part(gates.write.clone()),
            erase: gates.erase.clone().map(part),
        };
        (inputs, ones([1, H, s, K, K], single, &plain))
    };
    let (inputs, state) = scan(T);
    let o = memory_scan(inputs, state, Form::Fused).o;
    let o = o.cast(dtype);
    let gate = rows(H * K);
    add(gated_rms_norm(o, ones([K], single, &device), gate, GateAct::Sigmoid, 1e-5).flatten(2, 3));
    let ids = Tensor::<2, Int>::zeros([1, T], &device);
    add(embedding(ones([VOCABULARY, D], dtype, &device), ids));
    drop(sum.backward());
}

/// What a step has beside its layers, and decoding.
fn rest(dtype: DType) {
    let device = Device::flex();
    let logits = ones([T, VOCABULARY], dtype, &device);
    with_gradient(logits, &Targets::new(&[1; T], &device), 1.0);
    let some = || (0..48).map(|_| ones([D], DType::F32, &device));
    square_sum(some().collect());
    let rule = AdamW {
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        learning_rate: 0.01,
        weight_decay: 0.1,
        time: 1,
        scale: 0.5,
    };
    let parameter = |x: Tensor<1>| Parameter {
        rule,
        weights: x.clone(),
        grad: x.clone(),
        moments: [x.clone(), x],
    };
    adamw(some().map(parameter).collect());
    let mut keeping = Keeping::default();
    some().for_each(|x| keeping.push(x));
    drop(keeping.keep());
    let gate = || ones([1, 1, H, 1], DType::F32, &device);
    let heads = || ones([1, 1, H, K], dtype, &device);
    let inputs = MemoryScanInputs {
        q: heads(),
        k: heads(),
        v: heads(),
        log_decay: gate(),
        read: gate(),
        write: gate(),
        erase: Some(gate()),
    };
    let state = ones([1, H, 1, K, K], DType::F32, &device);
    drop(memory_scan(inputs, state, Form::Fused));
}

/// Writes the PTX of every kernel into the folder that `INFINITY_PTX` names, one file each.
#[test]
#[ignore = "what `cargo xtask gpu cuda --compile-only` runs"]
fn every_kernel() {
    let folder = std::env::var_os("INFINITY_PTX").expect("INFINITY_PTX names a folder");
    REHEARSING.set(true);
    for dtype in [DType::BF16, DType::F32] {
        layer(1, dtype);
        rest(dtype);
    }
    REHEARSING.set(false);
    let compiled = server::compiled();
    let failed: Vec<_> = compiled
        .iter()
        .filter_map(|(name, ptx)| ptx.as_ref().err().map(|error| (name, error)))
        .collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(compiled.len() > 30, "{:?}", compiled.keys());
    for (name, ptx) in compiled {
        let path = std::path::Path::new(&folder).join(format!("{name}.ptx"));
        std::fs::write(path, ptx.expect("checked above")).expect("a file");
    }
}
