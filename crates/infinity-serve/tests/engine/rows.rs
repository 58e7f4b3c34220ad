//! A row's answer is its own, whatever runs beside it; places are free at once.

use std::ops::ControlFlow;
use std::thread::sleep;
use std::time::{Duration, Instant};

use infinity_model::config::Mixer;
use infinity_model::{FinishReason, Tokenizer, generate_tokens};
use infinity_serve::{Engine, EngineConfig, EngineError, Request};

use crate::support::{engine, model, model_of, prompt, random, run, sampling, until_token, wait};

fn request(i: u64) -> Request {
    let mut next = random(i);
    let length = [1, 7, 40, 511, 512, 513, 700, 1100][next(8)] + next(3);
    Request {
        prompt: prompt(i, length),
        sampling: sampling(i),
        max_tokens: 1 + next(40),
        logprobs: Some(2),
        echo: i.is_multiple_of(5),
        ..Request::default()
    }
}

/// Random joins and leaves, rows of unequal length, prompts of several pieces, some with their own
/// logits told: all tokens and all log-probabilities have the bits of running alone.
#[test]
fn beside_others_a_row_has_the_bits_of_being_alone() {
    for mixer in [Mixer::Infinity, Mixer::Softmax] {
        let start = |config| Engine::start(model_of(mixer, 1), Tokenizer::bytes(), config).unwrap();
        let config = EngineConfig {
            prefix_bytes: 0,
            max_rows: 40,
            ..EngineConfig::default()
        };
        let n = if mixer == Mixer::Infinity { 44 } else { 10 };
        let alone = start(config.clone());
        let expected: Vec<_> = (0..n).map(|i| run(&alone, request(i)).unwrap()).collect();
        let together = start(config);
        let mut next = random(99);
        let mut running = Vec::new();
        for i in 0..n {
            // Some go away in the middle.
            let mut left = together.submit(request(1000 + i)).unwrap();
            running.push(together.submit(request(i)).unwrap());
            if next(3) == 0 {
                sleep(Duration::from_millis(next(5) as u64));
                let _ = left.try_recv();
            }
        }
        for (i, events) in running.into_iter().enumerate() {
            assert_eq!(wait(events).unwrap(), expected[i], "{mixer:?} {i}");
        }
        // The comparison sees another seed and another prompt.
        let mut other = request(3);
        other.sampling.seed = Some(1234);
        other.max_tokens = 30;
        let mut same = request(3);
        same.max_tokens = 30;
        let same = run(&together, same).unwrap();
        assert_ne!(run(&together, other.clone()).unwrap().tokens, same.tokens);
        other.sampling.seed = Some(3);
        *other.prompt.last_mut().unwrap() ^= 1;
        assert_ne!(run(&together, other).unwrap().tokens, same.tokens);
    }
}

#[test]
fn a_fresh_text_is_what_the_library_generates() {
    let engine = engine(EngineConfig::default());
    for i in [1, 2, 8] {
        let mut request = request(i);
        request.prompt = prompt(i, 1300);
        let mut config = request.sampling.clone();
        config.max_new_tokens = Some(request.max_tokens);
        let go_on = &mut |_| ControlFlow::Continue(());
        let expected = generate_tokens(&model(), &request.prompt, &config, go_on).unwrap();
        let found = run(&engine, request.clone()).unwrap();
        assert_eq!(found.ids(), expected.tokens);
        assert_eq!(found.usage.cached_tokens, 0);
        // The second time a beginning is there already, and the bits are the same.
        let again = run(&engine, request).unwrap();
        assert_eq!(again.usage.cached_tokens, 1024);
        assert_eq!(again.tokens, found.tokens);
    }
}

#[test]
fn the_prompts_own_tokens_have_the_probabilities_that_generating_gives_them() {
    let engine = engine(EngineConfig::default());
    let mut first = request(1);
    (first.prompt, first.max_tokens) = (prompt(5, 600), 12);
    let made = run(&engine, first.clone()).unwrap();
    let whole = Request {
        prompt: [first.prompt.clone(), made.ids()].concat(),
        echo: true,
        max_tokens: 0,
        ..first
    };
    let scored = run(&engine, whole.clone()).unwrap();
    assert_eq!(scored.echo.len(), 612);
    assert_eq!(scored.echo[0].logprob, None);
    assert!(scored.tokens.is_empty() && scored.usage.new_tokens == 0);
    for (echo, token) in scored.echo[600..].iter().zip(&made.tokens) {
        let (echo_p, token_p) = (echo.logprob.unwrap(), token.logprob.unwrap());
        assert!((echo_p - token_p).abs() < 1e-3, "{echo:?} {token:?}");
    }
    let top = &scored.echo[7].top;
    assert!(top.len() == 2 && top[0].1 >= top[1].1);
}

