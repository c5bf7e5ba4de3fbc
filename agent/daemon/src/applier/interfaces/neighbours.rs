//! Which permanent neighbours an interface lacks, and which it has too many. Pure.

use crate::netlink::{Neighbour, NeighbourChange, NeighbourKey};
use cutover_common::MacAddr;
use cutover_engine::wanted::{Ipv6, WantedInterface};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

/// What has to be written so that the permanent neighbours of an interface are the wanted ones. A permanent
/// unicast neighbour on a tap is ours: nobody else knows the guest's address for certain. On a bridge there are an operator's as well, and
/// `ours_on_bridges` says which are not. Where IPv6 is to be left alone its neighbours are nobody's.
pub(super) fn plan(
    ifindex: u32,
    interface: &WantedInterface,
    has_ipv6: bool,
    observed: &BTreeMap<NeighbourKey, MacAddr>,
    ours_on_bridges: &BTreeSet<NeighbourKey>,
) -> Vec<NeighbourChange> {
    let wanted: BTreeMap<NeighbourKey, MacAddr> = interface
        .neighbours
        .iter()
        .filter(|(address, _)| has_ipv6 || address.is_ipv4())
        .map(|(address, mac)| (NeighbourKey { ifindex, address: *address }, *mac))
        .collect();
    let missing = wanted.iter().filter(|(key, mac)| observed.get(key) != Some(mac));
    let additions = missing.map(|(key, mac)| NeighbourChange::Add(Neighbour { key: *key, mac: *mac }));
    let is_ours = |key: &&NeighbourKey| {
        let is_left_alone = key.address.is_ipv6() && interface.ipv6 == Ipv6::LeftAlone;
        let is_operators = interface.is_bridge && !ours_on_bridges.contains(*key);
        !key.address.is_multicast() && !is_left_alone && !is_operators
    };
    let first = NeighbourKey { ifindex, address: IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
    let here = observed.range(first..).map(|(key, _)| key).take_while(|key| key.ifindex == ifindex);
    let removals = here.filter(is_ours).filter(|key| !wanted.contains_key(key));
    let removals = removals.map(|key| NeighbourChange::Remove(*key));
    additions.chain(removals).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr([0xfa, 0x16, 0x3e, 0, 0, 1]);
    const OTHER_MAC: MacAddr = MacAddr([0xfa, 0x16, 0x3e, 0, 0, 2]);

    fn key(ifindex: u32, address: &str) -> NeighbourKey {
        NeighbourKey { ifindex, address: address.parse().unwrap() }
    }

    fn interface() -> WantedInterface {
        let neighbours = ["10.65.0.2", "2001:db8::2"].map(|address| (address.parse().unwrap(), MAC));
        WantedInterface {
            name: "tap1".into(),
            neighbours: BTreeMap::from(neighbours),
            ipv6: Ipv6::Routed,
            is_bridge: false,
        }
    }

    #[test]
    fn both_families_are_added_and_then_nothing_differs() {
        let changes = plan(7, &interface(), true, &BTreeMap::new(), &BTreeSet::new());
        assert_eq!(changes.len(), 2);
        let observed = BTreeMap::from([(key(7, "10.65.0.2"), MAC), (key(7, "2001:db8::2"), MAC)]);
        assert_eq!(plan(7, &interface(), true, &observed, &BTreeSet::new()), []);
    }

    #[test]
    fn ipv6_is_left_out_where_there_is_none() {
        let changes = plan(7, &interface(), false, &BTreeMap::new(), &BTreeSet::new());
        assert_eq!(changes, [NeighbourChange::Add(Neighbour { key: key(7, "10.65.0.2"), mac: MAC })]);
    }

    #[test]
    fn only_this_interface_is_cleaned() {
        let observed = BTreeMap::from([
            (key(7, "10.65.0.2"), OTHER_MAC),
            (key(7, "2001:db8::2"), MAC),
            (key(7, "10.65.0.99"), MAC),
            (key(7, "ff02::1"), MAC),
            (key(8, "10.65.0.98"), MAC),
        ]);
        let expected = [
            NeighbourChange::Add(Neighbour { key: key(7, "10.65.0.2"), mac: MAC }),
            NeighbourChange::Remove(key(7, "10.65.0.99")),
        ];
        assert_eq!(plan(7, &interface(), true, &observed, &BTreeSet::new()), expected);
    }

    #[test]
    fn of_a_bridge_only_what_is_ours_is_removed() {
        let bridge = WantedInterface { name: "br0".into(), is_bridge: true, ..interface() };
        let observed = ["10.65.0.2", "2001:db8::2", "10.65.0.98", "10.65.0.99"];
        let observed = BTreeMap::from(observed.map(|address| (key(7, address), MAC)));
        let ours = BTreeSet::from([key(7, "10.65.0.2"), key(7, "10.65.0.99")]);
        let expected = [NeighbourChange::Remove(key(7, "10.65.0.99"))];
        assert_eq!(plan(7, &bridge, true, &observed, &ours), expected);
    }

    #[test]
    fn ipv6_neighbours_of_others_are_left_alone_without_ipv6_support() {
        let neighbours = BTreeMap::from([("10.65.0.2".parse().unwrap(), MAC)]);
        let observed = BTreeMap::from([(key(7, "10.65.0.2"), MAC), (key(7, "2001:db8::9"), MAC)]);
        let plan_with = |ipv6| {
            let interface = WantedInterface { ipv6, neighbours: neighbours.clone(), ..interface() };
            plan(7, &interface, true, &observed, &BTreeSet::new())
        };
        assert_eq!(plan_with(Ipv6::LeftAlone), []);
        assert_eq!(plan_with(Ipv6::Unused), [NeighbourChange::Remove(key(7, "2001:db8::9"))]);
    }
}
