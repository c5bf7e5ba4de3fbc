//! Real guests that migrate, again and again, in clouds that differ in what makes the network follow them, and in ways that differ in
//! what is sent to them, how long they stop and who hears of that.

mod apart;
mod bed;
mod by_hand;
mod lossless;
mod manner;
mod plot;
mod sample;

use crate::report::{Bound, Goal, Section};
use crate::rounds;
use anyhow::{Context as _, Result, ensure};
use bed::{Bed, WithAgents};
use by_hand::{OnAnnouncement, OnCompletion};
use cutover_daemon::clock;
use cutover_tests::blackout::Blackout;
use cutover_tests::cloud::Traffic;
use cutover_tests::statistics::Distribution;
use cutover_tests::{Port, wait};
use manner::Manner;
use sample::Sample;
use std::thread::sleep;
use std::time::Duration;

/// How long the traffic goes undisturbed before and after.
const SETTLING: Duration = Duration::from_millis(300);

/// As fast as it goes: a throttled copy takes longer and ends in the same way.
const BYTES_PER_SECOND: u64 = 10 << 30;

/// What is measured by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Case {
    name: &'static str,
    /// Which of the beds.
    bed: usize,
    manner: Manner,
}

const ALONE: Case =
    Case { name: "Cutover, agents that do not talk to each other", bed: 0, manner: Manner::PLAIN };
const FORWARD: Case = Case { name: "Cutover, Forward", bed: 1, manner: Manner::PLAIN };
const HOLD: Case = Case { name: "Cutover, Forward and Hold", bed: 1, manner: Manner::HOLD };
const LONG: Case = Case { name: "Cutover, Forward, long pause", bed: 1, manner: Manner::LONG };
const LONG_HOLD: Case =
    Case { name: "Cutover, Forward and Hold, long pause", bed: 1, manner: Manner::LONG_HOLD };
const FIRST_FRAME: Case =
    Case { name: "Cutover, Forward, `CutoverTrigger = first-frame`", bed: 2, manner: Manner::PLAIN };
const ON_ANNOUNCEMENT: Case = Case { name: "AF_PACKET in place of the agent", bed: 3, manner: Manner::PLAIN };
const ON_COMPLETION: Case =
    Case { name: "no agent, route moved on completion", bed: 4, manner: Manner::PLAIN };

/// What is compared by how soon the network follows.
const FOLLOWING: [Case; 6] = [ALONE, FORWARD, HOLD, FIRST_FRAME, ON_ANNOUNCEMENT, ON_COMPLETION];

const CASES: [Case; 8] = [ALONE, FORWARD, HOLD, FIRST_FRAME, ON_ANNOUNCEMENT, ON_COMPLETION, LONG, LONG_HOLD];

/// What was seen of one case.
struct Seen {
    case: Case,
    samples: Vec<Sample>,
}

/// What was seen of these, in their order.
fn of<'a>(seen: &'a [Seen], cases: &[Case]) -> Vec<&'a Seen> {
    let find = |case: &Case| seen.iter().find(|seen| seen.case == *case).expect("every case is measured");
    cases.iter().map(find).collect()
}

pub(crate) fn measure(migrations: usize) -> Result<Vec<Section>> {
    let mut beds: [Box<dyn Bed>; 5] = [
        Box::new(WithAgents::new(&[("CutoverPeering", "off")])),
        Box::new(WithAgents::new(&[])),
        Box::new(WithAgents::new(&[("CutoverTrigger", "first-frame")])),
        Box::new(OnAnnouncement::new()?),
        Box::new(OnCompletion::new()?),
    ];
    let mut seen = CASES.map(|case| Seen { case, samples: Vec::new() });
    // The first migration of each is not counted: everything in it happens for the first time.
    for round in 0..=migrations {
        for index in rounds::order(round, seen.len()) {
            let Seen { case, samples } = &mut seen[index];
            let bed = beds[case.bed].as_mut();
            let sample =
                one(bed, case.manner).with_context(|| format!("{}, migration {round}", case.name))?;
            if round > 0 {
                samples.push(sample);
            }
        }
    }
    Ok(vec![section(migrations, &seen), apart::section(&seen), lossless::section(migrations, &seen)])
}

