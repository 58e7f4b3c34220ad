//! An axis, logarithmic or even: where a value stands and which values are written beside it.

/// Maps values to places on the page; the ticks lie between the ends.
pub(super) struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
    logarithmic: bool,
    /// Values with their labels, ascending.
    pub(super) ticks: Vec<(f64, String)>,
}

impl Axis {
    /// From `from` to `to` on the page, with a tick at every length that was measured.
    pub(super) fn lengths(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let mut lengths: Vec<f64> = values.collect();
        lengths.sort_by(f64::total_cmp);
        lengths.dedup();
        let (low, high) = (lengths[0], lengths[lengths.len() - 1]);
        // A little room, so that no marker stands on the edge.
        let room = (high / low).max(2.0).powf(0.06);
        let ticks = lengths
            .into_iter()
            .map(|length| (length, grouped(length)))
            .collect();
        Axis {
            low: low / room,
            high: high * room,
            from,
            to,
            logarithmic: true,
            ticks,
        }
    }

    /// From `from` to `to` on the page, between the nearest of 1, 2, 5, 10, 20, … around `values`.
    pub(super) fn values(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
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
        let ticks = shown.iter().map(|step| (*step, short(*step))).collect();
        Axis {
            low: shown[0],
            high: shown[shown.len() - 1],
            from,
            to,
            logarithmic: true,
            ticks,
        }
    }

    /// Evenly from `from` to `to` on the page, around `values`, with ticks 1, 2 or 5 times a power
    /// of ten apart, three to seven of them.
    pub(super) fn even(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let (least, most) = values.fold(
            (f64::INFINITY, f64::NEG_INFINITY),
            |(least, most), value| (least.min(value), most.max(value)),
        );
        let range = (most - least).max(most.abs() * 1e-6).max(1e-9);
        let power = 10f64.powf((range / 3.0).log10().floor());
        let step = [5.0, 2.0, 1.0]
            .map(|m| m * power)
            .into_iter()
            .find(|step| range / step >= 3.0)
            .unwrap_or(power);
        let (first, last) = ((least / step).floor(), (most / step).ceil());
        let decimals = (-step.log10().floor()).max(0.0) as usize;
        let ticks = (0..=(last - first) as usize).map(|i| {
            let value = (first + i as f64) * step;
            let label = match decimals {
                0 => grouped(value),
                _ => format!("{value:.decimals$}"),
            };
            (value, label)
        });
        Axis {
            low: first * step,
            high: last.max(first + 1.0) * step,
            from,
            to,
            logarithmic: false,
            ticks: ticks.collect(),
        }
    }

    /// The ends of the axis.
    pub(super) fn ends(&self) -> (f64, f64) {
        (self.low, self.high)
    }

    /// The place of `value`.
    pub(super) fn at(&self, value: f64) -> f64 {
        let part = if self.logarithmic {
            (value / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        self.from + (self.to - self.from) * part
    }
}

/// A whole number with commas between groups of three digits.
pub(super) fn grouped(value: f64) -> String {
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
    fn ticks_enclose_the_values() {
        let axis = Axis::values([0.3, 7.0].into_iter(), 100.0, 0.0);
        let labels: Vec<&str> = axis.ticks.iter().map(|tick| tick.1.as_str()).collect();
        assert_eq!(labels, ["0.2", "0.5", "1", "2", "5", "10"]);
        assert_eq!((axis.at(0.2), axis.at(10.0)), (100.0, 0.0));
        assert!(axis.at(0.3) > axis.at(7.0), "up the page");
    }

    #[test]
    fn even_ticks_enclose_the_values_and_are_round() {
        let labels = |values: [f64; 2]| -> Vec<String> {
            let axis = Axis::even(values.into_iter(), 0.0, 100.0);
            assert_eq!(
                (axis.at(axis.ends().0), axis.at(axis.ends().1)),
                (0.0, 100.0)
            );
            assert!(axis.ends().0 <= values[0] && values[1] <= axis.ends().1);
            axis.ticks.into_iter().map(|tick| tick.1).collect()
        };
        let grouped = ["0", "200,000", "400,000", "600,000", "800,000", "1,000,000"];
        assert_eq!(labels([0.0, 1e6]), grouped);
        assert_eq!(
            labels([-1.2, 0.9]),
            ["-1.5", "-1.0", "-0.5", "0.0", "0.5", "1.0"]
        );
        assert_eq!(labels([3.1, 3.48]), ["3.1", "3.2", "3.3", "3.4", "3.5"]);
        assert!(labels([2.0, 2.0]).len() >= 2, "one value has an axis too");
    }

    #[test]
    fn one_value_has_an_axis_too() {
        let axis = Axis::values([5.0].into_iter(), 0.0, 100.0);
        assert!(axis.at(5.0).is_finite() && axis.ticks.len() == 2);
        let axis = Axis::lengths([1024.0].into_iter(), 0.0, 100.0);
        assert!((axis.at(1024.0) - 50.0).abs() < 1e-9);
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
