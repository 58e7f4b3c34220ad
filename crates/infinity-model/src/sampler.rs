//! The next token from the logits.
//!
//! In this order, which is that of Hugging Face's `generate`:
//! 1. penalties on tokens among the last `repeat_last_n`: repetition (a positive logit is divided,
//!    a negative one multiplied), then presence and frequency (subtracted);
//! 2. top-k: the k largest logits stay;
//! 3. temperature: logits are divided by it;
//! 4. top-p: the fewest most likely tokens that reach the probability stay, at least one;
//! 5. min-p: tokens with that part of the largest probability stay;
//! 6. one token is drawn from what is left.
//!
//! Without sampling, the largest logit after the penalties is taken. Equal logits are ordered by
//! id, so a seed always gives the same tokens. Everything runs on the host, in f64 after the
//! penalties.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde::{Deserialize, Serialize};

use crate::error::GenerateError;
use crate::generation_config::GenerationConfig;

/// Draws tokens, one after the other.
#[derive(Debug)]
pub struct Sampler {
    config: GenerationConfig,
    rng: StdRng,
    draws: Draws,
    /// The last `repeat_last_n` tokens, and how often each is among them.
    recent: VecDeque<u32>,
    counts: HashMap<u32, u32>,
}

/// Which random numbers were drawn: enough to go on with those that follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Draws {
    /// The seed.
    pub seed: u64,
    /// How many were drawn.
    pub count: u64,
}

/// A token that may be drawn, and its weight: a logit, later a probability up to a factor.
type Candidate = (u32, f64);

impl Sampler {
    /// A sampler for a valid configuration; `seed` decides every draw, whatever `config.seed` is.
    pub fn new(config: &GenerationConfig, seed: u64) -> Self {
        Self::after(config, Draws { seed, count: 0 })
    }

    /// A sampler that goes on after `draws`.
    pub fn after(config: &GenerationConfig, draws: Draws) -> Self {
        let mut rng = StdRng::seed_from_u64(draws.seed);
        for _ in 0..draws.count {
            let _: f64 = rng.random();
        }
        Self {
            config: config.clone(),
            rng,
            draws,
            recent: VecDeque::new(),
            counts: HashMap::new(),
        }
    }

    /// What was drawn so far.
    pub fn draws(&self) -> Draws {
        self.draws
    }

