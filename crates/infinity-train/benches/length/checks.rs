//! What has to be true before anything is timed. A failed check panics, so nothing is printed
//! after it.

use crate::flags::Flags;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use infinity_kernels::memory_scan::reference::Dims;
use infinity_kernels::testing::{
    Case, Probe, Random, Tol, assert_close, compare, leaves, tensor, tensors, values,
};
use infinity_kernels::{Form, memory_scan};
use infinity_model::config::{MemoryUpdate, Mixer};
use infinity_model::{InfinityModel, ModelConfig};

/// The tolerances of the operator's own tests.
const FORWARD: Tol = Tol {
    rms_ratio: 5e-6,
    worst_over_rms: 20.0,
    floor: 1e-9,
};
const BACKWARD: Tol = Tol {
    rms_ratio: 1e-5,
    worst_over_rms: 30.0,
    floor: 1e-8,
};
/// Whole and split logits of a model, relative.
const SPLIT: Tol = Tol {
    rms_ratio: 1e-5,
    worst_over_rms: 20.0,
    floor: 0.0,
};

/// Tokens of a check; no multiple of a chunk.
const TOKENS: usize = 301;

/// Runs all checks and says what they found.
pub(crate) fn run(flags: &Flags) -> Vec<String> {
    let infinity = flags.model(Mixer::Infinity);
    let mut found: Vec<String> = [Form::Chunkwise, Form::Recurrent]
        .into_iter()
        .map(|form| {
            let error = operator(&infinity, form);
            format!("memory_scan, {form} form = f64 reference, gradients too: {error:.1e}")
        })
        .collect();
    for mixer in [Mixer::Infinity, Mixer::Softmax] {
        let error = whole_is_split(&flags.model(mixer).init(&Device::flex()));
        found.push(format!(
            "{mixer} model, {TOKENS} tokens whole = in pieces: {error:.1e}"
        ));
    }
    found
}

/// The operator at the model's head sizes; returns the worst error.
fn operator(model: &ModelConfig, form: Form) -> f64 {
    let (s, k, v) = (model.num_states(), model.head_dim(), model.value_head_dim());
    let dims = Dims {
        b: 1,
        t: TOKENS,
        h: 2,
        s,
        k,
        v,
    };
    let delta = model.memory_update == MemoryUpdate::Delta;
    let probe = Probe::seeded(
        Case {
            name: "length",
            dims,
            delta,
        },
        1,
    );
    let (t, h, device) = (dims.t, dims.h, Device::flex());
    let (inputs, state) = probe.tensors([DType::F32; 2], &device);
    let (inputs, state) = leaves(&inputs, &state);
    let device = device.autodiff();
    let out = memory_scan(inputs.clone(), state, form);
    let d_o = tensor(&probe.d_o, [1, t, h, v], DType::F32, &device);
    let d_state = tensor(&probe.d_state, [1, h, s, k, v], DType::F32, &device);
    let grads = ((out.o.clone() * d_o).sum() + (out.state.clone() * d_state).sum()).backward();

    let (name, expected) = (form.to_string(), probe.reference());
    let (o, last) = (values(out.o.inner()), values(out.state.inner()));
    assert!(
        compare(&o, &probe.without_decay().reference().o, FORWARD).is_err(),
        "a wrong answer must be noticed"
    );
    let mut worst = assert_close(&name, "o", &o, &expected.o, FORWARD).max(assert_close(
        &name,
        "state",
        &last,
        &expected.state,
        FORWARD,
    ));
    let expected = probe.reference_grads();
    for (leaf, (field, expected)) in tensors(&inputs).zip(expected.named()) {
        if let Some(grad) = leaf.grad(&grads) {
            worst = worst.max(assert_close(
                &name,
                field,
                &values(grad),
                expected,
                BACKWARD,
            ));
        }
    }
    worst
}

/// Logits of a text read at once and in pieces, a single token among them; returns the error.
fn whole_is_split(model: &InfinityModel) -> f64 {
    let tokens = random_tokens(TOKENS, model.config().vocab_size, 3);
    let read = |state, from: usize, to: usize| {
        let piece = TensorData::new(tokens[from..to].to_vec(), [1, to - from]);
        model.forward(Tensor::<2, Int>::from_data(piece, &model.device()), state)
    };
    let (whole, _) = read(model.initial_state(1), 0, TOKENS);
    let mut state = model.initial_state(1);
    let mut pieces = Vec::new();
    for pair in [0, 97, 98, 200, TOKENS].windows(2) {
        let (logits, next) = read(state, pair[0], pair[1]);
        state = next;
        pieces.push(logits);
    }
    let whole = values(whole);
    let (forgetful, _) = read(model.initial_state(1), 200, TOKENS);
    let end = &whole[200 * model.config().vocab_size..];
    assert!(
        compare(&values(forgetful), end, SPLIT).is_err(),
        "a state that is not carried must be noticed"
    );
    assert_close(
        "whole = split",
        "logits",
        &values(Tensor::cat(pieces, 1)),
        &whole,
        SPLIT,
    )
}

/// Tokens drawn from `seed`.
pub(crate) fn random_tokens(len: usize, vocab_size: usize, seed: u64) -> Vec<i32> {
    let drawn = Random(seed).values(len, 0.0, vocab_size as f64);
    drawn.into_iter().map(|token| token as i32).collect()
}
