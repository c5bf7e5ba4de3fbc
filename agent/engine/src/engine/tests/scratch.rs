//! What is wanted, from scratch: the plain way that the engine went before it looked only at what changed. Every test
//! compares the two after every fact ([`super::host::Host::check`]).

use crate::Engine;
use crate::engine::locals::Local;
use crate::engine::wants;
use crate::model::{EndpointKey, LiveMigration};
use crate::wanted::{Ipv6, Status, Wanted, WantedInterface, WantedStatus};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Who has what, while the sets are built in order: the first one wins.
#[derive(Default)]
struct Taken {
    interfaces: BTreeSet<String>,
    prefixes: BTreeSet<IpNet>,
}

impl Engine {
    pub(super) fn rebuilt(&self) -> Wanted {
        let mut wanted = Wanted {
            leftovers_may_go: self.wanted.leftovers_may_go,
            unknown_statuses_may_go: self.wanted.unknown_statuses_may_go,
            known_interfaces: self.served.clone(),
            known_on_bridges: self.bridges.known.clone(),
            chains_awaited: self.wanted.chains_awaited,
            // Built anew each time.
            leaving: self.wanted.leaving.clone(),
            forwards: self.wanted.forwards.clone(),
            receptions: self.wanted.receptions.clone(),
            conversations: self.wanted.conversations.clone(),
            handovers: self.wanted.handovers.clone(),
            ..Wanted::default()
        };
        let mut taken = Taken::default();
        let (gone, shown): (Vec<_>, Vec<_>) =
            self.locals.iter().partition(|(_, local)| local.held_since.is_some());
        for (key, local) in shown.into_iter().chain(gone) {
            if taken.interfaces.insert(local.endpoint.interface.clone()) {
                self.add(&mut wanted, &mut taken, key, local);
            } else {
                wanted.statuses.insert(Arc::clone(key), WantedStatus::of(Status::AsReported));
            }
        }
        // A bridge that was served is looked after for as long as it exists.
        for &ifindex in &self.bridges.served {
            if let Some(bridge) = self.bridge_from_scratch(ifindex) {
                wanted.interfaces.insert(ifindex, bridge);
            }
        }
        let migrating = self.migrations.values().flat_map(LiveMigration::endpoints);
        for endpoint in migrating.chain(self.aftermaths()) {
            let here = self.same_port_here(endpoint);
            if wanted.statuses.get(&here).is_none() {
                wanted.statuses.insert(Arc::new(here), WantedStatus::of(Status::AsReported));
            }
        }
        wanted
    }

    fn add(&self, wanted: &mut Wanted, taken: &mut Taken, key: &Arc<EndpointKey>, local: &Local) {
        let link = self.link(&local.endpoint.interface);
        let open = self.open_question(local, link);
        let passes = self.passes_filter(local);
        let status = self.wanted_status(key, local, link, passes && open.is_none());
        wanted.statuses.insert(Arc::clone(key), status);
        if let Some(check) = self.check(local, open.filter(|_| passes)) {
            wanted.checks.insert(Arc::clone(key), check);
        }
        let Some(link) = link else { return };
        wanted.known_interfaces.insert(link.ifindex);
        let outlet = self.outlet(link);
        if outlet.ifindex == link.ifindex {
            wanted.interfaces.insert(link.ifindex, wants::interface(&self.policy, &local.endpoint, link));
        }
        let is_due = link.admin_up || outlet.ifindex == link.ifindex;
        if let Some(elevated) = local.machine.elevated().filter(|_| is_due) {
            for route in wants::routes(&self.policy, &local.endpoint, outlet.ifindex, elevated) {
                if !outlet.admin_up {
                    wanted.suspended.insert(route);
                } else if taken.prefixes.insert(route.destination) {
                    wanted.routes.insert(route);
                }
            }
        }
        if let Some(arming) = local.machine.arming {
            let is_open = local.machine.unresolved.is_some();
            let mut watch = wants::watch(&self.policy, &local.endpoint, arming, outlet.ifindex, is_open);
            watch.routes.retain(|route| !taken.prefixes.contains(&route.destination));
            watch.ends_forwarding = self.is_forwarded(key);
            wanted.watches.insert(link.ifindex, watch);
        }
    }

    /// Neighbours of all ports of a bridge, each of whoever comes first.
    fn bridge_from_scratch(&self, ifindex: u32) -> Option<WantedInterface> {
        let bridge = self.links.get(&ifindex).filter(|link| self.policy.bridges.contains(&link.name))?;
        let mut taken = BTreeSet::new();
        let (gone, shown): (Vec<_>, Vec<_>) =
            self.locals.iter().partition(|(_, local)| local.held_since.is_some());
        let ipv6 = if self.policy.ipv6_support { Ipv6::Unused } else { Ipv6::LeftAlone };
        let neighbours = BTreeMap::new();
        let mut all = WantedInterface { name: bridge.name.clone(), neighbours, ipv6, is_bridge: true };
        for (_, local) in shown.into_iter().chain(gone) {
            let link = self.link(&local.endpoint.interface).filter(|link| link.master == Some(ifindex));
            if !taken.insert(local.endpoint.interface.clone()) || link.is_none() {
                continue;
            }
            let own = wants::interface(&self.policy, &local.endpoint, bridge);
            for (address, mac) in own.neighbours {
                all.neighbours.entry(address).or_insert(mac);
            }
            all.ipv6 = if own.ipv6 == Ipv6::Routed { Ipv6::Routed } else { all.ipv6 };
        }
        Some(all)
    }

    /// Everybody who does not get what he names, with what it is and a number for the reason.
    pub(super) fn conflicts(&self) -> BTreeSet<(String, String, u8)> {
        let mut conflicts = BTreeSet::new();
        let mut taken = Taken::default();
        let (gone, shown): (Vec<_>, Vec<_>) =
            self.locals.iter().partition(|(_, local)| local.held_since.is_some());
        for (key, local) in shown.into_iter().chain(gone) {
            let (name, interface) = (key.to_string(), local.endpoint.interface.clone());
            if !self.policy.is_workload(&interface) {
                conflicts.insert((name.clone(), interface.clone(), 2));
            }
            if !taken.interfaces.insert(interface.clone()) {
                conflicts.insert((name, interface, 0));
                continue;
            }
            let link = self.link(&interface).filter(|link| link.admin_up && self.outlet(link).admin_up);
            let (Some(link), Some(elevated)) = (link, local.machine.elevated()) else { continue };
            let outlet = self.outlet(link).ifindex;
            for route in wants::routes(&self.policy, &local.endpoint, outlet, elevated) {
                if !taken.prefixes.insert(route.destination) {
                    conflicts.insert((name.clone(), route.destination.to_string(), 1));
                }
            }
        }
        conflicts
    }
}
