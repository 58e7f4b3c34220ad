//! Text around the loop: tokens become characters, characters are held back while they may be the
//! beginning of a stop string.

use std::ops::ControlFlow;

use super::run::{self, Read, Vocabulary};
use super::stop::{Matched, StopMatcher};
use super::{FinishReason, GenerationConfig, TokenGeneration};
use crate::error::GenerateError;
use crate::tokenizer::Tokenizer;

/// Generates text; gives it whole, and to `on_text` in pieces.
pub(super) fn run(
    read: &mut Read<'_>,
    tokenizer: &Tokenizer,
    prompt: &[u32],
    config: &GenerationConfig,
    vocabulary: &Vocabulary,
    on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
) -> Result<(String, TokenGeneration), GenerateError> {
    let mut stream = tokenizer.decode_stream();
    let mut output = Output {
        matcher: StopMatcher::new(&config.stop),
        text: String::new(),
        on_text,
    };
    let mut generation = run::run(read, prompt, config, vocabulary, &mut |token| {
        Ok(match stream.push(token)? {
            Some(piece) => output.take(&piece),
            None => ControlFlow::Continue(()),
        })
    })?;
    let went_on = matches!(generation.finish, FinishReason::Eos | FinishReason::Length);
    if went_on && let ControlFlow::Break(reason) = output.end(stream.finish()?) {
        generation.finish = reason;
    }
    Ok((output.text, generation))
}

/// Where new text goes.
struct Output<'a> {
    matcher: StopMatcher,
    text: String,
    on_text: &'a mut dyn FnMut(&str) -> ControlFlow<()>,
}

