//! A host under test: its engine, its clock, and appliers that do at once what is wanted of them.
//!
//! Every fact is followed by [`Host::check`], so each test of the engine is a test of the invariants, too.

use crate::Engine;
use crate::fact::{AnnouncementSeen, Fact, Link};
use crate::machine::{Phases, State};
use crate::memory::{Departure, LeftBehind, Memory};
use crate::model::{Endpoint, EndpointKey, Labels, LiveMigration, MigrationSource, MigrationTarget, Policy};
use crate::time::BootTime;
use crate::wanted::{Status, Wanted, WantedRoute, WantedWatch};
use core::time::Duration;
use cutover_common::{AnnouncementKind, MacAddr};
use std::collections::{BTreeMap, BTreeSet};

pub(super) const NORMAL: u32 = 1024;
pub(super) const ELEVATED: u32 = 512;
pub(super) const MAC: MacAddr = MacAddr([0xfa, 0x16, 0x3e, 0, 0, 1]);

pub(super) fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

pub(super) fn port(host: &str) -> EndpointKey {
    named_port(host, "port1")
}

pub(super) fn named_port(host: &str, port: &str) -> EndpointKey {
    EndpointKey {
        host: host.into(),
        orchestrator: "openstack".into(),
        workload: "openstack/vm".into(),
        endpoint: port.into(),
    }
}

pub(super) fn endpoint() -> Endpoint {
    endpoint_on("tap1")
}

pub(super) fn endpoint_on(interface: &str) -> Endpoint {
    Endpoint {
        uid: "e1".into(),
        interface: interface.into(),
        mac: Some(MAC),
        prefixes: ["10.65.0.2/32", "2001:db8::2/128"].iter().map(|text| text.parse().unwrap()).collect(),
        labels: Labels::default(),
    }
}

pub(super) fn migration(uid: &str, from: &str, to: &str) -> LiveMigration {
    LiveMigration {
        uid: uid.into(),
        source: Some(MigrationSource::Endpoint(port(from))),
        target: Some(MigrationTarget::Endpoint(port(to))),
    }
}

/// The name of the resource is that of the target's endpoint, as a driver chooses it.
pub(super) fn migration_written(uid: &str, from: &str, to: &str) -> Fact {
    Fact::MigrationWritten(port(to).to_string(), migration(uid, from, to))
}

pub(super) fn migration_removed(to: &str) -> Fact {
    Fact::MigrationRemoved(port(to).to_string())
}

pub(super) fn written(host: &str) -> Fact {
    Fact::EndpointWritten(port(host), endpoint())
}

/// Created anew: written with another uid.
pub(super) fn recreated(host: &str, uid: &str) -> Fact {
    Fact::EndpointWritten(port(host), Endpoint { uid: uid.into(), ..endpoint() })
}

pub(super) fn removed(host: &str) -> Fact {
    Fact::EndpointRemoved(port(host))
}

pub(super) fn link(ifindex: u32, running: bool) -> Link {
    Link { ifindex, name: "tap1".into(), admin_up: true, running, master: None }
}

pub(super) fn announcement(generation: u64, at: BootTime) -> Fact {
    Fact::AnnouncementSeen(AnnouncementSeen {
        generation,
        kind: AnnouncementKind::Rarp,
        seen_at: at,
        taken_at: None,
        routed_at: None,
    })
}

#[derive(Clone)]
pub(super) struct Host {
    pub(super) engine: Engine,
    pub(super) now: BootTime,
    /// Watches and interface settings are done as soon as they are wanted.
    pub(super) appliers: bool,
    /// The connection to the datastore is whole.
    pub(super) datastore_answers: bool,
    /// What the kernel holds: generation by ifindex.
    pub(super) armed: BTreeMap<u32, u64>,
    configured: BTreeSet<u32>,
    /// Routes in the kernel, which is more than what is wanted while leftovers may not go.
    pub(super) kernel: BTreeSet<WantedRoute>,
}

impl Host {
    /// A host that has just started, not in sync yet.
    pub(super) fn starting(name: &str) -> Self {
        Self::restarted(name, BootTime(1_000_000_000_000), Memory::default(), LeftBehind::default())
    }

