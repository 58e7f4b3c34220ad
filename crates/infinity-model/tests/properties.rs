//! What must always hold, whatever the model, the text and the cut: randomised, on Flex.
//!
//! Every test also breaks one answer on purpose and sees that it would be caught.

mod common;

use common::{
    Answer, KINDS, VOCABULARY, assert_same, count_different, ids, kinds, model, random_state, read,
    run, state_values, tokens,
};
use infinity_kernels::testing::{Random, Tol, assert_close, compare, values};
use infinity_model::burn::tensor::{Device, Int, Tensor};
use infinity_model::config::Mixer;
use infinity_model::count::state_bytes;
use infinity_model::{InfinityModel, LayerState, ModelConfig, ModelState};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

const LOGITS: Tol = Tol {
    rms_ratio: 1e-5,
    worst_over_rms: 30.0,
    floor: 1e-9,
};
const STATE: Tol = Tol {
    rms_ratio: 1e-5,
    worst_over_rms: 30.0,
    floor: 1e-9,
};
const GRADS: Tol = Tol {
    rms_ratio: 1e-5,
    worst_over_rms: 30.0,
    floor: 1e-9,
};

/// The same cases every time: a test that fails fails again.
fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig {
        rng_seed: RngSeed::Fixed(1),
        failure_persistence: None,
        ..ProptestConfig::with_cases(cases)
    }
}

fn trained_on_device() -> Device {
    Device::flex().autodiff()
}

proptest! {
    #![proptest_config(cases(std::env::var("CASES").map_or(24, |n| n.parse().unwrap())))]

    /// 1. Whole = any split with the state carried = token by token.
    #[test]
    fn whole_is_any_split_is_token_by_token(
        kind in 0..KINDS, rows in 1usize..3, len in 2usize..70,
        cuts in prop::collection::vec(1usize..69, 1..5), seed: u64,
    ) {
        let (name, model) = model(kind, seed, &trained_on_device());
        let mut random = Random(seed);
        let tokens = tokens(&mut random, rows, len);
        let start = random_state(&model, rows, seed % 1000, &mut random);
        let mut cuts = cuts;
        cuts.sort_unstable();
        let whole = run(&model, &tokens, &start, &[], seed);
        let split = run(&model, &tokens, &start, &cuts, seed);
        let case = format!("{name}, {rows} × {len}, cut at {cuts:?}");
        let tol = [LOGITS, STATE, GRADS];
        let a = assert_same(&case, &split, &whole, tol);
        let every: Vec<usize> = (1..len).collect();
        let stepwise = run(&model, &tokens, &start, &every, seed);
        let b = assert_same(&format!("{case}, stepwise"), &stepwise, &whole, tol);
        println!("{case}: {a:.1e?} {b:.1e?}");
    }
}
