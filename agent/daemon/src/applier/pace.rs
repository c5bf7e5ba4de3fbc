//! How fast many changes are written, so that whoever follows the kernel's routes can read along.
//!
//! A BGP daemon hears of every change through a socket with a receive buffer. What does not fit is lost, and then the daemon announces
//! routes that are gone, and does not announce those that came: BIRD until its next scan, FRR for good. So many changes are written in
//! portions, and between them the applier waits until the listeners have read. Owns how long, and for whom no longer; who there is
//! says [`crate::netlink::listeners`]. Writes nothing. The appliers and `cutover cleanup` ask.

use crate::clock;
use crate::netlink::listeners::{Listener, Listeners};
use cutover_engine::BootTime;
use std::collections::BTreeMap;
use std::time::Duration;
use tracing::{debug, warn};

/// LIMIT: with the kernel's bookkeeping (measured on 6.18) a notification of an IPv4 route takes 832 bytes of receive buffer, one of an
/// IPv6 route 1,280. The default buffer (212,992 bytes, which BIRD has) holds, on top of `ROOM_BYTES`, a portion of the applier of
/// each family and what both are exempt for.
pub const PORTION: usize = 48;
/// LIMIT: without anybody who listens, portions need only be small enough to look up now and then.
const ALONE: usize = 512;
/// A listener that has no more than this to read is not behind.
const ROOM_BYTES: u64 = 32 * 1024;

/// LIMIT: a host does not change more routes of a family than this in a second in normal work; that is neither counted nor delayed.
const EXEMPT_MAX: usize = 32;
const EXEMPT_PERIOD: Duration = Duration::from_secs(1);

/// LIMIT: how long a portion waits. A daemon that is alive has read what was before it many times over.
const PATIENCE: Duration = Duration::from_secs(2);
/// LIMIT: how long a listener that does not read is waited for in vain: a daemon that is stopped must not keep VMs from being reached.
const IN_VAIN_MAX: Duration = Duration::from_secs(4);
/// LIMIT: how long anybody is waited for until everything is written, however slowly they read.
const IN_ALL_MAX: Duration = Duration::from_secs(30);

/// How often listeners are looked at that are behind: soon at first, and ever less often.
const LOOK_AGAIN_MIN: Duration = Duration::from_millis(1);
const LOOK_AGAIN_MAX: Duration = Duration::from_millis(20);

/// What a look at the listeners leads to.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Next {
    GoOn,
    LookAt(BootTime),
    /// Although some are still behind.
    GoOnAllTheSame,
}

/// How long who has been waited for. Pure.
#[derive(Debug, Default)]
struct Patience {
    since: Option<BootTime>,
    in_vain: BTreeMap<u64, Duration>,
    in_all: Duration,
}

impl Patience {
    /// These are behind, by their inodes.
    fn looked(&mut self, behind: impl IntoIterator<Item = u64>, now: BootTime) -> Next {
        let behind = behind.into_iter().filter(|inode| !self.is_given_up(*inode));
        let behind: Vec<u64> = behind.collect();
        if behind.is_empty() || self.in_all >= IN_ALL_MAX {
            self.end(now);
            return Next::GoOn;
        }
        let waited = now.since(*self.since.get_or_insert(now));
        let is_all = self.in_all + waited >= IN_ALL_MAX;
        if waited < PATIENCE && !is_all {
            return Next::LookAt(now + (waited / 8).clamp(LOOK_AGAIN_MIN, LOOK_AGAIN_MAX));
        }
        for inode in behind {
            *self.in_vain.entry(inode).or_default() += waited;
        }
        self.end(now);
        Next::GoOnAllTheSame
    }

    fn is_given_up(&self, inode: u64) -> bool {
        self.in_vain.get(&inode).is_some_and(|waited| *waited >= IN_VAIN_MAX)
    }

    fn end(&mut self, now: BootTime) {
        self.in_all += self.since.take().map_or(Duration::ZERO, |since| now.since(since));
    }
}

/// Small changes that are written without asking anybody. Pure.
#[derive(Debug, Default)]
struct Exemption {
    since: BootTime,
    count: usize,
}

impl Exemption {
    fn covers(&mut self, count: usize, now: BootTime) -> bool {
        if now.since(self.since) >= EXEMPT_PERIOD {
            *self = Self { since: now, count: 0 };
        }
        let is_covered = self.count + count <= EXEMPT_MAX;
        if is_covered {
            self.count += count;
        }
        is_covered
    }
}

