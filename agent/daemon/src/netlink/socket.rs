//! A synchronous rtnetlink socket for writing.
//!
//! Owns the sending of a [`PreparedBatch`] and the collection of its outcome. It subscribes to nothing and
//! dumps nothing (that is [`super::monitor`]). Used by the route and interface appliers and, with batches that
//! were prepared beforehand, by the fast path's threads: when all goes well [`RouteSocket::send`] is one `send`
//! and one `recv` per datagram and allocates nothing.
//!
//! A socket belongs to the network namespace of the thread that opened it, wherever it is used afterwards.

use super::batch::{FIRST_SEQUENCE, PreparedBatch};
use netlink_packet_core::{NLMSG_ERROR, NetlinkBuffer};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt};
use std::io;

/// LIMIT: holds the answers to a datagram of which every request fails; see
/// [`super::batch::DATAGRAM_MESSAGES_MAX`].
pub const RECEIVE_BUFFER_BYTES: usize = 1024 * 1024;

/// LIMIT: an answer is a header, an error number and the header of the request: 36 bytes, because
/// NETLINK_CAP_ACK keeps the kernel from repeating the whole request.
const ANSWER_BYTES_MAX: usize = 4096;

/// The socket could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot open a netlink socket: {step}: {error}")]
pub struct OpenError {
    /// What was tried.
    pub step: &'static str,
    /// What the kernel said.
    #[source]
    pub error: io::Error,
}

/// The outcome of a batch is not known: any of its requests may or may not have been carried out.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The datagram was not accepted, or an answer could not be read.
    #[error("netlink: {step}: {error}")]
    Io {
        /// What was tried.
        step: &'static str,
        /// What the kernel said.
        #[source]
        error: io::Error,
    },
    /// The answers did not fit into the receive buffer.
    #[error("netlink: the kernel dropped answers because the receive buffer is full")]
    AnswersLost,
}

/// One request that was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Failure {
    /// Position in the batch, from 0.
    pub index: usize,
    /// Positive `errno` value.
    pub errno: i32,
}

/// What became of a batch: whatever is not in `failed` is confirmed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Outcome {
    /// Refused requests in the order in which they were sent.
    pub failed: Vec<Failure>,
}

impl Outcome {
    /// Whether everything was carried out.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.failed.is_empty()
    }
}

/// A socket that writes routes and neighbours.
#[derive(Debug)]
pub struct RouteSocket {
    socket: Socket,
    answer: Box<[u8; ANSWER_BYTES_MAX]>,
    /// The answers of an earlier batch may still be in the receive buffer.
    tainted: bool,
}

impl RouteSocket {
    /// Opens a socket in the network namespace of the calling thread.
    ///
    /// # Errors
    /// When the process may not have another descriptor, or the kernel has no rtnetlink.
    pub fn open() -> Result<Self, OpenError> {
        Self::open_for(NETLINK_ROUTE)
    }

    /// The same for requests of another protocol, which are answered in the same way.
    pub(crate) fn open_for(protocol: isize) -> Result<Self, OpenError> {
        let failed = |step| move |error| OpenError { step, error };
        let mut socket = Socket::new(protocol).map_err(failed("socket"))?;
        socket.bind_auto().map_err(failed("bind"))?;
        socket.set_cap_ack(true).map_err(failed("NETLINK_CAP_ACK"))?;
        set_receive_buffer(&mut socket, RECEIVE_BUFFER_BYTES).map_err(failed("SO_RCVBUF"))?;
        Ok(Self { socket, answer: Box::new([0; ANSWER_BYTES_MAX]), tainted: false })
    }

    /// Sends every request of `batch` and returns when the kernel has processed all of them.
    ///
    /// # Errors
    /// When the outcome is not known. The socket can be used again all the same.
    pub fn send(&mut self, batch: &PreparedBatch) -> Result<Outcome, SendError> {
        if self.tainted {
            self.discard_answers();
        }
        self.tainted = true;
        let mut outcome = Outcome::default();
        for (datagram, last) in batch.datagrams() {
            self.socket
                .send_to(datagram, &SocketAddr::new(0, 0), 0)
                .map_err(|error| SendError::Io { step: "send", error })?;
            self.collect(batch, last, &mut outcome)?;
        }
        self.tainted = false;
        Ok(outcome)
    }

