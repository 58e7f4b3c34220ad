//! Generation with a real, untrained model.

use super::*;
use crate::config::ModelConfig;
use crate::count;

/// Untied and with large weights, so that what it says depends on all that it has read.
fn model() -> InfinityModel {
    let config = ModelConfig {
        tie_word_embeddings: false,
        initializer_range: 0.3,
        vocab_size: 257,
        hidden_size: 32,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        eos_token_id: Some(256),
        ..ModelConfig::first()
    };
    config.init(&Device::flex())
}

fn settings(max_new_tokens: usize) -> GenerationConfig {
    GenerationConfig {
        max_new_tokens: Some(max_new_tokens),
        seed: Some(5),
        ignore_eos: true,
        ..GenerationConfig::default()
    }
}

fn on_text(_: &str) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn run(model: &InfinityModel, prompt: &str, config: &GenerationConfig) -> Generation {
    generate(model, &Tokenizer::bytes(), prompt, config, &mut on_text).unwrap()
}

#[test]
fn what_it_reports_is_what_happened() {
    let model = model();
    let made = run(&model, "Once", &settings(20));
    assert_eq!(
        (made.prompt_tokens, made.tokens.len(), made.position),
        (4, 20, 24)
    );
    assert_eq!((made.finish, made.seed), (FinishReason::Length, 5));
    assert_eq!(made.text, Tokenizer::bytes().decode(&made.tokens).unwrap());
    let expected = count::state_bytes(model.config(), 1, made.position);
    assert_eq!(made.state_bytes as u64, expected);
}

#[test]
fn the_state_is_as_large_after_a_long_prompt() {
    let model = model();
    let short = run(&model, "a", &settings(2));
    let long = run(&model, &"many words ".repeat(200), &settings(2));
    assert_eq!(short.state_bytes, long.state_bytes);
    assert_eq!(long.position, 2202);
}

#[test]
fn ids_and_text_are_the_same_generation() {
    let model = model();
    let prompt = Tokenizer::bytes().encode("Once").unwrap();
    let mut seen = Vec::new();
    let mut on_token = |token| {
        seen.push(token);
        ControlFlow::Continue(())
    };
    let ids = generate_tokens(&model, &prompt, &settings(20), &mut on_token).unwrap();
    assert_eq!(ids.tokens, run(&model, "Once", &settings(20)).tokens);
    assert_eq!(ids.tokens, seen);
    let other = GenerationConfig {
        seed: Some(6),
        ..settings(20)
    };
    assert_ne!(
        ids.tokens,
        run(&model, "Once", &other).tokens,
        "another seed, another text"
    );
}

#[test]
fn a_text_goes_on_from_its_state() {
    let (model, tokenizer) = (model(), Tokenizer::bytes());
    let config = settings(8).greedy();
    let start = Context::new(&model);
    let (first, context) =
        generate_from(&model, &tokenizer, "Once", start, &config, &mut on_text).unwrap();
    assert_eq!(context.state.position, [12]);
    let (second, context) =
        generate_from(&model, &tokenizer, " upon", context, &config, &mut on_text).unwrap();
    assert_eq!((context.position(), second.position), (25, 25));

    // The whole text read at once goes on in the same way.
    let mut whole = tokenizer.encode("Once").unwrap();
    whole.extend(&first.tokens);
    whole.extend(tokenizer.encode(" upon").unwrap());
    let mut on_token = |_| ControlFlow::Continue(());
    let at_once = generate_tokens(&model, &whole, &config, &mut on_token).unwrap();
    assert_eq!(second.tokens, at_once.tokens);
    let forgetful = generate_tokens(&model, &whole[13..], &config, &mut on_token);
    assert_ne!(
        second.tokens,
        forgetful.unwrap().tokens,
        "what came before matters"
    );
}

#[test]
fn an_empty_prompt_begins_a_text() {
    let model = model();
    let made = run(&model, "", &settings(8).greedy());
    assert_eq!(made.prompt_tokens, 1);
    let mut on_token = |_| ControlFlow::Continue(());
    let from_separator =
        generate_tokens(&model, &[256], &settings(8).greedy(), &mut on_token).unwrap();
    assert_eq!(made.tokens, from_separator.tokens);
    let none = generate_tokens(&model, &[], &settings(8), &mut on_token);
    assert!(matches!(none, Err(GenerateError::EmptyPrompt)));
}

