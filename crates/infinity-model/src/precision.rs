//! Which number format every kind of operation computes in: the whole policy, in one table.
//!
//! | what | `f32` | `bf16-mixed` | `f16-mixed` | `bf16-true` |
//! |---|---|---|---|---|
//! | parameters | f32 | f32 | f32 | bf16 |
//! | optimiser state, and its steps | f32 | f32 | f32 | f32 |
//! | gates and decays: parameters, projections, values; adapters' parameters | f32 | f32 | f32 | f32 |
//! | residual stream, norms' inputs and outputs | f32 | f32 | f32 | bf16 |
//! | inputs and results of matrix products | f32 | bf16 | f16 | bf16 |
//! | inputs of kernels: q, k, v, convolution, SwiGLU | f32 | bf16 | f16 | bf16 |
//! | feature maps, rotation, norms' statistics, softmax | f32 | f32 | f32 | f32 |
//! | carried state | f32 | f32 | f32 | f32 |
//! | loss | f32 | f32 | f32 | f32 |
//!
//! Gradients have the format of what they are the gradient of, so those of parameters in f32 are
//! f32. Products and kernels add up in f32 whatever their inputs are. A decay of 0.99998 is 1 in
//! bf16, and a state adds small things to a large sum: neither is ever in half.
//!
//! In `f32` a GPU with TF32 (CUDA from Ampere on) multiplies matrices whose factors it rounds to 10 bits of fraction,
//! as Burn has it and PyTorch can; sums, and everything but products, are in f32. A run says so
//! ([`Formats::remark`]), and so does `infinity devices`.
//!
//! A kernel gets the values of its format in an `f32` tensor: what the format loses is lost, and
//! what the kernel does with them is its own matter. A matrix product gets tensors in half where
//! the device multiplies them; see [`HalfSupport`] for the others.

use crate::adapter::Adapter;
use crate::parameters::ParameterRole;
use burn::module::{Module, ModuleMapper, Param};
use burn::nn::Linear;
use burn::tensor::{Device, FloatDType, Tensor};
use infinity_kernels::accelerator;
use infinity_kernels::linear as projection;
use infinity_kernels::rounding::{Half, HalfSupport, rounded};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Number formats of parameters and arithmetic. A choice of the moment, like the device: it is not
/// part of a model's files.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// Everything in 32-bit floats.
    #[default]
    F32,
    /// Matrix products and kernels in bf16, the rest in f32.
    Bf16Mixed,
    /// Matrix products and kernels in f16, the rest in f32; training scales the loss.
    F16Mixed,
    /// Everything in bf16 but gates, state, loss and what the optimiser remembers.
    Bf16True,
}

/// A number format that does not exist or cannot be computed in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrecisionError {
    /// There is no precision of that name.
    #[error("no precision `{name}`: f32, bf16-mixed, f16-mixed or bf16-true")]
    Unknown {
        /// What was given.
        name: String,
    },
    /// The parameters would be in a format that the device does not have.
    #[error(
        "precision {precision} needs a device with bf16, and {device} has none: use bf16-mixed or f32"
    )]
    Missing {
        /// What was asked for.
        precision: Precision,
        /// The device, as Burn prints it.
        device: String,
    },
}

/// What has a format of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Parameters.
    Parameters,
    /// What the optimiser remembers of them.
    Optimizer,
    /// Gates and decays with their parameters and projections.
    Gates,
    /// The residual stream, with what norms read and write.
    Stream,
    /// Inputs and results of matrix products.
    Products,
    /// What kernels read.
    Kernels,
    /// Feature maps, rotation, statistics of norms, softmax.
    Maps,
    /// What is carried from token to token.
    State,
    /// The loss and the log-probabilities it is made of.
    Loss,
}

/// The table above: formats in the order of [`Precision`].
const TABLE: [(Operation, [FloatDType; 4]); 9] = {
    use FloatDType::{BF16, F16, F32};
    [
        (Operation::Parameters, [F32, F32, F32, BF16]),
        (Operation::Optimizer, [F32, F32, F32, F32]),
        (Operation::Gates, [F32, F32, F32, F32]),
        (Operation::Stream, [F32, F32, F32, BF16]),
        (Operation::Products, [F32, BF16, F16, BF16]),
        (Operation::Kernels, [F32, BF16, F16, BF16]),
        (Operation::Maps, [F32, F32, F32, F32]),
        (Operation::State, [F32, F32, F32, F32]),
        (Operation::Loss, [F32, F32, F32, F32]),
    ]
};

