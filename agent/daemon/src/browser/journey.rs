//! One migration: a line that can be opened, a strip of what took how long, and a table of its phases.

use super::document::table;
use super::html::Html;
use crate::datastore::resource::parse_name;
use crate::timeline::{Migration, Outcome, Panel, Phase, SegmentKind, segments, span};
use cutover_engine::BootTime;
use std::time::Duration;

const COLUMNS: [&str; 5] = ["Phase", "Since its begin", "Since the one before", "Time (UTC)", "Meaning"];
/// Of a strip, in units of its drawing.
const STRIP_WIDTH: f64 = 1000.0;
/// LIMIT: so wide is what took any time at all, or it could not be seen.
const STRIP_LEAST: f64 = 8.0;

/// Port and virtual machine of a resource's name; the name itself if it is none of the usual form.
pub(super) fn port(name: &str) -> String {
    match parse_name("", name) {
        Some(key) => format!("{} of {}", key.endpoint, key.workload.trim_start_matches('/')),
        None => name.to_owned(),
    }
}

/// The host of a resource's name; the name itself if it is none of the usual form.
pub(super) fn host(name: &str) -> String {
    parse_name("", name).map_or_else(|| name.to_owned(), |key| key.host)
}

/// A block that can be opened. `number` tells it from the others of the document.
pub(super) fn block(
    html: &mut Html,
    (kind, number): (&'static str, usize),
    is_open: bool,
    summary: impl FnOnce(&mut Html),
    content: impl FnOnce(&mut Html),
) {
    let id = format!("{kind}-{number}");
    let attributes = [("id", id.as_str()), ("open", "")];
    html.element("details", &attributes[..1 + usize::from(is_open)], |html| {
        html.element("summary", &[], summary);
        html.new_line();
        content(html);
    });
    html.new_line();
}

/// Who came from where, and how it went. Where it came to is said where that is not always the same host.
pub(super) fn summary(html: &mut Html, migration: &Migration, has_target: bool) {
    html.words("strong", &[], &port(&migration.endpoint));
    if let Some(from) = &migration.source {
        html.text(&format!(" from {}", host(from)));
    }
    if has_target {
        html.text(&format!(" to {}", host(&migration.endpoint)));
    }
    html.text(&format!(": {}", result(migration)));
    if let Some(kind) = migration.announcement() {
        html.text(&format!(", announced by {kind}"));
    }
    if let (Some(announced), Some(routed)) = (migration.phases.announced_at, migration.phases.routed_at) {
        html.text(&format!(", routed {} after that", span::text(routed.since(announced))));
    }
    if let Some(blackout) = migration.blackout() {
        html.text(&format!(", blackout {blackout}"));
    }
    html.text(". ");
    let began = migration.unix_ns(migration.began_at());
    html.words("small", &[], &format!("Began {}", span::date(began)));
}

fn result(migration: &Migration) -> String {
    match migration.outcome {
        Outcome::Running(state) => format!("under way ({state})"),
        Outcome::Arrived => "arrived".to_owned(),
        Outcome::NotArrived => "not arrived".to_owned(),
    }
}

/// What somebody who hears or copies it needs to name it elsewhere.
pub(super) fn identity(html: &mut Html, migration: &Migration) {
    html.element("p", &[("class", "identity")], |html| {
        html.text("Migration ");
        html.words("code", &[], &migration.uid);
        html.text(" to ");
        html.words("code", &[], &migration.endpoint);
        if let Some(from) = &migration.source {
            html.text(" from ");
            html.words("code", &[], from);
        }
        if let Some(connections) = migration.phases.connections {
            html.text(&format!(". Tracked connections taken over: {connections}"));
        }
        html.text(".");
    });
}

/// Four strips, each with a scale of its own: a migration lasts minutes and its cut-over microseconds.
pub(super) fn strips(html: &mut Html, migration: &Migration) {
    let all = segments(migration);
    html.element("ul", &[("class", "strips")], |html| {
        for panel in Panel::ALL {
            let of_panel: Vec<_> = all.iter().filter(|segment| segment.kind.panel() == panel).collect();
            let (Some(first), Some(last)) = (of_panel.first(), of_panel.last()) else { continue };
            let total = last.to.since(first.from);
            html.element("li", &[], |html| {
                html.text(&format!("{}: ", panel.heading()));
                let open = if last.is_open { " so far" } else { "" };
                html.words("strong", &[], &format!("{}{open}", span::text(total)));
                // What it shows is in the table as well.
                let drawing =
                    [("viewBox", "0 0 1000 10"), ("preserveAspectRatio", "none"), ("aria-hidden", "true")];
                html.element("svg", &drawing, |html| {
                    for (kind, x, width) in bars(&of_panel, total) {
                        let (x, width) = (format!("{x:.0}"), format!("{width:.0}"));
                        let bar =
                            [("class", class(kind)), ("x", x.as_str()), ("width", &width), ("height", "10")];
                        html.element("rect", &bar, |_| {});
                    }
                });
                let parts: Vec<_> = of_panel
                    .iter()
                    .map(|it| format!("{} {}", it.kind.label(), span::text(it.to.since(it.from))))
                    .collect();
                html.words("small", &[], &parts.join(", "));
            });
        }
    });
    html.new_line();
}

/// Where each segment is drawn, and how wide: to scale, but for those that could not be seen.
fn bars(segments: &[&crate::timeline::Segment], total: Duration) -> Vec<(SegmentKind, f64, f64)> {
    let share = |of: Duration| if total.is_zero() { 1.0 } else { of.as_secs_f64() / total.as_secs_f64() };
    let widths: Vec<_> = segments
        .iter()
        .map(|it| (it.kind, (share(it.to.since(it.from)) * STRIP_WIDTH).max(STRIP_LEAST)))
        .collect();
    let scale = STRIP_WIDTH / widths.iter().map(|(_, width)| width).sum::<f64>();
    let mut x = 0.0;
    let place = |(kind, width): (SegmentKind, f64)| {
        let (left, width) = (x, width * scale);
        x += width;
        (kind, left, width)
    };
    widths.into_iter().map(place).collect()
}

/// What the style knows it by.
const fn class(kind: SegmentKind) -> &'static str {
    match kind {
        SegmentKind::Arming => "arming",
        SegmentKind::Reporting => "reporting",
        SegmentKind::Waiting => "waiting",
        SegmentKind::Taking => "taking",
        SegmentKind::Routing => "routing",
        SegmentKind::Elevated => "elevated",
        SegmentKind::Converging => "converging",
        SegmentKind::Unannounced => "unannounced",
    }
}

