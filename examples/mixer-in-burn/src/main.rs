//! One `InfinityMixer` in a model of its own: an echo that repeats a signal three steps later.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use burn::nn::{Linear, LinearConfig};
use burn::{optim::AdamWConfig, optim::GradientsParams, prelude::*, tensor::Distribution};
use infinity_model::prelude::*;

#[derive(Module, Debug)]
struct Echo {
    hear: Linear,
    mixer: InfinityMixer,
    say: Linear,
}

impl Echo {
    // A window `[B, T, 1]` of a signal, after what `state` has heard; below, one value of it.
    fn forward(&self, x: Tensor<3>, state: Option<ModelState>) -> (Tensor<3>, ModelState) {
        let (y, state) = self.mixer.forward(self.hear.forward(x), state);
        (self.say.forward(y), state)
    }
    fn step(&self, x: Tensor<2>, state: Option<ModelState>) -> (Tensor<2>, ModelState) {
        let (y, state) = self.mixer.step(self.hear.forward(x), state);
        (self.say.forward(y), state)
    }
}

/// Trains on windows of a signal, the state carried from each to the next: model and last loss.
fn train(steps: usize, device: &Device) -> (Echo, f32) {
    let mut model = Echo {
        hear: LinearConfig::new(1, 32).init(device),
        mixer: InfinityMixerConfig::new(32, 2).init(device),
        say: LinearConfig::new(32, 1).init(device),
    };
    let (mut optimizer, mut state, mut loss) = (AdamWConfig::new().init(), None, f32::NAN);
    let mut heard = Tensor::zeros([16, 3, 1], device);
    for _ in 0..steps {
        let x = Tensor::random([16, 32, 1], Distribution::Uniform(-1.0, 1.0), device);
        let signal = Tensor::cat(vec![heard, x.clone()], 1);
        let (y, next) = model.forward(x, state);
        let error = (y - signal.clone().narrow(1, 0, 32)).square().mean();
        let gradients = GradientsParams::from_grads(error.backward(), &model);
        model = optimizer.step(1e-2, model, gradients);
        (state, heard) = (Some(next.detach()), signal.narrow(1, 32, 3));
        loss = error.into_scalar();
    }
    (model, loss)
}

fn main() {
    let (model, loss) = train(150, &Device::flex().autodiff());
    println!("mean squared error {loss:.4}; silence has 0.33");
    let (model, mut state) = (model.valid(), None);
    for x in [0.5, 0.0, 0.0, 0.0, 0.0] {
        let (y, next) = model.step(Tensor::from_floats([[x]], &Device::flex()), state);
        println!("{x} → {:.2}", y.into_scalar::<f32>());
        state = Some(next);
    }
}
#[cfg(test)]
mod tests;