    pub(super) fn restarted(name: &str, now: BootTime, memory: Memory, found: LeftBehind) -> Self {
        let policy = Policy { hostname: name.into(), forwards: true, holds: true, ..Policy::default() };
        let engine = Engine::new(policy, memory, found).recalling().drawing_lots(7);
        let (armed, configured, kernel) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
        Self { engine, now, appliers: true, datastore_answers: true, armed, configured, kernel }
    }

    /// A host with the tap `tap1` (number 5), in sync for long, without any endpoint.
    pub(super) fn quiet(name: &str) -> Self {
        let mut host = Self::starting(name);
        host.tell(Fact::LinkSeen(link(5, true)));
        host.tell(Fact::InSync { complete: true });
        host.pass(ms(60_000));
        host
    }

    /// As [`Self::quiet`], and the endpoint of this host is the target of `u1` from host `a`, with a watch armed.
    pub(super) fn target(name: &str) -> Self {
        let mut host = Self::quiet(name);
        host.tell(written("a"));
        host.tell(migration_written("u1", "a", name));
        host.pass(ms(300));
        host.tell(written(name));
        host.pass(ms(5_000));
        assert_eq!(host.state(), State::Target);
        assert!(host.engine.locals[&port(name)].armed.is_some());
        host
    }

    /// As [`Self::target`], and the virtual machine has announced itself.
    pub(super) fn live(name: &str) -> Self {
        let mut host = Self::target(name);
        host.announce();
        assert_eq!(host.state(), State::Live);
        host
    }

    pub(super) fn tell(&mut self, fact: Fact) -> &mut Self {
        self.engine.handle(self.now, fact);
        self.settle();
        self
    }

    fn settle(&mut self) {
        self.engine.settle(self.now);
        if self.appliers {
            self.apply();
        }
        if self.datastore_answers {
            self.answer();
        }
        self.check();
    }

    /// The same with a datastore whose connection can break; it is whole.
    pub(super) fn asking(mut self) -> Self {
        self.engine = self.engine.asking();
        self
    }

    /// Plays the datastore: what was asked about is not there.
    pub(super) fn answer(&mut self) {
        loop {
            let questions = self.engine.take_questions();
            if questions.is_empty() {
                return;
            }
            for endpoint in questions {
                let fact = Fact::EndpointLookedUp { endpoint, at: self.now, exists: false };
                self.engine.handle(self.now, fact);
            }
            self.engine.settle(self.now);
        }
    }

    /// Plays the appliers of watches, interfaces and routes.
    pub(super) fn apply(&mut self) {
        let Some(wanted) = self.engine.wanted().cloned() else { return };
        self.armed.retain(|ifindex, generation| {
            wanted.is_recalled
                || wanted.watches.get(ifindex).is_some_and(|watch| watch.generation == *generation)
        });
        for (&ifindex, watch) in wanted.watches.iter() {
            if self.armed.insert(ifindex, watch.generation) != Some(watch.generation) {
                self.engine.handle(self.now, Fact::WatchArmed { generation: watch.generation, at: self.now });
            }
        }
        for &ifindex in wanted.interfaces.keys() {
            if self.configured.insert(ifindex) {
                self.engine.handle(self.now, Fact::InterfaceConfigured { ifindex, ready: true });
            }
        }
        self.engine.settle(self.now);
        self.install();
    }

    pub(super) fn install(&mut self) {
        let Some(wanted) = self.engine.wanted() else { return };
        let (links, leftovers_may_go) = (&self.engine.links, wanted.leftovers_may_go);
        let may_stay = |route: &WantedRoute| {
            !leftovers_may_go
                && !wanted.known_interfaces.contains(&route.ifindex)
                && !wanted.known_on_bridges.contains(&(route.ifindex, route.destination))
                && links.contains_key(&route.ifindex)
        };
        self.kernel.retain(may_stay);
        self.kernel.extend(wanted.routes.iter());
    }

