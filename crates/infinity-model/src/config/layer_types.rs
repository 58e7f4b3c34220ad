//! What each layer is: linear, with a state of constant size, or attention, with a cache.

use super::limits::CHECK;
use super::rope::even_part;
use super::{LayerType, Mixer, ModelConfig, RopeParameters, RopeType};
use crate::error::ConfigError;
use infinity_kernels::rotary::{RotaryDims, Scaling};

/// Heads of a linear layer and their widths. Key head `h` serves value heads `h·r … h·r + r − 1`, `r` the
/// number of value heads for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinearHeads {
    /// Heads of queries and keys.
    pub keys: usize,
    /// Heads of values, each with a memory.
    pub values: usize,
    /// Key dimension K.
    pub key_dim: usize,
    /// Value dimension V.
    pub value_dim: usize,
}

impl LinearHeads {
    /// Channels of all queries, or of all keys.
    pub fn key_width(self) -> usize {
        self.keys * self.key_dim
    }

    /// Channels of all values.
    pub fn value_width(self) -> usize {
        self.values * self.value_dim
    }
}

impl ModelConfig {
    /// What layer `layer` is, counted from the first.
    pub fn layer_type(&self, layer: usize) -> LayerType {
        match (self.layer_types.as_deref(), self.mixer) {
            (Some(types @ [_, ..]), _) => types[layer % types.len()],
            (_, Mixer::Infinity) => LayerType::Linear,
            (_, Mixer::Softmax) => LayerType::Full,
        }
    }

    /// How many layers are of a type.
    pub fn num_layers_of(&self, kind: LayerType) -> usize {
        let layers = (0..self.num_hidden_layers).map(|layer| self.layer_type(layer));
        layers.filter(|of| *of == kind).count()
    }

    /// Whether some layer has a memory.
    pub fn has_linear_layers(&self) -> bool {
        self.num_layers_of(LayerType::Linear) > 0
    }

    /// Whether some layer has a cache of keys and values, of any length.
    pub fn has_attention_layers(&self) -> bool {
        self.num_layers_of(LayerType::Linear) < self.num_hidden_layers
    }

    /// The setting by which the state grows with the text, as `key = value`; `None` if it does not.
    pub fn grows_by(&self) -> Option<&'static str> {
        (self.num_layers_of(LayerType::Full) > 0).then_some(match self.layer_types {
            None => "model.mixer = \"softmax\"",
            Some(_) => "model.layer_types with \"full_attention\"",
        })
    }

    /// The configuration of layer `layer` alone.
    pub(crate) fn of_layer(&self, layer: usize) -> Self {
        if self.layer_types.is_none() {
            return self.clone();
        }
        let kind = self.layer_type(layer);
        Self {
            mixer: match kind {
                LayerType::Linear => Mixer::Infinity,
                LayerType::Full | LayerType::Sliding => Mixer::Softmax,
            },
            layer_types: Some(vec![kind]),
            ..self.clone()
        }
    }

    /// How many keys a query of the first layer sees, if not all.
    pub(crate) fn attention_window(&self) -> Option<usize> {
        let slides = self.layer_type(0) == LayerType::Sliding;
        self.sliding_window.filter(|_| slides)
    }

    /// Heads of linear layers.
    pub fn linear_heads(&self) -> LinearHeads {
        let heads = self.num_attention_heads;
        LinearHeads {
            keys: self.linear_num_key_heads.unwrap_or(heads),
            values: self.linear_num_value_heads.unwrap_or(heads),
            key_dim: self.linear_key_head_dim.unwrap_or(self.head_dim()),
            value_dim: self.linear_value_head_dim.unwrap_or(self.value_head_dim()),
        }
    }

    pub(super) fn validate_layers(&self) -> Result<(), ConfigError> {
        let heads = self.linear_heads();
        let keys = ("model.linear_num_key_heads", heads.keys);
        let values = ("linear_num_value_heads", heads.values);
        CHECK.divisible(values, keys, "linear_num_key_heads")?;
        if heads.values != heads.keys && self.routes_by_content() {
            return Err(ConfigError::conflict(
                format!("model.linear_num_value_heads = {}", heads.values),
                "model.memory_routing = \"content\"",
                "states are chosen by the keys of each value head; use \"input\"",
            ));
        }
        let linear = heads.value_width();
        let full = self.num_key_value_heads() * self.value_head_dim();
        let mixed = self.has_linear_layers() && self.has_attention_layers();
        if self.value_residual && mixed && full != linear {
            let why = format!(
                "linear layers have {linear} channels of values and the others {full}: they cannot be added"
            );
            return Err(self.conflict("value_residual", "layer_types", &why));
        }
        let Some(types) = &self.layer_types else {
            return Ok(());
        };
        let layers = ("num_hidden_layers", self.num_hidden_layers);
        let length = ("the length of model.layer_types", types.len());
        CHECK.divisible(layers, length, "layer_types")?;
        if self.mixer == Mixer::Softmax && self.has_linear_layers() {
            return Err(ConfigError::conflict(
                "model.mixer = \"softmax\"",
                "model.layer_types with \"linear_attention\"",
                "the first is for models whose layers are all of one type; leave it out",
            ));
        }
        if self.sliding_window.is_none() && types.contains(&LayerType::Sliding) {
            let why = "model.layer_types has \"sliding_attention\"";
            return Err(ConfigError::missing("model.sliding_window", why));
        }
        Ok(())
    }

    /// The rotation of linear layers.
    pub fn rotary_dims(&self) -> RotaryDims {
        self.rotary_dims_of(self.linear_heads().key_dim)
    }

    fn rotary_dims_of(&self, key_dim: usize) -> RotaryDims {
        RotaryDims {
            key_dim,
            rotated: match self.use_rotary_embeddings {
                true => even_part(self.rotary_fraction, key_dim),
                false => 0,
            },
            base: self.rotary_embedding_base,
            scaling: Scaling::None,
        }
    }

    /// The rotation of full layers.
    pub fn attention_rotary_dims(&self) -> RotaryDims {
        let (rope, key_dim) = (&self.rope_parameters, self.head_dim());
        if *rope == RopeParameters::default() {
            return self.rotary_dims_of(key_dim);
        }
        let fraction = match rope.rope_type {
            Some(RopeType::None) => 0.0,
            _ => rope.partial_rotary_factor.unwrap_or(1.0),
        };
        RotaryDims {
            key_dim,
            rotated: even_part(fraction, key_dim),
            base: rope.rope_theta.unwrap_or(10_000.0),
            scaling: rope.scaling(),
        }
    }
}
