//! Ground truth for the rotated unit vector: scalar `f64`, no Burn.

use crate::feature_map::FeatureMap;

/// Feature map of one value.
fn map(map: FeatureMap, x: f64) -> f64 {
    match map {
        FeatureMap::Identity => x,
        FeatureMap::Relu => x.max(0.0),
        FeatureMap::EluPlusOne if x > 0.0 => x + 1.0,
        FeatureMap::EluPlusOne => x.exp(),
    }
}

/// Its slope.
fn slope(map: FeatureMap, x: f64) -> f64 {
    match map {
        FeatureMap::Relu if x <= 0.0 => 0.0,
        FeatureMap::EluPlusOne if x <= 0.0 => x.exp(),
        _ => 1.0,
    }
}

/// One vector `x`, mapped, brought to unit length, its first `2 · angles.len()` values turned.
pub fn forward((rule, eps): (FeatureMap, f64), x: &[f64], angles: &[f64]) -> Vec<f64> {
    let mut y: Vec<f64> = x.iter().map(|x| map(rule, *x)).collect();
    let length = (y.iter().map(|y| y * y).sum::<f64>() + eps).sqrt();
    y.iter_mut().for_each(|y| *y /= length);
    turned(&y, angles, 1.0)
}

/// Pair `i` is values `i` and `i + angles.len()`.
fn turned(x: &[f64], angles: &[f64], direction: f64) -> Vec<f64> {
    let mut y = x.to_vec();
    let half = angles.len();
    for (i, angle) in angles.iter().enumerate() {
        let (sin, cos) = (angle * direction).sin_cos();
        y[i] = cos * x[i] - sin * x[i + half];
        y[i + half] = sin * x[i] + cos * x[i + half];
    }
    y
}

/// Gradient of `x`, given that of the result.
pub fn backward(
    (rule, eps): (FeatureMap, f64),
    x: &[f64],
    angles: &[f64],
    d_y: &[f64],
) -> Vec<f64> {
    let phi: Vec<f64> = x.iter().map(|x| map(rule, *x)).collect();
    let length = (phi.iter().map(|y| y * y).sum::<f64>() + eps).sqrt();
    let d_u = turned(d_y, angles, -1.0);
    let along: f64 = phi.iter().zip(&d_u).map(|(phi, d)| phi * d).sum();
    (0..x.len())
        .map(|i| (d_u[i] / length - phi[i] * along / length.powi(3)) * slope(rule, x[i]))
        .collect()
}
