//! Short convolution with SiLU on CubeCL runtimes: one launch forward; back one for what goes through
//! SiLU and for the taps, one for the inputs, and one that sums the taps' gradients.

use crate::gpu::sums::row_sums;
use crate::gpu::{cast, contiguous, cubes_of_units, element, empty, row_type, units};
use burn::backend::TensorMetadata;
use burn::tensor::DType;
use burn_cubecl::cubecl;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

/// Positions that a unit takes one after the other where gradients are summed over them.
const POSITIONS: usize = 32;

/// Sizes of `[B, T, channels]`.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
#[expand(derive(Clone, Copy))]
struct Sizes {
    b: usize,
    t: usize,
    channels: usize,
}

/// Input `at`, counted from the first of the tail.
#[cube]
fn input<F: Float>(
    x: &[F],
    tail: &[F],
    sizes: Sizes,
    batch: usize,
    at: usize,
    channel: usize,
    #[comptime] kernel: usize,
) -> f32 {
    let before = comptime!(kernel - 1);
    if at < before {
        f32::cast_from(tail[(batch * sizes.channels + channel) * before + at])
    } else {
        f32::cast_from(x[(batch * sizes.t + at - before) * sizes.channels + channel])
    }
}

/// `z_t`.
#[cube]
fn convolved<F: Float>(
    x: &[F],
    tail: &[F],
    weight: &[f32],
    sizes: Sizes,
    batch: usize,
    t: usize,
    channel: usize,
    #[comptime] kernel: usize,
) -> f32 {
    let mut z = 0.0f32;
    #[unroll]
    for j in 0..kernel {
        z += weight[channel * kernel + j]
            * input::<F>(x, tail, sizes, batch, t + j, channel, kernel);
    }
    z
}

/// A unit a value.
#[cube(launch)]
fn forward_units<F: Float>(
    x: &[F],
    weight: &[f32],
    tail: &[F],
    y: &mut [F],
    sizes: Sizes,
    #[comptime] kernel: usize,
    #[define(F)] _dtype: ElemType,
) {
    let at = ABSOLUTE_POS;
    if at < sizes.b * sizes.t * sizes.channels {
        let channel = at % sizes.channels;
        let t = at / sizes.channels % sizes.t;
        let batch = at / sizes.channels / sizes.t;
        let z = convolved::<F>(x, tail, weight, sizes, batch, t, channel, kernel);
        y[at] = F::cast_from(z / (1.0f32 + (0.0f32 - z).exp()));
    }
}

/// A unit a channel and [`POSITIONS`] positions: `d_z`, and their part of the taps' gradients,
/// `[B · pieces, channels, kernel]`.
#[cube(launch)]
#[allow(
    clippy::too_many_arguments,
    reason = "a kernel's arguments are its buffers"
)]
fn backward_taps<F: Float>(
    x: &[F],
    weight: &[f32],
    tail: &[F],
    d_y: &[F],
    d_z: &mut [f32],
    partial: &mut [f32],
    sizes: Sizes,
    pieces: usize,
    #[comptime] kernel: usize,
    #[define(F)] _dtype: ElemType,
) {
    let unit = ABSOLUTE_POS;
    if unit < sizes.b * pieces * sizes.channels {
        let channel = unit % sizes.channels;
        let piece = unit / sizes.channels % pieces;
        let batch = unit / sizes.channels / pieces;
        let mut taps = Array::<f32>::new(kernel);
        #[unroll]
        for j in 0..kernel {
            taps[j] = 0.0f32;
        }
        for i in 0..comptime!(POSITIONS as u32) {
            let t = piece * POSITIONS + i as usize;
            if t < sizes.t {
                let z = convolved::<F>(x, tail, weight, sizes, batch, t, channel, kernel);
                let sigma = 1.0f32 / (1.0f32 + (0.0f32 - z).exp());
                let at = (batch * sizes.t + t) * sizes.channels + channel;
                let d = f32::cast_from(d_y[at]) * sigma * (1.0f32 + z * (1.0f32 - sigma));
                d_z[at] = d;
                #[unroll]
                for j in 0..kernel {
                    taps[j] += d * input::<F>(x, tail, sizes, batch, t + j, channel, kernel);
                }
            }
        }
        #[unroll]
        for j in 0..kernel {
            partial[unit_taps(sizes, batch * pieces + piece, channel, kernel) + j] = taps[j];
        }
    }
}

/// Where the taps of a channel start in row `row` of the parts.
#[cube]
fn unit_taps(sizes: Sizes, row: usize, channel: usize, #[comptime] kernel: usize) -> usize {
    (row * sizes.channels + channel) * kernel
}