    /// Time passes; whatever is due on the way is done when it is due.
    pub(super) fn pass(&mut self, duration: Duration) -> &mut Self {
        let end = self.now + duration;
        while let Some(due) = self.engine.next_deadline().filter(|due| *due <= end) {
            assert!(due > self.now, "a deadline is left over after settling");
            self.now = due;
            self.tell(Fact::TimePassed);
        }
        self.now = end;
        self.tell(Fact::TimePassed)
    }

    /// The virtual machine announces itself on the tap, which the armed watch takes.
    pub(super) fn announce(&mut self) -> &mut Self {
        let generations: Vec<_> = self.armed.values().copied().collect();
        for generation in generations {
            let at = self.now;
            self.tell(announcement(generation, at));
        }
        self
    }

    pub(super) fn wanted(&self) -> &Wanted {
        self.engine.wanted().expect("in sync")
    }

    /// The same, unless it is what the memory of the last life knows.
    pub(super) fn wanted_in_sync(&self) -> Option<&Wanted> {
        self.engine.wanted().filter(|wanted| !wanted.is_recalled)
    }

    pub(super) fn key(&self) -> EndpointKey {
        port(&self.engine.policy.hostname)
    }

    /// State of this host's endpoint; Base if there is none.
    pub(super) fn state(&self) -> State {
        self.engine.locals.get(&self.key()).map_or(State::Base, |local| local.machine.state)
    }

    pub(super) fn phases(&self) -> Phases {
        self.engine.locals.get(&self.key()).map(|local| local.machine.phases).unwrap_or_default()
    }

    pub(super) fn not_here(&self) -> bool {
        self.engine.locals.get(&self.key()).is_some_and(|local| local.machine.not_here)
    }

    pub(super) fn held(&self) -> bool {
        self.engine.locals.get(&self.key()).is_some_and(|local| local.held_since.is_some())
    }

    pub(super) fn status(&self) -> Option<Status> {
        self.wanted().statuses.get(&self.key()).map(|wanted| wanted.status)
    }

    /// Since when a write of the status is due that may be there already.
    pub(super) fn due(&self) -> Option<BootTime> {
        self.wanted().statuses.get(&self.key())?.due_since
    }

    /// Plays the publisher: what is due is written.
    pub(super) fn report(&mut self) -> &mut Self {
        let due_since = self.due().expect("a write is due");
        let (endpoint, at) = (self.key(), self.now);
        self.tell(Fact::StatusWritten { endpoint, due_since, at })
    }

    /// The one metric of all wanted routes; every prefix of the endpoint has a route or none has.
    pub(super) fn metric(&self) -> Option<u32> {
        let routes = &self.engine.wanted()?.routes;
        let metrics: BTreeSet<_> = routes.iter().map(|route| route.metric).collect();
        assert!(metrics.len() <= 1, "several metrics: {routes:?}");
        assert!(routes.is_empty() || routes.len() == 2, "not both families: {routes:?}");
        metrics.first().copied()
    }

    pub(super) fn watch(&self) -> Option<&WantedWatch> {
        let watches = &self.engine.wanted()?.watches;
        assert!(watches.len() <= 1);
        watches.values().next()
    }

    /// What the agent keeps in its file, through the format of the file.
    pub(super) fn memory(&self) -> Memory {
        serde_json::from_str(&serde_json::to_string(&self.engine.memory()).unwrap()).unwrap()
    }

    /// What the kernel would show to the next agent.
    pub(super) fn found(&self) -> LeftBehind {
        let watches = self.armed.iter().map(|(&ifindex, &generation)| (ifindex, (generation, MAC))).collect();
        LeftBehind { watches, routes: self.kernel.clone() }
    }

