//! Axes: where a value stands and which values are written beside it.

use std::iter;

/// Pixels between two ticks of [`Axis::linear`], about: up the page, and across it.
const APART: [f64; 2] = [40.0, 90.0];
/// Pixels of a character of a label, about.
const CHARACTER: f64 = 8.0;
/// Ticks from which on an axis of [`Axis::logarithmic`] names powers of ten alone.
const MANY: usize = 8;

/// The values that an axis shows, and its ticks between them.
#[derive(Clone, Debug)]
pub(crate) struct Axis {
    pub(crate) low: f64,
    pub(crate) high: f64,
    /// Whether equal ratios are equally far apart.
    pub(crate) log: bool,
    /// Values with their labels, ascending.
    pub(crate) ticks: Vec<(f64, String)>,
}

impl Axis {
    /// Logarithmic, with a tick at every length that was measured and has room for its label on
    /// `pixels`; the longest always has.
    pub(crate) fn lengths(mut lengths: Vec<f64>, pixels: f64) -> Self {
        lengths.sort_by(f64::total_cmp);
        lengths.dedup();
        let [low, high] = [lengths.first(), lengths.last()].map(|end| *end.unwrap_or(&1.0));
        // A little room, so that no marker stands on the edge.
        let room = (high / low).max(2.0).powf(0.06);
        let mut axis = Axis {
            low: low / room,
            high: high * room,
            log: true,
            ticks: Vec::new(),
        };
        let mut free = f64::INFINITY;
        for length in lengths.into_iter().rev() {
            let (at, label) = (axis.part(length) * pixels, grouped(length));
            let half = label.len() as f64 * CHARACTER / 2.0;
            if at + half + CHARACTER <= free {
                free = at - half;
                axis.ticks.insert(0, (length, label));
            }
        }
        axis
    }

    /// Logarithmic, between the nearest of 1, 2, 5, 10, 20, … around those `values` that are above 0.
    pub(crate) fn logarithmic(values: &[f64]) -> Self {
        let above = || values.iter().copied().filter(|value| *value > 0.0);
        let least = above().min_by(f64::total_cmp).unwrap_or(1.0);
        let most = above().max_by(f64::total_cmp).unwrap_or(1.0);
        let low = 1.0 / step_of(1.0 / least);
        let next = |step: &f64| (*step <= most).then(|| step_of(1.5 * step));
        let steps: Vec<f64> = iter::successors(Some(low), next).collect();
        let is_power = |step: f64| (step.log10() - step.log10().round()).abs() < 1e-9;
        let named = steps.iter().copied();
        let named = named.filter(|step| steps.len() <= MANY || is_power(*step));
        let label = |step: f64| match step {
            1.0.. => (step, grouped(step)),
            _ => (step, label(step, step)),
        };
        Axis {
            low,
            high: steps[steps.len() - 1],
            log: true,
            ticks: named.map(label).collect(),
        }
    }

    /// Linear, on `pixels`, from the least to the greatest of `values`, and in both directions up to
    /// a tick when `whole`, as axes up the page are.
    pub(crate) fn linear(values: &[f64], pixels: f64, whole: bool) -> Self {
        let least = values.iter().copied().min_by(f64::total_cmp).unwrap_or(0.0);
        let most = values.iter().copied().max_by(f64::total_cmp).unwrap_or(1.0);
        // A level line has an axis too, one that does not make mountains of rounding.
        let span = (most - least).max(most.abs().max(least.abs()) * 1e-3);
        let span = if span > 0.0 { span } else { 1.0 };
        let apart = if whole { APART[0] } else { APART[1] };
        let step = step_of(span / (pixels / apart).clamp(3.0, 8.0));
        let (low, high) = match whole {
            true => {
                let low = (least / step).floor();
                (low * step, (most / step).ceil().max(low + 1.0) * step)
            }
            false => (least, least + span),
        };
        let (first, last) = ((low / step - 1e-9).ceil(), (high / step + 1e-9).floor());
        let ticks = (0..=(last - first) as usize).map(|i| (first + i as f64) * step);
        Axis {
            low,
            high,
            log: false,
            ticks: ticks.map(|tick| (tick, label(tick, step))).collect(),
        }
    }

    /// The place of `value`: 0 at the lower end, 1 at the upper one.
    pub(crate) fn part(&self, value: f64) -> f64 {
        match self.log {
            true => (value / self.low).ln() / (self.high / self.low).ln(),
            false => (value - self.low) / (self.high - self.low),
        }
    }
}

/// The nearest of 1, 2, 5, 10, 20, … that is no smaller.
fn step_of(span: f64) -> f64 {
    let power = 10f64.powf(span.log10().floor());
    let steps = [1.0, 2.0, 5.0].map(|factor| factor * power).into_iter();
    let mut large = steps.filter(|step| *step >= span * (1.0 - 1e-9));
    large.next().unwrap_or(10.0 * power)
}

