//! A text that is kept: its name and what is known of it.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The name of a session in requests: 32 hexadecimal digits for those that an engine made; whatever
/// else is a name that no session has.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct SessionId(pub String);

impl SessionId {
    /// A new one.
    pub fn random() -> Self {
        Self(format!("{:032x}", rand::random::<u128>()))
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What a client sends may be of any length.
        let shown: String = self.0.chars().take(64).collect();
        f.pad(&shown)
    }
}

impl From<&str> for SessionId {
    fn from(id: &str) -> Self {
        Self(id.to_owned())
    }
}

/// What is known of a session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SessionInfo {
    /// Its name in requests.
    pub id: SessionId,
    /// Its name for people.
    pub name: String,
    /// Whatever its owner keeps with it: the shown conversation, for instance.
    pub note: String,
    /// Tokens of its text so far.
    pub position: u64,
    /// Bytes of its state.
    pub state_bytes: u64,
    /// Seconds since 1970 when it was made.
    pub created: u64,
    /// Seconds since 1970 when it was last changed.
    pub changed: u64,
    /// The session it was forked from.
    pub parent: Option<SessionId>,
    /// Whether a request is changing it now.
    #[serde(default)]
    pub in_use: bool,
    /// Whether its state is in memory.
    #[serde(default)]
    pub resident: bool,
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