/// The pace of one writer.
#[derive(Debug)]
pub struct Pace {
    listeners: Listeners,
    patience: Patience,
    exemption: Exemption,
    /// Written since everybody was seen to have room.
    unseen: usize,
    /// The same when there is something to write again.
    unseen_at_first: usize,
    portion: usize,
    next_look: Option<BootTime>,
    has_warned: bool,
}

impl Pace {
    /// For changes of which these groups are notified.
    pub fn for_listeners(groups: u32) -> Self {
        Self {
            listeners: Listeners::of(groups),
            patience: Patience::default(),
            exemption: Exemption::default(),
            // Nobody has been seen yet.
            unseen: PORTION,
            unseen_at_first: PORTION,
            portion: PORTION,
            next_look: None,
            has_warned: false,
        }
    }

    /// The same for a writer that mostly finds nothing to write: it begins with a portion, and looks afterwards.
    #[must_use]
    pub fn looking_later(self) -> Self {
        Self { unseen: 0, unseen_at_first: 0, ..self }
    }

    /// Whether so many changes may be written at once, whoever is behind. They count from then on.
    pub fn exempts(&mut self, count: usize, now: BootTime) -> bool {
        self.exemption.covers(count, now)
    }

    /// So many changes have been written.
    pub fn wrote(&mut self, count: usize) {
        self.unseen = self.unseen.saturating_add(count);
    }

    /// How many changes may be written after [`Self::may_go_on`] has said yes.
    pub const fn portion(&self) -> usize {
        self.portion
    }

    /// When to ask again after [`Self::may_go_on`] has said no.
    pub const fn next_look(&self) -> Option<BootTime> {
        self.next_look
    }

    /// Whether the next portion may be written. What is left of the last one may.
    pub fn may_go_on(&mut self, now: BootTime) -> bool {
        if self.unseen < self.portion {
            return true;
        }
        if self.next_look.is_some_and(|at| at > now) {
            return false;
        }
        let listeners = match self.listeners.look() {
            Ok(listeners) => listeners,
            Err(error) => {
                debug!(%error, "cannot see who listens to changes of routes; not waiting for anybody");
                Vec::new()
            }
        };
        let behind: Vec<Listener> =
            listeners.iter().filter(|listener| listener.queued_bytes > ROOM_BYTES).copied().collect();
        self.next_look = match self.patience.looked(behind.iter().map(|listener| listener.inode), now) {
            Next::LookAt(at) => Some(at),
            Next::GoOn => None,
            Next::GoOnAllTheSame => {
                self.warn(&behind);
                None
            }
        };
        if self.next_look.is_some() {
            return false;
        }
        self.portion = if listeners.is_empty() { ALONE } else { PORTION };
        self.unseen = 0;
        true
    }

    /// Everything is written: whoever was given up is waited for again next time.
    pub fn done(&mut self) {
        self.patience = Patience::default();
        self.next_look = None;
        self.has_warned = false;
        self.unseen = self.unseen_at_first;
        self.portion = PORTION;
    }

    /// Waits for the next portion. For commands, which have nothing else to do.
    pub fn wait(&mut self) {
        while !self.may_go_on(clock::now()) {
            let pause = self.next_look.map_or(LOOK_AGAIN_MIN, |at| at.since(clock::now()));
            std::thread::sleep(pause);
        }
    }

    /// Once until everything is written.
    fn warn(&mut self, behind: &[Listener]) {
        if std::mem::replace(&mut self.has_warned, true) {
            return;
        }
        let sockets: Vec<String> = behind.iter().map(describe).collect();
        warn!(
            sockets = sockets.join(", "),
            "going on with many changes although somebody who is notified of them does not read, and will lose some; \
             see cutover status"
        );
    }
}

/// A port that is the number of a process is its: the kernel gives the first socket of a process that number.
fn describe(listener: &Listener) -> String {
    let Listener { port, inode, queued_bytes, .. } = listener;
    let name = std::fs::read_to_string(format!("/proc/{port}/comm"));
    let process = name.map(|name| format!(", process {port} ({})", name.trim())).unwrap_or_default();
    format!("inode {inode}{process} with {queued_bytes} bytes unread")
}

#[cfg(test)]
mod tests;
