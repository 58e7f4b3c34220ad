//! `infinity stream MODEL [FILE|-]`: reads a text without end, in constant memory, and says how surprising
//! it is; keeps what it remembers, and goes on from there.
//!
//! ```text
//! reader thread ─ bytes ─► pieces ─ tokens ─► Reading ─ losses ─► records
//!                         (input)                  └ every N tokens ─► a state file
//! ```
//!
//! A file is read in whole calls of 512 tokens. From a pipe each line is looked at when it has come. Both
//! give the same states at multiples of 512 tokens, bit for bit.

mod input;
mod show;
mod source;

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use infinity_model::generate::{Context, Identity, generate_from};
use infinity_model::{GenerationConfig, Precision, Tokenizer};
use infinity_train::evaluate::{CUT, Reading};

use self::input::{Item, Pieces, Place};
use self::show::{Emit, Show};
use self::source::{KEPT, Kept, Source, before_of, kept_in};
use super::sampling::SamplingFlags;
use crate::args::{Global, count, whole};
use crate::model_dir::{self, ModelArgs};
use crate::terminal::signals::{self, Heeding};
use crate::terminal::{self, errors, refuse};

#[derive(Debug, Args)]
pub(crate) struct StreamArgs {
    #[command(flatten)]
    of: ModelArgs,
    /// The text; - is standard input
    #[arg(value_name = "FILE", default_value = "-")]
    file: PathBuf,
    /// What to print of the text, with its surprise in bits
    #[arg(long, value_name = "WHAT", value_enum, default_value_t = Emit::Lines)]
    emit: Emit,
    /// Print JSON lines
    #[arg(long)]
    json: bool,
    /// Go on from the state that is kept here
    #[arg(long, value_name = "FILE")]
    state_in: Option<PathBuf>,
    /// Keep what the model remembers here: at the end, on Ctrl-C, and on SIGUSR1
    #[arg(long, value_name = "FILE")]
    state_out: Option<PathBuf>,
    /// Keep it also after every so many tokens, at the next multiple of 512
    #[arg(long, value_name = "N", requires = "state_out")]
    #[arg(value_parser = whole::<u64>(1..=u64::MAX))]
    snapshot_every: Option<u64>,
    /// Go on from --state-out, and in FILE where that was kept; from the start where there is none yet
    #[arg(long, requires = "state_out")]
    resume: bool,
    /// Let the model go on for so many tokens at the end, or at every marker line; what it says is
    /// not part of what it remembers
    #[arg(long, value_name = "N", value_parser = count)]
    generate: Option<usize>,
    /// A line that stands for the place to generate at, and is not read
    #[arg(long, value_name = "TEXT", requires = "generate")]
    marker: Option<String>,
    /// Number formats: f32, bf16-mixed, f16-mixed, bf16-true or bf16-weights
    #[arg(long, alias = "dtype", value_name = "FORMAT", default_value_t)]
    precision: Precision,
    #[command(flatten)]
    sampling: SamplingFlags,
}

