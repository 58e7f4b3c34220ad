//! Weights of one model in another, as far as names and shapes are the same.

use super::plan::shortened;
use crate::model::InfinityModel;
use crate::parameters::weights;
use burn::store::{BurnToPyTorchAdapter, ModuleSnapshot, PyTorchToBurnAdapter};
use std::collections::BTreeMap;

/// What became of every tensor in [`InfinityModel::with_weights_of`], by its name in a weight file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fit {
    /// Those that both have in one shape: the other model's.
    pub taken: Vec<String>,
    /// The other model's that have no place, with their shapes where the shape is why.
    pub left_out: Vec<String>,
    /// This model's that the other one does not have: as they were.
    pub fresh: Vec<String>,
}

impl Fit {
    /// The first of `names`, and how many more there are.
    pub fn listed(names: &[String]) -> String {
        shortened(names)
    }
}

impl InfinityModel {
    /// This model with every weight of `other` that has the same name and shape, and what became of
    /// the rest. Devices and whether a weight learns stay this model's.
    pub fn with_weights_of(mut self, other: &InfinityModel) -> (Self, Fit) {
        let mut fit = Fit::default();
        let expected = weights(self.config()).into_iter();
        let mut expected: BTreeMap<String, Vec<usize>> =
            expected.map(|weight| (weight.name, weight.shape)).collect();
        let mut tensors = other.collect(None, Some(Box::new(BurnToPyTorchAdapter)), true);
        tensors.retain(|tensor| {
            let (name, found) = (tensor.name.clone(), tensor.shape.to_vec());
            match expected.get(&name) {
                Some(shape) if *shape == found => {
                    expected.remove(&name);
                    fit.taken.push(name);
                    return true;
                }
                Some(shape) => fit
                    .left_out
                    .push(format!("{name} {found:?} instead of {shape:?}")),
                None => fit.left_out.push(name),
            }
            false
        });
        fit.fresh = expected.into_keys().collect();
        let result = self.apply(tensors, None, Some(Box::new(PyTorchToBurnAdapter)), true);
        assert!(
            result.errors.is_empty() && result.unused.is_empty(),
            "names and shapes were compared: {result}"
        );
        (self, fit)
    }
}
