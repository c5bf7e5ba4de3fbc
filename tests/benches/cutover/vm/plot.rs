//! Pictures of times and of counts, one dot for each migration, on a logarithmic scale.

use super::{Seen, counts};
use crate::drawing::{Scale, label, line};
use crate::report::Picture;
use cutover_tests::statistics::Distribution;
use std::time::Duration;
use svg::Document;
use svg::node::element::{Circle, Group, Rectangle, Title};

const WIDTH: f64 = 860.0;
/// Where the scale begins, right of the names.
const LEFT: f64 = 330.0;
const RIGHT: f64 = 30.0;
const TOP: f64 = 56.0;
const ROW: f64 = 54.0;
/// Dots of one row lie on a few lines, so that equal ones do not hide each other.
const LANES: usize = 5;
const COLOURS: [&str; 6] = ["#0072b2", "#56b4e9", "#009e73", "#cc79a7", "#e69f00", "#999999"];
const INK: &str = "#1a1a1a";

/// What each contender added.
pub(super) fn added(seen: &[&Seen]) -> Picture {
    let rows: Vec<_> = seen
        .iter()
        .map(|seen| {
            let added = seen.samples.iter().map(|sample| sample.added).collect();
            (seen.case.name.replace('`', ""), added)
        })
        .collect();
    Picture {
        file: "vm-migration.svg",
        description: "how long after the guest ran again the client still sent elsewhere, by contender",
        svg: draw_times("How long after the guest ran again the client still sent elsewhere", &rows),
    }
}

/// When each step of Cutover's migrations was.
pub(super) fn steps(rows: &[(String, Vec<Duration>)]) -> Picture {
    Picture {
        file: "vm-steps.svg",
        description: "when each step of Cutover's migrations was, after the guest ran again",
        svg: draw_times("Cutover: when each step was, after the guest ran again", rows),
    }
}

/// How many datagrams were lost in each migration.
pub(super) fn lost(seen: &[&Seen]) -> Picture {
    let lost = |seen: &&Seen| seen.samples.iter().map(|sample| sample.lost).collect::<Vec<_>>();
    let most = seen.iter().flat_map(lost).max().unwrap_or_default().max(9);
    let place = |count: usize| {
        let share = ((count + 1) as f64).log10() / ((most + 1) as f64).log10();
        LEFT + share * (WIDTH - RIGHT - LEFT)
    };
    let rows: Vec<Row> = seen
        .iter()
        .map(|seen| Row {
            name: seen.case.name.to_owned(),
            places: lost(seen).into_iter().map(place).collect(),
            median: counts(seen, |sample| sample.lost).median.to_string(),
        })
        .collect();
    let powers = std::iter::successors(Some(1), |power| Some(power * 10)).take_while(|power| *power <= most);
    let ticks: Vec<_> =
        std::iter::once(0).chain(powers).map(|count| (place(count), count.to_string())).collect();
    Picture {
        file: "vm-lost.svg",
        description: "how many datagrams were lost in each migration, by what the agents do",
        svg: draw("How many datagrams were lost, all in all, in each migration", &rows, &ticks),
    }
}

/// One line of dots.
struct Row {
    name: String,
    /// Where the dots are.
    places: Vec<f64>,
    /// What the one in the middle stands for.
    median: String,
}

/// Lines of dots on a logarithmic axis of times.
fn draw_times(title: &str, rows: &[(String, Vec<Duration>)]) -> String {
    let times = rows.iter().flat_map(|(_, times)| times.iter().copied());
    let scale = Scale::over(times, (LEFT, WIDTH - RIGHT));
    let ticks: Vec<_> = scale.decades().map(|(decade, name)| (scale.x(decade), name)).collect();
    let rows: Vec<Row> = rows
        .iter()
        .filter(|(_, times)| !times.is_empty())
        .map(|(name, times)| Row {
            name: name.clone(),
            places: times.iter().map(|time| scale.x(*time)).collect(),
            median: milliseconds(Distribution::of(times.clone()).median()),
        })
        .collect();
    draw(title, &rows, &ticks)
}

fn draw(title: &str, rows: &[Row], ticks: &[(f64, String)]) -> String {
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
    for (x, name) in ticks {
        document = document
            .add(line((*x, TOP - 10.0), (*x, height - 40.0), "#dddddd", 1.0))
            .add(label(*x, height - 22.0, name).set("text-anchor", "middle"));
    }
    for (number, row) in rows.iter().enumerate() {
        document = document.add(dots(row, number));
    }
    document.to_string()
}

fn dots(row: &Row, number: usize) -> Group {
    let colour = COLOURS[number % COLOURS.len()];
    let middle = TOP + ROW * (number as f64 + 0.5);
    let mut group = Group::new().add(label(16.0, middle + 4.0, &row.name));
    for (index, place) in row.places.iter().enumerate() {
        let lane = (index % LANES) as f64 - (LANES / 2) as f64;
        group = group.add(
            Circle::new()
                .set("cx", *place)
                .set("cy", middle + lane * 6.0)
                .set("r", 3.5)
                .set("fill", colour)
                .set("fill-opacity", 0.7),
        );
    }
    let mut places = row.places.clone();
    places.sort_unstable_by(f64::total_cmp);
    let x = places[(places.len() - 1) / 2];
    let value = format!("median {}", row.median);
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
