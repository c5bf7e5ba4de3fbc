//! The tunnel applier: forwards what still comes for virtual machines that have left, and takes what is forwarded for those that arrive.
//!
//! Owns the device of the tunnel with its programs and sysctls, the two tables and their rules (`plan` says what is in them). There is nothing
//! of it while nothing is wanted. Everything that takes time is done when a forward appears that is not active yet; to make it active is
//! one batch of netlink requests. What the last life left goes on as it is until the first wanted set says otherwise, also if it takes
//! long to get there; only what the memory says is forwarded no more is taken away before that.
//!
//! What the kernel holds is asked at the start, after a failure, and once a second while something is wanted, in case somebody else
//! removes it. In between it is known from what the kernel confirmed.

mod early;
mod error;
mod leftovers;
mod plan;
mod plane;
mod queues;
mod report;
mod starter;

pub use early::Start;
pub use error::TunnelError;
pub use leftovers::cleanup;
pub use report::{ForwardState, ReceptionState, TunnelReport, Tunnels};
pub use starter::{Starter, Starts};

use super::{WantedReceiver, is_gone};
use crate::bpf::TunnelEntries;
use crate::clock;
use crate::conntrack::is_tracking;
use crate::logging::one_line;
use crate::netlink::RouteSocket;
use crate::netlink::policy::{PolicyChange, SideRoute, Way};
use crate::netlink::socket::OpenError;
use crate::priority::Priority;
use crate::retry::BackOff;
use cutover_common::tunnel::{Address, Traffic};
use cutover_engine::shared::{SharedMap, SharedSet};
use cutover_engine::wanted::{WantedForward, WantedReception};
use cutover_engine::{BootTime, EndpointKey, Fact, InterfacePrefixes, Wanted};
use early::Early;
use ipnet::IpNet;
use plan::{Forwards, Policy, Receptions, Target};
use plane::{Found, Plane};
use queues::Queues;
use starter::{Heard, Waiting};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;
use tracing::{debug, info, warn};

/// How often somebody looks whether all is still there.
///
/// LIMIT: a dozen netlink requests, against how long nothing is forwarded after somebody removed the device.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// What the tunnel puts in front of a packet over IPv6: IPv6, UDP and VXLAN.
const IPV6_HEAD_BYTES: u32 = 40 + 8 + 8;

/// By which our routes and rules are known in tables that somebody else may use as well. It is nobody else's (linux/rtnetlink.h).
const PROTOCOL: u8 = 79;

/// What the applier has to know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Table of forwarded prefixes and priority of its rule (`CutoverForwardTable`). The next table and the priority before it are for
    /// what comes out of the tunnel.
    pub table: u32,
    /// UDP port (`CutoverTunnelPort`).
    pub port: u16,
    /// Protocol of our routes and rules.
    pub protocol: u8,
    /// How the names of workload interfaces begin (`InterfacePrefix`, `CutoverBridges`): what comes from them is tracked in any case.
    pub interface_prefixes: InterfacePrefixes,
}

impl From<&crate::settings::Settings> for Settings {
    fn from(settings: &crate::settings::Settings) -> Self {
        Self {
            table: settings.cutover_forward_table,
            port: settings.cutover_tunnel_port,
            protocol: PROTOCOL,
            interface_prefixes: settings.interface_prefix.and(&settings.cutover_bridges),
        }
    }
}

/// What the kernel holds, as far as is known.
#[derive(Debug, Default)]
struct Observed {
    device: Found,
    policy: Policy,
    /// Connection tracking is kept away from what is forwarded.
    is_untracked: bool,
}

