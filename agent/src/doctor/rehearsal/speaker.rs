//! A peer of ours for one session of the daemon: it is whoever the configuration says that its neighbour is, takes everything that the
//! daemon offers, remembers what it is told, and tells what it is asked to.
//!
//! Owns the session from the first connection to the last message. Knows neither routes nor migrations. A thread does it, so that
//! its sockets are in the network namespace of the thread that starts it.

mod advertisement;
mod message;
mod signature;

use super::observed::Announcement;
use ipnet::IpNet;
use message::{Dialect, HEADER_BYTES, Message, Open};
use nix::sys::socket::sockopt::SendTimeout;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, SockaddrLike, bind, connect, setsockopt,
    socket,
};
use nix::sys::time::{TimeVal, TimeValLike};
use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const PORT: u16 = 179;
/// LIMIT: between two veths an answer takes microseconds; a connection that takes longer is not to be had.
const CONNECT_WITHIN: i64 = 500;
/// How often what there is to tell is looked for while nothing arrives.
const POLL: Duration = Duration::from_millis(5);
const PAUSE: Duration = Duration::from_millis(100);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(1);
/// LIMIT: daemons answer an OPEN at once; one that has not said anything after this long talks to somebody else.
const OPEN_WITHIN: Duration = Duration::from_secs(2);

/// Who a speaker is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Part {
    /// Its own address.
    pub(super) own: IpAddr,
    /// Addresses where the daemon may be, likeliest first.
    pub(super) daemon: Vec<IpAddr>,
    /// The interface of its own side, for link-local addresses.
    pub(super) scope: u32,
    /// The AS that the daemon expects.
    pub(super) expected: Expected,
    pub(super) router_id: u32,
    /// An address of IPv6 on its side, for routes that arrive over IPv4.
    pub(super) ipv6: Option<IpAddr>,
    /// Whether the daemon waits for a router to say who it is.
    pub(super) is_unnumbered: bool,
    /// Passwords of the configuration; which one is this session's shows when it is taken.
    pub(super) passwords: Vec<String>,
}

/// Which AS the daemon expects its neighbour to have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Expected {
    Number(u32),
    /// Its own.
    Internal,
    /// Any other.
    External,
}

/// For neighbours whose AS is up to them.
const ANY_AS: [u32; 2] = [64_496, 64_497];
/// What stands for another host's AS in a path that a router between them passes on.
const AS_OF_ANOTHER_HOST: u32 = 64_498;

/// A speaker at work.
#[derive(Debug)]
pub(super) struct Speaker {
    state: Arc<Mutex<State>>,
    orders: Sender<(IpNet, Announcement)>,
}

/// What came of it so far.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct State {
    pub(super) is_up: bool,
    pub(super) is_external: bool,
    pub(super) families: [bool; 2],
    pub(super) told: BTreeMap<(IpNet, u32), Announcement>,
    /// What ended the last attempt.
    pub(super) trouble: String,
    /// How often the session has ended after it was up.
    pub(super) ends: u64,
    /// How often something was told or taken back.
    pub(super) changes: u64,
}

impl Speaker {
    /// Starts it in the network namespace of this thread.
    pub(super) fn start(part: Part) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let (orders, taken) = mpsc::channel();
        let shared = Arc::clone(&state);
        if part.is_unnumbered {
            advertisement::start(part.scope);
        }
        // It ends with the process.
        std::thread::spawn(move || play(&part, &shared, &taken));
        Self { state, orders }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// What the daemon announces for `destination` now.
    pub(super) fn told(&self, destination: IpNet) -> Vec<Announcement> {
        let state = self.state();
        state.told.range((destination, 0)..=(destination, u32::MAX)).map(|(_, it)| it.clone()).collect()
    }

