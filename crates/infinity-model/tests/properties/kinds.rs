//! Small random models of every kind, read in any pieces.

use infinity_kernels::testing::Random;
use infinity_model::burn::module::{Module, ModuleMapper, Param};
use infinity_model::burn::tensor::{Device, Int, Tensor, TensorData};
use infinity_model::config::{
    AttnNormOrder, AttnQkNorm, Decay, KernelType, LayerType, MemoryRouting, MemoryUpdate, Mixer,
    OutputGateAct, QkNorm, RopeParameters,
};
use infinity_model::{InfinityModel, ModelConfig, ModelState};

/// Number of tokens the models know.
pub(crate) const VOCABULARY: usize = 13;

/// How many [`kinds`] there are.
pub(crate) const KINDS: usize = 19;

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
        ..ModelConfig::first()
    }
}

/// A model of every kind that the configuration knows, by name.
pub(crate) fn kinds() -> [(&'static str, ModelConfig); KINDS] {
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
        (
            "residuals from the first layer",
            ModelConfig {
                value_residual: true,
                input_residual: true,
                num_hidden_layers: 3,
                ..small()
            },
        ),
        (
            "softmax, residuals from the first layer",
            ModelConfig {
                mixer: Mixer::Softmax,
                value_residual: true,
                input_residual: true,
                num_hidden_layers: 3,
                ..small()
            },
        ),
        (
            "states chosen by content",
            ModelConfig {
                memory_routing: MemoryRouting::Content,
                ..small()
            },
        ),
        (
            "writes that turn around",
            ModelConfig {
                allow_neg_eigval: true,
                ..small()
            },
        ),
        (
            "unequal heads",
            ModelConfig {
                linear_num_key_heads: Some(1),
                linear_num_value_heads: Some(3),
                linear_key_head_dim: Some(6),
                linear_value_head_dim: Some(5),
                output_gate_act: OutputGateAct::Silu,
                o_norm_eps: Some(1e-3),
                qk_l2_eps: 1e-6,
                ..small()
            },
        ),
        (
            "softmax, shared heads and all that families add",
            ModelConfig {
                mixer: Mixer::Softmax,
                num_attention_heads: 4,
                num_key_value_heads: Some(2),
                attn_qk_norm: AttnQkNorm::Head,
                attn_output_gate: true,
                attention_bias: true,
                mlp_bias: true,
                rope_parameters: RopeParameters {
                    rope_theta: Some(100.0),
                    partial_rotary_factor: Some(0.5),
                    ..RopeParameters::default()
                },
                ..small()
            },
        ),
        (
            "a linear and a full layer",
            ModelConfig {
                layer_types: Some(vec![LayerType::Linear, LayerType::Full]),
                num_key_value_heads: Some(1),
                value_head_dim: Some(16),
                linear_value_head_dim: Some(8),
                attn_qk_norm: AttnQkNorm::Full,
                attn_norm_order: AttnNormOrder::Post,
                qkv_bias: true,
                rope_parameters: RopeParameters::none(),
                ..small()
            },
        ),
        (
            "a window and a linear layer",
            ModelConfig {
                layer_types: Some(vec![LayerType::Sliding, LayerType::Linear]),
                sliding_window: Some(8),
                ..small()
            },
        ),
    ]
}

/// A kind by its number, with its parameters drawn from `seed`, on `device`.
pub(crate) fn model(kind: usize, seed: u64, device: &Device) -> (&'static str, InfinityModel) {
    let (name, config) = kinds()[kind].clone();
    config
        .validate()
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    (name, mixed(config.init_seeded(seed, device)))
}

/// The model with scalars of the residuals from the first layer as training may leave them.
fn mixed(model: InfinityModel) -> InfinityModel {
    model.map(&mut Mixed { scales: false })
}

/// At their start the residuals from the first layer add nothing; learned, they do.
#[test]
fn residuals_from_the_first_layer_start_as_nothing() {
    for (name, config) in kinds() {
        let with = ModelConfig {
            value_residual: true,
            input_residual: true,
            ..config.clone()
        };
        let without = ModelConfig {
            value_residual: false,
            input_residual: false,
            ..config
        };
        let read = |model: InfinityModel| read(&model, &[3, 1, 4, 1, 5, 9, 2, 6], 2);
        let [with, without] = [with, without].map(|config| config.init_seeded(2, &Device::flex()));
        let expected = read(without);
        assert_eq!(read(with.clone()), expected, "{name}");
        assert_ne!(read(mixed(with)), expected, "{name}");
    }
}

/// Scalars of the residuals from the first layer as training may leave them: at their start it adds
/// nothing.
struct Mixed {
    scales: bool,
}

impl ModuleMapper for Mixed {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.scales = name == "scales";
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if !self.scales {
            return param;
        }
        param.map(|scales| {
            let mixed = (scales.detach() * 0.7 + 0.3).detach();
            match mixed.device().is_autodiff() {
                true => mixed.require_grad(),
                false => mixed,
            }
        })
    }
}

/// `rows` times `len` random tokens, row after row.
pub(crate) fn tokens(random: &mut Random, rows: usize, len: usize) -> Vec<i32> {
    random
        .values(rows * len, 0.0, VOCABULARY as f64)
        .iter()
        .map(|x| *x as i32)
        .collect()
}

/// Token ids `[rows, len]`.
pub(crate) fn ids(tokens: &[i32], rows: usize) -> Tensor<2, Int> {
    let len = tokens.len() / rows;
    Tensor::from_data(
        TensorData::new(tokens.to_vec(), [rows, len]),
        &Device::flex(),
    )
}

/// Logits `[B, T, V]` of `tokens` read at once from nothing.
pub(crate) fn read(model: &InfinityModel, tokens: &[i32], rows: usize) -> Vec<f32> {
    read_from(model, tokens, model.initial_state(rows), &[]).0
}

/// Logits `[B, T, V]` of `tokens` and the state after them, read in pieces that end at `cuts`.
pub(crate) fn read_from(
    model: &InfinityModel,
    tokens: &[i32],
    state: ModelState,
    cuts: &[usize],
) -> (Vec<f32>, ModelState) {
    let (logits, state) = in_pieces(model, tokens, state, Cuts::carried(cuts));
    (logits.into_data().try_to_vec().expect("f32 logits"), state)
}

/// Where a sequence is cut, and what happens to the state there.
#[derive(Clone, Copy)]
pub(crate) struct Cuts<'a> {
    /// Ends of the pieces.
    pub at: &'a [usize],
    /// `|state| state` carries it.
    pub between: fn(ModelState) -> ModelState,
}

impl<'a> Cuts<'a> {
    /// The state carried over every cut.
    pub(crate) fn carried(at: &'a [usize]) -> Self {
        let between = |state| state;
        Cuts { at, between }
    }
}

/// Logits `[B, T, V]` of `tokens` and the state after them.
pub(crate) fn in_pieces(
    model: &InfinityModel,
    tokens: &[i32],
    mut state: ModelState,
    cuts: Cuts<'_>,
) -> (Tensor<3>, ModelState) {
    let all = ids(tokens, state.batch());
    let [_, len] = all.dims();
    let (mut pieces, mut from) = (Vec::new(), 0);
    for to in cuts.at.iter().copied().filter(|to| *to < len).chain([len]) {
        if to > from {
            let before = if from == 0 {
                state
            } else {
                (cuts.between)(state)
            };
            let (logits, after) = model.forward(all.clone().narrow(1, from, to - from), before);
            pieces.push(logits);
            (state, from) = (after, to);
        }
    }
    (Tensor::cat(pieces, 1), state)
}
