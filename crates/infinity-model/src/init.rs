//! Starting values, drawn on the host: one seed gives the same model on every backend.

use burn::module::{Param, ParamId};
use burn::nn::{Dropout, DropoutConfig, Linear, RmsNorm, RmsNormConfig};
use burn::tensor::{Device, Tensor, TensorData};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Draws parameters in the order they are asked for.
pub(crate) struct Init<'a> {
    /// None: parameters get their places and no values, for a model that is loaded.
    rng: Option<StdRng>,
    device: &'a Device,
    /// Which layer is being made; a layer alone is the first.
    pub(crate) layer: usize,
    /// Standard deviation of ordinary weights.
    std: f64,
}

impl<'a> Init<'a> {
    pub(crate) fn new(seed: u64, std: f64, device: &'a Device) -> Self {
        Init {
            rng: Some(StdRng::seed_from_u64(seed)),
            device,
            layer: 0,
            std,
        }
    }

    /// Makes parameters that hold no values, and take no memory, until they are given some.
    pub(crate) fn unfilled(device: &'a Device) -> Self {
        Init {
            rng: None,
            ..Init::new(0, 0.0, device)
        }
    }

    /// `len` values, each by `draw`; none where parameters stay unfilled.
    fn draw(&mut self, len: usize, draw: impl Fn(&mut StdRng) -> f64) -> Vec<f32> {
        match &mut self.rng {
            Some(rng) => (0..len).map(|_| draw(rng) as f32).collect(),
            None => Vec::new(),
        }
    }

    /// A parameter with given values, which go unused where parameters stay unfilled.
    pub(crate) fn values<const D: usize>(
        &self,
        values: Vec<f32>,
        dims: [usize; D],
    ) -> Param<Tensor<D>> {
        if self.rng.is_none() {
            let zeros = move |device: &Device, tracked: bool| {
                let zeros = Tensor::zeros(dims, device);
                if tracked { zeros.require_grad() } else { zeros }
            };
            let device = self.device.clone();
            return Param::uninitialized(ParamId::new(), zeros, device, true, dims.into());
        }
        let values = TensorData::new(values, dims);
        Param::from_tensor(Tensor::from_data(values, self.device))
    }

    /// Ordinary weights, N(0, std²).
    pub(crate) fn weights<const D: usize>(&mut self, dims: [usize; D]) -> Param<Tensor<D>> {
        let std = self.std;
        self.scaled(dims, std)
    }

    fn scaled<const D: usize>(&mut self, dims: [usize; D], std: f64) -> Param<Tensor<D>> {
        let values = self.draw(dims.iter().product(), |rng| normal(rng) * std);
        self.values(values, dims)
    }

    /// Vectors of unit length in any direction.
    pub(crate) fn directions(&mut self, [h, s, k]: [usize; 3]) -> Param<Tensor<3>> {
        let mut values = self.draw(h * s * k, normal);
        for row in values.chunks_mut(k) {
            let length = row.iter().map(|x| x * x).sum::<f32>().sqrt();
            row.iter_mut().for_each(|x| *x /= length);
        }
        self.values(values, [h, s, k])
    }

    /// A projection without bias.
    pub(crate) fn linear(&mut self, from: usize, to: usize) -> Linear {
        Linear {
            weight: self.weights([from, to]),
            bias: None,
        }
    }

    /// A projection with a bias that is the same everywhere, if one is given.
    pub(crate) fn linear_biased(&mut self, from: usize, to: usize, bias: Option<f64>) -> Linear {
        Linear {
            bias: bias.map(|bias| self.values(vec![bias as f32; to], [to])),
            ..self.linear(from, to)
        }
    }

    /// A projection back into the residual stream: smaller by √(2L), so that the stream's variance
    /// does not grow with the number of layers (GPT-2).
    pub(crate) fn residual_out(
        &mut self,
        [from, to]: [usize; 2],
        n_layers: usize,
        biased: bool,
    ) -> Linear {
        let std = self.std / (2.0 * n_layers as f64).sqrt();
        Linear {
            weight: self.scaled([from, to], std),
            bias: biased.then(|| self.values(vec![0.0; to], [to])),
        }
    }

    /// Taps of a depthwise convolution `[channels, 1, kernel]`, uniform as PyTorch's.
    pub(crate) fn conv(&mut self, channels: usize, kernel: usize) -> Param<Tensor<3>> {
        let bound = (kernel as f64).powf(-0.5);
        let uniform = |rng: &mut StdRng| (2.0 * rng.random::<f64>() - 1.0) * bound;
        let values = self.draw(channels * kernel, uniform);
        self.values(values, [channels, 1, kernel])
    }

    pub(crate) fn norm(&self, width: usize, eps: f64) -> RmsNorm {
        RmsNormConfig::new(width)
            .with_epsilon(eps)
            .init(self.device)
    }

    pub(crate) fn dropout(&self, prob: f64) -> Dropout {
        DropoutConfig::new(prob).init()
    }
}

/// Standard normal, by Box and Muller.
fn normal(rng: &mut StdRng) -> f64 {
    let (u, v): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}
