//! One chunk of one head in scratch memory: what forward and backward both compute of it, and what passes
//! from chunk to chunk.
//!
//! Names follow `README.md`. Rows of keys and values are filled up to whole lanes with zeros,
//! positions behind the end of a ragged chunk are left out (as rows) or zero (as columns).

use super::super::reference::Scan;
use super::layout::{CHUNK, Layout, Sizes};
use super::scores::{self, Gates, Scores, solve};
use crate::cpu::product::Keep;
use crate::cpu::rows::{Place, Rows, gather};
use crate::cpu::simd::{Level, padded};

/// What one head reads. Its states `[S, K, V]` that come in are one row.
pub(super) type HeadInputs<'a> = Scan<Rows<'a>>;

/// Gates times decays, laid out like the gates.
#[derive(Clone, Debug)]
pub(super) struct Weights {
    /// `e^b`.
    pub(super) from_start: Vec<f32>,
    /// `e^(b_C − b)`.
    pub(super) to_end: Vec<f32>,
    /// `r e^b`.
    pub(super) reads: Vec<f32>,
    /// `u e^(b_C − b)`.
    pub(super) writes: Vec<f32>,
    /// `−p e^b`.
    pub(super) recalls: Vec<f32>,
}

/// A chunk in scratch memory, made once for a thread and filled again and again.
#[derive(Clone, Debug)]
pub(super) struct Chunk {
    pub(super) layout: Layout,
    /// `[C, K]`.
    pub(super) q: Vec<f32>,
    pub(super) k: Vec<f32>,
    /// `[K, C]`.
    pub(super) k_columns: Vec<f32>,
    /// Values, and after [`Chunk::solve_errors`] prediction errors `Dm` `[C, V]`.
    pub(super) errors: Vec<f32>,
    pub(super) gates: Gates,
    pub(super) weights: Weights,
    pub(super) scores: Scores,
}

impl Chunk {
    /// Scratch for one thread; `backward` asks for the masks too.
    pub(super) fn new(level: Level, sizes: Sizes, backward: bool) -> Self {
        let c = CHUNK.min(sizes.t);
        let (stride, k_wide, v_wide) = (padded(c), padded(sizes.k), padded(sizes.v));
        let zeros = |len: usize| vec![0f32; len];
        let gate = || zeros(sizes.states * stride);
        let square = |wanted: bool| zeros(c * stride * usize::from(wanted));
        Chunk {
            layout: Layout {
                level,
                sizes,
                c: 0,
                stride,
                k_wide,
                v_wide,
            },
            q: zeros(c * k_wide),
            k: zeros(c * k_wide),
            k_columns: zeros(sizes.k * stride),
            errors: zeros(c * v_wide),
            gates: Gates {
                decay: gate(),
                read: gate(),
                write: gate(),
                erase: gate(),
            },
            weights: Weights {
                from_start: gate(),
                to_end: gate(),
                reads: gate(),
                writes: gate(),
                recalls: gate(),
            },
            scores: Scores {
                products: square(true),
                attention: square(true),
                keys: square(sizes.delta),
                minus_l: square(sizes.delta),
                read_mask: square(backward),
                erase_mask: square(backward && sizes.delta),
                within: zeros(sizes.states * stride * stride * usize::from(backward)),
            },
        }
    }

    /// Keys, queries, gates, decays and score matrices of chunk `n`.
    pub(super) fn load(&mut self, x: &HeadInputs<'_>, n: usize) {
        self.load_keys(x, n);
        let layout = self.layout;
        let Layout { level, k_wide, .. } = layout;
        let from = layout.sizes.first(n);
        gather(level, x.q, from, layout.c, &mut self.q, k_wide);
        let width = [layout.sizes.k, k_wide];
        layout.columns(width, &self.k, &mut self.k_columns);
        // `P`, `K Kᵀ` and what the masks make of them.
        let (keys, scores) = (&self.k_columns, &mut self.scores);
        layout.scores(width, &self.q, keys, &mut scores.products);
        if layout.sizes.delta {
            layout.scores(width, &self.k, keys, &mut scores.keys);
        }
        scores::mask(level, layout, &self.gates, &mut self.scores);
    }

    /// What a write of chunk `n` needs besides the errors: keys, gates and decays.
    pub(super) fn load_keys(&mut self, x: &HeadInputs<'_>, n: usize) {
        let Layout { sizes, k_wide, .. } = self.layout;
        self.layout.c = CHUNK.min(sizes.t - n * CHUNK);
        let (c, from) = (self.layout.c, sizes.first(n));
        gather(self.layout.level, x.k, from, c, &mut self.k, k_wide);
        self.load_gates(x, from);
    }

    /// Values of chunk `n`, whose size is loaded, where the errors will be.
    pub(super) fn load_values(&mut self, x: &HeadInputs<'_>, n: usize) {
        let (layout, errors) = (self.layout, &mut self.errors);
        let from = layout.sizes.first(n);
        gather(layout.level, x.v, from, layout.c, errors, layout.v_wide);
    }

