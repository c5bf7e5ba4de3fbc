//! The watch applier: arms and disarms taps, and fetches the evidence that the kernel latched.
//!
//! For each wanted watch the fast path gets its netlink batch first, then the kernel gets the watch. For each
//! watch that is not wanted any more it is the other way round. What the kernel holds is asked, not remembered,
//! so a restart adopts the watches of the agent's last life and the announcements that came meanwhile. What is attached to taps that nobody
//! watches any more is detached when nobody is awaited.

#[cfg(test)]
mod model;
mod quiet;

use super::{Batches, Taps, WantedReceiver};
use crate::clock;
use crate::retry::BackOff;
use cutover_common::AnnouncementKind;
use cutover_common::MacAddr;
use cutover_common::abi::{
    Evidence, WATCH_FLAG_ANY, WATCH_FLAG_FIRST_FRAME, WATCH_IPV4_MAX, WATCH_IPV6_MAX, Watch,
};
use cutover_engine::fact::AnnouncementSeen;
use cutover_engine::model::{Trigger, Validation};
use cutover_engine::wanted::WantedWatch;
use cutover_engine::{BootTime, Fact, Wanted};
use quiet::Quiet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::Instant;
use tracing::{debug, info, warn};

/// How often armed watches are checked for evidence whose record was lost, and for links taken away.
///
/// LIMIT: a record is lost only if the ring buffer is full, so this is a net under the net.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Watches that are wanted and cannot be armed, by ifindex: the interface and why. For `cutover status`.
pub type Unarmed = Arc<Mutex<BTreeMap<u32, (String, String)>>>;

/// The applier.
#[derive(Debug)]
pub struct WatchApplier<Kernel = crate::bpf::Kernel, FastPath = crate::fast_path::FastPath> {
    /// Nobody else's: what it does can take long, because the kernel's lock for links may be somebody else's.
    kernel: Kernel,
    fast_path: FastPath,
    facts: UnboundedSender<Fact>,
    /// What was prepared and armed, by ifindex; the kernel is asked whether it still is.
    applied: BTreeMap<u32, WantedWatch>,
    /// Generations whose evidence was reported.
    reported: BTreeSet<u64>,
    back_off: BackOff,
    quiet: Quiet,
    /// For what cannot be detached.
    detaching: BackOff,
    /// When evidence of watches that are gone is to be looked for; at the start because of the last life.
    strays_due: Option<BootTime>,
    unarmed: Unarmed,
}

impl<Kernel: Taps, FastPath: Batches> WatchApplier<Kernel, FastPath> {
    /// An applier that has done nothing yet.
    #[must_use]
    pub fn new(kernel: Kernel, fast_path: FastPath, facts: UnboundedSender<Fact>) -> Self {
        Self {
            kernel,
            fast_path,
            facts,
            applied: BTreeMap::new(),
            reported: BTreeSet::new(),
            back_off: BackOff::new(),
            quiet: Quiet::default(),
            detaching: BackOff::new(),
            strays_due: Some(clock::now()),
            unarmed: Unarmed::default(),
        }
    }

    /// What cannot be armed, as it is at any time.
    #[must_use]
    pub fn unarmed(&self) -> Unarmed {
        Arc::clone(&self.unarmed)
    }

    fn lock_unarmed(&self) -> std::sync::MutexGuard<'_, BTreeMap<u32, (String, String)>> {
        self.unarmed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows the wanted sets until their sender is gone.
    pub async fn run(mut self, mut wanted: WantedReceiver) {
        let (mut due, mut detach_due) = (None, None);
        loop {
            let is_due = tokio::select! {
                biased;
                changed = wanted.changed() => if changed.is_err() { return } else { true },
                () = wait_for(due) => true,
                () = wait_for(detach_due) => false,
            };
            // ORDER: what is marked as seen is looked at, whatever has woken this.
            let (is_news, newest) = {
                let newest = wanted.borrow_and_update();
                (newest.has_changed(), newest.clone())
            };
            let Some(newest) = newest else { continue };
            if is_due || is_news {
                due = self.apply(&newest).map(|pause| Instant::now() + pause);
            }
            detach_due = self.detach_when_quiet(&newest);
        }
    }

