//! What the kernel has to hold so that packets are forwarded and received as wanted, and in which order it is brought there.
//!
//! Pure: [`super`] carries the plan out.
//!
//! * The table of forwarded prefixes leads into the tunnel. A rule for everything leads to it, in each family in which something is or may soon
//!   be forwarded: to start that takes its routes and nothing else.
//! * The next table leads from the tunnel to taps. A rule for what comes out of the tunnel leads to it, in front of the other one. Each of
//!   its prefixes leads nowhere when its tap is gone: nothing that came out of the tunnel is put into it again, or goes back to the fabric.
//!   The programs let nothing come out of it but what is for these prefixes.
//!
//! Two tables, because a host that is source and target at once would else send to a tap whose virtual machine is not there yet.
//!
//! KERNEL (6.18; __fib_validate_source): the rule must let pass what it is not for. Where `rp_filter` is not 0, a packet that is to be sent into
//! the tunnel is checked as if its answer came from there: a table that drops everything else would drop all that is forwarded.

use crate::bpf::TunnelEntries;
use crate::netlink::Family;
use crate::netlink::policy::{PolicyChange, Rule, SideRoute, Way};
use cutover_common::names::DEVICE_TUNNEL;
use cutover_common::tunnel::{Address, Forward, Reception};
use cutover_engine::EndpointKey;
use cutover_engine::shared::SharedMap;
use cutover_engine::wanted::{WantedForward, WantedReception};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// Of routes that are used while they are there.
const METRIC: u32 = 1024;
/// Of those that lead nowhere.
const METRIC_OF_NOWHERE: u32 = 4096;

pub(super) type Forwards = SharedMap<Arc<EndpointKey>, WantedForward>;
pub(super) type Receptions = SharedMap<Arc<EndpointKey>, WantedReception>;

/// What of it is the operator's to say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Numbers {
    /// Table of forwarded prefixes, and priority of its rule.
    pub(super) table: u32,
    /// Protocol of our routes and rules.
    pub(super) protocol: u8,
}

impl Numbers {
    /// That of what comes out of the tunnel.
    pub(super) const fn reception_table(self) -> u32 {
        self.table.wrapping_add(1)
    }

    pub(super) const fn tables(self) -> [u32; 2] {
        [self.table, self.reception_table()]
    }

    pub(super) const fn forward_rule(self, family: Family) -> Rule {
        Rule { family, priority: self.table, table: self.table, from: None, protocol: self.protocol }
    }

    const fn route(self, table: u32, destination: IpNet, way: Way) -> SideRoute {
        SideRoute { table, destination, way, metric: METRIC, mtu: None, protocol: self.protocol }
    }

    /// The route by which a prefix is forwarded. `mtu`: how long packets may be, where that is bounded.
    fn forward(self, prefix: IpNet, device: u32, mtu: Option<u32>) -> SideRoute {
        SideRoute { mtu, ..self.route(self.table, prefix, Way::Interface(device)) }
    }

    const fn reception_rule(self, family: Family) -> Rule {
        Rule {
            family,
            priority: self.table.wrapping_sub(1),
            table: self.reception_table(),
            from: Some(DEVICE_TUNNEL),
            protocol: self.protocol,
        }
    }
}

/// Routes and rules, wanted or there.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Policy {
    pub(super) routes: BTreeSet<SideRoute>,
    pub(super) rules: BTreeSet<Rule>,
}

impl Policy {
    /// Notes that the kernel has carried a change out.
    pub(super) fn confirmed(&mut self, change: &PolicyChange) {
        match change {
            PolicyChange::AddRoute(route) => {
                self.routes.retain(|other| !is_same_place(other, route));
                self.routes.insert(*route);
            }
            PolicyChange::RemoveRoute(route) => drop(self.routes.remove(route)),
            PolicyChange::AddRule(rule) => drop(self.rules.insert(*rule)),
            PolicyChange::RemoveRule(rule) => drop(self.rules.remove(rule)),
        }
    }
}

fn is_same_place(one: &SideRoute, other: &SideRoute) -> bool {
    (one.table, one.destination, one.metric) == (other.table, other.destination, other.metric)
}

/// What is wanted, by prefix.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Target {
    pub(super) entries: TunnelEntries,
    /// Prefixes that are forwarded now.
    pub(super) active: BTreeSet<IpNet>,
    /// To which interface what comes out of the tunnel goes: a tap, or the bridge whose port it is.
    pub(super) outlets: BTreeMap<IpNet, u32>,
}

impl Target {
    /// If two endpoints claim a prefix, the one that is forwarded now has it, else the first one.
    pub(super) fn of(forwards: &Forwards, receptions: &Receptions, local: Option<IpAddr>) -> Self {
        let mut target = Self::default();
        for is_active in [true, false] {
            for wanted in forwards.values().filter(|wanted| wanted.is_active == is_active) {
                let forward = forward(wanted, local);
                for prefix in wanted.prefixes.iter().map(IpNet::trunc) {
                    target.entries.forwards.entry(prefix).or_insert(forward);
                    if is_active {
                        target.active.insert(prefix);
                    }
                }
            }
        }
        for wanted in receptions.values() {
            let id = wanted.tunnel.id;
            target.entries.receptions.entry(id).or_insert(Reception { peer: wanted.tunnel.peer.into() });
            for prefix in wanted.prefixes.iter().map(IpNet::trunc) {
                target.entries.deliveries.insert((id, prefix));
                target.outlets.entry(prefix).or_insert(wanted.outlet);
            }
        }
        target
    }

    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The part of it for which the maps hold what they should.
    pub(super) fn prepared(&self, written: &TunnelEntries) -> Self {
        let is_written = |prefix: &&IpNet| {
            let forward = written.forwards.get(*prefix);
            forward.is_some() && forward == self.entries.forwards.get(*prefix)
        };
        Self {
            entries: self.entries.clone(),
            active: self.active.iter().filter(is_written).copied().collect(),
            outlets: self.outlets.clone(),
        }
    }