impl Precision {
    /// All of them, as they are written.
    pub const NAMES: [(Precision, &'static str); 4] = [
        (Precision::F32, "f32"),
        (Precision::Bf16Mixed, "bf16-mixed"),
        (Precision::F16Mixed, "f16-mixed"),
        (Precision::Bf16True, "bf16-true"),
    ];

    /// The format of one kind of operation.
    pub fn format(self, operation: Operation) -> FloatDType {
        TABLE[operation as usize].1[self as usize]
    }

    /// The half format it uses, if any.
    pub fn half(self) -> Option<Half> {
        match self.format(Operation::Products) {
            FloatDType::BF16 => Some(Half::Bf16),
            FloatDType::F16 => Some(Half::F16),
            _ => None,
        }
    }

    /// Whether small gradients vanish in it, so that training has to scale the loss.
    pub fn scales_loss(self) -> bool {
        self.half() == Some(Half::F16)
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::NAMES[*self as usize].1)
    }
}

impl FromStr for Precision {
    type Err = PrecisionError;

    fn from_str(name: &str) -> Result<Self, PrecisionError> {
        let found = Self::NAMES.iter().find(|(_, known)| *known == name);
        found
            .map(|(precision, _)| *precision)
            .ok_or_else(|| PrecisionError::Unknown {
                name: name.to_owned(),
            })
    }
}

/// A precision on a device: what the layers ask. Every method leaves an `f32` model as it is.
#[derive(Clone, Copy, Debug)]
pub struct Formats {
    precision: Precision,
    /// The half format, where the device has it, and whether tensors are really in it.
    half: Option<(Half, HalfSupport)>,
    /// Whether products of `f32` are in TF32.
    tf32: bool,
}

impl Formats {
    /// What `precision` comes to on `device`.
    pub fn new(precision: Precision, device: &Device) -> Self {
        let on_device = |half| (half, HalfSupport::of(device, half));
        let half = precision.half().map(on_device);
        Formats {
            precision,
            half: half.filter(|(_, support)| *support != HalfSupport::Missing),
            tf32: accelerator::multiplies_in_tf32(device),
        }
    }

    /// Whether the device can hold the parameters.
    ///
    /// # Errors
    ///
    /// If they are in a format that it does not have.
    pub fn check(&self, device: &Device) -> Result<(), PrecisionError> {
        let parameters = self.precision.format(Operation::Parameters);
        if parameters != FloatDType::F32 && self.half.is_none() {
            return Err(PrecisionError::Missing {
                precision: self.precision,
                device: format!("{device:?}"),
            });
        }
        Ok(())
    }

    /// What a user should know: how the device does it, and what that is good for. `None` where it
    /// does what was asked for.
    pub fn remark(&self) -> Option<String> {
        let precision = self.precision;
        let name = |half| match half {
            Half::Bf16 => "bf16",
            Half::F16 => "f16",
        };
        match (precision.half(), self.half) {
            (None, _) if self.tf32 => Some(format!(
                "{precision}, with matrix products in TF32 (10 bits of fraction) on this device"
            )),
            (None, _) | (_, Some((_, HalfSupport::Native))) => None,
            (Some(half), Some(_)) => Some(format!(
                "{precision} is emulated here: numbers are rounded to {} and multiplied in f32; \
                 the results are those of a device that computes in {0}, time and memory are not",
                name(half)
            )),
            (Some(half), None) => Some(format!(
                "{precision} is f32 here: this device has no {}",
                name(half)
            )),
        }
    }

    /// The precision in a line, with its [`remark`](Self::remark).
    pub fn describe(&self) -> String {
        self.remark().unwrap_or_else(|| self.precision.to_string())
    }

