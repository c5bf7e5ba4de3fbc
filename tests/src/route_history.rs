//! What has happened to routes and neighbours, as a sequence of changes that can be replayed. Pure: the
//! recording is [`crate::route_watch`]'s business.

use cutover_common::MacAddr;
use cutover_engine::BootTime;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// A unicast route of the main table.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Route {
    /// Where it leads.
    pub destination: IpNet,
    /// Priority; the lower one wins.
    pub metric: u32,
    /// Outgoing interface.
    pub ifindex: u32,
    /// Who made it, as in rtnetlink(7).
    pub protocol: u8,
    /// As in rtnetlink(7): 0 everywhere, 253 on this link. IPv6 always says 0.
    pub scope: u8,
    /// Next hop, if it is not the link itself.
    pub gateway: Option<IpAddr>,
    /// Preferred source address.
    pub source: Option<IpAddr>,
}

impl Change {
    /// The interface, if somebody wrote this.
    fn written_to(&self) -> Option<u32> {
        match self {
            // What the kernel does by itself (protocol 2: prefix routes of addresses) is nobody's write, and neighbours that it
            // finds come and go.
            Self::Added { route, .. } | Self::Removed(route) => {
                (route.protocol != 2).then_some(route.ifindex)
            }
            Self::NeighbourSet(neighbour) | Self::NeighbourRemoved(neighbour) => {
                neighbour.permanent.then_some(neighbour.ifindex)
            }
            Self::LinkDown(_) => None,
        }
    }
}

/// An entry of the neighbour table.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Neighbour {
    /// Whose.
    pub address: IpAddr,
    /// On which interface.
    pub ifindex: u32,
    /// Its hardware address, when it is known.
    pub mac: Option<MacAddr>,
    /// Whether it stays.
    pub permanent: bool,
}

/// One change, as the kernel reported it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// A route was added; `replaced` when it took the place of one with the same destination and metric.
    Added {
        /// The route.
        route: Route,
        /// Whether it took the place of another one.
        replaced: bool,
    },
    /// A route was removed.
    Removed(Route),
    /// A neighbour was added or has changed.
    NeighbourSet(Neighbour),
    /// A neighbour was removed.
    NeighbourRemoved(Neighbour),
    /// An interface went down or away.
    ///
    /// KERNEL: IPv4 routes of such an interface go without a notification (fib_sync_down_dev).
    LinkDown(u32),
}

/// A change and when it was received.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// Shortly after it happened. The order is the kernel's, whatever the times.
    pub at: BootTime,
    /// What it was.
    pub change: Change,
}

/// Every change since a beginning.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// The routes that existed at the beginning.
    pub initial: BTreeSet<Route>,
    /// In the order of the kernel.
    pub events: Vec<Event>,
}

/// The routes to one destination at one time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Moment {
    /// From when on; `None` for the beginning.
    pub since: Option<BootTime>,
    /// All of them.
    pub routes: BTreeSet<Route>,
}

impl History {
    /// All routes at the end.
    #[must_use]
    pub fn current(&self) -> BTreeSet<Route> {
        let mut routes = self.initial.clone();
        for event in &self.events {
            apply(&mut routes, &event.change);
        }
        routes
    }

    /// The same for each destination by itself, without neighbours: what is left of a long history is short.
    #[must_use]
    pub fn by_destination(&self) -> BTreeMap<IpNet, Self> {
        let mut split: BTreeMap<IpNet, Self> = BTreeMap::new();
        // Destinations that had a route through an interface, for when that goes down.
        let mut through: BTreeMap<u32, BTreeSet<IpNet>> = BTreeMap::new();
        for route in &self.initial {
            split.entry(route.destination).or_default().initial.insert(route.clone());
            through.entry(route.ifindex).or_default().insert(route.destination);
        }
        for event in &self.events {
            match &event.change {
                Change::Added { route, .. } => {
                    through.entry(route.ifindex).or_default().insert(route.destination);
                    split.entry(route.destination).or_default().events.push(event.clone());
                }
                Change::Removed(route) => {
                    split.entry(route.destination).or_default().events.push(event.clone());
                }
                Change::LinkDown(ifindex) => {
                    for destination in through.get(ifindex).into_iter().flatten() {
                        split.entry(*destination).or_default().events.push(event.clone());
                    }
                }
                Change::NeighbourSet(_) | Change::NeighbourRemoved(_) => {}
            }
        }
        split
    }

    /// Every set of routes to `destination` that there was, each different from the one before.
    #[must_use]
    pub fn moments(&self, destination: IpNet) -> Vec<Moment> {
        let mut routes: BTreeSet<Route> =
            self.initial.iter().filter(|route| route.destination == destination).cloned().collect();
        let mut moments = vec![Moment { since: None, routes: routes.clone() }];
        for event in &self.events {
            match &event.change {
                Change::Added { route, .. } | Change::Removed(route) if route.destination != destination => {
                    continue;
                }
                change => apply(&mut routes, change),
            }
            if moments.last().is_some_and(|last| last.routes != routes) {
                moments.push(Moment { since: Some(event.at), routes: routes.clone() });
            }
        }
        moments
    }

