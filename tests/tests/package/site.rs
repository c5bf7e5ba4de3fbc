//! A compute host with a live VM, as an administrator has it right before `apt-get install`.

use cutover_tests::debian::{self, RELEASES};
use cutover_tests::driver::Pace;
use cutover_tests::route_history::History;
use cutover_tests::route_watch::Mark;
use cutover_tests::scene::{NORMAL, TARGET};
use cutover_tests::{Debian, Directory, Driver, Host, Lab, OpenTap, Port, RouteWatch, Tap, wait};
use serde_json::Value;
use std::time::Duration;

/// LIMIT: for a busy machine, from the start of the service until everything is as it has to be.
pub(crate) const STARTED: Duration = Duration::from_secs(30);

/// The unit where Felix does not run.
pub(crate) const UNIT: &str = "cutover.service";

const SETTINGS: &str = "\
[global]
DatastoreType = dir
FelixHostname = compute2
InterfacePrefix = tap
LiveMigrationRouteConvergenceTime = 2
";

/// The host. Fields go in this order, the lab last.
pub(crate) struct Site {
    pub(crate) debian: Debian,
    pub(crate) watch: RouteWatch,
    _hypervisor: OpenTap,
    tap: Tap,
    pub(crate) host: Host,
    pub(crate) directory: Directory,
    pub(crate) port: Port,
    _lab: Lab,
}

/// Plays a scenario on each release that is there.
pub(crate) fn on_each_release(what: &str, mut scenario: impl FnMut(&Site)) {
    for release in RELEASES {
        if debian::is_there(release, what) {
            scenario(&Site::new(release));
        }
    }
}

impl Site {
    fn new(release: &'static str) -> Self {
        let lab = Lab::new();
        let host = lab.host(TARGET);
        let (directory, port) = (lab.directory(), Port::new(1));
        let tap = host.plug(&port.interface, port.tap_mac());
        let hypervisor = tap.open();
        driver(&directory, &port).bind(TARGET);
        let watch = RouteWatch::start(host.namespace());
        let debian = Debian::boot(&lab, &host, release, &directory);
        debian.write("/etc/calico/felix.cfg", SETTINGS);
        Self { debian, watch, _hypervisor: hypervisor, tap, host, directory, port, _lab: lab }
    }

    /// Plays Neutron for another port of this host.
    pub(crate) fn driver(&self, port: &Port) -> Driver {
        driver(&self.directory, port)
    }

    /// A moment from which on nothing of the live VM's may be written. Its routes and neighbours are there, and nobody is about to write them.
    #[track_caller]
    pub(crate) fn settle(&self) -> Mark {
        self.wait_metrics(&self.port, &[NORMAL]);
        self.watch.wait_quiet(STARTED, Duration::from_millis(500));
        self.watch.mark()
    }

    /// Nothing of the live VM's was written since, neither a route nor a neighbour.
    #[track_caller]
    pub(crate) fn assert_untouched(&self, since: Mark) {
        let history: History = self.watch.since(since);
        let writes = history.writes_to(self.tap.ifindex());
        assert!(writes.is_empty(), "{writes:#?}\n{}", self.journal());
        for destination in self.port.routed() {
            assert_eq!(self.watch.metrics_to(destination), [NORMAL]);
        }
    }

    /// Waits until the metrics of the routes to every address of a port are these.
    #[track_caller]
    pub(crate) fn wait_metrics(&self, port: &Port, metrics: &[u32]) {
        let has = || port.routed().iter().all(|to| self.watch.metrics_to(*to) == metrics);
        if !wait::holds_within(STARTED, has) {
            let is: Vec<_> = port.routed().iter().map(|to| (*to, self.watch.metrics_to(*to))).collect();
            panic!("{is:?}, wanted {metrics:?}:\n{}", self.journal());
        }
    }

    /// `active`, `inactive`, `failed` and the like.
    #[track_caller]
    pub(crate) fn state(&self, unit: &str) -> String {
        self.debian.property(unit, "ActiveState")
    }

    /// The number of the service's process, in there; 0 when there is none.
    #[track_caller]
    pub(crate) fn pid(&self, unit: &str) -> u32 {
        self.debian.property(unit, "MainPID").parse().expect("a number")
    }

    /// `cutover status --json`, from the agent that runs.
    #[track_caller]
    pub(crate) fn status(&self) -> Value {
        let said = self.debian.run("cutover status --json");
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
    }

    /// What the agent's units have logged.
    pub(crate) fn journal(&self) -> String {
        let output = self.debian.try_run("journalctl --quiet --no-pager --unit 'cutover*'");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

fn driver(directory: &Directory, port: &Port) -> Driver {
    Driver::new(directory, port).at_pace(Pace::IMMEDIATE)
}
