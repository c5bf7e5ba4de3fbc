//! One panel for each thing that was counted, over time. Knows nothing of what is right.

use super::Reading;
use cutover_tests::footprint::NAMES;
use svg::Document;
use svg::node::element::{Polyline, Rectangle, Text};

const COLUMNS: usize = 2;
const WIDTH: f64 = 440.0;
const HEIGHT: f64 = 120.0;
const MARGIN: f64 = 30.0;

pub(super) fn draw(readings: &[Reading]) -> String {
    let rows = NAMES.len().div_ceil(COLUMNS);
    let size = (number(COLUMNS) * (WIDTH + MARGIN) + MARGIN, number(rows) * (HEIGHT + 2.0 * MARGIN) + MARGIN);
    let mut document = Document::new()
        .set("viewBox", (0, 0, size.0, size.1))
        .set("font-family", "sans-serif")
        .set("font-size", 13)
        .add(Rectangle::new().set("width", size.0).set("height", size.1).set("fill", "white"));
    let end = readings.last().map_or(1.0, |it| it.at.as_secs_f64()).max(1.0);
    for (place, name) in NAMES.iter().enumerate() {
        let left = MARGIN + number(place % COLUMNS) * (WIDTH + MARGIN);
        let top = 2.0 * MARGIN + number(place / COLUMNS) * (HEIGHT + 2.0 * MARGIN);
        let values: Vec<u64> = readings.iter().map(|it| it.footprint.counts()[place]).collect();
        let most = values.iter().copied().max().unwrap_or_default();
        // From zero on, so that what looks flat is.
        let points = readings.iter().zip(&values).map(|(reading, value)| {
            let x = left + reading.at.as_secs_f64() / end * WIDTH;
            let y = top + HEIGHT - value_of(*value) / value_of(most.max(1)) * HEIGHT * 0.9;
            format!("{x:.1},{y:.1}")
        });
        let frame = Rectangle::new().set("x", left).set("y", top).set("width", WIDTH).set("height", HEIGHT);
        let line = Polyline::new().set("points", points.collect::<Vec<_>>().join(" "));
        let caption = format!("{name}: at most {most}");
        document = document
            .add(frame.set("fill", "none").set("stroke", "#bbb"))
            .add(line.set("fill", "none").set("stroke", "#1f5fa8").set("stroke-width", 1.5))
            .add(Text::new(caption).set("x", left).set("y", top - 6.0))
            .add(Text::new("0").set("x", left).set("y", top + HEIGHT + 14.0).set("fill", "#555"))
            .add(
                Text::new(format!("{:.0} min", end / 60.0))
                    .set("x", left + WIDTH)
                    .set("y", top + HEIGHT + 14.0)
                    .set("text-anchor", "end")
                    .set("fill", "#555"),
            );
    }
    document.to_string()
}

fn number(value: usize) -> f64 {
    f64::from(u32::try_from(value).expect("a few"))
}

#[expect(clippy::cast_precision_loss, reason = "a place on a picture")]
const fn value_of(value: u64) -> f64 {
    value as f64
}
