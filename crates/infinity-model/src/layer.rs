//! What every layer is to its neighbours: a stream and a state in, a stream and a state out.
//!
//! A layer alone, inside any Burn model, is called with [`forward`](Layer::forward) and
//! [`step`](Layer::step). Several layers that read the same tokens share what depends on the
//! positions alone: a model makes one [`Pass`] and hands it to [`forward_in`](Layer::forward_in) of
//! each.

use crate::config::ModelConfig;
use crate::init::Init;
use crate::precision::{Formats, Precision};
use crate::state::{LayerState, ModelState, Stateful};
use burn::module::{Module, Param};
use burn::tensor::{Device, Distribution, Gradients, Tensor};
use infinity_kernels::borders::Borders;
use infinity_kernels::rotary::Rotary;
use infinity_kernels::{Form, MemoryScanInputs, in_pool};
use std::sync::{Arc, Mutex, PoisonError};

/// What flows from layer to layer. What a configuration's residuals do not need is not there.
///
/// ```
/// # use infinity_model::burn::tensor::{Device, Tensor};
/// # use infinity_model::layer::Stream;
/// let stream = Stream::from(Tensor::<3>::zeros([2, 5, 16], &Device::flex()));
/// assert_eq!(stream.x.dims(), [2, 5, 16]);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Stream {
    /// The residual stream, or what a layer makes of it, `[B, T, D]`.
    pub x: Tensor<3>,
    /// What the first block read, `[B, T, D]`: for `input_residual`, after the first block.
    pub input: Option<Tensor<3>>,
    /// The values of the first mixer, `[B, T, H·V]` in f32: for `value_residual`, after it.
    pub values: Option<Tensor<3>>,
}

impl From<Tensor<3>> for Stream {
    fn from(x: Tensor<3>) -> Self {
        Stream {
            x,
            input: None,
            values: None,
        }
    }
}

impl Stream {
    /// Every tensor through `change`.
    pub fn map(self, mut change: impl FnMut(Tensor<3>) -> Tensor<3>) -> Self {
        Stream {
            x: change(self.x),
            input: self.input.map(&mut change),
            values: self.values.map(&mut change),
        }
    }

    /// The sum over all numbers of the products with `other`'s, `[1]`: a scalar whose gradient is
    /// `other`. A tensor that only one of them has counts nothing.
    pub fn inner_product(&self, other: &Self) -> Tensor<1> {
        let rest = [(&self.input, &other.input), (&self.values, &other.values)];
        let rest = rest.into_iter().filter_map(|pair| match pair {
            (Some(a), Some(b)) => Some((a.clone() * b.clone()).sum()),
            _ => None,
        });
        rest.fold((self.x.clone() * other.x.clone()).sum(), Tensor::add)
    }

    /// The gradients of a stream of leaves, outside any graph.
    ///
    /// # Panics
    /// If nothing depends on one of them.
    pub fn take_gradients(&self, gradients: &mut Gradients) -> Self {
        self.clone().map(|leaf| {
            let gradient = leaf.grad_remove(gradients);
            gradient.expect("everything depends on what is read")
        })
    }
}

/// What a layer after the first adds to its own from the first one, by two learned scalars:
/// `λ₁ · own + λ₂ · first`.
#[derive(Module, Debug)]
pub struct Residual {
    /// `[λ₁, λ₂]`.
    scales: Param<Tensor<1>>,
}

impl Residual {
    /// Where the scalars start: a fresh model is the one without.
    const START: [f32; 2] = [1.0, 0.0];

    /// The one of the layer that `init` is at, if the configuration has it: the first layer has
    /// nobody before it.
    pub(crate) fn new(wanted: bool, init: &Init) -> Option<Self> {
        (wanted && init.layer > 0).then(|| Residual {
            scales: init.values(Self::START.to_vec(), [2]),
        })
    }

    /// Both in f32.
    pub(crate) fn add<const D: usize>(&self, own: Tensor<D>, first: Tensor<D>) -> Tensor<D> {
        let scale = |i| self.scales.val().narrow(0, i, 1).reshape([1; D]);
        own * scale(0) + first * scale(1)
    }
}

