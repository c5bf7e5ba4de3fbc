//! The agents of the two hosts of a migration talk to each other: each says how things stand at its end.
//!
//! Owns this agent's key, its record and those of other hosts, the port on which targets' agents ask, and the connections. It decides
//! nothing: the engine says about which migrations to talk with whom and what to say, and is told what was heard. Without it, or while it
//! cannot reach anybody, everything else works as it does without.
//!
//! The target's agent connects to the source's as soon as the engine wants that. TLS proves at both ends who is there. Each side then
//! says how things stand there, whole, and again whenever that changes; only the newest is said.

mod address;
mod book;
mod context;
mod dial;
mod etcd;
mod fetch;
mod files;
mod herald;
mod identity;
mod last_frame;
mod listen;
mod message;
mod record;
mod report;
mod table;
mod talk;
#[cfg(test)]
mod trials;

pub use etcd::PREFIX;
pub use files::FILE;
pub use herald::Herald;
#[cfg(test)]
pub(crate) use message::fuzz::messages as fuzz_messages;
#[cfg(test)]
pub(crate) use message::fuzz::samples as sample_messages;
#[cfg(test)]
pub(crate) use record::fuzz::record as fuzz_record;
#[cfg(test)]
pub(crate) use record::fuzz::sample as sample_record;
pub use report::{ConversationStatus, PeersReport, PeersStatus};

use crate::applier::WantedReceiver;
use crate::applier::tunnels::Starter;
use crate::bpf::LastFrames;
use crate::datastore::etcd::Cluster;
use crate::handover::Exchange;
use crate::priority::ordinary;
use crate::retry::BackOff;
use crate::settings::{DatastoreType, Peering, Settings};
use book::Book;
use context::{Complaints, Context, Ears};
use cutover_engine::Fact;
use identity::Identity;
use record::Peer;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use table::Table;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{error, info, warn};

/// Where records of other hosts come from, and this one's goes.
#[derive(Clone, Debug)]
pub enum Source {
    /// A cluster, below [`PREFIX`].
    Etcd(Cluster),
    /// Files.
    Files {
        /// `<host>.json` of each other host.
        folder: PathBuf,
        /// Where this host's [`FILE`] is written.
        run_dir: PathBuf,
    },
}

/// What is to be known at the start.
#[derive(Clone, Debug)]
pub struct Options {
    /// This host's name, as in endpoints.
    pub hostname: String,
    /// `CutoverPeerAddress`; without it, the address from which this host reaches etcd.
    pub address: Option<IpAddr>,
    /// `CutoverPeerPort`.
    pub port: u16,
    /// `CutoverTunnelPort`.
    pub tunnel_port: u16,
    /// Where records are.
    pub source: Source,
}

impl Options {
    /// From the settings. `cluster` is the datastore, if that is etcd.
    ///
    /// # Errors
    /// The agents do not talk to each other here, and why: for [`PeersReport::off`].
    pub fn new(settings: &Settings, cluster: Option<&Cluster>, run_dir: &Path) -> Result<Self, &'static str> {
        let source = match (settings.cutover_peering, cluster) {
            (Peering::Off, _) => return Err("CutoverPeering is off"),
            (Peering::Auto, Some(cluster)) if settings.datastore_type == DatastoreType::Etcdv3 => {
                Source::Etcd(cluster.clone())
            }
            (Peering::Auto, _) => return Err("CutoverPeering is auto, and the datastore is not etcd"),
            (Peering::Files, _) => {
                Source::Files { folder: settings.cutover_peer_dir.clone(), run_dir: run_dir.to_owned() }
            }
        };
        Ok(Self {
            hostname: settings.felix_hostname.clone(),
            address: settings.cutover_peer_address,
            port: settings.cutover_peer_port,
            tunnel_port: settings.cutover_tunnel_port,
            source,
        })
    }
}

/// By which it hears, and says, what is not the engine's to say.
#[derive(Clone, Debug)]
pub struct Ways {
    /// Hears what peers have said.
    pub facts: mpsc::UnboundedSender<Fact>,
    /// Readings of tracked connections.
    pub exchange: Exchange,
    /// When the last frames came on taps that virtual machines are about to leave.
    pub last_frames: LastFrames,
    /// Hears of announcements here, before the engine does.
    pub herald: Herald,
    /// Is told of announcements there, before the engine has decided.
    pub starter: Starter,
}

impl Ways {
    /// Only the facts lead somewhere.
    #[must_use]
    pub fn to(facts: mpsc::UnboundedSender<Fact>) -> Self {
        let (exchange, starter) = (Exchange::new().0, Starter::that_only_tells().0);
        let (last_frames, herald) = (LastFrames::default(), Herald::default());
        Self { facts, exchange, last_frames, herald, starter }
    }
}

