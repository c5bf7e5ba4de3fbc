//! Felix beside the agent (`CutoverRole = routes`, or asked for with `--beside-felix` before the switch): whether each does its own
//! part, and only that.

use super::command;
use super::finding::{Area, Check, Finding};
use cutover_daemon::clock;
use cutover_daemon::control::Status;
use cutover_daemon::datastore::etcd::{Cluster, Keys, Writer};
use cutover_daemon::felix::settings::{self as felix_settings, Felix};
use cutover_daemon::felix::{self, Report, Version, VersionOrigin};
use cutover_daemon::processes::Processes;
use cutover_daemon::settings::{DatastoreType, Role, Settings};
use std::fs;
use std::path::Path;
use std::time::Duration;

static ROLE: Check = Check {
    area: Area::Agent,
    name: "felix-role",
    wants: "Beside Felix the role is `routes`",
    why: "With CutoverRole = full the agent sends heartbeats, takes over sysctls and reports endpoints before Felix lets their packets pass.",
};
static RUNS: Check = Check {
    area: Area::Agent,
    name: "felix-runs",
    wants: "With CutoverRole = routes, one Felix runs here, and its chains can be seen",
    why: "Nobody else programs security groups and metadata; what Felix has not programmed is not reported up, and Neutron takes a host without a heartbeat for dead.",
};
static SETTINGS: Check = Check {
    area: Area::Agent,
    name: "felix-settings",
    wants: "Felix leaves routes and endpoint statuses to the agent",
    why: "Two that write the routes of a host undo each other's; two that report an endpoint contradict each other, and Felix reports one endpoint a second.",
};
static WRITERS: Check = Check {
    area: Area::Agent,
    name: "route-writers",
    wants: "Nobody else deletes the agent's routes",
    why: "When the convergence time is over, both would undo each other's routes, and a live VM loses packets.",
};
static CHAINS: Check = Check {
    area: Area::Agent,
    name: "felix-chains",
    wants: "Felix has its chains for every tap with an endpoint",
    why: "Felix drops what comes from or goes to a tap that it does not know. The endpoint is not reported up before, and Nova waits.",
};
static HEARTBEAT: Check = Check {
    area: Area::Agent,
    name: "heartbeat-writer",
    wants: "Felix alone writes the heartbeat of the host",
    why: "Two writers have two uptimes, and the driver takes each new one for an agent that has just started.",
};

pub(super) static CHECKS: &[&Check] = &[&ROLE, &RUNS, &SETTINGS, &WRITERS, &CHAINS, &HEARTBEAT];

/// LIMIT: nf_tables answers in milliseconds; this is for a host that is busy.
const LOOK_WITHIN: Duration = Duration::from_secs(3);

/// What the host showed.
#[derive(Debug)]
struct BesideFelix {
    felix: Vec<Felix>,
    version: Option<String>,
    report: Result<Report, String>,
    /// Who wrote the last heartbeat; nothing if there is no etcd.
    heartbeat: Option<Result<Writes, String>>,
}

/// Who writes the heartbeat.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Writes {
    Felix,
    Agent,
    SomebodyElse,
    Nobody,
}

pub(super) fn examine(
    processes: &Processes,
    settings: &Settings,
    status: Option<&Status>,
    is_readable: bool,
) -> Vec<Finding> {
    let proc = Path::new("/proc");
    let felix = felix_settings::of_processes(proc, processes);
    let version = version(felix.first());
    let heartbeat = (is_readable && settings.datastore_type == DatastoreType::Etcdv3)
        .then(|| look_at_heartbeat(proc, settings, &felix, status));
    let seen = BesideFelix { version, report: felix::look(LOOK_WITHIN), felix, heartbeat };
    judge(&seen, settings, status)
}

/// What its program says without being run, else what it says when it is asked. The doctor is started by an operator, and ends.
fn version(felix: Option<&Felix>) -> Option<String> {
    let felix = felix?;
    if let Some(Version { text, from: VersionOrigin::Program }) = &felix.version {
        return Some(text.clone());
    }
    let answer = command::answer(&format!("/proc/{}/exe", felix.pid), &["--version"]).ok();
    answer.and_then(|text| text.lines().next().map(str::to_owned))
}

