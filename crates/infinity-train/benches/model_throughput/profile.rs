//! Where the time of a step goes: operators forward and backward, clipping, the optimizer, and the rest, which is what
//! Burn's own operations and its graph take. The parts are timed apart from the whole that they have to add up to.

use crate::{Outcome, StepTime};
use infinity_kernels::profile::{Pass, Spent, start, stop};
use std::time::Instant;

/// How far the parts may be from the whole, which has what lies between steps as well.
const APART: f64 = 0.02;

/// What operators took in some steps, and seconds of all of these.
pub(crate) fn of(
    steps: usize,
    mut step: impl FnMut() -> Outcome<()>,
) -> Outcome<(Vec<Spent>, f64)> {
    start();
    let whole = Instant::now();
    let ran = (0..steps).try_for_each(|_| step());
    let whole = whole.elapsed().as_secs_f64();
    let spent = stop();
    ran.map(|()| (spent, whole))
}

/// Prints a line for every part of these steps, which took `whole` seconds together.
pub(crate) fn print(steps: &[StepTime], spent: &[Spent], whole: f64) -> Outcome<()> {
    let of = |part: fn(&StepTime) -> f64| steps.iter().map(part).sum::<f64>();
    // Those of the optimizer run side by side, and its time has them.
    let (inside, spent): (Vec<&Spent>, Vec<&Spent>) = spent
        .iter()
        .partition(|spent| spent.name == "newton_schulz");
    let all = spent.iter().map(|spent| spent.seconds).sum::<f64>();
    let mut parts: Vec<(String, f64)> = spent
        .iter()
        .map(|spent| {
            let pass = match spent.pass {
                Pass::Forward => "forward",
                Pass::Backward => "backward",
            };
            let calls = spent.calls / steps.len();
            (
                format!("{} {pass}, {calls} a step", spent.name),
                spent.seconds,
            )
        })
        .collect();
    parts.push((
        "rest of the gradients".into(),
        of(|step| step.gradients) - all,
    ));
    parts.push(("clipping".into(), of(|step| step.clipping)));
    parts.push(("optimizer".into(), of(|step| step.optimizer)));
    let row = |name: &str, seconds: f64| {
        let ms = 1e3 * seconds / steps.len() as f64;
        println!("  {name:<40} {ms:9.2} ms {:6.2} %", 100.0 * seconds / whole);
    };
    println!("profile of {} steps", steps.len());
    parts.iter().for_each(|(name, seconds)| row(name, *seconds));
    let sum = parts.iter().map(|(_, seconds)| seconds).sum::<f64>();
    row("sum", sum);
    row("whole", whole);
    for spent in inside {
        let ms = 1e3 * spent.seconds / steps.len() as f64;
        println!(
            "  in the optimizer: {} {ms:.2} ms of its threads' time",
            spent.name
        );
    }
    let negative = parts.iter().find(|(_, seconds)| *seconds < 0.0);
    match (negative, (whole - sum).abs() <= APART * whole) {
        (None, true) => {
            println!("check: the parts are within {APART} of the whole");
            Ok(())
        }
        (Some((name, _)), _) => Err(format!("profile: `{name}` is less than nothing").into()),
        (None, false) => Err(format!("profile: {sum} s of {whole} s").into()),
    }
}
