//! What programs say about themselves, and what that comes to: JSON objects, one a line, and the table at the end.
//!
//! ```text
//! {"kind":"check","what":"fused","ok":true,"detail":"…"}
//! {"kind":"time","what":"fused","pass":"forward","tokens":8192,"states":1,"width":128,"ms":0.9}
//! {"kind":"missing","what":"FLA","why":"…"}         with "tokens" or "pass": only there
//! {"kind":"tests","what":"…","passed":12,"failed":0}
//! {"kind":"time","what":"GPT","pass":"memory","ms":6.0}       memory held, in GB
//! {"kind":"time","what":"learning","pass":"loss","ms":1.52}   nats
//! {"kind":"setting","text":"torch 2.9 on …"}
//! ```
//!
//! A time counts if everything that was checked under its name is right, and something was. Times of operators are
//! those of half precision where the device has it, one row of 32 heads, 8,192 tokens and K = V = 128 unless the row
//! says otherwise. flash-linear-attention's gated delta rule was published at that size with 0.47 ms forward and
//! 1.44 ms backward on an H200; what counts here is what it takes on the same card in the same call.

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

/// Names as the benches and `peers.py` have them.
pub(crate) const FUSED: &str = "fused";
pub(crate) const TENSORS: &str = "chunkwise";
pub(crate) const BURN: &str = "Burn attention";
pub(crate) const TORCH: &str = "PyTorch attention";
pub(crate) const FLA: &str = "FLA";
pub(crate) const GPT: &str = "GPT";
pub(crate) const GDN: &str = "GatedDeltaNet";
pub(crate) const DECODING: &str = "decoding";
pub(crate) const LAUNCHES: &str = "launches of a step";
pub(crate) const FIRST: &str = "first step";
pub(crate) const LEARNED: &str = "learning";
/// What [`SMALL`] comes to on the CPU, in nats (README), and how far from it a device may be.
const ON_CPUS: [f64; 2] = [1.520, 0.01];
/// The two starts.
pub(crate) const EMPTY: &str = "empty caches";
pub(crate) const WARM: &str = "warm caches";
/// Names of the test runs.
pub(crate) const SCAN_TESTS: &str = "memory_scan's tests on the device";
pub(crate) const OTHER_TESTS: &str = "the other kernels' tests on the device";
pub(crate) const LEARNING: &str = "short runs have the CPU's losses, go on, and decode alike";
/// Runs whose steps are timed, by the name of their config, and the two precisions.
pub(crate) const LARGE: &str = "novels-large";
pub(crate) const SMALL: &str = "shakespeare-char";
pub(crate) const PRECISIONS: [&str; 2] = ["f32", "bf16-mixed"];

const PASSES: [&str; 2] = ["forward", "forward + backward"];
/// Where linear time has to show, and where everything else is measured.
pub(crate) const LENGTHS: [u64; 4] = [4096, 8192, 16_384, 32_768];
pub(crate) const TOKENS: u64 = 8192;

/// Tokens, states, width of a measurement.
type Size = [u64; 3];
const SIZES: [&str; 3] = ["tokens", "states", "width"];

/// Everything found so far.
#[derive(Debug, Default)]
pub(crate) struct Findings(Vec<Value>);

impl Findings {
    /// Takes a line of a program and returns it as it is kept; `None` if it is no finding. `label` goes before the
    /// name, where the same program runs twice.
    pub(crate) fn read(&mut self, line: &str, label: &str) -> anyhow::Result<Option<String>> {
        let Some(mut found) = serde_json::from_str::<Value>(line)
            .ok()
            .filter(Value::is_object)
        else {
            return Ok(None);
        };
        complete(&found).with_context(|| format!("cannot read the finding {line}"))?;
        if let (false, Some(what)) = (label.is_empty(), found["what"].as_str()) {
            found["what"] = format!("{label}: {what}").into();
        }
        self.0.push(found.clone());
        Ok(Some(found.to_string()))
    }

