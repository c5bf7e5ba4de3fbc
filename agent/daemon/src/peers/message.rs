//! What the agents say to each other, and how it is written: JSON, each message with its length before it.
//!
//! Owns the form on the wire and its bounds. Who may say what, and when, is for others.

use super::last_frame::Stated;
use super::record::VERSION;
use crate::handover::Part;
use cutover_engine::EndpointKey;
use cutover_engine::conversation::Says;
use serde::{Deserialize, Serialize};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// LIMIT: a hello names two endpoints with names of at most some hundred bytes each.
pub(super) const MESSAGE_MAX: usize = 4096;
/// LIMIT: 128 connections of 300 bytes, and of the few that are longer as many as there may be.
pub(super) const PART_MAX: usize = 64 * 1024;
const LENGTH_BYTES: usize = 4;
/// The identifier of a tunnel has 24 bits.
const TUNNEL_ID_MAX: u32 = 0x00ff_ffff;

/// One message.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Message {
    /// The first one of who connects.
    Hello(Box<Hello>),
    /// The first one of who was connected to.
    Welcome {
        /// Of the language.
        version: u32,
        /// How things stand there.
        says: Stated,
    },
    /// The first one of who connects for the tracked connections of the virtual machine, instead of a hello. What it says is not
    /// heard; parts are the answer.
    Fetch(Box<Hello>),
    /// A part of what the source knows of them.
    Part(Box<Part>),
    /// How things stand now.
    Says(Stated),
    /// Still there.
    Ping,
    /// The conversation is not wanted any more where this comes from.
    Over,
    /// There will be no conversation, or no more of it.
    Refused {
        /// Why.
        reason: String,
    },
}

/// What a conversation is to be about, and how things stand where it comes from.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Hello {
    /// Of the language.
    pub(super) version: u32,
    /// The migration.
    pub(super) uid: String,
    /// The endpoint of who says this.
    pub(super) from: EndpointKey,
    /// The endpoint of who hears it.
    pub(super) to: EndpointKey,
    /// How things stand.
    pub(super) says: Stated,
}

/// What came is no message.
#[derive(Debug, thiserror::Error)]
pub(super) enum MessageError {
    #[error("a message of {0} bytes, which is too long there")]
    TooLong(usize),
    #[error("a message that cannot be understood: {0}")]
    Unknown(serde_json::Error),
    #[error("it speaks version {0}, and this agent version {VERSION}")]
    OtherVersion(u32),
    #[error("the identifier of a tunnel is {0}, which has more than 24 bits")]
    TunnelId(u32),
    #[error("the connection was cut: {0}")]
    Cut(#[from] io::Error),
}

impl Message {
    /// As it goes over the wire.
    pub(super) fn encode(&self) -> Result<Vec<u8>, MessageError> {
        let mut frame = vec![0; LENGTH_BYTES];
        serde_json::to_writer(&mut frame, self).map_err(MessageError::Unknown)?;
        let length = frame.len() - LENGTH_BYTES;
        let max = if matches!(self, Self::Part(_)) { PART_MAX } else { MESSAGE_MAX };
        let Some(number) = u32::try_from(length).ok().filter(|_| length <= max) else {
            return Err(MessageError::TooLong(length));
        };
        frame[..LENGTH_BYTES].copy_from_slice(&number.to_be_bytes());
        Ok(frame)
    }

    fn decode(text: &[u8]) -> Result<Self, MessageError> {
        let message = serde_json::from_slice(text).map_err(|error| {
            // A later version may have other fields in it.
            let other = version_of(text).filter(|version| *version != VERSION);
            other.map_or(MessageError::Unknown(error), MessageError::OtherVersion)
        })?;
        let (version, says) = match &message {
            Self::Hello(hello) | Self::Fetch(hello) => (hello.version, Some(hello.says)),
            Self::Welcome { version, says } => (*version, Some(*says)),
            Self::Says(says) => (VERSION, Some(*says)),
            Self::Part(_) | Self::Ping | Self::Over | Self::Refused { .. } => (VERSION, None),
        };
        if version != VERSION {
            return Err(MessageError::OtherVersion(version));
        }
        match says.map(|says: Stated| says.says()) {
            Some(Says::Target(target)) if target.tunnel_id > TUNNEL_ID_MAX => {
                Err(MessageError::TunnelId(target.tunnel_id))
            }
            _ => Ok(message),
        }
    }

