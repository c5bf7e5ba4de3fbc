//! Sysctls of the host as a whole: forwarding, reverse path filters, connection tracking.

use super::finding::{Area, Check, Finding};
use cutover_daemon::control::Status;
use cutover_daemon::settings::{Settings, Switch};
use std::fs;
use std::path::Path;

static IPV4: Check = Check {
    area: Area::Network,
    name: "ipv4-forwarding",
    wants: "net.ipv4.ip_forward is 1 where there are VMs",
    why: "The host is the router of its VMs; during a migration the source also forwards what still arrives there to the target.",
};
static IPV6: Check = Check {
    area: Area::Network,
    name: "ipv6-forwarding",
    wants: "net.ipv6.conf.all.forwarding is 1 where there are VMs with IPv6 addresses",
    why: "The same as for IPv4. Without such VMs it may stay 0: a host that forwards IPv6 learns no default route from router advertisements unless accept_ra is 2.",
};
static RP_FILTER: Check = Check {
    area: Area::Network,
    name: "rp-filter",
    wants: "No strict reverse path filter on uplinks",
    why: "While both hosts have a route to a moved VM, its packets reach the source host through an uplink although the route back leads to its tap, and a strict filter drops them; so it does where two uplinks share the traffic.",
};
static TCP_LOOSE: Check = Check {
    area: Area::Network,
    name: "tcp-loose",
    wants: "net.netfilter.nf_conntrack_tcp_loose is 1, where connections are tracked",
    why: "The target has never seen the beginning of the VM's connections. If it may not pick them up in the middle they are invalid, and firewall rules drop them: every TCP session ends with the migration.",
};
static ACCEPT_RA: Check = Check {
    area: Area::Network,
    name: "accept-ra",
    wants: "Uplinks that learn their default route from router advertisements have accept_ra 2",
    why: "A host that forwards IPv6 ignores router advertisements if accept_ra is 1, and loses its default route when the agent turns forwarding on.",
};
static GUEST_ROUTER: Check = Check {
    area: Area::Network,
    name: "guest-router",
    wants: "No IPv6 default route was learnt from a VM",
    why: "Whoever sends router advertisements on an interface that accepts them becomes the host's way out. The agent makes interfaces with endpoints refuse them; what was learnt before stays.",
};
static GATEWAY_ROUTE: Check = Check {
    area: Area::Network,
    name: "gateway-route",
    wants: "There is an IPv4 default route out of an uplink",
    why: "With proxy_arp, Linux answers a VM that asks for its gateway only if it has a route to that address out of another interface. Without one the VM never finds its gateway.",
};

pub(super) static CHECKS: &[&Check] =
    &[&IPV4, &IPV6, &RP_FILTER, &TCP_LOOSE, &ACCEPT_RA, &GUEST_ROUTER, &GATEWAY_ROUTE];

/// Sysctls as they are; nothing for those that do not exist.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct ForwardingState {
    pub(super) ipv4_forwarding: Option<String>,
    pub(super) ipv6_forwarding: Option<String>,
    pub(super) wants_forwarding: bool,
    pub(super) wants_ipv6: bool,
    pub(super) rp_filter_all: Option<String>,
    pub(super) tcp_loose: Option<String>,
    pub(super) uplinks: Vec<Uplink>,
    /// Interfaces of VMs with a default route that was learnt from a router advertisement.
    pub(super) guest_routers: Vec<String>,
    /// Interfaces of IPv4 default routes; nothing if the table could not be read.
    pub(super) default_routes: Option<Vec<String>>,
}

/// An interface that is not a workload's.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Uplink {
    pub(super) name: String,
    pub(super) rp_filter: Option<String>,
    pub(super) accept_ra: Option<String>,
    /// Whether a default route leads through it that was learnt from a router advertisement.
    pub(super) has_learnt_default: bool,
}