    /// Why there may be no times of `what`: a step that failed, or was not run. `tokens`: only of that length.
    pub(crate) fn explain(&mut self, what: &str, tokens: Option<u64>, why: &str) -> String {
        let mut missing = json!({ "kind": "missing", "what": what, "why": why });
        if let Some(tokens) = tokens {
            missing["tokens"] = tokens.into();
        }
        self.0.push(missing.clone());
        missing.to_string()
    }

    fn of<'a>(
        &'a self,
        kind: &'a str,
        what: &'a str,
    ) -> impl DoubleEndedIterator<Item = &'a Value> {
        let is_it = move |one: &&Value| one["kind"] == kind && one["what"] == what;
        self.0.iter().filter(is_it)
    }

    pub(crate) fn settings(&self) -> impl Iterator<Item = &str> {
        let settings = self.0.iter().filter(|one| one["kind"] == "setting");
        settings.filter_map(|one| one["text"].as_str())
    }

    /// Passed and failed tests of that name, or why there are none.
    pub(crate) fn tests(&self, what: &str) -> Result<(u64, u64), String> {
        let found = self.of("tests", what).next();
        let count = |one: &Value, key: &str| one[key].as_u64().unwrap_or(0);
        let counts = found.map(|one| (count(one, "passed"), count(one, "failed")));
        counts.ok_or_else(|| self.why_missing(what, None, None))
    }

    /// A measurement in its unit, ms for times, or why it does not count. Of two of the same the first counts.
    pub(crate) fn time(&self, what: &str, pass: &str, size: Option<Size>) -> Result<f64, String> {
        if let Some(failed) = self.of("check", what).find(|check| check["ok"] != true) {
            return Err(format!("{what}: check failed: {}", failed["detail"]));
        }
        let sizes = size.map_or([Value::Null, Value::Null, Value::Null], |size| {
            size.map(Value::from)
        });
        let is_it = |one: &&Value| {
            one["pass"] == pass
                && SIZES
                    .iter()
                    .zip(&sizes)
                    .all(|(key, size)| one[*key] == *size)
        };
        let Some(time) = self.of("time", what).find(is_it) else {
            return Err(self.why_missing(what, Some(pass), size.map(|[tokens, ..]| tokens)));
        };
        if self.of("check", what).next().is_none() {
            return Err(format!("{what}, {pass} was timed but not checked"));
        }
        let ms = time["ms"].as_f64().unwrap_or(f64::NAN);
        match ms.is_finite() && ms > 0.0 {
            true => Ok(ms),
            false => Err(format!("{what}, {pass} took {ms} ms")),
        }
    }

    /// The most precise reason there is, and of several the first: what comes later follows from it.
    fn why_missing(&self, what: &str, pass: Option<&str>, tokens: Option<u64>) -> String {
        let fits = |one: &&Value| {
            (one["pass"].is_null() || one["pass"].as_str() == pass)
                && (one["tokens"].is_null() || one["tokens"].as_u64() == tokens)
        };
        let precision = |one: &&Value| {
            ["pass", "tokens"]
                .map(|key| !one[key].is_null())
                .iter()
                .filter(|is| **is)
                .count()
        };
        let reasons = self.of("missing", what).rev().filter(fits);
        let reason = reasons
            .max_by_key(precision)
            .and_then(|one| one["why"].as_str());
        reason.map_or_else(|| format!("nothing was said about {what}"), str::to_owned)
    }
}

/// An error if a finding lacks what its kind has.
fn complete(found: &Value) -> anyhow::Result<()> {
    let texts: &[&str] = match found["kind"].as_str() {
        Some("check") => &["what", "detail"],
        Some("time") => &["what", "pass"],
        Some("missing") => &["what", "why"],
        Some("tests") => &["what"],
        Some("setting") => &["text"],
        Some(other) => bail!("unknown kind `{other}`"),
        None => bail!("no `kind`"),
    };
    for key in texts {
        ensure!(found[*key].is_string(), "no text `{key}`");
    }
    ensure!(
        found["kind"] != "check" || found["ok"].is_boolean(),
        "no `ok`"
    );
    ensure!(
        found["kind"] != "time" || found["ms"].is_number(),
        "no number `ms`"
    );
    let sized = found["kind"] == "time" && !found["tokens"].is_null();
    for key in SIZES.iter().filter(|_| sized) {
        ensure!(found[*key].is_u64(), "no whole number `{key}`");
    }
    Ok(())
}

