//! The daemon that carries routes to other hosts: whether it carries their priority as well.
//!
//! Owns the checks, which are the same for every daemon. A configuration is not interpreted but rehearsed: the host's own daemon plays a
//! migration with it where nothing of the host can be touched ([`super::rehearsal`]), and [`judge`] says what that means.

mod acknowledgements;
mod bird;
mod delays;
mod frr;
mod judge;
mod notifications;
mod openbgpd;
#[cfg(test)]
mod tests;

use super::finding::{Area, Check, Finding};
use super::rehearsal::{self, FamilyMetrics, Program, Request};
use cutover_daemon::netlink::snapshot::{self, LinkSeen};
use cutover_daemon::processes::{Process, Processes};
use cutover_daemon::settings::{DatastoreType, Settings};
use cutover_engine::InterfacePrefixes;
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

static LEARNS: Check = Check {
    area: Area::Bgp,
    name: "learns",
    wants: "The daemon takes routes of VMs from the kernel",
    why: "What it does not learn it cannot announce: the VMs of this host are unreachable from the others.",
};
static ANNOUNCES: Check = Check {
    area: Area::Bgp,
    name: "announces",
    wants: "Routes of VMs are announced to every peer",
    why: "A VM is reachable from where its route is known.",
};
static ONLY_VMS: Check = Check {
    area: Area::Bgp,
    name: "only-vms",
    wants: "The host's own default route is not announced",
    why: "A host that announces its default route attracts the traffic of others.",
};
static ELEVATED_ANNOUNCED: Check = Check {
    area: Area::Bgp,
    name: "elevated-announced",
    wants: "Announcements say which routes are elevated: LOCAL_PREF = 2147483647 - metric on iBGP, a community or a shorter path on eBGP",
    why: "While both hosts announce the VM, this is all that the others have to go by.",
};
static LOCAL_WINS: Check = Check {
    area: Area::Bgp,
    name: "local-elevated-wins",
    wants: "On the target, the local elevated route wins over the source's normal one",
    why: "A daemon announces the route that it uses itself. If the route from the source stays the best one on the target, the elevated route is never announced.",
};
static REMOTE_WINS: Check = Check {
    area: Area::Bgp,
    name: "remote-elevated-wins",
    wants: "On the source, the target's elevated route wins over the local normal one",
    why: "What still arrives at the source for a VM that has moved has to be forwarded to the target.",
};
static INTO_KERNEL: Check = Check {
    area: Area::Bgp,
    name: "into-kernel",
    wants: "Routes from other hosts are put into the kernel's main table",
    why: "The kernel forwards by its own table, not by the daemon's.",
};
static KERNEL_METRIC: Check = Check {
    area: Area::Bgp,
    name: "kernel-metric",
    wants: "In the kernel, routes from other hosts have a metric that lets elevated ones win and normal ones lose",
    why: "The kernel takes the route with the lowest metric: an elevated route from the target has to be below the normal metric, or the source delivers to a VM that has left; a normal one has to be above the elevated metric, or the target sends its own VM's traffic back to the source.",
};
static METRIC_OPTION: Check = Check {
    area: Area::Bgp,
    name: "metric-option",
    wants: "BIRD 2 and 3: the kernel protocol has a `metric` between the elevated and the normal one (or 0, and krt_metric in its filter)",
    why: "Without it every route from another host gets metric 32, whatever the filter says, and wins over the routes of local VMs.",
};
static ONE_STEP: Check = Check {
    area: Area::Bgp,
    name: "one-step",
    wants: "BIRD: a route from another host has the same metric in the kernel, elevated or not",
    why: "When the metric of a route changes, BIRD 2.0 leaves the old route in the kernel for good, and later versions remove it before they add the new one.",
};
static RE_EXPORT: Check = Check {
    area: Area::Bgp,
    name: "re-export",
    wants: "Routes from other hosts that are passed on keep their priority",
    why: "A daemon that passes an elevated route on as a normal one undoes the priority for everybody behind it.",
};
static NEXT_HOP: Check = Check {
    area: Area::Bgp,
    name: "next-hop",
    wants: "Next hops of iBGP routes can be resolved",
    why: "A route whose next hop is not known to be reachable is not used.",
};
static RESTART: Check = Check {
    area: Area::Bgp,
    name: "restart",
    wants: "Routes stay in the kernel while the daemon restarts",
    why: "Otherwise every restart of the daemon takes all routes to VMs of other hosts away.",
};
static PRIORITIES: Check = Check {
    area: Area::Bgp,
    name: "priorities",
    wants: "The daemon's numbers are those of the settings",
    why: "The daemon's filters have the priorities written into them; when the settings change they have to change, too.",
};
static CONFIGURATION: Check = Check {
    area: Area::Bgp,
    name: "configuration",
    wants: "BIRD or FRR is there, takes its configuration, and could be rehearsed with it",
    why: "Nothing but a routing daemon tells other hosts where a VM is.",
};
static RUNNING: Check = Check {
    area: Area::Bgp,
    name: "running",
    wants: "The daemon runs, its sessions are up, and it has the routes of the VMs here with their metrics",
    why: "This is what the configuration is for; what differs shows what the configuration does not.",
};

