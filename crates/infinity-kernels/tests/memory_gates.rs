//! The gates, native and on tensors, against their reference; gradients against its slopes.

use crate::devices::{cases, on_every_device};
use burn::tensor::{DType, Device};
use infinity_kernels::memory_gates::{
    DecayRule, GateInputs, GateRule, memory_gates, reference, tensors,
};
use infinity_kernels::testing::{Random, Tol, assert_close, compare, tensor, values};

/// Worst RMS ratio on Flex, 2026-11-24: 3e-7.
const TOL: Tol = Tol {
    rms_ratio: 2e-6,
    worst_over_rms: 20.0,
    floor: 1e-9,
};
/// The same for slopes by central differences of 1e-5 in f64, which are good to 1e-9.
const GRADS: Tol = Tol {
    rms_ratio: 5e-6,
    worst_over_rms: 20.0,
    floor: 1e-7,
};

fn rules() -> Vec<GateRule> {
    let mut rules = Vec::new();
    for decay in [DecayRule::None, DecayRule::Fixed, DecayRule::Adaptive] {
        for delta in [false, true] {
            for (n_states, memory_gate) in [(1, false), (2, true), (3, false), (4, true)] {
                rules.push(GateRule {
                    n_heads: 3,
                    n_states,
                    delta,
                    doubled: false,
                    routed: false,
                    decay,
                    memory_gate,
                });
            }
        }
    }
    let routed = |rule: &GateRule| GateRule {
        routed: true,
        ..*rule
    };
    let several = rules.iter().filter(|rule| rule.n_states > 1).map(routed);
    let several: Vec<GateRule> = several.collect();
    rules.splice(0..0, several);
    let doubled = |rule: &GateRule| GateRule {
        doubled: true,
        ..*rule
    };
    let delta = rules.iter().filter(|rule| rule.delta).map(doubled);
    let delta: Vec<GateRule> = delta.collect();
    rules.extend(delta);
    rules
}

/// One case: inputs and the gradients of all gates.
struct Probe {
    rule: GateRule,
    tokens: [usize; 2],
    z: Vec<f64>,
    a_log: Vec<f64>,
    bias: Vec<f64>,
    /// Of log decay, read, write and erase.
    d: [Vec<f64>; 4],
}

impl Probe {
    fn new(rule: GateRule, tokens: [usize; 2]) -> Self {
        let mut random = Random(8);
        let n = tokens[0] * tokens[1];
        let per_state = rule.n_heads * rule.n_states;
        let mut values = |len: usize, size: f64| random.values(len, -size, size);
        Probe {
            rule,
            tokens,
            z: values(n * rule.width(), 3.0),
            a_log: values(per_state, 0.5),
            bias: values(rule.bias_width().max(1), 1.0),
            d: [0; 4].map(|_| values(n * per_state, 1.0)),
        }
    }

    /// Log decay, read, write and erase of all tokens.
    fn gates(&self, z: &[f64], a_log: &[f64], bias: &[f64]) -> [Vec<f64>; 4] {
        let mut all = [0; 4].map(|_| Vec::new());
        for z in z.chunks(self.rule.width()) {
            let gates = reference::forward(&self.rule, z, a_log, bias);
            all[0].extend(gates.log_decay);
            all[1].extend(gates.read);
            all[2].extend(gates.write);
            all[3].extend(gates.erase);
        }
        all
    }

    fn loss(&self, z: &[f64], a_log: &[f64], bias: &[f64]) -> f64 {
        let gates = self.gates(z, a_log, bias);
        let parts = gates.iter().zip(&self.d);
        parts
            .flat_map(|(gate, d)| gate.iter().zip(d))
            .map(|(gate, d)| gate * d)
            .sum()
    }

    /// Slopes of the loss along every projection, `A_log` and bias.
    fn slopes(&self) -> [Vec<f64>; 3] {
        let inputs = [&self.z, &self.a_log, &self.bias];
        [0, 1, 2].map(|which| {
            (0..inputs[which].len())
                .map(|i| {
                    let at = |by: f64| {
                        let mut moved = [0, 1, 2].map(|j| inputs[j].clone());
                        moved[which][i] += by;
                        self.loss(&moved[0], &moved[1], &moved[2])
                    };
                    (at(1e-5) - at(-1e-5)) / 2e-5
                })
                .collect()
        })
    }

