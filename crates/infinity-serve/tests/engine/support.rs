//! Small models, and what a request led to.

use infinity_model::burn::tensor::Device;
use infinity_model::config::Mixer;
use infinity_model::{FinishReason, GenerationConfig, InfinityModel, ModelConfig, Tokenizer};
use infinity_serve::{
    Engine, EngineConfig, EngineError, EngineHandle, Event, Request, Token, Usage,
};
use tokio::sync::mpsc::Receiver;

pub(crate) fn model_of(mixer: Mixer, seed: u64) -> InfinityModel {
    model_on(&Device::flex(), mixer, seed)
}

pub(crate) fn model_on(device: &Device, mixer: Mixer, seed: u64) -> InfinityModel {
    ModelConfig {
        vocab_size: 257,
        hidden_size: 32,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        mixer,
        // Far apart, so that a text is not the same whatever was read.
        initializer_range: 0.3,
        ..ModelConfig::first()
    }
    .init_seeded(seed, device)
}

pub(crate) fn model() -> InfinityModel {
    model_of(Mixer::Infinity, 1)
}

pub(crate) fn engine(config: EngineConfig) -> EngineHandle {
    Engine::start(model(), Tokenizer::bytes(), config).unwrap()
}

/// Numbers that look random and are not.
pub(crate) fn random(seed: u64) -> impl FnMut(usize) -> usize {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move |below| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) as usize % below
    }
}

pub(crate) fn prompt(seed: u64, length: usize) -> Vec<u32> {
    let mut next = random(seed + 1);
    (0..length).map(|_| next(256) as u32).collect()
}

pub(crate) fn sampling(seed: u64) -> GenerationConfig {
    GenerationConfig {
        seed: Some(seed),
        ignore_eos: true,
        temperature: 1.0,
        ..GenerationConfig::default()
    }
}

#[derive(Debug, Default, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) echo: Vec<Token>,
    pub(crate) tokens: Vec<Token>,
    pub(crate) read: usize,
    pub(crate) usage: Usage,
    pub(crate) reason: Option<FinishReason>,
}

impl Outcome {
    pub(crate) fn ids(&self) -> Vec<u32> {
        self.tokens.iter().map(|token| token.id).collect()
    }
}

pub(crate) fn wait(mut events: Receiver<Event>) -> Result<Outcome, EngineError> {
    let mut outcome = Outcome::default();
    while let Some(event) = events.blocking_recv() {
        match event {
            Event::Read { tokens, .. } => outcome.read = tokens,
            Event::Echo(token) => outcome.echo.push(token),
            Event::Token(token) => outcome.tokens.push(token),
            Event::Finished { reason, usage } => {
                (outcome.reason, outcome.usage) = (Some(reason), usage);
                return Ok(outcome);
            }
            Event::Failed(error) => return Err(error),
        }
    }
    panic!("no end of events")
}

/// Reads up to the next new token.
pub(crate) fn until_token(events: &mut Receiver<Event>) {
    loop {
        match events.blocking_recv().expect("a token comes") {
            Event::Token(_) => return,
            Event::Failed(error) => panic!("{error}"),
            _ => {}
        }
    }
}

pub(crate) fn run(engine: &EngineHandle, request: Request) -> Result<Outcome, EngineError> {
    wait(engine.submit(request)?)
}

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    runtime.unwrap().block_on(future)
}
