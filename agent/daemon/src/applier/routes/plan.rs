//! What has to be written so that the main table holds what is wanted.
//!
//! Owns the comparison of wanted and observed routes, and with it the rules of ownership and of make before
//! break. Every rule is about the routes to one destination, so a destination can be looked at alone. Pure: [`super`]
//! carries the plan out.

use crate::netlink::route::normalised;
use crate::netlink::{Family, ObservedRoute, Owner, RouteChange};
use cutover_engine::Wanted;
use cutover_engine::shared::SharedSet;
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
                for set in [&mut self.ours, &mut self.others] {
                    let replaced: Vec<_> = in_place_of(set, route).copied().collect();
                    for other in &replaced {
                        set.remove(other);
                    }
                }
                self.seen(*route, Owner::Ours);
            }
            RouteChange::Remove(route) => {
                self.gone(route);
            }
        }
    }

    /// Whether it exists, whoever made it: what is just as it is wanted is not written again to make it ours.
    pub(super) fn has(&self, route: &ObservedRoute) -> bool {
        self.ours.contains(route) || self.others.contains(route)
    }

    /// Everything that exists, whoever made it.
    pub(super) fn all(&self) -> BTreeSet<ObservedRoute> {
        self.ours.union(&self.others).copied().collect()
    }

    /// Destinations of everything that may be removed.
    pub(super) fn destinations(&self) -> impl Iterator<Item = IpNet> {
        self.ours.iter().map(|route| route.destination)
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

    /// How many changes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.add.len() + self.remove.len()
    }

    /// Adds the changes of another plan, which is about other destinations.
    pub(super) fn append(&mut self, mut other: Self) {
        self.add.append(&mut other.add);
        self.remove.append(&mut other.remove);
    }
}

/// What the table should hold.
#[derive(Clone, Debug, Default)]
pub struct Target {
    /// As the kernel will give them back.
    routes: BTreeSet<WantedRoute>,
    known_interfaces: SharedSet<u32>,
    known_on_bridges: SharedSet<(u32, IpNet)>,
    leftovers_may_go: bool,
    /// Routes that are left alone although nobody wants them yet: the fast path may have installed them a moment ago, or they were added as
    /// soon as their interface was up again, and the engine has heard only that it was down.
    pub(super) tolerated: BTreeSet<WantedRoute>,
}

impl Target {
    /// Takes over what is wanted of a family now in place of `before`. Returns the destinations to look at, or nothing if it is all of them.
    pub(super) fn update(
        &mut self,
        family: Family,
        wanted: &Wanted,
        before: &Wanted,
        observed: &ObservedRoutes,
    ) -> Option<BTreeSet<IpNet>> {
        let mut concerned = BTreeSet::new();
        // ORDER: two wanted routes can be one to the kernel.
        let differences = wanted.routes.differences(&before.routes);
        let (come, gone): (Vec<_>, Vec<_>) =
            differences.filter(|(route, _)| family.has(route)).partition(|(_, is_there)| *is_there);
        for (route, is_there) in gone.into_iter().chain(come) {
            let route = normalised(route);
            concerned.insert(route.destination);
            if is_there {
                self.routes.insert(route);
            } else {
                self.routes.remove(&route);
            }
        }
        let known: BTreeSet<u32> = wanted
            .known_interfaces
            .differences(&before.known_interfaces)
            .map(|(ifindex, _)| *ifindex)
            .collect();
        if !known.is_empty() {
            let on_them = observed.ours.iter().filter(|route| known.contains(&route.ifindex));
            concerned.extend(on_them.map(|route| route.destination));
            self.known_interfaces = wanted.known_interfaces.clone();
        }
        let known: BTreeSet<(u32, IpNet)> =
            wanted.known_on_bridges.differences(&before.known_on_bridges).map(|(known, _)| *known).collect();
        if !known.is_empty() {
            let on_them = observed.ours.iter().filter(|route| known.contains(&on_bridge(route)));
            concerned.extend(on_them.map(|route| route.destination));
            self.known_on_bridges = wanted.known_on_bridges.clone();
        }
        let released = wanted.leftovers_may_go && !self.leftovers_may_go;
        self.leftovers_may_go = wanted.leftovers_may_go;
        (!released).then_some(concerned)
    }

    /// Whether this route is wanted.
    pub(super) fn wants(&self, route: &WantedRoute) -> bool {
        self.routes.contains(route)
    }

    /// Destinations of everything that is wanted.
    pub(super) fn destinations(&self) -> impl Iterator<Item = IpNet> {
        self.routes.iter().map(|route| route.destination)
    }

    /// Adds to `plan` what differs in the routes to one destination.
    pub(super) fn compare(&self, observed: &ObservedRoutes, destination: IpNet, plan: &mut Plan) {
        for route in to(&self.routes, destination).filter(|route| !observed.has(route)) {
            plan.add.push(if observed.has_in_place_of(route) {
                RouteChange::Replace(*route)
            } else {
                RouteChange::Add(*route)
            });
        }
        let unwanted = to(&observed.ours, destination).filter(|route| !self.routes.contains(*route));
        plan.remove.extend(unwanted.filter(|route| self.may_go(observed, route)));
    }

    fn may_go(&self, observed: &ObservedRoutes, route: &ObservedRoute) -> bool {
        (self.leftovers_may_go || self.is_known(route))
            && !self.tolerated.contains(route)
            // The wanted route takes its place.
            && in_place_of(&self.routes, route).all(|other| observed.has(other))
    }

    /// Whether it is the route of somebody whom this life has known.
    fn is_known(&self, route: &ObservedRoute) -> bool {
        self.known_interfaces.contains(&route.ifindex) || self.known_on_bridges.contains(&on_bridge(route))
    }

    /// Whether a wanted route to this destination does not exist: nothing of the others may be removed now.
    pub(super) fn is_incomplete(&self, observed: &ObservedRoutes, destination: IpNet) -> bool {
        to(&self.routes, destination).any(|route| !observed.has(route))
    }
}

/// As in [`Wanted::known_on_bridges`].
const fn on_bridge(route: &ObservedRoute) -> (u32, IpNet) {
    (route.ifindex, route.destination)
}

/// The routes to one destination.
fn to(routes: &BTreeSet<WantedRoute>, destination: IpNet) -> impl Iterator<Item = &WantedRoute> {
    let lowest = WantedRoute { destination, ifindex: 0, metric: 0, protocol: 0, source: None };
    routes.range(lowest..).take_while(move |route| route.destination == destination)
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
    place(a) == place(b)
}

/// By which the kernel finds the route that another one replaces: destination, interface and metric.
pub(crate) const fn place(route: &WantedRoute) -> (IpNet, u32, u32) {
    (route.destination, route.ifindex, route.metric)
}

#[cfg(test)]
mod tests;
