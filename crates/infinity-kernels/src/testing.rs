//! The test kit: cases, seeded inputs, and the one comparison every test uses.

use crate::accelerator::multiplies_in_tf32;
use crate::memory_scan::MemoryScanInputs;
use crate::memory_scan::reference::{self, Dims, Values};
use burn::tensor::{DType, Device, Tensor, TensorData};

/// One size of `memory_scan` to test, with a name for the message.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Said when the case fails.
    pub name: &'static str,
    /// Sizes.
    pub dims: Dims,
    /// Delta or additive writes.
    pub delta: bool,
}

/// A small generator of its own, so that inputs are the same on every platform and version.
/// SplitMix64 (Steele et al. 2014).
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// Uniform in `[low, high)`.
    pub fn uniform(&mut self, low: f64, high: f64) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let unit = ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64;
        low + (high - low) * unit
    }

    /// `len` values uniform in `[low, high)`.
    pub fn values(&mut self, len: usize, low: f64, high: f64) -> Vec<f64> {
        (0..len).map(|_| self.uniform(low, high)).collect()
    }
}

/// Seeded inputs for a case, with a nonzero state, and weights that turn outputs into a scalar.
#[derive(Clone, Debug)]
pub struct Probe {
    /// What the inputs were made for.
    pub case: Case,
    /// Inputs.
    pub inputs: Values,
    /// Gradient of the outputs.
    pub d_o: Vec<f64>,
    /// Gradient of the final state.
    pub d_state: Vec<f64>,
    /// Where documents begin in every row; without any row, nowhere.
    pub borders: Vec<Vec<usize>>,
}

fn unit_rows(mut values: Vec<f64>, width: usize) -> Vec<f64> {
    for row in values.chunks_mut(width) {
        let norm = row.iter().map(|x| x * x).sum::<f64>().sqrt();
        row.iter_mut().for_each(|x| *x /= norm);
    }
    values
}

/// Inputs and state as leaves of a graph.
pub fn leaves(x: &MemoryScanInputs, state: &Tensor<5>) -> (MemoryScanInputs, Tensor<5>) {
    let inputs = x.clone().map(|x| x.autodiff().require_grad());
    (inputs, state.clone().autodiff().require_grad())
}

/// All tensors of `x`, in the order of [`Values::named`].
pub fn tensors(x: &MemoryScanInputs) -> impl Iterator<Item = &Tensor<4>> {
    let always = [&x.q, &x.k, &x.v, &x.log_decay, &x.read, &x.write];
    always.into_iter().chain(&x.erase)
}

impl Probe {
    /// Inputs and initial state `[B, H, S, K, V]` on `device`: queries, keys and values in `rows`, gates
    /// and state in `rest`. Additive ones have no `erase`.
    pub fn tensors(
        &self,
        [rows, rest]: [DType; 2],
        device: &Device,
    ) -> (MemoryScanInputs, Tensor<5>) {
        let Dims { b, t, h, s, k, v } = self.case.dims;
        let x = &self.inputs;
        let row = |x: &[f64], width| tensor(x, [b, t, h, width], rows, device);
        let gate = |x: &[f64]| tensor(x, [b, t, h, s], rest, device);
        let inputs = MemoryScanInputs {
            q: row(&x.q, k),
            k: row(&x.k, k),
            v: row(&x.v, v),
            log_decay: gate(&x.log_decay),
            read: gate(&x.read),
            write: gate(&x.write),
            erase: self.case.delta.then(|| gate(&x.erase)),
        };
        let state = tensor(&x.state, [b, h, s, k, v], rest, device);
        (inputs, state)
    }

