//! Hosts between which BGP daemons carry the routes, with the configuration that `cutover bgp` prints: the two hosts of
//! a [`Scene`] with their agents, a third host, and what is in the middle. For both families. Each host has BIRD or FRR,
//! as the caller says. Judges nothing.

mod hitless;
mod in_place;
mod manners;
mod middle;
mod round_trip;
mod router;
mod speaker;
mod wiring;

pub use router::{Leads, Router, gaps, leads};
pub use speaker::{Daemon, Path, Speaker};

use crate::agent::Agent;
use crate::host::Host;
use crate::lab::Lab;
use crate::release::Release;
use crate::resources::Port;
use crate::route_watch::{Mark, RouteWatch};
use crate::scene::{self, Scene};
use crate::wait;
use cutover_bgp::{PREFERENCE_OF_METRIC_0, Priorities};
use std::net::IpAddr;
use std::time::Duration;

/// The metric of routes from BGP in the kernel of a host with BIRD, with default priorities: between elevated and normal.
pub const BGP_METRIC: u32 = 768;
/// The metric of everything that zebra writes to the kernel.
pub const ZEBRA_METRIC: u32 = 20;
/// LIMIT: BIRD needs milliseconds, FRR 50 of them on every hop; only failing tests wait this long.
pub const CONVERGED: Duration = Duration::from_secs(15);
/// What a fabric has where no host has FRR.
pub const DEFAULT_PRIORITIES: Priorities = Priorities { normal: scene::NORMAL, elevated: scene::ELEVATED };
/// What `cutover bgp frr` asks for; all hosts of a fabric have the same.
pub const FRR_PRIORITIES: Priorities = Priorities { normal: 100_665_344, elevated: 10 };
/// The mark of elevated routes with eBGP.
const COMMUNITY: &str = "65000:100";
/// The convergence time has to be longer than the grace of the source's endpoint. Were the target normal while the source
/// still has a route, the source would go back to that one.
const CONVERGENCE_S: u32 = 4;
const GRACE_S: u32 = 1;

/// What `cutover bgp bird` prints for each of three hosts in a full mesh, with default priorities.
#[track_caller]
pub(crate) fn bird_mesh(lab: &Lab, hosts: [&Host; 3]) -> [String; 3] {
    // It prints from settings; nobody starts it.
    let agent = Agent::named(lab, hosts[0], &lab.directory(), "bgp");
    [1, 2, 3].map(|number| {
        wiring::configuration(Release::Bird2, &agent, (Shape::Mesh, Manner::Whole), number, hosts, None)
    })
}

/// Who talks to whom.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    /// iBGP, everybody with everybody.
    Mesh,
    /// iBGP, everybody with a route reflector.
    Reflector,
    /// eBGP, everybody with a top-of-rack router, which is also the only link between them.
    Tor,
}

/// How the compute hosts are configured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Manner {
    /// With all that `cutover bgp` prints.
    Whole,
    /// As a site that had a configuration before, with what `cutover bgp --snippet` prints in its places. Behind a ToR.
    Added,
    /// With all that is printed, and sessions that are signed and run between addresses that are on no subnet. Behind a ToR.
    Guarded,
}

/// Who has which daemon.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Daemons {
    /// Where the VM runs at first.
    pub source: Release,
    /// Where it goes.
    pub target: Release,
    /// A compute host that has nothing to do with the VM.
    pub third: Release,
    /// The reflector or the ToR.
    pub middle: Release,
}

impl From<Daemon> for Daemons {
    fn from(daemon: Daemon) -> Self {
        Release::from(daemon).into()
    }
}

impl From<Release> for Daemons {
    fn from(release: Release) -> Self {
        Self { source: release, target: release, third: release, middle: release }
    }
}

impl Daemons {
    /// Hosts have the same priorities; those of FRR suit BIRD, too.
    fn priorities(self) -> Priorities {
        let compute = [self.source, self.target, self.third];
        if compute.into_iter().any(|release| release.daemon() == Daemon::Frr) {
            FRR_PRIORITIES
        } else {
            DEFAULT_PRIORITIES
        }
    }
}

