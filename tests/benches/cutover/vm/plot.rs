//! Pictures of times, one dot for each migration, on a logarithmic scale.

use super::Seen;
use crate::drawing::{Scale, label, line};
use crate::report::Picture;
use cutover_tests::statistics::Distribution;
use std::time::Duration;
use svg::Document;
use svg::node::element::{Circle, Group, Rectangle, Title};

const WIDTH: f64 = 860.0;
/// Where the scale begins, right of the names.
const LEFT: f64 = 300.0;
const RIGHT: f64 = 30.0;
const TOP: f64 = 56.0;
const ROW: f64 = 54.0;
/// Dots of one row lie on a few lines, so that equal ones do not hide each other.
const LANES: usize = 5;
const COLOURS: [&str; 4] = ["#0072b2", "#56b4e9", "#e69f00", "#999999"];
const INK: &str = "#1a1a1a";

/// What each contender added.
pub(super) fn added(seen: &[Seen]) -> Picture {
    let rows: Vec<_> = seen
        .iter()
        .map(|seen| {
            let added = seen.samples.iter().map(|sample| sample.added).collect();
            (seen.name.replace('`', ""), added)
        })
        .collect();
    Picture {
        file: "vm-migration.svg",
        description: "how long after the guest ran again the client still sent elsewhere, by contender",
        svg: draw("How long after the guest ran again the client still sent elsewhere", &rows),
    }
}

/// When each step of Cutover's migrations was.
pub(super) fn steps(rows: &[(String, Vec<Duration>)]) -> Picture {
    Picture {
        file: "vm-steps.svg",
        description: "when each step of Cutover's migrations was, after the guest ran again",
        svg: draw("Cutover: when each step was, after the guest ran again", rows),
    }
}

/// One line of dots for each row.
fn draw(title: &str, rows: &[(String, Vec<Duration>)]) -> String {
    let times = rows.iter().flat_map(|(_, times)| times.iter().copied());
    let scale = Scale::over(times, (LEFT, WIDTH - RIGHT));
    let height = TOP + ROW * rows.len() as f64 + 44.0;
    let mut document = Document::new()
        .set("viewBox", (0, 0, WIDTH, height))
        .set("font-family", "sans-serif")
        .set("font-size", 13)
        .set("fill", INK)
        .set("role", "img")
        .add(Title::new(title))
        // Readers may have a dark page.
        .add(Rectangle::new().set("width", WIDTH).set("height", height).set("fill", "white"))
        .add(label(16.0, 24.0, title).set("font-size", 15));
    for (decade, name) in scale.decades() {
        let (x, bottom) = (scale.x(decade), height - 40.0);
        document = document
            .add(line((x, TOP - 10.0), (x, bottom), "#dddddd", 1.0))
            .add(label(x, height - 22.0, &name).set("text-anchor", "middle"));
    }
    for (number, (name, times)) in rows.iter().enumerate().filter(|(_, (_, times))| !times.is_empty()) {
        document = document.add(row(name, times, &scale, number));
    }
    document.to_string()
}

fn row(name: &str, times: &[Duration], scale: &Scale, number: usize) -> Group {
    let colour = COLOURS[number % COLOURS.len()];
    let middle = TOP + ROW * (number as f64 + 0.5);
    let mut group = Group::new().add(label(16.0, middle + 4.0, name));
    for (index, time) in times.iter().enumerate() {
        let lane = (index % LANES) as f64 - (LANES / 2) as f64;
        group = group.add(
            Circle::new()
                .set("cx", scale.x(*time))
                .set("cy", middle + lane * 6.0)
                .set("r", 3.5)
                .set("fill", colour)
                .set("fill-opacity", 0.7),
        );
    }
    let median = Distribution::of(times.to_vec()).median();
    let x = scale.x(median);
    let value = format!("median {}", milliseconds(median));
    // Where there is no room on the right, it is on the left.
    let (at, anchor) = if x > WIDTH - 130.0 { (x - 4.0, "end") } else { (x + 4.0, "start") };
    group
        .add(line((x, middle - 20.0), (x, middle + 20.0), INK, 2.0))
        .add(label(at, middle - 17.0, &value).set("font-size", 11).set("text-anchor", anchor))
}

fn milliseconds(time: Duration) -> String {
    let micros = time.as_micros();
    if micros < 1000 { format!("{micros} µs") } else { format!("{:.2} ms", time.as_secs_f64() * 1e3) }
}
