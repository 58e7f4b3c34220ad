//! Ground truth for `memory_scan`: scalar `f64`, one loop per step, no Burn.
//!
//! ```text
//! forget   H_s ← exp(g_s) · H_s
//! correct  d   = v − Σ_s p_s H_sᵀ k
//! write    H_s ← H_s + u_s · k dᵀ
//! read     o   = Σ_s r_s H_sᵀ q
//! ```
//!
//! The backward pass is written by hand, token by token from the end, and is itself checked by
//! finite differences in `tests/memory_scan.rs`. Slow on purpose.

/// Sizes of one call, by the letters of the crate's dimension key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Dims {
    pub b: usize,
    pub t: usize,
    pub h: usize,
    pub s: usize,
    pub k: usize,
    pub v: usize,
}

/// One of a kind for every input, the initial state included: values, tensors, rows, or gradients.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scan<T> {
    /// Queries `[B, T, H, K]`.
    pub q: T,
    /// Keys `[B, T, H, K]`.
    pub k: T,
    /// Values `[B, T, H, V]`.
    pub v: T,
    /// Log decay `[B, T, H, S]`, at most 0.
    pub log_decay: T,
    /// Read weights `[B, T, H, S]`.
    pub read: T,
    /// Write weights `[B, T, H, S]`.
    pub write: T,
    /// Erase weights `[B, T, H, S]`; all zero, or not read, for additive writes.
    pub erase: T,
    /// Initial state `[B, H, S, K, V]`.
    pub state: T,
}

/// Inputs in row-major order; also the shape of the gradients, field by field.
pub type Values = Scan<Vec<f64>>;

impl<T> Scan<T> {
    pub(super) fn from_array([q, k, v, log_decay, read, write, erase, state]: [T; 8]) -> Self {
        Scan {
            q,
            k,
            v,
            log_decay,
            read,
            write,
            erase,
            state,
        }
    }

    pub(super) fn into_array(self) -> [T; 8] {
        [
            self.q,
            self.k,
            self.v,
            self.log_decay,
            self.read,
            self.write,
            self.erase,
            self.state,
        ]
    }

    pub(super) fn each(&self) -> Scan<&T> {
        Scan {
            q: &self.q,
            k: &self.k,
            v: &self.v,
            log_decay: &self.log_decay,
            read: &self.read,
            write: &self.write,
            erase: &self.erase,
            state: &self.state,
        }
    }

    pub(super) fn map<U>(self, f: impl FnMut(T) -> U) -> Scan<U> {
        Scan::from_array(self.into_array().map(f))
    }
}

/// Outputs `[B, T, H, V]` and the final state `[B, H, S, K, V]`.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Output {
    pub o: Vec<f64>,
    pub state: Vec<f64>,
}

impl Dims {
    /// Elements of one head's state, `S · K · V`.
    pub(super) fn head_state(&self) -> usize {
        self.s * self.k * self.v
    }

    /// Index of token `(b, t, h)` in a `[B, T, H]` tensor.
    fn token(&self, b: usize, t: usize, h: usize) -> usize {
        (b * self.t + t) * self.h + h
    }
}

impl Values {
    /// The rows of token `(b, t, h)`, beside all states.
    fn token<'a>(&'a self, dims: Dims, [b, t, h]: [usize; 3]) -> Scan<&'a [f64]> {
        let i = dims.token(b, t, h);
        let row = |x: &'a [f64], width: usize| &x[i * width..][..width];
        Scan {
            q: row(&self.q, dims.k),
            k: row(&self.k, dims.k),
            v: row(&self.v, dims.v),
            log_decay: row(&self.log_decay, dims.s),
            read: row(&self.read, dims.s),
            write: row(&self.write, dims.s),
            erase: row(&self.erase, dims.s),
            state: &self.state,
        }
    }

    /// Every field with its name, in the order of the struct.
    pub fn named(&self) -> [(&'static str, &Vec<f64>); 8] {
        let mut names = "q k v log_decay read write erase state".split(' ');
        let values = self.each().into_array();
        values.map(|x| (names.next().expect("eight names"), x))
    }
}

/// What one step computes on the way: the decayed state, the prediction error and the state after it.
struct Step {
    decayed: Vec<f64>,
    error: Vec<f64>,
    written: Vec<f64>,
}

/// Runs one token of one head on `state` `[S, K, V]`, adding the read to `o` `[V]`.
fn step(dims: Dims, x: &Scan<&[f64]>, state: &mut [f64], o: &mut [f64]) -> Step {
    let (n_k, n_v) = (dims.k, dims.v);
    let size = n_k * n_v;
    for s in 0..dims.s {
        let decay = x.log_decay[s].exp();
        let state = &mut state[s * size..][..size];
        state.iter_mut().for_each(|h| *h *= decay); // forget
    }
    let decayed = state.to_vec();
    let mut error = x.v.to_vec();
    for s in 0..dims.s {
        for (c, e) in error.iter_mut().enumerate() {
            let recalled: f64 = (0..n_k)
                .map(|i| x.k[i] * decayed[s * size + i * n_v + c])
                .sum();
            *e -= x.erase[s] * recalled; // correct
        }
    }
    for s in 0..dims.s {
        for i in 0..n_k {
            for c in 0..n_v {
                let h = &mut state[s * size + i * n_v + c];
                *h += x.write[s] * x.k[i] * error[c]; // write
                o[c] += x.read[s] * x.q[i] * *h; // read
            }
        }
    }
    Step {
        decayed,
        error,
        written: state.to_vec(),
    }
}