/// Adds the first layer's `values` `[B, T, H·V]` to a layer's own `v` `[B, T, H, V]`, both in f32
/// (ResFormer, arXiv:2410.17897), and returns those that later layers add: the first layer's.
pub(crate) fn first_values(
    residual: &Option<Residual>,
    config: &ModelConfig,
    v: &mut Tensor<4>,
    values: Option<Tensor<3>>,
) -> Option<Tensor<3>> {
    match (residual, &values) {
        (Some(residual), Some(first)) => {
            let first = heads(first.clone(), v.dims()[2]);
            *v = residual.add(v.clone(), first);
        }
        (None, None) if config.value_residual => return Some(v.clone().flatten(2, 3)),
        _ => {}
    }
    values
}

/// What the layers of one forward pass share: rotary tables of the positions that are read, the
/// form of `memory_scan`, the number formats, and where documents begin.
#[derive(Clone, Debug)]
pub struct Pass {
    /// Of linear layers.
    pub(crate) rotary: Rotary,
    /// Of full layers.
    pub(crate) attention_rotary: Rotary,
    pub(crate) form: Form,
    pub(crate) formats: Formats,
    pub(crate) tap: Option<Tap>,
    pub(crate) borders: Borders,
}

/// Where a memory leaves a copy of what it reads, for whoever looks at a layer from beside it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tap(Arc<Mutex<Option<MemoryScanInputs>>>);

impl Tap {
    pub(crate) fn put(&self, inputs: &MemoryScanInputs) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(inputs.clone());
    }

    pub(crate) fn take(&self) -> Option<MemoryScanInputs> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Pass {
    /// A pass of layers of `config` that reads `t` tokens of every row from `position` on, where documents have these
    /// `borders`, in f32 and the fastest form that `device` has.
    ///
    /// # Panics
    /// If there are no rows, or `borders` of others.
    pub fn new(
        config: &ModelConfig,
        position: &[u64],
        t: usize,
        borders: &Borders,
        device: &Device,
    ) -> Self {
        // One table where one is enough.
        let made = |dims| Rotary::packed(position, t, borders, dims, device);
        let [linear, full] = [config.rotary_dims(), config.attention_rotary_dims()];
        let rotary = made(if config.has_linear_layers() {
            linear
        } else {
            full
        });
        let apart = config.has_linear_layers() && config.has_attention_layers() && linear != full;
        Pass {
            attention_rotary: if apart { made(full) } else { rotary.clone() },
            rotary,
            form: Form::choose(t, device),
            formats: Formats::new(Precision::F32, device),
            tap: None,
            borders: borders.clone(),
        }
    }

    /// The same pass with a place where memories leave what they read.
    pub(crate) fn with_tap(self, tap: &Tap) -> Self {
        let tap = Some(tap.clone());
        Pass { tap, ..self }
    }

    /// The same pass in other number formats. The layers' parameters have the formats that these
    /// need, as in [`InfinityModel::with_precision`](crate::InfinityModel::with_precision).
    pub fn with_formats(self, formats: Formats) -> Self {
        Pass { formats, ..self }
    }
}

/// A layer with a state: a mixer, or a whole block.
///
/// ```
/// use infinity_model::burn::tensor::{Device, Distribution, Tensor};
/// use infinity_model::prelude::*;
///
/// let device = Device::flex();
/// let mixer = InfinityMixerConfig::new(32, 2).with_num_memory_scales(2).init(&device);
/// let x = Tensor::<3>::random([1, 7, 32], Distribution::Default, &device);
/// let (y, state) = mixer.forward(x, None);
/// assert_eq!((y.dims(), &state.position[..]), ([1, 7, 32], &[7][..]));
/// let (y, state) = mixer.step(Tensor::zeros([1, 32], &device), state);
/// assert_eq!((y.dims(), &state.position[..]), ([1, 32], &[8][..]));
/// ```
pub trait Layer: Stateful + Sync {
    /// Reads `input` in a `pass` that it shares with other layers, and goes on from `state`.
    ///
    /// # Panics
    /// If `state` is of another kind of layer, or `pass` of other sizes.
    fn forward_in(&self, input: Stream, pass: &Pass, state: LayerState) -> (Stream, LayerState);

