//! One chunk of one head in scratch memory: what forward and backward both compute of it, and what passes
//! from chunk to chunk.
//!
//! Names follow `README.md`. Rows of keys and values are filled up to whole lanes with zeros,
//! positions behind the end of a ragged chunk are left out (as rows) or zero (as columns).

use super::scores::{self, Extent, Gates, Scores, System, solve};
use crate::borders::Piece;
use crate::cpu::product::{Keep, Left, Part, Product, Right, multiply};
use crate::cpu::rows::{Place, Rows, gather, scale_rows};
use crate::cpu::simd::{Level, padded};
use crate::cpu::transpose::transpose;
use std::mem::MaybeUninit;

/// Sizes of a head.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) t: usize,
    pub(super) states: usize,
    pub(super) k: usize,
    pub(super) v: usize,
    /// Positions in a full chunk.
    pub(super) chunk: usize,
    /// Chunks from one saved state to the next.
    pub(super) group: usize,
    pub(super) delta: bool,
}

impl Sizes {
    /// Those of one document alone.
    pub(super) fn of(self, piece: &Piece) -> Self {
        let t = piece.tokens.len();
        Sizes { t, ..self }
    }

    pub(super) fn chunks(&self) -> usize {
        self.t.div_ceil(self.chunk)
    }

    /// Groups of chunks, each with one saved state.
    pub(super) fn groups(&self) -> usize {
        self.chunks().div_ceil(self.group)
    }

    /// The chunks of one group.
    pub(super) fn chunks_of(&self, group: usize) -> std::ops::Range<usize> {
        group * self.group..self.chunks().min((group + 1) * self.group)
    }

    /// Values in all states of a head, rows of whole lanes.
    pub(super) fn state_len(&self) -> usize {
        self.states * self.k * padded(self.v)
    }

    /// One state inside all states of a head.
    pub(super) fn state(&self, s: usize) -> std::ops::Range<usize> {
        let len = self.k * padded(self.v);
        s * len..(s + 1) * len
    }
}

/// What one head reads.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeadInputs<'a> {
    pub(super) q: Rows<'a>,
    pub(super) k: Rows<'a>,
    pub(super) v: Rows<'a>,
    pub(super) log_decay: Rows<'a>,
    pub(super) read: Rows<'a>,
    pub(super) write: Rows<'a>,
    pub(super) erase: Rows<'a>,
}

impl<'a> HeadInputs<'a> {
    /// What it reads of one document.
    pub(super) fn part(&self, piece: &Piece) -> Self {
        let part = |rows: Rows<'a>| rows.part(piece.tokens.clone());
        HeadInputs {
            q: part(self.q),
            k: part(self.k),
            v: part(self.v),
            log_decay: part(self.log_decay),
            read: part(self.read),
            write: part(self.write),
            erase: part(self.erase),
        }
    }
}

/// Gates times decays, laid out like the gates.
#[derive(Clone, Debug, Default)]
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
    /// `e^(b_C)` of every state.
    pub(super) whole: Vec<f32>,
}

