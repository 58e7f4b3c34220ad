//! Low-rank adapters (LoRA, Hu et al. 2021, arXiv:2106.09685): `y = x W + (α/r) · (dropout(x) A) B`, where A `[in, r]`
//! and B `[r, out]` learn and everything else of the model does not.
//!
//! An adapter lies at the weight of its projection, as Burn's reparameterizations do, so that a model has the same
//! parts with one or without. The product with the weight is taken as ever, by [`Formats`](crate::Formats), and no
//! gradient of the weight; W + (α/r) A B, which is what the weight's `val()` gives, is made only where a model is
//! [merged](crate::InfinityModel::merged).

// The names of the paper, and of files.
#![allow(non_snake_case)]

use crate::config::ModelConfig;
use crate::error::ConfigError;
use crate::parameters::{ADAPTER, Weight, weights};
use burn::module::{Module, Param, Reparameterization};
use burn::nn::{Dropout, DropoutConfig};
use burn::tensor::{DType, Tensor};
use infinity_files::nearest;
use std::collections::BTreeSet;

/// Every projection of a block, as the Python package PEFT calls them.
pub const ALL_LINEAR: &str = "all-linear";

/// Which projections get adapters, and of what size.
#[derive(Clone, Debug, PartialEq)]
pub struct Lora {
    /// The rank of an adapter, at least 1.
    pub r: usize,
    /// An adapter counts `alpha / r`.
    pub alpha: f64,
    /// Part of an adapter's inputs that drops out in training.
    pub dropout: f64,
    /// Names of projections as in `q_proj`, or longer ends of their paths; or [`ALL_LINEAR`].
    pub target_modules: Vec<String>,
}

/// The adapter of one projection.
#[derive(Module, Debug)]
pub struct Adapter {
    /// `[in, r]`.
    pub(crate) A: Param<Tensor<2>>,
    /// `[r, out]`.
    pub(crate) B: Param<Tensor<2>>,
    pub(crate) dropout: Dropout,
    /// α/r.
    #[module(skip)]
    pub(crate) scale: f64,
}

impl Reparameterization for Adapter {
    const NAME: &'static str = ADAPTER;

    fn apply<const D: usize>(&self, base: Tensor<D>) -> Tensor<D> {
        let dtype = base.dtype();
        let delta = self.A.val().matmul(self.B.val()) * self.scale;
        let delta = delta.reshape(base.shape());
        (base.cast(DType::F32) + delta.cast(DType::F32)).cast(dtype)
    }
}

impl Adapter {
    /// One of these factors, `[in, r]` and `[r, out]`.
    pub(crate) fn new([a, b]: [Tensor<2>; 2], scale: f64, dropout: f64) -> Self {
        Adapter {
            A: Param::from_tensor(a),
            B: Param::from_tensor(b),
            dropout: DropoutConfig::new(dropout).init(),
            scale,
        }
    }
}

/// The projection that a weight is of, if it is the matrix of one within a block.
pub(crate) fn projection(name: &str) -> Option<&str> {
    let projection = name.strip_suffix(".weight")?;
    projection.ends_with("_proj").then_some(projection)
}

/// Whether `name` is `end`, or ends with it after a dot.
pub(crate) fn ends_with(name: &str, end: &str) -> bool {
    let before = name.strip_suffix(end);
    before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

impl Lora {
    /// What an adapter counts, α/r.
    pub fn scale(&self) -> f64 {
        self.alpha / self.r as f64
    }

    /// Those weights of a model of `config` that get an adapter.
    ///
    /// # Errors
    /// `lora.r`, `lora.dropout` or a name in `lora.target_modules` that cannot be.
    pub fn targets(&self, config: &ModelConfig) -> Result<Vec<Weight>, ConfigError> {
        let all = weights(config).into_iter();
        let all: Vec<Weight> = all.filter(|w| projection(&w.name).is_some()).collect();
        if self.r == 0 {
            let wrong = "is too small: it must be at least 1";
            return Err(ConfigError::value("lora.r", 0, wrong));
        }
        let is = |weight: &Weight, target: &str| {
            let name = projection(&weight.name).unwrap_or_default();
            target == ALL_LINEAR || ends_with(name, target)
        };
        for target in &self.target_modules {
            if !all.iter().any(|weight| is(weight, target)) {
                let names = all.iter();
                let names = names.filter_map(|w| projection(&w.name)?.rsplit('.').next());
                let names: Vec<&str> = BTreeSet::from_iter(names).into_iter().collect();
                let meant = nearest(target, names.iter().copied());
                let meant = meant.map(|name| format!("; did you mean {name}?"));
                let (names, meant) = (names.join(", "), meant.unwrap_or_default());
                let limit = format!("{ALL_LINEAR} or of {names}{meant}");
                return Err(ConfigError::unknown("lora.target_modules", target, limit));
            }
        }
        let named = |weight: &Weight| self.target_modules.iter().any(|target| is(weight, target));
        Ok(all.into_iter().filter(named).collect())
    }

    /// Numbers that learn with these adapters in a model of `config`.
    ///
    /// # Errors
    /// As [`targets`](Self::targets).
    pub fn count(&self, config: &ModelConfig) -> Result<u64, ConfigError> {
        let targets = self.targets(config)?.into_iter();
        let each = targets.map(|weight| self.r * weight.shape.iter().sum::<usize>());
        Ok(each.sum::<usize>() as u64)
    }
}
