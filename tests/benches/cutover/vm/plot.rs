//! What each contender added to the downtime, one dot for each migration, on a logarithmic scale.

use super::Seen;
use crate::report::Picture;
use cutover_tests::statistics::Distribution;
use std::time::Duration;
use svg::Document;
use svg::node::element::{Circle, Group, Line, Rectangle, Text, Title};

const WIDTH: f64 = 860.0;
/// Where the scale begins, right of the names.
const LEFT: f64 = 300.0;
const RIGHT: f64 = 30.0;
const TOP: f64 = 56.0;
const ROW: f64 = 54.0;
/// Dots of one row lie on a few lines, so that equal ones do not hide each other.
const LANES: usize = 5;
const COLOURS: [&str; 4] = ["#0072b2", "#56b4e9", "#e69f00", "#999999"];

pub(super) fn added(seen: &[Seen]) -> Picture {
    let scale = Scale::over(seen.iter().flat_map(|seen| &seen.samples).map(|sample| sample.added));
    let height = TOP + ROW * seen.len() as f64 + 44.0;
    let mut document = Document::new()
        .set("viewBox", (0, 0, WIDTH, height))
        .set("font-family", "sans-serif")
        .set("font-size", 13)
        .set("role", "img")
        .add(Title::new("What the network adds to the downtime of a live migration"))
        .add(Rectangle::new().set("width", WIDTH).set("height", height).set("fill", "white"))
        .add(
            label(16.0, 24.0, "How long after the guest ran again the client still sent elsewhere")
                .set("font-size", 15),
        );
    for (decade, name) in scale.decades() {
        let (x, bottom) = (scale.x(decade), height - 40.0);
        document = document
            .add(line((x, TOP - 10.0), (x, bottom), "#dddddd", 1.0))
            .add(label(x, height - 22.0, &name).set("text-anchor", "middle"));
    }
    for (number, seen) in seen.iter().enumerate() {
        document = document.add(row(seen, &scale, number));
    }
    Picture {
        file: "vm-migration.svg",
        description: "time that the network adds, by contender",
        svg: document.to_string(),
    }
}

fn row(seen: &Seen, scale: &Scale, number: usize) -> Group {
    let colour = COLOURS[number % COLOURS.len()];
    let middle = TOP + ROW * (number as f64 + 0.5);
    let mut group = Group::new().add(label(16.0, middle + 4.0, &seen.name.replace('`', "")));
    for (index, sample) in seen.samples.iter().enumerate() {
        let lane = (index % LANES) as f64 - (LANES / 2) as f64;
        group = group.add(
            Circle::new()
                .set("cx", scale.x(sample.added))
                .set("cy", middle + lane * 6.0)
                .set("r", 3.5)
                .set("fill", colour)
                .set("fill-opacity", 0.7),
        );
    }
    let median = Distribution::of(seen.samples.iter().map(|sample| sample.added).collect()).median();
    let x = scale.x(median);
    let value = format!("median {:.2} ms", median.as_secs_f64() * 1e3);
    group
        .add(line((x, middle - 20.0), (x, middle + 20.0), "black", 2.0))
        .add(label(x + 4.0, middle - 17.0, &value).set("font-size", 11))
}

fn line((x1, y1): (f64, f64), (x2, y2): (f64, f64), colour: &str, width: f64) -> Line {
    let line = Line::new().set("x1", x1).set("y1", y1).set("x2", x2).set("y2", y2);
    line.set("stroke", colour).set("stroke-width", width)
}

fn label(x: f64, y: f64, text: &str) -> Text {
    Text::new(text).set("x", x).set("y", y)
}

/// From one power of ten to another.
struct Scale {
    lowest: i32,
    highest: i32,
}

impl Scale {
    fn over(times: impl Iterator<Item = Duration>) -> Self {
        let exponents: Vec<f64> = times.map(exponent).collect();
        let lowest = exponents.iter().copied().fold(f64::INFINITY, f64::min).floor() as i32;
        let highest = exponents.iter().copied().fold(f64::NEG_INFINITY, f64::max).ceil() as i32;
        Self { lowest, highest: highest.max(lowest + 1) }
    }

    fn x(&self, time: Duration) -> f64 {
        let share = (exponent(time) - f64::from(self.lowest)) / f64::from(self.highest - self.lowest);
        LEFT + share * (WIDTH - LEFT - RIGHT)
    }

    fn decades(&self) -> impl Iterator<Item = (Duration, String)> {
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