    /// Closes the difference. Returns when to come back.
    fn apply(&mut self, wanted: &Wanted) -> Option<Duration> {
        // ORDER: first nothing more is installed, then the kernel forgets.
        self.forget_unwanted(wanted);
        self.lock_unarmed().retain(|ifindex, _| wanted.watches.contains_key(ifindex));
        let pinned = wanted.watches.is_empty() || self.restore_pins();
        // What is only known from memory says nothing about what is not among it.
        let disarmed = wanted.is_recalled || self.disarm_unwanted(wanted);
        let clean = pinned & disarmed & self.arm_wanted(wanted);
        self.report_evidence(wanted);
        if clean {
            self.back_off.reset();
            if !wanted.is_recalled {
                self.forget_strays();
            }
            (!wanted.watches.is_empty() || self.strays_due.is_some()).then_some(CHECK_INTERVAL)
        } else {
            Some(self.back_off.next_pause())
        }
    }

    /// Whether everything is pinned, be it again.
    fn restore_pins(&mut self) -> bool {
        let restored = self.kernel.restore_pins();
        match restored {
            Ok(false) => true,
            Ok(true) => {
                warn!("somebody removed pins of a running agent; pinned again");
                true
            }
            Err(error) => {
                warn!(error = %crate::logging::one_line(&error), "cannot pin again what somebody removed; will try again");
                false
            }
        }
    }

    fn armed(&self) -> Option<BTreeMap<u32, Watch>> {
        match self.kernel.armed() {
            Ok(armed) => Some(armed.into_iter().collect()),
            Err(error) => {
                warn!(error = %crate::logging::one_line(&error), "cannot read the armed watches; will try again");
                None
            }
        }
    }

    /// By what is wanted and not by what the kernel holds, which may never have taken a watch whose batch is prepared.
    fn forget_unwanted(&mut self, wanted: &Wanted) {
        let generations = wanted.watches.values().map(|watch| watch.generation).collect();
        self.fast_path.keep_only(&generations);
        self.reported.retain(|generation| generations.contains(generation));
        if wanted.is_recalled {
            // Nothing is disarmed, but it has no batch any more, and needs one when it is wanted again.
            self.applied.retain(|_, applied| generations.contains(&applied.generation));
        }
    }

    fn disarm_unwanted(&mut self, wanted: &Wanted) -> bool {
        let Some(armed) = self.armed() else { return false };
        let mut clean = true;
        for (ifindex, watch) in armed {
            let keep =
                wanted.watches.get(&ifindex).is_some_and(|wanted| wanted.generation == watch.generation);
            if keep {
                continue;
            }
            let name = self.applied.get(&ifindex).map(|applied| applied.interface.clone());
            let disarmed = self.kernel.disarm(ifindex, name.as_deref());
            match disarmed {
                Ok(()) => {
                    self.applied.remove(&ifindex);
                    self.strays_due = Some(clock::now() + CHECK_INTERVAL);
                    info!(ifindex, generation = watch.generation, "Watch disarmed");
                }
                Err(error) => {
                    clean = false;
                    warn!(ifindex, error = %crate::logging::one_line(&error), "cannot disarm a watch; will try again");
                }
            }
        }
        clean
    }

    /// Detaches from a tap that nobody watches if it is time for that. Returns when to come back.
    fn detach_when_quiet(&mut self, wanted: &Wanted) -> Option<Instant> {
        // What is only known from memory says nothing about what is not among it.
        let idle = if wanted.is_recalled { 0 } else { self.kernel.idle() };
        let is_awaiting = idle > 0 && self.is_awaiting();
        let mut next = self.quiet.next(idle, is_awaiting, clock::now());
        if next == quiet::Next::DetachOne {
            let detached = self.kernel.detach_idle();
            match detached {
                Ok(()) => self.detaching.reset(),
                Err(error) => {
                    warn!(error = %crate::logging::one_line(&error), "cannot detach a program; will try again");
                    return Some(Instant::now() + self.detaching.next_pause());
                }
            }
            next = self.quiet.next(self.kernel.idle(), is_awaiting, clock::now());
        }
        match next {
            quiet::Next::Nothing => None,
            quiet::Next::DetachOne => Some(Instant::now()),
            quiet::Next::LookAgainAt(at) => Some(Instant::now() + at.since(clock::now())),
        }
    }

