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

    /// `low ≤ value ≤ high`.
    pub(crate) fn range<T: PartialOrd + Display>(
        &self,
        name: &str,
        value: T,
        low: T,
        high: T,
    ) -> Result<(), ConfigError> {
        if value < low {
            return Err(self.too_small(name, value, format!("at least {low}")));
        }
        if value > high {
            return Err(self.too_large(name, value, format!("at most {high}")));
        }
        Ok(())
    }

    /// A finite number with `low ≤ value ≤ high`.
    pub(crate) fn number(
        &self,
        name: &str,
        value: f64,
        low: f64,
        high: f64,
    ) -> Result<(), ConfigError> {
        self.finite(name, value)?;
        self.range(name, value, low, high)
    }

    /// A finite number with `low ≤ value ≤ high`, or none.
    pub(super) fn limits(
        &self,
        name: &str,
        value: &impl Number,
        low: f64,
        high: f64,
    ) -> Result<(), ConfigError> {
        let given = value.number();
        given.map_or(Ok(()), |value| self.number(name, value, low, high))
    }

    /// A finite number with `0 < value ≤ high`.
    pub(crate) fn positive(&self, name: &str, value: f64, high: f64) -> Result<(), ConfigError> {
        self.finite(name, value)?;
        if value <= 0.0 {
            return Err(self.too_small(name, value, "above 0".into()));
        }
        self.range(name, value, 0.0, high)
    }

    /// A finite number with `0 ≤ value < 1`.
    pub(crate) fn probability_below_one(&self, name: &str, value: f64) -> Result<(), ConfigError> {
        self.finite(name, value)?;
        if value >= 1.0 {
            return Err(self.too_large(name, value, "below 1".into()));
        }
        self.range(name, value, 0.0, 1.0)
    }

    fn finite(&self, name: &str, value: f64) -> Result<(), ConfigError> {
        if value.is_finite() {
            return Ok(());
        }
        Err(ConfigError::NotFinite {
            key: self.key(name),
            value: value.to_string(),
        })
    }

    fn too_small(&self, name: &str, value: impl Display, limit: String) -> ConfigError {
        ConfigError::TooSmall {
            key: self.key(name),
            value: value.to_string(),
            limit,
        }
    }

    pub(super) fn too_large(&self, name: &str, value: impl Display, limit: String) -> ConfigError {
        ConfigError::TooLarge {
            key: self.key(name),
            value: value.to_string(),
            limit,
        }
    }
}

pub(super) const CHECK: Check = Check("model");
