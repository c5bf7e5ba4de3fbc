//! One migration of a guest that a client talks to, from Nova's preparation to the end of elevated priority, and what
//! has to be true of every one that succeeds.

use cutover_engine::machine::Phases;
use cutover_tests::blackout::{Blackout, Offset};
use cutover_tests::cloud::{Cloud, Heard, Instance, Lookout, Migration, Traffic};
use cutover_tests::hypervisor::Migrated;
use cutover_tests::scene::{ELEVATED, NORMAL};
use cutover_tests::stream::SLOW_PERIOD;
use cutover_tests::wait;
use ipnet::IpNet;
use std::time::Duration;

/// Bytes in a second at which the copy takes some seconds.
pub(crate) const THROTTLED: u64 = 40 << 20;

/// As fast as it goes.
pub(crate) const UNTHROTTLED: u64 = 10 << 30;

/// How long emulated guests are busy with themselves when they arrive: their code has to be translated anew.
///
/// LIMIT: what datagrams did not see of it, which are answered by another thread of the guest.
const WAKING: Duration = Duration::from_millis(300);

/// LIMIT: how far apart the times of QEMU, of the kernel's frames and of the kernel program may be: two clocks.
pub(crate) const CLOCKS: Duration = Duration::from_micros(100);

/// A migration under way, with traffic.
#[derive(Debug)]
pub(crate) struct Journey {
    pub(crate) migration: Migration,
    traffic: Traffic,
    retransmission_timeout: Duration,
}

/// Which way a guest went, and what was seen of that.
#[derive(Debug)]
pub(crate) struct Trip {
    /// Of each port's LiveMigration.
    pub(crate) uids: Vec<String>,
    /// The agent's times, by port.
    pub(crate) phases: Vec<Phases>,
    /// By destination.
    pub(crate) blackouts: Vec<(IpNet, Blackout)>,
    /// QEMU's numbers.
    pub(crate) migrated: Migrated,
    /// What became of the traffic.
    pub(crate) heard: Heard,
}

impl Journey {
    /// The client talks to the guest, and Nova prepares its migration to the other host.
    #[track_caller]
    pub(crate) fn prepare(cloud: &mut Cloud, instance: &Instance) -> Self {
        let traffic = Traffic::start(cloud.client.host.namespace(), &instance.guest, SLOW_PERIOD);
        let migration = cloud.prepare(instance);
        cloud.hosts[migration.to].wait_state(&instance.guest, "Target");
        let retransmission_timeout = traffic.retransmission_timeout();
        Self { migration, traffic, retransmission_timeout }
    }

    /// The same, and the copy begins.
    #[track_caller]
    pub(crate) fn begin(cloud: &mut Cloud, instance: &Instance, bytes_per_second: u64) -> Self {
        let journey = Self::prepare(cloud, instance);
        instance.hypervisor.begin_migration(&journey.migration.arrival, bytes_per_second);
        journey
    }

    /// The client goes on talking; the migration is somebody else's now.
    pub(crate) fn split(self) -> (Migration, Traffic, Duration) {
        (self.migration, self.traffic, self.retransmission_timeout)
    }

    /// Waits until the client's routes lead to the target, and the agent there says so.
    #[track_caller]
    pub(crate) fn wait_followed(&self, cloud: &Cloud, instance: &Instance) {
        for net in instance.guest.routed() {
            let target = cloud.hosts[self.migration.to].address_like(net.addr());
            cloud.client.wait_led_through(wait::SOON, net, target);
        }
        cloud.hosts[self.migration.to].wait_state(&instance.guest, "Live");
    }

    /// The rest of a migration whose switch-over is over and was announced: the network follows, then Nova completes it.
    #[track_caller]
    pub(crate) fn arrive(self, cloud: &mut Cloud, instance: &mut Instance, migrated: Migrated) -> Trip {
        self.wait_followed(cloud, instance);
        for net in instance.guest.routed() {
            let on_source = cloud.hosts[instance.at].local_metrics(net);
            assert_eq!(
                on_source,
                [NORMAL],
                "{net}: the source keeps its route until the client's leads elsewhere"
            );
        }
        cloud.wait_reached(&instance.guest);
        self.complete(cloud, instance, migrated)
    }

