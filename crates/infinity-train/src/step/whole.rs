//! The whole batch in one graph: nothing is computed twice.

use super::draws::Draws;
use super::{Learned, LmBatch, Trainee};
use crate::loss::training_loss;
use burn::optim::GradientsParams;

pub(super) fn learn(trainee: &Trainee, batch: &LmBatch) -> Learned {
    let (model, host) = (&trainee.model, &batch.host);
    let device = model.device().inner();
    let draws = Draws::new(model, batch.seed);
    let (hidden, state) = model.forward_hidden_with(
        batch.tokens(0, host.len, &device),
        batch.start(model),
        &mut |part| draws.before(0, part),
    );
    let weight = model.output_weight();
    let loss = training_loss(
        hidden,
        weight,
        &host.targets,
        batch.scale,
        trainee.loss_chunk,
        model.formats(),
    );
    let mut gradients = loss.surrogate.backward();
    Learned {
        loss_sum: loss.sum,
        grads: GradientsParams::from_module(&mut gradients, trainee),
        state,
    }
}
