//! One text that is being continued: which tokens its model is to read next, and what came of them.
//!
//! A [`Decoder`] has no model. It says what it [wants](Decoder::wants) to be read and
//! [takes](Decoder::take) the logits after it, so that one program can read for many of them at
//! once, and a test can say what a model would.

use std::ops::Range;

use crate::config::{ModelConfig, choice};
use crate::error::GenerateError;
use crate::generation_config::GenerationConfig;
use crate::sampler::{Draws, Sampler};
use crate::tokenizer::{DecodeStream, Tokenizer};

/// Most tokens of a prompt that are read at once.
pub const PROMPT_PIECE: usize = 512;

/// Tokens that a text is remembered by, if penalties do not look back on more.
const RECENT: usize = 64;

choice! {
    /// Why generation ended.
    FinishReason, key = "finish_reason",
    {
        /// A token that ends a text.
        Eos = "eos",
        /// A stop string.
        Stop = "stop",
        /// As many tokens as allowed.
        Length = "length",
        /// The caller said so.
        Interrupted = "interrupted",
    }
}

/// What a text has behind it when a decoder takes it up.
#[derive(Clone, Debug, Default)]
pub struct Past {
    /// Its last tokens, oldest first: what penalties look back on, and what new text continues.
    pub recent: Vec<u32>,
    /// The draws so far; they go on unless the settings name another seed.
    pub draws: Option<Draws>,
    /// Whether there are logits after the last token, so that the prompt may be empty.
    pub has_logits: bool,
}

impl Past {
    /// Forgets the last tokens but as many as are looked back on.
    pub fn keep_recent(&mut self, config: &GenerationConfig) {
        let kept = RECENT.max(config.repeat_last_n);
        let old = self.recent.len().saturating_sub(kept);
        self.recent.drain(..old);
    }
}

/// The continuation of one text.
#[derive(Debug)]
pub struct Decoder {
    prompt: Vec<u32>,
    prompt_read: usize,
    /// Tokens before the prompt that count when it is cut into pieces.
    before: usize,
    tokens: Vec<u32>,
    limit: usize,
    /// Tokens that may be drawn: a model's vocabulary may be padded beyond the tokenizer's.
    drawable: usize,
    eos: Vec<u32>,
    sampler: Sampler,
    words: Option<Words>,
    text: String,
    finish: Option<FinishReason>,
}

/// From tokens to text that ends at a stop string.
#[derive(Debug)]
struct Words {
    stream: DecodeStream,
    matcher: StopMatcher,
    /// Special tokens that a stop string spells: text does not show them, but they count.
    specials: Vec<(u32, String)>,
}

impl Decoder {
    /// Continues a text by `prompt`. Without a tokenizer there is no text, and stop strings are
    /// not looked for.
    ///
    /// # Errors
    /// [`GenerateError`]: a setting out of range, an empty prompt with nothing before it, a token
    /// that the model does not know, or no room under `max_length`.
    pub fn new(
        model: &ModelConfig,
        tokenizer: Option<&Tokenizer>,
        prompt: Vec<u32>,
        past: &Past,
        config: &GenerationConfig,
    ) -> Result<Self, GenerateError> {
        config.validate()?;
        if prompt.is_empty() && !past.has_logits {
            return Err(GenerateError::EmptyPrompt);
        }
        let vocab_size = model.vocab_size;
        GenerateError::check_tokens(&prompt, vocab_size)?;
        // A random seed is of a size that a person can type again.
        let random = || u64::from(rand::random::<u32>());
        let same = |draws: &Draws| config.seed.is_none_or(|seed| seed == draws.seed);
        let draws = past.draws.filter(same).unwrap_or_else(|| Draws {
            seed: config.seed.unwrap_or_else(random),
            count: 0,
        });
        let mut sampler = Sampler::after(config, draws);
        let before = [&*past.recent, &*prompt].concat();
        before.iter().for_each(|&token| sampler.accept(token));
        let eos = match config.eos_token_id.is_empty() {
            _ if config.ignore_eos => Vec::new(),
            false => config.eos_token_id.clone(),
            true => {
                let of_tokenizer = tokenizer.and_then(Tokenizer::eos_id);
                model.eos_token_id.into_iter().chain(of_tokenizer).collect()
            }
        };
        let words = tokenizer.map(|tokenizer| Words::new(tokenizer, &before, &config.stop));
        Ok(Self {
            limit: config.new_token_limit(prompt.len())?,
            prompt,
            prompt_read: 0,
            before: 0,
            tokens: Vec::new(),
            drawable: tokenizer.map_or(vocab_size, |t| t.vocab_size().min(vocab_size)),
            eos,
            sampler,
            words: words.transpose()?,
            text: String::new(),
            finish: None,
        })
    }

