//! Short convolutions with SiLU on CubeCL runtimes, several of the same tokens at once: one launch forward; back
//! one for what goes through SiLU and for the taps, one for the inputs, and one that sums the taps' gradients.

use crate::gpu::many::{Places, launches};
use crate::gpu::sums::row_sums;
use crate::gpu::{UNITS, cast, contiguous, empty, units, zeros};
use crate::operator::is_none;
use burn::backend::TensorMetadata;
use burn::tensor::{DType, Shape};
use burn_cubecl::cubecl;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

/// Positions that a unit takes one after the other where gradients are summed over them.
const POSITIONS: usize = 32;

/// A convolution forward: the first of its cubes, and where its results begin.
#[derive(CubeType, CubeLaunch)]
struct Ahead {
    x: Box<[f32]>,
    weight: Box<[f32]>,
    tail: Box<[f32]>,
    first: usize,
    channels: usize,
    y: usize,
    next: usize,
}

/// What goes back through one: where `d_z` and the taps' gradients begin.
#[derive(CubeType, CubeLaunch)]
struct Back {
    x: Box<[f32]>,
    weight: Box<[f32]>,
    tail: Box<[f32]>,
    d_y: Box<[f32]>,
    first: usize,
    channels: usize,
    z: usize,
    taps: usize,
}

/// And to its inputs: the gradient of the next tail is read where there is one.
#[derive(CubeType, CubeLaunch)]
struct Through {
    weight: Box<[f32]>,
    d_next: Box<[f32]>,
    has_next: usize,
    first: usize,
    channels: usize,
    z: usize,
    tail: usize,
}

/// Rows and tokens of all.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
#[expand(derive(Clone, Copy))]
struct Tokens {
    b: usize,
    t: usize,
}

/// A channel of a row of the batch.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
struct Place {
    t: usize,
    channels: usize,
    batch: usize,
    channel: usize,
}

/// Input `at`, counted from the first of the tail.
#[cube]
fn input(x: &[f32], tail: &[f32], place: Place, at: usize, #[comptime] before: usize) -> f32 {
    if at < before {
        tail[(place.batch * place.channels + place.channel) * before + at]
    } else {
        x[(place.batch * place.t + at - before) * place.channels + place.channel]
    }
}

#[cube(launch)]
fn forward_units(
    convs: &Sequence<Ahead>,
    y: &mut [f32],
    next: &mut [f32],
    tokens: Tokens,
    #[comptime] kernel: usize,
    #[comptime] count: usize,
) {
    let before = comptime!(kernel - 1);
    #[unroll]
    for i in 0..count {
        let conv = convs.index(i);
        let at = (CUBE_POS - conv.first) * UNITS + UNIT_POS as usize;
        let values = tokens.b * tokens.t * conv.channels;
        if CUBE_POS >= conv.first {
            if at < values {
                let channel = at % conv.channels;
                let t = at / conv.channels % tokens.t;
                let batch = at / conv.channels / tokens.t;
                let place = Place {
                    t: tokens.t,
                    channels: conv.channels,
                    batch,
                    channel,
                };
                let mut z = 0.0f32;
                #[unroll]
                for j in 0..kernel {
                    let x = input(&conv.x, &conv.tail, place, t + j, before);
                    z += conv.weight[channel * kernel + j] * x;
                }
                y[conv.y + at] = z / (1.0f32 + (0.0f32 - z).exp());
            } else if at < values + tokens.b * conv.channels * before {
                let at = at - values;
                let channel = at / before % conv.channels;
                let batch = at / before / conv.channels;
                let place = Place {
                    t: tokens.t,
                    channels: conv.channels,
                    batch,
                    channel,
                };
                next[conv.next + at] =
                    input(&conv.x, &conv.tail, place, tokens.t + at % before, before);
            }
        }
    }
}

/// A unit a channel and [`POSITIONS`] positions: `d_z`, and their part of the taps' gradients, rows of `width`.
#[cube(launch)]
#[allow(
    clippy::too_many_arguments,
    reason = "a kernel's arguments are its buffers"
)]
fn backward_taps(
    convs: &Sequence<Back>,
    d_z: &mut [f32],
    partial: &mut [f32],
    tokens: Tokens,
    pieces: usize,
    width: usize,
    #[comptime] kernel: usize,
    #[comptime] count: usize,
) {
    let before = comptime!(kernel - 1);
    #[unroll]
    for i in 0..count {
        let conv = convs.index(i);
        let unit = (CUBE_POS - conv.first) * UNITS + UNIT_POS as usize;
        if CUBE_POS >= conv.first && unit < tokens.b * pieces * conv.channels {
            let channel = unit % conv.channels;
            let piece = unit / conv.channels % pieces;
            let batch = unit / conv.channels / pieces;
            let place = Place {
                t: tokens.t,
                channels: conv.channels,
                batch,
                channel,
            };
            let mut taps = Array::<f32>::new(kernel);
            #[unroll]
            for j in 0..kernel {
                taps[j] = 0.0f32;
            }
            for i in 0..comptime!(POSITIONS as u32) {
                let t = piece * POSITIONS + i as usize;
                if t < tokens.t {
                    let mut z = 0.0f32;
                    #[unroll]
                    for j in 0..kernel {
                        let x = input(&conv.x, &conv.tail, place, t + j, before);
                        z += conv.weight[channel * kernel + j] * x;
                    }
                    let sigma = 1.0f32 / (1.0f32 + (0.0f32 - z).exp());
                    let at = (batch * tokens.t + t) * conv.channels + channel;
                    let d = conv.d_y[at] * sigma * (1.0f32 + z * (1.0f32 - sigma));
                    d_z[conv.z + at] = d;
                    #[unroll]
                    for j in 0..kernel {
                        taps[j] += d * input(&conv.x, &conv.tail, place, t + j, before);
                    }
                }
            }
            let row = batch * pieces + piece;
            #[unroll]
            for j in 0..kernel {
                partial[row * width + conv.taps + channel * kernel + j] = taps[j];
            }
        }
    }
}

