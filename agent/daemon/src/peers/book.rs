//! What is known of other hosts' agents: their records, by host.
//!
//! Owns who can be a peer of this host, and by which keys and addresses strangers are told from peers. Where the records come from is
//! for others.

use super::record::{Peer, PublicKey};
use crate::logging::printable;
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;
use tracing::{info, warn};

/// LIMIT: more hosts than one etcd cluster serves; some megabytes.
pub(super) const RECORDS_MAX: usize = 10_000;

/// LIMIT: as long as a DNS name.
const HOST_MAX: usize = 255;

/// The records. Copies are about the same ones.
#[derive(Clone, Debug)]
pub(super) struct Book(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    host: String,
    address: IpAddr,
    tunnel_port: u16,
    inside: Mutex<Inside>,
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Inside {
    peers: BTreeMap<String, Peer>,
    /// What is wrong with the others.
    bad: BTreeMap<String, String>,
    keys: Counts<PublicKey>,
    addresses: Counts<IpAddr>,
    is_read: bool,
    is_full: bool,
}

/// Records by host: what the log calls the place of each, and what it says, or why it cannot be read.
pub(super) type Records = BTreeMap<String, (String, Result<Vec<u8>, String>)>;

/// How many records have the same.
#[derive(Debug)]
struct Counts<T>(HashMap<T, usize>);

impl<T> Default for Counts<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: Eq + Hash> Counts<T> {
    fn add(&mut self, item: T) {
        *self.0.entry(item).or_default() += 1;
    }

    fn remove(&mut self, item: &T) {
        if let Some(count) = self.0.get_mut(item) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(item);
            }
        }
    }
}

/// Why nobody can be talked to at a host.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum NoPeer {
    #[error("the records of other hosts have not been read yet")]
    NotRead,
    #[error("there is no record of {host}: no agent runs there, or its CutoverPeering is off")]
    NoRecord { host: String },
    #[error("the record of {host} cannot be used: {reason}")]
    BadRecord { host: String, reason: String },
    #[error(
        "CutoverTunnelPort of {host} is {theirs}, and here it is {ours}: it has to be the same on all hosts"
    )]
    OtherTunnelPort { host: String, theirs: u16, ours: u16 },
    #[error(
        "{host} has the address {theirs} and this host {ours}: CutoverPeerAddress has to be of one family on all hosts"
    )]
    OtherFamily { host: String, theirs: IpAddr, ours: IpAddr },
    #[error(
        "{host} has the loopback address {theirs}, where only itself is reached: set CutoverPeerAddress there"
    )]
    Loopback { host: String, theirs: IpAddr },
}

