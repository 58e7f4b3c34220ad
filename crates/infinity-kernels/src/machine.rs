//! The machine a bench runs on: what it is, and the measured peaks that figures are held against.

#[cfg(feature = "flex")]
use crate::cpu::simd::{LANES, Level, leveled};
use crate::linear;
use crate::operator::on_cpu;
use crate::rounding::{Half, Rounding, cpu_multiplies};
use burn::tensor::{Device, Distribution, Tensor};
use std::fmt;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The machine, as far as the system tells.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Its processor.
    pub cpu: String,
    /// Cores this process may use.
    pub cores: usize,
    /// Memory it has.
    pub memory_bytes: Option<u64>,
    /// Processes that wanted to run in the minute before: others make every number larger.
    pub load_average: Option<f64>,
    /// Operating system and architecture.
    pub system: String,
}

impl Machine {
    /// The machine that this runs on.
    pub fn this() -> Self {
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

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let load = self.load_average.map(|load| load.to_string());
        let load = load.unwrap_or_else(|| "unknown".to_owned());
        let (cpu, cores, system) = (&self.cpu, self.cores, &self.system);
        write!(f, "{cpu}, {cores} cores, {system}, load {load}")
    }
}

/// Memory that a new process can have; `None` where the system does not tell.
pub fn available_bytes() -> Option<u64> {
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
    let (_, value) = pairs.find(|(name, _)| name.trim() == key)?;
    Some(value.trim().to_owned())
}

/// Today's date, UTC.
pub fn date() -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let days = now.as_secs() / 86_400;
    // Years begin with March here, so that a leap day is the last of one, and 400 of them have the same days (Hinnant's
    // `civil_from_days`).
    let (days, era) = ((days + 719_468) % 146_097, (days + 719_468) / 146_097);
    let year = (days - days / 1_460 + days / 36_524 - days / 146_096) / 365;
    let day = days - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = (era * 400 + year + month / 10, (month + 2) % 12 + 1);
    format!("{year}-{month:02}-{day:02}")
}

/// Sizes `(m, k, n)` of the products tried for the peak, all larger than a core's cache lines and
/// smaller than its memory.
const PRODUCTS: [(usize, usize, usize); 5] = [
    (512, 512, 512),
    (3072, 384, 384),
    (3072, 384, 1024),
    (384, 3072, 1024),
    (2048, 2048, 2048),
];

/// Repetitions of each measurement; the best counts.
const REPETITIONS: usize = 5;

/// Seconds of one repetition.
const SECONDS: f64 = 0.1;

/// Calls `work` for some time, several times over, and returns the fewest seconds a call took.
fn fastest(mut work: impl FnMut()) -> f64 {
    let mut fastest = f64::INFINITY;
    for _ in 0..REPETITIONS {
        let (start, mut calls) = (Instant::now(), 0);
        while start.elapsed().as_secs_f64() < SECONDS {
            work();
            calls += 1;
        }
        fastest = fastest.min(start.elapsed().as_secs_f64() / f64::from(calls));
    }
    fastest
}

/// The best of several `f32` matrix products on `device`, in FLOP/s (a multiplication and an
/// addition are two).
///
/// # Panics
///
/// If the device fails.
pub fn matmul_flops(device: &Device) -> f64 {
    best_product(device, |a, b| a.matmul(b))
}

/// The same for factors that are rounded to bf16 on the way ([`linear::projections_rounded`]), where the CPU has instructions
/// for it.
pub fn bf16_product_flops(device: &Device) -> Option<f64> {
    let half = Half::Bf16;
    let results = false;
    (on_cpu(device) && cpu_multiplies(half)).then(|| {
        best_product(device, |a, b| {
            let rounding = Rounding { half, results };
            let mut all = linear::projections_rounded(a.unsqueeze(), vec![b], rounding);
            all.remove(0).squeeze_dim(0)
        })
    })
}

fn best_product(device: &Device, product: impl Fn(Tensor<2>, Tensor<2>) -> Tensor<2>) -> f64 {
    let rates = PRODUCTS.map(|(m, k, n)| {
        let random =
            |dims: [usize; 2]| Tensor::<2>::random(dims, Distribution::Uniform(-1.0, 1.0), device);
        let (a, b) = (random([m, k]), random([k, n]));
        device.sync().expect("the device works");
        let seconds = fastest(|| {
            let _ = product(a.clone(), b.clone());
            device.sync().expect("the device works");
        });
        2.0 * (m * k * n) as f64 / seconds
    });
    rates.into_iter().fold(0.0, f64::max)
}

/// Bytes of the machine's largest cache, as far as the system tells: 32 MiB where it does not.
pub fn cache_bytes() -> u64 {
    let size = |index: u32| {
        let path = format!("/sys/devices/system/cpu/cpu0/cache/index{index}/size");
        let text = std::fs::read_to_string(path).ok()?;
        let kib: u64 = text.trim().strip_suffix('K')?.parse().ok()?;
        Some(kib * 1024)
    };
    (0..8).filter_map(size).max().unwrap_or(32 << 20)
}

/// Values that are read for the bandwidth, far more than any cache has: a reading takes tens of milliseconds.
#[cfg(feature = "flex")]
pub struct Reading(Vec<f32>);

#[cfg(feature = "flex")]
impl Default for Reading {
    fn default() -> Self {
        let len = (8 * cache_bytes()).max(256 << 20) as usize / size_of::<f32>();
        Reading((0..len).map(|i| (i % 7) as f32).collect())
    }
}

#[cfg(feature = "flex")]
impl Reading {
    /// Bytes a second that all cores together read from memory: the best of several readings, in
    /// pieces among the threads and in one part for each.
    pub fn bandwidth(&self) -> f64 {
        use rayon::prelude::*;
        const PIECE: usize = 1 << 16;
        let level = Level::detect();
        let values = &self.0;
        let each = values.len() / rayon::current_num_threads();
        let seconds = [PIECE, each].map(|len| {
            fastest_in(SECONDS, || {
                let pieces = values.par_chunks(len).map(|piece| add_all(level, piece));
                std::hint::black_box(pieces.sum::<f32>());
            })
        });
        let bytes = values.len() * size_of::<f32>();
        bytes as f64 / seconds[0].min(seconds[1])
    }
}

/// [`Reading::bandwidth`] of values of its own.
#[cfg(feature = "flex")]
pub fn read_bandwidth() -> f64 {
    let reading = Reading::default();
    let readings = (0..REPETITIONS).map(|_| reading.bandwidth());
    readings.fold(0.0, f64::max)
}

/// The fewest seconds that a call of `work` takes in `seconds`.
#[cfg(feature = "flex")]
fn fastest_in(seconds: f64, mut work: impl FnMut()) -> f64 {
    let (start, mut fastest) = (Instant::now(), f64::INFINITY);
    while start.elapsed().as_secs_f64() < seconds {
        let start = Instant::now();
        work();
        fastest = fastest.min(start.elapsed().as_secs_f64());
    }
    fastest
}

#[cfg(feature = "flex")]
leveled!(
    fn add_all<const FMA: bool, const ROWS: usize>(values: &[f32]) -> f32 {
        let mut sums = [[0f32; LANES]; 4];
        for lanes in values.chunks_exact(4 * LANES) {
            for (i, sums) in sums.iter_mut().enumerate() {
                for l in 0..LANES {
                    sums[l] += lanes[i * LANES + l];
                }
            }
        }
        sums.into_iter().flatten().sum()
    }
);
