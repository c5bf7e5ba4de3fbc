//! What is forwarded arrives, and leaves no trace but where it should.

use crate::bed::*;
use cutover_common::tunnel::TunnelCounter;
use cutover_daemon::applier::tunnels::Start;
use cutover_daemon::clock;
use cutover_daemon::netlink::policy;
use cutover_engine::Wanted;
use cutover_engine::wanted::{Tunnel, WantedForward};
use cutover_tests::wait;
use std::io::Write as _;
use std::time::Duration;

/// What there is on a source that is ready to forward.
const READY: [&str; 3] =
    ["-4 7179: from all lookup 7179 proto 80", "-6 7179: from all lookup 7179 proto 80", "device"];

/// The longest payload of a datagram on a way of so many bytes.
fn longest(mtu: usize, is_ipv4: bool) -> usize {
    mtu - 8 - if is_ipv4 { 20 } else { 40 }
}

/// Somebody has begun to start what the engine does not want (any more, or yet).
#[test]
fn what_a_word_has_started_and_the_engine_does_not_want_ends() {
    let bed = Bed::new();
    let (source, mut target) = (bed.source_applier(), bed.target_applier());
    target.want(&bed.reception(true));
    target.wait_ready(true);
    source.want(&bed.forward(false, true));
    source.wait_prepared();
    let tunnel = bed.forward(false, true).forwards.values().next().unwrap().tunnel;
    let start = || Start { endpoint: (*endpoint("source", 1)).clone(), tunnel };
    source.starter.start(start());
    wait::until(wait::SOON, "the engine has had its time", || bed.source.traces() == READY);
    bed.expect_lost("not wanted");
    source.wait_prepared();
    source.starter.start(start());
    source.want(&Wanted::default());
    wait::until(wait::SOON, "nothing is left", || bed.source.traces().is_empty());
    source.starter.start(start());
    source.want(&bed.forward(false, true));
    source.wait_prepared();
    bed.expect_lost("a word for what was not there");
}

/// The target's agent has said that the virtual machine runs there, and the engine has not heard it yet.
#[test]
fn the_word_of_the_target_starts_what_the_engine_has_made_ready() {
    let bed = Bed::new();
    let (mut source, mut target) = (bed.source_applier(), bed.target_applier());
    target.want(&bed.reception(true));
    target.wait_ready(true);
    source.want(&bed.forward(false, true));
    source.wait_prepared();
    let tunnel = bed.forward(false, true).forwards.values().next().unwrap().tunnel;
    let (endpoint, other) = (endpoint("source", 1), Tunnel { id: tunnel.id + 1, ..tunnel });
    let began_at = clock::now();
    source.starter.start(Start { endpoint: (*endpoint).clone(), tunnel: other });
    bed.expect_lost("another tunnel");
    // The engine is given one second. On a slow machine that may be over before anything is sent: then once more.
    wait::until(wait::SOON, "what is sent before the engine says so arrives", || {
        source.wait_prepared();
        source.starter.start(Start { endpoint: (*endpoint).clone(), tunnel });
        let routes = bed.source.namespace().run(|| policy::routes(TABLE, PROTOCOL).unwrap());
        // Nobody is waited for.
        routes.len() == 2 && bed.reaches_within(Duration::from_millis(500), "before the engine says so")
    });
    let started_at = source.wait_started();
    assert!(began_at < started_at && started_at < clock::now());
    source.want(&bed.forward(true, true));
    bed.expect_reaches("and afterwards");
    source.want(&Wanted::default());
    target.want(&Wanted::default());
    wait::until(wait::SOON, "nothing is left", || {
        [&bed.source, &bed.target].iter().all(|site| site.traces().is_empty())
    });
}