/// The applier. Open it in the right network namespace, then [`TunnelApplier::run`] it on a thread of the same namespace.
#[derive(Debug)]
pub struct TunnelApplier {
    plane: Plane,
    /// This host's end of the tunnel in the underlay, by which the other hosts know it; until it is known the kernel chooses by its
    /// routes. Linux 6.0.
    local: watch::Receiver<Option<SocketAddr>>,
    facts: UnboundedSender<Fact>,
    report: TunnelReport,
    /// Hears of announcements before the engine does.
    starts: Starts,
    early: Early,
    /// As the engine wants it.
    wanted_forwards: Forwards,
    /// Only until the datastore is in sync: what is forwarded no more.
    over: Option<SharedSet<IpNet>>,
    /// The datastore has been in sync, and something is wanted, or nothing.
    has_taken: bool,
    /// With what has been started before the engine knew.
    forwards: Forwards,
    receptions: Receptions,
    target: Target,
    priority: Priority,
    /// Tracked connections are handed over by this host, so what is forwarded is not to be tracked here.
    is_handed_over: bool,
    /// Whether this life keeps connection tracking away from what is forwarded, or cannot; nothing as long as it has not had to.
    is_untracking: Option<bool>,
    /// Nothing while that has to be asked.
    observed: Option<Observed>,
    /// What the maps of this life hold.
    written: TunnelEntries,
    /// By peer, over IPv6: how long a packet may be that is forwarded.
    mtus: BTreeMap<Address, u32>,
    /// Forwards that were reported as started.
    started: BTreeSet<(Arc<EndpointKey>, u32)>,
    /// Receptions that were reported as ready.
    ready: BTreeMap<Arc<EndpointKey>, u32>,
    queues: Queues,
    back_off: BackOff,
    /// What the log has said last.
    said: Option<String>,
}

impl TunnelApplier {
    /// An applier that has done nothing yet.
    ///
    /// # Errors
    /// When there is no netlink socket to be had.
    pub fn open(
        settings: Settings,
        local: watch::Receiver<Option<SocketAddr>>,
        starts: Starts,
        facts: UnboundedSender<Fact>,
    ) -> Result<Self, OpenError> {
        Ok(Self {
            plane: Plane::new(settings, RouteSocket::open()?),
            local,
            facts,
            report: TunnelReport::default(),
            starts,
            early: Early::default(),
            wanted_forwards: SharedMap::default(),
            over: None,
            has_taken: false,
            forwards: SharedMap::default(),
            receptions: SharedMap::default(),
            target: Target::default(),
            priority: Priority::default(),
            is_handed_over: false,
            is_untracking: None,
            observed: None,
            written: TunnelEntries::default(),
            mtus: BTreeMap::new(),
            started: BTreeSet::new(),
            ready: BTreeMap::new(),
            queues: Queues::default(),
            back_off: BackOff::new(),
            said: None,
        })
    }

    /// Shows what is forwarded and received, at any time.
    #[must_use]
    pub fn report(&self) -> TunnelReport {
        self.report.clone()
    }

    /// Follows the wanted sets until their sender is gone.
    pub async fn run(mut self, mut wanted: WantedReceiver) {
        wanted.mark_changed();
        self.priority = Priority::current();
        let mut due = None;
        loop {
            let is_news = tokio::select! {
                biased;
                Some(heard) = self.starts.heard() => {
                    self.hear(heard);
                    // ORDER: nothing is applied before something is wanted: that would take away what the last life has left.
                    if self.has_taken {
                        due = self.apply_ordinary();
                    }
                    continue;
                }
                changed = wanted.changed() => if changed.is_err() { return } else { true },
                () = clock::sleep_until(due) => false,
            };
            if is_news {
                let Some(newest) = wanted.borrow_and_update().clone() else { continue };
                // What is only known from memory is not for whoever takes away what is not wanted.
                self.over = newest.is_recalled.then(|| newest.forwards_over.clone());
                if self.over.is_none() {
                    let is_first = !std::mem::replace(&mut self.has_taken, true);
                    if !self.take(&newest) && !is_first {
                        continue;
                    }
                }
            } else if let Some(observed) = &mut self.observed {
                // Not forgotten: what is not wanted any more is taken away at once, whatever the kernel says to questions.
                match look(&mut self.plane) {
                    Ok(now) => *observed = now,
                    Err(error) => debug!(error = %one_line(&error), "cannot look after the tunnel"),
                }
                // One that the engine does not want by now has had its time. ORDER: after the look, which may have seen what somebody has
                // begun to start.
                self.aim();
            }
            due = self.apply_ordinary();
        }
    }

