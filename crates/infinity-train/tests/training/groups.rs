//! Which rule and which rate every parameter gets, seen from what a step does to it.

use crate::common::{ByPath, parameters};
use crate::trainee;
use infinity_kernels::testing::{Random, Tol, assert_close, compare, tensor};
use infinity_model::ModelConfig;
use infinity_model::burn::module::{Module, ModuleVisitor, Param};
use infinity_model::burn::optim::GradientsParams;
use infinity_model::burn::tensor::{DType, Device, Tensor};
use infinity_model::config::{AttnQkNorm, KernelType, LayerType, Mixer};
use infinity_train::config::{LrSchedulerConfig, LrSchedulerType, OptimizerConfig, OptimizerName};
use infinity_train::optimizer::Optimizer;
use infinity_train::step::Trainee;

/// Rates far apart, so that a parameter tells which one it got.
const RATE: f64 = 1e-3;
const MUON_RATE: f64 = 0.02;
const GATE_FACTOR: f64 = 7.0;
const DECAY: f64 = 0.5;

/// f32 against a scalar step. Worst RMS ratio on Flex, 2026-11-23: 7.4e-5 (Newton and Schulz in f32).
const STEP: Tol = Tol {
    rms_ratio: 5e-4,
    worst_over_rms: 30.0,
    floor: 0.0,
};

fn rules(name: OptimizerName) -> OptimizerConfig {
    OptimizerConfig {
        name,
        learning_rate: RATE,
        muon_learning_rate: MUON_RATE,
        gate_learning_rate_multiplier: GATE_FACTOR,
        weight_decay: DECAY,
        ..OptimizerConfig::default()
    }
}

/// A model with every kind of parameter, and with matrices of many shapes.
fn model() -> ModelConfig {
    ModelConfig {
        head_dim: Some(12),
        value_head_dim: Some(6),
        kernel_type: KernelType::Learnable,
        tie_word_embeddings: false,
        ..crate::common::model()
    }
}

/// A gradient for every parameter: zero, or random.
struct Gradients {
    random: Option<Random>,
    grads: GradientsParams,
}

impl ModuleVisitor for Gradients {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let dims = param.val().dims();
        let len = dims.iter().product();
        let values = match &mut self.random {
            Some(random) => random.values(len, -1.0, 1.0),
            None => vec![0.0; len],
        };
        self.grads
            .register(param.id, tensor(&values, dims, DType::F32, &Device::flex()));
    }
}

/// The gradients of [`Gradients`] by path.
fn gradients(trainee: &Trainee, seed: Option<u64>) -> (GradientsParams, ByPath) {
    let mut gradients = Gradients {
        random: seed.map(Random),
        grads: GradientsParams::new(),
    };
    trainee.visit(&mut gradients);
    let by_path = crate::common::gradients(trainee, &gradients.grads);
    (gradients.grads, by_path)
}

/// Parameters before and after one step with these gradients.
fn step(trainee: &Trainee, config: &OptimizerConfig, grads: GradientsParams) -> (ByPath, ByPath) {
    let constant = LrSchedulerConfig {
        kind: LrSchedulerType::Constant,
        ..Default::default()
    };
    let mut optimizer = Optimizer::new(config, &constant, 10, trainee);
    let before = parameters(trainee);
    let after = optimizer.step(trainee.clone(), grads, 0);
    (before, parameters(&after))
}

/// What a parameter is, by its path.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// Two-dimensional, in the blocks, not a gate; widths in and out.
    Hidden(usize, usize),
    Gate,
    Head,
    /// Norms, biases, embedding, convolutions, feature map.
    Other,
}

fn kind(path: &str) -> Kind {
    let (d, keys, values, inner) = (16, 24, 12, 32);
    let hidden = [
        ("Infinity.q_proj.weight", d, keys),
        ("Infinity.k_proj.weight", d, keys),
        ("Infinity.v_proj.weight", d, values),
        ("Infinity.o_proj.weight", values, d),
        ("Infinity.output_gate_proj.weight", d, values),
        ("mlp.gate_proj.weight", d, inner),
        ("mlp.up_proj.weight", d, inner),
        ("mlp.down_proj.weight", inner, d),
    ];
    if let Some((_, from, to)) = hidden.iter().find(|(end, ..)| path.ends_with(end)) {
        return Kind::Hidden(*from, *to);
    }
    match path {
        _ if path.contains(".gates.") => Kind::Gate,
        _ if path.contains("lm_head") => Kind::Head,
        _ => Kind::Other,
    }
}

