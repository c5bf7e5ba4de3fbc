//! The timeline as a picture: one lane for each migration, across four panels with a time axis of their own.
//!
//! A migration lasts minutes and its cut-over microseconds, so that one axis, also a logarithmic one, would show
//! either or lie about lengths. Bars of a panel begin at its left edge and can be compared with each other.
//! The picture needs nothing but a viewer: no script, no font of its own, dark on light, with text for those who
//! cannot see it.

mod axis;

use axis::Axis;
use cutover_daemon::datastore::resource::parse_name;
use cutover_daemon::timeline::{Migration, Panel, Segment, SegmentKind, segments, span};
use std::time::Duration;
use svg::Document;
use svg::node::element::{Description, Group, Line, Rectangle, Text, Title};

const MARGIN: f64 = 16.0;
const LABEL_WIDTH: f64 = 350.0;
const PANEL_WIDTH: f64 = 240.0;
/// Right of the longest bar of a panel, for what it lasted.
const VALUE_WIDTH: f64 = 78.0;
const LANE_HEIGHT: f64 = 36.0;
const BAR_HEIGHT: f64 = 14.0;
const LANES_TOP: f64 = 156.0;
const AXIS_HEIGHT: f64 = 34.0;
/// LIMIT: characters of a name beside a lane; all of it is in the lane's title.
const NAME_CHARACTERS: usize = 44;

const INK: &str = "#1a1a1a";
const FAINT_INK: &str = "#555555";
const GRID: &str = "#dddddd";

/// Draws the migrations, which came to this host.
pub(super) fn draw(migrations: &[Migration], hostname: &str) -> String {
    let lanes: Vec<_> = migrations.iter().map(segments).collect();
    let panels = Panel::ALL.map(|panel| Axis::for_spans(lanes.iter().map(|lane| length(lane, panel))));
    let lanes_bottom = LANES_TOP + LANE_HEIGHT * count(lanes.len().max(1));
    let (width, height) = (panel_left(Panel::ALL.len()) + MARGIN, lanes_bottom + AXIS_HEIGHT + MARGIN);

    let title = clean(&format!("Live migrations to {hostname}"));
    let mut document = Document::new()
        .set("viewBox", (0.0, 0.0, width, height))
        .set("width", width)
        .set("height", height)
        .set("role", "img")
        .set("aria-labelledby", "title description")
        .set("font-family", "system-ui, 'DejaVu Sans', Arial, sans-serif")
        .set("font-size", 11)
        .set("fill", INK)
        .add(Title::new(title.as_str()).set("id", "title"))
        .add(Description::new().set("id", "description").add(svg::node::Text::new(description(migrations))))
        .add(Rectangle::new().set("width", width).set("height", height).set("fill", "#ffffff"))
        .add(text(MARGIN, 32.0, &title).set("font-size", 20).set("font-weight", "bold"))
        .add(text(MARGIN, 52.0, &subtitle(migrations)).set("fill", FAINT_INK))
        .add(legend());
    for (index, (panel, axis)) in Panel::ALL.into_iter().zip(&panels).enumerate() {
        document = document.add(frame(panel, axis, panel_left(index), lanes_bottom));
    }
    if migrations.is_empty() {
        document = document.add(text(MARGIN, LANES_TOP + 22.0, "No migrations are known."));
    }
    for (index, (migration, lane)) in migrations.iter().zip(&lanes).enumerate() {
        document = document.add(draw_lane(migration, lane, &panels, LANES_TOP + LANE_HEIGHT * count(index)));
    }
    format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{document}\n")
}

