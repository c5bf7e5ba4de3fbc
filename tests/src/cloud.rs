//! A small cloud with real virtual machines: two compute hosts with agents on one etcd, a client, on all three BIRD with
//! the configuration that `cutover bgp bird` prints, and Nova's part in a live migration, in Nova's order. [`Hypervisor`]s are real, the orchestrator is
//! `cutover migrate`. Judges nothing.

mod compute;
mod traffic;

pub use compute::Compute;
pub use traffic::{Heard, Traffic};

use crate::agent::Agent;
use crate::bird::Bird;
use crate::datastore;
use crate::etcd::Etcd;
use crate::fabric::{self, BGP_METRIC};
use crate::host::Host;
use crate::hypervisor::{Guest, Hypervisor};
use crate::lab::Lab;
use crate::packet::PacketSocket;
use crate::release::Release;
use crate::resources::{Port, new_uid};
use crate::route_watch::{Mark, RouteWatch};
use crate::scene::{NORMAL, SOURCE, TARGET};
use crate::{probe, wait};
use cutover_daemon::datastore::etcd::Keys;
use cutover_engine::{BootTime, EndpointKey};
use ipnet::IpNet;
use serde_json::Value;
use std::net::IpAddr;
use std::time::Duration;

/// How long routes stay elevated, in seconds: short, because tests wait for the end of it, but longer than Nova takes to
/// remove the source's tap. Were the target normal while the source still has a route, the client would go back there.
pub const CONVERGENCE_S: u32 = 3;

/// Sessions of each host: one for each family with each of the two others.
const SESSIONS: usize = 4;

/// How long a guest may take for an answer that is behind with its work.
///
/// LIMIT: only failing tests wait this long.
const REACHED: Duration = Duration::from_secs(30);

/// How long agents may take until a target is ready, on a loaded machine.
const READY_S: &str = "30";

/// The cloud. Fields go in this order, the lab last.
#[derive(Debug)]
pub struct Cloud {
    /// Where the traffic comes from.
    pub client: Client,
    /// The compute hosts.
    pub hosts: [Compute; 2],
    /// Absent in a cloud without agents.
    datastore: Option<Datastore>,
    /// KERNEL: frames get times only from some time after somebody has asked for them, so somebody always does.
    _keeps_times: PacketSocket,
    lab: Lab,
}

#[derive(Debug)]
struct Datastore {
    etcd: Etcd,
    keys: Keys,
}

/// A host without virtual machines.
#[derive(Debug)]
pub struct Client {
    /// Its routes.
    pub watch: RouteWatch,
    bird: Bird,
    /// The host.
    pub host: Host,
}

/// A virtual machine, in Nova's word.
#[derive(Debug)]
pub struct Instance {
    /// What it is like.
    pub guest: Guest,
    /// Which of [`Cloud::hosts`] it runs on.
    pub at: usize,
    /// The process that it runs in.
    pub hypervisor: Hypervisor,
}

/// A migration that was begun and is not over.
#[derive(Debug)]
pub struct Migration {
    /// Which of [`Cloud::hosts`] it goes to.
    pub to: usize,
    /// The process that the guest arrives in.
    pub arrival: Hypervisor,
    /// The uid of each port's LiveMigration.
    pub uids: Vec<String>,
    /// From when on everything is recorded.
    pub lookout: Lookout,
}

/// Where recordings were before a migration, and who looks on.
#[derive(Debug)]
pub struct Lookout {
    /// On the client.
    pub client: Mark,
    /// On the host that the guest comes from.
    pub source: Mark,
    /// On the host that it goes to.
    pub target: Mark,
    /// At its taps there, in the order of the ports.
    pub taps: Vec<PacketSocket>,
}

impl Cloud {
    /// Everything runs, nobody has a virtual machine.
    ///
    /// # Panics
    /// When that does not come about.
    #[track_caller]
    #[must_use]
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    /// As [`Self::new`], with other settings for both agents.
    ///
    /// # Panics
    /// When that does not come about.
    #[track_caller]
    #[must_use]
    pub fn with(configure: impl Fn(&mut Agent)) -> Self {
        let mut cloud = Self::without_agents();
        let etcd = Etcd::start(&cloud.lab);
        let keys = Keys::new(SOURCE, "");
        datastore::set_up(&etcd);
        // The agents do not look at it.
        let directory = cloud.lab.directory();
        for compute in &mut cloud.hosts {
            let address = compute.host.ipv4();
            compute.start_agent(&cloud.lab, &directory, |agent| {
                // Every host of the lab reaches etcd at an address of its own, which says nothing of the underlay.
                agent.set("CutoverPeerAddress", address);
                agent.set("DatastoreType", "etcdv3");
                agent.set("EtcdEndpoints", etcd.endpoints());
                agent.set("LiveMigrationRouteConvergenceTime", CONVERGENCE_S);
                configure(agent);
            });
        }
        cloud.datastore = Some(Datastore { etcd, keys });
        cloud
    }

