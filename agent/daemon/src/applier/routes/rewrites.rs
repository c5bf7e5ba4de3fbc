//! Which routes have to be written again for FRR's zebra. Pure; [`super::zebra`] writes them.
//!
//! Owns when the carrier of each tap came, and what the kernel will say about a route that is written again, so that nobody takes that
//! for somebody else's doing.
//!
//! FRR forgets routes of the kernel in three cases. In the kernel nothing has happened to them, so nobody tells zebra of them again, and bgpd
//! never announces them. Writing them in place (`ip route replace`) does not help, removing and adding them does.
//!
//! * 10.7.1, IPv4: zebra keeps a route as inactive where the interface has no carrier and no address, and forgets it when the carrier
//!   comes or goes. 8.4.4 and 10.3 do not.
//! * 10.3 and 10.7.1, both families: when any interface goes, zebra forgets the routes of interfaces that it does not know yet. It reads
//!   interfaces and routes on two threads. So a tap that is made while another one goes, as in a hard reboot, loses its routes where
//!   zebra reads late: 1 to 5 of 12 taps that were made anew while zebra was stopped. 8.4.4 reads both on one thread.
//! * 10.7.1, IPv4: whenever any interface changes, or an address goes, zebra forgets the routes of all interfaces without an address.

use super::ObservedRoutes;
use cutover_engine::BootTime;
use cutover_engine::wanted::WantedRoute;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// LIMIT: zebra reads interfaces on one thread and routes on another. What is written this long after the carrier is news to it after
/// the carrier was.
pub(super) const PAUSE: Duration = Duration::from_millis(100);
/// LIMIT: what comes less than this after the carrier may be news to zebra before the carrier is, as it reads the two on different threads.
const UNSETTLED: Duration = Duration::from_secs(1);
/// LIMIT: for so long changes of interfaces put off what they make zebra forget; a host that is filled has one after the other.
const CHANGING_MAX: Duration = Duration::from_millis(500);
/// LIMIT: each is four notifications, and the other family has its portion at the same time: 135,168 bytes of receive buffer
/// ([`crate::applier::pace`] has the sizes), of which the default one has 212,992.
pub(super) const AT_ONCE_MAX: usize = 16;
/// LIMIT: the kernel notifies within the write; what is not heard of for so long was lost.
const ECHO_WITHIN: Duration = Duration::from_millis(100);
/// zebra takes the high octet of a metric for its distance: the next one is worse.
const WORSE: u32 = 1 << 24;
/// Of the three low octets, by which announcements are told apart, so that a stand-in looks like no priority of ours.
const NO_PRIORITY: u32 = 1 << 23;

/// What is to be written again.
#[derive(Debug, Default)]
pub(super) struct Rewrites {
    /// Interfaces with a carrier, as the kernel has told it, and since when; `None` since before anybody looked.
    running: BTreeMap<u32, Option<BootTime>>,
    /// The first of the changes that may have made zebra forget.
    changing_since: Option<BootTime>,
    /// When zebra has read the last of them: what is written earlier may be forgotten again.
    settled_at: BootTime,
    /// [`Self::found`] has been called.
    is_known: bool,
    /// Routes that were there before the carrier, and when it is time.
    due: BTreeMap<WantedRoute, BootTime>,
    wake_at: Option<BootTime>,
    /// When the next portion may be written.
    next_portion: BootTime,
    /// Routes that have been written again since the carrier came: that they come is no news.
    written: BTreeSet<WantedRoute>,
    /// Routes that have been written again, and until when what is said of them and of their stand-ins is an echo of that.
    echoes: BTreeMap<WantedRoute, BootTime>,
}

impl Rewrites {
    /// What the kernel says about the carrier of an interface.
    pub(super) fn carrier(&mut self, ifindex: u32, runs: bool, observed: &ObservedRoutes, now: BootTime) {
        if !runs {
            self.running.remove(&ifindex);
            self.due.retain(|route, _| route.ifindex != ifindex);
            self.written.retain(|route| route.ifindex != ifindex);
            // What goes with the interface is no echo.
            self.echoes.retain(|route, _| route.ifindex != ifindex);
        } else if !self.running.contains_key(&ifindex) {
            self.running.insert(ifindex, self.is_known.then_some(now));
            self.written_before(observed, Some(ifindex), now + PAUSE, now);
        }
    }

