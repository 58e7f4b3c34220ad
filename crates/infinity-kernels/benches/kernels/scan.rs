//! `memory_scan` in one of its forms.

use crate::case::{Case, HEADS, Way};
use crate::child::{CHECKED_TOKENS, Contestant, TOL, random};
use burn::tensor::{DType, Device, Tensor};
use infinity_kernels::feature_map::l2_normalize;
use infinity_kernels::memory_scan::reference::Dims;
use infinity_kernels::testing::{self, Probe, assert_close, tensor, values};
use infinity_kernels::{Form, MemoryScanInputs, memory_scan};

/// Inputs of one case.
pub(crate) struct Scan {
    form: Form,
    dims: Dims,
    device: Device,
    inputs: MemoryScanInputs,
    state: Tensor<5>,
    d_o: Tensor<4>,
}

impl Scan {
    pub(crate) fn new(case: &Case, device: &Device) -> Self {
        let Way::Form(form) = case.way else {
            unreachable!("memory_scan has forms");
        };
        let dims = Dims {
            b: 1,
            t: case.tokens,
            h: HEADS,
            s: case.states,
            k: case.width,
            v: case.width,
        };
        let Dims { b, t, h, s, k, v } = dims;
        let four = |width, range| random([b, t, h, width], range, device);
        let erase = l2_normalize(four(s, [0.05, 1.0]));
        let inputs = MemoryScanInputs {
            q: l2_normalize(four(k, [-1.0, 1.0])),
            k: l2_normalize(four(k, [-1.0, 1.0])),
            v: four(v, [-1.0, 1.0]),
            log_decay: four(s, [-3.0, 0.3]).exp().neg(),
            read: four(s, [0.0, 2.0]),
            write: erase.clone() * random([b, t, h, 1], [0.0, 1.0], device),
            erase: Some(erase),
        };
        Scan {
            form,
            dims,
            device: device.clone(),
            inputs,
            state: random([b, h, s, k, v], [-1.0, 1.0], device),
            d_o: four(v, [-1.0, 1.0]),
        }
    }

    fn run(
        &self,
        inputs: &MemoryScanInputs,
        state: &Tensor<5>,
        [d_o, d_state]: [Tensor<1>; 2],
    ) -> Vec<Tensor<1>> {
        let (x, state) = testing::leaves(inputs, state);
        let out = memory_scan(x.clone(), state.clone(), self.form);
        let (o, last) = (out.o.flatten::<1>(0, 3), out.state.flatten::<1>(0, 4));
        let loss = (o.clone() * Tensor::from_inner(d_o)).sum()
            + (last.clone() * Tensor::from_inner(d_state)).sum();
        let grads = loss.backward();
        let mut answers = vec![o.inner(), last.inner()];
        let grad = |x: &Tensor<4>| x.grad(&grads).expect("a gradient").flatten(0, 3);
        answers.extend(testing::tensors(&x).map(grad));
        answers.push(state.grad(&grads).expect("a gradient").flatten(0, 4));
        answers
    }
}

impl Contestant for Scan {
    fn check(&self) {
        let dims = Dims {
            t: CHECKED_TOKENS,
            h: 1,
            ..self.dims
        };
        let case = testing::Case {
            name: "bench",
            dims,
            delta: true,
        };
        let probe = Probe::seeded(case, 1);
        let (inputs, state) = probe.tensors([DType::F32; 2], &self.device);
        let flat = |x: &[f64]| tensor(x, [x.len()], DType::F32, &self.device);
        let answers = self.run(&inputs, &state, [flat(&probe.d_o), flat(&probe.d_state)]);
        let (out, grads) = (probe.reference(), probe.reference_grads());
        let expected = [
            ("o", out.o),
            ("state", out.state),
            ("d_q", grads.q),
            ("d_k", grads.k),
            ("d_v", grads.v),
            ("d_log_decay", grads.log_decay),
            ("d_read", grads.read),
            ("d_write", grads.write),
            ("d_erase", grads.erase),
            ("d_state", grads.state),
        ];
        for (answer, (name, expected)) in answers.into_iter().zip(expected) {
            assert_close("memory_scan", name, &values(answer), &expected, TOL);
        }
    }

    fn forward(&self) -> Vec<Tensor<1>> {
        let out = memory_scan(self.inputs.clone(), self.state.clone(), self.form);
        vec![out.o.flatten(0, 3)]
    }

    fn both(&self) -> Vec<Tensor<1>> {
        let d_state = self.state.zeros_like().flatten(0, 4);
        let d = [self.d_o.clone().flatten(0, 3), d_state];
        self.run(&self.inputs, &self.state, d)
    }
}
