//! A memory in fewer bits: 8, 4, or bf16, with what the rounding is worth.
//!
//! The numbers of a state `[K, V]` are rotated along V by Hadamard matrices, in blocks of the largest
//! power of two that divides V, so that no number stands out of its row; then every 32 of them have
//! one scale in f16 and a whole number each. What comes back differs from what went in by δ, whose
//! norm a [`Compressed`] memory carries.
//!
//! [`Compression`] says when a model that reads a text *folds* its memory: every so many tokens a row
//! has read, the memory is replaced by what its compressed form gives back. Between folds it is exact.
//! Folding at the position alone makes the fold the same wherever the calls are cut. What that costs
//! is bounded by a [`Certificate`].

mod certificate;

use crate::config::{LayerType, ModelConfig, choice};
use crate::state::{LayerState, ModelState};
use burn::tensor::{DType, Device, Int, Tensor, TensorData, bf16, f16};
pub use certificate::{Certificate, Held, Sizes};
use serde::{Deserialize, Serialize};

/// Numbers with one scale.
const BLOCK: usize = 32;

/// Smallest scale: the smallest f16 of full precision. What is smaller than half of it becomes zero.
const SMALLEST_SCALE: f32 = 6.103_515_6e-5;

/// Largest scale that f16 has.
const LARGEST_SCALE: f32 = 65_504.0;

choice! {
    /// Bits of a number of a compressed memory.
    Width, key = "width",
    {
        /// Whole numbers from −7 to 7 and their scales: an eighth and a bit.
        Four = "4",
        /// Whole numbers from −127 to 127 and their scales: a quarter and a bit.
        Eight = "8",
        /// bf16, without rotation and scales: half.
        Bf16 = "bf16",
    }
}

impl Width {
    /// The width that `memory_compression_ratio` asks for.
    pub(crate) fn of_ratio(ratio: f64) -> Self {
        let fits = |width: &Width| ratio <= width.ratio();
        Self::ALL.iter().copied().find(fits).unwrap_or(Width::Bf16)
    }

    /// A `memory_compression_ratio` that asks for it, bits of a number, and the largest whole number if there
    /// are scales.
    fn row(self) -> (f64, usize, Option<f32>) {
        match self {
            Width::Four => (0.15, 4, Some(7.0)),
            Width::Eight => (0.3, 8, Some(127.0)),
            Width::Bf16 => (0.5, 16, None),
        }
    }

    /// A `memory_compression_ratio` that asks for it.
    pub fn ratio(self) -> f64 {
        self.row().0
    }

    /// Bytes of the codes of `numbers` numbers.
    pub(crate) fn code_bytes(self, numbers: usize) -> usize {
        (numbers * self.row().1).div_ceil(8)
    }

    /// Scales of `numbers` numbers.
    pub(crate) fn scales(self, numbers: usize) -> usize {
        self.row().2.map_or(0, |_| numbers.div_ceil(BLOCK))
    }
}

/// When a model folds its memory while it reads, and to what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compression {
    /// Bits of a number.
    pub width: Width,
    /// Tokens between two folds of a row, a multiple of 64.
    pub every: usize,
}

impl Compression {
    /// Tokens that rows at `position` read before the next of them folds: at least one.
    pub fn until_fold(self, position: &[u64]) -> usize {
        let every = self.every as u64;
        let left = position.iter().map(|read| every - read % every);
        left.min().unwrap_or(every) as usize
    }

    /// Which rows fold at `position`, after they have read a token.
    pub fn folds(self, position: &[u64]) -> Vec<bool> {
        let every = self.every as u64;
        position.iter().map(|read| read % every == 0).collect()
    }

    /// Reads `tokens` `[B, T]` by `piece`, which is called with what lies between two folds.
    pub(crate) fn between_folds(
        self,
        tokens: Tensor<2, Int>,
        mut state: ModelState,
        mut piece: impl FnMut(Tensor<2, Int>, ModelState) -> (Tensor<3>, ModelState),
    ) -> (Tensor<3>, ModelState) {
        let ([_, t], mut start, mut parts) = (tokens.dims(), 0, Vec::new());
        while start < t {
            let len = self.until_fold(&state.position).min(t - start);
            let (hidden, next) = piece(tokens.clone().narrow(1, start, len), state);
            (state, start) = (next, start + len);
            parts.push(hidden);
        }
        (Tensor::cat(parts, 1), state)
    }

