//! Guests of every shape.

use crate::trip::{Journey, UNTHROTTLED, move_guest};
use cutover_tests::hypervisor::Guest;
use cutover_tests::{Cloud, Port};
use ipnet::IpNet;

fn only(mut port: Port, wanted: impl Fn(&IpNet) -> bool) -> Port {
    port.addresses.retain(wanted);
    port
}

fn only_ipv4(number: u8) -> Port {
    only(Port::new(number), |net| net.addr().is_ipv4())
}

/// Moves a guest once, and checks what the client saw.
fn moves(guest: &Guest) -> Cloud {
    let mut cloud = Cloud::new();
    let mut instance = cloud.spawn(guest);
    let trip = move_guest(&mut cloud, &mut instance, UNTHROTTLED);
    assert_eq!(trip.blackouts.len(), guest.addresses().len());
    cloud
}

#[test]
fn a_guest_with_ipv4_only() {
    let _cloud = moves(&Guest::new(&only_ipv4(1)));
}

#[test]
fn a_guest_with_ipv6_only() {
    let _cloud = moves(&Guest::new(&only(Port::new(1), |net| net.addr().is_ipv6())));
}

#[test]
fn a_guest_with_two_interfaces() {
    let mut second = only_ipv4(2);
    // Of the same machine.
    second.workload = Port::new(1).workload;
    let _cloud = moves(&Guest::with_ports(&[Port::new(1), second]));
}

#[test]
fn a_floating_address_moves_with_its_guest() {
    let mut port = only_ipv4(1);
    // Nobody translates it here, so the guest has it as well.
    port.floating = vec![(port.ipv4().addr(), [172, 16, 0, 9].into())];
    let _cloud = moves(&Guest::new(&port));
}

#[test]
fn five_guests_at_once() {
    let mut cloud = Cloud::new();
    let guests: Vec<Guest> = (1..=5).map(|number| Guest::new(&only_ipv4(number))).collect();
    let mut instances = cloud.spawn_all(&guests);
    let journeys: Vec<_> = instances.iter().map(|instance| Journey::prepare(&mut cloud, instance)).collect();
    for (instance, journey) in instances.iter().zip(&journeys) {
        instance.hypervisor.begin_migration(&journey.migration.arrival, UNTHROTTLED);
    }
    let migrated: Vec<_> = instances.iter().map(|instance| instance.hypervisor.wait_migrated()).collect();
    for ((instance, journey), migrated) in instances.iter_mut().zip(journeys).zip(migrated) {
        journey.arrive(&mut cloud, instance, migrated).assert_seamless();
    }
}
