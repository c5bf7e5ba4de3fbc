//! `cutover agent --observe`: the report for people, and how the command ends.

use crate::cli::{ConfigFile, Failure, print};
use cutover_daemon::logging::{self, one_line, printable};
use cutover_daemon::preview::{self, NeighbourWrite, PreviewError, Report, RouteText, RouteWrite, Write};
use cutover_daemon::run_dir::RunDirError;
use std::fmt::Write as _;
use std::time::Duration;
use tracing_subscriber::filter::LevelFilter;

/// Looks once, prints the report, and says with its exit code whether something would change.
///
/// # Errors
/// Something would change, or something that the agent needs cannot be read.
pub(super) fn run(file: &ConfigFile, as_json: bool, within: Duration) -> Result<(), Failure> {
    let sources = file.sources()?;
    let loaded = file.load()?;
    crate::cli::datastore(&loaded.settings)?;
    if !nix::unistd::geteuid().is_root() {
        return Err(Failure::privilege(
            "the report needs what only root may read: the agent's memory, keys of etcd; run it as root",
        ));
    }
    // What is read is told in the report; what the appliers say of changes is not true here.
    logging::init(loaded.settings.log_format.into(), LevelFilter::WARN);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::other(format!("cannot start the runtime: {error}")))?;
    let report =
        runtime.block_on(preview::look(&sources, loaded, within)).map_err(|error| failure(&error))?;
    let text = if as_json {
        let text = serde_json::to_string_pretty(&report);
        text.map_err(|error| Failure::other(error.to_string()))? + "\n"
    } else {
        as_text(&report)
    };
    print(&text)?;
    conclude(&report)
}

fn failure(error: &PreviewError) -> Failure {
    let text = one_line(error).to_string();
    match error {
        PreviewError::Cluster(error) => crate::cli::cluster_failure(error),
        PreviewError::RunDir(RunDirError::Unsafe { .. }) => Failure::configuration(text),
        PreviewError::Datastore { .. } => Failure::unavailable(text),
        _ => Failure::other(text),
    }
}

fn conclude(report: &Report) -> Result<(), Failure> {
    let (changes, kept) = (report.changes(), report.losses.view.count());
    if report.is_settled() {
        return Ok(());
    }
    let kept =
        if kept == 0 { String::new() } else { format!(", and {kept} things would wait for cutover release") };
    Err(Failure::differs(format!("{changes} changes would be made{kept}; nothing was written")))
}

fn as_text(report: &Report) -> String {
    let mut text = heading(report);
    routes(&mut text, report);
    let neighbours = report.neighbours.iter().map(neighbour);
    section(&mut text, "Permanent neighbours that would be written", neighbours);
    let sysctls = report.sysctls.iter().map(|it| format!("{}: {} -> {}", it.name, it.is, it.to_be));
    section(&mut text, "Settings of the kernel (sysctl) that would be written", sysctls);
    let watches = report.watches.iter().cloned();
    section(&mut text, "Taps that would be watched, because a VM is on its way here", watches);
    let unprepared = report.unprepared.iter().map(|(name, reason)| format!("{name}: {reason}"));
    section(&mut text, "Interfaces that cannot be set up completely", unprepared);
    let absent = report.endpoints_without_interface.iter();
    let absent = absent.map(|it| format!("{} ({})", it.interface, it.endpoint));
    section(&mut text, "Endpoints of this host without an interface", absent);
    let alone = report.interfaces_without_endpoint.iter().map(|it| {
        let carrier = if it.has_carrier { "has carrier" } else { "no carrier" };
        format!("{}: {carrier}, {} routes with the agent's protocol", it.interface, it.routes)
    });
    section(&mut text, "Interfaces with a VM's name without an endpoint", alone);
    section(&mut text, "Routes of others in the way", in_the_way(report));
    section(&mut text, "Kept until cutover release confirms that it is gone", kept(report));
    let quarantine = report.quarantine.iter().map(|(name, reason)| format!("{name}: {reason}"));
    section(&mut text, "Resources that cannot be read", quarantine);
    let refused = report.refused_settings.iter().cloned();
    section(&mut text, "Settings in the datastore that are refused", refused);
    if report.is_settled() {
        text.push_str("\nNothing would change.\n");
    }
    text
}

