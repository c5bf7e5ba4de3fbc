//! The source's end: takes the connections of targets' agents, and talks about what the engine wants to be talked about.
//!
//! Who is no peer by its address, key, name or topic is turned away at the first of them that is wrong, and holds nothing up.

use super::book::NoPeer;
use super::context::Context;
use super::fetch;
use super::identity::key_of;
use super::message::{Hello, Inbox, Message};
use super::record::{Peer, VERSION};
use super::report::PeersReport;
use super::table::{Conversation, Unwanted};
use super::talk::{End, Line, Trouble, heed, part, state, within, write};
use crate::clock;
use crate::logging::printable;
use crate::priority::ordinary;
use crate::retry::BackOff;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, error, info, warn};

/// LIMIT: two round trips and two signatures, on a busy host.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(3);
/// LIMIT: comes with the end of the handshake.
const HELLO_WITHIN: Duration = Duration::from_secs(3);
/// LIMIT: how much later this host may see a migration than the other one before that has to ask again.
const KNOWN_WITHIN: Duration = Duration::from_secs(3);
/// LIMIT: some tens of kilobytes each. A host that is emptied has a hundred migrations at once.
const CONNECTIONS_MAX: usize = 512;
/// LIMIT: the hundred of a host that is emptied to a single one, and those that they take the place of.
const CONNECTIONS_OF_ONE_MAX: usize = 256;

/// Why somebody who connected is turned away.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Trouble(#[from] Trouble),
    #[error("the key is not one of a host")]
    NoKey,
    #[error(transparent)]
    NoPeer(#[from] NoPeer),
    #[error("the key is not that of {}", printable(.0))]
    OtherKey(String),
    #[error("it comes from {from}, and the address of {} is {known}", printable(.host))]
    OtherAddress { host: String, from: IpAddr, known: IpAddr },
    #[error("it says {0} instead of hello")]
    NoHello(&'static str),
    #[error(transparent)]
    Unwanted(#[from] Unwanted),
}

/// Listens for ever.
pub(super) async fn run(address: SocketAddr, context: Context, report: PeersReport) {
    let acceptor = match context.identity.acceptor(context.book.clone()) {
        Ok(acceptor) => acceptor,
        Err(error) => {
            report.is_bad("keys", &error.to_string());
            error!(%error, "Cannot set up TLS for other hosts' agents; they cannot talk to this one");
            return std::future::pending().await;
        }
    };
    let listener = bind(address, &report).await;
    let (mut tasks, guests) = (JoinSet::new(), Guests::default());
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, from)) => {
                    let from = from.ip();
                    let Some(guest) = admit(&context, &guests, from, tasks.len()) else { continue };
                    let (context, acceptor) = (context.clone(), acceptor.clone());
                    tasks.spawn(async move {
                        let _guest = guest;
                        serve(&context, &acceptor, stream, from).await;
                    });
                }
                Err(error) => {
                    // KERNEL: accept(2) also fails for one connection only, or because there are too many files.
                    if context.complaints.begin("accept", clock::now()) {
                        warn!(%error, "Cannot take connections of other hosts' agents; it is tried again");
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(ended) = tasks.join_next(), if !tasks.is_empty() => {
                if let Err(error) = ended {
                    error!(%error, "A conversation with another host's agent ended by a defect");
                }
            }
        }
    }
}

async fn bind(address: SocketAddr, report: &PeersReport) -> TcpListener {
    let mut back_off = BackOff::new();
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                if report.is_good("listener") {
                    info!(%address, "Listening for other hosts' agents again");
                } else {
                    info!(%address, "Listening for other hosts' agents");
                }
                return listener;
            }
            Err(error) => {
                let mend = match error.kind() {
                    io::ErrorKind::AddrInUse => "end the program that has it, or set CutoverPeerPort",
                    io::ErrorKind::AddrNotAvailable => {
                        "give this host the address, or set CutoverPeerAddress to one that it has"
                    }
                    _ => "look at CutoverPeerAddress and CutoverPeerPort",
                };
                if report.is_bad("listener", &format!("cannot listen on {address}: {error}")) {
                    error!(%address, %error, mend, "Cannot listen for other hosts' agents; it is tried again, and everything else goes on");
                }
                tokio::time::sleep(back_off.next_pause()).await;
            }
        }
    }
}

