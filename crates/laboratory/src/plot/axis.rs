//! Scales, their ticks, and numbers with their units.

/// How values are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// From 0.
    Linear,
    /// By powers.
    Logarithmic,
}

/// What a number is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Nanoseconds, shown with the unit that fits.
    Nanoseconds,
    /// Bytes, in binary units.
    Bytes,
    /// Seconds.
    Seconds,
    /// A share; 1 is 100 %.
    Share,
    /// Just a number.
    Count,
}

/// Ticks on a linear axis, at most.
const TICKS: f64 = 6.0;
/// Powers on a logarithmic axis with a tick each, at most.
const POWERS_MAX: i32 = 9;

/// An axis laid out: where values are, from 0 to 1, and its ticks.
pub(super) struct Layout {
    scale: Scale,
    low: f64,
    high: f64,
    pub(super) ticks: Vec<f64>,
}

impl Layout {
    pub(super) fn of(scale: Scale, unit: Unit, values: impl Iterator<Item = f64>) -> Self {
        let usable = |value: &f64| value.is_finite() && (scale == Scale::Linear || *value > 0.0);
        let (low, high) = values
            .filter(usable)
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
                (low.min(value), high.max(value))
            });
        match scale {
            Scale::Linear => Self::linear(high),
            Scale::Logarithmic => Self::logarithmic(low, high, unit),
        }
    }

    fn linear(high: f64) -> Self {
        let high = if high > 0.0 { high } else { 1.0 };
        let rough = high / TICKS;
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0]
            .into_iter()
            .map(|factor| factor * power)
            .find(|step| *step >= rough)
            .unwrap_or(rough);
        let count = (high / step).ceil();
        Self {
            scale: Scale::Linear,
            low: 0.0,
            high: count * step,
            ticks: (0..=count as u32)
                .map(|tick| f64::from(tick) * step)
                .collect(),
        }
    }

    fn logarithmic(low: f64, high: f64, unit: Unit) -> Self {
        let (low, high) = if low.is_finite() {
            (low, high)
        } else {
            (1.0, 10.0)
        };
        let base: f64 = if unit == Unit::Bytes { 4.0 } else { 10.0 };
        let first = low.log(base).floor() as i32;
        let last = (high.log(base).ceil() as i32).max(first + 1);
        let step = 1 + (last - first) / POWERS_MAX;
        let ticks = (first..=last).step_by(step as usize);
        Self {
            scale: Scale::Logarithmic,
            low: base.powi(first),
            high: base.powi(last),
            ticks: ticks.map(|power| base.powi(power)).collect(),
        }
    }

    /// Where a value is, from 0 to 1; what cannot be shown is at the edge.
    pub(super) fn at(&self, value: f64) -> f64 {
        let place = match self.scale {
            Scale::Linear => value / self.high,
            Scale::Logarithmic => (value / self.low).ln() / (self.high / self.low).ln(),
        };
        if place.is_nan() {
            0.0
        } else {
            place.clamp(0.0, 1.0)
        }
    }
}

/// A number as people read it, with three digits that matter.
pub(super) fn shown(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Nanoseconds => scaled(value, 1000.0, &["ns", "µs", "ms", "s"]),
        Unit::Bytes => scaled(value, 1024.0, &["B", "KiB", "MiB", "GiB"]),
        Unit::Seconds if value == 0.0 => "0 s".to_owned(),
        Unit::Seconds if value < 1.0 => scaled(value * 1e9, 1000.0, &["ns", "µs", "ms", "s"]),
        Unit::Seconds => format!("{} s", digits(value)),
        Unit::Share => format!("{} %", digits(value * 100.0)),
        Unit::Count => digits(value),
    }
}

fn scaled(mut value: f64, step: f64, units: &[&str]) -> String {
    let mut at = 0;
    while value >= step * 0.9995 && at + 1 < units.len() {
        value /= step;
        at += 1;
    }
    format!("{} {}", digits(value), units[at])
}

fn digits(value: f64) -> String {
    let decimals = usize::from(value.abs() < 99.95) + usize::from(value.abs() < 9.995);
    let text = format!("{value:.decimals$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_cover_the_values() {
        let linear = Layout::of(Scale::Linear, Unit::Count, [3.0, 11.0].into_iter());
        assert_eq!(linear.ticks, [0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0]);
        assert_eq!(linear.at(6.0), 0.5);
        let powers = Layout::of(Scale::Logarithmic, Unit::Count, [2.0, 500.0].into_iter());
        assert_eq!(powers.ticks, [1.0, 10.0, 100.0, 1000.0]);
        assert_eq!(powers.at(0.0), 0.0);
        let nothing = Layout::of(Scale::Logarithmic, Unit::Bytes, std::iter::empty());
        assert!(nothing.ticks.len() >= 2);
        let zero = Layout::of(Scale::Linear, Unit::Share, [0.0].into_iter());
        assert_eq!(zero.at(0.0), 0.0);
    }

    #[test]
    fn numbers_with_units() {
        for (value, unit, text) in [
            (1.3, Unit::Nanoseconds, "1.3 ns"),
            (31_200.0, Unit::Nanoseconds, "31.2 µs"),
            (5e8, Unit::Nanoseconds, "500 ms"),
            (4096.0, Unit::Bytes, "4 KiB"),
            (0.02, Unit::Seconds, "20 ms"),
            (0.0, Unit::Seconds, "0 s"),
            (0.5, Unit::Share, "50 %"),
            (0.0, Unit::Count, "0"),
            (100.0, Unit::Count, "100"),
        ] {
            assert_eq!(shown(value, unit), text);
        }
    }
}