/// A tick of a linear axis with as many digits as `step` needs.
fn label(tick: f64, step: f64) -> String {
    let tick = if tick.abs() < step * 1e-6 { 0.0 } else { tick };
    let shortened = |unit: f64, suffix: &str| {
        let digits = (-(step / unit).log10().floor()).max(0.0) as usize;
        format!("{:.digits$}{suffix}", tick / unit)
    };
    match step {
        _ if tick == 0.0 => "0".to_owned(),
        ..1e-4 => {
            // Digits so that neighbouring ticks differ.
            let digits = (tick.abs().log10().floor() - step.log10().floor()).max(0.0) as usize;
            format!("{tick:.digits$e}").replace('-', "−")
        }
        ..1.0 => shortened(1.0, ""),
        ..500.0 => grouped(tick),
        ..5e5 => shortened(1e3, "k"),
        _ => shortened(1e6, "M"),
    }
}

/// A whole number with commas between groups of three digits.
pub fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let groups = digits.as_bytes().rchunks(3).rev();
    let groups: Vec<_> = groups.map(String::from_utf8_lossy).collect();
    let sign = if value < -0.5 { "-" } else { "" };
    format!("{sign}{}", groups.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_without_room_for_their_label_have_none() {
        let lengths = || vec![256.0, 1_024.0, 65_536.0, 131_072.0];
        let named = |axis: Axis| axis.ticks.into_iter().map(|(length, _)| length).collect();
        let wide: Vec<f64> = named(Axis::lengths(lengths(), 2_000.0));
        assert_eq!(wide, lengths());
        let narrow: Vec<f64> = named(Axis::lengths(lengths(), 500.0));
        assert_eq!(narrow, [256.0, 1_024.0, 131_072.0]);
    }

    #[test]
    fn ticks_enclose_the_values() {
        let axis = Axis::logarithmic(&[0.3, 7.0]);
        let labels: Vec<&str> = axis.ticks.iter().map(|tick| tick.1.as_str()).collect();
        assert_eq!(labels, ["0.2", "0.5", "1", "2", "5", "10"]);
        assert_eq!((axis.part(0.2), axis.part(10.0)), (0.0, 1.0));
        assert!(0.0 < axis.part(0.3) && axis.part(0.3) < axis.part(7.0));
    }

    #[test]
    fn one_value_has_an_axis_too() {
        let axis = Axis::logarithmic(&[5.0]);
        assert!(axis.part(5.0).is_finite() && axis.ticks.len() == 2);
        let axis = Axis::lengths(vec![1024.0], 100.0);
        assert!((axis.part(1024.0) - 0.5).abs() < 1e-9);
    }

    #[test]
    fn linear_axes_have_round_ticks() {
        let labels = |values: &[f64], whole| {
            let axis = Axis::linear(values, 200.0, whole);
            let labels = axis.ticks.iter().map(|tick| tick.1.clone());
            (labels.collect::<Vec<_>>().join(" "), axis)
        };
        let (text, axis) = labels(&[1.31, 4.2], true);
        assert_eq!(text, "1 2 3 4 5");
        assert_eq!((axis.part(1.0), axis.part(3.0)), (0.0, 0.5));
        assert_eq!(labels(&[0.0, 3e-3], true).0, "0 0.001 0.002 0.003");
        assert_eq!(labels(&[0.0, 5e-5], true).0, "0 1e−5 2e−5 3e−5 4e−5 5e−5");
        assert_eq!(labels(&[0.0, 6_300.0], true).0, "0 2k 4k 6k 8k");
        assert_eq!(labels(&[1.0, 400.0], false).0, "200 400");
        assert_eq!(labels(&[0.0, 2.5e6], true).0, "0 0.5M 1.0M 1.5M 2.0M 2.5M");
        // One value, and none.
        let (_, axis) = labels(&[7.0], true);
        assert!(axis.part(7.0).is_finite() && axis.ticks.len() >= 2);
        let (_, axis) = labels(&[], true);
        assert!(axis.part(0.5).is_finite());
    }

    #[test]
    fn long_logarithmic_axes_name_powers_of_ten() {
        let axis = Axis::logarithmic(&[0.002, 700.0]);
        let labels: Vec<&str> = axis.ticks.iter().map(|tick| tick.1.as_str()).collect();
        assert_eq!(labels, ["0.01", "0.1", "1", "10", "100", "1,000"]);
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(
            [512.0, 1024.0, 100_000.0].map(grouped),
            ["512", "1,024", "100,000"]
        );
        assert_eq!([-1500.0, -0.2].map(grouped), ["-1,500", "0"]);
    }
}
