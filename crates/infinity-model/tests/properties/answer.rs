//! Everything a run gives, the gradients of all parameters and of the initial state included.

use crate::kinds::{Cuts, in_pieces};
use infinity_kernels::testing::{Random, Tol, compare, tensor, values};
use infinity_model::burn::module::{Module, ModuleVisitor, Param};
use infinity_model::burn::tensor::{DType, Device, Gradients, Tensor};
use infinity_model::{InfinityModel, KvCache, LayerState, ModelState};

/// One tensor of a state or one gradient, with its name.
pub(crate) type Named = (String, Vec<f64>);

/// Everything a run gives.
pub(crate) struct Answer {
    /// `[B, T, V]`.
    pub logits: Vec<f64>,
    /// Every tensor of the final state.
    pub state: Vec<Named>,
    /// Gradients of every parameter and of every tensor of the initial state.
    pub grads: Vec<Named>,
}

/// A state of random values at `position`, every tensor of it a leaf that takes a gradient. A full layer
/// gets a cache of three tokens.
pub(crate) fn random_state(
    model: &InfinityModel,
    rows: usize,
    position: u64,
    random: &mut Random,
) -> ModelState {
    let device = Device::flex().autodiff();
    let config = model.config();
    let mut state = model.initial_state(rows);
    state.position.fill(position);
    for layer in &mut state.layers {
        match layer {
            LayerState::Infinity { memory, tails } => {
                *memory = leaf(memory.dims(), random, &device);
                for tail in tails {
                    *tail = leaf(tail.dims(), random, &device);
                }
            }
            LayerState::Softmax { cache } => {
                let heads = config.num_key_value_heads();
                let keys = leaf([rows, 3, heads, config.head_dim()], random, &device);
                let values = leaf([rows, 3, heads, config.value_head_dim()], random, &device);
                *cache = KvCache::new(keys, values, vec![0; rows]);
            }
        }
    }
    state
}

fn leaf<const D: usize>(dims: [usize; D], random: &mut Random, device: &Device) -> Tensor<D> {
    let values = random.values(dims.iter().product(), 0.0, 1.0);
    tensor(&values, dims, DType::F32, device).require_grad()
}

/// What is done with every tensor of a state.
pub(crate) trait Each {
    fn tensor<const D: usize>(&mut self, name: String, tensor: &Tensor<D>);
}

/// Visits every tensor of a state, by name.
pub(crate) fn each(state: &ModelState, visit: &mut impl Each) {
    for (i, layer) in state.layers.iter().enumerate() {
        match layer {
            LayerState::Infinity { memory, tails } => {
                visit.tensor(format!("layer {i} memory"), memory);
                for (j, tail) in tails.iter().enumerate() {
                    visit.tensor(format!("layer {i} tail {j}"), tail);
                }
            }
            LayerState::Softmax { cache } => {
                let [keys, values] = cache.filled().expect("a cache");
                visit.tensor(format!("layer {i} keys"), &keys);
                visit.tensor(format!("layer {i} values"), &values);
            }
        }
    }
}

/// The values of every tensor.
struct Copy(Vec<Named>);

impl Each for Copy {
    fn tensor<const D: usize>(&mut self, name: String, tensor: &Tensor<D>) {
        self.0.push((name, values(tensor.clone().inner())));
    }
}

/// The values of a state.
pub(crate) fn state_values(state: &ModelState) -> Vec<Named> {
    let mut copy = Copy(Vec::new());
    each(state, &mut copy);
    copy.0
}

/// A scalar of all tensors with random weights: what the gradients are gradients of.
struct Weigh<'a>(&'a mut Random, Tensor<1>);

impl Weigh<'_> {
    fn add<const D: usize>(&mut self, x: Tensor<D>) {
        let weights = self.0.values(x.shape().num_elements(), -1.0, 1.0);
        let weights = tensor(&weights, x.dims(), DType::F32, &Device::flex().autodiff());
        self.1 = self.1.clone() + (x * weights).sum();
    }
}