    /// The same, with a prompt whose pieces end at multiples of [`PROMPT_PIECE`] tokens of the whole
    /// text, of which `position` are before it; else they are counted from its beginning.
    pub fn aligned_to(mut self, position: u64) -> Self {
        self.before = (position % PROMPT_PIECE as u64) as usize;
        self
    }

    /// The same, after the first `tokens` of its prompt, which are read already.
    pub fn after(mut self, tokens: usize) -> Self {
        self.prompt_read = tokens.min(self.prompt.len());
        self
    }

    /// The tokens to read next: a piece of the prompt, or the newest token. Nothing before the
    /// first token if the prompt is empty: then the logits after the text before are taken.
    pub fn wants(&self) -> &[u32] {
        match self.tokens.last() {
            Some(last) => std::slice::from_ref(last),
            None => {
                let piece = PROMPT_PIECE - (self.before + self.prompt_read) % PROMPT_PIECE;
                let end = self.prompt.len().min(self.prompt_read + piece);
                &self.prompt[self.prompt_read..end]
            }
        }
    }

    /// Takes the logits after what it wanted, draws a token if that was the end of the prompt, and
    /// gives the text that is sure with it, which may be empty: whole characters, and never the
    /// beginning of a stop string.
    ///
    /// # Errors
    /// [`GenerateError`]: logits that are no numbers, or tokens that cannot be decoded.
    pub fn take(&mut self, logits: &[f32]) -> Result<&str, GenerateError> {
        let before = self.text.len();
        self.read_on();
        if self.prompt_left() == 0 && self.finish.is_none() {
            self.draw(logits)?;
        }
        Ok(&self.text[before..])
    }

    /// Notes that what it wanted is read, without drawing a token: a text that is only read.
    pub fn read_on(&mut self) {
        if self.tokens.is_empty() {
            self.prompt_read += self.wants().len();
        }
    }

    fn draw(&mut self, logits: &[f32]) -> Result<(), GenerateError> {
        let drawable = &logits[..self.drawable.min(logits.len())];
        let token = self.sampler.sample(drawable)?;
        self.sampler.accept(token);
        self.tokens.push(token);
        let ends = self.eos.contains(&token).then_some(FinishReason::Eos);
        let full = (self.tokens.len() >= self.limit).then_some(FinishReason::Length);
        self.finish = ends.or(full);
        if let Some(words) = &mut self.words {
            let stops = ends.is_none() && words.push(token, &mut self.text)?;
            if stops || self.finish.is_some() && words.end(&mut self.text)? {
                self.finish = Some(FinishReason::Stop);
            }
        }
        Ok(())
    }

    /// Ends it now. A stop string stays the reason where there was one.
    pub fn interrupt(&mut self) {
        if self.finish != Some(FinishReason::Stop) {
            self.finish = Some(FinishReason::Interrupted);
        }
    }

    /// Why it ended, if it has.
    pub fn finish(&self) -> Option<FinishReason> {
        self.finish
    }

    /// The new tokens, one that ends the text included.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The new text: without the prompt, stop strings and special tokens.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Tokens of the prompt.
    pub fn prompt_tokens(&self) -> usize {
        self.prompt.len()
    }

    /// Tokens of the prompt that are not read yet.
    pub fn prompt_left(&self) -> usize {
        self.prompt.len() - self.prompt_read
    }

    /// New tokens that may still come.
    pub fn left(&self) -> usize {
        self.limit - self.tokens.len().min(self.limit)
    }

    /// The draws so far.
    pub fn draws(&self) -> Draws {
        self.sampler.draws()
    }
}

impl Words {
    fn new(tokenizer: &Tokenizer, before: &[u32], stop: &[String]) -> Result<Self, GenerateError> {
        let spelled = |name: &String| stop.iter().any(|stop| stop.contains(name.as_str()));
        let special = |id| {
            let name = tokenizer.token(id).filter(spelled)?;
            tokenizer.is_special(id).then_some((id, name))
        };
        let looked_at = match stop.is_empty() {
            true => 0,
            false => tokenizer.vocab_size() as u32,
        };
        Ok(Self {
            stream: tokenizer.decode_stream(before)?,
            matcher: StopMatcher {
                stops: stop.to_vec(),
                ..StopMatcher::default()
            },
            specials: (0..looked_at).filter_map(special).collect(),
        })
    }

