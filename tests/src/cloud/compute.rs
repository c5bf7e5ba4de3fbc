//! A compute host of the cloud: its agent, its BIRD, the taps of the guests that run on it or will.

use crate::agent::Agent;
use crate::bird::Bird;
use crate::host::Host;
use crate::hypervisor::Guest;
use crate::lab::Lab;
use crate::resources::{Directory, Port};
use crate::route_history::Moment;
use crate::route_watch::{Mark, RouteWatch};
use crate::tap::Tap;
use crate::wait;
use cutover_engine::BootTime;
use cutover_engine::machine::Phases;
use ipnet::IpNet;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;

/// How many frames wait on a tap for a guest that is behind with its work.
///
/// KERNEL: a tap has room for [`USUAL_TAP_QUEUE`] and drops what comes then. An emulated guest that has just arrived needs more than
/// half a second for its first answer if it gets a fraction of a processor.
const TAP_QUEUE: u32 = 20_000;

/// KERNEL: what a tap has room for when it is made (DEFAULT_TX_QUEUE_LEN of 6.18).
pub(super) const USUAL_TAP_QUEUE: u32 = 1_000;

/// The host. Fields go in this order.
#[derive(Debug)]
pub struct Compute {
    agent: Option<Agent>,
    /// Recording since before the agent started.
    pub watch: RouteWatch,
    pub(super) bird: Option<Bird>,
    taps: BTreeMap<String, Tap>,
    /// How many frames wait on taps that are plugged from now on.
    pub(super) tap_queue: u32,
    /// The host.
    pub host: Host,
}

impl Compute {
    pub(super) fn new(lab: &Lab, name: &str) -> Self {
        let host = lab.host(name);
        // KERNEL: a host answers ARP requests for the guests' gateway only if it knows a way there (arp_fwd_proxy).
        host.namespace().ip("route add default via 192.168.77.254 dev eth0");
        let watch = RouteWatch::start(host.namespace());
        Self { agent: None, watch, bird: None, taps: BTreeMap::new(), tap_queue: TAP_QUEUE, host }
    }

    pub(super) fn start_agent(
        &mut self,
        lab: &Lab,
        directory: &Directory,
        configure: impl FnOnce(&mut Agent),
    ) {
        let mut agent = Agent::new(lab, &self.host, directory);
        configure(&mut agent);
        agent.start();
        self.agent = Some(agent);
    }

    /// The agent, running or not.
    ///
    /// # Panics
    /// Never once the cloud is there.
    #[must_use]
    pub fn agent(&self) -> &Agent {
        self.agent.as_ref().expect("the cloud has started it")
    }

    /// The agent, to stop and start it.
    ///
    /// # Panics
    /// Never once the cloud is there.
    pub fn agent_mut(&mut self) -> &mut Agent {
        self.agent.as_mut().expect("the cloud has started it")
    }

    /// Nova plugs the taps of a guest.
    pub fn plug(&mut self, guest: &Guest) {
        for port in &guest.ports {
            let tap = self.host.plug(&port.interface, port.tap_mac());
            let (name, length) = (&port.interface, self.tap_queue);
            self.host.namespace().ip(&format!("link set {name} txqueuelen {length}"));
            self.taps.insert(port.interface.clone(), tap);
        }
    }

    /// Nova unplugs the taps of a guest.
    pub fn unplug(&mut self, guest: &Guest) {
        for port in &guest.ports {
            if let Some(tap) = self.taps.remove(&port.interface) {
                tap.remove();
            }
        }
    }

    /// The tap of a port.
    ///
    /// # Panics
    /// When it is not plugged here.
    #[must_use]
    pub fn tap(&self, port: &Port) -> &Tap {
        self.taps.get(&port.interface).expect("the tap is plugged here")
    }

