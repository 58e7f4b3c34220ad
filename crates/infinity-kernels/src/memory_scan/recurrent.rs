//! `memory_scan` token by token, on Burn tensors: the decode form.
//!
//! ```text
//! forget   H_s ← exp(g_s) · H_s
//! correct  d   = v − Σ_s p_s H_sᵀ k
//! write    H_s ← H_s + u_s · k dᵀ
//! read     o   = Σ_s r_s H_sᵀ q
//! ```

use super::{MemoryScanInputs, MemoryScanOutput};
use burn::tensor::Tensor;

/// Runs the recurrence over all `T` tokens, starting from `state` `[B, H, S, K, V]`.
pub fn forward(x: &MemoryScanInputs, mut state: Tensor<5>) -> MemoryScanOutput {
    let dims = x.dims();
    let mut outputs = Vec::with_capacity(dims.t);
    for i in 0..dims.t {
        let (o, next) = step(x, i, state);
        outputs.push(o);
        state = next;
    }
    MemoryScanOutput {
        o: Tensor::cat(outputs, 1),
        state,
    }
}

/// Token `i`: its output `[B, 1, H, V]` and the state after it.
fn step(x: &MemoryScanInputs, i: usize, state: Tensor<5>) -> (Tensor<4>, Tensor<5>) {
    let super::Dims {
        b,
        h,
        s,
        k: n_k,
        v: n_v,
        ..
    } = x.dims();
    let token = |tensor: &Tensor<4>| match tensor.dims()[1] {
        1 => tensor.clone(),
        _ => tensor.clone().slice([0..b, i..i + 1]),
    };
    // Gates as a column of weights over the stacked state [B, H, S·K, V].
    let over_states = |gate: &Tensor<4>| token(gate).reshape([b, h, s, 1, 1]);
    let q = token(&x.q).reshape([b, h, 1, 1, n_k]);
    let k = token(&x.k).reshape([b, h, 1, 1, n_k]);
    let v = token(&x.v).reshape([b, h, 1, n_v]);

    let state = state * over_states(&x.log_decay).exp();
    let error = match &x.erase {
        Some(erase) => {
            let weighted = (k.clone() * over_states(erase)).reshape([b, h, 1, s * n_k]);
            v - weighted.matmul(state.clone().reshape([b, h, s * n_k, n_v]))
        }
        None => v,
    };
    let keys = (k * over_states(&x.write)).reshape([b, h, s, n_k, 1]);
    let state = state + keys * error.reshape([b, h, 1, 1, n_v]);
    let queries = (q * over_states(&x.read)).reshape([b, h, 1, s * n_k]);
    let o = queries.matmul(state.clone().reshape([b, h, s * n_k, n_v]));
    (o.reshape([b, 1, h, n_v]), state)
}
