//! Agents that talk to each other over the loopback, with real TLS: each has an address of its own, and the records of the others are
//! put into its book by hand.

use super::book::Book;
use super::context::{Complaints, Context};
use super::identity::Identity;
use super::record::Peer;
use super::report::PeersReport;
use super::table::Table;
use super::{converse, listen};
use cutover_engine::conversation::{Says, SourceSays, TargetSays, WantedConversation};
use cutover_engine::{EndpointKey, Fact, Wanted};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(20);

pub(super) fn endpoint(host: &str, number: u8) -> EndpointKey {
    EndpointKey {
        host: host.to_owned(),
        orchestrator: "openstack".to_owned(),
        workload: format!("openstack/vm-{number}"),
        endpoint: format!("port-{number}"),
    }
}

pub(super) const fn source_says(is_stopped: bool) -> Says {
    Says::Source(SourceSays { is_stopped })
}

pub(super) const fn target_says(tunnel_id: u32) -> Says {
    Says::Target(TargetSays { tunnel_id, is_ready: false, is_announced: false, has_failed: false })
}

/// An agent's part that talks.
struct Agent {
    host: &'static str,
    own: Peer,
    context: Context,
    report: PeersReport,
    wanted: watch::Sender<Option<Arc<Wanted>>>,
    heard: mpsc::UnboundedReceiver<Fact>,
    task: Option<JoinHandle<()>>,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stop();
    }
}

/// No two agents of any test program that runs have the same.
fn address() -> IpAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, high | 1, low, NEXT.fetch_add(1, Ordering::Relaxed)).into()
}

const PORT: u16 = 7179;
const TUNNEL_PORT: u16 = 4790;

impl Agent {
    fn new(host: &'static str) -> Self {
        Self::at(host, address())
    }

    fn at(host: &'static str, address: IpAddr) -> Self {
        let identity = Arc::new(Identity::new().unwrap());
        let address = SocketAddr::new(address, PORT);
        let own = Peer { key: identity.public_key(), address, tunnel_port: TUNNEL_PORT };
        let (facts, heard) = mpsc::unbounded_channel();
        let (book, table) = (Book::new(host, address.ip(), TUNNEL_PORT), Table::default());
        let report = PeersReport::default();
        report.begin(address, book.clone(), table.clone());
        book.replace(&std::collections::BTreeMap::new());
        let context = Context { identity, book, table, facts, complaints: Complaints::default() };
        Self { host, own, context, report, wanted: watch::Sender::new(None), heard, task: None }
    }

    fn start(&mut self) {
        let context = self.context.clone();
        let (wanted, report, address) = (self.wanted.subscribe(), self.report.clone(), self.own.address);
        self.task = Some(tokio::spawn(async move {
            let listen = listen::run(address, context.clone(), report);
            let table = context.table.clone();
            tokio::join!(converse(context, table, wanted), listen);
        }));
    }

    fn stop(&mut self) {
        self.task.take().inspect(JoinHandle::abort);
    }

    fn knows(&self, other: &Self) {
        self.context.book.note(other.host, Some(other.own.text().as_bytes()), "by hand");
    }

    /// Wants to talk about the first port of both.
    fn wants(&self, peer: &'static str, uid: &str, says: Says) {
        let conversation = WantedConversation { uid: uid.to_owned(), peer: endpoint(peer, 1), says };
        let conversations = [(Arc::new(endpoint(self.host, 1)), conversation)].into();
        self.wanted.send_replace(Some(Arc::new(Wanted { conversations, ..Wanted::default() })));
    }

    async fn hears(&mut self) -> (String, IpAddr, Says) {
        match timeout(SOON, self.heard.recv()).await {
            Ok(Some(Fact::PeerSaid { endpoint: at, uid, address, says })) => {
                assert_eq!(at, endpoint(self.host, 1));
                (uid, address, says)
            }
            other => panic!("{} waited for the other side to say something: {other:?}", self.host),
        }
    }
}

/// A source and a target that know each other.
fn pair() -> (Agent, Agent) {
    let (mut source, mut target) = (Agent::new("here"), Agent::new("there"));
    source.knows(&target);
    target.knows(&source);
    source.start();
    target.start();
    (source, target)
}

#[tokio::test]
async fn each_side_hears_how_things_stand_at_the_other() {
    let (mut source, mut target) = pair();
    source.wants("there", "u", source_says(false));
    target.wants("here", "u", target_says(1));
    let (here, there) = (source.own.address.ip(), target.own.address.ip());
    assert_eq!(source.hears().await, ("u".to_owned(), there, target_says(1)));
    assert_eq!(target.hears().await, ("u".to_owned(), here, source_says(false)));
    source.wants("there", "u", source_says(true));
    assert_eq!(target.hears().await.2, source_says(true));
    target.wants("here", "u", target_says(2));
    assert_eq!(source.hears().await.2, target_says(2));
}
