//! A text to be continued, and what is told of it while that is done.

use infinity_model::{FinishReason, GenerationConfig};

use crate::error::EngineError;
use crate::session::SessionId;

/// Where a text begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// Nothing is before it.
    #[default]
    Fresh,
    /// The text of a session, which the request continues: at its end the session is after prompt
    /// and new tokens, and saved. Until then, and if the request fails, it is as before.
    Session(SessionId),
    /// The text of a session, which stays as it is.
    Fork(SessionId),
}

/// A text to be continued.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Where it begins.
    pub start: Start,
    /// What is read first. It may be empty after a session that has read something.
    pub prompt: Vec<u32>,
    /// How tokens are drawn, the seed and stop strings. `max_new_tokens` and `max_length` of it are
    /// not looked at.
    pub sampling: GenerationConfig,
    /// Most tokens to generate; 0 only reads.
    pub max_tokens: usize,
    /// With every token its log-probability and this many of the most likely ones; `None` for
    /// neither.
    pub logprobs: Option<usize>,
    /// Also the prompt's tokens are told, with log-probabilities if those are asked for.
    pub echo: bool,
    /// A name for this change of a session: a second request with it changes nothing, and is
    /// answered with where the first one led. A session remembers its last 64.
    pub idempotency_key: Option<String>,
    /// If the receiver is dropped while tokens are generated, the session still takes what there
    /// is. Without it, a request that is left changes nothing.
    pub keep_partial: bool,
}

/// What is told of a request, in order: `Read` as the prompt is read, `Echo` if asked for, `Token`s,
/// and at last one of `Finished` and `Failed`. A channel that ends without either belongs to an
/// engine that gave up.
#[derive(Clone, Debug)]
pub enum Event {
    /// The prompt is read up to here.
    Read {
        /// Tokens that are read, those of the prefix cache included.
        tokens: usize,
        /// Tokens of the prompt.
        of: usize,
    },
    /// A token of the prompt.
    Echo(Token),
    /// A new token.
    Token(Token),
    /// The end. The session, if the request changes one, is saved.
    Finished {
        /// Why.
        reason: FinishReason,
        /// What it took.
        usage: Usage,
    },
    /// The end: the request changed nothing.
    Failed(EngineError),
}

impl Event {
    /// What it took to read a prompt alone, if this is the end of that.
    ///
    /// # Errors
    /// It failed, or the engine stopped before.
    pub(crate) fn read(self) -> Result<Option<Usage>, EngineError> {
        match self {
            Self::Finished {
                reason: FinishReason::Interrupted,
                ..
            } => Err(EngineError::Stopping),
            Self::Finished { usage, .. } => Ok(Some(usage)),
            Self::Failed(error) => Err(error),
            _ => Ok(None),
        }
    }
}

/// One token.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// The token.
    pub id: u32,
    /// Of a new token the text that is sure with it: whole characters, nothing that may begin a stop
    /// string; often empty. All of them together are the answer. Empty for tokens of the prompt.
    pub text: String,
    /// Natural logarithm of its probability given all before, before temperature and penalties.
    /// `None` if not asked for, and for the first token of all.
    pub logprob: Option<f32>,
    /// The most likely tokens in its place and their log-probabilities, the likeliest first.
    pub top: Vec<(u32, f32)>,
}

/// What a request took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Those of them that the prefix cache had.
    pub cached_tokens: usize,
    /// New tokens, the one that ended the text included.
    pub new_tokens: usize,
    /// Tokens of the whole text, what a session had before included.
    pub position: u64,
    /// The seed of the draws.
    pub seed: u64,
    /// The request had been fulfilled before, and changed nothing now.
    pub repeated: bool,
}
