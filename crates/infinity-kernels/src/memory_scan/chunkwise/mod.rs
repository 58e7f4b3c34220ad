//! `memory_scan` chunk by chunk, on the primitives of any backend: the training form.
//!
//! Inside a chunk everything is a matrix product; between chunks only the states travel, so work
//! and memory are linear in `T`. All `S` states share one prediction error, hence one triangular
//! solve per chunk. Equations and letters: `README.md`, "Chunk form" and "Backward".
//!
//! Everything is chunk-major: `X = N·B·H` blocks of `C` positions. Gates are `[X, S, C]`, stacked
//! keys and queries `[X, C, S·K]`, states `[X, S·K, V]`.

mod array;
mod backward;
mod unit_lower;

pub(super) use backward::backward;

use super::inputs::ScanTensors;
use array::{Array, Chunking};
use burn::backend::{Backend, TensorMetadata, tensor::FloatTensor};

/// Added to an exponent that must come out as zero. Finite, because WGSL may assume no infinities.
const MASKED: f32 = -1e30;

/// Inputs and state to outputs and state, `chunk` positions at a time.
#[derive(Clone, Debug)]
pub(super) struct Chunkwise {
    pub(super) chunk: usize,
    pub(super) delta: bool,
}

/// What follows from the inputs without any state, for all chunks at once. Both passes compute it: kept, it would be
/// many times what the inputs are.
struct Chunks<B: Backend> {
    cut: Chunking,
    k: Array<B>,
    /// `u`.
    write: Array<B>,
    /// `exp(b_i)`: what is left at `i` of the state that came in.
    from_start: Array<B>,
    /// `exp(b_C − b_j)`: what is left at the end of a write at `j`.
    to_end: Array<B>,
    /// `exp(b_C)` repeated over `K` `[X, S·K, 1]`.
    whole: Array<B>,
    /// `E` `[X, S, C, C]`, `exp(b_i − b_j)` for `i ≥ j`, else 0: how much of a write at `j` is left at `i`.
    within: Array<B>,
    /// `u_j · E_ij` `[X, S, C, C]`.
    written: Array<B>,
    /// `[u_s e^{b_C − b_s} k]`.
    writes: Array<B>,
    /// Queries that read; inside their chunk `A`.
    read: Asking<B>,
    /// What the delta rule adds: keys that recall; inside their chunk `(I + L)⁻¹`.
    recall: Option<Asking<B>>,
}

/// Rows that ask the states, and what was written before them in their chunk.
struct Asking<B: Backend> {
    rows: Array<B>,
    /// `r` or `p`.
    weights: Array<B>,
    /// With the chunk's keys `[X, C, C]`: `P` or `K Kᵀ`.
    products: Array<B>,
    /// `M` or `Nm`, the latter not yet cut to below the diagonal.
    mask: Array<B>,
    /// `A` or `(I + L)⁻¹`.
    inside: Array<B>,
    /// `[weight_s e^{b_s} row]`.
    stacked: Array<B>,
}

/// `[X, A, B]` → `[X, B, A]`. Where one of them is 1 the values keep their order, and nothing moves.
fn turned<B: Backend>(gate: Array<B>) -> Array<B> {
    let [x, a, b] = gate.dims();
    match a == 1 || b == 1 {
        true => gate.reshape(&[x, b, a]),
        false => gate.permute(&[0, 2, 1]).reshape(&[x, b, a]),
    }
}

/// Rows scaled once for each state and stacked: weights `[X, S, C]`, rows `[X, C, K]` →
/// `[X, C, S·K]`.
fn stack<B: Backend>(weights: Array<B>, rows: &Array<B>) -> Array<B> {
    let [x, s, c] = weights.dims();
    let [.., k] = rows.dims::<3>();
    if s == 1 {
        return turned(weights) * rows.clone();
    }
    let weights = turned(weights).reshape(&[x, c, s, 1]);
    (weights * rows.clone().reshape(&[x, c, 1, k])).reshape(&[x, c, s * k])
}