impl Book {
    /// An empty one of the host with this name, address and port of the tunnel.
    pub(super) fn new(host: &str, address: IpAddr, tunnel_port: u16) -> Self {
        let (inside, changes) = (Mutex::default(), watch::Sender::new(0));
        Self(Arc::new(Shared { host: host.to_owned(), address, tunnel_port, inside, changes }))
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        // It is whole at every point where its holder could panic.
        self.0.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whom to talk to at a host.
    pub(super) fn peer(&self, host: &str) -> Result<Peer, NoPeer> {
        let inside = self.inside();
        let host = host.to_owned();
        let Some(peer) = inside.peers.get(&host) else {
            return Err(match inside.bad.get(&host) {
                Some(reason) => NoPeer::BadRecord { host, reason: reason.clone() },
                None if inside.is_read => NoPeer::NoRecord { host },
                None => NoPeer::NotRead,
            });
        };
        let (theirs, ours) = (peer.address.ip(), self.0.address);
        if peer.tunnel_port != self.0.tunnel_port {
            Err(NoPeer::OtherTunnelPort { host, theirs: peer.tunnel_port, ours: self.0.tunnel_port })
        } else if theirs.is_ipv4() != ours.is_ipv4() {
            Err(NoPeer::OtherFamily { host, theirs, ours })
        } else if theirs.is_loopback() && !ours.is_loopback() {
            Err(NoPeer::Loopback { host, theirs })
        } else {
            Ok(*peer)
        }
    }

    /// Whether what was known of a host when a connection to it was made is still so. A record that has gone may be one that could not
    /// be renewed, and takes nothing back.
    pub(super) fn still_says(&self, host: &str, before: &Peer) -> bool {
        self.inside().peers.get(host).is_none_or(|peer| peer == before)
    }

    /// Whether any host has this key.
    pub(super) fn has_key(&self, key: &PublicKey) -> bool {
        self.inside().keys.0.contains_key(key)
    }

    /// Whether any host has this address.
    pub(super) fn has_address(&self, address: IpAddr) -> bool {
        self.inside().addresses.0.contains_key(&address)
    }

    /// How many hosts there are with a record that can be read.
    pub(super) fn len(&self) -> usize {
        self.inside().peers.len()
    }

    /// Records that cannot be read, by host, each with the reason.
    pub(super) fn bad(&self) -> BTreeMap<String, String> {
        self.inside().bad.clone()
    }

    /// Wakes whoever waits for a record to change.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// What is kept for this host now, or that nothing is. `place` is what the log calls it.
    pub(super) fn note(&self, host: &str, text: Option<&[u8]>, place: &str) {
        self.inside().note(&self.0.host, host, text.map(Ok), place);
        self.0.changes.send_modify(|number| *number += 1);
    }

    /// Everything that there is.
    pub(super) fn replace(&self, records: &Records) {
        {
            let mut inside = self.inside();
            let known: Vec<String> = inside.peers.keys().chain(inside.bad.keys()).cloned().collect();
            for host in known.iter().filter(|host| !records.contains_key(*host)) {
                inside.note(&self.0.host, host, None, "");
            }
            for (host, (place, text)) in records {
                let text = text.as_deref().map_err(Clone::clone);
                inside.note(&self.0.host, host, Some(text), place);
            }
            inside.is_read = true;
        }
        self.0.changes.send_modify(|number| *number += 1);
    }
}

impl Inside {
    fn note(&mut self, own: &str, host: &str, text: Option<Result<&[u8], String>>, place: &str) {
        if host == own {
            return;
        }
        if let Some(before) = self.peers.remove(host) {
            self.keys.remove(&before.key);
            self.addresses.remove(&before.address.ip());
        }
        let bad_before = self.bad.remove(host);
        let Some(text) = text else { return };
        if host.is_empty() || host.len() > HOST_MAX || self.peers.len() + self.bad.len() >= RECORDS_MAX {
            if !std::mem::replace(&mut self.is_full, true) {
                warn!(record = %place, "A peer's record is ignored: its name is of no host, or there are more than {RECORDS_MAX}");
            }
            return;
        }
        match text.and_then(|text| Peer::read(text).map_err(|error| error.to_string())) {
            Ok(peer) => {
                self.keys.add(peer.key);
                self.addresses.add(peer.address.ip());
                self.peers.insert(host.to_owned(), peer);
                if bad_before.is_some() {
                    info!(record = %place, "A peer's record can be used again");
                }
            }
            Err(error) => {
                let reason = printable(&error).into_owned();
                if bad_before.as_ref() != Some(&reason) {
                    warn!(record = %place, reason, "A peer's record is ignored; there is no forwarding between that host and this one");
                }
                self.bad.insert(host.to_owned(), reason);
            }
        }
    }
}

impl Book {
    /// Where this host reaches others from.
    pub(super) fn own_address(&self) -> SocketAddr {
        SocketAddr::new(self.0.address, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::identity::Identity;
    use super::*;
    use crate::logging::warnings;

    fn book() -> Book {
        Book::new("here", "192.0.2.1".parse().unwrap(), 4790)
    }

    fn record(address: &str, tunnel_port: u16) -> Peer {
        let key = Identity::new().unwrap().public_key();
        Peer { key, address: SocketAddr::new(address.parse().unwrap(), 7179), tunnel_port }
    }

    #[test]
    fn only_who_suits_this_host_is_a_peer() {
        let book = book();
        assert_eq!(book.peer("there"), Err(NoPeer::NotRead));
        book.replace(&BTreeMap::new());
        assert!(matches!(book.peer("there"), Err(NoPeer::NoRecord { .. })));
        let take = |address, tunnel_port| {
            let peer = record(address, tunnel_port);
            book.note("there", Some(peer.text().as_bytes()), "a");
            assert!(book.has_key(&peer.key) && book.has_address(peer.address.ip()));
            (peer, book.peer("there"))
        };
        let (peer, found) = take("192.0.2.2", 4790);
        assert_eq!(found, Ok(peer));
        assert!(matches!(take("192.0.2.2", 4789).1, Err(NoPeer::OtherTunnelPort { theirs: 4789, .. })));
        assert!(!book.has_key(&peer.key), "that of the record before");
        assert!(matches!(take("2001:db8::2", 4790).1, Err(NoPeer::OtherFamily { .. })));
        assert!(matches!(take("127.0.0.1", 4790).1, Err(NoPeer::Loopback { .. })));
        book.note("there", None, "a");
        assert_eq!(book.len(), 0);
        assert!(!book.has_address("127.0.0.1".parse().unwrap()));
        book.note("here", Some(peer.text().as_bytes()), "a");
        assert_eq!(book.len(), 0, "this host is not its own peer");
    }

    #[test]
    fn two_with_one_address_are_two() {
        let book = book();
        let (one, other) = (record("192.0.2.2", 4790), record("192.0.2.2", 4790));
        book.note("one", Some(one.text().as_bytes()), "a");
        book.note("other", Some(other.text().as_bytes()), "b");
        book.note("one", None, "a");
        assert!(book.has_address("192.0.2.2".parse().unwrap()));
        assert!(!book.has_key(&one.key) && book.has_key(&other.key));
    }

    #[test]
    fn a_bad_record_is_complained_about_once_and_takes_the_place_of_the_good_one() {
        let book = book();
        let lines = warnings(|| {
            book.note("there", Some(record("192.0.2.2", 4790).text().as_bytes()), "/cutover/v1/host/there");
            for _ in 0..3 {
                book.note("there", Some(b"{\"version\": 9}"), "/cutover/v1/host/there");
            }
        });
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(
            lines[0].contains("/cutover/v1/host/there") && lines[0].contains("version is 9"),
            "{lines:?}"
        );
        assert!(matches!(book.peer("there"), Err(NoPeer::BadRecord { .. })));
        assert_eq!(book.bad().len(), 1);
        book.replace(&BTreeMap::new());
        assert_eq!(book.bad().len(), 0);
    }

    #[test]
    fn the_number_of_records_is_bounded() {
        let book = book();
        let lines = warnings(|| {
            for number in 0..RECORDS_MAX + 2 {
                book.note(&number.to_string(), Some(b"?"), "a");
            }
        });
        assert_eq!(book.bad().len(), RECORDS_MAX);
        assert!(lines.last().unwrap().contains("more than"));
    }
}
