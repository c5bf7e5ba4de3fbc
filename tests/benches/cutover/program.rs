//! What the kernel program costs on a frame that is no announcement, against a program that does nothing.

use crate::lane::Lane;
use crate::report::{Bound, Goal, Section};
use crate::site::{Site, Watcher};
use crate::system_call::{Hook, load_empty, open_pinned, run};
use anyhow::{Context as _, Result, ensure};
use cutover_common::names;
use cutover_tests::frames::{self, Frame};
use cutover_tests::statistics::Distribution;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::time::Duration;

/// How often a program runs in one system call.
const REPEAT: u32 = 100_000;

pub(crate) fn measure(rounds: usize) -> Result<Section> {
    let site = Site::new();
    let lane = Lane::new(&site.host, 1, 1, 1);
    let mut watcher = Watcher::load(&site, "program")?;
    watcher.arm(&lane)?;
    let programs = [(names::PROGRAM_TC, Hook::Tc), (names::PROGRAM_XDP, Hook::Xdp)];
    let frames = frames(&lane);
    let (mut rows, mut goals) = (Vec::new(), Vec::new());
    for (name, hook) in programs {
        let ours = open_pinned(&watcher.program(name)).context("opening the program")?;
        let empty = load_empty(hook).context("loading an empty program")?;
        for (kind, frame) in &frames {
            let [ours_ns, empty_ns] = in_turns([&ours, &empty], hook, frame, rounds)?;
            rows.push(vec![name.into(), (*kind).into(), nanos(ours_ns), nanos(empty_ns)]);
            goals.push(Goal {
                what: format!("{name} : empty program, {kind}"),
                measured: ours_ns / empty_ns,
                bound: Bound::AtMost(2.0),
            });
        }
    }
    watcher.disarm(&lane)?;
    Ok(Section {
        title: "A frame that is no announcement",
        method: format!(
            "BPF_PROG_TEST_RUN, {rounds} × {REPEAT} runs of each program, in turns, processor time of the calling \
             thread for one run (median of the {rounds}). It includes what the kernel does around a run, which is the \
             same for both. The program is attached only to taps of arriving guests; others pay nothing."
        ),
        columns: &["program", "frame", "one run", "one run of an empty program"],
        rows,
        goals,
        picture: None,
    })
}

/// What a guest that runs sends most of the time.
fn frames(lane: &Lane) -> [(&'static str, Frame); 3] {
    let guest = Ipv4Addr::new(10, 65, 1, 0);
    let peer = Ipv4Addr::new(192, 0, 2, 1);
    let guest6 = Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 0);
    let peer6 = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1);
    [
        ("IPv4, UDP", frames::udp(lane.mac, IpAddr::V4(guest), IpAddr::V4(peer), &[0; 64])),
        ("IPv6, UDP", frames::udp(lane.mac, IpAddr::V6(guest6), IpAddr::V6(peer6), &[0; 64])),
        ("ARP request", frames::arp_request(lane.mac, guest, peer)),
    ]
}

/// Nanoseconds that one run of each program takes.
fn in_turns(programs: [&OwnedFd; 2], hook: Hook, frame: &Frame, rounds: usize) -> Result<[f64; 2]> {
    let mut samples: [Vec<Duration>; 2] = Default::default();
    for _ in 0..rounds {
        for (program, samples) in programs.iter().zip(&mut samples) {
            let run = run(program, frame.bytes(), REPEAT)?;
            ensure!(run.returned == hook.pass(), "the program returned {}", run.returned);
            samples.push(run.took);
        }
    }
    Ok(samples.map(|samples| Distribution::of(samples).median().as_secs_f64() * 1e9 / f64::from(REPEAT)))
}

fn nanos(time_ns: f64) -> String {
    format!("{time_ns:.1} ns")
}
