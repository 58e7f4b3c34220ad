//! Backward over the chunks of one head, last chunk first, on plain slices.
//!
//! The masks inside a chunk are computed again from the inputs, the states before it from the
//! nearest saved ones and the saved prediction errors, by writes alone: no second solve. What
//! multiplies a state is kept transposed (`[V, C]` in, `[K, C]` out), so no state is ever
//! transposed and the sums over keys run along lanes.

use super::chunk::{Chunk, HeadInputs, narrow, widen};
use super::scores::{MaskGrads, mask_grads, solve_transposed};
use crate::borders::Piece;
use crate::cpu::product::{Keep, Left, Part, Product, Right, multiply};
use crate::cpu::rows::{Columns, RowsMut, dot, dot_columns, gather, scale_rows, scatter};
use crate::cpu::simd::padded;
use crate::cpu::transpose::transpose;

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
    state_columns: Vec<f32>,
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
            state_columns: zeros(columns_k),
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
        (x, pieces): (&HeadInputs<'_>, &[Piece]),
        [first, mut saved]: [&[f32]; 2],
        grads: &mut HeadGrads<'_>,
    ) {
        let whole = self.chunk.sizes;
        widen(grads.state, whole.v, &mut self.d_states, self.chunk.v_wide);
        for piece in pieces.iter().rev() {
            self.chunk.sizes = whole.of(piece);
            let (rest, own) = saved.split_at(saved.len() - self.chunk.sizes.saved_len());
            let first = (!piece.fresh).then_some(first);
            self.piece((&x.part(piece), piece.tokens.start), first, own, grads);
            saved = rest;
            if piece.fresh {
                self.d_states.fill(0.0);
            }
        }
        self.chunk.sizes = whole;
        narrow(&self.d_states, self.chunk.v_wide, grads.state, whole.v);
    }

    /// Backward through one document, whose rows stand from `start` on.
    fn piece(
        &mut self,
        (x, start): (&HeadInputs<'_>, usize),
        first: Option<&[f32]>,
        saved: &[f32],
        grads: &mut HeadGrads<'_>,
    ) {
        let sizes = self.chunk.sizes;
        let mut states = std::mem::take(&mut self.states);
        let len = sizes.state_len();
        for group in (0..sizes.groups()).rev() {
            let chunks = sizes.chunks_of(group);
            self.chunk
                .recompute_states(x, first, group, saved, &mut states, &mut self.rows);
            for (i, n) in chunks.enumerate().rev() {
                self.chunk.load(x, n, true);
                self.chunk.load_errors(x, n, saved);
                let from = start + n * sizes.chunk;
                self.step(from, &states[i * len..(i + 1) * len], grads);
            }
        }
        self.states = states;
    }

    /// Backward through the chunk that is loaded, whose rows stand from `from` on, given the states before it.
    fn step(&mut self, from: usize, states: &[f32], grads: &mut HeadGrads<'_>) {
        let Chunk {
            level, c, v_wide, ..
        } = self.chunk;
        let d_o = grads.v.as_rows();
        gather(level, d_o, from, c, &mut self.d_o, v_wide);
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

/// Inside a chunk: the solve, the score matrices and the masks.
impl Backward {
    /// `dX = (I + L)⁻ᵀ (Aᵀ dO + Σ_s diag(u e^(b_C − b)) K dH_s)`.
    fn backward_errors(&mut self) {
        let Chunk {
            c,
            stride,
            k_wide,
            v_wide,
            level,
            sizes,
            ..
        } = self.chunk;
        let inside = Product {
            size: [c, v_wide, c],
            left: Left::transposed(&self.chunk.scores.attention, stride),
            right: Right::rows(&self.d_o, v_wide),
            part: Part::LeftUpper,
            keep: Keep::Nothing,
            scale: None,
        };
        multiply(level, &inside, &mut self.d_x, v_wide);
        for s in 0..sizes.states {
            let product = Product {
                size: [c, v_wide, sizes.k],
                left: Left::rows(&self.chunk.k, k_wide),
                right: Right::rows(&self.d_states[sizes.state(s)], v_wide),
                part: Part::Whole,
                keep: Keep::Times(1.0),
                scale: Some(&self.chunk.weights.writes[s * stride..]),
            };
            multiply(level, &product, &mut self.d_x, v_wide);
        }
        if sizes.delta {
            solve_transposed(level, self.chunk.system(), &mut self.d_x);
        }
    }

    /// The transposes that the rest reads.
    fn transpose_rows(&mut self) {
        let Chunk {
            c,
            stride,
            k_wide,
            v_wide,
            level,
            sizes,
            ..
        } = self.chunk;
        let values = [c, sizes.v];
        transpose(
            level,
            values,
            &self.d_o,
            v_wide,
            &mut self.d_o_columns,
            stride,
        );
        transpose(
            level,
            values,
            &self.chunk.errors,
            v_wide,
            &mut self.error_columns,
            stride,
        );
        if sizes.delta {
            transpose(
                level,
                values,
                &self.d_x,
                v_wide,
                &mut self.d_x_columns,
                stride,
            );
        }
        transpose(
            level,
            [c, sizes.k],
            &self.chunk.q,
            k_wide,
            &mut self.q_columns,
            stride,
        );
    }

    /// Through `A` and `L`: `dP`, `dG` and the gates inside the chunk.
    fn backward_scores(&mut self) {
        let Chunk {
            c,
            stride,
            v_wide,
            level,
            sizes,
            ..
        } = self.chunk;
        let with_errors = |rows| Product {
            size: [c, padded(c), sizes.v],
            left: Left::rows(rows, v_wide),
            right: Right::rows(&self.error_columns, stride),
            part: Part::OutLower,
            keep: Keep::Nothing,
            scale: None,
        };
        multiply(
            level,
            &with_errors(&self.d_o),
            &mut self.d_attention,
            stride,
        );
        if sizes.delta {
            multiply(level, &with_errors(&self.d_x), &mut self.d_errors, stride);
        }
        let mut grads = MaskGrads {
            attention: &mut self.d_attention,
            errors: &mut self.d_errors,
            read: &mut self.gates.read,
            write: &mut self.gates.write,
            erase: &mut self.gates.erase,
            rows: &mut self.spare,
        };
        let extent = self.chunk.extent();
        mask_grads(
            level,
            extent,
            &self.chunk.gates,
            &self.chunk.scores,
            &mut grads,
        );
    }

    /// `dQ += dP K`, `dK += dPᵀ Q + (dG + dGᵀ) K`, on top of what came through the states.
    fn backward_queries_and_keys(&mut self) {
        let Chunk {
            c,
            stride,
            k_wide,
            level,
            sizes,
            ..
        } = self.chunk;
        let size = [sizes.k, c];
        transpose(
            level,
            size,
            &self.d_q_columns,
            stride,
            &mut self.d_q,
            k_wide,
        );
        transpose(
            level,
            size,
            &self.d_k_columns,
            stride,
            &mut self.d_k,
            k_wide,
        );
        let with = |left, part, rows| Product {
            size: [c, k_wide, c],
            left,
            right: Right::rows(rows, k_wide),
            part,
            keep: Keep::Times(1.0),
            scale: None,
        };
        let (q, k) = (self.chunk.q.as_slice(), self.chunk.k.as_slice());
        let d_p = Left::rows(&self.d_attention, stride);
        let d_p_columns = Left::transposed(&self.d_attention, stride);
        multiply(level, &with(d_p, Part::LeftLower, k), &mut self.d_q, k_wide);
        multiply(
            level,
            &with(d_p_columns, Part::LeftUpper, q),
            &mut self.d_k,
            k_wide,
        );
        if sizes.delta {
            let d_g = Left::rows(&self.d_errors, stride);
            let d_g_columns = Left::transposed(&self.d_errors, stride);
            multiply(level, &with(d_g, Part::LeftLower, k), &mut self.d_k, k_wide);
            multiply(
                level,
                &with(d_g_columns, Part::LeftUpper, k),
                &mut self.d_k,
                k_wide,
            );
        }
    }
}

/// Through the states: those that came into a chunk and the gradients of those that left.
impl Backward {
    /// Through every state that came in and every gradient of a state that went out.
    fn backward_states(&mut self, states: &[f32]) {
        let sizes = self.chunk.sizes;
        self.d_q_columns.fill(0.0);
        self.d_k_columns.fill(0.0);
        for s in 0..sizes.states {
            let state = &states[sizes.state(s)];
            self.backward_read(s, state);
            self.backward_write(s, state);
            if sizes.delta {
                self.backward_recall(s, state);
            }
        }
    }

    /// `Y_sᵀ = H_s dOᵀ`: `dQ += diag(r e^b) Y_s`, `dr += e^b q · Y_s`.
    fn backward_read(&mut self, s: usize, state: &[f32]) {
        let of_state = self.chunk.of_state(s);
        let weights = &self.chunk.weights;
        times_columns(
            &self.chunk,
            state,
            &self.d_o_columns,
            &mut self.state_columns,
        );
        let columns = Columns {
            width: padded(self.chunk.c),
            stride: self.chunk.stride,
            left: &self.q_columns,
            right: &self.state_columns,
            factors: &weights.reads[of_state.clone()],
        };
        dot_columns(
            self.chunk.level,
            &columns,
            &mut self.d_q_columns,
            &mut self.spare,
        );
        let decays = &weights.from_start[of_state.clone()];
        add_scaled(
            &mut self.gates.read[of_state],
            decays,
            &self.spare[..self.chunk.c],
            1.0,
        );
    }

    /// `Z_sᵀ = dH_s Dmᵀ`: `dK += diag(u e^(b_C − b)) Z_s`, `du += e^(b_C − b) k · Z_s`.
    fn backward_write(&mut self, s: usize, state: &[f32]) {
        let of_state = self.chunk.of_state(s);
        let weights = &self.chunk.weights;
        let d_state = &self.d_states[self.chunk.sizes.state(s)];
        times_columns(
            &self.chunk,
            d_state,
            &self.error_columns,
            &mut self.state_columns,
        );
        let columns = Columns {
            width: padded(self.chunk.c),
            stride: self.chunk.stride,
            left: &self.chunk.k_columns,
            right: &self.state_columns,
            factors: &weights.writes[of_state.clone()],
        };
        dot_columns(
            self.chunk.level,
            &columns,
            &mut self.d_k_columns,
            &mut self.spare,
        );
        // ⟨dH¹, H¹⟩ in its two parts: what was kept of H⁰ and what was written.
        let sums = &self.spare[..self.chunk.c];
        let kept = dot(self.chunk.level, d_state, state);
        let written: f32 = columns
            .factors
            .iter()
            .zip(sums)
            .map(|(x, sum)| x * sum)
            .sum();
        self.gates.ends[s] = weights.whole[s] * kept + written;
        let decays = &weights.to_end[of_state.clone()];
        add_scaled(&mut self.gates.write[of_state], decays, sums, 1.0);
    }

    /// `Y'_sᵀ = −H_s dXᵀ`: `dK += diag(p e^b) Y'_s`, `dp += e^b k · Y'_s`.
    fn backward_recall(&mut self, s: usize, state: &[f32]) {
        let of_state = self.chunk.of_state(s);
        let weights = &self.chunk.weights;
        times_columns(
            &self.chunk,
            state,
            &self.d_x_columns,
            &mut self.state_columns,
        );
        let columns = Columns {
            width: padded(self.chunk.c),
            stride: self.chunk.stride,
            left: &self.chunk.k_columns,
            right: &self.state_columns,
            factors: &weights.recalls[of_state.clone()],
        };
        dot_columns(
            self.chunk.level,
            &columns,
            &mut self.d_k_columns,
            &mut self.spare,
        );
        let decays = &weights.from_start[of_state.clone()];
        add_scaled(
            &mut self.gates.erase[of_state],
            decays,
            &self.spare[..self.chunk.c],
            -1.0,
        );
    }

    /// `dH_s ← e^(b_C) dH_s + Qᵀ diag(r e^b) dO − Kᵀ diag(p e^b) dX`.
    fn backward_carry(&mut self) {
        let Chunk {
            c,
            stride,
            k_wide,
            v_wide,
            level,
            sizes,
            ..
        } = self.chunk;
        let Chunk { q, k, weights, .. } = &self.chunk;
        for s in 0..sizes.states {
            let of_state = s * stride..s * stride + c;
            let d_state = &mut self.d_states[sizes.state(s)];
            let mut add = |weights: &[f32], rows: &[f32], left: &[f32], keep: f32| {
                scale_rows(level, weights, rows, &mut self.rows, v_wide);
                let product = Product {
                    size: [sizes.k, v_wide, c],
                    left: Left::transposed(left, k_wide),
                    right: Right::rows(&self.rows, v_wide),
                    part: Part::Whole,
                    keep: Keep::Times(keep),
                    scale: None,
                };
                multiply(level, &product, d_state, v_wide);
            };
            add(
                &weights.reads[of_state.clone()],
                &self.d_o,
                q,
                weights.whole[s],
            );
            if sizes.delta {
                add(&weights.recalls[of_state], &self.d_x, k, 1.0);
            }
        }
    }
}

/// `out = state · columns`, `[K, V] · [V, C]`.
fn times_columns(chunk: &Chunk, state: &[f32], columns: &[f32], out: &mut [f32]) {
    let Chunk {
        c,
        stride,
        v_wide,
        level,
        sizes,
        ..
    } = *chunk;
    let product = Product {
        size: [sizes.k, padded(c), sizes.v],
        left: Left::rows(state, v_wide),
        right: Right::rows(columns, stride),
        part: Part::Whole,
        keep: Keep::Nothing,
        scale: None,
    };
    multiply(level, &product, out, stride);
}

/// `grads += sign · decays . sums`, as many as there are sums.
fn add_scaled(grads: &mut [f32], decays: &[f32], sums: &[f32], sign: f32) {
    for ((grad, decay), sum) in grads.iter_mut().zip(decays).zip(sums) {
        *grad += sign * decay * sum;
    }
}
