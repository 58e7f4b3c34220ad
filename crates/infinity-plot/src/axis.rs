//! Axes: where a value stands and which values are written beside it; and the frame of a panel that has two.

use crate::svg::{Anchor, Svg};

/// Of words and axes: legible on a white page and on a dark one.
pub const TEXT: &str = "#72787f";

/// Where lines are drawn, in pixels.
#[derive(Clone, Copy, Debug)]
pub struct Area {
    /// From the left.
    pub left: f64,
    /// From the top.
    pub top: f64,
    /// Across.
    pub width: f64,
    /// Down.
    pub height: f64,
}

impl Area {
    /// Where lines end on the right.
    pub fn right(&self) -> f64 {
        self.left + self.width
    }

    /// Where lines stand on the axis across.
    pub fn bottom(&self) -> f64 {
        self.top + self.height
    }

    /// Draws the title above, the axes with their ticks, and below what is shown across.
    pub fn frame(&self, svg: &mut Svg, title: &str, [across, up]: [&Axis; 2], caption: &str) {
        let (left, right, bottom) = (self.left, self.right(), self.bottom());
        let middle = (left + right) / 2.0;
        for (value, label) in &up.ticks {
            let y = up.at(*value);
            svg.line([left, y], [right, y], TEXT, "grid");
            svg.text(left - 8.0, y + 4.5, Anchor::End, TEXT, "small", label);
        }
        for (value, label) in &across.ticks {
            let x = across.at(*value);
            svg.line([x, bottom], [x, bottom + 5.0], TEXT, "axis");
            svg.text(x, bottom + 20.0, Anchor::Middle, TEXT, "small", label);
        }
        svg.line([left, bottom], [right, bottom], TEXT, "axis");
        svg.text(left, self.top - 14.0, Anchor::Start, TEXT, "name", title);
        svg.text(
            middle,
            bottom + 38.0,
            Anchor::Middle,
            TEXT,
            "small",
            caption,
        );
    }

    /// Says in the middle that there is nothing to draw.
    pub fn empty(&self, svg: &mut Svg) {
        let (x, y) = (self.left + self.width / 2.0, self.top + self.height / 2.0);
        svg.text(x, y, Anchor::Middle, TEXT, "note", "not measured");
    }
}

/// Pixels between two ticks of [`Axis::linear`], about: up the page, and across it.
const APART: [f64; 2] = [40.0, 90.0];
/// Pixels of a character of a label, about.
const CHARACTER: f64 = 8.0;
/// Ticks from which on an axis of [`Axis::values`] names powers of ten alone.
const MANY: usize = 8;

/// Maps values to places on the page; the ticks lie between the ends.
#[derive(Clone, Debug)]
pub struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
    log: bool,
    /// Values with their labels, ascending.
    pub ticks: Vec<(f64, String)>,
}

impl Axis {
    /// Logarithmic, from `from` to `to` on the page, with a tick at every length that was measured
    /// and has room for its label; the longest always has.
    ///
    /// # Panics
    /// Without a length.
    pub fn lengths(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let mut lengths: Vec<f64> = values.collect();
        lengths.sort_by(f64::total_cmp);
        lengths.dedup();
        let (low, high) = (lengths[0], lengths[lengths.len() - 1]);
        // A little room, so that no marker stands on the edge.
        let room = (high / low).max(2.0).powf(0.06);
        let mut axis = Axis {
            low: low / room,
            high: high * room,
            from,
            to,
            log: true,
            ticks: Vec::new(),
        };
        let mut free = f64::INFINITY;
        for length in lengths.into_iter().rev() {
            let (at, label) = (axis.at(length), grouped(length));
            let half = label.len() as f64 * CHARACTER / 2.0;
            if at + half + CHARACTER <= free {
                free = at - half;
                axis.ticks.insert(0, (length, label));
            }
        }
        axis
    }

    /// Logarithmic, from `from` to `to` on the page, between the nearest of 1, 2, 5, 10, 20, …
    /// around `values`, which are above 0.
    pub fn values(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let (least, most) = values.fold((f64::INFINITY, 0.0f64), |(least, most), value| {
            (least.min(value), most.max(value))
        });
        let steps: Vec<f64> = (-9..12)
            .flat_map(|power| [1.0, 2.0, 5.0].map(|m| m * 10f64.powi(power)))
            .collect();
        let first = steps.iter().rposition(|step| *step <= least).unwrap_or(0);
        let last = steps
            .iter()
            .position(|step| *step > most)
            .unwrap_or(steps.len() - 1);
        let shown = &steps[first..=last.max(first + 1)];
        let is_power = |step: f64| (step.log10() - step.log10().round()).abs() < 1e-9;
        let named = |step: &&f64| shown.len() <= MANY || is_power(**step);
        let ticks = shown.iter().filter(named);
        let ticks = ticks.map(|step| (*step, short(*step))).collect();
        Axis {
            low: shown[0],
            high: shown[shown.len() - 1],
            from,
            to,
            log: true,
            ticks,
        }
    }

