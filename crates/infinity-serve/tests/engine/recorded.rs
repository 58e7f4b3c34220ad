//! On a GPU a step of rows that stay together is recorded and repeated: their texts are those of steps that are launched.

use infinity_model::Tokenizer;
use infinity_model::burn::tensor::*;
use infinity_model::config::Mixer;
use infinity_serve::{Engine, EngineConfig, EngineHandle, Request, Start, Token};

use crate::support::{block_on, model_on, prompt, run, sampling, until_token, wait};

fn engine(device: &Device) -> EngineHandle {
    let config = EngineConfig {
        prefix_bytes: 0,
        ..EngineConfig::default()
    };
    Engine::start(
        model_on(device, Mixer::Infinity, 1),
        Tokenizer::bytes(),
        config,
    )
    .unwrap()
}

fn request(i: u64, max_tokens: usize) -> Request {
    Request {
        prompt: prompt(i, 7 + i as usize),
        sampling: sampling(i),
        max_tokens,
        logprobs: Some(2),
        ..Request::default()
    }
}

/// How many steps were recorded ones since the last call.
fn recorded(engine: &EngineHandle, before: &mut u64) -> u64 {
    let now = engine.metrics().recorded.get();
    now - std::mem::replace(before, now)
}

/// Log-probabilities of the same tokens, which may differ in their last bits where other rows are beside them.
fn agree(a: &[Token], b: &[Token]) {
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(b) {
        let (p, q) = (a.logprob.unwrap(), b.logprob.unwrap());
        assert!(a.id == b.id && (p - q).abs() < 1e-3, "{a:?} {b:?}");
    }
}

fn rows_have_the_texts_of_steps_that_are_launched(device: &Device) {
    let engine = engine(device);
    let mut steps = 0;
    // In pieces that are not worth a recording, each of which goes on where the last one ended.
    let in_parts = |i: u64| {
        let session = block_on(engine.create_session("a".into())).unwrap().id;
        let mut tokens = Vec::new();
        for _ in 0..3 {
            let mut part = request(i, 30);
            part.start = Start::Session(session.clone());
            if !tokens.is_empty() {
                part.prompt.clear();
            }
            tokens.extend(run(&engine, part).unwrap().tokens);
        }
        tokens
    };
    let launched: Vec<_> = (0..3).map(in_parts).collect();
    assert_eq!(recorded(&engine, &mut steps), 0);
    // Alone: the same bits.
    let alone = run(&engine, request(0, 90)).unwrap().tokens;
    assert!(recorded(&engine, &mut steps) > 60);
    assert_eq!(alone, launched[0]);
    assert_ne!(run(&engine, request(4, 90)).unwrap().tokens, launched[0]);
    recorded(&engine, &mut steps);
    // Two rows, and a third that comes when their step is recorded and leaves before theirs ends.
    let mut first = engine.submit(request(0, 90)).unwrap();
    let second = engine.submit(request(1, 90)).unwrap();
    for _ in 0..40 {
        until_token(&mut first);
    }
    let before = recorded(&engine, &mut steps);
    let third = run(&engine, request(2, 5)).unwrap().tokens;
    agree(&third, &launched[2][..5]);
    let [first, second] = [first, second].map(|events| wait(events).unwrap().tokens);
    let after = recorded(&engine, &mut steps);
    assert!(before > 0 && after > 0, "{before} {after}");
    agree(&first, &launched[0][40..]);
    agree(&second, &launched[1]);
}

#[cfg(feature = "wgpu")]
#[test]
fn wgpu() {
    rows_have_the_texts_of_steps_that_are_launched(&Device::wgpu(DeviceKind::DefaultDevice));
}

#[cfg(feature = "cuda")]
#[test]
fn cuda() {
    rows_have_the_texts_of_steps_that_are_launched(&Device::cuda(0));
}
