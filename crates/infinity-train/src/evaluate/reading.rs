//! Reading a text as it comes: how surprising every token was, and a state that does not depend on how it
//! came.
//!
//! ```text
//! tokens   0 ─────────── 512 ─────────── 1024 ────── newest
//! kept                                    ●           computed in one call from the cut before
//! ahead                                   └─ as it comes ─►
//! ```
//!
//! How a call is cut changes the last bits of a sum. So the state that is kept is that of the last
//! multiple of [`CUT`] tokens, and comes from one call over all tokens since the cut before, whether they
//! arrived together or one by one. What came after it is read ahead, to be looked at at once, and read
//! again with the rest when the next cut is reached.

use crate::step::loss::Head;
use infinity_kernels::in_pool;
use infinity_model::generate::{ids, numbers};
use infinity_model::{Context, GenerateError, GenerationConfig, InfinityModel};

/// Positions at which a text is cut are multiples of this.
pub const CUT: u64 = 512;
/// Most numbers of logits that are held at once.
const MOST_LOGITS: usize = 1 << 24;

/// One text of any length that is being read, in constant memory.
#[derive(Debug)]
pub struct Reading {
    model: InfinityModel,
    /// After the last cut.
    kept: Context,
    /// The tokens since.
    block: Vec<u32>,
    /// After those that were looked at; `None` if none was.
    ahead: Option<Context>,
    /// How many that is.
    looked: usize,
}

impl Reading {
    /// Goes on from `context`. If that is not a multiple of [`CUT`], the next cut is.
    pub fn new(model: InfinityModel, context: Context) -> Self {
        Self {
            model,
            kept: context,
            block: Vec::new(),
            ahead: None,
            looked: 0,
        }
    }

    /// Adds tokens and reads as far as the last cut. Gives the losses in nats of the tokens that were read
    /// now and not [looked](Self::look) at before, oldest first; a text's very first token has none.
    ///
    /// # Errors
    /// [`GenerateError`]: a token that the model does not know, or a device that fails.
    pub fn add(&mut self, tokens: &[u32]) -> Result<Vec<Option<f32>>, GenerateError> {
        GenerateError::check_tokens(tokens, self.model.config().vocab_size)?;
        let mut losses = Vec::new();
        let mut rest = tokens;
        loop {
            let room = (CUT - self.kept.position() % CUT) as usize - self.block.len();
            let (now, later) = rest.split_at(room.min(rest.len()));
            self.block.extend(now);
            rest = later;
            if now.len() < room {
                return Ok(losses);
            }
            let (next, found) = pass(&self.model, &self.kept, &self.block, self.looked)?;
            losses.extend(found);
            self.kept = next;
            self.block.clear();
            self.ahead = None;
            self.looked = 0;
        }
    }

    /// Reads what came after the last cut and was not looked at yet; gives the losses as
    /// [`add`](Self::add) does.
    ///
    /// # Errors
    /// A device that fails.
    pub fn look(&mut self) -> Result<Vec<Option<f32>>, GenerateError> {
        let new = &self.block[self.looked..];
        if new.is_empty() {
            return Ok(Vec::new());
        }
        let from = self.ahead.as_ref().unwrap_or(&self.kept);
        let (next, losses) = pass(&self.model, from, new, 0)?;
        self.ahead = Some(next);
        self.looked = self.block.len();
        Ok(losses)
    }

    /// After everything that was looked at, all of it since the last cut read again in one call: so this
    /// does not depend on how the text came either.
    ///
    /// # Errors
    /// A device that fails.
    pub fn settle(&mut self) -> Result<&Context, GenerateError> {
        if self.looked > 0 {
            let looked = &self.block[..self.looked];
            let (next, _) = pass(&self.model, &self.kept, looked, self.looked)?;
            self.ahead = Some(next);
        }
        Ok(self.now())
    }

    /// The model that reads.
    pub fn model(&self) -> &InfinityModel {
        &self.model
    }

    /// After the last cut: the bits of never having stopped.
    pub fn kept(&self) -> &Context {
        &self.kept
    }

    /// After everything that was looked at.
    pub fn now(&self) -> &Context {
        self.ahead.as_ref().unwrap_or(&self.kept)
    }

    /// Tokens since the last cut.
    pub fn pending(&self) -> usize {
        self.block.len()
    }
}

/// Reads `tokens` after `context` in one call; the context after them, and the losses of all but the
/// first `known`.
fn pass(
    model: &InfinityModel,
    context: &Context,
    tokens: &[u32],
    known: usize,
) -> Result<(Context, Vec<Option<f32>>), GenerateError> {
    let (n, vocab_size) = (tokens.len(), model.config().vocab_size);
    let device = model.device();
    let state = context.state.clone();
    let (hidden, state, logits) = in_pool(&device, || {
        let (hidden, state) = model.forward_hidden(ids(model, tokens).unsqueeze(), state);
        let logits = model.logits(hidden.clone().narrow(1, n - 1, 1));
        (hidden, state, logits)
    });
    let logits = numbers(logits)?;

    let mut losses = Vec::with_capacity(n - known);
    if known == 0 {
        losses.push(loss_of(&context.logits, tokens[0]));
    }
    let first = known.max(1);
    if first < n {
        let chunk = (MOST_LOGITS / vocab_size.max(1)).max(1);
        let behind = hidden.narrow(1, first - 1, n - first);
        let head = Head::of(model, chunk);
        let targets: Vec<i32> = tokens[first..].iter().map(|token| *token as i32).collect();
        let found = in_pool(&device, || head.losses(behind, &targets));
        losses.extend(found.into_iter().map(Some));
    }
    let mut past = context.past.clone();
    past.recent.extend(tokens);
    past.keep_recent(&GenerationConfig::default());
    past.has_logits = true;
    Ok((Context::after(state, logits, past), losses))
}

