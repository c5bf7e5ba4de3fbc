//! Interfaces that come, go, change and are fought over; which watches and routes they get.

use super::host::*;
use crate::fact::{Fact, Link};
use crate::machine::State;
use crate::model::{Endpoint, Policy};
use crate::notice::Notice;
use crate::wanted::{Ipv6, Status};
use std::collections::BTreeSet;

#[test]
fn w6_recreated_tap_is_watched_anew_and_the_old_watch_counts_no_more() {
    let mut host = Host::target("b");
    let old = host.watch().unwrap().generation;
    host.tell(Fact::LinkRemoved { ifindex: 5 });
    assert_eq!(host.watch(), None);
    host.tell(Fact::LinkSeen(link(6, true)));
    assert!(host.watch().unwrap().generation > old);
    let now = host.now;
    host.tell(announcement(old, now));
    assert_eq!(host.state(), State::Target);
    host.announce();
    assert_eq!(host.wanted().routes.iter().map(|route| route.ifindex).collect::<Vec<_>>(), [6, 6]);
}

/// libvirt makes a tap again 0.2 s after it has deleted it, for 2 ms, and never sets it up.
#[test]
fn a_tap_that_is_made_again_for_a_moment_brings_nobody_back_to_life() {
    let passing_by =
        [Fact::LinkSeen(Link { admin_up: false, ..link(6, false) }), Fact::LinkRemoved { ifindex: 6 }];
    let mut converging = Host::live("b");
    converging.tell(migration_removed("b"));
    let mut leaving = Host::live("b");
    leaving.tell(migration_removed("b")).tell(migration_written("u2", "b", "c"));
    for mut host in [Host::live("b"), converging, leaving] {
        host.tell(Fact::LinkRemoved { ifindex: 5 });
        let (state, status) = (host.state(), host.status());
        assert_ne!(status, Some(Status::Up), "{state:?}");
        host.pass(core::time::Duration::from_millis(200));
        host.engine.take_notices();
        for fact in passing_by.clone() {
            host.tell(fact);
            assert_eq!((host.state(), host.status(), host.metric()), (state, status, None));
            assert_eq!(host.watch(), None);
        }
        assert_eq!(host.engine.take_notices(), []);
        host.tell(removed("b"));
        assert!(!host.held(), "it is gone for good");
    }
}

/// Notifications of links and announcements come from different sources, so they meet in one batch.
#[test]
fn w6_announcement_of_a_tap_that_is_gone_raises_no_route_on_the_next_one() {
    let mut host = Host::target("b");
    let old = host.watch().unwrap().generation;
    for fact in [Fact::LinkRemoved { ifindex: 5 }, Fact::LinkSeen(link(6, true)), announcement(old, host.now)]
    {
        host.engine.handle(host.now, fact);
    }
    host.tell(Fact::TimePassed);
    assert_eq!((host.state(), host.metric()), (State::Target, None));
}

#[test]
fn w6_tap_that_comes_after_the_endpoint_is_watched() {
    let mut host = Host::starting("b");
    host.tell(Fact::InSync { complete: true });
    host.tell(migration_written("u1", "a", "b")).tell(written("b"));
    assert_eq!((host.state(), host.watch()), (State::Target, None));
    host.tell(Fact::LinkSeen(link(5, false)));
    assert_eq!(host.watch().unwrap().interface, "tap1");
}

#[test]
fn watch_carries_everything_that_is_to_be_installed() {
    let mut host = Host::target("b");
    let watch = host.watch().unwrap().clone();
    assert_eq!(watch.mac, Some(MAC));
    assert_eq!(watch.addresses, ["10.65.0.2".parse().unwrap(), "2001:db8::2".parse().unwrap()].into());
    host.announce();
    assert!(host.wanted().routes.iter().eq(&watch.routes), "what the fast path installed is what is wanted");
}

#[test]
fn w30_a_prefix_is_routed_and_announces_nobody() {
    let mut host = Host::target("b");
    let generation = host.watch().unwrap().generation;
    let mut wide = endpoint();
    wide.prefixes.insert("10.65.0.208/29".parse().unwrap());
    host.tell(Fact::EndpointWritten(port("b"), wide));
    let watch = host.watch().unwrap();
    assert_eq!((watch.generation, watch.addresses.len(), watch.routes.len()), (generation, 2, 3));
}