    /// Folds the rows whose turn it is, after they have read a token. The rest of a layer's state, a
    /// window or convolutions' tails, stays.
    pub(crate) fn fold(self, mut state: ModelState) -> ModelState {
        let rows = self.folds(&state.position);
        if !rows.contains(&true) {
            return state;
        }
        for layer in &mut state.layers {
            if let LayerState::Infinity { memory, .. } = layer {
                *memory = fold_rows(memory.clone(), &rows, self.width);
            }
        }
        state
    }

    /// Bytes of the memory of a row of `config`, exact and compressed.
    pub fn memory_bytes(self, config: &ModelConfig) -> [usize; 2] {
        let of = config.linear_heads();
        let numbers = of.key_dim * of.value_dim;
        let states = config.num_layers_of(LayerType::Linear) * of.values * config.num_states();
        let width = self.width;
        let compressed = width.code_bytes(numbers) + 2 * width.scales(numbers);
        [4 * numbers * states, compressed * states]
    }
}

impl ModelConfig {
    /// When and how the memory is compressed; `None` if it is not.
    pub fn compression(&self) -> Option<Compression> {
        self.memory_compression.then(|| Compression {
            width: Width::of_ratio(self.memory_compression_ratio),
            every: self.memory_compression_frequency,
        })
    }

    /// The same model with its memory compressed so, or exact.
    pub fn with_compression(mut self, compression: Option<Compression>) -> Self {
        self.memory_compression = compression.is_some();
        if let Some(Compression { width, every }) = compression {
            self.memory_compression_ratio = width.ratio();
            self.memory_compression_frequency = every;
        }
        self
    }
}

/// The rows of `memory` `[B, H, S, K, V]` that are marked as their compressed form gives them back.
fn fold_rows(memory: Tensor<5>, rows: &[bool], width: Width) -> Tensor<5> {
    let device = memory.device();
    let row = |row: usize| {
        let memory = memory.clone().narrow(0, row, 1);
        match rows[row] {
            true => decompress(&compress(&memory, width), &device),
            false => memory,
        }
    };
    match rows {
        [true] => row(0),
        _ => Tensor::cat((0..rows.len()).map(row).collect(), 0),
    }
}

/// A memory in fewer bits, and how far it is from the one that it was made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Compressed {
    /// Sizes of the memory, `[B, H, S, K, V]`.
    pub shape: [usize; 5],
    /// Bits of a number.
    pub width: Width,
    /// The numbers of a row, then those of the next; two to a byte with 4 bits, the lower first.
    pub codes: Vec<u8>,
    /// One for every 32 numbers of a state `[K, V]`.
    pub scales: Vec<f16>,
    /// Frobenius norm of the difference to the memory, for every row and head `[B, H]`.
    pub rounding: Vec<f64>,
    /// Frobenius norm of the memory, for every row and head `[B, H]`.
    pub norm: Vec<f64>,
}

impl Compressed {
    /// Bytes of codes and scales.
    pub fn bytes(&self) -> usize {
        self.codes.len() + 2 * self.scales.len()
    }

    /// The error as a part of the memory, over all of it; 0 of an empty one.
    pub fn relative_error(&self) -> f64 {
        let sum = |norms: &[f64]| norms.iter().map(|norm| norm * norm).sum::<f64>();
        match sum(&self.norm) {
            0.0 => 0.0,
            norm => (sum(&self.rounding) / norm).sqrt(),
        }
    }
}

/// A memory `[B, H, S, K, V]` in `width` bits. What was decompressed compresses to the same codes.
///
/// ```
/// use infinity_model::burn::tensor::{Device, Distribution, Tensor};
/// use infinity_model::compression::{Width, compress, decompress};
///
/// let device = Device::flex();
/// let memory = Tensor::<5>::random([1, 2, 4, 16, 32], Distribution::Normal(0.0, 1.0), &device);
/// let small = compress(&memory, Width::Eight);
/// assert_eq!(small.bytes(), 4 * 4096 * 34 / 128);
/// assert!(small.relative_error() < 0.01);
/// let back = decompress(&small, &device);
/// assert_eq!(compress(&back, Width::Eight).codes, small.codes);
/// ```
pub fn compress(memory: &Tensor<5>, width: Width) -> Compressed {
    let shape @ [_, _, s, k, v] = memory.dims();
    let numbers = host(memory);
    let mut made = Compressed {
        shape,
        width,
        codes: Vec::with_capacity(width.code_bytes(numbers.len())),
        scales: Vec::with_capacity(width.scales(numbers.len())),
        rounding: Vec::new(),
        norm: Vec::new(),
    };
    let square = |x: f64| x * x;
    for head in numbers.chunks(s * k * v) {
        let (mut rounding, mut norm) = (0.0, 0.0);
        for state in head.chunks(k * v) {
            let (codes, scales) = (made.codes.len(), made.scales.len());
            made.encode(state, v);
            let (codes, scales) = (&made.codes[codes..], &made.scales[scales..]);
            let back = decode(width, codes, scales, k * v, v);
            for (own, back) in state.iter().zip(back) {
                rounding += square(f64::from(*own) - f64::from(back));
                norm += square(f64::from(*own));
            }
        }
        made.rounding.push(rounding.sqrt());
        made.norm.push(norm.sqrt());
    }
    made
}