    /// The metrics of every set of routes to `destination` that there was: `[[1024], [512, 1024], [512]]`.
    #[must_use]
    pub fn metrics(&self, destination: IpNet) -> Vec<Vec<u32>> {
        self.moments(destination)
            .iter()
            .map(|moment| moment.routes.iter().map(|route| route.metric).collect())
            .collect()
    }

    /// Checks that at no moment there was no route to `destination`.
    ///
    /// # Panics
    /// When there was one.
    #[track_caller]
    pub fn assert_never_without(&self, destination: IpNet) {
        let moments = self.moments(destination);
        assert!(
            moments.iter().all(|moment| !moment.routes.is_empty()),
            "there was a time without a route to {destination}: {moments:#?}"
        );
    }

    /// Checks that at no moment there was a route to `destination`.
    ///
    /// # Panics
    /// When there was one.
    #[track_caller]
    pub fn assert_never_with(&self, destination: IpNet) {
        let moments = self.moments(destination);
        assert!(
            moments.iter().all(|moment| moment.routes.is_empty()),
            "there was a time with a route to {destination}: {moments:#?}"
        );
    }

    /// Every change of a route or of a permanent neighbour on an interface, however little it changed.
    #[must_use]
    pub fn writes_to(&self, ifindex: u32) -> Vec<&Event> {
        self.events.iter().filter(|event| event.change.written_to() == Some(ifindex)).collect()
    }

    /// The same on any interface.
    #[must_use]
    pub fn writes(&self) -> Vec<&Event> {
        self.events.iter().filter(|event| event.change.written_to().is_some()).collect()
    }

    /// When a route to `destination` with this metric was first added.
    #[must_use]
    pub fn added_at(&self, destination: IpNet, metric: u32) -> Option<BootTime> {
        self.events.iter().find_map(|event| match &event.change {
            Change::Added { route, .. } if route.destination == destination && route.metric == metric => {
                Some(event.at)
            }
            _ => None,
        })
    }
}

pub(crate) fn apply(routes: &mut BTreeSet<Route>, change: &Change) {
    match change {
        Change::Added { route, replaced } => {
            if *replaced {
                routes.retain(|old| (old.destination, old.metric) != (route.destination, route.metric));
            }
            routes.insert(route.clone());
        }
        Change::Removed(route) => {
            routes.remove(route);
        }
        Change::LinkDown(ifindex) => routes.retain(|route| route.ifindex != *ifindex),
        Change::NeighbourSet(_) | Change::NeighbourRemoved(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(metric: u32, ifindex: u32) -> Route {
        Route {
            destination: "10.65.0.2/32".parse().unwrap(),
            metric,
            ifindex,
            protocol: 3,
            scope: 253,
            gateway: None,
            source: None,
        }
    }

    fn history(initial: &[Route], changes: Vec<Change>) -> History {
        let events =
            changes.into_iter().zip(1..).map(|(change, at)| Event { at: BootTime(at), change }).collect();
        History { initial: initial.iter().cloned().collect(), events }
    }

    fn added(route: Route) -> Change {
        Change::Added { route, replaced: false }
    }

    #[test]
    fn make_before_break_shows_both() {
        let to = route(512, 1).destination;
        let history = history(&[route(512, 1)], vec![added(route(1024, 1)), Change::Removed(route(512, 1))]);
        assert_eq!(history.metrics(to), [vec![512], vec![512, 1024], vec![1024]]);
        history.assert_never_without(to);
        assert_eq!(history.added_at(to, 1024), Some(BootTime(1)));
        assert_eq!(history.current(), [route(1024, 1)].into());
    }

    #[test]
    #[should_panic(expected = "a time without a route")]
    fn break_before_make_is_caught() {
        let history = history(&[route(512, 1)], vec![Change::Removed(route(512, 1)), added(route(1024, 1))]);
        history.assert_never_without(route(512, 1).destination);
    }

    #[test]
    fn each_destination_has_the_moments_that_it_has_in_the_whole() {
        let other = Route { destination: "10.65.0.3/32".parse().unwrap(), ..route(512, 3) };
        let changes =
            vec![added(other.clone()), added(route(1024, 1)), Change::LinkDown(3), Change::LinkDown(1)];
        let whole = history(&[route(512, 2)], changes);
        let split = whole.by_destination();
        for to in [route(512, 1).destination, other.destination] {
            assert_eq!(split[&to].moments(to), whole.moments(to));
        }
        assert_eq!(split[&other.destination].events.len(), 2);
    }

    #[test]
    fn replacement_and_a_link_going_down_take_routes_away() {
        let replaced = Change::Added { route: route(512, 2), replaced: true };
        let history = history(&[route(512, 1)], vec![replaced, Change::LinkDown(2)]);
        let to = route(512, 1).destination;
        let taken: Vec<Vec<u32>> = history
            .moments(to)
            .iter()
            .map(|moment| moment.routes.iter().map(|route| route.ifindex).collect())
            .collect();
        assert_eq!(taken, [vec![1], vec![2], vec![]]);
    }
}
