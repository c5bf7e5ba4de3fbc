//! Prepares workload interfaces: sysctls and permanent neighbours.
//!
//! Owns every sysctl and neighbour that the agent writes. Works on taps without a carrier as well (W18), so that
//! a virtual machine that moves here finds everything in place. Says to the engine which interfaces are ready.
//! The agent starts it.

mod sysctl;

use super::WantedReceiver;
use super::retry::Retries;
use super::routes::sleep_until;
use crate::clock;
use crate::netlink::socket::{OpenError, SendError};
use crate::netlink::{Neighbour, NeighbourChange, NeighbourEvent, NeighbourKey, RouteSocket, neighbour};
use cutover_common::MacAddr;
use cutover_engine::shared::{Difference, SharedMap};
use cutover_engine::wanted::WantedInterface;
use cutover_engine::{BootTime, Fact, Wanted};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use sysctl::{Need, SettingError, Sysctls};
use tokio::sync::{mpsc, watch};
use tracing::{debug, info, warn};

/// LIMIT: events taken at once; more of them wait for the next turn.
const EVENTS_AT_ONCE: usize = 1024;

/// The kernel does not tell when somebody changes a sysctl, so they are looked at again this often, at the end
/// of a full read.
const SYSCTL_REFRESH: Duration = Duration::from_secs(30);

/// LIMIT: reading all settings of ten thousand interfaces takes a large part of a second, so only so many are looked
/// at in one refresh; the next one goes on with the others.
const SYSCTL_REFRESH_AT_ONCE: usize = 1000;

/// LIMIT: so many interfaces that nobody waits for are prepared before looking for something more urgent; each takes some
/// hundred microseconds when all of its settings have to be written.
const OTHERS_AT_ONCE: usize = 64;
/// LIMIT: more interfaces than this at once are logged one by one at DEBUG only.
const LOGGED_AT_ONCE_MAX: usize = 64;

/// A line at INFO, or at DEBUG if there are too many of its kind.
macro_rules! say {
    ($loud:expr, $($line:tt)*) => {
        if $loud { info!($($line)*) } else { debug!($($line)*) }
    };
}

/// What the applier has to know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InterfaceSettings {
    /// Switch forwarding on for the whole host (`IPForwarding`).
    pub ip_forwarding: bool,
    /// Where the network sysctls are: `/proc/sys/net`.
    pub sysctl_root: PathBuf,
}

impl Default for InterfaceSettings {
    fn default() -> Self {
        Self { ip_forwarding: true, sysctl_root: Path::new("/proc/sys/net").to_owned() }
    }
}

/// An interface could not be prepared.
#[derive(Debug, thiserror::Error)]
enum PrepareError {
    #[error("{0:?} is not a name that an interface can have")]
    Name(String),
    #[error("the interface does not exist now")]
    Missing,
    #[error(transparent)]
    Setting(#[from] SettingError),
    #[error("cannot set neighbour {address}: {error}")]
    Neighbour { address: std::net::IpAddr, error: std::io::Error },
    #[error(transparent)]
    Netlink(#[from] SendError),
}

impl PrepareError {
    /// Whether the interface is simply not there (any more).
    fn is_absence(&self) -> bool {
        match self {
            Self::Missing => true,
            Self::Setting(error) => error.error.kind() == std::io::ErrorKind::NotFound,
            Self::Neighbour { error, .. } => {
                matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENETDOWN | libc::ENXIO))
            }
            Self::Name(_) | Self::Netlink(_) => false,
        }
    }
}

/// What is tried again on its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Item {
    Host,
    Interface(u32),
}

