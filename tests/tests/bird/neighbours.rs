//! Who else has to do with a machine that moves: clients on its hosts, and prefixes behind it.

use cutover_tests::fabric::{CONVERGED, Daemon, Fabric, Leads, Place, Shape, Who, gaps};
use cutover_tests::namespace::Namespace;
use cutover_tests::scene::{NORMAL, SOURCE, TARGET};
use cutover_tests::{Bird, Driver, Host, Port, Release, Vm, frames, probe, wait};
use ipnet::IpNet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// LIMIT: BIRD replaces an IPv6 route by two writes, and a loaded machine may stop anybody for a while. What only the daemon's next scan
/// brings back is away for longer.
const MOMENT: Duration = Duration::from_secs(2);
/// Behind the machine, reached by way of its addresses.
const BEHIND: [&str; 2] = ["10.99.0.0/24", "2001:db8:99::/64"];
const SESSION: &str = "connect delay time 1; connect retry time 1; error wait time 1, 2;";

/// A machine that is a router itself: somebody announces what is behind it with the machine's address for next hop. A third host's way
/// there is its way to the machine, whichever host that is on.
#[test]
fn a_prefix_behind_the_machine_moves_with_it() {
    let mut fabric = Fabric::new(Daemon::Bird, Shape::Mesh);
    let announcer = fabric.scene.lab.host("announcer");
    let third = fabric.router(Who::Third).host;
    let text = announcing(&announcer, third, &fabric.port().routed());
    fabric.speaker(Who::Third).bird().reconfigure(|text| resolving(text, &announcer));
    let bird = Bird::start(&fabric.scene.lab, &announcer, &text, Release::Bird2);
    bird.wait_established(2);
    fabric.router(Who::Third).speaker.wait_established(6);
    fabric.wait_at(Place::Source);
    wait_leads_behind(&fabric, Place::Source);
    let mark = fabric.router(Who::Third).watch.mark();

    fabric.scene.start_migration();
    assert!(leads_behind(&fabric, Place::Source), "nobody hears of the target before the machine runs there");
    let mac = fabric.port().mac;
    fabric.scene.move_vm(|qemu| qemu.send(&frames::rarp(mac)));
    fabric.wait_at_target();
    wait_leads_behind(&fabric, Place::Target);
    fabric.scene.driver.unbind(SOURCE);
    fabric.scene.driver.withdraw(TARGET);
    fabric.scene.target.wait_metrics(fabric.port(), &[NORMAL]);
    fabric.wait_tables(NORMAL);
    wait_leads_behind(&fabric, Place::Target);

    let history = fabric.router(Who::Third).watch.since(mark);
    for to in behind() {
        let gaps = gaps(&history, to);
        assert!(gaps.iter().all(|gap| *gap < MOMENT), "no route to {to} for {gaps:?}");
    }
}

/// Guests of the host that the machine leaves, and of the one where it goes, talk to it all the time.
#[test]
fn clients_on_both_hosts_reach_the_machine_all_the_time() {
    let mut fabric = Fabric::new(Daemon::Bird, Shape::Mesh);
    let clients =
        [(2, Place::Source), (3, Place::Target)].map(|(number, place)| client(&fabric, number, place));
    let addresses: Vec<IpAddr> = fabric.port().routed().iter().map(IpNet::addr).collect();
    for (client, address) in clients.iter().flat_map(|client| addresses.iter().map(move |to| (client, *to))) {
        let answers = probe::answers_within(CONVERGED, client.namespace(), address);
        assert!(answers, "{address} answers to {}", client.namespace().name());
    }
    let is_over = &AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asked =
            clients.iter().flat_map(|client| addresses.iter().map(move |to| (client.namespace(), *to)));
        let asking: Vec<_> = asked
            .map(|(from, to)| (from, to, scope.spawn(move || longest_silence(from, to, is_over))))
            .collect();
        // Also when the migration fails: the threads would go on.
        let over = Over(is_over);
        migrate(&mut fabric);
        drop(over);
        for (from, to, asking) in asking {
            let silence = asking.join().expect("the asking thread");
            assert!(silence < MOMENT, "{to} did not answer to {} for {silence:?}", from.name());
        }
    });
}

#[test]
fn own_routes_that_change_in_place_stay_announced() {
    Fabric::new(Daemon::Bird, Shape::Mesh).change_own_routes_in_place();
}

