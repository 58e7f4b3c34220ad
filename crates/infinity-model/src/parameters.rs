//! Every tensor of a model: its name and shape in the weight file, what it is for, and what training
//! does with it. All of it follows from the configuration and from names.

use crate::config::{AttnQkNorm, Decay, KernelType, LayerType, ModelConfig};

/// What a parameter is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// Token embedding, and the output projection when it is not the embedding.
    Embedding,
    /// Query, key, value and output projections, and the learnable feature map.
    MixerProjections,
    /// Short convolutions.
    Convolution,
    /// Decay, write, read, memory and output gates, and the scalars of residuals from the first layer.
    Gates,
    /// Feed-forward.
    FeedForward,
    /// RMS norms.
    Norms,
}

/// How training treats a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ParameterRole {
    /// A hidden matrix, `[in, out]` in Burn: what Muon is for.
    Matrix,
    /// A gate of the memory, or a scalar of a residual from the first layer: in f32 in every precision, with a learning rate of its own.
    Gate,
    /// A short convolution or a learnable feature map.
    Kernel,
    /// A factor of a low-rank adapter: in f32 in every precision.
    Adapter,
    /// Embedding, output projection, norms, biases of matrices, and what is not this model's.
    Other,
}

/// The segment of a path that a low-rank adapter is below.
pub(crate) const ADAPTER: &str = "lora";

/// What a module is that holds parameters, by the first segment of its path that says it.
fn named(path: &str) -> Option<(Part, ParameterRole)> {
    use ParameterRole::{Gate, Kernel, Matrix, Other};
    let found = path.split('.').find_map(|segment| match segment {
        "gates" | "value_residual" | "input_residual" => Some((Part::Gates, Gate)),
        "output_gate_proj" => Some((Part::Gates, Matrix)),
        "q_proj" | "k_proj" | "v_proj" | "o_proj" => Some((Part::MixerProjections, Matrix)),
        "q_conv1d" | "k_conv1d" | "v_conv1d" => Some((Part::Convolution, Kernel)),
        "feature_map" => Some((Part::MixerProjections, Kernel)),
        "gate_proj" | "up_proj" | "down_proj" => Some((Part::FeedForward, Matrix)),
        "embed_tokens" | "lm_head" => Some((Part::Embedding, Other)),
        "input_layernorm" | "post_attention_layernorm" => Some((Part::Norms, Other)),
        "o_norm" | "q_norm" | "k_norm" | "norm" => Some((Part::Norms, Other)),
        _ => None,
    });
    // The bias of a matrix is a vector.
    let of_bias = path.split('.').any(|segment| segment == "bias");
    found.map(|(part, role)| match role {
        Matrix if of_bias => (part, Other),
        role => (part, role),
    })
}

impl ParameterRole {
    /// The role of the parameter at `path`: its name in a weight file, or the names that a
    /// `ModuleVisitor` passes, joined by dots.
    ///
    /// ```
    /// use infinity_model::parameters::ParameterRole;
    ///
    /// let path = "model.layers.0.mixer.gates.beta_proj.weight";
    /// assert_eq!(ParameterRole::of(path), ParameterRole::Gate);
    /// ```
    pub fn of(path: &str) -> Self {
        if path.split('.').any(|segment| segment == ADAPTER) {
            return ParameterRole::Adapter;
        }
        named(path).map_or(ParameterRole::Other, |(_, role)| role)
    }

    /// Whether a weight decay may apply to it, if the configuration does not exclude it: what decays
    /// in a gate, a convolution or a feature map is its meaning.
    pub fn may_decay(self) -> bool {
        use ParameterRole::{Adapter, Matrix, Other};
        matches!(self, Matrix | Other | Adapter)
    }
}

/// One tensor of the model's weight file.
#[derive(Clone, Debug, PartialEq)]
pub struct Weight {
    /// Its name in `model.safetensors`.
    pub name: String,
    /// Its shape in PyTorch's layout: a projection is `[out, in]`.
    pub shape: Vec<usize>,
    /// What it is for.
    pub part: Part,
    /// How training treats it.
    pub role: ParameterRole,
    /// Whether training changes it; `false` for the start values of a fixed decay.
    pub learned: bool,
}

