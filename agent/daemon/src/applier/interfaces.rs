//! Prepares workload interfaces: sysctls and permanent neighbours.
//!
//! Owns every sysctl and neighbour that the agent writes: here is when and in which order, in `preparer` how. Works on taps
//! without a carrier as well (W18), so that a virtual machine that moves here finds everything in place. Says to the
//! engine which interfaces are ready. The agent starts it.

#[cfg(test)]
mod model;
mod neighbours;
mod preparer;
mod preview;
mod round;
mod unprepared;

pub use preview::{InterfacePreview, preview};
pub use unprepared::Unprepared;

use super::WantedReceiver;
use super::pace::Pace;
use crate::clock;
use crate::netlink::NeighbourEvent;
use crate::netlink::listeners;
use crate::netlink::socket::OpenError;
use crate::retry::Retries;
use crate::sysctls;
use crate::sysctls::table::Keeper;
use cutover_engine::shared::Difference;
use cutover_engine::wanted::{Ipv6, WantedInterface};
use cutover_engine::{BootTime, Fact, Wanted};
use preparer::{PrepareError, Preparer, Prepares};
use round::next_round;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tracing::{debug, info, warn};
use unprepared::Item;

/// LIMIT: events taken at once; more of them wait for the next turn.
const EVENTS_AT_ONCE: usize = 1024;

/// KERNEL: it does not tell when somebody changes most of the sysctls, so they are looked at again this often, at the end
/// of a full read.
const SYSCTL_REFRESH: Duration = Duration::from_secs(30);

/// LIMIT: reading all settings of ten thousand interfaces takes a large part of a second, so only so many are looked
/// at in one refresh; the next one goes on with the others.
const SYSCTL_REFRESH_AT_ONCE: usize = 1000;

/// KERNEL: it does not tell when IPv6 is switched on for an interface without a carrier, so whatever lacks something is looked at
/// again this often.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// LIMIT: where IPv6 is off for good that many are looked at again at once; one takes some ten microseconds.
const LOOK_AGAIN_AT_ONCE: usize = 64;

/// LIMIT: so many interfaces that nobody waits for are prepared before looking for something more urgent; each takes some
/// hundred microseconds when all of its settings have to be written.
const OTHERS_AT_ONCE: usize = 64;
/// LIMIT: of an interface that is new the kernel notifies about so often: two neighbours, and the settings that some daemons hear of.
const NOTIFICATIONS_EACH: usize = 8;
/// LIMIT: more interfaces than this at once are logged one by one at DEBUG only.
const LOGGED_AT_ONCE_MAX: usize = 64;

/// What the applier has to know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InterfaceSettings {
    /// Switch forwarding on for the whole host (`IPForwarding`).
    pub ip_forwarding: bool,
    /// Where the network sysctls are: `/proc/sys/net`.
    pub sysctl_root: PathBuf,
    /// Where to note what sysctls of the host were, so that `cutover cleanup` can set them back.
    pub run_dir: Option<PathBuf>,
}