#[test]
fn datagrams_reach_the_tap_as_soon_as_the_forward_is_active() {
    let bed = Bed::new();
    let (mut source, mut target) = (bed.source_applier(), bed.target_applier());
    target.want(&bed.reception(true));
    target.wait_ready(true);
    source.want(&bed.forward(false, true));
    source.wait_prepared();
    assert_eq!(bed.source.traces(), READY, "nothing is forwarded yet");
    bed.expect_lost("too early");

    source.want(&bed.forward(true, true));
    source.wait_started();
    bed.expect_reaches("forwarded");
    // More than one, because the kernel could hold the first one's length against the next.
    for number in 0..4_u8 {
        for address in vm() {
            let payload = vec![number; longest(1500, address.is_ipv4())];
            bed.send(address, &payload).unwrap();
            bed.expect(&payload);
        }
    }
    let forward = source.report.read().unwrap().forwards.pop().unwrap();
    assert!(forward.is_active && forward.traffic.packets == 10, "{forward:?}");
    let reception = target.report.read().unwrap().receptions.pop().unwrap();
    assert!(reception.is_ready && reception.traffic == forward.traffic, "{reception:?}");
    for (site, report) in [(&bed.source, &source.report), (&bed.target, &target.report)] {
        for family in ["-4", "-6"] {
            let main = site.ip(&format!("{family} route show table main"));
            assert!(!main.contains("cutover0") && !main.contains("65"), "{main}");
        }
        let mut dropped = report.read().unwrap().dropped;
        // The kernel's own, when the device is new.
        dropped.remove(TunnelCounter::ForwardMulticast.name());
        assert!(dropped.values().all(|count| *count == 0), "{dropped:?}");
    }

    source.want(&bed.forward(false, true));
    wait::until(wait::SOON, "no route is left", || bed.source.traces() == READY);
    bed.expect_lost("too late");
    source.want(&Wanted::default());
    target.want(&Wanted::default());
    for site in [&bed.source, &bed.target] {
        wait::until(wait::SOON, "nothing is left", || site.traces().is_empty());
    }
}

/// The kernel does not fragment there, so whoever sends is told how long a packet may be.
#[test]
fn over_ipv6_what_is_too_long_is_said_to_be_so() {
    const HEAD: usize = 56;
    let bed = Bed::new();
    let (mut source, mut target) = (bed.source_applier(), bed.target_applier());
    target.want(&bed.reception(false));
    target.wait_ready(true);
    source.want(&bed.forward(true, false));
    source.wait_started();
    bed.expect_reaches("forwarded");
    for address in vm() {
        let too_long = vec![1; longest(1500, address.is_ipv4())];
        wait::until(wait::SOON, "the client has learnt how long a packet may be", || {
            bed.send(address, &too_long).is_err_and(|error| error.raw_os_error() == Some(libc::EMSGSIZE))
        });
        for number in 0..3_u8 {
            let payload = vec![number; longest(1500 - HEAD, address.is_ipv4())];
            bed.send(address, &payload).unwrap();
            bed.expect(&payload);
        }
    }
}

/// A target tells the packets of a source by the address by which it knows it, which need not be that of the way.
#[test]
fn the_tunnel_begins_at_the_address_by_which_others_know_the_host() {
    if !cutover_tests::kernel::has_tunnel_from() {
        return;
    }
    let bed = Bed::new();
    let own = "10.99.0.1".parse().unwrap();
    bed.source.namespace().ip("addr add 10.99.0.1/32 dev lo");
    let mut source = Running::start(&bed.source, Some(own));
    let mut target = bed.target_applier();
    let mut wanted = bed.reception(true);
    let (endpoint, mut reception) =
        wanted.receptions.iter().next().map(|(k, v)| (k.clone(), v.clone())).unwrap();
    reception.tunnel.peer = own;
    wanted.receptions.insert(endpoint, reception);
    target.want(&wanted);
    target.wait_ready(true);
    source.want(&bed.forward(true, true));
    source.wait_started();
    bed.expect_reaches("from its own address");
}

