//! Hand-over of tracked connections: what the host that a VM leaves knows of them is read there and made on the host where it goes, so that
//! stateful rules there go on as if they had seen them begin.
//!
//! Owns everything that talks to the kernel's connection tracking, and the entry that travels ([`Entry`]). It does not decide when, it
//! does not talk to the other host, and it remembers nothing: what was made here is handed to the caller, who may lose it.
//!
//! All calls wait for the kernel, for some ten milliseconds in a large table: not for a thread that others wait for.
//!
//! Why nobody follows the kernel's events for the last difference: since 5.19 the kernel makes events only of those connections that
//! began while somebody listened (`nf_conntrack_events` = 2), so a listener that comes with a migration hears nothing of the ones that
//! matter, not even of their end. And what it hears costs as much as the whole host is busy. So the last difference is a second reading,
//! compared with the first ([`Entries::since`]).

mod admission;
mod dump;
mod entry;
mod message;
mod protocol;
#[cfg(test)]
pub(crate) mod samples;
mod selection;
mod tracking;

pub use admission::Refusal;
pub use dump::ReadError;
pub use entry::{Difference, ENTRIES_MAX, Entries, Entry, Key, Left, State, TIMEOUT_MAX, Tuple};
#[cfg(test)]
pub(crate) use message::fuzz::message as fuzz_message;
#[cfg(test)]
pub(crate) use message::fuzz::samples as samples_of_dumps;
#[cfg(test)]
pub(crate) use samples::all as sample_entries;
pub use tracking::is_tracking;

use crate::clock;
use crate::netlink::batch::{BatchBuilder, DATAGRAM_MESSAGES_MAX};
use crate::netlink::socket::{OpenError, RouteSocket, SendError};
use cutover_engine::BootTime;
use dump::{Asker, End};
use ipnet::IpNet;
use message::{Dumped, Position, tcp_flag};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_sys::protocols::NETLINK_NETFILTER;
use selection::{Selection, contain};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

/// LIMIT: a table that changes all the time disturbs every dump. What was read then is used as it is.
const ATTEMPTS_MAX: usize = 4;

/// LIMIT: each address costs two walks over the kernel's table, and a walk looks at every connection. Beyond so many of them, one walk that takes
/// everything along is quicker: seen with 110,000 connections, 50 ms each against 300 ms.
const WALKS_MAX: usize = 6;
/// LIMIT: so many connections are dumped in the time in which a walk passes by empty buckets (262,144 by default).
const DUMPED_PER_WALK: usize = 5_000;

/// LIMIT: eight VMs that take all that one may ([`Credit::of_a_vm`]): one of them does not keep the others waiting.
const VMS: usize = 8;

/// LIMIT: the kernel tells times in whole seconds, rounded down, and so did the entry.
const ROUNDING: Duration = Duration::from_secs(2);

/// Connection tracking of one network namespace.
pub struct Conntrack {
    asker: Asker,
    writer: RouteSocket,
    /// Of all VMs together.
    credit: Credit,
    /// This host's own addresses, as of then.
    host: (BTreeSet<IpAddr>, BootTime),
}

/// How many entries may be made at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Credit {
    left: usize,
    since: BootTime,
    at_once: usize,
    per_second: usize,
}

impl Credit {
    /// Of one VM.
    ///
    /// LIMIT: a migration makes each entry twice, early and after the last difference.
    #[must_use]
    pub const fn of_a_vm(now: BootTime) -> Self {
        Self { left: 2 * ENTRIES_MAX, since: now, at_once: 2 * ENTRIES_MAX, per_second: ENTRIES_MAX / 8 }
    }

    const fn of_a_host(now: BootTime) -> Self {
        let Self { left, since, at_once, per_second } = Self::of_a_vm(now);
        Self { left: VMS * left, since, at_once: VMS * at_once, per_second: VMS * per_second }
    }

    /// What there is by now.
    pub fn left(&mut self, now: BootTime) -> usize {
        let earned = now.since(self.since).as_millis() * self.per_second as u128 / 1000;
        if earned > 0 {
            let earned = usize::try_from(earned).unwrap_or(usize::MAX);
            (self.left, self.since) = (self.left.saturating_add(earned).min(self.at_once), now);
        }
        self.left
    }

    /// So much of it was used.
    pub const fn use_up(&mut self, count: usize) {
        self.left = self.left.saturating_sub(count);
    }
}

/// LIMIT: addresses of hosts change seldom, and to read them costs as much as the host has interfaces.
const HOST_FOR: Duration = Duration::from_secs(1);