impl Default for InterfaceSettings {
    fn default() -> Self {
        Self { ip_forwarding: true, sysctl_root: Path::new(sysctls::ROOT).to_owned(), run_dir: None }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct Forwards {
    any: bool,
    ipv6: bool,
}

impl Forwards {
    const fn take(&mut self, interface: &WantedInterface) {
        self.any = true;
        self.ipv6 |= matches!(interface.ipv6, Ipv6::Routed);
    }
}

/// The applier. Open it in the right network namespace, then [`InterfaceApplier::run`] it on a thread of the
/// same namespace.
#[derive(Debug)]
pub struct InterfaceApplier(Applier<Preparer>);

/// The same over anything that prepares: what is written is the kernel's business, when and in which order is this one's.
#[derive(Debug)]
struct Applier<Preparer> {
    settings: InterfaceSettings,
    preparer: Preparer,
    wanted: WantedReceiver,
    events: mpsc::Receiver<NeighbourEvent>,
    facts: mpsc::Sender<Fact>,
    /// What was wanted when it was last looked at.
    taken: Arc<Wanted>,
    dirty: BTreeSet<Item>,
    retries: Retries<Item>,
    last_attempt_at: BootTime,
    reported: BTreeMap<u32, bool>,
    unprepared: Unprepared,
    /// Ready, but not complete.
    incomplete: BTreeSet<u32>,
    /// When to look at them again, and at the last one last time.
    look_again: Option<BootTime>,
    looked_up_to: u32,
    /// What the host has to forward because of some interface since the start.
    forwards: Forwards,
    synced: bool,
    refreshed_at: BootTime,
    /// The last interface that was looked at again.
    refreshed_up_to: u32,
    /// Whoever has to hear that an interface has something which it lacked.
    mended: mpsc::UnboundedSender<u32>,
    /// True when whatever nobody waits for may begin.
    may_begin: watch::Receiver<bool>,
    /// Of what nobody waits for.
    pace: Pace,
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
        let preparer = Preparer::open(&settings.sysctl_root, settings.run_dir.as_deref())?;
        Ok(Self(Applier::with(preparer, settings, wanted, events, facts)))
    }

    /// Leaves interfaces that no migration is waiting for until this turns true.
    #[must_use]
    pub fn after(mut self, may_begin: watch::Receiver<bool>) -> Self {
        self.0.may_begin = may_begin;
        self
    }

    /// Leaves to Felix what Felix has on each tap.
    #[must_use]
    pub fn beside_felix(mut self, felix_is_beside: bool) -> Self {
        self.0.preparer.kept_by(if felix_is_beside { Keeper::Felix } else { Keeper::Agent });
        self
    }

    /// Says from now on which interfaces have something that they lacked, such as IPv6: routes to them may have failed for want of
    /// it, and the kernel does not always say when it is there.
    pub fn mended(&mut self) -> mpsc::UnboundedReceiver<u32> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.0.mended = sender;
        receiver
    }

    /// What is not set up, as it is at any time.
    #[must_use]
    pub fn unprepared(&self) -> Unprepared {
        self.0.unprepared.clone()
    }

    /// Prepares interfaces until the sender of `wanted` or of the events is gone.
    pub async fn run(self) {
        self.0.run().await;
    }
}

impl<Preparer: Prepares> Applier<Preparer> {
    fn with(
        preparer: Preparer,
        settings: InterfaceSettings,
        wanted: WantedReceiver,
        events: mpsc::Receiver<NeighbourEvent>,
        facts: mpsc::Sender<Fact>,
    ) -> Self {
        Self {
            preparer,
            settings,
            wanted,
            events,
            facts,
            taken: Arc::default(),
            dirty: BTreeSet::new(),
            retries: Retries::default(),
            last_attempt_at: BootTime::default(),
            reported: BTreeMap::new(),
            unprepared: Unprepared::default(),
            incomplete: BTreeSet::new(),
            look_again: None,
            looked_up_to: 0,
            forwards: Forwards::default(),
            synced: false,
            refreshed_at: BootTime::default(),
            refreshed_up_to: 0,
            mended: mpsc::unbounded_channel().0,
            may_begin: watch::channel(true).1,
            pace: Pace::for_listeners(listeners::OF_INTERFACES).looking_later(),
        }
    }

