//! A training step with a constant number of tokens, in windows of several lengths.

use crate::case::Case;
use crate::checks::random_tokens;
use crate::flags::Flags;
use crate::machine::available_bytes;
use crate::report::{gigabytes, grouped};
use crate::{Outcome, median};
use burn::tensor::Device;
use infinity_model::config::Mixer;
use infinity_train::RunConfig;
use infinity_train::data::HostBatch;
use infinity_train::metrics::peak_resident_bytes;
use infinity_train::optimizer::{Optimizer, clip};
use infinity_train::step::{LmBatch, Trainee};
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// What one child process measured.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Measured {
    /// Seconds of every timed step.
    step_s: Vec<f64>,
    /// Peak resident memory of the process; 0 where the system does not tell.
    peak_bytes: u64,
}

/// All rounds of one case.
#[derive(Debug, Serialize)]
pub(crate) struct Point {
    pub(crate) mixer: Mixer,
    pub(crate) length: usize,
    pub(crate) rows: usize,
    /// Median, fastest and slowest step, in microseconds a token.
    pub(crate) us_per_token: f64,
    pub(crate) us_per_token_min: f64,
    pub(crate) us_per_token_max: f64,
    pub(crate) peak_bytes: u64,
}

/// Where a mixer stops, and why.
#[derive(Debug, Serialize)]
pub(crate) struct LeftOut {
    pub(crate) mixer: Mixer,
    /// The first length that was not measured; longer ones were not either.
    pub(crate) length: usize,
    pub(crate) why: String,
}

/// Forward, backward, clipping and AdamW as training does them: one untimed step, then
/// `flags.steps` timed ones.
pub(crate) fn measure(flags: &Flags, mixer: Mixer, length: usize) -> Outcome<Measured> {
    let config = RunConfig {
        model: flags.model(mixer),
        ..RunConfig::default()
    };
    let model = config.model.init_seeded(1, &Device::flex().autodiff());
    let mut trainee = Trainee::new(model, config.training.loss_chunk);
    let (rules, rates) = (&config.optimizer, &config.lr_scheduler);
    let mut optimizer = Optimizer::new(rules, rates, 1000, &trainee);
    let host = batch(flags, length);
    let mut step_s = Vec::with_capacity(flags.steps);
    for step in 0..=flags.steps {
        let start = Instant::now();
        let (output, grads) = trainee.learn(LmBatch::alone(host.clone()));
        let (grads, clip) = clip(&trainee, grads, 1.0, config.training.max_grad_norm);
        trainee = optimizer.step_scaled(trainee, grads, clip.factor, step as u64);
        if step > 0 {
            step_s.push(start.elapsed().as_secs_f64());
        }
        let (loss, norm) = (output.loss_sum, clip.norm);
        if !loss.is_finite() || !norm.is_finite() {
            return Err(format!("step {step}: loss {loss}, gradient norm {norm}").into());
        }
    }
    Ok(Measured {
        step_s,
        peak_bytes: peak_resident_bytes(),
    })
}

fn batch(flags: &Flags, length: usize) -> HostBatch {
    let rows = flags.tokens / length;
    let tokens = random_tokens(rows * (length + 1), flags.vocab, 7);
    let from = |start: usize| {
        let rows = tokens.chunks(length + 1);
        rows.flat_map(|row| row[start..start + length].to_vec())
            .collect()
    };
    HostBatch {
        inputs: from(0),
        targets: from(1),
        rows,
        len: length,
        carry: vec![None; rows],
        valid: rows * length,
        borders: Default::default(),
    }
}

/// Cases of one mixer and length with all that was measured of it.
struct Series {
    mixer: Mixer,
    length: usize,
    step_s: Vec<f64>,
    peak_bytes: u64,
}

/// Every case once a round.
pub(crate) fn in_rounds(flags: &Flags) -> Outcome<(Vec<Point>, Vec<LeftOut>)> {
    let (mut series, left_out) = first_round(flags)?;
    for round in 1..flags.rounds {
        for case in &mut series {
            let measured = run(flags, round, case.mixer, case.length)?;
            case.step_s.extend(measured.step_s);
            case.peak_bytes = case.peak_bytes.max(measured.peak_bytes);
        }
    }
    let points = series.into_iter().map(|case| case.point(flags)).collect();
    Ok((points, left_out))
}

/// The round that finds out how far softmax attention gets.
fn first_round(flags: &Flags) -> Outcome<(Vec<Series>, Vec<LeftOut>)> {
    let (mut series, mut left_out) = (Vec::<Series>::new(), Vec::new());
    for mixer in [Mixer::Infinity, Mixer::Softmax] {
        for &length in &flags.lengths {
            let measured = match too_much(flags, mixer, length, series.last()) {
                Some(why) => Err(why.into()),
                None => run(flags, 0, mixer, length),
            };
            match measured {
                Ok(Measured { step_s, peak_bytes }) => {
                    series.push(Series {
                        mixer,
                        length,
                        step_s,
                        peak_bytes,
                    });
                }
                Err(error) if mixer == Mixer::Softmax => {
                    let why = error.to_string();
                    println!("left out: {mixer} from T = {} on: {why}", grouped(length));
                    left_out.push(LeftOut { mixer, length, why });
                    break;
                }
                Err(error) => return Err(error),
            }
        }
    }
    Ok((series, left_out))
}

/// Why softmax attention does not get windows of `length`, if so.
///
/// With the tokens of a step held constant, its score matrices grow in proportion to the length,
/// so the peak of the length before, scaled, is an upper bound. The rest is left to the system:
/// a process that takes the last of the memory takes others down with it.
fn too_much(flags: &Flags, mixer: Mixer, length: usize, before: Option<&Series>) -> Option<String> {
    if mixer != Mixer::Softmax {
        return None;
    }
    if length > flags.softmax_up_to {
        return Some(format!("--softmax-up-to {}", flags.softmax_up_to));
    }
    let before = before.filter(|case| case.mixer == mixer)?;
    let Some(available) = available_bytes() else {
        return Some("the system does not tell how much memory is available".to_owned());
    };
    let needed = before.peak_bytes / before.length as u64 * length as u64;
    (needed > available / 10 * 9).then(|| {
        let (needed, available) = (gigabytes(needed), gigabytes(available));
        format!("needs up to {needed} GB, {available} GB are available")
    })
}

fn run(flags: &Flags, round: usize, mixer: Mixer, length: usize) -> Outcome<Measured> {
    let measured: Measured = Case::Train(mixer, length).in_child()?;
    println!(
        "round {} of {}: {:<8} T = {:>6}  {:>8.2} µs a token, peak {} GB",
        round + 1,
        flags.rounds,
        mixer,
        grouped(length),
        median(&measured.step_s) * 1e6 / flags.tokens as f64,
        gigabytes(measured.peak_bytes),
    );
    Ok(measured)
}

impl Series {
    fn point(self, flags: &Flags) -> Point {
        let us = |seconds: f64| seconds * 1e6 / flags.tokens as f64;
        let steps = self.step_s.iter().copied();
        Point {
            mixer: self.mixer,
            length: self.length,
            rows: flags.tokens / self.length,
            us_per_token: us(median(&self.step_s)),
            us_per_token_min: us(steps.clone().fold(f64::INFINITY, f64::min)),
            us_per_token_max: us(steps.fold(0.0, f64::max)),
            peak_bytes: self.peak_bytes,
        }
    }
}
