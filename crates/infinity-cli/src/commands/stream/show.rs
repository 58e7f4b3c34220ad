//! What a reader of the stream sees: a record a line or token, a status line, a closing line.

use std::collections::VecDeque;
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use infinity_model::Tokenizer;
use infinity_train::metrics::resident_bytes;
use serde_json::json;

use super::input::Piece;
use crate::commands::generate::rate;
use crate::terminal;

/// What is printed of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Emit {
    /// A record a line
    Lines,
    /// A record a token
    Tokens,
    /// Nothing but what is generated
    None,
}

/// A piece whose tokens are being read.
struct Open {
    piece: Piece,
    tokens: Vec<u32>,
    /// Tokens whose losses are known.
    done: usize,
    /// All of them, their losses, what was read of the piece before this process included, and the
    /// bytes of text that those stand for that have one.
    sum: Sum,
}

/// Tokens that the status line looks back on.
const LATELY: u64 = 1 << 16;
const EVERY: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    tokens: u64,
    bits: f64,
    bytes: u64,
}

impl Sum {
    fn bits_per_byte(&self) -> f64 {
        match self.bytes {
            0 => 0.0,
            bytes => self.bits / bytes as f64,
        }
    }

    fn add(&mut self, other: Sum) {
        self.tokens += other.tokens;
        self.bits += other.bits;
        self.bytes += other.bytes;
    }

    fn since(&self, other: Sum) -> Sum {
        Sum {
            tokens: self.tokens - other.tokens,
            bits: self.bits - other.bits,
            bytes: self.bytes - other.bytes,
        }
    }
}

/// Prints, and remembers what the status line says.
pub(super) struct Show {
    emit: Emit,
    json: bool,
    tokenizer: Tokenizer,
    open: VecDeque<Open>,
    /// Tokens of the text so far, all processes together.
    position: u64,
    all: Sum,
    lines: u64,
    /// What all was after each of the lines that the status line looks back on, and before the first.
    lately: VecDeque<Sum>,
    start: Instant,
    status: Option<Status>,
}

/// The line at the bottom of a terminal.
#[derive(Default)]
struct Status {
    written: Option<Instant>,
    shown: bool,
    tokens: u64,
}

impl Show {
    /// `position` is that of the text so far; a status line is written where standard error is a terminal.
    pub(super) fn new((emit, json): (Emit, bool), tokenizer: Tokenizer, position: u64) -> Self {
        let status = (!terminal::is_quiet() && io::stderr().is_terminal()).then(Status::default);
        Self {
            emit,
            json,
            tokenizer,
            open: VecDeque::new(),
            position,
            all: Sum::default(),
            lines: 0,
            lately: [Sum::default()].into(),
            start: Instant::now(),
            status,
        }
    }

    /// A piece is about to be read, of whose tokens `read` were read by an earlier process, with `bits`.
    pub(super) fn begin(&mut self, piece: Piece, tokens: Vec<u32>, read: usize, bits: f64) {
        let sum = Sum {
            tokens: tokens.len() as u64,
            bits,
            bytes: piece.text.len() as u64,
        };
        self.open.push_back(Open {
            piece,
            tokens,
            done: read,
            sum,
        });
    }

    /// The losses in bits of what is read of the first piece that is not read to its end.
    pub(super) fn open_bits(&self) -> f64 {
        self.open.front().map_or(0.0, |open| open.sum.bits)
    }

    /// The next tokens have these losses in nats.
    pub(super) fn read(&mut self, losses: Vec<Option<f32>>) -> anyhow::Result<()> {
        for loss in losses {
            self.finish()?;
            let Some(open) = self.open.front_mut() else {
                return Ok(());
            };
            let token = open.tokens[open.done];
            let bits = loss.map(|nats| f64::from(nats) / std::f64::consts::LN_2);
            match bits {
                Some(bits) => open.sum.bits += bits,
                // The first token of a text follows nothing: it counts in no mean.
                None => {
                    let text = self.tokenizer.decode(&[token]).unwrap_or_default();
                    open.sum.bytes = open.sum.bytes.saturating_sub(text.len() as u64);
                }
            }
            open.done += 1;
            self.position += 1;
            if self.emit == Emit::Tokens {
                let line = open.piece.line;
                self.token(token, line, bits)?;
            }
        }
        self.finish()
    }