    async fn run(mut self) {
        let mut events = Vec::with_capacity(EVENTS_AT_ONCE);
        let mut is_left = false;
        self.wanted.mark_changed();
        loop {
            let retry = self.retries.next_after(self.last_attempt_at);
            let next_look = self.pace.next_look();
            let due = retry.into_iter().chain(self.look_again).chain(next_look).min();
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
                () = opened(&mut self.may_begin), if is_left && next_look.is_none() => {}
                () = clock::sleep_until(due) => {}
            }
            self.look_again();
            // What exists is not known before the end of the first full read.
            if self.synced {
                is_left = self.prepare_dirty().await;
            }
        }
    }

    fn take_wanted(&mut self) {
        let Some(wanted) = self.wanted.borrow_and_update().clone() else { return };
        let forwards_before = self.forwards;
        for Difference { key: &ifindex, now, .. } in wanted.interfaces.differences(&self.taken.interfaces) {
            let item = Item::Interface(ifindex);
            self.retries.release(|other| *other == item);
            if let Some(interface) = now {
                self.dirty.insert(item);
                self.forwards.take(interface);
            } else {
                self.dirty.remove(&item);
                self.reported.remove(&ifindex);
                self.incomplete.remove(&ifindex);
                self.unprepared.clear(item);
            }
        }
        if self.forwards != forwards_before {
            self.dirty.insert(Item::Host);
        }
        if self.refreshed_at == BootTime::default() {
            self.refreshed_at = clock::now();
        }
        self.taken = wanted;
    }

    fn take_event(&mut self, event: NeighbourEvent) {
        let ifindex = match event {
            NeighbourEvent::Seen(neighbour) => self.preparer.seen(neighbour).then_some(neighbour.key.ifindex),
            NeighbourEvent::Gone(key) => self.preparer.gone(&key).then_some(key.ifindex),
            NeighbourEvent::Recount { held, since } => {
                let news = self.preparer.recount(&held, since);
                news.into_iter().for_each(|ifindex| self.look_at(ifindex));
                None
            }
            NeighbourEvent::LinkChanged { ifindex } | NeighbourEvent::Ipv6Appeared { ifindex } => {
                self.retries.release(|item| *item == Item::Interface(ifindex));
                Some(ifindex)
            }
            NeighbourEvent::Synced => {
                self.take_synced();
                None
            }
        };
        if let Some(ifindex) = ifindex {
            self.look_at(ifindex);
        }
    }

    fn look_at(&mut self, ifindex: u32) {
        if self.taken.interfaces.contains_key(&ifindex) {
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

    /// What lacks something may get it by now.
    fn look_again(&mut self) {
        let now = clock::now();
        if self.look_again.is_some_and(|at| at <= now) {
            let later = self.incomplete.range(self.looked_up_to.saturating_add(1)..);
            let round = later.chain(self.incomplete.range(..=self.looked_up_to)).copied();
            let round: Vec<u32> = round.take(LOOK_AGAIN_AT_ONCE).collect();
            self.looked_up_to = round.last().copied().unwrap_or_default();
            self.dirty.extend(round.into_iter().map(Item::Interface));
            self.look_again = (!self.incomplete.is_empty()).then(|| now + LOOK_AGAIN_AFTER);
        }
    }

    /// Prepares what a migration waits for, and some of the others, as fast as others can follow. Says whether there are more of them.
    async fn prepare_dirty(&mut self) -> bool {
        let now = clock::now();
        self.last_attempt_at = now;
        let (awaited, others) = self.due(now);
        self.preparer.be_loud(awaited.len() + others.len() <= LOGGED_AT_ONCE_MAX);
        for item in awaited {
            self.prepare(item, now).await;
        }
        let at_once = if *self.may_begin.borrow() { OTHERS_AT_ONCE } else { 0 };
        let is_exempt = at_once > 0 && self.pace.exempts(others.len() * NOTIFICATIONS_EACH, now);
        let mut done = 0;
        for item in others.iter().copied().take(at_once) {
            if !is_exempt && !self.pace.may_go_on(clock::now()) {
                break;
            }
            self.prepare(item, now).await;
            done += 1;
        }
        let is_left = others.len() > done;
        if !is_left {
            self.pace.done();
        }
        is_left
    }

    async fn prepare(&mut self, item: Item, now: BootTime) {
        let before = self.preparer.writes();
        match item {
            Item::Host => self.prepare_host(now),
            Item::Interface(ifindex) => self.prepare_interface(ifindex, now).await,
        }
        self.pace.wrote(self.preparer.writes() - before);
        tokio::task::yield_now().await;
    }

    /// What a migration waits for, and the first ones of the others: enough of them to know whether they are too many.
    fn due(&self, now: BootTime) -> (Vec<Item>, Vec<Item>) {
        let is_due = |item: &Item| !self.retries.holds(item, now);
        let watched = self.taken.watches.keys().copied().map(Item::Interface);
        let bridges = self.dirty.iter().copied().filter(|item| self.is_bridge(item));
        let awaited = std::iter::once(Item::Host).chain(watched).chain(bridges);
        let awaited = awaited.filter(|item| self.dirty.contains(item) && is_due(item)).collect();
        let others = self.dirty.iter().copied().filter(|item| !self.is_awaited(item) && is_due(item));
        (awaited, others.take(OTHERS_AT_ONCE.max(LOGGED_AT_ONCE_MAX) + 1).collect())
    }

    /// A migration to here waits for everything that has a watch, and perhaps for a bridge whose port it is.
    fn is_awaited(&self, item: &Item) -> bool {
        match item {
            Item::Host => true,
            Item::Interface(ifindex) => self.taken.watches.contains_key(ifindex) || self.is_bridge(item),
        }
    }

    fn is_bridge(&self, item: &Item) -> bool {
        match item {
            Item::Host => false,
            Item::Interface(ifindex) => self.taken.interfaces.get(ifindex).is_some_and(|it| it.is_bridge),
        }
    }

    fn prepare_host(&mut self, now: BootTime) {
        self.dirty.remove(&Item::Host);
        if !self.settings.ip_forwarding || !self.forwards.any {
            return;
        }
        match self.preparer.prepare_host(self.forwards.ipv6) {
            Ok(()) => {
                self.retries.succeeded(&Item::Host);
                self.unprepared.clear(Item::Host);
            }
            Err(error) => {
                self.dirty.insert(Item::Host);
                self.unprepared.set(Item::Host, "host", error.to_string());
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
        let name = interface.name.as_str();
        let result = self.preparer.prepare(ifindex, &interface);
        let ready = result.is_ok();
        match result {
            Ok(lacks) => self.note_prepared(item, ifindex, name, lacks),
            Err(error) => self.note_failed(item, ifindex, name, &error, now),
        }
        if self.reported.insert(ifindex, ready) != Some(ready) {
            if self.preparer.is_loud() {
                info!(interface = name, ifindex, ready, "interface prepared");
            } else {
                debug!(interface = name, ifindex, ready, "interface prepared");
            }
            // The engine only goes when the process does.
            let _ = self.facts.send(Fact::InterfaceConfigured { ifindex, ready }).await;
        }
    }

    fn note_prepared(&mut self, item: Item, ifindex: u32, name: &str, lacks: Option<String>) {
        self.retries.succeeded(&item);
        if let Some(lacks) = lacks {
            self.incomplete.insert(ifindex);
            self.look_again.get_or_insert(self.last_attempt_at + LOOK_AGAIN_AFTER);
            if self.unprepared.set(item, name, lacks.clone()) {
                warn!(interface = name, lacks, "interface prepared, but for something");
                self.tell_mended(ifindex);
            }
        } else {
            self.unprepared.clear(item);
            if self.incomplete.remove(&ifindex) {
                info!(interface = name, ifindex, "interface complete");
                self.tell_mended(ifindex);
            }
        }
    }

    fn tell_mended(&self, ifindex: u32) {
        // Nobody may want to know.
        let _: Result<(), _> = self.mended.send(ifindex);
    }

    fn note_failed(&mut self, item: Item, ifindex: u32, name: &str, error: &PrepareError, now: BootTime) {
        self.incomplete.remove(&ifindex);
        self.dirty.insert(item);
        self.unprepared.set(item, name, error.to_string());
        let is_first = self.retries.failed(item, now);
        if is_first && !error.is_expected() {
            warn!(interface = name, %error, "interface not prepared, trying again");
        } else {
            debug!(interface = name, %error, "interface not prepared, trying again");
        }
    }
}

/// Waits until it is true, or until whoever would turn it true has ended.
async fn opened(gate: &mut watch::Receiver<bool>) {
    drop(gate.wait_for(|open| *open).await);
}
