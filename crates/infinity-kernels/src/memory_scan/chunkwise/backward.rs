//! Backward of the chunk form: the loop that carries the states, reversed, then the gradients of all
//! chunks at once.

use super::array::{self, Array};
use super::{Gates, Saved, Scores, join_gate, turned};
use burn::backend::{Backend, TensorMetadata, tensor::FloatTensor};

/// Gradients of every input, in the order of `Scan::into_list`, of `⟨d_o, o⟩ + ⟨d_state, state⟩`, given
/// `d_o` `[B, T, H, V]` and `d_state` `[B, H, S, K, V]`.
pub(crate) fn backward<B: Backend>(
    saved: Saved<B>,
    d_o: FloatTensor<B>,
    d_state: FloatTensor<B>,
) -> Vec<FloatTensor<B>> {
    let cut = saved.cut;
    let state_dims: [usize; 5] = d_state.shape().dims();
    let [_, sk, v_dim] = saved.rows.states.dims();
    let d_o = cut.split(Array::<B>(d_o));
    let d_last = Array::<B>(d_state).reshape(&[cut.heads(), sk, v_dim]);
    let back = carry_back(&saved, &d_o, d_last);
    let inner = saved.rows.states.clone().narrow(0, 0, cut.n * cut.heads());
    // Y, Z and Y' of all states side by side: [X, C, S·K].
    let y = d_o.clone().matmul(inner.clone().t());
    let z = saved.rows.errors.clone().matmul(back.d_ends.clone().t());
    let recalled = saved
        .correct
        .as_ref()
        .map(|_| back.d_v.clone().neg().matmul(inner.t()));
    let masks = mask_grads(&saved, &d_o, &back.d_v);
    let gates = gate_grads(&saved, &masks, [&y, &z], recalled.as_ref(), &back.d_ends);
    let (d_q, d_k) = query_key_grads(&saved, &masks, [y, z], recalled);
    let mut gates = gates.into_iter().map(|gate| join_gate(&cut, gate));
    let mut grads = vec![cut.join(d_q).0, cut.join(d_k).0, cut.join(back.d_v).0];
    grads.extend(gates.by_ref().take(3));
    grads.push(back.d_initial.reshape(&state_dims).0);
    grads.extend(gates);
    grads
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
    let errors = saved.rows.errors.clone().t();
    let d_attention = d_o.clone().matmul(errors.clone()) * array::lower(c, d_o);
    let erase = saved.correct.as_ref().map(|correct| {
        let d_l = d_v.clone().matmul(errors).neg() * array::strictly_lower(c, d_o);
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

/// `⟨row_c, stacked_{c,s}⟩` for every state: rows `[X, C, K]`, stacked `[X, C, S·K]` → `[X, S, C]`.
fn dots<B: Backend>(rows: &Array<B>, stacked: &Array<B>) -> Array<B> {
    let [x, c, k] = rows.dims();
    let [.., sk] = stacked.dims::<3>();
    let products =
        stacked.clone().reshape(&[x, c, sk / k, k]) * rows.clone().reshape(&[x, c, 1, k]);
    turned(products.sum(3).reshape(&[x, c, sk / k]))
}

/// Gradients of the gates, `[X, S, C]`: log decay, read and write, and with the delta rule erase.
fn gate_grads<B: Backend>(
    saved: &Saved<B>,
    masks: &MaskGrads<B>,
    [y, z]: [&Array<B>; 2],
    recalled: Option<&Array<B>>,
    d_ends: &Array<B>,
) -> Vec<Array<B>> {
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

    let d_read = rows(&masks.read_mask) + from_start.clone() * dots(&saved.rows.q, y);
    let mut weighted = row(&masks.read_mask) * column(read);
    let mut d_erase = None;
    if let (Some(correct), Some((d_mask, _)), Some(recalled)) =
        (&saved.correct, &masks.erase, recalled)
    {
        weighted = weighted + row(d_mask) * column(&correct.erase);
        d_erase = Some(rows(d_mask) + from_start.clone() * dots(&saved.rows.k, recalled));
    }
    let d_write = (weighted * within.clone()).sum(2).reshape(&[x, s, c])
        + to_end.clone() * dots(&saved.rows.k, z);

    let mut d_b = read.clone() * d_read.clone() - write.clone() * d_write.clone();
    if let (Some(correct), Some(d_erase)) = (&saved.correct, &d_erase) {
        d_b = d_b + correct.erase.clone() * d_erase.clone();
    }
    // ⟨dH¹_s, H¹_s⟩ of every chunk `[X, S, 1]` stands at the last position of `db`, so the cumulative sum
    // from the end spreads it over the whole chunk.
    let cut = &saved.cut;
    let states = saved.rows.states.clone();
    let ends = states.narrow(0, cut.heads(), cut.n * cut.heads());
    let [_, sk, v_dim] = d_ends.dims();
    let products = (d_ends.clone() * ends).reshape(&[x, s, sk / s * v_dim]);
    let from_end = array::lower(c, &d_b);
    let log_decay = d_b.matmul(from_end) + products.sum(2);
    let mut grads = vec![log_decay, d_read, d_write];
    grads.extend(d_erase);
    grads
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
        if s == 1 {
            return turned(weights) * stacked;
        }
        let weights = turned(weights).reshape(&[x, c, s, 1]);
        let sum = (stacked.reshape(&[x, c, s, sk / s]) * weights).sum(2);
        sum.reshape(&[x, c, sk / s])
    };
    let d_q = masks.products.clone().matmul(saved.rows.k.clone())
        + unstack(read.clone() * from_start.clone(), y);
    let mut d_k = masks.products.clone().t().matmul(saved.rows.q.clone())
        + unstack(write.clone() * to_end.clone(), z);
    if let (Some(correct), Some((_, d_products)), Some(recalled)) =
        (&saved.correct, &masks.erase, recalled)
    {
        let both = d_products.clone() + d_products.clone().t();
        d_k = d_k
            + both.matmul(saved.rows.k.clone())
            + unstack(correct.erase.clone() * from_start.clone(), recalled);
    }
    (d_q, d_k)
}
