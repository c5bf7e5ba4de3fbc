//! Which entries of another host may be made here. Pure.
//!
//! The other host is trusted with the connections of one VM and no more: whatever it sends, no packet that neither comes from nor goes to
//! that VM is let through or translated because of it.

use super::entry::{Entry, State, TIMEOUT_MAX};
use super::protocol;
use super::selection::{contain, is_of_a_link};
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Why an entry is not made.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, thiserror::Error)]
pub enum Refusal {
    /// Neither end is an address of the VM, or an address is translated to one that is not.
    #[error("not-allowed")]
    NotAllowed,
    /// It cannot be a connection.
    #[error("malformed")]
    Malformed,
    /// More than [`super::ENTRIES_MAX`] at once.
    #[error("too-many")]
    TooMany,
    /// More in a short time than a migration needs.
    #[error("too-often")]
    TooOften,
    /// It would fill the table ([`super::Conntrack`] leaves room for others).
    #[error("no-room")]
    NoRoom,
    /// The kernel said this (`errno`).
    #[error("errno-{0}")]
    Kernel(i32),
}

/// Whether an entry may be made for the VM that has these addresses, and how. What `host` says of itself it knows best: no connection with the
/// host itself is made.
///
/// # Errors
/// Why it may not.
pub(super) fn admit(entry: &Entry, allowed: &[IpNet], host: &BTreeSet<IpAddr>) -> Result<Entry, Refusal> {
    let &Entry { original, reply, .. } = entry;
    let is_sound = protocol::are_alike(&original, &reply)
        && (protocol::remembers(original.protocol, entry.state))
        && protocol::is_state(sane(entry.state));
    if !is_sound {
        return Err(Refusal::Malformed);
    }
    let has = |address| contain(allowed, address);
    let is_elsewhere = |one: IpAddr, other: IpAddr| one != other && !(has(one) && has(other));
    let addresses = [original.source, original.destination, reply.source, reply.destination];
    let is_strange = !(has(original.source) || has(reply.source))
        || is_elsewhere(original.destination, reply.source)
        || is_elsewhere(original.source, reply.destination)
        || addresses
            .into_iter()
            .any(|address| is_of_a_link(address) || (host.contains(&address) && !has(address)));
    if is_strange {
        return Err(Refusal::NotAllowed);
    }
    // What ends within this second ends in the next one.
    let timeout_s = u64::from(entry.timeout_s).clamp(1, TIMEOUT_MAX.as_secs()) as u32;
    Ok(Entry { timeout_s, state: sane(entry.state), ..entry.clone() })
}

/// KERNEL: SCTP_CONNTRACK_HEARTBEAT_ACKED (9), which 5.10 to 6.1 have, means a second path that works; later kernels say "established" (4).
const fn sane(state: State) -> State {
    match state {
        State::Sctp { state: 9, tags } => State::Sctp { state: 4, tags },
        state => state,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conntrack::entry::{Key, Tuple};
    use crate::conntrack::samples;
    use proptest::prelude::*;

    fn allowed() -> Vec<IpNet> {
        ["10.65.0.2/32", "203.0.113.5/32", "fd00:65::2/128"].map(|prefix| prefix.parse().unwrap()).to_vec()
    }

    #[test]
    fn what_a_vm_has_is_taken_as_it_is() {
        for entry in samples::all() {
            assert_eq!(admit(&entry, &allowed(), &BTreeSet::new()), Ok(entry));
        }
    }

    #[test]
    fn nothing_is_done_for_others() {
        let other: IpAddr = "192.0.2.99".parse().unwrap();
        let mut cases = vec![samples::tcp(1)];
        (cases[0].original.source, cases[0].reply.destination) = (other, other);
        for change in [
            (|entry, other| entry.reply.source = other) as fn(&mut Entry, IpAddr),
            |entry, other| entry.original.destination = other,
            |entry, other| entry.reply.destination = other,
            |entry, other| entry.original.source = other,
        ] {
            let mut entry = samples::floating();
            change(&mut entry, other);
            cases.push(entry);
        }
        for host in ["169.254.169.254", "127.0.0.1", "224.0.0.5", "255.255.255.255", "0.0.0.0"] {
            let mut entry = samples::tcp(1);
            (entry.original.destination, entry.reply.source) = (host.parse().unwrap(), host.parse().unwrap());
            cases.push(entry);
        }
        for entry in cases {
            assert_eq!(admit(&entry, &allowed(), &BTreeSet::new()), Err(Refusal::NotAllowed), "{entry:?}");
        }
        assert_eq!(admit(&samples::tcp(1), &[], &BTreeSet::new()), Err(Refusal::NotAllowed));
    }

    #[test]
    fn nothing_that_is_no_connection_reaches_the_kernel() {
        let sctp = |state| Entry { state: State::Sctp { state, tags: [1, 2] }, ..samples::sctp() };
        let tcp =
            |state| Entry { state: State::Tcp { state, flags: [0; 2], scale: [0; 2] }, ..samples::tcp(1) };
        let mixed = Tuple { source: "::1".parse().unwrap(), ..samples::tcp(1).original };
        let icmp = Tuple { key: Key::Icmp(77, 3, 4), ..samples::echo().original };
        for entry in [
            sctp(0),
            sctp(10),
            sctp(255),
            tcp(0),
            tcp(10),
            Entry { state: State::Nothing, ..samples::tcp(1) },
            Entry { state: samples::tcp(1).state, ..samples::udp(1) },
            Entry { original: mixed, ..samples::tcp(1) },
            Entry { original: icmp, ..samples::echo() },
            Entry { reply: samples::udp(1).reply, ..samples::echo() },
        ] {
            assert_eq!(admit(&entry, &allowed(), &BTreeSet::new()), Err(Refusal::Malformed), "{entry:?}");
        }
        assert_eq!(admit(&sctp(9), &allowed(), &BTreeSet::new()), Ok(sctp(4)));
    }

    #[test]
    fn times_are_bounded() {
        for (timeout_s, expected) in [(0, 1), (1, 1), (432_000, 432_000), (u32::MAX, 432_000)] {
            let entry = Entry { timeout_s, ..samples::tcp(1) };
            assert_eq!(admit(&entry, &allowed(), &BTreeSet::new()).unwrap().timeout_s, expected);
        }
    }

    proptest! {
        /// Whatever it is, one end of what is made is the VM, and no address turns into one that is not the VM's.
        #[test]
        fn a_stranger_gets_nothing(entry in samples::any_entry(), length in 0_u8..=8) {
            let allowed: Vec<IpNet> = [entry.original.source, entry.reply.source]
                .into_iter()
                .map(|address| IpNet::new(address, length).unwrap())
                .collect();
            if let Ok(made) = admit(&entry, &allowed, &BTreeSet::new()) {
                let has = |address| contain(&allowed, address);
                prop_assert!(has(made.original.source) || has(made.reply.source));
                let (one, other) = (made.original.destination, made.reply.source);
                prop_assert!(one == other || has(one) && has(other));
                prop_assert!(protocol::is_state(made.state));
                prop_assert!((1..=432_000).contains(&made.timeout_s));
            }
        }
    }
}
