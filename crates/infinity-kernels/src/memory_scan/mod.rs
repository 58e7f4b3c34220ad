//! `memory_scan`: linear attention over `S` decaying states that share one prediction error.
//!
//! One operator covers linear attention and the multi-scale memory. The contract is here; the
//! derivation is in `README.md`; `reference.rs`, `recurrent.rs` and `chunkwise/` follow the same
//! steps (forget, correct, write, read) and can be read side by side. `cpu/` is the CPU's kernel,
//! `gpu/` that of every CubeCL runtime, `form.rs` chooses between them.

mod chunkwise;
#[cfg(feature = "flex")]
mod cpu;
mod form;
#[cfg(feature = "cube")]
mod gpu;
mod inputs;
pub mod recurrent;
pub mod reference;

pub use form::{Form, FormError};
pub use inputs::{MemoryScanInputs, MemoryScanOutput};
pub use reference::Dims;

use crate::borders::Borders;
use crate::operator::{self, Backward, Forward, Operator};
#[cfg(feature = "flex")]
use burn::backend::Flex;
use burn::backend::{Backend, tensor::FloatTensor};
use burn::tensor::{Bool, Tensor, TensorData, assert_shape};
use chunkwise::Chunkwise;
use inputs::{Plan, ScanTensors};
use reference::Scan;
#[cfg(feature = "cube")]
use {
    crate::operator::Layout, burn::backend::fusion::custom::TensorSpec, burn_cubecl::CubeBackend,
};

/// Runs the operator over all `T` tokens from `state` `[B, H, S, K, V]`, in the form asked for.
///
/// Differentiable in every input, the initial state included.
///
/// # Panics
///
/// If two shapes do not agree, or if `form` does not exist on the device. Where a user chose the form, ask
/// [`Form::check`] first.
#[track_caller]
pub fn memory_scan(inputs: MemoryScanInputs, state: Tensor<5>, form: Form) -> MemoryScanOutput {
    memory_scan_packed(inputs, state, form, &Borders::default())
}

/// [`memory_scan`] over rows of several documents: at a border the states are empty again, so that every
/// document gets what it would get alone, and the final state is that of the last one. The CPU's kernel
/// cuts its chunks there; everywhere else the form runs once for every stretch between two borders of any row.
///
/// # Panics
///
/// As [`memory_scan`], and if `borders` are of other sizes.
#[track_caller]
pub fn memory_scan_packed(
    inputs: MemoryScanInputs,
    state: Tensor<5>,
    form: Form,
    borders: &Borders,
) -> MemoryScanOutput {
    let dims = inputs.dims();
    let Dims { b, h, s, k, v, .. } = dims;
    assert_shape!(state, [b, h, s, k, v]);
    let device = inputs.q.device();
    if let Err(error) = form.check(&device) {
        panic!("{error}");
    }
    borders.check(b, dims.t);
    let in_kernel = form == Form::Fused && operator::on_cpu(&device);
    if !borders.is_none() && !in_kernel {
        return by_stretches(&inputs, state, form, borders);
    }
    match form {
        Form::Recurrent => recurrent::forward(&inputs, state),
        Form::Chunkwise => chunkwise(inputs, state, form::chunk_size(&dims)),
        Form::Fused => {
            let delta = inputs.erase.is_some();
            let plan = form::plan(&device).expect("checked above");
            let op = Fused {
                plan: Plan { delta, ..plan },
                borders: borders.clone(),
            };
            dispatched(op, inputs, state)
        }
    }
}

/// One call for every stretch of time in which no document begins.
fn by_stretches(
    x: &MemoryScanInputs,
    mut state: Tensor<5>,
    form: Form,
    borders: &Borders,
) -> MemoryScanOutput {
    let Dims { b, t, .. } = x.dims();
    let mut outputs = Vec::new();
    for (tokens, fresh) in borders.stretches(b, t) {
        if fresh.contains(&true) {
            let fresh = TensorData::new(fresh, [b, 1, 1, 1, 1]);
            let fresh = Tensor::<5, Bool>::from_data(fresh, &state.device());
            state = state.mask_fill(fresh, 0.0);
        }
        let part = x.clone();
        let part = part.map(|x| x.narrow(1, tokens.start, tokens.len()));
        let MemoryScanOutput { o, state: next } = memory_scan(part, state, form);
        outputs.push(o);
        state = next;
    }
    MemoryScanOutput {
        o: Tensor::cat(outputs, 1),
        state,
    }
}