/// Going on with an empty prompt is as if nothing had happened, for any draws and in any place.
#[test]
fn a_text_that_was_left_goes_on_with_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.state");
    let (model, tokenizer) = (model(), Tokenizer::bytes());
    for config in [settings(12).greedy(), settings(12)] {
        let whole = run(&model, "Once", &config);
        for parts in [[1, 11], [5, 7], [11, 1]] {
            let (mut context, mut tokens) = (Context::new(&model), Vec::new());
            for (new, prompt) in parts.into_iter().zip(["Once", ""]) {
                let config = GenerationConfig {
                    max_new_tokens: Some(new),
                    // The seed is the context's.
                    seed: config.seed.filter(|_| !prompt.is_empty()),
                    ..config.clone()
                };
                let (made, after) =
                    generate_from(&model, &tokenizer, prompt, context, &config, &mut on_text)
                        .unwrap();
                tokens.extend(made.tokens);
                // Another process would have read it from a file.
                after.save(&path, &model, Some(&tokenizer)).unwrap();
                context = Context::load(&path, &model, Some(&tokenizer)).unwrap();
                assert_eq!(context.logits, after.logits);
            }
            assert_eq!(tokens, whole.tokens);
            assert_eq!(context.position(), whole.position);
        }
    }
}

#[test]
fn a_context_of_something_else_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.state");
    let (model, tokenizer) = (model(), Tokenizer::bytes());
    let refused = |tokenizer: &Tokenizer| {
        let error = Context::load(&path, &model, Some(tokenizer)).expect_err("wrong on purpose");
        error.to_string()
    };
    Context::new(&model)
        .save(&path, &model, Some(&tokenizer))
        .unwrap();
    let fresh = Context::load(&path, &model, Some(&tokenizer)).unwrap();
    assert_eq!((fresh.position(), fresh.logits.len()), (0, 0));
    let message = refused(&Tokenizer::chars("abc".chars()));
    assert!(
        message.contains("a.state") && message.contains("another tokenizer"),
        "{message}"
    );
    let mut far = Context::new(&model);
    far.past.draws = Some(Draws {
        seed: 1,
        count: u64::MAX,
    });
    far.save(&path, &model, None).unwrap();
    assert!(refused(&tokenizer).contains("more draws than tokens"));
    model.initial_state(2).save(&path, &model).unwrap();
    assert!(refused(&tokenizer).contains("2 rows"));
    // A state that was saved alone goes on with a prompt, and not with none.
    let mut read = Context::new(&model);
    read.read(&model, &[79, 110]).unwrap();
    read.state.save(&path, &model).unwrap();
    let alone = Context::load(&path, &model, Some(&tokenizer)).unwrap();
    let go_on = |prompt: &str| {
        let start = alone.clone();
        generate_from(
            &model,
            &tokenizer,
            prompt,
            start,
            &settings(3),
            &mut on_text,
        )
    };
    assert_eq!(go_on("ce").unwrap().0.position, 2 + 2 + 3);
    assert!(matches!(go_on(""), Err(GenerateError::EmptyPrompt)));
}

