//! The loss along one long text, by bins of positions, and what reading all of it is worth.
//!
//! The text is read once as one stream: every token is predicted with everything before it behind
//! it. In every bin, some spans of tokens are then predicted again with a limited context:
//!
//! ```text
//! text    … ─────────────────┬── context ──┬─ span ─┬─────────── …
//! stream  state carried from the start of the text ─►
//! limited                    empty state ───────────►
//! ```
//!
//! The first token of a span has exactly `context` tokens behind it, the last `context + span − 1`.
//! Both losses are of the same tokens, so that what a text is like at a place does not enter their
//! difference.
//!
//! A model that compresses its memory is read with a certificate beside every layer, and once more
//! without compression, for the loss that it costs.

use super::{Reader, at_least_one, finite, pieces, refuse, standard_error};
use crate::data::{DataError, TokenStore};
use crate::error::TrainError;
use burn::module::Module;
use infinity_model::certified::CertifiedReader;
use infinity_model::compression::{Compression, Held};
use infinity_model::{InfinityModel, ModelState};
use std::ops::Range;
use std::time::Instant;

/// How a stream is measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamOptions {
    /// Tokens of the stream, from the start of the text; 0 is the whole text.
    pub tokens: u64,
    /// Bins of equal numbers of positions.
    pub bins: usize,
    /// Tokens before a span, for the limited context.
    pub context: usize,
    /// Tokens predicted after a limited context.
    pub span: usize,
    /// Spans of a bin that are compared, evenly spread; 0 is all that fit.
    pub spans_per_bin: usize,
    /// Tokens read by one call of the model.
    pub window: usize,
    /// Limited contexts read together.
    pub rows: usize,
    /// As `training.loss_chunk`.
    pub loss_chunk: usize,
}

/// A stretch of the stream.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamBin {
    /// Positions of its first token and of the one after its last, counted from 0.
    pub positions: Range<u64>,
    /// Mean loss in nats of all its tokens, with the whole stream behind them.
    pub loss: f64,
    /// The same with an exact memory, where the model compresses its own.
    pub exact: Option<f64>,
    /// The tokens that were predicted again; `None` where no span has a whole context before it.
    pub compared: Option<Comparison>,
}

/// Losses of the same tokens with the whole stream and with a limited context behind them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Comparison {
    /// Tokens.
    pub tokens: u64,
    /// Mean loss in nats with the whole stream behind them.
    pub stream: f64,
    /// Mean loss in nats with the limited context behind them.
    pub limited: f64,
    /// Standard error of the difference of the two, from span to span; 0 of a single span.
    pub standard_error: f64,
}

impl Comparison {
    /// What the whole stream costs against the limited context, as a part of the latter's loss:
    /// below 0 where more text helps.
    pub fn excess(&self) -> f64 {
        self.stream / self.limited - 1.0
    }
}

/// What a model makes of a stream.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamReport {
    /// Tokens of the stream, the first included, which nothing predicts.
    pub tokens: u64,
    /// From the start to the end.
    pub bins: Vec<StreamBin>,
    /// What compressing the memory costs, where the model does.
    pub compression: Option<StreamCompression>,
    /// Seconds it took.
    pub seconds: f64,
}

/// What compressing the memory of a model costs along a stream.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamCompression {
    /// When it is compressed, and to what.
    pub compression: Compression,
    /// Mean loss in nats of all tokens.
    pub loss: f64,
    /// The same with an exact memory.
    pub exact: f64,
    /// Standard error of the difference of the two, from bin to bin; 0 of a single bin.
    pub standard_error: f64,
    /// What the certificate of every layer has seen; empty in half formats, which have none.
    pub held: Vec<Held>,
}

