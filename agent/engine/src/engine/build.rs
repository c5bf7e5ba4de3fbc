//! From what the engine knows to the sets that it wants, and to what `cutover status` shows.

use super::{Engine, Local};
use crate::fact::Link;
use crate::machine::{Arming, State};
use crate::model::{Endpoint, EndpointKey, Policy};
use crate::notice::Notice;
use crate::time::BootTime;
use crate::view::{EndpointView, RouteView};
use crate::wanted::{Status, Wanted, WantedInterface, WantedRoute, WantedStatus, WantedWatch};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

impl Engine {
    /// The wanted sets, from scratch.
    pub(super) fn build(&mut self, now: BootTime) -> Wanted {
        self.keep_armings(now);
        let mut wanted = Wanted { leftovers_may_go: self.leftovers_may_go(now), ..Wanted::default() };
        let mut owners = Owners::default();
        // ORDER: whoever the datastore shows comes before whoever is only held, so that an address or a tap
        // can be taken over at once.
        let held = |local: &Local| local.held_since.is_some();
        let (gone, shown): (Vec<_>, Vec<_>) = self.locals.iter().partition(|(_, local)| held(local));
        for (key, local) in shown.into_iter().chain(gone) {
            let interface = &local.endpoint.interface;
            if !self.policy.is_workload_interface(interface) {
                let (endpoint, interface) = (key.clone(), interface.clone());
                owners.conflicts.push(Notice::NotAWorkloadInterface { endpoint, interface });
            }
            if owners.claim_interface(key, interface) {
                self.want(&mut wanted, &mut owners, key, local);
            } else {
                wanted.statuses.insert(key.clone(), WantedStatus::of(Status::AsReported));
            }
        }
        let conflicts = owners.conflicts;
        self.served.append(&mut wanted.known_interfaces);
        wanted.known_interfaces.clone_from(&self.served);
        self.report_conflicts(conflicts);
        wanted
    }

    /// Every endpoint in Target whose tap exists needs a generation for that very tap.
    pub(super) fn keep_armings(&mut self, now: BootTime) {
        for local in self.locals.values_mut() {
            if local.machine.state != State::Target {
                continue;
            }
            let interface = local.endpoint.interface.as_str();
            let ifindex = self.ifindexes.get(interface).copied();
            let ifindex = ifindex.filter(|_| self.policy.is_workload_interface(interface));
            if local.machine.arming.map(|arming| arming.ifindex) == ifindex {
                continue;
            }
            local.armed = None;
            local.machine.arming = ifindex.map(|ifindex| {
                let found = self.found.watches.remove(&ifindex);
                let generation = match found {
                    Some((generation, mac)) if Some(mac) == local.endpoint.mac => generation,
                    _ => {
                        self.last_generation = now.0.max(self.last_generation + 1);
                        self.last_generation
                    }
                };
                Arming { ifindex, generation }
            });
        }
        // INVARIANT: a generation is used once. What was found on a tap that exists has been adopted by now, or
        // belongs to a migration that is over.
        self.found.watches.retain(|ifindex, _| !self.links.contains_key(ifindex));
    }

