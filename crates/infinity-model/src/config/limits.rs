//! Checks of single values: the first that breaks its limits is an error that names key, value and limit.

use std::fmt::Display;

use crate::error::ConfigError;

/// A setting that may have limits.
pub(super) trait Number {
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

    /// `low ≤ value ≤ high`.
    pub(crate) fn range<T: PartialOrd + Display>(
        &self,
        name: &str,
        value: T,
        low: T,
        high: T,
    ) -> Result<(), ConfigError> {
        let wrong = if value < low {
            format!("is too small: it must be at least {low}")
        } else if value > high {
            format!("is too large: it must be at most {high}")
        } else {
            return Ok(());
        };
        Err(self.wrong(name, value, wrong))
    }

    /// A finite number with `low ≤ value ≤ high`.
    pub(crate) fn number(
        &self,
        name: &str,
        value: f64,
        low: f64,
        high: f64,
    ) -> Result<(), ConfigError> {
        match value.is_finite() {
            true => self.range(name, value, low, high),
            false => Err(self.wrong(name, value, "is not a finite number")),
        }
    }

    /// A finite number with `0 < value ≤ high`.
    pub(crate) fn positive(&self, name: &str, value: f64, high: f64) -> Result<(), ConfigError> {
        if value <= 0.0 {
            return Err(self.wrong(name, value, "is too small: it must be above 0"));
        }
        self.number(name, value, 0.0, high)
    }

    /// A finite number with `0 ≤ value < 1`.
    pub(crate) fn probability_below_one(&self, name: &str, value: f64) -> Result<(), ConfigError> {
        if value >= 1.0 {
            return Err(self.wrong(name, value, "is too large: it must be below 1"));
        }
        self.number(name, value, 0.0, 1.0)
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