/// A chunk in scratch memory, made once for a thread and filled again and again.
#[derive(Clone, Debug)]
pub(super) struct Chunk {
    pub(super) level: Level,
    pub(super) sizes: Sizes,
    /// Positions of the chunk that is loaded.
    pub(super) c: usize,
    /// From one row `[C]` to the next.
    pub(super) stride: usize,
    /// From one row `[K]` to the next.
    pub(super) k_wide: usize,
    /// From one row `[V]` to the next.
    pub(super) v_wide: usize,
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
        let c = sizes.chunk.min(sizes.t);
        let (stride, k_wide, v_wide) = (padded(c), padded(sizes.k), padded(sizes.v));
        let zeros = |len: usize| vec![0f32; len];
        let gate = || zeros(sizes.states * stride);
        let square = |wanted: bool| zeros(if wanted { c * stride } else { 0 });
        Chunk {
            level,
            sizes,
            c: 0,
            stride,
            k_wide,
            v_wide,
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
                whole: zeros(sizes.states),
            },
            scores: Scores {
                products: square(true),
                attention: square(true),
                keys: square(sizes.delta),
                minus_l: square(sizes.delta),
                read_mask: square(backward),
                erase_mask: square(backward && sizes.delta),
                within: zeros(if backward {
                    sizes.states * stride * stride
                } else {
                    0
                }),
            },
        }
    }

    /// Extent of the masks.
    pub(super) fn extent(&self) -> Extent {
        let Sizes { states, delta, .. } = self.sizes;
        Extent {
            c: self.c,
            stride: self.stride,
            states,
            delta,
        }
    }

    /// Gates of state `s`, of every position.
    pub(super) fn of_state(&self, s: usize) -> std::ops::Range<usize> {
        s * self.stride..(s + 1) * self.stride
    }

    /// Keys, queries, gates, decays and score matrices of chunk `n`.
    pub(super) fn load(&mut self, x: &HeadInputs<'_>, n: usize, save: bool) {
        self.load_keys(x, n);
        let from = n * self.sizes.chunk;
        gather(self.level, x.q, from, self.c, &mut self.q, self.k_wide);
        let size = [self.c, self.sizes.k];
        transpose(
            self.level,
            size,
            &self.k,
            self.k_wide,
            &mut self.k_columns,
            self.stride,
        );
        self.score(save);
    }

    /// What a write of chunk `n` needs besides the errors: keys, gates and decays.
    pub(super) fn load_keys(&mut self, x: &HeadInputs<'_>, n: usize) {
        let from = n * self.sizes.chunk;
        self.c = self.sizes.chunk.min(self.sizes.t - from);
        gather(self.level, x.k, from, self.c, &mut self.k, self.k_wide);
        self.load_gates(x, from);
        self.weigh();
    }

    /// Values of chunk `n`, whose size is loaded, where the errors will be.
    pub(super) fn load_values(&mut self, x: &HeadInputs<'_>, n: usize) {
        let from = n * self.sizes.chunk;
        gather(self.level, x.v, from, self.c, &mut self.errors, self.v_wide);
    }

    /// Gates `[C, S]` → `[S, C]`, log decays summed up.
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
        for s in 0..self.sizes.states {
            let mut sum = 0.0;
            for i in 0..self.c {
                let (at, t) = (s * self.stride + i, from + i);
                sum += x.log_decay.row(t)[s];
                decay[at] = sum;
                read[at] = x.read.row(t)[s];
                write[at] = x.write.row(t)[s];
                if self.sizes.delta {
                    erase[at] = x.erase.row(t)[s];
                }
            }
        }
    }

    fn weigh(&mut self) {
        let Gates {
            decay,
            read,
            write,
            erase,
        } = &self.gates;
        let weights = &mut self.weights;
        weights.from_start.fill(0.0);
        weights.to_end.fill(0.0);
        for s in 0..self.sizes.states {
            let range = s * self.stride..s * self.stride + self.c;
            let last = decay[range.end - 1];
            for i in range {
                weights.from_start[i] = decay[i];
                weights.to_end[i] = last - decay[i];
            }
        }
        scores::exponentials(self.level, &mut weights.from_start);
        scores::exponentials(self.level, &mut weights.to_end);
        for i in 0..decay.len() {
            weights.reads[i] = read[i] * weights.from_start[i];
            weights.writes[i] = write[i] * weights.to_end[i];
            weights.recalls[i] = -erase[i] * weights.from_start[i];
        }
        for s in 0..self.sizes.states {
            weights.whole[s] = weights.from_start[s * self.stride + self.c - 1];
        }
    }

    /// `P`, `K Kᵀ` and what the masks make of them.
    fn score(&mut self, save: bool) {
        let product = |rows| Product {
            size: [self.c, padded(self.c), self.sizes.k],
            left: Left::rows(rows, self.k_wide),
            right: Right::rows(&self.k_columns, self.stride),
            part: Part::OutLower,
            keep: Keep::Nothing,
            scale: None,
        };
        multiply(
            self.level,
            &product(&self.q),
            &mut self.scores.products,
            self.stride,
        );
        if self.sizes.delta {
            multiply(
                self.level,
                &product(&self.k),
                &mut self.scores.keys,
                self.stride,
            );
        }
        scores::mask(
            self.level,
            self.extent(),
            &self.gates,
            &mut self.scores,
            save,
        );
    }

    /// The triangular system of the loaded chunk.
    pub(super) fn system(&self) -> System<'_> {
        let Chunk {
            c, stride, v_wide, ..
        } = *self;
        System {
            minus_l: &self.scores.minus_l,
            stride,
            c,
            width: v_wide,
        }
    }
}

impl Sizes {
    /// Saved states: before every group of chunks but the first, which starts from an input.
    fn borders_len(&self) -> usize {
        self.groups().saturating_sub(1) * self.state_len()
    }

    /// What forward saves of one head: states at borders, then prediction errors `[T, V]`, rows of
    /// whole lanes. In additive mode the errors are the values, which backward has.
    pub(super) fn saved_len(&self) -> usize {
        let errors = if self.delta { self.t } else { 0 };
        self.borders_len() + errors * padded(self.v)
    }

