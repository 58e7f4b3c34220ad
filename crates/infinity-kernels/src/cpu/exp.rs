//! `exp` in lanes: without branches or calls, so that the loops around it become vector code.

use super::simd::multiply_add;

/// Below this the result is not a normal number; it becomes 0.
const LOWEST: f32 = -87.336_54;
/// Above this (2¹²⁷·√2) the result becomes infinite. Decays never get there: they are at most 1.
const HIGHEST: f32 = 88.376_26;
/// 1.5 · 2²³: adding it leaves the nearest integer in the lowest bits.
const ROUNDER: f32 = 12_582_912.0;
/// The first bits of ln 2, so that products with small integers are exact, and the rest of it.
const LN_2_HIGH: f32 = 0.693_359_4;
const LN_2_LOW: f32 = -2.121_944_4e-4;
/// `(exp(r) − 1 − r) / r²` on [−ln 2 / 2, ln 2 / 2] (Cephes, `expf`).
const POLYNOMIAL: [f32; 6] = [
    1.987_569_1e-4,
    1.398_2e-3,
    8.333_452e-3,
    4.166_579_6e-2,
    1.666_666_5e-1,
    0.5,
];

/// `exp(x)`, within 2 units in the last place; NaN stays NaN.
#[inline(always)]
pub(crate) fn exp<const FMA: bool>(x: f32) -> f32 {
    let shifted = x * std::f32::consts::LOG2_E + ROUNDER;
    let n = shifted - ROUNDER;
    let r = multiply_add::<FMA>(n, -LN_2_LOW, multiply_add::<FMA>(n, -LN_2_HIGH, x));
    let mut p = POLYNOMIAL[0];
    for coefficient in &POLYNOMIAL[1..] {
        p = multiply_add::<FMA>(p, r, *coefficient);
    }
    let mantissa = multiply_add::<FMA>(p, r * r, r) + 1.0;
    let power = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    let value = mantissa * power;
    let value = if x < LOWEST { 0.0 } else { value };
    if x > HIGHEST { f32::INFINITY } else { value }
}

/// `ln(1 + u)` for `u` in [0, 1], as `2 atanh(u / (2 + u))`: the series has lost everything below
/// f32 after eight terms.
#[inline(always)]
pub(crate) fn log1p_of_unit<const FMA: bool>(u: f32) -> f32 {
    let t = u / (2.0 + u);
    let square = t * t;
    let mut p = 1.0 / 15.0;
    for odd in [13.0, 11.0, 9.0, 7.0, 5.0, 3.0] {
        p = multiply_add::<FMA>(p, square, 1.0 / odd);
    }
    2.0 * multiply_add::<FMA>(p * square, t, t)
}

/// `1 − exp(y)` for `y ≤ 0`, with all its digits near 0.
#[inline(always)]
pub(crate) fn minus_expm1<const FMA: bool>(y: f32) -> f32 {
    let mut p = 1.0 / 40_320.0;
    for factorial in [5_040.0, 720.0, 120.0, 24.0, 6.0, 2.0, 1.0] {
        p = multiply_add::<FMA>(p, y, 1.0 / factorial);
    }
    let near = -p * y;
    let far = 1.0 - exp::<FMA>(y);
    if y > -0.5 { near } else { far }
}

#[cfg(test)]
mod tests {
    use super::{exp, log1p_of_unit, minus_expm1};
    use crate::cpu::simd::{Level, leveled};

    leveled!(
        fn exp_all<const FMA: bool, const ROWS: usize>(x: &mut [f32]) {
            x.iter_mut().for_each(|x| *x = exp::<FMA>(*x));
        }
    );

    #[test]
    fn exp_is_within_two_units_of_the_exact_value() {
        for level in Level::available() {
            let x: Vec<f32> = (0..400_000).map(|i| -87.3 + i as f32 * 4.39e-4).collect();
            let mut y = x.clone();
            exp_all(level, &mut y);
            let mut worst = 0f64;
            for (x, y) in x.iter().zip(&y) {
                let exact = (*x as f64).exp();
                let unit = (exact as f32).next_up() as f64 - (exact as f32) as f64;
                worst = worst.max((*y as f64 - exact).abs() / unit);
            }
            assert!(worst < 2.0, "{level:?}: {worst} units in the last place");
        }
    }

    #[test]
    fn logarithm_and_difference_keep_their_digits() {
        let close = |got: f32, want: f64, what: &str, x: f32| {
            let error = ((f64::from(got) - want) / want).abs();
            assert!(error < 3e-7, "{what}({x}) = {got}, not {want}");
        };
        for i in 0..200_000 {
            let u = (i as f32 + 1.0) / 200_000.0;
            close(log1p_of_unit::<true>(u), f64::from(u).ln_1p(), "log1p", u);
            let y = -8.0 * u;
            close(minus_expm1::<true>(y), -f64::from(y).exp_m1(), "1 - exp", y);
            let y = -1e-3 * u;
            close(minus_expm1::<true>(y), -f64::from(y).exp_m1(), "1 - exp", y);
        }
        assert_eq!(log1p_of_unit::<true>(0.0), 0.0);
        assert_eq!(minus_expm1::<true>(0.0), 0.0);
    }

    #[test]
    fn exp_of_the_extremes() {
        for level in Level::available() {
            let mut y = [
                f32::NEG_INFINITY,
                -1e30,
                -88.0,
                0.0,
                89.0,
                1e30,
                f32::INFINITY,
                f32::NAN,
            ];
            exp_all(level, &mut y);
            assert_eq!(
                y[..7],
                [
                    0.0,
                    0.0,
                    0.0,
                    1.0,
                    f32::INFINITY,
                    f32::INFINITY,
                    f32::INFINITY
                ]
            );
            assert!(y[7].is_nan());
        }
    }
}