/// One of the routers; as a number, its place among [`Fabric::routers`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Who {
    /// Where the VM runs at first.
    Source,
    /// Where it goes.
    Target,
    /// The host that has nothing to do with the VM.
    Third,
    /// The reflector or the ToR.
    Middle,
}

/// A host on which the VM can run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// Where it runs at first.
    Source,
    /// Where it goes.
    Target,
}

impl From<Place> for Who {
    fn from(place: Place) -> Self {
        match place {
            Place::Source => Self::Source,
            Place::Target => Self::Target,
        }
    }
}

/// A router without an agent.
#[derive(Debug)]
struct Bystander {
    speaker: Speaker,
    watch: RouteWatch,
    host: Host,
}

impl Bystander {
    #[track_caller]
    fn start(release: Release, lab: &Lab, host: Host, configuration: &str) -> Self {
        let watch = RouteWatch::start(host.namespace());
        Self { speaker: Speaker::start(release, lab, &host, configuration), watch, host }
    }

    fn router(&self) -> Router<'_> {
        Router { host: &self.host, watch: &self.watch, speaker: &self.speaker }
    }
}

/// The hosts. Fields go in this order, the scene with the lab last.
#[derive(Debug)]
pub struct Fabric {
    source: Speaker,
    target: Speaker,
    third: Bystander,
    middle: Option<Bystander>,
    /// Behind the ToR, without BGP.
    pub behind: Option<Host>,
    /// Agents, VM, datastore.
    pub scene: Scene,
    /// Metrics of both families on all hosts.
    pub priorities: Priorities,
    shape: Shape,
    /// By which each router is known as a next hop, in the order of [`Self::routers`].
    hops: Vec<Vec<IpAddr>>,
}

impl Fabric {
    /// A fabric in which everybody knows that the VM runs on the source.
    ///
    /// # Panics
    /// When that does not come about.
    #[must_use]
    #[track_caller]
    pub fn new(daemons: impl Into<Daemons>, shape: Shape) -> Self {
        Self::with(daemons, shape, |_| {})
    }

    /// As [`Self::new`], with other settings for both agents.
    ///
    /// # Panics
    /// When that does not come about.
    #[must_use]
    #[track_caller]
    pub fn with(daemons: impl Into<Daemons>, shape: Shape, configure: impl Fn(&mut Agent)) -> Self {
        Self::with_hosts(daemons.into(), shape, Manner::Whole, |agent, _| configure(agent))
    }

    /// As [`Self::new`] with a ToR, and hosts that are configured in another manner.
    ///
    /// # Panics
    /// When that does not come about.
    #[must_use]
    #[track_caller]
    pub fn behind_tor(daemons: impl Into<Daemons>, manner: Manner) -> Self {
        Self::with_hosts(daemons.into(), Shape::Tor, manner, |_, _| {})
    }

    /// As [`Self::with`], and the agents of source and target talk to each other.
    ///
    /// # Panics
    /// When that does not come about.
    #[must_use]
    #[track_caller]
    pub fn peered(daemons: impl Into<Daemons>, shape: Shape, configure: impl Fn(&mut Agent)) -> Self {
        Self::with_hosts(daemons.into(), shape, Manner::Whole, |agent, host| {
            let number = if host.name() == scene::SOURCE { 1 } else { 2 };
            agent.set_peering(match shape {
                Shape::Tor => wiring::host_address(number, true),
                Shape::Mesh | Shape::Reflector => host.ipv4().into(),
            });
            configure(agent);
        })
    }