fn heading(report: &Report) -> String {
    let Report { hostname, role, version, taken_at, endpoints, .. } = report;
    let mut text = format!(
        "What cutover {version} with the role {role} would change on {} if it were started now.\n\
         One look at {taken_at}; nothing was written.\n",
        printable(hostname)
    );
    let plural = if *endpoints == 1 { "" } else { "s" };
    let _ = writeln!(text, "The datastore has {endpoints} endpoint{plural} of this host.");
    if !report.complete {
        text.push_str(
            "Not all of the datastore can be read: nothing that is left over is removed before it can.\n",
        );
    }
    if let Some(pid) = report.agent {
        let _ = writeln!(
            text,
            "An agent runs here (process {pid}): what would change is what it has still to do."
        );
    }
    for felix in &report.felix {
        let _ = writeln!(text, "Felix runs here (process {}).", felix.pid);
    }
    text
}

fn routes(text: &mut String, report: &Report) {
    let _ = writeln!(text, "\nRoutes that are there already and stay: {}", report.routes_kept);
    let lines = report.routes.iter().map(|it| route_write(it, report.grace_seconds));
    section(text, "Routes that would be written", lines);
}

fn route_write(it: &RouteWrite, grace_seconds: f64) -> String {
    let mut line = format!("{:<8}{}", word(it.write), route(&it.route));
    if let Some(other) = &it.in_place_of {
        let _ = write!(line, ", in place of {}", route(other));
    }
    if it.is_later {
        let _ = write!(line, ", after {grace_seconds} s (CutoverEndpointGrace)");
    }
    line
}

/// As `ip route` writes it.
fn route(route: &RouteText) -> String {
    let RouteText { destination, interface, metric, protocol, source } = route;
    let source = source.map_or_else(String::new, |source| format!(" src {source}"));
    format!("{destination} dev {interface} metric {metric} proto {}{source}", protocol_name(*protocol))
}

fn neighbour(it: &NeighbourWrite) -> String {
    let (mac, is) = (it.mac.as_deref(), it.is.as_deref());
    let mut line = format!("{:<8}{} dev {}", word(it.write), it.address, it.interface);
    if let Some(mac) = mac.or(is) {
        let _ = write!(line, " lladdr {mac}");
    }
    if let (Write::Replace, Some(is)) = (it.write, is) {
        let _ = write!(line, ", now {is}");
    }
    line
}

fn in_the_way(report: &Report) -> impl Iterator<Item = String> {
    report.in_the_way.iter().map(|it| {
        let gateway = it.gateway.map_or_else(String::new, |gateway| format!(" via {gateway}"));
        let interface = it.interface.as_ref().map_or_else(String::new, |name| format!(" dev {name}"));
        let effect = if it.metric < it.wanted_metric { "is used instead" } else { "has its place" };
        let (to, metric, by) = (&it.destination, it.metric, protocol_name(it.protocol));
        format!(
            "{to}{gateway}{interface} metric {metric} proto {by}: {effect} (the agent's has metric {})",
            it.wanted_metric
        )
    })
}

fn kept(report: &Report) -> impl Iterator<Item = String> {
    let view = &report.losses.view;
    let endpoints = view.endpoints.iter().map(|name| format!("endpoint {name}"));
    let interfaces = view.interfaces.iter().map(|name| format!("routes to {name}"));
    endpoints.chain(interfaces).chain(report.losses.hint.clone())
}

fn section(text: &mut String, title: &str, lines: impl Iterator<Item = String>) {
    let lines: Vec<String> = lines.collect();
    if lines.is_empty() {
        return;
    }
    let _ = writeln!(text, "\n{title}: {}", lines.len());
    for line in lines {
        let _ = writeln!(text, "  {}", printable(&line));
    }
}

const fn word(write: Write) -> &'static str {
    match write {
        Write::Add => "add",
        Write::Replace => "replace",
        Write::Remove => "remove",
    }
}

/// As in /etc/iproute2/rt_protos.
fn protocol_name(protocol: u8) -> String {
    match protocol {
        2 => "kernel".to_owned(),
        3 => "boot".to_owned(),
        4 => "static".to_owned(),
        9 => "ra".to_owned(),
        11 => "zebra".to_owned(),
        12 => "bird".to_owned(),
        16 => "dhcp".to_owned(),
        186 => "bgp".to_owned(),
        other => other.to_string(),
    }
}
