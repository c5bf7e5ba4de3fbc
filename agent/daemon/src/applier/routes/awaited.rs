//! What the fast path has written and the monitor has not told of yet. Pure; the route applier asks.

use super::ObservedRoutes;
use crate::netlink::route;
use cutover_engine::BootTime;
use cutover_engine::wanted::WantedRoute;
use std::collections::BTreeMap;
use std::time::Duration;

/// LIMIT: the kernel notifies within the write. If it is not heard of for so long, it is perhaps gone again, and that was
/// heard of first.
const WORD_WITHIN: Duration = Duration::from_millis(100);

/// Routes that are there, most probably, and until when nobody writes them again.
#[derive(Debug, Default)]
pub(super) struct Awaited {
    until: BTreeMap<WantedRoute, BootTime>,
}

impl Awaited {
    /// These were written at this time.
    pub(super) fn written(&mut self, routes: &[WantedRoute], at: BootTime, observed: &ObservedRoutes) {
        let unheard = routes.iter().map(route::normalised).filter(|route| !observed.has(route));
        self.until.extend(unheard.map(|route| (route, at + WORD_WITHIN)));
    }

    /// The monitor has told of it.
    pub(super) fn told_of(&mut self, route: &WantedRoute) {
        self.until.remove(route);
    }

    /// Forgets what is waited for no longer. Says whether there was something.
    pub(super) fn expire(&mut self, now: BootTime) -> bool {
        let before = self.until.len();
        self.until.retain(|_, until| *until > now);
        self.until.len() < before
    }

    pub(super) fn contains(&self, route: &WantedRoute) -> bool {
        self.until.contains_key(route)
    }

    /// When there is something to forget.
    pub(super) fn next(&self) -> Option<BootTime> {
        self.until.values().copied().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_is_awaited_until_it_comes_and_not_for_ever() {
        let route = |metric| WantedRoute {
            destination: "2001:db8::2/128".parse().unwrap(),
            ifindex: 7,
            metric,
            protocol: 3,
            source: None,
        };
        let observed = ObservedRoutes { ours: [route(512)].into(), ..ObservedRoutes::default() };
        let (mut awaited, at) = (Awaited::default(), BootTime(1_000_000_000));
        awaited.written(&[512, 1024, 2048].map(route), at, &observed);
        assert!(!awaited.contains(&route(512)), "known already");
        awaited.told_of(&route(1024));
        assert!(!awaited.contains(&route(1024)) && awaited.contains(&route(2048)));
        assert_eq!(awaited.next(), Some(at + WORD_WITHIN));
        assert!(!awaited.expire(at) && awaited.contains(&route(2048)));
        assert!(awaited.expire(at + WORD_WITHIN) && !awaited.contains(&route(2048)));
        assert_eq!(awaited.next(), None);
    }
}
