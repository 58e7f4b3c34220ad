//! The gates on the CPU: one pass forward, one pass back, tokens in pieces over the threads.
//!
//! Gradients of `A_log` and of the biases are summed within a piece and then over the pieces in
//! their order: two runs give the same bits.

use super::rule::GateRule;
use super::token::{Shared, Token};
use crate::cpu::results::in_pieces;
use crate::cpu::simd::{Level, leveled};
use crate::cpu::tensors::{Primitive, single, slice, tensor};
use burn::backend::TensorMetadata;
use burn::tensor::Shape;

/// Tokens a thread takes at a time.
const TOKENS: usize = 64;

/// Results of some tokens, `[tokens, H·S]` each. Those of `erase` are empty with additive writes.
pub(crate) struct Outputs<'a> {
    log_decay: &'a mut [f32],
    read: &'a mut [f32],
    write: &'a mut [f32],
    erase: &'a mut [f32],
}

#[inline(always)]
fn forward_loop<const FMA: bool, const ROWS: usize>(
    shared: &Shared<'_>,
    z: &[f32],
    out: &mut Outputs<'_>,
) {
    let mut token = Token::new(shared.rule);
    for (i, z) in z.chunks_exact(shared.of_z.width).enumerate() {
        token.read_projections::<FMA>(shared, z);
        let at = i * shared.per_state()..(i + 1) * shared.per_state();
        out.log_decay[at.clone()].copy_from_slice(&token.log_decay);
        token.write_gates(
            shared,
            [&mut out.read[at.clone()], &mut out.write[at.clone()]],
        );
        if shared.rule.delta {
            out.erase[at].copy_from_slice(&token.allocation);
        }
    }
}
leveled!(fn forward_tokens(shared: &Shared<'_>, z: &[f32], out: &mut Outputs<'_>) = forward_loop);

/// Gradients of the results of some tokens, as [`Outputs`].
#[derive(Clone, Copy)]
pub(crate) struct Incoming<'a> {
    log_decay: &'a [f32],
    read: &'a [f32],
    write: &'a [f32],
    erase: &'a [f32],
}

/// Gradients of the inputs of some tokens; the last two are added to.
pub(crate) struct Grads<'a> {
    z: &'a mut [f32],
    a_log: &'a mut [f32],
    bias: &'a mut [f32],
}

#[inline(always)]
fn backward_loop<const FMA: bool, const ROWS: usize>(
    shared: &Shared<'_>,
    z: &[f32],
    d: Incoming<'_>,
    grads: &mut Grads<'_>,
) {
    let mut token = Token::new(shared.rule);
    let (width, per_state) = (shared.of_z.width, shared.per_state());
    for (i, z) in z.chunks_exact(width).enumerate() {
        token.read_projections::<FMA>(shared, z);
        let at = i * per_state..(i + 1) * per_state;
        let d_z = &mut grads.z[i * width..][..width];
        token.back_through_writes::<FMA>(
            shared,
            &d.write[at.clone()],
            if shared.rule.delta {
                &d.erase[at.clone()]
            } else {
                &[]
            },
            d_z,
        );
        token.back_through_reads(shared, &d.read[at.clone()], d_z);
        token.back_through_decay(shared, &d.log_decay[at], d_z, grads.a_log, grads.bias);
        shared.add_to_biases(d_z, grads.bias);
    }
}
leveled!(
    fn backward_tokens(
        shared: &Shared<'_>,
        z: &[f32],
        d: Incoming<'_>,
        grads: &mut Grads<'_>,
    ) = backward_loop
);

/// The gates, `[B, T, H, S]` each: log decay, read, write, and erase with delta writes.
pub(crate) fn forward(
    rule: GateRule,
    z: Primitive,
    a_log: Primitive,
    bias: Primitive,
) -> Vec<Primitive> {
    let [b, t, width] = z.shape().dims();
    let dtype = z.dtype();
    let [z, a_log, bias] = [z, a_log, bias].map(single);
    let shared = Shared::new(rule, slice(&a_log), slice(&bias));
    let one = b * t * shared.per_state();
    let piece = TOKENS * shared.per_state();
    let (z, level) = (slice(&z), Level::detect());
    let lens = [one, one, one, if rule.delta { one } else { 0 }];
    let gates = in_pieces(lens, [piece; 4], |i, [log_decay, read, write, erase]| {
        let rest = &z[i * TOKENS * width..];
        let z = &rest[..rest.len().min(TOKENS * width)];
        let out = &mut Outputs {
            log_decay,
            read,
            write,
            erase,
        };
        forward_tokens(level, &shared, z, out);
    });
    let shape = Shape::from([b, t, rule.n_heads, rule.n_states]);
    let gate = |values| tensor(values, shape.clone(), dtype);
    let results = 3 + usize::from(rule.delta);
    gates.into_iter().take(results).map(gate).collect()
}

/// Gradients of projections, `A_log` and biases, given those of the gates.
pub(crate) fn backward(
    rule: GateRule,
    [z, a_log, bias]: [Primitive; 3],
    d: Vec<Primitive>,
) -> [Primitive; 3] {
    let (shape, dtype) = (z.shape(), z.dtype());
    let [b, t, width] = shape.dims();
    let (a_log_shape, bias_shape) = (a_log.shape(), bias.shape());
    let [z, a_log, bias] = [z, a_log, bias].map(single);
    let d: Vec<Primitive> = d.into_iter().map(single).collect();
    let d: Vec<&[f32]> = d.iter().map(slice).collect();
    let shared = Shared::new(rule, slice(&a_log), slice(&bias));
    let pieces = (b * t).div_ceil(TOKENS);
    let (a_len, bias_len) = (a_log_shape.num_elements(), bias_shape.num_elements());
    let (z, level) = (slice(&z), Level::detect());
    let [d_z, d_a, d_bias] = in_pieces(
        [z.len(), pieces * a_len, pieces * bias_len],
        [TOKENS * width, a_len, bias_len],
        |i, [d_z, a_log, bias]| {
            let z = &z[i * TOKENS * width..][..d_z.len()];
            let at = i * TOKENS * shared.per_state();
            let len = z.len() / width * shared.per_state();
            let part = |part: usize| &d[part][at..][..len];
            let incoming = Incoming {
                log_decay: part(0),
                read: part(1),
                write: part(2),
                erase: if rule.delta { part(3) } else { &[] },
            };
            let grads = &mut Grads {
                z: d_z,
                a_log,
                bias,
            };
            backward_tokens(level, &shared, z, incoming, grads);
        },
    );
    [
        tensor(d_z, shape, dtype),
        tensor(summed(&d_a, a_len), a_log_shape, dtype),
        tensor(summed(&d_bias, bias_len), bias_shape, dtype),
    ]
}

/// The sum over the pieces.
fn summed(partial: &[f32], len: usize) -> Vec<f32> {
    let mut sum = vec![0f32; len];
    for partial in partial.chunks_exact(len.max(1)) {
        sum.iter_mut().zip(partial).for_each(|(sum, d)| *sum += d);
    }
    sum
}
