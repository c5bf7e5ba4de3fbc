//! What is lost all at once, and what goes as it should: the one needs a word, the other must not.

use super::host::*;
use crate::fact::{Fact, Link};
use crate::memory::{LeftBehind, Memory};
use crate::model::{EndpointKey, Policy};
use crate::notice::Notice;

/// Interface number of the tap of endpoint `number`.
fn ifindex(number: u8) -> u32 {
    100 + u32::from(number)
}

fn key(number: u8) -> EndpointKey {
    named_port("b", &format!("port{number}"))
}

fn tap(number: u8, running: bool) -> Fact {
    let name = format!("tap{number}");
    Fact::LinkSeen(Link { ifindex: ifindex(number), name, admin_up: true, running, master: None })
}

fn appears(number: u8) -> Fact {
    let mut endpoint = endpoint_on(&format!("tap{number}"));
    endpoint.prefixes = [format!("10.65.0.{number}/32").parse().unwrap()].into();
    Fact::EndpointWritten(key(number), endpoint)
}

fn vanishes(number: u8) -> Fact {
    Fact::EndpointRemoved(key(number))
}

/// A host with so many endpoints whose virtual machines run.
fn host_with(count: u8) -> Host {
    let mut host = Host::quiet("b");
    for number in 1..=count {
        host.tell(tap(number, true)).tell(appears(number));
    }
    host.engine.take_notices();
    host
}

/// The same agent started anew; the datastore shows what `resources` say.
fn restarted(host: &Host, resources: &[Fact]) -> Host {
    let mut again = Host::restarted("b", host.now, host.memory(), host.found());
    again.kernel.clone_from(&host.kernel);
    let links: Vec<_> = host.engine.links.values().cloned().map(Fact::LinkSeen).collect();
    for fact in links.iter().chain(resources) {
        again.tell(fact.clone());
    }
    again.tell(Fact::InSync { complete: true });
    again
}

fn routes(host: &Host) -> usize {
    host.kernel.len()
}

fn suspected(host: &mut Host) -> Vec<Notice> {
    let is_one = |notice: &Notice| matches!(notice, Notice::LossSuspected { .. } | Notice::LossSettled);
    host.engine.take_notices().into_iter().filter(is_one).collect()
}

#[test]
fn endpoints_that_vanish_together_stay_until_somebody_confirms_it() {
    for count in [2, 3, 20] {
        let mut host = host_with(count);
        for number in 1..=count {
            host.tell(vanishes(number)).pass(ms(20));
        }
        host.pass(ms(3_600_000));
        assert_eq!(routes(&host), usize::from(count));
        assert_eq!(host.engine.losses().endpoints.len(), usize::from(count));
        let endpoints = usize::from(count);
        assert!(suspected(&mut host).contains(&Notice::LossSuspected { endpoints, interfaces: 0 }));
        host.tell(Fact::LossConfirmed);
        assert_eq!((routes(&host), host.engine.losses().count()), (0, 0));
        assert_eq!(suspected(&mut host), [Notice::LossSettled]);
        // What was confirmed was about that, and about nothing later.
        for number in 1..=count {
            host.tell(appears(number));
        }
        for number in 1..=count {
            host.tell(vanishes(number));
        }
        host.pass(ms(60_000));
        assert_eq!(routes(&host), usize::from(count));
    }
}

#[test]
fn endpoints_that_come_back_need_no_word() {
    let mut host = host_with(10);
    for number in 1..=10 {
        host.tell(vanishes(number));
    }
    host.pass(ms(60_000));
    for number in 1..=10 {
        host.tell(appears(number)).pass(ms(500));
        assert_eq!(routes(&host), 10, "also while only some of them are back");
    }
    assert_eq!(host.engine.losses().count(), 0);
    host.tell(vanishes(1)).pass(ms(2_000));
    assert_eq!(routes(&host), 9, "everything is as before");
}

/// Virtual machines that are migrated away or deleted take their taps along, or let go of them.
#[test]
fn a_host_is_drained_without_a_word() {
    for tap_goes in [true, false] {
        for pause in [0, 100, 5_000] {
            let mut host = host_with(12);
            for number in 1..=12 {
                let ifindex = ifindex(number);
                let left = if tap_goes { Fact::LinkRemoved { ifindex } } else { tap(number, false) };
                host.tell(left).tell(vanishes(number)).pass(ms(pause));
            }
            host.pass(ms(2_000));
            assert_eq!((routes(&host), host.engine.losses().count()), (0, 0), "{tap_goes} {pause}");
            assert_eq!(suspected(&mut host), []);
        }
    }
}

/// The tap goes a little later than the endpoint: that settles it, each by itself.
#[test]
fn a_tap_that_loses_its_carrier_settles_it() {
    let mut host = host_with(3);
    for number in 1..=3 {
        host.tell(vanishes(number));
    }
    host.pass(ms(10_000));
    for number in 1..=3 {
        host.tell(tap(number, false));
        assert_eq!(routes(&host), usize::from(3 - number));
    }
    assert_eq!(suspected(&mut host).last(), Some(&Notice::LossSettled));
}

