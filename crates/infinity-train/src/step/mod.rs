//! One step of learning: a batch in, gradients and numbers out.
//!
//! Loss and gradients are the same whichever way a step takes; the ways differ in what they keep
//! for the backward pass and what they compute again.
//!
//! | file | keeps |
//! |---|---|
//! | here | everything |
//! | `blocks.rs` | what every block reads |
//! | `segments.rs` | the state at every border between segments of the sequence |

mod blocks;
pub mod loss;
pub mod loss_scale;
mod segments;
mod trainee;

pub use crate::config::default_segment;
pub use trainee::{LmBatch, LmOutput, Recompute, Trainee};
pub(crate) use trainee::{drops, initialise};

use burn::optim::GradientsParams;
use infinity_kernels::in_pool;
use loss::{evaluation_loss, training_loss};
use trainee::{Draws, Learned};

impl Trainee {
    /// The numbers and the gradients of a training batch.
    pub fn learn(&self, batch: LmBatch) -> (LmOutput, GradientsParams) {
        let learned = in_pool(&self.model.device(), || match self.recompute {
            Recompute::Blocks => blocks::learn(self, &batch),
            Recompute::Segments(len) if len < batch.host.len => {
                segments::learn(self, &batch, len.max(1))
            }
            Recompute::Segments(_) | Recompute::Nothing => self.learn_whole(&batch),
        });
        let output = LmOutput {
            loss_sum: learned.loss_sum,
            n_tokens: batch.host.valid,
            grad_norm: None,
            state: Some(learned.state.detach().compact()),
        };
        (output, learned.grads)
    }

    /// The whole batch in one graph: nothing is computed twice.
    fn learn_whole(&self, batch: &LmBatch) -> Learned {
        let (model, host) = (&self.model, &batch.host);
        let draws = Draws::new(model, batch.seed);
        let (hidden, state) = model.forward_packed(
            batch.tokens(0, host.len, &model.device().inner()),
            batch.start(model),
            &host.borders,
            &mut |part| draws.before(0, part),
        );
        let loss = training_loss(
            hidden,
            model.output_weight(),
            &host.targets,
            batch.scale,
            self.loss_chunk,
            model.formats(),
            model.output_learns(),
        );
        let mut gradients = loss.surrogate.backward();
        Learned {
            loss_sum: loss.sum,
            grads: GradientsParams::from_module(&mut gradients, self),
            state,
        }
    }

    /// The numbers of a batch, without gradients.
    pub(crate) fn evaluate(&self, batch: LmBatch) -> LmOutput {
        in_pool(&self.model.device(), || {
            let model = &self.model;
            let tokens = batch.tokens(0, batch.host.len, &model.device());
            let borders = &batch.host.borders;
            let (hidden, state) =
                model.forward_packed(tokens, batch.start(model), borders, &mut |_| ());
            let (weight, formats) = (model.output_weight(), model.formats());
            LmOutput {
                loss_sum: evaluation_loss(
                    hidden,
                    weight,
                    &batch.host.targets,
                    self.loss_chunk,
                    formats,
                ),
                n_tokens: batch.host.valid,
                grad_norm: None,
                state: Some(state),
            }
        })
    }
}
