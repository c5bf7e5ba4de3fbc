//! Which permanent neighbours an interface lacks, and which it has too many. Pure.

use crate::netlink::{Neighbour, NeighbourChange, NeighbourKey};
use cutover_common::MacAddr;
use cutover_engine::wanted::WantedInterface;
use std::collections::BTreeMap;

/// What has to be written so that the permanent neighbours of an interface are the wanted ones. A permanent
/// unicast neighbour on a workload interface is ours: nobody else knows the guest's address for certain.
pub(super) fn plan(
    ifindex: u32,
    interface: &WantedInterface,
    ipv6: bool,
    observed: &BTreeMap<NeighbourKey, MacAddr>,
) -> Vec<NeighbourChange> {
    let wanted: BTreeMap<NeighbourKey, MacAddr> = interface
        .neighbours
        .iter()
        .filter(|(address, _)| ipv6 || address.is_ipv4())
        .map(|(address, mac)| (NeighbourKey { ifindex, address: *address }, *mac))
        .collect();
    let missing = wanted.iter().filter(|(key, mac)| observed.get(key) != Some(mac));
    let additions = missing.map(|(key, mac)| NeighbourChange::Add(Neighbour { key: *key, mac: *mac }));
    let removals = observed
        .keys()
        .filter(|key| key.ifindex == ifindex && !key.address.is_multicast() && !wanted.contains_key(key))
        .map(|key| NeighbourChange::Remove(*key));
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
        WantedInterface { name: "tap1".into(), neighbours: BTreeMap::from(neighbours), ipv6: true }
    }

    #[test]
    fn both_families_are_added_and_then_nothing_differs() {
        let changes = plan(7, &interface(), true, &BTreeMap::new());
        assert_eq!(changes.len(), 2);
        let observed = BTreeMap::from([(key(7, "10.65.0.2"), MAC), (key(7, "2001:db8::2"), MAC)]);
        assert_eq!(plan(7, &interface(), true, &observed), []);
    }

    #[test]
    fn ipv6_is_left_out_where_there_is_none() {
        let changes = plan(7, &interface(), false, &BTreeMap::new());
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
        assert_eq!(plan(7, &interface(), true, &observed), expected);
    }
}