/// A caller can end it while the prompt is read, and what was read is not lost.
#[test]
fn a_long_prompt_is_left_between_pieces() {
    let (model, tokenizer) = (model(), Tokenizer::bytes());
    let mut calls = 0;
    let mut on_text = |text: &str| {
        calls += 1;
        assert_eq!(text, "");
        match calls {
            2 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    };
    let (start, prompt) = (Context::new(&model), "word ".repeat(500));
    let (made, context) = generate_from(
        &model,
        &tokenizer,
        &prompt,
        start,
        &settings(8),
        &mut on_text,
    )
    .unwrap();
    assert_eq!(
        (made.finish, made.tokens.len()),
        (FinishReason::Interrupted, 0)
    );
    assert_eq!((made.prompt_tokens, made.prompt_left), (2500, 2500 - 1024));
    assert_eq!((context.position(), made.position), (1024, 1024));
    assert_eq!(context.logits.len(), 257);
}

#[test]
fn settings_out_of_range_are_errors() {
    let config = GenerationConfig {
        top_p: 2.0,
        ..settings(8)
    };
    let error = generate(&model(), &Tokenizer::bytes(), "a", &config, &mut on_text).unwrap_err();
    assert!(
        error.to_string().contains("generation.top_p = 2"),
        "{error}"
    );
}

/// Kept in few bits, a text whose memory is compressed while it is read goes on with the same bits:
/// the file holds the codes and what was read since.
#[test]
fn a_compressed_text_goes_on_with_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.state");
    let every = 64;
    for width in [Width::Eight, Width::Four] {
        let compression = Some(Compression { width, every });
        let model = model().with_compression(compression).unwrap();
        let ids = |n: usize| -> Vec<u32> { (0..n).map(|i| (i * i % 251) as u32).collect() };
        // Before the first fold, on one, after one, and in pieces of all kinds.
        for calls in [&[10, 1, 1][..], &[64], &[200, 1, 1, 1], &[30, 50, 1]] {
            let mut context = Context::new(&model);
            calls
                .iter()
                .for_each(|n| drop(context.read(&model, &ids(*n)).unwrap().to_vec()));
            let size = context
                .save_in(&path, &Identity::of(&model, None), &[], Some(width))
                .unwrap();
            assert!(size.memory[1] * 3 < size.memory[0]);
            let mut loaded = Context::load(&path, &model, None).unwrap();
            assert_eq!(loaded.position(), calls.iter().sum::<usize>() as u64);
            assert_eq!(loaded.logits, context.logits, "{calls:?}");
            assert_eq!(loaded.past.recent, context.past.recent);
            for n in [3, 1, 90] {
                let expected = context.read(&model, &ids(n)).unwrap().to_vec();
                assert_eq!(loaded.read(&model, &ids(n)).unwrap(), expected, "{calls:?}");
            }
            // Kept again after that, from what was loaded.
            loaded
                .save_in(&path, &Identity::of(&model, None), &[], Some(width))
                .unwrap();
            let again = Context::load(&path, &model, None).unwrap();
            assert_eq!(again.logits, context.logits);
            // Exactly, it goes on with the same bits too, folds included.
            context.save(&path, &model, None).unwrap();
            let mut exact = Context::load(&path, &model, None).unwrap();
            let expected = context.read(&model, &ids(150)).unwrap().to_vec();
            assert_eq!(exact.read(&model, &ids(150)).unwrap(), expected);
        }
    }
}

#[test]
fn a_compressed_text_needs_the_model_that_compresses_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.state");
    let compression = |width, every| Some(Compression { width, every });
    let with = |compression| model().with_compression(compression).unwrap();
    let folding = with(compression(Width::Eight, 64));
    let mut context = Context::new(&folding);
    context.read(&folding, &[7; 70]).unwrap();
    let wrong = context.save_in(&path, &Identity::of(&folding, None), &[], Some(Width::Four));
    let message = wrong.unwrap_err().to_string();
    assert!(
        message.contains("4 bits") && message.contains("8 bits every 64"),
        "{message}"
    );
    context
        .save_in(
            &path,
            &Identity::of(&folding, None),
            &[],
            Some(Width::Eight),
        )
        .unwrap();
    for other in [
        None,
        compression(Width::Four, 64),
        compression(Width::Eight, 128),
    ] {
        let error = Context::load(&path, &with(other), None).unwrap_err();
        let message = error.to_string();
        assert!(message.contains("8 bits every 64 tokens"), "{message}");
        assert!(message.contains("--memory-compression"), "{message}");
    }
    // An exact model's text is compressed for the file alone: near, and not the same.
    let exact = model();
    let mut context = Context::new(&exact);
    context.read(&exact, &[7, 8, 9]).unwrap();
    context
        .save_in(&path, &Identity::of(&exact, None), &[], Some(Width::Eight))
        .unwrap();
    let mut loaded = Context::load(&path, &exact, None).unwrap();
    assert_eq!((loaded.position(), &loaded.logits), (3, &context.logits));
    let expected = context.read(&exact, &[1, 2]).unwrap().to_vec();
    let found = loaded.read(&exact, &[1, 2]).unwrap();
    assert_ne!(found, expected);
    let apart = found.iter().zip(&expected).map(|(a, b)| (a - b).abs());
    assert!(apart.fold(0.0, f32::max) < 0.1);
}
