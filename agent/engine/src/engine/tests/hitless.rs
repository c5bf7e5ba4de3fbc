//! Two hosts whose agents talk to each other: what still comes where a virtual machine has left is forwarded to where it runs, exactly as
//! long as that is right.

use super::host::*;
use crate::conversation::{Says, SourceSays, TargetSays};
use crate::fact::Fact;
use crate::machine::State;
use crate::model::{Handover, Policy};
use crate::notice::{DepartureRecord, Notice};
use crate::wanted::{HandoverStage, WantedForward, WantedReception};
use cutover_common::MacAddr;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// Source `a`, target `b`, and a channel between them that can be cut.
struct Pair {
    a: Host,
    b: Host,
    is_connected: bool,
}

fn address(host: &str) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, host.as_bytes()[0]))
}

/// Plays the applier of tunnels, which is at once.
fn apply_tunnels(host: &mut Host) {
    let wanted = host.wanted().clone();
    for (key, reception) in wanted.receptions.iter() {
        let (endpoint, tunnel_id) = (key.as_ref().clone(), reception.tunnel.id);
        host.tell(Fact::ReceptionReady { endpoint, tunnel_id, is_ready: true });
    }
    for (key, forward) in wanted.forwards.iter().filter(|(_, forward)| forward.is_active) {
        let (endpoint, tunnel_id, at) = (key.as_ref().clone(), forward.tunnel.id, host.now);
        host.tell(Fact::ForwardStarted { endpoint, tunnel_id, at });
    }
}

/// Carries what `from` says to `to`, if that one wants to hear it.
fn carry(from: &Host, to: &mut Host) -> bool {
    let name = &from.engine.policy.hostname;
    let said: Vec<_> = from.wanted().conversations.iter().map(|(_, it)| it.clone()).collect();
    let before = to.wanted().clone();
    for conversation in said {
        let heard = to.wanted().conversations.get(&conversation.peer).cloned();
        let is_wanted = heard.is_some_and(|it| it.uid == conversation.uid && it.peer.host == *name);
        if is_wanted {
            let (endpoint, uid, says) = (conversation.peer, conversation.uid, conversation.says);
            to.tell(Fact::PeerSaid { endpoint, uid, address: address(name), says });
        }
    }
    *to.wanted() != before
}

impl Pair {
    /// A virtual machine on `a`.
    fn quiet() -> Self {
        let mut pair = Self { a: Host::quiet("a"), b: Host::quiet("b"), is_connected: true };
        pair.both(written("a"));
        pair
    }

    /// It is about to go to `b`, and everything is ready there.
    fn migrating() -> Self {
        let mut pair = Self::quiet();
        pair.both(migration_written("u1", "a", "b"));
        pair.both(written("b"));
        assert_eq!((pair.a.state(), pair.b.state()), (State::Base, State::Target));
        pair
    }

    /// It has announced itself on `b`.
    fn arrived() -> Self {
        let mut pair = Self::migrating();
        pair.b.announce();
        pair.talk();
        pair
    }

    /// It has been there, and is about to come back to another tap.
    fn coming_back() -> Self {
        let mut pair = Self::arrived();
        pair.both(migration_removed("b"));
        pair.both(removed("a"));
        pair.a.tell(Fact::LinkRemoved { ifindex: 5 });
        pair.a.tell(Fact::LinkSeen(link(6, true)));
        pair.both(migration_written("u2", "b", "a"));
        pair.both(written("a"));
        pair
    }

    /// Both agents are killed and started again.
    fn restart(&mut self) {
        for host in [&mut self.a, &mut self.b] {
            let (name, memory, found) = (host.key().host, host.memory(), host.found());
            let links: Vec<_> = host.engine.links.values().cloned().collect();
            let (remotes, locals) = (host.engine.remotes.clone(), host.engine.locals.keys().cloned());
            let keys: Vec<_> = remotes.into_iter().chain(locals.map(|key| (*key).clone())).collect();
            let migrations = host.engine.migrations.clone();
            let mut again = Host::restarted(&name, host.now, memory, found);
            for link in links {
                again.tell(Fact::LinkSeen(link));
            }
            for key in keys {
                again.tell(Fact::EndpointWritten(key, endpoint()));
            }
            for (name, migration) in migrations {
                again.tell(Fact::MigrationWritten(name, migration));
            }
            again.tell(Fact::InSync { complete: true });
            *host = again;
        }
        self.talk();
    }

    fn both(&mut self, fact: Fact) {
        self.a.tell(fact.clone());
        self.b.tell(fact);
        self.talk();
    }

    /// Until nobody has anything new to say.
    fn talk(&mut self) {
        loop {
            apply_tunnels(&mut self.a);
            apply_tunnels(&mut self.b);
            let has_news = self.is_connected && (carry(&self.a, &mut self.b) | carry(&self.b, &mut self.a));
            if !has_news {
                return;
            }
        }
    }