#[test]
fn carrier_decides_nothing_about_routes_and_admin_state_everything() {
    let mut host = Host::live("b");
    host.tell(Fact::LinkSeen(link(5, false)));
    assert_eq!(host.metric(), Some(ELEVATED));
    host.tell(Fact::LinkSeen(Link { admin_up: false, ..link(5, false) }));
    assert_eq!(host.metric(), None);
    let suspended: Vec<_> =
        host.wanted().suspended.iter().map(|route| (route.ifindex, route.metric)).collect();
    assert_eq!(suspended, [(5, ELEVATED); 2], "one that is there by now stays");
    host.tell(Fact::LinkSeen(link(5, true)));
    assert_eq!(host.metric(), Some(ELEVATED));
    assert_eq!(host.wanted().suspended.len(), 0);
}

#[test]
fn without_ipv6_support_only_ipv4_is_wanted() {
    let mut host = Host::target("b");
    let policy = Policy { ipv6_support: false, ..host.engine.policy.clone() };
    host.tell(Fact::PolicyChanged(Box::new(policy)));
    assert_eq!(host.watch().unwrap().routes.len(), 1);
    let interface = host.wanted().interfaces.values().next().unwrap();
    assert_eq!((interface.ipv6, interface.neighbours.len()), (Ipv6::LeftAlone, 1));
}

#[test]
fn endpoint_that_moves_to_another_tap() {
    let mut host = Host::target("b");
    let old = host.watch().unwrap().generation;
    host.tell(Fact::LinkSeen(Link { name: "tap2".into(), ..link(6, true) }));
    host.tell(Fact::EndpointWritten(port("b"), endpoint_on("tap2")));
    assert_eq!(host.wanted().watches.keys().copied().collect::<Vec<_>>(), [6]);
    assert!(host.watch().unwrap().generation > old);
}

#[test]
fn renamed_tap_takes_its_name_along() {
    let mut host = Host::live("b");
    host.tell(Fact::LinkSeen(Link { name: "tap9".into(), ..link(5, true) }));
    assert_eq!(host.metric(), None);
    host.tell(Fact::LinkSeen(link(5, true)));
    assert_eq!(host.metric(), Some(ELEVATED));
}

#[test]
fn late_news_of_a_replaced_tap_does_not_hide_its_successor() {
    let mut host = Host::live("b");
    host.tell(Fact::LinkSeen(link(6, true)));
    host.tell(Fact::LinkSeen(Link { name: "tap1-old".into(), ..link(5, false) }));
    host.tell(Fact::LinkRemoved { ifindex: 5 });
    assert_eq!(host.wanted().routes.iter().map(|route| route.ifindex).collect::<BTreeSet<_>>(), [6].into());
}

#[test]
fn late_removal_of_a_replaced_tap_does_not_end_the_grace_time() {
    let mut host = Host::live("b");
    host.tell(removed("b")).tell(Fact::LinkSeen(link(6, true))).tell(Fact::LinkRemoved { ifindex: 5 });
    assert_eq!((host.held(), host.metric()), (true, Some(ELEVATED)));
}

#[test]
fn settings_take_effect_at_once() {
    let mut host = Host::live("b");
    let ipv4 = crate::model::Priorities { normal: 2000, elevated: 100 };
    let policy = Policy { ipv4, route_protocol: 80, ..host.engine.policy.clone() };
    host.engine.handle(host.now, Fact::PolicyChanged(Box::new(policy)));
    assert!(host.engine.settle(host.now));
    let routes: Vec<_> = host.wanted().routes.iter().map(|route| (route.metric, route.protocol)).collect();
    assert_eq!(routes, [(100, 80), (512, 80)]);
}

#[test]
fn view_shows_the_watch_only_while_it_is_armed() {
    let mut host = Host::target("b");
    let watch = |host: &Host| host.engine.view(host.now)[0].watch;
    assert_eq!(watch(&host), host.watch().map(|watch| watch.generation));
    host.announce();
    assert_eq!(watch(&host), None);
    let view = &host.engine.view(host.now)[0];
    assert_eq!((view.state, view.role.as_str(), view.migration_uid.as_str()), (State::Live, "TARGET", "u1"));
    assert_eq!((view.announcement.as_deref(), view.routes.len()), (Some("RARP"), 2));
}

#[test]
fn interfaces_that_are_not_workloads_are_nobodys_business() {
    let mut host = Host::quiet("b");
    host.tell(Fact::LinkSeen(Link { name: "eth0".into(), ..link(2, true) }));
    host.tell(Fact::EndpointWritten(port("b"), endpoint_on("eth0")));
    assert!(host.wanted().routes.is_empty() && host.wanted().interfaces.is_empty());
}

