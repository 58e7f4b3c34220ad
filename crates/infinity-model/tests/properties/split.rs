//! 1. Whole = any split with the state carried = token by token.

use crate::answer::{compare_all, random_state, run, same};
use crate::kinds::{Cuts, KINDS, model, tokens};
use crate::{LOGITS, cases};
use infinity_kernels::testing::{Random, Tol, compare};
use infinity_model::ModelState;
use infinity_model::burn::tensor::Device;
use proptest::prelude::*;

/// Worst over 300 random cases on Flex, 2026-11-23: 1.3e-6.
pub(crate) const STATE: Tol = Tol {
    rms_ratio: 1e-5,
    worst_over_rms: 30.0,
    floor: 1e-5,
};
/// Worst over the same cases: 6e-6, and 1.2e-5 once where a key without feature map is all but
/// zero. The floor is a part of the size of all gradients together, see [`compare_all`].
pub(crate) const GRADS: Tol = Tol {
    rms_ratio: 1e-5,
    worst_over_rms: 30.0,
    floor: 1e-5,
};

proptest! {
    #![proptest_config(cases(3))]

    /// Logits, final state, and the gradients of every parameter and of the initial state.
    #[test]
    fn whole_is_any_split_is_token_by_token(
        rows in 1usize..3, len in 2usize..80, seed: u64,
        mut cuts in prop::collection::vec(1usize..80, 1..5),
    ) {
        cuts.sort_unstable();
        let every: Vec<usize> = (1..len).collect();
        for kind in 0..KINDS {
            let (name, model) = model(kind, seed, &Device::flex().autodiff());
            let mut random = Random(seed);
            let tokens = tokens(&mut random, rows, len);
            let start = random_state(&model, rows, seed % 1000, &mut random);
            let whole = run(&model, &tokens, &start, Cuts::carried(&[]), seed);
            for cuts in [&cuts, &every] {
                let parts = run(&model, &tokens, &start, Cuts::carried(cuts), seed);
                let found = same(&parts, &whole, [LOGITS, STATE, GRADS]);
                prop_assert!(found.is_ok(), "{name}, {rows} × {len}, cut at {cuts:?}: {found:?}");
            }
        }
    }
}

/// A state that is lost, cut off from the graph, or at a wrong position is seen.
#[test]
fn a_state_that_is_not_carried_is_caught() {
    let lost: fn(ModelState) -> ModelState = |state| {
        let all = vec![true; state.batch()];
        let position = state.position.clone();
        ModelState {
            position,
            ..state.reset_rows(&all)
        }
    };
    let moved: fn(ModelState) -> ModelState = |mut state| {
        state
            .position
            .iter_mut()
            .for_each(|position| *position += 1);
        state
    };
    let (_, model) = model(0, 3, &Device::flex().autodiff());
    let mut random = Random(3);
    let tokens = tokens(&mut random, 2, 40);
    let start = random_state(&model, 2, 7, &mut random);
    let whole = run(&model, &tokens, &start, Cuts::carried(&[]), 3);
    for (between, logits_differ) in [(lost, true), (moved, true), (ModelState::detach, false)] {
        let cuts = Cuts { at: &[33], between };
        let broken = run(&model, &tokens, &start, cuts, 3);
        assert_eq!(
            compare(&broken.logits, &whole.logits, LOGITS).is_err(),
            logits_differ
        );
        assert!(compare_all(&broken.grads, &whole.grads, GRADS).is_err());
    }
}