    /// Linear, from `from` to `to` on the page: from the least to the greatest value, or from 0
    /// when `zero`, and in both directions up to a tick when `whole`, as axes up the page are.
    pub fn linear(
        values: impl Iterator<Item = f64>,
        [from, to]: [f64; 2],
        zero: bool,
        whole: bool,
    ) -> Self {
        let start = if zero { 0.0 } else { f64::INFINITY };
        let (least, most) = values.fold((start, f64::NEG_INFINITY), |(least, most), value| {
            (least.min(value), most.max(value))
        });
        let (least, most) = match (least.is_finite(), most.is_finite()) {
            (true, true) => (least, most.max(least)),
            _ => (0.0, 1.0),
        };
        // A level line has an axis too, one that does not make mountains of rounding.
        let span = (most - least).max(most.abs().max(least.abs()) * 1e-3);
        let span = if span > 0.0 { span } else { 1.0 };
        let apart = if whole { APART[0] } else { APART[1] };
        let step = step_of(span / ((to - from).abs() / apart).clamp(3.0, 8.0));
        let (low, high) = match whole {
            true => {
                let low = (least / step).floor();
                (low * step, (most / step).ceil().max(low + 1.0) * step)
            }
            false => (least, least + span),
        };
        let (first, last) = ((low / step - 1e-9).ceil(), (high / step + 1e-9).floor());
        let ticks = (0..=(last - first) as usize)
            .map(|i| (first + i as f64) * step)
            .map(|tick| (tick, label(tick, step)))
            .collect();
        Axis {
            low,
            high,
            from,
            to,
            log: false,
            ticks,
        }
    }

    /// The ends of the axis.
    pub fn ends(&self) -> (f64, f64) {
        (self.low, self.high)
    }

    /// Whether equal ratios are equally far apart.
    pub fn is_log(&self) -> bool {
        self.log
    }

    /// The place of `value`.
    pub fn at(&self, value: f64) -> f64 {
        let part = match self.log {
            true => (value / self.low).ln() / (self.high / self.low).ln(),
            false => (value - self.low) / (self.high - self.low),
        };
        self.from + (self.to - self.from) * part
    }
}

/// The nearest of 1, 2, 5, 10, 20, … that is no smaller.
fn step_of(span: f64) -> f64 {
    let power = 10f64.powf(span.log10().floor());
    let factor = [1.0, 2.0, 5.0]
        .into_iter()
        .find(|f| f * power >= span * (1.0 - 1e-9));
    factor.unwrap_or(10.0) * power
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
        ..500.0 => match step >= 1.0 {
            true => grouped(tick),
            false => shortened(1.0, ""),
        },
        ..5e5 => shortened(1e3, "k"),
        _ => shortened(1e6, "M"),
    }
}

/// A whole number with commas between groups of three digits.
pub fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut out = String::from(if value < 0.0 && digits != "0" {
        "-"
    } else {
        ""
    });
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A step of the axis without digits that say nothing.
fn short(step: f64) -> String {
    let decimals = (-step.log10().floor()).max(0.0) as usize;
    if decimals == 0 {
        grouped(step)
    } else {
        format!("{step:.decimals$}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_without_room_for_their_label_have_none() {
        let lengths = || [256.0, 1_024.0, 65_536.0, 131_072.0].into_iter();
        let named = |axis: Axis| axis.ticks.into_iter().map(|(length, _)| length).collect();
        let wide: Vec<f64> = named(Axis::lengths(lengths(), 0.0, 2_000.0));
        assert_eq!(wide, lengths().collect::<Vec<f64>>());
        let narrow: Vec<f64> = named(Axis::lengths(lengths(), 0.0, 500.0));
        assert_eq!(narrow, [256.0, 1_024.0, 131_072.0]);
    }

    #[test]
    fn ticks_enclose_the_values() {
        let axis = Axis::values([0.3, 7.0].into_iter(), 100.0, 0.0);
        let labels: Vec<&str> = axis.ticks.iter().map(|tick| tick.1.as_str()).collect();
        assert_eq!(labels, ["0.2", "0.5", "1", "2", "5", "10"]);
        assert_eq!((axis.at(0.2), axis.at(10.0)), (100.0, 0.0));
        assert!(axis.at(0.3) > axis.at(7.0), "up the page");
    }

    #[test]
    fn one_value_has_an_axis_too() {
        let axis = Axis::values([5.0].into_iter(), 0.0, 100.0);
        assert!(axis.at(5.0).is_finite() && axis.ticks.len() == 2);
        let axis = Axis::lengths([1024.0].into_iter(), 0.0, 100.0);
        assert!((axis.at(1024.0) - 50.0).abs() < 1e-9);
    }

    #[test]
    fn linear_axes_have_round_ticks() {
        let labels = |values: &[f64], zero, whole| {
            let axis = Axis::linear(values.iter().copied(), [0.0, 200.0], zero, whole);
            let labels = axis.ticks.iter().map(|tick| tick.1.clone());
            (labels.collect::<Vec<_>>().join(" "), axis)
        };
        let (text, axis) = labels(&[1.31, 4.2], false, true);
        assert_eq!(text, "1 2 3 4 5");
        assert_eq!((axis.at(1.0), axis.at(3.0)), (0.0, 100.0));
        assert_eq!(labels(&[0.0, 3e-3], true, true).0, "0 0.001 0.002 0.003");
        assert_eq!(labels(&[5e-5], true, true).0, "0 1e−5 2e−5 3e−5 4e−5 5e−5");
        assert_eq!(labels(&[6_300.0], true, true).0, "0 2k 4k 6k 8k");
        assert_eq!(labels(&[1.0, 400.0], false, false).0, "200 400");
        assert_eq!(
            labels(&[0.0, 2.5e6], true, true).0,
            "0 0.5M 1.0M 1.5M 2.0M 2.5M"
        );
        // One value, and none.
        let (_, axis) = labels(&[7.0], false, true);
        assert!(axis.at(7.0).is_finite() && axis.ticks.len() >= 2);
        let (_, axis) = labels(&[], false, true);
        assert!(axis.at(0.5).is_finite());
    }

    #[test]
    fn long_logarithmic_axes_name_powers_of_ten() {
        let axis = Axis::values([0.002, 700.0].into_iter(), 100.0, 0.0);
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