impl Output<'_> {
    /// Takes a decoded piece; breaks at a stop string, or when the caller does.
    fn take(&mut self, piece: &str) -> ControlFlow<FinishReason> {
        let Matched { text, stopped } = self.matcher.push(piece);
        let given = self.give(&text);
        if stopped {
            ControlFlow::Break(FinishReason::Stop)
        } else {
            given
        }
    }

    /// Takes the last piece, and what was held back.
    fn end(&mut self, piece: Option<String>) -> ControlFlow<FinishReason> {
        self.take(&piece.unwrap_or_default())?;
        let held = self.matcher.finish();
        self.give(&held)
    }

    fn give(&mut self, text: &str) -> ControlFlow<FinishReason> {
        if text.is_empty() {
            return ControlFlow::Continue(());
        }
        self.text.push_str(text);
        (self.on_text)(text).map_break(|()| FinishReason::Interrupted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A model that says `script`, whatever it reads, and records what it read.
    struct Scripted {
        script: Vec<u32>,
        next: usize,
        seen: Vec<u32>,
    }

    impl Scripted {
        fn saying(text: &str) -> Self {
            Self {
                script: text.bytes().map(u32::from).collect(),
                next: 0,
                seen: Vec::new(),
            }
        }

        fn read(&mut self, tokens: &[u32]) -> Result<Vec<f32>, GenerateError> {
            self.seen.extend_from_slice(tokens);
            let mut logits = vec![0.0; 300];
            // A token the tokenizer does not have is the most likely one, and must not be drawn.
            logits[299] = 50.0;
            logits[self.script[self.next % self.script.len()] as usize] = 20.0;
            self.next += 1;
            Ok(logits)
        }
    }

    struct Outcome {
        text: String,
        pieces: Vec<String>,
        run: TokenGeneration,
        seen: Vec<u32>,
    }

    fn generate(model: Scripted, prompt: &str, config: &GenerationConfig) -> Outcome {
        generate_until(model, prompt, config, usize::MAX)
    }

    fn generate_until(
        mut model: Scripted,
        prompt: &str,
        config: &GenerationConfig,
        calls: usize,
    ) -> Outcome {
        let tokenizer = Tokenizer::bytes();
        let prompt = tokenizer.encode(prompt).unwrap();
        let model_config = crate::ModelConfig {
            vocab_size: 300,
            ..Default::default()
        };
        let vocabulary = Vocabulary::new(&model_config, Some(&tokenizer), config);
        let mut pieces = Vec::new();
        let mut on_text = |piece: &str| {
            pieces.push(piece.to_owned());
            if pieces.len() >= calls {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        let read = &mut |tokens: &[u32]| model.read(tokens);
        let (text, run) =
            super::run(read, &tokenizer, &prompt, config, &vocabulary, &mut on_text).unwrap();
        Outcome {
            text,
            pieces,
            run,
            seen: model.seen,
        }
    }

    fn greedy(max_new_tokens: usize) -> GenerationConfig {
        GenerationConfig {
            max_new_tokens: Some(max_new_tokens),
            ..Default::default()
        }
        .greedy()
    }

    #[test]
    fn the_text_comes_in_pieces_and_whole() {
        let outcome = generate(Scripted::saying("héllo "), "ab", &greedy(7));
        assert_eq!(outcome.text, "héllo ");
        assert_eq!(outcome.pieces, ["h", "é", "l", "l", "o", " "]);
        assert_eq!(outcome.run.finish, FinishReason::Length);
        assert_eq!(outcome.run.tokens.len(), 7);
        let read = [&b"ab"[..], "héllo".as_bytes()].concat();
        assert!(
            outcome
                .seen
                .iter()
                .copied()
                .eq(read.into_iter().map(u32::from))
        );
    }

    #[test]
    fn a_cut_character_is_given_at_the_end() {
        let outcome = generate(Scripted::saying("héllo"), "a", &greedy(2));
        assert_eq!(outcome.text, "h\u{FFFD}");
        assert_eq!(outcome.pieces.concat(), outcome.text);
    }

    #[test]
    fn eos_ends_the_text_unless_ignored() {
        let model = || {
            let mut model = Scripted::saying("hi");
            model.script.push(256);
            model
        };
        let outcome = generate(model(), "a", &greedy(10));
        assert_eq!(
            (outcome.text.as_str(), outcome.run.finish),
            ("hi", FinishReason::Eos)
        );
        assert_eq!(outcome.run.tokens, [104, 105, 256]);

        let config = GenerationConfig {
            ignore_eos: true,
            ..greedy(5)
        };
        let outcome = generate(model(), "a", &config);
        assert_eq!(
            (outcome.text.as_str(), outcome.run.finish),
            ("hihi", FinishReason::Length)
        );

        let config = GenerationConfig {
            eos_token_id: vec![105],
            ..greedy(5)
        };
        assert_eq!(generate(model(), "a", &config).text, "h");
    }

    #[test]
    fn stop_strings_are_never_given_in_part() {
        let config = GenerationConfig {
            stop: vec!["\nUser:".into()],
            ..greedy(50)
        };
        let outcome = generate(Scripted::saying("Yes.\nUse it.\nUser: and"), "a", &config);
        assert_eq!(outcome.text, "Yes.\nUse it.");
        assert_eq!(outcome.pieces.concat(), outcome.text);
        assert_eq!(outcome.run.finish, FinishReason::Stop);

        let outcome = generate(
            Scripted::saying("Yes.\nUs"),
            "a",
            &GenerationConfig {
                max_new_tokens: Some(7),
                ..config
            },
        );
        assert_eq!(
            outcome.text, "Yes.\nUs",
            "the end belongs to the text after all"
        );
        assert_eq!(outcome.run.finish, FinishReason::Length);
    }

    #[test]
    fn the_caller_can_end_it() {
        let outcome = generate_until(Scripted::saying("hello"), "a", &greedy(50), 3);
        assert_eq!(
            (outcome.text.as_str(), outcome.run.finish),
            ("hel", FinishReason::Interrupted)
        );
        assert_eq!(outcome.run.tokens.len(), 3);
    }

    #[test]
    fn max_length_counts_the_prompt() {
        let config = GenerationConfig {
            max_new_tokens: None,
            max_length: Some(6),
            ..greedy(1)
        };
        assert_eq!(
            generate(Scripted::saying("x"), "abcd", &config)
                .run
                .tokens
                .len(),
            2
        );
    }

    #[test]
    fn prompts_that_cannot_be_read_are_errors() {
        let vocabulary = Vocabulary {
            known: 10,
            drawable: 10,
            eos: Vec::new(),
        };
        let attempt = |prompt: &[u32]| {
            let mut nothing = |_| Ok(ControlFlow::Continue(()));
            run::run(
                &mut |_| Ok(vec![0.0; 10]),
                prompt,
                &greedy(1),
                &vocabulary,
                &mut nothing,
            )
        };
        assert!(matches!(attempt(&[]), Err(GenerateError::EmptyPrompt)));
        let message = attempt(&[1, 2, 10]).unwrap_err().to_string();
        assert!(message.contains("token 10 at position 2"), "{message}");
        assert!(attempt(&[1, 2, 9]).is_ok());
    }

    #[test]
    fn a_seed_is_reported_and_gives_the_same_text() {
        let config = GenerationConfig {
            max_new_tokens: Some(40),
            ..Default::default()
        };
        let config = GenerationConfig {
            temperature: 20.0,
            top_k: 0,
            top_p: 1.0,
            ..config
        };
        let first = generate(Scripted::saying("abc"), "a", &config);
        let config = GenerationConfig {
            seed: Some(first.run.seed),
            ..config
        };
        assert_eq!(
            generate(Scripted::saying("abc"), "a", &config).run.tokens,
            first.run.tokens
        );
        let config = GenerationConfig {
            seed: Some(first.run.seed + 1),
            ..config
        };
        assert_ne!(
            generate(Scripted::saying("abc"), "a", &config).run.tokens,
            first.run.tokens
        );
    }
}
