//! `cutover status`: what the running agent knows, as a table or as JSON.

use super::{ConfigFile, Failure, print};
use crate::overruns::{self, Overrun};
use cutover_daemon::control::{self, Losses, Recall, Status};
use cutover_daemon::handover::HandoverStatus;
use cutover_daemon::libvirt::Standing;
use cutover_daemon::logging::printable;
use cutover_daemon::settings;
use cutover_engine::view::{EndpointView, FelixView, RecallView};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::path::Path;

/// LIMIT: more names push everything else off the screen.
const KEPT_SHOWN_MAX: usize = 20;

/// Arguments of `cutover status`.
#[derive(Debug, clap::Args)]
pub struct StatusArguments {
    /// Where the settings are.
    #[command(flatten)]
    pub file: ConfigFile,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Asks the agent whose run directory the settings name, and prints the answer.
///
/// # Errors
/// The settings cannot be read, no agent answers, or the caller may not ask.
pub fn run(arguments: &StatusArguments) -> Result<(), Failure> {
    let run_dir = settings::load(&arguments.file.sources()?, &[]).settings.cutover_run_dir;
    let status = ask(&run_dir)?;
    let overruns = overruns::beside(Path::new("/proc"), status.pid).ok();
    let answer = Answer { status, overruns };
    if arguments.json {
        let text =
            serde_json::to_string_pretty(&answer).map_err(|error| Failure::other(error.to_string()))?;
        print(&format!("{text}\n"))
    } else {
        print(&table(&answer))
    }
}

/// What the agent says, and what it cannot see: in its unit it may not look at the sockets of other processes.
#[derive(Debug, Serialize)]
struct Answer {
    #[serde(flatten)]
    status: Status,
    /// BGP daemons beside the agent that lost notifications of the kernel; nothing if they cannot be looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    overruns: Option<Vec<Overrun>>,
}

/// Asks the agent of a run directory.
///
/// # Errors
/// None answers, or the caller may not ask.
pub(super) fn ask(run_dir: &Path) -> Result<Status, Failure> {
    control::ask(run_dir).map_err(|error| refused(run_dir, &error))
}

/// Why the agent of a run directory cannot be asked.
pub(super) fn refused(run_dir: &Path, error: &io::Error) -> Failure {
    let socket = run_dir.join(control::SOCKET);
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            Failure::privilege(format!("{}: only root may ask this of the agent; use sudo", socket.display()))
        }
        _ => Failure::unavailable(format!(
            "{}: no agent answers: {error}; start it with cutover agent, or name its configuration file with -c",
            socket.display()
        )),
    }
}

/// Who answers, and how it stands.
pub(super) fn heading(status: &Status) -> String {
    format!(
        "host {}   agent {} (pid {})   {}attach {}   datastore {}",
        status.hostname,
        status.version,
        status.pid,
        if status.felix.is_some() { format!("role {}   ", status.role) } else { String::new() },
        status.attach,
        datastore(status)
    )
}

fn datastore(status: &Status) -> String {
    let Some(Recall { view, for_ms }) = &status.from_memory else { return standing(status) };
    let standing = match status.datastore_trouble {
        Some(_) => standing(status),
        None => format!("not in sync since the agent started {} s ago", for_ms / 1000),
    };
    let RecallView { endpoints, watched } = view;
    format!("{standing}; working with what state.json knows: {endpoints} endpoints, {watched} watched")
}

fn standing(status: &Status) -> String {
    if let Some(trouble) = &status.datastore_trouble {
        return format!("{} (for {} s)", printable(&trouble.reason), trouble.for_ms / 1000);
    }
    let text = match (status.in_sync, status.complete) {
        (false, _) => "not in sync",
        (true, false) => "in sync, with unreadable resources",
        (true, true) => "in sync",
    };
    text.to_owned()
}

