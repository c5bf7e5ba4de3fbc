//! Taps that are ports of a bridge: routes lead to the bridge, the watch stays on the tap.
//!
//! KERNEL: a frame that comes from a port belongs to the bridge as soon as the programs on the port have seen it, and the host answers for its
//! gateway as the bridge. So what the guest is to the host's routing, it is on the bridge. Which bridge that is the kernel says, and not the
//! datastore: it is this host's own, another host's may be called otherwise, and whoever writes endpoints cannot have routes lead anywhere.
//! Owns what is wanted on bridges for all of their ports together.

use super::Engine;
use super::wants;
use crate::fact::Link;
use crate::shared::SharedSet;
use crate::wanted::{Ipv6, WantedInterface};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};

/// What is noted about bridges.
#[derive(Clone, Debug, Default)]
pub(super) struct Bridges {
    /// Those that have had a port with an endpoint in this life.
    pub(super) served: BTreeSet<u32>,
    /// Those about whose ports something has changed.
    pub(super) changed: BTreeSet<u32>,
    /// As [`crate::wanted::Wanted::known_on_bridges`].
    pub(super) known: SharedSet<(u32, IpNet)>,
}

impl Bridges {
    /// A port of this bridge has an endpoint with these prefixes.
    ///
    /// A tap is known as a whole as soon as its endpoint is: there are no routes but its own. A bridge has others' as well, whose
    /// endpoints may show up later (W33), so it is `known` as a whole only when leftovers have gone.
    pub(super) fn serve(&mut self, bridge: u32, prefixes: &BTreeSet<IpNet>, known: &SharedSet<u32>) {
        self.served.insert(bridge);
        self.changed.insert(bridge);
        if known.contains(&bridge) {
            return;
        }
        for prefix in prefixes.iter().map(IpNet::trunc) {
            if !self.known.contains(&(bridge, prefix)) {
                self.known.insert((bridge, prefix));
            }
        }
    }

    /// Nothing that an earlier life has left is kept any more: from now on what is on them is this life's.
    pub(super) fn know_all(&mut self, known: &mut SharedSet<u32>) {
        for bridge in &self.served {
            if !known.contains(bridge) {
                known.insert(*bridge);
            }
        }
        if !self.known.is_empty() {
            self.known = SharedSet::default();
        }
    }

    pub(super) fn look_at_all(&mut self) {
        self.changed.extend(&self.served);
    }

    /// It does not exist any more.
    pub(super) fn forget(&mut self, bridge: u32) {
        if self.served.remove(&bridge) {
            let left = self.known.iter().filter(|(ifindex, _)| *ifindex != bridge);
            self.known = left.copied().collect();
        }
    }
}

impl Engine {
    /// The bridge of an operator's choice whose port this is.
    pub(super) fn bridge_of(&self, tap: &Link) -> Option<&Link> {
        let master = tap.master.and_then(|ifindex| self.links.get(&ifindex))?;
        self.policy.bridges.contains(&master.name).then_some(master)
    }

    /// Where routes lead.
    pub(super) fn outlet<'a>(&'a self, tap: &'a Link) -> &'a Link {
        self.bridge_of(tap).unwrap_or(tap)
    }

    /// The same by number.
    pub(super) fn outlet_of(&self, ifindex: u32) -> u32 {
        self.links.get(&ifindex).map_or(ifindex, |tap| self.outlet(tap).ifindex)
    }

    /// Whether a tap that is a port can do nothing because its bridge is down.
    pub(super) fn is_cut_off(&self, tap: &Link) -> bool {
        self.bridge_of(tap).is_some_and(|bridge| !bridge.admin_up)
    }

    /// Something about a link changed: it concerns those who name it, and those who name its ports.
    pub(super) fn touch_link(&mut self, ifindex: u32) {
        let Some(link) = self.links.get(&ifindex) else { return };
        self.locals.touch_interface(&link.name);
        if !self.policy.bridges.contains(&link.name) {
            return;
        }
        self.bridges.changed.insert(ifindex);
        for port in self.links.values().filter(|port| port.master == Some(ifindex)) {
            self.locals.touch_interface(&port.name);
        }
    }

    /// Brings up to date what is wanted on bridges. All parts are placed.
    ///
    /// LIMIT: all endpoints are gone through if anything about a port changed. A permanent neighbour that is left on a bridge would stay for
    /// ever, so a bridge without ports is still wanted, with none.
    pub(super) fn build_bridges(&mut self) {
        for ifindex in core::mem::take(&mut self.bridges.changed) {
            match self.wanted_bridge(ifindex) {
                None => {
                    // Its number may be a tap's by now.
                    if self.wanted.interfaces.get(&ifindex).is_some_and(|it| it.is_bridge) {
                        self.wanted.interfaces.remove(&ifindex);
                    }
                }
                Some(bridge) if self.wanted.interfaces.get(&ifindex) != Some(&bridge) => {
                    self.wanted.interfaces.insert(ifindex, bridge);
                }
                Some(_) => {}
            }
        }
    }

    fn wanted_bridge(&self, ifindex: u32) -> Option<WantedInterface> {
        let link = self.links.get(&ifindex).filter(|link| self.policy.bridges.contains(&link.name))?;
        if !self.bridges.served.contains(&ifindex) {
            return None;
        }
        let on_it = self.placed.values().filter(|placed| placed.bridge == Some(ifindex));
        let mut ranks: Vec<_> = on_it.map(|placed| &placed.rank).collect();
        ranks.sort_unstable();
        let ipv6 = if self.policy.ipv6_support { Ipv6::Unused } else { Ipv6::LeftAlone };
        let mut all =
            WantedInterface { name: link.name.clone(), neighbours: BTreeMap::new(), ipv6, is_bridge: true };
        for rank in ranks {
            let endpoint = &self.locals[&rank.key].endpoint;
            let own = wants::interface(&self.policy, endpoint, link);
            for (address, mac) in own.neighbours {
                all.neighbours.entry(address).or_insert(mac);
            }
            if own.ipv6 == Ipv6::Routed {
                all.ipv6 = Ipv6::Routed;
            }
        }
        Some(all)
    }
}
