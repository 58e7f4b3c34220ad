//! Backward inside a chunk: the solve, the score matrices and the masks.

use super::super::chunk::Chunk;
use super::super::masks::{MaskGrads, mask_grads};
use super::super::solve::solve_transposed;
use super::Backward;
use crate::cpu::product::{Keep, Left, Part, Product, Right, multiply};
use crate::cpu::simd::padded;
use crate::cpu::transpose::transpose;

impl Backward {
    /// `dX = (I + L)⁻ᵀ (Aᵀ dO + Σ_s diag(u e^(b_C − b)) K dH_s)`.
    pub(super) fn through_solve(&mut self) {
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
    pub(super) fn turn_to_columns(&mut self) {
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
    pub(super) fn through_scores(&mut self) {
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
    pub(super) fn through_products(&mut self) {
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