/// The table for people.
fn table(Answer { status, overruns }: &Answer) -> String {
    let mut text = heading(status) + "\n" + &losses(&status.losses);
    let mut rows = vec![
        ["ENDPOINT", "INTERFACE", "ROLE", "STATE", "STATUS", "WATCH", "ROUTES", "NOTES"]
            .map(String::from)
            .to_vec(),
    ];
    rows.extend(status.endpoints.iter().map(row));
    text.push_str(&align(&rows));
    text.push_str(&moving(status));
    for conflict in status.felix.iter().flat_map(|felix| &felix.conflicts) {
        let _ = writeln!(text, "ERROR: {conflict}");
    }
    if let Some(trouble) = status.felix.as_ref().and_then(|felix| felix.unreadable.as_ref()) {
        let _ = writeln!(text, "Felix's chains cannot be seen: {trouble}");
    }
    if let Some(felix) = &status.felix {
        let _ = writeln!(text, "Felix {}", printable(&felix.chains_text()));
        for running in &felix.running {
            let (version, settings) = (running.version_text(), running.settings_text());
            let _ = writeln!(
                text,
                "Felix (process {}): {}; {}",
                running.pid,
                printable(&version),
                printable(&settings)
            );
        }
    }
    if !status.quarantine.is_empty() {
        let _ = writeln!(text, "cannot be read: {}", status.quarantine.len());
        for (name, reason) in &status.quarantine {
            let _ = writeln!(text, "  {}: {}", printable(name), printable(reason));
        }
    }
    for (part, milliseconds) in &status.stuck {
        let seconds = milliseconds / 1000;
        let _ = writeln!(
            text,
            "ERROR: {} makes no progress: busy for {seconds} s without a pause",
            printable(part)
        );
    }
    for (what, reasons) in [
        ("cannot be armed", &status.unarmed),
        ("cannot be set up completely", &status.unprepared),
        ("refused by the kernel", &status.refused_routes),
    ] {
        if !reasons.is_empty() {
            let _ = writeln!(text, "{what}: {}", reasons.len());
            for (name, reason) in reasons {
                let _ = writeln!(text, "  {}: {}", printable(name), printable(reason));
            }
        }
    }
    text.push_str(&lost(overruns.as_deref().unwrap_or_default()));
    let counted: Vec<_> = status
        .announcements
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    if !counted.is_empty() {
        let _ = writeln!(text, "announcements: {}", counted.join(", "));
    }
    text
}

/// The tracked connections of a virtual machine that moves: one line, if there are any.
fn connections(it: &HandoverStatus) -> String {
    let (endpoint, count) = (printable(&it.endpoint), it.connections);
    let is_target = matches!(it.stage.as_str(), "expected" | "arrived" | "failed");
    let mut text = match it.stage.as_str() {
        "failed" => format!("{endpoint}: {} tracked connections taken back", it.withdrawn),
        _ if is_target => format!("{endpoint}: {count} tracked connections taken over"),
        _ => format!("{endpoint}: {count} tracked connections to be handed over"),
    };
    let reasons = |reasons: &BTreeMap<String, usize>| {
        let words = reasons.iter().map(|(reason, count)| format!("{count} {}", printable(reason)));
        words.collect::<Vec<_>>().join(", ")
    };
    for (word, counts) in [("refused", &it.refused), ("not carried", &it.left)] {
        if !counts.is_empty() {
            let _ = write!(text, "; {word}: {}", reasons(counts));
        }
    }
    text.push('\n');
    text
}