fn migrate(fabric: &mut Fabric) {
    fabric.scene.start_migration();
    let mac = fabric.port().mac;
    fabric.scene.move_vm(|qemu| qemu.send(&frames::rarp(mac)));
    fabric.wait_at_target();
    fabric.scene.driver.unbind(SOURCE);
    fabric.scene.driver.withdraw(TARGET);
    fabric.scene.target.wait_metrics(fabric.port(), &[NORMAL]);
    fabric.wait_tables(NORMAL);
}

/// Another guest, which stays where it is.
#[track_caller]
fn client(fabric: &Fabric, number: u8, place: Place) -> Vm {
    let port = Port::new(number);
    let (node, host) = match place {
        Place::Source => (&fabric.scene.source, SOURCE),
        Place::Target => (&fabric.scene.target, TARGET),
    };
    Driver::new(&fabric.scene.directory, &port).bind(host);
    let tap = node.host.plug(&port.interface, port.tap_mac());
    let mut vm = Vm::create(&fabric.scene.lab, &format!("client{number}"), &port);
    vm.resume(tap.open());
    node.wait_metrics(&port, &[NORMAL]);
    vm
}

/// The longest time without an answer until it is over.
fn longest_silence(from: &Namespace, to: IpAddr, is_over: &AtomicBool) -> Duration {
    let (mut longest, mut answered_at) = (Duration::ZERO, Instant::now());
    while !is_over.load(Ordering::Relaxed) {
        let answers = probe::answers(from, to);
        longest = longest.max(answered_at.elapsed());
        if answers {
            answered_at = Instant::now();
        }
    }
    longest
}

struct Over<'flag>(&'flag AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn behind() -> [IpNet; 2] {
    BEHIND.map(|to| to.parse().expect("a prefix"))
}

fn leads_behind(fabric: &Fabric, place: Place) -> bool {
    let third = fabric.router(Who::Third);
    let leads = |to| matches!(third.leads(to), Leads::Via(hop) if fabric.hops(place.into()).contains(&hop));
    behind().into_iter().all(leads)
}

#[track_caller]
fn wait_leads_behind(fabric: &Fabric, place: Place) {
    let third = fabric.router(Who::Third);
    let shown = || behind().map(|to| third.watch.routes_to(to));
    let leads = wait::holds_within(CONVERGED, || leads_behind(fabric, place));
    assert!(leads, "what is behind the machine is not sent to the {place:?}: {:#?}", shown());
}

/// Announces what is behind the machine, with its address of the same family for next hop, to one host.
fn announcing(own: &Host, peer: &Host, machine: &[IpNet]) -> String {
    let families = [
        (4, IpAddr::from(own.ipv4()), IpAddr::from(peer.ipv4())),
        (6, own.ipv6().into(), peer.ipv6().into()),
    ];
    let sessions = families.into_iter().zip(BEHIND).map(|((digit, own, peer), behind)| {
        let hop = machine.iter().find(|to| to.addr().is_ipv4() == own.is_ipv4()).expect("one of each family").addr();
        format!(
            "protocol static behind{digit} {{ ipv{digit}; route {behind} blackhole; }}\n\
             protocol bgp third{digit} {{\n  local {own} as 64512; neighbor {peer} as 64512; {SESSION}\n  \
             ipv{digit} {{ import none; export filter {{ if source != RTS_STATIC then reject; bgp_next_hop = {hop}; accept; }}; }};\n}}\n"
        )
    });
    format!("router id {};\nprotocol device {{ }}\n{}", own.ipv4(), sessions.collect::<String>())
}

/// What is printed, with sessions to neighbours on the same network whose routes are no recursive ones. BIRD looks no next hop up in a
/// route that has looked its own one up. And with sessions to whoever announces what is behind the machine.
fn resolving(printed: &str, announcer: &Host) -> String {
    let direct = printed
        .replace("  connect delay time 1;\n", "  connect delay time 1;\n  direct;\n")
        .replace("    next hop self;\n", "    next hop self;\n    gateway direct;\n");
    assert_eq!(direct.matches("gateway direct;").count(), 4, "one for each session: {direct}");
    let session = |digit: u8, address: IpAddr| {
        format!(
            "protocol bgp announcer{digit} {{\n  local as 64512; neighbor {address} as 64512; {SESSION}\n  \
             ipv{digit} {{ import all; export none; gateway recursive; }};\n}}\n"
        )
    };
    direct + &session(4, announcer.ipv4().into()) + &session(6, announcer.ipv6().into())
}
