//! How long the network takes to follow a machine: from its announcement through the BGP daemons to the first packet, for
//! each daemon and each way of peering.

mod plot;
mod sample;
mod stage;
mod stream;

use crate::report::{Bound, Goal, Section};
use anyhow::{Context as _, Result, ensure};
use cutover_tests::fabric::{Daemon, Shape};
use cutover_tests::statistics::Distribution;
use sample::Sample;
use stage::Stage;
use std::time::{Duration, Instant};

/// LIMIT: a migration takes less than a second; a machine that is so slow measures nothing.
const PER_MIGRATION: Duration = Duration::from_secs(5);

/// The 99th percentile of what BIRD should need with iBGP, to the third host's kernel.
const GOAL: Duration = Duration::from_millis(3);

/// By how much medians of the same thing differ here.
const NOISE: f64 = 1.2;

/// What is measured by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Case {
    daemon: Daemon,
    shape: Shape,
    /// The source forwards what still comes there.
    forwards: bool,
}

impl Case {
    /// Each fabric without and with.
    fn all() -> impl Iterator<Item = Self> {
        let shapes = [Shape::Mesh, Shape::Reflector, Shape::Tor];
        let fabrics = [Daemon::Bird, Daemon::Frr]
            .into_iter()
            .flat_map(move |daemon| shapes.map(|shape| (daemon, shape)));
        fabrics.flat_map(|(daemon, shape)| [false, true].map(|forwards| Self { daemon, shape, forwards }))
    }

    const fn name(self) -> &'static str {
        match (self.daemon, self.shape, self.forwards) {
            (Daemon::Bird, Shape::Mesh, false) => "BIRD, iBGP, full mesh",
            (Daemon::Bird, Shape::Mesh, true) => "BIRD, iBGP, full mesh, forwarding",
            (Daemon::Bird, Shape::Reflector, false) => "BIRD, iBGP, reflector",
            (Daemon::Bird, Shape::Reflector, true) => "BIRD, iBGP, reflector, forwarding",
            (Daemon::Bird, Shape::Tor, false) => "BIRD, eBGP, ToR",
            (Daemon::Bird, Shape::Tor, true) => "BIRD, eBGP, ToR, forwarding",
            (Daemon::Frr, Shape::Mesh, false) => "FRR, iBGP, full mesh",
            (Daemon::Frr, Shape::Mesh, true) => "FRR, iBGP, full mesh, forwarding",
            (Daemon::Frr, Shape::Reflector, false) => "FRR, iBGP, reflector",
            (Daemon::Frr, Shape::Reflector, true) => "FRR, iBGP, reflector, forwarding",
            (Daemon::Frr, Shape::Tor, false) => "FRR, eBGP, ToR",
            (Daemon::Frr, Shape::Tor, true) => "FRR, eBGP, ToR, forwarding",
        }
    }
}

/// What was seen of one case.
struct Seen {
    case: Case,
    samples: Vec<Sample>,
}

impl Seen {
    fn times(&self, of: fn(&Sample) -> Duration) -> Distribution {
        Distribution::of(self.samples.iter().map(of).collect())
    }

    fn all(&self, of: fn(&Sample) -> usize) -> usize {
        self.samples.iter().map(of).sum()
    }
}

/// `migrations` with BIRD, a quarter as many with FRR, which needs a hundred times as long and varies little.
pub(crate) fn measure(migrations: usize) -> Result<Section> {
    let mut seen = Vec::new();
    for case in Case::all() {
        let count = match case.daemon {
            Daemon::Bird => migrations,
            Daemon::Frr => migrations.div_ceil(4),
        };
        seen.push(Seen { case, samples: run(case, count).with_context(|| case.name())? });
    }
    Ok(section(&seen))
}

fn run(case: Case, migrations: usize) -> Result<Vec<Sample>> {
    let stage = Stage::new(case)?;
    let begun = Instant::now();
    let mut samples = Vec::new();
    // The first migration is not counted: everything in it happens for the first time.
    for number in 0..=migrations {
        let sample = stage.migrate().with_context(|| format!("migration {number}"))?;
        if number > 0 {
            samples.push(sample);
        }
        let limit = PER_MIGRATION * u32::try_from(number + 1)?;
        ensure!(begun.elapsed() < limit, "{} migrations took longer than {limit:?}", number + 1);
    }
    Ok(samples)
}

fn section(seen: &[Seen]) -> Section {
    Section {
        title: "The network follows: convergence over BGP",
        method: method(seen),
        columns: &[
            "hosts",
            "migrations",
            "announced → target's kernel: median",
            "p99",
            "→ last hop's kernel: median",
            "p99",
            "→ first packet on the target: median",
            "p99",
            "→ the source forwards: median",
            "p99",
            "packets sent before the last hop's route: all",
            "lost of those sent after the announcement: all",
            "most in one migration",
            "most to one address",
            "lost of those sent after the last hop's route: all",
        ],
        rows: seen.iter().map(row).collect(),
        goals: goals(seen),
        picture: Some(plot::convergence(seen)),
    }
}

fn row(seen: &Seen) -> Vec<String> {
    let mut row = vec![seen.case.name().into(), seen.samples.len().to_string()];
    let steps: [fn(&Sample) -> Duration; 3] =
        [|sample| sample.to_target, |sample| sample.to_last_hop, |sample| sample.to_packet];
    for step in steps {
        let times = seen.times(step);
        row.extend([times.median(), times.p99()].map(millis));
    }
    let forward: Vec<_> = seen.samples.iter().filter_map(|sample| sample.to_forward).collect();
    if forward.is_empty() {
        row.extend(["–", "–"].map(str::to_owned));
    } else {
        let times = Distribution::of(forward);
        row.extend([times.median(), times.p99()].map(millis));
    }
    let most = |of: fn(&Sample) -> usize| seen.samples.iter().map(of).max().unwrap_or_default();
    let counts = [
        seen.all(|s| s.between),
        seen.all(|s| s.lost),
        most(|s| s.lost),
        most(|s| s.lost_of_one),
        seen.all(|s| s.lost_late),
    ];
    row.extend(counts.map(|count| count.to_string()));
    row
}