    /// What it is called in the log.
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Hello(_) => "hello",
            Self::Welcome { .. } => "welcome",
            Self::Fetch(_) => "fetch",
            Self::Part(_) => "part",
            Self::Says(_) => "says",
            Self::Ping => "ping",
            Self::Over => "over",
            Self::Refused { .. } => "refused",
        }
    }
}

fn version_of(text: &[u8]) -> Option<u32> {
    let value: serde_json::Value = serde_json::from_slice(text).ok()?;
    let version =
        ["hello", "welcome", "fetch"].iter().find_map(|name| value.get(name)?.get("version")?.as_u64());
    version.and_then(|version| u32::try_from(version).ok())
}

/// Messages as they come in, however the bytes are cut.
#[derive(Debug)]
pub(super) struct Inbox {
    bytes: Box<[u8]>,
    filled: usize,
}

impl Inbox {
    /// Nothing has come yet.
    pub(super) fn new() -> Self {
        Self::up_to(MESSAGE_MAX)
    }

    /// One for messages of that length.
    pub(super) fn up_to(length: usize) -> Self {
        Self { bytes: vec![0; LENGTH_BYTES + length].into(), filled: 0 }
    }

    /// The next message. What has come of it is kept if this is dropped while it waits.
    ///
    /// # Errors
    /// What came is no message, or the connection has ended. There is no way on from there.
    pub(super) async fn next(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
    ) -> Result<Message, MessageError> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(message);
            }
            match stream.read(&mut self.bytes[self.filled..]).await? {
                0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                read => self.filled += read,
            }
        }
    }

    /// Takes a message out that is there in whole.
    fn take(&mut self) -> Result<Option<Message>, MessageError> {
        let Some((length, rest)) = self.bytes[..self.filled].split_first_chunk::<LENGTH_BYTES>() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        // INVARIANT: what is longer would never fit, so that there is always room for more.
        if length > self.bytes.len() - LENGTH_BYTES {
            return Err(MessageError::TooLong(length));
        }
        let Some(text) = rest.get(..length) else { return Ok(None) };
        let message = Message::decode(text)?;
        let taken = LENGTH_BYTES + length;
        self.bytes.copy_within(taken..self.filled, 0);
        self.filled -= taken;
        Ok(Some(message))
    }
}