/// The chunk form, `chunk` positions at a time: that changes speed and rounding, not the function.
pub fn chunkwise(inputs: MemoryScanInputs, state: Tensor<5>, chunk: usize) -> MemoryScanOutput {
    let delta = inputs.erase.is_some();
    dispatched(Chunkwise { chunk, delta }, inputs, state)
}

fn dispatched<O: Operator>(op: O, x: MemoryScanInputs, state: Tensor<5>) -> MemoryScanOutput {
    let mut results = operator::run(op, x.into_list(state));
    MemoryScanOutput {
        o: results.take(),
        state: results.take(),
    }
}

impl Operator for Chunkwise {
    const NAME: &'static str = "memory_scan_chunkwise";

    fn composed<B: Backend>(&self, inputs: Vec<FloatTensor<B>>, save: bool) -> Forward<B> {
        let [o, state, saved @ ..] = chunkwise::forward::<B>(Scan::from_list(inputs), self);
        Forward {
            results: vec![o, state],
            saved: if save { saved.into() } else { Vec::new() },
        }
    }

    fn composed_backward<B: Backend>(&self, call: Backward<B>) -> Vec<FloatTensor<B>> {
        let (x, saved, grads) = apart(call);
        chunkwise::backward::<B>(x, self, saved, grads).into_list(self.delta)
    }
}

/// The same by a device's own kernel.
#[derive(Clone, Debug)]
struct Fused {
    plan: Plan,
    /// None on a GPU.
    #[cfg_attr(not(feature = "flex"), allow(dead_code))]
    borders: Borders,
}

impl Operator for Fused {
    const NAME: &'static str = "memory_scan";
    const KNOWS_NONE: bool = true;

    #[cfg(feature = "flex")]
    fn cpu(&self, inputs: Vec<FloatTensor<Flex>>, save: bool) -> Forward<Flex> {
        let x = Scan::from_list(inputs);
        let [o, state, saved] = cpu::forward(x, self.plan.delta, &self.borders, save);
        Forward {
            results: vec![o, state],
            saved: vec![saved],
        }
    }

    #[cfg(feature = "flex")]
    fn cpu_backward(&self, call: Backward<Flex>) -> Vec<FloatTensor<Flex>> {
        let ((x, [saved], grads), delta) = (apart(call), self.plan.delta);
        cpu::backward(x, saved, grads, delta, &self.borders).into_list(delta)
    }

    #[cfg(feature = "cube")]
    fn gpu(&self, inputs: Vec<FloatTensor<CubeBackend>>, save: bool) -> Forward<CubeBackend> {
        let call = gpu::Call::new(Scan::from_list(inputs), self.plan);
        let [results, saved] = call.forward(save);
        Forward { results, saved }
    }

    #[cfg(feature = "cube")]
    fn gpu_backward(&self, call: Backward<CubeBackend>) -> Vec<FloatTensor<CubeBackend>> {
        let (x, saved, grads) = apart(call);
        let call = gpu::Call::new(x, self.plan);
        call.backward(saved, grads).into_list(self.plan.delta)
    }

    #[cfg(feature = "cube")]
    fn layout(&self, inputs: &[TensorSpec], save: bool) -> Option<Layout> {
        Some(gpu::layout(inputs, self.plan, save))
    }
}

/// Inputs, what was saved, and the gradients of both results.
fn apart<B: Backend, const N: usize>(
    call: Backward<B>,
) -> (ScanTensors<B>, [FloatTensor<B>; N], [FloatTensor<B>; 2]) {
    let x = Scan::from_list(call.inputs);
    (
        x,
        operator::exactly(call.saved),
        operator::exactly(call.grads),
    )
}
