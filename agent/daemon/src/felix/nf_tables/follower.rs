//! Follows nf_tables: one read of what is of Felix's, and from then on notifications, without asking again.
//!
//! INVARIANT: what is told is true at the end of a transaction. A transaction's notifications end with its generation, and
//! nothing is told before that. What came during a read is replayed on what was read: each thing is as the last word about it says,
//! whether the read had that already or not.
//!
//! KERNEL: a dump beside which something changes can leave out what did not change; `NLM_F_DUMP_INTR` is not set for the elements
//! of a set. So a read during which a generation came is used and followed by another one. Until then, what it left out
//! counts as missing, which delays `up` and does no other harm.

use super::connection::{Connection, RECEIVE_BUFFER_BYTES};
use super::error::FollowError;
use super::message::{self, DumpRequest, Event, Family};
use super::mirror::Mirror;
use crate::clock;
use crate::felix::backend::{Backend, Direction};
use crate::netlink::subscriber::failed;
use cutover_engine::BootTime;
use cutover_engine::chains::Chains;
use netlink_packet_core::{NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer};
use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::time::Duration;
use tracing::debug;

/// LIMIT: tables that change all the time must not be read all the time. The pause doubles from the first to the last while reads are
/// disturbed.
const READ_AGAIN_AFTER: Duration = Duration::from_millis(100);
const READ_AGAIN_AFTER_MAX: Duration = Duration::from_secs(10);
/// LIMIT: a dump whose next part does not come for so long is stuck.
const DUMP_TIMEOUT: Duration = Duration::from_secs(10);

/// What interfaces have now, and with what Felix works.
pub(in crate::felix) struct Changes {
    pub(in crate::felix) interfaces: Vec<(String, Chains)>,
    pub(in crate::felix) backends: BTreeSet<Backend>,
}

/// A read that is going on.
struct Read {
    steps: VecDeque<DumpRequest>,
    sequence: u32,
    read: Mirror,
    /// Everything that was told meanwhile.
    meanwhile: Vec<Event>,
    is_disturbed: bool,
    is_overrun: bool,
    deadline: BootTime,
}

struct Follower<Tell> {
    connection: Connection,
    mirror: Mirror,
    read: Option<Read>,
    read_again_at: Option<BootTime>,
    pause: Duration,
    /// The generation that the last read saw last. A transaction of this one or before that is told later was going on beside it.
    read_up_to: Option<u16>,
    /// Notifications were lost: nothing is told before everything was read again.
    is_blind: bool,
    /// KERNEL: from the first notification that is dropped until the buffer is empty, every one is dropped, and only the first of them is
    /// told of (`netlink_overrun`). What is read before that would be followed by changes that nobody hears of.
    is_congested: bool,
    known: BTreeSet<String>,
    tell: Tell,
}

/// Follows nf_tables in the network namespace of the calling thread, until that fails.
pub(in crate::felix) async fn follow(tell: impl FnMut(Changes)) -> Result<(), FollowError> {
    Follower::open(RECEIVE_BUFFER_BYTES, tell)?.run().await
}

impl<Tell: FnMut(Changes)> Follower<Tell> {
    fn open(receive_buffer_bytes: usize, tell: Tell) -> Result<Self, FollowError> {
        Ok(Self {
            connection: Connection::open(receive_buffer_bytes)?,
            mirror: Mirror::default(),
            read: None,
            read_again_at: Some(clock::now()),
            pause: READ_AGAIN_AFTER,
            read_up_to: None,
            is_blind: true,
            is_congested: false,
            known: BTreeSet::new(),
            tell,
        })
    }

    /// Cancelling loses nothing.
    async fn run(&mut self) -> Result<(), FollowError> {
        loop {
            let now = clock::now();
            self.is_congested &= !self.connection.subscriber.ran_dry;
            let can_ask = self.read.is_none() && !self.is_congested;
            if can_ask && self.read_again_at.is_some_and(|at| at <= now) {
                self.begin_read(now)?;
            }
            let wake_at = self.read.as_ref().map_or(self.read_again_at, |read| Some(read.deadline));
            tokio::select! {
                received = self.connection.subscriber.receive() => match received {
                    Ok(()) => self.take_datagram()?,
                    Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => self.overrun(),
                    Err(error) => return Err(failed("recv")(error).into()),
                },
                () = clock::sleep_until(wake_at) => {
                    if self.read.as_ref().is_some_and(|read| read.deadline <= clock::now()) {
                        return Err(FollowError::Stuck);
                    }
                }
            }
        }
    }

    fn overrun(&mut self) {
        debug!("notifications of nf_tables were lost; reading everything again");
        self.is_blind = true;
        (self.is_congested, self.connection.subscriber.ran_dry) = (true, false);
        if let Some(read) = &mut self.read {
            read.is_overrun = true;
        }
        self.read_again_later();
    }

    fn read_again_later(&mut self) {
        self.read_again_at.get_or_insert(clock::now() + self.pause);
        self.pause = (self.pause * 2).min(READ_AGAIN_AFTER_MAX);
    }