    /// `x` with the values of the half format in it, still in `f32`.
    fn rounded<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        match self.half {
            // What is in half already needs no rounding.
            Some((half, _)) if FloatDType::from(x.dtype()) != half.dtype() => rounded(x, half),
            _ => x.cast(FloatDType::F32),
        }
    }

    /// `x` as matrix products read it.
    pub fn products<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        match self.half {
            Some((half, HalfSupport::Native)) => x.cast(half.dtype()),
            Some(_) => self.rounded(x),
            None => x,
        }
    }

    /// Whether everything is in `f32`.
    pub fn is_single(&self) -> bool {
        self.half.is_none()
    }

    /// `x · y`, both as [`products`](Self::products) gives them, with the result in that format.
    pub fn matmul<const D: usize>(&self, x: Tensor<D>, y: Tensor<D>) -> Tensor<D> {
        let product = x.matmul(y);
        match self.half {
            Some((_, HalfSupport::Widened)) => self.rounded(product),
            _ => product,
        }
    }

    /// `linear(x)`, for `x` as [`products`](Self::products) gives it, with the result in that
    /// format.
    pub fn linear(&self, linear: &Linear, x: Tensor<3>) -> Tensor<3> {
        let Some((_, support)) = self.half else {
            let y = projection::linear(x.clone(), linear.weight.base());
            let y = match &linear.bias {
                Some(bias) => y + bias.val().unsqueeze(),
                None => y,
            };
            return self.adapted(linear, x, y);
        };
        let weight = self.products(linear.weight.base());
        let bias = linear.bias.as_ref().map(|bias| self.products(bias.val()));
        let y = burn::tensor::module::linear(x.clone(), weight, bias);
        let y = match support {
            HalfSupport::Widened => self.rounded(y),
            _ => y,
        };
        self.adapted(linear, x, y)
    }

    /// The projection `y` of `x` with what its adapter adds, if it has one.
    fn adapted(&self, linear: &Linear, x: Tensor<3>, y: Tensor<3>) -> Tensor<3> {
        let Some(adapter) = linear.weight.reparameterization::<Adapter>() else {
            return y;
        };
        let times = |x: Tensor<3>, weight: &Param<Tensor<2>>| match self.half {
            None => projection::linear(x, weight.val()),
            Some(_) => self.matmul(x, self.products(weight.val()).unsqueeze()),
        };
        let x = self.products(adapter.dropout.forward(x));
        let more = times(times(x, &adapter.A), &adapter.B) * adapter.scale;
        self.products(y + more)
    }

    /// [`linear`](Self::linear) by several projections, for `x` in any format: in one operation where the
    /// device has a kernel for it.
    pub fn projections(&self, linears: &[&Linear], x: Tensor<3>) -> Vec<Tensor<3>> {
        match self.half {
            None => {
                let weights = linears.iter().map(|linear| linear.weight.base());
                let all = projection::projections(x.clone(), weights.collect());
                let biased = all.into_iter().zip(linears).map(|(y, linear)| {
                    let bias = linear.bias.as_ref().map(|bias| bias.val().unsqueeze());
                    let y = bias.into_iter().fold(y, |y, bias: Tensor<3>| y + bias);
                    self.adapted(linear, x.clone(), y)
                });
                biased.collect()
            }
            Some(_) => {
                let x = self.products(x);
                let one = |linear: &&Linear| self.linear(linear, x.clone());
                linears.iter().map(one).collect()
            }
        }
    }

    /// The same, and `x` times all of `gates` side by side, in f32 whatever the format is.
    pub fn projections_and(
        &self,
        linears: &[&Linear],
        x: Tensor<3>,
        gates: &[&Linear],
    ) -> (Vec<Tensor<3>>, Tensor<3>) {
        let weights = |linears: &[&Linear]| {
            let each = linears.iter().map(|linear| linear.weight.base());
            each.collect::<Vec<_>>()
        };
        let single = self.single(x.clone());
        if self.half.is_some() {
            let (_, of_gates) =
                projection::projections_and(single.clone(), Vec::new(), weights(gates));
            let of_gates = self.adapted_gates(gates, single, of_gates);
            return (self.projections(linears, x), of_gates);
        }
        let (all, of_gates) = projection::projections_and(x, weights(linears), weights(gates));
        let all = all.into_iter().zip(linears);
        let all = all.map(|(y, linear)| self.adapted(linear, single.clone(), y));
        let all = all.collect();
        (all, self.adapted_gates(gates, single, of_gates))
    }

    /// The results `y` of `gates` for `x`, side by side, with what their adapters add, in f32.
    fn adapted_gates(&self, gates: &[&Linear], x: Tensor<3>, y: Tensor<3>) -> Tensor<3> {
        let adapter = |gate: &Linear| gate.weight.reparameterization::<Adapter>().is_some();
        if !gates.iter().any(|gate| adapter(gate)) {
            return y;
        }
        let single = Formats {
            half: None,
            ..*self
        };
        let mut from = 0;
        let each = gates.iter().map(|gate| {
            let [_, out] = gate.weight.dims();
            let own = y.clone().narrow(2, from, out);
            from += out;
            single.adapted(gate, x.clone(), own)
        });
        Tensor::cat(each.collect(), 2)
    }

    /// `x` as kernels read it: values of their format in an `f32` tensor.
    pub fn kernels<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        match self.half {
            Some(_) => self.rounded(x),
            None => x,
        }
    }

    /// `x` as feature maps, gates and states have it: in `f32`.
    pub fn single<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        x.cast(FloatDType::F32)
    }

    /// `x` as the residual stream and the norms have it.
    pub fn stream<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        x.cast(self.precision.format(Operation::Stream))
    }

    /// `module` with its parameters in their formats.
    pub(crate) fn parameters<M: Module>(&self, module: M) -> M {
        module.map(&mut Cast {
            precision: self.precision,
            path: Vec::new(),
        })
    }
}