    /// Adds a token's text to `text`; says whether a stop string ends it.
    fn push(&mut self, token: u32, text: &mut String) -> Result<bool, GenerateError> {
        if let Some((_, name)) = self.specials.iter().find(|(id, _)| *id == token) {
            // It is looked at and not given on.
            let start = self.matcher.held.len();
            self.matcher.hidden.push(start..start + name.len());
            return Ok(self.matcher.push(name, text));
        }
        let piece = self.stream.push(token)?.unwrap_or_default();
        if self.matcher.push(&piece, text) {
            return Ok(true);
        }
        // What the stream holds back may complete a stop string, and then nothing changes it.
        let held = match self.matcher.stops.is_empty() {
            true => String::new(),
            false => self.stream.held()?,
        };
        Ok(self.matcher.completes(&held) && self.matcher.push(&held, text))
    }

    /// Adds what was held back; says whether a stop string was in it.
    fn end(&mut self, text: &mut String) -> Result<bool, GenerateError> {
        let held = self.stream.held()?;
        let stopped = self.matcher.push(&held, text);
        if !stopped {
            // What was held back belongs to the text after all.
            self.matcher.give(self.matcher.held.len(), text);
        }
        Ok(stopped)
    }
}

/// Looks for stop strings in text that comes in pieces, and gives text on only when it can no
/// longer be part of one.
#[derive(Clone, Debug, Default)]
struct StopMatcher {
    stops: Vec<String>,
    held: String,
    /// Places of the held text that are special tokens, which are not given on.
    hidden: Vec<Range<usize>>,
}

impl StopMatcher {
    /// Takes the next piece and adds what is safe to `text`; says whether a stop string follows it.
    fn push(&mut self, piece: &str, text: &mut String) -> bool {
        self.held.push_str(piece);
        let stops = self.stops.iter();
        let first = stops.filter_map(|stop| self.held.find(stop.as_str())).min();
        let safe = first.unwrap_or_else(|| self.held.len() - self.longest_beginning());
        self.give(safe, text);
        if first.is_some() {
            self.held.clear();
        }
        first.is_some()
    }

    /// Whether `more` would complete a stop string.
    fn completes(&self, more: &str) -> bool {
        let all = format!("{}{more}", self.held);
        !more.is_empty() && self.stops.iter().any(|stop| all.contains(stop.as_str()))
    }

    /// Adds the first `end` bytes of the held text to `text`, without what is hidden.
    fn give(&mut self, end: usize, text: &mut String) {
        let mut at = 0;
        for range in self.hidden.iter().filter(|range| range.start < end) {
            text.push_str(&self.held[at..range.start]);
            at = range.end.min(end);
        }
        text.push_str(&self.held[at..end]);
        self.held.drain(..end);
        self.hidden.retain(|range| range.end > end);
        for range in &mut self.hidden {
            *range = range.start.saturating_sub(end)..range.end - end;
        }
    }

    /// Bytes of the longest end of the held text that begins a stop string.
    fn longest_beginning(&self) -> usize {
        let ends = self.held.char_indices().map(|(at, _)| &self.held[at..]);
        ends.filter(|end| self.stops.iter().any(|stop| stop.starts_with(end)))
            .map(str::len)
            .max()
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matched(stops: &[&str], pieces: &[&str]) -> (Vec<String>, bool) {
        let mut matcher = StopMatcher {
            stops: stops.iter().map(|&stop| stop.into()).collect(),
            ..StopMatcher::default()
        };
        let mut given = Vec::new();
        for piece in pieces {
            given.push(String::new());
            if matcher.push(piece, given.last_mut().unwrap()) {
                return (given, true);
            }
        }
        given.push(String::new());
        matcher.give(matcher.held.len(), given.last_mut().unwrap());
        (given, false)
    }

    #[test]
    fn a_stop_string_across_pieces_is_never_given_in_part() {
        let (given, stopped) = matched(&["\nUser:"], &["Hi", "\n", "Us", "er", ": more"]);
        assert!(stopped);
        assert_eq!(given, ["Hi", "", "", "", ""]);
    }

    #[test]
    fn what_only_began_like_one_is_given_later() {
        let (given, stopped) = matched(&["abcd"], &["xab", "c", "e", "ab"]);
        assert!(!stopped);
        assert_eq!(given, ["x", "", "abce", "", "ab"]);
        let (given, stopped) = matched(&["aab"], &["a", "a", "a", "b"]);
        assert!(stopped);
        assert_eq!(
            given,
            ["", "", "a", ""],
            "the end of the held text begins it anew"
        );
    }

    #[test]
    fn the_earliest_of_several_stops() {
        let (given, stopped) = matched(&["zzz", "lo", "llo w"], &["hello world"]);
        assert!(stopped);
        assert_eq!(given, ["he"]);
    }

    #[test]
    fn characters_of_many_bytes_are_not_cut() {
        let (given, stopped) = matched(&["é中"], &["aé", "b", "é", "中x"]);
        assert!(stopped);
        assert_eq!(given, ["a", "éb", "", ""]);
    }

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

        fn read(&mut self, tokens: &[u32]) -> Vec<f32> {
            self.seen.extend_from_slice(tokens);
            let mut logits = vec![0.0; 300];
            // A token the tokenizer does not have is the most likely one, and must not be drawn.
            logits[299] = 50.0;
            logits[self.script[self.next % self.script.len()] as usize] = 20.0;
            self.next += 1;
            logits
        }
    }