/// A unit an input, the tail's first.
#[cube(launch)]
fn backward_inputs(
    convs: &Sequence<Through>,
    d_z: &[f32],
    d_x: &mut [f32],
    d_tail: &mut [f32],
    tokens: Tokens,
    #[comptime] kernel: usize,
    #[comptime] count: usize,
) {
    let before = comptime!(kernel - 1);
    #[unroll]
    for i in 0..count {
        let conv = convs.index(i);
        let unit = (CUBE_POS - conv.first) * UNITS + UNIT_POS as usize;
        let all = tokens.t + before;
        if CUBE_POS >= conv.first && unit < tokens.b * all * conv.channels {
            let channel = unit % conv.channels;
            let at = unit / conv.channels % all;
            let batch = unit / conv.channels / all;
            let mut d = 0.0f32;
            #[unroll]
            for j in 0..kernel {
                if at >= j {
                    let t = at - j;
                    if t < tokens.t {
                        let z = (batch * tokens.t + t) * conv.channels + channel;
                        d += conv.weight[channel * kernel + j] * d_z[conv.z + z];
                    }
                }
            }
            let row = (batch * conv.channels + channel) * before;
            if conv.has_next > 0usize {
                if at >= tokens.t {
                    d += conv.d_next[row + at - tokens.t];
                }
            }
            if at < before {
                d_tail[conv.tail + row + at] = d;
            } else {
                let x = (batch * tokens.t + at - before) * conv.channels + channel;
                d_x[conv.z + x] = d;
            }
        }
    }
}

/// A convolution's tensors, contiguous and in `f32`.
struct Conv {
    x: CubeTensor,
    weight: CubeTensor,
    tail: CubeTensor,
    channels: usize,
    dtype: DType,
}

/// Those of a call, all of the same tokens and as many taps, at least two.
struct Call {
    convs: Vec<Conv>,
    b: usize,
    t: usize,
    kernel: usize,
    /// Results and inputs of each, and tails.
    values: Places,
    tails: Places,
}

impl Call {
    fn new(inputs: Vec<CubeTensor>) -> Self {
        let [b, t, _] = inputs[0].shape().dims();
        let [_, kernel] = inputs[1].shape().dims::<2>();
        let (parts, _) = inputs.as_chunks::<3>();
        let conv = |[x, weight, tail]: &[CubeTensor; 3]| {
            let ([.., channels], dtype) = (x.shape().dims::<3>(), x.dtype);
            let [x, weight, tail] = [x, weight, tail].map(|x| contiguous(x.clone(), DType::F32));
            Conv {
                x,
                weight,
                tail,
                channels,
                dtype,
            }
        };
        let convs: Vec<Conv> = parts.iter().map(conv).collect();
        let of = &inputs[0];
        let places = |each: usize| Places::new(of, convs.iter().map(|conv| each * conv.channels));
        Call {
            values: places(b * t),
            tails: places(b * (kernel - 1)),
            convs,
            b,
            t,
            kernel,
        }
    }

    fn of(&self) -> &CubeTensor {
        &self.convs[0].x
    }

    fn tokens(&self) -> TokensLaunch {
        TokensLaunch::new(self.b, self.t)
    }

    /// What lies at `places` of `buffer`, of `shape` for so many channels, in the formats of the inputs.
    fn apart(
        &self,
        buffer: &CubeTensor,
        places: &Places,
        shape: impl Fn(usize) -> [usize; 3],
    ) -> Vec<CubeTensor> {
        let shapes = self.convs.iter().map(|conv| shape(conv.channels));
        let parts = places.parts(buffer, shapes).into_iter().zip(&self.convs);
        parts.map(|(x, conv)| cast(x, conv.dtype)).collect()
    }
}