pub(crate) fn run(args: StreamArgs, global: &Global) -> anyhow::Result<()> {
    let found = args.of.find()?;
    model_dir::can_hold("--state-out", args.state_out.as_ref())?;
    let source = Source::open(&args.file)?;
    let (chosen, loaded) = model_dir::load(&found, args.precision, global)?;
    let model = loaded.model;
    let tokenizer = model_dir::needed(loaded.tokenizer, &args.of.model)?;
    let mut base = loaded.generation;
    (base.max_new_tokens, base.max_length) = (args.generate, None);
    let config = args.sampling.over(base, global.seed)?;
    if let Some(setting) = model.config().grows_by() {
        terminal::warning(&format!(
            "`{setting}` keeps every token: its memory grows and it becomes slower"
        ));
    }
    let resumed = args.state_out.as_deref();
    let resumed = resumed.filter(|path| args.resume && path.exists());
    let context = match resumed.or(args.state_in.as_deref()) {
        Some(path) => Context::load(path, &model, Some(&tokenizer))?,
        None => Context::new(&model),
    };
    let kept = resumed.map(kept_in).transpose()?.unwrap_or_default();
    let place = source.place(&kept)?;
    if args.resume {
        let from = terminal::grouped(context.position());
        terminal::remark(&match resumed {
            Some(path) => format!("{}: goes on after {from} tokens", path.display()),
            None => "nothing to go on from yet: starts at the beginning".to_owned(),
        });
    }
    let seekable = source.seekable();
    let chunks = source.chunks(place.offset)?;
    let heeding = Heeding::listen(&chosen.device)?;
    heeding.begin();
    let position = context.position();
    let show = Show::new((args.emit, args.json), tokenizer.clone(), position);
    let mut session = Session {
        due: (args.snapshot_every).map(|every| position.saturating_add(every)),
        identity: Identity::of(&model, Some(&tokenizer)),
        reading: Reading::new(model, context),
        tokenizer,
        config,
        pieces: Pieces::new(args.marker.as_deref(), place),
        begun: VecDeque::new(),
        end: place,
        resumed: (seekable && kept.read > 0).then_some((kept.read, kept.bits)),
        show,
        seekable,
        args: &args,
        heeding,
        snapshot: signals::on_request()?,
        told_of_bytes: false,
    };
    let outcome = session.read_all(&chunks);
    session.show.clear();
    let stopped = session.heeding.stops();
    // What was read is kept whatever ended it, and what ended it is said.
    let saved = session.keep(seekable && (stopped || outcome.is_err()));
    outcome?;
    saved?;
    if !stopped && args.generate.is_some() && args.marker.is_none() {
        session.speak()?;
    }
    let bytes = session.reading.now().state.bytes() as u64;
    terminal::remark(&session.show.closing_line(bytes, &chosen.name));
    match stopped {
        true => errors::ended(errors::INTERRUPTED),
        false => Ok(()),
    }
}

/// A piece of which the kept state has not read all.
struct Begun {
    from: Place,
    /// The position of its first token, and of the one after its last.
    first: u64,
    end: u64,
    /// Tokens of it that an earlier process read.
    read: usize,
}

struct Session<'a> {
    args: &'a StreamArgs,
    reading: Reading,
    /// Whose states these are.
    identity: Identity,
    tokenizer: Tokenizer,
    config: GenerationConfig,
    pieces: Pieces,
    begun: VecDeque<Begun>,
    /// Where the last piece ended that was given to the reading.
    end: Place,
    /// Tokens of the first piece that the state has read already, and their bits.
    resumed: Option<(usize, f64)>,
    show: Show,
    seekable: bool,
    /// The position after which a state is to be kept.
    due: Option<u64>,
    heeding: Heeding,
    snapshot: Arc<AtomicBool>,
    told_of_bytes: bool,
}

