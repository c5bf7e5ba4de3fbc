//! What an endpoint is doing, in a few words, and how much that matters to somebody who watches.

use cutover_daemon::timeline::span;
use cutover_engine::BootTime;
use cutover_engine::machine::State;
use cutover_engine::roles::Role;
use cutover_engine::view::EndpointView;
use std::time::Duration;

/// What comes first has the smaller number.
pub(super) fn rank(endpoint: &EndpointView) -> u8 {
    if endpoint.state != State::Base || endpoint.role != Role::None.to_string() {
        0
    } else {
        1 + u8::from(!endpoint.held && !endpoint.not_here)
    }
}

/// What is going on, and since when.
pub(super) fn text(endpoint: &EndpointView, now: BootTime) -> String {
    let mut parts = Vec::new();
    if endpoint.held {
        parts.push("held".to_owned());
    }
    if endpoint.not_here {
        parts.push("migration failed".to_owned());
    }
    match endpoint.state {
        State::Target => parts.push(waiting(endpoint, now)),
        State::Live | State::TimeWait => {
            parts.extend(endpoint.announcement.clone());
            let routed = endpoint.announced_to_routed_ns.map(Duration::from_nanos);
            parts.extend(routed.map(|span| format!("routed in {}", span::text(span))));
            let left = endpoint.elevated_for_seconds.and_then(|it| Duration::try_from_secs_f64(it).ok());
            parts.extend(left.map(|left| format!("elevated for {}", span::text(left))));
        }
        State::Base if endpoint.role == Role::Source.to_string() => parts.push("leaving".to_owned()),
        State::Base => {}
    }
    if parts.is_empty() { "-".to_owned() } else { parts.join(", ") }
}

/// What a target waits for, and since when.
fn waiting(endpoint: &EndpointView, now: BootTime) -> String {
    let phases = endpoint.migration.as_ref().map(|migration| migration.phases).unwrap_or_default();
    let (what, since) = match (endpoint.watch, phases.role_gone_at) {
        (_, Some(over)) => ("migration over, unresolved", Some(over)),
        (Some(_), None) => ("armed", phases.armed_at),
        (None, None) => ("not armed", phases.targeted_at),
    };
    since.map_or_else(|| what.to_owned(), |at| format!("{what} for {}", span::text(now.since(at))))
}
