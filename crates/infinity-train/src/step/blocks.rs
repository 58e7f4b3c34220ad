//! Recomputing whole blocks.
//!
//! The first pass keeps what every block reads, `[B, T, D]` and a state (and once what the first
//! block leaves for all), and nothing of what it computes. Then, from the last block to the first, a block is computed again with a graph, and
//! the gradient `d_y` of its output is taken through it as that of `⟨y, d_y⟩`. One block's
//! activations exist at a time; the price is a second forward pass.
//!
//! The embedding comes last. If the head is tied to it, its gradient is the sum of both.

use super::trainee::{Draws, Learned, LmBatch, Trainee, untracked};
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{Gradients, Int, Tensor};
use infinity_model::block::Block;
use infinity_model::layer::{Layer, Pass as Shared, Stream};
use infinity_model::{LayerState, ModelState};

/// What a block reads, outside any graph.
type Input = (Stream, LayerState);

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
    let (len, borders) = (batch.host.len, &batch.host.borders);
    let position = start.position_after(len, borders);
    let mut pass = Pass {
        trainee,
        batch,
        shared: model.pass(&start.position, len, borders),
        draws: Draws::new(model, batch.seed),
        grads: GradientsAccumulator::new(),
    };
    let tokens = batch.tokens(0, len, &model.device().inner());
    let (mut inputs, last, layers) = pass.forward(tokens.clone(), start);
    let (loss_sum, mut d) = pass.head(last);
    for (i, block) in model.blocks().iter().enumerate().rev() {
        let input = inputs.pop().expect("an input for every block");
        d = pass.block(i, block, input, &d);
    }
    pass.embedding(tokens, d.x);
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
        let mut stream = Stream::from(model.embed(tokens).inner());
        let (mut inputs, mut layers) = (Vec::new(), Vec::new());
        for (i, (block, state)) in model.blocks().iter().zip(start.layers).enumerate() {
            inputs.push((stream.clone(), state.clone()));
            self.draws.before(0, i + 1);
            let input = stream.map(Tensor::from_inner);
            let (output, after) = block.forward_in(input, &self.shared, state);
            stream = output.map(Tensor::inner);
            layers.push(after.detach().compact());
        }
        (inputs, stream.x, layers)
    }

    /// The loss of what the last block returned, and its gradient.
    fn head(&mut self, x: Tensor<3>) -> (f64, Stream) {
        let (trainee, batch) = (self.trainee, self.batch);
        let read = leaves(x.into());
        let hidden = trainee.model.final_norm(read.x.clone());
        let loss = (trainee.head()).learn(hidden, &batch.host.targets, batch.scale);
        let gradients = loss.surrogate.backward();
        (loss.sum, self.learned(gradients, &read))
    }

    /// The gradient of what block `i` read, given that of what it returned. What the first block
    /// leaves for all is returned as it was read: its gradients add up on the way.
    fn block(&mut self, i: usize, block: &Block, (stream, state): Input, d: &Stream) -> Stream {
        let read = leaves(stream);
        self.draws.before(0, i + 1);
        let (output, _) = block.forward_in(read.clone(), &self.shared, state);
        let gradients = output.inner_product(d).backward();
        self.learned(gradients, &read)
    }

    fn embedding(&mut self, tokens: Tensor<2, Int>, d_x: Tensor<3>) {
        // Nothing learns there.
        if self.trainee.model.lora().is_some() {
            return;
        }
        self.draws.before(0, 0);
        let x = self.trainee.model.embed(tokens);
        let grads = GradientsParams::from_grads((x * d_x).sum().backward(), self.trainee);
        self.grads.accumulate(self.trainee, grads);
    }

    /// Adds up what the parameters get and returns what the leaves `read` get.
    fn learned(&mut self, mut gradients: Gradients, read: &Stream) -> Stream {
        let grads = GradientsParams::from_module(&mut gradients, self.trainee);
        self.grads.accumulate(self.trainee, grads);
        read.take_gradients(&mut gradients)
    }
}

/// What is read, with a gradient of its own.
fn leaves(read: Stream) -> Stream {
    read.map(|x| Tensor::from_inner(x).require_grad())
}
