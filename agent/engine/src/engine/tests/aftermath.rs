//! When the status of a port that is not here any more may go, and how long `up` is repeated where it lives.

use super::host::*;
use crate::fact::Fact;
use crate::memory::LeftBehind;
use crate::wanted::Status::{AsReported, Up};

fn with_driver(mut host: Host) -> Host {
    host.engine = host.engine.with_driver();
    host
}

/// The port runs here and migrates to `b`.
fn source() -> Host {
    let mut host = with_driver(Host::quiet("a"));
    host.tell(written("a")).tell(migration_written("u1", "a", "b")).tell(written("b"));
    host.tell(reported("b", true, 1));
    host
}

/// And has left, with its tap.
fn left() -> Host {
    let mut host = source();
    host.tell(migration_removed("b")).tell(removed("a")).tell(Fact::LinkRemoved { ifindex: 5 });
    host.tell(written("b")).pass(ms(2_000));
    assert!(host.engine.locals.is_empty());
    host
}

fn reported(host: &str, is_up: bool, revision: i64) -> Fact {
    Fact::StatusReportedElsewhere { endpoint: port(host), is_up, revision }
}

fn removed_elsewhere(host: &str) -> Fact {
    Fact::StatusRemovedElsewhere(port(host))
}

#[test]
fn a_status_goes_only_long_after_the_port_was_reported_where_it_lives() {
    let mut host = left();
    host.pass(ms(60_000));
    assert_eq!(host.status(), Some(AsReported), "the port is out of service");
    host.tell(reported("b", true, 2)).pass(ms(14_999));
    assert_eq!(host.status(), Some(AsReported));
    host.pass(ms(1));
    assert_eq!(host.status(), None);
}

/// Another host of the port has removed its status, and the one where it lives makes up for that.
#[test]
fn repeated_reports_keep_no_status_for_longer() {
    let mut host = left();
    host.tell(reported("b", true, 2));
    for revision in 3..6 {
        host.pass(ms(4_000)).tell(reported("b", true, revision));
    }
    host.pass(ms(3_000));
    assert_eq!(host.status(), None);
}

/// With the legacy way of ending a migration Neutron takes the port down while the endpoint is away.
#[test]
fn a_report_from_before_the_endpoint_was_created_anew_does_not_count() {
    let mut host = left();
    host.tell(reported("b", true, 2)).tell(removed("b")).pass(ms(300)).tell(written("b")).pass(ms(60_000));
    assert_eq!(host.status(), Some(AsReported));
    host.tell(reported("b", true, 3)).pass(ms(15_000));
    assert_eq!(host.status(), None);
}

/// The endpoint of a target that was given up may go later than the port is reported where it lives.
#[test]
fn what_happens_to_the_endpoint_of_a_former_target_takes_no_report_back() {
    for event in [removed("c"), reported("c", false, 4)] {
        let mut host = left();
        host.tell(written("c")).tell(reported("b", true, 2)).tell(event).pass(ms(14_999));
        assert_eq!(host.status(), Some(AsReported));
        host.pass(ms(1));
        assert_eq!(host.status(), None);
    }
}

/// Its own report from before says nothing either, when it is told once more.
#[test]
fn a_report_from_before_the_end_of_the_migration_does_not_count_if_it_is_told_again() {
    let mut host = left();
    host.tell(reported("b", true, 1)).pass(ms(60_000));
    assert_eq!(host.status(), Some(AsReported));
    let mut again = with_driver(Host::restarted("a", host.now, host.memory(), LeftBehind::default()));
    again.tell(written("b")).tell(Fact::InSync { complete: true }).tell(reported("b", true, 1));
    again.pass(ms(60_000));
    assert_eq!(again.status(), Some(AsReported));
    again.tell(reported("b", true, 2)).pass(ms(15_000));
    assert_eq!(again.status(), None);
}

/// A former target whose endpoint and status are there still: neither its report nor its end says anything of where the port lives.
#[test]
fn what_a_former_target_reports_does_not_count() {
    let mut host = left();
    host.tell(written("c")).tell(reported("c", true, 9)).pass(ms(60_000));
    assert_eq!(host.status(), Some(AsReported), "nothing is reported from where it lives");
    // The endpoint is created anew where it lives, although somebody else has reported in between.
    host.tell(reported("b", true, 10)).tell(reported("c", true, 11));
    host.tell(removed("b")).pass(ms(300)).tell(written("b")).pass(ms(60_000));
    assert_eq!(host.status(), Some(AsReported));
    host.tell(reported("b", true, 12)).pass(ms(15_000));
    assert_eq!(host.status(), None);
}