impl ForwardingState {
    pub(super) fn look(proc: &Path, settings: &Settings) -> Self {
        let net = proc.join("sys/net");
        let read = |path: &str| fs::read_to_string(net.join(path)).ok().map(|text| text.trim().to_owned());
        let learnt = default_routes_learnt(
            &fs::read_to_string(proc.join("thread-self/net/ipv6_route")).unwrap_or_default(),
        );
        let names = fs::read_dir(net.join("ipv4/conf")).into_iter().flatten().flatten();
        let names = names.filter_map(|entry| entry.file_name().into_string().ok());
        let policy = settings.policy();
        let is_guests = |name: &String| policy.is_workload(name);
        let is_uplink =
            |name: &String| !matches!(name.as_str(), "all" | "default" | "lo") && !is_guests(name);
        let mut uplinks: Vec<Uplink> = names
            .filter(is_uplink)
            .map(|name| Uplink {
                rp_filter: read(&format!("ipv4/conf/{name}/rp_filter")),
                accept_ra: read(&format!("ipv6/conf/{name}/accept_ra")),
                has_learnt_default: learnt.contains(&name),
                name,
            })
            .collect();
        uplinks.sort_by(|one, other| one.name.cmp(&other.name));
        Self {
            ipv4_forwarding: read("ipv4/ip_forward"),
            ipv6_forwarding: read("ipv6/conf/all/forwarding"),
            wants_forwarding: settings.ip_forwarding == Switch::Enabled,
            wants_ipv6: settings.ipv6_support && read("ipv6/conf/all/disable_ipv6").as_deref() == Some("0"),
            rp_filter_all: read("ipv4/conf/all/rp_filter"),
            tcp_loose: read("netfilter/nf_conntrack_tcp_loose"),
            uplinks,
            guest_routers: learnt.iter().filter(|name| is_guests(name)).cloned().collect(),
            default_routes: fs::read_to_string(proc.join("thread-self/net/route"))
                .ok()
                .map(|table| default_routes(&table)),
        }
    }
}

/// Interfaces with a default route that the kernel made of a router advertisement.
///
/// KERNEL: a line of ipv6_route has destination, its length, source, its length, next hop, metric, two counters, flags and
/// interface, all but the last in hexadecimal; RTF_ADDRCONF (linux/ipv6_route.h) marks what comes from an advertisement.
fn default_routes_learnt(table: &str) -> Vec<String> {
    const RTF_ADDRCONF: u32 = 0x0004_0000;
    let learnt = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let flags = u32::from_str_radix(fields.get(8)?, 16).ok()?;
        let is_default = fields[1] == "00" && fields[0].bytes().all(|byte| byte == b'0');
        (is_default && flags & RTF_ADDRCONF != 0).then(|| fields.get(9).map(|name| (*name).to_owned()))?
    };
    table.lines().filter_map(learnt).collect()
}

/// Interfaces of IPv4 default routes.
///
/// KERNEL: a line of route has interface, destination, next hop, flags, three counters, and the mask as its eighth word.
///
/// LIMIT: the main table only.
fn default_routes(table: &str) -> Vec<String> {
    let of_line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_default = fields.get(1) == Some(&"00000000") && fields.get(7) == Some(&"00000000");
        is_default.then(|| fields[0].to_owned())
    };
    table.lines().filter_map(of_line).collect()
}

/// Whether the agent that runs has endpoints whose packets the host has to forward.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Endpoints {
    pub(super) any: bool,
    pub(super) ipv6: bool,
}

impl Endpoints {
    pub(super) fn of(status: &Status) -> Self {
        let mut routes = status.endpoints.iter().flat_map(|endpoint| &endpoint.routes);
        Self {
            any: status.endpoints.iter().any(|endpoint| endpoint.ifindex.is_some()),
            ipv6: routes.any(|route| route.destination.contains(':')),
        }
    }
}

/// `endpoints` are those of the running agent, if one runs.
pub(super) fn judge(seen: &ForwardingState, endpoints: Option<Endpoints>) -> Vec<Finding> {
    let ipv4 = seen.ipv4_forwarding.as_deref();
    let any = endpoints.map(|endpoints| endpoints.any);
    let mut findings = vec![forwarding(&IPV4, "net.ipv4.ip_forward", ipv4, seen, any)];
    if seen.wants_ipv6 {
        let (name, ipv6) = ("net.ipv6.conf.all.forwarding", seen.ipv6_forwarding.as_deref());
        findings.push(forwarding(&IPV6, name, ipv6, seen, endpoints.map(|endpoints| endpoints.ipv6)));
        findings.extend(accept_ra(&seen.uplinks));
    }
    findings.extend(guest_router(&seen.guest_routers));
    findings.extend(rp_filter(seen));
    findings.extend(gateway_route(seen));
    findings.push(match seen.tcp_loose.as_deref() {
        Some("0") => TCP_LOOSE.warning(
            "net.netfilter.nf_conntrack_tcp_loose is 0",
            "sysctl -w net.netfilter.nf_conntrack_tcp_loose=1, and the same in /etc/sysctl.d",
        ),
        Some(_) => TCP_LOOSE.ok("connections are picked up in the middle"),
        None => TCP_LOOSE.ok("no connections are tracked"),
    });
    findings
}