/// What a ratio has to be.
#[derive(Clone, Copy, Debug)]
enum Limit {
    Above(f64),
    AtLeast(f64),
    AtMost(f64),
}

/// A line of the table.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) limit: String,
    /// Whether the limit is met; `None` if it was not measured.
    pub(crate) met: Option<bool>,
    /// What was found, or why nothing was.
    pub(crate) figure: String,
}

/// Every criterion, judged by what was found, and after them the figures that have no limit.
pub(crate) fn rows(found: &Findings) -> Vec<Row> {
    let wide = |tokens| Some([tokens, 1, 128]);
    let time = |what: &str, pass: &str, size| found.time(what, pass, size);
    let mut rows = Vec::from([SCAN_TESTS, OTHER_TESTS, LEARNING].map(|what| tests(found, what)));
    let mut ratio = |name: String, over, under, limit| rows.push(ratio(name, over, under, limit));
    for pass in PASSES {
        let name = format!("{pass}: faster than on tensors");
        let fused = time(FUSED, pass, wide(TOKENS));
        ratio(
            name,
            time(TENSORS, pass, wide(TOKENS)),
            fused.clone(),
            Limit::AtLeast(5.0),
        );
        let name = format!("{pass}: time over {FLA}'s gated delta rule");
        ratio(
            name,
            fused,
            time(FLA, pass, wide(TOKENS)),
            Limit::AtMost(2.0),
        );
        for peer in [BURN, TORCH] {
            for &tokens in lengths(peer, pass) {
                let name = format!("{pass}, T {tokens}: faster than {peer}");
                let [peer, fused] = [peer, FUSED].map(|what| time(what, pass, wide(tokens)));
                ratio(name, peer, fused, Limit::Above(1.0));
            }
        }
        for (width, limit) in [(64, 2.6), (128, 3.0)] {
            let name = format!("{pass}, K = V = {width}: time at S = 4 over S = 1");
            let [four, one] = [4, 1].map(|states| time(FUSED, pass, Some([TOKENS, states, width])));
            ratio(name, four, one, Limit::AtMost(limit));
        }
    }
    let step = |config: &str, precision: &str| {
        time(&format!("{config}: training {precision}"), "step", None)
    };
    let [single, mixed] = PRECISIONS.map(|precision| step(LARGE, precision));
    let name = format!("{LARGE}: tokens/s in bf16-mixed over f32");
    ratio(name, single, mixed, Limit::AtLeast(1.8));

    let mut figure = |name: String, unit: &str, found: Result<f64, String>| {
        let met = found.is_ok().then_some(true);
        let figure = found.map_or_else(|why| why, |figure| format!("{figure:.2} {unit}"));
        rows.push(Row {
            name,
            limit: "-".to_owned(),
            met,
            figure,
        });
    };
    for (caches, bar) in [(EMPTY, 40), (WARM, 3)] {
        let name = format!("{SMALL}, {caches}: {FIRST} after the start (bar {bar} s)");
        let found = time(&format!("{caches}: {FIRST}"), "step", None);
        figure(name, "s", found.map(|ms| ms / 1e3));
    }
    for (what, whose) in [
        (format!("{LARGE}: training {}", PRECISIONS[1]), "ours"),
        (GPT.to_owned(), GPT),
    ] {
        let name = format!("{LARGE}'s size, bf16: memory held, {whose}");
        figure(name, "GB", time(&what, "memory", None));
    }
    for config in [LARGE, SMALL] {
        for precision in PRECISIONS {
            figure(
                format!("{config}, {precision}: a step"),
                "ms",
                step(config, precision),
            );
        }
    }
    for peer in [GPT, GDN] {
        figure(
            format!("{peer} of {LARGE}'s size, bf16: a step"),
            "ms",
            time(peer, "step", None),
        );
    }
    figure(
        format!("{SMALL}: {LAUNCHES}"),
        "kernels",
        time(LAUNCHES, "step", None),
    );
    for pass in ["token", "token, replayed"] {
        figure(
            format!("decoding, {LARGE}: a {pass}"),
            "ms",
            time(DECODING, pass, None),
        );
    }
    rows.push(learned(time(LEARNED, "loss", None)));
    rows
}

