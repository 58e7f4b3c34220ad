//! Backward over the chunks of one head, last chunk first, on plain slices.
//!
//! The masks inside a chunk are computed again from the inputs, the states before it from the
//! nearest saved ones and the saved prediction errors, by writes alone: no second solve. What
//! multiplies a state is kept transposed (`[V, C]` in, `[K, C]` out), so no state is ever
//! transposed and the sums over keys run along lanes.

mod scores;
mod states;

use super::carry::{narrow, widen};
use super::chunk::{Chunk, HeadInputs};
use super::rows::RowsMut;
use super::rowwise::{gather, scatter};

/// Where the gradients of one head go. Two places hold a gradient that comes in until the one that
/// goes out takes it: a chunk's rows are read before they are written.
#[derive(Debug)]
pub(super) struct HeadGrads<'a> {
    pub(super) q: RowsMut<'a>,
    pub(super) k: RowsMut<'a>,
    /// That of the outputs before.
    pub(super) v: RowsMut<'a, f32>,
    pub(super) log_decay: RowsMut<'a>,
    pub(super) read: RowsMut<'a>,
    pub(super) write: RowsMut<'a>,
    pub(super) erase: RowsMut<'a>,
    /// `[S, K, V]`; that of the last state before.
    pub(super) state: &'a mut [f32],
}

/// Gradients of a chunk's gates, laid out like the gates.
#[derive(Clone, Debug)]
struct GateGrads {
    read: Vec<f32>,
    write: Vec<f32>,
    erase: Vec<f32>,
    /// `⟨dH_s¹, H_s¹⟩` of every state.
    ends: Vec<f32>,
}

/// Scratch of backward for one thread.
#[derive(Clone, Debug)]
pub(super) struct Backward {
    chunk: Chunk,
    /// The states before every chunk of a group, `[S, K, V]` each.
    states: Vec<f32>,
    /// `dH` `[S, K, V]`.
    d_states: Vec<f32>,
    /// `dO` and `dX = dV` `[C, V]`.
    d_o: Vec<f32>,
    d_x: Vec<f32>,
    /// Scaled rows `[C, V]`.
    rows: Vec<f32>,
    /// `dO`, `Dm` and `dX` `[V, C]`.
    d_o_columns: Vec<f32>,
    error_columns: Vec<f32>,
    d_x_columns: Vec<f32>,
    /// `Q`, and what one state contributes, `[K, C]`.
    q_columns: Vec<f32>,
    through_state: Vec<f32>,
    /// `dQ` and `dK`, as rows `[C, K]` and as columns `[K, C]`.
    d_q: Vec<f32>,
    d_k: Vec<f32>,
    d_q_columns: Vec<f32>,
    d_k_columns: Vec<f32>,
    /// `dA`, then `dP`; `−dL`, then `dG`: `[C, C]`.
    d_attention: Vec<f32>,
    d_errors: Vec<f32>,
    gates: GateGrads,
    /// Two rows `[C]`.
    spare: Vec<f32>,
}

impl Backward {
    pub(super) fn new(chunk: Chunk) -> Self {
        let zeros = |len: usize| vec![0f32; len];
        let (columns_v, columns_k) = (chunk.v_wide * chunk.stride, chunk.sizes.k * chunk.stride);
        let gate = || zeros(chunk.gates.read.len());
        Backward {
            states: zeros(chunk.sizes.group * chunk.sizes.state_len()),
            d_states: zeros(chunk.sizes.state_len()),
            d_o: zeros(chunk.errors.len()),
            d_x: zeros(chunk.errors.len()),
            rows: zeros(chunk.errors.len()),
            d_o_columns: zeros(columns_v),
            error_columns: zeros(columns_v),
            d_x_columns: zeros(columns_v),
            q_columns: zeros(columns_k),
            through_state: zeros(columns_k),
            d_q: zeros(chunk.q.len()),
            d_k: zeros(chunk.k.len()),
            d_q_columns: zeros(columns_k),
            d_k_columns: zeros(columns_k),
            d_attention: zeros(chunk.scores.products.len()),
            d_errors: zeros(chunk.scores.keys.len()),
            gates: GateGrads {
                read: gate(),
                write: gate(),
                erase: gate(),
                ends: zeros(chunk.sizes.states),
            },
            spare: zeros(2 * chunk.stride),
            chunk,
        }
    }

    /// Runs one head backward. `first` is the state `[S, K, V]` that came in, `saved` what forward
    /// saved.
    pub(super) fn run(
        &mut self,
        x: &HeadInputs<'_>,
        [first, saved]: [&[f32]; 2],
        grads: &mut HeadGrads<'_>,
    ) {
        let sizes = self.chunk.sizes;
        widen(grads.state, sizes.v, &mut self.d_states, self.chunk.v_wide);
        let mut states = std::mem::take(&mut self.states);
        let len = sizes.state_len();
        for group in (0..sizes.groups()).rev() {
            let chunks = sizes.chunks_of(group);
            self.chunk
                .replay(x, first, group, saved, &mut states, &mut self.rows);
            for (i, n) in chunks.enumerate().rev() {
                self.chunk.load(x, n, true);
                self.chunk.load_errors(x, n, saved);
                self.step(n, &states[i * len..(i + 1) * len], grads);
            }
        }
        self.states = states;
        narrow(&self.d_states, self.chunk.v_wide, grads.state, sizes.v);
    }

    /// Backward through chunk `n`, which is loaded, given the states before it.
    fn step(&mut self, n: usize, states: &[f32], grads: &mut HeadGrads<'_>) {
        let Chunk {
            level,
            c,
            v_wide,
            sizes,
            ..
        } = self.chunk;
        let d_o = grads.v.as_rows();
        gather(level, d_o, n * sizes.chunk, c, &mut self.d_o, v_wide);
        self.through_solve();
        self.turn_to_columns();
        self.through_scores();
        self.through_states(states);
        self.through_products();
        self.carry_back();
        self.store(n * sizes.chunk, grads);
    }

    /// Writes the chunk's gradients to positions `from` and on.
    fn store(&mut self, from: usize, grads: &mut HeadGrads<'_>) {
        let Chunk {
            c,
            stride,
            k_wide,
            v_wide,
            level,
            sizes,
            ..
        } = self.chunk;
        scatter(level, &self.d_q, k_wide, c, &mut grads.q, from);
        scatter(level, &self.d_k, k_wide, c, &mut grads.k, from);
        scatter(level, &self.d_x, v_wide, c, &mut grads.v, from);
        let gates = &self.chunk.gates;
        for s in 0..sizes.states {
            let mut sum = self.gates.ends[s];
            for i in (0..c).rev() {
                let (at, t) = (s * stride + i, from + i);
                let [d_read, d_write, d_erase] = [
                    self.gates.read[at],
                    self.gates.write[at],
                    self.gates.erase[at],
                ];
                sum +=
                    gates.read[at] * d_read + gates.erase[at] * d_erase - gates.write[at] * d_write;
                grads.log_decay.row(t)[s].write(sum);
                grads.read.row(t)[s].write(d_read);
                grads.write.row(t)[s].write(d_write);
                grads.erase.row(t)[s].write(d_erase);
            }
        }
    }
}
