//! Guests that arrive where they were going.

use crate::trip::{Journey, THROTTLED, UNTHROTTLED, move_guest};
use cutover_tests::hypervisor::Guest;
use cutover_tests::{Cloud, Port, wait};

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
    let journey = Journey::prepare(&mut cloud, &instance);
    let arrival = &journey.migration.arrival;
    for side in [&instance.hypervisor, arrival] {
        side.allow_postcopy();
    }
    instance.hypervisor.begin_migration(arrival, THROTTLED);
    instance.hypervisor.wait_status("active");
    instance.hypervisor.switch_to_postcopy();
    let migrated = instance.hypervisor.wait_migrated();
    // The guest ran on the target while its memory was still on the source.
    let resumed_at = arrival.qmp().wait_event(wait::SOON, "RESUME").at;
    let completed_at = instance.hypervisor.qmp().wait_event(wait::SOON, "MIGRATION").at;
    assert!(resumed_at < completed_at, "resumed at {resumed_at:?}, all copied at {completed_at:?}");
    journey.arrive(&mut cloud, &mut instance, migrated).assert_seamless();
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
