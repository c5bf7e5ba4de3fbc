//! Guests that announce themselves less than they could, or not at all.

use crate::trip::{Journey, UNTHROTTLED, move_guest};
use cutover_common::AnnouncementKind;
use cutover_tests::hypervisor::{Announcing, Guest};
use cutover_tests::scene::ELEVATED;
use cutover_tests::{Cloud, Port, wait};
use std::time::Duration;

fn number(kind: AnnouncementKind) -> Option<u32> {
    Some(kind as u32)
}

#[test]
fn the_hypervisors_announcement_is_enough() {
    let mut cloud = Cloud::new();
    let guest = Guest::new(&Port::new(1)).announced_by(Announcing::QemuOnly);
    let mut instance = cloud.spawn(&guest);
    let trip = move_guest(&mut cloud, &mut instance, UNTHROTTLED);
    assert_eq!(trip.phases[0].kind, number(AnnouncementKind::Rarp));
}

#[test]
fn any_frame_is_enough_where_first_frames_count() {
    let mut cloud = Cloud::with(|agent| agent.set("CutoverTrigger", "first-frame"));
    let guest = Guest::new(&Port::new(1)).announced_by(Announcing::Silent);
    let mut instance = cloud.spawn(&guest);
    // What the client does not acknowledge, because the source's host gets it, the guest sends again.
    let trip = move_guest(&mut cloud, &mut instance, UNTHROTTLED);
    assert_eq!(trip.phases[0].kind, number(AnnouncementKind::FirstFrame));
}

#[test]
fn a_guest_that_says_nothing_has_its_routes_when_nova_has_completed_the_migration() {
    let mut cloud = Cloud::new();
    let guest = Guest::new(&Port::new(1)).announced_by(Announcing::Silent);
    let mut instance = cloud.spawn(&guest);
    let journey = Journey::begin(&mut cloud, &instance, UNTHROTTLED);
    let migrated = instance.hypervisor.wait_migrated();
    journey.migration.arrival.qmp().wait_event(wait::SOON, "RESUME");
    let target = &cloud.hosts[journey.migration.to];
    wait::throughout(Duration::from_millis(300), "nobody knows that it is there", || {
        guest.routed().into_iter().all(|net| target.local_metrics(net).is_empty())
    });
    target.wait_state(&guest, "Target");
    let trip = journey.complete(&mut cloud, &mut instance, migrated);
    let phases = &trip.phases[0];
    // While it is open how the migration ended, any frame decides it, and an answer to a probe is one.
    let decided = (phases.kind, phases.announced_at);
    assert!(decided == (None, None) || phases.kind == number(AnnouncementKind::FirstFrame), "{decided:?}");
    assert!(phases.announced_at.is_none_or(|at| Some(at) > phases.role_gone_at), "{decided:?}");
    // The source forgets a migration of which it has heard nothing no earlier than one that was announced.
    assert!(phases.forwarded_at > phases.role_gone_at, "{phases:?}");
    for (net, blackout) in &trip.blackouts {
        let routed_at = blackout.routed_at.expect("the route was elevated");
        assert!(Some(routed_at) > phases.role_gone_at, "{net} at {ELEVATED}: {blackout}");
    }
}
