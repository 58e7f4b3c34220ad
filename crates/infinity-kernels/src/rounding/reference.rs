//! Ground truth for rounding to half: scalar `f64` by the definition of the formats, no Burn.

use super::half::Half;

/// `x` as `half` has it.
pub fn rounded(x: f64, half: Half) -> f64 {
    let (precision, smallest, largest) = match half {
        Half::Bf16 => (8, -126, (2.0 - 2f64.powi(-7)) * 2f64.powi(127)),
        Half::F16 => (11, -14, 65504.0),
    };
    if x == 0.0 || !x.is_finite() {
        return x;
    }
    let exponent = (x.abs().log2().floor() as i32).max(smallest);
    let quantum = 2f64.powi(exponent - precision + 1);
    let rounded = (x / quantum).round_ties_even() * quantum;
    if rounded.abs() > largest {
        return f64::INFINITY.copysign(x);
    }
    rounded
}
