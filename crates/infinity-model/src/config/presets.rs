//! Known layers as settings: what other papers call by a name is a corner of this model.
//!
//! A preset fixes the rules of the mixer and leaves sizes at their defaults. The layers are the
//! published recurrences inside this project's block (SwiGLU, RMS norms), not copies of the
//! published networks: Mamba-2 and RetNet, for example, use unnormalised keys.

use super::{Decay, KernelType, MemoryUpdate, Mixer, ModelConfig, QkNorm};

/// The names that [`ModelConfig::preset`] knows.
pub const PRESETS: &[&str] = &[
    "infinity",
    "gated-deltanet",
    "retnet",
    "linear-transformer",
    "mamba2",
    "softmax",
];

impl ModelConfig {
    /// The settings of a known layer, or `None` if the name is not one of [`PRESETS`].
    pub fn preset(name: &str) -> Option<Self> {
        let one_state = Self {
            use_multi_scale_memory: false,
            use_gating: false,
            kernel_type: KernelType::Identity,
            use_rotary_embeddings: false,
            ..Self::default()
        };
        Some(match name {
            "infinity" => Self::default(),
            "gated-deltanet" => one_state,
            "retnet" => Self {
                memory_update: MemoryUpdate::Additive,
                decay: Decay::Fixed,
                use_rotary_embeddings: true,
                rotary_fraction: 1.0,
                conv_kernel_size: 0,
                ..one_state
            },
            "linear-transformer" => Self {
                memory_update: MemoryUpdate::Additive,
                decay: Decay::None,
                qk_norm: QkNorm::Denominator,
                kernel_type: KernelType::Elu,
                conv_kernel_size: 0,
                use_output_gate: false,
                ..one_state
            },
            "mamba2" => Self {
                memory_update: MemoryUpdate::Additive,
                ..one_state
            },
            "softmax" => Self {
                mixer: Mixer::Softmax,
                use_rotary_embeddings: true,
                rotary_fraction: 1.0,
                conv_kernel_size: 0,
                use_output_gate: false,
                ..one_state
            },
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_is_valid_and_different() {
        let mut seen = Vec::new();
        for name in PRESETS {
            let config = ModelConfig::preset(name).expect(name);
            assert_eq!(config.validate_without_vocab(), Ok(()), "{name}");
            assert!(!seen.contains(&config), "{name} is another preset again");
            seen.push(config);
        }
        assert_eq!(ModelConfig::preset("gated_deltanet"), None);
    }

    #[test]
    fn gated_deltanet_is_one_delta_state_with_adaptive_decay() {
        let config = ModelConfig::preset("gated-deltanet").unwrap();
        assert_eq!(config.num_states(), 1);
        assert_eq!(config.memory_update, MemoryUpdate::Delta);
        assert_eq!(config.decay, Decay::Adaptive);
        assert!(!config.has_memory_gate());
    }
}