    fn want<'a>(
        &'a self,
        wanted: &mut Wanted,
        owners: &mut Owners<'a>,
        key: &'a EndpointKey,
        local: &'a Local,
    ) {
        let link = self.link(&local.endpoint.interface);
        wanted.statuses.insert(key.clone(), self.wanted_status(local, link));
        let Some(link) = link else { return };
        wanted.known_interfaces.insert(link.ifindex);
        wanted.interfaces.insert(link.ifindex, interface(&self.policy, &local.endpoint, link));

        if let (Some(elevated), true) = (local.machine.elevated(), link.admin_up) {
            for route in routes(&self.policy, &local.endpoint, link.ifindex, elevated) {
                if owners.claim_prefix(key, route.destination) {
                    wanted.routes.insert(route);
                }
            }
        }
        if let Some(arming) = local.machine.arming {
            let mut watch = self.watch(local, arming);
            // What somebody has who comes first would not be wanted after the announcement either.
            watch.routes.retain(|route| !owners.prefixes.contains_key(&route.destination));
            wanted.watches.insert(link.ifindex, watch);
        }
    }

    fn watch(&self, local: &Local, arming: Arming) -> WantedWatch {
        let endpoint = &local.endpoint;
        WantedWatch {
            interface: endpoint.interface.clone(),
            generation: arming.generation,
            mac: endpoint.mac,
            addresses: host_addresses(endpoint).collect(),
            trigger: self.policy.trigger,
            validation: self.policy.validation,
            routes: routes(&self.policy, endpoint, arming.ifindex, true).collect(),
        }
    }

    fn wanted_status(&self, local: &Local, link: Option<&Link>) -> WantedStatus {
        let status = self.status(local, link);
        let due_since = local.machine.report_due_since.filter(|_| status == Status::Up);
        WantedStatus { status, is_awaited: local.machine.state == State::Target, due_since }
    }

    /// The status to report.
    ///
    /// A virtual machine that is on its way needs no carrier to be welcome (W5). One that has arrived is up.
    /// Until the interface was looked at nothing is said: after a restart, `down` would take the ports of all
    /// running virtual machines down.
    fn status(&self, local: &Local, link: Option<&Link>) -> Status {
        let configured = link.and_then(|link| self.configured.get(&link.ifindex)).copied();
        match local.machine.state {
            State::Base if local.machine.not_here => Status::AsReported,
            _ if local.held_since.is_some() => Status::AsReported,
            State::Base if link.is_some_and(|link| link.running) => match configured {
                Some(true) => Status::Up,
                Some(false) => Status::Down,
                None => Status::AsReported,
            },
            State::Base => Status::Down,
            State::Target
                if configured == Some(true)
                    && local.armed.is_some()
                    && link.is_some_and(|link| link.admin_up) =>
            {
                Status::Up
            }
            State::Target => Status::AsReported,
            State::Live | State::TimeWait if link.is_some() => Status::Up,
            State::Live | State::TimeWait => Status::Down,
        }
    }

    fn report_conflicts(&mut self, conflicts: Vec<Notice>) {
        let mut known = BTreeSet::new();
        for notice in conflicts {
            let identity = match &notice {
                Notice::InterfaceConflict { endpoint, interface, .. } => {
                    (endpoint.clone(), interface.clone())
                }
                Notice::PrefixConflict { endpoint, prefix, .. } => (endpoint.clone(), prefix.to_string()),
                _ => continue,
            };
            if !self.conflicts.contains(&identity) {
                self.notices.push(notice);
            }
            known.insert(identity);
        }
        self.conflicts = known;
    }

    pub(super) fn view_of(&self, key: &EndpointKey, local: &Local, now: BootTime) -> EndpointView {
        let link = self.link(&local.endpoint.interface);
        let wanted = self.wanted.statuses.get(key);
        let status = match wanted.map(|wanted| wanted.status) {
            Some(Status::Up) => "up",
            Some(Status::Down) => "down",
            Some(Status::AsReported) | None => "as reported",
        };
        let mut view = EndpointView {
            name: key.to_string(),
            key: key.clone(),
            interface: local.endpoint.interface.clone(),
            ifindex: link.map(|link| link.ifindex),
            running: link.is_some_and(|link| link.running),
            role: String::new(),
            state: local.machine.state,
            migration_uid: String::new(),
            status: status.to_owned(),
            status_due: wanted.is_some_and(|wanted| wanted.due_since.is_some()),
            held: local.held_since.is_some(),
            not_here: false,
            routes: Vec::new(),
            watch: local.armed,
            announcement: None,
            announced_to_routed_ns: None,
            elevated_for_seconds: local.machine.elevated_until.map(|until| until.since(now).as_secs_f64()),
            migration: None,
        };
        view.describe(&local.machine);
        if let (Some(elevated), Some(link)) = (local.machine.elevated(), link) {
            view.routes = routes(&self.policy, &local.endpoint, link.ifindex, elevated)
                .filter(|route| self.wanted.routes.contains(route))
                .map(|route| RouteView { destination: route.destination.to_string(), metric: route.metric })
                .collect();
        }
        view
    }
}

/// Who has what, while the sets are built in the order of the keys: the first one wins.
#[derive(Default)]
struct Owners<'a> {
    interfaces: BTreeMap<&'a str, &'a EndpointKey>,
    prefixes: BTreeMap<IpNet, &'a EndpointKey>,
    conflicts: Vec<Notice>,
}

impl<'a> Owners<'a> {
    fn claim_interface(&mut self, key: &'a EndpointKey, interface: &'a str) -> bool {
        let winner = *self.interfaces.entry(interface).or_insert(key);
        if winner != key {
            self.conflicts.push(Notice::InterfaceConflict {
                endpoint: key.clone(),
                winner: winner.clone(),
                interface: interface.to_owned(),
            });
        }
        winner == key
    }

    fn claim_prefix(&mut self, key: &'a EndpointKey, prefix: IpNet) -> bool {
        let winner = *self.prefixes.entry(prefix).or_insert(key);
        if winner != key {
            self.conflicts.push(Notice::PrefixConflict {
                endpoint: key.clone(),
                winner: winner.clone(),
                prefix,
            });
        }
        winner == key
    }
}

fn routes<'a>(
    policy: &'a Policy,
    endpoint: &'a Endpoint,
    ifindex: u32,
    elevated: bool,
) -> impl Iterator<Item = WantedRoute> + 'a {
    endpoint.prefixes.iter().filter(|prefix| policy.ipv6_support || prefix.addr().is_ipv4()).map(
        move |&destination| {
            let priorities = policy.priorities(destination.addr());
            WantedRoute {
                destination,
                ifindex,
                metric: if elevated { priorities.elevated } else { priorities.normal },
                protocol: policy.route_protocol,
                source: match destination {
                    IpNet::V4(_) => policy.ipv4_source.map(IpAddr::V4),
                    IpNet::V6(_) => policy.ipv6_source.map(IpAddr::V6),
                },
            }
        },
    )
}

/// The addresses among the prefixes.
fn host_addresses(endpoint: &Endpoint) -> impl Iterator<Item = IpAddr> + '_ {
    endpoint.prefixes.iter().filter(|prefix| prefix.prefix_len() == prefix.max_prefix_len()).map(IpNet::addr)
}

fn interface(policy: &Policy, endpoint: &Endpoint, link: &Link) -> WantedInterface {
    let neighbours = endpoint.mac.map_or_else(BTreeMap::new, |mac| {
        host_addresses(endpoint)
            .filter(|address| policy.ipv6_support || address.is_ipv4())
            .map(|address| (address, mac))
            .collect()
    });
    WantedInterface { name: link.name.clone(), neighbours, ipv6: policy.ipv6_support }
}