    fn pass(&mut self, milliseconds: u64) {
        self.a.pass(ms(milliseconds));
        self.b.pass(ms(milliseconds));
        self.talk();
    }

    fn stop(&mut self, is_stopped: bool) {
        self.a.tell(Fact::MachineStopped { endpoint: port("a"), is_stopped });
        self.talk();
    }
}

fn forward(host: &Host) -> Option<&WantedForward> {
    host.wanted().forwards.get(&host.key())
}

fn is_active(host: &Host) -> bool {
    forward(host).is_some_and(|forward| forward.is_active)
}

fn reception(host: &Host) -> Option<&WantedReception> {
    host.wanted().receptions.get(&host.key())
}

#[test]
fn everything_is_ready_before_it_is_needed() {
    let pair = Pair::migrating();
    let (forward, reception) = (forward(&pair.a).unwrap(), reception(&pair.b).unwrap());
    assert!(!forward.is_active, "the virtual machine still runs here");
    assert_eq!(forward.tunnel.id, reception.tunnel.id);
    assert_eq!((forward.tunnel.peer, reception.tunnel.peer), (address("b"), address("a")));
    assert_eq!((&forward.prefixes, &reception.prefixes), (&endpoint().prefixes, &endpoint().prefixes));
    assert_eq!((reception.interface.as_str(), reception.ifindex), ("tap1", 5));
    assert!(pair.a.wanted().receptions.is_empty() && pair.b.wanted().forwards.is_empty());
}

#[test]
fn forwarded_from_the_announcement_until_the_convergence_time_is_over() {
    let mut pair = Pair::arrived();
    assert!(is_active(&pair.a));
    assert!(pair.b.phases().forwarded_at.is_some(), "the target hears of it");
    // The driver ends the migration, and deletes the endpoint with its tap.
    pair.both(migration_removed("b"));
    pair.both(removed("a"));
    pair.a.tell(Fact::LinkRemoved { ifindex: 5 });
    pair.pass(29_000);
    assert!(is_active(&pair.a), "routers may still be behind");
    assert!(reception(&pair.b).is_some());
    pair.pass(2_000);
    assert!(forward(&pair.a).is_none() && reception(&pair.b).is_none());
    assert!(pair.a.wanted().conversations.is_empty() && pair.b.wanted().conversations.is_empty());
    assert_eq!(pair.a.memory().departures, []);
    assert_eq!(pair.b.memory().arrivals, []);
}

/// What the source has said of migrations that are over for it.
fn departed(host: &mut Host) -> Vec<DepartureRecord> {
    let notices = host.engine.take_notices().into_iter();
    notices
        .filter_map(|it| if let Notice::Departed { record, .. } = it { Some(*record) } else { None })
        .collect()
}

#[test]
fn what_the_source_has_seen_of_a_migration_is_said_once_when_it_is_over_for_it() {
    let mut pair = Pair::quiet();
    let began_at = pair.a.now;
    pair.both(migration_written("u1", "a", "b"));
    pair.both(written("b"));
    pair.pass(1_000);
    pair.stop(true);
    let stopped_at = pair.a.now;
    pair.pass(5);
    pair.b.announce();
    pair.talk();
    let heard_at = pair.a.now;
    pair.both(migration_removed("b"));
    pair.both(removed("a"));
    assert_eq!(departed(&mut pair.a), [], "what still comes is forwarded");
    pair.pass(60_000);
    let said = departed(&mut pair.a);
    let [record] = &said[..] else { panic!("{said:?}") };
    assert_eq!(
        (record.uid.as_str(), &record.endpoint, &record.to),
        ("u1", &port("a").to_string(), &port("b").to_string())
    );
    assert_eq!(
        (record.began_at, record.stopped_at, record.heard_at),
        (began_at, Some(stopped_at), Some(heard_at))
    );
    assert_eq!(record.forwarded_at, Some(stopped_at), "it was held from its stop on");
    assert!(record.ended_at > heard_at);
}

#[test]
fn a_migration_of_which_nothing_came_and_one_in_place_of_another_are_said_too() {
    let mut pair = Pair::migrating();
    pair.both(migration_written("u2", "a", "b"));
    let said = departed(&mut pair.a);
    assert_eq!(said.iter().map(|it| it.uid.as_str()).collect::<Vec<_>>(), ["u1"]);
    pair.pass(1_000);
    pair.both(migration_removed("b"));
    assert_eq!(departed(&mut pair.a), [], "it may have gone without a word");
    pair.both(removed("b"));
    let said = departed(&mut pair.a);
    let [record] = &said[..] else { panic!("{said:?}") };
    assert_eq!(record.uid, "u2");
    assert_eq!((record.stopped_at, record.heard_at, record.forwarded_at), (None, None, None));
    assert!(record.began_at < record.ended_at);
}