/// What is to be run for as long as the agent does, in the network namespace of the host, and what says how it stands. Nothing listens
/// or connects before it is run, and nothing is left when it is dropped but the record, which goes with its lease.
pub fn peers(
    options: Options,
    wanted: WantedReceiver,
    ways: Ways,
) -> (PeersReport, impl Future<Output = ()> + Send + 'static) {
    let report = PeersReport::default();
    (report.clone(), run(options, wanted, ways, report))
}

async fn run(options: Options, wanted: WantedReceiver, ways: Ways, report: PeersReport) {
    let (address, identity) = tokio::join!(own_address(&options, &report), async { Identity::new() });
    let Some(address) = address else { return std::future::pending().await };
    let identity = match identity {
        Ok(identity) => Arc::new(identity),
        Err(error) => {
            report.is_bad("keys", &error.to_string());
            error!(%error, "Cannot make a key; other hosts' agents cannot be talked to");
            return std::future::pending().await;
        }
    };
    let Options { hostname, port, tunnel_port, source, .. } = options;
    let address = SocketAddr::new(address, port);
    let own = Peer { key: identity.public_key(), address, tunnel_port };
    let (book, table) = (Book::new(&hostname, address.ip(), tunnel_port), Table::with(ways.herald));
    report.begin(address, book.clone(), table.clone());
    info!(%address, key = %own.key, "Other hosts' agents are told where this one is");
    let complaints = Complaints::default();
    let Ways { facts, exchange, last_frames, starter, .. } = ways;
    let ears = Ears { facts, starter };
    let context = Context {
        identity,
        book: book.clone(),
        table: table.clone(),
        ears,
        exchange,
        last_frames,
        complaints,
    };
    let records = async {
        match source {
            Source::Etcd(cluster) => {
                etcd::run(cluster, &hostname, own.text(), book, report.clone()).await;
            }
            Source::Files { folder, run_dir } => {
                files::run(folder, run_dir, own.text(), book, report.clone()).await;
            }
        }
    };
    let listen = listen::run(address, context.clone(), report.clone());
    // Whoever is at the port, and whoever writes records, decides how often.
    tokio::join!(converse(context, table, wanted), ordinary(listen), ordinary(records));
}

/// Has the conversations in which this host asks.
async fn converse(context: Context, table: Table, wanted: WantedReceiver) {
    let (to_ask, mut asked) = mpsc::unbounded_channel();
    let follow = table::follow(table, wanted, move |conversation| {
        // Its other end is below, and lives as long.
        let _ = to_ask.send(conversation);
    });
    let ask = async {
        let mut tasks = JoinSet::new();
        loop {
            tokio::select! {
                Some(conversation) = asked.recv() => {
                    tasks.spawn(dial::run(context.clone(), conversation));
                }
                Some(ended) = tasks.join_next(), if !tasks.is_empty() => {
                    if let Err(error) = ended {
                        error!(%error, "A conversation with another host's agent ended by a defect");
                    }
                }
                else => std::future::pending::<()>().await,
            }
        }
    };
    tokio::join!(follow, ask);
}

/// The underlay address of this host, as soon as it is known. Nothing if there will be none.
async fn own_address(options: &Options, report: &PeersReport) -> Option<IpAddr> {
    const SAID: &str = "Other hosts' agents cannot be talked to";
    if let Some(address) = options.address {
        if record::is_of_a_host(address) {
            return Some(address);
        }
        let reason = format!("CutoverPeerAddress {address} is not one that a host can be reached at");
        report.is_bad("address", &reason);
        error!(reason, "{SAID}");
        return None;
    }
    let Source::Etcd(cluster) = &options.source else {
        let reason = "CutoverPeering = files needs CutoverPeerAddress";
        report.is_bad("address", reason);
        error!(reason, "{SAID}");
        return None;
    };
    let mut back_off = BackOff::new();
    loop {
        match address::toward(cluster.endpoints()).await {
            Ok(address) => {
                report.is_good("address");
                return Some(address);
            }
            Err(error) => {
                let is_news = report.is_bad("address", &error.to_string());
                if error.is_final() {
                    // Everything else works, as on a host with a cluster of its own.
                    warn!(reason = %error, "{SAID}; what still comes for virtual machines that have left is not forwarded");
                    return None;
                }
                if is_news {
                    warn!(reason = %error, "{SAID} yet; it is tried again");
                }
            }
        }
        tokio::time::sleep(back_off.next_pause()).await;
    }
}
