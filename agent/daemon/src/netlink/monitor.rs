//! Follows the kernel: links, routes and neighbours, from a full read and from notifications.
//!
//! Owns one socket that both subscribes and dumps, and the schedule of full reads: at the start, after an
//! overrun, on request, periodically, and whenever something may have changed without a notification. It writes
//! nothing. The agent starts it and gives its streams to the engine and the appliers.
//!
//! ORDER: the socket subscribes before the first dump, and dumps on the *same* socket as the notifications,
//! so that both come in one order. (A library that hands out answers and notifications through different
//! channels loses that order, and one that recognises answers by their sequence number alone takes a
//! notification, which repeats the sequence number of whoever caused it, for an answer.)

mod connection;
mod flood;
mod full_read;
mod handle;
mod outlet;

pub use connection::MonitorError;
pub use handle::MonitorHandle;

use super::dump::{ANY_PROTOCOL, Question};
use super::events::{MonitorSettings, NeighbourEvent, RouteEvent, Streams};
use super::family::ByFamily;
use super::mirror::{Doubt, Mirror, Observations};
use super::subscriber::failed;
use crate::clock;
use connection::Connection;
use cutover_engine::BootTime;
use flood::{Flood, Overruns};
use full_read::{FullRead, refused};
use handle::Command;
use netlink_packet_core::{NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer};
use outlet::Outlet;
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tracing::{debug, warn};

/// LIMIT: enough to ride out a pause of the reader; when it is full the kernel's buffer fills, then overruns.
const STREAM_EVENTS_MAX: usize = 4096;

/// How long after one full read the next begins, when it is urgent.
const PAUSE_URGENT: Duration = Duration::from_millis(20);
/// The same when nothing is known to be wrong.
const PAUSE_PRECAUTION: Duration = Duration::from_secs(1);
/// How many full reads in a row may be interrupted by changes before the next one waits.
const INTERRUPTED_READS_MAX: u32 = 3;
/// How long to wait before the socket is opened anew after an error.
const PAUSE_REOPEN: Duration = Duration::from_secs(1);

/// The follower. Open it in the right network namespace, then [`Monitor::run`] it.
#[derive(Debug)]
pub struct Monitor {
    settings: MonitorSettings,
    socket: Connection,
    mirror: Mirror,
    read: Option<FullRead>,
    next_read_at: Option<BootTime>,
    full_reads_done: u64,
    /// In a row.
    interrupted_reads: u32,
    /// Protocols to ask for in the next full read.
    ask_for: BTreeSet<u8>,
    /// The next full read has to find what nobody knows of.
    is_ignorant: bool,
    flood: Flood,
    overruns: Overruns,
    /// How often notifications were lost.
    overruns_told: Arc<AtomicU64>,
    /// KERNEL: from the first notification that is dropped until the buffer is empty, every one is dropped, and only the first of them is
    /// told of (`netlink_overrun`). What is asked for before that would be answered without what is dropped afterwards.
    is_congested: bool,
    /// When neighbours are heard of again, if they are not.
    hear_again_at: Option<BootTime>,
    /// Datagrams received, to tell them apart.
    datagrams: u64,
    outlet: Outlet,
    commands: mpsc::UnboundedReceiver<Command>,
}