/// Measures `model` along `text`, telling `progress` the tokens read so far and in all.
///
/// # Errors
/// If an option is 0 that must not be, or the text is too short for it, naming the limit; if the
/// text cannot be read, or a loss is not finite.
pub fn evaluate_stream(
    model: &InfinityModel,
    text: &TokenStore,
    options: &StreamOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<StreamReport, TrainError> {
    let nothing = model.initial_state(1);
    evaluate_stream_from(model, text, options, nothing, progress).map(|(report, _)| report)
}

/// [`evaluate_stream`] of a text that goes on from `state`, of one row; also the state after all of the
/// stream's tokens but the last, which nothing is predicted from. Limited contexts are of this text alone.
///
/// # Errors
/// As [`evaluate_stream`].
pub fn evaluate_stream_from(
    model: &InfinityModel,
    text: &TokenStore,
    options: &StreamOptions,
    state: ModelState,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(StreamReport, ModelState), TrainError> {
    let start = Instant::now();
    let plan = Plan::new(text, options)?;
    let model = model.clone().valid();
    let compression = model.config().compression();
    let (tokens, window, spans) = (plan.tokens, options.window, plan.all_spans());
    let times = if compression.is_some() { 2 } else { 1 };
    let again = spans.len() * (options.context + options.span - 1);
    let work = times * (tokens - 1) + again as u64;
    let mut reader = Reader::new(&model, options.loss_chunk, work, progress);
    let mut certified = CertifiedReader::new(&model, &state);
    let before = state.clone();
    let (stream, state) = reader.stream(text, tokens, window, state, certified.as_mut())?;
    let mut limited = Vec::with_capacity(spans.len());
    for spans in spans.chunks(options.rows) {
        limited.extend(reader.limited(text, spans, options)?);
    }
    let exact = match compression {
        None => Vec::new(),
        Some(_) => {
            let exact = model.clone().with_compression(None);
            reader.model = exact.expect("a model is valid without compression");
            reader.stream(text, tokens, window, before, None)?.0
        }
    };
    let all = stream.iter().chain(&exact).map(|loss| f64::from(*loss));
    all.chain(limited.iter().copied()).try_for_each(finite)?;
    let mut limited = spans.into_iter().zip(limited);
    let mean = |losses: &[f32], positions: &Range<u64>| {
        sum(losses, positions.clone()) / (positions.end - positions.start) as f64
    };
    let bins = plan.bins.iter().map(|bin| {
        let spans = limited.by_ref().take(bin.spans.len());
        let compared = spans.map(|(at, loss)| (sum(&stream, at..at + options.span as u64), loss));
        let compared: Vec<(f64, f64)> = compared.collect();
        StreamBin {
            positions: bin.positions.clone(),
            loss: mean(&stream, &bin.positions),
            exact: compression.map(|_| mean(&exact, &bin.positions)),
            compared: compare(&compared, options.span),
        }
    });
    let bins: Vec<StreamBin> = bins.collect();
    let whole = 1..tokens;
    let cost = |compression| StreamCompression {
        compression,
        loss: mean(&stream, &whole),
        exact: mean(&exact, &whole),
        standard_error: {
            let cost = |bin: &StreamBin| bin.loss - bin.exact.unwrap_or(bin.loss);
            standard_error(&bins.iter().map(cost).collect::<Vec<_>>()).unwrap_or(0.0)
        },
        held: certified.map_or_else(Vec::new, |certified| certified.held()),
    };
    let report = StreamReport {
        tokens,
        compression: compression.map(cost),
        bins,
        seconds: start.elapsed().as_secs_f64(),
    };
    Ok((report, state))
}

/// Which tokens stand in which bin, and where its spans begin.
struct Plan {
    tokens: u64,
    bins: Vec<PlannedBin>,
}

struct PlannedBin {
    positions: Range<u64>,
    spans: Vec<u64>,
}

impl Plan {
    fn new(text: &TokenStore, options: &StreamOptions) -> Result<Self, DataError> {
        at_least_one(&[
            ("bins", options.bins),
            ("context", options.context),
            ("span", options.span),
            ("window", options.window),
            ("rows", options.rows),
        ])?;
        let tokens = match options.tokens {
            0 => text.len(),
            asked if asked > text.len() => {
                let limit = format!("the text has {} tokens", text.len());
                return refuse("tokens", asked, limit);
            }
            asked => asked,
        };
        let (targets, bins) = (tokens.saturating_sub(1), options.bins as u64);
        if targets < bins {
            let limit = format!("{tokens} tokens are too few for as many bins");
            return refuse("bins", bins, limit);
        }
        let bound =
            |bin: u64| 1 + (u128::from(targets) * u128::from(bin) / u128::from(bins)) as u64;
        let bins = (0..bins).map(|bin| {
            let positions = bound(bin)..bound(bin + 1);
            let spans = spans(&positions, options);
            PlannedBin { positions, spans }
        });
        Ok(Plan {
            tokens,
            bins: bins.collect(),
        })
    }

    fn all_spans(&self) -> Vec<u64> {
        let spans = self.bins.iter().flat_map(|bin| &bin.spans);
        spans.copied().collect()
    }
}

/// First positions of the spans of a bin: whole ones, with a whole context before them.
fn spans(positions: &Range<u64>, options: &StreamOptions) -> Vec<u64> {
    let first = positions.start.max(options.context as u64);
    let fit = positions.end.saturating_sub(first) / options.span as u64;
    let wanted = match options.spans_per_bin as u64 {
        0 => fit,
        wanted => wanted.min(fit),
    };
    let at = |i| first + i * fit / wanted * options.span as u64;
    (0..wanted).map(at).collect()
}

impl Reader<'_> {
    /// The loss of every token with all tokens before it behind it, 0 for the first; and the state
    /// before the last.
    fn stream(
        &mut self,
        text: &TokenStore,
        tokens: u64,
        window: usize,
        mut state: ModelState,
        mut certified: Option<&mut CertifiedReader<'_>>,
    ) -> Result<(Vec<f32>, ModelState), DataError> {
        let mut losses = Vec::with_capacity(tokens as usize);
        losses.push(0.0);
        let mut from = 0;
        while from < tokens - 1 {
            let to = tokens.min(from + 1 + window as u64);
            let read = text.tokens(from..to)?;
            let (inputs, targets) = (read[..read.len() - 1].to_vec(), &read[1..]);
            let (hidden, next) = match certified.as_deref_mut() {
                Some(reader) => reader.forward_hidden(self.tokens(inputs, 1), state),
                None => self.read(inputs, 1, state),
            };
            losses.extend(self.losses(hidden, targets));
            self.tell(targets.len());
            state = next;
            from = to - 1;
        }
        Ok((losses, state))
    }

    /// The summed loss of each of `spans` with the context before it behind it, one a row: contexts
    /// without losses, then the spans.
    fn limited(
        &mut self,
        text: &TokenStore,
        spans: &[u64],
        options: &StreamOptions,
    ) -> Result<Vec<f64>, DataError> {
        let (context, span, window) = (options.context, options.span, options.window);
        let row = |at: &u64| text.tokens(at - context as u64..at + span as u64);
        let rows: Vec<Vec<i32>> = spans.iter().map(row).collect::<Result<_, _>>()?;
        let column = |places: Range<usize>| -> Vec<i32> {
            let parts = rows.iter().map(|row| &row[places.clone()]);
            parts.flatten().copied().collect()
        };
        let mut state = self.model.initial_state(rows.len());
        let mut sums = vec![0.0; rows.len()];
        // The last token of a context is read with the span, because it predicts its first.
        let scored = context - 1;
        for (from, to) in pieces(0..scored, window).chain(pieces(scored..scored + span, window)) {
            let (hidden, next) = self.read(column(from..to), rows.len(), state);
            state = next;
            if from >= scored {
                let losses = self.losses(hidden, &column(from + 1..to + 1));
                for (sum, losses) in sums.iter_mut().zip(losses.chunks(to - from)) {
                    *sum += losses.iter().map(|loss| f64::from(*loss)).sum::<f64>();
                }
            }
            self.tell(rows.len() * (to - from));
        }
        Ok(sums)
    }
}

fn sum(losses: &[f32], range: Range<u64>) -> f64 {
    let losses = &losses[range.start as usize..range.end as usize];
    losses.iter().map(|loss| f64::from(*loss)).sum()
}

/// Means over spans whose summed losses are `(stream, limited)`.
fn compare(spans: &[(f64, f64)], span: usize) -> Option<Comparison> {
    if spans.is_empty() {
        return None;
    }
    let (streams, limited): (Vec<f64>, Vec<f64>) = spans.iter().copied().unzip();
    let per_token = span as f64;
    let mean = |of: &[f64]| of.iter().sum::<f64>() / spans.len() as f64 / per_token;
    let differences = spans.iter().map(|(stream, limited)| stream - limited);
    Some(Comparison {
        tokens: (spans.len() * span) as u64,
        stream: mean(&streams),
        limited: mean(&limited),
        standard_error: standard_error(&differences.collect::<Vec<_>>()).unwrap_or(0.0) / per_token,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(bins: usize, context: usize, span: usize, spans_per_bin: usize) -> StreamOptions {
        StreamOptions {
            tokens: 0,
            bins,
            context,
            span,
            spans_per_bin,
            window: 16,
            rows: 3,
            loss_chunk: 0,
        }
    }

    fn text(tokens: usize) -> TokenStore {
        TokenStore::from_documents(&[vec![1; tokens]])
    }

    #[test]
    fn bins_cover_every_target_and_spans_lie_in_them() {
        for (tokens, bins, context, span, wanted) in [
            (1000, 7, 64, 16, 0),
            (1000, 7, 64, 16, 3),
            (65, 1, 64, 1, 0),
            (50, 5, 9, 4, 2),
        ] {
            let options = options(bins, context, span, wanted);
            let plan = Plan::new(&text(tokens), &options).unwrap();
            let mut next = 1;
            for bin in &plan.bins {
                assert_eq!(bin.positions.start, next);
                next = bin.positions.end;
                assert!(wanted == 0 || bin.spans.len() <= wanted);
                for pair in bin.spans.windows(2) {
                    assert!(pair[1] >= pair[0] + span as u64, "{:?}", bin.spans);
                }
                for at in &bin.spans {
                    assert!(*at >= context as u64 && bin.positions.contains(at));
                    assert!(at + span as u64 <= bin.positions.end);
                }
            }
            assert_eq!(next, tokens as u64);
        }
        let all = Plan::new(&text(1000), &options(1, 64, 16, 0)).unwrap();
        assert_eq!(all.all_spans().len(), (1000 - 64) / 16);
    }

    #[test]
    fn differences_are_taken_from_span_to_span() {
        let found = compare(&[(12.0, 10.0), (26.0, 20.0)], 4).unwrap();
        assert_eq!((found.tokens, found.stream, found.limited), (8, 4.75, 3.75));
        // Differences a token of 0.5 and 1.5: standard deviation √½, over √2 spans.
        assert!((found.standard_error - 0.5).abs() < 1e-12);
        assert!((found.excess() - 1.0 / 3.75).abs() < 1e-12);
        assert_eq!(compare(&[], 4), None);
        assert_eq!(compare(&[(1.0, 2.0)], 4).unwrap().standard_error, 0.0);
    }

    #[test]
    fn what_cannot_be_measured_is_named() {
        let refused =
            |tokens: usize, options: StreamOptions| match Plan::new(&text(tokens), &options) {
                Ok(_) => String::new(),
                Err(error) => error.to_string(),
            };
        for (made, words) in [
            (refused(100, options(0, 8, 8, 0)), ["bins", "0"]),
            (refused(100, options(2, 0, 8, 0)), ["context", "0"]),
            (refused(100, options(2, 8, 0, 0)), ["span", "0"]),
            (refused(5, options(5, 8, 8, 0)), ["bins", "5 tokens"]),
            (refused(0, options(1, 8, 8, 0)), ["bins", "0 tokens"]),
        ] {
            assert!(words.iter().all(|word| made.contains(word)), "{made}");
        }
        let mut longer = options(2, 8, 8, 0);
        longer.tokens = 101;
        let made = refused(100, longer);
        assert!(
            made.contains("101") && made.contains("100 tokens"),
            "{made}"
        );
    }
}
