//! A decoding step near the beginning of a text and far into it.

use crate::checks::random_tokens;
use crate::flags::Flags;
use crate::median;
use burn::tensor::{Device, Int, Tensor, TensorData};
use infinity_model::config::Mixer;
use infinity_model::{InfinityModel, ModelState};
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// Steps of a block that are not timed: the other position's state is still in the caches.
const UNTIMED: usize = 5;

/// One position.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Point {
    pub(crate) mixer: Mixer,
    pub(crate) position: usize,
    /// Median of a step: a token in, its logits on the host, the next token chosen.
    pub(crate) us_per_token: f64,
    /// Size of the state that is carried there.
    pub(crate) state_bytes: usize,
}

/// Reads real tokens up to every position, then measures the positions in turns.
pub(crate) fn measure(flags: &Flags, mixer: Mixer) -> Vec<Point> {
    let positions = match mixer {
        Mixer::Infinity => &flags.positions,
        Mixer::Softmax => &flags.softmax_positions,
    };
    let model = flags.model(mixer).init_seeded(1, &Device::flex());
    let states = carried_to(&model, positions, flags.decode_steps / 2);
    let mut steps = vec![Vec::new(); states.len()];
    for round in 0..flags.decode_rounds {
        // Forth and back, so that no position always comes first.
        for turn in 0..states.len() {
            let at = if round % 2 == 0 {
                turn
            } else {
                states.len() - 1 - turn
            };
            steps[at].extend(block(&model, states[at].clone(), flags.decode_steps));
        }
    }
    let measured = positions.iter().zip(states).zip(steps);
    measured
        .map(|((&position, state), steps)| Point {
            mixer,
            position,
            us_per_token: median(&steps) * 1e6,
            state_bytes: state.bytes(),
        })
        .collect()
}

/// The states `before` tokens in front of each position.
fn carried_to(model: &InfinityModel, positions: &[usize], before: usize) -> Vec<ModelState> {
    let ends = positions
        .iter()
        .map(|position| position.saturating_sub(before).max(1));
    let tokens = random_tokens(
        ends.clone().max().unwrap_or(1),
        model.config().vocab_size,
        5,
    );
    let (mut state, mut at) = (model.initial_state(1), 0);
    let mut states = Vec::with_capacity(positions.len());
    for end in ends {
        let piece = TensorData::new(tokens[at..end].to_vec(), [1, end - at]);
        let (_, next) = model.prefill(Tensor::<2, Int>::from_data(piece, &model.device()), state);
        (state, at) = (next, end);
        states.push(state.clone());
    }
    states
}

/// Seconds of each of `steps` greedy steps from `state`.
fn block(model: &InfinityModel, mut state: ModelState, steps: usize) -> Vec<f64> {
    let mut token = 0;
    let mut seconds = Vec::with_capacity(steps);
    for step in 0..UNTIMED + steps {
        let start = Instant::now();
        let input = Tensor::<1, Int>::from_data(TensorData::new(vec![token], [1]), &model.device());
        let (logits, next) = model.decode_step(input, state);
        let logits = logits
            .into_data()
            .try_into_vec::<f32>()
            .expect("f32 logits");
        let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]));
        (token, state) = (best.unwrap_or(0) as i32, next);
        if step >= UNTIMED {
            seconds.push(start.elapsed().as_secs_f64());
        }
    }
    seconds
}