    /// Nova completes a migration, and everything goes back to normal. Checks what is true of every one that succeeds.
    #[track_caller]
    pub(crate) fn complete(self, cloud: &mut Cloud, instance: &mut Instance, migrated: Migrated) -> Trip {
        let Self { migration, traffic, retransmission_timeout } = self;
        let paused_at = instance.hypervisor.qmp().wait_event(wait::SOON, "STOP").at;
        let resumed_at = migration.arrival.qmp().wait_event(wait::SOON, "RESUME").at;
        let (uids, from) = (migration.uids.clone(), instance.at);
        let lookout = cloud.complete(instance, migration);
        let target = &cloud.hosts[instance.at];
        let phases: Vec<Phases> = uids.iter().map(|uid| target.wait_recorded(uid)).collect();
        cloud.wait_settled(instance);
        target.wait_state(&instance.guest, "Base");
        let heard = traffic.finish();
        assert_routes(cloud, instance, from, &lookout);
        let blackouts =
            take_apart(cloud, instance, Blackout::new(paused_at, resumed_at), &lookout, &phases, &heard);
        assert_nothing_lost_but_in_the_blackout(&blackouts, &heard);
        assert_tcp_went_on(&heard, retransmission_timeout);
        let trip = Trip { uids, phases, blackouts, migrated, heard };
        show(instance, &trip);
        trip
    }
}

/// Moves the guest to the other host by pre-copy, with traffic all the time, and checks what the client saw.
#[track_caller]
pub(crate) fn move_guest(cloud: &mut Cloud, instance: &mut Instance, bytes_per_second: u64) -> Trip {
    let journey = Journey::begin(cloud, instance, bytes_per_second);
    let migrated = instance.hypervisor.wait_migrated();
    let trip = journey.arrive(cloud, instance, migrated);
    trip.assert_seamless();
    trip
}

/// Checks every step that the routes went through, on both hosts and on the client.
#[track_caller]
fn assert_routes(cloud: &Cloud, instance: &Instance, from: usize, lookout: &Lookout) {
    let (source, target) = (&cloud.hosts[from], &cloud.hosts[instance.at]);
    for net in instance.guest.routed() {
        let on_target = target.local_metrics_since(lookout.target, net);
        assert_eq!(on_target, [vec![], vec![ELEVATED], vec![ELEVATED, NORMAL], vec![NORMAL]], "{net}");
        let on_source = source.local_metrics_since(lookout.source, net);
        assert_eq!(on_source, [vec![NORMAL], vec![]], "{net}");
        let hops = [source, target].map(|host| host.address_like(net.addr()));
        assert_eq!(cloud.client.led_through(lookout.client, net), hops, "{net}");
    }
}