/// Moves the guest to the other host.
fn one(bed: &mut dyn Bed, manner: Manner) -> Result<Sample> {
    let migration = bed.prepare()?;
    let traffic = Traffic::start(bed.cloud().client.host.namespace(), &bed.instance().guest, manner.period);
    sleep(SETTLING);
    let retransmission_timeout = traffic.retransmission_timeout();
    manner.prepare(bed);
    let begun_at = clock::now();
    bed.instance().hypervisor.begin_migration(&migration.arrival, BYTES_PER_SECOND);
    manner.follow(bed, begun_at)?;
    bed.follow(&migration)?;
    let _migrated = bed.instance().hypervisor.wait_migrated();
    let paused_at = bed.instance().hypervisor.qmp().wait_event_since(wait::SOON, "STOP", begun_at).at;
    let resumed_at = migration.arrival.qmp().wait_event_since(wait::SOON, "RESUME", begun_at).at;
    let mut blackout = Blackout::new(paused_at, resumed_at);
    let net = bed.instance().guest.routed()[0];
    let (from, to) = (bed.instance().at, migration.to);
    let next_hop = bed.cloud().hosts[to].address_like(net.addr());
    bed.cloud().client.wait_led_through(wait::SOON, net, next_hop);
    let (client, target) = (migration.lookout.client, migration.lookout.target);
    // Without an agent the route may be moved before the guest has said anything.
    let mac = bed.instance().guest.ports[0].mac;
    let first = || migration.lookout.taps[0].first_from(mac);
    blackout.on_tap_at = Some(wait::for_some(wait::SOON, "the guest on the target's tap", first));
    sleep(SETTLING);
    // What an emulated guest cannot answer in the long run says nothing of the pause.
    let (traffic, heard) =
        if manner.pause.is_some() { (None, Some(traffic.finish())) } else { (Some(traffic), None) };
    bed.complete(migration, &mut blackout)?;
    ensure!(bed.instance().at == to && from != to, "the guest is on the other host");
    let heard = heard.or_else(|| traffic.map(Traffic::finish)).context("traffic")?;
    blackout.routed_at = bed.cloud().hosts[to].local_route_since(target, net);
    blackout.client_routed_at = bed.cloud().client.led_through_since(client, net, next_hop);
    let mut sample = Sample::of(&heard, blackout, retransmission_timeout)?;
    if manner.tells {
        sample.tcp_silence_in_place = Some(in_place(bed, manner, blackout.downtime()));
    }
    Ok(sample)
}

/// The longest silence of TCP when the guest stops and goes on where it is.
fn in_place(bed: &dyn Bed, manner: Manner, pause: Duration) -> Duration {
    let instance = bed.instance();
    let traffic = Traffic::start(bed.cloud().client.host.namespace(), &instance.guest, manner.period);
    sleep(SETTLING);
    let _when = instance.hypervisor.pause_in_place(pause);
    sleep(SETTLING);
    traffic.finish().bytes.longest_silence()
}

fn section(migrations: usize, seen: &[Seen]) -> Section {
    let following = of(seen, &FOLLOWING);
    let cutover = of(seen, &[FORWARD])[0];
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
        rows: following.iter().map(|seen| row(seen)).collect(),
        goals: vec![
            Goal {
                what: "Cutover, Forward, median of what it adds to the downtime, ms".into(),
                measured: added(cutover).median().as_secs_f64() * 1e3,
                bound: Bound::AtMost(2.0),
            },
            Goal {
                what: "Cutover, Forward, of those that were sent after the client's route led to the target"
                    .into(),
                measured: total(cutover, |sample| sample.lost_routed) as f64,
                bound: Bound::AtMost(0.0),
            },
            Goal {
                what: "Cutover, Forward, longest silence of TCP : downtime and one retransmission timeout"
                    .into(),
                measured: tcp,
                bound: Bound::AtMost(1.0),
            },
        ],
        picture: Some(plot::added(&following)),
    }
}

fn method(migrations: usize) -> String {
    format!(
        "{migrations} migrations for each, in turns, of a guest of 128 MiB with one IPv4 address: QEMU (TCG, no KVM), \
         Debian's cloud kernel, virtio-net on a tap whose queue has the usual length; BIRD, as `cutover bgp bird` configures it, carries the routes by iBGP between both compute hosts and the client. The client \
         sends 1000 numbered datagrams in a second, and 200 times in a second eight bytes on one TCP connection; the guest sends all of it back. \
         With Cutover: two agents on one etcd, `cutover migrate` in Nova's role. They talk to each other, and the source forwards from the \
         announcement on ([hitless.md](hitless.md)); \"agents that do not talk\" have `CutoverPeering = off`; with \"Hold\", \
         the source's agent is told over its control socket when QEMU says STOP, as `cutover migrate pause --machine` does, by a process that is there already and whose threads come before ordinary ones, because emulated guests leave no processor free. \"AF_PACKET\" is a packet socket on the tap in place \
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

/// Of something that is counted in each migration.
struct Counts {
    median: usize,
    most: usize,
}

fn counts(seen: &Seen, of: fn(&Sample) -> usize) -> Counts {
    let mut counts: Vec<usize> = seen.samples.iter().map(of).collect();
    counts.sort_unstable();
    Counts { median: counts[(counts.len() - 1) / 2], most: counts[counts.len() - 1] }
}

fn row(seen: &Seen) -> Vec<String> {
    let times = |of: fn(&Sample) -> Duration| Distribution::of(seen.samples.iter().map(of).collect());
    let added = added(seen);
    let silent = times(|sample| sample.tcp_silence);
    let lost = counts(seen, |sample| sample.lost);
    vec![
        seen.case.name.into(),
        millis(times(|sample| sample.blackout.downtime()).median()),
        millis(added.median()),
        millis(added.p99()),
        lost.median.to_string(),
        lost.most.to_string(),
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