    /// Everything is known for the first time. Whether a route or the carrier of its tap came first is not.
    pub(super) fn found(&mut self, observed: &ObservedRoutes, now: BootTime) {
        self.is_known = true;
        self.written_before(observed, None, now + PAUSE, now);
    }

    /// All routes of interfaces with a carrier may be forgotten, because something has changed somewhere. While one change follows the
    /// other, they are not put off for ever.
    pub(super) fn forgotten(&mut self, observed: &ObservedRoutes, now: BootTime) {
        let since = self.changing_since.filter(|since| now.since(*since) < CHANGING_MAX).unwrap_or(now);
        self.changing_since = Some(since);
        self.settled_at = now + PAUSE;
        self.written_before(observed, None, (now + PAUSE).min(since + CHANGING_MAX), now);
    }

    /// A route of ours is there.
    pub(super) fn appeared(&mut self, route: &WantedRoute, now: BootTime) {
        let since = self.running.get(&route.ifindex).copied().flatten();
        let is_unsettled = since.is_some_and(|since| now.since(since) < UNSETTLED);
        let is_ours_again = self.written.contains(route) || self.is_echo(route);
        if is_unsettled && !is_ours_again {
            self.again(*route, now + PAUSE);
        } else if now < self.settled_at && !self.is_echo(route) {
            self.again(*route, self.settled_at);
        }
    }

    /// Those of one interface, or of all of them, are written again then, if there is a carrier.
    fn written_before(
        &mut self,
        observed: &ObservedRoutes,
        ifindex: Option<u32>,
        at: BootTime,
        now: BootTime,
    ) {
        // Whose they are is perhaps not known yet. Only those are written again that are wanted just as they are.
        for route in observed.ours.iter().chain(&observed.others) {
            let is_meant = ifindex.is_none_or(|ifindex| route.ifindex == ifindex);
            if is_meant && self.running.contains_key(&route.ifindex) {
                let due = self.due.entry(*route).or_insert(at);
                // What only waits for its portion keeps its turn.
                if *due > now {
                    *due = at;
                }
            }
        }
        self.wake(at);
    }

    /// It is not there any more: when it comes again, it is news to everybody.
    pub(super) fn gone(&mut self, route: &WantedRoute) {
        self.due.remove(route);
    }

    /// Circumstances have changed, so that what could not be written again may be now.
    pub(super) fn look_again(&mut self, now: BootTime) {
        self.wake(now);
    }

    fn wake(&mut self, at: BootTime) {
        if !self.due.is_empty() {
            let at = at.max(self.next_portion);
            self.wake_at = Some(self.wake_at.map_or(at, |planned| planned.min(at)));
        }
    }

    /// When to look for [`Self::ready`], or when an echo is over.
    pub(super) fn next(&self) -> Option<BootTime> {
        self.wake_at.into_iter().chain(self.echoes.values().copied()).min()
    }

    /// Whether it is time to look. Says it once.
    pub(super) fn is_time(&mut self, now: BootTime) -> bool {
        let is_time = self.wake_at.take_if(|at| *at <= now).is_some();
        if is_time && let Some(later) = self.due.values().copied().filter(|at| *at > now).min() {
            self.wake(later);
        }
        is_time
    }

    /// What is to be written again now, as many as at once. `may` says which of them can be.
    pub(super) fn ready(&self, now: BootTime, may: impl Fn(&WantedRoute) -> bool) -> Vec<WantedRoute> {
        let ready = self.due.iter().filter(|(route, at)| **at <= now && may(route));
        let mut ready: Vec<(BootTime, WantedRoute)> = ready.map(|(route, at)| (*at, *route)).collect();
        // Whoever waits longest comes first, so that everybody has a turn while changes go on.
        ready.sort_unstable();
        ready.truncate(AT_ONCE_MAX);
        ready.into_iter().map(|(_, route)| route).collect()
    }

    /// These are being written again. What else is due follows after a while.
    pub(super) fn begin(&mut self, routes: &[WantedRoute], now: BootTime) {
        for route in routes {
            self.due.remove(route);
            if self.settled_at > now {
                self.due.insert(*route, self.settled_at);
            }
            self.written.insert(*route);
            self.echoes.insert(*route, now + ECHO_WITHIN);
        }
        self.put_off(now);
    }

