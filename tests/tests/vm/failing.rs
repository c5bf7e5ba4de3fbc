//! Migrations that do not succeed. The guest stays where it is, and the client notices nothing, or comes back to it.

use crate::trip::{Journey, UNTHROTTLED, assert_tcp_went_on};
use cutover_tests::cloud::{Heard, Instance, Traffic};
use cutover_tests::hypervisor::Guest;
use cutover_tests::route_history::Change;
use cutover_tests::scene::NORMAL;
use cutover_tests::stream::{DatagramStream, SLOW_PERIOD};
use cutover_tests::{Cloud, Port, wait};
use std::time::Duration;

/// So slow that the copy does not end by itself while a test looks.
const CRAWLING: u64 = 4 << 20;

/// A guest that answers, on its way for a while.
fn on_the_way() -> (Cloud, Instance, Journey) {
    let mut cloud = Cloud::new();
    let instance = cloud.spawn(&Guest::new(&Port::new(1)));
    let journey = Journey::begin(&mut cloud, &instance, CRAWLING);
    wait::until(wait::SOON, "some of its memory is over there", || instance.hypervisor.copied() > 1 << 20);
    (cloud, instance, journey)
}

/// Rolls back, and checks that neither routes nor packets knew of the attempt.
#[track_caller]
fn roll_back_unnoticed(cloud: &mut Cloud, instance: &Instance, journey: Journey) {
    assert!(instance.hypervisor.is_running(), "the guest runs where it was");
    let (migration, traffic, retransmission_timeout) = journey.split();
    let to = migration.to;
    let lookout = cloud.roll_back(instance, migration);
    cloud.wait_settled(instance);
    cloud.hosts[instance.at].wait_state(&instance.guest, "Base");
    let heard = traffic.finish();
    for (address, record) in &heard.datagrams {
        assert_eq!(record.lost().count(), 0, "{address} of {} sent", record.sent());
    }
    assert_tcp_went_on(&heard, retransmission_timeout);
    let routes = |change: &Change| matches!(change, Change::Added { .. } | Change::Removed(_));
    let on_client = cloud.client.watch.since(lookout.client).events;
    assert!(!on_client.iter().any(|event| routes(&event.change)), "{on_client:#?}");
    for net in instance.guest.routed() {
        let on_source = cloud.hosts[instance.at].local_metrics_since(lookout.source, net);
        assert_eq!(on_source, [[NORMAL]], "{net}");
        let on_target = cloud.hosts[to].local_metrics_since(lookout.target, net);
        assert_eq!(on_target, [[0_u32; 0]], "the target has announced {net}, which it did not have");
    }
}

#[test]
fn a_migration_that_qemu_cancels_loses_nothing() {
    let (mut cloud, instance, journey) = on_the_way();
    instance.hypervisor.cancel_migration();
    roll_back_unnoticed(&mut cloud, &instance, journey);
}

#[test]
fn a_target_that_dies_before_the_switch_over_costs_nothing() {
    let (mut cloud, instance, mut journey) = on_the_way();
    journey.migration.arrival.kill();
    instance.hypervisor.wait_status("failed");
    roll_back_unnoticed(&mut cloud, &instance, journey);
}

#[test]
fn a_target_that_dies_after_the_switch_over_gives_the_guest_back() {
    let mut cloud = Cloud::new();
    let instance = cloud.spawn(&Guest::new(&Port::new(1)));
    let asked: Vec<_> = instance
        .guest
        .routed()
        .into_iter()
        .map(|net| (net, DatagramStream::start(cloud.client.host.namespace(), net.addr(), SLOW_PERIOD)))
        .collect();
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
    let to = migration.to;
    let lookout = cloud.roll_back(&instance, migration);
    cloud.wait_settled(&instance);
    cloud.wait_reached(&instance.guest);
    for (net, stream) in asked {
        let [source, target] = [instance.at, to].map(|host| cloud.hosts[host].address_like(net.addr()));
        assert_eq!(cloud.client.led_through(lookout.client, net), [source, target, source], "{net}");
        // The source's BIRD tells the client before its own kernel has forgotten the target.
        let on_client = cloud.client.led_through_since(lookout.client, net, source).expect("it is back");
        let on_source = cloud.hosts[instance.at].led_to_tap_since(lookout.source, net).expect("it is back");
        let back_at = on_client.max(on_source);
        let record = stream.finish();
        assert_eq!(record.lost_since(back_at), 0, "{net}: lost although the guest was back");
        assert!(record.first_answer_to_sent_since(back_at).is_some(), "{net} answers again");
        // When it went there, and when it came back.
        let gaps = record.gaps();
        assert!(gaps.len() <= 2, "{net}: {gaps:?}");
        let on_source = cloud.hosts[instance.at].local_metrics_since(lookout.source, net);
        assert_eq!(on_source, [[NORMAL]], "the source has kept its route to {net}");
    }
    // What a TCP connection was told by the target cannot be taken back; a new one has to work.
    let traffic = Traffic::start(cloud.client.host.namespace(), &instance.guest, SLOW_PERIOD);
    wait::holds_within(Duration::from_millis(300), || false);
    let Heard { datagrams, bytes, .. } = traffic.finish();
    assert!(bytes.received() > 0, "bytes go both ways again");
    for (address, record) in &datagrams {
        assert!(record.sent() > 10 && record.lost().count() == 0, "{address} is back: {record:?}");
    }
}
