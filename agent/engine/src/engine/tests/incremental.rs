//! Endpoints that share taps and addresses, come and go, and change hands in random ways: after every fact the sets that the
//! engine has brought up to date are those that it would build from scratch ([`super::scratch`]), and a conflict is
//! said once for as long as it lasts.

use super::host::*;
use crate::Engine;
use crate::chains::{Chains, Piece, Pieces};
use crate::fact::{Fact, Link};
use crate::memory::{LeftBehind, Memory};
use crate::model::{Endpoint, EndpointKey, LiveMigration, MigrationSource, MigrationTarget, Policy};
use crate::notice::Notice;
use crate::time::BootTime;
use proptest::prelude::*;
use std::collections::BTreeSet;

const PREFIXES: [&str; 4] = ["10.65.0.2/32", "10.65.0.3/32", "2001:db8::2/128", "10.66.0.0/24"];
/// The last one has none of the prefixes of `InterfacePrefix` at first.
const INTERFACES: [&str; 5] = ["tap1", "tap2", "tap3", "eth7", "br0"];
const PORTS: [&str; 4] = ["port1", "port2", "port3", "port4"];

#[derive(Clone, Debug)]
enum Event {
    Written { port: usize, interface: usize, prefixes: Vec<usize> },
    Removed { port: usize },
    SourceWritten { port: usize },
    SourceRemoved { port: usize },
    Begins { port: usize, uid: u8, to_here: bool },
    Ends { port: usize, to_here: bool },
    Link { ifindex: u32, interface: usize, up: bool, running: bool, master: Option<u32> },
    LinkGone { ifindex: u32 },
    Configured { ifindex: u32, ready: bool },
    Policy { ipv6: bool, every_interface: bool, normal: u32 },
    Chains { interface: usize, ipv4: bool, ipv6: bool },
    StatusElsewhere { port: usize, is_up: Option<bool>, revision: i64 },
    Announced,
    InSync { complete: bool },
    Passes(u64),
    Restarted,
}

fn here(port: usize) -> EndpointKey {
    named_port("b", PORTS[port])
}

fn away(port: usize) -> EndpointKey {
    named_port("a", PORTS[port])
}

fn policy(ipv6: bool, every_interface: bool, normal: u32) -> Policy {
    let awaits_chains = normal == 1025;
    let mut policy = Policy { hostname: "b".into(), ipv6_support: ipv6, awaits_chains, ..Policy::default() };
    policy.bridges.insert("br0".into());
    if every_interface {
        policy.interface_prefixes = "tap,eth".parse().unwrap();
    }
    (policy.ipv4.normal, policy.ipv6.normal) = (normal, normal);
    policy
}

fn facts(event: &Event) -> Vec<Fact> {
    match event {
        Event::Written { port, interface, prefixes } => {
            let prefixes = prefixes.iter().map(|prefix| PREFIXES[*prefix].parse().unwrap()).collect();
            let endpoint = Endpoint { prefixes, ..endpoint_on(INTERFACES[*interface]) };
            vec![Fact::EndpointWritten(here(*port), endpoint)]
        }
        Event::Removed { port } => vec![Fact::EndpointRemoved(here(*port))],
        Event::SourceWritten { port } => vec![Fact::EndpointWritten(away(*port), endpoint())],
        Event::SourceRemoved { port } => vec![Fact::EndpointRemoved(away(*port))],
        Event::Begins { port, uid, to_here } => {
            let (from, to) = if *to_here { (away(*port), here(*port)) } else { (here(*port), away(*port)) };
            let migration = LiveMigration {
                uid: format!("u{uid}"),
                source: Some(MigrationSource::Endpoint(from)),
                target: Some(MigrationTarget::Endpoint(to.clone())),
            };
            vec![Fact::MigrationWritten(to.to_string(), migration)]
        }
        Event::Ends { port, to_here } => {
            let to = if *to_here { here(*port) } else { away(*port) };
            vec![Fact::MigrationRemoved(to.to_string())]
        }
        Event::Link { ifindex, interface, up, running, master } => vec![Fact::LinkSeen(Link {
            ifindex: *ifindex,
            name: INTERFACES[*interface].into(),
            admin_up: *up,
            running: *running,
            master: master.filter(|master| master != ifindex),
        })],
        Event::LinkGone { ifindex } => vec![Fact::LinkRemoved { ifindex: *ifindex }],
        Event::Configured { ifindex, ready } => {
            vec![Fact::InterfaceConfigured { ifindex: *ifindex, ready: *ready }]
        }
        Event::Policy { ipv6, every_interface, normal } => {
            vec![Fact::PolicyChanged(Box::new(policy(*ipv6, *every_interface, *normal)))]
        }
        Event::Chains { interface, ipv4, ipv6 } => {
            let of = |all: bool| if all { Pieces::ALL } else { Pieces::default().with(Piece::ToChain) };
            let chains = Chains { ipv4: of(*ipv4), ipv6: of(*ipv6) };
            vec![Fact::ChainsSeen { interface: INTERFACES[*interface].into(), chains }]
        }
        Event::StatusElsewhere { port, is_up: None, .. } => vec![Fact::StatusRemovedElsewhere(away(*port))],
        Event::StatusElsewhere { port, is_up: Some(is_up), revision } => {
            vec![Fact::StatusReportedElsewhere { endpoint: away(*port), is_up: *is_up, revision: *revision }]
        }
        Event::InSync { complete } => vec![Fact::InSync { complete: *complete }],
        Event::Announced | Event::Passes(_) | Event::Restarted => Vec::new(),
    }
}

