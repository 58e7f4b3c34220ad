//! Every tensor of a model's weight file, from the configuration alone.

use crate::config::{Decay, KernelType, Mixer, ModelConfig};

/// What a weight is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// Token embedding, and the output projection when it is not the embedding.
    Embedding,
    /// Query, key, value and output projections, and the learnable feature map.
    MixerProjections,
    /// Short convolutions.
    Convolution,
    /// Decay, write, read, memory and output gates.
    Gates,
    /// Feed-forward.
    FeedForward,
    /// RMS norms.
    Norms,
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
    /// Whether training changes it; `false` for the start values of a fixed decay.
    pub learned: bool,
}

impl Weight {
    /// How many numbers it has.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has none, which no valid configuration gives.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Every tensor of a model's weight file, in the order of the network.
pub fn weights(config: &ModelConfig) -> Vec<Weight> {
    let mut list = List::default();
    let (vocab, d) = (config.vocab_size, config.hidden_size);
    list.add(
        "model.embed_tokens.weight".into(),
        &[vocab, d],
        Part::Embedding,
    );
    for layer in 0..config.num_hidden_layers {
        let prefix = format!("model.layers.{layer}");
        list.add(
            format!("{prefix}.input_layernorm.weight"),
            &[d],
            Part::Norms,
        );
        match config.mixer {
            Mixer::Infinity => list.infinity_mixer(config, &format!("{prefix}.mixer")),
            Mixer::Softmax => list.projections(config, &format!("{prefix}.mixer")),
        }
        list.add(
            format!("{prefix}.post_attention_layernorm.weight"),
            &[d],
            Part::Norms,
        );
        let inner = config.intermediate_size();
        list.add(
            format!("{prefix}.mlp.gate_proj.weight"),
            &[inner, d],
            Part::FeedForward,
        );
        list.add(
            format!("{prefix}.mlp.up_proj.weight"),
            &[inner, d],
            Part::FeedForward,
        );
        list.add(
            format!("{prefix}.mlp.down_proj.weight"),
            &[d, inner],
            Part::FeedForward,
        );
    }
    list.add("model.norm.weight".into(), &[d], Part::Norms);
    if !config.tie_word_embeddings {
        list.add("lm_head.weight".into(), &[vocab, d], Part::Embedding);
    }
    list.0
}

#[derive(Default)]
struct List(Vec<Weight>);

impl List {
    fn add(&mut self, name: String, shape: &[usize], part: Part) {
        self.0.push(Weight {
            name,
            shape: shape.to_vec(),
            part,
            learned: true,
        });
    }

    fn projections(&mut self, config: &ModelConfig, prefix: &str) {
        let (d, keys, values) = (
            config.hidden_size,
            config.key_dim_total(),
            config.value_dim_total(),
        );
        for (name, shape) in [
            ("q", [keys, d]),
            ("k", [keys, d]),
            ("v", [values, d]),
            ("o", [d, values]),
        ] {
            let name = format!("{prefix}.{name}_proj.weight");
            self.add(name, &shape, Part::MixerProjections);
        }
    }

    fn infinity_mixer(&mut self, config: &ModelConfig, prefix: &str) {
        let (h, k) = (config.num_attention_heads, config.head_dim());
        self.projections(config, prefix);
        if config.conv_kernel_size > 0 {
            let (keys, values) = (config.key_dim_total(), config.value_dim_total());
            for (name, channels) in [("q", keys), ("k", keys), ("v", values)] {
                let shape = [channels, 1, config.conv_kernel_size];
                self.add(
                    format!("{prefix}.{name}_conv1d.weight"),
                    &shape,
                    Part::Convolution,
                );
            }
        }
        if config.kernel_type == KernelType::Learnable {
            self.add(
                format!("{prefix}.feature_map.weight"),
                &[h, k, k],
                Part::MixerProjections,
            );
            self.add(
                format!("{prefix}.feature_map.bias"),
                &[h, k],
                Part::MixerProjections,
            );
        }
        self.gates(config, prefix);
        if config.use_output_gate {
            let shape = [config.value_dim_total(), config.hidden_size];
            self.add(
                format!("{prefix}.output_gate_proj.weight"),
                &shape,
                Part::Gates,
            );
        }
        self.add(
            format!("{prefix}.o_norm.weight"),
            &[config.value_head_dim()],
            Part::Norms,
        );
    }

    fn gates(&mut self, config: &ModelConfig, prefix: &str) {
        let (d, h, s) = (
            config.hidden_size,
            config.num_attention_heads,
            config.num_states(),
        );
        let mut gate = |name: &str, shape: &[usize]| {
            self.add(format!("{prefix}.gates.{name}"), shape, Part::Gates);
        };
        if config.decay == Decay::Adaptive {
            gate("decay_proj.weight", &[h * s, d]);
        }
        if config.decay != Decay::None {
            gate("A_log", &[h, s]);
            gate("dt_bias", &[h, s]);
        }
        gate("beta_proj.weight", &[h, d]);
        if s > 1 {
            for name in ["write_proj", "read_proj"] {
                gate(&format!("{name}.weight"), &[h * s, d]);
                gate(&format!("{name}.bias"), &[h * s]);
            }
        }
        if config.has_memory_gate() {
            gate("memory_gate_proj.weight", &[h, d]);
            gate("memory_gate_proj.bias", &[h]);
        }
        if config.decay == Decay::Fixed {
            let fixed = self
                .0
                .iter_mut()
                .rev()
                .take_while(|weight| weight.part == Part::Gates);
            for weight in fixed {
                weight.learned &=
                    !(weight.name.ends_with("A_log") || weight.name.ends_with("dt_bias"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::count::ParameterCount;

    /// D = 8, H = 2, K = 4, V = 4, S = 4, feed-forward 64, one layer, 10 tokens.
    fn tiny() -> ModelConfig {
        ModelConfig {
            vocab_size: 10,
            hidden_size: 8,
            num_hidden_layers: 1,
            num_attention_heads: 2,
            ..ModelConfig::default()
        }
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
        let adaptive = ParameterCount::of(&tiny()).gates;
        assert_eq!(ParameterCount::of(&fixed).gates, adaptive - 64 - 16);
    }
}