impl Each for Weigh<'_> {
    fn tensor<const D: usize>(&mut self, _: String, tensor: &Tensor<D>) {
        self.add(tensor.clone());
    }
}

/// The gradients of every leaf in a state and every parameter of a model.
struct Grads<'a> {
    grads: &'a Gradients,
    found: Vec<Named>,
    path: Vec<String>,
}

impl Each for Grads<'_> {
    fn tensor<const D: usize>(&mut self, name: String, tensor: &Tensor<D>) {
        let grad = tensor
            .grad(self.grads)
            .unwrap_or_else(|| panic!("no gradient of {name}"));
        self.found.push((name, values(grad)));
    }
}

impl ModuleVisitor for Grads<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if param.is_require_grad() {
            Each::tensor(self, self.path.join("."), &param.val());
        }
    }

    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }
}

/// Reads `tokens` in pieces from `start` and propagates back through all of them. The scalar whose
/// gradients are taken is the same for every cut: its weights come from `seed`.
pub(crate) fn run(
    model: &InfinityModel,
    tokens: &[i32],
    start: &ModelState,
    cuts: Cuts<'_>,
    seed: u64,
) -> Answer {
    let (logits, state) = in_pieces(model, tokens, start.clone(), cuts);
    gradients(model, start, (logits, state), seed)
}

/// What a run gives that gave `logits` and `state`: with the gradients of a scalar of both, by `seed`.
pub(crate) fn gradients(
    model: &InfinityModel,
    start: &ModelState,
    (logits, state): (Tensor<3>, ModelState),
    seed: u64,
) -> Answer {
    let mut random = Random(seed);
    let mut weigh = Weigh(&mut random, Tensor::zeros([1], &Device::flex().autodiff()));
    weigh.add(logits.clone());
    each(&state, &mut weigh);
    let grads = weigh.1.backward();
    let mut found = Grads {
        grads: &grads,
        found: Vec::new(),
        path: Vec::new(),
    };
    model.visit(&mut found);
    each(start, &mut found);
    Answer {
        logits: values(logits.inner()),
        state: state_values(&state),
        grads: found.found,
    }
}

fn rms(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, len) = values.fold((0.0, 0u32), |(sum, len), x| (sum + x * x, len + 1));
    (sum / f64::from(len.max(1))).sqrt()
}

/// Compares every tensor of two lists and returns the largest relative error.
///
/// The error of a tensor may also be `tol.floor` times the size of all of them together: the
/// gradient of a bias is a sum over all tokens in which most can cancel, and its rounding error is
/// that of the terms.
pub(crate) fn compare_all(actual: &[Named], expected: &[Named], tol: Tol) -> Result<f64, String> {
    assert_eq!(actual.len(), expected.len());
    let all = rms(expected
        .iter()
        .flat_map(|(_, values)| values.iter().copied()));
    let tol = Tol {
        floor: tol.floor * all,
        ..tol
    };
    let mut worst = 0f64;
    for ((name, a), (_, e)) in actual.iter().zip(expected) {
        compare(a, e, tol).map_err(|mismatch| format!("{name}: {mismatch}"))?;
        let error = rms(a.iter().zip(e).map(|(a, e)| a - e));
        worst = worst.max(error / (rms(e.iter().copied()) + all));
    }
    Ok(worst)
}

/// The largest relative errors of logits, state and gradients.
pub(crate) fn same(actual: &Answer, expected: &Answer, tol: [Tol; 3]) -> Result<[f64; 3], String> {
    let logits = compare(&actual.logits, &expected.logits, tol[0]);
    Ok([
        logits.map_err(|mismatch| format!("logits: {mismatch}"))?,
        compare_all(&actual.state, &expected.state, tol[1])
            .map_err(|error| format!("state, {error}"))?,
        compare_all(&actual.grads, &expected.grads, tol[2])
            .map_err(|error| format!("gradient, {error}"))?,
    ])
}
