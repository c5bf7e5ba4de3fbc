//! No agent: what an agent prepares on a host is done by hand before it counts, and the route is moved by what is to be
//! compared.

use super::bed::Bed;
use super::port;
use crate::contender::{self, Listener, Threads};
use anyhow::{Result, ensure};
use cutover_tests::blackout::Blackout;
use cutover_tests::cloud::{Instance, Migration};
use cutover_tests::hypervisor::Guest;
use cutover_tests::scene::{ELEVATED, NORMAL};
use cutover_tests::{Cloud, Port, wait};
use std::thread::sleep;
use std::time::Duration;

/// How often QEMU's events are looked at.
const LOOK_EVERY: Duration = Duration::from_micros(100);

/// A cloud whose hosts are prepared by hand.
struct Bare {
    port: Port,
    instance: Instance,
    cloud: Cloud,
}

impl Bare {
    fn new() -> Self {
        let port = port();
        let mut cloud = Cloud::without_agents();
        for compute in &cloud.hosts {
            compute.host.namespace().set_sysctl("net/ipv4/ip_forward", "1");
        }
        cloud.plug_usual_taps();
        let instance = cloud.start(&Guest::new(&port));
        let bare = Self { port, instance, cloud };
        bare.prepare_tap(0);
        bare.ip(0, &bare.route("add", NORMAL));
        bare.cloud.wait_booted(&bare.instance);
        bare
    }

    fn prepare(&mut self) -> Migration {
        let (to, lookout) = self.cloud.plug_target(&self.instance);
        self.prepare_tap(to);
        let arrival = self.cloud.expect_arrival(&self.instance.guest, to);
        Migration { to, arrival, uids: Vec::new(), lookout }
    }

    /// What an agent has ready before the guest comes.
    fn prepare_tap(&self, at: usize) {
        let (name, namespace) = (&self.port.interface, self.cloud.hosts[at].host.namespace());
        namespace.set_sysctl(&format!("net/ipv4/conf/{name}/proxy_arp"), "1");
        namespace.set_sysctl(&format!("net/ipv4/neigh/{name}/proxy_delay"), "0");
        let (address, mac) = (self.port.ipv4().addr(), self.port.mac);
        namespace.ip(&format!("neigh replace {address} lladdr {mac} nud permanent dev {name}"));
    }

    fn route(&self, verb: &str, metric: u32) -> String {
        let (net, name) = (self.port.ipv4(), &self.port.interface);
        format!("route {verb} {net} dev {name} scope link proto 3 metric {metric}\n")
    }

    fn ip(&self, at: usize, script: &str) {
        self.cloud.hosts[at].host.namespace().ip(script);
    }

    /// The guest is on the target, and the route there is what it should be in the end.
    fn complete(&mut self, migration: Migration) {
        let from = self.instance.at;
        drop(std::mem::replace(&mut self.instance.hypervisor, migration.arrival));
        self.instance.at = migration.to;
        self.cloud.hosts[from].unplug(&self.instance.guest);
        let net = self.port.ipv4();
        wait::until(wait::SOON, "the client has one way", || self.cloud.client.ways_to(net).len() == 1);
    }
}

/// The route moves when the source's QEMU says that the migration is complete.
pub(super) struct OnCompletion(Bare);

impl OnCompletion {
    pub(super) fn new() -> Result<Self> {
        Ok(Self(Bare::new()))
    }
}

impl Bed for OnCompletion {
    fn cloud(&self) -> &Cloud {
        &self.0.cloud
    }

    fn instance(&self) -> &Instance {
        &self.0.instance
    }

    fn prepare(&mut self) -> Result<Migration> {
        Ok(self.0.prepare())
    }

    fn follow(&mut self, migration: &Migration) -> Result<()> {
        let qmp = self.0.instance.hypervisor.qmp();
        let status =
            || qmp.last("MIGRATION").and_then(|event| Some(event.data["status"].as_str()?.to_owned()));
        let deadline = std::time::Instant::now() + cutover_tests::hypervisor::MIGRATION;
        while status().as_deref() != Some("completed") {
            ensure!(std::time::Instant::now() < deadline, "the migration does not end: {:?}", status());
            sleep(LOOK_EVERY);
        }
        self.0.ip(migration.to, &self.0.route("add", NORMAL));
        self.0.ip(self.0.instance.at, &self.0.route("del", NORMAL));
        Ok(())
    }

    fn complete(&mut self, migration: Migration, _: &mut Blackout) -> Result<()> {
        self.0.complete(migration);
        Ok(())
    }
}

/// A packet socket on the target's tap waits for the announcement and elevates the route.
pub(super) struct OnAnnouncement {
    bare: Bare,
    listener: Option<Listener>,
}

impl OnAnnouncement {
    pub(super) fn new() -> Result<Self> {
        Ok(Self { bare: Bare::new(), listener: None })
    }
}

impl Bed for OnAnnouncement {
    fn cloud(&self) -> &Cloud {
        &self.bare.cloud
    }

    fn instance(&self) -> &Instance {
        &self.bare.instance
    }

    fn prepare(&mut self) -> Result<Migration> {
        let migration = self.bare.prepare();
        let (port, target) = (&self.bare.port, &self.bare.cloud.hosts[migration.to]);
        let guest = contender::Guest::new(port.mac, &[port.ipv4().addr()], target.tap(port).ifindex())?;
        let listener = Listener::start(target.host.namespace(), &port.interface, guest, Threads::Many)?;
        self.listener = Some(listener);
        Ok(migration)
    }

    fn follow(&mut self, _: &Migration) -> Result<()> {
        Ok(())
    }

    fn complete(&mut self, migration: Migration, _: &mut Blackout) -> Result<()> {
        let listener = self.listener.take().expect("it was prepared");
        listener.finished()?;
        drop(listener);
        let bare = &mut self.bare;
        bare.ip(bare.instance.at, &bare.route("del", NORMAL));
        bare.ip(migration.to, &format!("{}{}", bare.route("add", NORMAL), bare.route("del", ELEVATED)));
        bare.complete(migration);
        Ok(())
    }
}
