//! Migrations that do not succeed. The guest stays where it is, and the client notices nothing, or comes back to it.

use crate::trip::UNTHROTTLED;
use cutover_tests::cloud::{Heard, Instance, Migration, Traffic};
use cutover_tests::hypervisor::Guest;
use cutover_tests::route_history::Change;
use cutover_tests::{Cloud, Port, wait};

/// So slow that the copy does not end by itself while a test looks.
const CRAWLING: u64 = 4 << 20;

/// A guest that answers, on its way for a while.
fn on_the_way() -> (Cloud, Instance, Migration, Traffic) {
    let mut cloud = Cloud::new();
    let instance = cloud.spawn(&Guest::new(&Port::new(1)));
    let traffic = Traffic::start(cloud.client.host.namespace(), &instance.guest);
    let migration = cloud.prepare(&instance);
    instance.hypervisor.begin_migration(&migration.arrival, CRAWLING);
    wait::until(wait::SOON, "some of its memory is over there", || instance.hypervisor.copied() > 1 << 20);
    (cloud, instance, migration, traffic)
}

/// Rolls back, and checks that neither routes nor packets knew of the attempt.
#[track_caller]
fn roll_back_unnoticed(cloud: &mut Cloud, instance: &Instance, migration: Migration, traffic: Traffic) {
    assert!(instance.hypervisor.is_running(), "the guest runs where it was");
    let (client_mark, target_mark, to) = (migration.client_mark, migration.target_mark, migration.to);
    cloud.roll_back(instance, migration);
    cloud.wait_settled(instance);
    let heard = traffic.finish();
    for (address, record) in &heard.datagrams {
        assert_eq!(record.lost().count(), 0, "{address} of {} sent", record.sent());
    }
    let routes = |change: &Change| matches!(change, Change::Added { .. } | Change::Removed(_));
    let on_client = cloud.client.watch.since(client_mark).events;
    assert!(!on_client.iter().any(|event| routes(&event.change)), "{on_client:#?}");
    for net in instance.guest.routed() {
        let moments = cloud.hosts[to].watch.since(target_mark).moments(net);
        let local = moments.iter().flat_map(|moment| &moment.routes).find(|route| route.gateway.is_none());
        assert_eq!(local, None, "the target has announced a guest that it did not have");
    }
}

#[test]
fn a_migration_that_qemu_cancels_loses_nothing() {
    let (mut cloud, instance, migration, traffic) = on_the_way();
    instance.hypervisor.cancel_migration();
    roll_back_unnoticed(&mut cloud, &instance, migration, traffic);
}

#[test]
fn a_target_that_dies_before_the_switch_over_costs_nothing() {
    let (mut cloud, instance, mut migration, traffic) = on_the_way();
    migration.arrival.kill();
    instance.hypervisor.wait_status("failed");
    roll_back_unnoticed(&mut cloud, &instance, migration, traffic);
}

#[test]
fn a_target_that_dies_after_the_switch_over_gives_the_guest_back() {
    let mut cloud = Cloud::new();
    let instance = cloud.spawn(&Guest::new(&Port::new(1)));
    let mut migration = cloud.prepare(&instance);
    instance.hypervisor.begin_migration(&migration.arrival, UNTHROTTLED);
    let _migrated = instance.hypervisor.wait_migrated();
    for net in instance.guest.routed() {
        let target = cloud.hosts[migration.to].address_like(net.addr());
        cloud.client.wait_led_through(wait::SOON, net, target);
    }
    migration.arrival.kill();
    // What libvirt does when the target does not confirm.
    instance.hypervisor.take_back();
    cloud.roll_back(&instance, migration);
    cloud.wait_settled(&instance);
    cloud.wait_reached(&instance.guest);
    let traffic = Traffic::start(cloud.client.host.namespace(), &instance.guest);
    wait::holds_within(std::time::Duration::from_millis(300), || false);
    let Heard { datagrams, .. } = traffic.finish();
    for (address, record) in &datagrams {
        assert!(record.sent() > 100 && record.lost().count() == 0, "{address} is back: {record:?}");
    }
}