    #[track_caller]
    fn with_hosts(
        daemons: Daemons,
        shape: Shape,
        manner: Manner,
        configure: impl Fn(&mut Agent, &Host),
    ) -> Self {
        let priorities = daemons.priorities();
        let scene = Scene::with_hosts(|agent, host| {
            agent.set("CutoverEndpointGrace", GRACE_S);
            agent.set("LiveMigrationRouteConvergenceTime", CONVERGENCE_S);
            for family in ["IPv4", "IPv6"] {
                agent.set(&format!("{family}NormalRoutePriority"), priorities.normal);
                agent.set(&format!("{family}ElevatedRoutePriority"), priorities.elevated);
            }
            configure(agent, host);
        });
        let third = scene.lab.host("compute3");
        let middle = (shape != Shape::Mesh).then(|| scene.lab.host("middle"));
        let behind = (shape == Shape::Tor).then(|| scene.lab.host("behind"));
        let hosts = [&scene.source.host, &scene.target.host, &third];
        for host in hosts.into_iter().chain(&middle) {
            wiring::forward(host);
        }
        if let (Some(tor), Some(behind)) = (&middle, &behind) {
            for (host, number) in hosts.into_iter().zip(1..) {
                wiring::connect(tor, host, number);
            }
            wiring::connect(tor, behind, 9);
            if manner == Manner::Guarded {
                wiring::give_identities(tor, hosts);
            }
        }
        let of_hosts = [(daemons.source, 1), (daemons.target, 2), (daemons.third, 3)];
        let texts = of_hosts.map(|(release, number)| {
            let agent = &scene.source.agent;
            wiring::configuration(release, agent, (shape, manner), number, hosts, middle.as_ref())
        });
        let of_middle = middle
            .as_ref()
            .map(|host| middle::configuration(daemons.middle.daemon(), (shape, manner), host, hosts));
        let source = Speaker::start(daemons.source, &scene.lab, &scene.source.host, &texts[0]);
        let target = Speaker::start(daemons.target, &scene.lab, &scene.target.host, &texts[1]);
        let third = Bystander::start(daemons.third, &scene.lab, third, &texts[2]);
        let middle = middle
            .zip(of_middle)
            .map(|(host, text)| Bystander::start(daemons.middle, &scene.lab, host, &text));
        let mut fabric =
            Self { source, target, third, middle, behind, scene, priorities, shape, hops: Vec::new() };
        fabric.wait_established();
        fabric.hops = fabric.routers().into_iter().map(|router| wiring::addresses(router.host)).collect();
        fabric.wait_at(Place::Source);
        fabric
    }

