//! Backward of the chunk form: the loop that carries the states, reversed, then the gradients of all
//! chunks at once.

use super::super::inputs::ScanTensors;
use super::super::reference::Scan;
use super::array::{self, Array};
use super::{Asking, Chunks, Chunkwise, turned};
use burn::backend::{Backend, TensorMetadata, tensor::FloatTensor};

/// Gradients of every input, of `⟨d_o, o⟩ + ⟨d_state, state⟩`, given the errors and states that forward saved,
/// `d_o` `[B, T, H, V]` and `d_state` `[B, H, S, K, V]`. In additive mode nobody reads the one of `erase`.
pub(crate) fn backward<B: Backend>(
    x: ScanTensors<B>,
    op: &Chunkwise,
    [errors, states]: [FloatTensor<B>; 2],
    [d_o, d_state]: [FloatTensor<B>; 2],
) -> ScanTensors<B> {
    let chunks = Chunks::<B>::new(&x, op);
    let Chunks {
        cut,
        k,
        write,
        to_end,
        within,
        read,
        ..
    } = &chunks;
    let (errors, states) = (Array::<B>(errors), Array::<B>(states));
    let (state_dims, [_, sk, v_dim]) = (d_state.shape().dims::<5>(), states.dims());
    let [x, s, c] = write.dims();
    let d_o = cut.split(&d_o);
    let d_last = Array::<B>(d_state).reshape(&[cut.heads(), sk, v_dim]);
    let [d_v, d_ends, d_initial] = carry_back(&chunks, &d_o, d_last);

    // Y, Z and Y' of all states side by side: [X, C, S·K].
    let starts = cut.from(&states, 0).t();
    let y = d_o.clone().matmul(starts.clone());
    let z = errors.clone().matmul(d_ends.clone().t());
    let errors = errors.t();
    let d_attention = d_o.clone().matmul(errors.clone()) * array::lower(c, &d_o);
    let read_back = chunks.asked(read, d_attention, y);
    let recall_back = chunks.recall.as_ref().map(|recall| {
        let recalled = d_v.clone().neg().matmul(starts);
        let d_l = d_v.clone().matmul(errors).neg() * array::strictly_lower(c, &d_o);
        chunks.asked(recall, d_l, recalled)
    });

    let mut weighted = read_back.weighted;
    let mut d_b = read.weights.clone() * read_back.d_weights.clone();
    let d_q = read_back.d_products.clone().matmul(k.clone()) + read_back.d_rows;
    let through_writes = unstack(write.clone() * to_end.clone(), z.clone());
    let of_queries = read_back.d_products.t().matmul(read.rows.clone());
    let mut d_k = of_queries + through_writes;
    let mut d_erase = None;
    if let Some(back) = recall_back {
        weighted = weighted + back.weighted;
        let both = back.d_products.clone() + back.d_products.t();
        d_k = d_k + both.matmul(k.clone()) + back.d_rows;
        d_erase = Some(back.d_weights);
    }
    let d_write =
        (weighted * within.clone()).sum(2).reshape(&[x, s, c]) + to_end.clone() * dots(k, &z);
    d_b = d_b - write.clone() * d_write.clone();
    if let (Some(recall), Some(d_erase)) = (&chunks.recall, &d_erase) {
        d_b = d_b + recall.weights.clone() * d_erase.clone();
    }
    // ⟨dH¹_s, H¹_s⟩ of every chunk `[X, S, 1]` stands at the last position of `db`, so the cumulative sum
    // from the end spreads it over the whole chunk.
    let products = (d_ends * cut.from(&states, 1)).reshape(&[x, s, sk / s * v_dim]);
    let from_end = array::lower(c, &d_b);
    let log_decay = d_b.matmul(from_end) + products.sum(2);

    let gate = |d: Array<B>| cut.join(turned(d));
    let read = gate(read_back.d_weights);
    let erase = d_erase.map_or_else(|| read.clone(), gate);
    Scan {
        q: cut.join(d_q),
        k: cut.join(d_k),
        v: cut.join(d_v),
        log_decay: gate(log_decay),
        read,
        write: gate(d_write),
        erase,
        state: d_initial.reshape(&state_dims).0,
    }
}

