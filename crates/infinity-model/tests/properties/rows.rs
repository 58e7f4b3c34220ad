//! 2. The future does not change the past. 3. Rows do not see each other.

use crate::answer::{random_state, run};
use crate::kinds::{Cuts, KINDS, VOCABULARY, model, read, read_from, tokens};
use crate::{LOGITS, another, as_f64, cases, on_flex};
use infinity_kernels::testing::{Random, compare};
use infinity_model::burn::tensor::{Device, Tensor};
use infinity_model::{KvCache, LayerState};
use proptest::prelude::*;

/// The first position of `row` whose logits are not the same bits.
fn first_change(a: &[f32], b: &[f32], rows: usize, row: usize) -> Option<usize> {
    let width = a.len() / rows;
    let bits = |x: &[f32]| {
        x[row * width..(row + 1) * width]
            .iter()
            .map(|x| x.to_bits())
            .collect()
    };
    let (a, b): (Vec<u32>, Vec<u32>) = (bits(a), bits(b));
    let mut both = a.chunks(VOCABULARY).zip(b.chunks(VOCABULARY));
    both.position(|(a, b)| a != b)
}

proptest! {
    #![proptest_config(cases(6))]

    /// 2. Changing token t leaves every earlier logit as it was, bit by bit, in the chunk form,
    /// across chunks, and in pieces.
    #[test]
    fn the_future_does_not_change_the_past(
        rows in 1usize..3, len in 1usize..80, at in 0usize..80, cut in 1usize..80, seed: u64,
    ) {
        let at = at % len;
        for kind in 0..KINDS {
            let (name, model) = on_flex(kind, seed);
            let tokens = tokens(&mut Random(seed), rows, len);
            let mut changed = tokens.clone();
            changed[at] = another(tokens[at]);
            for cuts in [&[][..], &[cut]] {
                let (before, _) = read_from(&model, &tokens, model.initial_state(rows), cuts);
                let (after, _) = read_from(&model, &changed, model.initial_state(rows), cuts);
                prop_assert_eq!(first_change(&before, &after, rows, 0), Some(at), "{}", name);
            }
            // Read from the end, it is the past that changes.
            let reversed = |tokens: &[i32]| {
                let tokens: Vec<i32> = tokens[..len].iter().rev().copied().collect();
                let logits = read(&model, &tokens, 1);
                logits.chunks(VOCABULARY).rev().flatten().copied().collect::<Vec<f32>>()
            };
            prop_assert_eq!(first_change(&reversed(&tokens), &reversed(&changed), 1, 0), Some(0));
        }
    }

    /// 3. Rows do not see each other, nor what is to their right.
    #[test]
    fn a_row_depends_on_itself_alone(len in 1usize..50, padding in 1usize..40, seed: u64) {
        for kind in 0..KINDS {
            let (name, model) = on_flex(kind, seed);
            let mut random = Random(seed);
            let tokens = tokens(&mut random, 3, len);
            let others = crate::kinds::tokens(&mut random, 3, len + padding);
            let together = read(&model, &tokens, 3);
            let neighbours = [&tokens[..len], &others[..2 * len]].concat();
            prop_assert_eq!(first_change(&together, &read(&model, &neighbours, 3), 3, 0), None, "{}", name);
            prop_assert_ne!(first_change(&together, &read(&model, &neighbours, 3), 3, 1), None, "{}", name);

            // Alone or padded, products have other sizes, and may be summed in another order.
            let expected = as_f64(&together[..len * VOCABULARY]);
            let alone = read(&model, &tokens[..len], 1);
            let close = compare(&as_f64(&alone), &expected, LOGITS);
            prop_assert!(close.is_ok(), "{name}, alone: {close:?}");
            let padded = [&tokens[..len], &others[..padding]].concat();
            let padded = read(&model, &padded, 1);
            let close = compare(&as_f64(&padded[..len * VOCABULARY]), &expected, LOGITS);
            prop_assert!(close.is_ok(), "{name}, padded: {close:?}");
            let padded = [&tokens[..len], &others[padding..2 * padding]].concat();
            let again = read(&model, &padded, 1);
            let again = &again[..len * VOCABULARY];
            let close = compare(&as_f64(again), &expected, LOGITS);
            prop_assert!(close.is_ok(), "{name}, padded otherwise: {close:?}");
            // One token to the left would be seen.
            let mut wrong = tokens[..len].to_vec();
            wrong[0] = another(wrong[0]);
            let wrong = read(&model, &wrong, 1);
            prop_assert!(compare(&as_f64(&wrong), &expected, LOGITS).is_err(), "{name}");
        }
    }
}

/// The tensor with NaN in its second row.
fn lost<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let [first, second] = [0, 1].map(|row| x.clone().narrow(0, row, 1));
    Tensor::cat(vec![first, second * f32::NAN], 0)
}

/// 3. NaN in one row's state, and forgetting one row, touch no other row.
#[test]
fn a_row_that_is_lost_or_reset_does_not_touch_its_neighbours() {
    for kind in 0..KINDS {
        let (name, model) = on_flex(kind, 9);
        let tokens = tokens(&mut Random(9), 2, 80);
        let (first, rest) = (tokens[..40].to_vec(), &tokens[40..]);
        for half in [2, 20] {
            let (first, rest) = (&first[..2 * half], &rest[..2 * half]);
            let (_, state) = read_from(&model, first, model.initial_state(2), &[]);
            let (clean, _) = read_from(&model, rest, state.clone(), &[]);
            let mut poisoned = state.clone();
            for layer in &mut poisoned.layers {
                match layer {
                    LayerState::Infinity { memory, .. } => *memory = lost(memory.clone()),
                    LayerState::Softmax { cache } => {
                        let [keys, values] = cache.filled().expect("something was read");
                        *cache = KvCache::new(lost(keys), lost(values), vec![0; 2]);
                    }
                }
            }
            let (bad, _) = read_from(&model, rest, poisoned.clone(), &[]);
            assert_eq!(first_change(&clean, &bad, 2, 0), None, "{name}");
            assert!(
                bad[half * VOCABULARY..].iter().all(|x| x.is_nan()),
                "{name}"
            );

            let reset = poisoned.reset_rows(&[false, true]);
            assert_eq!(reset.position, [half as u64, 0], "{name}");
            let (again, _) = read_from(&model, rest, reset, &[]);
            assert_eq!(first_change(&clean, &again, 2, 0), None, "{name}");
            let fresh = read(&model, &rest[half..], 1);
            let actual = as_f64(&again[half * VOCABULARY..]);
            compare(&actual, &as_f64(&fresh), LOGITS).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
    }
}

/// 3. The gradient of a row's initial state does not depend on its neighbour.
#[test]
fn gradients_stay_in_their_row() {
    for kind in 0..KINDS {
        let (name, model) = model(kind, 4, &Device::flex().autodiff());
        let mut random = Random(4);
        let tokens = tokens(&mut random, 2, 35);
        let start = random_state(&model, 2, 0, &mut random);
        let mut changed = tokens.clone();
        changed[35..]
            .iter_mut()
            .for_each(|token| *token = another(*token));
        let grads = |tokens: &[i32]| {
            let mut grads = run(&model, tokens, &start, Cuts::carried(&[]), 4).grads;
            grads.retain(|(name, _)| name.starts_with("layer "));
            grads
        };
        for ((tensor, before), (_, after)) in grads(&tokens).iter().zip(grads(&changed)) {
            let half = before.len() / 2;
            assert_eq!(before[..half], after[..half], "{name}: {tensor}");
            assert_ne!(before[half..], after[half..], "{name}: {tensor}");
        }
    }
}
