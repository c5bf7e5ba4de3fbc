//! One tracked connection as it travels from the host that a VM leaves to the host where it goes. Pure.
//!
//! Owns the words: [`Tuple`], [`Entry`], [`Entries`], and what changed between two readings. It does not know how the kernel
//! spells them ([`super::message`]) and judges nobody ([`super::selection`], [`super::admission`]).
//!
//! What is not in an entry is left behind on purpose. Positions of windows are not told by the kernel; counters, times and security
//! contexts are of the host that made them.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

/// LIMIT: a quarter of the entries for which a kernel has room by default (`nf_conntrack_max`, 262,144): one VM must not push the
/// others' connections out where it goes. Some 16 MB as text.
pub const ENTRIES_MAX: usize = 65_536;

/// LIMIT: what the kernel gives an established TCP connection by default, the longest of its times: five days.
pub const TIMEOUT_MAX: Duration = Duration::from_hours(120);

/// How the packets of one direction are told apart from all others.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Tuple {
    /// Source address.
    #[serde(rename = "s")]
    pub source: IpAddr,
    /// Destination address, of the same family.
    #[serde(rename = "d")]
    pub destination: IpAddr,
    /// Number of the protocol above IP.
    #[serde(rename = "p")]
    pub protocol: u8,
    /// What else the protocol tells.
    #[serde(rename = "k")]
    pub key: Key,
}

/// What tells connections of one protocol between the same two addresses apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Key {
    /// Nothing.
    #[serde(rename = "n")]
    Nothing,
    /// Ports: source and destination. The two call identifiers of GRE count as such.
    #[serde(rename = "p")]
    Ports(u16, u16),
    /// ICMP or ICMPv6: identifier, type and code.
    #[serde(rename = "i")]
    Icmp(u16, u8, u8),
}

impl Tuple {
    /// The answers to these packets if nothing is translated. `like` gives the type that answers have in ICMP.
    #[must_use]
    pub(super) fn answered(&self, like: &Self) -> Self {
        let key = match (self.key, like.key) {
            (Key::Ports(source, destination), _) => Key::Ports(destination, source),
            (Key::Icmp(id, ..), Key::Icmp(_, kind, code)) => Key::Icmp(id, kind, code),
            (key, _) => key,
        };
        Self { source: self.destination, destination: self.source, protocol: self.protocol, key }
    }

    /// What a translation of the source of this direction's packets changes: the address, and the port or identifier.
    pub(super) const fn near(&self) -> (IpAddr, u16) {
        let number = match self.key {
            Key::Nothing => 0,
            Key::Ports(source, _) => source,
            Key::Icmp(id, ..) => id,
        };
        (self.source, number)
    }

    /// The same for the destination.
    pub(super) const fn far(&self) -> (IpAddr, u16) {
        let number = match self.key {
            Key::Nothing => 0,
            Key::Ports(_, destination) => destination,
            Key::Icmp(id, ..) => id,
        };
        (self.destination, number)
    }
}

/// One connection.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// Packets of the end that spoke first, as they come in.
    #[serde(rename = "o")]
    pub original: Tuple,
    /// Packets of the other end, as they come in. Where this is not the answer to `original`, addresses are translated.
    #[serde(rename = "r")]
    pub reply: Tuple,
    /// The other end has answered.
    #[serde(rename = "b")]
    pub seen_reply: bool,
    /// It is not the first to go when the table is full.
    #[serde(rename = "a")]
    pub assured: bool,
    /// After so many seconds without a packet it ends.
    #[serde(rename = "t")]
    pub timeout_s: u32,
    /// What is known of the protocol's state.
    #[serde(rename = "x")]
    pub state: State,
    /// Mark; 0 is none.
    #[serde(rename = "m")]
    pub mark: u32,
    /// Labels, if any is set.
    #[serde(rename = "l")]
    pub labels: Option<[u8; 16]>,
}

/// What a protocol remembers. The numbers are the kernel's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum State {
    /// Nothing.
    #[serde(rename = "n")]
    Nothing,
    /// TCP.
    #[serde(rename = "t")]
    Tcp {
        /// Number of the state (TCP_CONNTRACK_*).
        #[serde(rename = "s")]
        state: u8,
        /// Flags of the original and the reply direction (IP_CT_TCP_FLAG_*).
        #[serde(rename = "f")]
        flags: [u8; 2],
        /// Window scale of both.
        #[serde(rename = "w")]
        scale: [u8; 2],
    },
    /// SCTP.
    #[serde(rename = "s")]
    Sctp {
        /// Number of the state (SCTP_CONNTRACK_*).
        #[serde(rename = "s")]
        state: u8,
        /// Verification tags of the original and the reply direction.
        #[serde(rename = "v")]
        tags: [u32; 2],
    },
    /// DCCP, on kernels that still track it.
    #[serde(rename = "d")]
    Dccp {
        /// Number of the state (CT_DCCP_*).
        #[serde(rename = "s")]
        state: u8,
        /// Which role the original direction has (CT_DCCP_ROLE_*).
        #[serde(rename = "r")]
        role: u8,
        /// Sequence number of the handshake.
        #[serde(rename = "h")]
        handshake: u64,
    },
}

