//! The part of an agent that talks, on a host of the lab, with the rest of the agent played by the test.

use cutover_daemon::datastore::etcd::Cluster;
use cutover_daemon::peers::{self, Options, PeersReport, PeersStatus, Source, Ways};
use cutover_daemon::settings::Settings;
use cutover_engine::conversation::{Says, SourceSays, TargetSays, WantedConversation};
use cutover_engine::{EndpointKey, Fact, Wanted};
use cutover_tests::host::Host;
use cutover_tests::{Etcd, Lab, wait};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, watch};

/// Below this key is the record of each host, spelt out here once more.
pub(crate) const RECORDS: &str = "/cutover/v1/host/";

pub(crate) const PORT: u16 = 7179;
pub(crate) const TUNNEL_PORT: u16 = 4790;

/// A member, and two hosts with an agent each. Fields go in this order, the lab last.
pub(crate) struct Site {
    pub(crate) source: Agent,
    pub(crate) target: Agent,
    pub(crate) etcd: Etcd,
    pub(crate) lab: Lab,
}

impl Site {
    pub(crate) fn new() -> Self {
        let lab = Lab::new();
        let etcd = Etcd::start(&lab);
        let agent = |name| Agent::start(Arc::new(lab.host(name)), &etcd, TUNNEL_PORT);
        let (source, target) = (agent("source"), agent("target"));
        Self { source, target, etcd, lab }
    }

    /// The same, and both talk about one migration.
    pub(crate) fn talking() -> Self {
        let mut site = Self::new();
        site.source.wants("target", "u", source_says(false));
        site.target.wants("source", "u", target_says(1));
        assert_eq!(site.source.hears(), ("u".to_owned(), site.target.address(), target_says(1)));
        assert_eq!(site.target.hears(), ("u".to_owned(), site.source.address(), source_says(false)));
        site
    }

    pub(crate) fn record(&self, host: &str) -> Option<String> {
        self.etcd.value(&format!("{RECORDS}{host}"))
    }
}

pub(crate) const fn source_says(is_stopped: bool) -> Says {
    Says::Source(SourceSays { is_stopped, is_forwarding: false })
}

pub(crate) const fn target_says(tunnel_id: u32) -> Says {
    Says::Target(TargetSays { tunnel_id, is_ready: false, is_announced: false, has_failed: false })
}

pub(crate) fn endpoint(host: &str, number: u32) -> EndpointKey {
    EndpointKey {
        host: host.to_owned(),
        orchestrator: "openstack".to_owned(),
        workload: format!("openstack/vm-{number}"),
        endpoint: format!("port-{number}"),
    }
}

/// What an agent wants to say about so many of its endpoints, all the same.
pub(crate) fn wanted(own: &str, peer: &str, uid: &str, says: Says, count: u32) -> Option<Arc<Wanted>> {
    let each = |number| {
        let conversation = WantedConversation {
            uid: uid.to_owned(),
            peer: endpoint(peer, number),
            says,
            tap: None,
            announced_by: None,
        };
        (Arc::new(endpoint(own, number)), conversation)
    };
    Some(Arc::new(Wanted { conversations: (0..count).map(each).collect(), ..Wanted::default() }))
}

pub(crate) struct Agent {
    pub(crate) wanted: watch::Sender<Option<Arc<Wanted>>>,
    pub(crate) heard: mpsc::UnboundedReceiver<Fact>,
    report: PeersReport,
    runtime: Option<Runtime>,
    pub(crate) host: Arc<Host>,
}

impl Agent {
    pub(crate) fn start(host: Arc<Host>, etcd: &Etcd, tunnel_port: u16) -> Self {
        Self::start_at(host, etcd, tunnel_port, None)
    }

    /// With `CutoverPeerAddress`.
    pub(crate) fn start_at(host: Arc<Host>, etcd: &Etcd, tunnel_port: u16, address: Option<IpAddr>) -> Self {
        let settings = Settings { etcd_endpoints: vec![etcd.endpoint()], ..Settings::default() };
        let options = Options {
            hostname: host.name().to_owned(),
            address,
            port: PORT,
            tunnel_port,
            source: Source::Etcd(Cluster::new(&settings).expect("nothing of it is missing")),
        };
        let wanted = watch::Sender::new(None);
        let (facts, heard) = mpsc::unbounded_channel();
        let (report, run) = peers::peers(options, wanted.subscribe(), Ways::to(facts));
        // KERNEL: a thread begins in the namespace of the one that makes it, as all of an agent do.
        let runtime = host.namespace().run(|| {
            let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build();
            let runtime = runtime.expect("a runtime");
            runtime.spawn(run);
            runtime
        });
        Self { wanted, heard, report, runtime: Some(runtime), host }
    }

    /// Ends at once, without a word to anybody.
    pub(crate) fn die(&mut self) {
        self.end();
    }

    /// What a service manager does afterwards: another agent on the same host, with another key.
    pub(crate) fn start_again(&mut self, etcd: &Etcd) {
        self.end();
        *self = Self::start(Arc::clone(&self.host), etcd, TUNNEL_PORT);
    }

    fn end(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(10));
        }
    }

    pub(crate) fn address(&self) -> IpAddr {
        self.host.ipv4().into()
    }

    pub(crate) fn wants(&self, peer: &str, uid: &str, says: Says) {
        self.wanted.send_replace(wanted(self.host.name(), peer, uid, says, 1));
    }

    pub(crate) fn status(&self) -> PeersStatus {
        self.report.status()
    }

    #[track_caller]
    pub(crate) fn until(&self, limit: Duration, what: &str, condition: impl Fn(&PeersStatus) -> bool) {
        let in_time = wait::holds_within(limit, || condition(&self.status()));
        assert!(in_time, "{} waited for {what}: {:#?}", self.host.name(), self.status());
    }

    pub(crate) fn is_connected(&self) -> bool {
        let conversations = self.status().conversations;
        !conversations.is_empty() && conversations.iter().all(|conversation| conversation.is_connected)
    }

    /// The next thing that the other side says.
    #[track_caller]
    pub(crate) fn hears(&mut self) -> (String, IpAddr, Says) {
        let deadline = Instant::now() + wait::patient(wait::SOON);
        loop {
            match self.heard.try_recv() {
                Ok(Fact::PeerSaid { uid, address, says, .. }) => return (uid, address, says),
                Ok(other) => panic!("{other:?}"),
                Err(_) => {
                    assert!(
                        Instant::now() < deadline,
                        "{} hears nothing: {:#?}",
                        self.host.name(),
                        self.status()
                    );
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.end();
    }
}