#[test]
fn held_from_the_stop_and_not_when_that_is_off() {
    let mut pair = Pair::migrating();
    let awaits = |pair: &Pair| forward(&pair.a).map(|it| (it.awaits_word, it.awaits_stop));
    assert_eq!(awaits(&pair), Some((true, true)));
    pair.stop(true);
    assert!(is_active(&pair.a));
    assert_eq!(awaits(&pair), Some((false, false)), "it is there");
    assert!(pair.b.phases().stopped_at.is_some());
    let policy = Policy { holds: false, ..pair.a.engine.policy.clone() };
    pair.a.tell(Fact::PolicyChanged(Box::new(policy)));
    assert!(!is_active(&pair.a));
    assert_eq!(awaits(&pair), Some((true, false)));
}

#[test]
fn a_stop_that_is_heard_when_the_migration_is_over_is_none() {
    let mut pair = Pair::migrating();
    pair.b.announce();
    pair.talk();
    pair.both(migration_removed("b"));
    pair.stop(true);
    let stopped: Vec<_> = pair.a.engine.departing().map(|departure| departure.stopped_at).collect();
    assert_eq!(stopped, [None]);
    assert!(is_active(&pair.a));
}

#[test]
fn who_announces_itself_nowhere_is_forwarded_when_its_migration_is_over() {
    let mut pair = Pair::migrating();
    let is_said = |pair: &Pair| pair.b.memory().arrivals.iter().any(|arrival| arrival.is_announced);
    // The source hears first that the driver has completed it.
    pair.a.tell(migration_removed("b"));
    pair.a.tell(removed("a"));
    pair.a.tell(Fact::LinkRemoved { ifindex: 5 });
    pair.talk();
    assert_eq!((is_active(&pair.a), is_said(&pair)), (false, false));
    pair.b.tell(migration_removed("b"));
    pair.b.tell(removed("a"));
    pair.pass(1_000);
    assert!(!is_active(&pair.a), "a rollback may go on like this");
    pair.b.tell(written("b"));
    pair.talk();
    assert_eq!((is_active(&pair.a), is_said(&pair)), (true, true));
    pair.pass(40_000);
    assert!(forward(&pair.a).is_none());
    assert_eq!(pair.a.memory().departures, []);
}

#[test]
fn who_was_not_heard_of_and_stays_is_not_talked_about_any_more() {
    // In both orders: the driver's, and that of a history that was compacted.
    for facts in [[migration_removed("b"), removed("b")], [removed("b"), migration_removed("b")]] {
        let mut pair = Pair::migrating();
        for fact in facts {
            pair.both(fact);
            assert!(!is_active(&pair.a));
        }
        assert_eq!(pair.a.memory().departures, []);
        assert!(pair.a.wanted().conversations.is_empty());
        assert_eq!(departed(&mut pair.a).len(), 1);
    }
}

#[test]
fn a_virtual_machine_that_goes_on_at_the_source_gets_its_packets_at_once() {
    let mut pair = Pair::migrating();
    pair.stop(true);
    pair.stop(false);
    assert!(!is_active(&pair.a));
    assert_eq!(pair.b.phases().stopped_at, None);
    // The driver rolls back.
    pair.both(migration_removed("b"));
    pair.both(removed("b"));
    pair.both(written("a"));
    assert!(forward(&pair.a).is_none());
    pair.pass(60_000);
    assert!(pair.b.wanted().receptions.is_empty() && pair.b.wanted().conversations.is_empty());
}

#[test]
fn a_rollback_after_a_stop_that_nobody_took_back() {
    let mut pair = Pair::migrating();
    pair.stop(true);
    pair.both(migration_removed("b"));
    pair.both(written("a"));
    assert!(forward(&pair.a).is_none());
}

#[test]
fn nothing_is_forwarded_to_a_target_that_is_not_ready() {
    let mut pair = Pair::migrating();
    pair.b.tell(Fact::LinkRemoved { ifindex: 5 });
    let tunnel_id = forward(&pair.a).unwrap().tunnel.id;
    pair.b.tell(Fact::ReceptionReady { endpoint: port("b"), tunnel_id, is_ready: false });
    pair.talk();
    pair.stop(true);
    assert!(!is_active(&pair.a));
}

#[test]
fn a_target_whose_endpoint_is_deleted_is_not_sent_anything() {
    let mut pair = Pair::arrived();
    pair.both(migration_removed("b"));
    pair.b.tell(removed("b"));
    pair.b.tell(Fact::LinkRemoved { ifindex: 5 });
    pair.talk();
    assert!(!is_active(&pair.a), "its agent has said so");
    pair.pass(10_000);
    assert!(pair.b.wanted().conversations.is_empty());
}

