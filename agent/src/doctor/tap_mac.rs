//! Hardware addresses of taps: whether the next host of a VM has the same one on its tap.
//!
//! One host cannot see the taps of the others, but whoever plugs taps for live migration gives them addresses that are the same everywhere.
//! Those are known here; any other is told.

use super::finding::{Area, Check, Finding};
use super::interfaces::few;
use cutover_common::MacAddr;
use cutover_daemon::control::Status;
use cutover_daemon::netlink::snapshot::LinkSeen;

static TAP_MAC: Check = Check {
    area: Area::Network,
    name: "tap-mac",
    wants: "Interfaces of VMs have hardware addresses that are the same on every host",
    why: "The VM takes its neighbour entry of the gateway along when it migrates. If the tap of the new host has another address, what the VM sends is dropped there until it resolves the gateway anew; its IPv6 gateway, the link-local address of the tap, is another one as well.",
};

pub(super) static CHECKS: &[&Check] = &[&TAP_MAC];

/// What every interface has: from the Neutron driver of Calico, which tells Nova, and from Calico's plugin for containers.
const FIXED: [MacAddr; 2] =
    [MacAddr([0x00, 0x61, 0xfe, 0xed, 0xca, 0xfe]), MacAddr([0xee, 0xee, 0xee, 0xee, 0xee, 0xee])];

/// The address that libvirt gives to the tap of a port: the port's with another first byte, because the two must differ.
const fn made_by_libvirt(port: MacAddr) -> MacAddr {
    let [first, b, c, d, e, f] = port.0;
    MacAddr([if first == 0xfe { 0xfa } else { 0xfe }, b, c, d, e, f])
}

/// `status` is what the running agent says, if one runs: without it nobody knows which interface is whose.
pub(super) fn judge(links: &[LinkSeen], status: Option<&Status>) -> Vec<Finding> {
    let Some(status) = status else { return Vec::new() };
    // Behind a bridge it is the bridge that the VM knows.
    let routed = status.endpoints.iter().filter(|endpoint| endpoint.bridge.is_none());
    let interfaces = routed.filter_map(|endpoint| {
        let seen = links.iter().find(|seen| Some(seen.link.ifindex) == endpoint.ifindex)?;
        Some((seen.link.name.as_str(), seen.mac?, endpoint.mac))
    });
    // Without the port's address, one that libvirt made cannot be told from any other.
    let differs = |tap: MacAddr, port: Option<MacAddr>| {
        !FIXED.contains(&tap) && port.is_some_and(|port| tap != made_by_libvirt(port))
    };
    let different: Vec<String> = interfaces
        .filter(|(_, tap, port)| differs(*tap, *port))
        .map(|(name, tap, _)| format!("{name} ({tap})"))
        .collect();
    if different.is_empty() {
        return vec![TAP_MAC.ok("what VMs know of their gateway goes on being right when they migrate")];
    }
    let different: Vec<&str> = different.iter().map(String::as_str).collect();
    vec![TAP_MAC.warning(
        format!("nothing makes the hardware address the same on the next host: {}", few(&different)),
        format!(
            "see who plugs these: Nova with the driver of networking-calico gives {}, libvirt the port's address with fe in front; \
             a script of your own should give the former, before the VM starts: ip link set dev <name> address {}",
            FIXED[0], FIXED[0]
        ),
    )]
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;
    use crate::example;
    use cutover_engine::fact::Link;
    use cutover_engine::view::EndpointView;

    /// What is said of a tap with this address, of a port with that one.
    fn found(tap: Option<&str>, port: Option<&str>) -> Finding {
        let mac = |text: &str| text.parse().unwrap();
        let link = Link { ifindex: 3, name: "tap1".into(), admin_up: true, running: true, master: None };
        let link = LinkSeen { link, kind: Some("tun".into()), mac: tap.map(mac) };
        let endpoint = EndpointView { mac: port.map(mac), ..example::endpoint() };
        let mut found = judge(&[link], Some(&example::status(vec![endpoint])));
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    }

    #[test]
    fn only_an_address_that_another_host_would_not_have_is_told() {
        let port = Some("fa:16:3e:00:00:01");
        for (tap, port, expected) in [
            (Some("fe:16:3e:00:00:01"), port, Level::Ok),
            (Some("00:61:fe:ed:ca:fe"), port, Level::Ok),
            (Some("ee:ee:ee:ee:ee:ee"), port, Level::Ok),
            (Some("00:61:fe:ed:ca:fe"), None, Level::Ok),
            (Some("fa:16:3e:00:00:01"), Some("fe:16:3e:00:00:01"), Level::Ok),
            // What the kernel makes up for a tap, another port's, and the port's own.
            (Some("7e:11:22:33:44:55"), port, Level::Warning),
            (Some("fe:16:3e:00:00:02"), port, Level::Warning),
            (Some("fa:16:3e:00:00:01"), port, Level::Warning),
            // Nothing to compare with.
            (Some("7e:11:22:33:44:55"), None, Level::Ok),
            (None, port, Level::Ok),
        ] {
            let finding = found(tap, port);
            assert_eq!(finding.level, expected, "{tap:?} of {port:?}: {finding:?}");
        }
        let finding = found(Some("7e:11:22:33:44:55"), port);
        assert!(finding.what.ends_with(": tap1 (7e:11:22:33:44:55)"), "{finding:?}");
        assert!(finding.change.unwrap().contains("address 00:61:fe:ed:ca:fe"));
    }

    #[test]
    fn without_an_agent_or_a_tap_nothing_is_said() {
        assert_eq!(judge(&[], None), []);
        let away = EndpointView { ifindex: None, ..example::endpoint() };
        assert_eq!(judge(&[], Some(&example::status(vec![away])))[0].level, Level::Ok);
    }
}
