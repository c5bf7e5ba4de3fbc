//! A fabric in which one guest is moved again and again from source to target, and the times of each step.

use super::Case;
use super::sample::{Followed, Sample};
use super::stream::Stream;
use anyhow::{Context as _, Result, ensure};
use cutover_daemon::clock;
use cutover_daemon::priority::raise_priority;
use cutover_engine::BootTime;
use cutover_tests::agent::Agent;
use cutover_tests::driver::{Driver, Pace};
use cutover_tests::fabric::{Daemon, Fabric, Leads, Place, Who, leads};
use cutover_tests::namespace::Namespace;
use cutover_tests::route_history::History;
use cutover_tests::scene::{SOURCE, TARGET};
use cutover_tests::{OpenTap, frames, wait};
use ipnet::IpNet;
use serde_json::Value;
use std::net::IpAddr;
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

/// How long the stream goes on before the announcement, and after everybody has followed.
const STREAMING: Duration = Duration::from_millis(20);

/// The fabric and the hypervisors' ends of both taps, which nobody else reads. Fields go in this order.
pub(super) struct Stage {
    case: Case,
    at_source: Arc<OpenTap>,
    at_target: Arc<OpenTap>,
    driver: Driver,
    fabric: Fabric,
}

impl Stage {
    pub(super) fn new(case: Case) -> Result<Self> {
        let configure = |agent: &mut Agent| {
            agent.set("CutoverEndpointGrace", 0);
            agent.set("LiveMigrationRouteConvergenceTime", 0);
        };
        let mut fabric = if case.forwards {
            Fabric::peered(case.daemon, case.shape, configure)
        } else {
            Fabric::with(case.daemon, case.shape, configure)
        };
        // So that what is measured is the network, and not when the observer gets a processor.
        fabric.record_with(|| raise_priority(Duration::ZERO));
        // The guest has left the source; its announcement is all that there is of it.
        let at_source = fabric.scene.vm.pause().context("the guest did not run on the source")?;
        let at_target = fabric.scene.target.tap().open();
        let driver = Driver::new(&fabric.scene.directory, fabric.port()).at_pace(Pace::IMMEDIATE);
        Ok(Self { case, at_source: Arc::new(at_source), at_target: Arc::new(at_target), driver, fabric })
    }

    /// There and back again.
    pub(super) fn migrate(&self) -> Result<Sample> {
        let port = self.fabric.port();
        let _uid = self.driver.start(SOURCE, TARGET);
        self.fabric.scene.target.wait_armed(port);
        if self.case.forwards {
            let is_ready = || self.forward()["is_ready"] == true;
            ensure!(
                wait::holds_within(wait::SOON, is_ready),
                "the source cannot forward: {:#}",
                self.forward()
            );
        }
        sleep(self.settling());
        ensure!(self.fabric.is_at(Place::Source), "somebody sent to the target before the announcement");

        let to: Vec<IpAddr> = port.routed().iter().map(IpNet::addr).collect();
        let stream = Stream::start(self.client(), &to, &self.at_source, &self.at_target)?;
        // If it were lost then, what is lost later would say nothing about the routes.
        ensure!(
            wait::holds_within(wait::SOON, || stream.is_at_source()),
            "the stream did not reach the source before the announcement"
        );
        sleep(STREAMING);
        let (target, last_hop) = (self.fabric.router(Who::Target), self.fabric.last_hop());
        let (of_target, of_last_hop) = (target.watch.mark(), last_hop.watch.mark());
        let announcement = frames::rarp(port.mac);
        let announced_at = clock::now();
        self.at_target.send(&announcement);
        // Whoever looks takes processor time from those who are being measured; the times are taken elsewhere.
        sleep(self.undisturbed());
        self.fabric.wait_at(Place::Target);
        sleep(STREAMING);
        let datagrams = stream.finish();
        let forwarded_at = self.forward()["started_at"].as_u64().map(BootTime);
        ensure!(forwarded_at.is_some() == self.case.forwards, "the source forwards: {:#}", self.forward());

        let (of_target, of_last_hop) = (target.watch.since(of_target), last_hop.watch.since(of_last_hop));
        let elevated = self.fabric.priorities.elevated;
        let followed: Vec<Followed> = port
            .routed()
            .into_iter()
            .map(|to| {
                let elevated_at =
                    of_target.added_at(to, elevated).with_context(|| format!("no elevated {to}"))?;
                let led_at =
                    self.led_at(&of_last_hop, to).with_context(|| format!("{to} led nowhere new"))?;
                Ok(Followed { is_ipv4: to.addr().is_ipv4(), elevated_at, led_at })
            })
            .collect::<Result<_>>()?;
        // Back to the source, whose endpoint has stayed.
        self.driver.withdraw(TARGET);
        self.driver.unbind(TARGET);
        self.fabric.wait_at(Place::Source);
        Sample::of((announced_at, forwarded_at), &followed, &datagrams)
            .context("a family's stream never arrived")
    }

    /// When the best route to `to` first led to the target.
    fn led_at(&self, history: &History, to: IpNet) -> Option<BootTime> {
        let hops = self.fabric.hops(Who::Target);
        let is_there = |leads| matches!(leads, Leads::Via(hop) if hops.contains(&hop));
        let moments = history.moments(to);
        moments.iter().find(|moment| is_there(leads(&moment.routes))).and_then(|moment| moment.since)
    }

    /// What the source's agent says of what it forwards.
    fn forward(&self) -> Value {
        self.fabric.scene.source.agent.status()["forwards"][0].clone()
    }

    /// Where the stream comes from.
    fn client(&self) -> &Namespace {
        self.fabric.client()
    }

    /// How long nothing changes before an announcement: longer than acknowledgements and updates are held back.
    fn settling(&self) -> Duration {
        Duration::from_millis(match self.case.daemon {
            Daemon::Bird => 80,
            Daemon::Frr => 250,
        })
    }

    /// How long nobody looks whether everybody has followed.
    fn undisturbed(&self) -> Duration {
        Duration::from_millis(match self.case.daemon {
            Daemon::Bird => 10,
            Daemon::Frr => 150,
        })
    }
}