/// What came, in the order in which it did, and what did not. Many of them leave the meaning to [`meanings`].
pub(super) fn phases(
    html: &mut Html,
    id: &'static str,
    number: usize,
    migration: &Migration,
    has_meaning: bool,
) {
    let caption = format!("Phases of the migration of {}", port(&migration.endpoint));
    let columns = &COLUMNS[..COLUMNS.len() - usize::from(!has_meaning)];
    table(html, &format!("{id}-{number}"), &caption, columns, |html| {
        let began = migration.began_at();
        let mut before = None;
        for (phase, at) in migration.steps() {
            let unix_ns = migration.unix_ns(at);
            let date = if migration.is_exact { span::exact_date(unix_ns) } else { span::date(unix_ns) };
            let since_before = before.map_or_else(|| "–".to_owned(), |before| since(before, at));
            let cells = [since(began, at), since_before, date];
            let meaning = has_meaning.then(|| phase.meaning(migration.outcome));
            row(html, phase.name(migration.outcome), &cells, meaning);
            before = Some(at);
        }
        let verdict = if migration.is_running() { "not yet" } else { "not, or nobody saw it" };
        for phase in Phase::ALL {
            if phase.is_usual() && phase.at(&migration.phases).is_none() {
                let cells = ["–", "–", verdict].map(str::to_owned);
                let meaning = has_meaning.then(|| phase.meaning(migration.outcome));
                row(html, phase.name(migration.outcome), &cells, meaning);
            }
        }
    });
}

fn row(html: &mut Html, name: &str, cells: &[String; 3], meaning: Option<&str>) {
    html.element("tr", &[], |html| {
        html.words("th", &[("scope", "row")], name);
        cells.iter().for_each(|cell| html.words("td", &[("class", "number")], cell));
        if let Some(meaning) = meaning {
            html.words("td", &[], meaning);
        }
    });
    html.new_line();
}

/// What each phase means, once for all.
pub(super) fn meanings(html: &mut Html) {
    block(
        html,
        ("meanings", 0),
        false,
        |html| html.text("What the phases mean"),
        |html| {
            html.element("dl", &[], |html| {
                for phase in Phase::ALL {
                    html.element("div", &[], |html| {
                        html.words("dt", &[], phase.name(Outcome::Arrived));
                        html.words("dd", &[], phase.meaning(Outcome::Arrived));
                    });
                }
            });
        },
    );
}

fn since(from: BootTime, to: BootTime) -> String {
    if to >= from {
        format!("+{}", span::text(to.since(from)))
    } else {
        format!("-{}", span::text(from.since(to)))
    }
}
