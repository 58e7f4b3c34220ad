//! Which state a window starts from: its own past, another row's, or none.

use crate::{TOL, VOCABULARY, batch, part, trainee};
use infinity_kernels::testing::{assert_close, compare, values};
use infinity_model::burn::module::Module;
use infinity_model::burn::train::InferenceStep;
use infinity_model::config::Mixer;
use infinity_model::{LayerState, ModelConfig, ModelState};
use infinity_train::data::{DataConfig, HostBatch, InitialState, Packing, TokenStore, TrainSource};
use infinity_train::step::{LmBatch, Trainee};

/// Every number of row `row` of a state, its position first.
fn row(state: &ModelState, row: usize) -> Vec<f64> {
    let mut numbers = vec![state.position[row] as f64];
    for layer in state.clone().gather_rows(&[Some(row)]).layers {
        match layer {
            LayerState::Infinity { memory, tails } => {
                numbers.extend(values(memory));
                tails
                    .into_iter()
                    .for_each(|tail| numbers.extend(values(tail)));
            }
            LayerState::Softmax { cache } => {
                // A row that has read nothing has none.
                let filled = cache.filled().into_iter().flatten();
                numbers.extend(filled.flat_map(values));
            }
        }
    }
    numbers
}

fn evaluation(config: &ModelConfig) -> Trainee {
    trainee(&ModelConfig {
        initializer_range: 0.5,
        ..config.clone()
    })
    .valid()
}

/// What the rows of `host` make of `state`, as far as the batch carries it.
fn after(trainee: &Trainee, host: &HostBatch, state: Option<&ModelState>) -> ModelState {
    let batch = LmBatch {
        state: state.cloned(),
        ..LmBatch::alone(host.clone())
    };
    InferenceStep::step(trainee, batch).state.expect("a state")
}

#[test]
fn rows_start_from_the_states_that_the_batch_names() {
    for mixer in [Mixer::Infinity, Mixer::Softmax] {
        let trainee = evaluation(&ModelConfig {
            mixer,
            ..crate::common::model()
        });
        let before = after(&trainee, &batch(3, 1), None);
        let mut second = batch(3, 2);
        second.carry = vec![Some(2), Some(1), None];
        let start = LmBatch {
            state: Some(before.clone()),
            ..LmBatch::alone(second.clone())
        }
        .start(&trainee.model);
        assert_eq!(row(&start, 0), row(&before, 2), "another row's");
        assert_eq!(row(&start, 1), row(&before, 1), "its own");
        assert!(row(&start, 2).iter().all(|x| *x == 0.0), "the empty one");
        assert_ne!(row(&start, 0), row(&before, 0), "its own would be seen");
        let first = LmBatch::alone(second).start(&trainee.model);
        assert_eq!(first.position, [0; 3], "nothing was there to carry");
    }
}

/// A contiguous stream with a mixture, where every row is read alone from the state that it names.
#[test]
fn a_mixture_of_rows_is_what_its_rows_are_alone() {
    let trainee = evaluation(&crate::common::model());
    let source = source(Packing::Contiguous, &stream(3 * 16 * 12 + 5), 3, [0.3, 0.3]);
    let (mut together, mut alone): (Option<ModelState>, Vec<ModelState>) = (None, Vec::new());
    let mut starts = [0; 3];
    for step in 0..12 {
        let host = source.batch(step).unwrap();
        let read = |row: usize, from: Option<&ModelState>| {
            let mut one = part(&host, row, row + 1);
            one.carry = vec![from.map(|_| 0)];
            after(&trainee, &one, from)
        };
        let kind = |row: usize| match host.carry[row] {
            None => 2,
            Some(from) => usize::from(from != row),
        };
        (0..3).for_each(|row| starts[kind(row)] += 1);
        let found = after(&trainee, &host, together.as_ref());
        let rows: Vec<ModelState> = (0..3)
            .map(|row| read(row, host.carry[row].and_then(|from| alone.get(from))))
            .collect();
        for (place, alone) in rows.iter().enumerate() {
            let (found, expected) = (row(&found, place), row(alone, 0));
            assert_close("initial state", "row", &found, &expected, TOL);
            let next = row(&rows[(place + 1) % 3], 0);
            assert!(compare(&found, &next, TOL).is_err(), "rows differ");
        }
        (together, alone) = (Some(found), rows);
    }
    assert!(starts.iter().all(|count| *count >= 5), "{starts:?}");
}