/// A driver deletes an endpoint, and be it the last one, because somebody wants it.
#[test]
fn one_endpoint_at_a_time_is_deleted_with_carrier_and_without_a_word() {
    let mut host = host_with(4);
    for number in 1..=4 {
        host.tell(vanishes(number)).pass(ms(2_000));
        assert_eq!(routes(&host), usize::from(4 - number));
    }
    assert_eq!(suspected(&mut host), []);
}

#[test]
fn several_virtual_machines_leave_at_once_by_migration() {
    let mut host = host_with(5);
    let moves = |number: u8| {
        let mut migration = migration("u", "b", "c");
        migration.source = Some(crate::model::MigrationSource::Endpoint(key(number)));
        let there = named_port("c", &format!("port{number}"));
        migration.target = Some(crate::model::MigrationTarget::Endpoint(there.clone()));
        (there.to_string(), migration)
    };
    for number in 1..=5 {
        let (name, migration) = moves(number);
        host.tell(Fact::MigrationWritten(name, migration));
    }
    for number in 1..=5 {
        host.tell(Fact::MigrationRemoved(moves(number).0)).tell(vanishes(number));
    }
    host.pass(ms(2_000));
    assert_eq!((routes(&host), suspected(&mut host)), (0, vec![]), "their taps have carrier all the time");
}

#[test]
fn most_of_them_are_as_good_as_all() {
    for (lost, left, is_kept) in [(8, 2, true), (5, 1, true), (4, 1, false), (7, 3, false)] {
        let mut host = host_with(lost + left);
        for number in 1..=lost {
            host.tell(vanishes(number));
        }
        host.pass(ms(60_000));
        assert_eq!(routes(&host), usize::from(if is_kept { lost + left } else { left }), "{lost} and {left}");
    }
}

/// Everything is gone after an outage: even one endpoint, because nobody saw it being deleted.
#[test]
fn what_a_full_read_does_not_show_any_more_stays() {
    for count in [1, 3] {
        let mut host = host_with(count).asking();
        for number in 1..=count {
            host.engine.handle(host.now, vanishes(number));
        }
        host.tell(Fact::DatastoreFollowed).pass(ms(60_000));
        assert_eq!(routes(&host), usize::from(count));
        // Also when the agent is started anew.
        let mut again = restarted(&host, &[]);
        again.pass(ms(60_000));
        assert_eq!((routes(&again), again.engine.losses().count()), (usize::from(count), usize::from(count)));
        again.tell(Fact::LossConfirmed);
        assert_eq!(routes(&again), 0);
    }
}

/// A wrong host name or region: the kernel has routes, and the datastore knows nothing of this host.
#[test]
fn routes_of_an_earlier_life_stay_if_the_datastore_has_nothing_for_this_host() {
    let host = host_with(3);
    let mut again = restarted(&host, &[]);
    again.pass(ms(3_600_000));
    assert_eq!((routes(&again), again.engine.losses().interfaces.len()), (3, 3));
    assert_eq!(suspected(&mut again), [Notice::LossSuspected { endpoints: 0, interfaces: 3 }]);

    let mut confirmed = again.clone();
    confirmed.tell(Fact::LossConfirmed);
    assert_eq!((routes(&confirmed), suspected(&mut confirmed)), (0, vec![Notice::LossSettled]));

    let mut mended = again.clone();
    for number in 1..=3 {
        mended.tell(appears(number)).pass(ms(5_000));
        assert_eq!(routes(&mended), 3);
    }
    assert_eq!(suspected(&mut mended), [Notice::LossSettled]);

    for number in 1..=3 {
        again.tell(tap(number, false));
    }
    assert_eq!((routes(&again), suspected(&mut again)), (0, vec![Notice::LossSettled]));
}

#[test]
fn leftovers_go_without_a_word_if_the_host_has_endpoints_or_nobody_is_at_the_tap() {
    let mut host = host_with(3);
    let mut again = restarted(&host, &[appears(1), appears(2)]);
    again.pass(ms(2_000));
    assert_eq!((routes(&again), suspected(&mut again)), (2, vec![]));

    for number in 1..=3 {
        host.tell(tap(number, false));
    }
    let mut again = restarted(&host, &[]);
    again.pass(ms(2_000));
    assert_eq!((routes(&again), suspected(&mut again)), (0, vec![]));
    let mut new = Host::restarted("b", host.now, Memory::default(), LeftBehind::default());
    new.tell(tap(1, true)).tell(Fact::InSync { complete: true }).pass(ms(2_000));
    assert!(new.wanted().leftovers_may_go, "a tap without routes of ours says nothing");
}

#[test]
fn a_prefix_that_would_take_everything_away_is_told_apart() {
    let host = host_with(3);
    let with = |prefixes: &str| {
        let interface_prefixes = prefixes.parse().unwrap();
        host.engine.would_lose(&Policy { interface_prefixes, ..host.engine.policy.clone() })
    };
    assert_eq!(with("cali"), Some(3));
    assert_eq!(with("cali,tap"), None);
    assert_eq!(with("tap1"), None, "two of three are not most of them");
    let mut drained = host.clone();
    for number in 1..=3 {
        drained.tell(tap(number, false));
    }
    let policy = Policy { interface_prefixes: "cali".parse().unwrap(), ..drained.engine.policy.clone() };
    assert_eq!(drained.engine.would_lose(&policy), None);
}