    fn begin_read(&mut self, now: BootTime) -> Result<(), FollowError> {
        self.read_again_at = None;
        let chains = Family::BOTH.map(DumpRequest::Chains);
        let elements = Family::BOTH.into_iter().flat_map(|family| {
            [Direction::To, Direction::From].map(|direction| DumpRequest::Elements(family, direction))
        });
        let steps: VecDeque<DumpRequest> = chains.into_iter().chain(elements).collect();
        let sequence = self.connection.ask(&steps[0])?;
        self.read = Some(Read {
            steps,
            sequence,
            read: Mirror::default(),
            meanwhile: Vec::new(),
            is_disturbed: false,
            is_overrun: false,
            deadline: now + DUMP_TIMEOUT,
        });
        Ok(())
    }

    fn take_datagram(&mut self) -> Result<(), FollowError> {
        let buffer = std::mem::take(&mut self.connection.subscriber.buffer);
        let mut rest = buffer.as_slice();
        let mut result = Ok(());
        while let Ok(message) = NetlinkBuffer::new_checked(rest) {
            result = self.take_message(&message);
            let length = (message.length() as usize).next_multiple_of(4);
            match rest.get(length..) {
                Some(next) if result.is_ok() => rest = next,
                _ => break,
            }
        }
        self.connection.subscriber.buffer = buffer;
        result
    }

    fn take_message(&mut self, message: &NetlinkBuffer<&[u8]>) -> Result<(), FollowError> {
        let port = self.connection.subscriber.port;
        let is_answer =
            |read: &&mut Read| message.port_number() == port && message.sequence_number() == read.sequence;
        let Some(read) = self.read.as_mut().filter(is_answer) else {
            self.take_notification(message);
            return Ok(());
        };
        read.deadline = clock::now() + DUMP_TIMEOUT;
        read.is_disturbed |= message.flags() & NLM_F_DUMP_INTR != 0;
        match message.message_type() {
            NLMSG_DONE | NLMSG_ERROR => {
                let code = message.payload().first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                if code < 0 {
                    refused(read, io::Error::from_raw_os_error(code.saturating_neg()))?;
                }
                self.next_step()
            }
            message_type => {
                self.read_up_to = message::generation(message.payload()).or(self.read_up_to);
                let mut events = Vec::new();
                message::parse(message_type, message.payload(), &mut events);
                events.into_iter().for_each(|event| read.read.take(event));
                Ok(())
            }
        }
    }

    fn take_notification(&mut self, message: &NetlinkBuffer<&[u8]>) {
        let mut events = Vec::new();
        message::parse(message.message_type(), message.payload(), &mut events);
        for event in events {
            let generation = match event {
                Event::Generation(number) => Some(number),
                _ => None,
            };
            if let Some(read) = &mut self.read {
                read.is_disturbed |= generation.is_some();
                read.meanwhile.push(event.clone());
            }
            self.mirror.take(event);
            if let Some(number) = generation {
                self.end_transaction(number);
            }
        }
    }

    fn end_transaction(&mut self, generation: u32) {
        // Generations are counted modulo 2^16 in dumps.
        let is_late = |seen: u16| (seen.wrapping_sub(generation as u16) as i16) >= 0;
        if self.read.is_none() && self.read_up_to.take().is_some_and(is_late) {
            self.read_again_later();
        }
        self.publish();
    }

    fn publish(&mut self) {
        if self.is_blind {
            return;
        }
        let interfaces = self.mirror.take_changes(self.known.iter());
        for (interface, chains) in &interfaces {
            if chains.is_empty() {
                self.known.remove(interface);
            } else {
                self.known.insert(interface.clone());
            }
        }
        (self.tell)(Changes { interfaces, backends: self.mirror.backends() });
    }

    fn next_step(&mut self) -> Result<(), FollowError> {
        let Some(mut read) = self.read.take() else { return Ok(()) };
        let ended = read.steps.pop_front();
        if ended == Some(DumpRequest::Chains(Family::Ipv6)) {
            let chains = read.read.dispatch_chains();
            read.steps.extend(chains.into_iter().map(|(place, chain)| DumpRequest::Rules(place, chain)));
        }
        if let Some(step) = read.steps.front() {
            read.sequence = self.connection.ask(step)?;
            self.read = Some(read);
        } else {
            self.end_read(read);
        }
        Ok(())
    }

    fn end_read(&mut self, read: Read) {
        if read.is_overrun {
            self.read_again_later();
            return;
        }
        self.mirror = read.read;
        read.meanwhile.into_iter().for_each(|event| self.mirror.take(event));
        self.is_blind = false;
        if read.is_disturbed {
            self.read_again_later();
        } else {
            self.pause = READ_AGAIN_AFTER;
        }
        self.publish();
    }
}

/// What is asked for and is not there reads as empty; anything else makes the read worthless.
fn refused(read: &mut Read, error: io::Error) -> Result<(), FollowError> {
    match error.raw_os_error() {
        Some(libc::ENOENT) => Ok(()),
        Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP) if is_ipv6(read.steps.front()) => Ok(()),
        Some(libc::EINTR | libc::EBUSY | libc::EAGAIN) => {
            read.is_disturbed = true;
            Ok(())
        }
        _ => Err(failed("dump")(error).into()),
    }
}

fn is_ipv6(step: Option<&DumpRequest>) -> bool {
    match step {
        Some(DumpRequest::Chains(family) | DumpRequest::Elements(family, _)) => *family == Family::Ipv6,
        Some(DumpRequest::Rules(place, _)) => place.family == Family::Ipv6,
        None => false,
    }
}

#[cfg(test)]
mod tests;
