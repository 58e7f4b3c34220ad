//! Requests and answers in OpenAI's shapes, with what sessions add.

use std::fmt;

use infinity_model::{FinishReason, GenerationConfig, Message};
use serde::de::value::SeqAccessDeserializer;
use serde::de::{Error, IgnoredAny, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use crate::answer::ApiError;
use crate::request::{Start, Usage};
use crate::session::SessionId;

/// Most stop strings of a request.
const MAX_STOPS: usize = 16;

/// What is to be continued. It is read as it comes: serde's own way keeps all of it in a form of its
/// own first, which takes sixteen times as much memory as the text.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Prompt {
    /// A text.
    Text(String),
    /// Several.
    Texts(Vec<String>),
    /// A text's tokens.
    Tokens(Vec<u32>),
    /// Those of several.
    TokenLists(Vec<Vec<u32>>),
}

impl Default for Prompt {
    fn default() -> Self {
        Self::Text(String::new())
    }
}

impl<'de> Deserialize<'de> for Prompt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Whole)
    }
}

const PROMPT: &str = "a text, a list of texts, a list of token ids, or a list of such lists";

/// Reads a prompt.
struct Whole;

impl<'de> Visitor<'de> for Whole {
    type Value = Prompt;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PROMPT)
    }

    fn visit_str<E>(self, text: &str) -> Result<Prompt, E> {
        Ok(Prompt::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Prompt, A::Error> {
        let mut prompt = match list.next_element()? {
            None => return Ok(Prompt::Texts(Vec::new())),
            Some(Part::Text(text)) => Prompt::Texts(vec![text]),
            Some(Part::Token(token)) => Prompt::Tokens(vec![token]),
            Some(Part::Tokens(tokens)) => Prompt::TokenLists(vec![tokens]),
        };
        while let Some(part) = list.next_element()? {
            match (&mut prompt, part) {
                (Prompt::Texts(all), Part::Text(text)) => all.push(text),
                (Prompt::Tokens(all), Part::Token(token)) => all.push(token),
                (Prompt::TokenLists(all), Part::Tokens(tokens)) => all.push(tokens),
                _ => return Err(A::Error::custom(format!("expected {PROMPT}"))),
            }
        }
        Ok(prompt)
    }
}

/// What may be in a list.
enum Part {
    Text(String),
    Token(u32),
    Tokens(Vec<u32>),
}

impl<'de> Deserialize<'de> for Part {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PartVisitor)
    }
}

struct PartVisitor;

impl<'de> Visitor<'de> for PartVisitor {
    type Value = Part;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PROMPT)
    }

    fn visit_str<E>(self, text: &str) -> Result<Part, E> {
        Ok(Part::Text(text.to_owned()))
    }

    fn visit_u64<E: Error>(self, token: u64) -> Result<Part, E> {
        let unknown = |_| E::invalid_value(Unexpected::Unsigned(token), &self);
        token.try_into().map(Part::Token).map_err(unknown)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Part, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(list)).map(Part::Tokens)
    }
}

/// Texts that end an answer: one, or a list of some.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Stops {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl Stops {
    fn texts(&self) -> &[String] {
        match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::Many(texts) => texts,
        }
    }
}

impl<'de> Deserialize<'de> for Stops {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StopsVisitor)
    }
}

struct StopsVisitor;