fn forwarding(
    check: &'static Check,
    name: &str,
    value: Option<&str>,
    seen: &ForwardingState,
    is_needed: Option<bool>,
) -> Finding {
    let change = format!("sysctl -w {name}=1, and take {name}=0 out of /etc/sysctl.conf and /etc/sysctl.d");
    match value {
        // KERNEL: for IPv6, 2 is forwarding with router solicitations.
        Some(value) if value != "0" => check.ok(format!("{name} is {value}")),
        Some(_) if is_needed == Some(true) || !seen.wants_forwarding => {
            check.error(format!("{name} is 0"), change)
        }
        Some(_) => check.notice(
            format!("{name} is 0"),
            "nothing: the agent sets it to 1 as soon as a VM that needs it has its interface here",
        ),
        None => check.notice(format!("could not read {name}"), "mount /proc"),
    }
}

/// KERNEL: the higher of `all` and the interface's own value counts; 1 is strict, 2 loose.
fn rp_filter(seen: &ForwardingState) -> Vec<Finding> {
    let number =
        |value: &Option<String>| value.as_deref().and_then(|value| value.parse().ok()).unwrap_or(0_u8);
    let all = number(&seen.rp_filter_all);
    let strict: Vec<&Uplink> =
        seen.uplinks.iter().filter(|uplink| number(&uplink.rp_filter).max(all) == 1).collect();
    if strict.is_empty() {
        return vec![RP_FILTER.ok("no uplink has a strict filter")];
    }
    let names: Vec<&str> = strict.iter().map(|uplink| uplink.name.as_str()).collect();
    let all_is_cause = if all == 1 { " (net.ipv4.conf.all.rp_filter is 1)" } else { "" };
    vec![RP_FILTER.warning(
        format!("strict reverse path filter on {}{all_is_cause}", names.join(", ")),
        format!(
                "{}, and the same in /etc/sysctl.d",
                names
                    .iter()
                    .map(|name| format!("sysctl -w net.ipv4.conf.{name}.rp_filter=2"))
                    .collect::<Vec<_>>()
                    .join("; ")
            ),
    )]
}

fn guest_router(interfaces: &[String]) -> Vec<Finding> {
    let of = |name: &String| {
        GUEST_ROUTER.error(
            format!("this host's IPv6 default route leads to the VM behind {name}"),
            format!(
                "sysctl -w net.ipv6.conf.{name}.accept_ra=0; ip -6 route del default dev {name} proto ra"
            ),
        )
    };
    match interfaces {
        [] => vec![GUEST_ROUTER.ok("no VM is this host's router")],
        interfaces => interfaces.iter().map(of).collect(),
    }
}

fn gateway_route(seen: &ForwardingState) -> Option<Finding> {
    let of_uplinks = |name: &&String| seen.uplinks.iter().any(|uplink| uplink.name == **name);
    match seen.default_routes.as_ref()?.iter().find(of_uplinks) {
        Some(name) => Some(GATEWAY_ROUTE.ok(format!("the IPv4 default route leads through {name}"))),
        None => Some(GATEWAY_ROUTE.warning(
            "no IPv4 default route leads through an uplink",
            "ip route add default via GATEWAY, and the same where the host's network is configured; nothing, if another route through an uplink covers the gateways of all VMs",
        )),
    }
}