    /// Ends what the memory says is over, and touches nothing else. Returns when to come back.
    fn end(&mut self, over: &SharedSet<IpNet>) -> Option<BootTime> {
        let ended = if over.is_empty() { Ok(0) } else { self.plane.end_forwards(over) };
        self.log(ended.as_ref().err());
        match ended {
            Ok(count) => {
                if count > 0 {
                    info!(
                        count,
                        "What the last life forwarded is over by its memory, and forwarded no more; the datastore is not in sync yet"
                    );
                }
                self.back_off.reset();
                None
            }
            Err(_) => Some(clock::now() + self.back_off.next_pause()),
        }
    }

    /// A virtual machine has announced itself where it goes. What is ready for that has been started by now.
    fn hear(&mut self, heard: Heard) {
        if let Some(observed) = &mut self.observed {
            heard.done().iter().for_each(|change| observed.policy.confirmed(change));
        }
        let at = heard.at;
        if self.early.start(&self.wanted_forwards, heard.start, at) {
            self.aim();
            self.tell(at);
        }
    }

    fn apply_ordinary(&mut self) -> Option<BootTime> {
        let priority = self.priority;
        priority.while_ordinary(|| self.apply())
    }

    /// Takes newer wanted sets in; whether they differ.
    fn take(&mut self, wanted: &Wanted) -> bool {
        let is_handed_over = wanted.handovers.values().any(|handover| handover.stage.is_of_source());
        if self.wanted_forwards == wanted.forwards
            && self.receptions == wanted.receptions
            && self.is_handed_over == is_handed_over
        {
            return false;
        }
        self.is_handed_over = is_handed_over;
        self.wanted_forwards = wanted.forwards.clone();
        self.receptions = wanted.receptions.clone();
        self.aim();
        true
    }

    fn aim(&mut self) {
        let now = clock::now();
        for (endpoint, wanted) in self.wanted_forwards.iter().filter(|(_, wanted)| wanted.awaits_word) {
            let start = start_of(endpoint, wanted);
            if self.starts.is_begun(&start) {
                self.early.start(&self.wanted_forwards, start, now);
            }
        }
        self.forwards = self.early.over(&self.wanted_forwards, now);
        let local = self.local.borrow().map(|address| address.ip());
        self.target = Target::of(&self.forwards, &self.receptions, local);
    }

    /// Closes the difference. Returns when to come back.
    fn apply(&mut self) -> Option<BootTime> {
        if let Some(over) = self.over.clone() {
            return self.end(&over);
        }
        // ORDER: what was made ready takes effect before anything else, and so does what is to stop.
        let first = if self.observed.is_some() { self.change_policy() } else { Ok(()) };
        self.queues.keep(&queues::Kernel, &self.receptions);
        self.tell(clock::now());
        let result = first.and(self.bring_about());
        self.make_ready();
        self.tell(clock::now());
        self.show(result.as_ref().err());
        self.log(result.as_ref().err());
        let pause = match result {
            Ok(()) => {
                self.back_off.reset();
                (!self.target.is_empty()).then_some(CHECK_INTERVAL)
            }
            Err(_) => Some(self.back_off.next_pause()),
        };
        pause.map(|pause| clock::now() + pause)
    }

    fn bring_about(&mut self) -> Result<(), TunnelError> {
        if self.observed.is_none() {
            self.observed = Some(look(&mut self.plane)?);
            self.aim();
        }
        if self.target.is_empty() { self.clear() } else { self.prepare() }
    }

    /// Takes everything away.
    fn clear(&mut self) -> Result<(), TunnelError> {
        let device = self.observed.as_ref().and_then(|observed| observed.device.ifindex);
        if self.written != TunnelEntries::default() {
            self.plane.write(&TunnelEntries::default())?;
            self.written = TunnelEntries::default();
        }
        // ORDER: the device before what keeps its packets from going astray.
        if let Some(ifindex) = device {
            self.plane.remove(ifindex)?;
            if let Some(observed) = &mut self.observed {
                observed.device = Found::default();
            }
            debug!("The tunnel's device is removed");
        }
        self.track_again()?;
        self.change_policy()
    }