fn judge(seen: &BesideFelix, settings: &Settings, status: Option<&Status>) -> Vec<Finding> {
    let mut findings = vec![role(settings)];
    findings.extend(runs(seen));
    findings.extend(seen.felix.iter().flat_map(|felix| felix_leaves(felix, settings)));
    findings.extend(status.into_iter().flat_map(writers));
    findings.extend(status.into_iter().flat_map(chains));
    findings.extend(seen.heartbeat.as_ref().map(heartbeat));
    findings
}

fn role(settings: &Settings) -> Finding {
    match settings.cutover_role {
        Role::Routes => ROLE.ok("CutoverRole is routes"),
        Role::Full => ROLE.warning(
            "CutoverRole is full, which is for hosts without Felix",
            "CutoverRole = routes in the file or FELIX_CUTOVERROLE=routes in the unit, before the agent is started",
        ),
    }
}

fn runs(seen: &BesideFelix) -> Vec<Finding> {
    let mut findings: Vec<Finding> = seen
        .felix
        .iter()
        .map(|felix| {
            let version = seen.version.as_deref().unwrap_or("of an unknown version");
            RUNS.ok(format!("Felix runs (process {}): {version}", felix.pid))
        })
        .collect();
    match seen.felix.len() {
        0 => findings.push(RUNS.error("no Felix runs here", "systemctl enable --now calico-felix")),
        1 => {}
        count => findings.push(RUNS.error(format!("{count} Felixes run here"), "stop all of them but one")),
    }
    match &seen.report {
        Err(reason) => findings.push(RUNS.warning(
            format!("its chains cannot be seen: {reason}"),
            "run cutover doctor as root, on the host itself",
        )),
        Ok(report) if report.backends.is_empty() => findings.push(RUNS.warning(
            "it has no chains here yet, neither in nftables nor in iptables",
            "wait until it has started, and see what it logs",
        )),
        Ok(report) if report.backends.len() == 1 => {
            findings.push(RUNS.ok(format!("it works with {}", report.backends[0])));
        }
        Ok(report) => findings.push(RUNS.warning(
            format!("chains of Felix are in more than one place: {}", report.backends.join(", ")),
            "take the ones of the mode that it does not use any more out: they drop what they do not know",
        )),
    }
    findings
}

fn felix_leaves(felix: &Felix, settings: &Settings) -> Vec<Finding> {
    let pid = felix.pid;
    let routes = match felix.leaves_routes(settings.route_sync_disabled) {
        Some(true) => SETTINGS.ok(format!("Felix (process {pid}) leaves routes alone")),
        Some(false) => SETTINGS.error(
            format!("Felix (process {pid}) runs without RouteSyncDisabled: it writes routes"),
            "FELIX_ROUTESYNCDISABLED=true in a drop-in of its unit (dist/calico-felix.service.d/), and restart it",
        ),
        None => SETTINGS.needs_root(format!("could not read what Felix (process {pid}) has in its environment")),
    };
    let statuses = match felix.reports_endpoints(settings.endpoint_reporting_enabled) {
        Some(false) => SETTINGS.ok(format!("Felix (process {pid}) does not report endpoints")),
        Some(true) => SETTINGS.error(
            format!("Felix (process {pid}) reports endpoint statuses"),
            "FELIX_ENDPOINTREPORTINGENABLED=false in a drop-in of its unit (dist/calico-felix.service.d/), and restart it",
        ),
        None => return vec![routes],
    };
    vec![routes, statuses]
}

fn writers(status: &Status) -> Vec<Finding> {
    let Some(report) = &status.felix else { return Vec::new() };
    if report.conflicts.is_empty() {
        return vec![WRITERS.ok("the agent has seen nobody else write routes of VMs")];
    }
    let change = "FELIX_ROUTESYNCDISABLED=true in a drop-in of Felix's unit, and restart it";
    report.conflicts.iter().map(|conflict| WRITERS.error(conflict.clone(), change)).collect()
}

