//! Backward over the chunks of one head, last chunk first, on plain slices.
//!
//! The masks inside a chunk are computed again from the inputs, the states before it from the
//! nearest saved ones and the saved prediction errors, by writes alone: no second solve. What
//! multiplies a state is kept transposed (`[V, C]` in, `[K, C]` out), so no state is ever
//! transposed and the sums over keys run along lanes.

use super::chunk::{Chunk, HeadInputs, narrow, widen};
use super::layout::{GROUP, Layout};
use super::scores::{Gates, mask_grads, solve};
use crate::borders::Piece;
use crate::cpu::product::{Keep, Left, Part, Product, Right, multiply};
use crate::cpu::rows::{Columns, RowsMut, dot, dot_columns, gather, scatter};
use crate::cpu::simd::padded;
use crate::cpu::transpose::transpose;

/// Where the gradients of one head go. Two places hold a gradient that comes in until the one that
/// goes out takes it: a chunk's rows are read before they are written.
#[derive(Debug)]
pub(super) struct HeadGrads<'a> {
    /// Of queries, keys, log decay, read, write and erase.
    pub(super) rows: [RowsMut<'a>; 6],
    /// That of the outputs before.
    pub(super) v: RowsMut<'a, f32>,
    /// `[S, K, V]`; that of the last state before.
    pub(super) state: &'a mut [f32],
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
    state_columns: Vec<f32>,
    /// `dQ` and `dK`, as rows `[C, K]` and as columns `[K, C]`.
    d_q: Vec<f32>,
    d_k: Vec<f32>,
    d_q_columns: Vec<f32>,
    d_k_columns: Vec<f32>,
    /// `dA`, then `dP`; `−dL`, then `dG`: `[C, C]`.
    d_attention: Vec<f32>,
    d_errors: Vec<f32>,
    /// All but that of the decay.
    gates: Gates,
    /// `⟨dH_s¹, H_s¹⟩` of every state.
    ends: Vec<f32>,
    /// Two rows `[C]`.
    spare: Vec<f32>,
}

impl Backward {
    pub(super) fn new(chunk: Chunk) -> Self {
        let zeros = |len: usize| vec![0f32; len];
        let Layout { sizes, stride, .. } = chunk.layout;
        let (columns_v, columns_k) = (chunk.layout.v_wide * stride, sizes.k * stride);
        Backward {
            states: zeros(GROUP * sizes.state_len()),
            d_states: zeros(sizes.state_len()),
            d_o: chunk.errors.clone(),
            d_x: chunk.errors.clone(),
            rows: chunk.errors.clone(),
            d_o_columns: zeros(columns_v),
            error_columns: zeros(columns_v),
            d_x_columns: zeros(columns_v),
            q_columns: zeros(columns_k),
            state_columns: zeros(columns_k),
            d_q: chunk.q.clone(),
            d_k: chunk.k.clone(),
            d_q_columns: zeros(columns_k),
            d_k_columns: zeros(columns_k),
            d_attention: chunk.scores.products.clone(),
            d_errors: chunk.scores.keys.clone(),
            gates: chunk.gates.clone(),
            ends: zeros(sizes.states),
            spare: zeros(2 * stride),
            chunk,
        }
    }