impl<'de> Visitor<'de> for StopsVisitor {
    type Value = Stops;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text or a list of texts")
    }

    fn visit_str<E>(self, text: &str) -> Result<Stops, E> {
        Ok(Stops::One(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Stops, A::Error> {
        let mut all = Vec::new();
        while let Some(text) = list.next_element()? {
            all.push(text);
            if all.len() > MAX_STOPS {
                return Err(A::Error::custom(format!("more than {MAX_STOPS} texts")));
            }
        }
        Ok(Stops::Many(all))
    }
}

/// What is said along with a stream.
#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StreamOptions {
    /// A last piece with the counts of tokens.
    pub(crate) include_usage: Option<bool>,
}

/// What a request for text says besides the text and how tokens are drawn.
#[derive(Debug)]
pub(crate) struct Terms {
    pub(crate) model: Option<String>,
    /// Answers to each prompt.
    pub(crate) n: usize,
    pub(crate) start: Start,
    pub(crate) keep_partial: bool,
    /// A stream, with counts at its end or without.
    pub(crate) stream: Option<bool>,
}

/// A request's struct: fields of its own, and those that all requests for text have.
macro_rules! request {
    ($(#[$doc:meta])* $name:ident { $($own:tt)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Deserialize, ToSchema)]
        #[serde(deny_unknown_fields)]
        pub(crate) struct $name {
            $($own)*
            /// The model's name; it may be left out.
            pub(crate) model: Option<String>,
            /// 0 always takes the most likely token.
            #[schema(minimum = 0, maximum = 1000)]
            pub(crate) temperature: Option<f64>,
            /// Keep the most likely tokens that together have this probability.
            #[schema(exclusive_minimum = 0, maximum = 1)]
            pub(crate) top_p: Option<f64>,
            /// Keep this many of the most likely tokens; 0 keeps all.
            pub(crate) top_k: Option<usize>,
            /// Keep tokens with at least this part of the likeliest one's probability.
            #[schema(minimum = 0, exclusive_maximum = 1)]
            pub(crate) min_p: Option<f64>,
            /// Divides the logits of recent tokens; 1 changes nothing.
            #[schema(exclusive_minimum = 0, maximum = 100)]
            pub(crate) repetition_penalty: Option<f64>,
            /// Taken from the logit of every recent token.
            #[schema(minimum = -100, maximum = 100)]
            pub(crate) presence_penalty: Option<f64>,
            /// Taken from the logit of a recent token once for each time it is there.
            #[schema(minimum = -100, maximum = 100)]
            pub(crate) frequency_penalty: Option<f64>,
            /// Texts that end the answer: at most 16.
            pub(crate) stop: Option<Stops>,
            /// Seed of the draws; that of answer k of `n` is k more.
            pub(crate) seed: Option<u64>,
            /// Go on after a token that ends a text.
            pub(crate) ignore_eos: Option<bool>,
            /// Answers to each prompt.
            #[schema(minimum = 1)]
            pub(crate) n: Option<usize>,
            /// Tell tokens as they come, as server-sent events.
            pub(crate) stream: Option<bool>,
            /// What to tell with them.
            pub(crate) stream_options: Option<StreamOptions>,
            /// The session that is continued.
            pub(crate) session_id: Option<String>,
            /// Leave the session as it is.
            pub(crate) session_fork: Option<bool>,
            /// If the client goes away while tokens come, the session keeps those that there are.
            pub(crate) keep_partial: Option<bool>,
            /// Not looked at.
            #[schema(value_type = Option<serde_json::Value>)]
            #[expect(dead_code, reason = "clients send it")]
            pub(crate) user: Option<IgnoredAny>,
            /// Not looked at.
            #[schema(value_type = Option<serde_json::Value>)]
            #[expect(dead_code, reason = "clients send it")]
            pub(crate) metadata: Option<IgnoredAny>,
            /// Not looked at.
            #[schema(value_type = Option<serde_json::Value>)]
            #[expect(dead_code, reason = "clients send it")]
            pub(crate) store: Option<IgnoredAny>,
        }

        impl $name {
            /// What it says of its answers as a whole.
            pub(crate) fn terms(&self) -> Terms {
                let with_usage = (self.stream_options).is_some_and(|o| o.include_usage == Some(true));
                Terms {
                    model: self.model.clone(),
                    n: self.n.unwrap_or(1),
                    start: match self.session_id.clone().map(SessionId) {
                        None => Start::Fresh,
                        Some(id) if self.session_fork == Some(true) => Start::Fork(id),
                        Some(id) => Start::Session(id),
                    },
                    keep_partial: self.keep_partial == Some(true),
                    stream: (self.stream == Some(true)).then_some(with_usage),
                }
            }

            /// The settings of the draws, on top of the model's own.
            pub(crate) fn sampling(
                &self,
                defaults: &GenerationConfig,
                more_stops: &[&str],
            ) -> Result<GenerationConfig, ApiError> {
                let mut sampling = GenerationConfig {
                    max_new_tokens: None,
                    max_length: None,
                    temperature: self.temperature.unwrap_or(defaults.temperature),
                    do_sample: match self.temperature {
                        Some(temperature) => temperature > 0.0,
                        None => defaults.do_sample,
                    },
                    top_p: self.top_p.unwrap_or(defaults.top_p),
                    top_k: self.top_k.unwrap_or(defaults.top_k),
                    min_p: self.min_p.unwrap_or(defaults.min_p),
                    repetition_penalty: (self.repetition_penalty)
                        .unwrap_or(defaults.repetition_penalty),
                    presence_penalty: self.presence_penalty.unwrap_or(defaults.presence_penalty),
                    frequency_penalty: self.frequency_penalty.unwrap_or(defaults.frequency_penalty),
                    ignore_eos: self.ignore_eos.unwrap_or(defaults.ignore_eos),
                    seed: self.seed.or(defaults.seed),
                    ..defaults.clone()
                };
                if let Some(stops) = &self.stop {
                    sampling.stop = stops.texts().to_vec();
                }
                sampling.stop.extend(more_stops.iter().map(|&stop| stop.to_owned()));
                sampling.validate().map_err(|error| {
                    let message = error.to_string();
                    let key = message.strip_prefix("generation.").unwrap_or_default();
                    let key = key.split_whitespace().next().unwrap_or_default();
                    ApiError::field(key, message.clone())
                })?;
                Ok(sampling)
            }
        }
    };
}

request! {
    /// A text to be continued.
    CompletionRequest {
        /// What is to be continued; it may be empty in a session.
        #[serde(default)]
        pub(crate) prompt: Prompt,
        /// Most tokens to generate; 16 if not given. 0 only reads.
        pub(crate) max_tokens: Option<usize>,
        /// The answer begins with the prompt.
        pub(crate) echo: Option<bool>,
        /// Each token's log-probability and those of this many of the likeliest, at most 20.
        #[schema(maximum = 20)]
        pub(crate) logprobs: Option<usize>,
        /// The same as `n`.
        pub(crate) best_of: Option<usize>,
    }
}

request! {
    /// A conversation to be answered.
    ChatRequest {
        /// What was said. In a session, what is new.
        #[schema(min_items = 1)]
        pub(crate) messages: Vec<ChatMessage>,
        /// Most tokens to generate; 512 if not given.
        #[serde(alias = "max_completion_tokens")]
        pub(crate) max_tokens: Option<usize>,
        /// Tell log-probabilities.
        pub(crate) logprobs: Option<bool>,
        /// And those of this many of the likeliest tokens, at most 20; needs `logprobs`.
        #[schema(maximum = 20)]
        pub(crate) top_logprobs: Option<usize>,
    }
}

/// Something that was said.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(crate) struct ChatMessage {
    /// `system`, `user` or `assistant`, or what else the model's template knows.
    #[schema(examples("user", "assistant", "system"))]
    pub(crate) role: String,
    /// What was said.
    pub(crate) content: Content,
}

/// A text, or one in parts.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(
    untagged,
    expecting = "expected a text or a list of parts of type text"
)]
pub(crate) enum Content {
    /// The text.
    Text(String),
    /// Its parts.
    Parts(Vec<TextPart>),
}