    /// Announces a route as if it had begun on another host, of which the daemon announced the like with these attributes.
    pub(super) fn announce(&self, destination: IpNet, as_told: Announcement) {
        // A thread that has ended has said why.
        let _ = self.orders.send((destination, as_told));
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn play(part: &Part, state: &Mutex<State>, orders: &Receiver<(IpNet, Announcement)>) {
    let listener = listen(part);
    loop {
        let stream =
            listener.as_ref().ok().and_then(|listener| listener.accept().ok()).map(|(stream, _)| stream);
        let stream = stream.map_or_else(|| dial(part), Ok);
        let ended = stream.and_then(|stream| Conversation::begin(part, stream)?.go_on(part, state, orders));
        if let Err(error) = ended {
            let mut state = lock(state);
            state.trouble = error.to_string();
            state.ends += u64::from(std::mem::take(&mut state.is_up));
            state.told.clear();
        }
        std::thread::sleep(PAUSE);
    }
}

fn listen(part: &Part) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(place(part.own, PORT, part.scope))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn place(address: IpAddr, port: u16, scope: u32) -> SocketAddr {
    match address {
        IpAddr::V4(address) => SocketAddrV4::new(address, port).into(),
        IpAddr::V6(address) => {
            let scope = if address.is_unicast_link_local() { scope } else { 0 };
            SocketAddrV6::new(address, port, 0, scope).into()
        }
    }
}

/// From the address that the daemon knows its neighbour by.
fn dial(part: &Part) -> io::Result<TcpStream> {
    let mut last = io::Error::other("it is not known where the daemon is");
    let passwords = part.passwords.iter().map(|password| Some(password.as_str()));
    let ways = std::iter::once(None).chain(passwords);
    let ways = ways.flat_map(|password| part.daemon.iter().map(move |daemon| (password, daemon)));
    for (password, daemon) in ways {
        let (own, daemon) = (place(part.own, 0, part.scope), place(*daemon, PORT, part.scope));
        let tried = match (own, daemon) {
            (SocketAddr::V4(own), SocketAddr::V4(daemon)) => {
                dial_from(AddressFamily::Inet, &SockaddrIn::from(own), &SockaddrIn::from(daemon), password)
            }
            (SocketAddr::V6(own), SocketAddr::V6(daemon)) => {
                dial_from(AddressFamily::Inet6, &SockaddrIn6::from(own), &SockaddrIn6::from(daemon), password)
            }
            _ => continue,
        };
        match tried {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn dial_from<A: SockaddrLike>(
    family: AddressFamily,
    own: &A,
    daemon: &A,
    password: Option<&str>,
) -> io::Result<TcpStream> {
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&fd, SendTimeout, &TimeVal::milliseconds(CONNECT_WITHIN))?;
    if let Some(password) = password {
        signature::sign(&fd, daemon, password)?;
    }
    bind(fd.as_raw_fd(), own)?;
    connect(fd.as_raw_fd(), daemon)?;
    Ok(TcpStream::from(fd))
}

/// A session that is established.
struct Conversation {
    stream: TcpStream,
    received: Vec<u8>,
    own: Open,
    other: Open,
    dialect: Dialect,
}

impl Conversation {
    /// Up to the daemon's first keepalive.
    fn begin(part: &Part, stream: TcpStream) -> io::Result<Self> {
        stream.set_read_timeout(Some(POLL))?;
        stream.set_write_timeout(Some(OPEN_WITHIN))?;
        // Whoever accepts a connection waits for nothing before it says who it is.
        let nothing = Open::default();
        let mut talk = Self {
            stream,
            received: Vec::new(),
            own: nothing.clone(),
            other: nothing,
            dialect: Dialect::default(),
        };
        let deadline = Instant::now() + OPEN_WITHIN;
        talk.other = loop {
            match talk.next()? {
                Some(Message::Open(open)) => break open,
                Some(Message::Notification(code, subcode)) => return Err(refused(code, subcode)),
                _ if Instant::now() > deadline => {
                    return Err(io::Error::other("the daemon does not say who it is"));
                }
                _ => {}
            }
        };
        let daemon = talk.other.autonomous_system;
        let number = match part.expected {
            Expected::Number(number) => number,
            Expected::Internal => daemon,
            Expected::External => ANY_AS[usize::from(daemon == ANY_AS[0])],
        };
        talk.own = talk.other.answer(number, part.router_id);
        talk.dialect = talk.own.dialect(&talk.other);
        talk.say(&talk.own.encode())?;
        talk.say(&message::keepalive())?;
        loop {
            match talk.next()? {
                Some(Message::Keepalive) => return Ok(talk),
                Some(Message::Notification(code, subcode)) => return Err(refused(code, subcode)),
                _ if Instant::now() > deadline => return Err(io::Error::other("the daemon does not go on")),
                _ => {}
            }
        }
    }

    /// Until something ends it.
    fn go_on(
        mut self,
        part: &Part,
        shared: &Mutex<State>,
        orders: &Receiver<(IpNet, Announcement)>,
    ) -> io::Result<()> {
        for is_ipv6 in [false, true] {
            if self.own.families[usize::from(is_ipv6)] {
                self.say(&message::end_of_rib(is_ipv6))?;
            }
        }
        let is_external = self.own.autonomous_system != self.other.autonomous_system;
        {
            let mut state = lock(shared);
            state.families = self.own.families;
            state.is_external = is_external;
            state.is_up = true;
        }
        let mut said = Instant::now();
        loop {
            while let Ok((destination, as_told)) = orders.try_recv() {
                let announcement = if is_external { self.passed_on(as_told) } else { as_told };
                let hops = self.next_hops(part, destination);
                self.say(&message::announce(destination, &announcement, &hops, self.dialect))?;
            }
            if said.elapsed() > KEEPALIVE_EVERY {
                self.say(&message::keepalive())?;
                said = Instant::now();
            }
            match self.next()? {
                Some(Message::Update(update)) => {
                    let mut state = lock(shared);
                    state.changes += 1;
                    for gone in &update.gone {
                        state.told.remove(gone);
                    }
                    for told in update.told {
                        state.told.insert(told, update.announcement.clone());
                    }
                }
                Some(Message::Notification(code, subcode)) => return Err(refused(code, subcode)),
                _ => {}
            }
        }
    }

    /// What a router between two AS makes of a route: the other host's AS and its own are in the path, and what belongs to an AS
    /// stays there.
    fn passed_on(&self, as_told: Announcement) -> Announcement {
        let own = self.other.autonomous_system;
        let others =
            as_told.path.iter().map(|number| if *number == own { AS_OF_ANOTHER_HOST } else { *number });
        let path = std::iter::once(self.own.autonomous_system).chain(others).collect();
        Announcement { path, local_pref: None, med: None, ..as_told }
    }

    fn next_hops(&self, part: &Part, destination: IpNet) -> Vec<IpAddr> {
        match (destination, part.own) {
            (IpNet::V6(_), IpAddr::V4(_)) => vec![part.ipv6.unwrap_or(part.own)],
            (IpNet::V6(_), IpAddr::V6(own)) if own.is_unicast_link_local() => {
                // Global first, then link-local, where there are two.
                part.ipv6.into_iter().chain([part.own]).collect()
            }
            _ => vec![part.own],
        }
    }

    fn say(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// The next message, if there is one within a moment.
    fn next(&mut self) -> io::Result<Option<Message>> {
        if let Some(message) = self.taken()? {
            return Ok(Some(message));
        }
        let mut bytes = [0; message::LENGTH_MAX];
        match self.stream.read(&mut bytes) {
            Ok(0) => Err(io::Error::other("the daemon closed the connection")),
            Ok(count) => {
                self.received.extend(&bytes[..count]);
                self.taken()
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn taken(&mut self) -> io::Result<Option<Message>> {
        let Some(header) = self.received.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let nonsense = || io::Error::other("what the daemon says is not BGP");
        let length = message::length(header).ok_or_else(nonsense)?;
        if self.received.len() < length {
            return Ok(None);
        }
        let bytes: Vec<u8> = self.received.drain(..length).collect();
        message::decode(&bytes, self.dialect).map(Some).ok_or_else(nonsense)
    }
}

/// RFC 4271, 4.5.
fn refused(code: u8, subcode: u8) -> io::Error {
    let what = match (code, subcode) {
        (2, 2) => "the neighbour has another AS",
        (2, 3) => "the router ids are the same",
        (2, 7) => "a capability is missing",
        (2, 11) => "the roles do not fit",
        (6, 2) => "the session is shut down",
        (6, 5) => "it knows no such neighbour",
        _ => return io::Error::other(format!("the daemon ended it with notification {code}/{subcode}")),
    };
    io::Error::other(format!("the daemon ended it: {what} (notification {code}/{subcode})"))
}