#[test]
fn a_report_that_is_taken_back_does_not_count() {
    let mut host = left();
    host.tell(reported("b", true, 2)).tell(reported("b", false, 3)).pass(ms(60_000));
    assert_eq!(host.status(), Some(AsReported));
}

/// What was reported before the migration was over says nothing: Neutron has taken the port down since.
#[test]
fn a_status_goes_in_the_end_although_nobody_reports() {
    let mut host = left();
    host.pass(ms(597_000));
    assert_eq!(host.status(), Some(AsReported));
    host.pass(ms(3_000));
    assert_eq!(host.status(), None);
}

#[test]
fn a_status_of_a_port_that_is_nowhere_waits_for_no_report() {
    let mut host = source();
    host.tell(migration_removed("b")).tell(removed("b")).tell(removed("a"));
    host.pass(ms(2_000));
    assert_eq!(host.status(), Some(AsReported), "a driver may be about to create it again");
    host.pass(ms(15_000));
    assert_eq!(host.status(), None);
}

/// Nobody has anything to do with a migration: the port is deleted, and Neutron does not look at its status any more.
#[test]
fn a_port_that_has_not_migrated_loses_its_status_at_once() {
    let mut host = with_driver(Host::quiet("a"));
    host.tell(written("a")).tell(removed("a")).pass(ms(2_000));
    assert_eq!(host.status(), None);
}

#[test]
fn nothing_goes_if_the_virtual_machine_comes_back() {
    let mut host = left();
    host.tell(reported("b", true, 2)).pass(ms(14_000));
    host.tell(migration_written("u2", "b", "a"));
    host.pass(ms(600_000));
    assert_eq!(host.status(), Some(AsReported));
}

#[test]
fn a_restart_goes_on_where_the_last_life_has_stopped() {
    for reported_meanwhile in [false, true] {
        let mut host = left();
        if !reported_meanwhile {
            host.tell(reported("b", true, 2));
        }
        let mut again =
            with_driver(Host::restarted("a", host.now + ms(5_000), host.memory(), LeftBehind::default()));
        again.tell(written("b")).tell(Fact::InSync { complete: true });
        assert_eq!(again.status(), Some(AsReported));
        if reported_meanwhile {
            again.tell(reported("b", true, 2));
        }
        again.pass(ms(14_000));
        assert_eq!(again.status(), Some(AsReported));
        again.pass(ms(1_000));
        assert_eq!(again.status(), None);
    }
}

#[test]
fn statuses_that_nobody_knows_stay_for_some_time_after_a_start() {
    let mut host = with_driver(Host::starting("a"));
    host.tell(Fact::InSync { complete: true }).pass(ms(14_999));
    assert!(host.wanted().leftovers_may_go && !host.wanted().unknown_statuses_may_go);
    host.pass(ms(1));
    assert!(host.wanted().unknown_statuses_may_go);
}

/// The machine runs at `b`, where it has come from `a`.
fn arrived() -> Host {
    let mut host = with_driver(Host::live("b"));
    host.tell(reported("a", true, 1));
    host.report();
    host.tell(migration_removed("b")).report();
    host.tell(removed("a")).pass(ms(60_000));
    host
}

/// When writes become due, in milliseconds from now.
fn due_after(host: &mut Host, milliseconds: u64) -> Vec<u64> {
    let began_at = host.now;
    let mut due = Vec::new();
    while host.now.since(began_at) < ms(milliseconds) {
        if host.due().is_some() {
            due.push(u64::try_from(host.now.since(began_at).as_millis()).unwrap());
            host.report();
        }
        host.pass(ms(500));
    }
    due
}

#[test]
fn up_is_repeated_until_nothing_can_overtake_it() {
    let mut host = arrived();
    host.tell(removed_elsewhere("a"));
    assert_eq!(due_after(&mut host, 60_000), [0, 3_000, 6_000, 20_000]);
}

#[test]
fn each_removal_is_followed_by_all_of_them() {
    let mut host = arrived();
    host.tell(removed_elsewhere("a"));
    assert_eq!(due_after(&mut host, 5_000), [0, 3_000]);
    host.tell(removed_elsewhere("c"));
    assert_eq!(due_after(&mut host, 60_000), [0, 3_000, 6_000, 20_000]);
}

#[test]
fn a_restart_repeats_what_is_left() {
    let mut host = arrived();
    host.tell(removed_elsewhere("a"));
    assert_eq!(due_after(&mut host, 1_000), [0]);
    let mut again = with_driver(Host::restarted("b", host.now, host.memory(), host.found()));
    again.tell(Fact::LinkSeen(link(5, true))).tell(written("b")).tell(Fact::InSync { complete: true });
    assert_eq!(due_after(&mut again, 60_000), [2_000, 5_000, 19_000]);
}

