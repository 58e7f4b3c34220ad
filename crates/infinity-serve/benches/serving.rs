//! Texts at once against one: tokens a second, and the gap between a text's tokens while a neighbour
//! reads a long prompt.
//!
//! ```text
//! cargo bench --workspace --bench serving
//! … -- --hidden 512 --layers 9 --heads 8 --vocab 8192 --prompt 20000 --tokens 100
//! ```
//!
//! The model is that of `cargo xtask bench decoding` (32.5 million parameters), whose weights are four
//! times as large as most caches.
//!
//! It checks first: texts at once have the tokens that each has alone.
#![allow(clippy::print_stdout, reason = "a bench shows what it measured")]

use std::time::{Duration, Instant};

use infinity_model::burn::tensor::Device;
use infinity_model::config::KernelType;
use infinity_model::count::ParameterCount;
use infinity_model::{GenerationConfig, ModelConfig, Tokenizer};
use infinity_serve::{Engine, EngineConfig, EngineHandle, Event, Request};

#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let number = |name: &str, or: usize| {
        let value = std::env::args().skip_while(|arg| arg != name).nth(1);
        value.map_or(Ok(or), |value| value.parse())
    };
    let (tokens, prompt) = (number("--tokens", 100)?, number("--prompt", 20_000)?);
    let config = ModelConfig {
        vocab_size: number("--vocab", 8192)?,
        hidden_size: number("--hidden", 512)?,
        num_hidden_layers: number("--layers", 9)?,
        num_attention_heads: number("--heads", 8)?,
        kernel_type: KernelType::Identity,
        max_position_embeddings: 1024,
        ..ModelConfig::default()
    };
    config.validate()?;
    let parameters = ParameterCount::of(&config).total();
    let model = config.init(&Device::flex());
    let limits = EngineConfig {
        prefix_bytes: 0,
        ..EngineConfig::default()
    };
    let engine = Engine::start(model, Tokenizer::bytes(), limits)?;

    let alone: Vec<_> = (0..8)
        .map(|i| together(&engine, i..i + 1, 24).0.remove(0))
        .collect();
    assert_eq!(
        together(&engine, 0..8, 24).0,
        alone,
        "texts at once are those alone"
    );
    assert_ne!(alone[0], alone[1], "the check can fail");
    println!("check: eight texts at once have the tokens that each has alone");
    println!("model of {parameters} parameters");

    let mut one = 0.0;
    for n in [1, 8, 32] {
        let best = (0..3).map(|_| together(&engine, 0..n, tokens).1);
        let rate = (n as usize * tokens) as f64 / best.min().unwrap_or_default().as_secs_f64();
        one = if n == 1 { rate } else { one };
        println!(
            "{n:2} texts      {rate:.0} tokens/s, {:.2} times one",
            rate / one
        );
    }
    let quiet = gaps(&engine, tokens, 0)?;
    let read = Instant::now();
    let beside = gaps(&engine, 10 * tokens, prompt)?;
    println!("gap alone     {}", shown(&quiet));
    println!(
        "gap while a neighbour reads {prompt} tokens, in {:.1} s:",
        read.elapsed().as_secs_f64()
    );
    println!("              {}", shown(&beside));
    Ok(())
}

fn request(i: u64, length: usize, max_tokens: usize) -> Request {
    Request {
        prompt: (0..length as u64)
            .map(|at| ((at * 31 + i * 7) % 255) as u32)
            .collect(),
        sampling: GenerationConfig {
            seed: Some(i),
            ignore_eos: true,
            ..GenerationConfig::default()
        },
        max_tokens,
        ..Request::default()
    }
}

/// The tokens of some texts at once, and the time from when all have their first to when all have
/// their last.
fn together(
    engine: &EngineHandle,
    texts: std::ops::Range<u64>,
    tokens: usize,
) -> (Vec<Vec<u32>>, Duration) {
    let submit = |i| {
        engine
            .submit(request(i, 16, tokens + 1))
            .expect("there is room")
    };
    let events: Vec<_> = texts.map(submit).collect();
    let readers: Vec<_> = events
        .into_iter()
        .map(|mut events| {
            std::thread::spawn(move || {
                let (mut ids, mut first) = (Vec::new(), None);
                while let Some(event) = events.blocking_recv() {
                    match event {
                        Event::Token(token) => {
                            first.get_or_insert_with(Instant::now);
                            ids.push(token.id);
                        }
                        Event::Failed(error) => panic!("{error}"),
                        _ => {}
                    }
                }
                (ids, first.expect("a first token"), Instant::now())
            })
        })
        .collect();
    let made: Vec<_> = readers
        .into_iter()
        .map(|reader| reader.join().expect("it read"))
        .collect();
    let first = made.iter().map(|made| made.1).min().expect("a text");
    let last = made.iter().map(|made| made.2).max().expect("a text");
    (made.into_iter().map(|made| made.0).collect(), last - first)
}

/// The gaps between the tokens of a text, while a neighbour reads `prompt` tokens if that is not 0.
fn gaps(
    engine: &EngineHandle,
    tokens: usize,
    prompt: usize,
) -> Result<Vec<Duration>, Box<dyn std::error::Error>> {
    let mut events = engine.submit(request(1, 16, tokens))?;
    let neighbour = match prompt {
        0 => None,
        _ => Some(engine.submit(request(2, prompt, 1))?),
    };
    let (mut last, mut gaps): (Option<Instant>, Vec<Duration>) = (None, Vec::new());
    while let Some(event) = events.blocking_recv() {
        if let Event::Token(_) = event {
            let now = Instant::now();
            gaps.extend(last.replace(now).map(|last| now - last));
        }
        let done = neighbour
            .as_ref()
            .is_some_and(|neighbour| neighbour.is_closed());
        if done && prompt > 0 {
            break;
        }
    }
    gaps.sort();
    Ok(gaps)
}

fn shown(gaps: &[Duration]) -> String {
    let at = |part: f64| {
        let i = (part * gaps.len() as f64) as usize;
        1e3 * gaps
            .get(i.min(gaps.len() - 1))
            .map_or(0.0, Duration::as_secs_f64)
    };
    format!(
        "median {:.1} ms, 99 % {:.1} ms, longest {:.1} ms of {}",
        at(0.5),
        at(0.99),
        at(1.0),
        gaps.len()
    )
}