    /// Runs one head backward; `saved` is what forward saved.
    pub(super) fn run(
        &mut self,
        (x, pieces): (HeadInputs<'_>, &[Piece]),
        mut saved: &[f32],
        grads: &mut HeadGrads<'_>,
    ) {
        let Layout { sizes, v_wide, .. } = self.chunk.layout;
        widen(grads.state, sizes.v, &mut self.d_states, v_wide);
        for piece in pieces.iter().rev() {
            self.chunk.layout.sizes = sizes.of(piece);
            let own = self.chunk.layout.sizes.saved_len();
            let (rest, own) = saved.split_at(saved.len() - own);
            self.document((&x, piece.fresh), own, grads);
            saved = rest;
            if piece.fresh {
                self.d_states.fill(0.0);
            }
        }
        self.chunk.layout.sizes = sizes;
        narrow(&self.d_states, v_wide, grads.state, sizes.v);
    }

    /// Backward through one document, whose sizes are there.
    fn document(
        &mut self,
        (x, fresh): (&HeadInputs<'_>, bool),
        saved: &[f32],
        grads: &mut HeadGrads<'_>,
    ) {
        let sizes = self.chunk.layout.sizes;
        let mut states = std::mem::take(&mut self.states);
        let len = sizes.state_len();
        for group in (0..sizes.groups()).rev() {
            let (chunk, rows) = (&mut self.chunk, &mut self.rows);
            chunk.recompute_states((x, fresh), group, saved, &mut states, rows);
            for (i, n) in sizes.chunks_of(group).enumerate().rev() {
                self.chunk.load(x, n);
                self.chunk.load_errors(x, n, saved);
                self.step(sizes.first(n), &states[i * len..(i + 1) * len], grads);
            }
        }
        self.states = states;
    }

    /// Backward through the chunk that is loaded, whose rows stand from `from` on, given the states before it.
    fn step(&mut self, from: usize, states: &[f32], grads: &mut HeadGrads<'_>) {
        let Layout { level, c, .. } = self.chunk.layout;
        let (d_o, wide) = (grads.v.as_rows(), self.chunk.layout.v_wide);
        gather(level, d_o, from, c, &mut self.d_o, wide);
        self.backward_errors();
        self.transpose_rows();
        self.backward_scores();
        self.backward_states(states);
        self.backward_queries_and_keys();
        self.backward_carry();
        self.store(from, grads);
    }

    /// Writes the chunk's gradients to positions `from` and on.
    fn store(&mut self, from: usize, grads: &mut HeadGrads<'_>) {
        let layout = self.chunk.layout;
        let (level, c, k_wide) = (layout.level, layout.c, layout.k_wide);
        let [q, k, log_decay, read, write, erase] = &mut grads.rows;
        scatter(level, &self.d_q, k_wide, c, q, from);
        scatter(level, &self.d_k, k_wide, c, k, from);
        scatter(level, &self.d_x, layout.v_wide, c, &mut grads.v, from);
        let gates = &self.chunk.gates;
        for s in 0..layout.sizes.states {
            let mut sum = self.ends[s];
            for (at, t) in layout.loaded(s).zip(from..from + c).rev() {
                let d_read = self.gates.read[at];
                let d_write = self.gates.write[at];
                let d_erase = self.gates.erase[at];
                sum +=
                    gates.read[at] * d_read + gates.erase[at] * d_erase - gates.write[at] * d_write;
                log_decay.row(t)[s].write(sum);
                read.row(t)[s].write(d_read);
                write.row(t)[s].write(d_write);
                erase.row(t)[s].write(d_erase);
            }
        }
    }
}

/// Inside a chunk: the solve, the score matrices and the masks.
impl Backward {
    /// `dX = (I + L)⁻ᵀ (Aᵀ dO + Σ_s diag(u e^(b_C − b)) K dH_s)`.
    fn backward_errors(&mut self) {
        let (layout, d_x) = (self.chunk.layout, &mut self.d_x);
        let Chunk {
            k, weights, scores, ..
        } = &self.chunk;
        let (upper, attention, wide) = (Part::LeftUpper, &scores.attention, layout.v_wide);
        layout.times(upper, attention, &self.d_o, wide, Keep::Nothing, d_x);
        layout.ask_states(k, &weights.writes, &self.d_states, d_x);
        if layout.sizes.delta {
            solve(layout, &scores.minus_l, true, d_x);
        }
    }

    /// The transposes that the rest reads.
    fn transpose_rows(&mut self) {
        let layout = self.chunk.layout;
        let keys = [layout.sizes.k, layout.k_wide];
        let values = [layout.sizes.v, layout.v_wide];
        layout.columns(values, &self.d_o, &mut self.d_o_columns);
        layout.columns(values, &self.chunk.errors, &mut self.error_columns);
        if layout.sizes.delta {
            layout.columns(values, &self.d_x, &mut self.d_x_columns);
        }
        layout.columns(keys, &self.chunk.q, &mut self.q_columns);
    }

    /// Through `A` and `L`: `dP`, `dG` and the gates inside the chunk.
    fn backward_scores(&mut self) {
        let layout = self.chunk.layout;
        let width = [layout.sizes.v, layout.v_wide];
        let errors = &self.error_columns;
        layout.scores(width, &self.d_o, errors, &mut self.d_attention);
        if layout.sizes.delta {
            layout.scores(width, &self.d_x, errors, &mut self.d_errors);
        }
        let Chunk { gates, scores, .. } = &self.chunk;
        let d_scores = [self.d_attention.as_mut_slice(), &mut self.d_errors];
        let (d_gates, spare) = (&mut self.gates, &mut self.spare);
        let level = layout.level;
        mask_grads(level, layout, gates, scores, d_gates, d_scores, spare);
    }

    /// `dQ += dP K`, `dK += dPᵀ Q + (dG + dGᵀ) K`, on top of what came through the states.
    fn backward_queries_and_keys(&mut self) {
        let layout = self.chunk.layout;
        let (level, stride, wide) = (layout.level, layout.stride, layout.k_wide);
        let (d_q, d_k) = (&mut self.d_q, &mut self.d_k);
        let size = [layout.sizes.k, layout.c];
        transpose(level, size, &self.d_q_columns, stride, d_q, wide);
        transpose(level, size, &self.d_k_columns, stride, d_k, wide);
        let add = |part, triangle: &[f32], rows: &[f32], out: &mut [f32]| {
            layout.times(part, triangle, rows, wide, Keep::Times(1.0), out);
        };
        let (q, k) = (&self.chunk.q, &self.chunk.k);
        let (d_p, d_g) = (&self.d_attention, &self.d_errors);
        add(Part::LeftLower, d_p, k, d_q);
        add(Part::LeftUpper, d_p, q, d_k);
        if layout.sizes.delta {
            add(Part::LeftLower, d_g, k, d_k);
            add(Part::LeftUpper, d_g, k, d_k);
        }
    }
}

/// Through the states: those that came into a chunk and the gradients of those that left.
impl Backward {
    /// Through every state that came in and every gradient of a state that went out.
    fn backward_states(&mut self, states: &[f32]) {
        self.d_q_columns.fill(0.0);
        self.d_k_columns.fill(0.0);
        let layout = self.chunk.layout;
        let (c, sizes) = (layout.c, layout.sizes);
        let Chunk {
            k_columns, weights, ..
        } = &self.chunk;
        let scratch = &mut [self.state_columns.as_mut_slice(), &mut self.spare];
        for s in 0..sizes.states {
            let gates = || layout.gates(s);
            let (state, d_state) = (&states[sizes.state(s)], &self.d_states[sizes.state(s)]);
            let (from_start, to_end) = (&weights.from_start[gates()], &weights.to_end[gates()]);

            // Y_sᵀ = H_s dOᵀ: dQ += diag(r e^b) Y_s, dr += e^b q · Y_s.
            let met = [state, &self.d_o_columns, &self.q_columns];
            let reads = &weights.reads[gates()];
            through_state(layout, met, reads, &mut self.d_q_columns, scratch);
            let d_read = &mut self.gates.read[gates()];
            add_scaled(d_read, from_start, &scratch[1][..c], 1.0);

            // Z_sᵀ = dH_s Dmᵀ: dK += diag(u e^(b_C − b)) Z_s, du += e^(b_C − b) k · Z_s.
            let met = [d_state, &self.error_columns, k_columns];
            let writes = &weights.writes[gates()];
            through_state(layout, met, writes, &mut self.d_k_columns, scratch);
            let d_write = &mut self.gates.write[gates()];
            let sums = &scratch[1][..c];
            add_scaled(d_write, to_end, sums, 1.0);
            // ⟨dH¹, H¹⟩ in its two parts: what was kept of H⁰ and what was written.
            let kept = dot(layout.level, d_state, state);
            let written: f32 = writes.iter().zip(sums).map(|(x, sum)| x * sum).sum();
            self.ends[s] = self.chunk.whole(s) * kept + written;

            // Y'_sᵀ = −H_s dXᵀ: dK += diag(p e^b) Y'_s, dp += e^b k · Y'_s.
            if sizes.delta {
                let met = [state, &self.d_x_columns, k_columns];
                let recalls = &weights.recalls[gates()];
                through_state(layout, met, recalls, &mut self.d_k_columns, scratch);
                let d_erase = &mut self.gates.erase[gates()];
                add_scaled(d_erase, from_start, &scratch[1][..c], -1.0);
            }
        }
    }

    /// `dH_s ← e^(b_C) dH_s + Qᵀ diag(r e^b) dO − Kᵀ diag(p e^b) dX`.
    fn backward_carry(&mut self) {
        let (layout, rows) = (self.chunk.layout, &mut self.rows);
        let Chunk { q, k, weights, .. } = &self.chunk;
        for s in 0..layout.sizes.states {
            let d_state = &mut self.d_states[layout.sizes.state(s)];
            let reads = &weights.reads[layout.loaded(s)];
            let keep = Keep::Times(self.chunk.whole(s));
            layout.write_state(keep, q, reads, &self.d_o, rows, d_state);
            if layout.sizes.delta {
                let recalls = &weights.recalls[layout.loaded(s)];
                layout.write_state(Keep::Times(1.0), k, recalls, &self.d_x, rows, d_state);
            }
        }
    }
}

/// What a state gives to the gradients of queries or keys `[K, C]` that met it: `product = state · columns`,
/// `out += product · diag(factors)`, and `sums` of `left . product` over keys.
fn through_state(
    layout: Layout,
    [state, columns, left]: [&[f32]; 3],
    factors: &[f32],
    out: &mut [f32],
    [product, sums]: &mut [&mut [f32]; 2],
) {
    let width = padded(layout.c);
    let times = Product {
        size: [layout.sizes.k, width, layout.sizes.v],
        left: Left::rows(state, layout.v_wide),
        right: Right::rows(columns, layout.stride),
        part: Part::Whole,
        keep: Keep::Nothing,
        scale: None,
    };
    multiply(layout.level, &times, product, layout.stride);
    let columns = Columns {
        width,
        stride: layout.stride,
        left,
        right: product,
        factors,
    };
    dot_columns(layout.level, &columns, out, sums);
}

/// `grads += sign · decays . sums`, as many as there are sums.
fn add_scaled(grads: &mut [f32], decays: &[f32], sums: &[f32], sign: f32) {
    for ((grad, decay), sum) in grads.iter_mut().zip(decays).zip(sums) {
        *grad += sign * decay * sum;
    }
}