    /// Takes pieces away that are read to their end.
    fn finish(&mut self) -> anyhow::Result<()> {
        let is_read = |open: &mut Open| open.done == open.tokens.len();
        while let Some(open) = self.open.pop_front_if(is_read) {
            self.all.add(open.sum);
            self.lines += 1;
            self.lately.push_back(self.all);
            let until = self.all.tokens.saturating_sub(LATELY);
            while self.lately.get(1).is_some_and(|next| next.tokens <= until) {
                self.lately.pop_front();
            }
            // The breaks after the last line are no line.
            if self.emit == Emit::Lines && !open.piece.text.trim().is_empty() {
                self.line(&open)?;
            }
        }
        Ok(())
    }

    fn line(&mut self, Open { piece, sum, .. }: &Open) -> anyhow::Result<()> {
        let text = piece.text.trim();
        match self.json {
            true => self.print(json!({
                "line": piece.line, "text": text, "tokens": sum.tokens, "bytes": sum.bytes,
                "bits": round(sum.bits), "bits_per_byte": round(sum.bits_per_byte()),
                "position": self.position,
            })),
            false => self.print(format!("{:>8.3}  {text}", sum.bits_per_byte())),
        }
    }

    fn token(&mut self, token: u32, line: u64, bits: Option<f64>) -> anyhow::Result<()> {
        let text = self.tokenizer.decode(&[token]).unwrap_or_default();
        if self.json {
            return self.print(json!({
                "position": self.position - 1, "line": line, "token": token, "text": text,
                "bits": bits.map(round),
            }));
        }
        let bits = bits.map_or(String::new(), |bits| format!("{bits:.3}"));
        self.print(format!("{bits:>8}  {text:?}"))
    }

    pub(super) fn generated(&mut self, text: &str) -> anyhow::Result<()> {
        match self.json {
            true => self.print(json!({ "generated": text, "position": self.position })),
            false => self.print(text),
        }
    }

    fn print(&mut self, record: impl Display) -> anyhow::Result<()> {
        self.clear();
        terminal::line(record)
    }

    /// Writes the status line where there is one, if it is time.
    pub(super) fn status(&mut self) {
        let now = Instant::now();
        let (tokens, late) = (self.tokens(), self.all.since(self.lately[0]));
        let (rate, bits) = (self.rate(), late.bits_per_byte());
        let [position, last] = [self.position, late.tokens].map(terminal::grouped);
        let text = format!(
            "{position} tokens · {rate:.0} tok/s · {bits:.3} bits/byte over the last {last} · {} resident",
            terminal::bytes(resident_bytes()),
        );
        let Some(status) = &mut self.status else {
            return;
        };
        let due = status.written.is_none_or(|written| now - written >= EVERY);
        if due && (status.tokens != tokens || !status.shown) {
            let _ = write!(io::stderr().lock(), "\r\x1b[K{text}");
            status.shown = true;
            status.written = Some(now);
            status.tokens = tokens;
        }
    }

    /// Takes the status line away, for something else to be written.
    pub(super) fn clear(&mut self) {
        if let Some(status) = self.status.as_mut().filter(|status| status.shown) {
            let _ = write!(io::stderr().lock(), "\r\x1b[K");
            status.shown = false;
        }
    }

    /// Tokens of whole pieces that this process read.
    fn tokens(&self) -> u64 {
        self.all.tokens + self.open.front().map_or(0, |open| open.done as u64)
    }

    /// `read: 1,234 tokens in 56 lines, 1.432 bits/byte, 9,876.5 tok/s · …`.
    pub(super) fn closing_line(&self, state_bytes: u64, device: &str) -> String {
        let read = [self.tokens(), self.lines, self.position];
        let [tokens, lines, position] = read.map(terminal::grouped);
        let (rate, bits) = (self.rate(), self.all.bits_per_byte());
        let state = terminal::bytes(state_bytes);
        format!(
            "read: {tokens} tokens in {lines} lines, {bits:.3} bits/byte, {rate:.1} tok/s · state {state} · \
             position {position} · {device}"
        )
    }

    fn rate(&self) -> f64 {
        rate(self.tokens() as usize, self.start.elapsed().as_secs_f64())
    }
}

fn round(x: f64) -> f64 {
    (x * 1e4).round() / 1e4
}
