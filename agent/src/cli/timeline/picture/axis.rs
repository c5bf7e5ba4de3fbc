//! A time axis from zero with few round marks, in the unit that fits.

use std::time::Duration;

/// LIMIT: more marks than this run into each other.
const MARKS_MAX: f64 = 4.0;

/// The axis of a panel.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Axis {
    unit_s: f64,
    unit: &'static str,
    /// Distance of two marks, in units.
    step: f64,
    /// How many of them.
    marks: u32,
}

impl Axis {
    /// One that has room for every span.
    pub(super) fn for_spans(spans: impl Iterator<Item = Option<Duration>>) -> Self {
        let longest_s = spans.flatten().max().unwrap_or_default().as_secs_f64().max(1e-9);
        let units = [(7200.0, "h"), (120.0, "min"), (1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (0.0, "ns")];
        let unit = units.into_iter().find(|(from_s, _)| longest_s >= *from_s).map_or("ns", |(_, unit)| unit);
        let unit_s = match unit {
            "h" => 3600.0,
            "min" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "µs" => 1e-6,
            _ => 1e-9,
        };
        let longest = longest_s / unit_s;
        let power = 10_f64.powf((longest / MARKS_MAX).log10().floor());
        // The longest may be a hair above a round number because of how fractions are kept.
        let enough = |factor: &f64| longest / (power * factor) <= MARKS_MAX + 1e-9;
        let factor = [1.0, 2.0, 5.0].into_iter().find(enough).unwrap_or(10.0);
        let step = power * factor;
        let mut marks = 1;
        while f64::from(marks) * step < longest * (1.0 - 1e-9) {
            marks += 1;
        }
        Self { unit_s, unit, step, marks }
    }

    /// How far along the axis the end of a span is, between 0 and 1.
    pub(super) fn fraction(&self, span: Duration) -> f64 {
        (span.as_secs_f64() / (self.unit_s * self.step * f64::from(self.marks))).min(1.0)
    }

    /// Every mark with its label.
    pub(super) fn ticks(&self) -> impl Iterator<Item = (f64, String)> + '_ {
        (0..=self.marks).map(|mark| {
            let value = f64::from(mark) * self.step;
            let decimals = if self.step < 0.1 { 2 } else { usize::from(self.step < 1.0) };
            let label = match mark {
                0 => "0".to_owned(),
                _ if mark == self.marks => format!("{value:.decimals$} {}", self.unit),
                _ => format!("{value:.decimals$}"),
            };
            (f64::from(mark) / f64::from(self.marks), label)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(nanoseconds: &[u64]) -> Vec<String> {
        let spans = nanoseconds.iter().map(|ns| Some(Duration::from_nanos(*ns)));
        Axis::for_spans(spans).ticks().map(|(_, label)| label).collect()
    }

    #[test]
    fn marks_are_round_and_reach_the_longest() {
        assert_eq!(labels(&[43_000]), ["0", "20", "40", "60 µs"]);
        assert_eq!(labels(&[43_000, 1_000]), labels(&[43_000]));
        assert_eq!(labels(&[4_000_000_000]), ["0", "1", "2", "3", "4 s"]);
        assert_eq!(labels(&[30_000_000_000]), ["0", "10", "20", "30 s"]);
        assert_eq!(labels(&[119_000_000_000]), ["0", "50", "100", "150 s"]);
        assert_eq!(labels(&[600_000_000_000]), ["0", "5", "10 min"]);
    }

    #[test]
    fn every_span_has_its_place() {
        let spans = || (0..60).map(|power| Some(Duration::from_nanos(1 << power)));
        for count in 1..60 {
            let axis = Axis::for_spans(spans().take(count));
            let fractions: Vec<_> = spans().take(count).flatten().map(|span| axis.fraction(span)).collect();
            assert!(fractions.is_sorted() && fractions.iter().all(|it| (0.0..=1.0).contains(it)));
            assert!(*fractions.last().unwrap() > 0.4, "{axis:?}");
            assert!(axis.marks <= 4, "{axis:?}");
        }
        assert_eq!(Axis::for_spans([None].into_iter()).fraction(Duration::ZERO), 0.0);
    }
}