/// What became of entries that were to be injected.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Injected {
    /// Made.
    pub done: usize,
    /// There was one already that is not ours: it is fresher.
    pub kept: usize,
    /// Not made, and why.
    pub refused: BTreeMap<Refusal, usize>,
    /// Nothing is known: the kernel's answers did not arrive.
    pub unknown: usize,
    /// The ones that were made now.
    pub ours: Vec<Ours>,
}

/// A connection that was made here for a VM that is about to arrive.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ours {
    /// Its original tuple, by which it is told from others.
    pub original: Tuple,
    /// Its reply tuple.
    pub reply: Tuple,
    /// When it ends if no packet comes.
    pub expires_at: BootTime,
}

/// What became of connections that were to be taken back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Withdrawn {
    /// Deleted.
    pub deleted: usize,
    /// Packets have passed since, or it is not the one that was made: left alone.
    pub used: usize,
    /// Not there any more.
    pub gone: usize,
}

/// Tracked connections could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// It is not known which there are.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The outcome is not known.
    #[error("cannot delete tracked connections: {0}")]
    Send(#[from] SendError),
}

impl std::fmt::Debug for Conntrack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Conntrack").field("credit", &self.credit).finish_non_exhaustive()
    }
}

impl Conntrack {
    /// That of the network namespace of the calling thread. The sysctls that limit what is made are read in the namespace of the
    /// thread that calls, so it has to be the same.
    ///
    /// # Errors
    /// The kernel has no nfnetlink, or the process may not have another descriptor.
    pub fn open() -> Result<Self, OpenError> {
        let writer = RouteSocket::open_for(NETLINK_NETFILTER)?;
        Ok(Self {
            asker: Asker::open()?,
            writer,
            credit: Credit::of_a_host(clock::now()),
            host: Default::default(),
        })
    }