fn event() -> impl Strategy<Value = Event> {
    let port = || 0..PORTS.len();
    let interface = || 0..INTERFACES.len();
    let prefixes = prop::collection::vec(0..PREFIXES.len(), 1..4);
    let ifindex = || 5..9_u32;
    prop_oneof![
        8 => (port(), interface(), prefixes)
            .prop_map(|(port, interface, prefixes)| Event::Written { port, interface, prefixes }),
        3 => port().prop_map(|port| Event::Removed { port }),
        1 => port().prop_map(|port| Event::SourceWritten { port }),
        1 => port().prop_map(|port| Event::SourceRemoved { port }),
        4 => (port(), 0..3_u8, prop::bool::weighted(0.8))
            .prop_map(|(port, uid, to_here)| Event::Begins { port, uid, to_here }),
        2 => (port(), prop::bool::weighted(0.8)).prop_map(|(port, to_here)| Event::Ends { port, to_here }),
        5 => (ifindex(), interface(), prop::bool::weighted(0.9), any::<bool>(), prop::option::of(ifindex()))
            .prop_map(|(ifindex, interface, up, running, master)| {
                Event::Link { ifindex, interface, up, running, master }
            }),
        2 => ifindex().prop_map(|ifindex| Event::LinkGone { ifindex }),
        1 => (ifindex(), any::<bool>()).prop_map(|(ifindex, ready)| Event::Configured { ifindex, ready }),
        1 => (any::<bool>(), any::<bool>(), 1024..1026_u32)
            .prop_map(|(ipv6, every_interface, normal)| Event::Policy { ipv6, every_interface, normal }),
        3 => (interface(), any::<bool>(), any::<bool>())
            .prop_map(|(interface, ipv4, ipv6)| Event::Chains { interface, ipv4, ipv6 }),
        2 => (port(), any::<Option<bool>>(), 0..3_i64)
            .prop_map(|(port, is_up, revision)| Event::StatusElsewhere { port, is_up, revision }),
        2 => Just(Event::Announced),
        1 => any::<bool>().prop_map(|complete| Event::InSync { complete }),
        3 => prop::sample::select(vec![1, 500, 2_000, 5_000, 30_000]).prop_map(Event::Passes),
        1 => Just(Event::Restarted),
    ]
}

/// What is said about conflicts: endpoint, what it is about, and which kind.
type Said = BTreeSet<(String, String, u8)>;

fn conflict(notice: &Notice) -> Option<(String, String, u8)> {
    match notice {
        Notice::InterfaceConflict { endpoint, interface, .. } => {
            Some((endpoint.to_string(), interface.clone(), 0))
        }
        Notice::PrefixConflict { endpoint, prefix, .. } => {
            Some((endpoint.to_string(), prefix.to_string(), 1))
        }
        Notice::NotAWorkloadInterface { endpoint, interface } => {
            Some((endpoint.to_string(), interface.clone(), 2))
        }
        _ => None,
    }
}

/// The engine and a clock. [`Host`] would also check what is only true where nobody shares anything.
struct World {
    engine: Engine,
    now: BootTime,
}

impl World {
    fn new() -> Self {
        let engine =
            Engine::new(policy(true, false, 1024), Memory::default(), LeftBehind::default()).with_driver();
        let mut world = Self { engine, now: BootTime(1_000_000_000_000) };
        world.tell(Fact::InSync { complete: true });
        world
    }

