//! One migration of a guest that a client talks to, from Nova's preparation to the end of elevated priority, and what
//! has to be true of every one that succeeds.

use cutover_engine::BootTime;
use cutover_engine::machine::Phases;
use cutover_tests::blackout::{Blackout, Offset};
use cutover_tests::cloud::{Cloud, Heard, Instance, Migration, Traffic};
use cutover_tests::hypervisor::Migrated;
use cutover_tests::route_watch::Mark;
use cutover_tests::scene::ELEVATED;
use cutover_tests::wait;
use ipnet::IpNet;
use std::time::Duration;

/// Bytes in a second at which the copy takes some seconds.
pub(crate) const THROTTLED: u64 = 40 << 20;

/// As fast as it goes.
pub(crate) const UNTHROTTLED: u64 = 10 << 30;

/// LIMIT: how long before the pause a datagram may have been sent that the guest has not got to. On a machine with two
/// processors that others use as well, an emulated guest is that slow now and then.
const BACKLOG: Duration = Duration::from_secs(1);

/// LIMIT: how long TCP may be silent beyond the downtime on a machine that is busy with other things. Where it has to wait
/// for a second retransmission, or for Nova, it is silent for longer.
const TCP_STALL: Duration = Duration::from_secs(2);

/// Which way a guest went, and what was seen of that.
#[derive(Debug)]
pub(crate) struct Trip {
    /// The agent's times, by port.
    pub(crate) phases: Vec<Phases>,
    /// By destination.
    pub(crate) blackouts: Vec<(IpNet, Blackout)>,
    /// The longest time without anything on the TCP connection.
    pub(crate) tcp_silence: Duration,
    /// QEMU's numbers.
    pub(crate) migrated: Migrated,
}

/// When the guest stopped and ran again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Switch {
    pub(crate) paused_at: BootTime,
    pub(crate) resumed_at: BootTime,
}

impl Switch {
    /// Of a switch-over that has begun.
    #[track_caller]
    pub(crate) fn of(instance: &Instance, migration: &Migration) -> Self {
        let paused_at = instance.hypervisor.qmp().wait_event(wait::SOON, "STOP").at;
        let resumed_at = migration.arrival.qmp().wait_event(wait::SOON, "RESUME").at;
        Self { paused_at, resumed_at }
    }
}

/// Moves the guest to the other host by pre-copy, with traffic all the time, and checks what the client saw.
#[track_caller]
pub(crate) fn move_guest(cloud: &mut Cloud, instance: &mut Instance, bytes_per_second: u64) -> Trip {
    let traffic = Traffic::start(cloud.client.host.namespace(), &instance.guest);
    let migration = cloud.prepare(instance);
    instance.hypervisor.begin_migration(&migration.arrival, bytes_per_second);
    let migrated = instance.hypervisor.wait_migrated();
    let trip = arrive(cloud, instance, migration, traffic, migrated);
    trip.assert_seamless();
    trip
}

/// The rest of a migration whose switch-over is over and was announced: the network follows, then Nova completes it.
#[track_caller]
pub(crate) fn arrive(
    cloud: &mut Cloud,
    instance: &mut Instance,
    migration: Migration,
    traffic: Traffic,
    migrated: Migrated,
) -> Trip {
    for net in instance.guest.routed() {
        let target = cloud.hosts[migration.to].address_like(net.addr());
        cloud.client.wait_led_through(wait::SOON, net, target);
    }
    cloud.wait_reached(&instance.guest);
    complete(cloud, instance, migration, traffic, migrated)
}

/// Nova completes a migration, and everything goes back to normal. Checks that nothing was lost that was sent after the
/// client's route led to the target.
#[track_caller]
pub(crate) fn complete(
    cloud: &mut Cloud,
    instance: &mut Instance,
    migration: Migration,
    traffic: Traffic,
    migrated: Migrated,
) -> Trip {
    let switch = Switch::of(instance, &migration);
    let (uids, marks) = (migration.uids.clone(), (migration.client_mark, migration.target_mark));
    cloud.complete(instance, migration);
    let target = &cloud.hosts[instance.at];
    let phases: Vec<Phases> = uids.iter().map(|uid| target.wait_recorded(uid)).collect();
    cloud.wait_settled(instance);
    let heard = traffic.finish();
    let blackouts = take_apart(cloud, instance, switch, marks, &phases, &heard);
    assert_nothing_lost_but_in_the_blackout(&blackouts, &heard);
    let tcp_silence = heard.bytes.longest_silence();
    let trip = Trip { phases, blackouts, tcp_silence, migrated };
    show(instance, &trip, &heard);
    trip
}

