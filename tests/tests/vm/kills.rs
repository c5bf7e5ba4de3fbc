//! The target's agent dies at the two worst moments.

use crate::trip::{Journey, THROTTLED, UNTHROTTLED};
use aya::maps::{HashMap, Map, MapData};
use cutover_common::abi::Evidence;
use cutover_common::names::MAP_EVIDENCE;
use cutover_daemon::clock;
use cutover_tests::hypervisor::Guest;
use cutover_tests::scene::ELEVATED;
use cutover_tests::{Cloud, Port, wait};
use std::path::Path;

#[test]
fn killed_in_pre_copy_it_finds_what_was_announced_in_the_meantime() {
    let mut cloud = Cloud::new();
    let mut instance = cloud.spawn(&Guest::new(&Port::new(1)));
    let journey = Journey::begin(&mut cloud, &instance, THROTTLED);
    let to = journey.migration.to;
    wait::until(wait::SOON, "some of its memory is over there", || instance.hypervisor.copied() > 1 << 20);
    cloud.hosts[to].agent_mut().kill();
    let migrated = instance.hypervisor.wait_migrated();
    let pins = cloud.hosts[to].agent().pin_path().to_owned();
    wait::until(wait::SOON, "the kernel has its announcement", || is_latched(&pins));
    let started_at = clock::now();
    cloud.hosts[to].agent_mut().spawn();
    let trip = journey.arrive(&mut cloud, &mut instance, migrated);
    let announced_at = trip.phases[0].announced_at.expect("the kernel has kept it");
    assert!(announced_at < started_at, "announced while no agent was there: {:?}", trip.phases);
}

/// Whether a program has seen an announcement that no agent has dealt with.
fn is_latched(pins: &Path) -> bool {
    let map = MapData::from_pin(pins.join("maps").join(MAP_EVIDENCE)).expect("a map");
    let evidence = HashMap::<_, u64, Evidence>::try_from(Map::HashMap(map)).expect("it is that map");
    evidence.keys().next().is_some()
}

#[test]
fn killed_between_announcement_and_completion_it_leaves_the_routes_and_goes_on() {
    let mut cloud = Cloud::new();
    let mut instance = cloud.spawn(&Guest::new(&Port::new(1)));
    let journey = Journey::begin(&mut cloud, &instance, UNTHROTTLED);
    let migrated = instance.hypervisor.wait_migrated();
    journey.wait_followed(&cloud, &instance);
    let target = &mut cloud.hosts[journey.migration.to];
    target.agent_mut().kill();
    let mark = target.watch.mark();
    target.agent_mut().start_in_sync();
    for net in instance.guest.routed() {
        assert_eq!(target.local_metrics(net), [ELEVATED]);
        target.watch.since(mark).assert_never_without(net);
    }
    let trip = journey.complete(&mut cloud, &mut instance, migrated);
    assert!(trip.phases[0].announced_at.is_some(), "{:?}", trip.phases);
    for net in instance.guest.routed() {
        cloud.hosts[instance.at].watch.since(mark).assert_never_without(net);
    }
}