fn accept_ra(uplinks: &[Uplink]) -> Vec<Finding> {
    let loses = |uplink: &&Uplink| uplink.has_learnt_default && uplink.accept_ra.as_deref() == Some("1");
    let findings: Vec<Finding> = uplinks
        .iter()
        .filter(loses)
        .map(|uplink| {
            let name = &uplink.name;
            ACCEPT_RA.warning(
                format!("{name} has its IPv6 default route from router advertisements, and accept_ra 1"),
                format!("sysctl -w net.ipv6.conf.{name}.accept_ra=2, and the same in /etc/sysctl.d"),
            )
        })
        .collect();
    if findings.is_empty() { vec![ACCEPT_RA.ok("no uplink loses its default route")] } else { findings }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    fn uplink(rp_filter: &str, accept_ra: &str, has_learnt_default: bool) -> Uplink {
        let value = |text: &str| Some(text.to_owned());
        Uplink {
            name: "eth0".into(),
            rp_filter: value(rp_filter),
            accept_ra: value(accept_ra),
            has_learnt_default,
        }
    }

    fn healthy() -> ForwardingState {
        let value = |text: &str| Some(text.to_owned());
        ForwardingState {
            ipv4_forwarding: value("1"),
            ipv6_forwarding: value("1"),
            wants_forwarding: true,
            wants_ipv6: true,
            rp_filter_all: value("0"),
            tcp_loose: value("1"),
            uplinks: vec![uplink("2", "1", false)],
            guest_routers: Vec::new(),
            default_routes: Some(vec!["eth0".to_owned()]),
        }
    }

    #[test]
    fn each_fault_is_exactly_one_finding() {
        let value = |text: &str| Some(text.to_owned());
        let both = Some(Endpoints { any: true, ipv6: true });
        for (seen, endpoints, check, level) in [
            (
                ForwardingState { ipv4_forwarding: value("0"), ..healthy() },
                both,
                "ipv4-forwarding",
                Level::Error,
            ),
            (
                ForwardingState { ipv4_forwarding: value("0"), ..healthy() },
                None,
                "ipv4-forwarding",
                Level::Notice,
            ),
            (
                ForwardingState { ipv6_forwarding: value("0"), ..healthy() },
                Some(Endpoints { any: true, ipv6: false }),
                "ipv6-forwarding",
                Level::Notice,
            ),
            (
                ForwardingState { guest_routers: vec!["tap1".to_owned()], ..healthy() },
                both,
                "guest-router",
                Level::Error,
            ),
            (
                ForwardingState { ipv4_forwarding: value("0"), wants_forwarding: false, ..healthy() },
                None,
                "ipv4-forwarding",
                Level::Error,
            ),
            (
                ForwardingState { ipv6_forwarding: value("0"), ..healthy() },
                both,
                "ipv6-forwarding",
                Level::Error,
            ),
            (ForwardingState { tcp_loose: value("0"), ..healthy() }, both, "tcp-loose", Level::Warning),
            (
                ForwardingState {
                    rp_filter_all: value("1"),
                    uplinks: vec![uplink("0", "1", false)],
                    ..healthy()
                },
                both,
                "rp-filter",
                Level::Warning,
            ),
            (
                ForwardingState { uplinks: vec![uplink("1", "1", false)], ..healthy() },
                both,
                "rp-filter",
                Level::Warning,
            ),
            (
                ForwardingState { uplinks: vec![uplink("2", "1", true)], ..healthy() },
                both,
                "accept-ra",
                Level::Warning,
            ),
            (
                ForwardingState { default_routes: Some(vec![]), ..healthy() },
                both,
                "gateway-route",
                Level::Warning,
            ),
            (
                ForwardingState { default_routes: Some(vec!["tap1".to_owned()]), ..healthy() },
                both,
                "gateway-route",
                Level::Warning,
            ),
        ] {
            let found = judge(&seen, endpoints);
            let problems: Vec<_> = found
                .iter()
                .filter(|finding| finding.level != Level::Ok)
                .map(|finding| (finding.check.name, finding.level))
                .collect();
            assert_eq!(problems, [(check, level)], "{found:?}");
        }
        for fine in [
            healthy(),
            ForwardingState { tcp_loose: None, ..healthy() },
            ForwardingState { default_routes: None, ..healthy() },
            // The higher value counts: loose everywhere.
            ForwardingState {
                rp_filter_all: value("2"),
                uplinks: vec![uplink("1", "1", false)],
                ..healthy()
            },
            ForwardingState { uplinks: vec![uplink("2", "2", true)], ..healthy() },
            ForwardingState {
                wants_ipv6: false,
                ipv6_forwarding: None,
                uplinks: vec![uplink("2", "1", true)],
                ..healthy()
            },
        ] {
            assert!(judge(&fine, both).iter().all(|finding| finding.level == Level::Ok), "{fine:?}");
        }
    }

    /// The lines are those of a host with one uplink (Linux 6.18), the flags RTF_UP, RTF_GATEWAY, RTF_ADDRCONF and others.
    #[test]
    fn a_learnt_default_route_is_told_from_others() {
        let line = |destination: &str, length: &str, flags: &str| {
            let zero = "0".repeat(32);
            format!(
                "{destination} {length} {zero} 00 fe800000000000000000000000000001 00000400 00000001 00000000 {flags}     eth0\n"
            )
        };
        let zero = "0".repeat(32);
        assert_eq!(default_routes_learnt(&line(&zero, "00", "00450003")), ["eth0"]);
        assert!(default_routes_learnt(&line(&zero, "00", "00000003")).is_empty());
        assert!(
            default_routes_learnt(&line("20010db8000000000000000000000000", "40", "00440001")).is_empty()
        );
        assert!(default_routes_learnt("nonsense\n").is_empty());
    }

    #[test]
    fn default_routes_are_read() {
        let table = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
            eth0\t00000000\t0102A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
            eth1\t00000000\t00000000\t0001\t0\t0\t0\t000000FF\t0\t0\t0\n\
            tap1\t0200410A\t00000000\t0005\t0\t0\t1024\tFFFFFFFF\t0\t0\t0\n";
        assert_eq!(default_routes(table), ["eth0"]);
        assert!(default_routes("").is_empty());
    }
}
