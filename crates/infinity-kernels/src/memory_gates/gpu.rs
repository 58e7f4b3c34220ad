//! The gates on CubeCL runtimes: one launch forward; back one, and one that sums the gradients of `A_log` and of
//! the biases over pieces of tokens.

#![allow(
    clippy::too_many_arguments,
    reason = "a kernel's arguments are its buffers"
)]

use super::rule::{DecayRule, GateRule, Sections};
use crate::gpu::many::Places;
use crate::gpu::sums::row_sums;
use crate::gpu::{bound, cast, contiguous, cubes_of_units, empty, single, units, zeros};
use burn::backend::TensorMetadata;
use burn::tensor::{DType, Shape};
use burn_cubecl::cubecl;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

/// Tokens that a unit takes one after the other where gradients are summed over them.
const TOKENS: usize = 16;
/// Below this series keep the digits that differences from 1 would lose.
const SMALL: f32 = 0.04;

/// `ln(1 + x)` for `x` in [0, 1].
#[cube]
fn log1p_of_unit(x: f32) -> f32 {
    let mut y = (1.0f32 + x).ln();
    if x < SMALL {
        y = x * (1.0f32 - x * (0.5f32 - x * (1.0f32 / 3.0f32 - x * (0.25f32 - x * 0.2f32))));
    }
    y
}

/// `1 − exp(−x)` for `x` ≥ 0.
#[cube]
fn minus_expm1(x: f32) -> f32 {
    let mut y = 1.0f32 - (0.0f32 - x).exp();
    if x < SMALL {
        y = x * (1.0f32 - x * (0.5f32 - x * (1.0f32 / 6.0f32 - x * (1.0f32 / 24.0f32))));
    }
    y
}

#[cube]
fn sigmoid(x: f32) -> f32 {
    1.0f32 / (1.0f32 + (0.0f32 - x).exp())
}

/// The gates of one head of a token, and what their gradients need.
#[derive(CubeType)]
struct Head {
    log_decay: Array<f32>,
    /// `σ(z_g + dt_bias)`.
    step_slope: Array<f32>,
    /// `exp(A_log)`.
    rate: Array<f32>,
    allocation: Array<f32>,
    /// `sqrt(1 − exp(2g))`, or one.
    kept: Array<f32>,
    /// `σ(z_r + c_r)`, or one.
    open: Array<f32>,
    beta: f32,
    memory: f32,
}

#[cube]
fn filled(value: f32, #[comptime] len: usize) -> Array<f32> {
    let mut all = Array::<f32>::new(len);
    #[unroll]
    for i in 0..len {
        all[i] = value;
    }
    all
}

