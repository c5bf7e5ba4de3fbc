//! The socket that hears of changes of nf_tables, and asks for dumps.

use super::error::FollowError;
use super::message::{DumpRequest, request};
use crate::netlink::subscriber::Subscriber;
use netlink_sys::protocols::NETLINK_NETFILTER;

/// NFNLGRP_NFTABLES.
const GROUP: u32 = 7;

/// LIMIT: a set with a hundred thousand members is told member by member, some ten megabytes in one go. What does not fit is an
/// overrun, after which everything is read again.
pub(super) const RECEIVE_BUFFER_BYTES: usize = 8 * 1024 * 1024;

pub(super) struct Connection {
    pub(super) subscriber: Subscriber,
}

impl Connection {
    /// In the network namespace of the calling thread.
    pub(super) fn open(receive_buffer_bytes: usize) -> Result<Self, FollowError> {
        let subscriber = Subscriber::open(NETLINK_NETFILTER, receive_buffer_bytes, &[GROUP], |_| Ok(()))?;
        Ok(Self { subscriber })
    }

    /// Asks for a dump. Returns the sequence number of the answers.
    pub(super) fn ask(&mut self, step: &DumpRequest) -> Result<u32, FollowError> {
        Ok(self.subscriber.ask(|sequence| request(step, sequence))?)
    }

    /// Whether something waits to be received.
    #[cfg(test)]
    pub(super) fn waiting(&mut self) -> bool {
        let socket = self.subscriber.socket();
        socket.recv(&mut &mut [0_u8; 64][..], libc::MSG_DONTWAIT | libc::MSG_PEEK).is_ok()
    }
}
