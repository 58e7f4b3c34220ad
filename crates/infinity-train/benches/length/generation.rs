//! Resident memory while one text is generated.

use crate::Outcome;
use crate::checks::random_tokens;
use crate::flags::Flags;
use burn::tensor::Device;
use infinity_model::config::Mixer;
use infinity_model::generate::{GenerationConfig, generate_tokens};
use infinity_train::metrics::resident_bytes;
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;

/// How much larger the last sample may be than the first. The tokens themselves are kept, four
/// bytes each in a vector that doubles; what the model remembers must not show.
pub(crate) const SLACK_BYTES: u64 = 4 << 20;

/// Samples of the process that generates.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Memory {
    pub(crate) tokens: usize,
    pub(crate) every: usize,
    pub(crate) seconds: f64,
    /// After every `every` tokens. The first one is after the warm-up.
    pub(crate) resident_bytes: Vec<u64>,
    pub(crate) slack_bytes: u64,
}

/// Generates `flags.generate` tokens, as `infinity generate` does it.
pub(crate) fn measure(flags: &Flags) -> Outcome<Memory> {
    let model = flags.model(Mixer::Infinity).init_seeded(1, &Device::flex());
    let prompt = random_tokens(16, flags.vocab, 11)
        .into_iter()
        .map(|token| token as u32);
    let config = GenerationConfig {
        max_new_tokens: Some(flags.generate),
        ignore_eos: true,
        seed: Some(1),
        ..GenerationConfig::default()
    };
    let (mut done, mut samples) = (0, Vec::new());
    let generated = generate_tokens(&model, &prompt.collect::<Vec<_>>(), &config, &mut |_| {
        done += 1;
        if done % flags.every == 0 {
            samples.push(resident_bytes());
        }
        ControlFlow::Continue(())
    })?;
    if samples.is_empty() {
        return Err(format!("--generate {} is less than --every {}", done, flags.every).into());
    }
    Ok(Memory {
        tokens: generated.tokens.len(),
        every: flags.every,
        seconds: generated.decode_s,
        resident_bytes: samples,
        slack_bytes: SLACK_BYTES,
    })
}

impl Memory {
    pub(crate) fn first(&self) -> u64 {
        self.resident_bytes[0]
    }

    pub(crate) fn last(&self) -> u64 {
        self.resident_bytes[self.resident_bytes.len() - 1]
    }

    pub(crate) fn max(&self) -> u64 {
        self.resident_bytes.iter().copied().max().unwrap_or(0)
    }
}
