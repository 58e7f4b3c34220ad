//! Forward of the chunk form: masks and scores of all chunks at once, then the loop that carries the
//! states.

use super::super::inputs::ScanTensors;
use super::{Correct, Gates, Saved, Scores, mix, stack};
use super::{array::Array, chunks::Chunking};
use burn::backend::{Backend, TensorMetadata, tensor::FloatTensor};

/// Outputs `[B, T, H, V]`, the final state `[B, H, S, K, V]` and what backward needs.
pub(in crate::memory_scan) fn forward<B: Backend>(
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