/// Nova waits for the target, whose migration begins, and takes any `up` for its own.
#[test]
fn repeats_are_called_off_for_a_new_migration() {
    for (from, to) in [("b", "c"), ("c", "d")] {
        let mut host = arrived();
        host.tell(removed_elsewhere("a"));
        assert_eq!(due_after(&mut host, 1_000), [0]);
        host.tell(migration_written("u2", from, to));
        assert!(due_after(&mut host, 60_000).is_empty(), "from {from} to {to}");
    }
}

/// It may have died before it wrote what was due.
#[test]
fn a_restart_right_after_a_migration_reports_once_more() {
    for (passes, is_due) in [(1_000, true), (20_000, false)] {
        let mut host = with_driver(Host::live("b"));
        host.report();
        host.tell(migration_removed("b")).report();
        host.tell(removed("a")).pass(ms(passes));
        let mut again = with_driver(Host::restarted("b", host.now, host.memory(), host.found()));
        again.tell(Fact::LinkSeen(link(5, true))).tell(written("b")).tell(Fact::InSync { complete: true });
        assert_eq!(again.due().is_some(), is_due, "after {passes} ms");
    }
}

#[test]
fn repeats_end_when_the_endpoint_is_gone() {
    let mut host = arrived();
    host.tell(removed_elsewhere("a")).report();
    host.tell(removed("b")).pass(ms(60_000));
    assert_eq!(host.status(), None);
}

/// It is expected, and the host that it comes from takes its status away. The write at the end could be overtaken.
#[test]
fn a_removal_while_the_machine_is_expected_is_made_up_for_when_it_has_come() {
    let mut host = with_driver(Host::target("b"));
    host.report();
    host.tell(removed_elsewhere("a"));
    assert_eq!(host.due(), None);
    host.announce();
    assert_eq!(due_after(&mut host, 60_000), [0, 3_000, 6_000, 20_000]);
}

#[test]
fn what_other_hosts_have_reported_is_remembered_as_long_as_the_port_is_here() {
    let host = arrived();
    let known: Vec<_> = host.memory().statuses_elsewhere.into_iter().map(|it| it.endpoint).collect();
    assert_eq!(known, [port("a")]);
    let mut gone = host.clone();
    gone.tell(removed_elsewhere("a"));
    assert_eq!(gone.memory().statuses_elsewhere, []);
    let mut deleted = host;
    deleted.tell(removed("b")).pass(ms(20_000));
    assert_eq!(deleted.memory().statuses_elsewhere, []);
}

/// It is still followed for a while, and has something to say now and then.
#[test]
fn what_other_hosts_report_of_a_port_that_has_long_left_is_not_remembered() {
    let mut host = left();
    host.tell(reported("b", true, 2)).pass(ms(15_000));
    assert_eq!(host.status(), None);
    host.tell(reported("b", true, 3));
    assert_eq!(host.memory().statuses_elsewhere, []);
}

/// A driver was slower than the grace time. What was reported before is still there, and says nothing to Neutron.
#[test]
fn an_endpoint_that_was_given_up_and_is_back_reports_again() {
    let mut host = with_driver(Host::live("b"));
    host.report();
    host.tell(migration_removed("b")).report();
    host.tell(removed("b")).pass(ms(4_000));
    assert!(host.engine.locals.is_empty());
    assert_eq!(host.status(), Some(AsReported));
    host.tell(written("b"));
    assert_eq!((host.status(), host.due()), (Some(Up), Some(host.now)));
}

/// A driver may have rewritten the endpoint before it has removed the migration, and does no more then.
#[test]
fn a_source_that_nobody_speaks_of_reports_when_it_counts_as_staying() {
    let mut host = source();
    host.tell(written("a")).tell(migration_removed("b")).pass(ms(1_999));
    assert_eq!(host.due(), None);
    host.pass(ms(1));
    assert_eq!((host.status(), host.due()), (Some(Up), Some(host.now)));
}

/// A driver that rolls back and only rewrites the endpoint has taken the port down all the same.
#[test]
fn a_source_that_stays_reports_again() {
    let mut host = source();
    host.tell(migration_removed("b"));
    assert_eq!(host.due(), None);
    host.tell(written("a"));
    assert_eq!((host.status(), host.due()), (Some(Up), Some(host.now)));
    assert_eq!(host.wanted().statuses[&port("a")].migration.as_deref(), Some("u1"));
}
