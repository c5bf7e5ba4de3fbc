//! An agent that is started while its datastore is away: what its memory is enough for, and what happens when the datastore
//! is back.

use super::host::*;
use crate::fact::{Fact, Link};
use crate::machine::State;
use crate::memory::{LeftBehind, Memory};
use crate::model::{Endpoint, Policy, Trigger};
use crate::notice::Notice;
use crate::wanted::WantedRoute;
use std::collections::BTreeSet;

/// Another agent on the same kernel, which has read that and nothing else.
fn started_away(host: &Host) -> Host {
    let mut again = Host::restarted("b", host.now + ms(500), host.memory(), host.found());
    again.kernel.clone_from(&host.kernel);
    again.tell(Fact::LinkSeen(link(5, true)));
    again
}

/// The datastore is back, with these resources.
fn back(host: &mut Host, resources: Vec<Fact>) {
    for fact in resources {
        host.engine.handle(host.now, fact);
    }
    host.tell(Fact::InSync { complete: true });
}

fn in_migration() -> Vec<Fact> {
    vec![written("a"), migration_written("u1", "a", "b"), written("b")]
}

fn remembered_state(host: &Host) -> State {
    host.memory().endpoints[0].machine.state
}

#[test]
fn a_target_stays_watched_and_what_is_announced_has_its_routes_at_once() {
    let host = Host::target("b");
    let mut again = started_away(&host);
    assert_eq!(again.watch(), host.watch(), "the same generation, with the same routes to install");
    assert_eq!(again.metric(), None);
    again.pass(ms(3_600_000)).announce();
    assert_eq!(again.metric(), Some(ELEVATED));
    assert_eq!(remembered_state(&again), State::Live);
    assert!(again.engine.take_memory_changed(), "it has to be saved before the routes are told to anybody");
    let is_live = |notice: &Notice| matches!(notice, Notice::Transition { transition, .. } if transition.to == State::Live);
    assert!(again.engine.take_notices().iter().any(is_live));
    let mark = again.kernel.clone();
    back(&mut again, in_migration());
    assert_eq!((again.state(), again.metric()), (State::Live, Some(ELEVATED)));
    assert_eq!(again.kernel, mark);
    again.tell(migration_removed("b")).tell(removed("a")).pass(ms(60_000));
    assert_eq!((again.state(), again.metric()), (State::Base, Some(NORMAL)));
}

#[test]
fn what_was_announced_while_no_agent_ran_counts() {
    let host = Host::target("b");
    let generation = host.watch().unwrap().generation;
    let mut again = started_away(&host);
    again.tell(announcement(generation, host.now + ms(250)));
    assert_eq!((remembered_state(&again), again.metric()), (State::Live, Some(ELEVATED)));
    // Whichever of links and evidence is told first.
    let mut again = Host::restarted("b", host.now + ms(500), host.memory(), host.found());
    again.tell(announcement(generation, host.now + ms(250)));
    assert_eq!(again.metric(), None, "no tap is known yet");
    again.tell(Fact::LinkSeen(link(5, true)));
    assert_eq!((remembered_state(&again), again.metric()), (State::Live, Some(ELEVATED)));
}

/// Evidence tells first, then the fast path, which has acted on it.
#[test]
fn both_who_tell_of_an_announcement_are_heard() {
    let host = Host::target("b");
    let generation = host.watch().unwrap().generation;
    let mut again = started_away(&host);
    let at = again.now;
    again.tell(announcement(generation, at));
    let Fact::AnnouncementSeen(seen) = announcement(generation, at) else { unreachable!() };
    let (taken_at, routed_at) = (Some(at + ms(1)), Some(at + ms(2)));
    again.tell(Fact::AnnouncementSeen(crate::fact::AnnouncementSeen { taken_at, routed_at, ..seen }));
    assert_eq!(again.memory().endpoints[0].machine.phases.routed_at, routed_at);
    assert!(again.engine.early.is_empty());
}

#[test]
fn it_dies_again_and_goes_on() {
    let mut away = started_away(&Host::target("b"));
    for _ in 0..3 {
        away = started_away(&away);
    }
    away.announce();
    for _ in 0..3 {
        away = started_away(&away);
        assert_eq!((remembered_state(&away), away.metric()), (State::Live, Some(ELEVATED)));
    }
    back(&mut away, in_migration());
    assert_eq!((away.state(), away.metric()), (State::Live, Some(ELEVATED)));
}

/// The watch was armed while nobody could say so to the endpoint, and `up` waits for it.
#[test]
fn a_target_is_reported_ready_once_the_datastore_is_back() {
    let mut again = started_away(&Host::target("b"));
    back(&mut again, in_migration());
    assert_eq!(again.status(), Some(crate::wanted::Status::Up));
}

