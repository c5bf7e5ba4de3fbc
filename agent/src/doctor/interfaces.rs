//! The interfaces of VMs: which ones the prefix takes for them, and how they are set up.

use super::finding::{Area, Check, Finding};
use cutover_daemon::control::Status;
use cutover_daemon::netlink::snapshot::{self, LinkSeen};
use cutover_daemon::settings::{Role, Settings};
use cutover_daemon::sysctls::Sysctls;
use cutover_daemon::sysctls::table::{self, Keeper, Setting, Value};
use cutover_engine::InterfacePrefixes;
use cutover_engine::wanted::Ipv6;
use std::path::Path;

static PREFIX: Check = Check {
    area: Area::Network,
    name: "interface-prefix",
    wants: "InterfacePrefix is what the names of VMs' interfaces begin with, and no others",
    why: "Routes, watches and sysctls go to interfaces with this prefix only; an uplink with it would be taken for a VM's.",
};
static SYSCTLS: Check = Check {
    area: Area::Network,
    name: "tap-settings",
    wants: "Interfaces of VMs have the sysctls and permanent neighbours that the agent gives them",
    why: "The VM finds its gateway only because the host answers for it, the host forwards only what comes from interfaces that may, and it must neither answer for the VM's own address nor take the VM for a router.",
};
static LOCALNET: Check = Check {
    area: Area::Network,
    name: "route-localnet",
    wants: "route_localnet is 0 for interfaces of VMs",
    why: "With 1 a VM reaches what listens on 127.0.0.1 of the host, unless rules forbid it. Calico's Felix sets 1, has such rules, and leaves the 1 behind when it is switched off.",
};
static CARRIER: Check = Check {
    area: Area::Network,
    name: "tap-carrier",
    wants: "Interfaces of VMs are up, and those of running VMs have a carrier",
    why: "Without a carrier no hypervisor has the tap open: the VM does not run here, and traffic for it ends at the tap.",
};
pub(super) static CHECKS: &[&Check] = &[&PREFIX, &SYSCTLS, &LOCALNET, &CARRIER];

/// Kinds of links that hypervisors and container runtimes make for a workload.
const WORKLOAD_KINDS: [&str; 5] = ["tun", "veth", "macvtap", "ipvtap", "netkit"];

/// The links, and what there is to know of those with the prefix.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct GuestInterfaces {
    pub(super) prefixes: InterfacePrefixes,
    pub(super) wants_ipv6: bool,
    pub(super) links: Vec<LinkSeen>,
    pub(super) workloads: Vec<Workload>,
    /// `net.ipv4.conf.all.route_localnet` is on: for every interface, whatever its own value.
    pub(super) all_route_localnet: bool,
    /// Whose business that of the interfaces is.
    pub(super) keeper: Keeper,
}

/// A link with the prefix.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Workload {
    pub(super) name: String,
    pub(super) ifindex: u32,
    pub(super) is_up: bool,
    pub(super) has_carrier: bool,
    /// Sysctls that are not as they have to be.
    pub(super) wrong: Vec<Wrong>,
    pub(super) route_localnet: bool,
}

/// A sysctl below /proc/sys/net.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Wrong {
    pub(super) path: String,
    pub(super) value: String,
    pub(super) wanted: &'static str,
}

impl GuestInterfaces {
    pub(super) fn look(proc: &Path, settings: &Settings) -> Self {
        let sysctls = Sysctls::new(&proc.join("sys/net"));
        let route_localnet = |name: &str| {
            sysctls.read(&format!("ipv4/conf/{name}/route_localnet")).is_ok_and(|value| value != "0")
        };
        let links = snapshot::links().unwrap_or_default();
        let prefixes = settings.interface_prefix.clone();
        let wants_ipv6 = settings.ipv6_support;
        let keeper = match settings.cutover_role {
            Role::Full => Keeper::Agent,
            Role::Routes => Keeper::Felix,
        };
        let policy = settings.policy();
        let is_workload = |seen: &&LinkSeen| policy.is_workload(&seen.link.name);
        let workloads = links.iter().filter(is_workload).map(|seen| Workload {
            name: seen.link.name.clone(),
            ifindex: seen.link.ifindex,
            is_up: seen.link.admin_up,
            has_carrier: seen.link.running,
            wrong: wrong_sysctls(&sysctls, &seen.link.name, wants_ipv6, keeper),
            route_localnet: route_localnet(&seen.link.name),
        });
        let workloads = workloads.collect();
        Self { prefixes, wants_ipv6, links, workloads, all_route_localnet: route_localnet("all"), keeper }
    }
}

