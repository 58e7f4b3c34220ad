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
//! [`memory_scan`](mod@memory_scan) is the one that matters: linear attention with `S` decaying states. Its gates are
//! [`memory_gates`](mod@memory_gates). The other modules below are operators around it, [`muon`](mod@muon) and
//! [`adamw`](mod@adamw) learn, and [`accelerator`], [`replay`] and [`profile`] tell of devices. With the feature `testing` there
//! are `testing`, `machine` and `launches`: cases, tolerances and the one comparison that every test uses, and what this
//! machine can do at best, for benches.
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
#[cfg(feature = "flex")]
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
mod pool;
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

#[cfg(all(feature = "cube", feature = "testing"))]
pub use gpu::launches;
pub use memory_scan::{Form, FormError, MemoryScanInputs, MemoryScanOutput, memory_scan};
pub use pool::{each_in_pool, has_pool, in_pool};
