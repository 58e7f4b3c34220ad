//! One chunk of one head in scratch memory: what forward and backward both compute of it, and what passes
//! from chunk to chunk.
//!
//! Names follow `README.md`. Rows of keys and values are filled up to whole lanes with zeros,
//! positions behind the end of a ragged chunk are left out (as rows) or zero (as columns).

use super::super::reference::Scan;
use super::scores::{self, Gates, Scores, solve};
use crate::borders::Piece;
use crate::cpu::product::{Keep, Left, Part, Product, Right, multiply};
use crate::cpu::rows::{Place, Rows, gather, scale_rows};
use crate::cpu::simd::{Level, padded};
use crate::cpu::transpose::transpose;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Positions in a chunk. Work inside a chunk grows with it, and with one state that is most of the
/// work. Of 16, 32 and 64 on an AVX-512 machine 32 is the fastest, with one state and with four.
pub(super) const CHUNK: usize = 32;
/// Chunks from one saved state to the next. Between them backward writes again, which with saved
/// errors costs a tenth of its work; sixteen instead of four take 11 MB in 71 from a call of 8,192
/// tokens with S 4, K = V = 64, and one to two parts in a hundred of speed.
pub(super) const GROUP: usize = 16;

/// Sizes of a head.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) t: usize,
    pub(super) states: usize,
    pub(super) k: usize,
    pub(super) v: usize,
    pub(super) delta: bool,
}

impl Sizes {
    /// Those of one document alone.
    pub(super) fn of(self, piece: &Piece) -> Self {
        let t = piece.tokens.len();
        Sizes { t, ..self }
    }

    pub(super) fn chunks(&self) -> usize {
        self.t.div_ceil(CHUNK)
    }

    /// Groups of chunks, each with one saved state.
    pub(super) fn groups(&self) -> usize {
        self.chunks().div_ceil(GROUP)
    }

    /// The chunks of one group.
    pub(super) fn chunks_of(&self, group: usize) -> Range<usize> {
        group * GROUP..self.chunks().min((group + 1) * GROUP)
    }

    /// Values in all states of a head, rows of whole lanes.
    pub(super) fn state_len(&self) -> usize {
        self.states * self.k * padded(self.v)
    }

    /// One state inside all states of a head.
    pub(super) fn state(&self, s: usize) -> Range<usize> {
        let len = self.k * padded(self.v);
        s * len..(s + 1) * len
    }

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

    /// The errors of chunk `n` of `c` positions, among all that is saved.
    fn saved_errors(&self, n: usize, c: usize) -> Range<usize> {
        let at = self.borders_len() + n * CHUNK * padded(self.v);
        at..at + c * padded(self.v)
    }

    /// The states before group `group`, among all that is saved.
    ///
    /// # Panics
    ///
    /// For the first group: nothing is saved of it.
    fn saved_border(&self, group: usize) -> Range<usize> {
        let len = self.state_len();
        (group - 1) * len..group * len
    }
}

/// What one head reads. Its states `[S, K, V]` that come in are one row.
pub(super) type HeadInputs<'a> = Scan<Rows<'a>>;

impl HeadInputs<'_> {
    /// What it reads of one document.
    pub(super) fn part(self, piece: &Piece) -> Self {
        self.map_apart(|rows| rows.part(piece.tokens.clone()), |state| state)
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

/// How a chunk lies in scratch memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
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
}

/// Products of matrices that lie so.
impl Layout {
    /// Gates of state `s`, of every position.
    pub(super) fn gates(&self, s: usize) -> Range<usize> {
        s * self.stride..(s + 1) * self.stride
    }

    /// Gates of state `s`, of the positions that are loaded.
    pub(super) fn loaded(&self, s: usize) -> Range<usize> {
        s * self.stride..s * self.stride + self.c
    }