#[test]
fn a_migration_that_ended_meanwhile() {
    for (resources, state) in
        [(vec![written("b")], State::TimeWait), (vec![written("a"), written("b")], State::TimeWait)]
    {
        let mut again = started_away(&Host::target("b"));
        again.announce();
        back(&mut again, resources);
        assert_eq!((again.state(), again.metric()), (state, Some(ELEVATED)));
        again.pass(ms(60_000));
        assert_eq!((again.state(), again.metric()), (State::Base, Some(NORMAL)));
    }
}

/// It is gone from the datastore and nobody saw it go: it is held, and kept while its tap has carrier.
#[test]
fn an_endpoint_that_went_meanwhile_follows_the_usual_rules() {
    let mut again = started_away(&Host::target("b"));
    again.announce();
    back(&mut again, vec![]);
    assert_eq!((again.held(), again.metric()), (true, Some(ELEVATED)));
    again.pass(ms(60_000)).tell(Fact::LinkSeen(link(5, false))).pass(ms(10_000));
    assert_eq!((again.held(), again.metric()), (false, None));
}

/// Nothing ends by itself, and no route is written for anybody who has not announced himself: not in Base, where the machine is known
/// to run, nor in Live or TimeWait, whose routes are there.
#[test]
fn other_states_are_left_as_they_are() {
    let live = Host::live("b");
    let mut time_wait = live.clone();
    time_wait.tell(migration_removed("b"));
    let mut base = time_wait.clone();
    base.tell(removed("a")).pass(ms(60_000));
    // What is over is not wanted, but nobody takes it away before the datastore is in sync.
    for (host, wanted) in [(live, Some(ELEVATED)), (time_wait, None), (base, None)] {
        let mut again = started_away(&host);
        let before = again.kernel.clone();
        again.pass(ms(3_600_000));
        assert_eq!((again.metric(), again.watch().is_some()), (wanted, false), "{}", host.state());
        assert_eq!(again.kernel, before);
    }
}

/// The memory may be older than the kernel, and what was latched may be hours old.
#[test]
fn a_machine_that_may_have_gone_on_gets_no_route() {
    let host = Host::live("b");
    // Its hypervisor has gone.
    let mut again = Host::restarted("b", host.now + ms(500), host.memory(), LeftBehind::default());
    again.tell(Fact::LinkSeen(link(5, false)));
    assert_eq!(again.metric(), None);
    again.tell(Fact::LinkSeen(link(5, true)));
    assert_eq!(again.metric(), Some(ELEVATED));

    // Its routes were normal again, and nobody could write that down.
    let mut normal = host.found();
    normal.routes = normal.routes.into_iter().map(|route| WantedRoute { metric: NORMAL, ..route }).collect();
    assert!(!normal.routes.is_empty());
    let mut again = Host::restarted("b", host.now + ms(500), host.memory(), normal);
    again.tell(Fact::LinkSeen(link(5, true)));
    assert_eq!(again.metric(), None);
}

/// The last life died after it had saved what it knew, and before anybody had written a route.
#[test]
fn what_the_memory_says_is_live_gets_the_routes_that_are_missing() {
    let host = Host::live("b");
    let mut again = Host::restarted("b", host.now, host.memory(), LeftBehind::default());
    again.tell(Fact::LinkSeen(link(5, true)));
    assert_eq!(again.metric(), Some(ELEVATED));
    // Another tap of the same name is another place, where nobody has announced anything.
    let mut again = Host::restarted("b", host.now, host.memory(), LeftBehind::default());
    again.tell(Fact::LinkSeen(link(6, true)));
    assert_eq!(again.metric(), None);
}

/// About to leave: the routes that it has stay, but none comes.
#[test]
fn where_a_machine_is_leaving_nothing_is_added() {
    let mut host = Host::live("b");
    host.tell(migration_removed("b")).tell(migration_written("u2", "b", "c"));
    assert_eq!(host.state(), State::TimeWait, "the host before is waited for");
    assert_eq!(started_away(&host).metric(), None);
}

#[test]
fn a_tap_that_is_plugged_meanwhile_is_watched_with_another_generation() {
    let host = Host::target("b");
    let mut again = started_away(&host);
    again.tell(Fact::LinkRemoved { ifindex: 5 });
    assert_eq!(again.watch(), None);
    again.tell(Fact::LinkSeen(link(6, true)));
    assert!(again.watch().unwrap().generation > host.watch().unwrap().generation);
    again.announce();
    assert_eq!(again.metric(), Some(ELEVATED));
    assert!(again.kernel.iter().all(|route| route.ifindex == 6));
    back(&mut again, in_migration());
    assert_eq!((again.state(), again.metric()), (State::Live, Some(ELEVATED)));
}

