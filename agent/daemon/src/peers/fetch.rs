//! Tracked connections go over a connection of their own: however many there are, what the agents say to each other does not wait for
//! them.
//!
//! The target asks while it wants them ([`Exchange::wanted`]), the source answers with whole readings and differences, and both show
//! that they are there. What fails here is tried again, and costs nothing else.
//!
//! [`Exchange::wanted`]: crate::handover::Exchange::wanted

use super::context::Context;
use super::dial::{PAUSE_MAX, WELCOME_WITHIN, reach};
use super::message::{Hello, Inbox, Message, PART_MAX};
use super::record::{Peer, VERSION};
use super::table::{Conversation, Topic};
use super::talk::{End, SILENT_FOR, Trouble, part, pings, within, write};
use crate::handover::{self, Delivery, parts};
use crate::retry::BackOff;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep_until};
use tracing::debug;

fn topic_of(topic: &Topic) -> handover::Topic {
    handover::Topic { endpoint: topic.endpoint.clone(), uid: topic.uid.clone() }
}

/// The target's end: asks for as long as this is polled.
pub(super) async fn ask(context: &Context, conversation: &Conversation) -> Infallible {
    let topic = topic_of(&conversation.topic);
    let mut back_off = BackOff::up_to(PAUSE_MAX);
    // Who cannot be talked to is complained about there.
    conversation.reached().await;
    loop {
        context.exchange.wanted(&topic).await;
        match connection(context, conversation, &topic, &mut back_off).await {
            Ok(reason) => debug!(uid = topic.uid, %reason, "a peer's tracked connections end"),
            Err(trouble) => debug!(uid = topic.uid, %trouble, "a peer's tracked connections cannot be had"),
        }
        tokio::time::sleep(back_off.next_pause()).await;
    }
}

async fn connection(
    context: &Context,
    conversation: &Conversation,
    topic: &handover::Topic,
    back_off: &mut BackOff,
) -> Result<End, Trouble> {
    let host = &conversation.topic.peer.host;
    let peer = context.book.peer(host)?;
    let Some(says) = *conversation.says().borrow() else { return Ok(End::UnwantedHere) };
    let mut stream = reach(context, &peer).await?;
    let Topic { endpoint, uid, peer: there, .. } = conversation.topic.clone();
    let hello = Box::new(Hello { version: VERSION, uid, from: endpoint, to: there, says: says.into() });
    write(&mut stream, &Message::Fetch(hello)).await?;
    let number = context.exchange.next_connection();
    let mut inbox = Inbox::up_to(PART_MAX);
    let mut first = Some(within(WELCOME_WITHIN, "answer", inbox.next(&mut stream)).await?);
    let mut ping = pings();
    let mut records = context.book.changes();
    let mut heard_at = Instant::now();
    let unwanted = context.exchange.unwanted(topic);
    let mut unwanted = std::pin::pin!(unwanted);
    loop {
        let message = match first.take() {
            Some(first) => Some(first),
            None => tokio::select! {
                message = inbox.next(&mut stream) => Some(message?),
                _ = ping.tick() => {
                    write(&mut stream, &Message::Ping).await?;
                    None
                }
                _ = records.changed() => None,
                () = &mut unwanted => {
                    part(&mut stream, &Message::Over).await;
                    return Ok(End::UnwantedHere);
                }
                () = sleep_until(heard_at + SILENT_FOR) => {
                    return Err(Trouble::Late { step: "sign of life", within: SILENT_FOR });
                }
            },
        };
        if !context.book.still_says(host, &peer) {
            return Ok(End::OtherRecord);
        }
        let Some(message) = message else { continue };
        match message {
            Message::Part(part) => {
                back_off.reset();
                let delivery = Delivery { topic: topic.clone(), connection: number, part: *part };
                if !context.exchange.deliver(delivery).await {
                    return Ok(End::UnwantedHere);
                }
            }
            Message::Ping => {}
            Message::Over => return Ok(End::UnwantedThere),
            Message::Refused { reason } => return Err(Trouble::refused(&reason)),
            other => return Err(Trouble::Unexpected(other.name())),
        }
        heard_at = Instant::now();
    }
}

/// The source's end: says everything at first, and then what has changed. Who asks has proved who is there.
pub(super) async fn tell(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    mut inbox: Inbox,
    context: &Context,
    (conversation, peer): (&Conversation, &Peer),
) -> Result<End, Trouble> {
    let mut asked = context.exchange.ask(&topic_of(&conversation.topic));
    asked.readings.mark_changed();
    let mut sent = None;
    let mut ping = pings();
    let mut records = context.book.changes();
    let mut heard_at = Instant::now();
    write(&mut stream, &Message::Ping).await?;
    let unwanted = conversation.unwanted();
    let mut unwanted = std::pin::pin!(unwanted);
    loop {
        if !context.book.still_says(&conversation.topic.peer.host, peer) {
            return Ok(End::OtherRecord);
        }
        tokio::select! {
            biased;
            () = &mut unwanted => {
                part(&mut stream, &Message::Over).await;
                return Ok(End::UnwantedHere);
            }
            message = inbox.next(&mut stream) => match message? {
                Message::Ping => heard_at = Instant::now(),
                Message::Over => return Ok(End::UnwantedThere),
                other => return Err(Trouble::Unexpected(other.name())),
            },
            // Its sender is where it was asked for.
            _ = asked.readings.changed() => {
                let Some(newest) = asked.readings.borrow_and_update().clone() else { continue };
                let (before, now) = (sent.replace(Arc::clone(&newest)), newest);
                // In a large table it takes a while, and others talk on this thread.
                let parts = tokio::task::spawn_blocking(move || parts(before.as_deref(), &now)).await;
                // A panic there is one here.
                for part in parts.unwrap_or_default() {
                    write(&mut stream, &Message::Part(Box::new(part))).await?;
                }
                ping.reset();
            }
            _ = records.changed() => {}
            _ = ping.tick() => write(&mut stream, &Message::Ping).await?,
            () = sleep_until(heard_at + SILENT_FOR) => {
                return Err(Trouble::Late { step: "sign of life", within: SILENT_FOR });
            }
        }
    }
}
