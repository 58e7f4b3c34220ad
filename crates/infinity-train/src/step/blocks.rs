//! Recomputing whole blocks.
//!
//! The first pass keeps what every block reads, `[B, T, D]` and a state, and nothing of what it
//! computes. Then, from the last block to the first, a block is computed again with a graph, and
//! the gradient `d_y` of its output is taken through it as that of `⟨y, d_y⟩`. One block's
//! activations exist at a time; the price is a second forward pass.
//!
//! The embedding comes last. If the head is tied to it, its gradient is the sum of both.

use super::loss::training_loss;
use super::{Draws, Learned, LmBatch, Trainee, untracked};
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{Gradients, Int, Tensor};
use infinity_model::block::Block;
use infinity_model::layer::{Layer, Pass as Shared};
use infinity_model::{LayerState, ModelState};

/// What a block reads, outside any graph.
struct Input {
    x: Tensor<3>,
    state: LayerState,
}

/// One step on its way.
struct Pass<'a> {
    trainee: &'a Trainee,
    batch: &'a LmBatch,
    shared: Shared,
    draws: Draws,
    grads: GradientsAccumulator<Trainee>,
}

pub(super) fn learn(trainee: &Trainee, batch: &LmBatch) -> Learned {
    let model = &trainee.model;
    let start = batch.start(model);
    let (len, position) = (batch.host.len, start.position_after(batch.host.len));
    let mut pass = Pass {
        trainee,
        batch,
        shared: model.pass(&start.position, len),
        draws: Draws::new(model, batch.seed),
        grads: GradientsAccumulator::new(),
    };
    let tokens = batch.tokens(0, len, &model.device().inner());
    let (mut inputs, last, layers) = pass.forward(tokens.clone(), start);
    let (loss_sum, mut d_x) = pass.head(last);
    for (i, block) in model.blocks().iter().enumerate().rev() {
        let input = inputs.pop().expect("an input for every block");
        d_x = pass.block(i, block, input, d_x);
    }
    pass.embedding(tokens, d_x);
    Learned {
        loss_sum,
        grads: pass.grads.grads(),
        state: ModelState { layers, position },
    }
}

impl Pass<'_> {
    /// What every block reads, what the last one returns, and the states after them.
    fn forward(
        &self,
        tokens: Tensor<2, Int>,
        start: ModelState,
    ) -> (Vec<Input>, Tensor<3>, Vec<LayerState>) {
        let model = untracked(&self.trainee.model);
        self.draws.before(0, 0);
        let mut x = model.embed(tokens).inner();
        let (mut inputs, mut layers) = (Vec::new(), Vec::new());
        for (i, (block, state)) in model.blocks().iter().zip(start.layers).enumerate() {
            inputs.push(Input {
                x: x.clone(),
                state: state.clone(),
            });
            self.draws.before(0, i + 1);
            let input = Tensor::from_inner(x).into();
            let (output, after) = block.forward_in(input, &self.shared, state);
            x = output.x.inner();
            layers.push(after.detach().compact());
        }
        (inputs, x, layers)
    }

    /// The loss of what the last block returned, and its gradient.
    fn head(&mut self, x: Tensor<3>) -> (f64, Tensor<3>) {
        let (trainee, batch) = (self.trainee, self.batch);
        let x = Tensor::from_inner(x).require_grad();
        let loss = training_loss(
            trainee.model.final_norm(x.clone()),
            trainee.model.output_weight(),
            &batch.host.targets,
            batch.scale,
            trainee.loss_chunk,
            trainee.model.formats(),
        );
        let gradients = loss.surrogate.backward();
        (loss.sum, self.learned(gradients, x))
    }

    /// The gradient of what block `i` read, given that of what it returned.
    fn block(&mut self, i: usize, block: &Block, input: Input, d_y: Tensor<3>) -> Tensor<3> {
        let x = Tensor::from_inner(input.x).require_grad();
        self.draws.before(0, i + 1);
        let (output, _) = block.forward_in(x.clone().into(), &self.shared, input.state);
        let gradients = (output.x * d_y).sum().backward();
        self.learned(gradients, x)
    }

    fn embedding(&mut self, tokens: Tensor<2, Int>, d_x: Tensor<3>) {
        self.draws.before(0, 0);
        let x = self.trainee.model.embed(tokens);
        let mut gradients = (x * d_x).sum().backward();
        let grads = GradientsParams::from_module(&mut gradients, self.trainee);
        self.grads.accumulate(self.trainee, grads);
    }

    /// Adds up what the parameters get and returns what the leaf `x` gets.
    fn learned(&mut self, mut gradients: Gradients, x: Tensor<3>) -> Tensor<3> {
        let grads = GradientsParams::from_module(&mut gradients, self.trainee);
        self.grads.accumulate(self.trainee, grads);
        let d_x = x.grad_remove(&mut gradients);
        d_x.expect("everything depends on what is read")
    }
}
