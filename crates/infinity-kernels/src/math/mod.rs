//! Mathematics shared by the operators, one idea a file.

pub(crate) mod array;
pub(crate) mod chunks;
pub(crate) mod decay;
pub(crate) mod l2norm;
pub(crate) mod unit_lower;
