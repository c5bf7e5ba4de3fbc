//! A datastore whose connection breaks: nothing that was seen to go is given up on hearsay.

use super::host::*;
use crate::fact::Fact;
use crate::machine::State;

/// A running machine whose endpoint went away right before the connection broke.
fn cut_off_in_the_gap() -> Host {
    let mut host = Host::quiet("b").asking();
    host.tell(written("b"));
    host.datastore_answers = false;
    host.tell(removed("b"));
    assert!(host.held());
    host
}

#[test]
fn a_held_endpoint_outlives_an_outage() {
    let mut host = cut_off_in_the_gap();
    host.pass(ms(3_600_000));
    assert_eq!((host.held(), host.metric()), (true, Some(NORMAL)));
    // It had been created again all the time.
    host.datastore_answers = true;
    host.tell(written("b")).tell(Fact::DatastoreFollowed);
    host.pass(ms(60_000));
    assert_eq!((host.held(), host.metric()), (false, Some(NORMAL)));
}

#[test]
fn what_is_still_gone_after_an_outage_goes_after_the_grace_time() {
    let mut host = cut_off_in_the_gap();
    host.pass(ms(60_000));
    host.datastore_answers = true;
    host.tell(Fact::DatastoreFollowed);
    host.pass(ms(1_999));
    assert_eq!(host.metric(), Some(NORMAL));
    host.pass(ms(1));
    assert_eq!(host.metric(), None);
}

/// The connection is silent, but nobody has noticed yet; then it turns out to be whole.
#[test]
fn a_late_answer_counts_from_when_it_was_asked_for() {
    let mut host = cut_off_in_the_gap();
    host.pass(ms(2_000));
    let asked = host.engine.take_questions();
    assert_eq!(asked, [port("b")]);
    assert_eq!(host.engine.next_deadline(), None, "the next thing to happen is the answer");
    let (at, endpoint) = (host.now, port("b"));
    host.pass(ms(1_500));
    host.tell(Fact::EndpointLookedUp { endpoint, at, exists: false });
    assert_eq!(host.metric(), None);
}

#[test]
fn an_endpoint_that_turns_out_to_be_there_is_kept_and_asked_about_again() {
    let mut host = cut_off_in_the_gap();
    for _ in 0..3 {
        host.pass(ms(2_000));
        assert_eq!(host.engine.take_questions(), [port("b")]);
        let (at, endpoint) = (host.now, port("b"));
        host.tell(Fact::EndpointLookedUp { endpoint, at, exists: true });
        assert_eq!((host.held(), host.metric()), (true, Some(NORMAL)));
    }
    host.datastore_answers = true;
    host.pass(ms(2_000));
    assert_eq!(host.metric(), None);
}

#[test]
fn answers_that_nobody_waits_for_change_nothing() {
    let mut host = cut_off_in_the_gap();
    let (at, endpoint) = (host.now, port("b"));
    host.tell(Fact::EndpointLookedUp { endpoint, at, exists: false });
    assert_eq!(host.metric(), Some(NORMAL), "not due");
    host.pass(ms(2_000));
    host.tell(written("b"));
    let endpoint = port("b");
    host.tell(Fact::EndpointLookedUp { endpoint, at, exists: false });
    assert_eq!((host.held(), host.metric()), (false, Some(NORMAL)));
}

/// A driver that rolls back writes the source's endpoint anew, and nobody here hears of it.
#[test]
fn an_unresolved_migration_is_no_success_while_nobody_can_be_asked() {
    let mut host = Host::target("b").asking();
    host.tell(migration_removed("b"));
    host.datastore_answers = false;
    host.tell(removed("a"));
    host.pass(ms(3_600_000));
    assert_eq!((host.state(), host.metric()), (State::Target, None));

    let mut rolled_back = host.clone();
    rolled_back.datastore_answers = true;
    rolled_back.tell(written("a")).tell(Fact::DatastoreFollowed);
    assert_eq!((rolled_back.state(), rolled_back.metric()), (State::Base, None));

    host.datastore_answers = true;
    host.tell(Fact::DatastoreFollowed);
    host.pass(ms(4_999));
    assert_eq!(host.state(), State::Target);
    host.pass(ms(1));
    assert_eq!((host.state(), host.metric()), (State::TimeWait, Some(ELEVATED)));
}

/// An announcement is evidence of its own, and elevated priority ends by the clock.
#[test]
fn an_outage_delays_nothing_else() {
    let mut host = Host::target("b").asking();
    host.datastore_answers = false;
    host.announce();
    assert_eq!((host.state(), host.metric()), (State::Live, Some(ELEVATED)));
    host.datastore_answers = true;
    host.tell(migration_removed("b")).tell(Fact::DatastoreFollowed);
    host.datastore_answers = false;
    host.pass(ms(60_000));
    assert_eq!((host.state(), host.metric()), (State::Base, Some(NORMAL)));
}

#[test]
fn a_tap_that_goes_needs_no_answer() {
    let mut host = cut_off_in_the_gap();
    host.tell(Fact::LinkRemoved { ifindex: 5 });
    assert_eq!(host.metric(), None);
}
