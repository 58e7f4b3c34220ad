//! What the kernels on the CPU share: vector instructions, matrix products, threads and memory.

#[cfg(feature = "flex")]
pub(crate) mod bf16;
#[cfg(feature = "flex")]
pub(crate) mod exp;
#[cfg(feature = "flex")]
pub(crate) mod gemm;
pub(crate) mod pool;
#[cfg(feature = "flex")]
pub(crate) mod product;
#[cfg(feature = "flex")]
pub(crate) mod results;
#[cfg(feature = "flex")]
pub(crate) mod rows;
#[cfg(feature = "flex")]
pub(crate) mod simd;
#[cfg(feature = "flex")]
pub(crate) mod tensors;
#[cfg(feature = "flex")]
pub(crate) mod transpose;
