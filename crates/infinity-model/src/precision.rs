//! Which number format every kind of operation computes in: the whole policy, in one table.
//!
//! | what | `f32` | `bf16-mixed` | `f16-mixed` | `bf16-true` | `bf16-weights` |
//! |---|---|---|---|---|---|
//! | matrices: projections and the embedding | f32 | f32 | f32 | bf16 | bf16 |
//! | other parameters | f32 | f32 | f32 | bf16 | f32 |
//! | optimiser state, and its steps | f32 | f32 | f32 | f32 | f32 |
//! | gates and decays: parameters, projections, values; adapters' parameters | f32 | f32 | f32 | f32 | f32 |
//! | residual stream, norms' inputs and outputs | f32 | f32 | f32 | bf16 | f32 |
//! | inputs and results of matrix products | f32 | bf16 | f16 | bf16 | f32 |
//! | inputs of kernels: q, k, v, convolution, SwiGLU | f32 | bf16 | f16 | bf16 | f32 |
//! | feature maps, rotation, norms' statistics, softmax | f32 | f32 | f32 | f32 | f32 |
//! | carried state | f32 | f32 | f32 | f32 | f32 |
//! | loss | f32 | f32 | f32 | f32 | f32 |
//!
//! `bf16-weights` is `f32` with matrices of half the bytes, for models whose weights are stored in bf16 already: on the
//! CPU they are widened in registers, and decoding gives the bits that `f32` gives with the same weights. Nothing learns
//! in it but what is beside them.
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
//! the device has them. On the CPU it rounds its factors itself, and multiplies them in bf16 where the
//! processor can ([`projection::projections_rounded`]).

use crate::adapter::Adapter;
use crate::config::choice;
use crate::parameters::ParameterRole;
use burn::module::{Module, ModuleMapper, Param};
use burn::nn::Linear;
use burn::tensor::{Device, FloatDType, Tensor};
use infinity_kernels::accelerator;
use infinity_kernels::linear as projection;
use infinity_kernels::rounding::{Half, HalfSupport, Rounding, cpu_multiplies, rounded};

choice! {
    /// Number formats of parameters and arithmetic. A choice of the moment, like the device: it is not
    /// part of a model's files.
    #[derive(Default)]
    Precision, key = "precision",
    {
        /// Everything in 32-bit floats.
        #[default]
        F32 = "f32",
        /// Matrix products and kernels in bf16, the rest in f32.
        Bf16Mixed = "bf16-mixed",
        /// Matrix products and kernels in f16, the rest in f32; training scales the loss.
        F16Mixed = "f16-mixed",
        /// Everything in bf16 but gates, state, loss and what the optimiser remembers.
        Bf16True = "bf16-true",
        /// Matrices kept in bf16, everything computed in f32.
        Bf16Weights = "bf16-weights",
    }
}

/// The parameters would be in a format that the device does not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("precision {precision} needs a device with bf16, and {device} has none: use f32")]
pub struct PrecisionError {
    /// What was asked for.
    pub precision: Precision,
    /// The device, as Burn prints it.
    pub device: String,
}

/// What has a format of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Matrices: projections and the embedding.
    Matrices,
    /// Other parameters.
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

impl Precision {
    /// The format of one kind of operation.
    pub fn format(self, operation: Operation) -> FloatDType {
        use FloatDType::{BF16, F16, F32};
        // The table above, in the order of the precisions.
        let row = match operation {
            Operation::Matrices => [F32, F32, F32, BF16, BF16],
            Operation::Parameters | Operation::Stream => [F32, F32, F32, BF16, F32],
            Operation::Products | Operation::Kernels => [F32, BF16, F16, BF16, F32],
            Operation::Optimizer
            | Operation::Gates
            | Operation::Maps
            | Operation::State
            | Operation::Loss => [F32; 5],
        };
        row[self as usize]
    }

    /// The half format it uses, if any.
    pub fn half(self) -> Option<Half> {
        match self.format(Operation::Products) {
            FloatDType::BF16 => Some(Half::Bf16),
            FloatDType::F16 => Some(Half::F16),
            _ => None,
        }
    }

    /// The format of the parameter at `path`, of `rank` dimensions.
    pub(crate) fn parameter(self, path: &str, rank: usize) -> FloatDType {
        let matrix = |segment: &str| ["embed_tokens", "lm_head"].contains(&segment);
        self.format(match ParameterRole::of(path) {
            ParameterRole::Gate | ParameterRole::Adapter => Operation::Gates,
            ParameterRole::Matrix => Operation::Matrices,
            _ if rank == 2 && path.split('.').any(matrix) => Operation::Matrices,
            _ => Operation::Parameters,
        })
    }