/// All but route_localnet, which has a check of its own, and what follows an operator's default.
fn wrong_sysctls(sysctls: &Sysctls, name: &str, wants_ipv6: bool, keeper: Keeper) -> Vec<Wrong> {
    let ipv6 = if wants_ipv6 { Ipv6::Routed } else { Ipv6::LeftAlone };
    let settings = table::of_interface(name, ipv6, sysctls.ipv6_device(name), keeper);
    let wrong = |setting: Setting| {
        let Value::Fixed(wanted) = setting.value else { return None };
        let value = sysctls.read(&setting.path).ok()?;
        (value != wanted).then_some(Wrong { path: setting.path, value, wanted })
    };
    settings
        .into_iter()
        .filter(|setting| !setting.path.ends_with("/route_localnet"))
        .filter_map(wrong)
        .collect()
}

/// `status` is what the running agent says, if one runs.
pub(super) fn judge(seen: &GuestInterfaces, status: Option<&Status>) -> Vec<Finding> {
    let mut findings = prefix(seen);
    findings.extend(sysctls(seen, status));
    findings.extend(route_localnet(seen, status.is_some()));
    findings.extend(carrier(seen, status));
    findings
}

fn prefix(seen: &GuestInterfaces) -> Vec<Finding> {
    let list = seen.prefixes.to_string();
    let is_workload =
        |link: &LinkSeen| link.kind.as_deref().is_some_and(|kind| WORKLOAD_KINDS.contains(&kind));
    let foreign = |workload: &Workload| {
        let link = seen.links.iter().find(|link| link.link.ifindex == workload.ifindex)?;
        (!is_workload(link)).then(|| (workload.name.clone(), link.kind.clone()))
    };
    let mut findings: Vec<Finding> = seen
        .workloads
        .iter()
        .filter_map(foreign)
        .map(|(name, kind)| {
            let kind = kind.unwrap_or_else(|| "physical interface".to_owned());
            PREFIX.error(
                format!("{name} is a {kind}, and begins with a prefix of InterfacePrefix ({list})"),
                "make InterfacePrefix longer, or rename the interface",
            )
        })
        .collect();
    let taps = |seen: &&LinkSeen| seen.kind.as_deref() == Some("tun") && seen.link.name.starts_with("tap");
    let left_out: Vec<&str> = seen.links.iter().filter(taps).map(|seen| seen.link.name.as_str()).collect();
    if seen.workloads.is_empty() && !left_out.is_empty() {
        findings.push(PREFIX.error(
            format!("no interface begins with {list}, but there are taps: {}", few(&left_out)),
            "InterfacePrefix = tap",
        ));
    }
    if findings.is_empty() {
        findings.push(PREFIX.ok(format!("{} interfaces of VMs", seen.workloads.len())));
    }
    findings
}

/// LIMIT: a host has hundreds; a line names the first ones.
const NAMED_MAX: usize = 5;

pub(super) fn few(names: &[&str]) -> String {
    let more = names.len().saturating_sub(NAMED_MAX);
    let named = names[..names.len() - more].join(", ");
    if more > 0 { format!("{named} and {more} more") } else { named }
}

/// The agent makes these settings when an endpoint has the interface; before that they mean nothing.
fn sysctls(seen: &GuestInterfaces, status: Option<&Status>) -> Vec<Finding> {
    let Some(status) = status else { return Vec::new() };
    let unprepared = status.unprepared.iter().map(|(name, reason)| {
        SYSCTLS.error(
            format!("{name} cannot be set up completely: {reason}"),
            "mend what the message says; the agent tries again by itself",
        )
    });
    let wrong = seen.workloads.iter().flat_map(|workload| wrong_for_endpoint(workload, status));
    let wrong = wrong.map(|Wrong { path, value, wanted }| {
        SYSCTLS.error(
            format!("net.{} is {value}", path.replace('/', ".")),
            format!("systemctl restart cutover, which sets it to {wanted}; and find out who sets it to {value}: a file in /etc/sysctl.d, or another agent"),
        )
    });
    let findings: Vec<Finding> = unprepared.chain(wrong).collect();
    if findings.is_empty() { vec![SYSCTLS.ok("interfaces of VMs are set up")] } else { findings }
}

