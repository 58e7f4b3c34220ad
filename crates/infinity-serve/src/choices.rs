//! Texts that a request asks for: handed to the engine, and gathered or told as they come.

use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use infinity_model::FinishReason;
use serde_json::{Value, json};
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tokio_stream::wrappers::ReceiverStream;

use crate::answer::ApiError;
use crate::handle::EngineHandle;
use crate::openai::UsageObject;
use crate::request::{Event, Token, Usage};

/// Pieces of a stream that wait for the client; then the engine's events wait, and then its row.
const UNSENT: usize = 16;

/// How answers are written: as completions or as chat.
pub(crate) trait Format: Clone + Send + Sync + 'static {
    /// What a stream says before a text's first token, if anything.
    fn begin(&self, index: usize) -> Option<Value>;
    /// A new token, or `None` if there is nothing to say of it.
    fn token(&mut self, index: usize, token: &Token) -> Option<Value>;
    /// A token of the prompt.
    fn echo(&mut self, index: usize, token: &Token) -> Option<Value>;
    /// A text's end.
    fn end(&self, index: usize, reason: FinishReason) -> Value;
    /// A stream's counts.
    fn usage(&self, usage: &UsageObject) -> Value;
    /// All texts in one answer, without the counts.
    fn whole(&self, texts: &[Gathered]) -> Value;
}

/// The whole of one text.
#[derive(Debug)]
pub(crate) struct Gathered {
    pub(crate) prompt: Vec<Token>,
    pub(crate) tokens: Vec<Token>,
    pub(crate) reason: FinishReason,
    pub(crate) usage: Usage,
}

impl Gathered {
    pub(crate) fn text(&self) -> String {
        let pieces = self.tokens.iter().map(|token| &*token.text);
        pieces.collect()
    }
}

/// When an answer must be there.
#[derive(Clone, Debug)]
pub(crate) struct Deadline {
    at: Instant,
    seconds: u64,
    engine: EngineHandle,
}

impl Deadline {
    pub(crate) fn after(time: Duration, engine: &EngineHandle) -> Self {
        Self {
            at: Instant::now() + time,
            seconds: time.as_secs(),
            engine: engine.clone(),
        }
    }

    /// The next event; an error at the deadline, and if the engine is gone.
    pub(crate) async fn next(&self, events: &mut Receiver<Event>) -> Result<Event, ApiError> {
        match timeout_at(self.at, events.recv()).await {
            Ok(Some(Event::Failed(error))) => Err(error.into()),
            Ok(Some(event)) => Ok(event),
            Ok(None) => Err(self.engine.ended().into()),
            Err(_) => Err(ApiError::timeout(self.seconds)),
        }
    }
}

/// Waits for all of them. Dropping this ends them.
async fn gather(
    texts: Vec<Receiver<Event>>,
    deadline: Deadline,
) -> Result<Vec<Gathered>, ApiError> {
    let mut tasks = JoinSet::new();
    for (index, events) in texts.into_iter().enumerate() {
        let deadline = deadline.clone();
        tasks.spawn(async move { (index, gather_one(events, deadline).await) });
    }
    let mut all = Vec::new();
    while let Some(done) = tasks.join_next().await {
        let (index, gathered) =
            done.map_err(|error| crate::EngineError::Failed(error.to_string()))?;
        all.push((index, gathered?));
    }
    all.sort_unstable_by_key(|(index, _)| *index);
    Ok(all.into_iter().map(|(_, gathered)| gathered).collect())
}

async fn gather_one(mut events: Receiver<Event>, deadline: Deadline) -> Result<Gathered, ApiError> {
    let (mut prompt, mut tokens) = (Vec::new(), Vec::new());
    loop {
        match deadline.next(&mut events).await? {
            Event::Read { .. } | Event::Failed(_) => {}
            Event::Echo(token) => prompt.push(token),
            Event::Token(token) => tokens.push(token),
            Event::Finished { reason, usage } => {
                return Ok(Gathered {
                    prompt,
                    tokens,
                    reason,
                    usage,
                });
            }
        }
    }
}

/// All of them in one answer.
pub(crate) async fn whole<F: Format>(
    texts: Vec<Receiver<Event>>,
    format: F,
    deadline: Deadline,
) -> Result<Response, ApiError> {
    let gathered = gather(texts, deadline).await?;
    let mut usage = UsageObject::default();
    gathered.iter().for_each(|text| usage.add(&text.usage));
    let mut object = format.whole(&gathered);
    object["usage"] = json!(usage);
    Ok(Json(object).into_response())
}