    fn is_awaiting(&self) -> bool {
        self.kernel.is_awaiting().unwrap_or_else(|error| {
            debug!(error = %crate::logging::one_line(&error), "cannot see whether somebody is awaited");
            true
        })
    }

    fn arm_wanted(&mut self, wanted: &Wanted) -> bool {
        let mut clean = true;
        for (&ifindex, watch) in wanted.watches.iter() {
            clean &= self.arm(ifindex, watch);
        }
        clean
    }

    fn arm(&mut self, ifindex: u32, wanted: &WantedWatch) -> bool {
        let generation = wanted.generation;
        let known = self.applied.get(&ifindex);
        let (value, left_out) = watch_value(wanted);
        let is_prepared = known.is_some_and(|known| {
            let same_routes = known.routes == wanted.routes;
            known.generation == generation && same_routes && known.ends_forwarding == wanted.ends_forwarding
        });
        if !is_prepared && !self.reported.contains(&generation) {
            // ORDER: the batch is there before the kernel can accept the announcement.
            self.fast_path.prepare(generation, &wanted.routes, wanted.ends_forwarding);
        }
        let armed = self.kernel.arm(ifindex, &wanted.interface, &value);
        match armed {
            Ok(()) => {
                if known.is_none_or(|known| known.generation != generation) {
                    self.strays_due = Some(clock::now() + CHECK_INTERVAL);
                    info!(interface = %wanted.interface, ifindex, generation, "Watch armed");
                    if left_out > 0 {
                        warn!(
                            interface = %wanted.interface, left_out,
                            "more addresses than a watch can match; an announcement for one of these alone is not recognised"
                        );
                    }
                    self.tell(Fact::WatchArmed { generation, at: clock::now() });
                }
                self.applied.insert(ifindex, wanted.clone());
                self.lock_unarmed().remove(&ifindex);
                true
            }
            Err(error) => {
                // A tap that goes is about to be reported as gone.
                if !self.kernel.is_there(ifindex, &wanted.interface) {
                    debug!(interface = %wanted.interface, ifindex, "no watch armed, the interface is gone");
                } else {
                    let reason = crate::logging::one_line(&error).to_string();
                    warn!(interface = %wanted.interface, error = %reason, "cannot arm a watch; will try again");
                    self.lock_unarmed().insert(ifindex, (wanted.interface.clone(), reason));
                }
                self.applied.remove(&ifindex);
                self.tell(Fact::WatchFailed { generation });
                false
            }
        }
    }

    /// ORDER: some time after a watch is gone, when no program that still knew it can be running, and after everything that was
    /// latched has been told, which it is before anything is wanted.
    fn forget_strays(&mut self) {
        if self.strays_due.is_none_or(|due| due > clock::now()) {
            return;
        }
        let forgotten = self.kernel.forget_stray_evidence();
        match forgotten {
            Ok(count) => {
                self.strays_due = None;
                if count > 0 {
                    debug!(count, "evidence of watches that are gone was forgotten");
                }
            }
            Err(error) => {
                debug!(error = %crate::logging::one_line(&error), "cannot look for evidence of watches that are gone");
                self.strays_due = Some(clock::now() + CHECK_INTERVAL);
            }
        }
    }

    /// Evidence that the ring buffer did not, or will not, tell: it came while nobody was looking.
    fn report_evidence(&mut self, wanted: &Wanted) {
        for watch in wanted.watches.values() {
            if self.reported.contains(&watch.generation) {
                continue;
            }
            let evidence = self.kernel.evidence(watch.generation);
            match evidence {
                Ok(None) => {}
                Ok(Some(evidence)) => {
                    self.reported.insert(watch.generation);
                    if let Some(seen) = announcement(watch.generation, &evidence) {
                        self.tell(Fact::AnnouncementSeen(seen));
                    }
                }
                Err(error) => {
                    debug!(error = %crate::logging::one_line(&error), "cannot read evidence; will try again");
                }
            }
        }
    }