fn chains(status: &Status) -> Vec<Finding> {
    let Some(report) = &status.felix else { return Vec::new() };
    let mut findings = Vec::new();
    if let Some(reason) = &report.unreadable {
        findings.push(CHAINS.error(
            format!("the agent cannot see Felix's chains: {reason}"),
            "mend what the message says; the agent tries again by itself",
        ));
    }
    findings.extend(status.endpoints.iter().filter_map(|endpoint| {
        let felix = endpoint.felix.as_ref()?;
        let waits = Duration::from_millis(felix.for_ms.filter(|_| !felix.missing.is_empty())?);
        let what = format!(
            "Felix has no chains for {}, {} s ({})",
            endpoint.interface,
            waits.as_secs(),
            felix.missing.join(", ")
        );
        let change =
            "see what Felix logs about the endpoint, and whether it runs and reads the same datastore";
        Some(if waits < cutover_engine::engine::CHAINS_PATIENCE {
            CHAINS.notice(what, "wait a few seconds")
        } else {
            CHAINS.error(what, change)
        })
    }));
    if findings.is_empty() {
        findings.push(CHAINS.ok("Felix has chains for every tap with an endpoint"));
    }
    findings
}

fn heartbeat(writes: &Result<Writes, String>) -> Finding {
    match writes {
        Ok(Writes::Felix) => HEARTBEAT.ok("Felix writes it"),
        Ok(Writes::Agent) => {
            HEARTBEAT.error("this agent writes it", "CutoverRole = routes, and restart the agent")
        }
        Ok(Writes::SomebodyElse) => HEARTBEAT.warning(
            "its uptime is neither Felix's nor this agent's",
            "look for another agent that has this host's name, on this host or another one",
        ),
        Ok(Writes::Nobody) => HEARTBEAT.warning(
            "there is none: Neutron takes the host for dead",
            "see that Felix runs and that ReportingIntervalSecs is not 0",
        ),
        Err(reason) => {
            HEARTBEAT.notice(format!("could not tell: {reason}"), "see the findings about the datastore")
        }
    }
}

fn look_at_heartbeat(
    proc: &Path,
    settings: &Settings,
    felix: &[Felix],
    status: Option<&Status>,
) -> Result<Writes, String> {
    let cluster = Cluster::new(settings).map_err(|error| error.to_string())?;
    let key = Keys::new(&settings.felix_hostname, &settings.openstack_region).heartbeat();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let writer = Writer::new(cluster);
    let answer = runtime.map_err(|error| error.to_string())?.block_on(async {
        let request = writer.request("read the heartbeat", |member| {
            let key = key.clone();
            async move { member.kv().get(key, None).await }
        });
        tokio::time::timeout(LOOK_WITHIN, request).await.map_err(|_| "no answer".to_owned())
    })?;
    let answer = answer.map_err(|error| error.to_string())?;
    let Some(value) = answer.kvs().first() else { return Ok(Writes::Nobody) };
    let document: serde_json::Value =
        serde_json::from_slice(value.value()).map_err(|error| error.to_string())?;
    let uptime = document["uptime"].as_f64().ok_or("it has no uptime")?;
    let is_of = |pid: u32| age(proc, pid).is_some_and(|age| is_uptime_of(uptime, age, settings));
    Ok(if felix.iter().any(|felix| is_of(felix.pid)) {
        Writes::Felix
    } else if status.is_some_and(|status| is_of(status.pid)) {
        Writes::Agent
    } else {
        Writes::SomebodyElse
    })
}

/// A heartbeat is as old as the time between two of them at most, and counts from a moment after the process's start.
fn is_uptime_of(uptime: f64, age: Duration, settings: &Settings) -> bool {
    const AROUND_S: f64 = 5.0;
    let age = age.as_secs_f64();
    let oldest = age - settings.reporting_ttl.as_secs_f64() - AROUND_S;
    (oldest..=age + 1.0).contains(&uptime)
}

