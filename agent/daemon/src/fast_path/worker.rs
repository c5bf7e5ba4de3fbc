//! What each thread of the fast path does: wait, take a record, write its routes, tell of it.
//!
//! All threads do the same, with different priorities. A record is taken by whichever is first, and its routes are written by that one, those of IPv4 unless
//! another thread is at it ([`super::landing`]).

#![expect(unsafe_code, reason = "reads a record of the kernel program's")]

use super::landing::Landing;
use super::{Listeners, Prepared, Shared, Written};
use crate::applier::is_gone;
use crate::clock;
use crate::netlink::socket::Outcome;
use crate::netlink::{ByFamily, Family, RouteSocket};
use crate::priority::Priority;
use crate::progress::Pulse;
use cutover_common::AnnouncementKind;
use cutover_common::abi::Announcement;
use cutover_engine::fact::AnnouncementSeen;
use cutover_engine::wanted::WantedRoute;
use cutover_engine::{BootTime, Fact};
use std::sync::atomic::Ordering;
use std::sync::{Arc, TryLockError};
use std::time::Duration;
use tracing::{debug, warn};

/// Which of the threads one is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Post {
    /// Has a real-time priority while it waits.
    Lead,
    /// An ordinary thread.
    Reserve,
}

pub(super) struct Worker {
    post: Post,
    socket: RouteSocket,
    spin: Duration,
    /// Set by its thread.
    priority: Priority,
    shared: Arc<Shared>,
    listeners: Listeners,
    pulse: Pulse,
}

impl Worker {
    pub(super) fn new(
        post: Post,
        socket: RouteSocket,
        spin: Duration,
        shared: Arc<Shared>,
        listeners: Listeners,
        pulse: Pulse,
    ) -> Self {
        Self { post, socket, spin, priority: Priority::default(), shared, listeners, pulse }
    }

    pub(super) fn run(&mut self) {
        let shared = Arc::clone(&self.shared);
        let place = match self.post {
            Post::Lead => &shared.lead,
            Post::Reserve => &shared.reserve,
        };
        self.priority = match self.post {
            Post::Lead if self.spin.is_zero() => Priority::real_time(),
            _ => Priority::ordinary(),
        };
        let is_end = || shared.stop.load(Ordering::Acquire);
        while !is_end() {
            self.drain();
            self.spin();
            match place.sleep(is_end) {
                Ok(false) => {}
                Ok(true) => shared.untold.tell_overdue(&self.listeners.herald),
                Err(error) => {
                    warn!(%error, "the fast path cannot wait for announcements; the agent ends, to be started anew");
                    break;
                }
            }
        }
        // The bell may have been read right before the end.
        place.ring_bell();
    }

    /// Polls the ring for the configured time, as long as something is armed and no other thread does.
    fn spin(&mut self) {
        if self.spin.is_zero() || !self.shared.batches.has_any() {
            return;
        }
        let shared = Arc::clone(&self.shared);
        let _turn = match shared.spinning.try_lock() {
            Ok(turn) => turn,
            Err(TryLockError::WouldBlock) => return,
            Err(TryLockError::Poisoned(turn)) => turn.into_inner(),
        };
        let mut until = clock::now() + self.spin;
        while clock::now() < until && !self.shared.stop.load(Ordering::Relaxed) {
            if self.drain() {
                until = clock::now() + self.spin;
            }
            std::hint::spin_loop();
        }
    }

    /// Acts on every record in the ring. Returns whether there was one.
    fn drain(&mut self) -> bool {
        let mut any = false;
        while let Some(record) = self.take() {
            let taken_at = clock::now();
            any = true;
            match record {
                Some(record) => self.act(record, taken_at),
                None => warn!("a record of the ring buffer has an unknown layout; ignored"),
            }
        }
        any
    }

    /// The next record; nothing inside if it has another layout. The ring is free for the other threads afterwards.
    ///
    /// LIMIT: a reserve that loses its processor in here makes the lead wait for it. That is some hundred instructions.
    fn take(&self) -> Option<Option<Announcement>> {
        let mut ring = self.shared.ring();
        let record = read_record(&ring.0.next()?);
        drop(ring);
        if let Some(record) = &record {
            self.shared.untold.add(record.generation, clock::now());
        }
        Some(record)
    }

    fn act(&mut self, record: Announcement, taken_at: BootTime) {
        let begun = self.pulse.begin();
        self.write_routes(record, taken_at);
        drop(begun);
    }

