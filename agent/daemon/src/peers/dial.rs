//! The target's end: connects to the source's agent for as long as the engine wants the conversation.

use super::book::NoPeer;
use super::context::Context;
use super::fetch;
use super::message::{Hello, Inbox, Message};
use super::record::{Peer, VERSION};
use super::table::{Conversation, Topic};
use super::talk::{End, Line, Trouble, heed, state, within, write};
use crate::clock;
use crate::priority::ordinary;
use crate::retry::BackOff;
use rustls::pki_types::ServerName;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::client::TlsStream;
use tracing::{debug, info, warn};

/// LIMIT: an underlay answers within milliseconds; the kernel would repeat a lost SYN after one second.
const CONNECT_WITHIN: Duration = Duration::from_millis(2500);
/// LIMIT: two round trips and two signatures, on a busy host.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(3);
/// LIMIT: longer than a source waits for a migration to be known to it, too.
pub(super) const WELCOME_WITHIN: Duration = Duration::from_secs(6);
/// LIMIT: a migration lasts for seconds, and who is back should be found while it does.
pub(super) const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Has one conversation until nobody wants it any more.
pub(super) async fn run(context: Context, conversation: Arc<Conversation>) {
    tokio::select! {
        // What is to be said is said before anything takes an ordinary priority, with which others may run first.
        biased;
        () = attempts(&context, &conversation) => {}
        never = ordinary(fetch::ask(&context, &conversation)) => match never {},
        // One that is talked about says so itself, in [`Line::talk`].
        () = async {
            conversation.unwanted().await;
            tokio::time::sleep(HANDSHAKE_WITHIN).await;
        } => {}
    }
    context.complaints.end(&about_conversation(&conversation.topic));
}

async fn attempts(context: &Context, conversation: &Conversation) {
    let topic = &conversation.topic;
    let mut records = context.book.changes();
    let mut back_off = BackOff::up_to(PAUSE_MAX);
    let mut number = None;
    loop {
        records.mark_unchanged();
        let peer = context.book.peer(&topic.peer.host);
        let ended = match peer.clone() {
            Ok(peer) => connection(context, conversation, &peer, &mut back_off, &mut number).await,
            Err(error) => Err(error.into()),
        };
        match ended {
            Ok(End::UnwantedHere) => return,
            Ok(end) => {
                debug!(peer = %topic.peer.host, uid = %topic.uid, reason = %end, "a conversation with a peer ended");
                conversation.disconnected(number, end.to_string());
            }
            Err(trouble) => {
                conversation.disconnected(number, trouble.to_string());
                complain(context, topic, &trouble);
            }
        }
        let pause = tokio::time::sleep(back_off.next_pause());
        let news = async {
            while context.book.peer(&topic.peer.host) == peer {
                if records.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::select! {
            () = pause => {}
            // It was started again, or has been mended.
            () = news => back_off.reset(),
            () = conversation.unwanted() => return,
        }
    }
}

async fn connection(
    context: &Context,
    conversation: &Conversation,
    peer: &Peer,
    back_off: &mut BackOff,
    number: &mut Option<u64>,
) -> Result<End, Trouble> {
    let topic = &conversation.topic;
    let mut stream = reach(context, peer).await?;
    let mut says = conversation.says();
    let Some(now) = *says.borrow_and_update() else { return Ok(End::UnwantedHere) };
    let Topic { endpoint, uid, peer: there, .. } = topic.clone();
    let says_now = state(context, conversation, now, None);
    let hello = Box::new(Hello { version: VERSION, uid, from: endpoint, to: there, says: says_now });
    write(&mut stream, &Message::Hello(hello)).await?;
    let mut inbox = Inbox::new();
    let answer = tokio::select! {
        answer = within(WELCOME_WITHIN, "answer", inbox.next(&mut stream)) => answer?,
        () = conversation.unwanted() => return Ok(End::UnwantedHere),
    };
    let theirs = match answer {
        Message::Welcome { says, .. } => says,
        Message::Refused { reason } => return Err(Trouble::refused(&reason)),
        Message::Over => return Ok(End::UnwantedThere),
        other => return Err(Trouble::Unexpected(other.name())),
    };
    let connected = conversation.connect();
    *number = Some(connected);
    let heard = heed(context, conversation, (connected, peer), &theirs)?;
    back_off.reset();
    let was_host = context.complaints.end(&about_host(&topic.peer.host));
    if context.complaints.end(&about_conversation(topic)) || was_host {
        info!(peer = %topic.peer.host, uid = %topic.uid, "A peer's agent can be talked to again");
    }
    let line = Line { stream, inbox, conversation, number: connected, peer: *peer, says, heard };
    line.talk(context).await
}

/// Connects to a peer, and proves to it who is there.
pub(super) async fn reach(context: &Context, peer: &Peer) -> Result<TlsStream<TcpStream>, Trouble> {
    let (from, to) = (context.book.own_address(), peer.address);
    let refuse = |error| Trouble::Connect { from: from.ip(), to, error };
    let tcp = async { connect(from, to).await.map_err(refuse) };
    let tcp = within(CONNECT_WITHIN, "connection", tcp).await?;
    let connector = context.identity.connector(peer.key)?;
    let tls = connector.connect(ServerName::IpAddress(to.ip().into()), tcp);
    let handshake = ordinary(async { tls.await.map_err(Trouble::Tls) });
    within(HANDSHAKE_WITHIN, "end of the handshake", handshake).await
}

/// From the address in this host's record, by which the other one knows it as well.
pub(super) async fn connect(from: SocketAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.bind(from)?;
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn about_host(host: &str) -> String {
    format!("host {host}")
}

fn about_conversation(topic: &Topic) -> String {
    format!("conversation {} {}", topic.endpoint, topic.uid)
}

fn complain(context: &Context, topic: &Topic, trouble: &Trouble) {
    let about =
        if trouble.is_of_conversation() { about_conversation(topic) } else { about_host(&topic.peer.host) };
    let is_usual = matches!(trouble, Trouble::NoPeer(NoPeer::NotRead));
    if is_usual || !context.complaints.begin(&about, clock::now()) {
        debug!(peer = %topic.peer.host, uid = %topic.uid, %trouble, "a peer's agent cannot be talked to");
    } else {
        warn!(
            peer = %topic.peer.host, uid = %topic.uid, reason = %trouble,
            "A peer's agent cannot be talked to; what still comes there for the virtual machine is not forwarded until it can"
        );
    }
}