    /// The connections of the VM that has these addresses, fixed and floating ones, of both families.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn read(&mut self, addresses: &[IpNet]) -> Result<Entries, ReadError> {
        let selection = Selection { addresses, host: self.host_addresses().clone() };
        let concerns = |original: &Tuple, reply: &Tuple| selection.concerns(original, reply);
        let found = self.collect(addresses, &Position::ENDS, concerns)?;
        // What did not fit may take the place of another one next time.
        let is_partial = found.end == End::Disturbed || found.beyond > 0;
        let mut entries = Entries { is_partial, ..Entries::default() };
        if found.beyond > 0 {
            entries.left.insert(Left::TooMany, found.beyond);
        }
        for dumped in found.connections {
            match selection.carry(&dumped) {
                Ok(entry) => entries.carried.push(entry),
                Err(left) => *entries.left.entry(left).or_default() += 1,
            }
        }
        // Those that the kernel would give up last come first.
        entries.carried.sort_unstable_by_key(|entry| (!entry.assured, entry.original));
        Ok(entries)
    }

    /// Lets the packets of these TCP connections pass on this host wherever they are in their windows. Returns how many there were.
    ///
    /// For the source, before it forwards what still comes for the VM. It does not see any more what the VM says, so after some tenths of
    /// a second what the other end sends is beyond every window that it knows, and invalid: rules like Felix's drop it.
    ///
    /// # Errors
    /// Some may be as they were.
    pub fn loosen(&mut self, entries: &[Entry]) -> Result<usize, SendError> {
        let mut batch = BatchBuilder::default();
        for entry in entries.iter().filter(|entry| matches!(entry.state, State::Tcp { .. })) {
            // Without NLM_F_CREATE: what is gone stays gone.
            batch.push_encoded(message::NEW, 0, &message::loosen(&entry.original), &[]);
        }
        let batch = batch.finish();
        let outcome = self.writer.send(&batch)?;
        Ok(batch.len() - outcome.failed.len())
    }

    /// Makes the connections of a VM that is about to arrive, and that has these addresses.
    ///
    /// `ours` are original tuples of connections that an earlier call made: they are replaced, which is right as long as the VM has
    /// not run here. Whatever else is there stays.
    ///
    /// What fails is counted. Called again with the same, it does what was not done.
    pub fn inject(&mut self, entries: &[Entry], allowed: &[IpNet], ours: &HashSet<Tuple>) -> Injected {
        let mut injected = Injected::default();
        let mut refuse = |refusal, count| *injected.refused.entry(refusal).or_default() += count;
        let mut admitted = Vec::with_capacity(entries.len().min(ENTRIES_MAX));
        for entry in entries {
            match admission::admit(entry, allowed, self.host_addresses()) {
                Ok(_) if admitted.len() >= ENTRIES_MAX => refuse(Refusal::TooMany, 1),
                Ok(entry) => admitted.push(entry),
                Err(refusal) => refuse(refusal, 1),
            }
        }
        let credit = self.credit.left(clock::now());
        for (limit, refusal) in [(credit, Refusal::TooOften), (tracking::room(), Refusal::NoRoom)] {
            if let Some(beyond @ 1..) = admitted.len().checked_sub(limit) {
                admitted.truncate(limit);
                refuse(refusal, beyond);
            }
        }
        self.credit.use_up(admitted.len());
        // Each may take two requests, and the requests of one chunk are one datagram.
        for chunk in admitted.chunks(DATAGRAM_MESSAGES_MAX / 2) {
            self.inject_chunk(chunk, ours, &mut injected);
        }
        injected
    }

    /// This host's own addresses.
    fn host_addresses(&mut self) -> &BTreeSet<IpAddr> {
        let now = clock::now();
        if self.host.0.is_empty() || now.since(self.host.1) > HOST_FOR {
            self.host = (tracking::host_addresses().collect(), now);
        }
        &self.host.0
    }

    fn inject_chunk(&mut self, entries: &[Entry], ours: &HashSet<Tuple>, injected: &mut Injected) {
        let mut batch = BatchBuilder::default();
        let mut created = HashMap::with_capacity(entries.len());
        let mut requests = 0;
        for (position, entry) in entries.iter().enumerate() {
            if ours.contains(&entry.original) {
                // ORDER: nothing of an existing connection's translation can be changed, so it goes first.
                batch.push_encoded(
                    message::DELETE,
                    0,
                    &message::delete(&entry.original, None),
                    &[libc::ENOENT],
                );
                requests += 1;
            }
            batch.push_encoded(message::NEW, NLM_F_CREATE | NLM_F_EXCL, &message::create(entry), &[]);
            created.insert(requests, position);
            requests += 1;
        }
        let now = clock::now();
        let outcome = match self.writer.send(&batch.finish()) {
            Ok(outcome) => outcome,
            Err(error) => {
                tracing::debug!("it is not known which connections were made: {error}");
                injected.unknown += entries.len();
                return;
            }
        };
        let mut failed = BTreeSet::new();
        for failure in outcome.failed {
            // A deletion that fails makes the creation fail.
            let Some(position) = created.get(&failure.index) else { continue };
            failed.insert(*position);
            if failure.errno == libc::EEXIST {
                injected.kept += 1;
            } else {
                *injected.refused.entry(Refusal::Kernel(failure.errno)).or_default() += 1;
            }
        }
        let made = entries.iter().enumerate().filter(|(position, _)| !failed.contains(position));
        injected.ours.extend(made.map(|(_, entry)| Ours {
            original: entry.original,
            reply: entry.reply,
            expires_at: now + Duration::from_secs(entry.timeout_s.into()),
        }));
        injected.done += entries.len() - failed.len();
    }

    /// Takes back what was made here, except where packets have passed since. Of a connection that was made twice, the second time counts.
    ///
    /// # Errors
    /// Some may be left. Called again with the same, it does what was not done.
    pub fn withdraw(&mut self, ours: &[Ours]) -> Result<Withdrawn, ChangeError> {
        let made: HashMap<Tuple, &Ours> = ours.iter().map(|ours| (ours.original, ours)).collect();
        let tuples: Vec<Tuple> = made.keys().copied().collect();
        let mut found = Vec::new();
        self.asker.look_up(&tuples, |dumped| found.push(dumped))?;
        let now = clock::now();
        let (unused, used): (Vec<Dumped>, Vec<Dumped>) = found
            .into_iter()
            .partition(|dumped| made.get(&dumped.original).is_some_and(|ours| is_as_made(ours, dumped, now)));
        let deleted = self.delete(&unused)?;
        let gone = made.len() - deleted - used.len();
        Ok(Withdrawn { deleted, used: used.len(), gone })
    }

    /// Deletes what is known here of the connections of a VM that has been elsewhere or has gone, whatever position its addresses
    /// have in them, but for those whose other end is this host, or is in `staying`: the addresses of endpoints that are on this host, whose
    /// packets keep them current. Returns how many.
    ///
    /// To be called before a VM that was here before is injected: what is left of its last stay is not fresher than what comes.
    ///
    /// # Errors
    /// Some may be left.
    pub fn forget(&mut self, addresses: &[IpNet], staying: &[IpNet]) -> Result<usize, ChangeError> {
        let ends = |original: &Tuple, reply: &Tuple| {
            [original.source, original.destination, reply.source, reply.destination]
        };
        let host = self.host_addresses().clone();
        let concerns = |original: &Tuple, reply: &Tuple| {
            let ends = ends(original, reply);
            let is_current = |end| (host.contains(&end) || contain(staying, end)) && !contain(addresses, end);
            ends.iter().any(|end| contain(addresses, *end)) && !ends.into_iter().any(is_current)
        };
        let mut forgotten = 0;
        loop {
            let Found { connections, beyond, .. } = self.collect(addresses, &Position::ALL, concerns)?;
            let deleted = self.delete(&connections)?;
            forgotten += deleted;
            if beyond == 0 || deleted == 0 {
                return Ok(forgotten);
            }
        }
    }

    /// Deletes these very ones. Returns how many were there.
    fn delete(&mut self, connections: &[Dumped]) -> Result<usize, SendError> {
        let mut batch = BatchBuilder::default();
        // Without its zone, a tuple means another connection.
        let connections: Vec<&Dumped> = connections.iter().filter(|dumped| dumped.zone == 0).collect();
        for dumped in &connections {
            batch.push_encoded(message::DELETE, 0, &message::delete(&dumped.original, dumped.id), &[]);
        }
        let outcome = self.writer.send(&batch.finish())?;
        Ok(connections.len() - outcome.failed.len())
    }

    /// What concerns somebody, each connection once.
    fn collect(
        &mut self,
        addresses: &[IpNet],
        positions: &[Position],
        concerns: impl Fn(&Tuple, &Tuple) -> bool,
    ) -> Result<Found, ReadError> {
        let walks = walks(addresses, positions, tracking::count());
        let mut attempt = 1;
        loop {
            let found = self.walk(&walks, &concerns)?;
            if found.end == End::Whole || attempt == ATTEMPTS_MAX {
                return Ok(found);
            }
            attempt += 1;
        }
    }

    fn walk(
        &mut self,
        walks: &[Option<(IpAddr, Position)>],
        concerns: impl Fn(&Tuple, &Tuple) -> bool,
    ) -> Result<Found, ReadError> {
        let mut connections = HashMap::new();
        let mut beyond = 0;
        // The ones that may make room for those that the kernel would give up last.
        let mut unassured = Vec::new();
        // KERNEL: a dump that goes on in a bucket whose last connection is gone begins that bucket again (`ctnetlink_dump_table`).
        let mut take = |dumped: Dumped| {
            let key = (dumped.original, dumped.zone);
            let is_assured = dumped.status & message::status::ASSURED != 0;
            if !connections.contains_key(&key) && connections.len() >= ENTRIES_MAX {
                beyond += 1;
                if !is_assured {
                    return;
                }
                let Some(other) = unassured.pop() else { return };
                connections.remove(&other);
            }
            if !is_assured && !connections.contains_key(&key) {
                unassured.push(key);
            }
            connections.insert(key, dumped);
        };
        let mut end = End::Whole;
        for walk in walks {
            let walked = match walk {
                Some(walk) => self.asker.dump_of(*walk, &concerns, &mut take)?,
                None => self.asker.dump_all(&concerns, &mut take)?,
            };
            if walked == End::Disturbed {
                end = End::Disturbed;
            }
        }
        Ok(Found { connections: connections.into_values().collect(), beyond, end })
    }
}

