//! A netlink socket that is notified of what changes, and asks for what is there. What the messages say is its users' business:
//! [`super::monitor`]'s for rtnetlink, and that of whoever follows Felix's chains for nf_tables.

use super::socket::set_receive_buffer;
use netlink_sys::{AsyncSocket, AsyncSocketExt, Socket, SocketAddr, TokioSocket};
use std::{fmt, io};

/// LIMIT: the kernel never puts more than 32 KiB into one answer, and notifications are smaller.
const DATAGRAM_BYTES_MAX: usize = 64 * 1024;

/// A system call failed.
#[derive(Debug)]
pub(crate) struct StepError {
    /// What was tried.
    pub(crate) step: &'static str,
    /// What the kernel said.
    pub(crate) error: io::Error,
}

/// Names what was tried.
pub(crate) fn failed(step: &'static str) -> impl Fn(io::Error) -> StepError {
    move |error| StepError { step, error }
}

/// The socket with its buffer.
pub(crate) struct Subscriber {
    socket: TokioSocket,
    /// Its address: answers carry it.
    pub(crate) port: u32,
    /// The last datagram.
    pub(crate) buffer: Vec<u8>,
    /// Everything that was there has been received.
    pub(crate) ran_dry: bool,
    /// Of the last question.
    sequence: u32,
}

impl fmt::Debug for Subscriber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscriber")
            .field("port", &self.port)
            .field("ran_dry", &self.ran_dry)
            .finish_non_exhaustive()
    }
}

impl Subscriber {
    /// In the network namespace of the calling thread. `prepare` sees the socket before anything can arrive.
    pub(crate) fn open(
        protocol: isize,
        receive_buffer_bytes: usize,
        groups: &[u32],
        prepare: impl FnOnce(&Socket) -> Result<(), StepError>,
    ) -> Result<Self, StepError> {
        let mut socket = TokioSocket::new(protocol).map_err(failed("socket"))?;
        let raw = socket.socket_mut();
        set_receive_buffer(raw, receive_buffer_bytes).map_err(failed("SO_RCVBUF"))?;
        prepare(raw)?;
        let port = raw.bind_auto().map_err(failed("bind"))?.port_number();
        for group in groups {
            raw.add_membership(*group).map_err(failed("NETLINK_ADD_MEMBERSHIP"))?;
        }
        Ok(Self { socket, port, buffer: Vec::with_capacity(DATAGRAM_BYTES_MAX), ran_dry: false, sequence: 0 })
    }

    /// For options.
    pub(crate) fn socket(&mut self) -> &mut Socket {
        self.socket.socket_mut()
    }

    /// Asks the kernel for a dump. `request` is given the sequence number of the answers, which is returned.
    pub(crate) fn ask<R: AsRef<[u8]>>(&mut self, request: impl FnOnce(u32) -> R) -> Result<u32, StepError> {
        self.sequence = self.sequence.wrapping_add(1);
        let request = request(self.sequence);
        let kernel = SocketAddr::new(0, 0);
        self.socket
            .socket_ref()
            .send_to(request.as_ref(), &kernel, 0)
            .map_err(failed("request for a dump"))?;
        Ok(self.sequence)
    }

    /// Fills the buffer with one datagram. Cancelling loses nothing.
    pub(crate) async fn receive(&mut self) -> io::Result<()> {
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
}