    fn prepare(&mut self) -> Result<(), TunnelError> {
        self.measure();
        // ORDER: what comes out of the tunnel has its routes before anything comes, and the maps are full before programs read them. What is
        // refused here is refused once more below; it keeps nobody else waiting.
        let _: Result<(), TunnelError> = self.change_policy();
        let written = self.write();
        let built = if written.is_ok() { self.build() } else { Ok(()) };
        let changed = self.change_policy();
        written.and(built).and(changed).and(self.untrack())
    }

    /// Keeps connection tracking away from what is forwarded, where connections are tracked: what is translated before it is forwarded
    /// would reach the target with another address than its connection has.
    ///
    /// KERNEL: the table looks at routes and rules, so it may be there before them, and stay after them.
    fn untrack(&mut self) -> Result<(), TunnelError> {
        let Some(observed) = &mut self.observed else { return Ok(()) };
        let is_wanted = self.is_handed_over && !self.forwards.is_empty() && is_tracking();
        if !is_wanted {
            return self.track_again();
        }
        let is_settled = observed.is_untracked && self.is_untracking.is_some();
        if is_settled || self.is_untracking == Some(false) {
            return Ok(());
        }
        let can = self.plane.untrack()?;
        if !can {
            info!(
                "The kernel has no nf_tables with fib: what goes to a floating address is translated before it is forwarded, and its \
                 connections do not go on"
            );
        }
        (observed.is_untracked, self.is_untracking) = (can, Some(can));
        Ok(())
    }

    /// The opposite.
    fn track_again(&mut self) -> Result<(), TunnelError> {
        if let Some(observed) = self.observed.as_mut().filter(|observed| observed.is_untracked) {
            self.plane.track_again()?;
            observed.is_untracked = false;
        }
        Ok(())
    }

    fn write(&mut self) -> Result<(), TunnelError> {
        if self.written == self.target.entries {
            return Ok(());
        }
        let result = self.plane.write(&self.target.entries);
        self.written = if result.is_ok() { self.target.entries.clone() } else { TunnelEntries::default() };
        result
    }

    fn build(&mut self) -> Result<(), TunnelError> {
        let Some(observed) = &mut self.observed else { return Ok(()) };
        match observed.device {
            Found { ifindex: Some(ifindex), is_ready: true } => self.plane.settle(ifindex),
            _ => {
                let ifindex = Some(self.plane.build()?);
                observed.device = Found { ifindex, is_ready: true };
                Ok(())
            }
        }
    }

    /// KERNEL (6.18; ip6_fragment): what a device of VXLAN sends over IPv6 is not fragmented if it was forwarded, so it has to fit. Whoever
    /// sends longer packets is told so by the route. Over IPv4 it is fragmented.
    fn measure(&mut self) {
        let peers: BTreeSet<IpAddr> = self.forwards.values().map(|wanted| wanted.tunnel.peer).collect();
        let mut mtus = BTreeMap::new();
        for peer in peers.into_iter().filter(IpAddr::is_ipv6) {
            match self.plane.mtu_towards(peer) {
                Ok(mtu) => {
                    let mtu = mtu.map(|mtu| mtu.saturating_sub(IPV6_HEAD_BYTES));
                    mtus.extend(mtu.map(|mtu| (peer.into(), mtu)));
                }
                Err(error) => debug!(%peer, error = %one_line(&error), "cannot see how long packets may be"),
            }
        }
        self.mtus = mtus;
    }

    /// Makes tables and rules what they should be, as far as the device and the maps are ready for it.
    fn change_policy(&mut self) -> Result<(), TunnelError> {
        let Some(observed) = &mut self.observed else { return Ok(()) };
        let numbers = self.plane.numbers();
        let Found { ifindex, is_ready } = observed.device;
        let full = self.target.policy(ifindex, &self.mtus, numbers);
        let prepared = self.target.prepared(&self.written);
        let ready = prepared.policy(ifindex.filter(|_| is_ready), &self.mtus, numbers);
        let is_old_life = ifindex.is_some() && !is_ready;
        let lets_in_more = is_old_life || !self.written.deliveries.is_subset(&self.target.entries.deliveries);
        let changes = plan::changes(&observed.policy, &full, &ready, lets_in_more, numbers);
        if changes.is_empty() {
            return Ok(());
        }
        let outcome = self.plane.change(&changes)?;
        let failed: BTreeMap<usize, i32> =
            outcome.failed.iter().map(|failure| (failure.index, failure.errno)).collect();
        let mut refused = None;
        for (index, change) in changes.iter().enumerate() {
            match failed.get(&index) {
                None => observed.policy.confirmed(change),
                Some(&errno) if is_moot(change) => {
                    debug!(errno, "{}: the interface is gone", describe(change))
                }
                Some(&errno) => drop(refused.get_or_insert((*change, errno))),
            }
        }
        refused.map_or(Ok(()), |(change, errno)| {
            Err(TunnelError::Refused { what: describe(&change), error: io::Error::from_raw_os_error(errno) })
        })
    }