#[test]
fn a_channel_that_is_cut_changes_nothing_of_what_is_known() {
    let mut pair = Pair::migrating();
    pair.is_connected = false;
    pair.b.announce();
    pair.talk();
    assert!(!is_active(&pair.a), "nobody has said so");
    pair.is_connected = true;
    pair.talk();
    assert!(is_active(&pair.a));
    pair.is_connected = false;
    pair.pass(3_600_000);
    assert!(is_active(&pair.a), "the migration is not over");
    pair.both(migration_removed("b"));
    pair.pass(31_000);
    assert!(!is_active(&pair.a));
}

#[test]
fn a_watch_whose_forward_ends_before_the_announcement_has_nothing_to_end() {
    let mut pair = Pair::coming_back();
    assert!(pair.a.watch().unwrap().ends_forwarding);
    pair.pass(31_000);
    assert!(!pair.a.watch().unwrap().ends_forwarding);
}

#[test]
fn both_agents_survive_at_any_step() {
    for step in 0..6 {
        let mut pair = Pair::migrating();
        let restart = |pair: &mut Pair, at: usize| {
            if step != at {
                return;
            }
            pair.restart();
        };
        restart(&mut pair, 0);
        pair.stop(true);
        restart(&mut pair, 1);
        assert!(is_active(&pair.a), "step {step}");
        pair.b.announce();
        pair.talk();
        restart(&mut pair, 2);
        assert!(is_active(&pair.a), "step {step}");
        let id = forward(&pair.a).unwrap().tunnel.id;
        pair.both(migration_removed("b"));
        restart(&mut pair, 3);
        pair.both(removed("a"));
        pair.a.tell(Fact::LinkRemoved { ifindex: 5 });
        restart(&mut pair, 4);
        assert!(is_active(&pair.a), "step {step}");
        assert_eq!(reception(&pair.b).map(|it| it.tunnel.id), Some(id), "step {step}");
        pair.pass(20_000);
        restart(&mut pair, 5);
        pair.pass(11_000);
        assert!(forward(&pair.a).is_none() && reception(&pair.b).is_none(), "step {step}");
    }
}

#[test]
fn back_again_at_once() {
    let mut pair = Pair::arrived();
    let there = forward(&pair.a).unwrap().tunnel;
    pair.both(migration_removed("b"));
    pair.both(removed("a"));
    pair.a.tell(Fact::LinkRemoved { ifindex: 5 });
    pair.pass(1_000);
    pair.a.tell(Fact::LinkSeen(link(6, true)));
    pair.both(migration_written("u2", "b", "a"));
    pair.both(written("a"));
    assert_eq!((pair.a.state(), pair.b.state()), (State::Target, State::Base));
    assert_eq!(forward(&pair.a).map(|it| it.tunnel), Some(there), "it still runs on b");
    assert!(is_active(&pair.a) && !is_active(&pair.b));
    assert_eq!(reception(&pair.b).map(|it| it.tunnel.id), Some(there.id), "and gets what is sent to a");
    assert!(pair.a.watch().unwrap().ends_forwarding, "it ends in the kernel with the announcement");
    pair.a.announce();
    pair.talk();
    assert!(forward(&pair.a).is_none(), "it runs here");
    assert!(is_active(&pair.b));
    assert_eq!(forward(&pair.b).map(|it| it.tunnel.id), reception(&pair.a).map(|it| it.tunnel.id));
}

#[test]
fn a_driver_that_writes_its_migration_again_changes_nothing() {
    let mut pair = Pair::arrived();
    let tunnel = forward(&pair.a).unwrap().tunnel;
    pair.both(migration_removed("b"));
    pair.both(migration_written("u2", "a", "b"));
    assert!(is_active(&pair.a));
    assert_eq!(forward(&pair.a).unwrap().tunnel, tunnel);
    pair.pass(3_600_000);
    assert!(is_active(&pair.a), "the second one is not over");
}

#[test]
fn what_another_endpoint_has_by_now_stays_here() {
    let mut pair = Pair::arrived();
    pair.both(migration_removed("b"));
    pair.both(removed("a"));
    pair.a.tell(Fact::LinkRemoved { ifindex: 5 });
    let mut other = endpoint_on("tap2");
    other.prefixes = ["10.65.0.2/32".parse().unwrap()].into();
    pair.a.tell(Fact::LinkSeen(crate::fact::Link { name: "tap2".into(), ..link(9, true) }));
    pair.a.tell(Fact::EndpointWritten(named_port("a", "port2"), other));
    let left: Vec<_> = forward(&pair.a).unwrap().prefixes.iter().map(ToString::to_string).collect();
    assert_eq!(left, ["2001:db8::2/128"]);
}

