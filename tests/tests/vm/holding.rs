//! Guests whose stop the source's agent is told of, as by a hook of the hypervisor's: what is sent to them from then on waits on the
//! target's tap, whose queue has the usual length before.

use crate::trip::{Journey, UNTHROTTLED};
use cutover_daemon::clock;
use cutover_engine::BootTime;
use cutover_tests::hypervisor::{Guest, MIGRATION};
use cutover_tests::{Cloud, Port};
use std::thread;

/// Moves these guests at the same time, and checks that nothing is lost from the moment on in which the source forwards, and nothing
/// comes twice or too late.
fn moves(guests: &[Guest]) {
    let mut cloud = Cloud::new();
    cloud.plug_usual_taps();
    let mut instances = cloud.spawn_all(guests);
    let journeys: Vec<_> = instances.iter().map(|instance| Journey::prepare(&mut cloud, instance)).collect();
    for (instance, journey) in instances.iter().zip(&journeys) {
        cloud.wait_ready_to_forward(instance, &journey.migration);
    }
    let begun_at = clock::now();
    for (instance, journey) in instances.iter().zip(&journeys) {
        instance.hypervisor.begin_migration(&journey.migration.arrival, UNTHROTTLED);
    }
    thread::scope(|scope| {
        for instance in &instances {
            let (agent, machine) = (cloud.hosts[instance.at].agent(), &instance.guest.ports[0].workload);
            scope.spawn(move || {
                let _stop = instance.hypervisor.qmp().wait_event_since(MIGRATION, "STOP", begun_at);
                agent.run_ok(&["migrate", "pause", "--machine", machine]);
            });
        }
    });
    let migrated: Vec<_> = instances.iter().map(|instance| instance.hypervisor.wait_migrated()).collect();
    for ((instance, journey), migrated) in instances.iter_mut().zip(journeys).zip(migrated) {
        let port = &instance.guest.ports[0];
        let forward = cloud.hosts[instance.at].forward(port).expect("it is being migrated");
        assert_eq!(forward["is_stopped"], true, "{forward:#}");
        let forwarded_at = BootTime(forward["started_at"].as_u64().expect("the source forwards"));
        let trip = journey.arrive(&mut cloud, instance, migrated);
        trip.assert_seamless();
        for (address, record) in &trip.heard.datagrams {
            assert_eq!(record.lost_since(forwarded_at), 0, "{address}: of {} datagrams", record.sent());
            assert_eq!((record.repeated(), record.overtaken()), (0, 0), "{address}: twice, out of order");
        }
    }
}

fn port_with(number: u8, wanted: impl Fn(&ipnet::IpNet) -> bool) -> Port {
    let mut port = Port::new(number);
    port.addresses.retain(wanted);
    port
}

#[test]
fn a_guest_with_both_families_finds_what_was_sent_to_it_while_it_was_stopped() {
    moves(&[Guest::new(&Port::new(1))]);
}

#[test]
fn so_does_one_with_ipv6_only() {
    moves(&[Guest::new(&port_with(1, |net| net.addr().is_ipv6()))]);
}

#[test]
fn so_do_five_at_once() {
    let guests = (1..=5).map(|number| Guest::new(&port_with(number, |net| net.addr().is_ipv4())));
    moves(&guests.collect::<Vec<_>>());
}