#[test]
fn two_endpoints_on_one_tap() {
    let mut host = Host::quiet("b");
    let first = Endpoint { prefixes: ["10.65.0.3/32".parse().unwrap()].into(), ..endpoint() };
    host.tell(Fact::EndpointWritten(named_port("b", "port0"), first));
    host.engine.take_notices();
    host.tell(written("b")).tell(written("b"));
    let conflict = Notice::InterfaceConflict {
        endpoint: port("b"),
        winner: named_port("b", "port0"),
        interface: "tap1".into(),
    };
    assert_eq!(host.engine.take_notices(), [conflict], "said once");
    assert_eq!(host.wanted().routes.len(), 1);
    host.tell(Fact::EndpointRemoved(named_port("b", "port0")));
    assert_eq!(host.wanted().routes.len(), 2, "taken over at once");
}

#[test]
fn two_endpoints_with_one_prefix() {
    let mut host = Host::quiet("b");
    host.tell(Fact::LinkSeen(Link { name: "tap2".into(), ..link(6, true) }));
    host.tell(written("b"));
    host.engine.take_notices();
    host.tell(Fact::EndpointWritten(named_port("b", "port2"), endpoint_on("tap2")));
    assert!(matches!(
        host.engine.take_notices()[..],
        [Notice::PrefixConflict { .. }, Notice::PrefixConflict { .. }]
    ));
    assert_eq!(host.wanted().routes.iter().map(|route| route.ifindex).collect::<BTreeSet<_>>(), [5].into());
    host.tell(migration_written("u1", "a", "b"));
    assert_eq!(host.wanted().routes.iter().map(|route| route.ifindex).collect::<BTreeSet<_>>(), [6].into());
}

#[test]
fn generations_of_two_targets_differ() {
    let mut host = Host::target("b");
    host.tell(Fact::LinkSeen(Link { name: "tap2".into(), ..link(6, true) }));
    host.tell(Fact::LinkSeen(Link { name: "tap3".into(), ..link(7, true) }));
    for (name, tap) in [("port2", "tap2"), ("port3", "tap3")] {
        let mut more = migration("u2", "a", "b");
        more.target = Some(crate::model::MigrationTarget::Endpoint(named_port("b", name)));
        host.tell(Fact::MigrationWritten(name.into(), more));
        host.engine.handle(host.now, Fact::EndpointWritten(named_port("b", name), endpoint_on(tap)));
    }
    host.tell(Fact::TimePassed);
    let generations: BTreeSet<_> = host.wanted().watches.values().map(|watch| watch.generation).collect();
    assert_eq!(generations.len(), 3);
    host.announce();
    assert!(host.engine.locals.values().all(|local| local.machine.state == State::Live));
}

#[test]
fn interface_prefixes_that_change_concern_the_links_that_are_there() {
    let mut host = Host::starting("b");
    host.tell(Fact::LinkSeen(Link { name: "vif1".into(), ..link(5, true) }));
    host.tell(Fact::InSync { complete: true });
    host.tell(Fact::EndpointWritten(port("b"), endpoint_on("vif1")));
    assert_eq!(host.metric(), None);

    let mut policy = host.engine.policy.clone();
    policy.interface_prefixes = "tap,vif".parse().unwrap();
    host.tell(Fact::PolicyChanged(Box::new(policy.clone())));
    assert_eq!(host.metric(), Some(NORMAL));

    policy.interface_prefixes = "tap".parse().unwrap();
    host.tell(Fact::PolicyChanged(Box::new(policy)));
    assert_eq!(host.metric(), None);
}

#[test]
fn a_link_that_is_renamed_to_no_workload_s_name_is_no_workload_s() {
    let mut host = Host::quiet("b");
    host.tell(Fact::EndpointWritten(port("b"), endpoint_on("eth7")));
    host.tell(Fact::LinkSeen(Link { name: "eth7".into(), ..link(5, true) }));
    assert_eq!(host.metric(), None);
}

/// The fast path must not take an address from whoever keeps it when the announcement has been seen.
#[test]
fn what_the_fast_path_installs_is_what_is_wanted_after_the_announcement() {
    let mut host = Host::target("b");
    let shared = "10.65.0.99/32".parse().unwrap();
    let with_shared = |interface: &str| {
        let mut endpoint = endpoint_on(interface);
        endpoint.prefixes.insert(shared);
        endpoint
    };
    let neighbour = Endpoint { prefixes: [shared].into(), ..endpoint_on("tap0") };
    host.tell(Fact::LinkSeen(Link { name: "tap0".into(), ..link(4, true) }));
    host.tell(Fact::EndpointWritten(named_port("b", "port0"), neighbour));
    host.tell(Fact::EndpointWritten(port("b"), with_shared("tap1")));
    let prepared = host.watch().unwrap().routes.clone();
    assert!(prepared.iter().all(|route| route.destination != shared));
    host.announce();
    let installed: BTreeSet<_> =
        host.wanted().routes.iter().filter(|route| route.ifindex == 5).copied().collect();
    assert_eq!(installed, prepared);
}
