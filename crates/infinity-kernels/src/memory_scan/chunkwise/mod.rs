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
mod chunks;
mod decay;
mod forward;
mod unit_lower;

pub(super) use backward::backward;
pub(super) use forward::forward;

use super::inputs::ScanTensors;
use array::Array;
use burn::backend::{Backend, TensorMetadata, tensor::FloatTensor};
use chunks::Chunking;

/// What the forward pass computes and the backward pass reads again.
pub(super) struct Saved<B: Backend> {
    cut: Chunking,
    q: Array<B>,
    k: Array<B>,
    gates: Gates<B>,
    scores: Scores<B>,
    correct: Option<Correct<B>>,
    /// Prediction errors after the solve, `Dm` `[X, C, V]`.
    errors: Array<B>,
    /// States at all `N + 1` chunk borders `[(N+1)·B·H, S·K, V]`, the initial one first.
    states: Array<B>,
}

/// The gates of every chunk and the decays that follow from them.
struct Gates<B: Backend> {
    read: Array<B>,
    write: Array<B>,
    /// `exp(b_i)`: what is left at `i` of the state that came in.
    from_start: Array<B>,
    /// `exp(b_C − b_j)`: what is left at the end of a write at `j`.
    to_end: Array<B>,
    /// `exp(b_C)` repeated over `K` `[X, S·K, 1]`.
    whole: Array<B>,
    /// `u_j · E_ij` `[X, S, C, C]`.
    written: Array<B>,
    /// `E` `[X, S, C, C]`.
    within: Array<B>,
}

/// Score matrices inside a chunk `[X, C, C]` and the stacked queries and keys.
struct Scores<B: Backend> {
    /// `P = Q Kᵀ`.
    products: Array<B>,
    /// `M`, the read mask.
    read_mask: Array<B>,
    /// `A = P . M`.
    attention: Array<B>,
    /// `[r_s e^{b_s} q]`.
    reads: Array<B>,
    /// `[u_s e^{b_C − b_s} k]`.
    writes: Array<B>,
}

/// What the delta rule adds.
struct Correct<B: Backend> {
    erase: Array<B>,
    /// `K Kᵀ`.
    key_products: Array<B>,
    /// `Nm`, the erase mask, not yet cut to below the diagonal.
    erase_mask: Array<B>,
    /// `(I + L)⁻¹`.
    solve: Array<B>,
    /// `[p_s e^{b_s} k]`.
    recalls: Array<B>,
}

impl<B: Backend> Saved<B> {
    /// As a list; what the delta rule adds stands last.
    pub(super) fn into_list(self) -> Vec<FloatTensor<B>> {
        let (gates, scores) = (self.gates, self.scores);
        let mut list = vec![
            self.q,
            self.k,
            self.errors,
            self.states,
            gates.read,
            gates.write,
            gates.from_start,
            gates.to_end,
            gates.whole,
            gates.written,
            gates.within,
            scores.products,
            scores.read_mask,
            scores.attention,
            scores.reads,
            scores.writes,
        ];
        if let Some(correct) = self.correct {
            list.extend([
                correct.erase,
                correct.key_products,
                correct.erase_mask,
                correct.solve,
                correct.recalls,
            ]);
        }
        list.into_iter().map(|array| array.0).collect()
    }

    /// The way back, given the gradient of the outputs `[B, T, H, V]` for its sizes.
    pub(super) fn from_list(list: Vec<FloatTensor<B>>, d_o: &FloatTensor<B>, chunk: usize) -> Self {
        let [b, t, h, _] = d_o.shape().dims();
        let mut list = list.into_iter().map(Array::<B>);
        let mut next = || list.next().expect("as many as `into_list` put there");
        let [q, k, errors, states] = [(); 4].map(|()| next());
        let gates = Gates {
            read: next(),
            write: next(),
            from_start: next(),
            to_end: next(),
            whole: next(),
            written: next(),
            within: next(),
        };
        let scores = Scores {
            products: next(),
            read_mask: next(),
            attention: next(),
            reads: next(),
            writes: next(),
        };
        let correct = list.next().map(|erase| {
            let mut next = || list.next().expect("as many as `into_list` put there");
            Correct {
                erase,
                key_products: next(),
                erase_mask: next(),
                solve: next(),
                recalls: next(),
            }
        });
        Saved {
            cut: Chunking::new(b, t, h, chunk),
            q,
            k,
            gates,
            scores,
            correct,
            errors,
            states,
        }
    }
}

/// `[B, T, H, S]` → `[X, S, C]`.
fn split_gate<B: Backend>(cut: &Chunking, gate: FloatTensor<B>) -> Array<B> {
    turned(cut.split(Array::<B>(gate)))
}

/// `[X, S, C]` → `[B, T, H, S]`.
fn join_gate<B: Backend>(cut: &Chunking, gate: Array<B>) -> FloatTensor<B> {
    cut.join(turned(gate)).0
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

/// `Σ_s mask_s`: weights `[X, S, C]` on the rows of `E` `[X, S, C, C]`, summed over states.
fn mix<B: Backend>(weights: &Array<B>, within: &Array<B>) -> Array<B> {
    let [x, s, c] = weights.dims();
    let weighted = weights.clone().reshape(&[x, s, c, 1]) * within.clone();
    match s {
        1 => weighted.reshape(&[x, c, c]),
        _ => weighted.sum(1).reshape(&[x, c, c]),
    }
}

impl<B: Backend> Gates<B> {
    fn new(cut: &Chunking, x: &ScanTensors<B>, key_dim: usize) -> Self {
        let b = decay::cumulative(split_gate::<B>(cut, x.log_decay.clone()));
        let [blocks, s, c] = b.dims();
        let last = b.clone().narrow(2, c - 1, 1);
        let within = decay::within(&b);
        let write = split_gate(cut, x.write.clone());
        let ones = Array::from_values(vec![1.0; key_dim], &[1, 1, key_dim], &b);
        Gates {
            read: split_gate(cut, x.read.clone()),
            from_start: b.clone().exp(),
            to_end: (last.clone() - b).exp(),
            whole: (last.exp() * ones).reshape(&[blocks, s * key_dim, 1]),
            written: within.clone() * write.clone().reshape(&[blocks, s, 1, c]),
            write,
            within,
        }
    }
}

impl<B: Backend> Correct<B> {
    fn new(cut: &Chunking, erase: FloatTensor<B>, gates: &Gates<B>, k: &Array<B>) -> Self {
        let erase = split_gate(cut, erase);
        let key_products = k.clone().matmul(k.clone().t());
        let erase_mask = mix(&erase, &gates.written);
        let below = decay::strictly_lower(cut.c, k);
        let l = key_products.clone() * erase_mask.clone() * below;
        Correct {
            recalls: stack(erase.clone() * gates.from_start.clone(), k),
            solve: unit_lower::inverse(l),
            erase,
            key_products,
            erase_mask,
        }
    }
}