fn begins(borders: &[Vec<usize>], b: usize, t: usize) -> bool {
    borders.get(b).is_some_and(|row| row.contains(&t))
}

/// Outputs and final state.
pub fn forward(dims: Dims, x: &Values) -> Output {
    forward_packed(dims, x, &[])
}

/// [`forward`] where `borders` are the tokens of every row before which the states are emptied; no rows are
/// rows without any.
pub fn forward_packed(dims: Dims, x: &Values, borders: &[Vec<usize>]) -> Output {
    let mut state = x.state.clone();
    let mut o = vec![0.0; dims.b * dims.t * dims.h * dims.v];
    let size = dims.head_state();
    for i in 0..dims.b * dims.h {
        let head = &mut state[i * size..][..size];
        steps(dims, x, borders, i, head, &mut o).for_each(drop);
    }
    Output { o, state }
}

/// The tokens of head `i` of `B · H`, from `head` `[S, K, V]`, which becomes the last state, adding the reads to `o`.
fn steps<'a>(
    dims: Dims,
    x: &'a Values,
    borders: &'a [Vec<usize>],
    i: usize,
    head: &'a mut [f64],
    o: &'a mut [f64],
) -> impl Iterator<Item = Step> + 'a {
    let (b, h) = (i / dims.h, i % dims.h);
    (0..dims.t).map(move |t| {
        if begins(borders, b, t) {
            head.fill(0.0);
        }
        let out = dims.token(b, t, h) * dims.v;
        let token = x.token(dims, [b, t, h]);
        step(dims, &token, head, &mut o[out..out + dims.v])
    })
}

/// Gradients of `⟨d_o, o⟩ + ⟨d_state, state⟩` for every input, the initial state included.
pub fn backward(dims: Dims, x: &Values, d_o: &[f64], d_state: &[f64]) -> Values {
    backward_packed(dims, x, &[], d_o, d_state)
}

/// [`backward`] of [`forward_packed`].
pub fn backward_packed(
    dims: Dims,
    x: &Values,
    borders: &[Vec<usize>],
    d_o: &[f64],
    d_state: &[f64],
) -> Values {
    let mut grads = x.each().map(|x| vec![0.0; x.len()]);
    let mut scratch = vec![0.0; d_o.len()];
    let size = dims.head_state();
    for i in 0..dims.b * dims.h {
        let (b, h, states) = (i / dims.h, i % dims.h, i * size..(i + 1) * size);
        let mut head = x.state[states.clone()].to_vec();
        let tape: Vec<Step> = steps(dims, x, borders, i, &mut head, &mut scratch).collect();
        let mut d_head = d_state[states.clone()].to_vec();
        for (t, taken) in tape.iter().enumerate().rev() {
            let i = dims.token(b, t, h);
            let d_out = &d_o[i * dims.v..][..dims.v];
            let token = x.token(dims, [b, t, h]);
            step_backward(dims, &token, taken, d_out, &mut d_head, &mut grads, i);
            if begins(borders, b, t) {
                d_head.fill(0.0);
            }
        }
        grads.state[states].copy_from_slice(&d_head);
    }
    grads
}

/// Backward of one step; `d_head` comes in as the gradient after the step and leaves as the
/// gradient before it.
// The names and indices are the equations'.
#[allow(clippy::needless_range_loop)]
fn step_backward(
    dims: Dims,
    x: &Scan<&[f64]>,
    taken: &Step,
    d_out: &[f64],
    d_head: &mut [f64],
    grads: &mut Values,
    i: usize,
) {
    let (n_k, n_v, n_s) = (dims.k, dims.v, dims.s);
    let size = n_k * n_v;
    let mut d_error = vec![0.0; n_v];
    for s in 0..n_s {
        for r in 0..n_k {
            for c in 0..n_v {
                let at = s * size + r * n_v + c;
                // read
                grads.read[i * n_s + s] += x.q[r] * taken.written[at] * d_out[c];
                grads.q[i * n_k + r] += x.read[s] * taken.written[at] * d_out[c];
                d_head[at] += x.read[s] * x.q[r] * d_out[c];
                // write
                d_error[c] += x.write[s] * x.k[r] * d_head[at];
                grads.write[i * n_s + s] += x.k[r] * d_head[at] * taken.error[c];
                grads.k[i * n_k + r] += x.write[s] * d_head[at] * taken.error[c];
            }
        }
    }
    for (c, d) in d_error.iter().enumerate() {
        grads.v[i * n_v + c] += d;
    }
    for s in 0..n_s {
        let decay = x.log_decay[s].exp();
        for r in 0..n_k {
            for c in 0..n_v {
                let at = s * size + r * n_v + c;
                // correct
                grads.erase[i * n_s + s] -= x.k[r] * taken.decayed[at] * d_error[c];
                grads.k[i * n_k + r] -= x.erase[s] * taken.decayed[at] * d_error[c];
                d_head[at] -= x.erase[s] * x.k[r] * d_error[c];
                // forget
                grads.log_decay[i * n_s + s] += d_head[at] * taken.decayed[at];
                d_head[at] *= decay;
            }
        }
    }
}
