//! 6. Two states fed the same stream never move apart.

use crate::another;
use crate::answer::{random_state, state_values};
use crate::kinds::{kinds, read_from, tokens};
use infinity_kernels::testing::Random;
use infinity_model::burn::tensor::Device;
use infinity_model::config::{Decay, MemoryRouting, MemoryUpdate};
use infinity_model::{InfinityModel, LayerState, ModelConfig, ModelState};

/// Largest growth in a piece over these streams on Flex, 2026-11-23: 7e-9 of the first distance.
const ROUNDING: f64 = 5e-8;
/// The same where writes turn around, which moves what is off twice as far; 2026-11-28: 5.9e-8.
const ROUNDING_TURNING: f64 = 3e-7;

/// The distance of the first layer's memories in two states. That layer reads the same from both.
fn distance(a: &ModelState, b: &ModelState) -> f64 {
    let memory = |state: &ModelState| state_values(state).swap_remove(0).1;
    let squares = memory(a)
        .iter()
        .zip(memory(b))
        .map(|(a, b)| (a - b) * (a - b))
        .sum::<f64>();
    squares.sqrt()
}

/// Distances of two states before the stream and after each of its pieces of `piece` tokens.
fn distances(model: &InfinityModel, streams: [&[i32]; 2], piece: usize, seed: u64) -> Vec<f64> {
    let mut random = Random(seed);
    let start = random_state(model, 1, 0, &mut random).detach();
    let mut other = start.clone();
    for layer in &mut other.layers {
        if let LayerState::Infinity { memory, .. } = layer {
            *memory = memory.clone() * -3.0 + 1.0;
        }
    }
    let mut states = [start, other];
    let mut found = vec![distance(&states[0], &states[1])];
    for (a, b) in streams[0].chunks(piece).zip(streams[1].chunks(piece)) {
        let [first, second] = states;
        states = [
            read_from(model, a, first, &[]).1,
            read_from(model, b, second, &[]).1,
        ];
        found.push(distance(&states[0], &states[1]));
    }
    found
}

/// Streams on which an unnormalised rule diverges: one token, two in turn, blocks, noise.
fn adversaries(seed: u64, len: usize) -> [Vec<i32>; 4] {
    let (a, b) = ((seed % 13) as i32, another((seed % 13) as i32));
    let stream = |token: &dyn Fn(usize) -> i32| (0..len).map(token).collect::<Vec<_>>();
    [
        stream(&|_| a),
        stream(&|i| if i % 2 == 0 { a } else { b }),
        stream(&|i| if i / 7 % 2 == 0 { a } else { (i % 13) as i32 }),
        tokens(&mut Random(seed), 1, len),
    ]
}

/// 6. Two states fed the same stream never move apart in delta mode, step by step and in chunks.
#[test]
#[allow(clippy::print_stdout, reason = "the errors that tolerances are set by")]
fn two_states_never_move_apart() {
    for seed in 0..3u64 {
        for (decay, turning, memory_routing) in [
            (Decay::None, false, MemoryRouting::Input),
            (Decay::Adaptive, false, MemoryRouting::Input),
            (Decay::None, true, MemoryRouting::Input),
            (Decay::Adaptive, true, MemoryRouting::Input),
            (Decay::None, false, MemoryRouting::Content),
            (Decay::Adaptive, true, MemoryRouting::Content),
        ] {
            // Wild weights: gates at their ends, keys that all but repeat.
            let config = ModelConfig {
                decay,
                allow_neg_eigval: turning,
                memory_routing,
                initializer_range: 0.5 * 3f64.powi(seed as i32),
                ..kinds()[0].1.clone()
            };
            assert_eq!(config.memory_update, MemoryUpdate::Delta);
            let rounding = match turning {
                true => ROUNDING_TURNING,
                false => ROUNDING,
            };
            let mut worst = f64::MIN;
            let model = config.init_seeded(seed, &Device::flex());
            for stream in adversaries(seed, 120) {
                for piece in [1, 40] {
                    let found = distances(&model, [&stream, &stream], piece, seed);
                    let expands = expansion(&found);
                    worst = worst.max(expands);
                    assert!(
                        expands <= rounding,
                        "seed {seed}, {decay:?}, turning {turning}, {memory_routing}, expands {expands:e}: {found:?}"
                    );
                }
            }
            let [calm, wild, ..] = adversaries(seed, 120);
            assert!(expansion(&distances(&model, [&calm, &wild], 1, seed)) > rounding);
            println!("seed {seed}, {decay:?}, turning {turning}, {memory_routing}: {worst:.1e}");
        }
    }
}

/// The largest relative growth from one distance to the next.
fn expansion(distances: &[f64]) -> f64 {
    let pairs = distances.windows(2);
    pairs
        .map(|pair| (pair[1] - pair[0]) / distances[0])
        .fold(f64::MIN, f64::max)
}
