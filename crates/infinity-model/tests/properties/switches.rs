//! Every switch of the layers does something: flipped, with the same weights where both models have them, it
//! moves the logits. A key that is read and forgotten would be caught here.

use crate::kinds::{VOCABULARY, read, tokens};
use infinity_kernels::testing::Random;
use infinity_model::burn::module::{Module, ModuleMapper, Param};
use infinity_model::burn::tensor::{Device, Tensor, TensorData};
use infinity_model::config::{
    AttnNormOrder, AttnQkNorm, KernelType, LayerType, OutputGateAct, RopeParameters, RopeType,
};
use infinity_model::{InfinityModel, ModelConfig};

/// Every parameter at random, norms and biases too: at their start many a switch does nothing.
struct Shaken(Random);

impl ModuleMapper for Shaken {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|x| {
            let noise = self.0.values(x.shape().num_elements(), -0.3, 0.3);
            let noise: Vec<f32> = noise.iter().map(|x| *x as f32).collect();
            let noise = Tensor::from_data(TensorData::new(noise, x.dims()), &x.device());
            (x.detach() + noise).detach()
        })
    }
}

fn shaken(config: &ModelConfig) -> InfinityModel {
    config.validate().unwrap_or_else(|error| panic!("{error}"));
    let model = config.init_seeded(3, &Device::flex());
    model.map(&mut Shaken(Random(3)))
}

/// A hybrid of all three types of layers in the manner of Qwen3.5: D = 16, four heads on two.
fn base() -> ModelConfig {
    ModelConfig {
        vocab_size: VOCABULARY,
        hidden_size: 16,
        num_hidden_layers: 3,
        layer_types: Some(vec![LayerType::Linear, LayerType::Full, LayerType::Sliding]),
        num_attention_heads: 4,
        head_dim: Some(8),
        num_key_value_heads: Some(2),
        linear_num_key_heads: Some(2),
        linear_num_value_heads: Some(4),
        sliding_window: Some(5),
        intermediate_size: Some(24),
        initializer_range: 0.3,
        tie_word_embeddings: false,
        ..ModelConfig::preset("gated-deltanet").expect("a preset")
    }
}

fn rope(change: impl Fn(&mut RopeParameters)) -> impl Fn(&mut ModelConfig) {
    move |config| {
        // Of the length of these texts.
        config.rope_parameters.rope_theta = Some(10_000.0);
        change(&mut config.rope_parameters);
    }
}

#[test]
fn every_switch_moves_the_logits() {
    type Flip = Box<dyn Fn(&mut ModelConfig)>;
    let kind = |layer: usize, kind: LayerType| -> Flip {
        Box::new(move |c| c.layer_types.as_mut().expect("given")[layer] = kind)
    };
    let llama3 = |rope: &mut RopeParameters| {
        rope.rope_type = Some(RopeType::Llama3);
        rope.factor = Some(8.0);
        (rope.low_freq_factor, rope.high_freq_factor) = (Some(1.0), Some(4.0));
        rope.original_max_position_embeddings = Some(16.0);
    };
    let linear = |rope: &mut RopeParameters| {
        (rope.rope_type, rope.factor) = (Some(RopeType::Linear), Some(4.0));
    };
    let flips: Vec<(&str, Flip)> = vec![
        ("layer_types", kind(1, LayerType::Linear)),
        ("layer_types, the window", kind(2, LayerType::Full)),
        ("sliding_window", Box::new(|c| c.sliding_window = Some(7))),
        (
            "num_key_value_heads",
            Box::new(|c| c.num_key_value_heads = Some(4)),
        ),
        (
            "attn_qk_norm, head",
            Box::new(|c| c.attn_qk_norm = AttnQkNorm::Head),
        ),
        (
            "attn_qk_norm, full",
            Box::new(|c| c.attn_qk_norm = AttnQkNorm::Full),
        ),
        ("attn_output_gate", Box::new(|c| c.attn_output_gate = true)),
        (
            "attn_norm_order",
            Box::new(|c| c.attn_norm_order = AttnNormOrder::Post),
        ),
        ("attention_bias", Box::new(|c| c.attention_bias = true)),
        ("qkv_bias", Box::new(|c| c.qkv_bias = true)),
        ("mlp_bias", Box::new(|c| c.mlp_bias = true)),
        (
            "rope_type, none",
            Box::new(rope(|rope| rope.rope_type = Some(RopeType::None))),
        ),
        ("rope_type, linear", Box::new(rope(linear))),
        ("rope_type, llama3", Box::new(rope(llama3))),
        (
            "rope_theta",
            Box::new(rope(|rope| rope.rope_theta = Some(100.0))),
        ),
        (
            "partial_rotary_factor",
            Box::new(rope(|rope| rope.partial_rotary_factor = Some(0.25))),
        ),
        (
            "linear_num_key_heads",
            Box::new(|c| c.linear_num_key_heads = Some(4)),
        ),
        (
            "linear_num_value_heads",
            Box::new(|c| c.linear_num_value_heads = Some(2)),
        ),
        (
            "linear_key_head_dim",
            Box::new(|c| c.linear_key_head_dim = Some(6)),
        ),
        (
            "linear_value_head_dim",
            Box::new(|c| c.linear_value_head_dim = Some(6)),
        ),
        (
            "output_gate_act",
            Box::new(|c| c.output_gate_act = OutputGateAct::Silu),
        ),
        ("o_norm_eps", Box::new(|c| c.o_norm_eps = Some(0.05))),
        ("qk_l2_eps", Box::new(|c| c.qk_l2_eps = 0.05)),
        ("kernel_type", Box::new(|c| c.kernel_type = KernelType::Elu)),
        (
            "use_rotary_embeddings",
            Box::new(|c| c.use_rotary_embeddings = true),
        ),
        ("allow_neg_eigval", Box::new(|c| c.allow_neg_eigval = true)),
    ];
    let tokens = tokens(&mut Random(8), 1, 40);
    let unflipped = ModelConfig {
        rope_parameters: RopeParameters {
            rope_theta: Some(10_000.0),
            ..RopeParameters::default()
        },
        ..base()
    };
    let model = shaken(&unflipped);
    let expected = read(&model, &tokens, 1);
    let moved = |config: &ModelConfig| {
        let (other, _) = shaken(config).with_weights_of(&model);
        let found = read(&other, &tokens, 1);
        let pairs = found.iter().zip(&expected);
        pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    };
    assert_eq!(moved(&unflipped), 0.0, "nothing was flipped");
    for (name, flip) in flips {
        let mut config = unflipped.clone();
        flip(&mut config);
        let by = moved(&config);
        assert!(by >= 1e-2, "{name} moves logits by {by:e}");
    }
}
