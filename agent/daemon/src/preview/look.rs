//! From what was read to the report: kernel and datastore into the engine, and what it wants through the appliers.

use super::report::{
    Absent, Alone, InTheWay, NeighbourWrite, Report, RouteText, RouteWrite, SysctlWrite, Write,
};
use super::{PreviewError, Read};
use crate::agent::interface_settings;
use crate::applier::interfaces;
use crate::applier::routes::{RoutePreview, place};
use crate::clock;
use crate::control::Losses;
use crate::datastore::whereabouts;
use crate::felix;
use crate::netlink::route::normalised;
use crate::netlink::{Neighbour, NeighbourChange, NeighbourKey, ObservedRoute, Owner, RouteChange, snapshot};
use crate::settings::{DatastoreType, Role, Settings};
use crate::sysctls::SysctlChange;
use cutover_common::MacAddr;
use cutover_engine::fact::Link;
use cutover_engine::memory::LeftBehind;
use cutover_engine::wanted::WantedRoute;
use cutover_engine::{Engine, Fact, Wanted};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

/// What the kernel holds of workloads.
struct Kernel {
    links: BTreeMap<u32, Link>,
    /// Numbers of those that are workloads'.
    workloads: BTreeSet<u32>,
    routes: BTreeMap<ObservedRoute, Owner>,
    neighbours: BTreeSet<Neighbour>,
}

impl Kernel {
    fn look(settings: &Settings) -> io::Result<Self> {
        let links: BTreeMap<u32, Link> =
            snapshot::links()?.into_iter().map(|seen| (seen.link.ifindex, seen.link)).collect();
        let policy = settings.policy();
        let workloads = links.values().filter(|link| policy.has_routes(&link.name));
        let workloads: BTreeSet<u32> = workloads.map(|link| link.ifindex).collect();
        let owner = |route: &ObservedRoute| {
            if route.protocol == settings.device_route_protocol { Owner::Ours } else { Owner::Other }
        };
        let routes = snapshot::routes(&workloads)?.into_iter().map(|route| (route, owner(&route))).collect();
        let neighbours = snapshot::neighbours(&workloads)?;
        Ok(Self { links, workloads, routes, neighbours })
    }

    fn name(&self, ifindex: u32) -> String {
        self.links.get(&ifindex).map_or_else(|| format!("if{ifindex}"), |link| link.name.clone())
    }

    fn text(&self, route: &WantedRoute) -> RouteText {
        RouteText {
            destination: route.destination.to_string(),
            interface: self.name(route.ifindex),
            metric: route.metric,
            protocol: route.protocol,
            source: route.source,
        }
    }

    fn write(&self, change: &RouteChange, is_later: bool) -> RouteWrite {
        let route = change.route();
        let replaced = || self.routes.keys().find(|other| place(other) == place(route));
        let (write, in_place_of) = match change {
            RouteChange::Add(_) => (Write::Add, None),
            RouteChange::Replace(_) => (Write::Replace, replaced().map(|other| self.text(other))),
            RouteChange::Remove(_) => (Write::Remove, None),
        };
        RouteWrite { write, route: self.text(route), in_place_of, is_later }
    }

    fn neighbour(&self, change: &NeighbourChange) -> NeighbourWrite {
        let NeighbourKey { ifindex, address } = change.key();
        let is = self.neighbours.iter().find(|it| it.key == change.key()).map(|it| it.mac);
        let (write, mac) = match change {
            NeighbourChange::Add(neighbour) if is.is_some() => (Write::Replace, Some(neighbour.mac)),
            NeighbourChange::Add(neighbour) => (Write::Add, Some(neighbour.mac)),
            NeighbourChange::Remove(_) => (Write::Remove, None),
        };
        let text = |mac: MacAddr| mac.to_string();
        NeighbourWrite { write, address, interface: self.name(ifindex), mac: mac.map(text), is: is.map(text) }
    }

    /// Routes of others to these destinations that are used before a wanted one. One that a wanted route replaces is not among them.
    fn in_the_way(&self, wanted: &Wanted, ours: u8) -> io::Result<Vec<InTheWay>> {
        let mut metrics: BTreeMap<IpNet, u32> = BTreeMap::new();
        for route in wanted.routes.iter() {
            let metric = metrics.entry(route.destination.trunc()).or_insert(route.metric);
            *metric = route.metric.min(*metric);
        }
        let places: BTreeSet<_> = wanted.routes.iter().map(|route| place(&normalised(route))).collect();
        let destinations = metrics.keys().copied().collect();
        let found = snapshot::routes_to(&destinations)?.into_iter().filter_map(|route| {
            let wanted_metric = *metrics.get(&route.destination)?;
            let is_ours = route.protocol == ours
                && route.gateway.is_none()
                && route.ifindex.is_some_and(|ifindex| self.workloads.contains(&ifindex));
            let is_replaced = route.gateway.is_none()
                && route
                    .ifindex
                    .is_some_and(|ifindex| places.contains(&(route.destination, ifindex, route.metric)));
            (!is_ours && !is_replaced && route.metric <= wanted_metric).then(|| InTheWay {
                destination: route.destination.to_string(),
                interface: route.ifindex.map(|ifindex| self.name(ifindex)),
                gateway: route.gateway,
                metric: route.metric,
                protocol: route.protocol,
                wanted_metric,
            })
        });
        Ok(found.collect())
    }

