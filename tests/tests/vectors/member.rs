//! One host of a replay: its agent, its taps, and what is in them.

use cutover_tests::route_history::Neighbour;
use cutover_tests::route_watch::dump_neighbours;
use cutover_tests::scene::NORMAL;
use cutover_tests::{Agent, Etcd, Host, Lab, OpenTap, Port, RouteWatch, Tap, frames, wait};
use ipnet::IpNet;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// How long an elevated route stays after a migration.
pub(crate) const CONVERGENCE_SECONDS: u64 = 3;

/// A compute host.
pub(crate) struct Member {
    pub(crate) agent: Agent,
    /// Recording since before the agent started.
    pub(crate) watch: RouteWatch,
    /// Hypervisors by the name of their tap.
    guests: BTreeMap<String, OpenTap>,
    taps: BTreeMap<String, Tap>,
    pub(crate) host: Host,
    etcd: Arc<Etcd>,
    /// Nothing can be reported now.
    pub(crate) is_cut_off: bool,
}

impl Member {
    pub(crate) fn new(lab: &Lab, name: &str, etcd: &Arc<Etcd>) -> Self {
        let host = lab.host(name);
        let watch = RouteWatch::start(host.namespace());
        let mut agent = Agent::new(lab, &host, &lab.directory()).on_etcd(etcd);
        agent.set("LiveMigrationRouteConvergenceTime", CONVERGENCE_SECONDS);
        Self {
            agent,
            watch,
            guests: BTreeMap::new(),
            taps: BTreeMap::new(),
            host,
            etcd: Arc::clone(etcd),
            is_cut_off: false,
        }
    }

    /// Number of the tap of a port, if it is plugged.
    pub(crate) fn ifindex(&self, port: &Port) -> Option<u32> {
        self.taps.get(&port.interface).map(Tap::ifindex)
    }

    /// As Nova does before it tells Neutron anything.
    pub(crate) fn plug(&mut self, port: &Port) {
        if !self.taps.contains_key(&port.interface) {
            self.taps.insert(port.interface.clone(), self.host.plug(&port.interface, port.tap_mac()));
        }
    }

    pub(crate) fn unplug(&mut self, port: &Port) {
        self.close(port);
        if let Some(tap) = self.taps.remove(&port.interface) {
            tap.remove();
        }
    }

    /// A hypervisor opens the tap.
    pub(crate) fn open(&mut self, port: &Port) {
        self.plug(port);
        let qemu = self.taps[&port.interface].open();
        self.guests.insert(port.interface.clone(), qemu);
    }

    pub(crate) fn close(&mut self, port: &Port) {
        self.guests.remove(&port.interface);
    }

    /// What a hypervisor sends when it resumes a guest.
    pub(crate) fn announce_by_hypervisor(&self, port: &Port) {
        self.guests[&port.interface].send(&frames::rarp(port.mac));
    }

    /// What the guest itself sends a little later.
    pub(crate) fn announce_by_guest(&self, port: &Port) {
        let guest = &self.guests[&port.interface];
        for network in &port.addresses {
            match network.addr() {
                IpAddr::V4(address) => guest.send(&frames::garp_request(port.mac, address)),
                IpAddr::V6(address) => guest.send(&frames::unsolicited_na(port.mac, address)),
            }
        }
    }

    /// Whether the routes to all of `to` have one of these lists of metrics.
    pub(crate) fn has_metrics(&self, to: &[IpNet], any_of: &[&[u32]]) -> bool {
        let history = self.watch.history();
        let current = history.current();
        to.iter().all(|to| {
            let routes = current.iter().filter(|route| route.destination == *to);
            let metrics: Vec<u32> = routes.map(|route| route.metric).collect();
            any_of.contains(&metrics.as_slice())
        })
    }

    pub(crate) fn metrics(&self, to: &[IpNet]) -> Vec<(IpNet, Vec<u32>)> {
        to.iter().map(|to| (*to, self.watch.metrics_to(*to))).collect()
    }

    /// Whether nothing is left to write for a guest that is not migrating.
    pub(crate) fn is_settled(&self, port: &Port) -> bool {
        let Some(ifindex) = self.ifindex(port) else { return false };
        let found = self.host.namespace().run(dump_neighbours).expect("a dump");
        let permanent = |address| {
            let is_it = |entry: &Neighbour| {
                (entry.address, entry.ifindex, entry.mac, entry.permanent)
                    == (address, ifindex, Some(port.mac), true)
            };
            found.iter().any(is_it)
        };
        let routed = port.routed();
        let hosts = routed.iter().filter(|net| net.prefix_len() == net.max_prefix_len());
        self.has_metrics(&routed, &[&[NORMAL]]) && hosts.map(IpNet::addr).all(permanent)
    }

    /// Whether the watch for the announcement of a port is in the kernel, on the tap that is plugged now and for this
    /// migration.
    pub(crate) fn is_armed(&self, port: &Port, uid: &str) -> bool {
        self.agent.status_of(port).is_some_and(|endpoint| {
            endpoint["watch"].is_u64()
                && endpoint["migration_uid"] == uid
                && endpoint["ifindex"].as_u64() == self.ifindex(port).map(u64::from)
        })
    }

    /// What the driver reads, whatever region it is in: the status of the port on this host.
    pub(crate) fn reported(&self, port: &Port) -> Option<String> {
        if self.is_cut_off {
            return None;
        }
        let ending = format!("%2f{}/endpoint/{}", port.workload, port.endpoint);
        let of_host = format!("/host/{}/", self.host.name());
        let all = self.etcd.all("/calico/felix/v2/");
        let (_, value) = all.into_iter().find(|(key, _)| key.contains(&of_host) && key.ends_with(&ending))?;
        let status: Value = serde_json::from_str(&value).ok()?;
        Some(status["status"].as_str()?.to_owned())
    }

    /// Whether the driver can read that the port is up here, as far as anything can be read.
    pub(crate) fn is_up(&self, port: &Port) -> bool {
        self.is_cut_off || self.reported(port).as_deref() == Some("up")
    }

    #[track_caller]
    pub(crate) fn wait(
        &self,
        what: &str,
        mut condition: impl FnMut(&Self) -> bool,
        is: impl FnOnce(&Self) -> String,
    ) {
        if !wait::holds_within(wait::SOON, || condition(self)) {
            panic!("{}: not {what}, but {}", self.host.name(), is(self));
        }
    }
}
