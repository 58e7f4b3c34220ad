//! The learning rate as a pure function of the step.
//!
//! ```text
//! warm-up     peak · (step + 1) / warmup              for step < warmup
//! linear      peak · max(min, 1 − x)                  x = part of the rest that is done
//! cosine      peak · (min + (1 − min) · (1 + cos πx) / 2)
//! wsd         peak until the last `decay_ratio`, then straight down to `min`
//! constant    peak
//! ```
//!
//! Burn's own cosine rises again after its end and its linear decay wants rates in (0, 1].

use crate::config::{LrSchedulerConfig, LrSchedulerType};
use std::f64::consts::PI;

/// One learning rate over a run.
#[derive(Clone, Debug)]
pub struct Schedule {
    config: LrSchedulerConfig,
    peak: f64,
    total_steps: u64,
}

impl Schedule {
    /// `peak` is the largest rate; `total_steps` the length of the run in optimizer steps.
    pub fn new(config: &LrSchedulerConfig, peak: f64, total_steps: u64) -> Self {
        Schedule {
            config: config.clone(),
            peak,
            total_steps,
        }
    }

    /// The same with another largest rate.
    pub(super) fn with_peak(&self, peak: f64) -> Self {
        Schedule {
            peak,
            ..self.clone()
        }
    }

    /// The rate of step `step`, counted from 0.
    pub fn at(&self, step: u64) -> f64 {
        let warmup = match self.config.kind {
            LrSchedulerType::Constant => 0,
            _ => self.config.warmup_steps,
        };
        if step < warmup {
            return self.peak * (step + 1) as f64 / warmup as f64;
        }
        let rest = self.total_steps.saturating_sub(warmup).max(1) as f64;
        let done = ((step - warmup) as f64 / rest).min(1.0);
        let min = self.config.min_lr_ratio;
        let factor = match self.config.kind {
            LrSchedulerType::Linear => min + (1.0 - min) * (1.0 - done),
            LrSchedulerType::Cosine => min + (1.0 - min) * 0.5 * (1.0 + (PI * done).cos()),
            LrSchedulerType::Wsd => {
                let falling = self.config.decay_ratio * self.total_steps as f64;
                let left = self.total_steps.saturating_sub(step) as f64;
                let part = match falling > 0.0 {
                    true => (left / falling).min(1.0),
                    false => 1.0,
                };
                min + (1.0 - min) * part
            }
            LrSchedulerType::Constant | LrSchedulerType::ConstantWithWarmup => 1.0,
        };
        self.peak * factor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(kind: LrSchedulerType) -> Schedule {
        let config = LrSchedulerConfig {
            kind,
            warmup_steps: 10,
            min_lr_ratio: 0.1,
            decay_ratio: 0.2,
        };
        Schedule::new(&config, 2.0, 110)
    }

    fn close(actual: f64, expected: f64) {
        assert!(
            (actual - expected).abs() < 1e-12,
            "{actual} is not {expected}"
        );
    }

    #[test]
    fn shapes_by_hand() {
        for kind in [
            LrSchedulerType::Linear,
            LrSchedulerType::Cosine,
            LrSchedulerType::Wsd,
        ] {
            let schedule = schedule(kind);
            close(schedule.at(0), 0.2);
            close(schedule.at(9), 2.0);
            close(schedule.at(10), 2.0);
            close(schedule.at(110), 0.2);
            close(schedule.at(10_000), 0.2);
        }
        close(schedule(LrSchedulerType::Linear).at(60), 0.2 + 1.8 * 0.5);
        close(schedule(LrSchedulerType::Cosine).at(60), 0.2 + 1.8 * 0.5);
        close(schedule(LrSchedulerType::Wsd).at(88), 2.0);
        close(schedule(LrSchedulerType::Wsd).at(99), 0.2 + 1.8 * 0.5);
        close(schedule(LrSchedulerType::Constant).at(0), 2.0);
        close(schedule(LrSchedulerType::ConstantWithWarmup).at(4), 1.0);
        close(schedule(LrSchedulerType::ConstantWithWarmup).at(109), 2.0);
    }
}
