//! The InfinityFormer language model: linear time, constant memory, any length, on any Burn
//! backend.
//!
//! ```no_run
//! use burn::tensor::Device;
//! use infinity_model::{GenerationConfig, from_pretrained, generate};
//! use std::{ops::ControlFlow, path::Path};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let loaded = from_pretrained(Path::new("runs/tiny/final"), &Device::flex())?;
//! let tokenizer = loaded.tokenizer.ok_or("a model with a tokenizer")?;
//! generate(&loaded.model, &tokenizer, "One day", &GenerationConfig::default(), &mut |text| {
//!     print!("{text}");
//!     ControlFlow::Continue(())
//! })?;
//! # Ok(())
//! # }
//! ```
//!
//! # Map
//!
//! - [`config`]: [`ModelConfig`], all that decides which network is built.
//! - [`parameters`]: every tensor of it, and what training does with it; [`count`]: its cost.
//! - [`model`]: [`InfinityModel`], the network; [`state`]: what it remembers between calls;
//!   [`state_file`]: the same as a file.
//! - [`adapter`]: what learns of a model whose weights do not.
//! - [`block`], [`mixer`]: its parts, which can be had alone; [`layer`]: what they have in common.
//! - [`compression`]: that memory in fewer bits, with a bound on the error; [`certified`]: a text read
//!   with that bound beside it.
//! - [`gate_summary`]: what its gates do with a text.
//! - [`precision`](mod@precision): which number format every kind of operation computes in.
//! - [`tokenizer`], [`generation_config`], [`sampler`], [`decoder`], [`generate`](mod@generate): from
//!   text to text.
//! - [`chat_template`]: a conversation as a text.
//! - [`pretrained`]: model directories as the ecosystem reads them.
//!
//! The crate picks no backend: an app enables one of Burn's, or one of this crate's features of
//! the same name.

#![forbid(unsafe_code)]

pub mod adapter;
pub mod block;
pub mod certified;
pub mod chat_template;
pub mod compression;
pub mod config;
pub mod count;
pub mod decoder;
pub mod error;
pub mod gate_summary;
pub mod generate;
pub mod generation_config;
mod init;
mod kv_cache;
pub mod layer;
mod lora;
pub mod mixer;
pub mod model;
pub mod parameters;
pub mod precision;
pub mod pretrained;
pub mod replay;
pub mod sampler;
pub mod state;
pub mod state_file;
pub mod tokenizer;

pub use burn;
pub use chat_template::{ChatTemplate, ChatTemplateError, Message};
pub use config::ModelConfig;
pub use decoder::{Decoder, FinishReason};
pub use error::{
    ConfigError, GenerateError, PretrainedError, StateError, StateProblem, TokenizerError,
};
pub use gate_summary::{GateSummary, Quantiles};
pub use generate::{Context, Generation, generate, generate_from, generate_tokens};
pub use generation_config::GenerationConfig;
pub use infinity_kernels::borders::Borders;
pub use model::InfinityModel;
pub use precision::{Formats, Precision, PrecisionError};
pub use pretrained::{
    Pretrained, SaveOptions, WeightFormat, from_pretrained, from_pretrained_in, save_pretrained,
    save_pretrained_with,
};
pub use state::{KvCache, LayerState, ModelState, Stateful};
pub use tokenizer::Tokenizer;

/// What an application that embeds the model or its parts needs most.
pub mod prelude {
    pub use crate::block::{Block, BlockConfig, FeedForward, FeedForwardConfig};
    pub use crate::layer::Layer;
    pub use crate::mixer::{InfinityMixer, InfinityMixerConfig, SoftmaxMixer, SoftmaxMixerConfig};
    pub use crate::{
        GenerationConfig, InfinityModel, LayerState, ModelConfig, ModelState, Precision, Stateful,
        Tokenizer, from_pretrained, generate, save_pretrained,
    };
}
