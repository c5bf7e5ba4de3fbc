//! What survives the death of the agent, and what is made of it (W3).

use super::host::*;
use crate::fact::{AnnouncementSeen, Fact};
use crate::machine::State;
use crate::memory::{LeftBehind, Memory};
use crate::time::BootTime;
use crate::wanted::WantedRoute;
use cutover_common::{AnnouncementKind, MacAddr};
use std::collections::BTreeSet;

/// Another agent on the same kernel; the datastore shows `resources`.
fn restart(host: &Host, memory: Memory, found: LeftBehind, resources: Vec<Fact>) -> Host {
    let mut again = Host::restarted("b", host.now + ms(500), memory, found);
    again.armed.clone_from(&host.armed);
    again.tell(Fact::LinkSeen(link(5, true)));
    for fact in resources {
        again.tell(fact);
    }
    again.tell(Fact::InSync { complete: true });
    again
}

fn elevated_on(ifindex: u32) -> BTreeSet<WantedRoute> {
    let destination = "10.65.0.2/32".parse().unwrap();
    [WantedRoute { destination, ifindex, metric: ELEVATED, protocol: 3, source: None }].into()
}

/// The settings of the datastore come after the kernel was read, and before the datastore is in sync.
#[test]
fn w3_memory_lost_routes_are_judged_by_the_settings_of_the_datastore() {
    let host = Host::live("b");
    let mut policy = host.engine.policy.clone();
    policy.route_protocol = 80;
    let route = |metric, protocol| WantedRoute { metric, protocol, ..*elevated_on(5).first().unwrap() };
    for (found, state) in [
        (route(ELEVATED, 80), State::Live),
        (route(ELEVATED, 3), State::Target),
        (route(NORMAL, 80), State::Target),
    ] {
        let found = LeftBehind { routes: [found].into(), ..LeftBehind::default() };
        let mut resources = in_migration();
        resources.insert(0, Fact::PolicyChanged(Box::new(policy.clone())));
        assert_eq!(restart(&host, Memory::default(), found, resources).state(), state);
    }
}

fn in_migration() -> Vec<Fact> {
    vec![written("a"), migration_written("u1", "a", "b"), written("b")]
}

/// As when another agent was in charge until now: nobody knows when the migration ended.
#[test]
fn w3_memory_lost_after_a_migration_stays_elevated_for_the_convergence_time() {
    let host = Host::live("b");
    let found = |metric| {
        let route = WantedRoute { metric, ..*elevated_on(5).first().unwrap() };
        LeftBehind { routes: [route].into(), ..LeftBehind::default() }
    };
    let mut again = restart(&host, Memory::default(), found(ELEVATED), vec![written("b")]);
    again.pass(ms(29_999));
    assert_eq!((again.state(), again.metric()), (State::TimeWait, Some(ELEVATED)));
    again.pass(ms(1));
    assert_eq!((again.state(), again.metric()), (State::Base, Some(NORMAL)));

    let again = restart(&host, Memory::default(), found(NORMAL), vec![written("b")]);
    assert_eq!((again.state(), again.metric()), (State::Base, Some(NORMAL)));
    // What is about to leave is normal at once.
    let leaves = vec![migration_written("u2", "b", "a"), written("b"), written("a")];
    let again = restart(&host, Memory::default(), found(ELEVATED), leaves);
    assert_eq!((again.state(), again.metric()), (State::Base, Some(NORMAL)));

    // Its hypervisor has gone on to another host, and who was in charge here died before the route was normal.
    let mut left = Host::restarted("b", host.now + ms(500), Memory::default(), found(ELEVATED));
    left.tell(Fact::LinkSeen(link(5, false))).tell(written("b")).tell(Fact::InSync { complete: true });
    assert_eq!((left.state(), left.metric()), (State::Base, Some(NORMAL)));

    // The convergence time is over, and who was in charge here died before the route was normal.
    let mut arrived = Host::live("b");
    arrived.tell(migration_removed("b")).pass(ms(30_000));
    assert_eq!(arrived.state(), State::Base);
    let again = restart(&arrived, arrived.memory(), found(ELEVATED), vec![written("b")]);
    assert_eq!((again.state(), again.metric()), (State::Base, Some(NORMAL)));
}

