//! Agents that talk to each other over the loopback, with real TLS: each has an address of its own, and the records of the others are
//! put into its book by hand.

use super::book::Book;
use super::context::{Complaints, Context, Ears};
use super::dial::{connect, reach};
use super::identity::Identity;
use super::message::{Hello, Inbox, MESSAGE_MAX, Message, MessageError};
use super::record::{Peer, VERSION};
use super::report::{ConversationStatus, PeersReport, PeersStatus};
use super::table::Table;
use super::{Options, Source, Ways, converse, listen};
use crate::applier::tunnels::{Start, Starter, Starts};
use crate::bpf::LastFrames;
use crate::conntrack::{Entries, samples};
use crate::datastore::etcd::Cluster;
use crate::handover::{self, Delivery, Exchange, Reading};
use crate::logging::warnings;
use crate::settings::{DatastoreType, Peering, Settings};
use cutover_engine::conversation::{Says, SourceSays, TargetSays, WantedConversation};
use cutover_engine::wanted::Tunnel;
use cutover_engine::{BootTime, EndpointKey, Fact, Wanted};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

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
    Says::Source(SourceSays { is_stopped, is_forwarding: false })
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
    started: Starts,
    deliveries: mpsc::Receiver<Delivery>,
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
        let (starter, started) = Starter::that_only_tells();
        let ears = Ears { facts, starter };
        let (book, table) = (Book::new(host, address.ip(), TUNNEL_PORT), Table::default());
        let report = PeersReport::default();
        report.begin(address, book.clone(), table.clone());
        book.replace(&std::collections::BTreeMap::new());
        let (exchange, deliveries) = Exchange::new();
        let (last_frames, complaints) = (LastFrames::default(), Complaints::default());
        let context = Context { identity, book, table, ears, exchange, last_frames, complaints };
        Self {
            host,
            own,
            context,
            report,
            wanted: watch::Sender::new(None),
            heard,
            started,
            deliveries,
            task: None,
        }
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

    fn forgets(&self, other: &Self) {
        self.context.book.note(other.host, None, "by hand");
    }

    /// Nothing is wanted any more.
    fn wants_nothing(&self) {
        self.wanted.send_replace(Some(Arc::default()));
    }

    /// Wants to talk about the first port of both.
    fn wants(&self, peer: &'static str, uid: &str, says: Says) {
        self.wants_with(peer, uid, says, None);
    }

    /// And to say at once what a watch sees.
    fn wants_until_announced(&self, peer: &'static str, says: Says, announced_by: Option<u64>) {
        self.wants_with(peer, "u", says, announced_by);
    }

    fn wants_with(&self, peer: &'static str, uid: &str, says: Says, announced_by: Option<u64>) {
        let peer = endpoint(peer, 1);
        let conversation = WantedConversation { uid: uid.to_owned(), peer, says, tap: None, announced_by };
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

impl Agent {
    fn status(&self) -> PeersStatus {
        self.report.status()
    }

    /// Waits until the one conversation that is wanted fails for a reason with these words in it.
    async fn fails(&self, words: &str) {
        self.until(words, |status| {
            let failure = |it: &ConversationStatus| it.error.clone().filter(|_| !it.is_connected);
            status.conversations.first().and_then(failure).is_some_and(|error| error.contains(words))
        })
        .await;
    }

    async fn connects(&self) {
        self.until("a connection", |status| {
            !status.conversations.is_empty() && status.conversations.iter().all(|it| it.is_connected)
        })
        .await;
    }

    async fn until(&self, what: &str, condition: impl Fn(&PeersStatus) -> bool) {
        let deadline = Instant::now() + SOON;
        while !condition(&self.status()) {
            assert!(Instant::now() < deadline, "{} waited for {what}: {:?}", self.host, self.status());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    fn has_heard_nothing(&mut self) {
        assert_eq!(self.heard.try_recv().ok(), None, "{}", self.host);
    }

    fn hello(&self, to: &'static str, uid: &str, says: Says) -> Message {
        let (from, to) = (endpoint(self.host, 1), endpoint(to, 1));
        Message::Hello(Box::new(Hello { version: VERSION, uid: uid.to_owned(), from, to, says: says.into() }))
    }

    /// Connects by hand, as this agent would.
    async fn reaches(&self, other: &Self) -> Raw {
        let deadline = Instant::now() + SOON;
        loop {
            match reach(&self.context, &other.own).await {
                Ok(stream) => return Raw { stream, inbox: Inbox::new() },
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// One end of a connection that does what it is told.
struct Raw {
    stream: TlsStream<TcpStream>,
    inbox: Inbox,
}

impl Raw {
    async fn say(&mut self, message: &Message) {
        self.write(&message.encode().unwrap()).await;
    }

    async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    async fn next(&mut self) -> Result<Message, MessageError> {
        timeout(SOON, self.inbox.next(&mut self.stream)).await.expect("the other side says or ends something")
    }

    async fn is_welcome(&mut self) -> Says {
        match self.next().await {
            Ok(Message::Welcome { says, .. }) => says.says(),
            other => panic!("no welcome: {other:?}"),
        }
    }

    async fn is_refused(&mut self, words: &str) {
        match self.next().await {
            Ok(Message::Refused { reason }) => assert!(reason.contains(words), "{reason}"),
            other => panic!("not refused: {other:?}"),
        }
        self.is_cut().await;
    }

    /// Waits until the other side ends the connection, whatever it says before.
    async fn is_cut(&mut self) {
        while self.next().await.is_ok() {}
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

/// A source, and a peer of the test's own that is welcome there.
async fn welcomed() -> (Agent, Agent, Raw) {
    let (mut source, target) = (Agent::new("here"), Agent::new("there"));
    source.knows(&target);
    source.start();
    source.wants("there", "u", source_says(false));
    let mut raw = target.reaches(&source).await;
    raw.say(&target.hello("here", "u", target_says(1))).await;
    raw.is_welcome().await;
    (source, target, raw)
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

/// A source and a target that talk.
async fn talking() -> (Agent, Agent) {
    let (mut source, mut target) = pair();
    source.wants("there", "u", source_says(false));
    target.wants("here", "u", target_says(1));
    source.hears().await;
    target.hears().await;
    (source, target)
}

#[tokio::test]
async fn nobody_is_talked_to_who_has_another_key_than_its_record_says() {
    let (mut source, mut target) = (Agent::new("here"), Agent::new("there"));
    source.knows(&target);
    target.knows(&Agent::at("here", source.own.address.ip()));
    source.start();
    target.start();
    source.wants("there", "u", source_says(false));
    target.wants("here", "u", target_says(1));
    target.fails("the keys do not prove who is who").await;
    source.has_heard_nothing();
    target.has_heard_nothing();
    target.knows(&source);
    assert_eq!(target.hears().await.2, source_says(false));
}

#[tokio::test]
async fn strangers_are_turned_away() {
    let (mut source, mut target) = (Agent::new("here"), Agent::new("there"));
    target.knows(&source);
    source.start();
    target.start();
    source.wants("there", "u", source_says(false));
    target.wants("here", "u", target_says(1));
    // By its address.
    target.fails("").await;
    // By its key.
    let namesake = Agent::at("there", target.own.address.ip());
    source.knows(&namesake);
    target.fails("cut").await;
    source.has_heard_nothing();
    source.knows(&target);
    target.connects().await;
    assert_eq!(source.hears().await.2, target_says(1));
}

#[tokio::test]
async fn a_host_speaks_for_itself_only() {
    let (mut source, target) = (Agent::new("here"), Agent::new("there"));
    let other = Agent::new("elsewhere");
    source.knows(&target);
    source.knows(&other);
    source.start();
    source.wants("there", "u", source_says(false));
    let mut raw = other.reaches(&source).await;
    raw.say(&target.hello("here", "u", target_says(1))).await;
    raw.is_refused("the key is not that of there").await;
    let mut raw = other.reaches(&source).await;
    raw.say(&other.hello("here", "u", target_says(1))).await;
    raw.is_refused("goes to another one").await;
    // Its key from an address that is another host's.
    source.knows(&Agent::at("elsewhere", target.own.address.ip()));
    source.context.book.note("third", Some(other.own.text().as_bytes()), "by hand");
    let mut raw = other.reaches(&source).await;
    raw.say(&other.hello("here", "u", target_says(1))).await;
    raw.is_refused("the key is not that of elsewhere").await;
    let own = Peer { address: target.own.address, ..other.own };
    source.context.book.note("elsewhere", Some(own.text().as_bytes()), "by hand");
    let mut raw = other.reaches(&source).await;
    raw.say(&other.hello("here", "u", target_says(1))).await;
    raw.is_refused("the address of elsewhere is").await;
    source.has_heard_nothing();
}

#[tokio::test]
async fn only_what_is_wanted_is_talked_about() {
    let (mut source, target) = (Agent::new("here"), Agent::new("there"));
    source.knows(&target);
    source.start();
    source.wants("there", "u", source_says(false));
    let refused = async |hello: Message, words: &str| {
        let mut raw = target.reaches(&source).await;
        raw.say(&hello).await;
        raw.is_refused(words).await;
    };
    let Message::Hello(right) = target.hello("here", "u", target_says(1)) else { unreachable!() };
    let of = |uid: &str, from, to| {
        let (from, to) = (endpoint("there", from), endpoint("here", to));
        Message::Hello(Box::new(Hello { uid: uid.to_owned(), from, to, ..*right.clone() }))
    };
    // Each is held for some seconds, because the migration may be known here in a moment.
    tokio::join!(
        refused(of("v", 1, 1), "in another one"),
        refused(of("u", 2, 1), "goes to another one"),
        refused(of("u", 1, 2), "no migration of that endpoint"),
        refused(target.hello("here", "u", source_says(true)), "only a source can say"),
    );
    source.wants("there", "w", target_says(9));
    refused(of("w", 1, 1), "not the source").await;
    source.has_heard_nothing();
}

#[tokio::test]
async fn a_target_that_asks_before_the_source_knows_of_the_migration_waits_a_moment() {
    let (mut source, target) = (Agent::new("here"), Agent::new("there"));
    source.knows(&target);
    source.start();
    let mut raw = target.reaches(&source).await;
    raw.say(&target.hello("here", "u", target_says(1))).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    source.wants("there", "u", source_says(true));
    assert_eq!(raw.is_welcome().await, source_says(true));
    assert_eq!(source.hears().await.2, target_says(1));
}

/// What it has said may not be so any more.
#[tokio::test]
async fn who_has_gone_while_it_waited_is_not_heard() {
    let (mut source, target) = (Agent::new("here"), Agent::new("there"));
    source.knows(&target);
    source.start();
    let mut gone = target.reaches(&source).await;
    gone.say(&target.hello("here", "u", target_says(1))).await;
    drop(gone);
    let mut raw = target.reaches(&source).await;
    raw.say(&target.hello("here", "u", target_says(2))).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    source.wants("there", "u", source_says(false));
    raw.is_welcome().await;
    assert_eq!(source.hears().await.2, target_says(2));
    raw.say(&Message::Says(target_says(3).into())).await;
    assert_eq!(source.hears().await.2, target_says(3));
}

/// When it takes longer than a source waits.
#[tokio::test]
async fn a_target_asks_again() {
    let (mut source, mut target) = pair();
    target.wants("here", "u", target_says(1));
    target.fails("no migration of that endpoint is known here").await;
    source.wants("there", "u", source_says(false));
    assert_eq!(source.hears().await.2, target_says(1));
    assert_eq!(target.hears().await.2, source_says(false));
}

#[tokio::test]
async fn only_tls_1_3_with_a_key_of_its_own_is_spoken() {
    let (mut source, target) = (Agent::new("here"), Agent::new("there"));
    source.knows(&target);
    source.start();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let to = source.own.address;
        let name = rustls::pki_types::ServerName::IpAddress(to.ip().into());
        let tcp = listening(&target, &source).await;
        let error = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap_err();
        assert!(error.to_string().contains("alert"), "{version:?}: {error}");
    }
}

async fn listening(from: &Agent, to: &Agent) -> TcpStream {
    let from = SocketAddr::new(from.own.address.ip(), 0);
    let deadline = Instant::now() + SOON;
    loop {
        match connect(from, to.own.address).await {
            Ok(stream) => return stream,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Whoever sends nonsense, too much, too little or nothing is cut off in time, and holds up nobody.
#[tokio::test]
async fn nonsense_ends_and_disturbs_nobody() {
    let (mut source, mut target) = talking().await;
    let other = Agent::new("elsewhere");
    source.knows(&other);
    let mut open = Vec::new();
    for bytes in [&b""[..], b"GET / HTTP/1.1\r\n\r\n", &[0x16, 0x03, 0x01, 0xff, 0xff], &[0; 3]] {
        let mut stream = listening(&other, &source).await;
        stream.write_all(bytes).await.unwrap();
        open.push(stream);
    }
    let mut raws = Vec::new();
    let long = u32::try_from(MESSAGE_MAX + 1).unwrap().to_be_bytes();
    for bytes in [&b""[..], &[0, 0, 0, 2, b'{', b'}'], &[0, 0, 0, 5, b'n'], &long, &[0xff; 4]] {
        let mut raw = other.reaches(&source).await;
        raw.write(bytes).await;
        raws.push(raw);
    }
    source.wants("there", "u", source_says(true));
    assert_eq!(target.hears().await.2, source_says(true), "at once, while all of these are there");
    for mut stream in open {
        let end = async { while stream.read(&mut [0; 64]).await.is_ok_and(|read| read > 0) {} };
        timeout(SOON, end).await.expect("it is cut off");
    }
    for mut raw in raws {
        raw.is_cut().await;
    }
    assert!(target.status().conversations[0].is_connected);
    source.has_heard_nothing();
}

/// One byte after the other is no sign of life.
#[tokio::test]
async fn who_is_silent_or_slow_in_a_conversation_is_cut_off() {
    for drips in [false, true] {
        let (mut source, target) = (Agent::new("here"), Agent::new("there"));
        source.knows(&target);
        source.start();
        source.wants("there", "u", source_says(false));
        let mut raw = target.reaches(&source).await;
        raw.say(&target.hello("here", "u", target_says(1))).await;
        raw.is_welcome().await;
        source.hears().await;
        source.connects().await;
        let began = Instant::now();
        let slow = Message::Refused { reason: "x".repeat(1000) }.encode().unwrap();
        for byte in slow.iter().filter(|_| drips) {
            if raw.stream.write_all(&[*byte]).await.is_err() || raw.stream.flush().await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            if began.elapsed() > SOON {
                break;
            }
        }
        raw.is_cut().await;
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        source.fails("no sign of life").await;
    }
}

#[tokio::test]
async fn a_connection_that_is_cut_comes_back_and_tells_only_news() {
    let (mut source, mut target) = talking().await;
    // Another one takes its place at the source, and that ends the one before.
    let mut raw = target.reaches(&source).await;
    raw.say(&target.hello("here", "u", target_says(1))).await;
    raw.is_welcome().await;
    let began = Instant::now();
    raw.is_cut().await;
    let took = began.elapsed();
    assert!(took < Duration::from_secs(2), "the agent has asked again: {took:?}");
    // A source's agent that is started again has another key, and knows nothing.
    let address = source.own.address.ip();
    source.stop();
    drop(source);
    target.until("the end", |status| !status.conversations[0].is_connected).await;
    let mut source = Agent::at("here", address);
    source.knows(&target);
    source.wants("there", "u", source_says(false));
    source.start();
    target.knows(&source);
    assert_eq!(source.hears().await.2, target_says(1));
    target.connects().await;
    target.has_heard_nothing();
    source.wants("there", "u", source_says(true));
    assert_eq!(target.hears().await.2, source_says(true));
}

#[tokio::test]
async fn a_conversation_that_is_over_ends_quietly_at_both_ends() {
    let (source, target) = talking().await;
    source.wants_nothing();
    target.fails("nobody wants it there any more").await;
    target.wants_nothing();
    target.until("nothing", |status| status.conversations.is_empty()).await;
    source.wants("there", "v", source_says(false));
    target.wants("here", "v", target_says(2));
    source.connects().await;
    target.wants_nothing();
    source.fails("nobody wants it there any more").await;
}

#[tokio::test]
async fn who_does_not_read_hears_the_newest_when_it_does() {
    let (source, _target, mut raw) = welcomed().await;
    for number in 0..1001 {
        source.wants("there", "u", source_says(number % 2 == 0));
    }
    source.wants_nothing();
    let mut heard = 0;
    loop {
        match raw.next().await {
            Ok(Message::Over) => break,
            Ok(Message::Ping) => {}
            Ok(Message::Says(_)) => heard += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(heard <= 1, "{heard} of 1001 changes that nobody waited for");
}

/// A peer that says more than there is to say is heard, but not faster than the engine can bear.
#[tokio::test]
async fn who_says_too_much_waits() {
    let (mut source, _target, mut raw) = welcomed().await;
    let began = Instant::now();
    let many: Vec<u8> =
        (0..200).flat_map(|number| Message::Says(target_says(number).into()).encode().unwrap()).collect();
    raw.write(&many).await;
    while source.hears().await.2 != target_says(199) {}
    assert!(began.elapsed() > Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test]
async fn another_record_ends_the_connection_and_none_does_not() {
    let (source, target) = talking().await;
    source.forgets(&target);
    target.forgets(&source);
    let is_there = |status: &PeersStatus| status.conversations[0].is_connected;
    for _ in 0..50 {
        assert!(is_there(&source.status()) && is_there(&target.status()));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    source.knows(&Agent::at("there", target.own.address.ip()));
    source.fails("the record of the other host has changed").await;
    source.knows(&target);
    target.knows(&source);
    source.connects().await;
}

#[tokio::test]
async fn another_port_of_the_tunnel_is_refused() {
    let (mut source, mut target) = (Agent::new("here"), Agent::new("there"));
    let other = Peer { tunnel_port: TUNNEL_PORT + 1, ..source.own };
    source.knows(&target);
    target.context.book.note("here", Some(other.text().as_bytes()), "by hand");
    source.start();
    target.start();
    source.wants("there", "u", source_says(false));
    target.wants("here", "u", target_says(1));
    target.fails("CutoverTunnelPort of here is 4791, and here it is 4790").await;
    let other = Peer { tunnel_port: TUNNEL_PORT + 1, ..target.own };
    source.context.book.note("there", Some(other.text().as_bytes()), "by hand");
    target.knows(&source);
    target.fails("CutoverTunnelPort of there is 4791").await;
    source.has_heard_nothing();
}

/// As many as a host has that is emptied to a single other one.
#[tokio::test]
async fn a_hundred_conversations_at_once() {
    let (mut source, mut target) = pair();
    let all = |own: &'static str, peer: &'static str, says: Says| {
        let each = |number| {
            let (uid, peer) = (format!("u-{number}"), endpoint(peer, number));
            (
                Arc::new(endpoint(own, number)),
                WantedConversation { uid, peer, says, tap: None, announced_by: None },
            )
        };
        let conversations = (0..100).map(each).collect();
        Some(Arc::new(Wanted { conversations, ..Wanted::default() }))
    };
    source.wanted.send_replace(all("here", "there", source_says(false)));
    target.wanted.send_replace(all("there", "here", target_says(1)));
    source.connects().await;
    target.connects().await;
    for agent in [&mut source, &mut target] {
        for _ in 0..100 {
            timeout(SOON, agent.heard.recv()).await.unwrap().unwrap();
        }
    }
    source.wanted.send_replace(all("here", "there", source_says(true)));
    for _ in 0..100 {
        timeout(SOON, target.heard.recv()).await.unwrap().unwrap();
    }
}

/// Runs something, and returns the warnings and errors of it.
fn warned(work: impl Future<Output = ()>) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    warnings(|| runtime.block_on(work))
}

#[test]
fn a_peer_that_is_away_is_one_line() {
    let lines = warned(async {
        let (mut source, mut target) = (Agent::new("here"), Agent::new("there"));
        source.knows(&target);
        target.knows(&source);
        target.start();
        target.wants("here", "u", target_says(1));
        source.wants("there", "u", source_says(false));
        target.fails("cannot connect").await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        source.start();
        target.hears().await;
    });
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("A peer's agent cannot be talked to"), "{lines:?}");
}

#[test]
fn the_end_of_a_migration_is_no_warning() {
    let lines = warned(async {
        let (source, target) = talking().await;
        source.wants_nothing();
        target.fails("nobody wants it there any more").await;
        // It asks again some times.
        tokio::time::sleep(Duration::from_secs(1)).await;
        target.fails("nobody wants it there any more").await;
        target.wants_nothing();
        target.until("nothing", |status| status.conversations.is_empty()).await;
    });
    assert_eq!(lines, Vec::<String>::new());
}

#[test]
fn a_port_that_is_taken_is_one_error_and_no_hindrance() {
    let lines = warned(async {
        let (mut source, mut target) = (Agent::new("here"), Agent::new("there"));
        source.knows(&target);
        target.knows(&source);
        let tenant = TcpListener::bind(target.own.address).await.unwrap();
        source.start();
        target.start();
        source.wants("there", "u", source_says(false));
        target.wants("here", "u", target_says(1));
        target.hears().await;
        target.until("the trouble", |status| status.troubles.contains_key("listener")).await;
        drop(tenant);
        target.until("no trouble", |status| status.troubles.is_empty()).await;
        drop(listening(&source, &target).await);
    });
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("ERROR") && lines[0].contains("set CutoverPeerPort"), "{lines:?}");
}

#[test]
fn where_the_settings_lead() {
    let of = |peering, datastore_type, has_cluster: bool| {
        let settings = Settings { cutover_peering: peering, datastore_type, ..Settings::default() };
        let cluster = Cluster::new(&settings).unwrap();
        Options::new(&settings, has_cluster.then_some(&cluster), "/run/cutover".as_ref())
    };
    use DatastoreType::{Dir, Etcdv3};
    assert!(matches!(of(Peering::Auto, Etcdv3, true).unwrap().source, Source::Etcd(_)));
    assert!(of(Peering::Auto, Dir, false).unwrap_err().contains("not etcd"));
    for datastore in [Etcdv3, Dir] {
        assert!(of(Peering::Off, datastore, datastore == Etcdv3).unwrap_err().contains("off"));
        let source = of(Peering::Files, datastore, datastore == Etcdv3).unwrap().source;
        assert!(matches!(source, Source::Files { .. }));
    }
}

/// Everything, with records in files.
#[tokio::test]
async fn records_in_files_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let mut agents = Vec::new();
    for host in ["here", "there"] {
        let run_dir = folder.path().join(host);
        std::fs::create_dir(&run_dir).unwrap();
        let source = Source::Files { folder: folder.path().to_owned(), run_dir };
        let (port, tunnel_port) = (PORT, TUNNEL_PORT);
        let options =
            Options { hostname: host.to_owned(), address: Some(address()), port, tunnel_port, source };
        let wanted = watch::Sender::new(None);
        let (facts, heard) = mpsc::unbounded_channel();
        let (report, run) = super::peers(options, wanted.subscribe(), Ways::to(facts));
        agents.push((wanted, heard, report, tokio::spawn(run)));
    }
    for (position, (own, peer)) in [("here", "there"), ("there", "here")].into_iter().enumerate() {
        let says = if own == "here" { source_says(false) } else { target_says(1) };
        let conversation = WantedConversation {
            uid: "u".to_owned(),
            peer: endpoint(peer, 1),
            says,
            tap: None,
            announced_by: None,
        };
        let conversations = [(Arc::new(endpoint(own, 1)), conversation)].into();
        agents[position].0.send_replace(Some(Arc::new(Wanted { conversations, ..Wanted::default() })));
        let file = folder.path().join(own).join(super::FILE);
        let deadline = Instant::now() + SOON;
        while std::fs::copy(&file, folder.path().join(format!("{own}.json"))).is_err() {
            assert!(Instant::now() < deadline, "it writes its record");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    for (_, heard, _, _) in &mut agents {
        timeout(SOON, heard.recv()).await.unwrap().unwrap();
    }
    // A file that everybody may write to is believed no longer.
    let path = folder.path().join("there.json");
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    let deadline = Instant::now() + SOON;
    while !agents[0].2.status().bad_records.get("there").is_some_and(|it| it.contains("everybody may write"))
    {
        assert!(Instant::now() < deadline, "{:?}", agents[0].2.status());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    agents.iter().for_each(|(_, _, _, task)| task.abort());
}

/// Nothing is opened, and it is said what to do.
#[tokio::test]
async fn a_datastore_on_the_loopback_is_no_underlay() {
    let cluster = Cluster::new(&Settings::default()).unwrap();
    let options = Options {
        hostname: "here".to_owned(),
        address: None,
        port: PORT,
        tunnel_port: TUNNEL_PORT,
        source: Source::Etcd(cluster),
    };
    let (facts, _heard) = mpsc::unbounded_channel();
    let (report, run) = super::peers(options, watch::Sender::new(None).subscribe(), Ways::to(facts));
    assert!(timeout(Duration::from_millis(50), run).await.is_err(), "it does not end");
    let status = report.status();
    assert!(status.troubles["address"].contains("set CutoverPeerAddress"), "{status:?}");
    assert_eq!(status.address, None);
}

impl Agent {
    /// What the port of both is about, at this end.
    fn topic(&self, uid: &str) -> handover::Topic {
        handover::Topic { endpoint: endpoint(self.host, 1), uid: uid.to_owned() }
    }

    fn fetch(&self, to: &'static str, uid: &str) -> Message {
        let Message::Hello(hello) = self.hello(to, uid, target_says(1)) else { unreachable!() };
        Message::Fetch(hello)
    }

    /// The connections have been read, with this many of them.
    fn publishes(&self, number: u64, count: u16) {
        let carried = (0..count).map(samples::tcp).collect();
        let entries = Entries { carried, ..Entries::default() };
        let reading = Reading { number, at: BootTime(number), entries, is_last: false };
        self.context.exchange.publish(&self.topic("u"), Arc::new(reading));
    }

    async fn is_asked(&self) {
        let deadline = Instant::now() + SOON;
        while !self.context.exchange.is_asked(&self.topic("u")) {
            assert!(Instant::now() < deadline, "nobody asks");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// One transfer: whether it was whole, how many have changed and are gone, the number, and on which connection it came.
    async fn receives(&mut self) -> (bool, usize, usize, u64, u64) {
        let (mut whole, mut changed, mut gone) = (false, 0, 0);
        loop {
            let delivery = timeout(SOON, self.deliveries.recv()).await.expect("a part").unwrap();
            assert_eq!(delivery.topic, self.topic("u"));
            whole |= delivery.part.is_whole;
            changed += delivery.part.changed.len();
            gone += delivery.part.gone.len();
            if let Some(end) = delivery.part.end {
                return (whole, changed, gone, end.number, delivery.connection);
            }
        }
    }
}

#[tokio::test]
async fn tracked_connections_come_whole_and_then_what_has_changed() {
    let (source, mut target) = talking().await;
    target.context.exchange.want([target.topic("u")].into());
    source.is_asked().await;
    source.publishes(1, 300);
    assert_eq!(target.receives().await, (true, 300, 0, 1, 1));
    source.publishes(2, 310);
    assert_eq!(target.receives().await, (false, 10, 0, 2, 1));
    source.publishes(3, 300);
    assert_eq!(target.receives().await, (false, 0, 10, 3, 1));
}

#[tokio::test]
async fn nobody_asks_for_connections_who_does_not_want_them() {
    let (source, target) = talking().await;
    target.context.exchange.want([target.topic("another")].into());
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!source.context.exchange.is_asked(&source.topic("u")));
}

/// An agent that is started anew knows nothing, and is told everything.
#[tokio::test]
async fn after_a_cut_everything_comes_again() {
    let (mut source, mut target) = talking().await;
    target.context.exchange.want([target.topic("u")].into());
    source.is_asked().await;
    source.publishes(1, 3);
    assert_eq!(target.receives().await, (true, 3, 0, 1, 1));
    source.stop();
    source.start();
    target.until("a cut", |status| !status.conversations[0].is_connected).await;
    source.wants("there", "u", source_says(false));
    source.is_asked().await;
    source.publishes(2, 4);
    let (whole, changed, _, number, connection) = target.receives().await;
    assert_eq!((whole, changed, number), (true, 4, 2));
    assert!(connection > 1);
}

/// The source says what it knows to nobody but the target of the migration.
#[tokio::test]
async fn tracked_connections_are_for_the_target_only() {
    let (mut source, target) = (Agent::new("here"), Agent::new("there"));
    let other = Agent::new("elsewhere");
    source.knows(&target);
    source.knows(&other);
    source.start();
    source.wants("there", "u", source_says(false));
    for (who, fetch, words) in [
        (&other, target.fetch("here", "u"), "the key is not that of there"),
        (&other, other.fetch("here", "u"), "goes to another one"),
        (&target, target.fetch("here", "v"), "another one"),
    ] {
        let mut raw = who.reaches(&source).await;
        raw.say(&fetch).await;
        raw.is_refused(words).await;
    }
    assert!(!source.context.exchange.is_asked(&source.topic("u")));
    let mut raw = target.reaches(&source).await;
    raw.say(&target.fetch("here", "u")).await;
    source.is_asked().await;
    source.publishes(1, 1);
    loop {
        match raw.next().await.unwrap() {
            Message::Ping => {}
            Message::Part(part) => break assert_eq!(part.changed.len(), 1),
            other => panic!("{other:?}"),
        }
    }
    source.wants_nothing();
    raw.is_cut().await;
    assert!(!source.context.exchange.is_asked(&source.topic("u")));
}

/// Parts have no place where the agents tell each other how things stand.
#[tokio::test]
async fn a_part_on_the_wrong_connection_ends_it() {
    let (_source, _target, mut raw) = welcomed().await;
    raw.say(&Message::Part(Box::default())).await;
    raw.is_refused("part does not belong there").await;
}

/// The word goes out, and is acted on, before either engine has heard of anything; and what an engine says that has not heard of it
/// takes nothing back.
#[tokio::test]
async fn an_announcement_is_told_and_heard_at_once() {
    let (mut source, target) = pair();
    let says = |is_announced| {
        Says::Target(TargetSays { tunnel_id: 7, is_ready: true, is_announced, has_failed: false })
    };
    source.wants("there", "u", source_says(false));
    target.wants_until_announced("here", says(false), Some(5));
    assert_eq!(source.hears().await.2, says(false));
    target.context.table.herald().announced(4);
    target.context.table.herald().announced(5);
    assert_eq!(source.hears().await.2, says(true));
    let start = timeout(SOON, source.started.heard()).await.unwrap().unwrap().start;
    let tunnel = Tunnel { id: 7, peer: target.own.address.ip() };
    assert_eq!(start, Start { endpoint: endpoint("here", 1), tunnel });
    // For another reason; it has not heard of it yet.
    target.wants_until_announced(
        "here",
        Says::Target(TargetSays { tunnel_id: 7, is_ready: false, is_announced: false, has_failed: false }),
        Some(5),
    );
    let Says::Target(heard) = source.hears().await.2 else { panic!() };
    assert!(heard.is_announced && !heard.is_ready);
    // It has, and says so itself; and then that another watch is armed.
    target.wants_until_announced("here", says(true), None);
    assert_eq!(source.hears().await.2, says(true));
    target.wants_until_announced("here", says(false), Some(6));
    assert_eq!(source.hears().await.2, says(false));
    target.context.table.herald().announced(5);
    target.wants_until_announced(
        "here",
        Says::Target(TargetSays { tunnel_id: 8, is_ready: true, is_announced: false, has_failed: false }),
        Some(6),
    );
    let Says::Target(heard) = source.hears().await.2 else { panic!() };
    assert!(!heard.is_announced, "an old watch says nothing");
}
