//! What was found: lines for a reader and, with `--json`, lines for `cargo xtask gpu`.

use crate::dtype;
use infinity_kernels::memory_scan::reference::Dims;
use serde_json::{Value, json};

/// A comparison of everything in `names` with what is right: the worst error, or what is wrong.
pub(crate) fn check(names: &[&str], found: &Result<f64, String>) {
    let detail = match found {
        Ok(error) => format!("outputs and gradients agree, worst rms ratio {error:.1e}"),
        Err(why) => format!("FAILED: {why}"),
    };
    println!("  check: {}: {detail}", names.join(", "));
    for what in names {
        line(&json!({ "kind": "check", "what": what, "ok": found.is_ok(), "detail": detail }));
    }
}

/// The time of a call, `ratio` times that of the first, and what it had allocated on the host at most.
pub(crate) fn time(
    dims: &Dims,
    (what, pass): (&str, &str),
    seconds: f64,
    ratio: f64,
    bytes: usize,
) {
    let (name, ms, mb) = (format!("{what}, {pass}"), seconds * 1e3, bytes as f64 / 1e6);
    println!("  {name:36} {ms:9.3} ms {ratio:7.2} x {mb:9.1} MB");
    line(&json!({
        "kind": "time",
        "what": what,
        "pass": pass,
        "dtype": format!("{:?}", dtype()),
        "batch": dims.b,
        "heads": dims.h,
        "tokens": dims.t,
        "states": dims.s,
        "width": dims.k,
        "ms": ms,
        "host_bytes": bytes,
    }));
}

/// Why there is no time.
pub(crate) fn missing(dims: &Dims, (what, pass): (&str, &str), why: &str) {
    println!("  {what}, {pass}: left out: {why}");
    line(&json!({
        "kind": "missing",
        "what": what,
        "pass": pass,
        "tokens": dims.t,
        "why": why,
    }));
}

fn line(found: &Value) {
    if std::env::args().any(|arg| arg == "--json") {
        println!("{found}");
    }
}