#[test]
fn w3_target_goes_on_with_its_watch() {
    let host = Host::target("b");
    let again = restart(&host, host.memory(), host.found(), in_migration());
    assert_eq!((again.state(), again.metric()), (State::Target, None));
    assert_eq!(again.watch(), host.watch());
}

#[test]
fn w3_live_keeps_its_routes() {
    let host = Host::live("b");
    let again = restart(&host, host.memory(), host.found(), in_migration());
    assert_eq!((again.state(), again.metric()), (State::Live, Some(ELEVATED)));
}

#[test]
fn w3_time_wait_ends_when_it_would_have_ended() {
    let mut host = Host::live("b");
    host.tell(migration_removed("b")).pass(ms(10_000));
    let mut again = restart(&host, host.memory(), host.found(), vec![written("b")]);
    again.pass(ms(19_499));
    assert_eq!((again.state(), again.metric()), (State::TimeWait, Some(ELEVATED)));
    again.pass(ms(1));
    assert_eq!((again.state(), again.metric()), (State::Base, Some(NORMAL)));
}

#[test]
fn w3_time_wait_that_ended_while_nobody_was_there() {
    let mut host = Host::live("b");
    host.tell(migration_removed("b")).pass(ms(29_900));
    let again = restart(&host, host.memory(), host.found(), vec![written("b")]);
    assert_eq!((again.state(), again.metric()), (State::Base, Some(NORMAL)));
}

#[test]
fn w3_unresolved_is_still_unresolved_and_ends_when_it_would_have_ended() {
    let mut host = Host::target("b");
    host.tell(migration_removed("b")).tell(removed("a")).pass(ms(1_000));
    let mut again = restart(&host, host.memory(), host.found(), vec![written("b")]);
    assert_eq!((again.state(), again.metric(), again.not_here()), (State::Target, None, false));
    let left = again.engine.next_deadline().unwrap().since(again.now);
    assert!(left < ms(4_000), "{left:?}");
    again.pass(ms(4_000));
    assert_eq!(again.state(), State::TimeWait);
}

#[test]
fn w3_unresolved_with_its_source_there_waits_for_evidence_across_a_restart() {
    let mut host = Host::target("b");
    host.tell(migration_removed("b")).pass(ms(1_000));
    for resources in [vec![written("a"), written("b")], vec![written("b"), written("a")]] {
        let mut again = restart(&host, host.memory(), host.found(), resources);
        again.pass(ms(3_600_000));
        assert_eq!((again.state(), again.metric(), again.not_here()), (State::Target, None, false));
    }
}

#[test]
fn w3_source_that_came_back_while_nobody_was_there_is_a_failure() {
    let mut host = Host::target("b");
    host.tell(migration_removed("b")).tell(removed("a"));
    for resources in [vec![written("a"), written("b")], vec![written("b"), written("a")]] {
        let again = restart(&host, host.memory(), host.found(), resources);
        assert_eq!((again.state(), again.not_here()), (State::Base, true));
    }
}

#[test]
fn w3_source_that_went_while_nobody_was_there_counts_from_now() {
    let mut host = Host::target("b");
    host.tell(migration_removed("b"));
    let mut again = restart(&host, host.memory(), host.found(), vec![written("b")]);
    again.pass(ms(4_999));
    assert_eq!(again.state(), State::Target);
    again.pass(ms(1));
    assert_eq!(again.state(), State::TimeWait);
}

#[test]
fn w3_failure_is_remembered() {
    let mut host = Host::target("b");
    host.tell(migration_removed("b")).tell(written("a"));
    let mut again = restart(&host, host.memory(), host.found(), vec![written("a"), written("b")]);
    again.pass(ms(60_000));
    assert_eq!((again.not_here(), again.metric()), (true, None));
}