    /// Tells the sampler about a token of the prompt or of the new text, for the penalties.
    pub fn accept(&mut self, id: u32) {
        self.recent.push_back(id);
        *self.counts.entry(id).or_default() += 1;
        if self.recent.len() > self.config.repeat_last_n
            && let Some(oldest) = self.recent.pop_front()
            && let Entry::Occupied(mut count) = self.counts.entry(oldest)
        {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }

    /// Draws a token. The caller [`accept`](Self::accept)s it.
    ///
    /// # Errors
    /// [`GenerateError::BadLogit`] if a logit is NaN or +∞, [`GenerateError::NoCandidate`] if all
    /// are −∞ or there are none.
    pub fn sample(&mut self, logits: &[f32]) -> Result<u32, GenerateError> {
        let candidates = self.candidates(logits)?;
        let mut left = total(&candidates);
        self.draws.count += 1;
        left *= self.rng.random::<f64>();
        for (id, weight) in &candidates {
            left -= weight;
            if left < 0.0 {
                return Ok(*id);
            }
        }
        // Rounding can leave a hair after the last one.
        let last = candidates.last().ok_or(GenerateError::NoCandidate)?;
        Ok(last.0)
    }

    /// The tokens that could be drawn and their probabilities, the most likely first.
    ///
    /// # Errors
    /// As [`sample`](Self::sample).
    pub fn distribution(&self, logits: &[f32]) -> Result<Vec<(u32, f64)>, GenerateError> {
        let mut candidates = self.candidates(logits)?;
        candidates.sort_unstable_by(larger_first);
        let total = total(&candidates);
        candidates
            .iter_mut()
            .for_each(|(_, weight)| *weight /= total);
        Ok(candidates)
    }

    /// What is left after steps 1 to 5, with weights proportional to probability.
    fn candidates(&self, logits: &[f32]) -> Result<Vec<Candidate>, GenerateError> {
        let mut candidates = finite_candidates(logits)?;
        self.penalize(&mut candidates);
        candidates.retain(|(_, weight)| *weight > f64::NEG_INFINITY);
        if self.config.is_greedy() {
            let best = candidates.iter().copied().min_by(larger_first);
            let (id, _) = best.ok_or(GenerateError::NoCandidate)?;
            return Ok(vec![(id, 1.0)]);
        }
        keep_top_k(&mut candidates, self.config.top_k);
        to_probabilities(&mut candidates, self.config.temperature)?;
        keep_top_p(&mut candidates, self.config.top_p);
        candidates.retain(|(_, weight)| *weight >= self.config.min_p);
        Ok(candidates)
    }

    /// Candidates are still in the order of their ids here.
    fn penalize(&self, candidates: &mut [Candidate]) {
        let config = &self.config;
        for (&id, &count) in &self.counts {
            let Some((_, logit)) = candidates.get_mut(id as usize) else {
                continue;
            };
            match *logit > 0.0 {
                true => *logit /= config.repetition_penalty,
                false => *logit *= config.repetition_penalty,
            }
            *logit -= config.presence_penalty + f64::from(count) * config.frequency_penalty;
        }
    }
}

/// The larger weight first; equal ones by id.
fn larger_first(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

fn total(candidates: &[Candidate]) -> f64 {
    candidates.iter().map(|(_, weight)| weight).sum()
}

fn finite_candidates(logits: &[f32]) -> Result<Vec<Candidate>, GenerateError> {
    let candidate = |(id, &value): (u32, &f32)| match value.is_nan() || value == f32::INFINITY {
        true => Err(GenerateError::BadLogit { id, value }),
        false => Ok((id, f64::from(value))),
    };
    (0..).zip(logits).map(candidate).collect()
}

fn keep_top_k(candidates: &mut Vec<Candidate>, k: usize) {
    if k == 0 || k >= candidates.len() {
        return;
    }
    candidates.select_nth_unstable_by(k - 1, larger_first);
    candidates.truncate(k);
    candidates.sort_unstable_by_key(|(id, _)| *id);
}

/// `exp((logit − largest) / temperature)`: the largest weight is exactly 1.
fn to_probabilities(candidates: &mut [Candidate], temperature: f64) -> Result<(), GenerateError> {
    let logits = candidates.iter().map(|(_, logit)| *logit);
    let largest = logits.max_by(f64::total_cmp);
    let largest = largest.ok_or(GenerateError::NoCandidate)?;
    for (_, weight) in candidates {
        *weight = ((*weight - largest) / temperature).exp();
    }
    Ok(())
}

fn keep_top_p(candidates: &mut Vec<Candidate>, top_p: f64) {
    if top_p >= 1.0 {
        return;
    }
    candidates.sort_unstable_by(larger_first);
    let (total, mut reached) = (total(candidates), 0.0);
    let enough = candidates.iter().position(|(_, weight)| {
        reached += weight;
        reached >= top_p * total
    });
    candidates.truncate(enough.map_or(candidates.len(), |last| last + 1));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything off: plain sampling.
    fn plain() -> GenerationConfig {
        GenerationConfig {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            ..GenerationConfig::default()
        }
    }

    fn distribution(config: &GenerationConfig, logits: &[f32], recent: &[u32]) -> Vec<(u32, f64)> {
        config.validate().unwrap();
        let mut sampler = Sampler::new(config, 0);
        recent.iter().for_each(|&id| sampler.accept(id));
        sampler.distribution(logits).unwrap()
    }

    #[track_caller]
    fn assert_distribution(actual: &[(u32, f64)], expected: &[(u32, f64)]) {
        let close = actual.len() == expected.len()
            && actual
                .iter()
                .zip(expected)
                .all(|(a, e)| a.0 == e.0 && (a.1 - e.1).abs() < 1e-6);
        assert!(close, "{actual:?} is not {expected:?}");
    }

    /// Probabilities 0.1, 0.4, 0.2, 0.3.
    fn logits() -> Vec<f32> {
        [0.1f32, 0.4, 0.2, 0.3].iter().map(|p| p.ln()).collect()
    }

    #[test]
    fn each_step_alone_by_hand() {
        let all = [(1, 0.4), (3, 0.3), (2, 0.2), (0, 0.1)];
        assert_distribution(&distribution(&plain(), &logits(), &[]), &all);

        let config = GenerationConfig {
            top_k: 2,
            ..plain()
        };
        assert_distribution(
            &distribution(&config, &logits(), &[]),
            &[(1, 4.0 / 7.0), (3, 3.0 / 7.0)],
        );

        let config = GenerationConfig {
            temperature: 0.5,
            ..plain()
        };
        let squares = [
            (1, 16.0 / 30.0),
            (3, 9.0 / 30.0),
            (2, 4.0 / 30.0),
            (0, 1.0 / 30.0),
        ];
        assert_distribution(&distribution(&config, &logits(), &[]), &squares);

        let config = GenerationConfig {
            top_p: 0.6,
            ..plain()
        };
        assert_distribution(
            &distribution(&config, &logits(), &[]),
            &[(1, 4.0 / 7.0), (3, 3.0 / 7.0)],
        );
        let config = GenerationConfig {
            top_p: 1e-9,
            ..plain()
        };
        assert_distribution(&distribution(&config, &logits(), &[]), &[(1, 1.0)]);

        let config = GenerationConfig {
            min_p: 0.49,
            ..plain()
        };
        let kept = [(1, 4.0 / 9.0), (3, 3.0 / 9.0), (2, 2.0 / 9.0)];
        assert_distribution(&distribution(&config, &logits(), &[]), &kept);
    }

    #[test]
    fn temperature_acts_before_top_p_and_min_p_and_after_top_k() {
        // Squared: 16/30, 9/30, 4/30, 1/30. Top-p 0.8 of these keeps two; of the others, three.
        let config = GenerationConfig {
            temperature: 0.5,
            top_p: 0.8,
            ..plain()
        };
        assert_distribution(
            &distribution(&config, &logits(), &[]),
            &[(1, 0.64), (3, 0.36)],
        );
        // 9/16 of the largest stays at 0.5, 4/16 does not; before the temperature 0.2/0.4 would.
        let config = GenerationConfig {
            temperature: 0.5,
            min_p: 0.5,
            ..plain()
        };
        assert_distribution(
            &distribution(&config, &logits(), &[]),
            &[(1, 0.64), (3, 0.36)],
        );
        // Top-p counts within the top-k: 0.4 of 0.7 is enough for 0.55.
        let config = GenerationConfig {
            top_k: 2,
            top_p: 0.55,
            ..plain()
        };
        assert_distribution(&distribution(&config, &logits(), &[]), &[(1, 1.0)]);
    }

    #[test]
    fn penalties_by_hand() {
        let config = GenerationConfig {
            repetition_penalty: 2.0,
            ..plain()
        }
        .greedy();
        let pick = |config: &GenerationConfig, logits: &[f32], recent: &[u32]| {
            distribution(config, logits, recent)[0].0
        };
        assert_eq!(pick(&config, &[3.0, 2.0, -1.0], &[]), 0);
        assert_eq!(pick(&config, &[3.0, 2.0, -1.0], &[0]), 1, "3 / 2 < 2");
        assert_eq!(pick(&config, &[-1.0, -1.5, -9.0], &[0]), 1, "−1 · 2 < −1.5");

        let config = GenerationConfig {
            frequency_penalty: 0.6,
            ..plain()
        }
        .greedy();
        assert_eq!(pick(&config, &[3.0, 2.0], &[0]), 0, "3 − 0.6 > 2");
        assert_eq!(pick(&config, &[3.0, 2.0], &[0, 0]), 1, "3 − 1.2 < 2");
        let config = GenerationConfig {
            presence_penalty: 0.6,
            ..plain()
        }
        .greedy();
        assert_eq!(
            pick(&config, &[3.0, 2.0], &[0, 0, 0]),
            0,
            "presence counts once"
        );

        // Ids beyond the logits (a larger prompt vocabulary) are no reason to panic.
        assert_eq!(pick(&config, &[3.0, 2.0], &[9]), 0);
    }

    #[test]
    fn penalties_forget_what_is_longer_ago() {
        let config = GenerationConfig {
            frequency_penalty: 5.0,
            repeat_last_n: 2,
            ..plain()
        }
        .greedy();
        let mut sampler = Sampler::new(&config, 0);
        [0, 0, 1].iter().for_each(|&id| sampler.accept(id));
        assert_eq!(sampler.counts, HashMap::from([(0, 1), (1, 1)]));
        sampler.accept(1);
        assert_eq!(
            sampler.sample(&[3.0, 2.0]).unwrap(),
            0,
            "0 is three tokens ago"
        );
        let config = GenerationConfig {
            repeat_last_n: 0,
            ..config
        };
        assert_eq!(distribution(&config, &[3.0, 2.0], &[0, 0])[0].0, 0);
    }

    #[test]
    fn greedy_takes_the_largest_and_the_first_of_equals() {
        let logits = [1.0, 5.0, 5.0, f32::NEG_INFINITY];
        for config in [
            plain().greedy(),
            GenerationConfig {
                temperature: 0.0,
                ..plain()
            },
        ] {
            assert_eq!(Sampler::new(&config, 7).sample(&logits).unwrap(), 1);
        }
        let config = GenerationConfig {
            top_k: 1,
            ..plain()
        };
        assert_distribution(&distribution(&config, &logits, &[]), &[(1, 1.0)]);
    }

    #[test]
    fn a_seed_gives_the_same_tokens_again() {
        let draw = |seed| -> Vec<u32> {
            let mut sampler = Sampler::new(&plain(), seed);
            (0..64)
                .map(|_| sampler.sample(&logits()).unwrap())
                .collect()
        };
        assert_eq!(draw(42), draw(42));
        assert_ne!(draw(42), draw(43));
        let mut first = Sampler::new(&plain(), 42);
        let mut drawn: Vec<u32> = (0..20).map(|_| first.sample(&logits()).unwrap()).collect();
        let mut second = Sampler::after(&plain(), first.draws());
        drawn.extend((20..64).map(|_| second.sample(&logits()).unwrap()));
        assert_eq!(drawn, draw(42), "as if it had not been interrupted");
    }

    #[test]
    fn frequencies_are_the_probabilities() {
        const DRAWS: usize = 40_000;
        let config = GenerationConfig {
            temperature: 0.7,
            top_k: 3,
            min_p: 0.1,
            ..plain()
        };
        let expected = distribution(&config, &logits(), &[]);
        let mut sampler = Sampler::new(&config, 1);
        let mut counts = [0usize; 4];
        for _ in 0..DRAWS {
            counts[sampler.sample(&logits()).unwrap() as usize] += 1;
        }
        assert_eq!(counts[0], 0, "top-k leaves the smallest out");
        for (id, probability) in expected {
            let frequency = counts[id as usize] as f64 / DRAWS as f64;
            // Five standard deviations of a frequency around its probability.
            let tolerance = 5.0 * (probability * (1.0 - probability) / DRAWS as f64).sqrt();
            assert!(
                (frequency - probability).abs() < tolerance,
                "{id}: {frequency}"
            );
            let wrong = probability + 0.05;
            assert!(
                (frequency - wrong).abs() > tolerance,
                "the test would see a wrong one"
            );
        }
    }

    #[test]
    fn logits_that_are_no_numbers_are_errors() {
        let mut sampler = Sampler::new(&plain(), 0);
        let error = sampler.sample(&[0.0, f32::NAN]).unwrap_err();
        assert!(
            matches!(error, GenerateError::BadLogit { id: 1, .. }),
            "{error}"
        );
        assert!(sampler.sample(&[f32::INFINITY]).is_err());
        assert!(matches!(
            sampler.sample(&[]),
            Err(GenerateError::NoCandidate)
        ));
        let error = sampler.sample(&[f32::NEG_INFINITY; 3]).unwrap_err();
        assert!(matches!(error, GenerateError::NoCandidate), "{error}");
        let mut greedy = Sampler::new(&plain().greedy(), 0);
        assert!(greedy.sample(&[f32::NAN, 1.0]).is_err());
    }
}
