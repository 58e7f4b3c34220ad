//! Kernel feature maps φ, and the unit length that follows them.
//!
//! | map | φ(x) | source |
//! |---|---|---|
//! | elu | elu(x) + 1 | Katharopoulos et al., arXiv:2006.16236 |
//! | relu | max(x, 0) | Kasai et al., arXiv:2103.13076 |
//! | learnable | elu(x W_h + b_h) + 1, one `K × K` matrix a head | Zhang et al., arXiv:2402.04347 |

use burn::tensor::{Tensor, activation, assert_shape};

/// What [`l2_normalize`] adds to the square of a length: vectors shorter than its root shrink to zero.
pub const L2_EPS: f64 = 1e-12;

/// The maps without parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FeatureMap {
    /// `x`.
    Identity,
    /// `elu(x) + 1`.
    EluPlusOne,
    /// `max(x, 0)`.
    Relu,
}

impl FeatureMap {
    /// φ(x).
    pub fn apply(self, x: Tensor<4>) -> Tensor<4> {
        match self {
            FeatureMap::Identity => x,
            FeatureMap::EluPlusOne => elu_plus_one(x),
            FeatureMap::Relu => relu(x),
        }
    }
}

/// `elu(x) + 1`, positive everywhere: `x + 1` above zero, `exp(x)` below.
pub fn elu_plus_one(x: Tensor<4>) -> Tensor<4> {
    activation::relu(x.clone()) + x.clamp_max(0.0).exp()
}

/// `max(x, 0)`.
pub fn relu(x: Tensor<4>) -> Tensor<4> {
    activation::relu(x)
}

/// `elu(x W_h + b_h) + 1` for `x` `[B, T, H, K]`, `weight` `[H, K, K]` and `bias` `[H, K]`.
///
/// # Panics
///
/// If two shapes do not agree.
#[track_caller]
pub fn learnable(x: Tensor<4>, weight: Tensor<3>, bias: Tensor<2>) -> Tensor<4> {
    let [b, t, h, k] = x.dims();
    assert_shape!(weight, [h, k, k]);
    assert_shape!(bias, [h, k]);
    let x = x
        .permute([2, 0, 1, 3])
        .reshape([h, b * t, k])
        .matmul(weight);
    let x = x.reshape([h, b, t, k]).permute([1, 2, 0, 3]);
    elu_plus_one(x + bias.reshape([1, 1, h, k]))
}

/// [`unit_length`] with [`L2_EPS`].
pub fn l2_normalize(x: Tensor<4>) -> Tensor<4> {
    unit_length(x, L2_EPS)
}

/// `x / sqrt(Σ x² + eps)` over the last dim of `[B, T, H, K]`.
pub fn unit_length(x: Tensor<4>, eps: f64) -> Tensor<4> {
    let norm = (x.clone().square().sum_dim(3) + eps).sqrt();
    x / norm
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    fn row(values: [f32; 4]) -> Tensor<4> {
        Tensor::<1>::from_floats(values, &Device::flex()).reshape([1, 1, 1, 4])
    }

    fn close(actual: Tensor<4>, expected: [f32; 4]) {
        let actual = actual.into_data().try_to_vec::<f32>().unwrap();
        for (a, e) in actual.iter().zip(expected) {
            assert!((a - e).abs() <= 1e-6, "{actual:?} is not {expected:?}");
        }
    }

    #[test]
    fn elu_plus_one_by_hand() {
        let e = (-1f32).exp();
        close(
            elu_plus_one(row([-1.0, 0.0, 0.5, 30.0])),
            [e, 1.0, 1.5, 31.0],
        );
    }

    #[test]
    fn relu_by_hand() {
        close(relu(row([-1.0, 0.0, 0.5, 2.0])), [0.0, 0.0, 0.5, 2.0]);
    }

    #[test]
    fn the_learnable_map_starts_as_elu_plus_one() {
        let device = Device::flex();
        let x = row([-1.0, 0.0, 0.5, 2.0]);
        let identity = Tensor::<2>::eye(4, &device).unsqueeze::<3>();
        let mapped = learnable(x.clone(), identity, Tensor::zeros([1, 4], &device));
        mapped
            .into_data()
            .assert_eq(&elu_plus_one(x).into_data(), true);
    }

    #[test]
    fn unit_length_and_the_zero_vector() {
        close(
            l2_normalize(row([3.0, 0.0, 0.0, 4.0])),
            [0.6, 0.0, 0.0, 0.8],
        );
        close(l2_normalize(row([0.0; 4])), [0.0; 4]);
    }

    #[test]
    fn the_gradient_at_the_zero_vector_is_finite() {
        let device = Device::flex().autodiff();
        let x = Tensor::<4>::zeros([1, 1, 1, 4], &device).require_grad();
        let grads = l2_normalize(x.clone()).sum().backward();
        let grad = x
            .grad(&grads)
            .unwrap()
            .into_data()
            .try_to_vec::<f32>()
            .unwrap();
        assert!(grad.iter().all(|g| g.is_finite()), "{grad:?}");
    }
}