    /// Inputs as a layer makes them: unit keys, `‖a‖ = 1`, decays from almost none to strong.
    pub fn seeded(case: Case, seed: u64) -> Self {
        let Dims { b, t, h, s, k, v } = case.dims;
        let mut random = Random(seed);
        let tokens = b * t * h;
        let allocation = unit_rows(random.values(tokens * s, 0.05, 1.0), s);
        let beta = random.values(tokens, 0.0, 1.0);
        let write = allocation.iter().enumerate();
        let write = write.map(|(i, a)| a * beta[i / s]).collect();
        let inputs = Values {
            q: unit_rows(random.values(tokens * k, -1.0, 1.0), k),
            k: unit_rows(random.values(tokens * k, -1.0, 1.0), k),
            v: random.values(tokens * v, -1.0, 1.0),
            log_decay: random
                .values(tokens * s, -3.0, 0.3)
                .iter()
                .map(|g| -g.exp())
                .collect(),
            read: random.values(tokens * s, 0.0, 2.0),
            write,
            erase: if case.delta {
                allocation
            } else {
                vec![0.0; tokens * s]
            },
            state: random.values(b * h * s * k * v, -1.0, 1.0),
        };
        let d_o = random.values(tokens * v, -1.0, 1.0);
        let d_state = random.values(b * h * s * k * v, -1.0, 1.0);
        Probe {
            case,
            inputs,
            d_o,
            d_state,
            borders: Vec::new(),
        }
    }

    /// Outputs and final state by the reference.
    pub fn reference(&self) -> reference::Output {
        reference::forward_packed(self.case.dims, &self.inputs, &self.borders)
    }

    /// Gradients by the reference.
    pub fn reference_grads(&self) -> Values {
        let (dims, x, borders) = (self.case.dims, &self.inputs, &self.borders);
        reference::backward_packed(dims, x, borders, &self.d_o, &self.d_state)
    }

    /// The same probe with every decay switched off: a wrong answer on purpose.
    pub fn without_decay(&self) -> Self {
        let mut probe = self.clone();
        probe.inputs.log_decay.iter_mut().for_each(|g| *g = 0.0);
        probe
    }
}

/// A tensor of `dtype` from `f64` values.
pub fn tensor<const D: usize>(
    values: &[f64],
    dims: [usize; D],
    dtype: DType,
    device: &Device,
) -> Tensor<D> {
    let data = TensorData::new(values.to_vec(), dims).convert_dtype(dtype);
    Tensor::from_data(data, (device, dtype))
}

/// A tensor's values as `f64`.
pub fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    let data = tensor.into_data().convert::<f64>();
    data.try_to_vec().expect("converted to f64")
}

/// How far an answer may be off. Limits are at most ten times the error measured when they were
/// set, which stands beside each.
#[derive(Clone, Copy, Debug)]
pub struct Tol {
    /// Root mean square error over the root mean square of the expected values.
    pub rms_ratio: f64,
    /// Largest single error, in units of the allowed root mean square error.
    pub worst_over_rms: f64,
    /// Allowed root mean square error where the expected values are all but zero.
    pub floor: f64,
}

impl Tol {
    /// The same for an answer that went through `n` of Burn's products one after the other: a device that multiplies
    /// `f32` in TF32 is held to what TF32 can do. Seen on an H200: 5e-5 to 3e-3.
    pub fn of_products(self, device: &Device, n: u32) -> Self {
        match multiplies_in_tf32(device) {
            true => Tol {
                rms_ratio: self.rms_ratio.max(2e-3 * f64::from(n)),
                ..self
            },
            false => self,
        }
    }
}

fn rms(values: impl Iterator<Item = f64>, len: usize) -> f64 {
    (values.map(|x| x * x).sum::<f64>() / len.max(1) as f64).sqrt()
}