    /// Reads answers up to the one to request `last`, which always comes.
    ///
    /// KERNEL: rtnetlink carries requests out within `send` (rtnetlink_rcv), so every answer is in the receive
    /// buffer by now, and an empty buffer means that it overflowed: there is never anything to wait for.
    fn collect(
        &mut self,
        batch: &PreparedBatch,
        last: usize,
        outcome: &mut Outcome,
    ) -> Result<(), SendError> {
        loop {
            let Some((index, errno)) = self.receive()? else { continue };
            if errno != 0 && !batch.forgives(index, errno) {
                outcome.failed.push(Failure { index, errno });
            }
            if index == last {
                return Ok(());
            }
        }
    }

    /// One answer: which request, and its error or 0. `None` if the datagram was something else.
    fn receive(&mut self) -> Result<Option<(usize, i32)>, SendError> {
        let mut free = &mut self.answer[..];
        let (length, sender) = match self.socket.recv_from(&mut free, libc::MSG_DONTWAIT) {
            Ok(received) => received,
            Err(error) => {
                return match error.raw_os_error() {
                    Some(libc::EINTR) => Ok(None),
                    Some(libc::EAGAIN | libc::ENOBUFS) => Err(SendError::AnswersLost),
                    _ => Err(SendError::Io { step: "recv", error }),
                };
            }
        };
        // Another process with CAP_NET_ADMIN can send to this socket, too.
        if sender.port_number() != 0 {
            return Ok(None);
        }
        Ok(parse_answer(&self.answer[..length]))
    }

    fn discard_answers(&mut self) {
        loop {
            match self.receive() {
                Ok(_) => {}
                Err(SendError::AnswersLost) if self.receive_buffer_is_empty() => return,
                Err(SendError::AnswersLost) => {}
                Err(SendError::Io { .. }) => return,
            }
        }
    }

    /// ENOBUFS is reported once and in front of what is in the buffer; EAGAIN means that there is nothing.
    fn receive_buffer_is_empty(&mut self) -> bool {
        let mut free = &mut self.answer[..];
        let peeked = self.socket.recv_from(&mut free, libc::MSG_DONTWAIT | libc::MSG_PEEK);
        peeked.is_err_and(|error| error.raw_os_error() == Some(libc::EAGAIN))
    }
}

/// What the kernel may put aside for a socket until it is read.
pub(crate) fn set_receive_buffer(socket: &mut Socket, bytes: usize) -> io::Result<()> {
    // The forced variant ignores net.core.rmem_max but needs CAP_NET_ADMIN.
    setsockopt(socket, sockopt::RcvBufForce, &bytes)
        .map_err(io::Error::from)
        .or_else(|_| socket.set_rx_buf_sz(bytes as libc::c_int))
}

fn parse_answer(datagram: &[u8]) -> Option<(usize, i32)> {
    let buffer = NetlinkBuffer::new_checked(datagram).ok()?;
    if buffer.message_type() != NLMSG_ERROR {
        return None;
    }
    let code = i32::from_ne_bytes(*buffer.payload().first_chunk()?);
    let index = buffer.sequence_number().checked_sub(FIRST_SEQUENCE)?;
    Some((index as usize, code.saturating_neg()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::{RouteChange, route};
    use cutover_engine::wanted::WantedRoute;

    /// Requests that are refused: nothing is changed, whoever runs this.
    fn refused(count: usize) -> PreparedBatch {
        let route = WantedRoute {
            destination: "192.0.2.1/32".parse().unwrap(),
            ifindex: i32::MAX.cast_unsigned(),
            metric: 1024,
            protocol: 3,
            source: None,
        };
        route::prepare(vec![RouteChange::Add(route); count])
    }

    /// The read that is told of the overrun is followed by others that are not, with answers from before it.
    #[test]
    fn answers_that_do_not_fit_are_lost_and_those_to_the_next_batch_are_not() {
        let mut socket = RouteSocket::open().unwrap();
        socket.socket.set_rx_buf_sz(1).unwrap();
        for count in [256, 1, 100, 256, 256, 2] {
            let outcome = socket.send(&refused(count));
            if count > 2 {
                assert!(matches!(outcome, Err(SendError::AnswersLost)), "{outcome:?}");
            } else {
                let failed: Vec<usize> =
                    outcome.unwrap().failed.iter().map(|failure| failure.index).collect();
                assert_eq!(failed, (0..count).collect::<Vec<_>>());
            }
        }
    }
}
