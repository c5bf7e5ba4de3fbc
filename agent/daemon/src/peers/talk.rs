//! A conversation over a connection on which both sides have said hello: the same at both ends.
//!
//! Owns that a change is said at once and only the newest one is, that silence is noticed, and how much may be heard in which time.
//! It makes no connection and knows no records.

use super::context::Context;
use super::last_frame::{Heard, Stated};
use super::message::{Inbox, Message, MessageError};
use super::record::Peer;
use super::table::{Conversation, Topic, Unheard};
use crate::clock;
use crate::logging::printable;
use cutover_engine::Fact;
use cutover_engine::conversation::Says;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until, timeout};

/// LIMIT: how often each side shows that it is there. That also keeps the underlay's neighbour entry, which the first forwarded packet
/// needs.
const PING_EVERY: Duration = Duration::from_secs(1);
/// LIMIT: three signs of life that did not come.
pub(super) const SILENT_FOR: Duration = Duration::from_millis(3500);
/// LIMIT: what is written fits into the buffers of a peer that reads; one that has not read for this long does not.
const WRITE_WITHIN: Duration = Duration::from_secs(3);
/// LIMIT: a peer has a handful of things to say in a migration. One that says more is heard more slowly, and then says only its newest.
const HEARD_AT_ONCE: u32 = 32;
const HEARD_EVERY: Duration = Duration::from_millis(10);

/// Why a conversation ended, or did not begin, without anything being wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum End {
    #[error("nobody wants it here any more")]
    UnwantedHere,
    #[error("nobody wants it there any more")]
    UnwantedThere,
    #[error("there is a newer connection")]
    Replaced,
    #[error("the record of the other host has changed")]
    OtherRecord,
}

