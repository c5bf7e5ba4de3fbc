//! A virtual machine with a network stack of its own: a namespace that is moved from host to host by connecting
//! its interface to another tap. Its addresses and its hardware address stay, as in a live migration.

use crate::lab::Lab;
use crate::namespace::Namespace;
use crate::resources::Port;
use crate::tap::{self, OpenTap};
use cutover_common::MacAddr;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::thread::JoinHandle;

/// The guest. Not running anywhere at first.
#[derive(Debug)]
pub struct Vm {
    namespace: Namespace,
    interface: Arc<File>,
    running: Option<Running>,
    echo: Option<Echo>,
}

#[derive(Debug)]
struct Running {
    stop: io::PipeWriter,
    pump: JoinHandle<OpenTap>,
}

#[derive(Debug)]
struct Echo {
    stop: io::PipeWriter,
    thread: JoinHandle<()>,
}

/// Where every guest answers datagrams with the same datagram.
pub const ECHO_PORT: u16 = 7;

/// LIMIT: as many as can wait in a queue of a tap. The guest's own interface has room for a tenth of that otherwise, and loses the newest.
const ANSWERS: u32 = 10_000;

/// LIMIT: what can wait in a queue of a tap, as the kernel counts the bytes of small datagrams.
const ECHO_BUFFER_BYTES: usize = 16 << 20;

impl Vm {
    /// A guest with the addresses of `port`, whose gateway is the tap of whichever host it runs on.
    ///
    /// # Panics
    /// Without root.
    #[must_use]
    pub fn create(lab: &Lab, name: &str, port: &Port) -> Self {
        let namespace = Namespace::create(&format!("{}{name}", lab.prefix()));
        let interface = namespace.run(|| tap::open("eth0")).expect("a tap needs root");
        let gateway = port.tap_mac();
        // A guest that finds a second of packets at once answers all of them.
        let mut script =
            format!("link set eth0 address {} txqueuelen {ANSWERS}\nlink set eth0 up\n", port.mac);
        for address in &port.addresses {
            let nodad = if address.addr().is_ipv6() { " nodad" } else { "" };
            script += &format!("addr add {address} dev eth0{nodad}\n");
        }
        script += &format!(
            "neigh add 169.254.1.1 lladdr {gateway} nud permanent dev eth0\n\
             route add default via 169.254.1.1 dev eth0 onlink\n\
             neigh add fe80::1 lladdr {gateway} nud permanent dev eth0\n\
             route add default via fe80::1 dev eth0\n"
        );
        namespace.ip(&script);
        let echo = Some(Echo::start(&namespace));
        Self { namespace, interface: Arc::new(interface), running: None, echo }
    }

    /// Its namespace.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Runs on the host of this tap. Frames flow from now on.
    ///
    /// # Panics
    /// When it is running already.
    pub fn resume(&mut self, tap: OpenTap) {
        assert!(self.running.is_none(), "a virtual machine runs in one place at a time");
        let (until_closed, stop) = io::pipe().expect("a pipe");
        let interface = Arc::clone(&self.interface);
        let pump = std::thread::spawn(move || {
            pump(&interface, &tap, &until_closed);
            tap
        });
        self.running = Some(Running { stop, pump });
    }

    /// Stops running and gives the tap back, which keeps its carrier until that is dropped.
    pub fn pause(&mut self) -> Option<OpenTap> {
        let Running { stop, pump } = self.running.take()?;
        drop(stop);
        pump.join().ok()
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        drop(self.pause());
        if let Some(Echo { stop, thread }) = self.echo.take() {
            drop(stop);
            let _ = thread.join();
        }
    }
}

/// Copies frames both ways until the pipe is closed.
fn pump(guest: &File, tap: &OpenTap, until_closed: &io::PipeReader) {
    let mut buffer = vec![0; 65_536];
    loop {
        let mut ready = [
            PollFd::new(guest.as_fd(), PollFlags::POLLIN),
            PollFd::new(tap.as_fd(), PollFlags::POLLIN),
            PollFd::new(until_closed.as_fd(), PollFlags::POLLIN),
        ];
        if poll(&mut ready, PollTimeout::NONE).is_err() {
            continue;
        }
        let [from_guest, from_host, stop] =
            ready.map(|entry| entry.revents().is_some_and(|events| !events.is_empty()));
        if stop {
            return;
        }
        if from_guest {
            copy(guest, tap.file(), &mut buffer);
        }
        if from_host {
            copy(tap.file(), guest, &mut buffer);
        }
    }
}

/// Moves one frame. What the other side cannot take is lost, as on a wire.
fn copy(mut from: impl Read, mut to: impl Write, buffer: &mut [u8]) {
    if let Ok(length) = from.read(buffer) {
        let _ = to.write_all(&buffer[..length]);
    }
}

impl Echo {
    fn start(namespace: &Namespace) -> Self {
        let socket = namespace
            .run(|| UdpSocket::bind((IpAddr::from([0_u16; 8]), ECHO_PORT)))
            .expect("the port is free in a new namespace");
        socket.set_nonblocking(true).expect("a socket");
        // What has waited for the guest comes all at once.
        setsockopt(&socket, sockopt::RcvBufForce, &ECHO_BUFFER_BYTES).expect("it needs root");
        let (until_closed, stop) = io::pipe().expect("a pipe");
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            loop {
                let mut ready = [
                    PollFd::new(socket.as_fd(), PollFlags::POLLIN),
                    PollFd::new(until_closed.as_fd(), PollFlags::POLLIN),
                ];
                if poll(&mut ready, PollTimeout::NONE).is_err() {
                    continue;
                }
                if ready[1].revents().is_some_and(|events| !events.is_empty()) {
                    return;
                }
                while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(&buffer[..length], peer);
                }
            }
        });
        Self { stop, thread }
    }
}

/// The tap's hardware address for a guest's: fe and the guest's last five octets, as libvirt does it.
#[must_use]
pub fn tap_mac(guest: MacAddr) -> MacAddr {
    let [_, rest @ ..] = guest.0;
    let [b, c, d, e, f] = rest;
    MacAddr([0xfe, b, c, d, e, f])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{probe, wait};

    #[test]
    fn a_guest_is_reachable_where_it_runs_and_nowhere_else() {
        let lab = Lab::new();
        let port = Port::new(1);
        let hosts = ["compute1", "compute2"].map(|name| lab.host(name));
        let taps = hosts.each_ref().map(|host| host.plug(&port.interface, port.tap_mac()));
        for host in &hosts {
            for address in port.addresses.iter() {
                host.namespace().ip(&format!(
                    "route add {address} dev {interface} scope link\n\
                     neigh add {ip} lladdr {mac} nud permanent dev {interface}",
                    interface = port.interface,
                    ip = address.addr(),
                    mac = port.mac,
                ));
            }
        }
        let reachable = || {
            hosts.each_ref().map(|host| {
                port.addresses.iter().all(|address| probe::answers(host.namespace(), address.addr()))
            })
        };
        let mut vm = Vm::create(&lab, "vm", &port);
        vm.resume(taps[0].open());
        wait::until(wait::SOON, "it answers on the first host", || reachable() == [true, false]);
        assert!(vm.pause().is_some());
        assert_eq!(reachable(), [false, false]);
        vm.resume(taps[1].open());
        wait::until(wait::SOON, "it answers on the second host", || reachable() == [false, true]);
    }
}
