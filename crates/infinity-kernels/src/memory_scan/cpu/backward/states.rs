//! Backward through the states: those that came into a chunk and the gradients of those that left.

use super::super::chunk::Chunk;
use super::super::rowwise::{Columns, dot, dot_columns, scale_rows};
use super::Backward;
use crate::cpu::product::{Keep, Left, Part, Product, Right, multiply};
use crate::cpu::simd::padded;

impl Backward {
    /// Through every state that came in and every gradient of a state that went out.
    pub(super) fn through_states(&mut self, states: &[f32]) {
        let sizes = self.chunk.sizes;
        self.d_q_columns.fill(0.0);
        self.d_k_columns.fill(0.0);
        for s in 0..sizes.states {
            let state = &states[sizes.state(s)];
            self.through_read(s, state);
            self.through_write(s, state);
            if sizes.delta {
                self.through_recall(s, state);
            }
        }
    }

    /// `Y_sᵀ = H_s dOᵀ`: `dQ += diag(r e^b) Y_s`, `dr += e^b q · Y_s`.
    fn through_read(&mut self, s: usize, state: &[f32]) {
        let of_state = self.chunk.of_state(s);
        let weights = &self.chunk.weights;
        times_columns(
            &self.chunk,
            state,
            &self.d_o_columns,
            &mut self.through_state,
        );
        let columns = Columns {
            width: padded(self.chunk.c),
            stride: self.chunk.stride,
            left: &self.q_columns,
            right: &self.through_state,
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
    fn through_write(&mut self, s: usize, state: &[f32]) {
        let of_state = self.chunk.of_state(s);
        let weights = &self.chunk.weights;
        let d_state = &self.d_states[self.chunk.sizes.state(s)];
        times_columns(
            &self.chunk,
            d_state,
            &self.error_columns,
            &mut self.through_state,
        );
        let columns = Columns {
            width: padded(self.chunk.c),
            stride: self.chunk.stride,
            left: &self.chunk.k_columns,
            right: &self.through_state,
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
    fn through_recall(&mut self, s: usize, state: &[f32]) {
        let of_state = self.chunk.of_state(s);
        let weights = &self.chunk.weights;
        times_columns(
            &self.chunk,
            state,
            &self.d_x_columns,
            &mut self.through_state,
        );
        let columns = Columns {
            width: padded(self.chunk.c),
            stride: self.chunk.stride,
            left: &self.chunk.k_columns,
            right: &self.through_state,
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
    pub(super) fn carry_back(&mut self) {
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