#[test]
fn every_kind_of_parameter_is_there() {
    let paths = parameters(&trainee(&model()));
    let count = |wanted: fn(Kind) -> bool| paths.keys().filter(|path| wanted(kind(path))).count();
    assert_eq!(count(|kind| matches!(kind, Kind::Hidden(..))), 8);
    // Decay (3), write strength, allocation (2), read (2), memory or context (2).
    assert_eq!(count(|kind| kind == Kind::Gate), 10);
    assert_eq!(count(|kind| kind == Kind::Head), 1);
    // Embedding, four norms, three convolutions, the feature map's two.
    assert_eq!(count(|kind| kind == Kind::Other), 10, "{:?}", paths.keys());
}

/// Gradients of zero and a huge decay: what moves is decayed, and by how much tells its rate.
#[test]
fn only_matrices_are_decayed() {
    let trainee = trainee(&model());
    for name in [OptimizerName::Adamw, OptimizerName::Muon] {
        let (before, after) = step(&trainee, &rules(name), gradients(&trainee, None).0);
        for (path, before) in &before {
            let rate = match (kind(path), name) {
                (Kind::Hidden(from, to), OptimizerName::Muon) => {
                    MUON_RATE * (to as f64 / from as f64).sqrt()
                }
                (Kind::Hidden(..) | Kind::Head, _) => RATE,
                (Kind::Gate | Kind::Other, _) => {
                    assert_eq!(before, &after[path], "{name:?}: {path}");
                    continue;
                }
            };
            let moved: Vec<f64> = before
                .iter()
                .zip(&after[path])
                .map(|(b, a)| b - a)
                .collect();
            let expected: Vec<f64> = before.iter().map(|x| x * rate * DECAY).collect();
            assert_close(path, "decay", &moved, &expected, STEP);
            let undecayed = vec![0.0; moved.len()];
            assert!(compare(&undecayed, &expected, STEP).is_err());
        }
    }
}

/// A first step of AdamW moves every number by the rate, whatever the size of its gradient.
#[test]
fn gates_have_their_own_rate_and_muon_has_the_hidden_matrices_alone() {
    let trainee = trainee(&model());
    for name in [OptimizerName::Adamw, OptimizerName::Muon] {
        let config = OptimizerConfig {
            weight_decay: 0.0,
            ..rules(name)
        };
        let (grads, by_path) = gradients(&trainee, Some(1));
        let (before, after) = step(&trainee, &config, grads);
        for (path, before) in &before {
            let grad = &by_path[path];
            let moved: Vec<f64> = before
                .iter()
                .zip(&after[path])
                .map(|(b, a)| b - a)
                .collect();
            let adamw = |rate: f64| grad.iter().map(|g| rate * g.signum()).collect::<Vec<f64>>();
            let expected = match (kind(path), name) {
                (Kind::Hidden(from, to), OptimizerName::Muon) => {
                    assert!(compare(&moved, &adamw(RATE), STEP).is_err(), "{path}");
                    muon(grad, from, to, MUON_RATE)
                }
                (Kind::Gate, _) => adamw(RATE * GATE_FACTOR),
                _ => adamw(RATE),
            };
            assert_close(path, "step", &moved, &expected, STEP);
        }
    }
}

/// A hidden matrix that is not to be decayed keeps Muon's rule along with Muon's rate.
#[test]
fn excluding_a_matrix_from_decay_changes_nothing_else() {
    let trainee = trainee(&model());
    let mut config = rules(OptimizerName::Muon);
    config.decay_exclude.push("q_proj".to_owned());
    let (grads, by_path) = gradients(&trainee, Some(2));
    let (before, after) = step(&trainee, &config, grads);
    for (path, before) in &before {
        if let Kind::Hidden(from, to) = kind(path) {
            let rate = MUON_RATE * (to as f64 / from as f64).sqrt();
            let decay = if path.contains("q_proj") {
                0.0
            } else {
                rate * DECAY
            };
            let step = muon(&by_path[path], from, to, MUON_RATE);
            let expected: Vec<f64> = before
                .iter()
                .zip(step)
                .map(|(x, u)| x * decay + u)
                .collect();
            let moved: Vec<f64> = before
                .iter()
                .zip(&after[path])
                .map(|(b, a)| b - a)
                .collect();
            assert_close(path, "step", &moved, &expected, STEP);
        }
    }
}