#[test]
fn who_lies_is_not_believed() {
    let mut pair = Pair::migrating();
    let says = TargetSays { tunnel_id: 1 << 24, is_ready: true, is_announced: true, has_failed: false };
    let said = |uid: &str, says| Fact::PeerSaid {
        endpoint: port("a"),
        uid: uid.into(),
        address: address("x"),
        says,
    };
    let before = forward(&pair.a).cloned();
    pair.a.tell(said("u1", Says::Target(says)));
    assert_eq!(forward(&pair.a), before.as_ref(), "no such tunnel");
    pair.a.tell(said("u7", Says::Target(TargetSays { tunnel_id: 9, ..says })));
    assert_eq!(forward(&pair.a), before.as_ref(), "another migration");
    pair.a.tell(said("u1", Says::Source(SourceSays { is_stopped: true, is_forwarding: true })));
    assert_eq!(forward(&pair.a), before.as_ref(), "this is the source");
}

#[test]
fn nobody_talks_where_it_is_off() {
    let mut pair = Pair::arrived();
    let policy = Policy { forwards: false, holds: false, ..pair.a.engine.policy.clone() };
    pair.a.tell(Fact::PolicyChanged(Box::new(policy.clone())));
    assert!(forward(&pair.a).is_none() && pair.a.wanted().conversations.is_empty());
    pair.both(migration_removed("b"));
    pair.both(migration_written("u2", "a", "b"));
    assert!(pair.a.wanted().conversations.is_empty() && pair.a.wanted().forwards.is_empty());
    let uids: Vec<_> = departed(&mut pair.a).into_iter().map(|record| record.uid).collect();
    assert_eq!(uids, ["u1"], "there is a record all the same");
}

/// Whoever forwards: what is known of the last frame is for the record as well.
#[test]
fn a_tap_is_listened_to_for_as_long_as_it_may_be_left() {
    for forwards in [true, false] {
        let listened = |pair: &Pair| pair.a.wanted().leaving.iter().copied().collect::<Vec<_>>();
        let mut pair = Pair::quiet();
        let policy = Policy { forwards, holds: forwards, ..pair.a.engine.policy.clone() };
        pair.a.tell(Fact::PolicyChanged(Box::new(policy)));
        assert!(listened(&pair).is_empty(), "it does not migrate");
        pair.both(migration_written("u1", "a", "b"));
        pair.both(written("b"));
        assert_eq!(listened(&pair), [5]);
        assert!(pair.b.wanted().leaving.is_empty());
        pair.b.announce();
        pair.talk();
        // The tap goes with the virtual machine, and its last frame is asked for later.
        pair.a.tell(Fact::LinkRemoved { ifindex: 5 });
        assert_eq!(listened(&pair), [5]);
        pair.both(migration_removed("b"));
        pair.both(removed("a"));
        pair.pass(31_000);
        assert!(listened(&pair).is_empty());
        let taps: Vec<_> = pair.a.engine.take_notices();
        let of = |notice| if let Notice::Departed { tap, .. } = notice { Some(tap) } else { None };
        assert_eq!(taps.into_iter().filter_map(of).collect::<Vec<_>>(), [Some(5)]);
    }
}

#[test]
fn a_tap_whose_virtual_machine_stays_is_not_listened_to() {
    let mut pair = Pair::migrating();
    pair.both(migration_removed("b"));
    assert!(!pair.a.wanted().leaving.is_empty(), "it may have left without a word");
    pair.both(removed("b"));
    assert!(pair.a.wanted().leaving.is_empty(), "the migration failed");
    let mut pair = Pair::migrating();
    pair.stop(true);
    pair.stop(false);
    assert!(!pair.a.wanted().leaving.is_empty(), "it may still leave");
    pair.both(migration_removed("b"));
    assert!(pair.a.wanted().leaving.is_empty());
}

#[test]
fn the_best_word_of_the_last_frame_counts() {
    let mut pair = Pair::migrating();
    let told =
        |uid: &str, at, error_ns| Fact::LastFrameTold { endpoint: port("b"), uid: uid.into(), at, error_ns };
    let at = pair.b.now;
    pair.b.tell(told("u0", at, 1));
    assert_eq!(pair.b.phases().last_frame_at, None, "another migration");
    for (uid, later, error_ns) in [("u1", 0, 900), ("u1", 1, 300), ("u1", 2, 301)] {
        pair.b.tell(told(uid, at + ms(later), error_ns));
    }
    let phases = pair.b.phases();
    assert_eq!((phases.last_frame_at, phases.last_frame_error_ns), (Some(at + ms(1)), Some(300)));
}

