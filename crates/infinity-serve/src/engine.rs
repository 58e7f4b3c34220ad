//! The thread that owns the model: between any two steps it looks at what was asked, lets rows join
//! and leave, gives every row that generates a token, and reads some of the prompts.
//!
//! Size: one loop over one state, whose parts (rows, prompts, sessions, the disk's answers) all take from and
//! give to each other; what stands alone is in `row`, `batch`, `reading`, `prefix`, `sessions`, `store` and `keeper`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use infinity_model::generate::Past;
use infinity_model::{Context, InfinityModel};
use tokio::sync::oneshot;

use crate::batch::{Batch, most_rows};
use crate::command::{Command, Reply};
use crate::error::EngineError;
use crate::keeper::{Job, Keeper, answered};
use crate::prefix::Prefixes;
use crate::reading::{Piece, take_left};
use crate::request::{Event, Start, Usage};
use crate::row::{Need, Row, Waiting};
use crate::session::{SessionId, SessionInfo, now};
use crate::sessions::Sessions;
use crate::shared::Shared;
use crate::store::{Record, UsedKey, request_print};

/// How often the engine looks whether a slow reader has caught up, if there is nothing else to do.
const LOOK: Duration = Duration::from_millis(5);

/// How long slow readers have to hear the end, once the engine has stopped.
const LAST: Duration = Duration::from_secs(1);

/// What the thread has.
pub(crate) struct State {
    model: InfinityModel,
    shared: Arc<Shared>,
    jobs: Sender<Job<State>>,
    most_rows: usize,
    waiting: VecDeque<Waiting>,
    /// Rows that read; the first one's piece is on its way.
    reading: VecDeque<Row>,
    piece: Option<Piece>,
    joining: Vec<Row>,
    batches: Vec<Batch>,
    /// Rows whose readers are behind, at their end or not.
    parked: Vec<Row>,
    /// Jobs of the thread that saves that are not done, and requests whose sessions some of them bring.
    pending: usize,
    loading: usize,
    pub(crate) sessions: Sessions,
    prefixes: Prefixes,
    stop: Option<Stop>,
}

/// The end is near.
struct Stop {
    at: Instant,
    stopped: Vec<Option<oneshot::Sender<()>>>,
}

impl State {
    pub(crate) fn new(
        model: InfinityModel,
        shared: Arc<Shared>,
        jobs: Sender<Job<State>>,
        records: Vec<Record>,
    ) -> Self {
        State {
            batches: Vec::new(),
            most_rows: most_rows(&model),
            prefixes: Prefixes::new(shared.config.prefix_bytes),
            sessions: Sessions::new(records),
            model,
            shared,
            jobs,
            waiting: VecDeque::new(),
            reading: VecDeque::new(),
            piece: None,
            joining: Vec::new(),
            parked: Vec::new(),
            pending: 0,
            loading: 0,
            stop: None,
        }
    }

    pub(crate) fn run(
        mut self,
        commands: &Receiver<Command<State>>,
    ) -> Vec<Option<oneshot::Sender<()>>> {
        loop {
            self.listen(commands);
            if let Some(stop) = &self.stop
                && (stop.at <= Instant::now() || self.is_idle())
            {
                return self.finish(commands);
            }
            self.remove_left();
            self.admit();
            self.unpark();
            self.step();
            self.read();
            self.count();
        }
    }

    fn rows(&self) -> usize {
        let batched: usize = self.batches.iter().map(Batch::len).sum();
        batched + self.reading.len() + self.joining.len() + self.parked.len()
    }

    fn is_idle(&self) -> bool {
        self.rows() == 0 && self.waiting.is_empty() && self.pending == 0
    }

    /// Whether one more request may be among the rows.
    fn has_room(&self) -> bool {
        self.rows() + self.loading < self.shared.config.max_rows.max(1)
    }

