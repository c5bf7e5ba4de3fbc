//! What the plots have in common: a logarithmic axis of times, lines and labels. Knows nothing of what is drawn.

use std::time::Duration;
use svg::node::element::{Line, Text};

pub(crate) fn line((x1, y1): (f64, f64), (x2, y2): (f64, f64), colour: &str, width: f64) -> Line {
    let line = Line::new().set("x1", x1).set("y1", y1).set("x2", x2).set("y2", y2);
    line.set("stroke", colour).set("stroke-width", width)
}

pub(crate) fn label(x: f64, y: f64, text: &str) -> Text {
    Text::new(text).set("x", x).set("y", y)
}

/// From one power of ten to another, between two places on the x axis.
pub(crate) struct Scale {
    left: f64,
    right: f64,
    lowest: i32,
    highest: i32,
}

impl Scale {
    /// A scale that has room for all of these.
    pub(crate) fn over(times: impl Iterator<Item = Duration>, (left, right): (f64, f64)) -> Self {
        let exponents: Vec<f64> = times.map(exponent).collect();
        let lowest = exponents.iter().copied().fold(f64::INFINITY, f64::min).floor() as i32;
        let highest = exponents.iter().copied().fold(f64::NEG_INFINITY, f64::max).ceil() as i32;
        Self { left, right, lowest, highest: highest.max(lowest + 1) }
    }

    pub(crate) fn x(&self, time: Duration) -> f64 {
        let share = (exponent(time) - f64::from(self.lowest)) / f64::from(self.highest - self.lowest);
        self.left + share * (self.right - self.left)
    }

    /// The powers of ten, and what to write below them.
    pub(crate) fn decades(&self) -> impl Iterator<Item = (Duration, String)> {
        (self.lowest..=self.highest).map(|exponent| {
            let seconds = 10_f64.powi(exponent - 6);
            let name = match exponent {
                ..3 => format!("{:.0} µs", seconds * 1e6),
                3..6 => format!("{:.0} ms", seconds * 1e3),
                _ => format!("{seconds:.0} s"),
            };
            (Duration::from_secs_f64(seconds), name)
        })
    }
}

/// Of ten, in microseconds. What is less than a microsecond counts as one.
fn exponent(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).max(1.0).log10()
}
