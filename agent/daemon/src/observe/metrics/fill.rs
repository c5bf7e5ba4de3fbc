//! From what was observed to the values of each family.

use super::families as of;
use super::process;
use super::sheet::Sheet;
use crate::clock;
use crate::control::Status;
use crate::felix::Running;
use crate::handover::HandoverStatus;
use crate::libvirt;
use crate::observe::Observed;
use crate::observe::tally::{Outcome, PASSING, STRETCHES};
use crate::progress::Stuck;
use cutover_engine::machine::State;
use cutover_engine::view::EndpointView;
use std::collections::BTreeMap;
use std::time::Duration;

/// LIMIT: endpoints that are named because they wait for Felix's chains; how many there are is a metric of its own.
const WAITING_NAMED_MAX: usize = 50;

const STATES: [State; 4] = [State::Base, State::Target, State::Live, State::TimeWait];

const fn flag(is_so: bool) -> f64 {
    if is_so { 1.0 } else { 0.0 }
}

const fn number(count: usize) -> f64 {
    count as f64
}

const fn total(count: u64) -> f64 {
    count as f64
}

const fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

pub(super) fn agent(
    sheet: &mut Sheet,
    observed: Option<&Observed>,
    busy: &BTreeMap<&'static str, Duration>,
    stuck: &[Stuck],
) {
    sheet.put(&of::BUILD_INFO, [env!("CARGO_PKG_VERSION")], 1.0);
    sheet.put(&of::LOOP_ANSWERS, [], flag(observed.is_some()));
    sheet.put(&of::PARTS_STUCK, [], number(stuck.len()));
    for (part, busy_for) in busy {
        sheet.put(&of::PART_BUSY, [part], busy_for.as_secs_f64());
    }
    if let Some(process) = process::look() {
        sheet.put(&of::START_TIME, [], process.started_at_s);
        sheet.put(&of::CPU, [], process.cpu_s);
        sheet.put(&of::MEMORY, [], process.resident_bytes);
        sheet.put(&of::DESCRIPTORS, [], process.open_files);
    }
    if let Some(Observed { status, datastore, is_remembered, .. }) = observed {
        sheet.put(&of::CONFIG_INFO, [&status.hostname, &status.role, datastore, &status.attach], 1.0);
        sheet.put(&of::REMEMBERED, [], flag(*is_remembered));
    }
}

pub(super) fn endpoints(sheet: &mut Sheet, Observed { status, tally, .. }: &Observed) {
    let how_many =
        |is: &dyn Fn(&EndpointView) -> bool| number(status.endpoints.iter().filter(|it| is(it)).count());
    for state in STATES {
        sheet.put(&of::ENDPOINTS, [&state.to_string()], how_many(&|it| it.state == state));
    }
    for (role, word) in [("NO_ROLE", "none"), ("SOURCE", "source"), ("TARGET", "target")] {
        sheet.put(&of::ENDPOINT_ROLES, [word], how_many(&|it| it.role == role));
    }
    for (reported, word) in [("up", "up"), ("down", "down"), ("as reported", "as_reported")] {
        sheet.put(&of::ENDPOINT_STATUSES, [word], how_many(&|it| it.status == reported));
    }
    sheet.put(&of::STATUSES_DUE, [], how_many(&|it| it.status_due));
    sheet.put(&of::HELD, [], how_many(&|it| it.held));
    sheet.put(&of::HELD_TOTAL, [], total(tally.endpoints_held));
    sheet.put(&of::FROM_MEMORY, [], how_many(&|it| it.from_memory));
    sheet.put(&of::NOT_HERE, [], how_many(&|it| it.not_here));
    sheet.put(&of::UNRESOLVED, [], how_many(&|it| it.waits_for.is_some()));
    for ((from, input, to), count) in &tally.transitions {
        sheet.put(&of::TRANSITIONS, [&from.to_string(), input, &to.to_string()], total(*count));
    }
    let now = clock::now();
    for (state, durations) in PASSING.iter().zip(&tally.states) {
        let word = state.to_string();
        sheet.put_histogram(&of::STATE_DURATION, [&word], durations);
        sheet.put(&of::STATE_LONGEST, [&word], tally.longest_in(now, *state).as_secs_f64());
    }
    for outcome in Outcome::ALL {
        let count = tally.migrations.get(&outcome).copied().unwrap_or(0);
        sheet.put(&of::MIGRATIONS, [outcome.word()], total(count));
    }
    sheet.put_histogram(&of::BLACKOUT, [], &tally.blackouts);
    sheet.put_histogram(&of::BLACKOUT_ERROR, [], &tally.blackout_errors);
    for ((phase, _), durations) in STRETCHES.iter().zip(&tally.stretches) {
        sheet.put_histogram(&of::PHASES, [phase], durations);
    }
}

