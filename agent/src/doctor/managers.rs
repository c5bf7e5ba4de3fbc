//! Managers of networks: whether one of them takes care of interfaces of VMs, and what keeps it away.

use super::finding::{Area, Check, Finding};
use cutover_engine::InterfacePrefixes;
use std::fs;
use std::path::Path;

static MANAGED: Check = Check {
    area: Area::Network,
    name: "tap-managed",
    wants: "No network manager takes care of interfaces of VMs",
    why: "systemd-networkd and NetworkManager remove routes and addresses from interfaces that they manage, those of the agent as well.",
};

pub(super) static CHECKS: &[&Check] = &[&MANAGED];

/// From links that it manages, networkd removes every route that it has not made, whatever its protocol; `KeepConfiguration=static`
/// spares those of protocol static (4), and no others (`link_drop_foreign_routes` in its networkd-route.c; networkd.conf(5)).
const NETWORKD_CHANGE: &str = "a file in /etc/systemd/network, first in order, that matches these names with Unmanaged=yes; \
     or ManageForeignRoutes=no in /etc/systemd/networkd.conf, which keeps routes, not addresses. KeepConfiguration=static does not help: \
     it keeps routes of protocol static (4) only, and the agent's have DeviceRouteProtocol";

/// Where the managers of networks say what they do with a link.
const NETWORKD: &str = "/run/systemd/netif/links";
const NETWORK_MANAGER: &str = "/run/NetworkManager/devices";

/// Both managers keep a file for each link; the words are those of networkctl(1) and of NetworkManager's device state.
fn of(ifindex: u32) -> Option<&'static str> {
    let read = |folder: &str| fs::read_to_string(Path::new(folder).join(ifindex.to_string())).ok();
    if read(NETWORKD).is_some_and(|text| is_managed_by_networkd(&text)) {
        return Some("systemd-networkd");
    }
    read(NETWORK_MANAGER).filter(|text| is_managed_by_network_manager(text)).map(|_| "NetworkManager")
}

fn is_managed_by_networkd(text: &str) -> bool {
    let state = text.lines().find_map(|line| line.strip_prefix("ADMIN_STATE="));
    state.is_some_and(|state| matches!(state, "configured" | "configuring" | "pending"))
}

fn is_managed_by_network_manager(text: &str) -> bool {
    text.lines().any(|line| line.trim() == "managed=true")
}

/// Of interfaces of VMs, by name and number.
pub(super) fn examine<'a>(
    interfaces: impl Iterator<Item = (&'a str, u32)>,
    prefixes: &InterfacePrefixes,
) -> Vec<Finding> {
    judge(interfaces.filter_map(|(name, ifindex)| Some((name, of(ifindex)?))), prefixes)
}

fn judge<'a>(
    managed: impl Iterator<Item = (&'a str, &'static str)>,
    prefixes: &InterfacePrefixes,
) -> Vec<Finding> {
    let managed: Vec<Finding> = managed
        .map(|(name, manager)| {
            MANAGED.warning(
                format!("{manager} manages {name}"),
                match manager {
                    "NetworkManager" => format!(
                        "unmanaged-devices=interface-name:{}* in /etc/NetworkManager/conf.d",
                        prefixes.join("*;interface-name:")
                    ),
                    _ => NETWORKD_CHANGE.to_owned(),
                },
            )
        })
        .collect();
    if managed.is_empty() { vec![MANAGED.ok("nobody manages them")] } else { managed }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    /// What is said of a tap with this manager.
    fn found(manager: Option<&'static str>) -> Finding {
        let managed = manager.map(|manager| ("tap1", manager));
        let mut found = judge(managed.into_iter(), &"tap".parse().unwrap());
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    }

    #[test]
    fn what_keeps_each_manager_away_is_said() {
        assert_eq!(found(None).level, Level::Ok);
        for (manager, parts) in [
            (
                "systemd-networkd",
                &["Unmanaged=yes", "ManageForeignRoutes=no", "KeepConfiguration=static does not help"][..],
            ),
            ("NetworkManager", &["unmanaged-devices=interface-name:tap*"]),
        ] {
            let finding = found(Some(manager));
            assert_eq!((finding.level, finding.what), (Level::Warning, format!("{manager} manages tap1")));
            let change = finding.change.unwrap();
            assert!(parts.iter().all(|part| change.contains(part)), "{change}");
        }
    }

    #[test]
    fn managers_are_told_by_their_files() {
        assert!(is_managed_by_networkd("# private\nADMIN_STATE=configured\nOPER_STATE=routable\n"));
        assert!(!is_managed_by_networkd("ADMIN_STATE=unmanaged\n"));
        assert!(is_managed_by_network_manager("[device]\nmanaged=true\n"));
        assert!(!is_managed_by_network_manager("[device]\nmanaged=false\n"));
    }
}