    /// Whoever is notified has enough to read: a portion later, whatever circumstances change meanwhile.
    pub(super) fn put_off(&mut self, now: BootTime) {
        self.next_portion = now + PAUSE;
        self.wake_at = self.wake_at.map(|planned| planned.max(self.next_portion));
        self.wake(self.next_portion);
    }

    /// Nobody has to be told of what was to be written again until now.
    pub(super) fn give_up(&mut self, now: BootTime) {
        self.due.retain(|_, at| *at > now);
    }

    /// It could not be written again; later perhaps.
    pub(super) fn again(&mut self, route: WantedRoute, at: BootTime) {
        self.due.insert(route, at);
        self.wake(at);
    }

    /// Whether what the kernel says about it, or what seems to differ, comes from having written it again.
    pub(super) fn is_echo(&self, route: &WantedRoute) -> bool {
        let original = || in_whose_stead(route);
        self.echoes.contains_key(route) || original().is_some_and(|it| self.echoes.contains_key(&it))
    }

    /// Forgets echoes that are over. Says whether there was one.
    pub(super) fn expire(&mut self, now: BootTime) -> bool {
        let before = self.echoes.len();
        self.echoes.retain(|_, until| *until > now);
        self.echoes.len() < before
    }

    /// What is said about routes that nobody wants any more counts again.
    pub(super) fn release(&mut self, is_wanted: impl Fn(&WantedRoute) -> bool) {
        self.echoes.retain(|route, _| is_wanted(route));
    }
}

/// What keeps the way open while the route itself is away for a moment: worse than that one, so that it changes nothing meanwhile. Left by
/// an agent that was killed, it is a route of ours that nobody wants. `None` if there is no such metric.
pub(super) fn stand_in(route: &WantedRoute) -> Option<WantedRoute> {
    let metric = (route.metric ^ NO_PRIORITY).checked_add(WORSE)?;
    Some(WantedRoute { metric, ..*route })
}

