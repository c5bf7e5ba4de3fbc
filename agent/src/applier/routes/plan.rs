//! What has to be written so that the main table holds what is wanted.
//!
//! Owns the comparison of wanted and observed routes, and with it the rules of ownership and of make before
//! break. Pure: [`super`] carries the plan out.

use crate::netlink::route::normalised;
use crate::netlink::{ObservedRoute, Owner, RouteChange};
use cutover_engine::Wanted;
use cutover_engine::wanted::WantedRoute;
use ipnet::IpNet;
use std::collections::BTreeSet;

/// The device routes that are known to exist on workload interfaces.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ObservedRoutes {
    /// Ours by protocol and interface: these, and no others, may be removed.
    pub ours: BTreeSet<ObservedRoute>,
    /// Somebody else's. Never removed; one of them gives way when a wanted route is the same but for its
    /// protocol and source address, because an earlier agent with another `DeviceRouteProtocol` made it.
    pub others: BTreeSet<ObservedRoute>,
}

impl ObservedRoutes {
    /// Notes that a route exists. Says whether that is news.
    pub(super) fn seen(&mut self, route: ObservedRoute, owner: Owner) -> bool {
        let (set, other) = match owner {
            Owner::Ours => (&mut self.ours, &mut self.others),
            Owner::Other => (&mut self.others, &mut self.ours),
        };
        let moved = other.remove(&route);
        set.insert(route) || moved
    }

    /// Notes that a route does not exist. Says whether that is news.
    pub(super) fn gone(&mut self, route: &ObservedRoute) -> bool {
        self.ours.remove(route) || self.others.remove(route)
    }

    /// Notes that the kernel confirmed a change.
    pub(super) fn confirmed(&mut self, change: &RouteChange) {
        match change {
            RouteChange::Add(route) => {
                self.seen(*route, Owner::Ours);
            }
            RouteChange::Replace(route) => {
                self.ours.retain(|other| !same_place(route, other));
                self.others.retain(|other| !same_place(route, other));
                self.seen(*route, Owner::Ours);
            }
            RouteChange::Remove(route) => {
                self.gone(route);
            }
        }
    }

    fn has_in_place_of(&self, route: &WantedRoute) -> bool {
        in_place_of(&self.ours, route).next().is_some() || in_place_of(&self.others, route).next().is_some()
    }
}

/// What to write. Nothing in `remove` may be sent before every addition for the same destination is confirmed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    /// `Add` and `Replace` only.
    pub add: Vec<RouteChange>,
    /// Routes of ours that have to go.
    pub remove: Vec<ObservedRoute>,
}

impl Plan {
    /// Whether nothing differs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.add.is_empty() && self.remove.is_empty()
    }
}

/// Compares. `tolerated` are routes that nobody wants yet but that the fast path may have installed a moment
/// ago, so that they are left alone.
#[must_use]
pub fn plan(wanted: &Wanted, observed: &ObservedRoutes, tolerated: &BTreeSet<WantedRoute>) -> Plan {
    let wanted_routes: BTreeSet<WantedRoute> = wanted.routes.iter().map(normalised).collect();
    let missing = || wanted_routes.difference(&observed.ours);

    let add = missing()
        .map(|route| {
            if observed.has_in_place_of(route) {
                RouteChange::Replace(*route)
            } else {
                RouteChange::Add(*route)
            }
        })
        .collect();

    let may_go = |route: &&ObservedRoute| {
        (wanted.known_interfaces.contains(&route.ifindex) || wanted.leftovers_may_go)
            && !tolerated.contains(*route)
            // The wanted route takes its place.
            && in_place_of(&wanted_routes, route).all(|other| observed.ours.contains(other))
    };
    let remove = observed.ours.difference(&wanted_routes).filter(may_go).copied().collect();
    Plan { add, remove }
}

/// Destinations of which a wanted route does not exist: nothing of theirs may be removed now.
#[must_use]
pub(super) fn incomplete(wanted: &Wanted, observed: &ObservedRoutes) -> BTreeSet<IpNet> {
    let normalised = wanted.routes.iter().map(normalised);
    normalised.filter(|route| !observed.ours.contains(route)).map(|route| route.destination).collect()
}

/// Routes that the kernel does not tell apart from `route` when it replaces.
fn in_place_of<'a>(
    routes: &'a BTreeSet<WantedRoute>,
    route: &'a WantedRoute,
) -> impl Iterator<Item = &'a WantedRoute> {
    let lowest = WantedRoute { protocol: 0, source: None, ..*route };
    routes
        .range(lowest..)
        .take_while(move |other| same_place(route, other))
        .filter(move |other| *other != route)
}

fn same_place(a: &WantedRoute, b: &WantedRoute) -> bool {
    (a.destination, a.ifindex, a.metric) == (b.destination, b.ifindex, b.metric)
}

#[cfg(test)]
mod tests;