/// The applier. Open it in the right network namespace, then [`InterfaceApplier::run`] it on a thread of the
/// same namespace.
#[derive(Debug)]
pub struct InterfaceApplier {
    settings: InterfaceSettings,
    sysctls: Sysctls,
    socket: RouteSocket,
    wanted: WantedReceiver,
    events: mpsc::Receiver<NeighbourEvent>,
    facts: mpsc::Sender<Fact>,
    /// What was wanted when it was last looked at.
    taken: Arc<Wanted>,
    observed: BTreeMap<NeighbourKey, MacAddr>,
    dirty: BTreeSet<Item>,
    retries: Retries<Item>,
    last_attempt_at: BootTime,
    reported: BTreeMap<u32, bool>,
    synced: bool,
    refreshed_at: BootTime,
    /// The last interface that was looked at again.
    refreshed_up_to: u32,
    /// What is done is logged one by one.
    is_loud: bool,
    /// True when whatever nobody waits for may begin.
    may_begin: watch::Receiver<bool>,
}

impl InterfaceApplier {
    /// Makes an applier for the network namespace of the calling thread. `wanted` is `None` for as long as
    /// nothing may be written; `InterfaceConfigured` is sent to `facts` when it becomes known or changes.
    ///
    /// # Errors
    /// When its socket cannot be made.
    pub fn open(
        settings: InterfaceSettings,
        wanted: WantedReceiver,
        events: mpsc::Receiver<NeighbourEvent>,
        facts: mpsc::Sender<Fact>,
    ) -> Result<Self, OpenError> {
        Ok(Self {
            sysctls: Sysctls::new(&settings.sysctl_root),
            settings,
            socket: RouteSocket::open()?,
            wanted,
            events,
            facts,
            taken: Arc::default(),
            observed: BTreeMap::new(),
            dirty: BTreeSet::new(),
            retries: Retries::default(),
            last_attempt_at: BootTime::default(),
            reported: BTreeMap::new(),
            synced: false,
            refreshed_at: BootTime::default(),
            refreshed_up_to: 0,
            is_loud: true,
            may_begin: watch::channel(true).1,
        })
    }

    /// Leaves interfaces that no migration is waiting for until this turns true.
    #[must_use]
    pub fn after(self, may_begin: watch::Receiver<bool>) -> Self {
        Self { may_begin, ..self }
    }

    /// Prepares interfaces until the sender of `wanted` or of the events is gone.
    pub async fn run(mut self) {
        let mut events = Vec::with_capacity(EVENTS_AT_ONCE);
        let mut is_left = false;
        self.wanted.mark_changed();
        loop {
            let due = self.retries.next_after(self.last_attempt_at);
            tokio::select! {
                // ORDER: what is new may be more urgent than what is left.
                biased;
                changed = self.wanted.changed() => match changed {
                    Ok(()) => self.take_wanted(),
                    Err(_) => return,
                },
                count = self.events.recv_many(&mut events, EVENTS_AT_ONCE) => {
                    if count == 0 {
                        return;
                    }
                    for event in events.drain(..) {
                        self.take_event(event);
                    }
                }
                () = opened(&mut self.may_begin), if is_left => {}
                () = sleep_until(due) => {}
            }
            // What exists is not known before the end of the first full read.
            if self.synced {
                is_left = self.prepare_dirty().await;
            }
        }
    }

    fn take_wanted(&mut self) {
        let Some(wanted) = self.wanted.borrow_and_update().clone() else { return };
        for Difference { key: &ifindex, now, .. } in wanted.interfaces.differences(&self.taken.interfaces) {
            let item = Item::Interface(ifindex);
            self.retries.release(|other| *other == item);
            if now.is_some() {
                self.dirty.insert(item);
            } else {
                self.dirty.remove(&item);
                self.reported.remove(&ifindex);
            }
        }
        if self.refreshed_at == BootTime::default() {
            self.dirty.insert(Item::Host);
            self.refreshed_at = clock::now();
        }
        self.taken = wanted;
    }

