//! What becomes of every datagram that is sent to a guest while it moves, and of a TCP connection, by what the agents do.

use super::sample::Sample;
use super::{ALONE, Case, FORWARD, HOLD, LONG, LONG_HOLD, Seen, counts, millis, of, plot, total};
use crate::report::{Bound, Goal, Section};
use cutover_tests::statistics::Distribution;
use std::time::Duration;

const COMPARED: [Case; 5] = [ALONE, FORWARD, HOLD, LONG, LONG_HOLD];

/// With Hold.
const HELD: [Case; 2] = [HOLD, LONG_HOLD];

pub(super) fn section(migrations: usize, seen: &[Seen]) -> Section {
    let compared = of(seen, &COMPARED);
    let forward = counts(of(seen, &[FORWARD])[0], |sample| sample.lost_announced);
    let announced = |what: &str, measured: usize, bound| Goal {
        what: format!("{}, datagrams lost of those sent after the announcement: {what}", FORWARD.name),
        measured: measured as f64,
        bound: Bound::AtMost(bound),
    };
    let forward = [announced("median", forward.median, 0.0), announced("most", forward.most, 1.0)];
    let held = of(seen, &HELD).into_iter().flat_map(held);
    Section {
        title: "Forward and Hold with real guests",
        method: method(migrations),
        columns: &[
            "what the agents do",
            "downtime: median",
            "stop → the source forwards: median",
            "p99",
            "datagrams lost in all: median",
            "most",
            "of those sent after the announcement: all",
            "since the source forwarded: all",
            "answered twice: all",
            "out of order: all",
            "TCP silent: median",
            "longest",
            "in place: median",
            "longest",
        ],
        rows: compared.iter().map(|seen| row(seen)).collect(),
        goals: forward.into_iter().chain(held).collect(),
        picture: Some(plot::lost(&compared)),
    }
}

/// What nothing is lost with.
fn held(seen: &Seen) -> Vec<Goal> {
    let goal = |what: &str, measured: f64, bound| Goal {
        what: format!("{}, {what}", seen.case.name),
        measured,
        bound: Bound::AtMost(bound),
    };
    let lost = counts(seen, |sample| sample.lost);
    let beyond = seen.samples.iter().filter_map(Sample::tcp_beyond).max().unwrap_or(Duration::MAX);
    vec![
        goal("datagrams lost in all: median", lost.median as f64, 0.0),
        goal("datagrams lost in all: most", lost.most as f64, 2.0),
        goal("datagrams answered twice", total(seen, |sample| sample.repeated) as f64, 0.0),
        goal("datagrams out of order", total(seen, |sample| sample.overtaken) as f64, 0.0),
        goal(
            "TCP's longest silence beyond downtime and silence in place, ms",
            beyond.as_secs_f64() * 1e3,
            10.0,
        ),
    ]
}

fn row(seen: &Seen) -> Vec<String> {
    let samples = &seen.samples;
    let forwarded: Vec<_> = samples.iter().filter_map(Sample::stopped_to_forwarded).collect();
    let in_place: Vec<_> = samples.iter().filter_map(|sample| sample.tcp_silence_in_place).collect();
    let times = |times: Vec<Duration>, percents: [usize; 2]| {
        let times = (!times.is_empty()).then(|| Distribution::of(times));
        percents.map(|percent| times.as_ref().map_or("–".to_owned(), |it| millis(it.percentile(percent))))
    };
    let lost = counts(seen, |sample| sample.lost);
    let since = samples.iter().map(|sample| sample.lost_forwarded).sum::<Option<usize>>();
    let downtime = Distribution::of(samples.iter().map(|sample| sample.blackout.downtime()).collect());
    let mut row = vec![seen.case.name.to_owned(), millis(downtime.median())];
    row.extend(times(forwarded, [50, 99]));
    row.extend([
        lost.median.to_string(),
        lost.most.to_string(),
        total(seen, |sample| sample.lost_announced).to_string(),
        since.map_or("–".to_owned(), |lost| lost.to_string()),
        total(seen, |sample| sample.repeated).to_string(),
        total(seen, |sample| sample.overtaken).to_string(),
    ]);
    row.extend(times(samples.iter().map(|sample| sample.tcp_silence).collect(), [50, 100]));
    row.extend(times(in_place, [50, 100]));
    row
}

fn method(migrations: usize) -> String {
    format!(
        "The same guest, {migrations} migrations for each, in turns with those above. With a \"long pause\" QEMU keeps the guest paused for \
         300 ms before it goes on over there (`pause-before-switchover`), as one that has much to copy at the end, and the client sends \
         10,000 datagrams in a second, until 300 ms after its route leads to the target. \"Lost in all\" is every datagram of the whole stream that was never answered: the guest sends \
         each back, so what an emulated guest or the way back loses counts as well. \"The source forwards\" when its agent has the \
         kernel's acknowledgement; with Hold that is after QMP has said STOP to the bench, and the bench has told the agent. \
         \"Out of order\" is an answer that came after one to a later datagram. \"In place\" is the longest silence of a TCP connection with \
         the same guest after the migration, stopped and continued by QMP's `stop` and `cont` for as long as the downtime was: no \
         migration, no network."
    )
}