    /// Routes and rules for this, with the device if there is one. `mtus`: how long packets to a peer may be, where that is bounded.
    pub(super) fn policy(
        &self,
        device: Option<u32>,
        mtus: &BTreeMap<Address, u32>,
        numbers: Numbers,
    ) -> Policy {
        let mut policy = Policy::default();
        if let Some(ifindex) = device {
            for (prefix, forward) in &self.entries.forwards {
                let route = numbers.forward(*prefix, ifindex, mtus.get(&forward.peer).copied());
                policy.rules.insert(numbers.forward_rule(route.family()));
                if self.active.contains(prefix) {
                    policy.routes.insert(route);
                }
            }
        }
        for (&prefix, &outlet) in &self.outlets {
            let reception = numbers.route(numbers.reception_table(), prefix, Way::Interface(outlet));
            policy.rules.insert(numbers.reception_rule(reception.family()));
            policy.routes.insert(reception);
            policy.routes.insert(SideRoute { way: Way::Nowhere, metric: METRIC_OF_NOWHERE, ..reception });
        }
        policy
    }

    /// The routes by which a forward that is not active becomes so; nothing if another one has one of its prefixes.
    pub(super) fn start_of(
        &self,
        wanted: &WantedForward,
        device: u32,
        mtus: &BTreeMap<Address, u32>,
        numbers: Numbers,
    ) -> Option<Vec<SideRoute>> {
        let route = |prefix: IpNet| {
            let forward = self.entries.forwards.get(&prefix)?;
            let is_its_own = forward.tunnel_id == wanted.tunnel.id && !self.active.contains(&prefix);
            is_its_own.then(|| numbers.forward(prefix, device, mtus.get(&forward.peer).copied()))
        };
        wanted.prefixes.iter().map(|prefix| route(prefix.trunc())).collect()
    }
}

fn forward(wanted: &WantedForward, local: Option<IpAddr>) -> Forward {
    let peer = wanted.tunnel.peer;
    let local = local.filter(|local| local.is_ipv4() == peer.is_ipv4());
    Forward {
        tunnel_id: wanted.tunnel.id,
        peer: peer.into(),
        local: local.map_or(Address::NONE, Address::from),
    }
}

/// What has to be changed, in this order. What is neither in `full` nor replaced goes; what is in `ready`, a part of `full`, comes. While
/// `lets_in_more`, packets may come out of the tunnel for other prefixes than those that are wanted, and nothing goes that keeps them.
///
/// ORDER: what is not to be forwarded any more stops before anything else. What keeps packets of the tunnel from going astray is
/// there before what leads them to their tap. IPv6 comes first, because its
/// routes do not wait for the lock of links, and rules do.
pub(super) fn changes(
    there: &Policy,
    full: &Policy,
    ready: &Policy,
    lets_in_more: bool,
    numbers: Numbers,
) -> Vec<PolicyChange> {
    let may_go = |table: u32| table == numbers.table || !lets_in_more;
    let is_replaced = |route: &SideRoute| {
        ready.routes.iter().any(|new| is_same_place(new, route) && !there.routes.contains(new))
    };
    let old_routes = there.routes.difference(&full.routes);
    let old_routes = old_routes.filter(|route| may_go(route.table) && !is_replaced(route));
    let old_rules = there.rules.difference(&full.rules).filter(|rule| may_go(rule.table));
    let mut changes: Vec<PolicyChange> = old_routes
        .map(|route| PolicyChange::RemoveRoute(*route))
        .chain(old_rules.map(|rule| PolicyChange::RemoveRule(*rule)))
        .chain(ready.routes.difference(&there.routes).map(|route| PolicyChange::AddRoute(*route)))
        .chain(ready.rules.difference(&there.rules).map(|rule| PolicyChange::AddRule(*rule)))
        .collect();
    changes.sort_by_key(|change| rank(change, numbers));
    changes
}

/// Which comes first.
fn rank(change: &PolicyChange, numbers: Numbers) -> u32 {
    let is_forward = |table: u32| table == numbers.table;
    match change {
        PolicyChange::RemoveRoute(route) if is_forward(route.table) => 0,
        PolicyChange::RemoveRule(rule) if is_forward(rule.table) => 1,
        PolicyChange::AddRoute(route) if route.way == Way::Nowhere => 2,
        PolicyChange::AddRule(rule) if !is_forward(rule.table) => 3,
        PolicyChange::AddRoute(route) if is_forward(route.table) && route.family() == Family::Ipv6 => 4,
        PolicyChange::AddRule(rule) if rule.family == Family::Ipv6 => 5,
        PolicyChange::AddRoute(route) if is_forward(route.table) => 6,
        PolicyChange::AddRule(_) => 7,
        PolicyChange::AddRoute(_) => 8,
        PolicyChange::RemoveRoute(route) if route.way != Way::Nowhere => 9,
        PolicyChange::RemoveRule(_) => 10,
        PolicyChange::RemoveRoute(_) => 11,
    }
}

#[cfg(test)]
mod tests;
