//! Small random models of every kind, and one way to run them in any cut with all gradients.

use infinity_kernels::testing::{Random, Tol, assert_close, compare, tensor, values};
use infinity_model::burn::module::{Module, ModuleVisitor, Param};
use infinity_model::burn::tensor::{DType, Device, Gradients, Int, Tensor, TensorData};
use infinity_model::config::{Decay, KernelType, MemoryUpdate, Mixer, QkNorm};
use infinity_model::{InfinityModel, LayerState, ModelConfig, ModelState};

/// Number of tokens the models know.
pub const VOCABULARY: usize = 13;

/// How many [`kinds`] there are.
pub const KINDS: usize = 11;

fn small() -> ModelConfig {
    ModelConfig {
        vocab_size: VOCABULARY,
        hidden_size: 16,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        intermediate_size: Some(24),
        max_position_embeddings: 32,
        initializer_range: 0.3,
        tie_word_embeddings: false,
        ..ModelConfig::default()
    }
}

/// A model of every kind that the configuration knows, by name.
pub fn kinds() -> [(&'static str, ModelConfig); KINDS] {
    let additive = || ModelConfig {
        memory_update: MemoryUpdate::Additive,
        ..small()
    };
    let one_state = |config| ModelConfig {
        use_multi_scale_memory: false,
        ..config
    };
    let kernel = |kernel_type| ModelConfig {
        kernel_type,
        ..small()
    };
    [
        ("default", small()),
        ("one state", one_state(small())),
        ("additive, one state", one_state(additive())),
        (
            "denominator",
            ModelConfig {
                qk_norm: QkNorm::Denominator,
                ..additive()
            },
        ),
        ("learnable map", kernel(KernelType::Learnable)),
        ("identity map", kernel(KernelType::Identity)),
        (
            "no rotary",
            ModelConfig {
                use_rotary_embeddings: false,
                ..small()
            },
        ),
        (
            "no convolution",
            ModelConfig {
                conv_kernel_size: 0,
                ..small()
            },
        ),
        (
            "odd sizes, no gates",
            ModelConfig {
                head_dim: Some(6),
                value_head_dim: Some(5),
                num_memory_scales: 1,
                use_gating: false,
                use_output_gate: false,
                tie_word_embeddings: true,
                ..small()
            },
        ),
        (
            "fixed decay",
            ModelConfig {
                decay: Decay::Fixed,
                ..additive()
            },
        ),
        (
            "softmax",
            ModelConfig {
                mixer: Mixer::Softmax,
                ..small()
            },
        ),
    ]
}

/// A kind by its number, with its parameters drawn from `seed`, on `device`.
pub fn model(kind: usize, seed: u64, device: &Device) -> (&'static str, InfinityModel) {
    let (name, config) = kinds()[kind].clone();
    config
        .validate()
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    (name, config.init_seeded(seed, device))
}

/// `rows` times `len` random tokens, row after row.
pub fn tokens(random: &mut Random, rows: usize, len: usize) -> Vec<i32> {
    random
        .values(rows * len, 0.0, VOCABULARY as f64)
        .iter()
        .map(|x| *x as i32)
        .collect()
}

/// Token ids `[rows, len]`.
pub fn ids(tokens: &[i32], rows: usize) -> Tensor<2, Int> {
    let len = tokens.len() / rows;
    Tensor::from_data(
        TensorData::new(tokens.to_vec(), [rows, len]),
        &Device::flex(),
    )
}

/// Logits `[B, T, V]` of `tokens` read at once from nothing, below autodiff.
pub fn read(model: &InfinityModel, tokens: &[i32], rows: usize) -> Vec<f32> {
    let (logits, _) = model.forward(ids(tokens, rows), model.initial_state(rows));
    logits.into_data().to_vec().expect("f32 logits")
}

/// One tensor of a state or one gradient, with its name.
pub type Named = (String, Vec<f64>);

/// Everything a run gives.
pub struct Answer {
    /// `[B, T, V]`.
    pub logits: Vec<f64>,
    /// Every tensor of the final state.
    pub state: Vec<Named>,
    /// Gradients of every parameter and of every tensor of the initial state.
    pub grads: Vec<Named>,
}

/// A state of random values at `position`, every tensor of it a leaf that takes a gradient. The
/// baseline gets a cache of three tokens.
pub fn random_state(
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
                let heads = config.num_attention_heads;
                let keys = leaf([rows, 3, heads, config.head_dim()], random, &device);
                let values = leaf([rows, 3, heads, config.value_head_dim()], random, &device);
                *cache = Some((keys, values));
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
pub trait Each {
    fn tensor<const D: usize>(&mut self, name: String, tensor: &Tensor<D>);
}

/// Visits every tensor of a state, by name.
pub fn each(state: &ModelState, visit: &mut impl Each) {
    for (i, layer) in state.layers.iter().enumerate() {
        match layer {
            LayerState::Infinity { memory, tails } => {
                visit.tensor(format!("layer {i} memory"), memory);
                for (j, tail) in tails.iter().enumerate() {
                    visit.tensor(format!("layer {i} tail {j}"), tail);
                }
            }
            LayerState::Softmax { cache } => {
                let (keys, values) = cache.as_ref().expect("a cache");
                visit.tensor(format!("layer {i} keys"), keys);
                visit.tensor(format!("layer {i} values"), values);
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
pub fn state_values(state: &ModelState) -> Vec<Named> {
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

/// Reads `tokens` in pieces that end at `cuts` and at the end, from `start`, and propagates back
/// through all of them. The scalar is the same for every cut: weights come from `seed`.
pub fn run(
    model: &InfinityModel,
    tokens: &[i32],
    start: &ModelState,
    cuts: &[usize],
    seed: u64,
) -> Answer {
    let rows = start.batch();
    let all = ids(tokens, rows);
    let [_, len] = all.dims();
    let (mut state, mut pieces, mut from) = (start.clone(), Vec::new(), 0);
    for to in cuts
        .iter()
        .copied()
        .chain([len])
        .filter(|to| (1..=len).contains(to))
    {
        if to > from {
            let (logits, next) = model.forward(all.clone().narrow(1, from, to - from), state);
            pieces.push(logits);
            (state, from) = (next, to);
        }
    }
    let logits = Tensor::cat(pieces, 1);
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

/// The largest relative errors of logits, state and gradients; panics above the tolerances.
#[track_caller]
pub fn assert_same(case: &str, actual: &Answer, expected: &Answer, tol: [Tol; 3]) -> [f64; 3] {
    let [logits, state, grads] = tol;
    let worst = |actual: &[Named], expected: &[Named], tol| {
        assert_eq!(actual.len(), expected.len(), "{case}");
        actual
            .iter()
            .zip(expected)
            .fold(0f64, |worst, ((name, a), (_, e))| {
                worst.max(assert_close(case, name, a, e, tol))
            })
    };
    [
        assert_close(case, "logits", &actual.logits, &expected.logits, logits),
        worst(&actual.state, &expected.state, state),
        worst(&actual.grads, &expected.grads, grads),
    ]
}

/// How many tensors of two lists differ by more than the tolerance.
pub fn count_different(actual: &[Named], expected: &[Named], tol: Tol) -> usize {
    let differs = |((_, a), (_, e)): (&Named, &Named)| compare(a, e, tol).is_err();
    actual
        .iter()
        .zip(expected)
        .map(differs)
        .filter(|differs| *differs)
        .count()
}