    /// Taps that are plugged from now on have room for as many frames as taps have anywhere, and not for more: for whoever tries what
    /// makes that enough.
    pub fn plug_usual_taps(&mut self) {
        for compute in &mut self.hosts {
            compute.tap_queue = compute::USUAL_TAP_QUEUE;
        }
    }

    /// Hosts and BIRD only: for whoever wants to do the agents' work in another way.
    ///
    /// # Panics
    /// When that does not come about.
    #[must_use]
    pub fn without_agents() -> Self {
        let lab = Lab::new();
        let mut hosts = [SOURCE, TARGET].map(|name| Compute::new(&lab, name));
        let client = lab.host("client");
        keep_redirects_out(&client);
        let everybody = [&hosts[0].host, &hosts[1].host, &client];
        let configurations = fabric::bird_mesh(&lab, everybody);
        let [of_first, of_second, bird] =
            std::array::from_fn(|number| start_bird(&lab, everybody[number], &configurations[number]));
        for (compute, bird) in hosts.iter_mut().zip([of_first, of_second]) {
            compute.bird = Some(bird);
        }
        let client = Client { watch: RouteWatch::start(client.namespace()), bird, host: client };
        let keeps_times = PacketSocket::bind(client.host.namespace(), "lo").with_times();
        Self { client, hosts, datastore: None, _keeps_times: keeps_times, lab }
    }

    /// Nova spawns a virtual machine on the first host. Returns when the client reaches all of its addresses.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    #[must_use]
    pub fn spawn(&mut self, guest: &Guest) -> Instance {
        self.spawn_all(std::slice::from_ref(guest)).pop().expect("there is one")
    }

    /// As [`Self::spawn`]; the guests boot at the same time.
    ///
    /// # Panics
    /// When the client does not reach one of them.
    #[track_caller]
    #[must_use]
    pub fn spawn_all(&mut self, guests: &[Guest]) -> Vec<Instance> {
        for port in guests.iter().flat_map(|guest| &guest.ports) {
            self.bind(port, SOURCE);
        }
        let instances: Vec<Instance> = guests.iter().map(|guest| self.start(guest)).collect();
        for instance in &instances {
            self.wait_booted(instance);
        }
        instances
    }

