//! Sequence operators with linear cost, on Burn tensors.
//!
//! The operators know tensors and nothing else: no layers, no training, no files. Everything that
//! is judged has a scalar `f64` reference beside it that does not use Burn.
//!
//! # Dimension key
//!
//! One meaning each, here and in every crate above:
//!
//! | letter | meaning |
//! |---|---|
//! | `B` | batch |
//! | `T` | time (positions) |
//! | `H` | heads |
//! | `K` | key dim of one head |
//! | `V` | value dim of one head |
//! | `S` | states (timescales) per head |
//! | `N` | chunks |
//! | `C` | positions in a chunk |
//! | `D` | hidden size |
//!
//! Public boundaries use `[B, T, H, ·]`; a state is `[B, H, S, K, V]`.
//!
//! # Map
//!
//! - [`memory_scan`](mod@memory_scan): linear attention with `S` decaying states, delta or additive writes.
//! - [`memory_gates`](mod@memory_gates): decay, write, erase and read weights of that memory.
//! - [`memory_routing`](mod@memory_routing): states chosen by what a token says.
//! - [`short_conv`](mod@short_conv): causal depthwise convolution with a carried tail.
//! - [`borders`]: documents that stand in one row, and how operators that look back keep them apart.
//! - [`rotary`]: rotary positions, exact at any `u64` position.
//! - [`feature_map`]: kernel feature maps and l2 normalisation.
//! - [`rounding`](mod@rounding): values as a half format has them, for mixed precision.
//! - [`softmax_attention`](mod@softmax_attention): the quadratic baseline that claims are measured against.
//! - [`swiglu`](mod@swiglu): the gate of a feed-forward.
//! - [`linear`](mod@linear): a projection, with a way of its own for decoding.
//! - [`rms_norm`](mod@rms_norm): root-mean-square norm, alone and with an output gate.
//! - [`adamw`](mod@adamw): AdamW's update of parameters, in one pass.
//! - [`muon`](mod@muon): Muon's step of matrices; [`newton_schulz`](mod@newton_schulz): its orthogonalisation.
//! - [`square_sum`](mod@square_sum): the squares of all numbers of many tensors, added up.
//! - [`cross_entropy`](mod@cross_entropy): the loss of logits, and its gradient.
//! - [`embedding`](mod@embedding): vectors of tokens, and the gradient of their table.
//! - [`in_pool`], [`each_in_pool`]: whole steps among the threads that the CPU's kernels share.
//! - [`accelerator`]: a GPU's caches, what it compiles, what it can do.
//! - [`replay`]: work that a GPU records and repeats in one call.
//! - [`profile`]: the time of a step, operator by operator, for benches.
//! - `testing`, `machine` and `launches`, with the feature `testing`: cases, tolerances, the one comparison that every
//!   test uses, and what this machine can do at best, for benches.
//!
//! An operator's folder holds `mod.rs` (the public function: inputs, shapes, errors), `reference.rs` (scalar
//! `f64`, gradients by hand), `tensors.rs` (any device) and `cpu.rs` or `cpu/`, `gpu/` (native kernels).
//! `operator.rs` takes tensors to those kernels, and gradients back.

#![cfg_attr(
    feature = "ndarray",
    allow(
        deprecated,
        reason = "Burn's NdArray stays supported for those who have it"
    )
)]

pub mod accelerator;
pub mod adamw;
pub mod borders;
mod cpu;
pub mod cross_entropy;
pub mod embedding;
pub mod feature_map;
#[cfg(feature = "cube")]
mod gpu;
pub mod linear;
#[cfg(feature = "testing")]
pub mod machine;
pub mod memory_gates;
pub mod memory_routing;
pub mod memory_scan;
pub mod muon;
pub mod newton_schulz;
mod operator;
pub mod profile;
pub mod replay;
pub mod rms_norm;
pub mod rotary;
pub mod rounding;
pub mod short_conv;
pub mod softmax_attention;
pub mod square_sum;
pub mod swiglu;
#[cfg(feature = "testing")]
pub mod testing;

pub use cpu::pool::{each_in_pool, has_pool, in_pool};
#[cfg(all(feature = "cube", feature = "testing"))]
pub use gpu::launches;
pub use memory_scan::{Form, FormError, MemoryScanInputs, MemoryScanOutput, memory_scan};