/// Reads the projections that start at `from`.
#[cube]
fn head_of(
    z: &[f32],
    a_log: &[f32],
    bias: &[f32],
    from: usize,
    head: usize,
    #[comptime] rule: GateRule,
) -> Head {
    let s = comptime!(rule.n_states);
    let of = comptime!(Sections::of(&rule));
    let mut memory = 0.0f32;
    if comptime!(of.memory.is_some()) {
        memory = sigmoid(
            z[from + comptime!(of.memory.unwrap_or_default()[0]) + head]
                + bias[comptime!(of.memory.unwrap_or_default()[1]) + head],
        );
    }
    let mut gates = Head {
        log_decay: filled(0.0f32, s),
        step_slope: filled(0.0f32, s),
        rate: filled(0.0f32, s),
        allocation: filled(1.0f32, s),
        kept: filled(1.0f32, s),
        open: filled(1.0f32, s),
        beta: comptime!(rule.strongest()) * sigmoid(z[from + comptime!(of.beta) + head]),
        memory,
    };
    #[unroll]
    for i in 0..s {
        let j = head * s + i;
        if comptime!(of.decay.is_some()) {
            let mut step = bias[comptime!(of.decay.unwrap_or(0)) + j];
            if comptime!(of.steps.is_some()) {
                step += z[from + comptime!(of.steps.unwrap_or(0)) + j];
            }
            let small = (0.0f32 - step.abs()).exp();
            gates.rate[i] = a_log[j].exp();
            gates.log_decay[i] =
                0.0f32 - gates.rate[i] * (max(step, 0.0f32) + log1p_of_unit(small));
            let far = 1.0f32 / (1.0f32 + small);
            if step < 0.0f32 {
                gates.step_slope[i] = small * far;
            } else {
                gates.step_slope[i] = far;
            }
        }
        if comptime!(rule.keeps_size()) {
            gates.kept[i] = minus_expm1(-2.0f32 * gates.log_decay[i]).sqrt();
        }
        if comptime!(of.read.is_some()) {
            gates.open[i] = sigmoid(
                z[from + comptime!(of.read.unwrap_or_default()[0]) + j]
                    + bias[comptime!(of.read.unwrap_or_default()[1]) + j],
            );
        }
    }
    if comptime!(of.write.is_some()) {
        let mut highest = f32::MIN.runtime();
        #[unroll]
        for i in 0..s {
            let j = head * s + i;
            gates.allocation[i] = z[from + comptime!(of.write.unwrap_or_default()[0]) + j]
                + bias[comptime!(of.write.unwrap_or_default()[1]) + j];
            highest = max(highest, gates.allocation[i]);
        }
        let mut sum = 0.0f32;
        #[unroll]
        for i in 0..s {
            gates.allocation[i] = (gates.allocation[i] - highest).exp();
            sum += gates.allocation[i];
        }
        #[unroll]
        for i in 0..s {
            gates.allocation[i] = (gates.allocation[i] / sum).sqrt();
        }
    }
    gates
}

/// Factor of the memory gate for state `i`: `2(1 − m)`, `2m`, or one where there is no gate.
#[cube]
fn side(memory: f32, #[comptime] i: usize, #[comptime] rule: GateRule) -> f32 {
    let mut factor = 1.0f32;
    if comptime!(Sections::of(&rule).memory.is_some()) {
        if comptime!(i == 0) {
            factor = 2.0f32 * (1.0f32 - memory);
        } else {
            factor = 2.0f32 * memory;
        }
    }
    factor
}

/// A unit a token and head. `erase` is written with delta writes only.
#[cube(launch)]
fn forward_heads(
    z: &[f32],
    a_log: &[f32],
    bias: &[f32],
    log_decay: &mut [f32],
    read: &mut [f32],
    write: &mut [f32],
    erase: &mut [f32],
    tokens: usize,
    #[comptime] rule: GateRule,
) {
    let s = comptime!(rule.n_states);
    let h = comptime!(rule.n_heads);
    let unit = ABSOLUTE_POS;
    if unit < tokens * h {
        let head = unit % h;
        let from = unit / h * comptime!(rule.width());
        let gates = head_of(z, a_log, bias, from, head, rule);
        #[unroll]
        for i in 0..s {
            let at = unit * s + i;
            log_decay[at] = gates.log_decay[i];
            read[at] = comptime!(rule.read_scale()) * gates.open[i] * side(gates.memory, i, rule);
            write[at] = gates.allocation[i] * gates.kept[i] * gates.beta;
            if comptime!(rule.delta) {
                erase[at] = gates.allocation[i];
            }
        }
    }
}