    /// What its interfaces have sent and dropped, as `ip` shows it.
    #[must_use]
    pub fn interfaces(&self) -> String {
        let output = self.host.namespace().command("ip").args(["-s", "link"]).output();
        output.map_or_else(
            |error| error.to_string(),
            |output| String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    }

    /// Its address of the same family.
    #[must_use]
    pub fn address_like(&self, other: IpAddr) -> IpAddr {
        if other.is_ipv4() { self.host.ipv4().into() } else { self.host.ipv6().into() }
    }

    /// The metrics of the routes to `destination` that lead to a guest here, not those of BGP.
    #[must_use]
    pub fn local_metrics(&self, destination: IpNet) -> Vec<u32> {
        let routes = self.watch.routes_to(destination);
        routes.iter().filter(|route| route.gateway.is_none()).map(|route| route.metric).collect()
    }

    /// What [`Self::local_metrics`] has been since `mark`, one thing after the other.
    #[must_use]
    pub fn local_metrics_since(&self, mark: Mark, destination: IpNet) -> Vec<Vec<u32>> {
        let moments = self.watch.since(mark).moments(destination);
        let local = |moment: &Moment| {
            let routes = moment.routes.iter().filter(|route| route.gateway.is_none());
            routes.map(|route| route.metric).collect()
        };
        let mut metrics: Vec<Vec<u32>> = moments.iter().map(local).collect();
        metrics.dedup();
        metrics
    }

    /// When the first route to `destination` that leads to a guest here was added since `mark`.
    #[must_use]
    pub fn local_route_since(&self, mark: Mark, destination: IpNet) -> Option<BootTime> {
        let moments = self.watch.since(mark).moments(destination);
        let is_local = |moment: &&Moment| moment.routes.iter().any(|route| route.gateway.is_none());
        moments.iter().find(is_local).and_then(|moment| moment.since)
    }

    /// Since when, after `mark`, all routes to `destination` have led to a guest here without a break.
    #[must_use]
    pub fn led_to_tap_since(&self, mark: Mark, destination: IpNet) -> Option<BootTime> {
        let moments = self.watch.since(mark).moments(destination);
        let is_local = |moment: &&Moment| {
            !moment.routes.is_empty() && moment.routes.iter().all(|route| route.gateway.is_none())
        };
        moments.iter().rev().take_while(is_local).last().and_then(|moment| moment.since)
    }

    /// Waits until the agent says that the guest's ports are in this state.
    ///
    /// # Panics
    /// When they are not; the message has the log of the agent.
    #[track_caller]
    pub fn wait_state(&self, guest: &Guest, state: &str) {
        for port in &guest.ports {
            let is = || self.agent().status_of(port).map(|endpoint| endpoint["state"].clone());
            if !wait::holds_within(wait::SOON, || is().is_some_and(|is| is == state)) {
                let (name, is) = (&port.endpoint, is());
                panic!("{name} is in {is:?}, wanted {state}:\n{}", self.agent().log_text());
            }
        }
    }

    /// What its agent says of what it forwards for a port that leaves.
    #[must_use]
    pub fn forward(&self, port: &Port) -> Option<Value> {
        self.shown("forwards", port)
    }

    /// What its agent says of what it takes from the tunnel for a port that arrives.
    #[must_use]
    pub fn reception(&self, port: &Port) -> Option<Value> {
        self.shown("receivers", port)
    }

    fn shown(&self, list: &str, port: &Port) -> Option<Value> {
        let (status, name) = (self.agent().status(), port.name_on(self.host.name()));
        status[list].as_array()?.iter().find(|it| it["endpoint"] == name.as_str()).cloned()
    }

    /// Waits until the metrics of the routes to a guest here are these.
    ///
    /// # Panics
    /// When they are not; the message has what they are, and the log of the agent.
    #[track_caller]
    pub fn wait_local_metrics(&self, guest: &Guest, metrics: &[u32]) {
        for to in guest.routed() {
            if !wait::holds_within(wait::SOON, || self.local_metrics(to) == metrics) {
                let (name, is) = (self.host.name(), self.local_metrics(to));
                panic!("{name} has {is:?} to {to}, wanted {metrics:?}:\n{}", self.agent().log_text());
            }
        }
    }

    /// Waits until the agent has recorded the end of a migration to here, and says when each phase began.
    ///
    /// # Panics
    /// When it does not; the message has the log of the agent.
    #[track_caller]
    #[must_use]
    pub fn wait_recorded(&self, uid: &str) -> Phases {
        let mut found = None;
        let recorded = wait::holds_within(wait::SOON, || {
            found = self.recorded(uid);
            found.is_some()
        });
        assert!(recorded, "no record of {uid}:\n{}", self.agent().log_text());
        found.expect("holds_within said so")
    }

    fn recorded(&self, uid: &str) -> Option<Phases> {
        let text = fs::read_to_string(self.agent().run_dir().join("migrations.jsonl")).ok()?;
        let mut lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let record = lines.find(|record| record["uid"] == uid)?;
        Some(serde_json::from_value(record["phases"].clone()).expect("phases"))
    }
}
