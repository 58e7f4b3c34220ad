//! Sessions on the disk: a state file each, and a row in a database that says which file counts.
//!
//! A change writes a new file beside the old one and then the row, which is what makes it happen;
//! the old file goes last. So a session is before or after a change whenever the process ends, and
//! the names of changes that were made are in the row with them.

use std::collections::{HashSet, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};

use infinity_files::{Fingerprint, Lock, faults};
use infinity_model::Context;
use infinity_model::sampler::Draws;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};

use crate::error::EngineError;
use crate::session::{SessionId, SessionInfo, now};

const TABLE: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("sessions");
const DATABASE: &str = "sessions.redb";
const LOCK: &str = ".lock";
const EXTENSION: &str = "state";
/// Names of changes that a session remembers: changes of a session follow each other, so a client that
/// tries again is this many behind at most if that many others changed the session meanwhile.
const KEYS: usize = 64;

/// All that the database has of a session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) info: SessionInfo,
    /// The state's file in the folder; a session that has read nothing has none.
    pub(crate) file: Option<String>,
    /// The model whose state it is.
    pub(crate) model: String,
    /// The random numbers that were drawn.
    pub(crate) draws: Option<Draws>,
    pub(crate) keys: VecDeque<UsedKey>,
}

/// The name of a change that was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct UsedKey {
    pub(crate) key: String,
    /// Fingerprint of what was asked for.
    pub(crate) request: String,
    /// Where it led.
    pub(crate) position: u64,
}

impl Record {
    /// Says of the session what is known of its text as it is now.
    pub(crate) fn describe(&mut self, context: &Context) {
        self.info.position = context.position();
        self.info.state_bytes = context.state.bytes() as u64;
        self.info.changed = now();
        self.draws = context.past.draws;
    }

    /// Remembers the name of a change.
    pub(crate) fn remember(&mut self, key: UsedKey) {
        self.keys.push_back(key);
        while self.keys.len() > KEYS {
            self.keys.pop_front();
        }
    }
}

/// What identifies a request among those with one key.
pub(crate) fn request_print(tokens: &[u32], max_tokens: usize) -> String {
    let mut print = Fingerprint::default();
    let bytes = tokens.iter().flat_map(|token| token.to_le_bytes());
    let bytes: Vec<u8> = bytes.collect();
    print.field(bytes).field(max_tokens.to_le_bytes());
    print.hex()
}

/// The folder of sessions.
#[derive(Debug)]
pub(crate) struct Store {
    folder: PathBuf,
    /// After an error it is opened anew: the database itself refuses all further work then.
    database: Option<Database>,
    _lock: Lock,
}