/// Why a connection of the VM is not carried.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Left {
    /// It is in a zone of somebody's own.
    Zone,
    /// A helper follows it, which may have changed what it carries.
    Helper,
    /// Another connection has announced it.
    Expected,
    /// Its sequence numbers are shifted.
    Adjusted,
    /// It is about this host only: the metadata service, link-local addresses, DHCP.
    OfThisHost,
    /// It is translated to an address that is not the VM's and stays here.
    TranslatedElsewhere,
    /// It is ending.
    Dying,
    /// Nothing says how long it lasts, or something else is missing.
    Unreadable,
    /// There are more than [`ENTRIES_MAX`].
    TooMany,
}

/// All connections of a VM.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Entries {
    /// Those that can be carried, each original tuple once.
    pub carried: Vec<Entry>,
    /// How many cannot, and why.
    pub left: BTreeMap<Left, usize>,
    /// The kernel was disturbed at every attempt, so some may be missing.
    pub is_partial: bool,
}

/// What a later reading has that an earlier one has not.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Difference {
    /// New ones, and those that are not what they were.
    pub changed: Vec<Entry>,
    /// The original tuples of those that are gone.
    pub gone: Vec<Tuple>,
}

impl Entries {
    /// What has changed since `earlier`, which was read `since` ago.
    ///
    /// An entry whose time only runs on, or was set back to the same length, is the same: the one that was carried runs on, too. It is
    /// sent again only when it would end before half of the time that it has now.
    #[must_use]
    pub fn since(&self, earlier: &Self, since: Duration) -> Difference {
        let mut before: BTreeMap<Tuple, &Entry> =
            earlier.carried.iter().map(|entry| (entry.original, entry)).collect();
        let passed_s = u32::try_from(since.as_secs()).unwrap_or(u32::MAX);
        let changed = self.carried.iter().filter(|now| match before.remove(&now.original) {
            Some(then) => {
                let is_short = then.timeout_s.saturating_sub(passed_s) < now.timeout_s / 2;
                is_short || **now != Entry { timeout_s: now.timeout_s, ..then.clone() }
            }
            None => true,
        });
        let changed = changed.cloned().collect();
        // What a partial reading does not have may be there.
        let gone = if self.is_partial { Vec::new() } else { before.into_keys().collect() };
        Difference { changed, gone }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conntrack::samples;

    #[test]
    fn an_entry_is_small_as_text_and_comes_back() {
        for entry in samples::all() {
            let text = serde_json::to_string(&entry).unwrap();
            assert!(text.len() <= 300, "{}: {text}", text.len());
            assert_eq!(serde_json::from_str::<Entry>(&text).unwrap(), entry);
        }
    }

    #[test]
    fn only_what_matters_is_sent_again() {
        let [idle, busy, closing, ending] = [1, 2, 3, 4].map(samples::tcp);
        let carried = vec![idle.clone(), busy.clone(), closing.clone(), ending.clone()];
        let earlier = Entries { carried, ..Entries::default() };
        let since = Duration::from_secs(10);

        let mut idle_later = idle;
        idle_later.timeout_s -= 10;
        let mut closing_later = closing;
        closing_later.timeout_s = 120;
        closing_later.state = State::Tcp { state: 7, flags: [0x23, 0x23], scale: [7, 7] };
        let new = samples::tcp(5);
        let carried = vec![idle_later, busy, closing_later.clone(), new.clone()];
        let mut later = Entries { carried, ..Entries::default() };
        let difference = later.since(&earlier, since);
        assert_eq!(difference.changed, [closing_later.clone(), new.clone()]);
        assert_eq!(difference.gone, [ending.original]);

        later.is_partial = true;
        assert_eq!(
            later.since(&earlier, since),
            Difference { changed: vec![closing_later, new], gone: vec![] }
        );
    }

    #[test]
    fn a_time_that_would_run_out_is_sent_again() {
        let with = |timeout_s| Entry { timeout_s, ..samples::udp(1) };
        let entries = |entry| Entries { carried: vec![entry], ..Entries::default() };
        for (before_s, since_s, now_s, is_sent) in
            [(120, 30, 120, false), (120, 70, 120, true), (20, 5, 120, true), (120, 119, 1, false)]
        {
            let difference =
                entries(with(now_s)).since(&entries(with(before_s)), Duration::from_secs(since_s));
            assert_eq!(!difference.changed.is_empty(), is_sent, "{before_s} {since_s} {now_s}");
        }
    }
}
