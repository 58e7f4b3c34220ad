//! Forward over one head: chunk by chunk, or for a few tokens (decoding) one by one. Of the latter every
//! state element is read, updated and written once for each token, and stays in cache between the two.

use super::chunk::{Chunk, HeadInputs, narrow, widen};
use super::layout::{GROUP, Layout, Sizes};
use crate::borders::Piece;
use crate::cpu::exp::exp;
use crate::cpu::product::{Keep, Part};
use crate::cpu::rows::{RowsMut, scatter};
use crate::cpu::simd::{LANES, Level, leveled, multiply_add};
use std::mem::MaybeUninit;

/// Scratch of forward for one thread.
#[derive(Clone, Debug)]
pub(super) struct Forward {
    chunk: Chunk,
    states: Vec<f32>,
    /// Outputs, then scaled errors `[C, V]`.
    rows: Vec<f32>,
}

impl Forward {
    pub(super) fn new(chunk: Chunk) -> Self {
        Forward {
            states: vec![0.0; chunk.layout.sizes.state_len()],
            rows: chunk.errors.clone(),
            chunk,
        }
    }

    /// Runs one head from its states to `last`, and from empty ones where a document begins.
    /// Writes outputs, and into `saved` (unless it is empty) what backward needs besides the inputs.
    pub(super) fn run(
        &mut self,
        (x, pieces): (HeadInputs<'_>, &[Piece]),
        o: &mut RowsMut<'_>,
        last: &mut [MaybeUninit<f32>],
        mut saved: &mut [MaybeUninit<f32>],
    ) {
        let Layout { sizes, v_wide, .. } = self.chunk.layout;
        widen(x.state.row(0), sizes.v, &mut self.states, v_wide);
        for piece in pieces {
            if piece.fresh {
                self.states.fill(0.0);
            }
            self.chunk.layout.sizes = sizes.of(piece);
            let own = saved.len().min(self.chunk.layout.sizes.saved_len());
            let own = saved.split_off_mut(..own).expect("no more than there are");
            self.document(&x, o, own);
        }
        debug_assert!(saved.is_empty(), "all is written that backward reads");
        self.chunk.layout.sizes = sizes;
        narrow(&self.states, v_wide, last, sizes.v);
    }

    /// One document, whose sizes are there.
    fn document(
        &mut self,
        x: &HeadInputs<'_>,
        o: &mut RowsMut<'_>,
        saved: &mut [MaybeUninit<f32>],
    ) {
        let chunk = &mut self.chunk;
        let sizes = chunk.layout.sizes;
        for n in 0..sizes.chunks() {
            if n > 0 && n.is_multiple_of(GROUP) && !saved.is_empty() {
                saved[sizes.saved_border(n / GROUP)].write_copy_of_slice(&self.states);
            }
            chunk.load(x, n);
            chunk.load_values(x, n);
            chunk.solve_errors(&self.states);
            let layout = chunk.layout;
            let (c, wide) = (layout.c, layout.v_wide);
            if sizes.delta && !saved.is_empty() {
                let to = &mut saved[sizes.saved_errors(n, c)];
                to.write_copy_of_slice(&chunk.errors[..c * wide]);
            }
            // O = A Dm + Σ_s diag(r e^b) Q H_s.
            let (attention, rows) = (&chunk.scores.attention, &mut self.rows);
            let (lower, keep) = (Part::LeftLower, Keep::Nothing);
            layout.times(lower, attention, &chunk.errors, wide, keep, rows);
            let reads = &chunk.weights.reads;
            layout.ask_states(&chunk.q, reads, &self.states, &mut self.rows);
            scatter(layout.level, &self.rows, wide, c, o, sizes.first(n));
            chunk.update_states(None, &mut self.states, &mut self.rows);
        }
    }
}

/// Scratch of the steps of one head.
#[derive(Clone, Debug)]
pub(super) struct Steps {
    level: Level,
    sizes: Sizes,
    /// Weights of every row of the states `[S·K]`: `e^g`.
    decay: Vec<f32>,
    /// `p e^g k`.
    recall: Vec<f32>,
    /// `r e^g q`.
    read: Vec<f32>,
    /// `u k`.
    write: Vec<f32>,
    /// `[V]`: what the states recall, then the errors, and what they answer.
    recalled: Vec<f32>,
    answered: Vec<f32>,
}

impl Steps {
    pub(super) fn new(level: Level, sizes: Sizes) -> Self {
        let rows = vec![0.0; sizes.states * sizes.k];
        Steps {
            level,
            sizes,
            decay: rows.clone(),
            recall: rows.clone(),
            read: rows.clone(),
            write: rows,
            recalled: vec![0.0; sizes.v],
            answered: vec![0.0; sizes.v],
        }
    }