/// Waits until a number is what it should be.
fn soon(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}");
        sleep(Duration::from_millis(2));
    }
}

#[test]
fn who_goes_away_frees_the_place_and_who_waits_gets_it() {
    let engine = engine(EngineConfig {
        max_rows: 1,
        max_queue: 2,
        ..EngineConfig::default()
    });
    let endless = || Request {
        prompt: prompt(1, 5),
        sampling: sampling(1),
        max_tokens: 1 << 20,
        ..Request::default()
    };
    let mut first = engine.submit(endless()).unwrap();
    until_token(&mut first);
    let short = Request {
        max_tokens: 1,
        ..endless()
    };
    let waiting = engine.submit(short.clone()).unwrap();
    let _gone = engine.submit(endless()).unwrap();
    let refused = engine.submit(endless()).unwrap_err();
    assert!(
        matches!(refused, EngineError::Busy { limit: 2, retry_after } if retry_after.as_secs() >= 1),
        "{refused}"
    );
    drop(_gone);
    drop(first);
    assert_eq!(wait(waiting).unwrap().usage.new_tokens, 1);
    assert_eq!(
        run(&engine, short).unwrap().reason,
        Some(FinishReason::Length)
    );
    soon("one was refused, one left", || {
        engine.metrics().refused.get() == 1 && engine.metrics().left.get() == 1
    });
    let large = Request {
        max_tokens: usize::MAX,
        ..endless()
    };
    assert!(matches!(
        engine.submit(large),
        Err(EngineError::TooLarge { .. })
    ));
    let unknown = run(
        &engine,
        Request {
            prompt: vec![300],
            max_tokens: 1,
            ..Request::default()
        },
    );
    assert!(unknown.unwrap_err().to_string().contains("token 300"));
    assert!(
        run(&engine, Request::default())
            .unwrap_err()
            .to_string()
            .contains("no tokens")
    );
}

#[test]
fn a_slow_reader_is_parked_and_loses_nothing() {
    let engine = engine(EngineConfig {
        max_unread: 4,
        ..EngineConfig::default()
    });
    let slow = Request {
        prompt: prompt(2, 30),
        sampling: sampling(2),
        max_tokens: 60,
        echo: true,
        ..Request::default()
    };
    let events = engine.submit(slow.clone()).unwrap();
    soon("it is parked", || engine.metrics().parked.get() == 1);
    let before = engine.metrics().new_tokens.get();
    assert!(before <= 6, "{before} tokens without a reader");
    let quick = run(
        &engine,
        Request {
            echo: false,
            ..slow.clone()
        },
    )
    .unwrap();
    let slow = wait(events).unwrap();
    assert_eq!(slow.tokens, quick.tokens);
    assert_eq!((slow.echo.len(), slow.read), (30, 30));
    soon("nobody is left", || engine.metrics().rows.get() == 0);
}

/// Readers that do not read: nothing is computed ahead of them, and nobody looks for work that there
/// is none of.
#[test]
fn who_does_not_read_costs_neither_memory_nor_time() {
    let engine = engine(EngineConfig {
        max_rows: 2,
        max_unread: 4,
        ..EngineConfig::default()
    });
    let scored = Request {
        prompt: prompt(3, 4 * 512),
        sampling: sampling(3),
        max_tokens: 1,
        echo: true,
        logprobs: Some(2),
        ..Request::default()
    };
    let quick = run(&engine, scored.clone()).unwrap();
    let before = engine.metrics().read_tokens.get();
    let unread: Vec<_> = (0..2)
        .map(|_| engine.submit(scored.clone()).unwrap())
        .collect();
    let waiting = engine.submit(scored.clone()).unwrap();
    soon("both are parked", || engine.metrics().parked.get() == 2);
    let read = engine.metrics().read_tokens.get() - before;
    assert_eq!(read, 2 * 512, "a piece each, and no more until it is read");
    let turns = engine.metrics().turns.get();
    sleep(Duration::from_millis(300));
    let turns = engine.metrics().turns.get() - turns;
    assert!((1..=100).contains(&turns), "{turns} turns of the engine");
    for events in unread.into_iter().chain([waiting]) {
        let slow = wait(events).unwrap();
        assert_eq!((&slow.echo, &slow.tokens), (&quick.echo, &quick.tokens));
    }
}

#[test]
fn log_probabilities_have_a_limit() {
    let engine = engine(EngineConfig::default());
    let ask = |logprobs| Request {
        prompt: vec![1, 2],
        max_tokens: 1,
        logprobs: Some(logprobs),
        ..Request::default()
    };
    assert_eq!(run(&engine, ask(20)).unwrap().tokens[0].top.len(), 20);
    let refused = run(&engine, ask(21)).unwrap_err().to_string();
    assert_eq!(refused, "logprobs = 21 is too large: at most 20");
}
