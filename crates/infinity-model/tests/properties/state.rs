//! 4. The state does not grow. 5. Where a text starts changes nothing.

use crate::answer::state_values;
use crate::kinds::{KINDS, ids, kinds, read_from, tokens};
use crate::{as_f64, cases, on_flex};
use infinity_kernels::testing::{Random, Tol, compare};
use infinity_model::config::Mixer;
use infinity_model::count::{state_bytes, state_bytes_per_token};
use infinity_model::{ModelConfig, ModelState};
use proptest::prelude::*;

/// Worst RMS ratio over these cases on Flex, 2026-11-23: 8e-7.
const POSITION: Tol = Tol {
    rms_ratio: 5e-6,
    worst_over_rms: 30.0,
    floor: 0.0,
};

/// 4. The state has as many bytes after a million tokens as after ten.
#[test]
fn the_state_does_not_grow() {
    for (kind, (_, config)) in kinds().iter().enumerate() {
        let (name, model) = on_flex(kind, 1);
        let tokens = tokens(&mut Random(1), 2, 10);
        let (_, at_10) = read_from(&model, &tokens, model.initial_state(2), &[]);
        let mut late = at_10.clone();
        late.position.fill(1_000_000 - 3);
        for step in 0..3 {
            let (_, next) = model.decode_step(ids(&tokens[step..step + 2], 2).reshape([2]), late);
            late = next;
        }
        assert_eq!((at_10.position[0], late.position[0]), (10, 1_000_000));
        let constant = config.grows_by().is_none();
        let counted = |position| state_bytes(config, 2, position);
        assert_eq!(counted(10) == counted(1_000_000), constant, "{name}");
        let each_token = 2 * state_bytes_per_token(config);
        assert_eq!(counted(1010) - counted(10), 1000 * each_token, "{name}");
        if config.has_attention_layers() {
            // A cache has room, which a window bounds.
            assert!(at_10.bytes() as u64 >= counted(10), "{name}");
            let most = counted(10) + 20 * 2 * state_bytes_per_token(&every_layer_full(config));
            assert!(late.bytes() as u64 <= most, "{name}");
        } else {
            assert_eq!(at_10.bytes(), late.bytes(), "{name}");
            assert_eq!(at_10.bytes() as u64, counted(10), "{name}");
            let sizes = |state| {
                state_values(state)
                    .iter()
                    .map(|(_, x)| x.len())
                    .collect::<Vec<_>>()
            };
            assert_eq!(sizes(&at_10), sizes(&late), "{name}");
        }
    }
}

/// The model with the caches of full layers in all layers.
fn every_layer_full(config: &ModelConfig) -> ModelConfig {
    ModelConfig {
        mixer: Mixer::Softmax,
        layer_types: None,
        ..config.clone()
    }
}

proptest! {
    #![proptest_config(cases(4))]

    /// 5. Where a text starts changes nothing; where it goes on does.
    #[test]
    fn starting_position_changes_nothing(len in 2usize..60, start in 1u64..1_000_000_000_000, seed: u64) {
        for kind in 0..KINDS {
            let (name, model) = on_flex(kind, seed);
            let tokens = tokens(&mut Random(seed), 2, len);
            let from = |positions: [u64; 2]| {
                let state = ModelState { position: positions.to_vec(), ..model.initial_state(2) };
                as_f64(&read_from(&model, &tokens, state, &[len / 2]).0)
            };
            let expected = from([0, 0]);
            for positions in [[start, start], [0, start], [1_000_000_000_000, 4096]] {
                let found = compare(&from(positions), &expected, POSITION);
                prop_assert!(found.is_ok(), "{name} at {positions:?}: {found:?}");
            }
        }
    }
}

/// 5. A step of the position inside a text is seen.
#[test]
fn a_gap_in_the_positions_is_caught() {
    let (_, model) = on_flex(0, 2);
    let tokens = tokens(&mut Random(2), 1, 20);
    let (_, state) = read_from(&model, &tokens[..10], model.initial_state(1), &[]);
    let go_on = |position| {
        let state = ModelState {
            position: vec![position],
            ..state.clone()
        };
        as_f64(&read_from(&model, &tokens[10..], state, &[]).0)
    };
    assert!(compare(&go_on(11), &go_on(10), POSITION).is_err());
}
