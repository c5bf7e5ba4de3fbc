//! From Felix to the agent and back on a host with a live VM, in every state of a migration: no route of it is touched, and the
//! migration ends as it should. Felix's part, its chains and its routes, is played.

use crate::beside_felix::Scene;
use cutover_tests::felix::{BOTH, Felix, Mode};
use cutover_tests::route_history::Change;
use cutover_tests::route_watch::Mark;
use cutover_tests::scene::{ELEVATED, NORMAL, SOURCE, TARGET};
use cutover_tests::{frames, wait};
use std::time::Duration;

/// Everything that an agent does at its start it does within this.
const SETTLED: Duration = Duration::from_millis(1500);

/// LIMIT: an agent that starts on a loaded machine has settled long before it is over.
const CONVERGENCE: Duration = Duration::from_secs(12);

/// Where the migration to this host stands at the switch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stands {
    Base,
    Target,
    Live,
    TimeWait,
}

const EVERYWHERE: [Stands; 4] = [Stands::Base, Stands::Target, Stands::Live, Stands::TimeWait];

impl Stands {
    const fn metric(self) -> Option<u32> {
        match self {
            Self::Base => Some(NORMAL),
            Self::Target => None,
            Self::Live | Self::TimeWait => Some(ELEVATED),
        }
    }
}

struct Switch {
    scene: Scene,
}

impl Switch {
    fn new() -> Self {
        let mut scene = Scene::new();
        scene.node.agent.set("LiveMigrationRouteConvergenceTime", CONVERGENCE.as_secs());
        let namespace = scene.node.host.namespace_shared();
        let felix = Felix::start(&namespace, Mode::Nftables);
        BOTH.iter().for_each(|family| felix.add(*family, &scene.port.interface));
        Self { scene }
    }

    /// What the driver has written, and where the VM is.
    fn lead_to(&mut self, stands: Stands) {
        let driver = self.scene.driver.clone();
        if stands == Stands::Base {
            driver.bind(TARGET);
        } else {
            driver.bind(SOURCE);
            let _uid = driver.start(SOURCE, TARGET);
        }
        if self.scene.node.agent.pid().is_some() && stands != Stands::Base {
            self.scene.node.wait_armed(&self.scene.port);
        }
        if stands != Stands::Target {
            let mac = self.scene.port.mac;
            self.scene.node.open().send(&frames::rarp(mac));
        }
        if self.scene.node.agent.pid().is_some() {
            self.scene.node.wait_metrics(&self.scene.port, stands.metric().as_slice());
        }
        if stands == Stands::TimeWait {
            driver.succeed_extended(SOURCE, TARGET);
        }
    }

    /// What Felix writes. `verb` as `ip` has it.
    fn felix_routes(&self, verb: &str, metric: u32) {
        let tap = &self.scene.port.interface;
        let line = |to| format!("route {verb} {to} dev {tap} proto 3 scope link metric {metric}\n");
        self.scene.node.host.namespace().ip(&self
            .scene
            .port
            .routed()
            .into_iter()
            .map(line)
            .collect::<String>());
    }

    /// No route is written, removed or replaced, until whoever was started has settled.
    #[track_caller]
    fn assert_untouched(&self, stands: Stands, mark: Mark) {
        let written = || {
            let history = self.scene.node.watch.since(mark);
            let is_route = |change: &Change| matches!(change, Change::Added { .. } | Change::Removed(_));
            history.events.into_iter().map(|event| event.change).filter(is_route).collect::<Vec<_>>()
        };
        wait::holds_within(SETTLED, || !written().is_empty());
        assert_eq!(written(), [], "{stands:?}:\n{}", self.scene.node.agent.log_text());
        let is = self.scene.node.has_metrics(&self.scene.port, stands.metric().as_slice());
        assert!(is, "{stands:?}");
    }

    /// The migration goes on from there under the agent, and the VM is never without a route once it has one.
    #[track_caller]
    fn ends_well(&mut self, stands: Stands, mark: Mark) {
        let driver = self.scene.driver.clone();
        if stands == Stands::Target {
            self.scene.node.wait_armed(&self.scene.port);
            let mac = self.scene.port.mac;
            self.scene.node.open().send(&frames::rarp(mac));
            self.scene.node.wait_metrics(&self.scene.port, &[ELEVATED]);
        }
        if matches!(stands, Stands::Target | Stands::Live) {
            driver.succeed_extended(SOURCE, TARGET);
        }
        self.scene.node.wait_metrics_within(2 * CONVERGENCE, &self.scene.port, &[NORMAL]);
        self.scene.node.agent.wait_up(&self.scene.port);
        let expected: &[&[u32]] = match stands {
            Stands::Base => &[&[NORMAL]],
            Stands::Target => &[&[], &[ELEVATED], &[ELEVATED, NORMAL], &[NORMAL]],
            Stands::Live | Stands::TimeWait => &[&[ELEVATED], &[ELEVATED, NORMAL], &[NORMAL]],
        };
        for to in self.scene.port.routed() {
            assert_eq!(self.scene.node.watch.since(mark).metrics(to), expected, "{stands:?} {to}");
        }
    }
}

/// Felix was in charge, and is left with policy.
#[test]
fn there_in_every_state() {
    for stands in EVERYWHERE {
        let mut switch = Switch::new();
        switch.lead_to(stands);
        if let Some(metric) = stands.metric() {
            switch.felix_routes("add", metric);
        }
        let mark = switch.scene.node.watch.mark();
        switch.scene.node.agent.start_in_sync();
        switch.assert_untouched(stands, mark);
        switch.ends_well(stands, mark);
    }
}

/// The agent goes, Felix finds its own routes in place, and after a while the agent is tried once more.
#[test]
fn back_and_there_again_in_every_state() {
    for stands in EVERYWHERE {
        let mut switch = Switch::new();
        switch.scene.node.agent.start_in_sync();
        switch.lead_to(stands);
        switch.scene.node.agent.wait_up(&switch.scene.port);
        let mark = switch.scene.node.watch.mark();
        assert!(switch.scene.node.agent.terminate().success());
        switch.assert_untouched(stands, mark);
        switch.scene.node.agent.start_in_sync();
        if stands != Stands::TimeWait {
            switch.assert_untouched(stands, mark);
        }
        switch.ends_well(stands, mark);
    }
}

/// What happens while Felix is in charge again is found by an agent that remembers something older.
#[test]
fn a_migration_that_felix_has_finished_meanwhile_is_over() {
    let mut switch = Switch::new();
    switch.scene.node.agent.start_in_sync();
    switch.lead_to(Stands::Live);
    assert!(switch.scene.node.agent.terminate().success());
    switch.scene.driver.succeed_extended(SOURCE, TARGET);
    switch.felix_routes("add", NORMAL);
    switch.felix_routes("del", ELEVATED);
    let mark = switch.scene.node.watch.mark();
    switch.scene.node.agent.start_in_sync();
    switch.scene.node.agent.wait_up(&switch.scene.port);
    // It may take up the rest of the convergence time.
    let is_normal = || switch.scene.node.has_metrics(&switch.scene.port, &[NORMAL]);
    let status = || switch.scene.node.agent.status_of(&switch.scene.port).map(|it| it["state"].clone());
    let is_over = || status().is_some_and(|state| state == "Base") && is_normal();
    wait::until(2 * CONVERGENCE, "it is over", is_over);
    for to in switch.scene.port.routed() {
        switch.scene.node.watch.since(mark).assert_never_without(to);
    }
}
