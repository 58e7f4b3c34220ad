//! The loss along a stream is the loss of its tokens, behind all of it or behind a part.

use crate::{TOL, VOCABULARY, trainee};
use infinity_kernels::testing::{Random, assert_close, compare, values};
use infinity_model::burn::module::Module;
use infinity_model::burn::tensor::{Device, Int, Tensor, TensorData};
use infinity_model::config::Mixer;
use infinity_model::{InfinityModel, ModelConfig};
use infinity_train::data::TokenStore;
use infinity_train::{StreamOptions, evaluate_stream};

const CONTEXT: usize = 12;
const SPAN: usize = 5;

/// Loss in nats of every token of `ids` but the first, by scalar `f64` loops over one forward.
fn losses(model: &InfinityModel, ids: &[u32]) -> Vec<f64> {
    let inputs: Vec<i32> = ids[..ids.len() - 1].iter().map(|id| *id as i32).collect();
    let shape = [1, inputs.len()];
    let inputs = Tensor::<2, Int>::from_data(TensorData::new(inputs, shape), &Device::flex());
    let (logits, _) = model.forward(inputs, model.initial_state(1));
    let of = |(logits, target): (&[f64], &u32)| {
        logits.iter().map(|x| x.exp()).sum::<f64>().ln() - logits[*target as usize]
    };
    let logits = values(logits);
    logits.chunks(VOCABULARY).zip(&ids[1..]).map(of).collect()
}

fn mean(losses: &[f64]) -> f64 {
    losses.iter().sum::<f64>() / losses.len() as f64
}

#[test]
fn a_stream_is_compared_token_by_token_with_a_limited_context() {
    for mixer in [Mixer::Infinity, Mixer::Softmax] {
        let model = trainee(&ModelConfig {
            initializer_range: 0.5,
            mixer,
            ..crate::common::model()
        });
        let model = model.model.valid();
        let ids: Vec<u32> = Random(9)
            .values(101, 0.0, VOCABULARY as f64)
            .iter()
            .map(|x| *x as u32)
            .collect();
        let whole = losses(&model, &ids);
        for (window, rows) in [(7, 3), (64, 1), (1, 20)] {
            let options = StreamOptions {
                tokens: 0,
                bins: 4,
                context: CONTEXT,
                span: SPAN,
                spans_per_bin: 0,
                window,
                rows,
                loss_chunk: 4,
            };
            let text = TokenStore::from_documents(std::slice::from_ref(&ids));
            let mut told = Vec::new();
            let report =
                evaluate_stream(&model, &text, &options, &mut |n, of| told.push((n, of))).unwrap();
            assert!(told.is_sorted() && told.last().is_some_and(|(n, of)| n == of));
            assert_eq!(report.tokens, 101);
            for bin in &report.bins {
                let at = |position: u64| position as usize - 1;
                let range = at(bin.positions.start)..at(bin.positions.end);
                assert_close("stream", "bin", &[bin.loss], &[mean(&whole[range])], TOL);
                let found = bin.compared.unwrap();
                let first = (bin.positions.start as usize).max(CONTEXT);
                let spans = (bin.positions.end as usize - first) / SPAN;
                assert_eq!(found.tokens as usize, spans * SPAN);
                let limited = |context: usize| -> Vec<f64> {
                    let starts = (0..spans).map(|i| first + i * SPAN);
                    starts
                        .flat_map(|at| {
                            losses(&model, &ids[at - context..at + SPAN])[context - 1..].to_vec()
                        })
                        .collect()
                };
                let all = mean(&whole[first - 1..first - 1 + spans * SPAN]);
                assert_close("stream", "whole", &[found.stream], &[all], TOL);
                let expected = mean(&limited(CONTEXT));
                assert_close("stream", "limited", &[found.limited], &[expected], TOL);
                let off = mean(&limited(CONTEXT - 1));
                assert!(
                    compare(&[found.limited], &[off], TOL).is_err(),
                    "a context that is one token shorter would be seen"
                );
            }
        }
    }
}