#[test]
fn w3_idle_endpoints_are_not_in_the_file() {
    let mut host = Host::quiet("b");
    host.tell(written("b"));
    assert_eq!(host.memory(), Memory::default());
}

#[test]
fn w3_live_whose_migration_ended_while_nobody_was_there() {
    let host = Host::live("b");
    let mut again = restart(&host, host.memory(), host.found(), vec![written("b")]);
    assert_eq!((again.state(), again.metric()), (State::TimeWait, Some(ELEVATED)));
    again.pass(ms(30_000));
    assert_eq!(again.metric(), Some(NORMAL));
}

#[test]
fn w3_rollback_while_nobody_was_there_leaves_no_route() {
    let host = Host::target("b");
    let mut again = restart(&host, host.memory(), host.found(), vec![written("a")]);
    for _ in 0..100 {
        again.pass(ms(100));
        assert_eq!(again.metric(), None);
    }
    assert!(again.engine.locals.is_empty());
}

#[test]
fn w3_memory_lost_elevated_routes_say_that_it_runs_here() {
    let host = Host::live("b");
    let again = restart(&host, Memory::default(), host.found(), in_migration());
    assert_eq!((again.state(), again.metric()), (State::Live, Some(ELEVATED)));
    assert_eq!(
        again.engine.locals[&port("b")].machine.phases.announced_at,
        None,
        "nobody knows when it came"
    );
}

#[test]
fn w3_memory_lost_elevated_routes_of_another_interface_say_nothing() {
    let host = Host::live("b");
    let found = LeftBehind { routes: elevated_on(6), ..LeftBehind::default() };
    let again = restart(&host, Memory::default(), found, in_migration());
    assert_eq!((again.state(), again.metric()), (State::Target, None));
}

/// A retry: the routes of the attempt before were still there when the agent died.
#[test]
fn w3_memory_of_a_target_weighs_more_than_elevated_routes() {
    let host = Host::target("b");
    let found = LeftBehind { routes: elevated_on(5), ..host.found() };
    let again = restart(&host, host.memory(), found, in_migration());
    assert_eq!((again.state(), again.metric()), (State::Target, None));
}

#[test]
fn w3_memory_lost_watch_survived_and_is_taken_over() {
    let host = Host::target("b");
    let mut again = restart(&host, Memory::default(), host.found(), in_migration());
    assert_eq!(again.watch(), host.watch());
    again.announce();
    assert_eq!(again.state(), State::Live);
}

#[test]
fn w3_memory_lost_evidence_survived() {
    let host = Host::target("b");
    let generation = host.watch().unwrap().generation;
    let seen_at = host.now + ms(250);
    let mut resources = in_migration();
    resources.insert(0, announcement(generation, seen_at));
    let again = restart(&host, Memory::default(), host.found(), resources);
    assert_eq!((again.state(), again.metric()), (State::Live, Some(ELEVATED)));
    assert_eq!(again.engine.locals[&port("b")].machine.phases.announced_at, Some(seen_at));
}

/// What was seen on the tap is known exactly, so it weighs more than what the routes suggest.
#[test]
fn w3_memory_lost_evidence_and_elevated_routes_survived() {
    let host = Host::target("b");
    let generation = host.watch().unwrap().generation;
    let seen_at = host.now + ms(250);
    let found = LeftBehind { routes: elevated_on(5), ..host.found() };
    let mut resources = in_migration();
    resources.insert(0, announcement(generation, seen_at));
    let again = restart(&host, Memory::default(), found, resources);
    assert_eq!(again.state(), State::Live);
    assert_eq!(again.engine.locals[&port("b")].machine.phases.announced_at, Some(seen_at));
}

