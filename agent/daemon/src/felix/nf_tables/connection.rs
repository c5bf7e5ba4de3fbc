//! The socket that hears of changes of nf_tables, and asks for dumps.

use super::error::{FollowError, failed};
use super::message::{DumpRequest, request};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use nix::sys::socket::{setsockopt, sockopt};
use std::io;

/// NFNLGRP_NFTABLES.
const GROUP: u32 = 7;

/// LIMIT: a set with a hundred thousand members is told member by member, some ten megabytes in one go. What does not fit is an
/// overrun, after which everything is read again.
pub(super) const RECEIVE_BUFFER_BYTES: usize = 8 * 1024 * 1024;

/// LIMIT: the kernel never puts more than 32 KiB into one answer, and notifications are smaller.
const DATAGRAM_BYTES_MAX: usize = 64 * 1024;

pub(super) struct Connection {
    socket: TokioSocket,
    /// Its address: answers carry it.
    pub(super) port: u32,
    pub(super) buffer: Vec<u8>,
    sequence: u32,
    /// Everything that was there has been received.
    pub(super) ran_dry: bool,
}

impl Connection {
    /// In the network namespace of the calling thread.
    pub(super) fn open(receive_buffer_bytes: usize) -> Result<Self, FollowError> {
        let mut socket = TokioSocket::new(NETLINK_NETFILTER).map_err(failed("socket"))?;
        let raw = socket.socket_mut();
        // The forced variant ignores net.core.rmem_max but needs CAP_NET_ADMIN.
        if setsockopt(raw, sockopt::RcvBufForce, &receive_buffer_bytes).is_err() {
            raw.set_rx_buf_sz(receive_buffer_bytes as libc::c_int).map_err(failed("SO_RCVBUF"))?;
        }
        let address = raw.bind_auto().map_err(failed("bind"))?;
        raw.add_membership(GROUP).map_err(failed("NETLINK_ADD_MEMBERSHIP"))?;
        let buffer = Vec::with_capacity(DATAGRAM_BYTES_MAX);
        Ok(Self { socket, port: address.port_number(), buffer, sequence: 0, ran_dry: false })
    }

    /// Asks for a dump. Returns the sequence number of the answers.
    pub(super) fn ask(&mut self, step: &DumpRequest) -> Result<u32, FollowError> {
        self.sequence = self.sequence.wrapping_add(1);
        let request = request(step, self.sequence);
        let kernel = SocketAddr::new(0, 0);
        self.socket.socket_ref().send_to(&request, &kernel, 0).map_err(failed("request for a dump"))?;
        Ok(self.sequence)
    }

    /// Fills the buffer with one datagram. Cancelling loses nothing.
    pub(super) async fn receive(&mut self) -> io::Result<()> {
        loop {
            self.buffer.clear();
            let receive = self.socket.recv_from(&mut self.buffer);
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

    /// Whether something waits to be received.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> bool {
        let peeked =
            self.socket.socket_ref().recv(&mut &mut [0_u8; 64][..], libc::MSG_DONTWAIT | libc::MSG_PEEK);
        peeked.is_ok()
    }
}