    /// Takes what was asked; waits for it if there is nothing else to do.
    fn listen(&mut self, commands: &Receiver<Command<State>>) {
        self.shared.metrics.turns.add(1);
        let admits = !self.waiting.is_empty() && self.has_room();
        let busy = admits || self.rows() > self.parked.len();
        let first = match (busy, self.parked.is_empty(), &self.stop) {
            (true, ..) => None,
            (false, true, None) => commands.recv().ok(),
            _ => commands.recv_timeout(LOOK).ok(),
        };
        for command in first.into_iter().chain(commands.try_iter()) {
            self.take(command);
        }
    }

    fn take(&mut self, command: Command<State>) {
        match command {
            Command::Submit(request, events, place) => {
                self.shared.metrics.requests.add(1);
                self.waiting.push_back(Waiting {
                    request: *request,
                    events,
                    _place: place,
                });
            }
            Command::Ask(work) => work(self),
            Command::Kept(work) => {
                self.pending -= 1;
                work(self);
                let (resident, bytes) = self.sessions.evict(self.shared.config.session_bytes);
                let metrics = &self.shared.metrics;
                metrics.resident_sessions.set(resident as u64);
                metrics.session_bytes.set(bytes as u64);
            }
            Command::Abandoned => self.stop_within(Duration::ZERO, None),
            Command::Stop { grace, stopped } => self.stop_within(grace, Some(stopped)),
        }
    }

    fn stop_within(&mut self, grace: Duration, stopped: Option<oneshot::Sender<()>>) {
        let at = Instant::now() + grace;
        let stop = self.stop.get_or_insert(Stop {
            at,
            stopped: Vec::new(),
        });
        stop.at = stop.at.min(at);
        stop.stopped.push(stopped);
    }

