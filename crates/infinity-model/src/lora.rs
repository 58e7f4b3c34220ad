//! A model with adapters: how it gets them, what they hold, and the same model without them.

use crate::adapter::{Adapter, Lora};
use crate::error::ConfigError;
use crate::model::InfinityModel;
use crate::parameters::{ADAPTER, in_files};
use crate::state::Stateful;
use burn::module::{Module, ModuleVisitor, Param, ParamGroup, Reparameterization, Reparameterizer};
use burn::tensor::{DType, Device, Tensor, TensorData};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;

/// The numbers of one adapter, outside any graph.
#[derive(Clone, Debug)]
pub(crate) struct Factors {
    /// `[in, r]`.
    pub(crate) a: Tensor<2>,
    /// `[r, out]`.
    pub(crate) b: Tensor<2>,
    /// What it counts.
    pub(crate) scale: f64,
}

impl Factors {
    /// A weight with this adapter added, in f32.
    pub(crate) fn added<const D: usize>(&self, weight: Tensor<D>) -> Tensor<D> {
        let factors = [self.a.clone(), self.b.clone()];
        Adapter::new(factors, self.scale, 0.0).apply(weight.cast(DType::F32))
    }
}

/// Hangs adapters on weights, and lets everything else learn nothing.
struct Attach<F>(F);

impl<F: FnMut(&str, [usize; 2], &Device) -> Option<Adapter>> Reparameterizer for Attach<F> {
    type Reparam = Adapter;

    fn reparameterize<const D: usize>(
        &mut self,
        path: &str,
        param: Param<Tensor<D>>,
    ) -> (Param<Tensor<D>>, Option<Adapter>) {
        let (shape, device) = (param.lazy_shape(), param.lazy_device());
        let adapter = match shape.as_slice() {
            &[width, out] => (self.0)(&in_files(path), [width, out], &device),
            _ => None,
        };
        (param.set_require_grad(false), adapter)
    }
}

impl InfinityModel {
    /// The same model with adapters as `lora` says, which alone learn: B is zero, so that nothing is changed yet, and A
    /// is drawn from `seed`, uniform within 1/√in as PEFT does it.
    ///
    /// # Errors
    /// As [`Lora::targets`].
    pub fn with_lora(mut self, lora: &Lora, seed: u64) -> Result<Self, ConfigError> {
        let targets = lora.targets(self.config())?;
        let mut rng = StdRng::seed_from_u64(seed);
        let attach = |name: &str, [width, out]: [usize; 2], device: &Device| {
            targets.iter().find(|weight| weight.name == name)?;
            let bound = (width as f64).powf(-0.5);
            let draw = || ((2.0 * rng.random::<f64>() - 1.0) * bound) as f32;
            let a: Vec<f32> = std::iter::repeat_with(draw).take(width * lora.r).collect();
            let a = TensorData::new(a, [width, lora.r]);
            let factors = [
                Tensor::from_data(a, device),
                Tensor::zeros([lora.r, out], device),
            ];
            Some(Adapter::new(factors, lora.scale(), lora.dropout))
        };
        self = self.apply_reparameterization(Attach(attach));
        self.lora = Some(lora.clone());
        let names = targets.into_iter().map(|weight| weight.name);
        self.scales = names.map(|name| (name, lora.scale())).collect();
        Ok(self)
    }

    /// The same model with these adapters, by the names of their projections' weights.
    pub(crate) fn with_factors(mut self, mut factors: BTreeMap<String, Factors>) -> Self {
        let each = factors.iter();
        self.scales = each.map(|(name, of)| (name.clone(), of.scale)).collect();
        let attach = |name: &str, _: [usize; 2], _: &Device| {
            let Factors { a, b, scale } = factors.remove(name)?;
            Some(Adapter::new([a, b], scale, 0.0))
        };
        self.apply_reparameterization(Attach(attach))
    }

    /// How its adapters were made, if it has any.
    pub fn lora(&self) -> Option<&Lora> {
        self.lora.as_ref()
    }

    /// The same model with every adapter added to its weight, W + (α/r) A B, in f32 and rounded once.
    pub fn merged(mut self) -> Self {
        self.lora = None;
        self.scales.clear();
        self.materialize()
    }

    /// The parameters of adapters alone, as a part of a record of the model or of what holds it.
    pub fn adapters() -> ParamGroup {
        ParamGroup::from_predicate(".lora.")
    }
}

/// The adapters of a model, by the names of their projections' weights.
pub(crate) fn factors(model: &impl Stateful) -> BTreeMap<String, Factors> {
    struct Found(Vec<String>, BTreeMap<String, BTreeMap<String, Tensor<2>>>);
    impl ModuleVisitor for Found {
        fn enter_module(&mut self, name: &str, _container_type: &str) {
            self.0.push(name.to_owned());
        }
        fn exit_module(&mut self, _name: &str, _container_type: &str) {
            self.0.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let [path @ .., lora, name] = &self.0[..]
                && lora == ADAPTER
            {
                let dims = param.lazy_shape();
                let value = param.val().inner().reshape([dims[0], dims[1]]);
                let of = self.1.entry(in_files(&path.join("."))).or_default();
                of.insert(name.clone(), value);
            }
        }
    }
    if model.adapter_scales().is_empty() {
        return BTreeMap::new();
    }
    let mut found = Found(Vec::new(), BTreeMap::new());
    model.visit(&mut found);
    let each = found.1.into_iter().filter_map(|(name, mut of)| {
        let (a, b) = (of.remove("A")?, of.remove("B")?);
        let scale = *model.adapter_scales().get(&name)?;
        Some((name, Factors { a, b, scale }))
    });
    each.collect()
}