    /// Gates and gradients of projections, `A_log` and biases, by the kernel or on tensors.
    fn run(&self, device: &Device, native: bool) -> ([Vec<f64>; 4], [Vec<f64>; 3]) {
        let device = device.clone().autodiff();
        let GateRule {
            n_heads: h,
            n_states: s,
            delta,
            ..
        } = self.rule;
        let [b, t] = self.tokens;
        let z = tensor(&self.z, [b, t, self.rule.width()], DType::F32, &device).require_grad();
        let a_log = tensor(&self.a_log, [h, s], DType::F32, &device).require_grad();
        let bias = tensor(&self.bias, [self.bias.len()], DType::F32, &device).require_grad();
        let inputs = GateInputs {
            projections: z.clone(),
            a_log: a_log.clone(),
            bias: bias.clone(),
        };
        let gates = if native {
            memory_gates(self.rule, inputs)
        } else {
            tensors::memory_gates(self.rule, inputs)
        };
        assert_eq!(gates.erase.is_some(), delta);
        let mut parts = vec![gates.log_decay, gates.read, gates.write];
        parts.extend(gates.erase);
        let losses = parts
            .iter()
            .zip(&self.d)
            .map(|(gate, d)| (gate.clone() * tensor(d, [b, t, h, s], DType::F32, &device)).sum());
        let grads = losses
            .reduce(|sum, loss| sum + loss)
            .expect("three parts")
            .backward();
        let mut out = parts.into_iter().map(|gate| values(gate.inner()));
        let gates = [0; 4].map(|_| out.next().unwrap_or_default());
        let zeros = |len: usize| vec![0.0; len];
        let grads = [
            z.grad(&grads).map_or_else(|| zeros(self.z.len()), values),
            a_log
                .grad(&grads)
                .map_or_else(|| zeros(self.a_log.len()), values),
            bias.grad(&grads)
                .map_or_else(|| zeros(self.bias.len()), values),
        ];
        (gates, grads)
    }
}

fn matches_the_reference_and_its_slopes(device: &Device) {
    for rule in cases(device, rules(), 6) {
        let probe = Probe::new(rule, [2, 3]);
        let expected = probe.gates(&probe.z, &probe.a_log, &probe.bias);
        let slopes = probe.slopes();
        for native in [true, false] {
            let name = format!("{rule:?}, native {native}");
            let (gates, grads) = probe.run(device, native);
            for (i, part) in ["log_decay", "read", "write", "erase"].iter().enumerate() {
                assert_close(&name, part, &gates[i], &expected[i], TOL);
            }
            for (i, part) in ["d_z", "d_a_log", "d_bias"].iter().enumerate() {
                assert_close(&name, part, &grads[i], &slopes[i], GRADS);
            }
        }
    }
}

#[test]
fn many_tokens_in_pieces_match_tensors_bit_for_bit_twice() {
    let rule = *rules().last().expect("there are rules");
    let probe = Probe::new(rule, [3, 67]);
    let (gates, grads) = probe.run(&Device::flex(), true);
    let (on_tensors, grads_on_tensors) = probe.run(&Device::flex(), false);
    for i in 0..4 {
        assert_close("pieces", "gate", &gates[i], &on_tensors[i], TOL);
    }
    for i in 0..3 {
        assert_close("pieces", "gradient", &grads[i], &grads_on_tensors[i], GRADS);
    }
    assert_eq!(
        probe.run(&Device::flex(), true),
        (gates, grads),
        "two runs give the same bits"
    );
}

#[test]
fn a_forgotten_bias_is_caught() {
    let probe = Probe::new(*rules().last().expect("there are rules"), [1, 4]);
    let right = probe.gates(&probe.z, &probe.a_log, &probe.bias);
    let wrong = probe.gates(&probe.z, &probe.a_log, &vec![0.0; probe.bias.len()]);
    for i in 0..4 {
        assert!(compare(&wrong[i], &right[i], TOL).is_err());
    }
    let doubled = probe.rule.doubled;
    assert!(doubled, "the last rule writes with up to 2");
    let single = Probe {
        rule: GateRule {
            doubled: false,
            ..probe.rule
        },
        ..Probe::new(probe.rule, [1, 4])
    };
    let half = single.gates(&single.z, &single.a_log, &single.bias);
    let twice: Vec<f64> = half[2].iter().map(|write| 2.0 * write).collect();
    assert_close("doubled", "write", &right[2], &twice, TOL);
    assert!(compare(&half[2], &right[2], TOL).is_err());
}

on_every_device!(matches_the_reference_and_its_slopes);
