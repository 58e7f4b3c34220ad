//! What programs say about themselves: JSON objects, one a line, among lines for a reader.
//!
//! ```text
//! {"kind":"check","what":"fused","ok":true,"detail":"…"}
//! {"kind":"time","what":"fused","pass":"forward","tokens":8192,"states":1,"width":128,"ms":0.9}
//! {"kind":"missing","what":"FLA","why":"…"}         also with "tokens" and "pass": only there
//! {"kind":"setting","text":"torch 2.9 on …"}
//! ```
//!
//! A time counts if everything that was checked of its kind is right, and something was.

use std::fmt;

use anyhow::{Context, bail};
use serde_json::Value;

/// Sizes of a measurement, where it has some.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Size {
    pub(crate) tokens: u64,
    pub(crate) states: u64,
    pub(crate) width: u64,
}

/// Which measurement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key<'a> {
    pub(crate) what: &'a str,
    pub(crate) pass: &'a str,
    pub(crate) size: Option<Size>,
}

impl fmt::Display for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.what, self.pass)?;
        match self.size {
            Some(Size { tokens, .. }) => write!(f, ", T {tokens}"),
            None => Ok(()),
        }
    }
}

#[derive(Debug)]
struct Check {
    what: String,
    ok: bool,
    detail: String,
}

#[derive(Debug)]
struct Time {
    what: String,
    pass: String,
    size: Option<Size>,
    ms: f64,
}

#[derive(Debug)]
struct Missing {
    what: String,
    pass: Option<String>,
    tokens: Option<u64>,
    why: String,
}

/// A run of a test executable.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Tests {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    /// What the tests said that belongs into the table.
    pub(crate) figure: Option<String>,
}

/// Everything found so far.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    checks: Vec<Check>,
    times: Vec<Time>,
    missing: Vec<Missing>,
    tests: Vec<(String, Tests)>,
    pub(crate) settings: Vec<String>,
}

impl Findings {
    /// Takes a line of a program; what is no finding is left alone.
    pub(crate) fn read(&mut self, line: &str) -> anyhow::Result<()> {
        if !line.starts_with('{') {
            return Ok(());
        }
        let Ok(found) = serde_json::from_str::<Value>(line) else {
            return Ok(());
        };
        self.take(&found)
            .with_context(|| format!("cannot read the finding {line}"))
    }

    fn take(&mut self, found: &Value) -> anyhow::Result<()> {
        let text = |key: &str| found[key].as_str().map(str::to_owned);
        let needed = |key: &str| text(key).with_context(|| format!("no text `{key}`"));
        match found["kind"].as_str() {
            Some("check") => self.checks.push(Check {
                what: needed("what")?,
                ok: found["ok"].as_bool().context("no `ok`")?,
                detail: needed("detail")?,
            }),
            Some("time") => self.times.push(Time {
                what: needed("what")?,
                pass: needed("pass")?,
                size: size(found)?,
                ms: found["ms"].as_f64().context("no number `ms`")?,
            }),
            Some("missing") => self.missing.push(Missing {
                what: needed("what")?,
                pass: text("pass"),
                tokens: found["tokens"].as_u64(),
                why: needed("why")?,
            }),
            Some("setting") => self.settings.push(needed("text")?),
            Some(other) => bail!("unknown kind `{other}`"),
            None => bail!("no `kind`"),
        }
        Ok(())
    }

    /// Why there may be no times of `what`: a step that failed, or was not run. `tokens`: only of
    /// that length.
    pub(crate) fn explain(&mut self, what: &str, tokens: Option<u64>, why: &str) {
        self.missing.push(Missing {
            what: what.to_owned(),
            pass: None,
            tokens,
            why: why.to_owned(),
        });
    }

    pub(crate) fn tested(&mut self, what: &str, tests: Tests) {
        self.tests.push((what.to_owned(), tests));
    }

    /// The tests of that name, or why there are none.
    pub(crate) fn tests(&self, what: &str) -> Result<&Tests, String> {
        let found = self.tests.iter().find(|(name, _)| name == what);
        found
            .map(|(_, tests)| tests)
            .ok_or_else(|| self.why_missing(what, None, None))
    }