    /// Lets those be started that wait for the target's word, or for a stop, and need nothing but their routes.
    fn make_ready(&mut self) {
        let numbers = self.plane.numbers();
        let mut starts = BTreeMap::new();
        if let Some(Observed { device: Found { ifindex: Some(device), is_ready: true }, policy, .. }) =
            &self.observed
        {
            for (endpoint, wanted) in self.forwards.iter().filter(|(_, it)| it.awaits_word && !it.is_active) {
                let routes = self.target.start_of(wanted, *device, &self.mtus, numbers);
                let is_ready = |route: &SideRoute| {
                    let forward = self.written.forwards.get(&route.destination);
                    forward == self.target.entries.forwards.get(&route.destination)
                        && policy.rules.contains(&numbers.forward_rule(route.family()))
                };
                if let Some(routes) = routes.filter(|routes| routes.iter().all(is_ready)) {
                    let waiting = Waiting { routes, awaits_stop: wanted.awaits_stop };
                    starts.insert(start_of(endpoint, wanted), waiting);
                }
            }
        }
        for start in self.starts.make_ready(starts) {
            // Its word will be here in a moment.
            self.early.start(&self.wanted_forwards, start, clock::now());
        }
    }

    /// Whether all of these lead there.
    fn leads(&self, table: u32, prefixes: &BTreeSet<IpNet>, to: u32) -> bool {
        let Some(observed) = &self.observed else { return false };
        let leads = |prefix: &IpNet| {
            let is_it = |route: &&SideRoute| route.table == table && route.destination == prefix.trunc();
            let route = observed.policy.routes.iter().find(is_it);
            route.is_some_and(|route| route.way == Way::Interface(to))
        };
        prefixes.iter().all(leads)
    }

    fn is_forwarding(&self, wanted: &WantedForward) -> bool {
        let device = self.observed.as_ref().map(|observed| observed.device).unwrap_or_default();
        let has_tunnel = |prefix: &IpNet| {
            let forward = self.written.forwards.get(&prefix.trunc());
            forward.is_some_and(|forward| forward.tunnel_id == wanted.tunnel.id)
        };
        wanted.is_active
            && device.is_ready
            && wanted.prefixes.iter().all(has_tunnel)
            && device
                .ifindex
                .is_some_and(|ifindex| self.leads(self.plane.numbers().table, &wanted.prefixes, ifindex))
    }

    fn is_receiving(&self, wanted: &WantedReception) -> bool {
        let is_known = self
            .written
            .receptions
            .get(&wanted.tunnel.id)
            .is_some_and(|reception| reception.peer == wanted.tunnel.peer.into());
        let table = self.plane.numbers().reception_table();
        is_known
            && self.observed.as_ref().is_some_and(|observed| observed.device.is_ready)
            && self.leads(table, &wanted.prefixes, wanted.outlet)
    }