    /// The errors of the chunk that starts at `from`, among all that is saved.
    fn saved_errors(&self, from: usize, c: usize) -> std::ops::Range<usize> {
        let at = self.borders_len() + from * padded(self.v);
        at..at + c * padded(self.v)
    }

    /// The states before group `group`, among all that is saved.
    ///
    /// # Panics
    ///
    /// For the first group: nothing is saved of it.
    fn saved_border(&self, group: usize) -> std::ops::Range<usize> {
        let len = self.state_len();
        (group - 1) * len..group * len
    }
}

impl Chunk {
    /// From values to prediction errors, given the states that come in. Nothing in additive mode.
    pub(super) fn solve_errors(&mut self, states: &[f32]) {
        if !self.sizes.delta {
            return;
        }
        for s in 0..self.sizes.states {
            let product = Product {
                size: [self.c, self.v_wide, self.sizes.k],
                left: Left::rows(&self.k, self.k_wide),
                right: Right::rows(&states[self.sizes.state(s)], self.v_wide),
                part: Part::Whole,
                keep: Keep::Times(1.0),
                scale: Some(&self.weights.recalls[s * self.stride..]),
            };
            multiply(self.level, &product, &mut self.errors, self.v_wide);
        }
        let mut errors = std::mem::take(&mut self.errors);
        solve(self.level, self.system(), &mut errors);
        self.errors = errors;
    }

    /// `H_s ← e^(b_C) H_s + Kᵀ diag(u e^(b_C − b)) Dm`, from the states `before` if they are not
    /// in place; `rows` is scratch like the errors.
    pub(super) fn update_states(
        &self,
        before: Option<&[f32]>,
        states: &mut [f32],
        rows: &mut [f32],
    ) {
        let Chunk {
            c,
            stride,
            k_wide,
            v_wide,
            level,
            sizes,
            ..
        } = *self;
        for s in 0..sizes.states {
            let weights = &self.weights.writes[s * stride..s * stride + c];
            scale_rows(level, weights, &self.errors, rows, v_wide);
            let product = Product {
                size: [sizes.k, v_wide, c],
                left: Left::transposed(&self.k, k_wide),
                right: Right::rows(rows, v_wide),
                part: Part::Whole,
                keep: match before {
                    None => Keep::Times(self.weights.whole[s]),
                    Some(before) => Keep::Other(self.weights.whole[s], &before[sizes.state(s)]),
                },
                scale: None,
            };
            multiply(level, &product, &mut states[sizes.state(s)], v_wide);
        }
    }

    /// Saves the states before chunk `n`, if a group of chunks starts there.
    pub(super) fn save_border(&self, n: usize, states: &[f32], saved: &mut [MaybeUninit<f32>]) {
        if n > 0 && n.is_multiple_of(self.sizes.group) && !saved.is_empty() {
            let border = self.sizes.saved_border(n / self.sizes.group);
            saved[border].write_copy_of_slice(states);
        }
    }

    /// Saves the errors of chunk `n`, which is loaded and corrected.
    pub(super) fn save_errors(&self, n: usize, saved: &mut [MaybeUninit<f32>]) {
        if self.sizes.delta && !saved.is_empty() {
            let range = self.sizes.saved_errors(n * self.sizes.chunk, self.c);
            saved[range].write_copy_of_slice(&self.errors[..self.c * self.v_wide]);
        }
    }

    /// Prediction errors of chunk `n`, whose size is loaded: saved ones, or values.
    pub(super) fn load_errors(&mut self, x: &HeadInputs<'_>, n: usize, saved: &[f32]) {
        if self.sizes.delta {
            let range = self.sizes.saved_errors(n * self.sizes.chunk, self.c);
            self.errors[..self.c * self.v_wide].copy_from_slice(&saved[range]);
        } else {
            self.load_values(x, n);
        }
    }

    /// States before every chunk of group `group` into `states`, one behind the other: the first
    /// as it was saved (or `first`, `[S, K, V]`, or empty), the others by writing again.
    pub(super) fn recompute_states(
        &mut self,
        x: &HeadInputs<'_>,
        first: Option<&[f32]>,
        group: usize,
        saved: &[f32],
        states: &mut [f32],
        rows: &mut [f32],
    ) {
        let (sizes, len) = (self.sizes, self.sizes.state_len());
        match first {
            _ if group > 0 => states[..len].copy_from_slice(&saved[sizes.saved_border(group)]),
            Some(first) => widen(first, sizes.v, &mut states[..len], self.v_wide),
            None => states[..len].fill(0.0),
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