/// How many connections come from where.
#[derive(Clone, Debug, Default)]
struct Guests(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One connection.
#[derive(Debug)]
struct Guest {
    of: Guests,
    from: IpAddr,
}

impl Guests {
    fn change<T>(&self, from: IpAddr, change: impl FnOnce(&mut usize) -> T) -> T {
        let mut guests = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = guests.entry(from).or_default();
        let result = change(count);
        if *count == 0 {
            guests.remove(&from);
        }
        result
    }

    fn enter(&self, from: IpAddr) -> Option<Guest> {
        let has_entered = self.change(from, |count| {
            let has_room = *count < CONNECTIONS_OF_ONE_MAX;
            *count += usize::from(has_room);
            has_room
        });
        has_entered.then(|| Guest { of: self.clone(), from })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.of.change(self.from, |count| *count -= 1);
    }
}

/// Whether somebody is listened to at all. It costs nothing to be turned away here.
fn admit(context: &Context, guests: &Guests, from: IpAddr, connections: usize) -> Option<Guest> {
    let reason = if !context.book.has_address(from) {
        "no host has this address"
    } else if connections >= CONNECTIONS_MAX {
        "there are too many connections"
    } else {
        match guests.enter(from) {
            Some(guest) => return Some(guest),
            None => "there are too many connections from there",
        }
    };
    complain(context, from, &reason, REFUSED);
    None
}

const REFUSED: &str = "A connection to the port for other hosts' agents is refused";

fn complain(context: &Context, from: IpAddr, reason: &dyn std::fmt::Display, what: &str) {
    if context.complaints.begin(&about(from), clock::now()) {
        warn!(%from, %reason, "{what}");
    } else {
        debug!(%from, %reason, "{what}");
    }
}

fn about(from: IpAddr) -> String {
    format!("guest {from}")
}

async fn serve(context: &Context, acceptor: &TlsAcceptor, stream: TcpStream, from: IpAddr) {
    let (mut number, mut conversation) = (None, None);
    let ended = conversation_with(context, acceptor, stream, from, (&mut number, &mut conversation)).await;
    match (ended, conversation) {
        (Ok(end), Some(conversation)) => {
            debug!(%from, uid = %conversation.topic.uid, reason = %end, "a conversation with a peer ended");
            conversation.disconnected(number, end.to_string());
        }
        (Err(refusal), Some(conversation)) => {
            complain(
                context,
                from,
                &refusal,
                "A peer's agent cannot be talked to any more until it asks again",
            );
            conversation.disconnected(number, refusal.to_string());
        }
        (Err(refusal), None) => complain(context, from, &refusal, REFUSED),
        (Ok(_), None) => {}
    }
}

async fn conversation_with(
    context: &Context,
    acceptor: &TlsAcceptor,
    stream: TcpStream,
    from: IpAddr,
    (number, found): (&mut Option<u64>, &mut Option<Arc<Conversation>>),
) -> Result<End, Refusal> {
    stream.set_nodelay(true).map_err(|error| Trouble::Message(error.into()))?;
    let handshake = ordinary(async { acceptor.accept(stream).await.map_err(Trouble::Tls) });
    let mut stream = within(HANDSHAKE_WITHIN, "end of the handshake", handshake).await?;
    let key = key_of(stream.get_ref().1.peer_certificates()).ok_or(Refusal::NoKey)?;
    let mut inbox = Inbox::new();
    let (hello, fetches) = match within(HELLO_WITHIN, "hello", inbox.next(&mut stream)).await? {
        Message::Hello(hello) => (hello, false),
        Message::Fetch(hello) => (hello, true),
        other => return Err(Refusal::NoHello(other.name())),
    };
    let entered = match peer_of(context, &hello, key, from) {
        Ok(peer) => tokio::select! {
            // ORDER: looked at first. Who has gone while it waited must not take the place of who came after it.
            biased;
            more = inbox.next(&mut stream) => match more {
                Ok(more) => Err(Trouble::Unexpected(more.name()).into()),
                Err(_) => return Ok(End::UnwantedThere),
            },
            entered = wait_wanted(context, &hello) => entered.map(|conversation| (peer, conversation)),
        },
        Err(refusal) => Err(refusal),
    };
    let (peer, conversation) = match entered {
        Ok(entered) => entered,
        Err(Refusal::Unwanted(Unwanted::Over)) => {
            part(&mut stream, &Message::Over).await;
            return Ok(End::UnwantedHere);
        }
        Err(refusal) => {
            part(&mut stream, &Message::Refused { reason: refusal.to_string() }).await;
            return Err(refusal);
        }
    };
    if !context.book.still_says(&hello.from.host, &peer) {
        return Ok(End::OtherRecord);
    }
    if fetches {
        let ended = ordinary(fetch::tell(stream, inbox, context, (&conversation, &peer))).await;
        // The other connection is the one that is complained about.
        return Ok(ended.unwrap_or_else(|trouble| {
            debug!(%from, uid = %hello.uid, %trouble, "a peer does not want tracked connections any more");
            End::UnwantedThere
        }));
    }
    let mut says = conversation.says();
    let now = *says.borrow_and_update();
    let Some(now) = now else {
        part(&mut stream, &Message::Over).await;
        return Ok(End::UnwantedHere);
    };
    let connected = conversation.connect();
    *number = Some(connected);
    let conversation = &*found.insert(conversation);
    let heard = match heed(context, conversation, (connected, &peer), &hello.says) {
        Ok(heard) => heard,
        Err(error) => {
            part(&mut stream, &Message::Refused { reason: error.to_string() }).await;
            return Err(Trouble::from(error).into());
        }
    };
    let says_now = state(context, conversation, now, heard);
    write(&mut stream, &Message::Welcome { version: VERSION, says: says_now }).await?;
    if context.complaints.end(&about(from)) {
        info!(%from, peer = %hello.from.host, "A peer's agent can talk to this one again");
    }
    let line = Line { stream, inbox, conversation, number: connected, peer, says, heard };
    Ok(line.talk(context).await?)
}

/// The host that the one who says hello speaks for, if it may.
fn peer_of(
    context: &Context,
    hello: &Hello,
    key: super::record::PublicKey,
    from: IpAddr,
) -> Result<Peer, Refusal> {
    let host = hello.from.host.clone();
    let peer = context.book.peer(&host)?;
    if peer.key != key {
        return Err(Refusal::OtherKey(host));
    }
    let known = peer.address.ip();
    if known != from {
        return Err(Refusal::OtherAddress { host, from, known });
    }
    Ok(peer)
}

/// The conversation that is asked for. The other host may know of the migration a moment before this one does.
async fn wait_wanted(context: &Context, hello: &Hello) -> Result<Arc<Conversation>, Refusal> {
    let mut changes = context.table.changes();
    let deadline = Instant::now() + KNOWN_WITHIN;
    loop {
        changes.mark_unchanged();
        match context.table.find(hello) {
            Ok(conversation) => return Ok(conversation),
            Err(unwanted) => {
                if !matches!(timeout_at(deadline, changes.changed()).await, Ok(Ok(()))) {
                    return Err(unwanted.into());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_has_only_so_many_connections() {
        let guests = Guests::default();
        let (one, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let mut inside: Vec<Guest> = std::iter::from_fn(|| guests.enter(one)).collect();
        assert_eq!(inside.len(), CONNECTIONS_OF_ONE_MAX);
        assert!(guests.enter(other).is_some());
        inside.pop();
        assert!(guests.enter(one).is_some());
        inside.clear();
        assert!(guests.0.lock().unwrap().is_empty());
    }
}