#[test]
fn what_is_forwarded_goes_round_in_no_circle() {
    let bed = Bed::new();
    let (_source, mut target) = bed.at_work();
    bed.expect_reaches("warm");
    // The target forwards the very same to the source, as if the virtual machine had just left it again.
    let mut both = bed.reception(true);
    let tunnel = Tunnel { id: ID + 1, peer: bed.source.address(true) };
    let back = WantedForward {
        tunnel,
        prefixes: prefixes(&vm()),
        is_active: true,
        awaits_word: false,
        awaits_stop: false,
    };
    both.forwards = [(endpoint("target", 1), back)].into();
    target.want(&both);
    target.wait_started();
    let before = [bed.source.sent("up0"), bed.target.sent("up0")];
    for number in 0..10 {
        bed.expect_reaches(&format!("number {number}"));
    }
    let after = [bed.source.sent("up0"), bed.target.sent("up0")];
    let sent = [after[0] - before[0], after[1] - before[1]];
    // Besides a handful of questions of neighbours.
    assert!((20..26).contains(&sent[0]) && sent[1] < 6, "{sent:?}");
}

/// Its own traffic finds the virtual machine where everybody's does, until it is here.
#[test]
fn a_host_that_is_source_and_target_at_once_keeps_the_two_apart() {
    let bed = Bed::new();
    let mut target = bed.target_applier();
    let mut both = bed.reception(true);
    let other = "10.65.0.3".parse().unwrap();
    let tunnel = Tunnel { id: ID + 1, peer: bed.source.address(true) };
    let leaving = WantedForward {
        tunnel,
        prefixes: prefixes(&[other]),
        is_active: true,
        awaits_word: false,
        awaits_stop: false,
    };
    both.forwards = [(endpoint("target", 2), leaving)].into();
    target.want(&both);
    target.wait_started();
    target.wait_ready(true);
    let way = |to: &str| bed.target.ip(&format!("route get {to}"));
    assert!(way("10.65.0.2").contains("dev up0"), "{}", way("10.65.0.2"));
    assert!(way("2001:db8:65::2").contains("dev up0"), "{}", way("2001:db8:65::2"));
    assert!(way("10.65.0.3").contains("dev cutover0"), "{}", way("10.65.0.3"));
}

#[test]
fn nothing_goes_back_to_the_fabric_when_the_tap_is_gone() {
    let mut bed = Bed::new();
    let (mut source, mut target) = (bed.source_applier(), bed.target_applier());
    let wanted = bed.reception(true);
    target.want(&wanted);
    target.wait_ready(true);
    source.want(&bed.forward(true, true));
    source.wait_started();
    bed.expect_reaches("warm");
    bed.tap.take().unwrap().remove();
    let before = bed.target.sent("up0");
    for number in 0..20_u8 {
        for address in vm() {
            bed.send(address, &[number; 8]).unwrap();
        }
    }
    let received = || target.report.read().unwrap().receptions[0].traffic.packets;
    wait::until(wait::SOON, "all have come", || received() == 42);
    let sent = bed.target.sent("up0") - before;
    assert!(sent < 6, "{sent} packets");
    target.wait_ready(false);
    assert_eq!(target.report.read().unwrap().error, None, "a tap that goes is no error");

    // Another one of the same name.
    let tap = bed.target.host.plug(TAP, TAP_MAC);
    bed.guest = tap.open();
    bed.meet(&bed.target, TAP);
    target.want(&bed.reception(true));
    target.wait_ready(true);
    bed.expect_reaches("to the new tap");
}

/// How long it takes from what is wanted to the kernel's acknowledgement; printed, because it is the machine's.
#[test]
fn a_forward_that_is_prepared_starts_at_once() {
    let bed = Bed::new();
    let mut source = bed.source_applier();
    source.want(&bed.forward(false, true));
    source.wait_prepared();
    let mut times: Vec<Duration> = (0..50)
        .map(|_| {
            source.want(&bed.forward(false, true));
            wait::until(wait::SOON, "it has stopped", || bed.source.traces() == READY);
            let wanted = bed.forward(true, true);
            let before = clock::now();
            source.want(&wanted);
            source.wait_started().since(before)
        })
        .collect();
    times.sort();
    let [fastest, median, slowest] = [0, 25, 49].map(|at| times[at]);
    // Nobody is left to tell if standard error is closed.
    let _ = writeln!(
        std::io::stderr(),
        "activation: fastest {fastest:?}, median {median:?}, slowest {slowest:?}"
    );
    assert!(times[25] < wait::patient(Duration::from_millis(20)), "{times:?}");
}
