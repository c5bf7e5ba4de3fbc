//! What each contender added to the downtime, one dot for each migration, on a logarithmic scale.

use super::Seen;
use crate::drawing::{Scale, label, line};
use crate::report::Picture;
use cutover_tests::statistics::Distribution;
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

pub(super) fn added(seen: &[Seen]) -> Picture {
    let added = seen.iter().flat_map(|seen| &seen.samples).map(|sample| sample.added);
    let scale = Scale::over(added, (LEFT, WIDTH - RIGHT));
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
