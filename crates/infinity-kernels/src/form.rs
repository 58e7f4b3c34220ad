//! Which form of an operator runs, and in what pieces: decided here and nowhere else.

use crate::memory_scan::Dims;
use std::fmt;
use std::str::FromStr;

/// The forms an operator has. All compute the same function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// Token by token on Burn tensors: decoding.
    Recurrent,
    /// Chunk by chunk on Burn tensors: training and prompts, on any device.
    Chunkwise,
}

/// Below this many tokens the recurrent form costs less than cutting chunks.
const RECURRENT_UP_TO: usize = 2;

impl Form {
    /// The form for `t` tokens.
    pub fn choose(t: usize) -> Form {
        if t <= RECURRENT_UP_TO {
            Form::Recurrent
        } else {
            Form::Chunkwise
        }
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Form::Recurrent => "recurrent",
            Form::Chunkwise => "chunkwise",
        })
    }
}

impl FromStr for Form {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "recurrent" => Ok(Form::Recurrent),
            "chunkwise" => Ok(Form::Chunkwise),
            _ => Err(format!("unknown form `{name}`: recurrent or chunkwise")),
        }
    }
}

/// Positions in a chunk for a call of these sizes.
///
/// Work inside a chunk grows with `C` and with `S` (the masks), the loop over chunks shrinks with
/// it. Measured on a 2-core CPU, see `LOG.md`.
pub(crate) fn chunk_size(dims: &Dims) -> usize {
    if dims.s > 1 { 32 } else { 64 }
}