    struct Outcome {
        text: String,
        pieces: Vec<String>,
        tokens: Vec<u32>,
        finish: FinishReason,
        seed: u64,
        seen: Vec<u32>,
    }

    fn generate(model: Scripted, prompt: &str, config: &GenerationConfig) -> Outcome {
        generate_until(model, prompt, config, usize::MAX)
    }

    fn generate_until(
        model: Scripted,
        prompt: &str,
        config: &GenerationConfig,
        calls: usize,
    ) -> Outcome {
        run(&Tokenizer::bytes(), model, prompt, config, calls)
    }

    fn run(
        tokenizer: &Tokenizer,
        mut model: Scripted,
        prompt: &str,
        config: &GenerationConfig,
        calls: usize,
    ) -> Outcome {
        let prompt = tokenizer.encode(prompt).unwrap();
        let past = Past::default();
        let mut decoder =
            Decoder::new(&model_config(300), Some(tokenizer), prompt, &past, config).unwrap();
        let mut pieces: Vec<String> = Vec::new();
        while decoder.finish().is_none() {
            let logits = model.read(decoder.wants());
            let piece = decoder.take(&logits).unwrap();
            pieces.extend((!piece.is_empty()).then(|| piece.to_owned()));
            if pieces.len() >= calls {
                decoder.interrupt();
            }
        }
        Outcome {
            text: decoder.text().to_owned(),
            pieces,
            tokens: decoder.tokens().to_vec(),
            finish: decoder.finish().unwrap(),
            seed: decoder.draws().seed,
            seen: model.seen,
        }
    }

    fn model_config(vocab_size: usize) -> ModelConfig {
        ModelConfig {
            vocab_size,
            ..Default::default()
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
        assert_eq!(outcome.finish, FinishReason::Length);
        assert_eq!(outcome.tokens.len(), 7);
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
            (outcome.text.as_str(), outcome.finish),
            ("hi", FinishReason::Eos)
        );
        assert_eq!(outcome.tokens, [104, 105, 256]);

        let config = GenerationConfig {
            ignore_eos: true,
            ..greedy(5)
        };
        let outcome = generate(model(), "a", &config);
        assert_eq!(
            (outcome.text.as_str(), outcome.finish),
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
        assert_eq!(outcome.finish, FinishReason::Stop);

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
        assert_eq!(outcome.finish, FinishReason::Length);
    }

    #[test]
    fn the_caller_can_end_it() {
        let outcome = generate_until(Scripted::saying("hello"), "a", &greedy(50), 3);
        assert_eq!(
            (outcome.text.as_str(), outcome.finish),
            ("hel", FinishReason::Interrupted)
        );
        assert_eq!(outcome.tokens.len(), 3);
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
                .tokens
                .len(),
            2
        );
    }

    #[test]
    fn prompts_that_cannot_be_read_are_errors() {
        let attempt = |prompt: &[u32]| {
            let (model, past) = (model_config(10), Past::default());
            Decoder::new(&model, None, prompt.to_vec(), &past, &greedy(1))
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
            seed: Some(first.seed),
            ..config
        };
        assert_eq!(
            generate(Scripted::saying("abc"), "a", &config).tokens,
            first.tokens
        );
        let config = GenerationConfig {
            seed: Some(first.seed + 1),
            ..config
        };
        assert_ne!(
            generate(Scripted::saying("abc"), "a", &config).tokens,
            first.tokens
        );
    }

