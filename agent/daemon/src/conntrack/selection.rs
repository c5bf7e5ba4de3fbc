//! Which of a host's connections are the VM's, and what of them is carried. Pure.
//!
//! Owns the reasons for which one stays behind. It asks nobody: the addresses of the VM and of the host are given.

use super::entry::{Entry, Left, State, Tuple};
use super::message::{Dumped, kept_flags, status};
use super::protocol;
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// LIMIT: a connection in a flow table had a packet within the last half minute (`nf_flowtable_udp_timeout`, `_tcp_timeout`), and its
/// time is not told. So TCP gets the kernel's default for established connections and everything else that for answered UDP.
const OFFLOADED_TCP_S: u32 = 432_000;
const OFFLOADED_OTHER_S: u32 = 120;

/// Whose connections are read, and where.
#[derive(Clone, Debug)]
pub(super) struct Selection<'a> {
    /// The VM's addresses, fixed and floating.
    pub(super) addresses: &'a [IpNet],
    /// Addresses of this host.
    pub(super) host: BTreeSet<IpAddr>,
}

impl Selection<'_> {
    fn has(&self, address: IpAddr) -> bool {
        contain(self.addresses, address)
    }

    /// Whether one end is the VM.
    ///
    /// The source of either direction is what an end calls itself. A destination may be what the other end calls it: an
    /// address that is translated on the way.
    pub(super) fn concerns(&self, original: &Tuple, reply: &Tuple) -> bool {
        self.has(original.source) || self.has(reply.source)
    }

    /// What is carried of a connection that concerns the VM.
    pub(super) fn carry(&self, dumped: &Dumped) -> Result<Entry, Left> {
        let &Dumped { original, mut reply, .. } = dumped;
        if dumped.zone != 0 {
            return Err(Left::Zone);
        }
        if dumped.status & status::DYING != 0 {
            return Err(Left::Dying);
        }
        if [original.source, original.destination, reply.source, reply.destination]
            .into_iter()
            .any(is_of_a_link)
        {
            return Err(Left::OfThisHost);
        }
        if dumped.has_helper {
            return Err(Left::Helper);
        }
        if dumped.has_master {
            return Err(Left::Expected);
        }
        if dumped.is_adjusted {
            return Err(Left::Adjusted);
        }
        let is_elsewhere = |one: IpAddr, other: IpAddr| one != other && !(self.has(one) && self.has(other));
        if is_elsewhere(original.destination, reply.source) {
            if self.host.contains(&reply.source) {
                return Err(Left::OfThisHost);
            }
            // The VM speaks to an address of another VM of this host, which goes on translating for that one.
            if !self.has(original.source) || original.near() != reply.far() {
                return Err(Left::TranslatedElsewhere);
            }
            reply = original.answered(&reply);
        }
        if is_elsewhere(original.source, reply.destination) {
            return Err(Left::TranslatedElsewhere);
        }
        let (timeout_s, state) = lasting(dumped).ok_or(Left::Unreadable)?;
        Ok(Entry {
            original,
            reply,
            seen_reply: dumped.status & status::SEEN_REPLY != 0,
            assured: dumped.status & status::ASSURED != 0,
            timeout_s,
            state: with_kept_flags(state),
            mark: dumped.mark,
            labels: dumped.labels,
        })
    }
}

/// How long it lasts, and what its protocol remembers.
fn lasting(dumped: &Dumped) -> Option<(u32, State)> {
    let is_tcp = dumped.original.protocol == protocol::TCP;
    if dumped.status & status::OFFLOADED != 0 {
        // KERNEL: neither is dumped while a flow table has the connection (`ctnetlink_fill_info`), and only established
        // TCP gets there (`nft_flow_offload_eval`).
        return Some(if is_tcp {
            (OFFLOADED_TCP_S, State::Tcp { state: protocol::TCP_ESTABLISHED, flags: [0; 2], scale: [0; 2] })
        } else {
            (OFFLOADED_OTHER_S, State::Nothing)
        });
    }
    let state = dumped.state.unwrap_or(State::Nothing);
    let is_whole = protocol::remembers(dumped.original.protocol, state);
    Some((dumped.timeout_s?, state)).filter(|_| is_whole)
}

const fn with_kept_flags(state: State) -> State {
    match state {
        State::Tcp { state, flags: [original, reply], scale } => {
            State::Tcp { state, flags: [kept_flags(original), kept_flags(reply)], scale }
        }
        state => state,
    }
}

pub(super) fn contain(prefixes: &[IpNet], address: IpAddr) -> bool {
    prefixes.iter().any(|prefix| prefix.contains(&address))
}

/// Whether an address means something else, or nothing, on the next host: DHCP's, the metadata service's, the gateway's.
pub(super) fn is_of_a_link(address: IpAddr) -> bool {
    let is_any = address.is_loopback() || address.is_multicast() || address.is_unspecified();
    is_any
        || match address {
            IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
            IpAddr::V6(address) => address.is_unicast_link_local(),
        }
}

#[cfg(test)]
mod tests;
