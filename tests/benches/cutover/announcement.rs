//! From an announcement to one route: the fast path against the least that is possible, and against what one would
//! write without eBPF.

use crate::contender::{Contender, Cutover, Floor, PacketSocketAgent, Threads};
use crate::lane::Lane;
use crate::report::{Bound, Goal, Section};
use crate::rounds::{self, Times};
use crate::site::Site;
use anyhow::Result;
use cutover_tests::statistics::{Distribution, Micros, ratio};
use std::time::Duration;

/// `CutoverBusyPollMicros` of the spinning variant: longer than an announcement is waited for in a round.
const SPIN: Duration = Duration::from_millis(30);

pub(crate) fn measure(rounds: usize) -> Result<Section> {
    let site = Site::new();
    let lane = |number| Lane::new(&site.host, number, 1, 0);
    let mut contenders: Vec<Box<dyn Contender + '_>> = vec![
        Box::new(Floor::new(&site, lane(1))?),
        Box::new(Cutover::new(&site, "Cutover's fast path", lane(2), Duration::ZERO)?),
        Box::new(PacketSocketAgent::new(&site, lane(3), Threads::One)?),
        Box::new(PacketSocketAgent::new(&site, lane(4), Threads::Many)?),
        Box::new(Cutover::new(&site, "Cutover's fast path, spinning", lane(5), SPIN)?),
    ];
    let times = rounds::run(&mut contenders, rounds)?;
    let [floor, cutover, one_thread, many_threads, spinning] = times.as_slice() else { unreachable!() };
    Ok(Section {
        title: "From the announcement to the route",
        method: format!(
            "{rounds} gratuitous ARP requests for each contender, in turns, each on a tap of its own, written to the \
             tap as a hypervisor does it; one IPv4 route. Every contender sleeps when the frame comes, except for the \
             one that spins. All have the priority of the fast path (SCHED_FIFO; the one that spins, nice -20). \"Sent\" is \
             the moment right before the frame is written to the tap, \"seen\" is the time that the kernel program takes, \"routed\" is when \
             the thread that added the route has the kernel's \
             acknowledgement in its hands; all on CLOCK_BOOTTIME. The spinning fast path keeps a processor busy while \
             it is armed (`CutoverBusyPollMicros`).\n\n\
             Whoever sleeps has to be woken, which is most of the floor's time, too: by the median AF_PACKET takes \
             {:.2} times as long as the floor on one thread and {:.2} times on the default ones. More than that cannot \
             be won without spinning.",
            ratio(one_thread.from_sending.median(), floor.from_sending.median()),
            ratio(many_threads.from_sending.median(), floor.from_sending.median()),
        ),
        columns: &["", "sent → routed: median", "p99", "seen → routed: median", "p99"],
        rows: times.iter().map(row).collect(),
        goals: vec![
            at_most("median", seen(cutover).median(), seen(floor).median(), 1.25),
            at_most("p99", seen(cutover).p99(), seen(floor).p99(), 2.0),
            times_faster("AF_PACKET on tokio's default threads : fast path", many_threads, cutover),
            times_faster("AF_PACKET on one tokio thread : fast path", one_thread, cutover),
            times_faster(
                "AF_PACKET on tokio's default threads : fast path, spinning",
                many_threads,
                spinning,
            ),
            times_faster("AF_PACKET on one tokio thread : fast path, spinning", one_thread, spinning),
        ],
        picture: None,
    })
}

fn row(times: &Times) -> Vec<String> {
    let both = |distribution: &Distribution| {
        [Micros(distribution.median()).to_string(), Micros(distribution.p99()).to_string()]
    };
    let [median, p99] = both(&times.from_sending);
    let [seen_median, seen_p99] = times.from_program.as_ref().map_or(["–".into(), "–".into()], both);
    vec![times.name.into(), median, p99, seen_median, seen_p99]
}

fn seen(times: &Times) -> &Distribution {
    times.from_program.as_ref().unwrap_or(&times.from_sending)
}

fn at_most(figure: &str, this: Duration, floor: Duration, limit: f64) -> Goal {
    let what = format!("fast path : floor, {figure} of seen → routed");
    Goal { what, measured: ratio(this, floor), bound: Bound::AtMost(limit) }
}

fn times_faster(what: &str, slow: &Times, fast: &Times) -> Goal {
    let measured = ratio(slow.from_sending.median(), fast.from_sending.median());
    Goal { what: format!("{what}, median of sent → routed"), measured, bound: Bound::AtLeast(3.0) }
}