/// A unit a head and [`TOKENS`] tokens. `partial` `[pieces, H·S + biases]` gets their part of the
/// gradients of `A_log` and of the biases.
#[cube(launch)]
fn backward_heads(
    z: &[f32],
    a_log: &[f32],
    bias: &[f32],
    d_log_decay: &[f32],
    d_read: &[f32],
    d_write: &[f32],
    d_erase: &[f32],
    d_z: &mut [f32],
    partial: &mut [f32],
    tokens: usize,
    columns: usize,
    of_biases: usize,
    #[comptime] rule: GateRule,
) {
    let s = comptime!(rule.n_states);
    let h = comptime!(rule.n_heads);
    let of = comptime!(Sections::of(&rule));
    let unit = ABSOLUTE_POS;
    if unit < tokens.div_ceil(TOKENS) * h {
        let head = unit % h;
        let piece = unit / h;
        let sums = piece * columns;
        let mut of_a = filled(0.0f32, s);
        let mut of_decay = filled(0.0f32, s);
        let mut of_write = filled(0.0f32, s);
        let mut of_read = filled(0.0f32, s);
        let mut of_memory = 0.0f32;
        for n in 0..comptime!(TOKENS as u32) {
            let token = piece * TOKENS + n as usize;
            if token < tokens {
                let from = token * comptime!(rule.width());
                let at = (token * h + head) * s;
                let gates = head_of(z, a_log, bias, from, head, rule);
                let mut d_beta = 0.0f32;
                let mut along = 0.0f32;
                let mut d_memory = 0.0f32;
                #[unroll]
                for i in 0..s {
                    let a = gates.allocation[i];
                    let kept = gates.kept[i];
                    d_beta += d_write[at + i] * a * kept;
                    let mut d_a = d_write[at + i] * gates.beta * kept;
                    if comptime!(rule.delta) {
                        d_a += d_erase[at + i];
                    }
                    along += a * d_a;
                }
                #[unroll]
                for i in 0..s {
                    let j = head * s + i;
                    let a = gates.allocation[i];
                    let kept = gates.kept[i];
                    if comptime!(of.write.is_some()) {
                        let mut d_a = d_write[at + i] * gates.beta * kept;
                        if comptime!(rule.delta) {
                            d_a += d_erase[at + i];
                        }
                        let d = 0.5f32 * a * (d_a - a * along);
                        d_z[from + comptime!(of.write.unwrap_or_default()[0]) + j] = d;
                        of_write[i] += d;
                    }
                    let through = d_read[at + i] * comptime!(rule.read_scale()) * gates.open[i];
                    if comptime!(of.read.is_some()) {
                        let d = through * side(gates.memory, i, rule) * (1.0f32 - gates.open[i]);
                        d_z[from + comptime!(of.read.unwrap_or_default()[0]) + j] = d;
                        of_read[i] += d;
                    }
                    if comptime!(i == 0) {
                        d_memory -= 2.0f32 * through;
                    } else {
                        d_memory += 2.0f32 * through;
                    }
                    if comptime!(of.decay.is_some()) {
                        let mut d = d_log_decay[at + i];
                        if comptime!(rule.keeps_size()) {
                            if kept > 0.0f32 {
                                d += d_write[at + i] * a * gates.beta * (kept * kept - 1.0f32)
                                    / kept;
                            }
                        }
                        of_a[i] += d * gates.log_decay[i];
                        let d = 0.0f32 - d * gates.rate[i] * gates.step_slope[i];
                        of_decay[i] += d;
                        if comptime!(of.steps.is_some()) {
                            d_z[from + comptime!(of.steps.unwrap_or(0)) + j] = d;
                        }
                    }
                }
                if comptime!(of.memory.is_some()) {
                    let d = d_memory * gates.memory * (1.0f32 - gates.memory);
                    d_z[from + comptime!(of.memory.unwrap_or_default()[0]) + head] = d;
                    of_memory += d;
                }
                let part = gates.beta * comptime!(1.0 / rule.strongest());
                d_z[from + comptime!(of.beta) + head] = d_beta * gates.beta * (1.0f32 - part);
            }
        }
        let biases = sums + of_biases;
        #[unroll]
        for i in 0..s {
            let j = head * s + i;
            partial[sums + j] = of_a[i];
            if comptime!(of.decay.is_some()) {
                partial[biases + comptime!(of.decay.unwrap_or(0)) + j] = of_decay[i];
            }
            if comptime!(of.write.is_some()) {
                partial[biases + comptime!(of.write.unwrap_or_default()[1]) + j] = of_write[i];
            }
            if comptime!(of.read.is_some()) {
                partial[biases + comptime!(of.read.unwrap_or_default()[1]) + j] = of_read[i];
            }
        }
        if comptime!(of.memory.is_some()) {
            partial[biases + comptime!(of.memory.unwrap_or_default()[1]) + head] = of_memory;
        }
    }
}