/// What comes through a tunnel because a virtual machine moves.
fn moving(status: &Status) -> String {
    let mut text = String::new();
    for it in &status.forwards {
        let state = match (it.is_active, it.is_ready) {
            (true, _) => "forwarded",
            (false, true) => "ready to be forwarded",
            (false, false) => "not forwarded, its agent has not said that it is ready",
        };
        let for_s = it.since_ms.map(|ms| format!(" for {} s", ms / 1000)).unwrap_or_default();
        let packets = if it.packets > 0 { format!(", {} packets", it.packets) } else { String::new() };
        let _ =
            writeln!(text, "to {}: {} {state}{for_s}{packets}", printable(&it.to), it.prefixes.join(", "));
    }
    for it in &status.receivers {
        let state = match (it.is_source_forwarding, it.is_ready) {
            (true, true) => "coming through the tunnel",
            (false, true) => "ready to come through the tunnel",
            (_, false) => "not through the tunnel yet",
        };
        let packets = if it.packets > 0 { format!(", {} packets", it.packets) } else { String::new() };
        let _ = writeln!(text, "from {}: what is sent there is {state}{packets}", printable(&it.from));
    }
    for it in &status.handovers {
        text.push_str(&connections(it));
    }
    if let Some(error) = &status.handover_error {
        let _ = writeln!(text, "tracked connections cannot be handed over: {}", printable(error));
    }
    for it in status.peers.conversations.iter().filter(|it| !it.is_connected) {
        let reason = it.error.as_deref().unwrap_or("not connected yet");
        let _ = writeln!(text, "agent of {} not reached: {}", printable(&it.peer), printable(reason));
    }
    for (part, reason) in &status.peers.troubles {
        let _ = writeln!(text, "other hosts' agents, {}: {}", printable(part), printable(reason));
    }
    if let Some(why) =
        status.libvirt.as_ref().filter(|it| it.standing == Standing::Unheard).and_then(|it| it.why.as_ref())
    {
        let _ = writeln!(text, "libvirt is not heard: {}", printable(why));
    }
    for (host, reason) in &status.peers.bad_records {
        let _ = writeln!(text, "record of host {} cannot be read: {}", printable(host), printable(reason));
    }
    if let Some(error) = &status.tunnel.error {
        let _ = writeln!(text, "tunnel: {}", printable(error));
    }
    let dropped: Vec<_> = status.tunnel.dropped.iter().filter(|(_, count)| **count > 0).collect();
    if !dropped.is_empty() {
        let dropped: Vec<_> = dropped.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
        let _ = writeln!(text, "dropped at the tunnel: {}", dropped.join(", "));
    }
    text
}

/// Who was not told of changes of routes, and what makes it right.
fn lost(overruns: &[Overrun]) -> String {
    if overruns.is_empty() {
        return String::new();
    }
    let mut text = format!("listeners that lost notifications: {}\n", overruns.len());
    for overrun in overruns {
        let cure = if overrun.is_for_good() {
            "it does not know that, and may announce routes that are gone until it is restarted"
        } else {
            "it looks at all routes again at its next scan"
        };
        let _ = writeln!(text, "  {}; {cure}", printable(&overrun.to_string()));
    }
    text
}

/// What is kept although the datastore does not show it, and what to do about it. Before everything else, because it has to be
/// decided by somebody.
fn losses(losses: &Losses) -> String {
    let mut text = String::new();
    for (name, reason) in &losses.refused_settings {
        let _ = writeln!(text, "ERROR: {name} refused: {}", printable(reason));
    }
    let count = losses.view.count();
    if count == 0 {
        return text;
    }
    let _ = writeln!(
        text,
        "ERROR: {count} kept that the datastore does not show any more, with their routes: their taps have carrier"
    );
    let hints = losses.hint.iter().cloned();
    let others = &losses.view.shown_on_other_interfaces;
    let wrong_prefix = (!others.is_empty()).then(|| {
        format!(
            "{} endpoints name interfaces that InterfacePrefix does not cover, such as {}",
            others.len(),
            others[0]
        )
    });
    for line in hints.chain(wrong_prefix) {
        let _ = writeln!(text, "  {}", printable(&line));
    }
    for name in losses.view.endpoints.iter().chain(&losses.view.interfaces).take(KEPT_SHOWN_MAX) {
        let _ = writeln!(text, "  {}", printable(name));
    }
    if count > KEPT_SHOWN_MAX {
        let _ = writeln!(text, "  and {} more (--json has all)", count - KEPT_SHOWN_MAX);
    }
    let _ = writeln!(
        text,
        "  mend the settings or the datastore; or, if they are really gone: cutover release {count}"
    );
    text
}

fn row(endpoint: &EndpointView) -> Vec<String> {
    let routes: Vec<_> = endpoint
        .routes
        .iter()
        .map(|route| format!("{} metric {}", route.destination, route.metric))
        .collect();
    let interface = match endpoint.ifindex {
        Some(ifindex) => match &endpoint.bridge {
            Some(bridge) => format!("{} ({ifindex}) in {bridge}", endpoint.interface),
            None => format!("{} ({ifindex})", endpoint.interface),
        },
        None => format!("{} (absent)", endpoint.interface),
    };
    vec![
        endpoint.name.clone(),
        interface,
        endpoint.role.clone(),
        endpoint.state.to_string(),
        endpoint.status.clone(),
        if endpoint.watch.is_some() { "armed".to_owned() } else { "-".to_owned() },
        if routes.is_empty() { "-".to_owned() } else { routes.join(", ") },
        notes(endpoint),
    ]
}