    /// Bytes as a tokenizer from a file has them, with a special token that is no end of a text.
    fn with_turns() -> Tokenizer {
        let mut definition: serde_json::Value =
            serde_json::from_str(&Tokenizer::bytes().to_json().unwrap()).unwrap();
        let mut token = definition["added_tokens"][0].clone();
        token["id"] = 257.into();
        token["content"] = "<|turn|>".into();
        definition["added_tokens"]
            .as_array_mut()
            .unwrap()
            .push(token);
        Tokenizer::from_json(&definition.to_string()).unwrap()
    }

    #[test]
    fn a_stop_string_may_be_or_have_a_special_token() {
        let said = |script: &[u32], stop: &str| {
            let model = Scripted {
                script: script.to_vec(),
                next: 0,
                seen: Vec::new(),
            };
            let config = GenerationConfig {
                stop: vec![stop.into()],
                ..greedy(6)
            };
            let made = run(&with_turns(), model, "a", &config, usize::MAX);
            assert_eq!(made.pieces.concat(), made.text);
            (made.text, made.finish)
        };
        let turn = [104, 105, 257, 10, 257, 120];
        let expected = |text: &str, finish| (text.to_owned(), finish);
        assert_eq!(said(&turn, "<|turn|>"), expected("hi", FinishReason::Stop));
        assert_eq!(
            said(&turn, "<|turn|>\n"),
            expected("hi", FinishReason::Stop)
        );
        assert_eq!(
            said(&turn, "i<|turn|>\n"),
            expected("h", FinishReason::Stop)
        );
        // Only begun, it is no part of the text all the same.
        assert_eq!(
            said(&turn, "<|turn|>x"),
            expected("hi\n", FinishReason::Stop)
        );
        assert_eq!(
            said(&turn, "<|turn|>?"),
            expected("hi\nx", FinishReason::Length)
        );
        assert_eq!(said(&turn, "?"), expected("hi\nx", FinishReason::Length));
    }

    #[test]
    fn a_prompt_is_cut_where_its_whole_text_is_and_goes_on_after_what_is_read() {
        let model = ModelConfig::new(300);
        let (past, config) = (Past::default(), GenerationConfig::default());
        let decoder = || {
            let prompt = vec![7; 2 * PROMPT_PIECE];
            Decoder::new(&model, None, prompt, &past, &config).unwrap()
        };
        let pieces = |mut decoder: Decoder| {
            let mut pieces = Vec::new();
            while decoder.prompt_left() > 0 {
                pieces.push(decoder.wants().len());
                decoder.read_on();
            }
            pieces
        };
        assert_eq!(pieces(decoder()), [512, 512]);
        assert_eq!(pieces(decoder().aligned_to(5 * 512 + 12)), [500, 512, 12]);
        assert_eq!(pieces(decoder().after(512)), [512]);
        assert_eq!(pieces(decoder().aligned_to(500).after(12)), [512, 500]);
    }

    #[test]
    fn a_long_prompt_is_read_in_pieces_and_can_be_left() {
        let prompt = vec![7; 2 * PROMPT_PIECE + 1];
        let past = Past::default();
        let mut decoder = Decoder::new(&model_config(10), None, prompt, &past, &greedy(2)).unwrap();
        let logits = vec![0.0; 10];
        for (wanted, left) in [(512, 513), (512, 1), (1, 0)] {
            assert_eq!(decoder.wants().len(), wanted);
            decoder.take(&logits).unwrap();
            assert_eq!(
                (decoder.prompt_left(), decoder.tokens().len()),
                (left, usize::from(left == 0))
            );
        }
        decoder.interrupt();
        assert_eq!(decoder.finish(), Some(FinishReason::Interrupted));
        assert_eq!(decoder.wants(), [0], "drawn and not read");
    }

    proptest! {
        #[test]
        fn pieces_give_what_the_whole_text_gives(
            pieces in proptest::collection::vec("[ab]{0,3}", 0..12),
            stop in "[ab]{1,4}",
        ) {
            let whole = pieces.concat();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let (given, stopped) = matched(&[&stop], &pieces);
            let expected = whole.find(&stop).map_or(whole.as_str(), |at| &whole[..at]);
            prop_assert_eq!(given.concat(), expected);
            prop_assert_eq!(stopped, whole.contains(&stop));
        }
    }
}