    /// Whether small gradients vanish in it, so that training has to scale the loss.
    pub fn scales_loss(self) -> bool {
        self.half() == Some(Half::F16)
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
    /// If they are in a format that it does not have.
    pub fn check(&self, device: &Device) -> Result<(), PrecisionError> {
        let matrices = self.precision.format(Operation::Matrices);
        let missing = || HalfSupport::of(device, Half::Bf16) == HalfSupport::Missing;
        if matrices != FloatDType::F32 && missing() {
            return Err(PrecisionError {
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
        let Some(half) = precision.half() else {
            let products = "with matrix products in TF32 (10 bits of fraction) on this device";
            return self.tf32.then(|| format!("{precision}, {products}"));
        };
        let name = match half {
            Half::Bf16 => "bf16",
            Half::F16 => "f16",
        };
        match self.half {
            Some((_, HalfSupport::Native)) => None,
            Some(_) if cpu_multiplies(half) => {
                Some(format!("{precision}, with matrix products in {name}"))
            }
            Some(_) => Some(format!(
                "{precision} is emulated here: numbers are rounded to {name} and multiplied in f32; \
                 the results are those of a device that computes in {name}, time and memory are not"
            )),
            None => Some(format!(
                "{precision} is f32 here: this device has no {name}"
            )),
        }
    }

    /// The precision in a line, with its [`remark`](Self::remark).
    pub fn describe(&self) -> String {
        self.remark().unwrap_or_else(|| self.precision.to_string())
    }

    /// `x` as matrix products read it: in half where the device multiplies that. The CPU's products round what they read.
    pub fn products<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        match self.half {
            Some((half, HalfSupport::Native)) => x.cast(half.dtype()),
            Some(_) => x.cast(FloatDType::F32),
            None => x,
        }
    }

    /// Whether everything is in `f32`.
    pub fn is_single(&self) -> bool {
        self.half.is_none()
    }

    /// How the CPU's products round what they multiply, and perhaps what comes of it; `None` where they do not.
    fn rounds(&self, results: bool) -> Option<Rounding> {
        match self.half {
            Some((half, HalfSupport::Widened)) => Some(Rounding { half, results }),
            _ => None,
        }
    }

    /// `x` `[N, D]` times a matrix `[D, M]`, both as [`products`](Self::products) gives them, with the result in that format.
    /// A matrix of the model may be in bf16 where `x` is in f32.
    pub fn matmul(&self, x: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
        match self.rounds(true) {
            Some(rounding) => rounded_product(x, weight, rounding),
            None if x.dtype() == weight.dtype() => x.matmul(weight),
            None => projection::linear(x.unsqueeze(), weight).squeeze_dim(0),
        }
    }

    /// [`matmul`](Self::matmul) with the result in f32, which the CPU then does not round.
    pub fn matmul_to_single(&self, x: Tensor<2>, y: Tensor<2>) -> Tensor<2> {
        match self.rounds(false) {
            Some(rounding) => rounded_product(x, y, rounding),
            None => self.single(x.matmul(y)),
        }
    }

    /// `x` `[B, T, D]` times each of `weights` `[D, M]`, in any format, with results in that of products.
    pub(crate) fn multiply(&self, x: Tensor<3>, weights: Vec<Tensor<2>>) -> Vec<Tensor<3>> {
        match (self.half, self.rounds(true)) {
            (None, _) => projection::projections(x, weights),
            (_, Some(rounding)) => projection::projections_rounded(x, weights, rounding),
            (Some((half, _)), None) => {
                let x = x.cast(half.dtype());
                let one = |weight: Tensor<2>| {
                    burn::tensor::module::linear(x.clone(), weight.cast(half.dtype()), None)
                };
                weights.into_iter().map(one).collect()
            }
        }
    }

    /// `linear(x)` for `x` in any format, with the result in that of products.
    pub fn linear(&self, linear: &Linear, x: Tensor<3>) -> Tensor<3> {
        let mut y = self.projections(&[linear], x);
        y.pop().expect("one projection, one result")
    }

    /// The projections `all` of `x` with their biases and what their adapters add, where they have them.
    fn completed(&self, linears: &[&Linear], x: &Tensor<3>, all: Vec<Tensor<3>>) -> Vec<Tensor<3>> {
        let each = all.into_iter().zip(linears).map(|(y, linear)| {
            let y = match &linear.bias {
                Some(bias) => self.in_half(y + self.in_half(bias.val()).unsqueeze()),
                None => y,
            };
            self.adapted(linear, x, y)
        });
        each.collect()
    }

    /// The projection `y` of `x` with what its adapter adds, if it has one.
    fn adapted(&self, linear: &Linear, x: &Tensor<3>, y: Tensor<3>) -> Tensor<3> {
        let Some(adapter) = linear.weight.reparameterization::<Adapter>() else {
            return y;
        };
        let times = |x, weight: &Param<Tensor<2>>| self.multiply(x, vec![weight.val()]).remove(0);
        let x = adapter.dropout.forward(self.products(x.clone()));
        let more = times(times(x, &adapter.A), &adapter.B) * adapter.scale;
        self.in_half(y + more)
    }

    /// `x` in the format of products, which kernels that take half formats read as it is.
    pub fn in_half<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        match self.half {
            Some((half, HalfSupport::Native)) => x.cast(half.dtype()),
            _ => self.kernels(x),
        }
    }

    /// [`linear`](Self::linear) by several projections: in one operation where the device has a kernel for it.
    pub fn projections(&self, linears: &[&Linear], x: Tensor<3>) -> Vec<Tensor<3>> {
        let all = self.multiply(x.clone(), weights(linears));
        self.completed(linears, &x, all)
    }

    /// The same, and `x` times all of `gates` side by side, in f32 whatever the format is.
    pub fn projections_and(
        &self,
        linears: &[&Linear],
        x: Tensor<3>,
        gates: &[&Linear],
    ) -> (Vec<Tensor<3>>, Tensor<3>) {
        let single = self.single(x.clone());
        let (all, of_gates) = if self.is_single() {
            let (all, of_gates) = projection::projections_and(x, weights(linears), weights(gates));
            (self.completed(linears, &single, all), of_gates)
        } else {
            let read = single.clone();
            let (_, of_gates) = projection::projections_and(read, Vec::new(), weights(gates));
            (self.projections(linears, x), of_gates)
        };
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
            single.adapted(gate, &x, own)
        });
        Tensor::cat(each.collect(), 2)
    }

