//! One case of the bench and how to run it in a process of its own.

use crate::Outcome;
use infinity_model::config::Mixer;
use serde::de::DeserializeOwned;
use std::fmt;
use std::process::{Command, Stdio};
use std::str::FromStr;

/// What a child process measures; `--case` on its command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Case {
    /// Training steps in windows of this length.
    Train(Mixer, usize),
    /// Decoding steps near and far.
    Decode(Mixer),
    /// Resident memory over a long generation.
    Generate,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Case::Train(mixer, length) => write!(f, "train:{mixer}:{length}"),
            Case::Decode(mixer) => write!(f, "decode:{mixer}"),
            Case::Generate => write!(f, "generate"),
        }
    }
}

impl FromStr for Case {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let words: Vec<&str> = text.split(':').collect();
        let case = match words[..] {
            ["train", mixer, length] => mixer
                .parse()
                .ok()
                .zip(length.parse().ok())
                .map(|(m, l)| Case::Train(m, l)),
            ["decode", mixer] => mixer.parse().ok().map(Case::Decode),
            ["generate"] => Some(Case::Generate),
            _ => None,
        };
        case.ok_or_else(|| format!("--case `{text}` is not a case of this bench"))
    }
}

impl Case {
    /// Runs the case with the flags of this process and reads the line it prints.
    ///
    /// # Errors
    ///
    /// If the child fails: most often because the system ended it for its memory.
    pub(crate) fn in_child<T: DeserializeOwned>(self) -> Outcome<T> {
        let output = Command::new(std::env::current_exe()?)
            .args(std::env::args_os().skip(1))
            .args(["--case", &self.to_string()])
            .stderr(Stdio::inherit())
            .output()?;
        if !output.status.success() {
            return Err(format!("the case {self} ended with {}", output.status).into());
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}
