//! What has to be shown on a GPU: every criterion, its limit, and whether it is met.
//!
//! All in half precision where the device has it, one row of 32 heads, forward and forward with
//! backward, at 8,192 tokens and K = V = 128 unless the row says otherwise. flash-linear-attention's
//! gated delta rule at that size was published with 0.47 ms forward and 1.44 ms backward on an H200; what
//! counts here is what it takes on the same card in the same call.

use std::fmt;

use super::findings::{Findings, Key, Size};

/// Names as the benches and `peers.py` have them.
pub(crate) const FUSED: &str = "fused";
pub(crate) const TENSORS: &str = "chunkwise";
pub(crate) const BURN: &str = "Burn attention";
pub(crate) const TORCH: &str = "PyTorch attention";
pub(crate) const FLA: &str = "FLA";
pub(crate) const SINGLE: &str = "training f32";
pub(crate) const MIXED: &str = "training bf16-mixed";
/// Names of the two test runs.
pub(crate) const KERNELS: &str = "the kernels' tests on the device";
pub(crate) const LEARNING: &str = "a short training run has the CPU's losses";

const PASSES: [&str; 2] = ["forward", "forward + backward"];
/// Where linear time has to show, and where everything else is measured.
pub(crate) const LENGTHS: [u64; 4] = [4096, 8192, 16_384, 32_768];
pub(crate) const TOKENS: u64 = 8192;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Verdict {
    Met,
    NotMet,
    NotMeasured,
}

/// A line of the table.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) limit: String,
    pub(crate) verdict: Verdict,
    /// What was found, or why nothing was.
    pub(crate) figure: String,
}

/// What a ratio has to be.
#[derive(Clone, Copy, Debug)]
enum Limit {
    Above(f64),
    AtLeast(f64),
    AtMost(f64),
}

impl Limit {
    fn admits(self, ratio: f64) -> bool {
        match self {
            Limit::Above(limit) => ratio > limit,
            Limit::AtLeast(limit) => ratio >= limit,
            Limit::AtMost(limit) => ratio <= limit,
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Limit::Above(limit) => write!(f, "> {limit} x"),
            Limit::AtLeast(limit) => write!(f, ">= {limit} x"),
            Limit::AtMost(limit) => write!(f, "<= {limit} x"),
        }
    }
}

/// Every criterion, judged by what was found.
pub(crate) fn rows(found: &Findings) -> Vec<Row> {
    let wide = |tokens| size(tokens, 1, 128);
    let mut rows = vec![tests(found, KERNELS), tests(found, LEARNING)];
    for pass in PASSES {
        let name = format!("{pass}: faster than on tensors");
        let keys = [TENSORS, FUSED].map(|what| key(what, pass, wide(TOKENS)));
        rows.push(ratio(found, name, keys, Limit::AtLeast(5.0)));
    }
    for (peer, pass) in [BURN, TORCH]
        .map(|peer| PASSES.map(|pass| (peer, pass)))
        .concat()
    {
        for &tokens in lengths(peer, pass) {
            let name = format!("{pass}, T {tokens}: faster than {peer}");
            let keys = [peer, FUSED].map(|what| key(what, pass, wide(tokens)));
            rows.push(ratio(found, name, keys, Limit::Above(1.0)));
        }
    }
    for pass in PASSES {
        let name = format!("{pass}: time over {FLA}'s gated delta rule");
        let keys = [FUSED, FLA].map(|what| key(what, pass, wide(TOKENS)));
        rows.push(ratio(found, name, keys, Limit::AtMost(2.0)));
    }
    for (width, limit) in [(64, 2.6), (128, 3.0)] {
        for pass in PASSES {
            let name = format!("{pass}, K = V = {width}: time at S = 4 over S = 1");
            let keys = [4, 1].map(|states| key(FUSED, pass, size(TOKENS, states, width)));
            rows.push(ratio(found, name, keys, Limit::AtMost(limit)));
        }
    }
    let name = "training: tokens/s in bf16-mixed over f32".to_owned();
    let keys = [SINGLE, MIXED].map(|what| key(what, "step", None));
    rows.push(ratio(found, name, keys, Limit::AtLeast(1.8)));
    rows
}