pub(super) static CHECKS: &[&Check] = &[
    &CONFIGURATION,
    &LEARNS,
    &ANNOUNCES,
    &ELEVATED_ANNOUNCED,
    &LOCAL_WINS,
    &REMOTE_WINS,
    &INTO_KERNEL,
    &METRIC_OPTION,
    &KERNEL_METRIC,
    &ONE_STEP,
    &RE_EXPORT,
    &ONLY_VMS,
    &NEXT_HOP,
    &RESTART,
    &PRIORITIES,
    &judge::RELEASE,
    &delays::DELAYS,
    &RUNNING,
    &acknowledgements::ACKNOWLEDGEMENTS,
    &openbgpd::DAEMON,
    &notifications::NOTIFICATIONS,
];

/// Files that the operator names.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Files {
    /// BIRD's; two of them for the daemons of BIRD 1.
    pub bird: Vec<PathBuf>,
    /// FRR's.
    pub frr: Option<PathBuf>,
    /// The program that rehearses with BIRD's, if not the host's.
    pub bird_program: Option<PathBuf>,
    /// The folder of those that rehearse with FRR's.
    pub frr_folder: Option<PathBuf>,
}

/// A daemon, or what is known of it.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Daemon {
    Bird { file: PathBuf, socket: Option<PathBuf>, is_bird_6: bool, process: Option<Process> },
    FrrFile(PathBuf),
    Frr(Process),
}

/// Where distributions put BIRD's configuration.
const BIRD_FILES: [&str; 4] =
    ["/etc/bird/bird.conf", "/etc/bird/bird6.conf", "/etc/bird.conf", "/etc/bird6.conf"];
/// Where they put FRR's.
const FRR_FILE: &str = "/etc/frr/frr.conf";

/// A route of a VM here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct VmRoute {
    destination: IpNet,
    metric: u32,
}

/// Looks for daemons and their configuration, and judges what it finds.
pub(super) fn examine(files: &Files, processes: &Processes, settings: &Settings) -> Vec<Finding> {
    let routes = routes_of_vms(settings);
    let samples: Vec<IpNet> = routes.iter().map(|route| route.destination).collect();
    let wanted = RouteShape::new(settings, &samples);
    // With such settings the agent does not start, which is said elsewhere, and no daemon can make them work.
    if wanted.families.iter().any(|family| family.elevated >= family.normal) {
        return Vec::new();
    }
    let mut findings = openbgpd::judge(processes);
    let daemons = daemons(files, processes, &BIRD_FILES, FRR_FILE);
    if daemons.is_empty() {
        findings.push(no_daemon(settings.datastore_type));
        return findings;
    }
    let judged = |daemon: &Daemon| match daemon {
        Daemon::Bird { file, socket, is_bird_6, process } => {
            let program = bird::program(files.bird_program.as_deref(), process.as_ref(), *is_bird_6, file);
            let elsewhere = process.as_ref().and_then(elsewhere);
            bird::examine(file, program, elsewhere, socket.as_deref(), &wanted, &routes)
        }
        Daemon::FrrFile(file) => {
            frr::examine_file(file, frr::program(files.frr_folder.as_deref(), None), None, &wanted)
        }
        Daemon::Frr(bgpd) => {
            let program = frr::program(files.frr_folder.as_deref(), Some(bgpd));
            frr::examine_running(bgpd, program, processes, &wanted, &routes)
        }
    };
    // Each waits for its own daemon.
    std::thread::scope(|scope| {
        let threads: Vec<_> = daemons.iter().map(|daemon| scope.spawn(|| judged(daemon))).collect();
        for thread in threads {
            findings.extend(
                thread
                    .join()
                    .unwrap_or_else(|_| vec![CONFIGURATION.notice("the rehearsal panicked", "report it")]),
            );
        }
    });
    let is_running =
        |daemon: &Daemon| matches!(daemon, Daemon::Frr(_) | Daemon::Bird { socket: Some(_), .. });
    if files.bird.is_empty() && files.frr.is_none() && !daemons.iter().any(is_running) {
        let what = "there is a configuration, but neither BIRD nor FRR runs";
        findings.push(RUNNING.warning(what, "systemctl enable --now bird, or frr"));
    }
    findings.extend(acknowledgements::examine());
    findings.extend(notifications::examine(Path::new("/proc"), processes));
    findings
}