impl Monitor {
    /// Subscribes in the network namespace of the calling thread. Needs a tokio runtime around it.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn open(settings: MonitorSettings) -> Result<(Self, MonitorHandle, Streams), MonitorError> {
        let mirror = Mirror::new(&settings);
        let socket = Connection::open(&settings, mirror.filter())?;
        let (facts, facts_out) = mpsc::channel(STREAM_EVENTS_MAX);
        let [(ipv4, ipv4_out), (ipv6, ipv6_out)] = [(); 2].map(|()| mpsc::channel(STREAM_EVENTS_MAX));
        let (routes, routes_out) = (ByFamily { ipv4, ipv6 }, ByFamily { ipv4: ipv4_out, ipv6: ipv6_out });
        let (neighbours, neighbours_out) = mpsc::channel(STREAM_EVENTS_MAX);
        let (full_reads, full_reads_out) = watch::channel(0);
        let (commands_in, commands) = mpsc::unbounded_channel();
        let monitor = Self {
            settings,
            socket,
            mirror,
            read: None,
            next_read_at: Some(clock::now()),
            full_reads_done: 0,
            interrupted_reads: 0,
            // The first read asks for routes of every protocol: those that an agent with another
            // `DeviceRouteProtocol` left are to be replaced in place.
            ask_for: BTreeSet::from([ANY_PROTOCOL]),
            is_ignorant: true,
            flood: Flood::default(),
            overruns: Overruns::default(),
            overruns_told: Arc::default(),
            is_congested: false,
            hear_again_at: None,
            datagrams: 0,
            outlet: Outlet { facts, routes, neighbours, full_reads },
            commands,
        };
        let handle = MonitorHandle::new(commands_in, full_reads_out, Arc::clone(&monitor.overruns_told));
        let streams = Streams { facts: facts_out, routes: routes_out, neighbours: neighbours_out };
        Ok((monitor, handle, streams))
    }

    /// Follows the kernel until the last handle is gone. A socket that breaks is opened anew.
    pub async fn run(mut self) {
        loop {
            let Err(error) = self.follow().await else { return };
            warn!(%error, "netlink monitor starts again");
            self.mirror.abandon_dumps();
            if let Some(unfinished) = self.read.take() {
                self.ask_again(unfinished);
            }
            self.is_ignorant = true;
            tokio::time::sleep(PAUSE_REOPEN).await;
            match Connection::open(&self.settings, self.mirror.filter()) {
                Ok(socket) => {
                    self.socket = socket;
                    self.is_congested = false;
                    self.hear_again_at = None;
                }
                Err(error) => warn!(%error, "netlink monitor cannot start"),
            }
            self.next_read_at = Some(clock::now());
        }
    }

    async fn follow(&mut self) -> Result<(), MonitorError> {
        loop {
            let now = clock::now();
            self.is_congested &= !self.socket.subscriber.ran_dry;
            let can_ask = self.read.is_none() && !self.is_congested;
            if can_ask && self.next_read_at.is_some_and(|at| at <= now) {
                self.begin_full_read(now)?;
            }
            if self.read.is_none() && !self.is_congested && self.hear_neighbours_if_due(now)? {
                self.read_neighbours(now)?;
            }
            let next = [self.next_read_at, self.hear_again_at].into_iter().flatten().min();
            let wake_at = self.read.as_ref().map_or(next, |read| read.answer_by);
            tokio::select! {
                // ORDER: an answer that is there is in time, however late it is read.
                biased;
                command = self.commands.recv() => match command {
                    Some(command) => self.obey(command).await?,
                    None => return Ok(()),
                },
                received = self.socket.subscriber.receive() => match received {
                    Ok(()) => self.handle_datagram().await?,
                    Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => self.overrun()?,
                    Err(error) => return Err(failed("recv")(error).into()),
                },
                () = clock::sleep_until(wake_at) => {
                    if self.read.is_some() {
                        return Err(MonitorError::Stuck);
                    }
                }
            }
        }
    }

    async fn obey(&mut self, command: Command) -> Result<(), MonitorError> {
        match command {
            Command::Resync => self.read_again_at(clock::now()),
            Command::Configure(settings) if settings == self.settings => {}
            Command::Configure(settings) => {
                let seen = self.mirror.configure(&settings);
                let filtered = self.socket.filter(self.mirror.filter());
                self.settings = settings;
                self.ask_for = BTreeSet::from([ANY_PROTOCOL]);
                self.is_ignorant = true;
                // The read that is going on asks for the wrong protocols.
                let answer_by = self.answer_by(clock::now());
                if let Some(read) = &mut self.read {
                    (read.interrupted, read.answer_by) = (true, answer_by);
                }
                self.act_on(seen).await;
                filtered?;
            }
        }
        Ok(())
    }

    /// KERNEL: the receive buffer was full and notifications were dropped; the kernel says so once. A dump in
    /// progress is not affected, but it has to be read to its end before the next can be asked for. The answer to a question
    /// about one neighbour is dropped as notifications are, so that there may be nothing to read.
    fn overrun(&mut self) -> Result<(), MonitorError> {
        debug!("netlink notifications were lost; reading everything again");
        self.overruns_told.fetch_add(1, Ordering::Relaxed);
        if let Some(question) = self.read.take_if(|read| matches!(read.current, Question::Neighbour { .. })) {
            self.mirror.abandon_dumps();
            self.ask_again(question);
        }
        if let Some(read) = &mut self.read {
            read.overrun = true;
        }
        (self.is_congested, self.socket.subscriber.ran_dry) = (true, false);
        self.is_ignorant = true;
        let now = clock::now();
        let at = self.overruns.note(now);
        self.read_again_at(at);
        // Nothing else comes in such numbers without being needed. The next read is not disturbed by them.
        if self.overruns.go_on() { self.stop_hearing_neighbours(at) } else { Ok(()) }
    }

    /// Until a while after `now`.
    fn stop_hearing_neighbours(&mut self, now: BootTime) -> Result<(), MonitorError> {
        if self.hear_again_at.is_none() {
            debug!("too many notifications about neighbours; not listening for a while");
            self.socket.hear_neighbours(false)?;
            self.hear_again_at = Some(now + flood::PAUSE);
        }
        Ok(())
    }

    /// If it is time for it. ORDER: before they are asked for. Says whether it was.
    fn hear_neighbours_if_due(&mut self, now: BootTime) -> Result<bool, MonitorError> {
        if self.hear_again_at.is_none_or(|at| at > now) {
            return Ok(false);
        }
        self.socket.hear_neighbours(true)?;
        self.hear_again_at = None;
        Ok(true)
    }

    fn read_neighbours(&mut self, now: BootTime) -> Result<(), MonitorError> {
        self.mirror.begin_neighbours();
        let answer_by = self.answer_by(now);
        self.read = Some(FullRead::of_neighbours((now, answer_by), |step| self.socket.ask(step))?);
        Ok(())
    }

    fn read_again_at(&mut self, at: BootTime) {
        let soonest = self.next_read_at.map_or(at, |planned| planned.min(at));
        self.next_read_at = Some(self.overruns.not_before_rest(soonest));
    }

    fn begin_full_read(&mut self, now: BootTime) -> Result<(), MonitorError> {
        self.next_read_at = None;
        // Full reads that follow one another must not put it off; this one asks for neighbours, too.
        self.hear_neighbours_if_due(now)?;
        let mut protocols = std::mem::replace(&mut self.ask_for, self.mirror.heard().clone());
        if protocols.contains(&ANY_PROTOCOL) {
            protocols = BTreeSet::from([ANY_PROTOCOL]);
        }
        // ORDER: from before the request, so that no notification falls between the two.
        self.mirror.begin_links();
        let is_thorough = std::mem::take(&mut self.is_ignorant);
        let answer_by = self.answer_by(now);
        let times = (now, answer_by);
        match FullRead::begin(protocols.clone(), is_thorough, times, |step| self.socket.ask(step)) {
            Ok(read) => self.read = Some(read),
            Err(error) => {
                self.ask_for.extend(protocols);
                self.is_ignorant |= is_thorough;
                return Err(error);
            }
        }
        Ok(())
    }

    /// When the kernel has to have answered. LIMIT: it is stuck if it has not; what came so far is worth nothing then.
    fn answer_by(&self, now: BootTime) -> Option<BootTime> {
        self.settings.answer_timeout.map(|timeout| now + timeout)
    }

    /// What a read that came to nothing had to find is left to the next.
    fn ask_again(&mut self, mut read: FullRead) {
        self.ask_for.append(&mut read.protocols);
        self.is_ignorant |= read.is_thorough;
    }

    async fn handle_datagram(&mut self) -> Result<(), MonitorError> {
        let mut seen = Observations::default();
        self.datagrams += 1;
        let buffer = std::mem::take(&mut self.socket.subscriber.buffer);
        let mut rest = buffer.as_slice();
        let mut result = Ok(());
        while let Ok(message) = NetlinkBuffer::new_checked(rest) {
            result = self.handle_message(&message, buffer.len(), &mut seen);
            let length = (message.length() as usize).next_multiple_of(4);
            match rest.get(length..) {
                Some(next) if result.is_ok() => rest = next,
                _ => break,
            }
        }
        self.socket.subscriber.buffer = buffer;
        let filtered = if seen.facts.is_empty() { Ok(()) } else { self.socket.filter(self.mirror.filter()) };
        // The mirror has it already, so nobody would tell of it again.
        self.act_on(seen).await;
        filtered.and(result)
    }

    fn handle_message(
        &mut self,
        message: &NetlinkBuffer<&[u8]>,
        datagram_bytes: usize,
        seen: &mut Observations,
    ) -> Result<(), MonitorError> {
        let port = self.socket.subscriber.port;
        let answer_by = self.answer_by(clock::now());
        let is_answer = |read: &&mut FullRead| {
            message.port_number() == port && message.sequence_number() == read.sequence
        };
        let Some(read) = self.read.as_mut().filter(is_answer) else {
            return self.notified(message, seen);
        };
        read.answer_by = answer_by;
        read.interrupted |= message.flags() & NLM_F_DUMP_INTR != 0;
        match message.message_type() {
            NLMSG_DONE | NLMSG_ERROR => {
                let code = message.payload().first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                if code < 0 {
                    refused(read, io::Error::from_raw_os_error(code.saturating_neg()))?;
                }
                self.next_step(seen)
            }
            message_type => {
                read.entry(self.datagrams, datagram_bytes);
                self.mirror.dumped(message_type, message.payload());
                Ok(())
            }
        }
    }

    fn notified(
        &mut self,
        message: &NetlinkBuffer<&[u8]>,
        seen: &mut Observations,
    ) -> Result<(), MonitorError> {
        let known = seen.neighbours.len();
        self.mirror.notified(message.message_type(), message.flags(), message.payload(), seen);
        let is_neighbour = matches!(message.message_type(), libc::RTM_NEWNEIGH | libc::RTM_DELNEIGH);
        if is_neighbour && seen.neighbours.len() == known {
            let now = clock::now();
            if self.flood.came_to_nothing(now) {
                return self.stop_hearing_neighbours(now);
            }
        }
        Ok(())
    }

    fn next_step(&mut self, seen: &mut Observations) -> Result<(), MonitorError> {
        let Some(mut read) = self.read.take() else { return Ok(()) };
        if read.overrun {
            self.mirror.abandon_dumps();
            self.ask_again(read);
            return Ok(());
        }
        let complete = !read.interrupted;
        if read.current == Question::Links {
            self.mirror.end_links(complete, seen);
            self.mirror.begin_routes();
        }
        if let Some(step) = read.answered(&self.mirror) {
            if step == Question::Neighbours {
                self.mirror.end_routes(|route| read.proves_absence_of(route), seen);
                self.mirror.begin_neighbours();
            }
            read.current = step;
            // What it has to find is not forgotten if nobody can be asked.
            let asked = self.socket.ask(step);
            read.sequence = asked.as_ref().map_or(read.sequence, |sequence| *sequence);
            self.read = Some(read);
            asked?;
        } else {
            self.mirror.end_neighbours(complete, seen);
            self.end_read(read, seen);
        }
        Ok(())
    }

    fn end_read(&mut self, read: FullRead, seen: &mut Observations) {
        let complete = !read.interrupted;
        if read.is_of_neighbours {
            self.end_read_of_neighbours(complete, read.began_at, seen);
        } else if complete {
            if self.full_reads_done > 0 {
                if read.is_thorough {
                    self.mirror.recount_routes(read.began_at, seen);
                }
                self.mirror.recount_neighbours(read.began_at, seen);
            }
            self.end_full_read(seen);
        } else {
            self.ask_again(read);
            // A table that changes all the time must not be read all the time.
            self.interrupted_reads += 1;
            let pause =
                if self.interrupted_reads > INTERRUPTED_READS_MAX { PAUSE_PRECAUTION } else { PAUSE_URGENT };
            self.read_again_at(clock::now() + pause);
        }
    }

    /// Before the first full read is over nothing is known yet, and nobody is told otherwise.
    fn end_read_of_neighbours(&mut self, complete: bool, began_at: BootTime, seen: &mut Observations) {
        if self.full_reads_done == 0 {
            return;
        }
        if complete {
            self.mirror.recount_neighbours(began_at, seen);
            seen.neighbours.push(NeighbourEvent::Synced);
        } else {
            self.is_ignorant = true;
            self.read_again_at(clock::now() + PAUSE_PRECAUTION);
        }
    }

    fn end_full_read(&mut self, seen: &mut Observations) {
        let now = clock::now();
        self.interrupted_reads = 0;
        seen.routes.push(RouteEvent::Synced);
        seen.neighbours.push(NeighbourEvent::Synced);
        self.full_reads_done += 1;
        if let Some(refresh) = self.settings.refresh {
            self.read_again_at(now + refresh);
        }
    }

    async fn act_on(&mut self, seen: Observations) {
        let pause = seen.doubt.map(|doubt| match doubt {
            Doubt::Now => PAUSE_URGENT,
            Doubt::Soon => PAUSE_PRECAUTION,
        });
        if let Some(pause) = pause {
            self.read_again_at(clock::now() + pause);
        }
        self.outlet.deliver(seen).await;
        // ORDER: after the observations of that read.
        self.outlet
            .full_reads
            .send_if_modified(|done| std::mem::replace(done, self.full_reads_done) != self.full_reads_done);
    }
}