    /// Has the thread that saves do `work`, and goes on with `then`.
    fn keep<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Keeper<State>) -> Result<T, EngineError> + Send + 'static,
        then: impl FnOnce(&mut Self, Result<T, EngineError>) + Send + 'static,
    ) {
        self.pending += 1;
        let job: Job<State> = Box::new(|keeper| {
            let done = answered(|| work(keeper));
            Box::new(|state| then(state, done))
        });
        // Its thread ends only after this one.
        let _ = self.jobs.send(job);
    }

    /// Whether there may be one more session.
    fn room(&self) -> Result<(), EngineError> {
        let limit = self.shared.config.max_sessions;
        match self.sessions.count() < limit {
            true => Ok(()),
            false => Err(EngineError::TooManySessions { limit }),
        }
    }

    /// A session that has read nothing.
    fn record(&self, name: String) -> Record {
        Record {
            info: SessionInfo {
                id: SessionId::random(),
                name,
                note: String::new(),
                position: 0,
                state_bytes: 0,
                created: now(),
                changed: now(),
                parent: None,
                in_use: false,
                resident: false,
            },
            file: None,
            model: self.shared.fingerprint.clone(),
            draws: None,
            keys: VecDeque::new(),
        }
    }

    pub(crate) fn create(&mut self, name: String, reply: Reply<SessionInfo>) {
        let record = self.record(name);
        self.make(record, None, reply);
    }

    pub(crate) fn rename(
        &mut self,
        id: &SessionId,
        name: Option<String>,
        note: Option<String>,
        reply: Reply<SessionInfo>,
    ) {
        let session = match self.sessions.claim(id) {
            Ok(session) => session,
            Err(error) => return reply.send(Err(error)),
        };
        let (mut record, context) = (session.record.clone(), session.context.clone());
        record.info.name = name.unwrap_or(record.info.name);
        record.info.note = note.unwrap_or(record.info.note);
        record.info.changed = now();
        self.save(record, None, context, false, reply);
    }

    pub(crate) fn fork(&mut self, id: SessionId, name: Option<String>, reply: Reply<SessionInfo>) {
        let (from, context) = match self.sessions.get(&id) {
            Ok(session) => (session.record.clone(), session.context.clone()),
            Err(error) => return reply.send(Err(error)),
        };
        let mut record = self.record(name.unwrap_or_else(|| from.info.name.clone()));
        record.info.parent = Some(id);
        record.info.note.clone_from(&from.info.note);
        record.info.position = from.info.position;
        record.info.state_bytes = from.info.state_bytes;
        record.model.clone_from(&from.model);
        record.draws = from.draws;
        match (context, &from.file) {
            (None, Some(_)) => match self.room() {
                Ok(()) => self.bring(move |keeper| keeper.load(&from), record, true, reply),
                Err(error) => reply.send(Err(error)),
            },
            (context, _) => self.make(record, context, reply),
        }
    }

    pub(crate) fn import(
        &mut self,
        id: Option<SessionId>,
        name: Option<String>,
        bytes: Vec<u8>,
        reply: Reply<SessionInfo>,
    ) {
        let record = match &id {
            None => self.room().map(|()| self.record(name.unwrap_or_default())),
            Some(id) => self.sessions.claim(id).map(|session| {
                let mut record = session.record.clone();
                record.info.name = name.unwrap_or(record.info.name);
                record
            }),
        };
        match record {
            Ok(record) => {
                self.bring(
                    move |keeper| keeper.context(&bytes),
                    record,
                    id.is_none(),
                    reply,
                );
            }
            Err(error) => reply.send(Err(error)),
        }
    }

    pub(crate) fn export(&mut self, id: &SessionId, reply: Reply<Vec<u8>>) {
        match self.sessions.get(id) {
            Ok(session) => {
                let (record, context) = (session.record.clone(), session.context.clone());
                let export = move |keeper: &mut Keeper<State>| keeper.export(&record, context);
                self.keep(export, |_, bytes| reply.send(bytes));
            }
            Err(error) => reply.send(Err(error)),
        }
    }

    pub(crate) fn delete(&mut self, id: SessionId, reply: Reply<()>) {
        let record = match self.sessions.claim(&id) {
            Ok(session) => session.record.clone(),
            Err(error) => return reply.send(Err(error)),
        };
        let delete = move |keeper: &mut Keeper<State>| keeper.delete(&record);
        self.keep(delete, move |state, deleted| {
            match &deleted {
                Ok(()) => state.sessions.remove(&id),
                Err(_) => state.sessions.release(&id),
            }
            reply.send(deleted);
        });
    }

    /// Makes a session, with a text if there is one.
    fn make(&mut self, record: Record, context: Option<Context>, reply: Reply<SessionInfo>) {
        if let Err(error) = self.room() {
            return reply.send(Err(error));
        }
        self.sessions.coming += 1;
        self.save(record, context.clone(), context, true, reply);
    }

    /// Makes what is `read` the text of a session, which may be new.
    fn bring(
        &mut self,
        read: impl FnOnce(&mut Keeper<State>) -> Result<Context, EngineError> + Send + 'static,
        mut record: Record,
        is_new: bool,
        reply: Reply<SessionInfo>,
    ) {
        self.sessions.coming += usize::from(is_new);
        self.keep(read, move |state, read| match read {
            Ok(context) => {
                record.describe(&context);
                record.model.clone_from(&state.shared.fingerprint);
                state.save(record, Some(context.clone()), Some(context), is_new, reply);
            }
            Err(error) => {
                state.sessions.coming -= usize::from(is_new);
                state.sessions.release(&record.info.id);
                reply.send(Err(error));
            }
        });
    }

    /// Saves a session that is new or changed, with the text that is to be written if one is; `context` is
    /// the text that it has then.
    fn save(
        &mut self,
        record: Record,
        written: Option<Context>,
        context: Option<Context>,
        is_new: bool,
        reply: Reply<SessionInfo>,
    ) {
        let id = record.info.id.clone();
        let save = move |keeper: &mut Keeper<State>| keeper.save(record, written.as_ref());
        self.keep(save, move |state, saved| {
            state.sessions.coming -= usize::from(is_new);
            let saved = saved.map(|record| state.sessions.put(record, context));
            if saved.is_err() {
                state.sessions.release(&id);
            }
            reply.send(saved.and_then(|()| Ok(state.sessions.get(&id)?.info())));
        });
    }

    /// Gives places among the rows to those that wait.
    fn admit(&mut self) {
        while self.has_room() {
            let Some(waiting) = self.waiting.pop_front() else {
                return;
            };
            if !waiting.events.is_closed() {
                self.start(waiting);
            }
        }
    }

    fn start(&mut self, waiting: Waiting) {
        let request = &waiting.request;
        let (id, changes) = match &request.start {
            Start::Fresh => {
                let found = match request.echo {
                    true => None,
                    false => self.prefixes.find(&request.prompt),
                };
                let (cached, state) = found.unwrap_or_else(|| (0, self.model.initial_state(1)));
                self.shared.metrics.cached_tokens.add(cached as u64);
                let context = Context::after(state, Vec::new(), Past::default());
                return self.begin(waiting, context, cached);
            }
            Start::Session(id) => (id.clone(), true),
            Start::Fork(id) => (id.clone(), false),
        };
        let session = match self.sessions.get(&id) {
            Ok(session) => session,
            Err(error) => return refuse(waiting, error, &self.shared),
        };
        if let Some(key) = request.idempotency_key.as_ref().filter(|_| changes) {
            let print = request_print(&request.prompt, request.max_tokens);
            let used = session.record.keys.iter().find(|used| used.key == *key);
            match used {
                Some(used) if used.request == print && request.max_tokens == 0 => {
                    let usage = Usage {
                        prompt_tokens: request.prompt.len(),
                        position: used.position,
                        repeated: true,
                        ..Usage::default()
                    };
                    let event = Event::Finished {
                        reason: infinity_model::FinishReason::Length,
                        usage,
                    };
                    self.shared.metrics.finished.add(1);
                    let _ = waiting.events.try_send(event);
                    return;
                }
                Some(_) => {
                    let key = key.clone();
                    return refuse(waiting, EngineError::KeyReused { key }, &self.shared);
                }
                None => {}
            }
        }
        let claimed = match changes {
            true => self.sessions.claim(&id),
            false => self.sessions.get(&id),
        };
        let session = match claimed {
            Ok(session) => session,
            Err(error) => return refuse(waiting, error, &self.shared),
        };
        match (session.context.clone(), &session.record.file) {
            (Some(context), _) => self.begin(waiting, context, 0),
            (None, None) => self.begin(waiting, Context::new(&self.model), 0),
            (None, Some(_)) => {
                let record = session.record.clone();
                self.loading += 1;
                let load = move |keeper: &mut Keeper<State>| keeper.load(&record);
                self.keep(load, move |state, loaded| {
                    state.loading -= 1;
                    match loaded {
                        Ok(context) => {
                            if let Ok(session) = state.sessions.get(&id) {
                                session.context = Some(context.clone());
                            }
                            state.begin(waiting, context, 0);
                        }
                        Err(error) => state.refuse(waiting, error),
                    }
                });
            }
        }
    }

    /// Refuses a request whose session was claimed for it.
    fn refuse(&mut self, waiting: Waiting, error: EngineError) {
        if let Start::Session(id) = &waiting.request.start {
            self.sessions.release(id);
        }
        refuse(waiting, error, &self.shared);
    }

    /// Makes a row of a request.
    fn begin(&mut self, waiting: Waiting, context: Context, cached: usize) {
        let Waiting {
            request, events, ..
        } = waiting;
        let start = request.start.clone();
        match Row::new(request, events.clone(), context, cached, &self.shared) {
            Ok(row) => self.place(row),
            Err(error) => {
                if let Start::Session(id) = &start {
                    self.sessions.release(id);
                }
                self.shared.metrics.failed.add(1);
                let _ = events.try_send(Event::Failed(error));
            }
        }
    }

    /// Puts a row where it belongs.
    fn place(&mut self, row: Row) {
        match row.need() {
            Need::Reading if row.is_far_behind() => self.parked.push(row),
            Need::Decoding if row.is_behind() => self.parked.push(row),
            Need::Reading => self.reading.push_back(row),
            Need::Decoding | Need::LastToken => self.joining.push(row),
            Need::Nothing => self.complete(row),
        }
    }

    /// A row has all that it needs: its session is saved first.
    fn complete(&mut self, mut row: Row) {
        let Some(id) = row.session().cloned() else {
            return self.end(row, Ok(()));
        };
        let usage = row.usage();
        let (Ok(session), Some(context)) = (self.sessions.get(&id), row.context()) else {
            return self.end(row, Err(EngineError::UnknownSession(id)));
        };
        let mut record = session.record.clone();
        record.describe(&context);
        if let Some(key) = row.request.idempotency_key.clone() {
            record.remember(UsedKey {
                key,
                request: request_print(&row.request.prompt, row.request.max_tokens),
                position: usage.position,
            });
        }
        let written = context.clone();
        let save = move |keeper: &mut Keeper<State>| keeper.save(record, Some(&written));
        self.keep(save, move |state, saved| {
            let end = saved.map(|record| state.sessions.put(record, Some(context)));
            if end.is_err() {
                state.sessions.release(&id);
            }
            state.end(row, end);
        });
    }

    /// Tells a row's end, as soon as its reader has room for it.
    fn end(&mut self, mut row: Row, end: Result<(), EngineError>) {
        row.end(end);
        if row.is_behind() && !row.is_left() {
            self.parked.push(row);
        }
    }

    /// A row failed, or is not wanted any more: its session is as before.
    fn drop_row(&mut self, row: Row, error: Option<EngineError>) {
        if let Some(id) = row.session() {
            self.sessions.release(id);
        }
        match error {
            Some(error) => self.end(row, Err(error)),
            None => self.shared.metrics.left.add(1),
        }
    }

    /// Frees the places of rows that nobody reads any more.
    fn remove_left(&mut self) {
        self.waiting.retain(|waiting| !waiting.events.is_closed());
        let mut left = take_left(&mut self.reading, &mut self.piece, Row::is_left);
        for rows in [&mut self.joining, &mut self.parked] {
            left.extend(rows.extract_if(.., |row| row.is_left() && row.need() != Need::LastToken));
        }
        for batch in &mut self.batches {
            left.extend(batch.leave(|row| row.is_left() && row.need() != Need::LastToken));
        }
        self.batches.retain(|batch| batch.len() > 0);
        for mut row in left.into_iter().filter(|row| !row.has_ended()) {
            let keeps = row.request.keep_partial && row.session().is_some();
            match keeps && row.interrupt() {
                true => self.place(row),
                false => self.drop_row(row, None),
            }
        }
    }

    /// Lets those go on whose readers have caught up.
    fn unpark(&mut self) {
        self.parked.iter_mut().for_each(Row::flush);
        let caught_up: Vec<Row> = self.parked.extract_if(.., |row| !row.is_behind()).collect();
        for row in caught_up.into_iter().filter(|row| !row.has_ended()) {
            self.place(row);
        }
    }

    /// One token for every row that generates.
    fn step(&mut self) {
        while !self.joining.is_empty() {
            let room = |batch: &&mut Batch| batch.len() < self.most_rows;
            let found = self.batches.iter_mut().find(room);
            let free = self.most_rows - found.as_ref().map_or(0, |batch| batch.len());
            let rows = self.joining.drain(..free.min(self.joining.len())).collect();
            match found {
                Some(batch) => batch.join(rows),
                None => self.batches.push(Batch::new(rows)),
            }
        }
        let mut batches = std::mem::take(&mut self.batches);
        for batch in &mut batches {
            for (row, taken) in batch.step(&self.model, &self.shared.metrics) {
                match taken {
                    Ok(()) => self.place(row),
                    Err(error) => self.drop_row(row, Some(error)),
                }
            }
        }
        batches.retain(|batch| batch.len() > 0);
        self.batches = batches;
    }

    /// Reads layers of prompts for a while, and a whole row's piece before the next row's.
    fn read(&mut self) {
        let (start, mut longest) = (Instant::now(), Duration::ZERO);
        while !self.reading.is_empty() && start.elapsed() + longest <= self.shared.config.read_slice
        {
            let before = start.elapsed();
            self.read_layer();
            longest = longest.max(start.elapsed() - before);
        }
    }

    fn read_layer(&mut self) {
        let Some(row) = self.reading.front_mut() else {
            return;
        };
        let piece = match (&mut self.piece, row.state.take()) {
            (Some(piece), _) => piece,
            (None, Some(state)) => {
                let piece = Piece::new(&self.model, row.wants(), state, row.scores());
                self.piece.insert(piece)
            }
            (None, None) => return,
        };
        let advanced = piece.advance(&self.model);
        if let Ok(true) = advanced {
            return;
        }
        let (Some(piece), Some(mut row)) = (self.piece.take(), self.reading.pop_front()) else {
            return;
        };
        let (state, logits) = piece.finish();
        let taken = match advanced {
            Ok(_) => row.take_piece(state, &logits),
            Err(error) => Err(error.into()),
        };
        if let Err(error) = taken {
            return self.drop_row(row, Some(error));
        }
        let (read, prompt) = (row.read(), &row.request.prompt);
        if row.request.start == Start::Fresh
            && self.prefixes.wants(read, prompt.len())
            && let Some(state) = &row.state
        {
            self.prefixes.keep(&prompt[..read], state);
        }
        self.place(row);
    }

    fn count(&self) {
        let metrics = &self.shared.metrics;
        metrics.queued.set(self.waiting.len() as u64);
        metrics.rows.set(self.rows() as u64);
        metrics.parked.set(self.parked.len() as u64);
        metrics.sessions.set(self.sessions.count() as u64);
        metrics.prefix_bytes.set(self.prefixes.bytes() as u64);
    }

    /// Interrupts what is left, and saves what is to be kept of it.
    fn finish(mut self, commands: &Receiver<Command<State>>) -> Vec<Option<oneshot::Sender<()>>> {
        for waiting in std::mem::take(&mut self.waiting) {
            refuse(waiting, EngineError::Stopping, &self.shared);
        }
        self.end_rows();
        while self.pending > 0
            && let Ok(command) = commands.recv()
        {
            self.take_last(command);
        }
        while let Ok(command) = commands.try_recv() {
            self.take_last(command);
        }
        // Readers have a moment to hear the end.
        let last = Instant::now() + LAST;
        while !self.parked.is_empty() && Instant::now() < last {
            self.unpark();
            self.parked.retain(|row| !row.is_left());
            thread::sleep(LOOK);
        }
        self.stop.map_or_else(Vec::new, |stop| stop.stopped)
    }

    /// Ends what is left of the rows: one step reads the last tokens of sessions.
    fn end_rows(&mut self) {
        self.piece = None;
        let mut rows: Vec<Row> = self.reading.drain(..).collect();
        rows.append(&mut self.joining);
        rows.extend(self.parked.extract_if(.., |row| !row.has_ended()));
        for batch in &mut self.batches {
            rows.extend(batch.leave(|_| true));
        }
        self.batches.clear();
        for mut row in rows {
            match row.interrupt() {
                true => self.place(row),
                false => self.drop_row(row, Some(EngineError::Stopping)),
            }
        }
        self.step();
    }

    /// Takes what comes after the end: the disk's answers, and who else waits for the end. Of all
    /// others those who asked see that nobody answers.
    fn take_last(&mut self, command: Command<State>) {
        match command {
            Command::Kept(..) | Command::Stop { .. } => {
                self.take(command);
                self.end_rows();
            }
            Command::Submit(_, events, _) => {
                let _ = events.try_send(Event::Failed(EngineError::Stopping));
            }
            _ => {}
        }
    }
}

/// Answers a request that gets no place.
fn refuse(waiting: Waiting, error: EngineError, shared: &Shared) {
    shared.metrics.failed.add(1);
    let _ = waiting.events.try_send(Event::Failed(error));
}
