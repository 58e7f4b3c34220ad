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

/// A struct of arrays that can be put into a list and taken out again.
macro_rules! arrays {
    ($(#[$doc:meta])* struct $name:ident { $($(#[$about:meta])* $field:ident,)+ }) => {
        $(#[$doc])*
        struct $name<B: Backend> {
            $($(#[$about])* $field: Array<B>,)+
        }

        impl<B: Backend> $name<B> {
            fn put(self, list: &mut Vec<FloatTensor<B>>) {
                list.extend([$(self.$field.0),+]);
            }

            fn take(list: &mut impl Iterator<Item = FloatTensor<B>>) -> Option<Self> {
                Some($name { $($field: Array(list.next()?),)+ })
            }
        }
    };
}

/// What the forward pass computes and the backward pass reads again.
pub(super) struct Saved<B: Backend> {
    cut: Chunking,
    rows: Rows<B>,
    gates: Gates<B>,
    scores: Scores<B>,
    correct: Option<Correct<B>>,
}

arrays! {
    /// Rows of every chunk, and the states between chunks.
    struct Rows {
        q,
        k,
        /// Prediction errors after the solve, `Dm` `[X, C, V]`.
        errors,
        /// States at all `N + 1` chunk borders `[(N+1)·B·H, S·K, V]`, the initial one first.
        states,
    }
}

arrays! {
    /// The gates of every chunk and the decays that follow from them.
    struct Gates {
        read,
        write,
        /// `exp(b_i)`: what is left at `i` of the state that came in.
        from_start,
        /// `exp(b_C − b_j)`: what is left at the end of a write at `j`.
        to_end,
        /// `exp(b_C)` repeated over `K` `[X, S·K, 1]`.
        whole,
        /// `u_j · E_ij` `[X, S, C, C]`.
        written,
        /// `E` `[X, S, C, C]`.
        within,
    }
}

arrays! {
    /// Score matrices inside a chunk `[X, C, C]` and the stacked queries and keys.
    struct Scores {
        /// `P = Q Kᵀ`.
        products,
        /// `M`, the read mask.
        read_mask,
        /// `A = P . M`.
        attention,
        /// `[r_s e^{b_s} q]`.
        reads,
        /// `[u_s e^{b_C − b_s} k]`.
        writes,
    }
}

arrays! {
    /// What the delta rule adds.
    struct Correct {
        erase,
        /// `K Kᵀ`.
        key_products,
        /// `Nm`, the erase mask, not yet cut to below the diagonal.
        erase_mask,
        /// `(I + L)⁻¹`.
        solve,
        /// `[p_s e^{b_s} k]`.
        recalls,
    }
}

impl<B: Backend> Saved<B> {
    /// As a list; what the delta rule adds stands last.
    pub(super) fn into_list(self) -> Vec<FloatTensor<B>> {
        let mut list = Vec::new();
        self.rows.put(&mut list);
        self.gates.put(&mut list);
        self.scores.put(&mut list);
        if let Some(correct) = self.correct {
            correct.put(&mut list);
        }
        list
    }

    /// The way back, given the gradient of the outputs `[B, T, H, V]` for its sizes.
    pub(super) fn from_list(list: Vec<FloatTensor<B>>, d_o: &FloatTensor<B>, chunk: usize) -> Self {
        let [b, t, h, _] = d_o.shape().dims();
        let list = &mut list.into_iter();
        let all = "as many as `into_list` put there";
        Saved {
            cut: Chunking::new(b, t, h, chunk),
            rows: Rows::take(list).expect(all),
            gates: Gates::take(list).expect(all),
            scores: Scores::take(list).expect(all),
            correct: Correct::take(list),
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
        let log_decay = split_gate::<B>(cut, x.log_decay.clone());
        let [blocks, s, c] = log_decay.dims();
        let from_start = array::upper(c, &log_decay);
        let b = log_decay.matmul(from_start);
        let last = b.clone().narrow(2, c - 1, 1);
        let within = array::within(&b);
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
        let below = array::strictly_lower(cut.c, k);
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

/// Outputs `[B, T, H, V]`, the final state `[B, H, S, K, V]` and what backward needs.
pub(super) fn forward<B: Backend>(
    x: ScanTensors<B>,
    chunk: usize,
    delta: bool,
) -> (FloatTensor<B>, FloatTensor<B>, Saved<B>) {
    let dims = x.dims();
    let cut = Chunking::new(dims.b, dims.t, dims.h, chunk);
    let [q, k, v] = [&x.q, &x.k, &x.v].map(|x| cut.split(Array::<B>(x.clone())));
    let gates = Gates::new(&cut, &x, dims.k);
    let correct = delta.then(|| Correct::new(&cut, x.erase, &gates, &k));
    let products = q.clone().matmul(k.clone().t());
    let read_mask = mix(&gates.read, &gates.written);
    let scores = Scores {
        attention: products.clone() * read_mask.clone(),
        products,
        read_mask,
        reads: stack(gates.read.clone() * gates.from_start.clone(), &q),
        writes: stack(gates.write.clone() * gates.to_end.clone(), &k),
    };
    let state_dims: [usize; 5] = x.state.shape().dims();
    let initial = Array::<B>(x.state).reshape(&[cut.heads(), dims.s * dims.k, dims.v]);
    let (errors, states) = carry(&cut, &gates, &scores, correct.as_ref(), v, initial);
    let inner = states.clone().narrow(0, 0, cut.n * cut.heads());
    let o = scores.attention.clone().matmul(errors.clone()) + scores.reads.clone().matmul(inner);
    let last = cut.at(&states, cut.n).reshape(&state_dims);
    let rows = Rows {
        q,
        k,
        errors,
        states,
    };
    let saved = Saved {
        cut,
        rows,
        gates,
        scores,
        correct,
    };
    (cut.join(o).0, last.0, saved)
}

/// The loop over chunks: prediction errors of every chunk and the states at every border.
fn carry<B: Backend>(
    cut: &Chunking,
    gates: &Gates<B>,
    scores: &Scores<B>,
    correct: Option<&Correct<B>>,
    v: Array<B>,
    initial: Array<B>,
) -> (Array<B>, Array<B>) {
    let mut state = initial;
    let mut states = vec![state.clone()];
    let mut errors = Vec::with_capacity(cut.n);
    for i in 0..cut.n {
        let v = cut.at(&v, i);
        let error = match correct {
            Some(correct) => {
                let recalled = cut.at(&correct.recalls, i).matmul(state.clone());
                cut.at(&correct.solve, i).matmul(v - recalled)
            }
            None => v,
        };
        let written = cut.at(&scores.writes, i).t().matmul(error.clone());
        state = state * cut.at(&gates.whole, i) + written;
        states.push(state.clone());
        errors.push(error);
    }
    (Array::cat(errors, 0), Array::cat(states, 0))
}