    /// `x` as kernels read it: values of their format in an `f32` tensor.
    pub fn kernels<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        match self.half {
            // What is in half already needs no rounding.
            Some((half, _)) if FloatDType::from(x.dtype()) != half.dtype() => rounded(x, half),
            Some(_) => self.single(x),
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

fn weights(linears: &[&Linear]) -> Vec<Tensor<2>> {
    let each = linears.iter().map(|linear| linear.weight.base());
    each.collect()
}

fn rounded_product(x: Tensor<2>, y: Tensor<2>, rounding: Rounding) -> Tensor<2> {
    let mut all = projection::projections_rounded(x.unsqueeze(), vec![y], rounding);
    all.pop().expect("one product").squeeze_dim(0)
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
        let format = self.precision.parameter(&self.path.join("."), D);
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
    fn precisions_are_in_the_order_of_the_table_and_read_as_they_are_written() {
        assert_eq!(Precision::default(), Precision::F32);
        for (row, precision) in Precision::ALL.iter().enumerate() {
            let name = precision.as_str();
            assert_eq!(*precision as usize, row);
            assert_eq!(name.parse(), Ok(*precision));
            assert_eq!(precision.to_string(), name);
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
        for precision in Precision::ALL {
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
        let weights = Precision::Bf16Weights;
        assert_eq!(weights.half(), None, "it computes in f32");
        for (path, rank, format) in [
            ("layers.0.mlp.up_proj.weight", 2, FloatDType::BF16),
            ("layers.0.mlp.up_proj.bias", 1, FloatDType::F32),
            ("model.embed_tokens.weight", 2, FloatDType::BF16),
            ("lm_head.weight", 2, FloatDType::BF16),
            ("model.norm.weight", 1, FloatDType::F32),
            ("layers.0.mixer.gates.beta_proj.weight", 2, FloatDType::F32),
            ("layers.0.mixer.q_conv1d.weight", 3, FloatDType::F32),
        ] {
            assert_eq!(weights.parameter(path, rank), format, "{path}");
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
        assert!(error.is_err());
    }
}