fn count(number: usize) -> f64 {
    // LIMIT: as many lanes as `--last` can name.
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

fn panel_left(index: usize) -> f64 {
    MARGIN + LABEL_WIDTH + PANEL_WIDTH * count(index)
}

/// The part of a panel that its axis covers.
const fn axis_width() -> f64 {
    PANEL_WIDTH - VALUE_WIDTH
}

/// How long a lane is in a panel; nothing if it has no part in it.
fn length(lane: &[Segment], panel: Panel) -> Option<Duration> {
    let mut of_panel = lane.iter().filter(|segment| segment.kind.panel() == panel);
    let first = of_panel.next()?;
    let last = of_panel.next_back().unwrap_or(first);
    Some(last.to.since(first.from))
}

fn text(x: f64, y: f64, content: &str) -> Text {
    Text::new(clean(content)).set("x", x).set("y", y)
}

/// XML has no way to write control characters.
fn clean(text: &str) -> String {
    text.replace(|it: char| it.is_control() || matches!(it, '\u{fffe}' | '\u{ffff}'), "?")
}

fn subtitle(migrations: &[Migration]) -> String {
    let began = |migration: &Migration| span::date(migration.unix_ns(migration.began_at()));
    let dates = match migrations {
        [] => return String::new(),
        [only] => began(only),
        [first, .., last] => format!("{} to {}", began(first), began(last)),
    };
    format!("{dates}. Each panel has a scale of its own; a bar begins where the panel's first phase does.")
}

/// What somebody hears who cannot see the picture.
fn description(migrations: &[Migration]) -> String {
    let mut lines = vec![format!("{} migrations, the newest last.", migrations.len())];
    lines.extend(migrations.iter().map(summary));
    clean(&lines.join(" "))
}

fn summary(migration: &Migration) -> String {
    let phases: Vec<_> = segments(migration)
        .iter()
        .map(|it| format!("{} {}", it.kind.label(), span::text(it.to.since(it.from))))
        .collect();
    let from = migration.source_host().map_or_else(String::new, |host| format!(" from {host}"));
    let announcement =
        migration.announcement().map_or_else(String::new, |kind| format!(", announced by {kind}"));
    format!(
        "{}{from}, migration {}, began {}, {}{announcement}: {}.",
        migration.endpoint,
        migration.uid,
        span::date(migration.unix_ns(migration.began_at())),
        migration.result(),
        phases.join(", ")
    )
}

fn legend() -> Group {
    let mut group = Group::new().set("id", "legend");
    for (index, kind) in SegmentKind::ALL.into_iter().enumerate() {
        let (x, y) = (MARGIN + 310.0 * count(index % 4), 74.0 + 20.0 * count(index / 4));
        group =
            group.add(bar(x, y, 14.0, kind).set("height", 12)).add(text(x + 20.0, y + 10.0, kind.label()));
    }
    group
}

fn bar(x: f64, y: f64, width: f64, kind: SegmentKind) -> Rectangle {
    Rectangle::new()
        .set("x", rounded(x))
        .set("y", rounded(y))
        .set("width", rounded(width))
        .set("height", BAR_HEIGHT)
        .set("fill", kind.colour())
}

/// To a hundredth: what is finer cannot be seen.
fn rounded(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

/// Heading, grid and axis of a panel.
fn frame(panel: Panel, axis: &Axis, left: f64, bottom: f64) -> Group {
    let mut group = Group::new()
        .set("class", "panel")
        .add(text(left, LANES_TOP - 22.0, panel.heading()).set("font-size", 13).set("font-weight", "bold"));
    group = group.add(text(left, LANES_TOP - 8.0, panel.subheading()).set("fill", FAINT_INK));
    for (fraction, label) in axis.ticks() {
        let x = left + fraction * axis_width();
        group = group
            .add(line((x, LANES_TOP), (x, bottom + 5.0)).set("stroke", GRID))
            .add(text(rounded(x), bottom + 19.0, &label).set("text-anchor", "middle").set("fill", FAINT_INK));
    }
    let right = left + axis_width();
    group = group.add(line((left, bottom), (right, bottom)).set("stroke", FAINT_INK));
    // The mark of a broken axis: beyond it the scale is another one.
    for x in [right + 6.0, right + 11.0] {
        group = group.add(line((x - 3.0, bottom + 5.0), (x + 3.0, bottom - 5.0)).set("stroke", FAINT_INK));
    }
    group
}

fn line(from: (f64, f64), to: (f64, f64)) -> Line {
    Line::new()
        .set("x1", rounded(from.0))
        .set("y1", rounded(from.1))
        .set("x2", rounded(to.0))
        .set("y2", rounded(to.1))
}

/// One migration, with its name at the left and what each panel lasts behind its bars.
fn draw_lane(migration: &Migration, lane: &[Segment], axes: &[Axis; 4], top: f64) -> Group {
    let bar_top = top + (LANE_HEIGHT - BAR_HEIGHT) / 2.0;
    let mut group = Group::new()
        .set("class", "lane")
        .add(Title::new(clean(&summary(migration))))
        .add(line((MARGIN, top), (panel_left(4), top)).set("stroke", GRID))
        .add(text(MARGIN, top + 15.0, &lane_name(migration)).set("font-weight", "bold"))
        .add(text(MARGIN, top + 29.0, &second_line(migration)).set("fill", FAINT_INK));
    for (index, (panel, axis)) in Panel::ALL.into_iter().zip(axes).enumerate() {
        let left = panel_left(index);
        let of_panel: Vec<_> = lane.iter().filter(|segment| segment.kind.panel() == panel).collect();
        let Some(first) = of_panel.first() else { continue };
        let x = |at: cutover_engine::BootTime| left + axis.fraction(at.since(first.from)) * axis_width();
        for segment in &of_panel {
            // What took any time at all has to be there to be seen.
            let width =
                (x(segment.to) - x(segment.from)).max(if segment.to > segment.from { 0.75 } else { 0.0 });
            let what = format!("{}: {}", segment.kind.label(), span::text(segment.to.since(segment.from)));
            let rectangle = bar(x(segment.from), bar_top, width, segment.kind);
            group = group.add(rectangle.set("class", "phase").add(Title::new(what)));
        }
        let total = span::text(length(lane, panel).unwrap_or_default());
        let is_open = of_panel.last().is_some_and(|segment| segment.is_open);
        let (end, value) = (of_panel.last().map_or(left, |segment| x(segment.to)), open(&total, is_open));
        group = group.add(text(rounded(end + 5.0), bar_top + 11.0, &value).set("class", "value"));
    }
    group
}

fn open(total: &str, is_open: bool) -> String {
    if is_open { format!("{total} …") } else { total.to_owned() }
}

fn second_line(migration: &Migration) -> String {
    let mut parts = vec![span::date(migration.unix_ns(migration.began_at())), migration.result()];
    parts.extend(migration.announcement().map(str::to_owned));
    parts.join(", ")
}

/// Machine and port; the port alone if both, as with OpenStack, are identifiers of 36 characters.
fn lane_name(migration: &Migration) -> String {
    let key = parse_name("", &migration.endpoint);
    let name = key.map_or_else(
        || migration.endpoint.clone(),
        |key| {
            let both = format!("{} {}", key.workload.trim_start_matches('/'), key.endpoint);
            if both.chars().count() <= NAME_CHARACTERS { both } else { key.endpoint }
        },
    );
    if name.chars().count() <= NAME_CHARACTERS {
        return name;
    }
    name.chars().take(NAME_CHARACTERS - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests;
