//! The socket that subscribes and dumps.

use crate::netlink::dump::{self, Question};
use crate::netlink::events::MonitorSettings;
use crate::netlink::filter::Filter;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use nix::sys::socket::{setsockopt, sockopt};
use std::io;
use tracing::debug;

/// LIMIT: the kernel never puts more than 32 KiB into one answer, and notifications are smaller.
const DATAGRAM_BYTES_MAX: usize = 64 * 1024;

/// What the socket is notified of.
const GROUPS: [u32; 7] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_NEIGH,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV6_ROUTE,
    libc::RTNLGRP_IPV4_IFADDR,
    libc::RTNLGRP_IPV6_IFADDR,
    libc::RTNLGRP_IPV6_NETCONF,
];

/// A socket for following the kernel could not be made, or broke.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    /// A system call failed.
    #[error("cannot follow the kernel's routes: {step}: {error}")]
    Io {
        /// What was tried.
        step: &'static str,
        /// What the kernel said.
        #[source]
        error: io::Error,
    },
    /// The kernel did not finish a dump.
    #[error("cannot follow the kernel's routes: a dump did not end")]
    Stuck,
}

pub(super) fn failed(step: &'static str) -> impl Fn(io::Error) -> MonitorError {
    move |error| MonitorError::Io { step, error }
}

/// The socket with its buffer and its number.
#[derive(Debug)]
pub(super) struct Connection {
    socket: Netlink,
    /// Its address: answers carry it.
    pub(super) port: u32,
    pub(super) buffer: Vec<u8>,
    sequence: u32,
    filter: Filter,
    /// Everything that was there has been received.
    pub(super) ran_dry: bool,
}

/// [`TokioSocket`] with a name in debug output.
struct Netlink(TokioSocket);

impl std::fmt::Debug for Netlink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Netlink")
    }
}

impl Connection {
    pub(super) fn open(settings: &MonitorSettings, filter: Filter) -> Result<Self, MonitorError> {
        let mut socket = TokioSocket::new(NETLINK_ROUTE).map_err(failed("socket"))?;
        let raw = socket.socket_mut();
        let bytes = settings.receive_buffer_bytes;
        // The forced variant ignores net.core.rmem_max but needs CAP_NET_ADMIN.
        if setsockopt(raw, sockopt::RcvBufForce, &bytes).is_err() {
            raw.set_rx_buf_sz(bytes as libc::c_int).map_err(failed("SO_RCVBUF"))?;
        }
        if let Err(error) = raw.set_netlink_get_strict_chk(true) {
            debug!(%error, "the kernel does not filter dumps; filtering here");
        }
        filter.attach(raw).map_err(failed("SO_ATTACH_FILTER"))?;
        let address = raw.bind_auto().map_err(failed("bind"))?;
        for group in GROUPS {
            raw.add_membership(group).map_err(failed("NETLINK_ADD_MEMBERSHIP"))?;
        }
        Ok(Self {
            socket: Netlink(socket),
            port: address.port_number(),
            buffer: Vec::with_capacity(DATAGRAM_BYTES_MAX),
            sequence: 0,
            filter,
            ran_dry: false,
        })
    }

    /// Lets through what this filter does, in place of the one before.
    pub(super) fn filter(&mut self, filter: Filter) -> Result<(), MonitorError> {
        if filter != self.filter {
            filter.attach(self.socket.0.socket_ref()).map_err(failed("SO_ATTACH_FILTER"))?;
            self.filter = filter;
        }
        Ok(())
    }

    /// Whether the socket is notified of neighbours from now on.
    pub(super) fn hear_neighbours(&mut self, hears: bool) -> Result<(), MonitorError> {
        let socket = self.socket.0.socket_mut();
        if hears {
            socket.add_membership(libc::RTNLGRP_NEIGH).map_err(failed("NETLINK_ADD_MEMBERSHIP"))
        } else {
            socket.drop_membership(libc::RTNLGRP_NEIGH).map_err(failed("NETLINK_DROP_MEMBERSHIP"))
        }
    }

    /// Asks for a dump. Returns the sequence number of the answers.
    pub(super) fn ask(&mut self, step: Question) -> Result<u32, MonitorError> {
        self.sequence = self.sequence.wrapping_add(1);
        let request = dump::request(step, self.sequence);
        self.socket
            .0
            .socket_ref()
            .send_to(&request, &SocketAddr::new(0, 0), 0)
            .map_err(failed("request for a dump"))?;
        Ok(self.sequence)
    }

    /// Fills the buffer with one datagram. Cancelling loses nothing.
    pub(super) async fn receive(&mut self) -> io::Result<()> {
        loop {
            self.buffer.clear();
            let receive = self.socket.0.recv_from(&mut self.buffer);
            let mut receive = std::pin::pin!(receive);
            let ran_dry = &mut self.ran_dry;
            let sender = std::future::poll_fn(|context| {
                let polled = receive.as_mut().poll(context);
                *ran_dry |= polled.is_pending();
                polled
            });
            let sender = sender.await?;
            // Another process with CAP_NET_ADMIN can send to this socket, too.
            if sender.port_number() == 0 {
                return Ok(());
            }
        }
    }
}