impl Session<'_> {
    /// Whether Ctrl-C has ended the reading of a text that can be read on from where it is left.
    fn is_left(&self) -> bool {
        self.heeding.stops() && self.seekable
    }

    /// Reads to the end of the input, or to Ctrl-C.
    fn read_all(&mut self, chunks: &Receiver<io::Result<Vec<u8>>>) -> anyhow::Result<()> {
        let mut items = VecDeque::new();
        loop {
            let mut chunk = chunks.recv_timeout(Duration::ZERO);
            if matches!(chunk, Err(RecvTimeoutError::Timeout)) {
                // Nothing waits: what is there is looked at. A file only seems to wait.
                if !self.seekable {
                    self.look()?;
                }
                chunk = chunks.recv_timeout(Duration::from_millis(100));
            }
            match chunk {
                Ok(chunk) => {
                    let name = self.args.file.display();
                    let chunk = chunk.with_context(|| format!("cannot read {name}"))?;
                    self.pieces.push(&chunk, &mut items);
                    self.take(&mut items)?;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.mind();
            if self.heeding.stops() {
                break;
            }
        }
        // A file is left at a multiple of 512 tokens and read on from there. What came through a pipe does
        // not come again.
        if !self.is_left() {
            self.pieces.end(&mut items);
            self.take(&mut items)?;
        }
        match self.is_left() {
            true => Ok(()),
            false => self.look(),
        }
    }

    fn take(&mut self, items: &mut VecDeque<Item>) -> anyhow::Result<()> {
        while let Some(item) = items.pop_front() {
            let piece = match item {
                Item::Text(piece) => piece,
                Item::Marker => {
                    // Before a piece of which an earlier process read a part, that one has spoken.
                    if self.resumed.is_none() {
                        self.look()?;
                        self.speak()?;
                    }
                    continue;
                }
            };
            let line = piece.line;
            let (read, bits) = self.resumed.take().unwrap_or_default();
            let first = self.reading.kept().position() + self.reading.pending() as u64;
            let tokens = match first == read as u64 {
                true => self.tokenizer.encode_text(&piece.text),
                false => self.tokenizer.encode(&piece.text),
            };
            let tokens = tokens.with_context(|| format!("line {line} of the text"))?;
            if read > tokens.len() {
                refuse!(
                    "line {line} of {} is not what it was when the state was kept",
                    self.args.file.display()
                );
            }
            self.begun.push_back(Begun {
                from: piece.from,
                first,
                end: first + (tokens.len() - read) as u64,
                read,
            });
            self.end = piece.to;
            let new = tokens[read..].to_vec();
            self.show.begin(piece, tokens, read, bits);
            for part in new.chunks(CUT as usize) {
                let losses = self.reading.add(part)?;
                self.read(losses)?;
                if self.is_left() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn look(&mut self) -> anyhow::Result<()> {
        let losses = self.reading.look()?;
        self.read(losses)
    }

    /// Shows what was read, and keeps the state where that is due.
    fn read(&mut self, losses: Vec<Option<f32>>) -> anyhow::Result<()> {
        if !losses.is_empty() {
            self.heeding.step();
        }
        self.show.read(losses)?;
        self.show.status();
        let position = self.reading.kept().position();
        self.begun.retain(|piece| piece.end > position);
        if let (Some(due), Some(every)) = (self.due, self.args.snapshot_every)
            && position >= due
        {
            self.due = Some(position.saturating_add(every));
            // The state before is there still, and the next may fit.
            let kept = self.keep(true);
            self.say_failed(kept, &format!(" at position {position}"));
        }
        Ok(())
    }

    /// Does what was asked for from outside, and says what has to be said once.
    fn mind(&mut self) {
        if self.snapshot.swap(false, Ordering::SeqCst) {
            let kept = match self.args.state_out {
                Some(_) => self.keep(self.seekable),
                None => Err(errors::usage("--state-out says where, and was not given")),
            };
            self.say_failed(kept, " on SIGUSR1");
        }
        if let Some(at) = self.pieces.first_replaced
            && !std::mem::replace(&mut self.told_of_bytes, true)
        {
            let name = self.args.file.display();
            self.show.clear();
            terminal::warning(&format!(
                "{name} is not UTF-8 text at byte {at}: such bytes are read as U+FFFD"
            ));
        }
        self.show.status();
    }

    /// Says that no state was kept `at` a place, if that failed.
    fn say_failed(&mut self, kept: anyhow::Result<()>, at: &str) {
        if let Err(error) = kept {
            let message = errors::message(&error);
            self.show.clear();
            terminal::alarm(&format!("no state was kept{at}: {message}"));
        }
    }

    /// Writes the state to --state-out, if there is one: that of the last multiple of 512 tokens, or of all
    /// that was looked at.
    fn keep(&mut self, at_cut: bool) -> anyhow::Result<()> {
        let Some(path) = &self.args.state_out else {
            return Ok(());
        };
        let context = match at_cut {
            true => self.reading.kept(),
            false => self.reading.settle()?,
        };
        let position = context.position();
        let piece = self.begun.iter().find(|piece| position < piece.end);
        // What an earlier process read of a piece stays read until the piece is.
        let already = |piece: &Begun| piece.read + position.saturating_sub(piece.first) as usize;
        let (read, bits) = match piece.map(already) {
            Some(0) => (0, 0.0),
            Some(read) => (read, self.show.open_bits()),
            None => self.resumed.unwrap_or_default(),
        };
        let place = piece.map_or(self.end, |piece| piece.from);
        let before = || before_of(&self.args.file, place.offset);
        let before = self.seekable.then(before).transpose()?;
        let kept = serde_json::to_string(&Kept {
            place,
            read,
            bits,
            before,
        })?;
        let notes = [(KEPT, kept), ("command", terminal::command_line())];
        context.save_in(path, &self.identity, &notes, None)?;
        Ok(())
    }

    /// Lets the model go on from here, in a copy of what it remembers.
    fn speak(&mut self) -> anyhow::Result<()> {
        let context = self.reading.now().clone();
        let blank = self.pieces.blank().to_owned();
        let (model, tokenizer, config) = (self.reading.model(), &self.tokenizer, &self.config);
        let mut on_text = |_: &str| self.heeding.going_on();
        let (made, _) = generate_from(model, tokenizer, &blank, context, config, &mut on_text)?;
        self.show.generated(&made.text)
    }
}
