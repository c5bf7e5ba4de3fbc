//! How long after the announcement each step was done, one dot for each migration, on a logarithmic scale.

use super::{GOAL, Seen, millis};
use crate::drawing::{Scale, label, line};
use crate::report::Picture;
use cutover_tests::statistics::Distribution;
use std::time::Duration;
use svg::Document;
use svg::node::element::{Circle, Group, Rectangle, Title};

const WIDTH: f64 = 980.0;
const MARGIN: f64 = 16.0;
/// Where the scale begins, right of the names, and where it ends, left of the figures.
const LEFT: f64 = 190.0;
const RIGHT: f64 = 800.0;
const MEDIANS: f64 = 880.0;
const P99S: f64 = WIDTH - MARGIN;
const TOP: f64 = 104.0;
const ROW: f64 = 72.0;
const STRIP: f64 = 21.0;
const BOTTOM: f64 = 56.0;
/// Dots of one strip lie on a few lines, so that equal ones do not hide each other.
const LANES: usize = 5;
const LANE: f64 = 3.2;
const INK: &str = "#1a1a1a";
const FAINT_INK: &str = "#555555";
const GRID: &str = "#dddddd";

/// One of the three strips of each row.
struct Step {
    name: &'static str,
    colour: &'static str,
    times: fn(&Seen) -> Vec<Duration>,
}

const STEPS: [Step; 3] = [
    Step {
        name: "route in the target's kernel",
        colour: "#009e73",
        times: |seen| seen.samples.iter().map(|sample| sample.to_target).collect(),
    },
    Step {
        name: "route in the kernel of the third host, or ToR",
        colour: "#0072b2",
        times: |seen| seen.samples.iter().map(|sample| sample.to_last_hop).collect(),
    },
    Step {
        name: "first packet on the target's tap",
        colour: "#d55e00",
        times: |seen| seen.samples.iter().map(|sample| sample.to_packet).collect(),
    },
];

pub(super) fn convergence(seen: &[Seen]) -> Picture {
    let all = seen.iter().flat_map(|seen| STEPS.iter().flat_map(|step| (step.times)(seen)));
    let scale = Scale::over(all.chain([GOAL]), (LEFT, RIGHT));
    let bottom = TOP + ROW * seen.len() as f64;
    let height = bottom + BOTTOM;
    let mut document = Document::new()
        .set("viewBox", (0, 0, WIDTH, height))
        .set("width", WIDTH)
        .set("height", height)
        .set("font-family", "system-ui, 'DejaVu Sans', Arial, sans-serif")
        .set("font-size", 13)
        .set("fill", INK)
        .set("role", "img")
        .add(Title::new("From the announcement of a machine to the routes of the network"))
        // The background is part of the picture: it is read on dark pages, too.
        .add(Rectangle::new().set("width", WIDTH).set("height", height).set("rx", 6).set("fill", "#ffffff"))
        .add(
            label(MARGIN, 28.0, "How long after its announcement the network follows a machine")
                .set("font-size", 17),
        )
        .add(legend())
        .add(axis(&scale, bottom))
        .add(heads());
    for (number, seen) in seen.iter().enumerate() {
        document = document.add(row(seen, &scale, TOP + ROW * number as f64));
    }
    Picture {
        file: "convergence.svg",
        description: "time from the announcement to each step, by daemon and peering",
        svg: document.to_string(),
    }
}

fn legend() -> Group {
    let mut group = Group::new();
    for (step, x) in STEPS.iter().zip([MARGIN, 240.0, 560.0]) {
        let dot = Circle::new().set("cx", x + 5.0).set("cy", 50.0).set("r", 5).set("fill", step.colour);
        group = group.add(dot).add(label(x + 16.0, 54.5, step.name));
    }
    let median = 812.0;
    group.add(line((median, 41.0), (median, 59.0), INK, 2.0)).add(label(median + 10.0, 54.5, "median"))
}

fn heads() -> Group {
    let head = |x: f64, text: &str| {
        label(x, TOP - 12.0, text).set("text-anchor", "end").set("fill", FAINT_INK).set("font-size", 12)
    };
    Group::new().add(head(MEDIANS, "median")).add(head(P99S, "p99"))
}

fn axis(scale: &Scale, bottom: f64) -> Group {
    let mut group = Group::new();
    for (decade, name) in scale.decades() {
        let x = scale.x(decade);
        group = group
            .add(line((x, TOP - 6.0), (x, bottom + 6.0), GRID, 1.0))
            .add(label(x, bottom + 22.0, &name).set("text-anchor", "middle"));
    }
    let goal = scale.x(GOAL);
    let middle = f64::midpoint(LEFT, RIGHT);
    group
        .add(line((goal, TOP - 6.0), (goal, bottom + 6.0), INK, 1.2).set("stroke-dasharray", "5 4"))
        .add(
            label(goal, TOP - 12.0, "goal: 3 ms, p99 of BIRD with iBGP")
                .set("text-anchor", "middle")
                .set("font-size", 12),
        )
        .add(
            label(middle, bottom + 44.0, "time since the announcement, logarithmic scale")
                .set("text-anchor", "middle"),
        )
}

fn row(seen: &Seen, scale: &Scale, top: f64) -> Group {
    let name = seen.case.name();
    let count = format!("{} migrations", seen.samples.len());
    let mut group = Group::new()
        .add(line((MARGIN, top), (WIDTH - MARGIN, top), GRID, 1.0))
        .add(label(MARGIN, top + 30.0, name).set("font-weight", "bold"))
        .add(label(MARGIN, top + 48.0, &count).set("fill", FAINT_INK).set("font-size", 12));
    for (number, step) in STEPS.iter().enumerate() {
        let middle = top + 15.0 + STRIP * number as f64;
        group = group.add(strip(step, &(step.times)(seen), scale, middle));
    }
    group
}

fn strip(step: &Step, times: &[Duration], scale: &Scale, middle: f64) -> Group {
    let mut group = Group::new();
    for (index, time) in times.iter().enumerate() {
        let lane = (index % LANES) as f64 - (LANES / 2) as f64;
        let dot = Circle::new().set("cx", place(scale.x(*time))).set("cy", place(middle + lane * LANE));
        group = group.add(dot.set("r", 2.2).set("fill", step.colour).set("fill-opacity", 0.45));
    }
    let times = Distribution::of(times.to_vec());
    let median = scale.x(times.median());
    let value = |x: f64, time| {
        let text = label(x, middle + 4.0, &millis(time)).set("text-anchor", "end");
        text.set("fill", step.colour).set("font-size", 12)
    };
    group
        .add(line((median, middle - 9.0), (median, middle + 9.0), INK, 2.0))
        .add(value(MEDIANS, times.median()))
        .add(value(P99S, times.p99()))
}

/// Tenths of a unit are finer than anybody sees, and a thousand dots are long enough.
fn place(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}