/// `silu(conv(x))` of every convolution, then their next tails.
pub(super) fn forward(inputs: Vec<CubeTensor>) -> Vec<CubeTensor> {
    let call = Call::new(inputs);
    let (b, t, before) = (call.b, call.t, call.kernel - 1);
    let [y, next] = [&call.values, &call.tails].map(|places| places.buffer(call.of()));
    for (from, convs, places) in launches(call.of(), &call.convs, [3, 2], |conv| {
        b * (t + before) * conv.channels
    }) {
        let sequence = convs.iter().enumerate().map(|(i, conv)| {
            let [x, weight, tail] = [&conv.x, &conv.weight, &conv.tail];
            let [x, weight, tail] = [x, weight, tail].map(|x| x.clone().into_buffer_arg());
            let [y, next] = [&call.values, &call.tails].map(|places| places.start[from + i]);
            let (first, channels) = (places.first[i], conv.channels);
            AheadLaunch::new(x, weight, tail, first, channels, y, next)
        });
        if !places.are_empty() {
            forward_units::launch(
                &call.of().client,
                places.cubes(),
                units(),
                sequence.collect(),
                y.clone().into_buffer_arg(),
                next.clone().into_buffer_arg(),
                call.tokens(),
                call.kernel,
                convs.len(),
            );
        }
    }
    let mut results = call.apart(&y, &call.values, |channels| [b, t, channels]);
    results.extend(call.apart(&next, &call.tails, |channels| [b, channels, before]));
    results
}

/// Gradients of inputs, taps and tail of every convolution, for those of the results, if any.
pub(super) fn backward(inputs: Vec<CubeTensor>, grads: Vec<CubeTensor>) -> Vec<CubeTensor> {
    let weight_types: Vec<DType> = inputs.iter().skip(1).step_by(3).map(|x| x.dtype).collect();
    let call = Call::new(inputs);
    let (b, t, kernel, before) = (call.b, call.t, call.kernel, call.kernel - 1);
    let n = call.convs.len();
    let grad = |i: usize, shape: [usize; 3]| {
        let there = !is_none(&grads[i], &Shape::from(shape));
        there.then(|| contiguous(grads[i].clone(), DType::F32))
    };
    let pieces = t.div_ceil(POSITIONS);
    let lens = call.convs.iter().map(|conv| conv.channels * kernel);
    let taps = Places::new(call.of(), lens);
    let [d_z, d_x] = [(); 2].map(|()| call.values.buffer(call.of()));
    let d_tail = call.tails.buffer(call.of());
    let partial = empty(call.of(), [b * pieces, taps.values], DType::F32);
    for (from, convs, places) in launches(call.of(), &call.convs, [4, 2], |conv| {
        b * pieces * conv.channels
    }) {
        let sequence = convs.iter().enumerate().map(|(i, conv)| {
            let channels = conv.channels;
            let d_y = grad(from + i, [b, t, channels]).unwrap_or_else(|| zeros(&conv.x));
            let tensors = [conv.x.clone(), conv.weight.clone(), conv.tail.clone(), d_y];
            let [x, weight, tail, d_y] = tensors.map(CubeTensor::into_buffer_arg);
            let [z, taps] = [&call.values, &taps].map(|places| places.start[from + i]);
            BackLaunch::new(x, weight, tail, d_y, places.first[i], channels, z, taps)
        });
        if !places.are_empty() {
            backward_taps::launch(
                &call.of().client,
                places.cubes(),
                units(),
                sequence.collect(),
                d_z.clone().into_buffer_arg(),
                partial.clone().into_buffer_arg(),
                call.tokens(),
                pieces,
                taps.values,
                kernel,
                convs.len(),
            );
        }
    }
    for (from, convs, places) in launches(call.of(), &call.convs, [2, 3], |conv| {
        b * (t + before) * conv.channels
    }) {
        let sequence = convs.iter().enumerate().map(|(i, conv)| {
            let d_next = grad(n + from + i, [b, conv.channels, before]);
            let has_next = usize::from(d_next.is_some());
            let d_next = d_next.unwrap_or_else(|| conv.tail.clone());
            let [weight, d_next] = [conv.weight.clone(), d_next].map(CubeTensor::into_buffer_arg);
            let (first, channels) = (places.first[i], conv.channels);
            let [z, tail] = [&call.values, &call.tails].map(|places| places.start[from + i]);
            ThroughLaunch::new(weight, d_next, has_next, first, channels, z, tail)
        });
        if !places.are_empty() {
            backward_inputs::launch(
                &call.of().client,
                places.cubes(),
                units(),
                sequence.collect(),
                d_z.clone().into_buffer_arg(),
                d_x.clone().into_buffer_arg(),
                d_tail.clone().into_buffer_arg(),
                call.tokens(),
                kernel,
                convs.len(),
            );
        }
    }
    let d_taps = row_sums(&partial, [b * pieces, taps.values, 0], [taps.values]);
    let d_x = call.apart(&d_x, &call.values, |channels| [b, t, channels]);
    let d_tail = call.apart(&d_tail, &call.tails, |channels| [b, channels, before]);
    let mut all = Vec::new();
    for (i, (d_x, d_tail)) in d_x.into_iter().zip(d_tail).enumerate() {
        let d_taps = taps.part(&d_taps, i, [call.convs[i].channels, kernel]);
        all.extend([d_x, cast(d_taps, weight_types[i]), d_tail]);
    }
    all
}
