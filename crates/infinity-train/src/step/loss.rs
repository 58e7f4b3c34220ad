//! Cross-entropy over the vocabulary, some tokens at a time.
//!
//! The logits of a long batch are larger than everything else in a step together, so they never
//! exist at once: `chunk` tokens are projected, their loss and its gradient are taken, and the
//! logits are dropped. The gradient is written by hand ([`infinity_kernels::cross_entropy`]) and enters the autodiff
//! graph as a scalar of which it is the gradient.

use burn::tensor::Tensor;
use infinity_kernels::cross_entropy::{Targets, cross_entropy, given_gradients, with_gradient};
use infinity_kernels::has_pool;
use infinity_model::{Formats, InfinityModel};

/// What turns hidden vectors into losses: the output projection of a model.
pub(crate) struct Head {
    /// `[D, vocab_size]`.
    weight: Tensor<2>,
    /// Whether the weight gets a gradient.
    learns: bool,
    formats: Formats,
    /// Tokens at a time; 0 is all.
    chunk: usize,
}

/// A loss outside the autodiff graph and what stands for it inside.
pub(super) struct Loss {
    /// Sum of the losses over all targets that count, in nats.
    pub(super) sum: f64,
    /// Its gradient is `scale` times the gradient of the sum.
    pub(super) surrogate: Tensor<1>,
}

impl Head {
    /// That of `model`; `chunk` as in `training.loss_chunk`.
    pub(crate) fn of(model: &InfinityModel, chunk: usize) -> Self {
        Head {
            weight: model.output_weight(),
            learns: model.output_learns(),
            formats: model.formats(),
            chunk,
        }
    }

    /// Loss of `hidden` `[B, T, D]` (on an autodiff device) for `targets` of `B · T` tokens. Its
    /// matrix products are in the model's formats, the loss itself is in f32.
    pub(super) fn learn(self, hidden: Tensor<3>, targets: &[i32], scale: f64) -> Loss {
        let [b, t, width] = hidden.dims();
        let formats = self.formats;
        let (hidden, weight) = (formats.products(hidden), formats.products(self.weight));
        let n = b * t;
        let (h, w) = (
            hidden.clone().inner().reshape([n, width]),
            weight.clone().inner(),
        );
        let targets = Targets::new(targets, &h.device());
        let (mut sums, mut d_hidden) = (Vec::new(), Vec::new());
        let mut d_weight: Option<Tensor<2>> = None;
        for (start, len) in chunks(self.chunk, n) {
            let (h, targets) = (h.clone().narrow(0, start, len), targets.narrow(start, len));
            let logits = formats.matmul(h.clone(), w.clone());
            let (losses, d_logits) = with_gradient(logits, &targets, scale);
            sums.push(losses);
            let d_logits = formats.products(d_logits);
            d_hidden.push(formats.matmul(d_logits.clone(), w.clone().transpose()));
            if !self.learns {
                continue;
            }
            // In f32, or the chunks would not add up to what one chunk gives.
            let d_w = formats.matmul_to_single(h.transpose(), d_logits);
            d_weight = Some(match d_weight {
                Some(sum) => sum + d_w,
                None => d_w,
            });
        }
        let d_hidden = Tensor::cat(d_hidden, 0).reshape([b, t, width]);
        Loss {
            sum: total(sums),
            surrogate: match d_weight {
                Some(d) => {
                    given_gradients(hidden, weight.clone(), (d_hidden, d.cast(weight.dtype())))
                }
                None => (hidden * Tensor::from_inner(d_hidden)).sum(),
            },
        }
    }

    /// Sum of the losses in nats over all targets that count, without gradients.
    pub(super) fn sum(self, hidden: Tensor<3>, targets: &[i32]) -> f64 {
        total(self.chunks_of_losses(hidden, targets).collect())
    }

    /// The loss in nats of every one of `targets`, 0 where it is ignored, without gradients.
    pub(crate) fn losses(self, hidden: Tensor<3>, targets: &[i32]) -> Vec<f32> {
        self.chunks_of_losses(hidden, targets)
            .flat_map(|losses| losses.into_data().iter::<f32>().collect::<Vec<_>>())
            .collect()
    }

    /// Losses `[n]` of one chunk of tokens after another.
    fn chunks_of_losses(
        self,
        hidden: Tensor<3>,
        targets: &[i32],
    ) -> impl Iterator<Item = Tensor<1>> {
        let [b, t, width] = hidden.dims();
        let formats = self.formats;
        let hidden = formats.products(hidden.inner().reshape([b * t, width]));
        let targets = Targets::new(targets, &hidden.device());
        let weight = formats.products(self.weight.inner());
        chunks(self.chunk, b * t).map(move |(start, len)| {
            let hidden = hidden.clone().narrow(0, start, len);
            let targets = targets.narrow(start, len);
            cross_entropy(formats.matmul(hidden, weight.clone()), &targets)
        })
    }
}

