//! What the sessions with peers have beyond the routes: password, failure detection, distance, own address. The same for all
//! peers of a family.

use super::Family;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// What all sessions have; without anything, what the daemon does by itself.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Sessions {
    /// With which both ends sign their packets.
    pub password: Option<Password>,
    /// Whether a peer that is gone is noticed by BFD.
    pub has_bfd: bool,
    /// How many routers away a peer of another AS is at most; `None` if it is on a subnet of the host's.
    pub hops: Option<u8>,
    /// The address that the host's sessions come from.
    pub ipv4_source: Option<Ipv4Addr>,
    /// The same of IPv6.
    pub ipv6_source: Option<Ipv6Addr>,
}

impl Sessions {
    /// The address that the host's sessions of a family come from.
    #[must_use]
    pub fn source(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::Ipv4 => self.ipv4_source.map(IpAddr::V4),
            Family::Ipv6 => self.ipv6_source.map(IpAddr::V6),
        }
    }
}

/// What signs the packets of a session (TCP MD5, RFC 2385). Shown to nobody but the configuration.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

/// LIMIT: the kernel's, TCP_MD5SIG_MAXKEYLEN.
const PASSWORD_BYTES_MAX: usize = 80;

impl Password {
    /// As it is written into a configuration.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The word itself belongs in no log.
impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password")
    }
}

impl FromStr for Password {
    type Err = &'static str;

    /// What every daemon can be told: BIRD has no way to write a quote within quotes, and FRR ends a word at a space.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() || text.len() > PASSWORD_BYTES_MAX {
            return Err("a password of 1 to 80 characters");
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"') {
            return Err("a password of ASCII letters, digits and signs, without spaces and double quotes");
        }
        Ok(Self(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_what_every_daemon_can_be_told() {
        for text in ["x", "a\\b'#;!c?|", &"p".repeat(80)] {
            assert_eq!(text.parse::<Password>().unwrap().as_str(), text);
        }
        for text in ["", "two words", "a\"b", "ü", "tab\t", "line\n", &"p".repeat(81)] {
            assert!(text.parse::<Password>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_password_is_not_shown() {
        let password: Password = "secret".parse().unwrap();
        let sessions = Sessions { password: Some(password), ..Sessions::default() };
        assert!(!format!("{sessions:?}").contains("secret"));
    }
}
