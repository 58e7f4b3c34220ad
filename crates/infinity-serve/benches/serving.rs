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

use infinity_kernels::testing::check_flags;
use infinity_model::burn::tensor::Device;
use infinity_model::config::KernelType;
use infinity_model::count::ParameterCount;
use infinity_model::{GenerationConfig, ModelConfig, Tokenizer};
use infinity_serve::{Engine, EngineConfig, EngineHandle, Event, Request};

#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Tokens of a text, at least: with fewer of them 32 texts do not all go on at once.
const LEAST: usize = 24;
/// How often each number of texts is measured.
const ROUNDS: usize = 5;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    check_flags(&[
        "--heads=",
        "--hidden=",
        "--layers=",
        "--prompt=",
        "--tokens=",
        "--vocab=",
    ])?;
    let number = |name: &str, or: usize| {
        let value = std::env::args().skip_while(|arg| arg != name).nth(1);
        value.map_or(Ok(or), |value| value.parse())
    };
    let (tokens, prompt) = (number("--tokens", 100)?, number("--prompt", 20_000)?);
    if tokens < LEAST {
        return Err(format!(
            "--tokens {tokens}: at least {LEAST}, so that 32 texts go on at once for a while"
        )
        .into());
    }
    let config = ModelConfig {
        vocab_size: number("--vocab", 8192)?,
        hidden_size: number("--hidden", 512)?,
        num_hidden_layers: number("--layers", 9)?,
        num_attention_heads: number("--heads", 8)?,
        kernel_type: KernelType::Identity,
        max_position_embeddings: 1024,
        ..ModelConfig::first()
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

    // In turns, so that each has the machine's best moments.
    let counts = [1, 8, 32];
    let mut rates = [0.0f64; 3];
    for _ in 0..ROUNDS {
        for (rate, n) in rates.iter_mut().zip(counts) {
            *rate = rate.max(together(&engine, 0..n, tokens).1);
        }
    }
    for (rate, n) in rates.iter().zip(counts) {
        let times = rate / rates[0];
        println!("{n:2} texts      {rate:.0} tokens/s, {times:.2} times one");
    }
    let quiet = gaps(&engine, tokens, 0)?;
    let read = Instant::now();
    // No text ends before a prompt of as many tokens is read.
    let beside = gaps(&engine, tokens.max(prompt), prompt)?;
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

/// The tokens of some texts at once, and how many came a second while all were being continued: from
/// when the last one has its first to when the first one has its last.
fn together(
    engine: &EngineHandle,
    texts: std::ops::Range<u64>,
    tokens: usize,
) -> (Vec<Vec<u32>>, f64) {
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
                let (mut ids, mut times) = (Vec::new(), Vec::new());
                while let Some(event) = events.blocking_recv() {
                    match event {
                        Event::Token(token) => {
                            times.push(Instant::now());
                            ids.push(token.id);
                        }
                        Event::Failed(error) => panic!("{error}"),
                        _ => {}
                    }
                }
                (ids, times)
            })
        })
        .collect();
    let (ids, times): (Vec<_>, Vec<Vec<Instant>>) = readers
        .into_iter()
        .map(|reader| reader.join().expect("it read"))
        .unzip();
    let first = times.iter().map(|times| times[0]).max().expect("a text");
    let last = times.iter().map(|times| times[times.len() - 1]).min();
    let last = last.expect("a text");
    let counted = times.iter().flatten();
    let counted = counted
        .filter(|&&time| time > first && time <= last)
        .count();
    (ids, counted as f64 / (last - first).as_secs_f64())
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
