//! Sizes and switches of the gates, and where each gate's values stand in the vector of projections and in
//! that of the biases.

/// How the states forget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DecayRule {
    /// Not at all.
    None,
    /// At rates that do not depend on the token.
    Fixed,
    /// At rates that the token decides.
    Adaptive,
}

/// Sizes and switches of the gates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GateRule {
    /// Heads, `H`.
    pub n_heads: usize,
    /// States of a head, `S`.
    pub n_states: usize,
    /// Delta or additive writes.
    pub delta: bool,
    /// Whether the write strength reaches 2 instead of 1: beyond 1 a delta write turns what the states
    /// say of its key around, and they still never move apart.
    pub doubled: bool,
    /// Whether something else decides which states a token writes to and reads from: `write` and `erase`
    /// are then what every state would get alone, and `read` is the memory gate's part.
    pub routed: bool,
    /// How the states forget.
    pub decay: DecayRule,
    /// Whether one gate a head weighs context against memory; needs two states.
    pub memory_gate: bool,
}

impl GateRule {
    /// The largest write strength.
    pub(super) fn strongest(&self) -> f32 {
        if self.doubled { 2.0 } else { 1.0 }
    }

    /// Width of the projections: `[z_g H·S | z_β H | z_a H·S | z_r H·S | z_m H]`, where `z_g` is
    /// there for adaptive decay, `z_a` and `z_r` for several states that nothing else routes to, `z_m` for
    /// the memory gate.
    pub fn width(&self) -> usize {
        Sections::of_projections(self).width
    }

    /// Width of the biases: `[dt_bias H·S | c_a H·S | c_r H·S | c_m H]`, `dt_bias` there unless
    /// nothing decays, the others as in [`width`](Self::width).
    pub fn bias_width(&self) -> usize {
        Sections::of_biases(self).width
    }
}

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
        let write = section(several && !rule.routed, per_state);
        let read = section(several && !rule.routed, per_state);
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
