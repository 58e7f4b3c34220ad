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

    /// `H·S`.
    pub(super) fn per_state(&self) -> usize {
        self.n_heads * self.n_states
    }

    /// Factor of the read weights before the memory gate.
    pub(super) fn read_scale(&self) -> f32 {
        match Sections::of(self).read {
            Some(_) => 2.0 / (self.n_states as f32).sqrt(),
            None => 1.0,
        }
    }

    /// Whether an additive write is scaled to keep the memory's size.
    pub(super) fn keeps_size(&self) -> bool {
        !self.delta && self.decay != DecayRule::None
    }

    /// Width of the projections: `[z_g H·S | z_β H | z_a H·S | z_r H·S | z_m H]`, where `z_g` is
    /// there for adaptive decay, `z_a` and `z_r` for several states that nothing else routes to, `z_m` for
    /// the memory gate.
    pub fn width(&self) -> usize {
        Sections::of(self).widths[0]
    }

    /// Width of the biases: `[dt_bias H·S | c_a H·S | c_r H·S | c_m H]`, `dt_bias` there unless
    /// nothing decays, the others as in [`width`](Self::width).
    pub fn bias_width(&self) -> usize {
        Sections::of(self).widths[1]
    }
}

/// Where the sections begin that are there; those of both projections and biases in each.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sections {
    /// `z_g`, `H·S` projections.
    pub(super) steps: Option<usize>,
    /// `dt_bias`, `H·S` biases.
    pub(super) decay: Option<usize>,
    /// `H` projections.
    pub(super) beta: usize,
    /// `H·S` values.
    pub(super) write: Option<[usize; 2]>,
    /// `H·S` values.
    pub(super) read: Option<[usize; 2]>,
    /// `H` values.
    pub(super) memory: Option<[usize; 2]>,
    /// Of projections and biases.
    pub(super) widths: [usize; 2],
}

impl Sections {
    pub(super) fn of(rule: &GateRule) -> Self {
        let (h, per_state) = (rule.n_heads, rule.per_state());
        let mut widths = [0; 2];
        let mut section = |lens: [usize; 2]| {
            let [z, bias] = widths;
            widths = [z + lens[0], bias + lens[1]];
            [z, bias]
        };
        let (adapts, decays) = (
            rule.decay == DecayRule::Adaptive,
            rule.decay != DecayRule::None,
        );
        let several = rule.n_states > 1;
        let [z, bias] = section([adapts, decays].map(|there| usize::from(there) * per_state));
        let [beta, _] = section([h, 0]);
        let mut both = |there: bool, len: usize| (several && there).then(|| section([len; 2]));
        Sections {
            steps: adapts.then_some(z),
            decay: decays.then_some(bias),
            beta,
            write: both(!rule.routed, per_state),
            read: both(!rule.routed, per_state),
            memory: both(rule.memory_gate, h),
            widths,
        }
    }
}