/// Files that are named, else daemons that run, else files that are where they usually are.
fn daemons(files: &Files, processes: &Processes, bird_files: &[&str], frr_file: &str) -> Vec<Daemon> {
    let bird = |file: PathBuf| Daemon::Bird { file, socket: None, is_bird_6: false, process: None };
    let named: Vec<Daemon> =
        files.bird.iter().cloned().map(bird).chain(files.frr.clone().map(Daemon::FrrFile)).collect();
    if !named.is_empty() {
        return named;
    }
    let running: Vec<Daemon> = processes
        .named(&["bird", "bird6"])
        .map(bird::daemon)
        .chain(frr::daemons(processes).cloned().map(Daemon::Frr))
        .collect();
    if !running.is_empty() {
        return running;
    }
    // The packages come with files in which there is no BGP.
    let existing = bird_files.iter().map(PathBuf::from).filter(|file| rehearsal::has_bgp(file)).map(bird);
    let has_bgp =
        |file: &PathBuf| std::fs::read_to_string(file).is_ok_and(|text| text.contains("router bgp"));
    existing.chain(Some(PathBuf::from(frr_file)).filter(has_bgp).map(Daemon::FrrFile)).collect()
}

/// The process, if it sees other files than this one.
fn elsewhere(process: &Process) -> Option<u32> {
    let namespace = |of: &str| std::fs::read_link(format!("/proc/{of}/ns/mnt")).ok();
    let (own, other) = (namespace("self")?, namespace(&process.pid.to_string())?);
    (own != other).then_some(process.pid)
}

/// Whether a process has users of its own: what it runs is not to be run by root.
fn is_confined(pid: u32) -> bool {
    let namespace = |of: &str| std::fs::read_link(format!("/proc/{of}/ns/user")).ok();
    let (own, other) = (namespace("self"), namespace(&pid.to_string()));
    own.is_none() || own != other
}

/// What a configuration does in a rehearsal, and what that means; with other numbers than those of the settings if it is only these.
fn rehearsed(request: &Request, wanted: &RouteShape) -> Vec<Finding> {
    if let Some(pid) = request.daemon.filter(|pid| is_confined(*pid)) {
        return vec![CONFIGURATION.notice(
            format!("process {pid} is in a container with users of its own: its daemon is not run by root, and {} was not rehearsed", request.configuration.display()),
            "give cutover doctor a copy of the configuration with --bird-conf or --frr-conf, and the same version of the daemon with --bird or --frr-dir",
        )];
    }
    let play = |wanted: &RouteShape| {
        let request = Request { families: wanted.families.clone(), ..request.clone() };
        let configuration = request.configuration.display().to_string();
        rehearsal::rehearse(&request).map(|observed| judge::judge(&observed, &configuration, wanted))
    };
    let findings = match play(wanted) {
        Ok(findings) => findings,
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            return vec![CONFIGURATION.needs_root("a configuration can only be rehearsed by root")];
        }
        Err(error) => {
            return vec![CONFIGURATION.notice(
                format!("{} could not be rehearsed: {error}", request.configuration.display()),
                "compare it with what cutover bgp prints",
            )];
        }
    };
    let usual = wanted.with_default_priorities();
    let is_bird = matches!(request.program, Program::Bird { .. });
    if is_bird
        && *wanted != usual
        && judge::is_bad(&findings)
        && play(&usual).is_ok_and(|it| !judge::is_bad(&it))
    {
        return vec![judge::other_numbers(wanted)];
    }
    findings
}