fn goals(seen: &[Seen]) -> Vec<Goal> {
    let ibgp = seen.iter().filter(|seen| {
        seen.case.daemon == Daemon::Bird && seen.case.shape != Shape::Tor && !seen.case.forwards
    });
    let quick = ibgp.map(|seen| Goal {
        what: format!("{}, p99 of announced → third host's kernel, ms", seen.case.name()),
        measured: seen.times(|sample| sample.to_last_hop).p99().as_secs_f64() * 1e3,
        bound: Bound::AtMost(GOAL.as_secs_f64() * 1e3),
    });
    let lossless = seen.iter().filter(|seen| seen.case.forwards).flat_map(|seen| {
        let sorted = |of: fn(&Sample) -> usize| {
            let mut lost: Vec<_> = seen.samples.iter().map(of).collect();
            lost.sort_unstable();
            lost
        };
        let (lost, of_one) = (sorted(|sample| sample.lost), sorted(|sample| sample.lost_of_one));
        let goal = |what: &str, measured: usize, bound| Goal {
            what: format!("{}, packets lost after the announcement, {what}", seen.case.name()),
            measured: measured as f64,
            bound: Bound::AtMost(bound),
        };
        [
            goal("to both addresses (2,000 a second): median", lost[(lost.len() - 1) / 2], 0.0),
            goal("to one address (1,000 a second): most", of_one[of_one.len() - 1], 1.0),
        ]
    });
    let forwarding = seen.iter().filter(|seen| seen.case.forwards).flat_map(|seen| {
        let times = Distribution::of(seen.samples.iter().filter_map(|sample| sample.to_forward).collect());
        let goal = |what: &str, measured: Duration, bound| Goal {
            what: format!("{}, announced → the source forwards, {what}, ms", seen.case.name()),
            measured: measured.as_secs_f64() * 1e3,
            bound: Bound::AtMost(bound),
        };
        [goal("median", times.median(), 0.5), goal("p99", times.p99(), 2.0)]
    });
    let afterwards = Goal {
        what: "everybody, packets lost of those sent after the last hop's route".into(),
        measured: seen.iter().map(|seen| seen.all(|sample| sample.lost_late)).sum::<usize>() as f64,
        bound: Bound::AtMost(0.0),
    };
    quick.chain(lossless).chain(forwarding).chain(undelayed(seen)).chain([afterwards]).collect()
}

/// What forwarding costs those who do not need it: each fabric with it beside the same one without.
fn undelayed(seen: &[Seen]) -> impl Iterator<Item = Goal> {
    let pairs = seen.iter().filter(|seen| seen.case.forwards).filter_map(|with| {
        let plain = Case { forwards: false, ..with.case };
        Some((with, seen.iter().find(|seen| seen.case == plain)?))
    });
    pairs.map(|(with, without)| {
        let median = |seen: &Seen| seen.times(|sample| sample.to_target).median().as_secs_f64();
        Goal {
            what: format!("{} : without, median of announced → target's kernel", with.case.name()),
            measured: median(with) / median(without),
            bound: Bound::AtMost(NOISE),
        }
    })
}

fn method(seen: &[Seen]) -> String {
    let count = |daemon| {
        let of = seen.iter().find(|seen| seen.case.daemon == daemon);
        of.map_or(0, |seen| seen.samples.len())
    };
    format!(
        "{bird} migrations with BIRD and {frr} with FRR (the p99 of so few is the slowest one) in each fabric, one fabric after the other: source, target and a third \
         compute host in network namespaces with the configuration that `cutover bgp` prints, agents on source and target, \
         Debian's BIRD 2 or FRR on every host, also on the reflector and the ToR. The machine has one address of each family. \
         Before each announcement nothing changes for 80 ms (FRR: 250 ms), as two updates in a row can be 40 ms apart \
         ([bgp.md](bgp.md)); afterwards the migration is rolled back.\n\n\
         Times are from right before the RARP is written to the target's tap, on CLOCK_BOOTTIME, and each is that of the later \
         family. The kernels' are when another process (SCHED_FIFO) has the kernel's notification in its hands. The last hop is who chooses \
         between source and target for the client: the third host itself, which is the client with iBGP; the ToR with eBGP, \
         where the client is a host behind it that has no BGP. The client sends 1000 numbered packets in a second to each \
         address; the first one is the first that the hypervisor's end of the target's tap has after the announcement, so up \
         to a millisecond of that time is the stream's own. It may come before the last hop's route, when the source \
         forwards already.\n\n\
         With \"forwarding\" the agents of source and target talk to each other, and the source forwards what still comes there ([hitless.md](hitless.md)); \
         that time is until the source's agent has the kernel's acknowledgement. Each fabric was there without and with it, one after the other, in one run.\n\n\
         A packet is lost when it never comes out on the target's tap. What is sent after the announcement and before the route \
         goes to the source until that one forwards, and there is no machine there any more.\n\n\
         Not measured: other versions of the daemons, more than one machine at a time, full tables, real links between the \
         hosts (the lab's take microseconds), and what a real guest adds.",
        bird = count(Daemon::Bird),
        frr = count(Daemon::Frr),
    )
}

fn millis(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}