/// The validation loss beside that of the CPU.
fn learned(found: Result<f64, String>) -> Row {
    let [mean, most] = ON_CPUS;
    Row {
        name: format!("{SMALL}: validation loss, nats (mean on the CPU {mean})"),
        limit: format!("± {most}"),
        met: found.as_ref().ok().map(|loss| (loss - mean).abs() <= most),
        figure: found.map_or_else(|why| why, |loss| format!("{loss:.4} nats")),
    }
}

/// Where attention can be asked at all: Burn's backward pass keeps all scores, at 16,384 tokens in half
/// precision some 170 GB, which no card has.
fn lengths(peer: &str, pass: &str) -> &'static [u64] {
    match (peer, pass) {
        (BURN, "forward + backward") => &LENGTHS[..2],
        _ => &LENGTHS,
    }
}

/// The first time over the second.
fn ratio(name: String, over: Result<f64, String>, under: Result<f64, String>, limit: Limit) -> Row {
    let (met, figure) = match (over, under) {
        (Err(one), Err(other)) if one != other => (None, format!("{one}; {other}")),
        (Err(why), _) | (_, Err(why)) => (None, why),
        (Ok(over), Ok(under)) => {
            let ratio = over / under;
            let met = match limit {
                Limit::Above(limit) => ratio > limit,
                Limit::AtLeast(limit) => ratio >= limit,
                Limit::AtMost(limit) => ratio <= limit,
            };
            (
                Some(met),
                format!("{ratio:.2} x ({over:.3} / {under:.3} ms)"),
            )
        }
    };
    let limit = match limit {
        Limit::Above(limit) => format!("> {limit} x"),
        Limit::AtLeast(limit) => format!(">= {limit} x"),
        Limit::AtMost(limit) => format!("<= {limit} x"),
    };
    Row {
        name,
        limit,
        met,
        figure,
    }
}

fn tests(found: &Findings, what: &str) -> Row {
    let (met, figure) = match found.tests(what) {
        Err(why) => (None, why),
        Ok((passed, failed)) => {
            let met = failed == 0 && passed > 0;
            (Some(met), format!("{passed} passed, {failed} failed"))
        }
    };
    Row {
        name: what.to_owned(),
        limit: "all".to_owned(),
        met,
        figure,
    }
}

/// Rows below each other, after the settings.
pub(crate) fn table(rows: &[Row], settings: &[&str]) -> String {
    let widest = rows.iter().map(|row| row.name.chars().count()).max();
    let width = widest.unwrap_or(0);
    let mut text: String = settings.iter().map(|line| format!("{line}\n")).collect();
    text += &format!(
        "{:width$}  {:8}  {:12}  figure\n",
        "criterion", "limit", "verdict"
    );
    for Row {
        name,
        limit,
        met,
        figure,
    } in rows
    {
        let verdict = match met {
            Some(true) => "met           ",
            Some(false) => "NOT MET       ",
            None => "not measured: ",
        };
        text += &format!("{name:width$}  {limit:8}  {verdict}{figure}\n");
    }
    let count = |met| rows.iter().filter(|row| row.met == met).count();
    text + &format!(
        "{} rows: {} met, {} not met, {} not measured\n",
        rows.len(),
        count(Some(true)),
        count(Some(false)),
        count(None)
    )
}

/// An error unless all is met: what was not measured is not.
pub(crate) fn verdict(rows: &[Row]) -> anyhow::Result<()> {
    let open = rows.iter().filter(|row| row.met != Some(true)).count();
    ensure!(open == 0, "{open} of {} criteria are not met", rows.len());
    Ok(())
}