/// The gates, `[B, T, H, S]` each: log decay, read, write, and erase with delta writes.
pub(crate) fn forward(rule: GateRule, inputs: [CubeTensor; 3]) -> Vec<CubeTensor> {
    let dtype = inputs[0].dtype;
    let [z, a_log, bias] = inputs.map(|x| contiguous(x, DType::F32));
    let [b, t, _] = z.shape().dims();
    let shape = Shape::from([b, t, rule.n_heads, rule.n_states]);
    let mut gates = [(); 4].map(|()| empty(&z, shape.clone(), DType::F32));
    if !rule.delta {
        gates[3] = empty(&z, [1], DType::F32);
    }
    if shape.num_elements() > 0 {
        let [log_decay, read, write, erase] = gates.clone().map(CubeTensor::into_buffer_arg);
        forward_heads::launch(
            &z.client,
            cubes_of_units(b * t * rule.n_heads),
            units(),
            z.clone().into_buffer_arg(),
            bound(&a_log, &z),
            bound(&bias, &z),
            log_decay,
            read,
            write,
            erase,
            b * t,
            rule,
        );
    }
    let results = 3 + usize::from(rule.delta);
    let gates = gates.into_iter().take(results);
    gates.map(|gate| cast(gate, dtype)).collect()
}

/// Gradients of projections, `A_log` and biases, given those of the gates.
pub(crate) fn backward(
    rule: GateRule,
    inputs: [CubeTensor; 3],
    d: Vec<CubeTensor>,
) -> [CubeTensor; 3] {
    let dtypes = [&inputs[0], &inputs[1], &inputs[2]].map(|x| x.dtype);
    let [z, a_log, bias] = inputs.map(|x| contiguous(x, DType::F32));
    let d = single(d);
    let [b, t, _] = z.shape().dims();
    let pieces = (b * t).div_ceil(TOKENS);
    // Apart as far as two tensors in one buffer have to be.
    let places = Places::new(&z, [rule.per_state(), rule.bias_width()]);
    let columns = places.values;
    let d_z = empty(&z, z.shape(), DType::F32);
    let partial = empty(&z, [pieces, columns], DType::F32);
    if pieces > 0 {
        backward_heads::launch(
            &z.client,
            cubes_of_units(pieces * rule.n_heads),
            units(),
            z.clone().into_buffer_arg(),
            bound(&a_log, &z),
            bound(&bias, &z),
            d[0].clone().into_buffer_arg(),
            d[1].clone().into_buffer_arg(),
            d[2].clone().into_buffer_arg(),
            d.get(3).unwrap_or(&z).clone().into_buffer_arg(),
            d_z.clone().into_buffer_arg(),
            partial.clone().into_buffer_arg(),
            b * t,
            columns,
            places.start[1],
            rule,
        );
    }
    let sums = row_sums(&partial, [pieces, columns, 0], [columns]);
    // What is not read may be of any size.
    let d_a_log = match rule.decay {
        DecayRule::None => zeros(&a_log),
        _ => places.part(&sums, 0, a_log.shape()),
    };
    let d_bias = match rule.bias_width() {
        0 => zeros(&bias),
        _ => places.part(&sums, 1, bias.shape()),
    };
    [
        cast(d_z, dtypes[0]),
        cast(d_a_log, dtypes[1]),
        cast(d_bias, dtypes[2]),
    ]
}