#[test]
fn tunnels_to_here_have_different_numbers() {
    let mut host = Host::quiet("b");
    for index in 0..50u8 {
        let interface = format!("tap{index}x");
        let mut it = endpoint_on(&interface);
        it.mac = Some(MacAddr([2, 0, 0, 0, 0, index]));
        it.prefixes = [format!("10.65.1.{index}/32").parse().unwrap()].into();
        let name = format!("p{index}");
        host.tell(Fact::LinkSeen(crate::fact::Link {
            name: interface,
            ..link(100 + u32::from(index), true)
        }));
        host.tell(Fact::EndpointWritten(named_port("b", &name), it));
        let mut migration = migration(&name, "a", "b");
        migration.source = Some(crate::model::MigrationSource::Endpoint(named_port("a", &name)));
        migration.target = Some(crate::model::MigrationTarget::Endpoint(named_port("b", &name)));
        host.tell(Fact::MigrationWritten(name, migration));
    }
    let ids: BTreeSet<_> = host.engine.receptions(host.now).into_iter().map(|it| it.tunnel_id).collect();
    assert_eq!(ids.len(), 50);
    assert!(ids.iter().all(|id| (1..1 << 24).contains(id)));
}

#[test]
fn who_says_that_it_goes_on_here_is_right() {
    let mut pair = Pair::arrived();
    assert!(is_active(&pair.a));
    // The hypervisor failed behind the announcement, and goes on here; nobody had said that it stopped.
    pair.stop(false);
    assert!(!is_active(&pair.a));
    let tunnel_id = forward(&pair.a).unwrap().tunnel.id;
    for is_ready in [false, true] {
        pair.b.tell(Fact::ReceptionReady { endpoint: port("b"), tunnel_id, is_ready });
        pair.talk();
        assert!(!is_active(&pair.a), "what the target goes on to say changes nothing");
    }
    pair.both(migration_removed("b"));
    pair.stop(false);
    assert!(!is_active(&pair.a));
}

/// The hypervisor failed behind the announcement, the channel was cut, and the word of it comes when the machine goes on here.
#[test]
fn an_announcement_that_is_heard_after_the_machine_goes_on_is_from_before() {
    let mut pair = Pair::migrating();
    pair.stop(true);
    pair.is_connected = false;
    pair.b.announce();
    pair.stop(false);
    pair.is_connected = true;
    pair.talk();
    assert!(!is_active(&pair.a), "it runs here");
    pair.stop(false);
    assert!(!is_active(&pair.a), "libvirt was connected anew, and says so again");
    pair.stop(true);
    assert!(is_active(&pair.a), "it has stopped again");
}

/// libvirt is heard in the middle of a migration, says that the virtual machine runs, and goes away before it stops.
#[test]
fn who_runs_here_before_its_announcement_there_is_forwarded_after_it() {
    let mut pair = Pair::migrating();
    pair.stop(false);
    pair.b.announce();
    pair.talk();
    assert!(is_active(&pair.a));
}

#[test]
fn a_rollback_behind_the_announcement_needs_no_channel() {
    let mut pair = Pair::arrived();
    pair.is_connected = false;
    pair.both(migration_removed("b"));
    pair.both(removed("a"));
    assert!(is_active(&pair.a));
    pair.both(removed("b"));
    pair.both(recreated("a", "e2"));
    assert!(!is_active(&pair.a), "the driver has brought it back");
    assert_eq!(pair.a.memory().departures, []);
}

#[test]
fn a_success_with_the_gap_of_a_driver_goes_on_being_forwarded() {
    let mut pair = Pair::arrived();
    pair.both(migration_removed("b"));
    pair.both(removed("a"));
    pair.both(removed("b"));
    assert!(is_active(&pair.a));
    pair.pass(340);
    pair.both(recreated("b", "e2"));
    pair.pass(10_000);
    assert!(is_active(&pair.a));
}

/// Its end and the begin of the next one come as one, when the datastore is read again after an interruption.
#[test]
fn another_migration_in_place_of_the_one_before_knows_nothing_of_it() {
    let mut pair = Pair::migrating();
    pair.stop(true);
    assert!(is_active(&pair.a));
    pair.is_connected = false;
    pair.both(migration_written("u2", "a", "b"));
    assert!(!is_active(&pair.a), "it has not stopped in this one");
    let mut pair = Pair::arrived();
    pair.is_connected = false;
    pair.both(migration_written("u2", "a", "b"));
    assert!(!is_active(&pair.a), "nor announced itself");
    pair.is_connected = true;
    pair.talk();
    assert!(is_active(&pair.a), "unless the target says so");
}

#[test]
fn a_migration_in_place_of_one_from_elsewhere_leaves_nothing_of_it() {
    let mut pair = Pair::arrived();
    pair.both(migration_written("u3", "c", "b"));
    pair.pass(31_000);
    assert!(!is_active(&pair.a));
    assert_eq!(pair.a.memory().departures, []);
}

#[test]
fn what_goes_on_to_a_third_host_is_left_to_the_routers() {
    let mut pair = Pair::arrived();
    pair.both(migration_removed("b"));
    pair.both(removed("a"));
    assert!(is_active(&pair.a));
    pair.both(migration_written("u2", "b", "c"));
    assert!(!is_active(&pair.a));
}