fn take_apart(
    cloud: &Cloud,
    instance: &Instance,
    switch: Switch,
    (client_mark, target_mark): (Mark, Mark),
    phases: &[Phases],
    heard: &Heard,
) -> Vec<(IpNet, Blackout)> {
    let compute = &cloud.hosts[instance.at];
    let on_target = compute.watch.since(target_mark);
    let by_port = instance.guest.ports.iter().zip(phases);
    let nets = by_port.flat_map(|(port, phases)| port.routed().into_iter().map(move |net| (net, phases)));
    nets.zip(&heard.datagrams)
        .map(|((net, phases), (_, record))| {
            let next_hop = compute.address_like(net.addr());
            let answered_at = record.first_answer_since(switch.resumed_at);
            let blackout = Blackout {
                routed_at: on_target.added_at(net, ELEVATED),
                client_routed_at: cloud.client.led_through_since(client_mark, net, next_hop),
                answered_at,
                last_answer_at: answered_at.and_then(|at| record.last_answer_before(at)),
                ..Blackout::new(switch.paused_at, switch.resumed_at).with_phases(phases)
            };
            (net, blackout)
        })
        .collect()
}

#[track_caller]
fn assert_nothing_lost_but_in_the_blackout(blackouts: &[(IpNet, Blackout)], heard: &Heard) {
    for ((net, blackout), (_, record)) in blackouts.iter().zip(&heard.datagrams) {
        let routed_at = blackout.client_routed_at.expect("the client's route led to the target");
        let late: Vec<Offset> = record
            .lost()
            .filter(|sent_at| *sent_at >= routed_at)
            .map(|sent_at| Offset::between(routed_at, sent_at))
            .collect();
        let (count, first) = (late.len(), late.first());
        assert_eq!(count, 0, "{net}: lost after the route on the client, from {first:?} on\n{blackout}");
        let earliest = record.lost().next();
        let in_order = earliest.is_none_or(|sent_at| sent_at + BACKLOG > blackout.paused_at);
        assert!(in_order, "{net}: lost long before the pause: {earliest:?}\n{blackout}");
    }
}

impl Trip {
    /// Checks that the announcement brought the routes, and in which order things happened.
    #[track_caller]
    pub(crate) fn assert_seamless(&self) {
        for (net, blackout) in &self.blackouts {
            let announced_at = blackout.announced_at.expect("it was announced");
            let acknowledged_at = blackout.acknowledged_at.expect("the fast path installed the routes");
            let routed_at = blackout.routed_at.expect("the route was elevated");
            let client_routed_at = blackout.client_routed_at.expect("the client learnt it");
            let ordered = blackout.paused_at < announced_at
                && announced_at < acknowledged_at
                && announced_at < routed_at
                && announced_at < client_routed_at;
            assert!(ordered, "{net}\n{blackout}");
            let excess = self.tcp_silence.saturating_sub(blackout.downtime());
            assert!(excess < TCP_STALL, "TCP was silent for {:?}\n{blackout}", self.tcp_silence);
        }
        for phases in &self.phases {
            assert!(
                phases.announced_at < phases.role_gone_at,
                "the announcement ended it, not Nova: {phases:?}"
            );
            assert!(phases.reported_at < phases.announced_at, "ready before the guest came: {phases:?}");
        }
    }
}

#[expect(clippy::print_stderr, reason = "what was measured is for whoever runs the test with --nocapture")]
fn show(instance: &Instance, trip: &Trip, heard: &Heard) {
    eprintln!(
        "{}: copied for {:?}; TCP silent for {:?}",
        instance.guest.ports[0].workload, trip.migrated.total, trip.tcp_silence
    );
    for ((net, blackout), (_, record)) in trip.blackouts.iter().zip(&heard.datagrams) {
        eprint!("{net}: {} of {} datagrams lost\n{blackout}", record.lost().count(), record.sent());
    }
}