/// Why there is no connection, or no more.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    #[error(transparent)]
    NoPeer(#[from] super::book::NoPeer),
    #[error("cannot connect to {to} from {from}: {error}")]
    Connect { from: IpAddr, to: SocketAddr, error: io::Error },
    #[error("the keys do not prove who is who: {0}")]
    Tls(io::Error),
    #[error("cannot set up TLS: {0}")]
    NoTls(#[from] rustls::Error),
    #[error("no {step} within {} ms", .within.as_millis())]
    Late { step: &'static str, within: Duration },
    #[error(transparent)]
    Message(#[from] MessageError),
    #[error("cannot be written to: {0}")]
    Write(io::Error),
    #[error("refused there: {0}")]
    Refused(String),
    #[error("a message that is not expected there: {0}")]
    Unexpected(&'static str),
    #[error(transparent)]
    Unheard(#[from] Unheard),
}

impl Trouble {
    /// In the words of the other side, as many of them as make a line.
    pub(super) fn refused(reason: &str) -> Self {
        // LIMIT: some lines of a terminal; reasons of ours are shorter.
        let words: String = reason.chars().take(300).collect();
        Self::Refused(printable(&words).into_owned())
    }

    /// Whether it is about the one conversation and not about all with that host.
    pub(super) const fn is_of_conversation(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::Unheard(_))
    }
}

/// Waits for one step of a connection's beginning.
pub(super) async fn within<T, E: Into<Trouble>>(
    limit: Duration,
    step: &'static str,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, Trouble> {
    timeout(limit, work).await.map_err(|_| Trouble::Late { step, within: limit })?.map_err(Into::into)
}

/// Writes one message.
pub(super) async fn write(stream: &mut (impl AsyncWrite + Unpin), message: &Message) -> Result<(), Trouble> {
    let bytes = message.encode()?;
    let write = async {
        stream.write_all(&bytes).await?;
        stream.flush().await
    };
    within(WRITE_WITHIN, "room for a message", async { write.await.map_err(Trouble::Write) }).await
}

/// Says a last word. Who does not take it does without.
pub(super) async fn part(stream: &mut (impl AsyncWrite + Unpin), message: &Message) {
    if write(stream, message).await.is_ok() {
        let _ = timeout(WRITE_WITHIN, stream.shutdown()).await;
    }
}

/// How things stand here, in answer to what was heard.
pub(super) fn state(
    context: &Context,
    conversation: &Conversation,
    says: Says,
    heard: Option<Heard>,
) -> Stated {
    match says {
        Says::Source(says) => {
            let seen_at = conversation.tap().and_then(|tap| context.last_frames.of(tap));
            Stated::by_source(says, heard.and_then(|heard| heard.answer(seen_at, clock::now())))
        }
        Says::Target(says) => Stated::Target { says, said_at: Some(clock::now()) },
    }
}

/// Tells the engine what the peer says. Returns what there is to answer.
pub(super) fn heed(
    context: &Context,
    conversation: &Conversation,
    (number, peer): (u64, &Peer),
    stated: &Stated,
) -> Result<Option<Heard>, Unheard> {
    let now = clock::now();
    conversation.hear(number, peer.address.ip(), stated.says(), &context.ears)?;
    if let Some((at, error_ns)) = stated.last_frame().and_then(|last_frame| last_frame.here(now)) {
        let Topic { endpoint, uid, .. } = conversation.topic.clone();
        // Without the loop the agent is about to end.
        let _ = context.ears.facts.send(Fact::LastFrameTold { endpoint, uid, at, error_ns });
    }
    Ok(Heard::of(stated, now))
}

/// When signs of life are due.
pub(super) fn pings() -> Interval {
    let mut pings = interval_at(Instant::now() + PING_EVERY, PING_EVERY);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pings
}

/// One end of a connection.
#[derive(Debug)]
pub(super) struct Line<'a, S> {
    pub(super) stream: S,
    pub(super) inbox: Inbox,
    pub(super) conversation: &'a Conversation,
    /// Of the connection.
    pub(super) number: u64,
    /// Who is at the other end.
    pub(super) peer: Peer,
    /// What was said last is marked as seen.
    pub(super) says: watch::Receiver<Option<Says>>,
    /// What has been heard, and answered.
    pub(super) heard: Option<Heard>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Line<'_, S> {
    /// Talks until one side does not want to any more, or cannot.
    pub(super) async fn talk(self, context: &Context) -> Result<End, Trouble> {
        let Self { mut stream, mut inbox, conversation, number, peer, mut says, mut heard } = self;
        let mut records = context.book.changes();
        let mut ping = pings();
        let mut heard_at = Instant::now();
        let mut allowance = Allowance::new(heard_at);
        let replaced = conversation.replaced(number);
        let mut replaced = std::pin::pin!(replaced);
        loop {
            if !context.book.still_says(&conversation.topic.peer.host, &peer) {
                return Ok(End::OtherRecord);
            }
            let may_hear_at = allowance.next_at();
            let hear = async {
                sleep_until(may_hear_at).await;
                inbox.next(&mut stream).await
            };
            tokio::select! {
                biased;
                changed = says.changed() => {
                    let newest = *says.borrow_and_update();
                    let Some(newest) = newest.filter(|_| changed.is_ok()) else {
                        part(&mut stream, &Message::Over).await;
                        return Ok(End::UnwantedHere);
                    };
                    let stated = state(context, conversation, newest, heard);
                    write(&mut stream, &Message::Says(stated)).await?;
                    ping.reset();
                }
                message = hear => {
                    let message = message?;
                    heard_at = Instant::now();
                    allowance.take(heard_at);
                    match message {
                        Message::Says(stated) => {
                            let before = heard.is_some_and(|heard| heard.is_announced);
                            match heed(context, conversation, (number, &peer), &stated) {
                                Ok(asked) => heard = asked,
                                Err(Unheard::Replaced) => return Ok(End::Replaced),
                                Err(error) => {
                                    let reason = error.to_string();
                                    part(&mut stream, &Message::Refused { reason }).await;
                                    return Err(error.into());
                                }
                            }
                            // Answered at once, because the clocks are compared by how long that takes.
                            let now = *says.borrow();
                            if let Some(now) = now.filter(|_| !before && heard.is_some_and(|it| it.is_announced)) {
                                let stated = state(context, conversation, now, heard);
                                write(&mut stream, &Message::Says(stated)).await?;
                            }
                        }
                        Message::Ping => {}
                        Message::Over => return Ok(End::UnwantedThere),
                        Message::Refused { reason } => return Err(Trouble::refused(&reason)),
                        Message::Hello(_)
                        | Message::Welcome { .. }
                        | Message::Fetch(_)
                        | Message::Part(_) => {
                            let reason = format!("{} does not belong there", message.name());
                            part(&mut stream, &Message::Refused { reason }).await;
                            return Err(Trouble::Unexpected(message.name()));
                        }
                    }
                }
                () = &mut replaced => return Ok(End::Replaced),
                // Looked at in each round.
                _ = records.changed() => {}
                _ = ping.tick() => write(&mut stream, &Message::Ping).await?,
                () = sleep_until(heard_at + SILENT_FOR) => {
                    return Err(Trouble::Late { step: "sign of life", within: SILENT_FOR });
                }
            }
        }
    }
}

/// How much may still be heard at once.
#[derive(Debug)]
struct Allowance {
    left: u32,
    since: Instant,
}

impl Allowance {
    const fn new(now: Instant) -> Self {
        Self { left: HEARD_AT_ONCE, since: now }
    }

    /// When the next message may be heard; in the past for at once.
    fn next_at(&self) -> Instant {
        if self.left > 0 { self.since } else { self.since + HEARD_EVERY }
    }

    fn take(&mut self, now: Instant) {
        let periods = now.duration_since(self.since).as_millis() / HEARD_EVERY.as_millis();
        let earned = u32::try_from(periods).unwrap_or(u32::MAX).min(HEARD_AT_ONCE);
        if earned > 0 {
            self.left = (self.left + earned).min(HEARD_AT_ONCE);
            self.since = now;
        }
        self.left = self.left.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_says_much_is_heard_more_slowly() {
        let began = Instant::now();
        let mut allowance = Allowance::new(began);
        let mut now = began;
        for number in 0..HEARD_AT_ONCE + 100 {
            now = now.max(allowance.next_at());
            allowance.take(now);
            assert!(number >= HEARD_AT_ONCE || now == began, "{number}");
        }
        let took = now - began;
        assert!(took >= HEARD_EVERY * 99 && took <= HEARD_EVERY * 101, "{took:?}");
        now += HEARD_EVERY * 1000;
        for _ in 0..HEARD_AT_ONCE {
            assert!(allowance.next_at() <= now);
            allowance.take(now);
        }
        assert!(allowance.next_at() > now);
    }
}
