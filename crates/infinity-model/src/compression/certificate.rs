//! What compressing a memory costs, bounded while a text is read.
//!
//! Beside the memory that is folded, a *shadow* reads the same keys, values and gates and is never
//! folded. With delta writes under allocations of length 1, as with additive ones, a token moves two
//! memories apart by at most `e^{max_s g}` (`memory_scan/README.md`), so their distance is at most ε:
//!
//! ```text
//! a token   ε ← e^{max_s g} ε
//! a fold    ε ← ε + ‖δ‖
//! an output ‖Δo‖ ≤ ‖r‖ e^{c} ε    c the sum of max_s g since ε, q of unit length
//! ```
//!
//! To both, rounding in f32 adds a part `t · 2⁻²²` over t tokens. The bound is for a layer whose
//! inputs are equal; it says nothing across layers, whose inputs differ.
//!
//! It is loose, because it takes every error for the worst one. Beside it, a memory of rounding errors
//! with drawn signs reads the same keys without values: its size is what the distance is expected to
//! be if the errors of different numbers do not know each other.

use super::{Compressed, decompress, host};
use burn::tensor::{DType, Tensor, TensorData};
use infinity_kernels::{Form, MemoryScanInputs, memory_scan};

/// Relative rounding of f32 in a step of a token: sums in any order.
const ROUNDING: f64 = 1.0 / 4_194_304.0;

/// A bound on how far a folded memory is from one that never was, for one layer, and what is measured
/// beside it.
#[derive(Clone, Debug)]
pub struct Certificate {
    shadow: Tensor<5>,
    errors: Tensor<5>,
    /// Bound on the distance of every row and head `[B, H]`.
    bound: Vec<f64>,
    signs: u64,
    held: Held,
}

/// What a certificate has seen: sums over all rows, heads, and tokens or folds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Held {
    /// Comparisons of a measured distance with its bound, outputs and memories.
    pub checks: u64,
    /// Those in which the bound did not hold: a fault of the program.
    pub broken: u64,
    /// The largest distance as a part of its bound.
    pub closest: f64,
    /// Memories: the bound, the distance, and what was expected of it, at all folds.
    pub memory: Sizes,
    /// Outputs of all tokens.
    pub outputs: Sizes,
}

/// Root mean squares, kept as sums of squares: of what has an error, of the bound, the measured and the expected error.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sizes([f64; 4]);

impl Sizes {
    /// The bound as a part of what it bounds the error of.
    pub fn bound(&self) -> f64 {
        self.part(1)
    }

    /// The measured error as a part of what has it.
    pub fn measured(&self) -> f64 {
        self.part(2)
    }

    /// The expected error as a part of what has it.
    pub fn expected(&self) -> f64 {
        self.part(3)
    }

    fn add(&mut self, sizes: [f64; 4]) {
        for (sum, size) in self.0.iter_mut().zip(sizes) {
            *sum += size.powi(2);
        }
    }

    fn part(&self, which: usize) -> f64 {
        match self.0[0] {
            0.0 => 0.0,
            own => (self.0[which] / own).sqrt(),
        }
    }
}

impl Held {
    fn check(&mut self, measured: f64, bound: f64) {
        self.checks += 1;
        // What is no number holds nothing.
        if measured > bound || measured.is_nan() || bound.is_nan() {
            self.broken += 1;
        }
        if bound > 0.0 {
            self.closest = self.closest.max(measured / bound);
        }
    }
}

impl Certificate {
    /// Of a memory `[B, H, S, K, V]` that was not folded yet.
    pub fn new(memory: &Tensor<5>) -> Self {
        let [b, h, ..] = memory.dims();
        Certificate {
            shadow: memory.clone(),
            errors: memory.zeros_like(),
            bound: vec![0.0; b * h],
            signs: 0x9E37_79B9_7F4A_7C15,
            held: Held::default(),
        }
    }

    /// What has been seen so far.
    pub fn held(&self) -> Held {
        self.held
    }

    /// The bound on the distance of the memories of every row and head `[B, H]`, now.
    pub fn bound(&self) -> &[f64] {
        &self.bound
    }