/// The error that was found; `Err` says what differs: length, a value that is not finite, or too large an error.
pub fn compare(actual: &[f64], expected: &[f64], tol: Tol) -> Result<f64, String> {
    let (n, len) = (actual.len(), expected.len());
    if n != len {
        return Err(format!("{n} values, not {len}"));
    }
    // Before any difference: NaN makes every `limit < error` false.
    let both = || actual.iter().zip(expected);
    if let Some(index) = both().position(|(a, e)| !a.is_finite() || !e.is_finite()) {
        return Err(format!("not finite at {index}"));
    }
    let scale = rms(expected.iter().copied(), len);
    let limit = tol.rms_ratio * scale + tol.floor;
    let error = rms(both().map(|(a, e)| a - e), len);
    let distances = both().map(|(a, e)| (a - e).abs()).enumerate();
    let (index, worst) = distances.fold((0, 0.0), |x, y| if y.1 > x.1 { y } else { x });
    // RMS alone can hide one wrong row in a long tensor.
    if limit < error || tol.worst_over_rms * limit < worst {
        return Err(format!(
            "rms error {error:.2e} (limit {limit:.2e}), worst {worst:.2e} at {index}"
        ));
    }
    Ok(error / scale.max(f64::MIN_POSITIVE))
}

/// [`compare`], with a panic that names the case and the tensor. Returns the error found.
#[track_caller]
pub fn assert_close(case: &str, name: &str, actual: &[f64], expected: &[f64], tol: Tol) -> f64 {
    compare(actual, expected, tol).unwrap_or_else(|wrong| panic!("{case}: {name}: {wrong}"))
}

/// Refuses what a bench would pass over without a word: every argument is one of `flags`, those that end in `=` with a value
/// after them. Errors name the argument and the flags there are.
pub fn check_flags(flags: &[&str]) -> Result<(), String> {
    // Cargo adds `--bench` to the arguments of every bench, and `cargo xtask bench` needs no `--` before them.
    let args = std::env::args().skip(1);
    check_arguments(flags, args.filter(|arg| arg != "--bench" && arg != "--"))
}

fn check_arguments(flags: &[&str], mut args: impl Iterator<Item = String>) -> Result<(), String> {
    while let Some(arg) = args.next() {
        if flags.contains(&arg.as_str()) {
            continue;
        }
        if !flags.contains(&format!("{arg}=").as_str()) {
            let known = flags.join(" ").replace('=', " VALUE");
            return Err(format!(
                "{arg}: not an argument of this bench, which takes {known}"
            ));
        }
        if args.next().is_none_or(|value| value.starts_with("--")) {
            return Err(format!("{arg} has no value"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_that_a_bench_does_not_know_are_refused() {
        let check = |args: &[&str]| {
            let args = args.iter().map(|arg| arg.to_string());
            check_arguments(&["--rows=", "--json"], args)
        };
        assert_eq!(check(&["--json", "--rows", "8"]), Ok(()));
        let error = check(&["--set", "model.kernel_type=relu"]).unwrap_err();
        assert!(
            error.contains("--set: not") && error.contains("--rows VALUE --json"),
            "{error}"
        );
        assert!(check(&["8"]).unwrap_err().contains("8: not"));
        for args in [&["--rows"][..], &["--rows", "--json"]] {
            assert_eq!(check(args).unwrap_err(), "--rows has no value");
        }
    }

    const TOL: Tol = Tol {
        rms_ratio: 1e-3,
        worst_over_rms: 10.0,
        floor: 0.0,
    };

    #[test]
    fn nan_is_never_close() {
        let found = compare(&[1.0, f64::NAN], &[1.0, f64::NAN], TOL);
        assert_eq!(found.unwrap_err(), "not finite at 1");
    }

    #[test]
    fn one_wrong_element_in_a_long_tensor_is_caught() {
        let expected = vec![1.0; 1_000_000];
        let mut actual = expected.clone();
        actual[77] += 0.1;
        let error = compare(&actual, &expected, TOL).unwrap_err();
        assert!(
            error.starts_with("rms error") && error.ends_with(" at 77"),
            "{error}"
        );
    }

    #[test]
    fn lengths_must_agree() {
        let error = compare(&[1.0], &[1.0, 1.0], TOL).unwrap_err();
        assert_eq!(error, "1 values, not 2");
    }
}
