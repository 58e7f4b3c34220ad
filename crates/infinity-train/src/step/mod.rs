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
pub(crate) mod loss;
pub mod loss_scale;
mod segments;
mod trainee;

pub use crate::config::default_segment;
pub use trainee::{LmBatch, LmOutput, Recompute, Trainee};
pub(crate) use trainee::{drops, initialise};

use burn::optim::GradientsParams;
use infinity_kernels::in_pool;
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
        let loss = self.head().learn(hidden, &host.targets, batch.scale);
        Learned {
            loss_sum: loss.sum,
            grads: GradientsParams::from_grads(loss.surrogate.backward(), self),
            state,
        }
    }

    /// The numbers of a batch, without gradients.
    pub(crate) fn evaluate(&self, batch: LmBatch) -> LmOutput {
        let (model, host) = (&self.model, &batch.host);
        in_pool(&model.device(), || {
            let tokens = batch.tokens(0, host.len, &model.device());
            let start = batch.start(model);
            let (hidden, state) = model.forward_packed(tokens, start, &host.borders, &mut |_| ());
            LmOutput {
                loss_sum: self.head().sum(hidden, &host.targets),
                n_tokens: host.valid,
                grad_norm: None,
                state: Some(state),
            }
        })
    }
}
