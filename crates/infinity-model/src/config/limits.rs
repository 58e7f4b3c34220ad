//! Checks of single values: the first that breaks its limits is an error that names key, value and limit.

use std::fmt::Display;
use std::ops::Bound::{Excluded, Included};
use std::ops::RangeBounds;

use crate::error::ConfigError;

/// A setting that may have limits.
pub(crate) trait Number {
    /// The number, if one is given.
    fn number(&self) -> Option<f64>;
}

impl Number for usize {
    fn number(&self) -> Option<f64> {
        Some(*self as f64)
    }
}

impl Number for f64 {
    fn number(&self) -> Option<f64> {
        Some(*self)
    }
}

impl<T: Number> Number for Option<T> {
    fn number(&self) -> Option<f64> {
        self.as_ref().and_then(T::number)
    }
}

/// Checks of single values under one section's name.
pub(crate) struct Check(pub(crate) &'static str);

impl Check {
    pub(crate) fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.0)
    }

    /// What is said of a value of `name`.
    pub(crate) fn wrong(
        &self,
        name: &str,
        value: impl Display,
        wrong: impl Into<String>,
    ) -> ConfigError {
        ConfigError::value(self.key(name), value, wrong)
    }

    /// A value in `range`; a number that is not finite is in none.
    pub(crate) fn within<T: Number + PartialOrd + Display>(
        &self,
        name: &str,
        value: T,
        range: impl RangeBounds<T>,
    ) -> Result<(), ConfigError> {
        let finite = value.number().is_none_or(f64::is_finite);
        let wrong = match (range.start_bound(), range.end_bound()) {
            (Included(low), _) if value < *low => {
                format!("is too small: it must be at least {low}")
            }
            (Excluded(low), _) if value <= *low => format!("is too small: it must be above {low}"),
            (_, Included(high)) if value > *high => {
                format!("is too large: it must be at most {high}")
            }
            (_, Excluded(high)) if value >= *high => {
                format!("is too large: it must be below {high}")
            }
            // What no bound speaks of.
            _ if !finite => "is not a finite number".to_owned(),
            _ => return Ok(()),
        };
        Err(self.wrong(name, value, wrong))
    }

    /// A finite number with `0 < value ≤ high`.
    pub(crate) fn positive(&self, name: &str, value: f64, high: f64) -> Result<(), ConfigError> {
        self.within(name, value, (Excluded(0.0), Included(high)))
    }

    /// A size that is a multiple of that at the key `by`; to set `instead` removes the need.
    pub(super) fn divisible(
        &self,
        (name, value): (&str, usize),
        (by_key, by): (&str, usize),
        instead: &str,
    ) -> Result<(), ConfigError> {
        if value.is_multiple_of(by) {
            return Ok(());
        }
        let instead = self.key(instead);
        let wrong =
            format!("is not divisible by {by_key} = {by}; change one of them, or set {instead}");
        Err(self.wrong(name, value, wrong))
    }
}

pub(super) const CHECK: Check = Check("model");