/// The loss in nats of `token` after these logits, if there are any.
fn loss_of(logits: &[f32], token: u32) -> Option<f32> {
    let most = logits.iter().copied().reduce(f32::max)?;
    let shares = logits.iter().map(|logit| f64::from(logit - most).exp());
    let sum: f64 = shares.sum();
    Some((sum.ln() - f64::from(logits[token as usize] - most)) as f32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, TensorData};
    use infinity_model::{LayerState, ModelConfig, ModelState};

    fn model() -> InfinityModel {
        let config = ModelConfig {
            vocab_size: 40,
            hidden_size: 32,
            num_hidden_layers: 2,
            num_attention_heads: 2,
            ..ModelConfig::first()
        };
        config.init_seeded(5, &Device::flex())
    }

    fn tokens(n: usize) -> Vec<u32> {
        (0..n as u32).map(|i| (i * i + i / 7) % 40).collect()
    }

    fn bits(state: &ModelState) -> Vec<u32> {
        let numbers =
            |tensor: TensorData| tensor.iter::<f32>().map(f32::to_bits).collect::<Vec<_>>();
        let layers = state.layers.iter().flat_map(|layer| match layer {
            LayerState::Infinity { memory, tails } => {
                let tails = tails.iter().flat_map(|tail| numbers(tail.to_data()));
                numbers(memory.to_data())
                    .into_iter()
                    .chain(tails)
                    .collect::<Vec<_>>()
            }
            LayerState::Softmax { .. } => panic!("another mixer"),
        });
        layers.collect()
    }

    /// Reads in pieces of these sizes, over and over, looking ahead after each where `looks`.
    fn read(sizes: &[usize], looks: bool, all: &[u32]) -> (Reading, Vec<Option<f32>>) {
        let model = model();
        let mut reading = Reading::new(model.clone(), Context::new(&model));
        let (mut losses, mut at) = (Vec::new(), 0);
        for size in sizes.iter().cycle() {
            let to = all.len().min(at + size);
            losses.extend(reading.add(&all[at..to]).unwrap());
            if looks {
                losses.extend(reading.look().unwrap());
            }
            at = to;
            if at == all.len() {
                break;
            }
        }
        losses.extend(reading.look().unwrap());
        (reading, losses)
    }

    #[test]
    fn the_kept_state_does_not_depend_on_how_the_text_came() {
        let all = tokens(1500);
        let (whole, losses) = read(&[1500], false, &all);
        assert_eq!(whole.kept().position(), 1024);
        assert_eq!(whole.now().position(), 1500);
        assert_eq!(losses.len(), all.len());
        assert!(losses[0].is_none() && losses[1..].iter().all(Option::is_some));
        for (sizes, looks) in [(&[7, 100, 1][..], true), (&[511, 2], true), (&[300], false)] {
            let (pieces, found) = read(sizes, looks, &all);
            assert!(
                bits(&pieces.kept().state) == bits(&whole.kept().state),
                "{sizes:?}"
            );
            assert_eq!(pieces.kept().logits, whole.kept().logits);
            assert_eq!(found.len(), losses.len());
            for (a, b) in found.iter().zip(&losses).skip(1) {
                assert!((a.unwrap() - b.unwrap()).abs() < 1e-4, "{a:?} {b:?}");
            }
        }
        // A state that was cut elsewhere has other bits, else the above would say nothing.
        let model = model();
        let mut other = Context::new(&model);
        for piece in all[..1024].chunks(100) {
            other.read(&model, piece).unwrap();
        }
        assert!(bits(&other.state) != bits(&whole.kept().state));
    }

    #[test]
    fn a_reading_that_was_left_at_a_cut_goes_on_with_the_same_bits() {
        let all = tokens(2000);
        let (whole, _) = read(&[64], false, &all);
        let (first, _) = read(&[90], true, &all[..700]);
        let mut second = Reading::new(model(), first.kept().clone());
        let losses = second.add(&all[512..]).unwrap();
        assert!(losses[0].is_some(), "the cut has logits");
        assert!(bits(&second.kept().state) == bits(&whole.kept().state));
    }

    #[test]
    fn losses_are_those_of_the_logits() {
        let all = tokens(20);
        let (_, losses) = read(&[20], false, &all);
        let model = model();
        let mut context = Context::new(&model);
        for (token, loss) in all.iter().zip(losses) {
            let expected = loss_of(&context.logits, *token);
            context.read(&model, &[*token]).unwrap();
            let apart = expected.unwrap_or(0.0) - loss.unwrap_or(0.0);
            assert!(apart.abs() < 1e-4 && expected.is_some() == loss.is_some());
        }
        let mut reading = Reading::new(model.clone(), Context::new(&model));
        let refused = reading.add(&[3, 40]).unwrap_err().to_string();
        assert!(refused.contains("40"), "{refused}");
    }
}
