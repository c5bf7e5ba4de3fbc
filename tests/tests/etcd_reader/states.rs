//! An outage that is longer than every time limit of an agent (grace, convergence, the bound for evidence, the silence of a
//! member), in every state of a migration at once: history is compacted meanwhile, and a backup comes back.

use crate::site::{HOST, RECOVERY, Site};
use cutover_daemon::clock;
use cutover_tests::datastore::{endpoint_key, migration_key};
use cutover_tests::route_watch::Mark;
use cutover_tests::scene::{ELEVATED, NORMAL};
use cutover_tests::{OpenTap, Port, Tap, frames, log, wait};
use std::time::Duration;

/// From where every migration comes.
pub(crate) const ELSEWHERE: &str = "compute-2";

/// The bound for evidence is the longest, five seconds.
const LONGER_THAN_EVERY_LIMIT: Duration = Duration::from_secs(7);

/// Of the machine in TimeWait: beyond the outage, which is seconds here and hours in a cloud.
const CONVERGENCE: Duration = Duration::from_secs(40);

pub(crate) struct Machine {
    pub(crate) port: Port,
    pub(crate) tap: Tap,
    qemu: Option<OpenTap>,
}

/// One machine in each state: at home, awaited, arrived, and arrived with its migration over.
///
/// Fields go in this order, the site last.
pub(crate) struct States {
    base: Machine,
    pub(crate) target: Machine,
    live: Machine,
    time_wait: Machine,
    pub(crate) site: Site,
}

pub(crate) fn migrate(site: &Site, port: &Port) {
    let uid = format!("uid-{}", port.endpoint);
    site.etcd.put(&endpoint_key(port, ELSEWHERE), &port.endpoint_on(ELSEWHERE, "s").to_string());
    site.etcd.put(&migration_key(port, HOST), &port.migration(ELSEWHERE, HOST, &uid).to_string());
    site.put_endpoint(port, HOST, "t");
    let shown = || site.node.agent.status_of(port).is_some_and(|endpoint| endpoint["watch"].is_u64());
    wait::until(wait::SOON, "the tap is watched", shown);
}

impl Machine {
    pub(crate) fn new(site: &Site, number: u8) -> Self {
        let (port, tap) = site.plug(number);
        Self { port, tap, qemu: None }
    }

    fn announce(&mut self, site: &Site) {
        let qemu = self.qemu.insert(self.tap.open());
        qemu.send(&frames::rarp(self.port.mac));
        site.node.wait_metrics(&self.port, &[ELEVATED]);
    }
}

impl States {
    pub(crate) fn new() -> Self {
        let mut site = Site::new();
        site.node.agent.set("LiveMigrationRouteConvergenceTime", CONVERGENCE.as_secs());
        site.node.agent.start_in_sync();
        let [base, target, mut live, mut time_wait] = [2, 3, 4, 5].map(|number| Machine::new(&site, number));
        site.put_endpoint(&base.port, HOST, "b");
        site.node.wait_metrics(&base.port, &[NORMAL]);
        for machine in [&target, &live, &time_wait] {
            migrate(&site, &machine.port);
        }
        live.announce(&site);
        time_wait.announce(&site);
        Self { base, target, live, time_wait, site }
    }

    pub(crate) fn end_the_last(&self) {
        self.site.etcd.delete(&migration_key(&self.time_wait.port, HOST));
        self.site.node.wait_state(&self.time_wait.port, "TimeWait");
        self.site.etcd.delete(&endpoint_key(&self.time_wait.port, ELSEWHERE));
    }

    fn is_as_it_was(&self) -> bool {
        let node = &self.site.node;
        node.has_metrics(&self.base.port, &[NORMAL])
            && node.has_metrics(&self.live.port, &[ELEVATED])
            && node.has_metrics(&self.time_wait.port, &[ELEVATED])
    }

    /// The agent has lost its cluster; nothing has changed, and the machine that was awaited is heard.
    /// Since `log`.
    pub(crate) fn live_through_it(&mut self, log: log::Mark) {
        self.site.node.agent.log().wait_after(log, RECOVERY, &["Datastore lost"]);
        let node = &self.site.node;
        wait::throughout(LONGER_THAN_EVERY_LIMIT, "as it was", || {
            self.is_as_it_was() && node.has_metrics(&self.target.port, &[])
        });
        self.target.announce(&self.site);
        // What the announcement leads to is written before the cluster is back.
        self.site.node.wait_state(&self.target.port, "Live");
        wait::throughout(Duration::from_secs(1), "elevated", || {
            self.is_as_it_was() && self.site.node.has_metrics(&self.target.port, &[ELEVATED])
        });
    }

    /// Everything has been read again. `mark` is before the outage, `announced` after the announcement in it.
    pub(crate) fn judge(&self, mark: Mark, announced: Mark) {
        let node = &self.site.node;
        let written = |mark, machine: &Machine| {
            let history = node.watch.since(mark);
            let writes: Vec<String> =
                history.writes_to(machine.tap.ifindex()).iter().map(|event| format!("{event:?}")).collect();
            writes
        };
        for machine in [&self.base, &self.live, &self.time_wait] {
            assert_eq!(written(mark, machine), Vec::<String>::new(), "{}", machine.port.endpoint);
        }
        assert_eq!(written(announced, &self.target), Vec::<String>::new(), "after its announcement");
        assert!(self.is_as_it_was() && node.has_metrics(&self.target.port, &[ELEVATED]));
    }

    /// Something new, which shows that the datastore is followed again.
    pub(crate) fn wait_followed(&self) {
        let new = Machine::new(&self.site, 9);
        self.site.put_endpoint(&new.port, HOST, "new");
        self.site.wait_after_outage(&new.port, &[NORMAL]);
    }
}

#[test]
fn history_is_compacted_in_an_outage_in_every_state() {
    let mut states = States::new();
    states.end_the_last();
    let mark = states.site.node.watch.mark();
    let log = states.site.node.agent.log().mark();
    states.site.node.host.namespace().ip("link set eth0 down");
    states.live_through_it(log);
    let announced = states.site.node.watch.mark();
    // Everything is rewritten over and over again, and nobody can ask for any of it.
    for _ in 0..20 {
        for machine in [&states.base, &states.target, &states.live, &states.time_wait] {
            states.site.put_endpoint(
                &machine.port,
                HOST,
                if machine.tap.name() == "tapport2" { "b" } else { "t" },
            );
        }
    }
    states.site.etcd.compact();
    states.site.node.host.namespace().ip("link set eth0 up");
    states.wait_followed();
    states.judge(mark, announced);
    // The migration that was announced in the outage ends as any other.
    let began_at = clock::now();
    states.site.etcd.delete(&migration_key(&states.target.port, HOST));
    states.site.node.wait_state(&states.target.port, "TimeWait");
    assert!(clock::now().since(began_at) < wait::SOON);
}

/// The backup shows the last machine's migration again, whose end the agent has seen, at revisions that it has passed.
#[test]
fn a_backup_is_restored_in_every_state() {
    let mut states = States::new();
    states.site.etcd.save("before-the-end");
    states.end_the_last();
    for _ in 0..50 {
        states.site.put_endpoint(&states.base.port, HOST, "b");
    }
    let mark = states.site.node.watch.mark();
    let log = states.site.node.agent.log().mark();
    states.site.etcd.kill(0);
    states.live_through_it(log);
    let announced = states.site.node.watch.mark();
    states.site.etcd.restore("before-the-end");
    states.site.node.agent.log().wait(RECOVERY, &["Datastore was set back or replaced"]);
    states.wait_followed();
    states.judge(mark, announced);
}
