//! The loss over a split is the loss of its text.

use crate::{TOL, VOCABULARY, trainee};
use infinity_kernels::testing::{Random, assert_close, compare};
use infinity_model::ModelConfig;
use infinity_model::burn::module::Module;
use infinity_model::burn::tensor::{Device, Int, Tensor, TensorData};
use infinity_train::data::{EvalSource, TokenStore};
use infinity_train::evaluate;
use infinity_train::step::Trainee;

/// Loss in nats of every target of `tokens`, by scalar `f64` loops over one whole forward.
fn whole_sequence(trainee: &Trainee, tokens: &[u32]) -> f64 {
    let model = trainee.model.clone().valid();
    let ids: Vec<i32> = tokens[..tokens.len() - 1]
        .iter()
        .map(|id| *id as i32)
        .collect();
    let len = ids.len();
    let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [1, len]), &Device::flex());
    let (logits, _) = model.forward(ids, model.initial_state(1));
    let logits = infinity_kernels::testing::values(logits);
    let of = |(logits, target): (&[f64], &u32)| {
        logits.iter().map(|x| x.exp()).sum::<f64>().ln() - logits[*target as usize]
    };
    logits.chunks(VOCABULARY).zip(&tokens[1..]).map(of).sum()
}

#[test]
fn evaluation_counts_every_target_once() {
    let model = ModelConfig {
        initializer_range: 0.5,
        ..crate::common::model()
    };
    let trainee = trainee(&model);
    for len in [33usize, 64, 65, 150] {
        let ids = Random(len as u64).values(len, 0.0, VOCABULARY as f64);
        let tokens: Vec<u32> = ids.iter().map(|x| *x as u32).collect();
        let store = TokenStore::from_documents(std::slice::from_ref(&tokens));
        let report = |rows, carry, chunk| {
            let source = EvalSource::new(store.clone(), rows, 16, carry).unwrap();
            evaluate(&trainee.model, &source, chunk).unwrap()
        };
        let targets = len - 1;
        let expected = whole_sequence(&trainee, &tokens) / targets as f64;
        for chunk in [0, 1, 7] {
            let carried = report(1, true, chunk);
            assert_close("evaluation", "carried", &[carried.loss], &[expected], TOL);
            assert_eq!(
                (carried.tokens, carried.bytes),
                (targets as u64, targets as u64)
            );
            let bits = carried.loss / std::f64::consts::LN_2;
            assert_close("evaluation", "bits", &[carried.bits_per_byte], &[bits], TOL);
            assert_close(
                "evaluation",
                "perplexity",
                &[carried.perplexity],
                &[carried.loss.exp()],
                TOL,
            );
        }
        // Without carrying, every window is a text of its own, however many are read at once.
        let windows = (0..targets).step_by(16);
        let windows = windows.map(|at| whole_sequence(&trainee, &tokens[at..len.min(at + 17)]));
        let alone = windows.sum::<f64>() / targets as f64;
        for rows in [1, 2, 3, 8] {
            let found = report(rows, false, 0);
            assert_close("evaluation", "windows", &[found.loss], &[alone], TOL);
            assert_eq!(found.tokens, targets as u64, "{rows} rows");
            assert_eq!(
                report(rows, true, 0).tokens,
                targets as u64,
                "{rows} rows, carried"
            );
        }
        assert!(
            compare(&[alone], &[expected], TOL).is_err(),
            "the memory matters"
        );
    }
}