    /// Tells the engine what has come about since it was told last.
    fn tell(&mut self, now: BootTime) {
        let (forwards, receptions) = (self.forwards.clone(), self.receptions.clone());
        let is_of = |endpoint: &Arc<EndpointKey>, tunnel_id: u32| {
            forwards.get(endpoint).is_some_and(|wanted| wanted.is_active && wanted.tunnel.id == tunnel_id)
        };
        self.started.retain(|(endpoint, tunnel_id)| is_of(endpoint, *tunnel_id));
        for (endpoint, wanted) in forwards.iter() {
            let started = (Arc::clone(endpoint), wanted.tunnel.id);
            if self.started.contains(&started) || !self.is_forwarding(wanted) {
                continue;
            }
            let (endpoint, tunnel_id, at) = (EndpointKey::clone(endpoint), wanted.tunnel.id, now);
            debug!(%endpoint, peer = %wanted.tunnel.peer, "Forwarding what still comes for a virtual machine that has left");
            self.send(Fact::ForwardStarted { endpoint, tunnel_id, at });
            self.started.insert(started);
        }
        self.ready.retain(|endpoint, _| receptions.contains_key(endpoint));
        for (endpoint, wanted) in receptions.iter() {
            let (tunnel_id, is_ready) = (wanted.tunnel.id, self.is_receiving(wanted));
            if is_ready == (self.ready.get(endpoint) == Some(&tunnel_id)) {
                continue;
            }
            if is_ready {
                self.ready.insert(Arc::clone(endpoint), tunnel_id);
            } else {
                self.ready.remove(endpoint);
            }
            debug!(%endpoint, is_ready, "Reception from the tunnel");
            self.send(Fact::ReceptionReady { endpoint: EndpointKey::clone(endpoint), tunnel_id, is_ready });
        }
    }

    fn send(&self, fact: Fact) {
        // The receiver is gone only while the agent stops.
        let _: Result<(), _> = self.facts.send(fact);
    }

    fn show(&self, error: Option<&TunnelError>) {
        let forwards = self.forwards.iter().map(|(endpoint, wanted)| ForwardState {
            endpoint: Arc::clone(endpoint),
            tunnel: wanted.tunnel,
            prefixes: wanted.prefixes.clone(),
            is_wanted: wanted.is_active,
            is_active: self.is_forwarding(wanted),
            is_ready: self.starts.is_ready(&start_of(endpoint, wanted)),
            traffic: Traffic::default(),
        });
        let receptions = self.receptions.iter().map(|(endpoint, wanted)| ReceptionState {
            endpoint: Arc::clone(endpoint),
            tunnel: wanted.tunnel,
            interface: wanted.interface.clone(),
            prefixes: wanted.prefixes.clone(),
            is_ready: self.is_receiving(wanted),
            traffic: Traffic::default(),
        });
        let (forwards, receptions) = (forwards.collect(), receptions.collect());
        *self.report.lock() = report::State {
            forwards,
            receptions,
            counts: self.plane.counts(),
            error: error.map(|error| one_line(error).to_string()),
        };
    }

    /// One line for each thing that goes wrong, however often it is tried again.
    fn log(&mut self, error: Option<&TunnelError>) {
        let text = error.map(|error| one_line(error).to_string());
        if text == self.said {
            return;
        }
        match &text {
            Some(error) => warn!(error, "the tunnel for migrations is not as wanted; will try again"),
            None => info!("The tunnel for migrations is as wanted again"),
        }
        self.said = text;
    }
}

/// By which a forward is started.
fn start_of(endpoint: &EndpointKey, wanted: &WantedForward) -> Start {
    Start { endpoint: endpoint.clone(), tunnel: wanted.tunnel }
}

/// What there is of ours.
fn look(plane: &mut Plane) -> Result<Observed, TunnelError> {
    // Nothing of the rest depends on it. What may be there is taken away later.
    let is_untracked = plane.is_untracked().unwrap_or_else(|error| {
        debug!(error = %one_line(&error), "cannot look for the table of nf_tables");
        true
    });
    Ok(Observed { device: plane.device()?, policy: plane.policy()?, is_untracked })
}

/// Whether a change is about an interface that is gone, which its endpoint will be told soon as well.
fn is_moot(change: &PolicyChange) -> bool {
    match change {
        PolicyChange::AddRoute(SideRoute { way: Way::Interface(ifindex), .. }) => is_gone(*ifindex),
        _ => false,
    }
}

fn describe(change: &PolicyChange) -> String {
    match change {
        PolicyChange::AddRoute(route) => format!("add the route {route}"),
        PolicyChange::RemoveRoute(route) => format!("remove the route {route}"),
        PolicyChange::AddRule(rule) => format!("add the rule {rule}"),
        PolicyChange::RemoveRule(rule) => format!("remove the rule {rule}"),
    }
}
