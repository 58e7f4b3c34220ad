//! Dynamic loss scaling: gradients that f16 can hold.
//!
//! f16 ends at 6e-8, and gradients of activations are smaller than that. The loss is multiplied by
//! a scale before the backward pass and the gradients of the parameters, which are f32, divided by
//! it after. The scale follows the rules of PyTorch's `GradScaler`: it doubles after
//! `growth_interval` good steps in a row; a step whose gradient overflows is left out and halves
//! it. Unlike there, it has a floor: what overflows without any scaling does not fit into f16.

use crate::config::{FLOOR, LossScaling};
use serde::{Deserialize, Serialize};

const GROWTH: f64 = 2.0;
const BACKOFF: f64 = 0.5;

/// The scale of the next step, and how it came to it: part of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LossScale {
    /// Factor on the loss: a power of two where the configured one is.
    pub scale: f64,
    /// Steps without overflow since it last changed.
    pub good_steps: u64,
}

/// An overflow at the lowest scale.
const NO_SCALE_LEFT: &str = "loss or gradient overflows f16 even without loss scaling: train in \
                             bf16-mixed or f32, or with a lower learning rate";

impl LossScale {
    /// The scale at the start of a run.
    pub fn new(config: &LossScaling) -> Self {
        LossScale {
            scale: config.initial,
            good_steps: 0,
        }
    }

    /// Notes whether a step was finite.
    ///
    /// # Errors
    /// Why the run ends if it was not and the scale is at its floor.
    pub fn update(&mut self, finite: bool, config: &LossScaling) -> Result<(), &'static str> {
        if !finite {
            if self.scale <= FLOOR {
                return Err(NO_SCALE_LEFT);
            }
            self.scale = (self.scale * BACKOFF).max(FLOOR);
            self.good_steps = 0;
            return Ok(());
        }
        self.good_steps += 1;
        if self.good_steps >= config.growth_interval {
            let grown = self.scale * GROWTH;
            // The factor is an f32 on the device.
            if (grown as f32).is_finite() {
                self.scale = grown;
            }
            self.good_steps = 0;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: LossScaling = LossScaling {
        initial: 65536.0,
        growth_interval: 3,
    };

    /// The scale after each of `steps`.
    fn scales(mut scale: LossScale, steps: &[bool]) -> Vec<f64> {
        let after = |finite: &bool| {
            scale.update(*finite, &CONFIG).unwrap();
            scale.scale
        };
        steps.iter().map(after).collect()
    }

    /// `_amp_update_scale_` of PyTorch 2: growth tracker, growth and back-off, in its order.
    fn pytorch(mut scale: f64, steps: &[bool]) -> Vec<f64> {
        let (mut tracker, mut scales) = (0, Vec::new());
        for finite in steps {
            if *finite {
                let successful = tracker + 1;
                if successful == CONFIG.growth_interval {
                    let new = (scale * 2.0) as f32;
                    if new.is_finite() {
                        scale = f64::from(new);
                    }
                    tracker = 0;
                } else {
                    tracker = successful;
                }
            } else {
                scale *= 0.5;
                tracker = 0;
            }
            scales.push(scale);
        }
        scales
    }

    #[test]
    fn an_overflow_halves_and_good_steps_in_a_row_double() {
        let good = true;
        let steps = [good, good, false, good, good, good, good, good, good];
        let k = 1024.0;
        let expected = [64.0, 64.0, 32.0, 32.0, 32.0, 64.0, 64.0, 64.0, 128.0].map(|x| x * k);
        assert_eq!(scales(LossScale::new(&CONFIG), &steps), expected);
    }

    #[test]
    fn above_the_floor_it_is_pytorchs_scale() {
        let mut random = 1u64;
        let steps: Vec<bool> = (0..2000)
            .map(|_| {
                random = random.wrapping_mul(6364136223846793005).wrapping_add(1);
                !(random >> 33).is_multiple_of(5)
            })
            .collect();
        let start = LossScale {
            scale: 2f64.powi(100),
            good_steps: 0,
        };
        let ours = scales(start, &steps);
        assert_eq!(ours, pytorch(start.scale, &steps));
        let mut other = steps.clone();
        other[1000] = !other[1000];
        assert_ne!(ours, pytorch(start.scale, &other));
    }

    #[test]
    fn it_neither_leaves_f32_nor_falls_through_the_floor() {
        let top = LossScale {
            scale: 2f64.powi(127),
            good_steps: 2,
        };
        assert_eq!(scales(top, &[true]), [2f64.powi(127)]);
        let mut low = LossScale {
            scale: 1.5,
            good_steps: 1,
        };
        assert_eq!(low.update(false, &CONFIG), Ok(()));
        assert_eq!(low.scale, FLOOR);
        assert_eq!(low.update(false, &CONFIG), Err(NO_SCALE_LEFT));
        assert_eq!(low.update(true, &CONFIG), Ok(()), "the floor itself works");
    }
}
