//! Recomputing along the sequence.
//!
//! The first pass reads the sequence segment by segment and keeps the state at every border. Then,
//! from the last segment to the first, a segment is computed again with a graph whose leaf is the
//! state it starts from. Through it goes the gradient of its own loss and of what it leaves behind,
//!
//! ```text
//! loss(segment) + ⟨state after it, d_state⟩
//! ```
//!
//! and the gradient that arrives at the leaf is the `d_state` of the segment before. That is the
//! whole gradient, truncated nowhere, with the activations of one segment and `T / segment` states
//! in memory: for a segment of about √T tokens both grow with √T.

use super::trainee::{Draws, Learned, LmBatch, Trainee, untracked};
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::Tensor;
use infinity_model::{InfinityModel, ModelState};

struct Pass<'a> {
    trainee: &'a Trainee,
    batch: &'a LmBatch,
    segment: usize,
    draws: Draws,
}

pub(super) fn learn(trainee: &Trainee, batch: &LmBatch, segment: usize) -> Learned {
    let pass = Pass {
        trainee,
        batch,
        segment,
        draws: Draws::new(&trainee.model, batch.seed),
    };
    let mut starts = pass.borders();
    let mut grads = GradientsAccumulator::new();
    let (mut loss_sum, mut last, mut d_state) = (0.0, None, None);
    while let Some(start) = starts.pop() {
        let (learned, d_start) = pass.segment(starts.len(), start, d_state.take());
        loss_sum += learned.loss_sum;
        grads.accumulate(trainee, learned.grads);
        d_state = Some(d_start);
        last.get_or_insert_with(|| learned.state.compact());
    }
    Learned {
        loss_sum,
        grads: grads.grads(),
        state: last.expect("at least one segment"),
    }
}

impl Pass<'_> {
    fn range(&self, i: usize) -> (usize, usize) {
        let from = i * self.segment;
        (from, self.batch.host.len.min(from + self.segment))
    }

    fn forward(
        &self,
        model: &InfinityModel,
        i: usize,
        start: ModelState,
    ) -> (Tensor<3>, ModelState) {
        let (from, to) = self.range(i);
        let tokens = self.batch.tokens(from, to, &model.device().inner());
        let borders = self.batch.host.borders.narrow(from, to);
        let before = &mut |part| self.draws.before(i, part);
        model.forward_packed(tokens, start, &borders, before)
    }

    /// The state that every segment starts from.
    fn borders(&self) -> Vec<ModelState> {
        let model = untracked(&self.trainee.model);
        let count = self.batch.host.len.div_ceil(self.segment);
        let mut starts = vec![self.batch.start(&self.trainee.model)];
        for i in 1..count {
            let (_, state) = self.forward(&model, i - 1, starts[i - 1].clone());
            starts.push(state.detach().compact());
        }
        starts
    }

    /// What segment `i` gives and the gradient of the state it started from, given that of the state
    /// after it; the last one has none.
    fn segment(
        &self,
        i: usize,
        start: ModelState,
        d_end: Option<ModelState>,
    ) -> (Learned, ModelState) {
        let (trainee, host) = (self.trainee, &self.batch.host);
        let start = start.track();
        let (hidden, end) = self.forward(&trainee.model, i, start.clone());
        let (from, to) = self.range(i);
        let targets = host.columns(&host.targets, from, to);
        let loss = trainee.head().learn(hidden, &targets, self.batch.scale);
        let surrogate = match d_end.and_then(|d_end| end.inner_product(&d_end)) {
            Some(onward) => loss.surrogate + onward,
            None => loss.surrogate,
        };
        let mut gradients = surrogate.backward();
        let learned = Learned {
            loss_sum: loss.sum,
            grads: GradientsParams::from_module(&mut gradients, trainee),
            state: end.detach(),
        };
        (learned, start.take_gradients(&mut gradients))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::HostBatch;
    use burn::tensor::Device;
    use infinity_kernels::testing::values;
    use infinity_model::{LayerState, ModelConfig};

    /// Both passes drop the same numbers: what the second leaves at a border is what the first did.
    #[test]
    fn both_passes_meet_at_every_border() {
        let config = ModelConfig {
            vocab_size: 7,
            hidden_size: 16,
            num_attention_heads: 2,
            hidden_dropout_prob: 0.2,
            ..ModelConfig::first()
        };
        let trainee = Trainee::new(config.init(&Device::flex().autodiff()), 0);
        let ids: Vec<i32> = (0..2 * 24).map(|i| i * i % 7).collect();
        let batch = LmBatch {
            seed: Some(3),
            ..LmBatch::alone(HostBatch {
                targets: ids.clone(),
                inputs: ids,
                rows: 2,
                len: 24,
                carry: vec![None; 2],
                valid: 48,
                borders: Default::default(),
            })
        };
        let pass = Pass {
            trainee: &trainee,
            batch: &batch,
            segment: 9,
            draws: Draws::new(&trainee.model, batch.seed),
        };
        let memory = |state: &ModelState| match &state.layers[1] {
            LayerState::Infinity { memory, .. } => values(memory.clone()),
            LayerState::Softmax { .. } => unreachable!("the default mixer"),
        };
        let starts = pass.borders();
        let end = |i: usize| memory(&pass.segment(i, starts[i].clone(), None).0.state);
        assert_eq!(end(0), memory(&starts[1]));
        assert_eq!(end(1), memory(&starts[2]));
        // Another place of the sequence drops others.
        let elsewhere = pass.segment(1, starts[0].clone(), None).0.state;
        assert_ne!(memory(&elsewhere), memory(&starts[1]));
    }
}