fn take_apart(
    cloud: &Cloud,
    instance: &Instance,
    switch: Blackout,
    lookout: &Lookout,
    phases: &[Phases],
    heard: &Heard,
) -> Vec<(IpNet, Blackout)> {
    let compute = &cloud.hosts[instance.at];
    let on_target = compute.watch.since(lookout.target);
    let on_tap = instance.guest.ports.iter().zip(&lookout.taps).map(|(port, tap)| tap.first_from(port.mac));
    let by_port = instance.guest.ports.iter().zip(phases).zip(on_tap);
    let nets = by_port.flat_map(|((port, phases), on_tap_at)| {
        port.routed().into_iter().map(move |net| (net, phases, on_tap_at))
    });
    nets.zip(&heard.datagrams)
        .map(|((net, phases, on_tap_at), (_, record))| {
            let next_hop = compute.address_like(net.addr());
            let answered_at = record.first_answer_since(switch.resumed_at);
            let blackout = Blackout {
                on_tap_at,
                routed_at: on_target.added_at(net, ELEVATED),
                client_routed_at: cloud.client.led_through_since(lookout.client, net, next_hop),
                answered_at,
                last_answer_at: answered_at.and_then(|at| record.last_answer_before(at)),
                ..switch.with_phases(phases)
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
            .map(|sent_at| Offset::between(blackout.resumed_at, sent_at))
            .collect();
        let (count, first) = (late.len(), late.first());
        assert_eq!(first, None, "{net}: {count} sent after the client had its route, and lost\n{blackout}");
        // What the source's guest had not got to when it was paused is lost as well, however long it had waited there: it answers in the
        // order in which they came. Of what is sent after that one may be answered that lies between others that were not, on a
        // machine whose processors keep what comes in for some time.
        let answered_last = record.answered().filter(|sent_at| *sent_at < blackout.paused_at).max();
        let early: Vec<Offset> = record
            .lost()
            .filter(|sent_at| Some(*sent_at) < answered_last)
            .map(|sent_at| Offset::between(blackout.resumed_at, sent_at))
            .collect();
        assert!(
            early.is_empty(),
            "{net}: lost before the guest was paused: {early:?}\n{:?}\n{blackout}",
            record.gaps()
        );
    }
}

/// Checks that TCP was silent for no longer than the network made it be.
///
/// What is not acknowledged TCP sends again after its timeout, then after twice as long, and so on. So the first thing that it
/// sends after a time without answers comes, at most, as long after the end of it as it lasted, and one timeout.
#[track_caller]
pub(crate) fn assert_tcp_went_on(heard: &Heard, timeout_before: Duration) {
    let dark = heard.datagrams.iter().map(|(_, record)| record.longest_silence()).max().unwrap_or_default();
    let timeout = timeout_before.max(heard.retransmission_timeout);
    let (silence, allowed) = (heard.bytes.longest_silence(), dark * 2 + timeout + WAKING);
    assert!(
        silence < allowed,
        "TCP was silent for {silence:?}, datagrams for {dark:?}, its timeout was {timeout:?}"
    );
}

impl Trip {
    /// Checks that the announcement brought the routes, and when things happened.
    #[track_caller]
    pub(crate) fn assert_seamless(&self) {
        for (net, blackout) in &self.blackouts {
            let on_tap_at = blackout.on_tap_at.expect("the guest was on the tap");
            let announced_at = blackout.announced_at.expect("it was announced");
            let acknowledged_at = blackout.acknowledged_at.expect("the fast path installed the routes");
            let routed_at = blackout.routed_at.expect("the route was elevated");
            let client_routed_at = blackout.client_routed_at.expect("the client learnt it");
            let ordered = blackout.paused_at < blackout.resumed_at
                && blackout.paused_at < on_tap_at
                // KERNEL: with XDP the program sees a frame before a packet socket does.
                && blackout.paused_at < announced_at
                && announced_at < acknowledged_at
                && announced_at < routed_at
                && announced_at < client_routed_at;
            assert!(ordered, "{net}\n{blackout}");
            let role_gone_at = self.phases.iter().filter_map(|phases| phases.role_gone_at).min();
            let role_gone_at = role_gone_at.expect("Nova has completed it");
            assert!(
                client_routed_at < role_gone_at,
                "{net} was followed no earlier than Nova's completion\n{blackout}"
            );
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
fn show(instance: &Instance, trip: &Trip) {
    let heard = &trip.heard;
    eprintln!(
        "{}: copied for {:?}; TCP silent for {:?}, its timeout {:?}",
        instance.guest.ports[0].workload,
        trip.migrated.total,
        heard.bytes.longest_silence(),
        heard.retransmission_timeout
    );
    for ((net, blackout), (_, record)) in trip.blackouts.iter().zip(&heard.datagrams) {
        let announced = blackout.announced_at.map(|at| record.lost_since(at));
        eprint!(
            "{net}: {} of {} datagrams lost, sent after the announcement: {announced:?}\n{blackout}",
            record.lost().count(),
            record.sent()
        );
    }
}
