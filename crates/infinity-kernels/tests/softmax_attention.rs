//! Softmax attention against its reference, with and without a cache.

use crate::devices::on_every_device;
use burn::tensor::{DType, Device};
use infinity_kernels::softmax_attention::{reference, softmax_attention};
use infinity_kernels::testing::{Random, Tol, assert_close, compare, tensor, values};

/// Worst RMS ratio on Flex, 2026-11-23: 9e-8.
const TOL: Tol = Tol {
    rms_ratio: 1e-6,
    worst_over_rms: 10.0,
    floor: 0.0,
};

fn matches_the_reference(device: &Device) {
    for [t, cached, k, v] in [[1, 0, 4, 4], [7, 0, 8, 5], [3, 6, 8, 8], [1, 9, 4, 4]] {
        let mut random = Random(4);
        let q = random.values(t * k, -2.0, 2.0);
        let keys = random.values((cached + t) * k, -2.0, 2.0);
        let vals = random.values((cached + t) * v, -1.0, 1.0);
        let expected = reference::forward([t, cached, k, v], &q, &keys, &vals);
        let actual = softmax_attention(
            tensor(&q, [1, t, 1, k], DType::F32, device),
            tensor(&keys, [1, cached + t, 1, k], DType::F32, device),
            tensor(&vals, [1, cached + t, 1, v], DType::F32, device),
            |weights| weights,
        );
        assert_close("softmax", "o", &values(actual), &expected, TOL);
    }
}

#[test]
fn a_peek_at_the_future_is_caught() {
    let (q, k, v) = (vec![1.0; 4], vec![1.0; 4], vec![1.0, 2.0, 3.0, 4.0]);
    let right = reference::forward([4, 0, 1, 1], &q, &k, &v);
    assert_eq!(right[0], 1.0);
    assert!(compare(&[2.5; 4], &right, TOL).is_err());
}

on_every_device!(matches_the_reference);