    fn tell(&self, fact: Fact) {
        // The receiver is gone only while the agent stops.
        let _: Result<(), _> = self.facts.send(fact);
    }
}

async fn wait_for(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Latched evidence as a fact; nothing was done about it yet.
pub(crate) fn announcement(generation: u64, evidence: &Evidence) -> Option<AnnouncementSeen> {
    let Some(kind) = AnnouncementKind::from_number(evidence.kind) else {
        warn!(kind = evidence.kind, "evidence of an unknown kind; ignored");
        return None;
    };
    let seen_at = BootTime(evidence.seen_at_ns);
    Some(AnnouncementSeen { generation, kind, seen_at, taken_at: None, routed_at: None })
}

/// The value for the kernel's map, and how many addresses have no room in it.
fn watch_value(wanted: &WantedWatch) -> (Watch, u32) {
    let mut flags = 0;
    if wanted.validation == Validation::Any {
        flags |= WATCH_FLAG_ANY;
    }
    if wanted.trigger == Trigger::FirstFrame {
        flags |= WATCH_FLAG_FIRST_FRAME;
    }
    let mut value = Watch {
        generation: wanted.generation,
        flags,
        ipv4_count: 0,
        ipv6_count: 0,
        mac: wanted.mac.unwrap_or(MacAddr::ZERO).0,
        reserved: [0; 4],
        ipv4: [[0; 4]; WATCH_IPV4_MAX],
        ipv6: [[0; 16]; WATCH_IPV6_MAX],
    };
    let link_local = wanted.mac.map(|mac| IpAddr::from(mac.link_local()));
    let mut left_out = 0;
    for address in link_local.into_iter().chain(wanted.addresses.iter().copied()) {
        match address {
            IpAddr::V4(address) => match value.ipv4.get_mut(usize::from(value.ipv4_count)) {
                Some(slot) => {
                    *slot = address.octets();
                    value.ipv4_count += 1;
                }
                None => left_out += 1,
            },
            IpAddr::V6(address) => match value.ipv6.get_mut(usize::from(value.ipv6_count)) {
                Some(slot) => {
                    *slot = address.octets();
                    value.ipv6_count += 1;
                }
                None => left_out += 1,
            },
        }
    }
    (value, left_out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(addresses: impl IntoIterator<Item = IpAddr>) -> WantedWatch {
        WantedWatch {
            interface: "tap1".into(),
            generation: 42,
            mac: Some(MacAddr([2, 0, 0, 0, 0, 1])),
            addresses: addresses.into_iter().collect(),
            trigger: Trigger::FirstFrame,
            validation: Validation::Any,
            ends_forwarding: false,
            routes: BTreeSet::new(),
        }
    }

    #[test]
    fn link_local_address_comes_first_and_both_families_are_counted() {
        let (value, left_out) =
            watch_value(&wanted(["10.0.0.1".parse().unwrap(), "2001:db8::1".parse().unwrap()]));
        assert_eq!(left_out, 0);
        assert_eq!((value.generation, value.flags), (42, WATCH_FLAG_ANY | WATCH_FLAG_FIRST_FRAME));
        assert_eq!((value.ipv4_count, value.ipv6_count), (1, 2));
        assert_eq!(value.ipv4[0], [10, 0, 0, 1]);
        assert_eq!(value.ipv6[0][..2], [0xfe, 0x80]);
        assert_eq!(value.ipv6[1][..4], [0x20, 0x01, 0x0d, 0xb8]);
    }

    #[test]
    fn more_addresses_than_fit_are_left_out_without_harm() {
        let many = (0..100u8).map(|last| IpAddr::from([10, 0, 0, last]));
        let (value, left_out) = watch_value(&wanted(many));
        assert_eq!((usize::from(value.ipv4_count), left_out), (WATCH_IPV4_MAX, 68));
    }
}