    fn take_event(&mut self, event: NeighbourEvent) {
        let ifindex = match event {
            NeighbourEvent::Seen(Neighbour { key, mac }) => {
                (self.observed.insert(key, mac) != Some(mac)).then_some(key.ifindex)
            }
            NeighbourEvent::Gone(key) => self.observed.remove(&key).map(|_| key.ifindex),
            NeighbourEvent::LinkChanged { ifindex } => {
                self.retries.release(|item| *item == Item::Interface(ifindex));
                Some(ifindex)
            }
            NeighbourEvent::Synced => {
                self.take_synced();
                None
            }
        };
        if let Some(ifindex) = ifindex.filter(|ifindex| self.taken.interfaces.contains_key(ifindex)) {
            self.dirty.insert(Item::Interface(ifindex));
        }
    }

    fn take_synced(&mut self) {
        self.synced = true;
        let now = clock::now();
        let published = self.refreshed_at != BootTime::default();
        if published && now.since(self.refreshed_at) >= SYSCTL_REFRESH {
            self.refreshed_at = now;
            self.dirty.insert(Item::Host);
            let round = next_round(&self.taken.interfaces, self.refreshed_up_to, SYSCTL_REFRESH_AT_ONCE);
            self.refreshed_up_to = round.last().copied().unwrap_or_default();
            self.dirty.extend(round.into_iter().map(Item::Interface));
        }
    }

    /// Prepares what a migration waits for, and some of the others. Says whether there are more of them.
    async fn prepare_dirty(&mut self) -> bool {
        let now = clock::now();
        self.last_attempt_at = now;
        let due = self.dirty.iter().copied().filter(|item| !self.retries.holds(item, now));
        let (awaited, others): (Vec<Item>, Vec<Item>) = due.partition(|item| self.is_awaited(item));
        self.is_loud = awaited.len() + others.len() <= LOGGED_AT_ONCE_MAX;
        let at_once = if *self.may_begin.borrow() { OTHERS_AT_ONCE } else { 0 };
        for item in awaited.into_iter().chain(others.iter().copied().take(at_once)) {
            match item {
                Item::Host => self.prepare_host(now),
                Item::Interface(ifindex) => self.prepare_interface(ifindex, now).await,
            }
            tokio::task::yield_now().await;
        }
        others.len() > at_once
    }

    /// A migration to here waits for everything that has a watch.
    fn is_awaited(&self, item: &Item) -> bool {
        match item {
            Item::Host => true,
            Item::Interface(ifindex) => self.taken.watches.contains_key(ifindex),
        }
    }

    fn prepare_host(&mut self, now: BootTime) {
        self.dirty.remove(&Item::Host);
        if !self.settings.ip_forwarding {
            return;
        }
        match self.ensure_all(&self.sysctls.forwarding()) {
            Ok(()) => self.retries.succeeded(&Item::Host),
            Err(error) => {
                self.dirty.insert(Item::Host);
                if self.retries.failed(Item::Host, now) {
                    warn!(%error, "forwarding not switched on, trying again");
                }
            }
        }
    }

    async fn prepare_interface(&mut self, ifindex: u32, now: BootTime) {
        let item = Item::Interface(ifindex);
        self.dirty.remove(&item);
        let Some(interface) = self.taken.interfaces.get(&ifindex).cloned() else { return };
        let result = self.prepare(ifindex, &interface);
        let ready = result.is_ok();
        match result {
            Ok(()) => self.retries.succeeded(&item),
            Err(error) => {
                self.dirty.insert(item);
                let is_first = self.retries.failed(item, now);
                if is_first && !error.is_absence() {
                    warn!(interface = interface.name, %error, "interface not prepared, trying again");
                } else {
                    debug!(interface = interface.name, %error, "interface not prepared, trying again");
                }
            }
        }
        if self.reported.insert(ifindex, ready) != Some(ready) {
            say!(self.is_loud, interface = interface.name, ifindex, ready, "interface prepared");
            // The engine only goes when the process does.
            let _ = self.facts.send(Fact::InterfaceConfigured { ifindex, ready }).await;
        }
    }