fn notes(endpoint: &EndpointView) -> String {
    let mut notes = Vec::new();
    if !endpoint.migration_uid.is_empty() {
        notes.push(format!("migration {}", endpoint.migration_uid));
    }
    if endpoint.from_memory {
        notes.push("from memory".to_owned());
    }
    if endpoint.held {
        notes.push("held".to_owned());
    }
    if endpoint.not_here {
        notes.push("migration failed".to_owned());
    }
    if let Some(felix) = endpoint.felix.as_ref().filter(|felix| !felix.missing.is_empty()) {
        notes.push(missing_chains(felix));
    }
    if let Some(what) = &endpoint.waits_for {
        notes.push(format!("migration over, waits for {what}"));
    }
    if let Some(kind) = &endpoint.announcement {
        notes.push(format!("announced by {kind}"));
    }
    if let Some(ns) = endpoint.announced_to_routed_ns {
        notes.push(format!("routed in {} us", ns / 1_000));
    }
    if let Some(seconds) = endpoint.elevated_for_seconds {
        notes.push(format!("elevated for {seconds:.1} s"));
    }
    if notes.is_empty() { "-".to_owned() } else { notes.join(", ") }
}

fn missing_chains(felix: &FelixView) -> String {
    let what = felix.missing.join(", ");
    match felix.for_ms {
        Some(ms) => format!("not in Felix for {} s: {what}", ms / 1000),
        None => format!("not in Felix: {what}"),
    }
}

