//! What the measurements were taken on.

use serde::Serialize;
use std::time::{SystemTime, UNIX_EPOCH};

/// The machine, as far as the system tells.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) memory_bytes: Option<u64>,
    /// Processes that wanted to run in the minute before: others make every number larger.
    pub(crate) load_average: Option<f64>,
    pub(crate) system: String,
}

impl Machine {
    pub(crate) fn this() -> Self {
        let cpu = value_of("/proc/cpuinfo", "model name");
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        Machine {
            cpu: cpu.unwrap_or_else(|| "unknown".to_owned()),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_bytes: kib_of("/proc/meminfo", "MemTotal"),
            load_average: load.split(' ').next().and_then(|first| first.parse().ok()),
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        }
    }
}

/// Memory that a new process can have; `None` where the system does not tell.
pub(crate) fn available_bytes() -> Option<u64> {
    kib_of("/proc/meminfo", "MemAvailable")
}

fn kib_of(file: &str, key: &str) -> Option<u64> {
    let kib: u64 = value_of(file, key)?.split(' ').next()?.parse().ok()?;
    Some(kib * 1024)
}

/// The value behind `key : ` in one of the system's files.
fn value_of(file: &str, key: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let mut pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs
        .find(|(name, _)| name.trim() == key)
        .map(|(_, value)| value.trim().to_owned())
}

/// Today's date, UTC.
pub(crate) fn date() -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let (mut year, mut day) = (1970, now.as_secs() / 86_400);
    let leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    while day >= 365 + u64::from(leap(year)) {
        day -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let mut month = 1;
    for days in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if day < days {
            break;
        }
        day -= days;
        month += 1;
    }
    format!("{year}-{month:02}-{:02}", day + 1)
}