/// What is wrong on an interface that an endpoint has. Without an IPv6 route to it, the agent leaves IPv6 as it is.
fn wrong_for_endpoint<'a>(workload: &'a Workload, status: &Status) -> impl Iterator<Item = &'a Wrong> {
    let endpoint = status.endpoints.iter().find(|endpoint| endpoint.ifindex == Some(workload.ifindex));
    let has_ipv6 =
        endpoint.is_some_and(|endpoint| endpoint.routes.iter().any(|route| route.destination.contains(':')));
    let is_set = move |wrong: &&Wrong| {
        has_ipv6 || !wrong.path.starts_with("ipv6/") || wrong.path.ends_with("/accept_ra")
    };
    // A port of a bridge has none of its own.
    let is_routed = endpoint.is_some_and(|endpoint| endpoint.bridge.is_none());
    let wrong = if is_routed { workload.wrong.as_slice() } else { &[] };
    wrong.iter().filter(is_set)
}

fn route_localnet(seen: &GuestInterfaces, agent_runs: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    if seen.all_route_localnet {
        findings.push(LOCALNET.error(
            "net.ipv4.conf.all.route_localnet is 1: it is on for every interface",
            "sysctl -w net.ipv4.conf.all.route_localnet=0, and the same in /etc/sysctl.d",
        ));
    }
    // Felix has 1 on every tap, and rules that keep the guest from what listens there.
    let is_ours = seen.keeper == Keeper::Agent;
    let on = seen.workloads.iter().filter(|workload| is_ours && workload.route_localnet);
    let on: Vec<&str> = on.map(|workload| workload.name.as_str()).collect();
    if !on.is_empty() {
        let what = format!("route_localnet is 1 on {}", few(&on));
        let change = "sysctl -w net.ipv4.conf.<name>.route_localnet=0; the agent does so for interfaces with endpoints";
        findings.push(if agent_runs { LOCALNET.error(what, change) } else { LOCALNET.warning(what, change) });
    }
    if findings.is_empty() {
        vec![LOCALNET.ok("no VM reaches 127.0.0.1 of the host by it")]
    } else {
        findings
    }
}

