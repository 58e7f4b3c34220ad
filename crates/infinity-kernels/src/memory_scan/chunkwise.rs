//! `memory_scan` chunk by chunk, on the primitives of any backend: the training form.
//!
//! Inside a chunk everything is a matrix product; between chunks only the states travel, so work
//! and memory are linear in `T`. All `S` states share one prediction error, hence one triangular
//! solve per chunk. Equations and letters: `README.md`, "Chunk form" and "Backward".
//!
//! Everything is chunk-major: `X = N·B·H` blocks of `C` positions. Gates are `[X, S, C]`, stacked
//! keys and queries `[X, C, S·K]`, states `[X, S·K, V]`.

use super::backend::ScanTensors;
use crate::math::{array::Array, chunks::Chunking, decay, unit_lower};
use burn::backend::{Backend, TensorMetadata, tensor::FloatTensor};

/// What the forward pass computes and the backward pass reads again.
#[derive(Clone, Debug)]
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
#[derive(Clone, Debug)]
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
#[derive(Clone, Debug)]
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
#[derive(Clone, Debug)]
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

/// `[B, T, H, S]` → `[X, S, C]`.
fn split_gate<B: Backend>(cut: &Chunking, gate: FloatTensor<B>) -> Array<B> {
    let gate = cut.split(Array::<B>(gate));
    let [x, c, s] = gate.dims();
    gate.permute(&[0, 2, 1]).reshape(&[x, s, c])
}

/// `[X, S, C]` → `[B, T, H, S]`.
fn join_gate<B: Backend>(cut: &Chunking, gate: Array<B>) -> FloatTensor<B> {
    let [x, s, c] = gate.dims();
    cut.join(gate.permute(&[0, 2, 1]).reshape(&[x, c, s])).0
}

/// Rows scaled once for each state and stacked: weights `[X, S, C]`, rows `[X, C, K]` →
/// `[X, C, S·K]`.
fn stack<B: Backend>(weights: Array<B>, rows: &Array<B>) -> Array<B> {
    let [x, s, c] = weights.dims();
    let [.., k] = rows.dims::<3>();
    let weights = weights.permute(&[0, 2, 1]).reshape(&[x, c, s, 1]);
    (weights * rows.clone().reshape(&[x, c, 1, k])).reshape(&[x, c, s * k])
}