/// How long a process has run.
fn age(proc: &Path, pid: u32) -> Option<Duration> {
    /// KERNEL: times in /proc are in hundredths of a second on every architecture (USER_HZ).
    const TICK: Duration = Duration::from_millis(10);
    let stat = fs::read_to_string(proc.join(pid.to_string()).join("stat")).ok()?;
    // The name, in brackets, may have spaces.
    let fields = stat.rsplit_once(')')?.1;
    let ticks: u32 = fields.split_whitespace().nth(19)?.parse().ok()?;
    let since_boot = Duration::from_nanos(clock::now().0);
    since_boot.checked_sub(TICK * ticks)
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    fn beside() -> Settings {
        Settings { cutover_role: Role::Routes, ..Settings::default() }
    }

    fn healthy() -> BesideFelix {
        let variables = b"FELIX_ROUTESYNCDISABLED=true\0FELIX_ENDPOINTREPORTINGENABLED=false\0";
        BesideFelix {
            felix: vec![Felix::with_environment(7, variables)],
            version: Some("v3.33.0".into()),
            report: Ok(Report { backends: vec!["nftables".into()], ..Report::default() }),
            heartbeat: Some(Ok(Writes::Felix)),
        }
    }

    fn problems(seen: &BesideFelix, settings: &Settings) -> Vec<(&'static str, Level)> {
        let findings = judge(seen, settings, None).into_iter().filter(|it| it.level != Level::Ok);
        findings.map(|it| (it.check.name, it.level)).collect()
    }

    #[test]
    fn each_fault_is_exactly_one_finding() {
        assert_eq!(problems(&healthy(), &beside()), []);
        let with = |variables: &[u8]| BesideFelix {
            felix: vec![Felix::with_environment(7, variables)],
            ..healthy()
        };
        let report = |backends: &[&str]| {
            let backends = backends.iter().map(|it| (*it).to_owned()).collect();
            BesideFelix { report: Ok(Report { backends, ..Report::default() }), ..healthy() }
        };
        let shared = Settings { endpoint_reporting_enabled: true, ..beside() };
        for (seen, settings, expected) in [
            (healthy(), Settings::default(), ("felix-role", Level::Warning)),
            (BesideFelix { felix: Vec::new(), ..healthy() }, beside(), ("felix-runs", Level::Error)),
            (report(&[]), beside(), ("felix-runs", Level::Warning)),
            (report(&["nftables", "iptables (nft)"]), beside(), ("felix-runs", Level::Warning)),
            (BesideFelix { report: Err("no".into()), ..healthy() }, beside(), ("felix-runs", Level::Warning)),
            (with(b"FELIX_ENDPOINTREPORTINGENABLED=false\0"), beside(), ("felix-settings", Level::Error)),
            (with(b"FELIX_ROUTESYNCDISABLED=true\0"), shared, ("felix-settings", Level::Error)),
            (
                BesideFelix { felix: vec![Felix { pid: 7, ..Felix::default() }], ..healthy() },
                beside(),
                ("felix-settings", Level::Notice),
            ),
            (
                BesideFelix { heartbeat: Some(Ok(Writes::Agent)), ..healthy() },
                beside(),
                ("heartbeat-writer", Level::Error),
            ),
            (
                BesideFelix { heartbeat: Some(Ok(Writes::Nobody)), ..healthy() },
                beside(),
                ("heartbeat-writer", Level::Warning),
            ),
            (
                BesideFelix { heartbeat: Some(Ok(Writes::SomebodyElse)), ..healthy() },
                beside(),
                ("heartbeat-writer", Level::Warning),
            ),
            (
                BesideFelix { heartbeat: Some(Err("no".into())), ..healthy() },
                beside(),
                ("heartbeat-writer", Level::Notice),
            ),
        ] {
            assert_eq!(problems(&seen, &settings), [expected], "{seen:?}");
        }
    }

    #[test]
    fn a_heartbeat_has_the_age_of_its_writer() {
        let settings = beside();
        let is = |uptime: f64, age: u64| is_uptime_of(uptime, Duration::from_secs(age), &settings);
        assert!(is(1000.0, 1000) && is(970.0, 1000));
        assert!(!is(400.0, 1000) && !is(1010.0, 1000));
        let own = age(Path::new("/proc"), std::process::id()).expect("this process");
        assert!(own < Duration::from_secs(3600), "{own:?}");
    }
}