/// A single host has nobody to tell.
fn no_daemon(datastore: DatastoreType) -> Finding {
    let what = "there is neither BIRD nor FRR here, and no configuration of them";
    let change = "install one of them, and let cutover bgp print its configuration; or name it with --bird-conf or --frr-conf";
    match datastore {
        DatastoreType::Etcdv3 => CONFIGURATION.warning(what, change),
        DatastoreType::Dir => CONFIGURATION.notice(what, change),
    }
}

/// The routes that the agent has made, by the kernel.
fn routes_of_vms(settings: &Settings) -> Vec<VmRoute> {
    let links = snapshot::links().unwrap_or_default();
    let policy = settings.policy();
    let is_workload = |seen: &&LinkSeen| policy.has_routes(&seen.link.name);
    let workloads = links.iter().filter(is_workload).map(|seen| seen.link.ifindex);
    let routes = snapshot::routes(&workloads.collect()).unwrap_or_default().into_iter();
    routes
        .filter(|route| route.protocol == settings.device_route_protocol)
        .map(|route| VmRoute { destination: route.destination, metric: route.metric })
        .collect()
}

/// A family that nobody is told about, although others are. That can be meant so.
fn no_peer(family: FamilyMetrics) -> Finding {
    ANNOUNCES.notice(
        format!("{family}: routes of VMs are announced to nobody"),
        format!("a peer with an {family} address, if VMs have such addresses"),
    )
}

/// LIMIT: a host has hundreds of VMs; the first ones show what is wrong.
const MISSING_MAX: usize = 3;

/// What a daemon should know of the kernel's routes, and does not.
fn compare(daemon: &str, routes: &[VmRoute], known: &BTreeSet<(IpNet, u32)>) -> Vec<Finding> {
    let missing: Vec<String> = routes
        .iter()
        .filter(|route| !known.contains(&(route.destination, route.metric)))
        .map(|route| format!("{} metric {}", route.destination, route.metric))
        .collect();
    if missing.is_empty() {
        return Vec::new();
    }
    let more = missing.len().saturating_sub(MISSING_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let named = missing[..missing.len().min(MISSING_MAX)].join(", ");
    vec![RUNNING.error(
        format!("{daemon} does not have these routes of VMs, which the kernel has: {named}{more}"),
        "see the findings about what it learns; if there are none, reload its configuration",
    )]
}

/// What routes of VMs look like, by the settings.
#[derive(Clone, PartialEq, Eq, Debug)]
struct RouteShape {
    families: Vec<FamilyMetrics>,
    prefixes: InterfacePrefixes,
    protocol: u8,
    /// Addresses of VMs here.
    here: Vec<IpAddr>,
}

impl RouteShape {
    fn new(settings: &Settings, samples: &[IpNet]) -> Self {
        let sample = |is_ipv6: bool| samples.iter().copied().find(|net| net.addr().is_ipv6() == is_ipv6);
        let mut families = vec![FamilyMetrics {
            is_ipv6: false,
            normal: settings.ipv4_normal_route_priority,
            elevated: settings.ipv4_elevated_route_priority,
            sample: sample(false),
        }];
        if settings.ipv6_support {
            families.push(FamilyMetrics {
                is_ipv6: true,
                normal: settings.ipv6_normal_route_priority,
                elevated: settings.ipv6_elevated_route_priority,
                sample: sample(true),
            });
        }
        Self {
            families,
            prefixes: settings.interface_prefix.clone(),
            protocol: settings.device_route_protocol,
            here: samples.iter().map(IpNet::addr).collect(),
        }
    }

    /// What is to be rehearsed of a configuration.
    fn request(&self, program: Program, configuration: &Path) -> Request {
        // The stage has no working folder.
        let whole = std::path::absolute(configuration);
        Request {
            program,
            configuration: whole.unwrap_or_else(|_| configuration.to_owned()),
            text: None,
            daemon: None,
            families: self.families.clone(),
            prefixes: self.prefixes.to_string(),
            protocol: self.protocol,
            here: self.here.clone(),
        }
    }

    /// The same with the numbers that everybody has who did not change them.
    fn with_default_priorities(&self) -> Self {
        let families =
            self.families.iter().map(|family| FamilyMetrics { normal: 1024, elevated: 512, ..*family });
        Self { families: families.collect(), ..self.clone() }
    }
}

/// LOCAL_PREF of a route with this metric (the convention of Felix's documentation).
fn local_pref(metric: u32) -> i64 {
    i64::from(i32::MAX) - i64::from(metric)
}
