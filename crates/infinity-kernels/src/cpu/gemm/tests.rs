//! Products in blocks against three loops, and against each other.

use super::*;
use crate::testing::Random;

fn product([m, n, k]: [usize; 3], left: Left<'_>, data: Left<'_>) -> Vec<f32> {
    products([m, k], left, &[Columns { data, n }]).remove(0)
}

fn random(seed: u64, len: usize) -> Vec<f32> {
    let values = Random(seed).values(len, -1.0, 1.0);
    values.into_iter().map(|x| x as f32).collect()
}

/// Both ways to share the work, factors stored both ways, sizes that fill no block.
#[test]
fn products_match_three_loops() {
    for [m, n, k] in [
        [1, 1, 1],
        [9, 33, 5],
        [300, 40, 130],
        [150, 17, 150],
        [20, 130, 900],
        [700, 5, 500],
        [50, 70, 1_300],
        [400, 400, 900],
    ] {
        let (left, right) = (random(1, m * k), random(2, k * n));
        for stored in 0..4 {
            let left = match stored & 1 {
                0 => Left::rows(&left, k),
                _ => Left::transposed(&left, m),
            };
            let right = match stored & 2 {
                0 => Left::rows(&right, n),
                _ => Left::transposed(&right, k),
            };
            let got = product([m, n, k], left, right);
            for (at, got) in got.iter().enumerate() {
                let (i, j) = (at / n, at % n);
                let of = |p: usize| {
                    let left = left.data[i * left.row + p * left.col];
                    f64::from(left) * f64::from(right.data[p * right.row + j * right.col])
                };
                let want: f64 = (0..k).map(of).sum();
                let error = (f64::from(*got) - want).abs();
                assert!(error < 1e-4, "[{m}, {n}, {k}] {stored} [{i}, {j}]: {error}");
            }
        }
    }
}

#[test]
fn a_sum_of_products_is_the_sum() {
    let [m, n] = [70, 50];
    let of = |k: usize| (random(k as u64, m * k), random(k as u64 + 1, k * n));
    let factors = [130, 0, 300].map(|k| (k, of(k)));
    let terms = factors.each_ref().map(|(k, (left, right))| Term {
        left: Left::rows(left, *k),
        right: Left::transposed(right, *k),
        k: *k,
    });
    let got = sum_of_products([m, n], &terms);
    let each = terms.map(|Term { left, right, k }| product([m, n, k], left, right));
    for (at, got) in got.iter().enumerate() {
        let want: f32 = each.iter().map(|product| product[at]).sum();
        assert!((got - want).abs() < 1e-4, "{at}: {got} {want}");
    }
    let one = sum_of_products([m, n], &terms[..1]);
    assert!(
        got.iter()
            .zip(&one)
            .any(|(all, one)| (all - one).abs() > 0.1)
    );
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    for [m, n, k] in [[150, 70, 60], [60, 70, 900]] {
        let (left, right) = (random(3, m * k), random(4, k * n));
        let with = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            let run = || product([m, n, k], Left::rows(&left, k), Left::rows(&right, n));
            pool.expect("threads").install(run)
        };
        assert_eq!(with(1), with(5), "[{m}, {n}, {k}]");
    }
}

#[test]
fn sums_of_nothing_are_zeros() {
    let nothing = Left::rows(&[], 1);
    assert_eq!(product([2, 3, 0], nothing, nothing), [0.0; 6]);
    assert!(product([0, 3, 4], nothing, Left::rows(&[1.0; 12], 3)).is_empty());
}

/// Several right factors of one left: by rows, by sums, and of sizes that are shared differently.
#[test]
fn several_products_are_each() {
    for (m, k, widths) in [
        (150, 60, [70, 16, 5]),
        (60, 900, [70, 16, 5]),
        (60, 900, [70, 3_000, 5]),
        (100, 40, [7, 0, 33]),
    ] {
        let left = random(1, m * k);
        let stored = widths.map(|n| random(n as u64 + 2, k * n));
        let rights = [0, 1, 2].map(|i| Columns {
            data: Left::rows(&stored[i], widths[i].max(1)),
            n: widths[i],
        });
        let left = Left::rows(&left, k);
        let together = products([m, k], left, &rights);
        for (i, n) in widths.into_iter().enumerate() {
            let alone = product([m, n, k], left, rights[i].data);
            assert_eq!(together[i], alone, "[{m}, {n}, {k}]");
        }
        assert_ne!(together[0][..5], together[2][..5]);
    }
}
