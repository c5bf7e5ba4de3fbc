//! Two hosts with agents, and a client whose routes lead to the source for ever. Judges nothing.

use cutover_tests::agent::Agent;
pub(crate) use cutover_tests::forwarding::{traces, wait_gone};
use cutover_tests::frames;
use cutover_tests::host::Host;
use cutover_tests::resources::Port;
use cutover_tests::scene::{Node, SOURCE, Scene, TARGET};
use cutover_tests::stream::{DatagramStream, PERIOD};
use cutover_tests::wait;
use serde_json::Value;
use std::net::IpAddr;

/// How long a forward goes on after the end of a migration, in seconds.
pub(crate) const CONVERGENCE_S: u32 = 3;

/// The scene and the client. Fields go in this order.
pub(crate) struct Bed {
    pub(crate) client: Host,
    pub(crate) scene: Scene,
}

impl Bed {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(configure: impl Fn(&mut Agent)) -> Self {
        Self::of(Scene::peered(|agent| {
            agent.set("LiveMigrationRouteConvergenceTime", CONVERGENCE_S);
            configure(agent);
        }))
    }

    /// Its port has these floating addresses, inside and outside.
    pub(crate) fn with_floating(floating: Vec<(IpAddr, IpAddr)>) -> Self {
        let port = Port { floating, ..Port::new(1) };
        Self::of(Scene::peered_as(port, |agent| {
            agent.set("LiveMigrationRouteConvergenceTime", CONVERGENCE_S);
        }))
    }

    pub(crate) fn of(scene: Scene) -> Self {
        let client = scene.lab.host("client");
        let bed = Self { client, scene };
        bed.lead_client(&bed.scene.source.host);
        bed.introduce();
        bed
    }

    /// The hosts and the client know each other's hardware addresses, as hosts and routers that have talked before do. The first packets
    /// would wait for that, and a request that gets lost is sent again after a second.
    fn introduce(&self) {
        let hosts = [&self.scene.source.host, &self.scene.target.host];
        let know = |whose: &Host, other: &Host| {
            let mac = hardware_address(other);
            for address in [IpAddr::from(other.ipv4()), IpAddr::from(other.ipv6())] {
                whose.namespace().ip(&format!("neigh replace {address} lladdr {mac} dev eth0 nud permanent"));
            }
        };
        for host in hosts {
            know(host, &self.client);
            know(&self.client, host);
        }
    }

    /// The client's routes lead there from now on.
    pub(crate) fn lead_client(&self, to: &Host) {
        for address in self.addresses() {
            let via: IpAddr = if address.is_ipv4() { to.ipv4().into() } else { to.ipv6().into() };
            self.client.namespace().ip(&format!("route replace {address} via {via}"));
        }
    }

    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        self.scene.port.routed().iter().map(|net| net.addr()).collect()
    }

    /// A stream to each address.
    pub(crate) fn streams(&self) -> Vec<DatagramStream> {
        let start = |address| DatagramStream::start(self.client.namespace(), address, PERIOD);
        self.addresses().into_iter().map(start).collect()
    }

    /// The driver starts the migration; returns when the target is armed, and both are ready to forward.
    #[track_caller]
    pub(crate) fn start_migration(&self) -> String {
        let uid = self.scene.start_migration();
        self.wait_ready();
        uid
    }

    #[track_caller]
    pub(crate) fn wait_ready(&self) {
        let (source, target) = (&self.scene.source, &self.scene.target);
        wait_for(source, "forwards", "is_ready", true);
        wait_for(target, "receivers", "is_ready", true);
    }

    /// The virtual machine runs on the target from now on, and says so.
    pub(crate) fn arrive(&mut self) {
        let mac = self.scene.port.mac;
        self.scene.move_vm(|tap| tap.send(&frames::rarp(mac)));
    }

    /// The driver ends the migration as one that succeeded.
    pub(crate) fn succeed(&self) {
        self.scene.driver.succeed(SOURCE, TARGET);
    }

    /// Tells the source's agent that the virtual machine has stopped, or goes on.
    #[track_caller]
    pub(crate) fn tell(&self, step: &str) {
        let id = self.scene.port.endpoint.clone();
        self.scene.source.agent.run_ok(&["migrate", step, "--port", &id]);
    }
}

/// Waits until the only forward or receiver of a host's agent says this of itself.
#[track_caller]
pub(crate) fn wait_for(node: &Node, list: &str, field: &str, expected: bool) {
    let is_it = || shown(node, list).is_some_and(|it| it[field] == expected);
    if !wait::holds_within(wait::SOON, is_it) {
        let status = node.agent.status();
        panic!(
            "{}: not {list}.{field} = {expected}: {:#} {:#} {:#}\n{}",
            node.host.name(),
            status[list],
            status["peers"],
            status["tunnel"],
            node.agent.log_text()
        );
    }
}

fn hardware_address(host: &Host) -> String {
    let output = host.namespace().command("ip").args(["-br", "link", "show", "eth0"]).output().expect("ip");
    let text = String::from_utf8(output.stdout).expect("text");
    text.split_whitespace().nth(2).expect("a hardware address").to_owned()
}

/// The first of them.
pub(crate) fn shown(node: &Node, list: &str) -> Option<Value> {
    node.agent.status()[list].as_array()?.first().cloned()
}