impl Weight {
    /// How many numbers it has.
    pub fn numbers(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Every tensor of a model's weight file, in the order of the network. No model is made for it: that takes a device, and
/// a program may have none.
pub fn weights(config: &ModelConfig) -> Vec<Weight> {
    let (vocab, d) = (config.vocab_size, config.hidden_size);
    let (inner, biased) = (config.intermediate_size(), config.mlp_bias);
    let mut list = List::default();
    list.add(true, "model.embed_tokens.weight", &[vocab, d]);
    for layer in 0..config.num_hidden_layers {
        list.below = format!("model.layers.{layer}.");
        // The first layer has no layer before it.
        let [input, value] =
            [config.input_residual, config.value_residual].map(|on| on && layer > 0);
        list.add(input, "input_residual.scales", &[2]);
        list.add(true, "input_layernorm.weight", &[d]);
        list.below += "mixer.";
        list.mixer(&config.of_layer(layer));
        list.add(value, "value_residual.scales", &[2]);
        list.below = format!("model.layers.{layer}.");
        list.add(true, "post_attention_layernorm.weight", &[d]);
        list.linear(true, "mlp.gate_proj", [inner, d], biased);
        list.linear(true, "mlp.up_proj", [inner, d], biased);
        list.linear(true, "mlp.down_proj", [d, inner], biased);
    }
    list.below.clear();
    list.add(true, "model.norm.weight", &[d]);
    list.add(!config.tie_word_embeddings, "lm_head.weight", &[vocab, d]);
    for weight in &mut list.weights {
        let start = weight.name.ends_with("A_log") || weight.name.ends_with("dt_bias");
        weight.learned = !(start && config.decay == Decay::Fixed);
    }
    list.weights
}

/// The weights of a model, as far as they are listed.
#[derive(Default)]
struct List {
    /// What the names of the next ones begin with.
    below: String,
    weights: Vec<Weight>,
}

impl List {
    /// Adds one, if it is there at all.
    fn add(&mut self, there: bool, name: &str, shape: &[usize]) {
        if there {
            let (part, role) = named(name).expect("every module of the model is in the table");
            self.weights.push(Weight {
                name: format!("{}{name}", self.below),
                shape: shape.to_vec(),
                part,
                role,
                learned: true,
            });
        }
    }

    /// Those of a projection `[to, from]`.
    fn linear(&mut self, there: bool, name: &str, shape: [usize; 2], biased: bool) {
        self.add(there, &format!("{name}.weight"), &shape);
        self.add(there && biased, &format!("{name}.bias"), &shape[..1]);
    }

    /// Those of the first layer's mixer.
    fn mixer(&mut self, config: &ModelConfig) {
        if config.layer_type(0) != LayerType::Linear {
            return self.attention(config);
        }
        let (d, of, s) = (
            config.hidden_size,
            config.linear_heads(),
            config.num_states(),
        );
        let (keys, values, h) = (of.key_width(), of.value_width(), of.values);
        self.add(true, "q_proj.weight", &[keys, d]);
        self.add(true, "k_proj.weight", &[keys, d]);
        self.add(true, "v_proj.weight", &[values, d]);
        self.add(true, "o_proj.weight", &[d, values]);
        let kernel = config.conv_kernel_size;
        self.add(kernel > 0, "q_conv1d.weight", &[keys, 1, kernel]);
        self.add(kernel > 0, "k_conv1d.weight", &[keys, 1, kernel]);
        self.add(kernel > 0, "v_conv1d.weight", &[values, 1, kernel]);
        let learnable = config.kernel_type == KernelType::Learnable;
        let map = [of.keys, of.key_dim, of.key_dim];
        self.add(learnable, "feature_map.weight", &map);
        self.add(learnable, "feature_map.bias", &map[..2]);
        let (adapts, decays) = (config.decay == Decay::Adaptive, config.decay != Decay::None);
        self.add(adapts, "gates.decay_proj.weight", &[h * s, d]);
        self.add(decays, "gates.A_log", &[h, s]);
        self.add(decays, "gates.dt_bias", &[h, s]);
        self.add(true, "gates.beta_proj.weight", &[h, d]);
        let routed = config.routes_by_content();
        self.add(routed, "gates.routing.weight", &[h, s, of.key_dim]);
        self.add(routed, "gates.routing.log_temperature", &[h]);
        let chosen = s > 1 && !routed;
        self.linear(chosen, "gates.write_proj", [h * s, d], true);
        self.linear(chosen, "gates.read_proj", [h * s, d], true);
        let gated = config.has_memory_gate();
        self.linear(gated, "gates.memory_gate_proj", [h, d], true);
        self.add(
            config.use_output_gate,
            "output_gate_proj.weight",
            &[values, d],
        );
        self.add(true, "o_norm.weight", &[of.value_dim]);
    }

    fn attention(&mut self, config: &ModelConfig) {
        let (d, h) = (config.hidden_size, config.num_attention_heads);
        let (k, v) = (config.head_dim(), config.value_head_dim());
        let groups = config.num_key_value_heads();
        let of_qkv = config.attention_bias || config.qkv_bias;
        self.linear(true, "q_proj", [h * k, d], of_qkv);
        self.linear(true, "k_proj", [groups * k, d], of_qkv);
        self.linear(true, "v_proj", [groups * v, d], of_qkv);
        self.linear(true, "o_proj", [d, h * v], config.attention_bias);
        for (name, heads) in [("q_norm.weight", h), ("k_norm.weight", groups)] {
            let (norm, heads) = match config.attn_qk_norm {
                AttnQkNorm::Full => (true, heads),
                other => (other == AttnQkNorm::Head, 1),
            };
            self.add(norm, name, &[heads * k]);
        }
        self.add(
            config.attn_output_gate,
            "output_gate_proj.weight",
            &[h * v, d],
        );
    }
}

/// The name in a weight file of the parameter at a path of modules.
pub(crate) fn in_files(path: &str) -> String {
    let segments = path.split('.').filter_map(|segment| match segment {
        "Infinity" | "Softmax" => None,
        "gamma" => Some("weight"),
        other => Some(other),
    });
    segments.collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{MemoryRouting, Mixer};
    use crate::count::ParameterCount;

    /// D = 8, H = 2, K = 4, V = 4, S = 4, feed-forward 64, one layer, 10 tokens.
    fn tiny() -> ModelConfig {
        ModelConfig {
            vocab_size: 10,
            hidden_size: 8,
            num_hidden_layers: 1,
            num_attention_heads: 2,
            ..ModelConfig::first()
        }
    }

    #[test]
    fn roles_follow_from_paths_in_files_and_in_modules() {
        for (path, role) in [
            ("model.embed_tokens.weight", ParameterRole::Other),
            (
                "layers.0.mixer.Infinity.gates.memory_gate_proj.weight",
                ParameterRole::Gate,
            ),
            ("layers.0.mixer.gates.A_log", ParameterRole::Gate),
            (
                "layers.1.mixer.output_gate_proj.weight",
                ParameterRole::Matrix,
            ),
            ("layers.1.mlp.gate_proj.weight", ParameterRole::Matrix),
            ("layers.1.mixer.q_conv1d.weight", ParameterRole::Kernel),
            ("layers.1.mixer.feature_map.bias", ParameterRole::Kernel),
            ("layers.1.mixer.o_norm.gamma", ParameterRole::Other),
            ("layers.1.mixer.Softmax.q_norm.gamma", ParameterRole::Other),
            ("layers.1.mixer.Softmax.q_proj.bias", ParameterRole::Other),
            ("layers.1.mixer.gates.read_proj.bias", ParameterRole::Gate),
            ("layers.1.input_residual.scales", ParameterRole::Gate),
            (
                "layers.1.mixer.Infinity.gates.routing.log_temperature",
                ParameterRole::Gate,
            ),
            (
                "layers.1.mixer.Infinity.value_residual.scales",
                ParameterRole::Gate,
            ),
            ("somebody.elses.weight", ParameterRole::Other),
            (
                "layers.1.mixer.Infinity.q_proj.weight.lora.A",
                ParameterRole::Adapter,
            ),
        ] {
            assert_eq!(ParameterRole::of(path), role, "{path}");
        }
        assert!(!ParameterRole::Gate.may_decay() && ParameterRole::Matrix.may_decay());
    }

    #[test]
    fn settings_add_and_remove_weights() {
        let names = |config: &ModelConfig| -> Vec<String> {
            weights(config)
                .into_iter()
                .map(|weight| weight.name)
                .collect()
        };
        let has = |config: &ModelConfig, end: &str| names(config).iter().any(|n| n.ends_with(end));
        let base = tiny();
        assert!(!has(&base, "lm_head.weight") && !has(&base, "feature_map.weight"));

        let other = ModelConfig {
            tie_word_embeddings: false,
            kernel_type: KernelType::Learnable,
            decay: Decay::None,
            conv_kernel_size: 0,
            use_output_gate: false,
            ..base.clone()
        };
        assert!(has(&other, "lm_head.weight") && has(&other, "feature_map.bias"));
        for gone in [
            "decay_proj.weight",
            "A_log",
            "dt_bias",
            "conv1d.weight",
            "output_gate_proj.weight",
        ] {
            assert!(has(&base, gone) && !has(&other, gone), "{gone}");
        }

        let one_state = ModelConfig {
            use_multi_scale_memory: false,
            ..base.clone()
        };
        let routed = ModelConfig {
            memory_routing: MemoryRouting::Content,
            ..base.clone()
        };
        assert!(has(&routed, "gates.routing.weight") && has(&routed, "memory_gate_proj.bias"));
        assert!(!has(&routed, "write_proj.weight") && !has(&routed, "read_proj.weight"));
        for gone in [
            "write_proj.bias",
            "read_proj.weight",
            "memory_gate_proj.bias",
        ] {
            assert!(has(&base, gone) && !has(&one_state, gone), "{gone}");
        }
        let softmax = ModelConfig {
            mixer: Mixer::Softmax,
            ..base
        };
        assert_eq!(
            names(&softmax)
                .iter()
                .filter(|n| n.contains(".mixer."))
                .count(),
            4
        );
    }

    #[test]
    fn a_fixed_decay_is_stored_and_not_learned() {
        let fixed = ModelConfig {
            decay: Decay::Fixed,
            ..tiny()
        };
        let not_learned: Vec<String> = weights(&fixed)
            .into_iter()
            .filter(|w| !w.learned)
            .map(|w| w.name)
            .collect();
        assert_eq!(
            not_learned,
            [
                "model.layers.0.mixer.gates.A_log",
                "model.layers.0.mixer.gates.dt_bias"
            ]
        );
        let adaptive = ParameterCount::of(&tiny()).part(Part::Gates);
        assert_eq!(
            ParameterCount::of(&fixed).part(Part::Gates),
            adaptive - 64 - 16
        );
    }
}
