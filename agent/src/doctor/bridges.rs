//! Bridges whose ports are taps: whether routes can lead to them, and whether a VM finds the same gateway behind the one of its next host.

use super::finding::{Area, Check, Finding};
use cutover_common::MacAddr;
use cutover_daemon::control::Status;
use cutover_daemon::netlink::snapshot::LinkSeen;
use cutover_daemon::settings::Settings;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

static BRIDGES: Check = Check {
    area: Area::Network,
    name: "bridges",
    wants: "CutoverBridges are bridges that are up, and have those taps of VMs as ports that are ports",
    why: "What a VM sends on a port of a bridge reaches the host from the bridge, and the gateway answers there. A route to the port of a bridge that is not one of CutoverBridges brings packets to the VM past the bridge, and on a bridge that is down there is no route.",
};

static BRIDGE_MAC: Check = Check {
    area: Area::Network,
    name: "bridge-mac",
    wants: "CutoverBridges have a hardware address that an operator has set, the same on every host",
    why: "The bridge is the VM's gateway, and the VM takes its neighbour entry of it along when it migrates. If the bridge of the new host has another address, what the VM sends is lost there until it resolves the gateway anew. A bridge without an address of its own takes the lowest of its ports', which is another one on every host and changes with the ports.",
};

pub(super) static CHECKS: &[&Check] = &[&BRIDGES, &BRIDGE_MAC];

/// Where the kernel says what nothing else does.
const SYS: &str = "/sys/class/net";
/// KERNEL: NET_ADDR_SET: a bridge with such an address keeps it (`br_stp_recalculate_bridge_id`).
const SET: &str = "3";

/// What is asked for, and what there is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Bridges {
    pub(super) names: BTreeSet<String>,
    /// That of all hosts.
    pub(super) gateway: Option<MacAddr>,
    /// Those whose address was not set.
    pub(super) unset: BTreeSet<String>,
}

impl Bridges {
    pub(super) fn look(settings: &Settings) -> Self {
        let names = settings.cutover_bridges.clone();
        let is_unset = |name: &&String| {
            let path = Path::new(SYS).join(name).join("addr_assign_type");
            fs::read_to_string(path).is_ok_and(|text| text.trim() != SET)
        };
        let unset = names.iter().filter(is_unset).cloned().collect();
        Self { names, gateway: settings.cutover_gateway_mac, unset }
    }
}

/// `status` is what the running agent says, if one runs: without it nobody knows which tap has an endpoint.
pub(super) fn judge(bridges: &Bridges, links: &[LinkSeen], status: Option<&Status>) -> Vec<Finding> {
    let named = |name: &str| links.iter().find(|seen| seen.link.name == name);
    let mut findings: Vec<Finding> =
        bridges.names.iter().filter_map(|name| unusable(name, named(name))).collect();
    findings.extend(ports(bridges, links, status));
    if findings.is_empty() {
        findings.push(match bridges.names.len() {
            0 => BRIDGES.ok("routes lead to taps"),
            _ => BRIDGES.ok("routes of their ports lead to them"),
        });
    }
    let of_bridges = bridges.names.iter().filter_map(|name| named(name)?.mac.map(|mac| (name.as_str(), mac)));
    findings.extend(of_bridges.map(|(name, mac)| address(bridges, name, mac)));
    findings
}

/// Why no route leads to one.
fn unusable(name: &str, link: Option<&LinkSeen>) -> Option<Finding> {
    let Some(LinkSeen { link, kind, .. }) = link else {
        let change = "create the bridge, or take it out of CutoverBridges and restart the agent";
        return Some(BRIDGES.error(format!("there is no {name}"), change));
    };
    match kind.as_deref() {
        Some("bridge") if link.admin_up => None,
        Some("bridge") => {
            Some(BRIDGES.error(format!("{name} is down"), format!("ip link set dev {name} up")))
        }
        other => Some(BRIDGES.error(
            format!("{name} is no bridge, but a {}", other.unwrap_or("physical interface")),
            "take it out of CutoverBridges, and restart the agent",
        )),
    }
}

/// Taps of endpoints whose routes lead elsewhere than where they are.
fn ports(bridges: &Bridges, links: &[LinkSeen], status: Option<&Status>) -> Vec<Finding> {
    let numbered = |ifindex: u32| links.iter().find(|seen| seen.link.ifindex == ifindex);
    let endpoints = status.iter().flat_map(|status| &status.endpoints);
    let judge = |tap: &LinkSeen| {
        let name = &tap.link.name;
        let Some(master) = tap.link.master.and_then(numbered) else {
            let change = "nothing, if its VM is routed; else make it a port of its bridge before the VM starts or arrives";
            let what = format!("{name} is a port of none of CutoverBridges: its routes lead to itself");
            return (!bridges.names.is_empty()).then(|| BRIDGES.notice(what, change));
        };
        let bridge = &master.link.name;
        let is_other = master.kind.as_deref() == Some("bridge") && !bridges.names.contains(bridge);
        is_other.then(|| {
            BRIDGES.warning(
                format!("{name} is a port of {bridge}, which is none of CutoverBridges: its routes lead past the bridge"),
                format!("CutoverBridges = {bridge}, and restart the agent (docs/bridge.md)"),
            )
        })
    };
    endpoints.filter_map(|endpoint| judge(numbered(endpoint.ifindex?)?)).collect()
}

