//! Where each gate's values stand in the vector of projections and in that of the biases.

use super::{DecayRule, GateRule};

/// Offsets of the sections that are there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sections {
    /// `H·S` values.
    pub(super) decay: Option<usize>,
    /// `H` values; 0 in the biases, which have none.
    pub(super) beta: usize,
    /// `H·S` values.
    pub(super) write: Option<usize>,
    /// `H·S` values.
    pub(super) read: Option<usize>,
    /// `H` values.
    pub(super) memory: Option<usize>,
    /// All of them together.
    pub(super) width: usize,
}

impl Sections {
    pub(super) fn of_projections(rule: &GateRule) -> Self {
        Sections::new(rule, rule.decay == DecayRule::Adaptive, rule.n_heads)
    }

    pub(super) fn of_biases(rule: &GateRule) -> Self {
        Sections::new(rule, rule.decay != DecayRule::None, 0)
    }

    fn new(rule: &GateRule, decay: bool, beta: usize) -> Self {
        let per_state = rule.n_heads * rule.n_states;
        let several = rule.n_states > 1;
        let mut width = 0;
        let mut section = |there: bool, len: usize| {
            let at = width;
            width += if there { len } else { 0 };
            there.then_some(at)
        };
        let decay = section(decay, per_state);
        let beta = section(true, beta).unwrap_or(0);
        let write = section(several, per_state);
        let read = section(several, per_state);
        let memory = section(several && rule.memory_gate, rule.n_heads);
        Sections {
            decay,
            beta,
            write,
            read,
            memory,
            width,
        }
    }
}
