//! Requests encoded in advance, ready to be sent in as few system calls as possible.
//!
//! Owns the layout of a datagram with many requests in it. It does not send (that is [`super::socket`]) and
//! does not know what a request means (that is [`super::route`] and [`super::neighbour`]).

use netlink_packet_core::{
    Emitable as _, NLM_F_ACK, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;

/// LIMIT: far below the default send buffer of a netlink socket (212,992 bytes), which bounds a datagram, and
/// small enough that the kernel does not need a large contiguous copy of it.
pub const DATAGRAM_BYTES_MAX: usize = 32 * 1024;

/// LIMIT: every request can fail, and each answer takes 1–2 KiB of receive buffer with its bookkeeping: the
/// answers to a whole datagram have to fit into [`super::socket::RECEIVE_BUFFER_BYTES`] at once.
pub const DATAGRAM_MESSAGES_MAX: usize = 256;

/// Sequence number of the first request of a batch; the n-th has this plus n.
///
/// Not zero, because notifications repeat the sequence number of the request that caused them, and programs
/// that count their own requests from zero could take one for an answer.
pub const FIRST_SEQUENCE: u32 = 0x6375_0000;

const FLAGS_RANGE: std::ops::Range<usize> = 6..8;

/// A sequence of encoded requests. Sending it does not change it, so it can be sent any number of times.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PreparedBatch {
    bytes: Vec<u8>,
    datagrams: Vec<Datagram>,
    /// By request: the errors that mean that there was nothing to do.
    forgiven: Vec<&'static [i32]>,
}

/// Where one datagram ends, in bytes and in requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Datagram {
    bytes_end: usize,
    requests_end: usize,
}

impl PreparedBatch {
    /// How many requests there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.forgiven.len()
    }

    /// Whether there is nothing to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.forgiven.is_empty()
    }

    /// Each datagram with the index of its last request.
    pub(crate) fn datagrams(&self) -> impl Iterator<Item = (&[u8], usize)> {
        let mut start = 0;
        self.datagrams.iter().map(move |datagram| {
            let bytes = &self.bytes[start..datagram.bytes_end];
            start = datagram.bytes_end;
            (bytes, datagram.requests_end - 1)
        })
    }

    /// Whether `errno` in answer to this request means that the wanted state was there already.
    pub(super) fn forgives(&self, request: usize, errno: i32) -> bool {
        self.forgiven.get(request).is_some_and(|errors| errors.contains(&errno))
    }
}

/// Puts requests together.
#[derive(Debug, Default)]
pub(crate) struct BatchBuilder {
    batch: PreparedBatch,
    /// Where the last request begins.
    last_start: usize,
    datagram_start: usize,
    datagram_requests: usize,
}

impl BatchBuilder {
    /// Appends a request. `flags` without NLM_F_REQUEST and NLM_F_ACK, which are taken care of here; answers
    /// with an error in `forgiven` count as success.
    pub(super) fn push(&mut self, message: RouteNetlinkMessage, flags: u16, forgiven: &'static [i32]) {
        let header = self.header(flags);
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let length = message.buffer_len();
        message.serialize(self.place(length, forgiven));
    }

    /// The same for a request whose body is encoded already.
    pub(crate) fn push_encoded(&mut self, kind: u16, flags: u16, body: &[u8], forgiven: &'static [i32]) {
        let mut header = self.header(flags);
        header.message_type = kind;
        let length = header.buffer_len() + body.len();
        header.length = u32::try_from(length).unwrap_or(u32::MAX);
        let bytes = self.place(length, forgiven);
        header.emit(bytes);
        bytes[header.buffer_len()..].copy_from_slice(body);
    }

    fn header(&self, flags: u16) -> NetlinkHeader {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = FIRST_SEQUENCE.wrapping_add(self.batch.forgiven.len() as u32);
        header
    }

    /// Room for the next request.
    fn place(&mut self, length: usize, forgiven: &'static [i32]) -> &mut [u8] {
        let datagram_bytes = self.batch.bytes.len() - self.datagram_start;
        if self.datagram_requests == DATAGRAM_MESSAGES_MAX || datagram_bytes + length > DATAGRAM_BYTES_MAX {
            self.end_datagram();
        }
        self.last_start = self.batch.bytes.len();
        // Requests begin at multiples of four; the length in the header is without the padding.
        self.batch.bytes.resize(self.last_start + length.next_multiple_of(4), 0);
        self.batch.forgiven.push(forgiven);
        self.datagram_requests += 1;
        &mut self.batch.bytes[self.last_start..self.last_start + length]
    }

    pub(crate) fn finish(mut self) -> PreparedBatch {
        self.end_datagram();
        self.batch
    }

    /// KERNEL: requests of one datagram are processed in order before `send` returns, and one that fails does
    /// not keep the next from being processed. A request that fails is always answered, one that succeeds
    /// only with NLM_F_ACK (netlink_rcv_skb in net/netlink/af_netlink.c, since before 2.6). One acknowledgement
    /// at the end is therefore enough to know the outcome of all.
    fn end_datagram(&mut self) {
        if self.datagram_requests == 0 {
            return;
        }
        let flags = &mut self.batch.bytes[self.last_start..][FLAGS_RANGE];
        let acknowledged = u16::from_ne_bytes([flags[0], flags[1]]) | NLM_F_ACK;
        flags.copy_from_slice(&acknowledged.to_ne_bytes());
        self.datagram_start = self.batch.bytes.len();
        self.datagram_requests = 0;
        self.batch
            .datagrams
            .push(Datagram { bytes_end: self.datagram_start, requests_end: self.batch.forgiven.len() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_core::NetlinkBuffer;
    use netlink_packet_route::route::RouteMessage;
    use proptest::prelude::*;

    fn batch_of(count: usize) -> PreparedBatch {
        let mut builder = BatchBuilder::default();
        for _ in 0..count {
            builder.push(RouteNetlinkMessage::NewRoute(RouteMessage::default()), 0, &[]);
        }
        builder.finish()
    }

    /// Walks a datagram the way the kernel does.
    fn headers(mut datagram: &[u8]) -> Vec<(u32, u16)> {
        let mut found = Vec::new();
        while !datagram.is_empty() {
            let buffer = NetlinkBuffer::new_checked(datagram).expect("a whole message");
            found.push((buffer.sequence_number(), buffer.flags()));
            datagram = &datagram[(buffer.length() as usize).next_multiple_of(4)..];
        }
        found
    }

    #[test]
    fn nothing_in_nothing_out() {
        assert!(batch_of(0).is_empty());
        assert_eq!(batch_of(0).datagrams().count(), 0);
    }

    proptest! {
        #[test]
        fn every_request_is_there_once_and_only_the_last_of_a_datagram_is_acknowledged(count in 1_usize..1200) {
            let batch = batch_of(count);
            prop_assert_eq!(batch.len(), count);
            let mut next = 0;
            for (bytes, last) in batch.datagrams() {
                prop_assert!(bytes.len() <= DATAGRAM_BYTES_MAX);
                let headers = headers(bytes);
                prop_assert!(headers.len() <= DATAGRAM_MESSAGES_MAX);
                for (sequence, flags) in headers {
                    prop_assert_eq!(sequence, FIRST_SEQUENCE + next);
                    prop_assert_eq!(flags & NLM_F_ACK != 0, next as usize == last);
                    next += 1;
                }
            }
            prop_assert_eq!(next as usize, count);
        }
    }
}
