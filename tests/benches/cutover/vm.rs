//! Real guests that migrate, again and again, in clouds that differ in what makes the network follow them only.

mod apart;
mod bed;
mod by_hand;
mod plot;
mod sample;

use crate::report::{Bound, Goal, Section};
use crate::rounds;
use anyhow::{Context as _, Result, ensure};
use bed::{Bed, WithAgents};
use by_hand::{OnAnnouncement, OnCompletion};
use cutover_tests::blackout::Blackout;
use cutover_tests::cloud::Traffic;
use cutover_tests::statistics::Distribution;
use cutover_tests::stream::PERIOD;
use cutover_tests::{Port, wait};
use sample::Sample;
use std::thread::sleep;
use std::time::Duration;

/// How long the traffic goes undisturbed before and after.
const SETTLING: Duration = Duration::from_millis(300);

/// As fast as it goes: a throttled copy takes longer and ends in the same way.
const BYTES_PER_SECOND: u64 = 10 << 30;

/// What was seen of one contender.
struct Seen {
    name: &'static str,
    samples: Vec<Sample>,
}

pub(crate) fn measure(migrations: usize) -> Result<Vec<Section>> {
    let mut beds: Vec<Box<dyn Bed>> = vec![
        Box::new(WithAgents::new("Cutover", "announcement")),
        Box::new(WithAgents::new("Cutover, `CutoverTrigger = first-frame`", "first-frame")),
        Box::new(OnAnnouncement::new()?),
        Box::new(OnCompletion::new()?),
    ];
    let mut seen: Vec<Seen> = beds.iter().map(|bed| Seen { name: bed.name(), samples: Vec::new() }).collect();
    // The first migration of each is not counted: everything in it happens for the first time.
    for round in 0..=migrations {
        for index in rounds::order(round, beds.len()) {
            let bed = beds[index].as_mut();
            let sample = one(bed).with_context(|| format!("{}, migration {round}", bed.name()))?;
            if round > 0 {
                seen[index].samples.push(sample);
            }
        }
    }
    Ok(vec![section(migrations, &seen), apart::section(&seen)])
}

/// Moves the guest to the other host.
fn one(bed: &mut dyn Bed) -> Result<Sample> {
    let traffic = Traffic::start(bed.cloud().client.host.namespace(), &bed.instance().guest, PERIOD);
    sleep(SETTLING);
    let migration = bed.prepare()?;
    let retransmission_timeout = traffic.retransmission_timeout();
    bed.instance().hypervisor.begin_migration(&migration.arrival, BYTES_PER_SECOND);
    bed.follow(&migration)?;
    let _migrated = bed.instance().hypervisor.wait_migrated();
    let paused_at = bed.instance().hypervisor.qmp().wait_event(wait::SOON, "STOP").at;
    let resumed_at = migration.arrival.qmp().wait_event(wait::SOON, "RESUME").at;
    let mut blackout = Blackout::new(paused_at, resumed_at);
    let net = bed.instance().guest.routed()[0];
    let (from, to) = (bed.instance().at, migration.to);
    let next_hop = bed.cloud().hosts[to].address_like(net.addr());
    bed.cloud().client.wait_led_through(wait::SOON, net, next_hop);
    let (client, target) = (migration.lookout.client, migration.lookout.target);
    blackout.on_tap_at = migration.lookout.taps[0].first_from(bed.instance().guest.ports[0].mac);
    sleep(SETTLING);
    bed.complete(migration, &mut blackout)?;
    ensure!(bed.instance().at == to && from != to, "the guest is on the other host");
    let heard = traffic.finish();
    blackout.routed_at = bed.cloud().hosts[to].local_route_since(target, net);
    blackout.client_routed_at = bed.cloud().client.led_through_since(client, net, next_hop);
    Sample::of(&heard, blackout, retransmission_timeout)
}

