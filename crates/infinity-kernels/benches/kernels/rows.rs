//! The operators that treat tokens alone, or nearly so: as native kernels and on tensors.

use crate::case::{Case, HEADS, Operator, Way};
use crate::child::{CHECKED_TOKENS, Contestant, TOL, random};
use burn::tensor::{Device, Tensor, activation, module};
use infinity_kernels::feature_map::{FeatureMap, L2_EPS, l2_normalize};
use infinity_kernels::linear::linear;
use infinity_kernels::memory_gates::{self, DecayRule, GateInputs, GateRule, memory_gates};
use infinity_kernels::rms_norm::{self, GateAct, gated_rms_norm};
use infinity_kernels::rotary::{Rotary, RotaryDims, Scaling};
use infinity_kernels::short_conv::{short_conv, short_conv_silu};
use infinity_kernels::swiglu::swiglu;
use infinity_kernels::testing::{assert_close, values};

const EPS: f64 = 1e-5;
const TAPS: usize = 4;

/// Inputs of one case; how many and of which shapes depends on the operator.
pub(crate) struct Rows {
    operator: Operator,
    way: Way,
    states: usize,
    width: usize,
    /// `[T, …]`, one row a token.
    tokens: Vec<Tensor<2>>,
    /// Parameters, flat.
    parameters: Vec<Tensor<1>>,
}

impl Rows {
    pub(crate) fn new(case: &Case, device: &Device) -> Self {
        let Case {
            operator,
            way,
            tokens,
            states,
            width,
        } = *case;
        let all = HEADS * width;
        let rule = gate_rule(states);
        let (rows, parameters): (&[usize], &[usize]) = match operator {
            Operator::ShortConvSilu => (&[all], &[all * TAPS]),
            Operator::UnitRotary => (&[all], &[]),
            Operator::MemoryGates => (&[rule.width()], &[HEADS * states, rule.bias_width()]),
            Operator::RmsNorm => (&[all], &[all]),
            Operator::GatedRmsNorm => (&[all, all], &[width]),
            Operator::Swiglu => (&[all, all], &[]),
            Operator::Linear => (&[all], &[all * all]),
            Operator::MemoryScan | Operator::SoftmaxAttention => unreachable!("not row by row"),
        };
        let range = [-2.0, 2.0];
        Rows {
            operator,
            way,
            states,
            width,
            tokens: rows
                .iter()
                .map(|width| random([tokens, *width], range, device))
                .collect(),
            parameters: parameters
                .iter()
                .map(|len| random([*len], range, device))
                .collect(),
        }
    }