    fn alone(&self, wanted: &Wanted) -> Vec<Alone> {
        let ours = |ifindex: u32| {
            let ours = self.routes.iter().filter(|(_, owner)| **owner == Owner::Ours);
            ours.filter(|(route, _)| route.ifindex == ifindex).count()
        };
        // A port of a bridge is not set up, but known.
        let has_endpoint = |ifindex: &u32| {
            wanted.interfaces.contains_key(ifindex) || wanted.known_interfaces.contains(ifindex)
        };
        let alone = self.workloads.iter().filter(|ifindex| !has_endpoint(ifindex));
        alone
            .filter_map(|ifindex| {
                let link = self.links.get(ifindex)?;
                let (interface, has_carrier) = (link.name.clone(), link.running);
                Some(Alone { interface, has_carrier, routes: ours(*ifindex) })
            })
            .collect()
    }
}

pub(super) async fn report(read: Read) -> Result<Report, PreviewError> {
    let Read { settings, memory, facts, armed, mut report } = read;
    let kernel = Kernel::look(&settings).map_err(PreviewError::Kernel)?;
    let found = LeftBehind { watches: BTreeMap::new(), routes: kernel.routes.keys().copied().collect() };
    let mut engine = Engine::new(settings.policy(), memory, found);
    if settings.datastore_type == DatastoreType::Etcdv3 {
        // Nobody is asked again whether something is gone, as an agent does: all of the datastore has just been read.
        engine = engine.with_driver();
    }
    let now = clock::now();
    // ORDER: as in the loop of the agent.
    for link in kernel.links.values() {
        engine.handle(now, Fact::LinkSeen(link.clone()));
    }
    for fact in facts {
        engine.handle(now, fact);
    }
    engine.settle(now);
    let wanted = Arc::new(engine.wanted().cloned().unwrap_or_default());
    let views = engine.view(now);

    let mut routes = RoutePreview::of(&kernel.routes);
    let at_once = routes.changes(Arc::clone(&wanted)).await;
    let felix_is_beside = settings.cutover_role == Role::Routes;
    let interfaces = interfaces::preview(
        &interface_settings(&settings, None),
        felix_is_beside,
        &kernel.neighbours,
        &wanted,
    );
    // What nobody asks for is removed when the grace time is over, or kept.
    let then = now + settings.cutover_endpoint_grace;
    engine.handle(then, Fact::TimePassed);
    engine.settle(then);
    let later = routes.changes(Arc::new(engine.wanted().cloned().unwrap_or_default())).await;

    let is_there = |route: &&WantedRoute| kernel.routes.contains_key(&normalised(route));
    report.routes_kept = wanted.routes.iter().filter(is_there).count();
    report.routes = at_once.iter().map(|change| kernel.write(change, false)).collect();
    report.routes.extend(later.iter().map(|change| kernel.write(change, true)));
    report.neighbours = interfaces.neighbours.iter().map(|change| kernel.neighbour(change)).collect();
    report.sysctls = interfaces.sysctls.into_iter().map(sysctl).collect();
    report.unprepared = interfaces.unprepared;
    let watches = wanted.watches.values().map(|watch| watch.interface.clone());
    report.watches = watches.filter(|interface| !armed.contains(interface)).collect();
    report.endpoints = views.iter().filter(|view| !view.held).count();
    let absent = views.iter().filter(|view| view.ifindex.is_none());
    let absent = absent.map(|view| Absent { endpoint: view.name.clone(), interface: view.interface.clone() });
    report.endpoints_without_interface = absent.collect();
    report.interfaces_without_endpoint = kernel.alone(&wanted);
    report.in_the_way =
        kernel.in_the_way(&wanted, settings.device_route_protocol).map_err(PreviewError::Kernel)?;
    report.felix = felix::running(&settings);
    report.losses = losses(&engine, &settings).await;
    Ok(report)
}

async fn losses(engine: &Engine, settings: &Settings) -> Losses {
    let view = engine.losses();
    let hint = if view.count() == 0 {
        None
    } else {
        whereabouts::look(settings).await.and_then(|found| found.explain(settings))
    };
    Losses { view, hint, refused_settings: BTreeMap::new() }
}

fn sysctl(change: SysctlChange) -> SysctlWrite {
    SysctlWrite { name: format!("net/{}", change.path), is: change.is, to_be: change.to_be }
}