    fn tell(&mut self, fact: Fact) {
        self.engine.handle(self.now, fact);
        self.settle();
    }

    fn settle(&mut self) {
        let before = self.engine.wanted.clone();
        let changed = self.engine.settle(self.now);
        let Some(wanted) = self.engine.wanted() else { return };
        assert_eq!(*wanted, self.engine.rebuilt());
        assert_eq!(changed, *wanted != before, "a change that is not told, or none that is");
        assert!(!self.engine.settle(self.now), "settling again changed something");
        assert!(self.engine.next_deadline().is_none_or(|due| due > self.now), "a deadline is left over");
    }

    fn play(&mut self, event: &Event) {
        match event {
            Event::Announced => {
                let watches = self.engine.wanted.watches.clone();
                for generation in watches.values().map(|watch| watch.generation) {
                    self.tell(Fact::WatchArmed { generation, at: self.now });
                    self.tell(announcement(generation, self.now));
                }
            }
            Event::Passes(milliseconds) => {
                let end = self.now + ms(*milliseconds);
                while let Some(due) = self.engine.next_deadline().filter(|due| *due <= end) {
                    self.now = due;
                    self.tell(Fact::TimePassed);
                }
                self.now = end;
            }
            Event::Restarted => self.restart(),
            other => facts(other).into_iter().for_each(|fact| self.tell(fact)),
        }
    }

    fn restart(&mut self) {
        let before = &self.engine;
        let watches = before.wanted.watches.iter();
        let watches = watches.filter_map(|(ifindex, it)| Some((*ifindex, (it.generation, it.mac?))));
        let found =
            LeftBehind { watches: watches.collect(), routes: before.wanted.routes.iter().copied().collect() };
        let links: Vec<_> = before.links.values().cloned().collect();
        self.engine = Engine::new(before.policy.clone(), before.memory(), found).with_driver();
        links.into_iter().for_each(|link| self.tell(Fact::LinkSeen(link)));
    }
}

/// What had been left over is somebody's again, which is known at once and not with the next fact.
#[test]
fn a_leftover_that_gets_an_endpoint_is_no_longer_in_question() {
    let mut world = World::new();
    let link = |up, running| Event::Link { ifindex: 7, interface: 0, up, running, master: None };
    let written = || Event::Written { port: 0, interface: 0, prefixes: vec![0] };
    for event in [written(), link(true, false), Event::Restarted, Event::InSync { complete: true }] {
        world.play(&event);
    }
    for event in [link(false, true), Event::Passes(2_000)] {
        world.play(&event);
    }
    assert!(!world.engine.wanted().unwrap().leftovers_may_go, "in question");
    world.play(&written());
    assert!(world.engine.wanted().unwrap().leftovers_may_go);
}

proptest! {
    #[test]
    fn brought_up_to_date_is_as_from_scratch(events in prop::collection::vec(event(), 1..80)) {
        let mut world = World::new();
        events.iter().for_each(|event| world.play(event));
    }

    /// Several facts before the engine settles, as the agent hands them over.
    #[test]
    fn in_batches_as_well(batches in prop::collection::vec(prop::collection::vec(event(), 1..8), 1..20)) {
        let mut world = World::new();
        for batch in &batches {
            for fact in batch.iter().flat_map(facts) {
                world.engine.handle(world.now, fact);
            }
            world.settle();
        }
    }

    #[test]
    fn what_is_to_be_remembered_does_not_change_in_silence(events in prop::collection::vec(event(), 1..60)) {
        let mut world = World::new();
        world.engine.take_memory_changed();
        let mut before = world.engine.memory();
        for event in events.iter().filter(|event| !matches!(event, Event::Restarted)) {
            world.play(event);
            let now = world.engine.memory();
            if !world.engine.take_memory_changed() {
                prop_assert_eq!(&now, &before, "changed in silence by {:?}", event);
            }
            before = now;
        }
    }

    #[test]
    fn a_conflict_is_said_once_while_it_lasts(events in prop::collection::vec(event(), 1..60)) {
        let mut world = World::new();
        let mut last = Said::new();
        for fact in events.iter().flat_map(facts) {
            world.tell(fact);
            let now = world.engine.conflicts();
            let said: Vec<_> = world.engine.take_notices().iter().filter_map(conflict).collect();
            let news: Said = now.difference(&last).cloned().collect();
            prop_assert_eq!(said.len(), news.len(), "twice, or too much: {:?}", said);
            prop_assert_eq!(said.into_iter().collect::<Said>(), news);
            last = now;
        }
    }
}