/// What dumps have shown.
struct Found {
    /// At most [`ENTRIES_MAX`].
    connections: Vec<Dumped>,
    /// How many more there were.
    beyond: usize,
    end: End,
}

/// By which addresses the kernel is asked, or once for everything.
fn walks(addresses: &[IpNet], positions: &[Position], count: usize) -> Vec<Option<(IpAddr, Position)>> {
    let are_hosts = addresses.iter().all(|prefix| prefix.prefix_len() == prefix.max_prefix_len());
    let walks = addresses.len() * positions.len();
    if !are_hosts || walks > WALKS_MAX || count <= walks.saturating_sub(1) * DUMPED_PER_WALK {
        return vec![None];
    }
    let of = |prefix: &IpNet| {
        let address = prefix.addr();
        positions.iter().map(move |position| Some((address, *position)))
    };
    addresses.iter().flat_map(of).collect()
}

/// Whether no packet has come since.
///
/// Every packet sets the time back to its full length, so without one the connection ends when it was going to. And the window checks of
/// TCP are still off.
fn is_as_made(ours: &Ours, dumped: &Dumped, now: BootTime) -> bool {
    let ends_at = now + Duration::from_secs(dumped.timeout_s.unwrap_or(u32::MAX).into());
    let is_liberal = match dumped.state {
        Some(State::Tcp { flags, .. }) => flags.iter().all(|flags| flags & tcp_flag::BE_LIBERAL != 0),
        _ => true,
    };
    dumped.reply == ours.reply && is_liberal && ends_at.since(ours.expires_at) < ROUNDING
}

#[cfg(test)]
mod tests;
