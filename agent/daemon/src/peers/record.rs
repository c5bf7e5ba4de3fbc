//! The record that an agent publishes about itself: where other agents reach it, and by which key they know it.
//!
//! Owns its form as JSON and what makes one unusable whoever reads it. Where records are kept, and whether two hosts suit each other,
//! is for others.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// Of records and of messages. Another one is another language.
pub(super) const VERSION: u32 = 1;

/// LIMIT: ten times what a record of this version takes.
pub(super) const TEXT_MAX: usize = 4096;

/// Ed25519 in a SubjectPublicKeyInfo (RFC 8410): what comes before the 32 bytes of the key itself.
const KEY_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
const KEY_BYTES: usize = KEY_PREFIX.len() + 32;

/// The public half of an agent's key, as a SubjectPublicKeyInfo.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PublicKey([u8; KEY_BYTES]);

impl PublicKey {
    /// Nothing if these bytes are no Ed25519 key.
    pub(super) fn new(der: &[u8]) -> Option<Self> {
        let bytes: [u8; KEY_BYTES] = der.try_into().ok()?;
        bytes.starts_with(&KEY_PREFIX).then_some(Self(bytes))
    }

    fn from_hex(text: &str) -> Option<Self> {
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let bytes: Option<Vec<u8>> = text
            .as_bytes()
            .chunks(2)
            .map(|pair| Some(digit(pair[0])? << 4 | digit(*pair.get(1)?)?))
            .collect();
        Self::new(&bytes?)
    }
}

/// Hexadecimal, as in records.
impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// What a usable record says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Peer {
    /// What it proves that it has the other half of.
    pub(super) key: PublicKey,
    /// Its end of the tunnel in the underlay, and where it listens.
    pub(super) address: SocketAddr,
    /// UDP port of its tunnel.
    pub(super) tunnel_port: u16,
}

/// A record is of no use.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum RecordError {
    #[error("it has {0} bytes, and a record has at most {TEXT_MAX}")]
    TooLong(usize),
    #[error("it is not the JSON of a record: {0}")]
    NotJson(String),
    #[error("its version is {0}, and this agent knows version {VERSION}")]
    OtherVersion(u32),
    #[error("its public_key is not an Ed25519 SubjectPublicKeyInfo in hexadecimal")]
    BadKey,
    #[error("its address {0} is not one that a host can be reached at")]
    BadAddress(IpAddr),
    #[error("its {0} is 0")]
    NoPort(&'static str),
}

#[derive(Serialize, Deserialize)]
struct Document {
    version: u32,
    public_key: String,
    address: IpAddr,
    port: u16,
    tunnel_port: u16,
}

#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

impl Peer {
    /// Reads a record.
    pub(super) fn read(text: &[u8]) -> Result<Self, RecordError> {
        if text.len() > TEXT_MAX {
            return Err(RecordError::TooLong(text.len()));
        }
        let not_json = |error: serde_json::Error| RecordError::NotJson(error.to_string());
        // ORDER: a later version may have other fields.
        let Versioned { version } = serde_json::from_slice(text).map_err(not_json)?;
        if version != VERSION {
            return Err(RecordError::OtherVersion(version));
        }
        let Document { public_key, address, port, tunnel_port, .. } =
            serde_json::from_slice(text).map_err(not_json)?;
        let key = PublicKey::from_hex(&public_key).ok_or(RecordError::BadKey)?;
        if !is_of_a_host(address) {
            return Err(RecordError::BadAddress(address));
        }
        for (name, number) in [("port", port), ("tunnel_port", tunnel_port)] {
            if number == 0 {
                return Err(RecordError::NoPort(name));
            }
        }
        Ok(Self { key, address: SocketAddr::new(address, port), tunnel_port })
    }

    /// The record that says this.
    pub(super) fn text(&self) -> String {
        let document = Document {
            version: VERSION,
            public_key: self.key.to_string(),
            address: self.address.ip(),
            port: self.address.port(),
            tunnel_port: self.tunnel_port,
        };
        serde_json::to_string(&document).unwrap_or_default()
    }
}

/// Whether an address can be one host's own, as seen from another. A link-local one means nothing without the name of a link.
pub(super) fn is_of_a_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            !address.is_unspecified() && !address.is_multicast() && !address.is_broadcast()
        }
        IpAddr::V6(address) => {
            !address.is_unspecified()
                && !address.is_multicast()
                && !address.is_unicast_link_local()
                && address.to_ipv4_mapped().is_none()
        }
    }
}

#[cfg(test)]
pub(super) mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> Peer {
        let mut key = [7; KEY_BYTES];
        key[..KEY_PREFIX.len()].copy_from_slice(&KEY_PREFIX);
        Peer { key: PublicKey(key), address: "192.0.2.1:7179".parse().unwrap(), tunnel_port: 4790 }
    }

    fn changed(field: &str, value: &serde_json::Value) -> Result<Peer, RecordError> {
        let mut document: serde_json::Value = serde_json::from_str(&peer().text()).unwrap();
        document[field] = value.clone();
        Peer::read(document.to_string().as_bytes())
    }

    #[test]
    fn what_is_written_can_be_read() {
        assert_eq!(Peer::read(peer().text().as_bytes()), Ok(peer()));
        assert_eq!(changed("of_a_later_agent", &1.into()), Ok(peer()));
    }

    #[test]
    fn what_is_unusable_says_why() {
        use RecordError::*;
        assert_eq!(changed("version", &2.into()), Err(OtherVersion(2)));
        for key in ["", "30", "zz", "é", &"00".repeat(KEY_BYTES), &peer().key.to_string()[1..]] {
            assert_eq!(changed("public_key", &key.into()), Err(BadKey), "{key:?}");
        }
        for address in
            ["0.0.0.0", "::", "224.0.0.1", "255.255.255.255", "ff02::1", "fe80::1", "::ffff:10.0.0.1"]
        {
            let bad = BadAddress(address.parse().unwrap());
            assert_eq!(changed("address", &address.into()), Err(bad));
        }
        assert_eq!(changed("port", &0.into()), Err(NoPort("port")));
        assert_eq!(changed("tunnel_port", &0.into()), Err(NoPort("tunnel_port")));
        for (field, value) in [("port", "70000".into()), ("port", 70_000.into()), ("address", "here".into())]
        {
            assert!(matches!(changed(field, &value), Err(NotJson(_))), "{field} {value}");
        }
        for text in ["", "{", "[]", "null", "{\"version\": 1}", "{\"version\": -1}"] {
            assert!(matches!(Peer::read(text.as_bytes()), Err(NotJson(_))), "{text}");
        }
        assert_eq!(Peer::read(&vec![b' '; TEXT_MAX + 1]), Err(TooLong(TEXT_MAX + 1)));
    }
}