/// By the beginning of a counter's name, which is stable. Nothing if the counters cannot be read.
pub(super) fn announcements(sheet: &mut Sheet, status: &Status) {
    for (name, count) in &status.announcements {
        let count = total(*count);
        if let Some(kind) = name.strip_prefix("accepted_") {
            sheet.put(&of::ACCEPTED, [kind], count);
        } else if let Some(reason) = name.strip_prefix("refused_") {
            sheet.put(&of::REFUSED, [reason], count);
        } else {
            match name.as_str() {
                "already_announced" => sheet.put(&of::REPEATED, [], count),
                "ring_full" => sheet.put(&of::RING_LOST, [], count),
                "evidence_full" => sheet.put(&of::EVIDENCE_LOST, [], count),
                _ => {}
            }
        }
    }
    let armed = status.endpoints.iter().filter(|it| it.watch.is_some()).count();
    sheet.put(&of::WATCHES_ARMED, [], number(armed));
    sheet.put(&of::WATCHES_UNARMED, [], number(status.unarmed.len()));
}

pub(super) fn kernel(sheet: &mut Sheet, observed: &Observed) {
    let status = &observed.status;
    let elevated: std::collections::BTreeSet<u32> = status
        .endpoints
        .iter()
        .filter(|it| matches!(it.state, State::Live | State::TimeWait))
        .flat_map(|it| it.routes.iter().map(|route| route.metric))
        .collect();
    for (family, is_ipv6) in [("ipv4", false), ("ipv6", true)] {
        for (priority, is_elevated) in [("normal", false), ("elevated", true)] {
            let is_counted = |route: &&crate::control::KernelRoute| {
                route.destination.contains(':') == is_ipv6 && elevated.contains(&route.metric) == is_elevated
            };
            let count = status.kernel_routes.iter().filter(is_counted).count();
            sheet.put(&of::ROUTES, [family, priority], number(count));
        }
    }
    sheet.put(&of::ROUTE_WRITES, [], total(status.route_writes));
    sheet.put(&of::ROUTES_REFUSED, [], number(status.refused_routes.len()));
    sheet.put(&of::UNPREPARED, [], number(status.unprepared.len()));
    sheet.put(&of::OVERRUNS, [], total(observed.netlink_overruns));
    sheet.put(&of::FULL_READS, [], total(observed.full_reads));
}

pub(super) fn datastore(sheet: &mut Sheet, observed: &Observed) {
    let Observed { status, tally, .. } = observed;
    sheet.put(&of::IN_SYNC, [], flag(status.in_sync));
    sheet.put(&of::COMPLETE, [], flag(status.complete));
    let trouble_ms = status.datastore_trouble.as_ref().map(|it| it.for_ms);
    let recall_ms = status.from_memory.as_ref().map(|it| it.for_ms);
    sheet.put(&of::AGE, [], seconds(trouble_ms.into_iter().chain(recall_ms).max().unwrap_or(0)));
    sheet.put(&of::TROUBLES, [], total(observed.datastore_troubles));
    sheet.put(&of::QUARANTINED, [], number(status.quarantine.len()));
    let kept = &status.losses.view;
    sheet.put(&of::KEPT, ["endpoint"], number(kept.endpoints.len()));
    sheet.put(&of::KEPT, ["interface"], number(kept.interfaces.len()));
    sheet.put(&of::SUSPECTED, [], total(tally.losses_suspected));
    sheet.put(&of::SETTINGS_REFUSED, [], number(status.losses.refused_settings.len()));
    for (result, count) in observed.status_writes {
        sheet.put(&of::STATUS_WRITES, [result], total(count));
    }
}

