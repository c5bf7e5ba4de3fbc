//! The scene of most tests: two compute hosts with real agents on one datastore, a VM that runs on the first,
//! and a tap waiting for it on the second. Puts the other parts of the lab together; adds nothing.

use crate::agent::Agent;
use crate::driver::Driver;
use crate::host::Host;
use crate::lab::Lab;
use crate::resources::{Directory, Port};
use crate::route_history::Neighbour;
use crate::route_watch::{RouteWatch, dump_neighbours};
use crate::tap::{OpenTap, Tap};
use crate::vm::Vm;
use crate::wait;
use std::time::Duration;

/// Host name of the source.
pub const SOURCE: &str = "compute1";
/// Host name of the target.
pub const TARGET: &str = "compute2";
/// Metrics by default.
pub const NORMAL: u32 = 1024;
/// Metrics by default.
pub const ELEVATED: u32 = 512;
/// So long after the last write to a tap, nobody else is about to write the same.
const SECOND_WRITER: Duration = Duration::from_millis(300);

/// A compute host with an agent and a tap for the VM.
#[derive(Debug)]
pub struct Node {
    /// The agent.
    pub agent: Agent,
    /// Recording since before the agent started.
    pub watch: RouteWatch,
    /// A hypervisor that has the tap open.
    pub qemu: Option<OpenTap>,
    /// The tap, unless a test took it away.
    pub tap: Option<Tap>,
    /// The host.
    pub host: Host,
}

impl Node {
    /// A host of this name with a plugged tap; its agent is not started yet.
    #[must_use]
    pub fn new(lab: &Lab, name: &str, directory: &Directory, port: &Port) -> Self {
        let host = lab.host(name);
        let tap = Some(host.plug(&port.interface, port.tap_mac()));
        let watch = RouteWatch::start(host.namespace());
        Self { agent: Agent::new(lab, &host, directory), watch, qemu: None, tap, host }
    }

    /// The tap.
    ///
    /// # Panics
    /// When the test took it away.
    #[must_use]
    pub fn tap(&self) -> &Tap {
        self.tap.as_ref().expect("the tap is there")
    }

    /// A hypervisor opens the tap and keeps it open.
    ///
    /// # Panics
    /// When the tap is not there.
    pub fn open(&mut self) -> &OpenTap {
        let qemu = self.tap().open();
        self.qemu.insert(qemu)
    }

    /// Plugs the tap anew, after the old one was taken away.
    pub fn plug(&mut self, port: &Port) {
        self.tap = Some(self.host.plug(&port.interface, port.tap_mac()));
    }

    /// Unplugs the tap.
    pub fn unplug(&mut self) {
        self.qemu = None;
        if let Some(tap) = self.tap.take() {
            tap.remove();
        }
    }

    /// Waits until the metrics of the routes to every address of `port` are these.
    ///
    /// # Panics
    /// When they are not; the message has what they are, and the log of the agent.
    #[track_caller]
    pub fn wait_metrics(&self, port: &Port, metrics: &[u32]) {
        self.wait_metrics_within(wait::SOON, port, metrics);
    }

    /// As [`Self::wait_metrics`], with a limit.
    ///
    /// # Panics
    /// When they are not.
    #[track_caller]
    pub fn wait_metrics_within(&self, limit: Duration, port: &Port, metrics: &[u32]) {
        if !wait::holds_within(limit, || self.has_metrics(port, metrics)) {
            let is: Vec<_> = port.routed().iter().map(|to| (*to, self.watch.metrics_to(*to))).collect();
            panic!("{} has {is:?}, wanted {metrics:?}:\n{}", self.host.name(), self.agent.log_text());
        }
    }

    /// Whether the metrics of the routes to every address of `port` are these.
    #[must_use]
    pub fn has_metrics(&self, port: &Port, metrics: &[u32]) -> bool {
        port.routed().iter().all(|to| self.watch.metrics_to(*to) == metrics)
    }

    /// Waits until the routes of `port` have the normal priority (that of IPv4, which tests give to both) and its neighbours are permanent: nothing is
    /// left to write for a VM that is not migrating.
    ///
    /// # Panics
    /// When that does not come about.
    #[track_caller]
    pub fn wait_settled(&self, port: &Port) {
        let normal = self.agent.setting("IPv4NormalRoutePriority").and_then(|value| value.parse().ok());
        self.wait_metrics(port, &[normal.unwrap_or(NORMAL)]);
        let ifindex = self.tap().ifindex();
        wait::until(wait::SOON, format_args!("neighbours on {}", self.host.name()), || {
            let found = self.host.namespace().run(dump_neighbours).expect("a dump");
            let permanent = |address| {
                let is_it = |entry: &Neighbour| {
                    (entry.address, entry.ifindex, entry.mac, entry.permanent)
                        == (address, ifindex, Some(port.mac), true)
                };
                found.iter().any(is_it)
            };
            port.addresses.iter().all(|net| permanent(net.addr()))
        });
    }

