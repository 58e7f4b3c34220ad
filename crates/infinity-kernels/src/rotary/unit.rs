//! The operator that makes rotated unit vectors.

use crate::feature_map::FeatureMap;

/// One or, on a GPU, two tensors of vectors, cosines and sines to rotated unit vectors.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unit {
    pub(super) map: FeatureMap,
    /// Pairs that are turned.
    pub(super) half: usize,
    /// What is added to the square of a length.
    pub(super) eps: f32,
}