/// A stream of all of them. What is refused at once is an error and no stream.
pub(crate) async fn stream<F: Format>(
    mut texts: Vec<Receiver<Event>>,
    format: F,
    with_usage: bool,
    deadline: Deadline,
) -> Result<Response, ApiError> {
    let first = match texts.first_mut() {
        Some(events) => Some(deadline.next(events).await?),
        None => None,
    };
    let (out, pieces) = mpsc::channel::<Result<Bytes, Infallible>>(UNSENT);
    tokio::spawn(tell_all(texts, first, format, with_usage, deadline, out));
    Ok(event_stream(pieces))
}

/// An answer of server-sent events.
pub(crate) fn event_stream(pieces: Receiver<Result<Bytes, Infallible>>) -> Response {
    let mut response = Response::new(Body::from_stream(ReceiverStream::new(pieces)));
    let headers = response.headers_mut();
    let events = HeaderValue::from_static("text/event-stream; charset=utf-8");
    headers.insert(header::CONTENT_TYPE, events);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

async fn tell_all<F: Format>(
    texts: Vec<Receiver<Event>>,
    first: Option<Event>,
    format: F,
    with_usage: bool,
    deadline: Deadline,
    out: Sender<Result<Bytes, Infallible>>,
) {
    let mut tasks = JoinSet::new();
    let mut first = first;
    for (index, events) in texts.into_iter().enumerate() {
        let teller = Teller {
            index,
            format: format.clone(),
            deadline: deadline.clone(),
            out: out.clone(),
        };
        tasks.spawn(teller.tell(first.take(), events));
    }
    let mut usage = UsageObject::default();
    while let Some(done) = tasks.join_next().await {
        match done {
            Ok(Ok(one)) => usage.add(&one),
            // The client is gone, or was told of an error: dropping the others ends them.
            _ => return,
        }
    }
    if with_usage {
        let _ = send(&out, deadline.at, data(&format.usage(&usage))).await;
    }
    let _ = send(&out, deadline.at, "data: [DONE]\n\n".to_owned()).await;
}

/// Tells of one text.
struct Teller<F> {
    index: usize,
    format: F,
    deadline: Deadline,
    out: Sender<Result<Bytes, Infallible>>,
}

/// The client does not listen any more.
struct Gone;

impl<F: Format> Teller<F> {
    async fn tell(
        mut self,
        first: Option<Event>,
        mut events: Receiver<Event>,
    ) -> Result<Usage, Gone> {
        if let Some(value) = self.format.begin(self.index) {
            self.say(&value).await?;
        }
        let mut next = first;
        loop {
            let event = match next.take() {
                Some(event) => Ok(event),
                None => tokio::select! {
                    biased;
                    () = self.out.closed() => return Err(Gone),
                    event = self.deadline.next(&mut events) => event,
                },
            };
            let value = match event {
                Ok(Event::Read { tokens, of }) => {
                    self.send(format!(": read {tokens} of {of}\n\n")).await?;
                    continue;
                }
                Ok(Event::Echo(token)) => self.format.echo(self.index, &token),
                Ok(Event::Token(token)) => self.format.token(self.index, &token),
                Ok(Event::Finished { reason, usage }) => {
                    self.say(&self.format.end(self.index, reason)).await?;
                    return Ok(usage);
                }
                Ok(Event::Failed(error)) => return self.fail(error.into()).await,
                Err(error) => return self.fail(error).await,
            };
            if let Some(value) = value {
                self.say(&value).await?;
            }
        }
    }

    async fn fail(&self, error: ApiError) -> Result<Usage, Gone> {
        self.say(&json!(error.body())).await?;
        Err(Gone)
    }

    async fn say(&self, value: &Value) -> Result<(), Gone> {
        self.send(data(value)).await
    }

    async fn send(&self, text: String) -> Result<(), Gone> {
        send(&self.out, self.deadline.at, text).await
    }
}

/// Sends when there is room, which a client that does not read makes none of.
async fn send(
    out: &Sender<Result<Bytes, Infallible>>,
    until: Instant,
    text: String,
) -> Result<(), Gone> {
    let sent = timeout_at(until, out.send(Ok(text.into()))).await;
    sent.map_err(|_| Gone)?.map_err(|_| Gone)
}

fn data(value: &Value) -> String {
    format!("data: {value}\n\n")
}