impl Store {
    /// Opens the folder, making it if needed, and reads what sessions there are. Files that no
    /// session names are removed.
    pub(crate) fn open(folder: &Path) -> Result<(Self, Vec<Record>), EngineError> {
        let shown = folder.display();
        let failed = |reason: String| {
            EngineError::Failed(format!("cannot keep sessions in {shown}: {reason}"))
        };
        fs::create_dir_all(folder).map_err(|error| failed(text(error)))?;
        let lock = Lock::take(&folder.join(LOCK)).map_err(|error| failed(text(error)))?;
        let lock = lock.ok_or_else(|| failed("another server uses it".to_owned()))?;
        let mut store = Self {
            folder: folder.to_owned(),
            database: None,
            _lock: lock,
        };
        let records = store.records().map_err(failed)?;
        let named: HashSet<&str> = records.iter().flat_map(|r| r.file.as_deref()).collect();
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let (name, path) = (entry.file_name(), entry.path());
            let is_state = path.extension().is_some_and(|end| end == EXTENSION);
            if is_state && name.to_str().is_some_and(|name| !named.contains(name)) {
                let _ = fs::remove_file(path);
            }
        }
        Ok((store, records))
    }

    fn records(&mut self) -> Result<Vec<Record>, String> {
        let database = self.database()?;
        let begun = database.begin_write().map_err(text)?;
        drop(begun.open_table(TABLE).map_err(text)?);
        begun.commit().map_err(text)?;
        let begun = database.begin_read().map_err(text)?;
        let table = begun.open_table(TABLE).map_err(text)?;
        let mut records = Vec::new();
        for row in table.iter().map_err(text)? {
            let (id, row) = row.map_err(text)?;
            let record = serde_json::from_slice(row.value());
            records.push(record.map_err(|error| format!("session {}: {error}", id.value()))?);
        }
        Ok(records)
    }

    fn database(&mut self) -> Result<&Database, String> {
        if self.database.is_none() {
            let path = self.folder.join(DATABASE);
            self.database = Some(Database::create(path).map_err(text)?);
        }
        Ok(self.database.as_ref().expect("it was just opened"))
    }

    /// Puts a row in the place of what the database has of `id`, or removes it.
    fn put(&mut self, id: &SessionId, record: Option<&Record>) -> Result<(), String> {
        let path = self.folder.join(DATABASE);
        let row = record.map(serde_json::to_vec).transpose().map_err(text)?;
        let database = self.database()?;
        let put = || {
            faults::point(&path).map_err(text)?;
            let begun = database.begin_write().map_err(text)?;
            {
                let mut table = begun.open_table(TABLE).map_err(text)?;
                match &row {
                    Some(row) => drop(table.insert(&*id.0, &**row).map_err(text)?),
                    None => drop(table.remove(&*id.0).map_err(text)?),
                }
            }
            begun.commit().map_err(text)?;
            // A commit may fail after all of it is there.
            faults::point(&path).map_err(text)
        };
        let done = put();
        if done.is_err() {
            self.database = None;
        }
        done
    }

    /// The state's file that the database has for `id`.
    fn file(&mut self, id: &SessionId) -> Result<Option<String>, String> {
        let begun = self.database()?.begin_read().map_err(text)?;
        let table = begun.open_table(TABLE).map_err(text)?;
        let row = table.get(&*id.0).map_err(text)?;
        let record = row.map(|row| serde_json::from_slice::<Record>(row.value()));
        let record = record.transpose().map_err(text)?;
        Ok(record.and_then(|record| record.file))
    }

    /// Saves a session with the state of `bytes`, or with that which it has.
    ///
    /// # Errors
    /// The disk refuses: then the session is as before, or, where a commit failed and was there all
    /// the same, as after; the file that the database names stays.
    pub(crate) fn save(
        &mut self,
        mut record: Record,
        bytes: Option<&[u8]>,
    ) -> Result<Record, EngineError> {
        let id = record.info.id.clone();
        let error = |reason: String| refused(&id, "written", reason);
        let old = record.file.clone();
        if let Some(bytes) = bytes {
            let name = format!("{}-{:016x}.{EXTENSION}", id.0, rand::random::<u64>());
            infinity_files::write(&self.folder.join(&name), bytes).map_err(|e| error(text(e)))?;
            record.file = Some(name);
        }
        let put = self.put(&id, Some(&record));
        let stale = match &put {
            Ok(()) => old,
            // What an error left there the database alone knows.
            Err(_) => match self.file(&id) {
                Ok(named) if named != record.file => record.file.clone(),
                _ => None,
            },
        };
        if let Some(stale) = stale.filter(|_| bytes.is_some()) {
            // It is in nobody's way but the disk's, and the next start removes it.
            let _ = fs::remove_file(self.folder.join(stale));
        }
        put.map(|()| record).map_err(error)
    }

    /// The bytes of a session's state file.
    pub(crate) fn read(&self, id: &SessionId, file: &str) -> Result<Vec<u8>, EngineError> {
        let bytes = fs::read(self.folder.join(file));
        bytes.map_err(|error| refused(id, "read", text(error)))
    }

    /// Removes a session.
    pub(crate) fn delete(&mut self, record: &Record) -> Result<(), EngineError> {
        let id = &record.info.id;
        let put = self.put(id, None);
        put.map_err(|reason| refused(id, "deleted", reason))?;
        if let Some(file) = &record.file {
            let _ = fs::remove_file(self.folder.join(file));
        }
        Ok(())
    }
}

/// The disk refuses.
fn refused(id: &SessionId, what: &'static str, reason: String) -> EngineError {
    let id = id.clone();
    EngineError::Disk { id, what, reason }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