    /// Rows `[C, width]` of `wide` → `[width, C]`.
    pub(super) fn columns(&self, [width, wide]: [usize; 2], rows: &[f32], to: &mut [f32]) {
        transpose(self.level, [self.c, width], rows, wide, to, self.stride);
    }

    /// Rows, `depth` values of `wide`, times columns: `[C, C]`, on and below the diagonal.
    pub(super) fn scores<'a>(
        &self,
        [depth, wide]: [usize; 2],
        rows: &'a [f32],
        columns: &'a [f32],
    ) -> Product<'a> {
        Product {
            size: [self.c, padded(self.c), depth],
            left: Left::rows(rows, wide),
            right: Right::rows(columns, self.stride),
            part: Part::OutLower,
            keep: Keep::Nothing,
            scale: None,
        }
    }

    /// A lower triangle `[C, C]` times rows of `wide`.
    pub(super) fn lower<'a>(
        &self,
        triangle: &'a [f32],
        rows: &'a [f32],
        wide: usize,
    ) -> Product<'a> {
        Product {
            size: [self.c, wide, self.c],
            left: Left::rows(triangle, self.stride),
            right: Right::rows(rows, wide),
            part: Part::LeftLower,
            keep: Keep::Nothing,
            scale: None,
        }
    }

    /// The transpose of a lower triangle `[C, C]` times rows of `wide`.
    pub(super) fn upper<'a>(
        &self,
        triangle: &'a [f32],
        rows: &'a [f32],
        wide: usize,
    ) -> Product<'a> {
        Product {
            left: Left::transposed(triangle, self.stride),
            part: Part::LeftUpper,
            ..self.lower(triangle, rows, wide)
        }
    }

    /// `out += Σ_s diag(weights_s) · rows · H_s`, rows `[C, K]`, out `[C, V]`.
    pub(super) fn ask_states(
        &self,
        rows: &[f32],
        weights: &[f32],
        states: &[f32],
        out: &mut [f32],
    ) {
        for s in 0..self.sizes.states {
            let product = Product {
                size: [self.c, self.v_wide, self.sizes.k],
                left: Left::rows(rows, self.k_wide),
                right: Right::rows(&states[self.sizes.state(s)], self.v_wide),
                part: Part::Whole,
                keep: Keep::Times(1.0),
                scale: Some(&weights[s * self.stride..]),
            };
            multiply(self.level, &product, out, self.v_wide);
        }
    }

    /// `state = keep + rowsᵀ · diag(weights) · values`, rows `[C, K]`; `scratch` is as large as `values`.
    pub(super) fn write_state(
        &self,
        keep: Keep<'_>,
        rows: &[f32],
        weights: &[f32],
        values: &[f32],
        scratch: &mut [f32],
        state: &mut [f32],
    ) {
        scale_rows(self.level, weights, values, scratch, self.v_wide);
        let product = Product {
            size: [self.sizes.k, self.v_wide, self.c],
            left: Left::transposed(rows, self.k_wide),
            right: Right::rows(scratch, self.v_wide),
            part: Part::Whole,
            keep,
            scale: None,
        };
        multiply(self.level, &product, state, self.v_wide);
    }
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
                whole: zeros(sizes.states),
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
    pub(super) fn load(&mut self, x: &HeadInputs<'_>, n: usize, save: bool) {
        self.load_keys(x, n);
        let layout = self.layout;
        let Layout { level, k_wide, .. } = layout;
        gather(level, x.q, n * CHUNK, layout.c, &mut self.q, k_wide);
        let width = [layout.sizes.k, k_wide];
        layout.columns(width, &self.k, &mut self.k_columns);
        // `P`, `K Kᵀ` and what the masks make of them.
        let product = layout.scores(width, &self.q, &self.k_columns);
        multiply(level, &product, &mut self.scores.products, layout.stride);
        if layout.sizes.delta {
            let product = layout.scores(width, &self.k, &self.k_columns);
            multiply(level, &product, &mut self.scores.keys, layout.stride);
        }
        scores::mask(level, layout, &self.gates, &mut self.scores, save);
    }

    /// What a write of chunk `n` needs besides the errors: keys, gates and decays.
    pub(super) fn load_keys(&mut self, x: &HeadInputs<'_>, n: usize) {
        let from = n * CHUNK;
        self.layout.c = CHUNK.min(self.layout.sizes.t - from);
        let Layout {
            level, c, k_wide, ..
        } = self.layout;
        gather(level, x.k, from, c, &mut self.k, k_wide);
        self.load_gates(x, from);
        self.weigh();
    }

    /// Values of chunk `n`, whose size is loaded, where the errors will be.
    pub(super) fn load_values(&mut self, x: &HeadInputs<'_>, n: usize) {
        let Layout {
            level, c, v_wide, ..
        } = self.layout;
        gather(level, x.v, n * CHUNK, c, &mut self.errors, v_wide);
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
        let Layout {
            c, stride, sizes, ..
        } = self.layout;
        for s in 0..sizes.states {
            let mut sum = 0.0;
            for i in 0..c {
                let (at, t) = (s * stride + i, from + i);
                sum += x.log_decay.row(t)[s];
                decay[at] = sum;
                read[at] = x.read.row(t)[s];
                write[at] = x.write.row(t)[s];
                if sizes.delta {
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
        let (layout, weights) = (self.layout, &mut self.weights);
        weights.from_start.fill(0.0);
        weights.to_end.fill(0.0);
        for s in 0..layout.sizes.states {
            let range = layout.loaded(s);
            let last = decay[range.end - 1];
            for i in range {
                weights.from_start[i] = decay[i];
                weights.to_end[i] = last - decay[i];
            }
        }
        scores::exponentials(layout.level, &mut weights.from_start);
        scores::exponentials(layout.level, &mut weights.to_end);
        for i in 0..decay.len() {
            weights.reads[i] = read[i] * weights.from_start[i];
            weights.writes[i] = write[i] * weights.to_end[i];
            weights.recalls[i] = -erase[i] * weights.from_start[i];
        }
        for s in 0..layout.sizes.states {
            weights.whole[s] = weights.from_start[layout.loaded(s).end - 1];
        }
    }

    /// From values to prediction errors, given the states that come in. Nothing in additive mode.
    pub(super) fn solve_errors(&mut self, states: &[f32]) {
        let (layout, errors) = (self.layout, &mut self.errors);
        if layout.sizes.delta {
            layout.ask_states(&self.k, &self.weights.recalls, states, errors);
            solve(layout, &self.scores.minus_l, errors);
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
        let (layout, weights) = (self.layout, &self.weights);
        for s in 0..layout.sizes.states {
            let state = layout.sizes.state(s);
            let keep = match before {
                None => Keep::Times(weights.whole[s]),
                Some(before) => Keep::Other(weights.whole[s], &before[state.clone()]),
            };
            let writes = &weights.writes[layout.loaded(s)];
            layout.write_state(
                keep,
                &self.k,
                writes,
                &self.errors,
                rows,
                &mut states[state],
            );
        }
    }

    /// Saves the states before chunk `n`, if a group of chunks starts there.
    pub(super) fn save_border(&self, n: usize, states: &[f32], saved: &mut [MaybeUninit<f32>]) {
        if n > 0 && n.is_multiple_of(GROUP) && !saved.is_empty() {
            let border = self.layout.sizes.saved_border(n / GROUP);
            saved[border].write_copy_of_slice(states);
        }
    }

    /// Saves the errors of chunk `n`, which is loaded and corrected.
    pub(super) fn save_errors(&self, n: usize, saved: &mut [MaybeUninit<f32>]) {
        let Layout { c, sizes, .. } = self.layout;
        if sizes.delta && !saved.is_empty() {
            let range = sizes.saved_errors(n, c);
            let errors = &self.errors[..range.len()];
            saved[range].write_copy_of_slice(errors);
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
