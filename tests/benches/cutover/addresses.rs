//! A guest with eight addresses against a guest with one, and against what one would write without eBPF.

use crate::contender::{Contender, Cutover, PacketSocketAgent, Threads};
use crate::lane::Lane;
use crate::report::{Bound, Goal, Section};
use crate::rounds;
use crate::site::Site;
use anyhow::Result;
use cutover_tests::statistics::{Micros, ratio};
use std::time::Duration;

pub(crate) fn measure(rounds: usize) -> Result<Section> {
    let site = Site::new();
    let one =
        Cutover::new(&site, "1 IPv4 address: fast path", Lane::new(&site.host, 1, 1, 0), Duration::ZERO)?;
    let eight = Lane::new(&site.host, 2, 4, 4);
    let eight = Cutover::new(&site, "4 IPv4 and 4 IPv6 addresses: fast path", eight, Duration::ZERO)?;
    let packet_socket = PacketSocketAgent::new(&site, Lane::new(&site.host, 3, 4, 4), Threads::One)?
        .called("4 IPv4 and 4 IPv6 addresses: AF_PACKET, etherparse, rtnetlink on one tokio thread");
    let mut contenders: Vec<Box<dyn Contender + '_>> =
        vec![Box::new(one), Box::new(eight), Box::new(packet_socket)];
    let times = rounds::run(&mut contenders, rounds)?;
    let rows = times.iter().map(|times| {
        let distribution = &times.from_sending;
        vec![
            times.name.into(),
            Micros(distribution.median()).to_string(),
            Micros(distribution.p99()).to_string(),
        ]
    });
    let measured = ratio(times[1].from_sending.median(), times[0].from_sending.median());
    Ok(Section {
        title: "Many addresses",
        method: format!(
            "{rounds} announcements each, in turns, the routes of a guest all at once, everybody with the priority of \
             the fast path. The time is from right before the frame is written to the tap until the kernel has \
             acknowledged the last of all routes."
        ),
        columns: &["guest with", "sent → all routed: median", "p99"],
        rows: rows.collect(),
        goals: vec![Goal {
            what: "eight addresses : one, median".into(),
            measured,
            bound: Bound::AtMost(3.0),
        }],
        picture: None,
    })
}
