//! `memory_scan` at one size, in every form: what is timed, and the check before.

use crate::{device, dtype};
use burn::tensor::{DType, Tensor};
use infinity_kernels::memory_scan::reference::Dims;
use infinity_kernels::testing::{Case, Probe, Tol, compare, leaves, tensor, tensors, values};
use infinity_kernels::{Form, MemoryScanInputs, memory_scan};
use std::hint::black_box;

/// The kernel against the chunk form, both in `f32`.
const SAME: Tol = Tol {
    rms_ratio: 1e-5,
    worst_over_rms: 60.0,
    floor: 1e-8,
};
/// The same with queries, keys and values in half precision, which the chunk form widens first.
const SAME_IN_HALF: Tol = Tol {
    rms_ratio: 2e-2,
    worst_over_rms: 60.0,
    floor: 1e-6,
};

/// Inputs of one size.
pub(crate) struct Scan {
    inputs: MemoryScanInputs,
    state: Tensor<5>,
    d_o: Tensor<4>,
}

impl Scan {
    pub(crate) fn new(dims: Dims) -> Self {
        let probe = Probe::seeded(
            Case {
                name: "bench",
                dims,
                delta: true,
            },
            1,
        );
        let device = device();
        let Dims { b, t, h, v, .. } = dims;
        let (inputs, state) = probe.tensors([dtype(), DType::F32], &device);
        Scan {
            inputs,
            state,
            d_o: tensor(&probe.d_o, [b, t, h, v], DType::F32, &device),
        }
    }

    pub(crate) fn forward(&self, form: Form) {
        let out = memory_scan(widened(self.inputs.clone(), form), self.state.clone(), form);
        black_box(out);
    }

    /// Forward, and the gradients of the sum of all outputs: no product with weights, which the
    /// peers, who are handed a gradient, do not pay for.
    pub(crate) fn both(&self, form: Form) {
        let (x, state) = leaves(&self.inputs, &self.state);
        let out = memory_scan(widened(x.clone(), form), state.clone(), form);
        let grads = out.o.backward();
        let rows: Vec<_> = tensors(&x).map(|x| x.grad(&grads)).collect();
        black_box((rows, state.grad(&grads)));
    }

    /// Outputs, final state and all gradients.
    fn answers(&self, form: Form) -> Vec<Tensor<1>> {
        let (x, state) = leaves(&self.inputs, &self.state);
        let out = memory_scan(widened(x.clone(), form), state.clone(), form);
        let loss = (out.o.clone() * self.d_o.clone()).sum() + out.state.clone().sum();
        let grads = loss.backward();
        let mut answers = vec![out.o.inner().flatten(0, 3), out.state.inner().flatten(0, 4)];
        let grad = |x: &Tensor<4>| x.grad(&grads).expect("a gradient").flatten(0, 3);
        answers.extend(tensors(&x).map(grad));
        answers.push(state.grad(&grads).expect("a gradient").flatten(0, 4));
        answers
    }

    /// The worst error of the kernel against the chunk form, or where they differ.
    pub(crate) fn check(&self) -> Result<f64, String> {
        let names = [
            "o",
            "state",
            "dq",
            "dk",
            "dv",
            "dlog_decay",
            "dread",
            "dwrite",
            "derase",
            "dstate",
        ];
        let same = match dtype() {
            DType::F32 => SAME,
            _ => SAME_IN_HALF,
        };
        let pairs = self
            .answers(Form::Fused)
            .into_iter()
            .zip(self.answers(Form::Chunkwise));
        let mut worst = 0f64;
        for (name, (fused, chunkwise)) in names.into_iter().zip(pairs) {
            let found = compare(&values(fused), &values(chunkwise), same);
            worst = worst.max(found.map_err(|mismatch| format!("{name}: {mismatch}"))?);
        }
        Ok(worst)
    }
}

/// The tensor forms have one type; the kernel reads half precision as it is.
fn widened(x: MemoryScanInputs, form: Form) -> MemoryScanInputs {
    match form {
        Form::Fused => x,
        _ => MemoryScanInputs {
            q: x.q.cast(DType::F32),
            k: x.k.cast(DType::F32),
            v: x.v.cast(DType::F32),
            ..x
        },
    }
}