fn address(bridges: &Bridges, name: &str, mac: MacAddr) -> Finding {
    if bridges.unset.contains(name) {
        return BRIDGE_MAC.warning(
            format!("{name} has {mac}, which it took from a port or by chance"),
            format!("give it one, the same on every host: ip link set dev {name} address 02:…, and in what creates it; then CutoverGatewayMAC"),
        );
    }
    match bridges.gateway {
        Some(gateway) if gateway == mac => {
            BRIDGE_MAC.ok(format!("{name} has {mac}, as CutoverGatewayMAC says"))
        }
        Some(gateway) => BRIDGE_MAC.error(
            format!("{name} has {mac}, and CutoverGatewayMAC is {gateway}"),
            format!("ip link set dev {name} address {gateway}, and in what creates it; VMs here lose their gateway for a moment"),
        ),
        None => BRIDGE_MAC.notice(
            format!("{name} has {mac}; nothing says whether other hosts' have the same"),
            format!("CutoverGatewayMAC = {mac} on every host, where cutover doctor compares"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;
    use crate::example;
    use cutover_engine::fact::Link;

    const MAC: &str = "02:00:5e:00:00:01";

    fn link(ifindex: u32, name: &str, kind: &str, master: Option<u32>) -> LinkSeen {
        let link = Link { ifindex, name: name.into(), admin_up: true, running: true, master };
        LinkSeen { link, kind: Some(kind.into()), mac: Some(MAC.parse().unwrap()) }
    }

    fn bridges() -> Bridges {
        let gateway = Some(MAC.parse().unwrap());
        Bridges { names: BTreeSet::from(["vmbr0".to_owned()]), gateway, unset: BTreeSet::new() }
    }

    /// Levels and texts, the endpoint of the example being on interface 3.
    fn said(bridges: &Bridges, links: &[LinkSeen]) -> Vec<(Level, String)> {
        let status = example::status(vec![example::endpoint()]);
        let findings = judge(bridges, links, Some(&status));
        findings.into_iter().map(|finding| (finding.level, finding.what)).collect()
    }

    fn tap(master: Option<u32>) -> LinkSeen {
        let ifindex = example::endpoint().ifindex.unwrap();
        link(ifindex, "tap1", "tun", master)
    }

    #[test]
    fn a_bridge_with_its_port_and_its_address_is_right() {
        let links = [link(9, "vmbr0", "bridge", None), tap(Some(9))];
        let said = said(&bridges(), &links);
        assert!(said.len() == 2 && said.iter().all(|(level, _)| *level == Level::Ok), "{said:?}");
    }

    #[test]
    fn what_is_wrong_with_a_bridge_is_said() {
        let right = link(9, "vmbr0", "bridge", None);
        let mut down = right.clone();
        down.link.admin_up = false;
        let dummy = link(9, "vmbr0", "dummy", None);
        let other = link(8, "vmbr1", "bridge", None);
        for (links, level, part) in [
            (vec![tap(None)], Level::Error, "there is no vmbr0"),
            (vec![down, tap(Some(9))], Level::Error, "vmbr0 is down"),
            (vec![dummy, tap(Some(9))], Level::Error, "no bridge, but a dummy"),
            (vec![right.clone(), tap(None)], Level::Notice, "tap1 is a port of none"),
            (vec![right, other, tap(Some(8))], Level::Warning, "tap1 is a port of vmbr1"),
        ] {
            let said = said(&bridges(), &links);
            assert!(said.iter().any(|it| it.0 == level && it.1.contains(part)), "{part}: {said:?}");
        }
    }

    #[test]
    fn a_gateway_that_others_may_not_have_is_told() {
        let links = [link(9, "vmbr0", "bridge", None), tap(Some(9))];
        let unset = Bridges { unset: bridges().names, ..bridges() };
        let alone = Bridges { gateway: None, ..bridges() };
        let differs = Bridges { gateway: Some(MacAddr([2, 0, 0, 0, 0, 9])), ..bridges() };
        for (bridges, level, part) in [
            (unset, Level::Warning, "took from a port"),
            (alone, Level::Notice, "nothing says whether other hosts"),
            (differs, Level::Error, "CutoverGatewayMAC is 02:00:00:00:00:09"),
        ] {
            let said = said(&bridges, &links);
            assert!(said.iter().any(|it| it.0 == level && it.1.contains(part)), "{part}: {said:?}");
        }
    }

    #[test]
    fn without_bridges_only_a_tap_in_one_is_told() {
        let nothing = Bridges::default();
        assert_eq!(said(&nothing, &[tap(None)]), [(Level::Ok, "routes lead to taps".to_owned())]);
        let said = said(&nothing, &[link(9, "vmbr0", "bridge", None), tap(Some(9))]);
        assert!(said.len() == 1 && said[0].0 == Level::Warning, "{said:?}");
        let switch = link(9, "ovs-system", "openvswitch", None);
        assert_eq!(self::said(&nothing, &[switch, tap(Some(9))])[0].0, Level::Ok);
    }
}