/// A part of a text.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(crate) struct TextPart {
    /// `text`.
    #[serde(rename = "type")]
    #[expect(dead_code, reason = "reading it checks it")]
    pub(crate) kind: TextKind,
    /// The part.
    pub(crate) text: String,
}

/// The one kind of part there is.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum TextKind {
    /// Text.
    Text,
}

impl ChatMessage {
    pub(crate) fn plain(&self) -> Message {
        let content = match &self.content {
            Content::Text(text) => text.clone(),
            Content::Parts(parts) => parts.iter().map(|part| part.text.as_str()).collect(),
        };
        Message::new(&self.role, content)
    }
}

/// Counts of a request.
#[derive(Clone, Copy, Debug, Default, Serialize, ToSchema)]
pub(crate) struct UsageObject {
    /// Tokens of the prompts.
    pub(crate) prompt_tokens: usize,
    /// New tokens.
    pub(crate) completion_tokens: usize,
    /// Both.
    pub(crate) total_tokens: usize,
    /// More about the first.
    pub(crate) prompt_tokens_details: PromptDetails,
    /// Tokens of the whole text, what the session had before included; of several, the longest.
    pub(crate) position: u64,
}

/// What of a prompt did not have to be read.
#[derive(Clone, Copy, Debug, Default, Serialize, ToSchema)]
pub(crate) struct PromptDetails {
    /// Tokens whose state was kept.
    pub(crate) cached_tokens: usize,
}

impl UsageObject {
    /// Counts one more text.
    pub(crate) fn add(&mut self, usage: &Usage) {
        self.prompt_tokens += usage.prompt_tokens;
        self.completion_tokens += usage.new_tokens;
        self.total_tokens += usage.prompt_tokens + usage.new_tokens;
        self.prompt_tokens_details.cached_tokens += usage.cached_tokens;
        self.position = self.position.max(usage.position);
    }
}

/// OpenAI's word for the reason.
pub(crate) fn finish_word(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Eos | FinishReason::Stop => "stop",
        FinishReason::Length => "length",
        FinishReason::Interrupted => "interrupted",
    }
}