/// `Σ_s mask_s`: weights `[X, S, C]` on the rows of `E` `[X, S, C, C]`, summed over states.
fn mix<B: Backend>(weights: &Array<B>, within: &Array<B>) -> Array<B> {
    let [x, s, c] = weights.dims();
    let weighted = weights.clone().reshape(&[x, s, c, 1]) * within.clone();
    weighted.sum(1).reshape(&[x, c, c])
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

/// Outputs `[B, T, H, V]`, the final state `[B, H, S, K, V]` and what backward needs.
pub(super) fn forward<B: Backend>(
    x: ScanTensors<B>,
    chunk: usize,
    delta: bool,
) -> (FloatTensor<B>, FloatTensor<B>, Saved<B>) {
    let [b, t, h, key_dim] = x.q.shape().dims();
    let [.., s, _, v_dim] = x.state.shape().dims::<5>();
    let cut = Chunking::new(b, t, h, chunk);
    let (q, k, v) = (
        cut.split(Array::<B>(x.q.clone())),
        cut.split(Array::<B>(x.k.clone())),
        cut.split(Array::<B>(x.v.clone())),
    );
    let gates = Gates::new(&cut, &x, key_dim);
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
    let initial = Array::<B>(x.state).reshape(&[cut.heads(), s * key_dim, v_dim]);
    let (errors, states) = carry(&cut, &gates, &scores, correct.as_ref(), v, initial);
    let inner = states.clone().narrow(0, 0, cut.n * cut.heads());
    let o = scores.attention.clone().matmul(errors.clone()) + scores.reads.clone().matmul(inner);
    let last = cut.at(&states, cut.n).reshape(&[b, h, s, key_dim, v_dim]);
    let o = cut.join(o);
    (
        o.0,
        last.0,
        Saved {
            cut,
            q,
            k,
            gates,
            scores,
            correct,
            errors,
            states,
        },
    )
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

/// Gradients of every input; `erase` has none in additive mode.
pub(super) struct Grads<B: Backend> {
    pub(super) q: FloatTensor<B>,
    pub(super) k: FloatTensor<B>,
    pub(super) v: FloatTensor<B>,
    pub(super) log_decay: FloatTensor<B>,
    pub(super) read: FloatTensor<B>,
    pub(super) write: FloatTensor<B>,
    pub(super) erase: Option<FloatTensor<B>>,
    pub(super) state: FloatTensor<B>,
}

/// Gradients of `⟨d_o, o⟩ + ⟨d_state, state⟩`, given `d_o` `[B, T, H, V]` and `d_state`
/// `[B, H, S, K, V]`.
pub(super) fn backward<B: Backend>(
    saved: Saved<B>,
    d_o: FloatTensor<B>,
    d_state: FloatTensor<B>,
) -> Grads<B> {
    let cut = saved.cut;
    let state_dims: [usize; 5] = d_state.shape().dims();
    let [_, sk, v_dim] = saved.states.dims();
    let d_o = cut.split(Array::<B>(d_o));
    let d_last = Array::<B>(d_state).reshape(&[cut.heads(), sk, v_dim]);
    let back = carry_back(&saved, &d_o, d_last);
    let inner = saved.states.clone().narrow(0, 0, cut.n * cut.heads());
    // Y, Z and Y' of all states side by side: [X, C, S·K].
    let y = d_o.clone().matmul(inner.clone().t());
    let z = saved.errors.clone().matmul(back.d_ends.clone().t());
    let recalled = saved
        .correct
        .as_ref()
        .map(|_| back.d_v.clone().neg().matmul(inner.t()));
    let masks = mask_grads(&saved, &d_o, &back.d_v);
    let gates = gate_grads(&saved, &masks, [&y, &z], recalled.as_ref(), &back.d_ends);
    let (d_q, d_k) = query_key_grads(&saved, &masks, [y, z], recalled);
    Grads {
        q: cut.join(d_q).0,
        k: cut.join(d_k).0,
        v: cut.join(back.d_v).0,
        log_decay: join_gate(&cut, gates.log_decay),
        read: join_gate(&cut, gates.read),
        write: join_gate(&cut, gates.write),
        erase: gates.erase.map(|erase| join_gate(&cut, erase)),
        state: back.d_initial.reshape(&state_dims).0,
    }
}

/// What the reversed loop over chunks gives.
struct CarriedBack<B: Backend> {
    /// `dX`, which is `dV`.
    d_v: Array<B>,
    /// `dH¹` of every chunk `[X, S·K, V]`.
    d_ends: Array<B>,
    /// Gradient of the initial state.
    d_initial: Array<B>,
}

fn carry_back<B: Backend>(saved: &Saved<B>, d_o: &Array<B>, d_last: Array<B>) -> CarriedBack<B> {
    let Saved {
        cut,
        gates,
        scores,
        correct,
        ..
    } = saved;
    let through_errors = scores.attention.clone().t().matmul(d_o.clone());
    let through_reads = scores.reads.clone().t().matmul(d_o.clone());
    let mut d_state = d_last;
    let (mut d_v, mut d_ends) = (Vec::with_capacity(cut.n), Vec::with_capacity(cut.n));
    for i in (0..cut.n).rev() {
        d_ends.push(d_state.clone());
        let d_error =
            cut.at(&scores.writes, i).matmul(d_state.clone()) + cut.at(&through_errors, i);
        d_state = d_state * cut.at(&gates.whole, i) + cut.at(&through_reads, i);
        let d_x = match correct {
            Some(correct) => {
                let d_x = cut.at(&correct.solve, i).t().matmul(d_error);
                d_state = d_state - cut.at(&correct.recalls, i).t().matmul(d_x.clone());
                d_x
            }
            None => d_error,
        };
        d_v.push(d_x);
    }
    d_v.reverse();
    d_ends.reverse();
    CarriedBack {
        d_v: Array::cat(d_v, 0),
        d_ends: Array::cat(d_ends, 0),
        d_initial: d_state,
    }
}

/// Gradients of the masks and of the two score matrices, all `[X, C, C]`.
struct MaskGrads<B: Backend> {
    /// `dM`.
    read_mask: Array<B>,
    /// `dP`.
    products: Array<B>,
    /// `dNm` and `dG`, below the diagonal.
    erase: Option<(Array<B>, Array<B>)>,
}

fn mask_grads<B: Backend>(saved: &Saved<B>, d_o: &Array<B>, d_v: &Array<B>) -> MaskGrads<B> {
    let Scores {
        products,
        read_mask,
        ..
    } = &saved.scores;
    let c = saved.cut.c;
    let errors = saved.errors.clone().t();
    let d_attention = d_o.clone().matmul(errors.clone()) * decay::lower(c, d_o);
    let erase = saved.correct.as_ref().map(|correct| {
        let d_l = d_v.clone().matmul(errors).neg() * decay::strictly_lower(c, d_o);
        (
            d_l.clone() * correct.key_products.clone(),
            d_l * correct.erase_mask.clone(),
        )
    });
    MaskGrads {
        read_mask: d_attention.clone() * products.clone(),
        products: d_attention * read_mask.clone(),
        erase,
    }
}

/// Gradients of the gates, `[X, S, C]`.
struct GateGrads<B: Backend> {
    log_decay: Array<B>,
    read: Array<B>,
    write: Array<B>,
    erase: Option<Array<B>>,
}

/// `⟨row_c, stacked_{c,s}⟩` for every state: rows `[X, C, K]`, stacked `[X, C, S·K]` → `[X, S, C]`.
fn dots<B: Backend>(rows: &Array<B>, stacked: &Array<B>) -> Array<B> {
    let [x, c, k] = rows.dims();
    let [.., sk] = stacked.dims::<3>();
    let products =
        stacked.clone().reshape(&[x, c, sk / k, k]) * rows.clone().reshape(&[x, c, 1, k]);
    products
        .sum(3)
        .reshape(&[x, c, sk / k])
        .permute(&[0, 2, 1])
        .reshape(&[x, sk / k, c])
}

fn gate_grads<B: Backend>(
    saved: &Saved<B>,
    masks: &MaskGrads<B>,
    [y, z]: [&Array<B>; 2],
    recalled: Option<&Array<B>>,
    d_ends: &Array<B>,
) -> GateGrads<B> {
    let Gates {
        read,
        write,
        from_start,
        to_end,
        written,
        within,
        ..
    } = &saved.gates;
    let [x, s, c] = read.dims();
    let row = |mask: &Array<B>| mask.clone().reshape(&[x, 1, c, c]);
    let column = |gate: &Array<B>| gate.clone().reshape(&[x, s, c, 1]);
    // Σ_j mask_ij E_ij u_j, for each state.
    let rows = |mask: &Array<B>| (row(mask) * written.clone()).sum(3).reshape(&[x, s, c]);

    let d_read = rows(&masks.read_mask) + from_start.clone() * dots(&saved.q, y);
    let mut weighted = row(&masks.read_mask) * column(read);
    let mut d_erase = None;
    if let (Some(correct), Some((d_mask, _)), Some(recalled)) =
        (&saved.correct, &masks.erase, recalled)
    {
        weighted = weighted + row(d_mask) * column(&correct.erase);
        d_erase = Some(rows(d_mask) + from_start.clone() * dots(&saved.k, recalled));
    }
    let d_write =
        (weighted * within.clone()).sum(2).reshape(&[x, s, c]) + to_end.clone() * dots(&saved.k, z);

    let mut d_b = read.clone() * d_read.clone() - write.clone() * d_write.clone();
    if let (Some(correct), Some(d_erase)) = (&saved.correct, &d_erase) {
        d_b = d_b + correct.erase.clone() * d_erase.clone();
    }
    let log_decay = decay::cumulative_from_end(d_b) + end_term(saved, d_ends, s);
    GateGrads {
        log_decay,
        read: d_read,
        write: d_write,
        erase: d_erase,
    }
}

/// `⟨dH¹_s, H¹_s⟩` of every chunk, `[X, S, 1]`. It stands at the last position of `db`, so the
/// cumulative sum from the end spreads it over the whole chunk.
fn end_term<B: Backend>(saved: &Saved<B>, d_ends: &Array<B>, s: usize) -> Array<B> {
    let cut = &saved.cut;
    let [x, sk, v_dim] = d_ends.dims();
    let ends = saved
        .states
        .clone()
        .narrow(0, cut.heads(), cut.n * cut.heads());
    let products = (d_ends.clone() * ends).reshape(&[x, s, sk / s * v_dim]);
    products.sum(2)
}

fn query_key_grads<B: Backend>(
    saved: &Saved<B>,
    masks: &MaskGrads<B>,
    [y, z]: [Array<B>; 2],
    recalled: Option<Array<B>>,
) -> (Array<B>, Array<B>) {
    let Gates {
        read,
        write,
        from_start,
        to_end,
        ..
    } = &saved.gates;
    // Σ_s weight_s · stacked_s, back to [X, C, K].
    let unstack = |weights: Array<B>, stacked: Array<B>| {
        let [x, s, c] = weights.dims();
        let [.., sk] = stacked.dims::<3>();
        let weights = weights.permute(&[0, 2, 1]).reshape(&[x, c, s, 1]);
        let sum = (stacked.reshape(&[x, c, s, sk / s]) * weights).sum(2);
        sum.reshape(&[x, c, sk / s])
    };
    let d_q = masks.products.clone().matmul(saved.k.clone())
        + unstack(read.clone() * from_start.clone(), y);
    let mut d_k = masks.products.clone().t().matmul(saved.q.clone())
        + unstack(write.clone() * to_end.clone(), z);
    if let (Some(correct), Some((_, d_products)), Some(recalled)) =
        (&saved.correct, &masks.erase, recalled)
    {
        let both = d_products.clone() + d_products.clone().t();
        d_k = d_k
            + both.matmul(saved.k.clone())
            + unstack(correct.erase.clone() * from_start.clone(), recalled);
    }
    (d_q, d_k)
}