    /// Waits until a guest has booted and the client reaches it.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn wait_booted(&self, instance: &Instance) {
        instance.hypervisor.wait_booted();
        self.client.bird.wait_established(SESSIONS);
        self.wait_reached(&instance.guest);
    }

    /// A guest begins to boot on the first host; nobody has been told of it.
    #[must_use]
    pub fn start(&mut self, guest: &Guest) -> Instance {
        let at = 0;
        self.hosts[at].plug(guest);
        let hypervisor = Hypervisor::start(&self.lab, &self.hosts[at].host, guest);
        Instance { guest: guest.clone(), at, hypervisor }
    }

    /// A process on one of the hosts that waits for a guest.
    ///
    /// # Panics
    /// When it does not start.
    #[track_caller]
    #[must_use]
    pub fn expect_arrival(&self, guest: &Guest, to: usize) -> Hypervisor {
        let arrival = Hypervisor::expect_arrival(&self.lab, &self.hosts[to].host, guest);
        // KERNEL: a tap that was opened drops what the host sends to it until a kernel thread has noticed the carrier and
        // given it a queue (linkwatch). A real copy takes longer than that, one of the lab's may not.
        for port in &guest.ports {
            let tap = self.hosts[to].tap(port);
            wait::until(wait::SOON, format_args!("carrier of {}", tap.name()), || tap.has_carrier());
        }
        arrival
    }

    /// Waits until the client reaches every address of a guest.
    ///
    /// # Panics
    /// When it does not; the message has the routes of the client and what became of the frames on the hosts.
    #[track_caller]
    pub fn wait_reached(&self, guest: &Guest) {
        self.client.bird.wait_established(SESSIONS);
        for address in guest.addresses() {
            if !probe::answers_within(REACHED, self.client.host.namespace(), address) {
                panic!(
                    "{address} does not answer; the client has {:#?}\n{}",
                    self.client.watch.history().current(),
                    self.hosts.each_ref().map(|compute| compute.interfaces()).join("\n")
                );
            }
        }
    }

    /// Nova prepares a migration to the other host: the taps there, without a carrier; the driver's writes; the
    /// wait for the agent; the process that waits for the guest.
    ///
    /// # Panics
    /// When the target does not become ready.
    #[track_caller]
    #[must_use]
    pub fn prepare(&mut self, instance: &Instance) -> Migration {
        let (to, lookout) = self.plug_target(instance);
        let mut uids = Vec::new();
        for port in &instance.guest.ports {
            self.migrate(port, &["begin", "--to", self.hosts[to].host.name()]);
            uids.push(self.migration_uid(port, to));
        }
        for port in &instance.guest.ports {
            self.migrate(port, &["wait-ready", "--timeout", READY_S]);
            assert!(!self.hosts[to].tap(port).has_carrier(), "ready before there is a hypervisor");
        }
        let arrival = self.expect_arrival(&instance.guest, to);
        Migration { to, arrival, uids, lookout }
    }

    /// Waits until the agents are ready to forward: the source's for every port that leaves, the target's for every one that arrives.
    ///
    /// # Panics
    /// When they are not; the message has what they say.
    #[track_caller]
    pub fn wait_ready_to_forward(&self, instance: &Instance, migration: &Migration) {
        let (source, target) = (&self.hosts[instance.at], &self.hosts[migration.to]);
        for port in &instance.guest.ports {
            let both = || [source.forward(port), target.reception(port)];
            let is_ready = || both().iter().flatten().filter(|it| it["is_ready"] == true).count() == 2;
            let in_time = wait::holds_within(wait::SOON, is_ready);
            assert!(in_time, "{}: not ready to forward: {:#?}", port.endpoint, both());
        }
    }

    /// Nova plugs the taps on the other host. Says which one that is.
    #[must_use]
    pub fn plug_target(&mut self, instance: &Instance) -> (usize, Lookout) {
        let to = 1 - instance.at;
        let (client, source) = (self.client.watch.mark(), self.hosts[instance.at].watch.mark());
        let target = self.hosts[to].watch.mark();
        self.hosts[to].plug(&instance.guest);
        let namespace = self.hosts[to].host.namespace();
        let look = |port: &Port| PacketSocket::bind(namespace, &port.interface).with_times();
        let taps = instance.guest.ports.iter().map(look).collect();
        (to, Lookout { client, source, target, taps })
    }

    /// Nova ends a migration that has succeeded: the source's process has gone, the driver's writes, the source's taps go.
    /// Gives back what can be asked about it.
    ///
    /// # Panics
    /// When the driver's part fails.
    #[track_caller]
    pub fn complete(&mut self, instance: &mut Instance, migration: Migration) -> Lookout {
        let from = instance.at;
        drop(std::mem::replace(&mut instance.hypervisor, migration.arrival));
        instance.at = migration.to;
        for port in &instance.guest.ports {
            self.migrate(port, &["complete"]);
        }
        self.hosts[from].unplug(&instance.guest);
        migration.lookout
    }

    /// Nova rolls a migration back: the target's process has gone, the driver's writes, the target's taps go. Gives back
    /// what can be asked about it.
    ///
    /// # Panics
    /// When the driver's part fails.
    #[track_caller]
    pub fn roll_back(&mut self, instance: &Instance, migration: Migration) -> Lookout {
        drop(migration.arrival);
        for port in &instance.guest.ports {
            self.migrate(port, &["abort"]);
        }
        self.hosts[migration.to].unplug(&instance.guest);
        migration.lookout
    }

    /// Waits until a guest has its routes with normal priority on its host and nowhere else, and the
    /// client's lead there.
    ///
    /// # Panics
    /// When that does not come about; the message has the logs.
    #[track_caller]
    pub fn wait_settled(&self, instance: &Instance) {
        for (number, compute) in self.hosts.iter().enumerate() {
            compute.wait_local_metrics(&instance.guest, if number == instance.at { &[NORMAL] } else { &[] });
        }
        for to in instance.guest.routed() {
            let wanted = [(BGP_METRIC, self.hosts[instance.at].address_like(to.addr()))];
            let settled = wait::holds_within(wait::SOON, || self.client.ways_to(to) == wanted);
            assert!(settled, "the client has {:?} to {to}, wanted {wanted:?}", self.client.ways_to(to));
        }
    }

    /// Runs `cutover migrate` for one port. It needs no running agent.
    #[track_caller]
    fn migrate(&self, port: &Port, arguments: &[&str]) {
        let agent = &self.hosts[0].agent();
        agent.run_ok(&[&["migrate"], arguments, &["--port", &port.endpoint]].concat());
    }

    fn migration_uid(&self, port: &Port, to: usize) -> String {
        let Datastore { etcd, keys } = self.datastore();
        let key = keys.migration(&endpoint(port, self.hosts[to].host.name()).to_string());
        let document: Value = serde_json::from_str(&etcd.value(&key).expect("it has begun")).expect("JSON");
        document["metadata"]["uid"].as_str().expect("a uid").to_owned()
    }

    fn bind(&self, port: &Port, host: &str) {
        let document = port.endpoint_on(host, &new_uid());
        let Datastore { etcd, keys } = self.datastore();
        etcd.put(&keys.endpoint(&endpoint(port, host)), &document.to_string());
    }

    fn datastore(&self) -> &Datastore {
        self.datastore.as_ref().expect("a cloud with agents")
    }
}