#[cfg(test)]
pub(super) mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conntrack::{Entry, Key, Left, State, Tuple};
    use crate::handover::{ENTRIES_PER_PART, End};
    use cutover_engine::conversation::{SourceSays, TargetSays};
    use std::net::IpAddr;
    use std::pin::Pin;
    use std::task::{Context, Poll};
    use tokio::io::ReadBuf;

    fn endpoint(host: &str) -> EndpointKey {
        EndpointKey {
            host: host.to_owned(),
            orchestrator: "openstack".to_owned(),
            workload: "openstack/vm".to_owned(),
            endpoint: "port".to_owned(),
        }
    }

    fn target(tunnel_id: u32) -> Stated {
        Says::Target(TargetSays { tunnel_id, is_ready: true, is_announced: false, has_failed: false }).into()
    }

    pub(super) fn messages() -> Vec<Message> {
        let (from, to) = (endpoint("b"), endpoint("a"));
        let source = Says::Source(SourceSays { is_stopped: true, is_forwarding: false }).into();
        vec![
            Message::Hello(Box::new(Hello {
                version: VERSION,
                uid: "u".to_owned(),
                from,
                to,
                says: target(7),
            })),
            Message::Welcome { version: VERSION, says: source },
            Message::Says(target(TUNNEL_ID_MAX)),
            Message::Ping,
            Message::Over,
            Message::Refused { reason: "\u{202e} no \n".to_owned() },
        ]
    }

    /// Gives so many bytes at a time.
    struct Drip(Vec<u8>, usize);

    impl AsyncRead for Drip {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let count = self.1.min(self.0.len()).min(buffer.remaining());
            buffer.put_slice(&self.0.drain(..count).collect::<Vec<u8>>());
            Poll::Ready(Ok(()))
        }
    }

    fn read_all(bytes: Vec<u8>, at_once: usize) -> (Vec<Message>, MessageError) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (mut stream, mut inbox, mut found) = (Drip(bytes, at_once), Inbox::new(), Vec::new());
            loop {
                match inbox.next(&mut stream).await {
                    Ok(message) => found.push(message),
                    Err(error) => return (found, error),
                }
            }
        })
    }

    #[test]
    fn however_the_bytes_are_cut_the_messages_are_the_same() {
        let bytes: Vec<u8> = messages().iter().flat_map(|message| message.encode().unwrap()).collect();
        for at_once in [1, 2, 3, 5, 64, 100_000] {
            let (found, error) = read_all(bytes.clone(), at_once);
            assert_eq!(found, messages(), "{at_once}");
            assert!(matches!(error, MessageError::Cut(_)), "{error}");
        }
    }

    /// A message that is cut off anywhere is the end of a connection, and not another message.
    #[test]
    fn half_a_message_is_none() {
        let bytes = messages()[0].encode().unwrap();
        for length in 0..bytes.len() {
            let (found, error) = read_all(bytes[..length].to_vec(), 100_000);
            assert!(found.is_empty() && matches!(error, MessageError::Cut(_)), "{length}: {error}");
        }
    }

    #[test]
    fn the_longest_message_fits_and_a_longer_one_is_refused() {
        let of = |length: usize| {
            let empty = Message::Refused { reason: String::new() }.encode().unwrap().len() - LENGTH_BYTES;
            Message::Refused { reason: "x".repeat(length - empty) }
        };
        let longest = of(MESSAGE_MAX);
        let twice = [longest.encode().unwrap(), longest.encode().unwrap()].concat();
        assert_eq!(read_all(twice, 100_000).0, [longest.clone(), longest]);
        assert!(matches!(of(MESSAGE_MAX + 1).encode(), Err(MessageError::TooLong(_))));
        for length in [u32::try_from(MESSAGE_MAX).unwrap() + 1, u32::MAX] {
            let (_, error) = read_all(length.to_be_bytes().to_vec(), 1);
            assert!(matches!(error, MessageError::TooLong(_)), "before any of it has come: {error}");
        }
    }

    #[test]
    fn what_cannot_be_understood_is_said() {
        let read = |text: &str| {
            let length = u32::try_from(text.len()).unwrap().to_be_bytes();
            read_all([&length[..], text.as_bytes()].concat(), 100_000).1
        };
        for text in ["", "{}", "\"pong\"", "null", "{\"says\": {}}", "{\"says\": {\"source\": 1}}", "\u{0}"] {
            assert!(matches!(read(text), MessageError::Unknown(_)), "{text:?}");
        }
        for text in [r#"{"hello": {"version": 2}}"#, r#"{"welcome": {"version": 2, "says": "well"}}"#] {
            assert!(matches!(read(text), MessageError::OtherVersion(2)), "{text:?}");
        }
        let other = r#"{"welcome": {"version": 3, "says": {"source": {"is_stopped": true}}}}"#;
        assert!(matches!(read(other), MessageError::OtherVersion(3)));
        let wide = String::from_utf8(Message::Says(target(TUNNEL_ID_MAX + 1)).encode().unwrap()).unwrap();
        assert!(matches!(read(&wide[LENGTH_BYTES..]), MessageError::TunnelId(_)));
    }

    /// As many of the longest connections as may be in one part.
    #[test]
    fn the_longest_part_fits() {
        let address =
            |last: u16| IpAddr::from([0xfd00, 0x1111, 0x2222, 0x3333, 0x4444, 0x5555, 0x6666, last]);
        let tuple = |source, destination| Tuple {
            source: address(source),
            destination: address(destination),
            protocol: 132,
            key: Key::Ports(65_535, 65_534),
        };
        let entry = Entry {
            original: tuple(0x7777, 0x8888),
            reply: tuple(0x8888, 0x7777),
            seen_reply: false,
            assured: false,
            timeout_s: u32::MAX,
            state: State::Sctp { state: 255, tags: [u32::MAX; 2] },
            mark: u32::MAX,
            labels: Some([255; 16]),
        };
        let part = Part {
            changed: vec![entry; ENTRIES_PER_PART],
            end: Some(End {
                number: u64::MAX,
                is_last: false,
                left: [(Left::TranslatedElsewhere, 9)].into(),
            }),
            ..Part::default()
        };
        let bytes = Message::Part(Box::new(part)).encode().unwrap();
        assert!(bytes.len() < PART_MAX, "{}", bytes.len());
    }
}
