//! 3. A step of 1 to 32 rows gives every row the same bits, so that texts can be decoded together.

use crate::kinds::{VOCABULARY, kinds, tokens};
use infinity_kernels::linear::FEW_ROWS;
use infinity_kernels::testing::Random;
use infinity_model::burn::tensor::{Device, Int, Tensor, TensorData};
use infinity_model::{InfinityModel, ModelConfig};
use std::process::Command;

/// Steps from nothing.
const STEPS: usize = 5;

/// The kinds at sizes that fill no lanes, and with weights for several threads.
fn models() -> impl Iterator<Item = (String, InfinityModel)> {
    let sizes = [(16, 24, VOCABULARY), (88, 420, 500)];
    let kinds = kinds().into_iter();
    kinds.flat_map(move |(name, config)| {
        sizes.map(|(hidden_size, inner, vocab_size)| {
            let config = ModelConfig {
                hidden_size,
                intermediate_size: Some(inner),
                vocab_size,
                ..config.clone()
            };
            let name = format!("{name}, D {hidden_size}");
            (name, config.init_seeded(6, &Device::flex()))
        })
    })
}

/// Bits of the logits after every step, row by row; `rows` are the tokens of each.
fn decoded(model: &InfinityModel, rows: &[&[i32]]) -> Vec<Vec<u32>> {
    let mut state = model.initial_state(rows.len());
    let mut bits = vec![Vec::new(); rows.len()];
    for step in 0..STEPS {
        let ids: Vec<i32> = rows.iter().map(|row| row[step]).collect();
        let ids = TensorData::new(ids, [rows.len()]);
        let ids = Tensor::<1, Int>::from_data(ids, &model.device());
        let (logits, after) = model.decode_step(ids, state);
        state = after;
        let logits: Vec<f32> = logits.into_data().try_to_vec().expect("f32 logits");
        let logits = logits.chunks(model.config().vocab_size);
        for (bits, logits) in bits.iter_mut().zip(logits) {
            bits.extend(logits.iter().map(|x| x.to_bits()));
        }
    }
    bits
}

/// The first row that is not what it is alone.
fn other_row(alone: &[Vec<u32>], together: &[Vec<u32>]) -> Option<usize> {
    let mut pairs = alone.iter().zip(together);
    pairs.position(|(alone, together)| alone != together)
}

#[test]
fn a_step_gives_a_row_the_same_bits_in_any_company() {
    for (name, model) in models() {
        let tokens = tokens(&mut Random(21), FEW_ROWS, STEPS);
        let rows: Vec<&[i32]> = tokens.chunks(STEPS).collect();
        let alone = rows.iter().map(|row| decoded(&model, &[row]).remove(0));
        let alone: Vec<Vec<u32>> = alone.collect();
        for n in 1..=FEW_ROWS {
            let together = decoded(&model, &rows[..n]);
            assert_eq!(other_row(&alone, &together), None, "{name}, {n} rows");
            if n % 8 != 3 {
                continue;
            }
            // Not the first row, and from the other end.
            let last: Vec<&[i32]> = rows[FEW_ROWS - n..].iter().rev().copied().collect();
            let mut together = decoded(&model, &last);
            together.reverse();
            let found = other_row(&alone[FEW_ROWS - n..], &together);
            assert_eq!(found, None, "{name}, {n} rows, turned");
        }
        // One bit of one logit, and one token of one row, are seen.
        let mut together = decoded(&model, &rows);
        together[3][7] ^= 1;
        assert_eq!(other_row(&alone, &together), Some(3), "{name}");
        let mut changed = rows.clone();
        changed[2] = changed[1];
        let found = other_row(&alone, &decoded(&model, &changed));
        assert!(found == Some(2) || rows[1] == rows[2], "{name}");
    }
}

/// The same with fewer vector instructions and with one thread, each in a process of its own: both are
/// found once in a process.
#[test]
fn so_it_is_at_every_level_and_on_one_thread() {
    let this = std::env::current_exe().expect("a test has a path");
    for (level, threads) in [
        ("avx512", "1"),
        ("avx2", "2"),
        ("avx2", "1"),
        ("baseline", "2"),
    ] {
        let test = "steps::a_step_gives_a_row_the_same_bits_in_any_company";
        let output = Command::new(&this)
            .args([test, "--exact"])
            .envs([("INFINITY_SIMD", level), ("RAYON_NUM_THREADS", threads)])
            .output()
            .expect("the test starts");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("1 passed"), "{level}, {threads}: {said}");
    }
}