/// The route that this one would stand in for.
fn in_whose_stead(stand_in: &WantedRoute) -> Option<WantedRoute> {
    let metric = stand_in.metric.checked_sub(WORSE)? ^ NO_PRIORITY;
    Some(WantedRoute { metric, ..*stand_in })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipnet::IpNet;

    fn route(last: u8, ifindex: u32) -> WantedRoute {
        let destination = IpNet::new([10, 65, 0, last].into(), 32).unwrap();
        WantedRoute { destination, ifindex, metric: 1024, protocol: 3, source: None }
    }

    fn with(routes: impl IntoIterator<Item = WantedRoute>) -> ObservedRoutes {
        ObservedRoutes { ours: routes.into_iter().collect(), ..ObservedRoutes::default() }
    }

    /// What is written again at this time, if somebody looks.
    fn ready(rewrites: &mut Rewrites, now: BootTime) -> Vec<WantedRoute> {
        let ready = rewrites.ready(now, |_| true);
        rewrites.begin(&ready, now);
        ready
    }

    const NOW: BootTime = BootTime(1_000_000_000);

    #[test]
    fn what_was_there_before_the_carrier_is_written_again_once() {
        let mut rewrites = Rewrites::default();
        rewrites.carrier(7, false, &with([]), NOW);
        rewrites.carrier(7, true, &with([route(2, 7), route(3, 8)]), NOW);
        assert_eq!(rewrites.next(), Some(NOW + PAUSE));
        assert!(!rewrites.is_time(NOW) && rewrites.is_time(NOW + PAUSE) && !rewrites.is_time(NOW + PAUSE));
        assert_eq!(rewrites.ready(NOW, |_| true), [], "too early");
        assert_eq!(ready(&mut rewrites, NOW + PAUSE), [route(2, 7)]);
        assert_eq!(ready(&mut rewrites, NOW + PAUSE), []);
        // The same carrier, told once more.
        rewrites.carrier(7, true, &with([route(2, 7), route(4, 7)]), NOW);
        assert_eq!(ready(&mut rewrites, NOW + PAUSE), []);
        assert!(rewrites.expire(NOW + PAUSE + ECHO_WITHIN));
        assert_eq!(rewrites.next(), None);
    }

    /// A host that is filled: interfaces come all the time.
    #[test]
    fn what_is_forgotten_while_everything_changes_is_written_again_all_the_same() {
        let mut rewrites = Rewrites::default();
        rewrites.found(&with([]), NOW);
        rewrites.carrier(7, true, &with([]), NOW);
        let all: Vec<WantedRoute> = (0..=255).map(|last| route(last, 7)).collect();
        let often = Duration::from_millis(20);
        let mut written: BTreeMap<WantedRoute, BootTime> = BTreeMap::new();
        let mut look = |rewrites: &mut Rewrites, now| {
            if rewrites.is_time(now) {
                written.extend(ready(rewrites, now).into_iter().map(|route| (route, now)));
            }
            written.clone()
        };
        let (mut now, last) = (NOW + UNSETTLED, NOW + UNSETTLED + CHANGING_MAX + PAUSE * 20);
        while now < last {
            now = now + often;
            rewrites.forgotten(&with(all.iter().copied()), now);
            look(&mut rewrites, now);
        }
        assert_eq!(look(&mut rewrites, now).len(), all.len());
        for _ in 0..200 {
            now = now + often;
            look(&mut rewrites, now);
        }
        let since = look(&mut rewrites, now);
        assert!(all.iter().all(|route| since[route] >= last + PAUSE), "after the last change as well");
        rewrites.expire(now);
        assert_eq!(rewrites.next(), None);
    }

    #[test]
    fn each_carrier_counts_and_what_went_meanwhile_does_not() {
        let mut rewrites = Rewrites::default();
        for _ in 0..2 {
            rewrites.carrier(7, true, &with([route(2, 7), route(3, 7)]), NOW);
            rewrites.gone(&route(3, 7));
            assert_eq!(ready(&mut rewrites, NOW + PAUSE), [route(2, 7)]);
            rewrites.carrier(7, false, &with([]), NOW);
        }
        rewrites.carrier(7, true, &with([route(2, 7)]), NOW);
        rewrites.carrier(7, false, &with([route(2, 7)]), NOW);
        assert_eq!(ready(&mut rewrites, NOW + PAUSE), [], "there is no carrier");
    }

    /// zebra may hear of the two in the other order.
    #[test]
    fn what_comes_right_after_the_carrier_is_written_again_as_well() {
        let mut rewrites = Rewrites::default();
        rewrites.found(&with([]), NOW);
        rewrites.carrier(7, true, &with([]), NOW);
        let soon = NOW + PAUSE;
        for route in [route(2, 7), route(3, 8)] {
            rewrites.appeared(&route, soon);
        }
        assert_eq!(ready(&mut rewrites, soon + PAUSE), [route(2, 7)]);
        // Its own echo, in time and late.
        rewrites.appeared(&route(2, 7), soon + PAUSE);
        rewrites.appeared(&stand_in(&route(2, 7)).unwrap(), soon + PAUSE);
        rewrites.expire(soon + PAUSE + ECHO_WITHIN);
        rewrites.appeared(&route(2, 7), soon + PAUSE + ECHO_WITHIN);
        rewrites.appeared(&route(4, 7), NOW + UNSETTLED);
        assert_eq!(ready(&mut rewrites, NOW + UNSETTLED + PAUSE), []);
        // Another carrier.
        rewrites.carrier(7, false, &with([]), NOW);
        rewrites.carrier(7, true, &with([]), NOW);
        rewrites.appeared(&route(2, 7), NOW);
        assert_eq!(ready(&mut rewrites, NOW + PAUSE), [route(2, 7)]);
    }

    /// An agent that starts does not know which of the two came first.
    #[test]
    fn what_is_found_at_the_start_counts_as_written_before() {
        let mut rewrites = Rewrites::default();
        let mut found = with([route(3, 8)]);
        // The settings have not said whose they are.
        found.others.insert(route(2, 7));
        rewrites.carrier(7, true, &with([]), NOW);
        rewrites.found(&found, NOW);
        assert_eq!(ready(&mut rewrites, NOW + PAUSE), [route(2, 7)]);
        // What this life writes comes long after the carrier, as far as anybody knows.
        rewrites.appeared(&route(4, 7), NOW + PAUSE);
        assert_eq!(ready(&mut rewrites, NOW + PAUSE + PAUSE), []);
    }

    #[test]
    fn what_may_not_be_written_again_yet_waits_for_other_circumstances() {
        let mut rewrites = Rewrites::default();
        rewrites.carrier(7, true, &with([route(2, 7)]), NOW);
        let later = NOW + PAUSE;
        assert!(rewrites.is_time(later));
        assert_eq!(rewrites.ready(later, |_| false), []);
        assert_eq!(rewrites.next(), None, "time alone changes nothing");
        rewrites.look_again(later);
        assert_eq!(rewrites.next(), Some(later));
        assert!(rewrites.is_time(later));
        assert_eq!(ready(&mut rewrites, later), [route(2, 7)]);
        rewrites.look_again(later);
        assert!(!rewrites.is_time(later + PAUSE), "there is nothing left");
    }

    #[test]
    fn many_are_written_again_in_portions() {
        let mut rewrites = Rewrites::default();
        let all: Vec<WantedRoute> = (0..=200).map(|last| route(last, 7)).collect();
        rewrites.carrier(7, true, &with(all.iter().copied()), NOW);
        let (mut now, mut written, mut portions) = (NOW, Vec::new(), 0);
        while written.len() < all.len() {
            if portions > 0 {
                // Something is wanted for each machine while the agent starts.
                rewrites.look_again(now);
            }
            assert!(!rewrites.is_time(now), "one portion after the other");
            now = now + PAUSE;
            assert!(rewrites.is_time(now));
            let portion = ready(&mut rewrites, now);
            assert!(!portion.is_empty() && portion.len() <= AT_ONCE_MAX);
            written.extend(portion);
            portions += 1;
        }
        assert_eq!((written, portions), (all, 201_usize.div_ceil(AT_ONCE_MAX)));
    }

    #[test]
    fn without_zebra_nothing_is_left_of_what_was_due() {
        let mut rewrites = Rewrites::default();
        rewrites.carrier(7, true, &with([route(2, 7)]), NOW);
        rewrites.carrier(8, true, &with([route(3, 8)]), NOW + PAUSE);
        rewrites.give_up(NOW + PAUSE);
        assert_eq!(ready(&mut rewrites, NOW + PAUSE + PAUSE), [route(3, 8)]);
    }

    #[test]
    fn echoes_end() {
        let mut rewrites = Rewrites::default();
        rewrites.begin(&[route(2, 7), route(3, 7)], NOW);
        let stand_in = stand_in(&route(2, 7)).unwrap();
        assert!(rewrites.is_echo(&route(2, 7)) && rewrites.is_echo(&stand_in));
        assert!(!rewrites.is_echo(&route(4, 7)));
        rewrites.release(|it| *it != route(3, 7));
        assert!(!rewrites.is_echo(&route(3, 7)) && rewrites.is_echo(&stand_in));
        assert!(!rewrites.expire(NOW) && rewrites.next().is_some());
        assert!(rewrites.expire(NOW + ECHO_WITHIN) && !rewrites.is_echo(&route(2, 7)));
        assert_eq!(rewrites.next(), None);
    }

    /// What goes when an interface is set down has to be written anew when it is up.
    #[test]
    fn what_goes_with_the_carrier_is_no_echo() {
        let mut rewrites = Rewrites::default();
        rewrites.begin(&[route(2, 7), route(3, 8)], NOW);
        rewrites.carrier(7, false, &with([]), NOW);
        assert!(!rewrites.is_echo(&route(2, 7)) && rewrites.is_echo(&route(3, 8)));
    }

    #[test]
    fn a_portion_that_is_put_off_waits_for_its_turn() {
        let mut rewrites = Rewrites::default();
        rewrites.carrier(7, true, &with([route(2, 7)]), NOW);
        let due = NOW + PAUSE;
        assert!(rewrites.is_time(due));
        rewrites.put_off(due);
        rewrites.look_again(due);
        assert!(!rewrites.is_time(due) && rewrites.is_time(due + PAUSE));
        assert_eq!(ready(&mut rewrites, due + PAUSE), [route(2, 7)]);
    }

    #[test]
    fn a_stand_in_is_worse_and_looks_like_no_priority() {
        for (metric, expected) in [
            (1024, Some(0x0180_0400)),
            (100_665_344, Some(0x0780_0800)),
            (10, Some(0x0180_000a)),
            (0x00ff_ffff, Some(0x017f_ffff)),
            (u32::MAX, None),
        ] {
            let route = WantedRoute { metric, ..route(2, 7) };
            assert_eq!(stand_in(&route).map(|it| it.metric), expected, "{metric}");
            assert!(expected.is_none_or(|worse| worse > metric));
            assert!(stand_in(&route).is_none_or(|it| in_whose_stead(&it) == Some(route)));
        }
    }
}