fn section(migrations: usize, seen: &[Seen]) -> Section {
    let cutover = &seen[0];
    let tcp = cutover.samples.iter().map(Sample::tcp_ratio).fold(0.0, f64::max);
    Section {
        title: "Live migration of real guests",
        method: method(migrations),
        columns: &[
            "what makes the network follow",
            "downtime: median",
            "added: median",
            "p99",
            "datagrams lost: median",
            "most",
            "all of those sent after the announcement",
            "after the client's route",
            "route → answer: median",
            "TCP silent: median",
            "longest",
        ],
        rows: seen.iter().map(row).collect(),
        goals: vec![
            Goal {
                what: "Cutover, median of what it adds to the downtime, ms".into(),
                measured: added(cutover).median().as_secs_f64() * 1e3,
                bound: Bound::AtMost(2.0),
            },
            Goal {
                what: format!(
                    "Cutover, datagrams lost in {migrations} migrations of those that were sent after the announcement"
                ),
                measured: total(cutover, |sample| sample.lost_announced) as f64,
                bound: Bound::AtMost(0.0),
            },
            Goal {
                what: "Cutover, of those that were sent after the client's route led to the target".into(),
                measured: total(cutover, |sample| sample.lost_routed) as f64,
                bound: Bound::AtMost(0.0),
            },
            Goal {
                what: "Cutover, longest silence of TCP : downtime and one retransmission timeout".into(),
                measured: tcp,
                bound: Bound::AtMost(1.0),
            },
        ],
        picture: Some(plot::added(seen)),
    }
}

fn method(migrations: usize) -> String {
    format!(
        "{migrations} migrations for each, in turns, of a guest of 128 MiB with one IPv4 address: QEMU (TCG, no KVM), \
         Debian's cloud kernel, virtio-net on a tap; BIRD, as `cutover bgp bird` configures it, carries the routes by iBGP between both compute hosts and the client. The client \
         sends 1000 numbered datagrams in a second, and 200 times in a second eight bytes on one TCP connection; the guest sends all of it back. \
         With Cutover: two agents on one etcd, `cutover migrate` in Nova's role. \"AF_PACKET\" is a packet socket on the tap in place \
         of the agent, read and answered with etherparse and rtnetlink on tokio's default threads, with the fast path's priority. \"On \
         completion\" moves the route as soon as the source's QEMU reports that it is done, which is the best that an \
         orchestrator could do with pre-copy and may be before the guest runs; a real one takes longer, and with post-copy the \
         source is done long after the guest runs.\n\n\
         \"Downtime\" is from QEMU's STOP on the source to its RESUME on the target. \"Added\" is from RESUME to the client's \
         kernel having a best route that leads to the target: what the network is late. \"Announcement\" is the first frame of the \
         guest on the target's tap, by the kernel's time stamp: whatever the client sends from then until its route has changed \
         still goes to the source. \"Route → answer\" is from there to the \
         first answer, which is how long an emulated guest takes that has just arrived (its code has to be translated anew) \
         and nothing that a network could change. With fewer than 100 migrations, p99 is the worst. All times are on CLOCK_BOOTTIME (QEMU's, which are on CLOCK_REALTIME, are \
         converted with the offset at that moment)."
    )
}

fn added(seen: &Seen) -> Distribution {
    Distribution::of(seen.samples.iter().map(|sample| sample.added).collect())
}

fn total(seen: &Seen, lost: fn(&Sample) -> usize) -> usize {
    seen.samples.iter().map(lost).sum()
}

fn row(seen: &Seen) -> Vec<String> {
    let times = |of: fn(&Sample) -> Duration| Distribution::of(seen.samples.iter().map(of).collect());
    let added = added(seen);
    let silent = times(|sample| sample.tcp_silence);
    let mut lost: Vec<usize> = seen.samples.iter().map(|sample| sample.lost).collect();
    lost.sort_unstable();
    vec![
        seen.name.into(),
        millis(times(|sample| sample.blackout.downtime()).median()),
        millis(added.median()),
        millis(added.p99()),
        lost[(lost.len() - 1) / 2].to_string(),
        lost[lost.len() - 1].to_string(),
        total(seen, |sample| sample.lost_announced).to_string(),
        total(seen, |sample| sample.lost_routed).to_string(),
        millis(times(|sample| sample.answered_after).median()),
        millis(silent.median()),
        millis(silent.percentile(100)),
    ]
}

fn millis(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}

/// The guest of every bed.
fn port() -> Port {
    let mut port = Port::new(1);
    port.addresses.retain(|net| net.addr().is_ipv4());
    port
}
