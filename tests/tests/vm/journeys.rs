//! Guests that arrive where they were going.

use crate::trip::{THROTTLED, UNTHROTTLED, arrive, move_guest};
use cutover_tests::cloud::Traffic;
use cutover_tests::hypervisor::Guest;
use cutover_tests::{Cloud, Port};

#[test]
fn a_guest_with_both_families_moves_by_pre_copy() {
    let mut cloud = Cloud::new();
    let mut instance = cloud.spawn(&Guest::new(&Port::new(1)));
    let trip = move_guest(&mut cloud, &mut instance, THROTTLED);
    assert!(trip.migrated.total.as_secs() >= 1, "the copy was to take a while: {:?}", trip.migrated);
}

#[test]
fn a_guest_moves_by_post_copy() {
    let mut cloud = Cloud::new();
    let mut instance = cloud.spawn(&Guest::new(&Port::new(1)));
    let traffic = Traffic::start(cloud.client.host.namespace(), &instance.guest);
    let migration = cloud.prepare(&instance);
    for side in [&instance.hypervisor, &migration.arrival] {
        side.allow_postcopy();
    }
    instance.hypervisor.begin_migration(&migration.arrival, THROTTLED);
    instance.hypervisor.wait_status("active");
    instance.hypervisor.switch_to_postcopy();
    // The guest runs on the target while its memory is still on the source.
    let migrated = instance.hypervisor.wait_migrated();
    let trip = arrive(&mut cloud, &mut instance, migration, traffic, migrated);
    trip.assert_seamless();
}

#[test]
fn there_and_back_again_ten_times() {
    let mut cloud = Cloud::new();
    let mut instance = cloud.spawn(&Guest::new(&Port::new(1)));
    for leg in 0..20 {
        let _trip = move_guest(&mut cloud, &mut instance, UNTHROTTLED);
        assert_eq!(instance.at, (leg + 1) % 2);
    }
}