    fn prepare(&mut self, ifindex: u32, interface: &WantedInterface) -> Result<(), PrepareError> {
        let name = interface.name.as_str();
        if !sysctl::is_safe_name(name) {
            return Err(PrepareError::Name(name.to_owned()));
        }
        check_identity(ifindex, name)?;
        let ipv6 = interface.ipv6 && self.sysctls.has_ipv6(name);
        let mut settings = self.sysctls.ipv4(name);
        if ipv6 {
            settings.extend(Sysctls::ipv6(name));
        }
        self.ensure_all(&settings)?;
        // An interface of the same name may have taken the place of ours while its settings were written.
        check_identity(ifindex, name)?;
        self.ensure_neighbours(ifindex, interface, ipv6)
    }

    /// Makes all settings that can be made, and reports the first required one that cannot.
    fn ensure_all(&self, settings: &[sysctl::Setting]) -> Result<(), SettingError> {
        let mut written = Vec::new();
        let mut first_error = None;
        for setting in settings {
            match (self.sysctls.ensure(setting), setting.need) {
                (Ok(true), _) => written.push(setting.clone()),
                (Ok(false), _) => {}
                (Err(error), Need::Required) => first_error = first_error.or(Some(error)),
                (Err(error), Need::Wanted) => warn!(%error, "going on without it"),
                (Err(error), Need::BestEffort) => debug!(%error, "going on without it"),
            }
        }
        if !written.is_empty() {
            let settings = sysctl::describe(&written);
            say!(self.is_loud, settings, "sysctls written");
        }
        first_error.map_or(Ok(()), Err)
    }

    fn ensure_neighbours(
        &mut self,
        ifindex: u32,
        interface: &WantedInterface,
        ipv6: bool,
    ) -> Result<(), PrepareError> {
        let changes = neighbour_plan(ifindex, interface, ipv6, &self.observed);
        if changes.is_empty() {
            return Ok(());
        }
        let outcome = self.socket.send(&neighbour::prepare(&changes))?;
        let failed: BTreeMap<usize, i32> =
            outcome.failed.iter().map(|failure| (failure.index, failure.errno)).collect();
        let mut first_error = None;
        for (index, change) in changes.iter().enumerate() {
            let address = change.key().address;
            if let Some(&errno) = failed.get(&index) {
                let error = std::io::Error::from_raw_os_error(errno);
                first_error = first_error.or(Some(PrepareError::Neighbour { address, error }));
                continue;
            }
            match change {
                NeighbourChange::Add(neighbour) => {
                    say!(self.is_loud, %address, ifindex, mac = %neighbour.mac, "neighbour added");
                    self.observed.insert(neighbour.key, neighbour.mac);
                }
                NeighbourChange::Remove(key) => {
                    say!(self.is_loud, %address, ifindex, "neighbour removed");
                    self.observed.remove(key);
                }
            }
        }
        first_error.map_or(Ok(()), Err)
    }
}

/// Waits until it is true, or until whoever would turn it true has ended.
async fn opened(gate: &mut watch::Receiver<bool>) {
    drop(gate.wait_for(|open| *open).await);
}

/// The next `count` interfaces after one of them, beginning anew at the end.
fn next_round<T>(interfaces: &SharedMap<u32, T>, after: u32, count: usize) -> Vec<u32> {
    let next = after.saturating_add(1);
    let rest = interfaces.starting_at(&next);
    let first = interfaces.keys().take_while(|ifindex| **ifindex <= after);
    rest.map(|(ifindex, _)| ifindex).chain(first).copied().take(count).collect()
}

/// That the interface of this name is the one of this number.
fn check_identity(ifindex: u32, name: &str) -> Result<(), PrepareError> {
    match nix::net::if_::if_nametoindex(name) {
        Ok(found) if found == ifindex => Ok(()),
        _ => Err(PrepareError::Missing),
    }
}

