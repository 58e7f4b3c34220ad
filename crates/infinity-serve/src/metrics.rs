//! What an engine counts, and the same as text for Prometheus.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// A number that other threads may read.
#[derive(Debug, Default)]
pub struct Number(AtomicU64);

impl Number {
    /// Adds to it.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// Sets it.
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    /// What it is.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// How many durations there were up to each of [`BOUNDS`](Times::BOUNDS), and their sum.
#[derive(Debug, Default)]
pub struct Times {
    counts: [Number; Times::BOUNDS.len() + 1],
    micros: Number,
}

impl Times {
    /// Upper bounds of the counts in seconds; one more counts what is above.
    pub const BOUNDS: [f64; 12] = [
        0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0, 20.0, 100.0,
    ];

    /// Counts one.
    pub fn add(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        let at = Self::BOUNDS.iter().position(|bound| seconds <= *bound);
        self.counts[at.unwrap_or(Self::BOUNDS.len())].add(1);
        self.micros.add(time.as_micros() as u64);
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.counts.iter().map(Number::get).sum()
    }

    /// The sum of all, in seconds.
    pub fn seconds(&self) -> f64 {
        self.micros.get() as f64 / 1e6
    }
}

macro_rules! metrics {
    ($($(#[doc = $doc:literal])+ $field:ident: $kind:ident = $name:literal,)+) => {
        /// What an engine counts.
        #[derive(Debug, Default)]
        pub struct Metrics {
            $($(#[doc = $doc])+ pub $field: metrics!(@type $kind),)+
        }

        impl Metrics {
            /// All of it in Prometheus's text format.
            pub fn text(&self) -> String {
                let mut text = String::new();
                $(metrics!(@write $kind text, self.$field, $name, [$($doc),+]);)+
                text
            }
        }
    };
    (@type histogram) => { Times };
    (@type $kind:ident) => { Number };
    (@write histogram $text:ident, $value:expr, $name:literal, $doc:expr) => {
        write_times(&mut $text, $name, &$doc, &$value);
    };
    (@write $kind:ident $text:ident, $value:expr, $name:literal, $doc:expr) => {
        head(&mut $text, $name, stringify!($kind), &$doc);
        let _ = writeln!($text, "{} {}", $name, $value.get());
    };
}

metrics! {
    /// Requests that were taken.
    requests: counter = "infinity_requests_total",
    /// Requests that came to their end.
    finished: counter = "infinity_requests_finished_total",
    /// Requests that failed.
    failed: counter = "infinity_requests_failed_total",
    /// Requests whose client went away.
    left: counter = "infinity_requests_left_total",
    /// Requests that were refused because too many waited.
    refused: counter = "infinity_requests_refused_total",
    /// Tokens of prompts that were read.
    read_tokens: counter = "infinity_prompt_tokens_total",
    /// Tokens of prompts that the prefix cache had.
    cached_tokens: counter = "infinity_prompt_tokens_cached_total",
    /// Tokens that were generated.
    new_tokens: counter = "infinity_generated_tokens_total",
    /// Steps that a GPU repeated from a recorded one.
    recorded: counter = "infinity_recorded_steps_total",
    /// Times that the engine looked for something to do.
    turns: counter = "infinity_engine_turns_total",
    /// Requests that wait for a place.
    queued: gauge = "infinity_requests_waiting",
    /// Texts that are being read or continued.
    rows: gauge = "infinity_rows",
    /// Texts whose reader is too slow.
    parked: gauge = "infinity_rows_parked",
    /// Sessions.
    sessions: gauge = "infinity_sessions",
    /// Sessions whose state is in memory.
    resident_sessions: gauge = "infinity_sessions_resident",
    /// Bytes of the states of sessions in memory.
    session_bytes: gauge = "infinity_session_state_bytes",
    /// Bytes of states in the prefix cache.
    prefix_bytes: gauge = "infinity_prefix_cache_bytes",
    /// Changes of sessions that were saved.
    saved: counter = "infinity_session_saves_total",
    /// Changes of sessions that could not be saved.
    not_saved: counter = "infinity_session_saves_failed_total",
    /// Sessions that came back from the disk.
    loaded: counter = "infinity_session_loads_total",
    /// Seconds from a request to its first token.
    first_token: histogram = "infinity_first_token_seconds",
    /// Seconds between two tokens of a text.
    token_gap: histogram = "infinity_token_gap_seconds",
    /// Seconds of a step that gives every row of a group a token.
    step: histogram = "infinity_step_seconds",
    /// Seconds of a request from its place among the rows to its end.
    request: histogram = "infinity_request_seconds",
    /// Seconds to save a change of a session.
    save: histogram = "infinity_session_save_seconds",
    /// Seconds until a session is back from the disk.
    load: histogram = "infinity_session_load_seconds",
}

impl Metrics {
    /// How long `waiting` requests are likely to wait when `rows` go on at once: 1 to 60 seconds.
    pub(crate) fn wait(&self, waiting: usize, rows: usize) -> Duration {
        let each = self.request.seconds() / self.request.count().max(1) as f64;
        let seconds = each * waiting as f64 / rows.max(1) as f64;
        Duration::from_secs(seconds.ceil().clamp(1.0, 60.0) as u64)
    }
}

fn head(text: &mut String, name: &str, kind: &str, doc: &[&str]) {
    let doc: Vec<_> = doc.iter().map(|line| line.trim()).collect();
    let _ = writeln!(text, "# HELP {name} {}", doc.join(" "));
    let _ = writeln!(text, "# TYPE {name} {kind}");
}

fn write_times(text: &mut String, name: &str, doc: &[&str], times: &Times) {
    head(text, name, "histogram", doc);
    let mut below = 0;
    for (count, bound) in times.counts.iter().zip(Times::BOUNDS) {
        below += count.get();
        let _ = writeln!(text, "{name}_bucket{{le=\"{bound}\"}} {below}");
    }
    let all = below + times.counts[Times::BOUNDS.len()].get();
    let _ = writeln!(text, "{name}_bucket{{le=\"+Inf\"}} {all}");
    let _ = writeln!(text, "{name}_sum {}\n{name}_count {all}", times.seconds());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_as_prometheus_reads_it() {
        let metrics = Metrics::default();
        metrics.requests.add(3);
        metrics.rows.set(2);
        for ms in [1, 50, 200_000] {
            metrics.step.add(Duration::from_millis(ms));
        }
        let text = metrics.text();
        for line in [
            "# HELP infinity_requests_total Requests that were taken.",
            "# TYPE infinity_requests_total counter",
            "infinity_requests_total 3",
            "infinity_rows 2",
            "infinity_step_seconds_bucket{le=\"0.05\"} 2",
            "infinity_step_seconds_bucket{le=\"100\"} 2",
            "infinity_step_seconds_bucket{le=\"+Inf\"} 3",
            "infinity_step_seconds_sum 200.051",
            "infinity_step_seconds_count 3",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
    }

    #[test]
    fn how_long_to_wait() {
        let metrics = Metrics::default();
        assert_eq!(metrics.wait(10, 2).as_secs(), 1);
        metrics.request.add(Duration::from_secs(2));
        assert_eq!(metrics.wait(16, 8).as_secs(), 4);
        assert_eq!(metrics.wait(10_000, 8).as_secs(), 60);
    }
}
