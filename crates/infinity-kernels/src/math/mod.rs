//! Mathematics shared by the operators, one idea a file.

pub(crate) mod array;
#[cfg(feature = "flex")]
pub(crate) mod blocked;
pub(crate) mod chunks;
pub(crate) mod decay;
#[cfg(feature = "flex")]
pub(crate) mod exp;
#[cfg(feature = "flex")]
pub(crate) mod flex_values;
pub(crate) mod l2norm;
#[cfg(feature = "flex")]
pub(crate) mod product;
#[cfg(feature = "flex")]
pub(crate) mod simd;
#[cfg(feature = "flex")]
pub(crate) mod transpose;
pub(crate) mod unit_lower;
#[cfg(feature = "flex")]
pub(crate) mod unwritten;