#[test]
fn what_the_settings_of_this_life_say_counts() {
    let host = Host::target("b");
    let mut again = started_away(&host);
    let mut policy = Policy { hostname: "b".into(), route_protocol: 80, ..Policy::default() };
    policy.ipv4.elevated = 100;
    policy.ipv6.elevated = 100;
    policy.trigger = Trigger::FirstFrame;
    again.appliers = false;
    again.engine.handle(again.now, Fact::PolicyChanged(Box::new(policy)));
    assert!(again.engine.settle(again.now));
    let watch = again.watch().unwrap();
    assert_eq!(watch.generation, host.watch().unwrap().generation);
    assert_eq!(watch.trigger, Trigger::FirstFrame);
    assert!(watch.routes.iter().all(|route| (route.metric, route.protocol) == (100, 80)));
}

/// While it is open how the migration ended, any frame says it.
#[test]
fn an_unresolved_target_is_decided_by_any_frame() {
    let mut host = Host::target("b");
    host.tell(migration_removed("b"));
    let mut again = started_away(&host);
    assert_eq!(again.watch().unwrap().trigger, Trigger::FirstFrame);
    again.announce();
    assert_eq!((remembered_state(&again), again.metric()), (State::TimeWait, Some(ELEVATED)));
}

#[test]
fn without_a_memory_or_for_another_host_nothing_is_wanted() {
    let host = Host::target("b");
    for (name, memory) in [("b", Memory::default()), ("c", host.memory())] {
        let mut again = Host::restarted(name, host.now, memory, host.found());
        again.tell(Fact::LinkSeen(link(5, true)));
        again.tell(announcement(host.watch().unwrap().generation, host.now));
        let wanted = again.engine.wanted().cloned().unwrap_or_default();
        assert!(wanted.routes.is_empty() && wanted.watches.is_empty());
        assert!(again.engine.recall_view().is_none_or(|view| view.endpoints == 0));
    }
}

fn tap(ifindex: u32, name: &str) -> Fact {
    Fact::LinkSeen(Link { ifindex, name: name.into(), admin_up: true, running: true, master: None })
}

/// Another endpoint, with nothing to remember, has one of the prefixes and comes first; the memory knows of it all the same.
#[test]
fn what_somebody_has_who_comes_first_is_not_taken_from_him() {
    for is_before in [true, false] {
        let mut host = Host::target("b");
        host.tell(tap(7, "tap0"));
        let name = if is_before { "port0" } else { "port2" };
        let prefixes = ["10.65.0.2/32".parse().unwrap()].into();
        let other = Endpoint { prefixes, mac: None, ..endpoint_on("tap0") };
        host.engine.take_memory_changed();
        host.appliers = false;
        host.engine.handle(host.now, Fact::EndpointWritten(named_port("b", name), other));
        host.engine.settle(host.now);
        assert_eq!(host.engine.take_memory_changed(), is_before);
        let expected = host.watch().unwrap().routes.clone();
        assert_eq!(expected.len(), if is_before { 1 } else { 2 });
        let mut again = started_away(&host);
        again.appliers = false;
        again.tell(tap(7, "tap0"));
        assert_eq!(again.watch().unwrap().routes, expected);
        again.engine.handle(again.now, announcement(again.watch().unwrap().generation, again.now));
        again.engine.settle(again.now);
        let routes: BTreeSet<WantedRoute> = again.wanted().routes.iter().copied().collect();
        assert_eq!(routes, expected);
    }
}

/// Its tap is another's: it listens to nothing there.
#[test]
fn an_endpoint_whose_tap_is_anothers_does_nothing() {
    let mut host = Host::target("b");
    host.appliers = false;
    let prefixes = ["10.65.0.9/32".parse().unwrap()].into();
    let other = Endpoint { prefixes, ..endpoint() };
    host.engine.handle(host.now, Fact::EndpointWritten(named_port("b", "port0"), other));
    host.engine.settle(host.now);
    assert_eq!(host.watch(), None);
    let mut again = started_away(&host);
    assert_eq!(again.watch(), None);
    again.tell(announcement(host.memory().endpoints[0].machine.arming.unwrap().generation, host.now));
    assert_eq!((remembered_state(&again), again.metric()), (State::Target, None));
}

#[test]
fn the_view_says_what_is_known_from_memory() {
    let again = started_away(&Host::target("b"));
    let view = again.engine.view(again.now);
    assert!(view.len() == 1 && view[0].from_memory && view[0].watch.is_some(), "{view:?}");
    let told = again.engine.recall_view().unwrap();
    assert_eq!((told.endpoints, told.watched), (1, 1));
}