/// Where attention can be asked at all: Burn's backward pass keeps all scores, at 16,384 tokens in half
/// precision some 170 GB, which no card has.
fn lengths(peer: &str, pass: &str) -> &'static [u64] {
    match (peer, pass) {
        (BURN, "forward + backward") => &LENGTHS[..2],
        _ => &LENGTHS,
    }
}

fn size(tokens: u64, states: u64, width: u64) -> Option<Size> {
    Some(Size {
        tokens,
        states,
        width,
    })
}

fn key<'a>(what: &'a str, pass: &'a str, size: Option<Size>) -> Key<'a> {
    Key { what, pass, size }
}

/// The time of the first over that of the second.
fn ratio(found: &Findings, name: String, [over, under]: [Key; 2], limit: Limit) -> Row {
    let (verdict, figure) = match (found.ms(&over), found.ms(&under)) {
        (Err(one), Err(other)) if one != other => (Verdict::NotMeasured, format!("{one}; {other}")),
        (Err(why), _) | (_, Err(why)) => (Verdict::NotMeasured, why),
        (Ok(over), Ok(under)) => {
            let verdict = match limit.admits(over / under) {
                true => Verdict::Met,
                false => Verdict::NotMet,
            };
            let figure = format!("{:.2} x ({over:.3} / {under:.3} ms)", over / under);
            (verdict, figure)
        }
    };
    Row {
        name,
        limit: limit.to_string(),
        verdict,
        figure,
    }
}

fn tests(found: &Findings, what: &str) -> Row {
    let (verdict, figure) = match found.tests(what) {
        Err(why) => (Verdict::NotMeasured, why),
        Ok(tests) => {
            let verdict = match tests.failed == 0 && tests.passed > 0 {
                true => Verdict::Met,
                false => Verdict::NotMet,
            };
            let counts = format!("{} passed, {} failed", tests.passed, tests.failed);
            let said = tests.figure.iter().map(|figure| format!("; {figure}"));
            (verdict, counts + &said.collect::<String>())
        }
    };
    Row {
        name: what.to_owned(),
        limit: "all".to_owned(),
        verdict,
        figure,
    }
}

#[cfg(test)]
mod tests {
    use super::super::findings::Tests;
    use super::*;
    use serde_json::json;

    /// Where everything is as it should be, with one time made `factor` times as long; not at all if
    /// that is no number.
    fn found(slower: &str, factor: f64) -> Findings {
        let mut found = Findings::default();
        let mut add = |what: &str, pass: &str, size: Option<Size>, ms: f64| {
            let ms = if what == slower { ms * factor } else { ms };
            if ms.is_nan() {
                return;
            }
            let mut line = json!({ "kind": "time", "what": what, "pass": pass, "ms": ms });
            if let Some(Size {
                tokens,
                states,
                width,
            }) = size
            {
                line["tokens"] = tokens.into();
                line["states"] = states.into();
                line["width"] = width.into();
            }
            found.read(&line.to_string()).unwrap();
            let check = json!({ "kind": "check", "what": what, "ok": true, "detail": "1e-3" });
            found.read(&check.to_string()).unwrap();
        };
        for pass in PASSES {
            for width in [64, 128] {
                for states in [1, 4] {
                    let ms = 0.7 + 0.3 * states as f64;
                    add(FUSED, pass, size(TOKENS, states, width), ms);
                }
            }
            for tokens in LENGTHS {
                let length = tokens as f64 / TOKENS as f64;
                add(FUSED, pass, size(tokens, 1, 128), length);
                add(BURN, pass, size(tokens, 1, 128), 9.0 * length * length);
                add(TORCH, pass, size(tokens, 1, 128), 3.0 * length * length);
            }
            add(TENSORS, pass, size(TOKENS, 1, 128), 6.0);
            add(FLA, pass, size(TOKENS, 1, 128), 0.6);
        }
        add(SINGLE, "step", None, 200.0);
        add(MIXED, "step", None, 100.0);
        let all = Tests {
            passed: 12,
            ..Tests::default()
        };
        found.tested(KERNELS, all.clone());
        found.tested(LEARNING, all);
        found
    }

