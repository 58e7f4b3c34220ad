//! The gates on the CPU: one pass forward, one pass back, tokens in pieces over the threads.
//!
//! Gradients of `A_log` and of the biases are summed within a piece and then over the pieces in
//! their order: two runs give the same bits.

use super::rule::GateRule;
use super::token::{Shared, Token};
use crate::math::flex_values::{Primitive, single, slice, tensor};
use crate::math::simd::{Level, leveled};
use crate::math::unwritten::unwritten;
use burn::backend::TensorMetadata;
use burn::tensor::Shape;
use rayon::prelude::*;

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
    let results = 3 + usize::from(rule.delta);
    // SAFETY: the pieces cover all of it, and `forward_tokens` writes every gate of a token.
    let mut out: Vec<Vec<f32>> = (0..results).map(|_| unsafe { unwritten(one) }).collect();
    let [log_decay, read, write, erase @ ..] = &mut out[..] else {
        unreachable!("three or four")
    };
    let piece = TOKENS * shared.per_state();
    let erased: Vec<&mut [f32]> = match rule.delta {
        true => erase[0].chunks_mut(piece).collect(),
        false => (0..(b * t).div_ceil(TOKENS)).map(|_| &mut [][..]).collect(),
    };
    let level = Level::detect();
    log_decay
        .par_chunks_mut(piece)
        .zip(read.par_chunks_mut(piece))
        .zip(write.par_chunks_mut(piece))
        .zip(erased)
        .zip(slice(&z).par_chunks(TOKENS * width))
        .for_each(|((((log_decay, read), write), erase), z)| {
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
    out.into_iter().map(gate).collect()
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
    // SAFETY: the pieces cover all of it, and each is filled before anything else.
    let mut d_z = unsafe { unwritten(b * t * width) };
    let mut d_a = vec![0f32; pieces * a_len];
    let mut d_bias = vec![0f32; pieces * bias_len];
    let level = Level::detect();
    d_z.par_chunks_mut(TOKENS * width)
        .zip(d_a.par_chunks_mut(a_len.max(1)))
        .zip(d_bias.par_chunks_mut(bias_len.max(1)))
        .zip(slice(&z).par_chunks(TOKENS * width))
        .enumerate()
        .for_each(|(i, (((d_z, a_log), bias), z))| {
            d_z.fill(0.0);
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
        });
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