/// Columns as wide as their widest cell, the last one as it is. Whatever is in a cell, it stays one.
pub(super) fn align(rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<_>> = rows.iter().map(|row| row.iter().map(|cell| printable(cell)).collect()).collect();
    let columns = rows.first().map_or(0, Vec::len);
    let widths: Vec<_> = (0..columns)
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in &rows {
        let cells: Vec<_> = row
            .iter()
            .zip(&widths)
            .enumerate()
            .map(
                |(column, (cell, &width))| {
                    if column + 1 == columns { cell.to_string() } else { format!("{cell:width$}") }
                },
            )
            .collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example;
    use cutover_daemon::control::Trouble;
    use cutover_daemon::felix::{Report, Running};
    use cutover_engine::machine::State;
    use cutover_engine::view::RouteView;
    use std::collections::BTreeMap;

    fn endpoint() -> EndpointView {
        EndpointView {
            interface: "tapport1".into(),
            ifindex: Some(7),
            bridge: None,
            role: "TARGET".into(),
            state: State::Live,
            migration_uid: "u1".into(),
            routes: vec![RouteView { destination: "10.0.0.1/32".into(), metric: 512 }],
            announcement: Some("RARP".into()),
            announced_to_routed_ns: Some(93_400),
            ..example::endpoint()
        }
    }

    #[test]
    fn what_is_kept_comes_first_with_the_command_that_lets_it_go() {
        let mut kept = Losses::default();
        assert_eq!(losses(&kept), "");
        kept.view.endpoints = (0..25).map(|number| format!("endpoint{number}")).collect();
        kept.view.interfaces = vec!["tap7".to_owned()];
        kept.hint = Some("The datastore has endpoints of the host Compute-2".to_owned());
        kept.refused_settings.insert("InterfacePrefix".to_owned(), "cali would take".to_owned());
        let text = losses(&kept);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "ERROR: InterfacePrefix refused: cali would take");
        assert!(lines[1].starts_with("ERROR: 26 kept"), "{text}");
        assert_eq!(lines[2], "  The datastore has endpoints of the host Compute-2");
        assert_eq!(lines[lines.len() - 2], "  and 6 more (--json has all)");
        assert!(lines.last().unwrap().ends_with("cutover release 26"), "{text}");
    }

    #[test]
    fn who_works_from_memory_says_so() {
        let view = RecallView { endpoints: 3, watched: 1 };
        let mut status = Status {
            in_sync: false,
            complete: false,
            from_memory: Some(Recall { view, for_ms: 12_500 }),
            ..status()
        };
        let memory = "; working with what state.json knows: 3 endpoints, 1 watched";
        assert_eq!(datastore(&status), format!("not in sync since the agent started 12 s ago{memory}"));
        status.datastore_trouble = Some(Trouble { reason: "lost: refused".into(), for_ms: 9_000 });
        assert_eq!(datastore(&status), format!("lost: refused (for 9 s){memory}"));
        assert_eq!(
            notes(&EndpointView { from_memory: true, ..endpoint() }).split(", ").nth(1),
            Some("from memory")
        );
    }

    fn status() -> Status {
        Status {
            quarantine: BTreeMap::from([("LiveMigration x".to_owned(), "no uid".to_owned())]),
            role: "routes".into(),
            felix: Some(Report {
                conflicts: vec!["both write".into()],
                backends: vec!["nftables".into()],
                running: vec![Running {
                    pid: 9,
                    route_sync_disabled: Some(true),
                    endpoint_reporting_enabled: None,
                    version: None,
                    mode: None,
                }],
                ..Report::default()
            }),
            unarmed: BTreeMap::from([("tap9".to_owned(), "no memory".to_owned())]),
            unprepared: BTreeMap::from([("tap8".to_owned(), "no IPv6".to_owned())]),
            refused_routes: BTreeMap::from([("10.0.0.9/32 dev tap7".to_owned(), "down".to_owned())]),
            announcements: BTreeMap::from([("accepted_rarp".to_owned(), 1), ("ring_full".to_owned(), 0)]),
            route_writes: 2,
            ..example::status(vec![endpoint()])
        }
    }

    #[test]
    fn columns_line_up_and_every_fact_is_there() {
        let overruns = Some(vec![Overrun { daemon: "zebra".into(), pid: 7, lost: 12 }]);
        let text = table(&Answer { status: status(), overruns });
        let mut lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.remove(3), "ERROR: both write");
        assert_eq!(lines.remove(3), "Felix has chains in nftables");
        assert_eq!(
            lines.remove(3),
            "Felix (process 9): version not known; RouteSyncDisabled true, EndpointReportingEnabled not known, mode as set not known"
        );
        assert!(lines[0].contains("role routes"), "{}", lines[0]);
        assert_eq!(lines[1].find("INTERFACE"), lines[2].find("tapport1 (7)"));
        assert_eq!(lines[1].find("ROUTES"), lines[2].find("10.0.0.1/32 metric 512"));
        assert!(lines[2].ends_with("migration u1, announced by RARP, routed in 93 us"), "{}", lines[2]);
        assert_eq!(lines[3..5], ["cannot be read: 1", "  LiveMigration x: no uid"]);
        assert_eq!(lines[5..7], ["cannot be armed: 1", "  tap9: no memory"]);
        assert_eq!(lines[7..9], ["cannot be set up completely: 1", "  tap8: no IPv6"]);
        assert_eq!(lines[9..11], ["refused by the kernel: 1", "  10.0.0.9/32 dev tap7: down"]);
        assert_eq!(lines[11], "listeners that lost notifications: 1");
        assert!(lines[12].starts_with("  zebra (process 7) was not told of 12 changes"), "{}", lines[12]);
        assert!(lines[12].ends_with("until it is restarted"), "{}", lines[12]);
        assert_eq!(lines[13], "announcements: accepted_rarp 1");
    }

    #[test]
    fn tracked_connections_of_who_moves_have_a_line() {
        let one = |stage: &str| HandoverStatus {
            endpoint: "b-openstack-vm-port".into(),
            migration_uid: "u".into(),
            stage: stage.into(),
            connections: 12,
            refused: BTreeMap::from([("no-room".into(), 2)]),
            left: BTreeMap::from([("zone".into(), 3)]),
            withdrawn: 5,
            ..HandoverStatus::default()
        };
        for (stage, words) in [
            ("leaving", "12 tracked connections to be handed over"),
            ("left", "12 tracked connections to be handed over"),
            ("expected", "12 tracked connections taken over"),
            ("arrived", "12 tracked connections taken over"),
            ("failed", "5 tracked connections taken back"),
        ] {
            let expected = format!("b-openstack-vm-port: {words}; refused: 2 no-room; not carried: 3 zone\n");
            assert_eq!(connections(&one(stage)), expected);
        }
    }
}