fn carrier(seen: &GuestInterfaces, status: Option<&Status>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let down: Vec<&str> =
        seen.workloads.iter().filter(|it| !it.is_up).map(|workload| workload.name.as_str()).collect();
    if !down.is_empty() {
        findings.push(CARRIER.warning(
            format!("down: {}", few(&down)),
            "ip link set <name> up, if its VM runs here; see why Nova did not",
        ));
    }
    // Before the VM arrives, the target's tap has no carrier; the source's loses it when the VM has gone.
    let is_settled = |name: &str| {
        let endpoint = status.and_then(|status| status.endpoints.iter().find(|it| it.interface == name));
        endpoint.is_some_and(|endpoint| {
            !matches!(endpoint.role.as_str(), "TARGET" | "SOURCE") && !endpoint.not_here
        })
    };
    let silent: Vec<&str> = seen
        .workloads
        .iter()
        .filter(|workload| workload.is_up && !workload.has_carrier && is_settled(&workload.name))
        .map(|workload| workload.name.as_str())
        .collect();
    if !silent.is_empty() {
        findings.push(CARRIER.notice(
            format!("nobody has these open, although their endpoints are here: {}", few(&silent)),
            "nothing, if these VMs are shut off",
        ));
    }
    if findings.is_empty() {
        findings.push(CARRIER.ok("interfaces of VMs are up"));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;
    use crate::example;
    use cutover_engine::fact::Link;
    use cutover_engine::view::{EndpointView, RouteView};

    fn status(role: &str) -> Status {
        example::status(vec![EndpointView { role: role.into(), ..example::endpoint() }])
    }

    fn link(name: &str, ifindex: u32, kind: Option<&str>) -> LinkSeen {
        let link = Link { ifindex, name: name.into(), admin_up: true, running: true, master: None };
        LinkSeen { link, kind: kind.map(str::to_owned), mac: None }
    }

    fn workload(name: &str, ifindex: u32) -> Workload {
        Workload {
            name: name.into(),
            ifindex,
            is_up: true,
            has_carrier: true,
            wrong: Vec::new(),
            route_localnet: false,
        }
    }

    fn healthy() -> GuestInterfaces {
        GuestInterfaces {
            prefixes: "tap".parse().unwrap(),
            wants_ipv6: true,
            links: vec![link("lo", 1, None), link("eth0", 2, None), link("tap1", 3, Some("tun"))],
            workloads: vec![workload("tap1", 3)],
            all_route_localnet: false,
            keeper: Keeper::Agent,
        }
    }

    fn problems(seen: &GuestInterfaces, status: Option<&Status>) -> Vec<(&'static str, Level)> {
        let found = judge(seen, status);
        let problems = found.iter().filter(|finding| finding.level != Level::Ok);
        problems.map(|finding| (finding.check.name, finding.level)).collect()
    }

    #[test]
    fn each_fault_is_exactly_one_finding() {
        let none = status("NO_ROLE");
        let only = |workload: Workload| GuestInterfaces { workloads: vec![workload], ..healthy() };
        let with = |path: &str| {
            let wrong = Wrong { path: path.into(), value: "0".into(), wanted: "1" };
            Workload { wrong: vec![wrong], ..workload("tap1", 3) }
        };
        let wrong = with("ipv4/conf/tap1/proxy_arp");
        let wrong_for_ipv6 = with("ipv6/conf/tap1/proxy_ndp");
        let mut with_ipv6 = none.clone();
        with_ipv6.endpoints[0].routes =
            vec![RouteView { destination: "2001:db8::2/128".into(), metric: 1024 }];
        let mut unprepared = none.clone();
        unprepared.unprepared.insert("tap1".into(), "IPv6 is switched off".into());
        let localnet = Workload { route_localnet: true, ..workload("tap1", 3) };
        let no_carrier = Workload { has_carrier: false, ..workload("tap1", 3) };
        for (seen, status, expected) in [
            (healthy(), Some(&none), &[][..]),
            (healthy(), None, &[]),
            (only(wrong.clone()), Some(&none), &[("tap-settings", Level::Error)]),
            (only(wrong), None, &[]),
            (only(wrong_for_ipv6.clone()), Some(&none), &[]),
            (only(wrong_for_ipv6), Some(&with_ipv6), &[("tap-settings", Level::Error)]),
            (healthy(), Some(&unprepared), &[("tap-settings", Level::Error)]),
            (only(localnet.clone()), Some(&none), &[("route-localnet", Level::Error)]),
            (only(localnet.clone()), None, &[("route-localnet", Level::Warning)]),
            (GuestInterfaces { keeper: Keeper::Felix, ..only(localnet) }, Some(&none), &[]),
            (
                GuestInterfaces { all_route_localnet: true, ..healthy() },
                Some(&none),
                &[("route-localnet", Level::Error)],
            ),
            (only(no_carrier.clone()), Some(&none), &[("tap-carrier", Level::Notice)]),
            (only(no_carrier.clone()), Some(&status("TARGET")), &[]),
            (only(no_carrier), None, &[]),
            (
                only(Workload { is_up: false, has_carrier: false, ..workload("tap1", 3) }),
                Some(&none),
                &[("tap-carrier", Level::Warning)],
            ),
            (
                GuestInterfaces { prefixes: "cali".parse().unwrap(), workloads: Vec::new(), ..healthy() },
                None,
                &[("interface-prefix", Level::Error)],
            ),
            (
                GuestInterfaces {
                    prefixes: "eth".parse().unwrap(),
                    workloads: vec![workload("eth0", 2)],
                    links: vec![link("eth0", 2, None)],
                    ..healthy()
                },
                None,
                &[("interface-prefix", Level::Error)],
            ),
        ] {
            assert_eq!(problems(&seen, status), expected, "{seen:?}");
        }
    }

    #[test]
    fn long_lists_are_cut() {
        assert_eq!(few(&["a", "b"]), "a, b");
        assert_eq!(few(&["a"; 8]), "a, a, a, a, a and 3 more");
    }
}