pub(super) fn forwarding(sheet: &mut Sheet, Observed { status, tally, .. }: &Observed) {
    let active = status.forwards.iter().filter(|it| it.is_active).count();
    sheet.put(&of::FORWARDS, ["active"], number(active));
    sheet.put(&of::FORWARDS, ["waiting"], number(status.forwards.len() - active));
    let ready = status.receivers.iter().filter(|it| it.is_ready).count();
    sheet.put(&of::RECEPTIONS, ["ready"], number(ready));
    sheet.put(&of::RECEPTIONS, ["waiting"], number(status.receivers.len() - ready));
    sheet.put(&of::FORWARDS_BEGUN, ["yes"], total(tally.forwards_held));
    sheet.put(&of::FORWARDS_BEGUN, ["no"], total(tally.forwards_begun - tally.forwards_held));
    sheet.put_histogram(&of::FORWARD_DURATION, [], &tally.forwards);
    sheet.put(&of::HOLDS_GIVEN_UP, [], total(tally.holds_given_up));
    sheet.put(&of::TUNNEL_FORWARDED, [], total(status.tunnel.forwarded));
    sheet.put(&of::TUNNEL_RECEIVED, [], total(status.tunnel.received));
    for (reason, count) in &status.tunnel.dropped {
        sheet.put(&of::TUNNEL_DROPPED, [reason], total(*count));
    }
    sheet.put(&of::TUNNEL_BROKEN, [], flag(status.tunnel.error.is_some()));
    for stage in HandoverStatus::STAGES {
        let of_stage = status.handovers.iter().filter(|it| it.stage == stage);
        sheet.put(&of::HANDED_OVER, [stage], number(of_stage.map(|it| it.connections).sum()));
    }
    sheet.put(&of::HANDOVER_BROKEN, [], flag(status.handover_error.is_some()));
    let peers = &status.peers;
    sheet.put(&of::PEERS_KNOWN, [], number(peers.known_hosts));
    sheet.put(&of::PEERS_UNREADABLE, [], number(peers.bad_records.len()));
    for side in ["source", "target"] {
        for (state, is_connected) in [("connected", true), ("apart", false)] {
            let is_it =
                |it: &&crate::peers::ConversationStatus| it.side == side && it.is_connected == is_connected;
            sheet.put(
                &of::CONVERSATIONS,
                [side, state],
                number(peers.conversations.iter().filter(is_it).count()),
            );
        }
    }
    sheet.put(&of::PEER_TROUBLES, [], number(peers.troubles.len()));
    if let Some(report) = &status.libvirt {
        use libvirt::Standing::{Absent, Connected, Unheard};
        for (standing, word) in [(Connected, "connected"), (Absent, "absent"), (Unheard, "unheard")] {
            sheet.put(&of::LIBVIRT, [word], flag(report.standing == standing));
        }
    }
}

/// What cannot be read.
const UNKNOWN: &str = "unknown";

pub(super) fn felix(sheet: &mut Sheet, status: &Status) {
    let Some(felix) = &status.felix else { return };
    for backend in &felix.backends {
        sheet.put(&of::FELIX_BACKENDS, [backend], 1.0);
    }
    sheet.put(&of::FELIX_RUNNING, [], number(felix.running.len()));
    type OfFelix = fn(&Running) -> Option<bool>;
    let settings: [(&str, OfFelix); 2] = [
        ("RouteSyncDisabled", |it| it.route_sync_disabled),
        ("EndpointReportingEnabled", |it| it.endpoint_reporting_enabled),
    ];
    for (setting, of_felix) in settings {
        for (value, word) in [(Some(true), "true"), (Some(false), "false"), (None, UNKNOWN)] {
            let count = felix.running.iter().filter(|it| of_felix(it) == value).count();
            sheet.put(&of::FELIX_SETTINGS, [setting, word], number(count));
        }
    }
    let mut modes: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for (name, value) in felix.running.iter().filter_map(|it| it.mode.as_ref()).flatten() {
        *modes.entry((name, value)).or_default() += 1;
    }
    for ((name, value), count) in modes {
        sheet.put(&of::FELIX_SETTINGS, [name, value], number(count));
    }
    let mut versions: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for running in &felix.running {
        let version = running.version.as_ref().map_or((UNKNOWN, UNKNOWN), |it| (&it.text, it.from.word()));
        *versions.entry(version).or_default() += 1;
    }
    for ((version, from), count) in versions {
        sheet.put(&of::FELIX_INFO, [version, from], number(count));
    }
    sheet.put(&of::FELIX_UNREADABLE, [], flag(felix.unreadable.is_some()));
    sheet.put(&of::FELIX_CONFLICTS, [], number(felix.conflicts.len()));
    let waiting = waiting_for_chains(&status.endpoints);
    sheet.put(&of::FELIX_AWAITED, [], number(waiting.len()));
    sheet.put(&of::FELIX_LONGEST, [], waiting.first().map_or(0.0, |(ms, _)| seconds(*ms)));
    for (ms, endpoint) in waiting.iter().take(WAITING_NAMED_MAX) {
        sheet.put(&of::FELIX_WAIT, [&endpoint.name, &endpoint.interface], seconds(*ms));
    }
}

/// Endpoints whose tap exists and that wait for Felix's chains, with the milliseconds, the longest first.
pub(in crate::observe) fn waiting_for_chains(endpoints: &[EndpointView]) -> Vec<(u64, &EndpointView)> {
    let waits = |it: &EndpointView| it.felix.as_ref().filter(|felix| !felix.missing.is_empty())?.for_ms;
    let mut waiting: Vec<_> = endpoints.iter().filter_map(|it| Some((waits(it)?, it))).collect();
    waiting.sort_by(|(one, a), (other, b)| other.cmp(one).then_with(|| a.name.cmp(&b.name)));
    waiting
}