/// Where chunks of `n` tokens begin, and their lengths.
fn chunks(chunk: usize, n: usize) -> impl Iterator<Item = (usize, usize)> {
    let step = if chunk == 0 { n } else { chunk.min(n) };
    let starts = (0..n).step_by(step);
    starts.map(move |start| (start, step.min(n - start)))
}

/// The sum over chunks, which a device is asked for once: to wait for each would leave it idle in between. What a
/// processor adds up itself, others leave to the host: they would tune sums of that length first.
fn total(mut losses: Vec<Tensor<1>>) -> f64 {
    if losses.iter().all(|losses| has_pool(&losses.device())) {
        losses = losses.into_iter().map(Tensor::sum).collect();
    }
    let sums = Tensor::cat(losses, 0).into_data();
    sums.iter::<f32>().map(f64::from).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::IGNORE_INDEX;
    use burn::tensor::DType;
    use burn::tensor::Device;
    use infinity_kernels::testing::{Random, Tol, assert_close, compare, tensor, values};
    use infinity_model::Precision;

    /// Worst RMS ratio on Flex, 2026-11-23: 2e-7.
    const TOL: Tol = Tol {
        rms_ratio: 2e-6,
        worst_over_rms: 20.0,
        floor: 1e-9,
    };
    const DIMS: [usize; 4] = [2, 5, 6, 9];

    /// `[d_hidden, d_weight]` and the sum by scalar `f64` loops.
    fn reference(
        hidden: &[f64],
        weight: &[f64],
        targets: &[i32],
        scale: f64,
    ) -> (f64, [Vec<f64>; 2]) {
        let [b, t, d, vocab] = DIMS;
        let (mut sum, mut d_hidden, mut d_weight) =
            (0.0, vec![0.0; b * t * d], vec![0.0; d * vocab]);
        for n in (0..b * t).filter(|n| targets[*n] != IGNORE_INDEX) {
            let logit = |v: usize| {
                (0..d)
                    .map(|i| hidden[n * d + i] * weight[i * vocab + v])
                    .sum::<f64>()
            };
            let logits: Vec<f64> = (0..vocab).map(logit).collect();
            let total: f64 = logits.iter().map(|x| x.exp()).sum();
            sum += total.ln() - logits[targets[n] as usize];
            for v in 0..vocab {
                let hit = f64::from(u8::from(v == targets[n] as usize));
                let d_logit = (logits[v].exp() / total - hit) * scale;
                for i in 0..d {
                    d_hidden[n * d + i] += d_logit * weight[i * vocab + v];
                    d_weight[i * vocab + v] += d_logit * hidden[n * d + i];
                }
            }
        }
        (sum, [d_hidden, d_weight])
    }

    #[test]
    fn loss_and_gradients_match_scalar_loops_for_every_chunk() {
        let [b, t, d, vocab] = DIMS;
        let mut random = Random(1);
        let (h, w) = (
            random.values(b * t * d, -1.0, 1.0),
            random.values(d * vocab, -1.0, 1.0),
        );
        let targets = [3, 0, 8, IGNORE_INDEX, 1, 1, 2, IGNORE_INDEX, 7, 5];
        let (sum, [d_h, d_w]) = reference(&h, &w, &targets, 0.25);
        let device = Device::flex().autodiff();
        let formats = Formats::new(Precision::F32, &device);
        for chunk in [0, 1, 3, 10, 99] {
            let hidden = tensor(&h, [b, t, d], DType::F32, &device).require_grad();
            let weight = tensor(&w, [d, vocab], DType::F32, &device).require_grad();
            let head = |learns| Head {
                weight: weight.clone(),
                learns,
                formats,
                chunk,
            };
            let loss = head(true).learn(hidden.clone(), &targets, 0.25);
            let frozen = head(false).learn(hidden.clone(), &targets, 0.25);
            let of_frozen = frozen.surrogate.backward();
            assert!(weight.grad(&of_frozen).is_none());
            let grads = loss.surrogate.backward();
            assert_close("loss", "sum", &[loss.sum], &[sum], TOL);
            let actual = values(hidden.grad(&grads).unwrap());
            assert_close("loss", "d_hidden", &actual, &d_h, TOL);
            assert_eq!(values(hidden.grad(&of_frozen).unwrap()), actual);
            let actual = values(weight.grad(&grads).unwrap());
            assert_close("loss", "d_weight", &actual, &d_w, TOL);
            let without = head(true).sum(hidden.clone(), &targets);
            assert_close("loss", "evaluation", &[without], &[sum], TOL);
            let each = head(true).losses(hidden, &targets);
            assert_eq!((each.len(), each[3], each[7]), (b * t, 0.0, 0.0));
            let added = each.iter().map(|loss| f64::from(*loss)).sum();
            assert_close("loss", "token by token", &[added], &[sum], TOL);
        }
        let counted = reference(&h, &w, &[3, 0, 8, 0, 1, 1, 2, 0, 7, 5], 0.25);
        assert!(
            compare(&[counted.0], &[sum], TOL).is_err(),
            "ignored targets must not count"
        );
    }
}