    /// Waits until the tap that is plugged now is armed, and everything else is in place and reported.
    ///
    /// # Panics
    /// When it is not; the message has the log.
    #[track_caller]
    pub fn wait_armed(&self, port: &Port) {
        let ifindex = self.tap().ifindex();
        let armed = || {
            self.agent.status_of(port).is_some_and(|endpoint| {
                endpoint["ifindex"] == ifindex && endpoint["watch"].is_u64() && endpoint["status"] == "up"
            })
        };
        if !wait::holds_within(wait::SOON, armed) {
            panic!("not armed: {:?}\n{}", self.agent.status_of(port), self.agent.log_text());
        }
        self.agent.wait_up(port);
    }

    /// Waits until the machine has arrived here for the first time, for the agent and in the kernel. If the watch applier has told
    /// of its announcement first, its routes are written twice, and nothing says when the second writer is done: so this waits
    /// until nothing has been written for a while.
    ///
    /// # Panics
    /// When it does not arrive.
    #[track_caller]
    pub fn wait_arrived(&self, port: &Port) {
        self.wait_state(port, "Live");
        self.wait_metrics(port, &[ELEVATED]);
        wait::until(wait::SOON, "nothing more is written", || {
            let mark = self.watch.mark();
            !wait::holds_within(SECOND_WRITER, || self.watch.mark() != mark)
        });
    }

    /// Waits for the transition of the endpoint of `port` to `state`.
    ///
    /// # Panics
    /// When it does not come.
    #[track_caller]
    pub fn wait_state(&self, port: &Port, state: &str) {
        let (id, to) = (format!("id={}", port.name_on(self.host.name())), format!("to={state}"));
        self.agent.log().wait(wait::SOON, &["Live migration state transition", &id, &to]);
    }
}

/// The two hosts and the VM. Fields go in this order, the lab last.
#[derive(Debug)]
pub struct Scene {
    /// The VM; runs on the source.
    pub vm: Vm,
    /// Where the VM runs at first.
    pub source: Node,
    /// Where it goes.
    pub target: Node,
    /// Plays Neutron.
    pub driver: Driver,
    /// The VM's port.
    pub port: Port,
    /// What the agents read.
    pub directory: Directory,
    /// Everything else.
    pub lab: Lab,
}

impl Scene {
    /// Two running agents with a short convergence time; the VM runs on the source and has its routes there.
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
        Self::with_hosts(|agent, _| configure(agent))
    }

    /// As [`Self::with`], and the agents of both hosts talk to each other.
    ///
    /// # Panics
    /// When that does not come about.
    #[track_caller]
    #[must_use]
    pub fn peered(configure: impl Fn(&mut Agent)) -> Self {
        Self::peered_as(Port::new(1), configure)
    }

    /// As [`Self::peered`], with this port.
    ///
    /// # Panics
    /// When that does not come about.
    #[track_caller]
    #[must_use]
    pub fn peered_as(port: Port, configure: impl Fn(&mut Agent)) -> Self {
        Self::with_hosts_as(port, |agent, host| {
            agent.set_peering(host.ipv4().into());
            configure(agent);
        })
    }

    #[track_caller]
    pub(crate) fn with_hosts(configure: impl Fn(&mut Agent, &Host)) -> Self {
        Self::with_hosts_as(Port::new(1), configure)
    }

    #[track_caller]
    fn with_hosts_as(port: Port, configure: impl Fn(&mut Agent, &Host)) -> Self {
        let lab = Lab::new();
        let directory = lab.directory();
        let driver = Driver::new(&directory, &port);
        driver.bind(SOURCE);
        let mut vm = Vm::create(&lab, "vm", &port);
        let [source, target] = [SOURCE, TARGET].map(|name| {
            let mut node = Node::new(&lab, name, &directory, &port);
            node.agent.set("LiveMigrationRouteConvergenceTime", 2);
            configure(&mut node.agent, &node.host);
            node.agent.spawn();
            node
        });
        vm.resume(source.tap().open());
        let mut scene = Self { vm, source, target, driver, port, directory, lab };
        scene.source.agent.wait_answering();
        scene.target.agent.wait_answering();
        scene.source.wait_settled(&scene.port);
        scene
    }

    /// The driver starts the migration; returns when the target is armed.
    ///
    /// # Panics
    /// When it is not.
    #[track_caller]
    pub fn start_migration(&self) -> String {
        let uid = self.driver.start(SOURCE, TARGET);
        self.target.wait_state(&self.port, "Target");
        self.target.wait_armed(&self.port);
        uid
    }

    /// The hypervisor on the target resumes the VM: from now on it runs there and not on the source.
    /// The caller says what it sends.
    ///
    /// # Panics
    /// When the tap of the target is not there.
    pub fn move_vm(&mut self, announce: impl FnOnce(&OpenTap)) {
        let at_target = self.target.tap().open();
        drop(self.vm.pause());
        announce(&at_target);
        self.vm.resume(at_target);
    }
}

impl Default for Scene {
    fn default() -> Self {
        Self::new()
    }
}