    fn verdicts(found: &Findings, verdict: Verdict) -> Vec<String> {
        let rows = rows(found).into_iter();
        let of_it = rows.filter(|row| row.verdict == verdict);
        of_it
            .map(|row| format!("{}: {}", row.name, row.figure))
            .collect()
    }

    #[test]
    fn what_is_fast_and_checked_is_met() {
        let found = found("", 1.0);
        assert_eq!(verdicts(&found, Verdict::NotMet), Vec::<String>::new());
        assert_eq!(verdicts(&found, Verdict::NotMeasured), Vec::<String>::new());
        assert_eq!(rows(&found).len(), 2 + 2 + 14 + 2 + 4 + 1);
    }

    #[test]
    fn what_is_slower_than_its_limit_is_not_met() {
        // Every factor just breaks one kind of criterion.
        for (slower, factor, rows) in [
            (TENSORS, 0.8, 2),
            (BURN, 1.0 / 9.0, 4),
            (TORCH, 0.5, 2),
            (FLA, 0.8, 2),
            (SINGLE, 0.85, 1),
            (MIXED, 1.2, 1),
        ] {
            let broken = verdicts(&found(slower, factor), Verdict::NotMet);
            assert_eq!(broken.len(), rows, "{slower}: {broken:?}");
            assert!(verdicts(&found(slower, 1.0), Verdict::NotMet).is_empty());
        }
    }

    #[test]
    fn four_states_have_their_own_limit_at_each_width() {
        let mut found = Findings::default();
        for (states, ms) in [(1, 1.0), (4, 2.8)] {
            for width in [64, 128] {
                let line = json!({
                    "kind": "time", "what": FUSED, "pass": "forward", "ms": ms,
                    "tokens": TOKENS, "states": states, "width": width,
                });
                found.read(&line.to_string()).unwrap();
            }
        }
        let check = json!({ "kind": "check", "what": FUSED, "ok": true, "detail": "" });
        found.read(&check.to_string()).unwrap();
        let broken = verdicts(&found, Verdict::NotMet);
        assert_eq!(broken.len(), 1, "{broken:?}");
        assert!(broken[0].contains("K = V = 64"), "{broken:?}");
        assert_eq!(verdicts(&found, Verdict::Met).len(), 1);
    }

    #[test]
    fn a_missing_peer_is_not_met_and_says_why() {
        let mut found = Findings::default();
        found.explain(FLA, None, "No module named 'fla'");
        for row in rows(&found) {
            assert_eq!(row.verdict, Verdict::NotMeasured, "{row:?}");
        }
        let mut found = self::found(FLA, f64::NAN);
        found.explain(FLA, None, "No module named 'fla'");
        assert_eq!(verdicts(&found, Verdict::NotMet).len(), 0);
        assert_eq!(verdicts(&found, Verdict::NotMeasured).len(), 2);
    }

    #[test]
    fn a_failed_check_takes_its_times_with_it() {
        let mut found = found("", 1.0);
        let wrong = json!({ "kind": "check", "what": TORCH, "ok": false, "detail": "rms 0.4" });
        found.read(&wrong.to_string()).unwrap();
        let lost = verdicts(&found, Verdict::NotMeasured);
        assert_eq!(lost.len(), 8, "{lost:?}");
        assert!(lost.iter().all(|row| row.contains("rms 0.4")), "{lost:?}");
        let wrong = json!({ "kind": "check", "what": FUSED, "ok": false, "detail": "rms 0.4" });
        found.read(&wrong.to_string()).unwrap();
        let met = verdicts(&found, Verdict::Met);
        assert_eq!(met.len(), 3, "tests and training alone: {met:?}");
    }

    #[test]
    fn tests_that_fail_or_do_not_run_are_not_met() {
        for tests in [(3, 1), (0, 0)] {
            let mut found = Findings::default();
            let (passed, failed) = tests;
            let tests = Tests {
                passed,
                failed,
                figure: None,
            };
            found.tested(KERNELS, tests);
            assert_eq!(verdicts(&found, Verdict::NotMet).len(), 1);
        }
    }
}
