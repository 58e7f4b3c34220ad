//! Documents that stand in one row are each alone.

use crate::LOGITS;
use crate::answer::{gradients, random_state, same};
use crate::cases;
use crate::kinds::{KINDS, ids, kinds, model, tokens};
use crate::split::{GRADS, STATE};
use infinity_kernels::testing::{Random, compare, values};
use infinity_model::burn::tensor::{Device, Tensor};
use infinity_model::{Borders, InfinityModel, LayerState, ModelState};
use proptest::prelude::*;

/// Logits and the state after every row's last document, by one document after the other.
fn one_by_one(
    model: &InfinityModel,
    tokens: &[i32],
    start: &ModelState,
    borders: &Borders,
) -> (Tensor<3>, ModelState) {
    let rows = start.batch();
    let (all, len) = (ids(tokens, rows), tokens.len() / rows);
    let (mut logits, mut ends) = (Vec::new(), Vec::new());
    for row in 0..rows {
        let mut state = start.clone().gather_rows(&[Some(row)]);
        let mut of_row = Vec::new();
        for piece in borders.pieces(row, len) {
            if piece.fresh {
                state = model.initial_state(1);
            }
            let part = all.clone().narrow(0, row, 1);
            let part = part.narrow(1, piece.tokens.start, piece.tokens.len());
            let (found, next) = model.forward(part, state);
            of_row.push(found);
            state = next;
        }
        logits.push(Tensor::cat(of_row, 1));
        ends.push(state);
    }
    // Caches of several lengths are looked at where they are read.
    let state = match model.config().has_attention_layers() {
        true => start.clone(),
        false => ModelState::cat(ends),
    };
    (Tensor::cat(logits, 0), state)
}

proptest! {
    #![proptest_config(cases(4))]

    /// Logits, the state that is left, and the gradients of every parameter and of the initial state.
    #[test]
    fn documents_in_a_row_are_each_alone(
        rows in 1usize..4, len in 2usize..80, seed: u64,
        borders in prop::collection::vec(prop::collection::btree_set(0usize..80, 0..5), 4),
    ) {
        let inside = |row: &std::collections::BTreeSet<usize>| {
            row.iter().copied().filter(|at| *at < len).collect()
        };
        let borders = Borders::new(borders[..rows].iter().map(inside).collect());
        for (kind, (_, config)) in kinds().into_iter().enumerate().take(KINDS) {
            let (name, model) = model(kind, seed, &Device::flex().autodiff());
            let mut random = Random(seed);
            let tokens = tokens(&mut random, rows, len);
            let start = random_state(&model, rows, seed % 1000, &mut random);
            let read = |borders: &Borders| {
                let all = ids(&tokens, rows);
                let (hidden, state) = model.forward_packed(all, start.clone(), borders, &mut |_| ());
                let state = match config.has_attention_layers() {
                    true => start.clone(),
                    false => state,
                };
                gradients(&model, &start, (model.logits(hidden), state), seed)
            };
            let alone = one_by_one(&model, &tokens, &start, &borders);
            let alone = gradients(&model, &start, alone, seed);
            let found = same(&read(&borders), &alone, [LOGITS, STATE, GRADS]);
            prop_assert!(found.is_ok(), "{name}, {rows} × {len}, {borders:?}: {found:?}");
            if !borders.is_none() {
                let open = read(&Borders::default());
                let seen = same(&open, &alone, [LOGITS, STATE, GRADS]).is_err();
                prop_assert!(seen, "{name}: documents that are open to each other are seen");
            }
        }
    }
}

/// What a row leaves is what its last document leaves alone, the position included.
#[test]
fn a_row_leaves_what_its_last_document_leaves() {
    let (_, model) = model(0, 5, &Device::flex());
    let tokens = tokens(&mut Random(5), 2, 40);
    let borders = Borders::new(vec![vec![30, 38], vec![]]);
    let start = model.initial_state(2);
    let (_, state) = model.forward_packed(ids(&tokens, 2), start, &borders, &mut |_| ());
    assert_eq!(state.position, [2, 40]);
    let (_, alone) = model.forward(ids(&tokens[38..40], 1), None);
    let [packed, alone] = [state, alone].map(|state| match state.layers[1].clone() {
        LayerState::Infinity { tails, .. } => tails[0].clone().narrow(0, 0, 1),
        LayerState::Softmax { .. } => unreachable!("the default mixer"),
    });
    // Two tokens fill two of three places.
    let first = |x: &Tensor<3>| x.clone().narrow(2, 0, 1).abs().sum().into_scalar::<f32>();
    assert_eq!((first(&packed), first(&alone)), (0.0, 0.0));
    compare(&values(packed), &values(alone), LOGITS).unwrap();
}
