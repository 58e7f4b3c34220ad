//! Contestants that take turns, and the median of each.

use crate::{after, counted, device, report};
use infinity_kernels::memory_scan::reference::Dims;
use std::time::Instant;

/// What a turn takes at least, in seconds: a device is waited for at its end, and that wait is not
/// to count.
const TURN: f64 = 0.02;
/// Calls in a turn at most: on a device, what they allocate may lie around until its end.
const CALLS: usize = 16;

/// Something that is timed.
pub(crate) struct Contestant<'a> {
    what: &'static str,
    pass: &'static str,
    run: Box<dyn Fn() + 'a>,
    /// In a turn.
    calls: usize,
    /// Of one call.
    seconds: Vec<f64>,
    /// The most that one call had allocated.
    bytes: usize,
}

impl<'a> Contestant<'a> {
    pub(crate) fn new(what: &'static str, pass: &'static str, run: impl Fn() + 'a) -> Self {
        Contestant {
            what,
            pass,
            run: Box::new(run),
            calls: 1,
            seconds: Vec::new(),
            bytes: 0,
        }
    }

    /// Whether `--only` lets it run.
    pub(crate) fn is_wanted(&self) -> bool {
        is_wanted(self.what, self.pass)
    }

    /// The first call compiles and tunes; the second says how many make a turn, and what each needs.
    fn warm_up(&mut self) {
        self.turn();
        let resting = counted::restart();
        let seconds = self.turn();
        self.bytes = counted::most_above(resting);
        self.calls = ((TURN / seconds) as usize).clamp(1, CALLS);
    }

    /// Seconds of a call in this turn.
    fn turn(&self) -> f64 {
        let start = Instant::now();
        (0..self.calls).for_each(|_| (self.run)());
        device().sync().expect("the device finished");
        start.elapsed().as_secs_f64() / self.calls as f64
    }

    fn median(&self) -> f64 {
        let mut seconds = self.seconds.clone();
        seconds.sort_by(f64::total_cmp);
        seconds[seconds.len() / 2]
    }
}

/// Whether `--only` lets this run: a part of its name stands there, or nothing does.
pub(crate) fn is_wanted(what: &str, pass: &str) -> bool {
    let name = format!("{what}, {pass}");
    let only = after("--only").unwrap_or_default();
    only.split(',').any(|part| name.contains(part))
}

/// All take turns; the first is what the others are compared with. One turn before the first is for
/// warming up.
pub(crate) fn race(dims: &Dims, mut contestants: Vec<Contestant<'_>>, rounds: usize) {
    contestants.iter_mut().for_each(Contestant::warm_up);
    for round in 0..=rounds.max(1) {
        for contestant in &mut contestants {
            let seconds = contestant.turn();
            if round > 0 {
                contestant.seconds.push(seconds);
            }
        }
    }
    for contestant in &contestants {
        let (seconds, first) = (contestant.median(), contestants[0].median());
        let name = (contestant.what, contestant.pass);
        report::time(dims, name, seconds, seconds / first, contestant.bytes);
    }
}