/// What has to be written so that the permanent neighbours of an interface are the wanted ones. A permanent
/// unicast neighbour on a workload interface is ours: nobody else knows the guest's address for certain.
fn neighbour_plan(
    ifindex: u32,
    interface: &WantedInterface,
    ipv6: bool,
    observed: &BTreeMap<NeighbourKey, MacAddr>,
) -> Vec<NeighbourChange> {
    let wanted: BTreeMap<NeighbourKey, MacAddr> = interface
        .neighbours
        .iter()
        .filter(|(address, _)| ipv6 || address.is_ipv4())
        .map(|(address, mac)| (NeighbourKey { ifindex, address: *address }, *mac))
        .collect();
    let missing = wanted.iter().filter(|(key, mac)| observed.get(key) != Some(mac));
    let additions = missing.map(|(key, mac)| NeighbourChange::Add(Neighbour { key: *key, mac: *mac }));
    let removals = observed
        .keys()
        .filter(|key| key.ifindex == ifindex && !key.address.is_multicast() && !wanted.contains_key(key))
        .map(|key| NeighbourChange::Remove(*key));
    additions.chain(removals).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr([0xfa, 0x16, 0x3e, 0, 0, 1]);
    const OTHER_MAC: MacAddr = MacAddr([0xfa, 0x16, 0x3e, 0, 0, 2]);

    fn key(ifindex: u32, address: &str) -> NeighbourKey {
        NeighbourKey { ifindex, address: address.parse().unwrap() }
    }

    fn interface() -> WantedInterface {
        let neighbours = ["10.65.0.2", "2001:db8::2"].map(|address| (address.parse().unwrap(), MAC));
        WantedInterface { name: "tap1".into(), neighbours: BTreeMap::from(neighbours), ipv6: true }
    }

    #[test]
    fn rounds_go_through_all_interfaces_and_begin_anew() {
        let interfaces = SharedMap::from([3, 5, 8].map(|ifindex| (ifindex, ())));
        assert_eq!(next_round(&interfaces, 0, 2), [3, 5]);
        assert_eq!(next_round(&interfaces, 5, 2), [8, 3]);
        assert_eq!(next_round(&interfaces, 8, 5), [3, 5, 8], "each at most once");
        assert_eq!(next_round(&interfaces, 6, 5), [8, 3, 5], "the last one may be gone");
        assert!(next_round(&SharedMap::<u32, ()>::default(), 6, 5).is_empty());
    }

    #[test]
    fn both_families_are_added_and_then_nothing_differs() {
        let changes = neighbour_plan(7, &interface(), true, &BTreeMap::new());
        assert_eq!(changes.len(), 2);
        let observed = BTreeMap::from([(key(7, "10.65.0.2"), MAC), (key(7, "2001:db8::2"), MAC)]);
        assert_eq!(neighbour_plan(7, &interface(), true, &observed), []);
    }

    #[test]
    fn ipv6_is_left_out_where_there_is_none() {
        let changes = neighbour_plan(7, &interface(), false, &BTreeMap::new());
        assert_eq!(changes, [NeighbourChange::Add(Neighbour { key: key(7, "10.65.0.2"), mac: MAC })]);
    }

    #[test]
    fn only_this_interface_is_cleaned() {
        let observed = BTreeMap::from([
            (key(7, "10.65.0.2"), OTHER_MAC),
            (key(7, "2001:db8::2"), MAC),
            (key(7, "10.65.0.99"), MAC),
            (key(7, "ff02::1"), MAC),
            (key(8, "10.65.0.98"), MAC),
        ]);
        let expected = [
            NeighbourChange::Add(Neighbour { key: key(7, "10.65.0.2"), mac: MAC }),
            NeighbourChange::Remove(key(7, "10.65.0.99")),
        ];
        assert_eq!(neighbour_plan(7, &interface(), true, &observed), expected);
    }
}
