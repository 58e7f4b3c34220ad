//! Routing by content against its reference; the reference's gradients against its slopes.

use crate::devices::{cases, on_every_device};
use burn::tensor::{DType, Device};
use infinity_kernels::memory_routing::{memory_routing, reference};
use infinity_kernels::testing::{Random, Tol, assert_close, compare, tensor, values};

const TOL: Tol = Tol {
    rms_ratio: 3e-6,
    worst_over_rms: 20.0,
    floor: 1e-9,
};
/// Central differences of 1e-6 in f64.
const SLOPES: Tol = Tol {
    rms_ratio: 1e-7,
    worst_over_rms: 20.0,
    floor: 1e-8,
};

/// `[B, T, H, S, K]`.
const SIZES: [[usize; 5]; 4] = [
    [1, 1, 1, 1, 4],
    [2, 3, 2, 4, 8],
    [1, 7, 3, 2, 5],
    [3, 2, 1, 6, 16],
];

struct Probe {
    x: Vec<f64>,
    weight: Vec<f64>,
    log_temperature: Vec<f64>,
    d: Vec<f64>,
}

impl Probe {
    fn new([b, t, h, s, k]: [usize; 5]) -> Self {
        let mut random = Random(6);
        let mut x = random.values(b * t * h * k, -1.0, 1.0);
        for x in x.chunks_mut(k) {
            let length = x.iter().map(|x| x * x).sum::<f64>().sqrt();
            x.iter_mut().for_each(|x| *x /= length);
        }
        Probe {
            x,
            weight: random.values(h * s * k, -1.0, 1.0),
            log_temperature: random.values(h, -2.3, 0.5),
            d: random.values(b * t * h * s, -1.0, 1.0),
        }
    }

    /// Vectors with their directions, temperatures and gradients, token by token and head by head.
    fn parts(&self, [b, t, h, s, k]: [usize; 5]) -> impl Iterator<Item = Part<'_>> {
        (0..b * t * h).map(move |i| Part {
            head: i % h,
            x: &self.x[i * k..][..k],
            weight: &self.weight[i % h * s * k..][..s * k],
            log_temperature: self.log_temperature[i % h],
            d: &self.d[i * s..][..s],
        })
    }
}

struct Part<'a> {
    head: usize,
    x: &'a [f64],
    weight: &'a [f64],
    log_temperature: f64,
    d: &'a [f64],
}

fn matches_the_reference(device: &Device) {
    for sizes in cases(device, SIZES, 2) {
        let [b, t, h, s, k] = sizes;
        let probe = Probe::new(sizes);
        let (mut expected, mut d_x) = (Vec::new(), Vec::new());
        let (mut d_weight, mut d_temperature) = (vec![0.0; h * s * k], vec![0.0; h]);
        for part in probe.parts(sizes) {
            let (x, weight, temperature) = (part.x, part.weight, part.log_temperature);
            expected.extend(reference::forward(x, weight, temperature));
            let grads = reference::backward(x, weight, temperature, part.d);
            d_x.extend(grads.0);
            let sums = &mut d_weight[part.head * s * k..][..s * k];
            sums.iter_mut().zip(grads.1).for_each(|(sum, d)| *sum += d);
            d_temperature[part.head] += grads.2;
        }
        let tol = TOL.of_products(device, 2);
        let device = device.clone().autodiff();
        let x = tensor(&probe.x, [b, t, h, k], DType::F32, &device).require_grad();
        let weight = tensor(&probe.weight, [h, s, k], DType::F32, &device).require_grad();
        let temperature = tensor(&probe.log_temperature, [h], DType::F32, &device).require_grad();
        let y = memory_routing(x.clone(), weight.clone(), temperature.clone());
        let d = tensor(&probe.d, [b, t, h, s], DType::F32, &device);
        let grads = (y.clone() * d).sum().backward();
        let name = format!("{sizes:?}");
        assert_close(&name, "weights", &values(y.inner()), &expected, tol);
        let found = [
            values(x.grad(&grads).expect("of x")),
            values(weight.grad(&grads).expect("of the directions")),
            values(temperature.grad(&grads).expect("of the temperature")),
        ];
        for (found, (part, expected)) in found.iter().zip([
            ("d_x", &d_x),
            ("d_weight", &d_weight),
            ("d_log_temperature", &d_temperature),
        ]) {
            let tol = Tol { floor: 1e-6, ..tol };
            assert_close(&name, part, found, expected, tol);
        }
    }
}

#[test]
fn gradients_by_hand_are_the_slopes() {
    for sizes in SIZES {
        let probe = Probe::new(sizes);
        let part = probe.parts(sizes).next().expect("one vector at least");
        let loss = |x: &[f64], weight: &[f64], temperature: f64| {
            let y = reference::forward(x, weight, temperature);
            y.iter().zip(part.d).map(|(y, d)| y * d).sum::<f64>()
        };
        let slope = |at: &dyn Fn(f64) -> f64| (at(1e-6) - at(-1e-6)) / 2e-6;
        let moved = |values: &[f64], i: usize, by: f64| {
            let mut values = values.to_vec();
            values[i] += by;
            values
        };
        let (x, weight, temperature) = (part.x, part.weight, part.log_temperature);
        let grads = reference::backward(x, weight, temperature, part.d);
        let of_x = (0..x.len())
            .map(|i| slope(&|by| loss(&moved(x, i, by), weight, temperature)))
            .collect::<Vec<_>>();
        let of_weight = (0..weight.len())
            .map(|i| slope(&|by| loss(x, &moved(weight, i, by), temperature)))
            .collect::<Vec<_>>();
        let of_temperature = slope(&|by| loss(x, weight, temperature + by));
        let name = format!("{sizes:?}");
        assert_close(&name, "x", &grads.0, &of_x, SLOPES);
        assert_close(&name, "weight", &grads.1, &of_weight, SLOPES);
        assert_close(&name, "temperature", &[grads.2], &[of_temperature], SLOPES);
    }
}

#[test]
fn a_forgotten_temperature_is_caught_and_weights_have_unit_length() {
    let probe = Probe::new(SIZES[1]);
    let part = probe.parts(SIZES[1]).next().expect("one vector at least");
    let right = reference::forward(part.x, part.weight, part.log_temperature);
    let wrong = reference::forward(part.x, part.weight, 0.0);
    assert!(compare(&wrong, &right, TOL).is_err());
    let length: f64 = right.iter().map(|y| y * y).sum();
    assert!((length - 1.0).abs() < 1e-12, "{length}");
}

on_every_device!(matches_the_reference);
