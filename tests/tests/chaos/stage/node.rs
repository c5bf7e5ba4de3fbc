//! One compute host: its agent, what is recorded there, and what is somebody else's.

use super::{CONVERGENCE_S, FORWARD_TABLE, GRACE_S, host_name};
use crate::plan::{GuestNumber, HostNumber};
use cutover_engine::BootTime;
use cutover_tests::felix::{Felix, Mode};
use cutover_tests::log::Mark;
use cutover_tests::small_disk::SmallDisk;
use cutover_tests::{Agent, Etcd, Host, Lab, RouteWatch, Starved, Tap, firewall};
use std::time::Duration;

/// A compute host.
pub(crate) struct Node {
    pub(crate) agent: Agent,
    pub(crate) watch: RouteWatch,
    /// What is forwarded.
    pub(crate) forwards: RouteWatch,
    /// Number of the interface towards everybody else, through which the routes of others go.
    pub(crate) uplink: u32,
    /// When the stage itself took what is somebody else's away, or put it back.
    pub(crate) outages: Vec<(BootTime, BootTime)>,
    /// It has lost its memory, and may not have heard from etcd since.
    pub(super) is_forgetful: bool,
    /// What is in its state file may be older than what it knows.
    pub(super) may_be_stale: bool,
    /// With its run directory.
    pub(crate) disk: SmallDisk,
    pub(super) is_beside_felix: bool,
    /// Virtual machines whose taps have no chains of Felix's, and whether their endpoint had a status before.
    pub(super) without_chains: Vec<(GuestNumber, bool)>,
    pub(super) sentinel: Option<Tap>,
    /// Where the log of the agent's present life begins.
    life: Mark,
    starved: Option<Starved>,
    /// How long its agents of before waited for a processor.
    starved_before: Duration,
    pub(crate) host: Host,
}

/// Routes of a BGP daemon, one of them to a virtual machine of ours, an operator's route with the number of the agent's protocol, and a
/// neighbour.
const ON_UPLINK: &str = "route replace 10.66.0.1/32 via 192.168.77.200 dev eth0 proto 12 metric 600\n\
                         route replace 198.51.100.0/24 via 192.168.77.201 dev eth0 proto 3\n\
                         neigh replace 192.168.77.202 lladdr 02:00:00:00:00:01 nud permanent dev eth0";

/// A rule of somebody's.
const RULE: &str = "rule add pref 100 from 198.51.100.1 lookup 100";

/// What an agent says when its state file cannot be written, and when it can again.
const NOT_WRITTEN: &str = "cannot write state.json";
const WRITTEN_AGAIN: &str = "state.json is written again";

impl Node {
    /// A host with an agent that was just started.
    pub(super) fn new(lab: &Lab, etcd: &Etcd, number: HostNumber, is_beside_felix: bool) -> Self {
        let host = lab.host(&host_name(number));
        // What an administrator's tool sees to when an uplink goes down and up.
        host.namespace().set_sysctl("net/ipv6/conf/eth0/keep_addr_on_down", "1");
        host.namespace().ip(ON_UPLINK);
        host.namespace().ip(RULE);
        firewall::load(host.namespace(), "add table inet somebodys");
        if is_beside_felix {
            let _felix = Felix::start(host.namespace(), Mode::Nftables);
        }
        let watch = RouteWatch::start(host.namespace());
        let forwards = RouteWatch::start_of_table(host.namespace(), FORWARD_TABLE);
        let uplink = host.ifindex("eth0").expect("an uplink");
        let disk = SmallDisk::mount(lab.folder().join(format!("disk-{}", host_name(number))));
        let mut agent = Agent::new(lab, &host, &lab.directory()).on_etcd(etcd);
        agent.keep_run_dir_in(lab, disk.path());
        agent.set("LiveMigrationRouteConvergenceTime", CONVERGENCE_S);
        agent.set("CutoverEndpointGrace", GRACE_S);
        // What others do is noticed at once, and not by a look around now and then.
        agent.set("RouteRefreshInterval", 3600);
        agent.set("InterfaceRefreshInterval", 3600);
        if is_beside_felix {
            agent.set("CutoverRole", "routes");
        }
        let life = agent.log().mark();
        let mut node = Self {
            agent,
            watch,
            forwards,
            uplink,
            outages: Vec::new(),
            is_forgetful: false,
            may_be_stale: false,
            disk,
            is_beside_felix,
            without_chains: Vec::new(),
            sentinel: None,
            life,
            starved: None,
            starved_before: Duration::ZERO,
            host,
        };
        node.spawn();
        node
    }

    /// Starts its agent.
    pub(super) fn spawn(&mut self) {
        self.life = self.agent.log().mark();
        self.agent.spawn();
        self.starved = self.agent.starved();
    }

    pub(super) fn kill(&mut self) {
        self.starved_before = self.starved_for();
        self.starved = None;
        self.agent.kill();
    }

    /// How long its agents have waited for a processor.
    pub(crate) fn starved_for(&self) -> Duration {
        self.starved_before + self.starved.as_ref().map_or(Duration::ZERO, Starved::time)
    }

    /// Whether its agent has written down what it knows, by what it says.
    pub(super) fn remembers(&self) -> bool {
        let said = self.agent.log().since(self.life);
        let last = said
            .iter()
            .rev()
            .find(|line| [NOT_WRITTEN, WRITTEN_AGAIN].iter().any(|it| line.text.contains(it)));
        last.is_none_or(|line| line.text.contains(WRITTEN_AGAIN))
    }

    /// Keeps in mind whether what is in its state file is what it knows.
    pub(super) fn note_memory(&mut self) {
        self.may_be_stale &= !self.remembers();
    }

    /// Puts back what an uplink loses that goes down.
    pub(super) fn restore_uplink(&self) {
        self.host.namespace().ip(&format!("link set eth0 up\n{ON_UPLINK}"));
    }

    /// The rules of others; their routes and neighbours are in the record.
    pub(super) fn has_what_is_somebody_elses(&self) -> bool {
        let rules = self.host.namespace().command("ip").args(["rule", "show"]).output().expect("iproute2");
        String::from_utf8_lossy(&rules.stdout).contains("from 198.51.100.1 lookup 100")
            && firewall::rules(self.host.namespace()).contains("table inet somebodys")
    }
}