impl Default for Cloud {
    fn default() -> Self {
        Self::new()
    }
}

impl Client {
    /// Metric and next hop of every route to `destination`, the best one first.
    #[must_use]
    pub fn ways_to(&self, destination: IpNet) -> Vec<(u32, IpAddr)> {
        let routes = self.watch.routes_to(destination);
        routes.iter().filter_map(|route| Some((route.metric, route.gateway?))).collect()
    }

    /// Since when, after `mark`, the best way to `destination` has led through `next_hop` without a break.
    #[must_use]
    pub fn led_through_since(&self, mark: Mark, destination: IpNet, next_hop: IpAddr) -> Option<BootTime> {
        let moments = self.watch.since(mark).moments(destination);
        let leads = |moment: &&crate::route_history::Moment| {
            moment.routes.first().is_some_and(|route| route.gateway == Some(next_hop))
        };
        moments.iter().rev().take_while(leads).last().and_then(|moment| moment.since)
    }

    /// Where the best way to `destination` has led since `mark`, one place after the other. Between two of them there may
    /// have been a moment without any.
    #[must_use]
    pub fn led_through(&self, mark: Mark, destination: IpNet) -> Vec<IpAddr> {
        let moments = self.watch.since(mark).moments(destination);
        let best = moments.iter().filter_map(|moment| moment.routes.first());
        let mut hops: Vec<IpAddr> = best.filter_map(|route| route.gateway).collect();
        hops.dedup();
        hops
    }

    /// Waits until the best way to `destination` leads through `next_hop`.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn wait_led_through(&self, limit: Duration, destination: IpNet, next_hop: IpAddr) {
        let found = || self.ways_to(destination).first().is_some_and(|(_, hop)| *hop == next_hop);
        assert!(
            wait::holds_within(limit, found),
            "the client reaches {destination} by {:?}, not {next_hop}",
            self.ways_to(destination)
        );
    }
}

/// A real client is a router away and gets no redirects of the hosts, which share a link in the lab.
fn keep_redirects_out(client: &Host) {
    for family in ["ipv4", "ipv6"] {
        for name in ["all", "default", "eth0"] {
            client.namespace().set_sysctl(&format!("net/{family}/conf/{name}/accept_redirects"), "0");
        }
    }
}

fn start_bird(lab: &Lab, host: &Host, configuration: &str) -> Bird {
    // Without it, the second of two updates in a row may come 40 ms late: see docs/bgp.md.
    host.namespace().ip(&format!(
        "route change 192.168.77.0/24 dev eth0 proto kernel scope link src {} quickack 1\n\
         route change fd00:77::/64 dev eth0 proto kernel metric 256 quickack 1",
        host.ipv4()
    ));
    Bird::start(lab, host, configuration, Release::Bird2)
}

fn endpoint(port: &Port, host: &str) -> EndpointKey {
    EndpointKey {
        host: host.into(),
        orchestrator: "openstack".into(),
        workload: format!("openstack/{}", port.workload),
        endpoint: port.endpoint.clone(),
    }
}
