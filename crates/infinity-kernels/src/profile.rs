//! Where the time of a step goes, operator by operator: for benches.
//!
//! Between [`start`] and [`stop`] every call of an operator is timed, forward and backward apart. A thread that waits in one
//! operator may take up another one meanwhile: that time counts once, for the inner one. On a device that computes later
//! than it is asked to, what is timed is the asking.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Which way an operator runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// From inputs to results.
    Forward,
    /// From gradients of results to those of inputs.
    Backward,
}

/// What the calls of an operator took together.
#[derive(Clone, Debug)]
pub struct Spent {
    /// The operator's name.
    pub name: &'static str,
    /// The way it ran.
    pub pass: Pass,
    /// How often.
    pub calls: usize,
    /// Seconds, of all threads that called it.
    pub seconds: f64,
}

static RUNS: AtomicBool = AtomicBool::new(false);
static SPENT: Mutex<Vec<Spent>> = Mutex::new(Vec::new());

thread_local! {
    /// Seconds of operators inside the one that this thread runs.
    static INNER: Cell<f64> = const { Cell::new(0.0) };
}

/// Forgets what was timed and times all operators from now on.
pub fn start() {
    SPENT.lock().unwrap_or_else(PoisonError::into_inner).clear();
    RUNS.store(true, Ordering::Release);
}

/// Ends it. Returns what every operator took, the longest first.
pub fn stop() -> Vec<Spent> {
    RUNS.store(false, Ordering::Release);
    let mut spent = SPENT.lock().unwrap_or_else(PoisonError::into_inner);
    let mut spent = std::mem::take(&mut *spent);
    spent.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    spent
}

/// Runs `work`, a pass of the operator `name`.
pub(crate) fn timed<R>(name: &'static str, pass: Pass, work: impl FnOnce() -> R) -> R {
    if !RUNS.load(Ordering::Acquire) {
        return work();
    }
    let outer = INNER.replace(0.0);
    let start = Instant::now();
    let result = work();
    let whole = start.elapsed().as_secs_f64();
    let own = whole - INNER.replace(outer + whole);
    let mut all = SPENT.lock().unwrap_or_else(PoisonError::into_inner);
    match all.iter_mut().find(|it| it.name == name && it.pass == pass) {
        Some(it) => {
            it.calls += 1;
            it.seconds += own;
        }
        None => all.push(Spent {
            name,
            pass,
            calls: 1,
            seconds: own,
        }),
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread::sleep;
    use std::time::Duration;

    #[test]
    fn time_inside_counts_once_and_nothing_counts_after_the_end() {
        let wait = |ms| sleep(Duration::from_millis(ms));
        start();
        let clock = Instant::now();
        timed("outer", Pass::Forward, || {
            wait(10);
            timed("inner", Pass::Backward, || wait(100));
            timed("inner", Pass::Backward, || wait(100));
        });
        let whole = clock.elapsed().as_secs_f64();
        let spent = stop();
        timed("after", Pass::Forward, || wait(1));
        let find = |name| spent.iter().find(|it| it.name == name).expect(name);
        let (outer, inner) = (find("outer"), find("inner"));
        assert_eq!((outer.calls, inner.calls), (1, 2));
        assert!(inner.seconds >= 0.2 && inner.pass == Pass::Backward);
        let sum = outer.seconds + inner.seconds;
        assert!(outer.seconds >= 0.01 && sum <= whole, "{sum} of {whole}");
        let all = SPENT.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(all.iter().all(|it| it.name != "after"));
    }
}
