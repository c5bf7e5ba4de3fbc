//! What is under way: virtual machines that arrive, with the clocks of their phases, and those that leave.

use super::document::table;
use super::host::Host;
use super::html::Html;
use super::journey;
use super::waiting::waits_for;
use crate::control::Status;
use crate::timeline::{Migration, span};
use cutover_engine::view::{EndpointView, ForwardView};
use std::time::Duration;

/// LIMIT: arrivals that are shown. A host takes a few at a time; draining another one brings some dozen.
const ARRIVALS_MAX: usize = 50;
/// LIMIT: departures that are shown.
const DEPARTURES_MAX: usize = 200;

const COLUMNS: [&str; 6] =
    ["Endpoint", "Goes to", "How it stands", "Agent there", "Connections", "Migration"];

/// How many there are: arrivals and departures.
pub(super) fn count(status: &Status) -> usize {
    status.endpoints.iter().filter(|it| it.migration.is_some()).count() + leaving(status).count()
}

pub(super) fn write(html: &mut Html, host: &Host<'_>) {
    let mut arrivals: Vec<(&EndpointView, Migration)> = host
        .status
        .endpoints
        .iter()
        .filter_map(|it| Some((it, Migration::running(it, host.now, host.now_unix_ns, None)?)))
        .collect();
    arrivals.sort_by_key(|(_, migration)| std::cmp::Reverse(migration.began_at()));
    let departures: Vec<_> = leaving(host.status).collect();
    if arrivals.is_empty() && departures.is_empty() {
        html.words("p", &[], "No migration to or from this host is under way.");
        return;
    }
    if !arrivals.is_empty() {
        html.words("h3", &[], &format!("Arriving here ({})", arrivals.len()));
        for (number, (endpoint, migration)) in arrivals.iter().take(ARRIVALS_MAX).enumerate() {
            arrival(html, number, endpoint, migration, host);
        }
        left_out(html, arrivals.len(), ARRIVALS_MAX);
    }
    if !departures.is_empty() {
        html.words("h3", &[], &format!("Leaving here ({})", departures.len()));
        let caption = "Leaving, or gone and still being forwarded";
        table(html, "leaving-table", caption, &COLUMNS, |html| {
            departures.iter().take(DEPARTURES_MAX).for_each(|it| departure(html, it, host.status));
        });
        left_out(html, departures.len(), DEPARTURES_MAX);
    }
}

fn left_out(html: &mut Html, there_are: usize, most: usize) {
    if there_are > most {
        html.words("p", &[], &format!("{} more are left out; cutover status shows all.", there_are - most));
    }
}

fn arrival(html: &mut Html, number: usize, endpoint: &EndpointView, migration: &Migration, host: &Host<'_>) {
    let content = |html: &mut Html| {
        clock(html, migration);
        let waits = waits_for(endpoint, host.status, host.now);
        if !waits.is_empty() {
            html.words("p", &[], &format!("It waits for {}.", waits.join("; ")));
        }
        journey::strips(html, migration);
        journey::phases(html, "arriving-phases", number, migration, true);
        journey::identity(html, migration);
    };
    journey::block(
        html,
        ("arriving", number),
        true,
        |html| journey::summary(html, migration, false),
        content,
    );
}

/// The clock of the phase that it is in.
fn clock(html: &mut Html, migration: &Migration) {
    let Some((phase, at)) = migration.steps().pop() else { return };
    let (for_this, in_all) = (migration.until.since(at), migration.until.since(migration.began_at()));
    html.element("p", &[("class", "clock")], |html| {
        html.text("Last phase: ");
        html.words("strong", &[], phase.name(migration.outcome));
        html.text(&format!(", {} ago. ", span::text(for_this)));
        html.text(&format!("Under way for {}.", span::text(in_all)));
    });
}

/// What leaves: what there is a forward for, and sources of migrations for which there is none.
fn leaving(status: &Status) -> impl Iterator<Item = Leaving<'_>> {
    let forwards = status.forwards.iter().map(Leaving::Forwarded);
    let has_forward = |name: &str| status.forwards.iter().any(|it| it.endpoint == name);
    let others = status.endpoints.iter().filter(move |it| it.role == "SOURCE" && !has_forward(&it.name));
    forwards.chain(others.map(Leaving::Plain))
}

enum Leaving<'a> {
    Forwarded(&'a ForwardView),
    Plain(&'a EndpointView),
}

fn departure(html: &mut Html, leaving: &Leaving<'_>, status: &Status) {
    let (endpoint, uid, to) = match leaving {
        Leaving::Forwarded(it) => (&it.endpoint, &it.migration_uid, Some(&it.to)),
        Leaving::Plain(it) => (&it.name, &it.migration_uid, None),
    };
    let standing = match leaving {
        Leaving::Forwarded(forward) => standing(forward),
        Leaving::Plain(_) => "migrating; nothing is forwarded".to_owned(),
    };
    let is_it = |one: &str, of: &str| one == endpoint && of == uid;
    let mut conversations = status.peers.conversations.iter();
    let peer = conversations.find(|it| it.side == "source" && is_it(&it.endpoint, &it.migration_uid));
    let peer = peer.map_or_else(
        || "–".to_owned(),
        |it| match (it.is_connected, &it.error) {
            (true, _) => "connected".to_owned(),
            (false, Some(error)) => format!("not reached: {error}"),
            (false, None) => "not connected yet".to_owned(),
        },
    );
    let handover = status.handovers.iter().find(|it| is_it(&it.endpoint, &it.migration_uid));
    let connections = handover.map_or_else(|| "–".to_owned(), |it| it.connections.to_string());
    html.element("tr", &[], |html| {
        html.words("th", &[("scope", "row")], &journey::port(endpoint));
        html.words("td", &[], &to.map_or_else(|| "–".to_owned(), |to| journey::host(to)));
        html.words("td", &[("class", "long")], &standing);
        html.words("td", &[], &peer);
        html.words("td", &[("class", "number")], &connections);
        html.element("td", &[], |html| html.words("code", &[], uid));
    });
    html.new_line();
}

fn standing(forward: &ForwardView) -> String {
    let ms = |ms: u64| span::text(Duration::from_millis(ms));
    let mut parts = Vec::new();
    if forward.is_announced {
        parts.push("announced there".to_owned());
    } else if forward.is_stopped {
        parts.push("stopped here".to_owned());
    } else {
        parts.push("runs here".to_owned());
    }
    match (forward.since_ms, forward.is_ready) {
        (Some(since), _) => parts.push(format!("forwarded for {}", ms(since))),
        (None, true) => parts.push("ready to be forwarded".to_owned()),
        (None, false) => parts.push("not forwarded: its agent has not said that it is ready".to_owned()),
    }
    if forward.packets > 0 {
        parts.push(format!("{} packets", forward.packets));
    }
    if let Some(left) = forward.ends_in_ms {
        parts.push(format!("over in {}", ms(left)));
    }
    parts.join(", ")
}