/// The memory `[B, H, S, K, V]` that a compressed one gives back, on `device`.
pub fn decompress(compressed: &Compressed, device: &Device) -> Tensor<5> {
    let [_, _, _, k, v] = compressed.shape;
    let (size, width) = (k * v, compressed.width);
    let states: usize = compressed.shape[..3].iter().product();
    let (bytes, scales) = (width.code_bytes(size), width.scales(size));
    let numbers: Vec<f32> = (0..states)
        .flat_map(|i| {
            let codes = &compressed.codes[i * bytes..][..bytes];
            let scales = &compressed.scales[i * scales..][..scales];
            decode(width, codes, scales, size, v)
        })
        .collect();
    let data = TensorData::new(numbers, compressed.shape);
    Tensor::from_data(data, (device, DType::F32))
}

impl Compressed {
    /// Adds the codes and scales of a state `[K, V]`.
    fn encode(&mut self, state: &[f32], v: usize) {
        let (_, _, Some(largest)) = self.width.row() else {
            let halves = state.iter().map(|x| bf16::from_f32(*x).to_le_bytes());
            self.codes.extend(halves.flatten());
            return;
        };
        let mut rotated = state.to_vec();
        rotated.chunks_mut(v).for_each(rotate);
        let mut codes = Vec::with_capacity(rotated.len());
        for block in rotated.chunks(BLOCK) {
            let most = block.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
            let scale = f16::from_f32((most / largest).clamp(SMALLEST_SCALE, LARGEST_SCALE));
            self.scales.push(scale);
            let scale = scale.to_f32();
            // A number that is none becomes 0: whoever saves a state refuses it before.
            let code = |x: &f32| (x / scale).round_ties_even().clamp(-largest, largest) as i8;
            codes.extend(block.iter().map(code));
        }
        match self.width {
            Width::Four => self.codes.extend(codes.chunks(2).map(|pair| {
                let high = pair.get(1).copied().unwrap_or(0) as u8;
                (pair[0] as u8 & 15) | high << 4
            })),
            _ => self.codes.extend(codes.iter().map(|code| *code as u8)),
        }
    }
}

/// The `size` numbers of a state `[K, V]`.
fn decode(width: Width, codes: &[u8], scales: &[f16], size: usize, v: usize) -> Vec<f32> {
    let codes: Vec<i8> = match width {
        Width::Bf16 => {
            let pairs = codes.chunks_exact(2);
            return pairs
                .map(|pair| bf16::from_le_bytes([pair[0], pair[1]]).to_f32())
                .collect();
        }
        Width::Eight => codes.iter().map(|code| *code as i8).collect(),
        // The sign of four bits is that of the eight they are the upper half of.
        Width::Four => (codes.iter())
            .flat_map(|pair| [(pair << 4) as i8 >> 4, *pair as i8 >> 4])
            .take(size)
            .collect(),
    };
    let mut numbers = Vec::with_capacity(size);
    for (block, scale) in codes.chunks(BLOCK).zip(scales) {
        let scale = scale.to_f32();
        numbers.extend(block.iter().map(|code| f32::from(*code) * scale));
    }
    numbers.chunks_mut(v).for_each(rotate);
    numbers
}

/// Rotates a row by Hadamard matrices of the largest power of two that divides its length; twice is
/// the row again.
fn rotate(row: &mut [f32]) {
    let size = 1 << row.len().trailing_zeros();
    let scale = (size as f32).sqrt().recip();
    for block in row.chunks_mut(size) {
        let mut half = 1;
        while half < size {
            for pair in block.chunks_mut(2 * half) {
                let (low, high) = pair.split_at_mut(half);
                for (a, b) in low.iter_mut().zip(high) {
                    (*a, *b) = (*a + *b, *a - *b);
                }
            }
            half *= 2;
        }
        block.iter_mut().for_each(|x| *x *= scale);
    }
}

/// All numbers of a tensor.
fn host<const D: usize>(tensor: &Tensor<D>) -> Vec<f32> {
    tensor.to_data().iter::<f32>().collect()
}

#[cfg(test)]
mod tests;