    /// `[B, T, D]` → `[B, T, D]`: reads `x` after what `state` has read, or from the start.
    ///
    /// # Panics
    /// If `state` has another number of rows than `x`, or is of another kind of layer.
    fn forward(
        &self,
        x: Tensor<3>,
        state: impl Into<Option<ModelState>>,
    ) -> (Tensor<3>, ModelState) {
        let [b, t, _] = x.dims();
        let device = x.device().inner();
        let fresh = || ModelState::initial(self.config(), self.num_layers(), b, &device);
        let state = state.into().unwrap_or_else(fresh);
        assert_eq!(b, state.batch(), "one row of state for each row of x");
        let borders = Borders::default();
        let position = state.position_after(t, &borders);
        let pass = Pass::new(self.config(), &state.position, t, &borders, &device);
        let [layer] = <[LayerState; 1]>::try_from(state.layers).expect("the state of one layer");
        let (y, layer) = self.forward_in(x.into(), &pass, layer);
        let layers = vec![layer];
        (y.x, ModelState { layers, position })
    }

    /// `[B, D]` → `[B, D]`: [`forward`](Self::forward) for one token a row.
    ///
    /// # Panics
    /// As [`forward`](Self::forward).
    fn step(&self, x: Tensor<2>, state: impl Into<Option<ModelState>>) -> (Tensor<2>, ModelState) {
        let ([b, d], state) = (x.dims(), state.into());
        let device = x.device();
        let (y, state) = in_pool(&device, || self.forward(x.reshape([b, 1, d]), state));
        (y.reshape([b, d]), state)
    }
}

/// `[B, T, H·X]` → `[B, T, H, X]`.
pub(crate) fn heads(x: Tensor<3>, n_heads: usize) -> Tensor<4> {
    let [b, t, width] = x.dims();
    x.reshape([b, t, n_heads, width / n_heads])
}

/// A seed out of the generator of `device`: what [`Device::seed`] decides.
pub fn drawn_seed(device: &Device) -> u64 {
    let all = Distribution::Uniform(0.0, f64::from(1 << 24));
    let drawn = Tensor::<1>::random([1], all, &device.clone().inner());
    drawn.into_scalar::<f32>() as u64
}

