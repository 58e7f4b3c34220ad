//! What the kernels on the CPU share: vector instructions, matrix products and memory.

pub(crate) mod bf16;
pub(crate) mod exp;
pub(crate) mod gemm;
pub(crate) mod product;
pub(crate) mod results;
pub(crate) mod rows;
pub(crate) mod simd;
pub(crate) mod tensors;
pub(crate) mod transpose;