/// The softmax mixer's matrices are Muon's too, and those of a hybrid; biases, which are vectors, are not.
#[test]
fn attention_has_the_same_rules() {
    let softmax = ModelConfig {
        mixer: Mixer::Softmax,
        ..crate::common::model()
    };
    let hybrid = ModelConfig {
        layer_types: Some(vec![LayerType::Linear, LayerType::Full]),
        num_hidden_layers: 2,
        num_key_value_heads: Some(1),
        attn_output_gate: true,
        attn_qk_norm: AttnQkNorm::Head,
        attention_bias: true,
        mlp_bias: true,
        ..crate::common::model()
    };
    for (config, matrices) in [(softmax, 7), (hybrid, 16)] {
        matrices_alone_are_muons(&config, matrices);
    }
}

fn matrices_alone_are_muons(config: &ModelConfig, matrices: usize) {
    let trainee = trainee(config);
    let (before, after) = step(
        &trainee,
        &rules(OptimizerName::Muon),
        gradients(&trainee, None).0,
    );
    let moved = before
        .iter()
        .filter(|(path, before)| after[*path] != **before);
    let moved: Vec<&str> = moved.map(|(path, _)| path.as_str()).collect();
    assert_eq!(moved.len(), matrices, "{moved:?}");
    assert!(
        moved.iter().all(|path| path.contains("_proj.weight")),
        "{moved:?}"
    );
}

/// Muon's first step on a matrix `[from, to]`, by hand in f64 as its authors write it: on the
/// transposed `[out, in]` matrix, Newton-Schulz steps, here four, times `√max(1, out/in)`.
fn muon(grad: &[f64], from: usize, to: usize, rate: f64) -> Vec<f64> {
    let (rows, columns) = (to, from);
    let mut x: Vec<Vec<f64>> = (0..rows)
        .map(|r| (0..columns).map(|c| grad[c * to + r]).collect())
        .collect();
    // The eighth root of the sum of the singular values' eighth powers.
    let gram = product(&x, &transposed(&x));
    let squared = product(&gram, &gram);
    let squares = squared.iter().flatten().map(|x| x * x);
    let norm = squares.sum::<f64>().powf(0.125);
    x.iter_mut().flatten().for_each(|x| *x /= norm);
    for [a, b, c] in [
        [7.72619, -20.46939, 13.71652],
        [3.660824, -2.739433, 0.5385373],
        [2.697164, -2.006448, 0.455871],
    ] {
        let gram = product(&x, &transposed(&x));
        let squared = product(&gram, &gram);
        let mixed = combined(&gram, b, &squared, c);
        let turned = product(&mixed, &x);
        x = combined(&x, a, &turned, 1.0);
    }
    let scale = rate * (to as f64 / from as f64).max(1.0).sqrt();
    (0..from * to).map(|i| scale * x[i % to][i / to]).collect()
}

type Matrix = Vec<Vec<f64>>;

fn transposed(x: &Matrix) -> Matrix {
    (0..x[0].len())
        .map(|c| x.iter().map(|row| row[c]).collect())
        .collect()
}

fn product(a: &Matrix, b: &Matrix) -> Matrix {
    let b = transposed(b);
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    a.iter()
        .map(|row| b.iter().map(|column| dot(row, column)).collect())
        .collect()
}

fn combined(a: &Matrix, by: f64, b: &Matrix, and: f64) -> Matrix {
    let row =
        |(a, b): (&Vec<f64>, &Vec<f64>)| a.iter().zip(b).map(|(a, b)| by * a + and * b).collect();
    a.iter().zip(b).map(row).collect()
}

/// The hand-written step makes what Muon promises: singular values near one, so a square matrix
/// times its transpose is near the unit matrix.
#[test]
fn the_hand_written_step_is_all_but_orthogonal() {
    let grad = Random(1).values(8 * 20, -1.0, 1.0);
    let update = muon(&grad, 20, 8, 1.0);
    let rows: Matrix = update.chunks(8).map(<[f64]>::to_vec).collect();
    let gram = product(&transposed(&rows), &rows);
    for (r, row) in gram.iter().enumerate() {
        for (c, x) in row.iter().enumerate() {
            let unit = if r == c { 1.0 } else { 0.0 };
            assert!((x - unit).abs() < 0.6, "{gram:?}");
        }
    }
}