impl<B: Backend> Chunks<B> {
    fn new(x: &ScanTensors<B>, op: &Chunkwise) -> Self {
        let dims = x.dims();
        let cut = Chunking::new(dims, op.chunk);
        let gate = |gate: &FloatTensor<B>| turned(cut.split(gate));
        let [q, k] = [&x.q, &x.k].map(|x| cut.split(x));
        let (log_decay, write) = (gate(&x.log_decay), gate(&x.write));
        let [blocks, s, c] = write.dims();
        let sums = array::triangle([1.0, 0.0], c, &log_decay, |i, j| i <= j);
        let b = log_decay.matmul(sums);
        let last = b.clone().narrow(2, c - 1, 1);
        let from_start = b.clone().exp();
        let to_end = (last.clone() - b.clone()).exp();
        let ones = Array::from_values(vec![1.0; dims.k], &[1, 1, dims.k], &b);
        // Decays are at most 1, so every exponent that survives the mask, which is applied before `exp`, is at most 0:
        // nothing can overflow.
        let mask = array::triangle([0.0, MASKED], c, &b, |i, j| j <= i);
        let [rows, columns] =
            [[blocks, s, c, 1], [blocks, s, 1, c]].map(|dims| b.clone().reshape(&dims));
        let within = ((rows - columns) + mask.reshape(&[1, 1, c, c])).exp();
        let written = within.clone() * write.clone().reshape(&[blocks, s, 1, c]);
        let asking = |rows: Array<B>, weights: Array<B>| {
            let products = rows.clone().matmul(k.clone().t());
            let mask = weights.clone().reshape(&[blocks, s, c, 1]) * written.clone();
            let mask = if s == 1 { mask } else { mask.sum(1) }.reshape(&[blocks, c, c]);
            Asking {
                inside: products.clone() * mask.clone(),
                stacked: stack(weights.clone() * from_start.clone(), &rows),
                rows,
                weights,
                products,
                mask,
            }
        };
        let read = asking(q, gate(&x.read));
        let recall = op.delta.then(|| {
            let recall = asking(k.clone(), gate(&x.erase));
            let inside = unit_lower::inverse(recall.inside * array::strictly_lower(c, &k));
            Asking { inside, ..recall }
        });
        Chunks {
            writes: stack(write.clone() * to_end.clone(), &k),
            whole: (last.exp() * ones).reshape(&[blocks, s * dims.k, 1]),
            cut,
            k,
            write,
            from_start,
            to_end,
            within,
            written,
            read,
            recall,
        }
    }
}

/// Outputs `[B, T, H, V]` and the final state `[B, H, S, K, V]`; then what backward needs besides the inputs:
/// prediction errors `Dm` `[X, C, V]` and states at all `N + 1` borders `[(N+1)·B·H, S·K, V]`.
pub(super) fn forward<B: Backend>(x: ScanTensors<B>, op: &Chunkwise) -> [FloatTensor<B>; 4] {
    let (dims, state_dims) = (x.dims(), x.state.shape().dims::<5>());
    let chunks = Chunks::new(&x, op);
    let (cut, read) = (chunks.cut, &chunks.read);
    let v = cut.split(&x.v);
    let mut state = Array::<B>(x.state).reshape(&[cut.heads(), dims.s * dims.k, dims.v]);
    let mut states = vec![state.clone()];
    let mut errors = Vec::with_capacity(cut.n);
    for i in 0..cut.n {
        let v = cut.at(&v, i);
        let error = match &chunks.recall {
            Some(recall) => {
                let recalled = cut.at(&recall.stacked, i).matmul(state.clone());
                cut.at(&recall.inside, i).matmul(v - recalled)
            }
            None => v,
        };
        let written = cut.at(&chunks.writes, i).t().matmul(error.clone());
        state = state * cut.at(&chunks.whole, i) + written;
        states.push(state.clone());
        errors.push(error);
    }
    let (errors, states) = (Array::cat(errors, 0), Array::cat(states, 0));
    let inside = read.inside.clone().matmul(errors.clone());
    let o = inside + read.stacked.clone().matmul(cut.from(&states, 0));
    let last = cut.at(&states, cut.n).reshape(&state_dims);
    [cut.join(o), last.0, errors.0, states.0]
}