    /// Gates `[C, S]` → `[S, C]`, log decays summed up, and what they weigh.
    fn load_gates(&mut self, x: &HeadInputs<'_>, from: usize) {
        let Gates {
            decay,
            read,
            write,
            erase,
        } = &mut self.gates;
        for gate in [&mut *decay, &mut *read, &mut *write, &mut *erase] {
            gate.fill(0.0);
        }
        let (layout, weights) = (self.layout, &mut self.weights);
        for s in 0..layout.sizes.states {
            let mut sum = 0.0;
            for (at, t) in layout.loaded(s).zip(from..) {
                sum += x.log_decay.row(t)[s];
                decay[at] = sum;
                read[at] = x.read.row(t)[s];
                write[at] = x.write.row(t)[s];
                if layout.sizes.delta {
                    erase[at] = x.erase.row(t)[s];
                }
            }
            for at in layout.gates(s) {
                weights.to_end[at] = sum - decay[at];
            }
        }
        weights.from_start.copy_from_slice(decay);
        scores::exponentials(layout.level, &mut weights.from_start);
        scores::exponentials(layout.level, &mut weights.to_end);
        for at in 0..decay.len() {
            weights.reads[at] = read[at] * weights.from_start[at];
            weights.writes[at] = write[at] * weights.to_end[at];
            weights.recalls[at] = -erase[at] * weights.from_start[at];
        }
    }

    /// `e^(b_C)`: what is left of state `s` when the chunk ends.
    pub(super) fn whole(&self, s: usize) -> f32 {
        self.weights.from_start[self.layout.loaded(s).end - 1]
    }

    /// From values to prediction errors, given the states that come in. Nothing in additive mode.
    pub(super) fn solve_errors(&mut self, states: &[f32]) {
        let (layout, errors) = (self.layout, &mut self.errors);
        if layout.sizes.delta {
            layout.ask_states(&self.k, &self.weights.recalls, states, errors);
            solve(layout, &self.scores.minus_l, false, errors);
        }
    }

    /// `H_s ← e^(b_C) H_s + Kᵀ diag(u e^(b_C − b)) Dm`, from the states `before` if they are not
    /// in place; `rows` is scratch like the errors.
    pub(super) fn update_states(
        &self,
        before: Option<&[f32]>,
        states: &mut [f32],
        rows: &mut [f32],
    ) {
        let layout = self.layout;
        for s in 0..layout.sizes.states {
            let state = layout.sizes.state(s);
            let keep = match before {
                None => Keep::Times(self.whole(s)),
                Some(before) => Keep::Other(self.whole(s), &before[state.clone()]),
            };
            let (writes, to) = (&self.weights.writes[layout.loaded(s)], &mut states[state]);
            layout.write_state(keep, &self.k, writes, &self.errors, rows, to);
        }
    }

    /// Prediction errors of chunk `n`, whose size is loaded: saved ones, or values.
    pub(super) fn load_errors(&mut self, x: &HeadInputs<'_>, n: usize, saved: &[f32]) {
        let Layout { c, sizes, .. } = self.layout;
        if sizes.delta {
            let saved = &saved[sizes.saved_errors(n, c)];
            self.errors[..saved.len()].copy_from_slice(saved);
        } else {
            self.load_values(x, n);
        }
    }

    /// States before every chunk of group `group` into `states`, one behind the other: the first
    /// as it was saved (or as it came in, or empty in a `fresh` document), the others by writing again.
    pub(super) fn recompute_states(
        &mut self,
        (x, fresh): (&HeadInputs<'_>, bool),
        group: usize,
        saved: &[f32],
        states: &mut [f32],
        rows: &mut [f32],
    ) {
        let Layout { sizes, v_wide, .. } = self.layout;
        let len = sizes.state_len();
        match fresh {
            _ if group > 0 => states[..len].copy_from_slice(&saved[sizes.saved_border(group)]),
            false => widen(x.state.row(0), sizes.v, &mut states[..len], v_wide),
            true => states[..len].fill(0.0),
        }
        let chunks = sizes.chunks_of(group);
        for (i, n) in chunks.clone().take(chunks.len() - 1).enumerate() {
            self.load_keys(x, n);
            self.load_errors(x, n, saved);
            let (before, after) = states[i * len..(i + 2) * len].split_at_mut(len);
            self.update_states(Some(before), after, rows);
        }
    }
}

/// States `[S, K, V]` → `[S, K, wide]`, filled up with zeros.
pub(super) fn widen(states: &[f32], v: usize, to: &mut [f32], wide: usize) {
    for (from, to) in states.chunks_exact(v).zip(to.chunks_exact_mut(wide)) {
        to[..v].copy_from_slice(from);
        to[v..].fill(0.0);
    }
}

/// The way back from [`widen`].
pub(super) fn narrow<P: Place>(states: &[f32], wide: usize, to: &mut [P], v: usize) {
    for (from, to) in states.chunks_exact(wide).zip(to.chunks_exact_mut(v)) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = P::of(*from);
        }
    }
}
