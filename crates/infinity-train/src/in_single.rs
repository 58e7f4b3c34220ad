//! An update rule that computes in f32, whatever the format of the parameters.

use burn::optim::{LearningRate, Optimizer};
use burn::tensor::{DType, Device, Tensor};

/// `O`, with parameters and gradients widened on the way in and the new parameters in their old
/// format. Moments are always f32: in bf16 a second moment with `beta2 = 0.999` never falls, and
/// Burn reads them back as f32. Parameters in f32 it leaves to `O` as they are.
#[derive(Clone)]
pub(crate) struct InSingle<O>(pub(crate) O);

impl<O: Optimizer> Optimizer for InSingle<O> {
    type State<const D: usize> = O::State<D>;

    fn step<const D: usize>(
        &self,
        lr: LearningRate,
        tensor: Tensor<D>,
        grad: Tensor<D>,
        state: Option<O::State<D>>,
    ) -> (Tensor<D>, Option<O::State<D>>) {
        let format = tensor.dtype();
        let (tensor, grad) = (tensor.cast(DType::F32), grad.cast(DType::F32));
        let (tensor, state) = self.0.step(lr, tensor, grad, state);
        (tensor.cast(format), state)
    }

    fn to_device<const D: usize>(state: O::State<D>, device: &Device) -> O::State<D> {
        O::to_device(state, device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::optim::AdamWConfig;

    fn values<const D: usize>(x: Tensor<D>) -> Vec<f32> {
        x.cast(DType::F32).into_data().try_to_vec().expect("f32")
    }

    #[test]
    fn moments_of_bf16_parameters_are_f32_and_f32_is_left_alone() {
        let device = Device::flex();
        let rule = AdamWConfig::new().build();
        let start = Tensor::<1>::from_floats([0.5, -0.25, 1.0], &device);
        let grad = Tensor::<1>::from_floats([0.1, 0.2, -0.3], &device);
        let (expected, _) = rule.step(0.1, start.clone(), grad.clone(), None);
        let (same, _) = InSingle(rule.clone()).step(0.1, start.clone(), grad.clone(), None);
        assert_eq!(values(same), values(expected.clone()));

        let half = |x: Tensor<1>| x.cast(DType::BF16);
        let (new, state) = InSingle(rule.clone()).step(0.1, half(start), half(grad), None);
        assert_eq!(new.dtype(), DType::BF16);
        let state = state.expect("moments");
        assert_eq!(state.momentum.moment_1.dtype(), DType::F32);
        for (new, expected) in values(new).into_iter().zip(values(expected)) {
            assert!((new - expected).abs() < 4e-3, "{new} {expected}");
        }
    }
}
