//! What neighbours that change without end cost the agent, against a listener that reads every notification about them.

use crate::report::{Bound, Goal, Section};
use crate::scale::Usage;
use anyhow::{Context as _, Result, ensure};
use cutover_tests::neighbour_flood::Changes;
use cutover_tests::scene::SOURCE;
use cutover_tests::statistics::Distribution;
use cutover_tests::{Agent, Driver, Host, Lab, Port};
use netlink_packet_core::{NetlinkBuffer, Parseable};
use netlink_packet_route::neighbour::NeighbourMessage;
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};
use nix::time::{ClockId, clock_gettime};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How many there are of one flood.
const NOTIFICATIONS: usize = 100_000;
/// The agent reads neighbours a second after a flood.
const AFTERWARDS: Duration = Duration::from_secs(2);
/// LIMIT: a buffer for all of them, so that the listener loses none.
const RECEIVE_BUFFER_BYTES: usize = 256 << 20;

pub(crate) fn measure(rounds: usize) -> Result<Section> {
    let lab = Lab::new();
    let directory = lab.directory();
    let port = Port::new(1);
    let host = lab.host(SOURCE);
    let tap = host.plug(&port.interface, port.tap_mac());
    let _guest = tap.open();
    Driver::new(&directory, &port).bind(SOURCE);
    let mut agent = Agent::new(&lab, &host, &directory);
    agent.start();
    agent.wait_up(&port);
    let (mut rows, mut goals) = (Vec::new(), Vec::new());
    for (name, interface, most) in [("an uplink", "eth0", 0.05), ("a VM's tap", &port.interface, 0.2)] {
        let (mut ours, mut plain) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            let (agent, listener) = one_flood(&host, &agent, interface)?;
            ours.push(agent);
            plain.push(listener);
        }
        let (ours, plain) = (Distribution::of(ours).median(), Distribution::of(plain).median());
        rows.push(vec![name.into(), millis(ours), millis(plain)]);
        goals.push(Goal {
            what: format!("agent : listener, flood on {name}"),
            measured: ours.as_secs_f64() / plain.as_secs_f64(),
            bound: Bound::AtMost(most),
        });
    }
    Ok(Section {
        title: "Neighbours that change without end",
        method: format!(
            "{rounds} floods of {NOTIFICATIONS} changes of neighbours that are no concern of the agent's, as fast as the kernel \
             takes them, on an interface of the host's and on a VM's tap: what a large network does, and what a guest can bring \
             about. Processor time (median) of the agent as a process until {} s afterwards, and at the same time of a thread that \
             is notified of the same and reads each message with the crate netlink-packet-route.",
            AFTERWARDS.as_secs()
        ),
        columns: &["flood on", "agent", "a listener that reads each"],
        rows,
        goals,
        picture: None,
    })
}

fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

/// Processor time of the agent and of the listener.
fn one_flood(host: &Host, agent: &Agent, interface: &str) -> Result<(Duration, Duration)> {
    let changes = Changes::on(host.namespace(), interface);
    let (is_over, listener) = listen(host)?;
    let before = Usage::of(agent)?.cpu;
    for _ in 0..NOTIFICATIONS.div_ceil(changes.count()) {
        changes.write();
    }
    thread::sleep(AFTERWARDS);
    let ours = Usage::of(agent)?.cpu - before;
    is_over.store(true, Ordering::Relaxed);
    let (heard, plain) = listener.join().ok().context("the listener failed")??;
    ensure!(heard >= NOTIFICATIONS, "the listener heard {heard} of {NOTIFICATIONS}");
    Ok((ours, plain))
}

type Listener = JoinHandle<Result<(usize, Duration)>>;

/// A thread that reads everything about neighbours until it is told that it is over and there is nothing left.
fn listen(host: &Host) -> Result<(Arc<AtomicBool>, Listener)> {
    let socket = host.namespace().run(|| -> Result<Socket> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER_BYTES)?;
        socket.bind_auto()?;
        socket.add_membership(libc::RTNLGRP_NEIGH)?;
        Ok(socket)
    })?;
    let is_over = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&is_over);
    Ok((is_over, thread::spawn(move || read_all(&socket, &told))))
}

fn read_all(socket: &Socket, is_over: &AtomicBool) -> Result<(usize, Duration)> {
    let before = Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?);
    let mut heard = 0;
    let mut buffer = vec![0; 64 << 10];
    loop {
        match socket.recv(&mut &mut buffer[..], libc::MSG_DONTWAIT) {
            Ok(length) => {
                let message = NetlinkBuffer::new_checked(&buffer[..length])?;
                heard += usize::from(NeighbourMessage::parse(message.payload())?.header.ifindex > 0);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                if is_over.load(Ordering::Relaxed) {
                    break;
                }
                poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], PollTimeout::from(100_u8))?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok((heard, Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?) - before))
}