    fn write_routes(&mut self, record: Announcement, taken_at: BootTime) {
        let Announcement { generation, seen_at_ns, .. } = record;
        // ORDER: before anything is installed that nobody would hear of.
        let Some(kind) = AnnouncementKind::from_number(record.kind) else {
            warn!(kind = record.kind, "a record of the ring buffer has an unknown kind; ignored");
            self.shared.untold.forget(generation);
            return;
        };
        let prepared = self.shared.batches.take(&generation);
        let (seen_at, taken_at) = (BootTime(seen_at_ns), Some(taken_at));
        let mut seen = AnnouncementSeen { generation, kind, seen_at, taken_at, routed_at: None };
        let Some(prepared) = prepared else { return self.tell(seen) };
        let ByFamily { ipv4, ipv6 } = &*prepared;
        // ORDER: IPv6 first, because nobody can make it wait.
        seen.routed_at = write(&mut self.socket, ipv6);
        self.listeners.written(Family::Ipv6, ipv6, seen.routed_at);
        if ipv4.routes.is_empty() {
            return self.tell(seen);
        }
        self.land(Landing { seen, ipv4: Arc::clone(ipv4) });
    }

    /// Writes these IPv4 routes, and others that wait to be written, unless another thread does.
    fn land(&mut self, landing: Landing) {
        let Self { socket, listeners, shared, priority, .. } = self;
        let land = |Landing { mut seen, ipv4 }| {
            let written = write(socket, &ipv4);
            // ORDER: who forwards is told first of all. It has to be after the routes: whoever this wakes has a real-time priority, too, and
            // would take the processor from who writes them.
            shared.untold.tell(seen.generation, &listeners.herald);
            listeners.written(Family::Ipv4, &ipv4, written);
            // The announcement is acted on when all of its routes are there.
            seen.routed_at = seen.routed_at.and(written);
            listeners.seen(seen);
        };
        priority.while_ordinary(|| {
            shared.landings.add(landing);
            shared.landings.work_off(land);
        });
    }

    fn tell(&self, seen: AnnouncementSeen) {
        self.shared.untold.tell(seen.generation, &self.listeners.herald);
        self.listeners.seen(seen);
    }
}

impl Listeners {
    fn seen(&self, seen: AnnouncementSeen) {
        // The receiver is gone only while the agent stops.
        let _: Result<(), _> = self.facts.send(Fact::AnnouncementSeen(seen));
    }

    /// The routes of one family are there since then, if they are.
    fn written(&self, family: Family, Prepared { routes, .. }: &Prepared, at: Option<BootTime>) {
        if let Some(at) = at.filter(|_| !routes.is_empty()) {
            // ORDER: before the fact, which makes the routes wanted. The receiver is gone only while the agent stops.
            let _: Result<(), _> = self.written.of(family).send(Written { routes: routes.clone(), at });
        }
    }
}

/// Writes the routes of one family. Returns when the kernel had confirmed all of them, if it has.
fn write(socket: &mut RouteSocket, Prepared { batch, routes }: &Prepared) -> Option<BootTime> {
    // All of them lead to the tap, or to the bridge whose port it is.
    let Some(WantedRoute { ifindex, .. }) = routes.first().copied() else { return Some(clock::now()) };
    match socket.send(batch) {
        Ok(outcome) if outcome.is_success() => Some(clock::now()),
        Ok(outcome) => {
            log_refusal(ifindex, &outcome);
            None
        }
        Err(error) => {
            warn!(%error, ifindex, "elevated routes could not be sent");
            None
        }
    }
}

/// The tap may have gone since it was announced on, or its bridge.
fn log_refusal(ifindex: u32, outcome: &Outcome) {
    if is_gone(ifindex) {
        debug!(ifindex, failed = ?outcome.failed, "no elevated routes, the interface is gone");
    } else {
        warn!(
            ifindex, failed = ?outcome.failed,
            "some elevated routes were refused; the route appliers try again"
        );
    }
}

/// The record in `bytes`, if it has the layout that this agent was built with.
fn read_record(bytes: &[u8]) -> Option<Announcement> {
    if bytes.len() != size_of::<Announcement>() {
        return None;
    }
    // SAFETY: the length was checked, `Announcement` is made of integers only, and the read is unaligned.
    Some(unsafe { bytes.as_ptr().cast::<Announcement>().read_unaligned() })
}

#[cfg(test)]
pub(super) mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_another_size_is_refused() {
        let record = Announcement { generation: 7, seen_at_ns: 8, ifindex: 9, kind: 1 };
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&record.generation.to_ne_bytes());
        bytes.extend_from_slice(&record.seen_at_ns.to_ne_bytes());
        bytes.extend_from_slice(&record.ifindex.to_ne_bytes());
        bytes.extend_from_slice(&record.kind.to_ne_bytes());
        assert_eq!(read_record(&bytes), Some(record));
        assert_eq!(read_record(&bytes[1..]), None);
        bytes.push(0);
        assert_eq!(read_record(&bytes), None);
    }
}