/// Tokens that a small model knows, in documents of different lengths.
fn stream(tokens: u32) -> TokenStore {
    let ids: Vec<u32> = (0..tokens)
        .map(|i| i * i % 7 + i % 3 + u32::from(i % 5 == 0))
        .collect();
    assert!(ids.iter().all(|id| (*id as usize) < VOCABULARY));
    TokenStore::from_documents(&[ids])
}

/// Windows of 16 from `store`, `[other, zero]` of them from another's state and from none.
fn source(
    packing: Packing,
    store: &TokenStore,
    rows: usize,
    [other, zero]: [f64; 2],
) -> TrainSource {
    let config = DataConfig {
        packing,
        stateful: true,
        initial_state: InitialState {
            own: None,
            other,
            zero,
            ..InitialState::default()
        },
        max_seq_length: 16,
        ..DataConfig::default()
    };
    TrainSource::new(store.clone(), &config, rows, 7).unwrap()
}

#[test]
fn documents_begin_with_nothing_and_take_no_padded_states() {
    // Tokens are their own positions, so that a window says where it stands.
    let mut next = 0;
    let documents: Vec<Vec<u32>> = (0..60u32)
        .map(|i| {
            let start = next;
            next += 20 + i * 37 % 90;
            (start..next).collect()
        })
        .collect();
    let store = TokenStore::from_documents(&documents);
    let firsts: Vec<i32> = documents
        .iter()
        .map(|document| document[0] as i32)
        .collect();
    let source = source(Packing::Documents, &store, 4, [0.4, 0.2]);
    let (mut padded, mut starts) = (vec![true; 4], [0; 4]);
    for step in 0..3 * source.steps_per_epoch() {
        let batch = source.batch(step).unwrap();
        for (row, carry) in batch.carry.iter().enumerate() {
            let window = &batch.targets[row * 16..(row + 1) * 16];
            let nothing = window.iter().all(|target| *target < 0);
            let begins = nothing || firsts.contains(&batch.inputs[row * 16]);
            match carry {
                _ if begins => {
                    assert_eq!(*carry, None, "step {step}, row {row}: a border");
                    starts[3] += 1;
                }
                None => starts[2] += 1,
                Some(from) => {
                    assert!(!padded[*from], "step {step}, row {row}: {from} was padded");
                    starts[usize::from(*from != row)] += 1;
                }
            }
        }
        let rows = batch.targets.chunks(16);
        padded = rows.map(|targets| targets.contains(&-100)).collect();
    }
    assert!(starts.iter().all(|count| *count >= 20), "{starts:?}");
}

#[test]
fn a_mixture_that_cannot_be_is_refused_by_name() {
    let refused = |rows: usize, stateful: bool, initial_state: InitialState| {
        let config = DataConfig {
            train_file: "a.txt".into(),
            stateful,
            initial_state,
            max_seq_length: 16,
            ..DataConfig::default()
        };
        let checked = config.validate();
        let made = checked.and_then(|()| TrainSource::new(stream(200), &config, rows, 7));
        made.map_or_else(|error| error.to_string(), |_| String::new())
    };
    let shares = |own, other, zero| InitialState {
        own,
        other,
        zero,
        last_fraction: 0.0,
    };
    let one = refused(1, true, shares(None, 0.1, 0.0));
    assert!(
        one.contains("data.initial_state.other") && one.contains("0.1"),
        "{one}"
    );
    assert!(one.contains("per_device_train_batch_size"), "{one}");
    let idle = refused(2, false, shares(None, 0.0, 0.1));
    assert!(
        idle.contains("data.initial_state") && idle.contains("data.stateful"),
        "{idle}"
    );
    let sum = refused(2, true, shares(Some(0.8), 0.1, 0.2));
    assert!(
        sum.contains("data.initial_state") && sum.contains("add up to 1"),
        "{sum}"
    );
    assert_eq!(refused(2, true, shares(Some(0.8), 0.1, 0.1)), "");
    assert_eq!(refused(2, false, shares(Some(1.0), 0.0, 0.0)), "");
}