    /// What has to hold at any moment, whatever happened before.
    pub(super) fn check(&mut self) {
        let Some(wanted) = self.engine.wanted().cloned() else {
            assert_eq!(
                self.engine.wanted,
                Wanted::default(),
                "something is wanted before the datastore is in sync"
            );
            return;
        };
        if wanted.is_recalled {
            return self.check_recalled(&wanted);
        }
        let destinations: BTreeSet<_> = wanted.routes.iter().map(|route| route.destination).collect();
        assert_eq!(destinations.len(), wanted.routes.len(), "a destination with two routes");
        for route in wanted.routes.iter() {
            let link = self.engine.links.get(&route.ifindex);
            assert!(link.is_some_and(|link| link.admin_up), "a route to no interface: {route:?}");
        }
        for forward in wanted.forwards.values().filter(|forward| forward.is_active) {
            let elevated = wanted.routes.iter().filter(|route| route.metric == ELEVATED);
            let is_here = elevated.filter(|route| forward.prefixes.contains(&route.destination)).count() > 0;
            assert!(!is_here, "what is elevated here is forwarded: {forward:?}");
        }
        for (key, local) in self.engine.locals.iter() {
            self.check_endpoint(key, &wanted);
            let link = self.engine.link(&local.endpoint.interface);
            assert_eq!(
                local.machine.state == State::Target && link.is_some(),
                local.machine.arming.is_some(),
                "{key} watches when it should not or does not when it should"
            );
        }
        assert!(
            self.engine.next_deadline().is_none_or(|due| due > self.now),
            "a deadline that settling left over"
        );

        assert!(!self.engine.settle(self.now), "settling again changed something");
        assert_eq!(wanted, self.engine.rebuilt(), "what is wanted is not what would be wanted from scratch");
    }

    /// Nothing but watches and elevated routes of endpoints that the memory knows, and no time but that of forwards.
    fn check_recalled(&mut self, wanted: &Wanted) {
        let Wanted { routes, watches, forwards_over, .. } = wanted.clone();
        let only_these = Wanted { is_recalled: true, routes, watches, forwards_over, ..Wanted::default() };
        assert_eq!(*wanted, only_these, "more is wanted than the memory is enough for");
        let memory = self.engine.memory();
        let is_known = |ifindex: u32| {
            let name = self.engine.links.get(&ifindex).map(|link| &link.name);
            memory.endpoints.iter().any(|entry| Some(&entry.endpoint.interface) == name)
        };
        for route in wanted.routes.iter() {
            let name = self.engine.links.get(&route.ifindex).map(|link| &link.name);
            let is_bridge = name.is_some_and(|name| self.engine.policy.bridges.contains(name));
            assert!((is_known(route.ifindex) || is_bridge) && route.metric == ELEVATED, "{route:?}");
        }
        assert!(wanted.watches.keys().all(|ifindex| is_known(*ifindex)), "{:?}", wanted.watches);
        let forwards_end: Vec<_> = self.engine.departing().filter_map(Departure::over_at).collect();
        let ends = self.engine.next_deadline();
        assert!(
            ends.is_none_or(|at| at > self.now && forwards_end.contains(&at)),
            "{ends:?} {forwards_end:?}"
        );
        assert!(!self.engine.settle(self.now), "settling again changed something");
    }

    fn check_endpoint(&self, key: &EndpointKey, wanted: &Wanted) {
        let local = &self.engine.locals[key];
        let Some(link) = self.engine.link(&local.endpoint.interface) else { return };
        let outlet = self.engine.outlet(link).ifindex;
        // On a bridge there are those of others who have the same prefix and come first.
        let is_its_own = |route: &&WantedRoute| {
            let winner = self.engine.prefixes.winner(&route.destination);
            outlet == link.ifindex || winner.is_some_and(|winner| *winner.key == *key)
        };
        let routes = wanted.routes.iter().filter(|route| route.ifindex == outlet).filter(is_its_own);
        for route in routes.filter(|route| local.endpoint.prefixes.contains(&route.destination)) {
            assert_ne!(local.machine.state, State::Target, "{key} has a route while it is suppressed");
            let elevated = matches!(local.machine.state, State::Live | State::TimeWait);
            assert_eq!(
                route.metric,
                if elevated { ELEVATED } else { NORMAL },
                "{key} has the wrong priority"
            );
        }
        if local.machine.state == State::Target {
            let status = wanted.statuses.get(key).map(|wanted| wanted.status);
            assert_ne!(status, Some(Status::Down), "{key} is down while it is a target");
        }
    }
}
