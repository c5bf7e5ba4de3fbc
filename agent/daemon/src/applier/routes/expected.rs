//! Which unwanted routes are the fast path's doing. Pure; the route applier asks.

use super::ObservedRoutes;
use crate::netlink::{Family, route};
use cutover_engine::Wanted;
use cutover_engine::wanted::WantedRoute;
use std::collections::BTreeSet;

/// What the armed watches explain.
///
/// While a watch is armed, the fast path may install its routes at any moment, and the notification about them
/// can come before the engine has heard of the announcement. Removing them would take the route from a virtual
/// machine that has just arrived. But a route that was there *before* the watch, from an earlier migration to
/// this host, has to go.
#[derive(Debug, Default)]
pub(super) struct Expected {
    generations: BTreeSet<u64>,
    /// Existed when its watch was first wanted, and since then without a break.
    stale: BTreeSet<WantedRoute>,
    pub(super) tolerated: BTreeSet<WantedRoute>,
}

impl Expected {
    pub(super) fn update(&mut self, family: Family, wanted: &Wanted, observed: &ObservedRoutes) {
        let mut may_appear = BTreeSet::new();
        let mut stale = BTreeSet::new();
        for watch in wanted.watches.values() {
            let is_new = !self.generations.contains(&watch.generation);
            for route in watch.routes.iter().filter(|route| family.has(route)).map(route::normalised) {
                // Whose it is may not be known yet when it is only known from memory that somebody is awaited.
                if (is_new && observed.has(&route)) || self.stale.contains(&route) {
                    stale.insert(route);
                }
                may_appear.insert(route);
            }
        }
        self.generations = wanted.watches.values().map(|watch| watch.generation).collect();
        self.tolerated = may_appear.difference(&stale).copied().collect();
        self.stale = stale;
    }

    /// A route is gone. Says whether it was a stale one: if it comes again, it is the fast path's.
    pub(super) fn gone(&mut self, route: &WantedRoute) -> bool {
        let was_stale = self.stale.remove(route);
        if was_stale {
            self.tolerated.insert(*route);
        }
        was_stale
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cutover_engine::model::{Trigger, Validation};
    use cutover_engine::wanted::WantedWatch;

    fn elevated() -> WantedRoute {
        WantedRoute {
            destination: "10.65.0.2/32".parse().unwrap(),
            ifindex: 7,
            metric: 512,
            protocol: 3,
            source: None,
        }
    }

    fn watching(generation: u64) -> Wanted {
        let watch = WantedWatch {
            interface: "tap1".into(),
            generation,
            mac: None,
            addresses: BTreeSet::new(),
            trigger: Trigger::Announcement,
            validation: Validation::Strict,
            ends_forwarding: false,
            routes: BTreeSet::from([elevated()]),
        };
        Wanted { watches: [(7, watch)].into(), ..Wanted::default() }
    }

    fn with_route() -> ObservedRoutes {
        ObservedRoutes { ours: BTreeSet::from([elevated()]), ..ObservedRoutes::default() }
    }

    #[test]
    fn a_route_that_appears_under_an_armed_watch_is_tolerated() {
        let mut expected = Expected::default();
        expected.update(Family::Ipv4, &watching(1), &ObservedRoutes::default());
        assert!(expected.tolerated.contains(&elevated()));
        expected.update(Family::Ipv4, &watching(1), &with_route());
        assert!(expected.tolerated.contains(&elevated()), "something else changed meanwhile");
    }

    /// W11: a second migration to the same host while the route of the first is still elevated.
    #[test]
    fn a_route_from_before_the_watch_has_to_go() {
        let mut expected = Expected::default();
        expected.update(Family::Ipv4, &watching(1), &with_route());
        assert!(expected.tolerated.is_empty());
        expected.update(Family::Ipv4, &watching(1), &with_route());
        assert!(expected.tolerated.is_empty(), "not removed yet");
        expected.gone(&elevated());
        assert!(expected.tolerated.contains(&elevated()), "the next one is the fast path's");
    }

    /// As long as the datastore has not said which protocol is ours, no route is.
    #[test]
    fn a_route_from_before_the_watch_has_to_go_although_it_was_not_yet_ours() {
        let mut expected = Expected::default();
        let others = ObservedRoutes { others: BTreeSet::from([elevated()]), ..ObservedRoutes::default() };
        expected.update(Family::Ipv4, &watching(1), &others);
        expected.update(Family::Ipv4, &watching(1), &with_route());
        assert!(expected.tolerated.is_empty());
    }

    #[test]
    fn nothing_is_tolerated_without_a_watch() {
        let mut expected = Expected::default();
        expected.update(Family::Ipv4, &watching(1), &ObservedRoutes::default());
        expected.update(Family::Ipv4, &Wanted::default(), &with_route());
        assert!(expected.tolerated.is_empty());
    }
}