#[test]
fn w3_announcement_while_nobody_was_there() {
    let host = Host::target("b");
    let seen = AnnouncementSeen {
        generation: host.watch().unwrap().generation,
        kind: AnnouncementKind::GarpReply,
        seen_at: host.now + ms(250),
        taken_at: None,
        routed_at: None,
    };
    for (migration_there, expected) in [(true, State::Live), (false, State::TimeWait)] {
        let mut resources = if migration_there { in_migration() } else { vec![written("b")] };
        resources.push(Fact::AnnouncementSeen(seen));
        let again = restart(&host, host.memory(), host.found(), resources);
        assert_eq!((again.state(), again.metric()), (expected, Some(ELEVATED)));
        assert_eq!(again.engine.locals[&port("b")].machine.phases.announced_at, Some(seen.seen_at));
    }
}

#[test]
fn w3_watch_for_another_hardware_address_is_not_taken_over() {
    let host = Host::target("b");
    let found =
        LeftBehind { watches: [(5, (7, MacAddr([2, 0, 0, 0, 0, 9])))].into(), ..LeftBehind::default() };
    let mut again = restart(&host, Memory::default(), found, in_migration());
    assert!(again.watch().unwrap().generation > 7);
    again.tell(announcement(7, BootTime(1)));
    assert_eq!(again.state(), State::Target);
}

/// A latched watch would never accept the announcement of the next attempt.
#[test]
fn w3_a_watch_that_was_found_is_used_for_one_attempt_only() {
    for remember in [true, false] {
        let host = Host::target("b");
        let old = host.watch().unwrap().generation;
        let memory = if remember { host.memory() } else { Memory::default() };
        let mut again = restart(&host, memory, host.found(), in_migration());
        again.announce();
        again.tell(migration_removed("b")).tell(written("a")).pass(ms(40_000));
        again.tell(migration_written("u2", "a", "b"));
        assert_eq!(again.state(), State::Target);
        assert!(again.watch().unwrap().generation > old);
    }
}

#[test]
fn w3_a_watch_of_a_migration_that_is_over_is_not_taken_over_by_the_next_one() {
    let host = Host::target("b");
    let old = host.watch().unwrap().generation;
    let mut again = restart(&host, Memory::default(), host.found(), vec![written("a"), written("b")]);
    assert_eq!(again.watch(), None);
    again.pass(ms(40_000)).tell(migration_written("u2", "a", "b"));
    assert!(again.watch().unwrap().generation > old);
}

#[test]
fn w3_generations_go_on_after_a_clock_that_stands_still() {
    let host = Host::target("b");
    let mut again = Host::restarted("b", BootTime(0), host.memory(), LeftBehind::default());
    again.tell(Fact::LinkSeen(link(6, true)));
    for fact in in_migration() {
        again.tell(fact);
    }
    again.tell(Fact::InSync { complete: true });
    assert!(again.watch().unwrap().generation > host.watch().unwrap().generation);
}

#[test]
fn memory_of_another_host_is_left_alone() {
    let host = Host::live("b");
    let mut again = Host::restarted("c", host.now, host.memory(), LeftBehind::default());
    again.tell(Fact::LinkSeen(link(5, true))).tell(Fact::InSync { complete: true });
    assert!(again.engine.locals.is_empty() && again.wanted().routes.is_empty());
}

#[test]
fn nothing_is_wanted_before_the_datastore_is_in_sync() {
    let mut host = Host::starting("b");
    for fact in [Fact::LinkSeen(link(5, true)), written("b"), migration_written("u1", "a", "b"), written("a")]
    {
        host.tell(fact);
        assert_eq!((host.engine.wanted(), host.engine.next_deadline()), (None, None));
    }
    host.tell(Fact::InSync { complete: true });
    assert_eq!((host.state(), host.metric()), (State::Target, None));
}

