//! The loss over a whole split: every target once, summed in f64.

mod reading;
mod stream;
pub mod tasks;

pub use reading::{CUT, Reading};
pub use stream::{
    Comparison, StreamBin, StreamCompression, StreamOptions, StreamReport, evaluate_stream,
    evaluate_stream_from,
};

use crate::data::{DataError, EvalSource, bad};
use crate::error::TrainError;
use crate::step::loss::Head;
use crate::step::{LmBatch, LmOutput, Trainee};
use burn::module::Module;
use burn::tensor::{Int, Tensor, TensorData};
use infinity_model::{InfinityModel, ModelState};
use std::fmt::Display;
use std::ops::Range;
use std::time::Instant;

/// What a model makes of a text.
#[derive(Clone, Debug, PartialEq)]
pub struct EvalReport {
    /// Mean loss in nats a token.
    pub loss: f64,
    /// `exp(loss)`.
    pub perplexity: f64,
    /// Loss in bits for each byte of the text that the targets stand for.
    pub bits_per_byte: f64,
    /// Targets.
    pub tokens: u64,
    /// Bytes of text they stand for.
    pub bytes: u64,
    /// Seconds it took.
    pub seconds: f64,
}

/// Measures `model` on every target of `source`, in windows; the state is carried from window to
/// window where the source says so. `loss_chunk` as in `training.loss_chunk`.
///
/// # Errors
/// If the text cannot be read, or the loss is not finite.
pub fn evaluate(
    model: &InfinityModel,
    source: &EvalSource,
    loss_chunk: usize,
) -> Result<EvalReport, TrainError> {
    let trainee = Trainee::new(model.clone().valid(), loss_chunk);
    let report = evaluate_with(&trainee, source, &mut |_, _| true)?;
    if report.tokens == 0 {
        return Err(DataError::NoAnswers.into());
    }
    finite(report.loss)?;
    Ok(report)
}

/// Refuses the loss of a model that makes nothing that is a number.
pub(crate) fn finite(loss: f64) -> Result<(), TrainError> {
    if loss.is_finite() {
        return Ok(());
    }
    let why = format!("the model's loss is {loss}: its weights are damaged, or it diverged");
    Err(TrainError::Failed(why))
}

/// [`evaluate`] of whatever the loss is, handing every batch's output and number to `each`, which returns false to stop.
pub(crate) fn evaluate_with(
    trainee: &Trainee,
    source: &EvalSource,
    each: &mut dyn FnMut(LmOutput, u64) -> bool,
) -> Result<EvalReport, TrainError> {
    let start = Instant::now();
    let (mut sum, mut tokens, mut state) = (0.0, 0u64, None);
    for (number, host) in source.iter().enumerate() {
        let batch = LmBatch {
            state: state.take(),
            ..LmBatch::alone(host?)
        };
        let mut output = trainee.evaluate(batch);
        sum += output.loss_sum;
        tokens += output.n_tokens as u64;
        state = output.state.take().filter(|_| source.carry());
        if !each(output, number as u64 + 1) {
            break;
        }
    }
    // Where answers alone count, so do their bytes.
    let bytes = source.target_bytes() * (tokens as f64 / source.targets().max(1) as f64);
    let loss = sum / tokens.max(1) as f64;
    Ok(EvalReport {
        loss,
        perplexity: loss.exp(),
        bits_per_byte: sum / std::f64::consts::LN_2 / bytes.max(1.0),
        tokens,
        bytes: bytes.round() as u64,
        seconds: start.elapsed().as_secs_f64(),
    })
}

/// Reads with a model and tells how much it has read.
struct Reader<'a> {
    model: InfinityModel,
    loss_chunk: usize,
    done: u64,
    total: u64,
    progress: &'a mut dyn FnMut(u64, u64),
}

impl<'a> Reader<'a> {
    fn new(
        model: &InfinityModel,
        loss_chunk: usize,
        total: u64,
        progress: &'a mut dyn FnMut(u64, u64),
    ) -> Self {
        Reader {
            model: model.clone().valid(),
            loss_chunk,
            done: 0,
            total,
            progress,
        }
    }

    /// `inputs`, row after row, on the model's device.
    fn tokens(&self, inputs: Vec<i32>, rows: usize) -> Tensor<2, Int> {
        let shape = [rows, inputs.len() / rows];
        Tensor::from_data(TensorData::new(inputs, shape), &self.model.device())
    }

    /// One call: the hidden vectors of `inputs` and the next state.
    fn read(&self, inputs: Vec<i32>, rows: usize, state: ModelState) -> (Tensor<3>, ModelState) {
        self.model.forward_hidden(self.tokens(inputs, rows), state)
    }

    fn tell(&mut self, tokens: usize) {
        self.done += tokens as u64;
        (self.progress)(self.done, self.total);
    }

    /// Loss of every one of `targets` behind `hidden`, 0 where it is ignored.
    fn losses(&self, hidden: Tensor<3>, targets: &[i32]) -> Vec<f32> {
        Head::of(&self.model, self.loss_chunk).losses(hidden, targets)
    }
}

/// `range` in pieces of at most `len`.
fn pieces(range: Range<usize>, len: usize) -> impl Iterator<Item = (usize, usize)> {
    let end = range.end;
    let starts = range.step_by(len);
    starts.map(move |from| (from, end.min(from + len)))
}

fn refuse<T, E: From<DataError>>(
    key: &'static str,
    value: impl Display,
    reason: impl Display,
) -> Result<T, E> {
    bad(key, value, reason).map_err(E::from)
}

/// Standard error of the mean of several numbers; none of a single one.
fn standard_error(values: &[f64]) -> Option<f64> {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let spread: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (values.len() > 1).then(|| (spread / (n - 1.0) / n).sqrt())
}

/// Refuses options that are 0.
fn at_least_one(options: &[(&'static str, usize)]) -> Result<(), DataError> {
    match options.iter().find(|(_, value)| *value == 0) {
        Some((key, value)) => refuse(key, value, "must be at least 1"),
        None => Ok(()),
    }
}