    /// Source, target, third host, and what is in the middle.
    #[must_use]
    pub fn routers(&self) -> Vec<Router<'_>> {
        self.everybody().map(|who| self.router(who)).collect()
    }

    fn everybody(&self) -> impl Iterator<Item = Who> {
        let middle = self.middle.is_some().then_some(Who::Middle);
        [Who::Source, Who::Target, Who::Third].into_iter().chain(middle)
    }

    /// One of them.
    ///
    /// # Panics
    /// A full mesh has no middle.
    #[must_use]
    #[track_caller]
    pub fn router(&self, who: Who) -> Router<'_> {
        let Scene { source, target, .. } = &self.scene;
        match who {
            Who::Source => Router { host: &source.host, watch: &source.watch, speaker: &self.source },
            Who::Target => Router { host: &target.host, watch: &target.watch, speaker: &self.target },
            Who::Third => self.third.router(),
            Who::Middle => self.middle.as_ref().expect("a full mesh has no middle").router(),
        }
    }

    /// The daemon of one of them, to be stopped and started.
    ///
    /// # Panics
    /// A full mesh has no middle.
    #[must_use]
    #[track_caller]
    pub fn speaker(&mut self, who: Who) -> &mut Speaker {
        match who {
            Who::Source => &mut self.source,
            Who::Target => &mut self.target,
            Who::Third => &mut self.third.speaker,
            Who::Middle => &mut self.middle.as_mut().expect("a full mesh has no middle").speaker,
        }
    }

    /// Who chooses between source and target for everybody else: the third host for itself, with eBGP the ToR.
    #[must_use]
    pub fn last_hop(&self) -> Router<'_> {
        self.router(self.who_is_last_hop())
    }

    fn who_is_last_hop(&self) -> Who {
        if self.shape == Shape::Tor { Who::Middle } else { Who::Third }
    }

    /// From now on the routes of the target and of the last hop are recorded by threads that have done `prepare`. Earlier marks
    /// count no longer.
    ///
    /// # Panics
    /// A full mesh has no middle.
    pub fn record_with(&mut self, prepare: impl FnOnce() + Clone + Send + 'static) {
        for who in [Who::Target, self.who_is_last_hop()] {
            let watch = RouteWatch::start_with(self.router(who).host.namespace(), prepare.clone());
            *match who {
                Who::Source => &mut self.scene.source.watch,
                Who::Target => &mut self.scene.target.watch,
                Who::Third => &mut self.third.watch,
                Who::Middle => &mut self.middle.as_mut().expect("a full mesh has no middle").watch,
            } = watch;
        }
    }

    /// The addresses by which others know a router as a next hop, also the link-local ones.
    #[must_use]
    pub fn hops(&self, who: Who) -> &[IpAddr] {
        &self.hops[who as usize]
    }

    /// This moment in all recordings, in the order of [`Self::routers`].
    #[must_use]
    pub fn marks(&self) -> Vec<Mark> {
        self.routers().into_iter().map(|router| router.watch.mark()).collect()
    }

    /// The VM's port.
    #[must_use]
    pub fn port(&self) -> &Port {
        &self.scene.port
    }

    /// Waits until every session is up.
    ///
    /// # Panics
    /// When one is not.
    #[track_caller]
    pub fn wait_established(&self) {
        for who in [Who::Source, Who::Target, Who::Third] {
            self.router(who).speaker.wait_established(if self.shape == Shape::Mesh { 4 } else { 2 });
        }
        if let Some(middle) = &self.middle {
            middle.speaker.wait_established(6);
        }
    }

    /// Waits until everybody sends to the target, also the source.
    ///
    /// # Panics
    /// When somebody does not.
    #[track_caller]
    pub fn wait_at_target(&self) {
        self.wait_at(Place::Target);
    }

    /// Waits until everybody sends to the place.
    ///
    /// # Panics
    /// When somebody does not.
    #[track_caller]
    pub fn wait_at(&self, place: Place) {
        for who in self.everybody() {
            let router = self.router(who);
            if !wait::holds_within(CONVERGED, || self.sends(who, place)) {
                let routes = self.port().routed().into_iter().map(|to| router.watch.routes_to(to));
                let routes: Vec<_> = routes.collect();
                panic!("{} does not send to the {place:?}: {routes:#?}", router.name());
            }
        }
    }

    /// Whether everybody sends to the place.
    #[must_use]
    pub fn is_at(&self, place: Place) -> bool {
        self.everybody().all(|who| self.sends(who, place))
    }

    /// Whether a router sends everything for the VM to the place, or with a ToR to that. The place itself, to its tap.
    ///
    /// # Panics
    /// A full mesh has no middle.
    #[must_use]
    pub fn sends(&self, who: Who, place: Place) -> bool {
        let router = self.router(who);
        let next = if self.shape == Shape::Tor && who != Who::Middle { Who::Middle } else { place.into() };
        self.port().routed().into_iter().all(|to| match router.leads(to) {
            Leads::ToTap => who == place.into(),
            Leads::Via(hop) => who != place.into() && self.hops(next).contains(&hop),
            Leads::Nowhere => false,
        })
    }

    /// Waits until every table says that the VM has this priority.
    ///
    /// # Panics
    /// When one does not.
    #[track_caller]
    pub fn wait_tables(&self, metric: u32) {
        for to in self.port().routed() {
            for router in self.routers() {
                let name = router.name();
                let knows = || router.speaker.path(to).is_some_and(|path| self.has_priority(&path, metric));
                assert!(
                    wait::holds_within(CONVERGED, knows),
                    "{name} does not know {to} with metric {metric}: {:?}",
                    router.speaker.path(to)
                );
            }
        }
    }

    fn has_priority(&self, path: &Path, metric: u32) -> bool {
        let community = if metric == self.priorities.elevated { COMMUNITY } else { "" };
        if path.is_own || self.shape != Shape::Tor {
            path.preference == Some(PREFERENCE_OF_METRIC_0 - metric) && path.autonomous_systems.is_empty()
        } else {
            path.communities == community && !path.autonomous_systems.is_empty()
        }
    }

    /// The address that others know as the next hop to a place; those of IPv6 may use a link-local one instead.
    #[must_use]
    pub fn address(&self, place: Place, is_ipv4: bool) -> IpAddr {
        let (node, number) = match place {
            Place::Source => (&self.scene.source, 1),
            Place::Target => (&self.scene.target, 2),
        };
        match self.shape {
            Shape::Tor => wiring::host_address(number, is_ipv4),
            _ => wiring::uplink(&node.host, is_ipv4),
        }
    }
}