/// The endpoint says whether it is a retry, or the driver has created the migration again.
#[test]
fn w11_another_migration_while_nobody_was_there() {
    let mut host = Host::live("b");
    host.tell(migration_removed("b"));
    for (own, expected) in
        [(recreated("b", "e2"), (State::Target, None)), (written("b"), (State::Live, Some(ELEVATED)))]
    {
        let resources = vec![written("a"), migration_written("u2", "a", "b"), own];
        let again = restart(&host, host.memory(), host.found(), resources);
        assert_eq!((again.state(), again.metric()), expected);
    }
}

/// Also long after its migration.
#[test]
fn w11_where_a_machine_is_known_to_run_survives_a_restart() {
    let mut host = Host::live("b");
    host.tell(migration_removed("b")).tell(removed("a")).tell(recreated("b", "e2")).pass(ms(60_000));
    assert_eq!((host.state(), host.metric()), (State::Base, Some(NORMAL)));
    let mut again = restart(&host, host.memory(), host.found(), vec![recreated("b", "e2")]);
    assert_eq!((again.state(), again.metric()), (State::Base, Some(NORMAL)));
    again.tell(migration_written("u2", "a", "b"));
    assert_eq!((again.state(), again.metric()), (State::Live, Some(ELEVATED)));
}

#[test]
fn w12_migration_back_while_nobody_was_there() {
    let host = Host::live("b");
    let resources = vec![written("b"), migration_written("u2", "b", "a"), written("a")];
    let again = restart(&host, host.memory(), host.found(), resources);
    assert_eq!((again.state(), again.metric()), (State::Base, Some(NORMAL)));
}

#[test]
fn w3_what_cannot_be_read_after_a_restart_is_not_gone() {
    let host = Host::live("b");
    let mut again = Host::restarted("b", host.now + ms(500), host.memory(), host.found());
    again.tell(Fact::LinkSeen(link(5, true)));
    // The file with our endpoint is being edited: nobody can tell what is in it.
    again.tell(written("a")).tell(migration_written("u1", "a", "b"));
    again.tell(Fact::InSync { complete: false });
    again.pass(ms(600_000));
    assert_eq!((again.state(), again.metric()), (State::Live, Some(ELEVATED)));
    again.tell(written("b")).tell(Fact::InSync { complete: true });
    assert_eq!((again.state(), again.metric()), (State::Live, Some(ELEVATED)));
}

#[test]
fn w3_what_turns_out_to_be_gone_after_a_restart_goes_with_its_carrier() {
    let host = Host::live("b");
    let mut again = Host::restarted("b", host.now + ms(500), host.memory(), host.found());
    again.tell(Fact::LinkSeen(link(5, true)));
    again.tell(Fact::InSync { complete: false });
    again.pass(ms(600_000));
    again.tell(Fact::InSync { complete: true }).pass(ms(2_000));
    assert_eq!(again.metric(), Some(NORMAL), "nobody saw it being deleted, and somebody is at the tap");
    again.tell(Fact::LinkSeen(link(5, false)));
    assert!(again.engine.view(again.now).is_empty());
}

/// The agent died after it had saved what was announced, and before it had disarmed the watch.
#[test]
fn w3_a_watch_whose_announcement_was_taken_is_none_for_the_next_attempt() {
    let host = Host::target("b");
    let (found, used) = (host.found(), host.watch().unwrap().generation);
    let mut live = host.clone();
    live.announce();
    let evidence = announcement(used, live.now);
    let retry =
        || vec![evidence.clone(), written("a"), migration_written("u2", "a", "b"), recreated("b", "e2")];
    live.tell(migration_removed("b"));
    let again = restart(&live, live.memory(), found, retry());
    assert_eq!((again.state(), again.metric()), (State::Target, None));
    assert!(again.watch().unwrap().generation > used);
    // One that is newer than everything that could be saved is that of the next attempt.
    let newer = live.now.0 + 1_000;
    let found = LeftBehind { watches: [(5, (newer, MAC))].into(), ..LeftBehind::default() };
    let again = restart(&live, live.memory(), found, retry());
    assert_eq!((again.state(), again.watch().unwrap().generation), (State::Target, newer));
}