    /// The operator by `way`, its results flat.
    fn run(&self, way: Way, rows: &[Tensor<2>], parameters: &[Tensor<1>]) -> Vec<Tensor<1>> {
        let [t, all] = rows[0].dims();
        let native = way == Way::Native;
        let three = |i: usize| rows[i].clone().reshape([1, t, all]);
        let four = |i: usize| rows[i].clone().reshape([1, t, HEADS, self.width]);
        let device = rows[0].device();
        match self.operator {
            Operator::ShortConvSilu => {
                let weight = parameters[0].clone().reshape([all, TAPS]);
                let tail = Tensor::zeros([1, all, TAPS - 1], &device);
                let y = match native {
                    true => short_conv_silu(three(0), weight, tail).0,
                    false => activation::silu(short_conv(three(0), weight, tail).0),
                };
                vec![y.flatten(0, 2)]
            }
            Operator::UnitRotary => {
                let dims = RotaryDims {
                    key_dim: self.width,
                    rotated: self.width / 2,
                    base: 10_000.0,
                    scaling: Scaling::None,
                };
                let rotary = Rotary::new(&[0], t, dims, &device.inner());
                let y = match native {
                    true => rotary.unit(four(0), FeatureMap::EluPlusOne, L2_EPS),
                    false => rotary.apply(l2_normalize(FeatureMap::EluPlusOne.apply(four(0)))),
                };
                vec![y.flatten(0, 3)]
            }
            Operator::MemoryGates => {
                let inputs = GateInputs {
                    projections: three(0),
                    a_log: parameters[0].clone().reshape([HEADS, self.states]),
                    bias: parameters[1].clone(),
                };
                let rule = gate_rule(self.states);
                let gates = match native {
                    true => memory_gates(rule, inputs),
                    false => memory_gates::tensors::memory_gates(rule, inputs),
                };
                let all = [
                    Some(gates.log_decay),
                    Some(gates.read),
                    Some(gates.write),
                    gates.erase,
                ];
                all.into_iter()
                    .flatten()
                    .map(|gate| gate.flatten(0, 3))
                    .collect()
            }
            Operator::RmsNorm => {
                let (x, weight) = (rows[0].clone(), parameters[0].clone());
                let y = match native {
                    true => rms_norm::rms_norm(x, weight, EPS),
                    false => rms_norm::tensors::rms_norm(x, weight, EPS),
                };
                vec![y.flatten(0, 1)]
            }
            Operator::GatedRmsNorm => {
                let weight = parameters[0].clone();
                let y = match native {
                    true => gated_rms_norm(four(0), weight, four(1), GateAct::Sigmoid, EPS),
                    false => {
                        rms_norm::tensors::rms_norm(four(0), weight, EPS)
                            * activation::sigmoid(four(1))
                    }
                };
                vec![y.flatten(0, 3)]
            }
            Operator::Swiglu => {
                let y = match native {
                    true => swiglu(three(0), three(1)),
                    false => activation::silu(three(0)) * three(1),
                };
                vec![y.flatten(0, 2)]
            }
            Operator::Linear => {
                let weight = parameters[0].clone().reshape([all, all]);
                let y = match native {
                    true => linear(three(0), weight),
                    false => module::linear(three(0), weight, None),
                };
                vec![y.flatten(0, 2)]
            }
            Operator::MemoryScan | Operator::SoftmaxAttention => unreachable!("not row by row"),
        }
    }

    /// Results, then gradients of the sum of their squares.
    fn gradients(&self, way: Way, rows: &[Tensor<2>]) -> Vec<Tensor<1>> {
        let rows: Vec<Tensor<2>> = rows
            .iter()
            .map(|x| x.clone().autodiff().require_grad())
            .collect();
        let parameters: Vec<Tensor<1>> = self
            .parameters
            .iter()
            .map(|x| x.clone().autodiff().require_grad())
            .collect();
        let results = self.run(way, &rows, &parameters);
        let squares = results.iter().map(|y| y.clone().square().sum());
        let grads = squares
            .reduce(|sum, square| sum + square)
            .expect("a result")
            .backward();
        let of_rows = rows
            .iter()
            .map(|x| x.grad(&grads).expect("a gradient").flatten(0, 1));
        let of_parameters = parameters
            .iter()
            .map(|x| x.grad(&grads).expect("a gradient"));
        let grads: Vec<Tensor<1>> = of_rows.chain(of_parameters).collect();
        results
            .into_iter()
            .map(Tensor::inner)
            .chain(grads)
            .collect()
    }
}

fn gate_rule(states: usize) -> GateRule {
    GateRule {
        n_heads: HEADS,
        n_states: states,
        delta: true,
        doubled: false,
        routed: false,
        decay: DecayRule::Adaptive,
        memory_gate: true,
    }
}

impl Contestant for Rows {
    /// The kernel against the tensors; both are held to the `f64` reference by the tests.
    fn check(&self) {
        let [t, _] = self.tokens[0].dims();
        let short: Vec<Tensor<2>> = self
            .tokens
            .iter()
            .map(|x| x.clone().narrow(0, 0, t.min(CHECKED_TOKENS)))
            .collect();
        let ours = self.gradients(self.way, &short);
        for (ours, tensors) in ours.into_iter().zip(self.gradients(Way::Tensors, &short)) {
            let name = self.operator.name();
            assert_close(
                name,
                "native and tensors",
                &values(ours),
                &values(tensors),
                TOL,
            );
        }
    }

    fn forward(&self) -> Vec<Tensor<1>> {
        self.run(self.way, &self.tokens, &self.parameters)
    }

    fn both(&self) -> Vec<Tensor<1>> {
        self.gradients(self.way, &self.tokens)
    }
}
