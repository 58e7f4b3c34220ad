//! The sessions there are: who changes which, and whose states are in memory.

use std::collections::HashMap;

use infinity_model::Context;

use crate::error::EngineError;
use crate::session::{SessionId, SessionInfo};
use crate::store::Record;

/// One of them, as it was last saved.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) record: Record,
    /// Its text so far, if that is in memory.
    pub(crate) context: Option<Context>,
    /// Whether something is changing it.
    pub(crate) in_use: bool,
    used: u64,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    all: HashMap<SessionId, Session>,
    /// Those that are being made and count already.
    pub(crate) coming: usize,
    clock: u64,
}

impl Sessions {
    /// Those that were saved.
    pub(crate) fn new(records: Vec<Record>) -> Self {
        let mut sessions = Self::default();
        for record in records {
            sessions.put(record, None);
        }
        sessions
    }

    /// Puts a session there, or in the place of what it was.
    pub(crate) fn put(&mut self, record: Record, context: Option<Context>) {
        self.clock += 1;
        let session = Session {
            context,
            in_use: false,
            used: self.clock,
            record,
        };
        self.all.insert(session.record.info.id.clone(), session);
    }

    /// The session of that name.
    pub(crate) fn get(&mut self, id: &SessionId) -> Result<&mut Session, EngineError> {
        self.clock += 1;
        let session = self.all.get_mut(id);
        let session = session.ok_or_else(|| EngineError::UnknownSession(id.clone()))?;
        session.used = self.clock;
        Ok(session)
    }

    /// The same, to be changed: until [`release`](Self::release) or [`put`](Self::put) nobody else
    /// may.
    pub(crate) fn claim(&mut self, id: &SessionId) -> Result<&mut Session, EngineError> {
        let session = self.get(id)?;
        match std::mem::replace(&mut session.in_use, true) {
            true => Err(EngineError::SessionInUse(id.clone())),
            false => Ok(session),
        }
    }

    /// Lets others change it again.
    pub(crate) fn release(&mut self, id: &SessionId) {
        if let Some(session) = self.all.get_mut(id) {
            session.in_use = false;
        }
    }

    /// Forgets it.
    pub(crate) fn remove(&mut self, id: &SessionId) {
        self.all.remove(id);
    }

    /// How many there are, those that are being made included.
    pub(crate) fn count(&self) -> usize {
        self.all.len() + self.coming
    }

    /// What is known of all, the last changed first.
    pub(crate) fn infos(&self) -> Vec<SessionInfo> {
        let mut infos: Vec<_> = self.all.values().map(Session::info).collect();
        infos.sort_by(|a, b| b.changed.cmp(&a.changed).then(a.id.cmp(&b.id)));
        infos
    }

    /// Lets states go that are on the disk, the longest unused first, until the rest has at most
    /// `limit` bytes. Returns how many states are left in memory, and their bytes.
    pub(crate) fn evict(&mut self, limit: usize) -> (usize, usize) {
        let bytes = |session: &Session| session.context.as_ref().map_or(0, |c| c.state.bytes());
        let mut total: usize = self.all.values().map(bytes).sum();
        let may_go = |session: &&mut Session| {
            session.context.is_some() && session.record.file.is_some() && !session.in_use
        };
        while total > limit {
            let unused = self.all.values_mut().filter(may_go);
            let Some(oldest) = unused.min_by_key(|session| session.used) else {
                break;
            };
            total -= bytes(oldest);
            oldest.context = None;
        }
        let resident = self.all.values().filter(|one| one.context.is_some());
        (resident.count(), total)
    }
}

impl Session {
    /// What is known of it.
    pub(crate) fn info(&self) -> SessionInfo {
        SessionInfo {
            in_use: self.in_use,
            resident: self.context.is_some(),
            ..self.record.info.clone()
        }
    }
}