#[test]
fn a_target_that_takes_nothing_any_more_is_given_up() {
    let mut pair = Pair::arrived();
    let policy = Policy { forwards: false, holds: false, ..pair.b.engine.policy.clone() };
    pair.b.tell(Fact::PolicyChanged(Box::new(policy)));
    pair.talk();
    assert!(!is_active(&pair.a), "it was switched off there");
    pair.pass(10_000);
    assert!(pair.b.wanted().conversations.is_empty());

    let mut pair = Pair::arrived();
    let Some(tunnel_id) = forward(&pair.a).map(|it| it.tunnel.id) else { panic!("a forward") };
    let says = TargetSays { tunnel_id, is_ready: false, is_announced: true, has_failed: false };
    let (endpoint, address) = (port("a"), address("b"));
    pair.a.tell(Fact::PeerSaid { endpoint, uid: "u1".into(), address, says: Says::Target(says) });
    assert!(is_active(&pair.a), "an agent that is started anew says so");
    pair.a.pass(ms(5_100));
    assert!(!is_active(&pair.a));
}

#[test]
fn nothing_is_held_for_ever() {
    let mut pair = Pair::migrating();
    pair.stop(true);
    pair.pass(59_000);
    assert!(is_active(&pair.a));
    pair.pass(2_000);
    assert!(!is_active(&pair.a));
    pair.b.announce();
    pair.talk();
    assert!(is_active(&pair.a));
}

#[test]
fn on_the_way_back_nothing_is_sent_to_where_it_has_stopped() {
    let mut pair = Pair::coming_back();
    assert!(is_active(&pair.a));
    pair.b.tell(Fact::MachineStopped { endpoint: port("b"), is_stopped: true });
    pair.talk();
    assert!(is_active(&pair.b) && !is_active(&pair.a));
}

#[test]
fn networks_and_the_way_to_the_target_are_not_forwarded() {
    let mut pair = Pair::quiet();
    let mut wide = endpoint();
    wide.prefixes = ["10.65.0.2/32", "10.0.0.98/32", "10.65.1.0/24"].map(|it| it.parse().unwrap()).into();
    pair.both(Fact::EndpointWritten(port("a"), wide.clone()));
    pair.both(migration_written("u1", "a", "b"));
    pair.both(Fact::EndpointWritten(port("b"), wide));
    let forwarded: Vec<_> = forward(&pair.a).unwrap().prefixes.iter().map(ToString::to_string).collect();
    assert_eq!(forwarded, ["10.65.0.2/32"], "the target is 10.0.0.98");
}

#[test]
fn migrations_that_are_under_way_are_forwarded_when_it_is_switched_on() {
    let mut pair = Pair::quiet();
    let off = Policy { forwards: false, holds: false, ..pair.a.engine.policy.clone() };
    pair.a.tell(Fact::PolicyChanged(Box::new(off.clone())));
    pair.both(migration_written("u1", "a", "b"));
    pair.both(written("b"));
    assert!(forward(&pair.a).is_none());
    pair.a.tell(Fact::PolicyChanged(Box::new(Policy { forwards: true, holds: true, ..off })));
    pair.talk();
    pair.b.announce();
    pair.talk();
    assert!(is_active(&pair.a));
}

/// Its datastore is away; the virtual machine comes back to where it has been.
#[test]
fn an_announcement_ends_what_the_last_life_forwarded() {
    let pair = Pair::coming_back();
    let (memory, found) = (pair.a.memory(), pair.a.found());
    let mut again = Host::restarted("a", pair.a.now, memory, found);
    again.tell(Fact::LinkSeen(link(6, true)));
    assert!(again.wanted().is_recalled);
    assert!(again.watch().unwrap().ends_forwarding);
}

/// Its datastore is away for longer than it is to forward. What still comes there would be lost: the target takes nothing for it.
#[test]
fn what_the_last_life_forwarded_ends_without_the_datastore() {
    let mut pair = Pair::arrived();
    pair.both(migration_removed("b"));
    pair.both(removed("a"));
    let forwarded: BTreeSet<_> = forward(&pair.a).unwrap().prefixes.clone();
    let over = |host: &Host| host.wanted().forwards_over.iter().copied().collect::<BTreeSet<_>>();
    let mut again = Host::restarted("a", pair.a.now, pair.a.memory(), pair.a.found());
    again.tell(Fact::LinkSeen(link(6, true)));
    again.pass(Duration::from_secs(29));
    assert!(again.wanted().is_recalled && over(&again).is_empty(), "its time is not over");
    again.pass(Duration::from_secs(2));
    assert_eq!(over(&again), forwarded);
    // And when it is over before the agent is there.
    let mut late = Host::restarted("a", again.now, pair.a.memory(), pair.a.found());
    late.tell(Fact::LinkSeen(link(6, true)));
    assert_eq!(over(&late), forwarded);
    late.tell(Fact::InSync { complete: true });
    assert!(over(&late).is_empty() && forward(&late).is_none());
}