    /// Takes what the folded `memory` reads until its next fold, and the memory `after`: checks every
    /// output and the memory against their bounds.
    pub fn read(&mut self, inputs: &MemoryScanInputs, memory: &Tensor<5>, after: &Tensor<5>) {
        let dims = inputs.dims();
        let form = Form::choose(dims.t, &memory.device());
        let scan = |inputs, memory| memory_scan(inputs, memory, form);
        let folded = scan(inputs.clone(), memory.clone());
        let exact = scan(inputs.clone(), self.shadow.clone());
        let no_values = MemoryScanInputs {
            v: inputs.v.zeros_like(),
            ..inputs.clone()
        };
        let expected = scan(no_values, self.errors.clone());
        let distance = folded.o.clone() - exact.o;
        let [own, distance, expected_o] =
            [folded.o, distance, expected.o].map(|o| norms(&o, dims.v));
        let read = norms(&inputs.read, dims.s);
        let decay = host(&inputs.log_decay);
        let before = norms(memory, dims.s * dims.k * dims.v);
        let reached = norms(after, dims.s * dims.k * dims.v);
        for row in 0..dims.b {
            for head in 0..dims.h {
                let at = row * dims.h + head;
                // A memory inside the piece is at most what came in and what was written: the larger
                // end with it is a size that the rounding of no token exceeds by much.
                let size = before[at].max(reached[at]);
                let (mut slow, mut bound) = (0.0_f64, self.bound[at]);
                for t in 0..dims.t {
                    let place = (row * dims.t + t) * dims.h + head;
                    let states = &decay[place * dims.s..][..dims.s];
                    let slowest = states.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                    slow += f64::from(slowest);
                    let rounding = (t + 1) as f64 * ROUNDING;
                    bound = slow.exp() * (1.0 + rounding) * self.bound[at] + rounding * size;
                    let bound = read[place] * bound;
                    self.held.check(distance[place], bound);
                    let (own, expected) = (own[place], expected_o[place]);
                    let sizes = [own, bound, distance[place], expected];
                    self.held.outputs.add(sizes);
                }
                self.bound[at] = bound;
            }
        }
        self.shadow = exact.state;
        self.errors = expected.state;
        self.compare(after);
    }

    /// Takes the fold of the memory that was read: what is `folded` of it now, whose error counts from
    /// here.
    pub fn fold(&mut self, before: &Tensor<5>, folded: &Compressed) {
        let (sizes, device) = (folded.shape, before.device());
        let back = decompress(folded, &device);
        for (bound, rounding) in self.bound.iter_mut().zip(&folded.rounding) {
            *bound += rounding;
        }
        let errors = host(&(back.clone() - before.clone()));
        let signed = errors.into_iter().map(|error| match self.sign() {
            true => error,
            false => -error,
        });
        let signed = TensorData::new(signed.collect::<Vec<f32>>(), sizes);
        self.errors = self.errors.clone() + Tensor::from_data(signed, (&device, DType::F32));
        let per_head = sizes[2..].iter().product();
        let distance = norms(&(back.clone() - self.shadow.clone()), per_head);
        let expected = norms(&self.errors, per_head);
        for (at, own) in folded.norm.iter().enumerate() {
            let sizes = [*own, self.bound[at], distance[at], expected[at]];
            self.held.memory.add(sizes);
        }
        self.compare(&back);
    }

    /// Checks the distance of the memories.
    fn compare(&mut self, memory: &Tensor<5>) {
        let per_head = memory.dims()[2..].iter().product();
        let distance = norms(&(memory.clone() - self.shadow.clone()), per_head);
        for (distance, bound) in distance.into_iter().zip(&self.bound) {
            self.held.check(distance, *bound);
        }
    }

    /// A drawn bit (Steele, Lea, Flood 2014: SplitMix64).
    fn sign(&mut self) -> bool {
        self.signs = self.signs.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.signs;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z >> 63 == 0
    }
}

/// The norm of every `size` numbers.
fn norms<const D: usize>(tensor: &Tensor<D>, size: usize) -> Vec<f64> {
    let numbers = host(tensor);
    let square = |x: &f32| f64::from(*x).powi(2);
    (numbers.chunks(size))
        .map(|part| part.iter().map(square).sum::<f64>().sqrt())
        .collect()
}
