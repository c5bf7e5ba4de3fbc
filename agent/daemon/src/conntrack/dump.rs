//! Asks the kernel which connections there are, and hands them on one by one.
//!
//! Owns the socket for questions. It keeps nothing of what it hands on, so the size of the table does not matter; which connections
//! are of interest is its caller's business.

use super::entry::Tuple;
use super::message::{self, Dumped, GET, Position};
use crate::netlink::netfilter::{self, Answer};
use crate::netlink::socket::{OpenError, RECEIVE_BUFFER_BYTES};
use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST};
use netlink_sys::{Socket, SocketAddr};
use std::io;
use std::net::IpAddr;
use std::ops::ControlFlow;

/// LIMIT: the kernel never puts more than 32 KiB into one part of a dump.
const DATAGRAM_BYTES_MAX: usize = 64 * 1024;
/// LIMIT: a dump whose next part does not come for so long is stuck.
const TIMEOUT_S: i64 = 10;
/// LIMIT: the answers to so many questions, some 1.5 KiB each with the kernel's bookkeeping, fit into the receive buffer.
const QUESTIONS_MAX: usize = 128;

/// The kernel did not say what there is.
#[derive(Debug, thiserror::Error)]
#[error("cannot read tracked connections: {step}: {error}")]
pub struct ReadError {
    /// What was tried.
    pub step: &'static str,
    /// What the kernel said.
    #[source]
    pub error: io::Error,
}

/// How a dump ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    Whole,
    /// Some that were there all the time may be missing.
    Disturbed,
}

/// Asks.
pub(super) struct Asker {
    socket: Socket,
    buffer: Vec<u8>,
    sequence: u32,
}

impl Asker {
    /// In the network namespace of the calling thread.
    pub(super) fn open() -> Result<Self, OpenError> {
        let socket = netfilter::open(RECEIVE_BUFFER_BYTES, TIMEOUT_S)?;
        Ok(Self { socket, buffer: vec![0; DATAGRAM_BYTES_MAX], sequence: 0 })
    }

    /// Dumps everything, in both families.
    pub(super) fn dump_all(
        &mut self,
        concerns: impl Fn(&Tuple, &Tuple) -> bool,
        take: impl FnMut(Dumped),
    ) -> Result<End, ReadError> {
        self.dump(&message::dump_all(0), concerns, take)
    }

    /// Dumps those that have an address in a certain position, and on old kernels the others as well.
    pub(super) fn dump_of(
        &mut self,
        (address, position): (IpAddr, Position),
        concerns: impl Fn(&Tuple, &Tuple) -> bool,
        take: impl FnMut(Dumped),
    ) -> Result<End, ReadError> {
        self.dump(&message::dump_of(address, position), concerns, take)
    }

    fn dump(
        &mut self,
        body: &[u8],
        concerns: impl Fn(&Tuple, &Tuple) -> bool,
        mut take: impl FnMut(Dumped),
    ) -> Result<End, ReadError> {
        let sequence = self.next_sequence();
        let mut request = Vec::new();
        netfilter::put(&mut request, GET, NLM_F_REQUEST | NLM_F_DUMP, sequence, body);
        self.send(&request)?;
        let mut end = End::Whole;
        let ended = self.receive_until(|answer| {
            if answer.sequence != sequence {
                return ControlFlow::Continue(());
            }
            if answer.flags & NLM_F_DUMP_INTR != 0 {
                end = End::Disturbed;
            }
            match answer.error() {
                Some(code) => ControlFlow::Break(code),
                None => {
                    if let Some(dumped) = message::parse(answer.payload, &concerns) {
                        take(dumped);
                    }
                    ControlFlow::Continue(())
                }
            }
        });
        match ended? {
            (0, true) => Ok(End::Disturbed),
            (0, false) => Ok(end),
            (libc::EINTR | libc::EBUSY | libc::EAGAIN, _) => Ok(End::Disturbed),
            (code, _) => Err(ReadError { step: "dump", error: io::Error::from_raw_os_error(code) }),
        }
    }

    /// Looks connections up, one by one. What is not there is left out.
    pub(super) fn look_up(
        &mut self,
        tuples: &[Tuple],
        mut take: impl FnMut(Dumped),
    ) -> Result<(), ReadError> {
        for tuples in tuples.chunks(QUESTIONS_MAX) {
            let mut request = Vec::new();
            let (first, mut last) = (self.sequence.wrapping_add(1), 0);
            for (index, tuple) in tuples.iter().enumerate() {
                // The last question is acknowledged, or refused, after all others have been answered.
                let flags = if index + 1 == tuples.len() { NLM_F_ACK } else { 0 };
                last = self.next_sequence();
                netfilter::put(&mut request, GET, NLM_F_REQUEST | flags, last, &message::name(tuple));
            }
            self.send(&request)?;
            self.receive_until(|answer| {
                let is_ours = answer.sequence.wrapping_sub(first) < QUESTIONS_MAX as u32;
                match answer.error() {
                    Some(_) if answer.sequence == last => return ControlFlow::Break(()),
                    None if is_ours => {
                        if let Some(dumped) = message::parse(answer.payload, |_, _| true) {
                            take(dumped);
                        }
                    }
                    _ => {}
                }
                ControlFlow::Continue(())
            })?;
        }
        Ok(())
    }

    /// Answers to a question that was given up have another one.
    const fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    fn send(&self, datagram: &[u8]) -> Result<(), ReadError> {
        let sent = self.socket.send_to(datagram, &SocketAddr::new(0, 0), 0);
        sent.map(|_| ()).map_err(|error| ReadError { step: "send", error })
    }

    /// Reads answers until one of them is the last. Says as well whether some were lost before.
    fn receive_until<T>(
        &mut self,
        take: impl FnMut(&Answer<'_>) -> ControlFlow<T>,
    ) -> Result<(T, bool), ReadError> {
        netfilter::receive_until(&self.socket, &mut self.buffer, take)
            .map_err(|error| ReadError { step: "recv", error })
    }
}