/// Declares the configuration of a part that can be had alone: what it needs, and the settings of
/// [`ModelConfig`] that mean something to it, with their names and defaults.
macro_rules! layer_config {
    (
        $(#[doc = $doc:literal])+
        $name:ident => $layer:ty, needs $($needed:ident),+;
        set { $($key:ident: $type:ty),* $(,)? }
        fixed { $($fixed:ident: $value:expr),* $(,)? }
    ) => {
        $(#[doc = $doc])+
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name($crate::config::ModelConfig);

        impl $name {
            #[doc = "The default one; the arguments are [`ModelConfig`](crate::ModelConfig)'s keys."]
            pub fn new($($needed: usize),+) -> Self {
                // Alone, it is the only layer that writes to its stream.
                $name($crate::config::ModelConfig {
                    num_hidden_layers: 1,
                    $($needed,)+
                    $($fixed: $value,)*
                    ..Default::default()
                })
            }

            pastey::paste! {$(
                #[doc = "Sets [`" $key "`](crate::ModelConfig#structfield." $key ")."]
                pub fn [<with_ $key>](self, $key: $type) -> Self {
                    $name($crate::config::ModelConfig { $key, ..self.0 })
                }
            )*}

            /// A layer with fresh parameters on `device`, drawn from the device's generator. For
            /// training, `device` has autodiff.
            ///
            /// # Panics
            /// If a setting is out of range; the message names it.
            pub fn init(&self, device: &burn::tensor::Device) -> $layer {
                self.init_seeded($crate::layer::drawn_seed(device), device)
            }

            /// A layer with fresh parameters drawn from `seed`: the same ones on every backend.
            ///
            /// # Panics
            /// As [`init`](Self::init).
            pub fn init_seeded(&self, seed: u64, device: &burn::tensor::Device) -> $layer {
                if let Err(error) = self.0.validate_without_vocab() {
                    panic!("{error}");
                }
                let mut init = $crate::init::Init::new(seed, self.0.initializer_range, device);
                <$layer>::new(&self.0, &mut init)
            }
        }
    };
}
pub(crate) use layer_config;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::BlockConfig;
    use crate::config::Mixer;
    use crate::mixer::{InfinityMixerConfig, SoftmaxMixerConfig};
    use infinity_kernels::testing::{Tol, compare, values};

    const TOL: Tol = Tol {
        rms_ratio: 1e-5,
        worst_over_rms: 30.0,
        floor: 1e-6,
    };

    fn noise(dims: [usize; 3], device: &Device) -> Tensor<3> {
        device.seed(5);
        Tensor::random(dims, Distribution::Default, device)
    }

    /// At once, in two pieces, and step by step.
    fn check(layer: &impl Layer) {
        let device = Device::flex();
        let x = noise([2, 9, 16], &device);
        let (whole, after) = layer.forward(x.clone(), None);
        let (first, state) = layer.forward(x.clone().narrow(1, 0, 4), layer.initial_state(2));
        let (second, _) = layer.forward(x.clone().narrow(1, 4, 5), state);
        let pieces = Tensor::cat(vec![first, second], 1);
        let (mut state, mut steps) = (None, Vec::new());
        for t in 0..9 {
            let token = x.clone().narrow(1, t, 1).reshape([2, 16]);
            let (y, next) = layer.step(token, state);
            state = Some(next);
            steps.push(y.reshape([2, 1, 16]));
        }
        let expected = values(whole);
        for found in [pieces, Tensor::cat(steps, 1)] {
            compare(&values(found), &expected, TOL).unwrap();
        }
        assert_eq!(after.position, [9, 9]);
        // A cache has room behind it.
        assert_eq!(state.unwrap().compact().bytes(), after.bytes());
        let other = values(layer.forward(x * 0.5, None).0);
        assert!(
            compare(&other, &expected, TOL).is_err(),
            "other input is seen"
        );
    }

    #[test]
    fn alone_every_layer_goes_on_from_its_state() {
        let device = Device::flex();
        check(&InfinityMixerConfig::new(16, 2).init(&device));
        check(&SoftmaxMixerConfig::new(16, 2).init(&device));
        check(&BlockConfig::new(16, 2).init(&device));
        check(
            &BlockConfig::new(16, 2)
                .with_mixer(Mixer::Softmax)
                .init(&device),
        );
    }

    /// Blocks alone, one after the other, compute what the model's blocks do in one pass.
    #[test]
    fn layers_alone_compute_what_they_do_in_a_model() {
        let config = ModelConfig::first()
            .with_vocab_size(11)
            .with_hidden_size(16)
            .with_num_attention_heads(2);
        let model = config.init(&Device::flex());
        let x = noise([2, 9, 16], &model.device());
        let pass = model.pass(&[0, 0], 9, &Borders::default());
        let (mut stream, mut alone) = (Stream::from(x.clone()), x);
        for (block, state) in model.blocks().iter().zip(model.initial_state(2).layers) {
            stream = block.forward_in(stream, &pass, state).0;
            alone = block.forward(alone, None).0;
        }
        assert_eq!(values(stream.x), values(alone));
    }

    #[test]
    fn a_layer_learns_and_two_of_them_start_differently() {
        let device = Device::flex().autodiff();
        let config = InfinityMixerConfig::new(16, 2);
        let mixer = config.init(&device);
        let x = noise([1, 5, 16], &device).require_grad();
        let (y, _) = mixer.forward(x.clone(), None);
        let gradients = y.square().sum().backward();
        let d_x = values(x.grad(&gradients).expect("everything depends on x"));
        assert!(d_x.iter().any(|g| *g != 0.0));
        let output = |mixer: crate::mixer::InfinityMixer| values(mixer.forward(x.clone(), None).0);
        assert_ne!(output(config.init(&device)), output(config.init(&device)));
        let seeded = || output(config.init_seeded(3, &device));
        assert_eq!(seeded(), seeded());
    }

    #[test]
    #[should_panic(expected = "model.hidden_size = 15 is not divisible")]
    fn sizes_that_do_not_fit_are_named() {
        InfinityMixerConfig::new(15, 2).init(&Device::flex());
    }
}