/// The loop over chunks, reversed: `dX`, which is `dV`, `dH¹` of every chunk `[X, S·K, V]`, and the gradient of the
/// initial state.
fn carry_back<B: Backend>(chunks: &Chunks<B>, d_o: &Array<B>, d_last: Array<B>) -> [Array<B>; 3] {
    let Chunks { cut, read, .. } = chunks;
    let through_errors = read.inside.clone().t().matmul(d_o.clone());
    let through_reads = read.stacked.clone().t().matmul(d_o.clone());
    let mut d_state = d_last;
    let (mut d_v, mut d_ends) = (Vec::with_capacity(cut.n), Vec::with_capacity(cut.n));
    for i in (0..cut.n).rev() {
        d_ends.push(d_state.clone());
        let d_error =
            cut.at(&chunks.writes, i).matmul(d_state.clone()) + cut.at(&through_errors, i);
        d_state = d_state * cut.at(&chunks.whole, i) + cut.at(&through_reads, i);
        let d_x = match &chunks.recall {
            Some(recall) => {
                let d_x = cut.at(&recall.inside, i).t().matmul(d_error);
                d_state = d_state - cut.at(&recall.stacked, i).t().matmul(d_x.clone());
                d_x
            }
            None => d_error,
        };
        d_v.push(d_x);
    }
    d_v.reverse();
    d_ends.reverse();
    [Array::cat(d_v, 0), Array::cat(d_ends, 0), d_state]
}

/// Back through rows that asked: `r` and `q`, or `p` and `k`.
struct AskedBack<B: Backend> {
    /// `dr` or `dp`.
    d_weights: Array<B>,
    /// `dM` or `dNm`, by the weight of every row, for each state `[X, S, C, C]`.
    weighted: Array<B>,
    /// `dP` or `dG`.
    d_products: Array<B>,
    /// What came through the states.
    d_rows: Array<B>,
}

impl<B: Backend> Chunks<B> {
    /// Given the gradient of `products . mask`, and `Y` or `Y'`.
    fn asked(&self, by: &Asking<B>, d_scores: Array<B>, stacked: Array<B>) -> AskedBack<B> {
        let from_start = &self.from_start;
        let [x, s, c] = by.weights.dims();
        let d_mask = (d_scores.clone() * by.products.clone()).reshape(&[x, 1, c, c]);
        // Σ_j mask_ij E_ij u_j, for each state.
        let inside = (d_mask.clone() * self.written.clone()).sum(3);
        let through = from_start.clone() * dots(&by.rows, &stacked);
        AskedBack {
            d_weights: inside.reshape(&[x, s, c]) + through,
            weighted: d_mask * by.weights.clone().reshape(&[x, s, c, 1]),
            d_products: d_scores * by.mask.clone(),
            d_rows: unstack(by.weights.clone() * from_start.clone(), stacked),
        }
    }
}

/// `⟨row_c, stacked_{c,s}⟩` for every state: rows `[X, C, K]`, stacked `[X, C, S·K]` → `[X, S, C]`.
fn dots<B: Backend>(rows: &Array<B>, stacked: &Array<B>) -> Array<B> {
    let [x, c, k] = rows.dims();
    let [.., sk] = stacked.dims::<3>();
    let products =
        stacked.clone().reshape(&[x, c, sk / k, k]) * rows.clone().reshape(&[x, c, 1, k]);
    turned(products.sum(3).reshape(&[x, c, sk / k]))
}

/// `Σ_s weight_s · stacked_s`: weights `[X, S, C]`, stacked `[X, C, S·K]` → `[X, C, K]`.
fn unstack<B: Backend>(weights: Array<B>, stacked: Array<B>) -> Array<B> {
    let [x, s, c] = weights.dims();
    let [.., sk] = stacked.dims::<3>();
    if s == 1 {
        return turned(weights) * stacked;
    }
    let weights = turned(weights).reshape(&[x, c, s, 1]);
    let sum = (stacked.reshape(&[x, c, s, sk / s]) * weights).sum(2);
    sum.reshape(&[x, c, sk / s])
}