/// Puts every parameter in its format.
struct Cast {
    precision: Precision,
    path: Vec<String>,
}

impl ModuleMapper for Cast {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let operation = match ParameterRole::of(&self.path.join(".")) {
            ParameterRole::Gate | ParameterRole::Adapter => Operation::Gates,
            _ => Operation::Parameters,
        };
        let format = self.precision.format(operation);
        if FloatDType::from(param.val().dtype()) == format {
            return param;
        }
        let learned = param.is_require_grad();
        param.map(|tensor| {
            let tensor = tensor.detach().cast(format).detach();
            match tensor.device().is_autodiff() {
                true => tensor.set_require_grad(learned),
                false => tensor,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_operations_and_reads_as_it_is_written() {
        for (row, (operation, _)) in TABLE.iter().enumerate() {
            assert_eq!(*operation as usize, row, "{operation:?}");
        }
        for (row, (precision, name)) in Precision::NAMES.iter().enumerate() {
            assert_eq!(*precision as usize, row);
            assert_eq!(name.parse(), Ok(*precision));
            assert_eq!(precision.to_string(), *name);
            let json = serde_json::to_string(precision).unwrap();
            assert_eq!(json, format!("{name:?}"), "TOML and flags say the same");
        }
        let error = "fp16".parse::<Precision>().unwrap_err().to_string();
        assert!(
            error.contains("fp16") && error.contains("f16-mixed"),
            "{error}"
        );
    }

    #[test]
    fn what_must_never_be_in_half_is_not() {
        for (precision, _) in Precision::NAMES {
            for operation in [
                Operation::Optimizer,
                Operation::Gates,
                Operation::Maps,
                Operation::State,
                Operation::Loss,
            ] {
                assert_eq!(precision.format(operation), FloatDType::F32);
            }
        }
        for mixed in [Precision::Bf16Mixed, Precision::F16Mixed] {
            assert_eq!(mixed.format(Operation::Parameters), FloatDType::F32);
            assert_eq!(mixed.format(Operation::Stream), FloatDType::F32);
            assert_ne!(mixed.format(Operation::Products), FloatDType::F32);
        }
        assert!(Precision::F16Mixed.scales_loss() && !Precision::Bf16Mixed.scales_loss());
    }

    #[test]
    fn flex_says_that_it_emulates() {
        let remark = |precision| Formats::new(precision, &Device::flex()).remark();
        assert_eq!(remark(Precision::F32), None);
        let said = remark(Precision::F16Mixed).unwrap();
        assert!(
            said.contains("f16-mixed is emulated") && said.contains("rounded to f16"),
            "{said}"
        );
    }

    #[test]
    fn what_f32_means_where_products_are_in_tf32_is_said() {
        let mut formats = Formats::new(Precision::F32, &Device::flex());
        assert_eq!(formats.describe(), "f32");
        formats.tf32 = true;
        assert!(formats.describe().contains("products in TF32"));
    }

    #[cfg(feature = "ndarray")]
    #[test]
    fn a_device_without_the_format_says_what_it_does_instead() {
        let device = Device::ndarray();
        let formats = Formats::new(Precision::Bf16Mixed, &device);
        assert!(formats.remark().unwrap().contains("is f32 here"));
        assert_eq!(formats.check(&device), Ok(()));
        let error = Formats::new(Precision::Bf16True, &device).check(&device);
        assert!(matches!(error, Err(PrecisionError::Missing { .. })));
    }
}