    /// The time of a measurement in ms, or why it does not count. Of two of the same the first counts.
    pub(crate) fn ms(&self, key: &Key) -> Result<f64, String> {
        let mut checks = self.checks.iter().filter(|check| check.what == key.what);
        if let Some(failed) = checks.clone().find(|check| !check.ok) {
            return Err(format!("{}: check failed: {}", key.what, failed.detail));
        }
        let is_it =
            |time: &&Time| time.what == key.what && time.pass == key.pass && time.size == key.size;
        let Some(time) = self.times.iter().find(is_it) else {
            let tokens = key.size.map(|size| size.tokens);
            return Err(self.why_missing(key.what, Some(key.pass), tokens));
        };
        if checks.next().is_none() {
            return Err(format!("{key} was timed but not checked"));
        }
        if !time.ms.is_finite() || time.ms <= 0.0 {
            return Err(format!("{key} took {} ms", time.ms));
        }
        Ok(time.ms)
    }

    /// The most precise reason there is.
    fn why_missing(&self, what: &str, pass: Option<&str>, tokens: Option<u64>) -> String {
        let fits = |missing: &&Missing| {
            missing.what == what
                && missing.pass.as_deref().is_none_or(|one| Some(one) == pass)
                && missing.tokens.is_none_or(|one| Some(one) == tokens)
        };
        let precision = |missing: &&Missing| {
            usize::from(missing.pass.is_some()) + usize::from(missing.tokens.is_some())
        };
        // Of several the first: what comes later follows from it.
        let reasons = self.missing.iter().rev().filter(fits);
        match reasons.max_by_key(precision) {
            Some(missing) => missing.why.clone(),
            None => format!("nothing was said about {what}"),
        }
    }
}

/// All three sizes, or none.
fn size(found: &Value) -> anyhow::Result<Option<Size>> {
    if found["tokens"].is_null() {
        return Ok(None);
    }
    let number = |key: &str| {
        let number = found[key].as_u64();
        number.with_context(|| format!("no whole number `{key}`"))
    };
    Ok(Some(Size {
        tokens: number("tokens")?,
        states: number("states")?,
        width: number("width")?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = Key {
        what: "FLA",
        pass: "forward",
        size: Some(Size {
            tokens: 8192,
            states: 1,
            width: 128,
        }),
    };
    const TIME: &str = r#"{"kind":"time","what":"FLA","pass":"forward","tokens":8192,"states":1,"width":128,"heads":32,"ms":0.5}"#;
    const RIGHT: &str = r#"{"kind":"check","what":"FLA","ok":true,"detail":"1e-3"}"#;
    const WRONG: &str = r#"{"kind":"check","what":"FLA","ok":false,"detail":"rms 0.3"}"#;

    fn read(lines: &[&str]) -> Findings {
        let mut found = Findings::default();
        lines.iter().for_each(|line| found.read(line).unwrap());
        found
    }

    #[test]
    fn a_checked_time_counts() {
        assert_eq!(read(&["  FLA 0.5 ms", RIGHT, TIME]).ms(&KEY), Ok(0.5));
    }

    #[test]
    fn a_time_that_was_not_checked_or_is_wrong_does_not() {
        let why = read(&[TIME]).ms(&KEY).unwrap_err();
        assert!(why.contains("not checked"), "{why}");
        let why = read(&[RIGHT, WRONG, TIME]).ms(&KEY).unwrap_err();
        assert!(why.contains("rms 0.3"), "{why}");
        let never = TIME.replace("0.5", "0");
        assert!(read(&[RIGHT, &never]).ms(&KEY).is_err());
    }

    #[test]
    fn the_most_precise_reason_is_given_and_of_those_the_first() {
        let mut found = read(&[RIGHT]);
        let why = found.ms(&KEY).unwrap_err();
        assert!(why.contains("nothing was said about FLA"), "{why}");
        found.explain("FLA", None, "Python finds no torch");
        found.explain("FLA", None, "ended with 1");
        found.explain("FLA", Some(16_384), "out of memory");
        assert_eq!(found.ms(&KEY).unwrap_err(), "Python finds no torch");
        found.explain("FLA", Some(8192), "out of memory");
        assert_eq!(found.ms(&KEY).unwrap_err(), "out of memory");
    }

    #[test]
    fn a_finding_with_a_hole_is_an_error_that_shows_it() {
        for line in [
            r#"{"kind":"time","what":"FLA","pass":"forward"}"#,
            r#"{"kind":"time","what":"FLA","pass":"forward","tokens":1,"ms":1.0}"#,
            r#"{"kind":"tmie"}"#,
            r#"{"what":"FLA"}"#,
        ] {
            let error = Findings::default().read(line).unwrap_err().to_string();
            assert!(error.contains(line), "{error}");
        }
        assert!(Findings::default().read("{ no JSON").is_ok());
    }
}