/// And libvirt says that it goes on here, or the time is over for which packets are held.
#[test]
fn what_the_last_life_held_ends_without_the_datastore() {
    let mut pair = Pair::migrating();
    pair.stop(true);
    let over = |host: &Host| !host.wanted().forwards_over.is_empty();
    let start = |pair: &Pair| {
        let mut again = Host::restarted("a", pair.a.now, pair.a.memory(), pair.a.found());
        again.tell(Fact::LinkSeen(link(5, true)));
        assert!(again.wanted().is_recalled && !over(&again));
        again
    };
    let mut resumed = start(&pair);
    resumed.tell(Fact::MachineStopped { endpoint: port("a"), is_stopped: false });
    assert!(over(&resumed));
    let mut silent = start(&pair);
    silent.pass(Duration::from_secs(59));
    assert!(!over(&silent));
    silent.pass(Duration::from_secs(2));
    assert!(over(&silent));
}

/// Nobody knows how long a migration takes that has not ended.
#[test]
fn what_the_last_life_forwarded_in_a_migration_goes_on_without_the_datastore() {
    let pair = Pair::arrived();
    let mut again = Host::restarted("a", pair.a.now, pair.a.memory(), pair.a.found());
    again.tell(Fact::LinkSeen(link(5, true)));
    again.pass(Duration::from_hours(1));
    assert!(again.wanted().is_recalled && again.wanted().forwards_over.is_empty());
}

/// How far the hand-over of tracked connections is, as far as a host wants it.
fn stage(host: &Host) -> Option<HandoverStage> {
    host.wanted().handovers.get(&host.key()).map(|handover| handover.stage)
}

fn handing_over(pair: &mut Pair) {
    for host in [&mut pair.a, &mut pair.b] {
        let policy = Policy { handover: Handover::Auto, ..host.engine.policy.clone() };
        host.tell(Fact::PolicyChanged(Box::new(policy)));
    }
    pair.talk();
}

#[test]
fn tracked_connections_are_handed_over_from_the_role_on() {
    use HandoverStage::{Arrived, Expected, Leaving, Left};
    let mut pair = Pair::migrating();
    assert_eq!((stage(&pair.a), stage(&pair.b)), (None, None), "it is off");
    handing_over(&mut pair);
    assert_eq!((stage(&pair.a), stage(&pair.b)), (Some(Leaving), Some(Expected)));
    let of_b = pair.b.wanted().handovers.get(&pair.b.key()).unwrap();
    assert_eq!(of_b.prefixes, reception(&pair.b).unwrap().prefixes, "what may come out of the tunnel");
    pair.stop(true);
    assert_eq!((stage(&pair.a), stage(&pair.b)), (Some(Left), Some(Expected)));
    pair.b.announce();
    pair.talk();
    assert_eq!((stage(&pair.a), stage(&pair.b)), (Some(Left), Some(Arrived)));
    pair.both(migration_removed("b"));
    pair.both(removed("a"));
    assert_eq!(stage(&pair.a), Some(Left), "the endpoint is gone, and its connections are read from memory");
    pair.pass(31_000);
    assert_eq!((stage(&pair.a), stage(&pair.b)), (None, None));
}

#[test]
fn a_virtual_machine_that_goes_on_is_leaving_again() {
    let mut pair = Pair::migrating();
    handing_over(&mut pair);
    pair.stop(true);
    pair.stop(false);
    assert_eq!(stage(&pair.a), Some(HandoverStage::Leaving));
}

/// The target's endpoint is deleted in a rollback: what was made for it is known from memory.
#[test]
fn a_target_that_fails_takes_back_what_it_made() {
    let mut pair = Pair::migrating();
    handing_over(&mut pair);
    let prefixes = reception(&pair.b).unwrap().prefixes.clone();
    pair.restart();
    handing_over(&mut pair);
    pair.both(migration_removed("b"));
    pair.both(removed("b"));
    pair.pass(2_500);
    let handover = pair.b.wanted().handovers.get(&pair.b.key()).expect("for a while");
    assert_eq!((handover.stage, &handover.prefixes), (HandoverStage::Failed, &prefixes));
    pair.pass(6_000);
    assert_eq!(stage(&pair.b), None);
}

#[test]
fn connections_that_were_made_are_in_the_record_of_their_migration_only() {
    let mut pair = Pair::migrating();
    handing_over(&mut pair);
    let made =
        |uid: &str, count, at| Fact::ConnectionsMade { endpoint: port("b"), uid: uid.into(), count, at };
    let at = pair.b.now;
    pair.b.tell(made("u0", 9, at));
    assert_eq!(pair.b.phases().handed_over_at, None);
    pair.b.tell(made("u1", 3, at));
    pair.b.tell(made("u1", 4, at + ms(7)));
    assert_eq!((pair.b.phases().handed_over_at, pair.b.phases().connections), (Some(at), Some(4)));
}