/// A unit an input, the tail's first.
#[cube(launch)]
fn backward_inputs<F: Float>(
    d_z: &[f32],
    weight: &[f32],
    d_x: &mut [F],
    d_tail: &mut [F],
    sizes: Sizes,
    #[comptime] kernel: usize,
    #[define(F)] _dtype: ElemType,
) {
    let before = comptime!(kernel - 1);
    let unit = ABSOLUTE_POS;
    let all = sizes.t + before;
    if unit < sizes.b * all * sizes.channels {
        let channel = unit % sizes.channels;
        let at = unit / sizes.channels % all;
        let batch = unit / sizes.channels / all;
        let mut d = 0.0f32;
        #[unroll]
        for j in 0..kernel {
            if at >= j {
                let t = at - j;
                if t < sizes.t {
                    d += weight[channel * kernel + j]
                        * d_z[(batch * sizes.t + t) * sizes.channels + channel];
                }
            }
        }
        if at < before {
            d_tail[(batch * sizes.channels + channel) * before + at] = F::cast_from(d);
        } else {
            d_x[(batch * sizes.t + at - before) * sizes.channels + channel] = F::cast_from(d);
        }
    }
}

/// Contiguous tensors of a call: inputs, taps, tail. The kernel has at least two taps.
struct Call {
    x: CubeTensor,
    weight: CubeTensor,
    tail: CubeTensor,
    dtype: DType,
    dims: [usize; 3],
    kernel: usize,
}

impl Call {
    fn new([x, weight, tail]: [CubeTensor; 3]) -> Self {
        let dtype = row_type(x.dtype);
        let [_, kernel] = weight.shape().dims::<2>();
        Call {
            dims: x.shape().dims(),
            x: contiguous(x, dtype),
            weight: contiguous(weight, DType::F32),
            tail: contiguous(tail, dtype),
            dtype,
            kernel,
        }
    }

    fn sizes(&self) -> SizesLaunch {
        let [b, t, channels] = self.dims;
        SizesLaunch::new(b, t, channels)
    }
}

/// `silu(conv(x))`.
pub(crate) fn forward(inputs: [CubeTensor; 3]) -> CubeTensor {
    let call = Call::new(inputs);
    let y = empty(&call.x, call.dims, call.dtype);
    let len = call.dims.iter().product();
    if len > 0 {
        forward_units::launch(
            &call.x.client,
            cubes_of_units(len),
            units(),
            call.x.clone().into_buffer_arg(),
            call.weight.clone().into_buffer_arg(),
            call.tail.clone().into_buffer_arg(),
            y.clone().into_buffer_arg(),
            call.sizes(),
            call.kernel,
            element(call.dtype),
        );
    }
    y
}

/// Gradients of inputs, taps and tail.
pub(crate) fn backward(inputs: [CubeTensor; 3], d_y: CubeTensor) -> [CubeTensor; 3] {
    let weight_type = inputs[1].dtype;
    let call = Call::new(inputs);
    let ([b, t, channels], kernel) = (call.dims, call.kernel);
    let d_y = contiguous(d_y, call.dtype);
    let pieces = t.div_ceil(POSITIONS);
    let d_z = empty(&call.x, call.dims, DType::F32);
    let partial = empty(&call.x, [b * pieces, channels, kernel], DType::F32);
    let d_x = empty(&call.x, call.dims, call.dtype);
    let d_tail = empty(&call.x, call.tail.shape(), call.dtype);
    if b * t * channels > 0 {
        backward_taps::launch(
            &call.x.client,
            cubes_of_units(b * pieces * channels),
            units(),
            call.x.clone().into_buffer_arg(),
            call.weight.clone().into_buffer_arg(),
            call.tail.clone().into_buffer_arg(),
            d_y.into_buffer_arg(),
            d_z.clone().into_buffer_arg(),
            partial.clone().into_buffer_arg(),
            call.sizes(),
            pieces,
            kernel,
            element(call.dtype),
        );
        backward_inputs::launch(
            &call.x.client,
            cubes_of_units(b * (t + kernel - 1) * channels),
            units(),
            d_z.into_buffer_arg(),
            call.weight.clone().into_buffer_arg(),
            d_x.clone().into_buffer_arg(),
            d_tail.clone().into_buffer_arg(),
            call.sizes(),
            kernel,
            element(call.dtype),
        );
    }
    let sizes = [b * pieces, channels * kernel, 0];
    let d_weight = row_sums(&partial, sizes, [channels, kernel]);
    [d_x, cast(d_weight, weight_type), d_tail]
}