    /// Runs one head from `state` `[S, K, V]`, which becomes the last one, writing outputs.
    pub(super) fn run(&mut self, x: &HeadInputs<'_>, state: &mut [f32], o: &mut RowsMut<'_>) {
        for t in 0..self.sizes.t {
            self.weigh(x, t);
            let weights = [self.recall.as_slice(), &self.read];
            let sums = [self.recalled.as_mut_slice(), &mut self.answered];
            sum_rows(self.level, state, weights, sums);
            // What this token wrote is read with it: Σ_s r_s u_s (q · k) d.
            let dot: f32 = x.q.row(t).iter().zip(x.k.row(t)).map(|(q, k)| q * k).sum();
            let gates = x.read.row(t).iter().zip(x.write.row(t));
            let own = dot * gates.map(|(read, write)| read * write).sum::<f32>();
            let errors = &mut self.recalled;
            let outputs = o.row(t).iter_mut().zip(&self.answered);
            for ((error, v), (o, answered)) in errors.iter_mut().zip(x.v.row(t)).zip(outputs) {
                *error = v - *error;
                o.write(answered + own * *error);
            }
            update(self.level, &self.decay, &self.write, errors, state);
        }
    }

    fn weigh(&mut self, x: &HeadInputs<'_>, t: usize) {
        let (q, k) = (x.q.row(t), x.k.row(t));
        for s in 0..self.sizes.states {
            let decay = exp::<false>(x.log_decay.row(t)[s]);
            let erase = match self.sizes.delta {
                true => x.erase.row(t)[s],
                false => 0.0,
            };
            let (read, write) = (x.read.row(t)[s], x.write.row(t)[s]);
            for i in 0..self.sizes.k {
                let row = s * self.sizes.k + i;
                self.decay[row] = decay;
                self.recall[row] = erase * decay * k[i];
                self.read[row] = read * decay * q[i];
                self.write[row] = write * k[i];
            }
        }
    }
}

leveled!(
    /// `out_n = Σ_row weights_n[row] · state[row]` `[V]` for two sets of weights, in one pass.
    fn sum_rows<const FMA: bool, const ROWS: usize>(
        state: &[f32],
        weights: [&[f32]; 2],
        out: [&mut [f32]; 2],
    ) {
        let [first, second] = out;
        let width = first.len();
        let mut at = 0;
        while at + 4 * LANES <= width {
            sum_tile::<FMA, { 4 * LANES }>(state, weights, [&mut *first, &mut *second], at);
            at += 4 * LANES;
        }
        while at + LANES <= width {
            sum_tile::<FMA, LANES>(state, weights, [&mut *first, &mut *second], at);
            at += LANES;
        }
        while at < width {
            sum_tile::<FMA, 1>(state, weights, [&mut *first, &mut *second], at);
            at += 1;
        }
    }
);

/// `N` columns from `at` on.
#[inline(always)]
fn sum_tile<const FMA: bool, const N: usize>(
    state: &[f32],
    weights: [&[f32]; 2],
    out: [&mut [f32]; 2],
    at: usize,
) {
    let mut sums = [[0f32; N]; 2];
    let rows = state.chunks_exact(out[0].len());
    for (row, (first, second)) in rows.zip(weights[0].iter().zip(weights[1])) {
        let row: &[f32; N] = row[at..at + N].try_into().expect("a slice of that length");
        for l in 0..N {
            sums[0][l] = multiply_add::<FMA>(*first, row[l], sums[0][l]);
            sums[1][l] = multiply_add::<FMA>(*second, row[l], sums[1][l]);
        }
    }
    for (out, sums) in out.into_iter().zip(&sums) {
        out[at..at + N].copy_from_slice(sums);
    }
}

leveled!(
    /// `state[row] = decay[row] · state[row] + write[row] · errors`.
    fn update<const FMA: bool, const ROWS: usize>(
        decay: &[f32],
        write: &[f32],
        errors: &[f32],
        state: &mut [f32],
    ) {
        let rows = state.chunks_exact_mut(errors.len());
        for (row, (decay, write)) in rows.zip(decay.iter().zip(write)) {
            for (x, error) in row.iter_mut().zip(errors) {
                *x = multiply_add::<FMA>(*write, *error, decay * *x);
            }
        }
    }
);
