//! What is known of the protocols that connections are tracked for: their numbers, and the states that a kernel may be given. Pure.

use super::entry::{Key, State, Tuple};
use std::net::IpAddr;

pub(super) const ICMP: u8 = 1;
pub(super) const TCP: u8 = 6;
const UDP: u8 = 17;
const DCCP: u8 = 33;
const GRE: u8 = 47;
pub(super) const ICMPV6: u8 = 58;
const SCTP: u8 = 132;
const UDP_LITE: u8 = 136;

/// TCP_CONNTRACK_ESTABLISHED, and the last one that is a state: SYN_SENT2.
pub(super) const TCP_ESTABLISHED: u8 = 3;
const TCP_LAST: u8 = 9;
/// CT_DCCP_TIMEWAIT, the last state, and CT_DCCP_ROLE_SERVER, the second of two roles.
const DCCP_LAST: u8 = 7;
const DCCP_ROLE_LAST: u8 = 1;
/// KERNEL: SCTP_CONNTRACK_HEARTBEAT_SENT, the last state that all kernels have. Some have one more (HEARTBEAT_ACKED). ctnetlink took
/// any number until 2026 (`nlattr_to_sctp`; 6.18.44 refuses it), and the tracking uses it as an index: what is too large must never get there.
const SCTP_LAST: u8 = 8;

/// Whether a state is one of this protocol.
pub(super) const fn remembers(protocol: u8, state: State) -> bool {
    matches!(
        (protocol, state),
        (TCP, State::Tcp { .. })
            | (SCTP, State::Sctp { .. })
            | (DCCP, State::Dccp { .. })
            | (..=5 | 7..=131 | 133.., State::Nothing)
    )
}

/// Whether a kernel may be given this state.
pub(super) const fn is_state(state: State) -> bool {
    match state {
        State::Nothing => true,
        State::Tcp { state, .. } => 1 <= state && state <= TCP_LAST,
        State::Sctp { state, .. } => 1 <= state && state <= SCTP_LAST,
        State::Dccp { state, role, .. } => 1 <= state && state <= DCCP_LAST && role <= DCCP_ROLE_LAST,
    }
}

/// Whether both tuples are of one family and one protocol, with what that protocol tells connections apart by.
pub(super) fn are_alike(original: &Tuple, reply: &Tuple) -> bool {
    let addresses = [original.source, original.destination, reply.source, reply.destination];
    let is_one_family = addresses.iter().all(IpAddr::is_ipv4) || addresses.iter().all(IpAddr::is_ipv6);
    let is_keyed = match (original.protocol, original.key, reply.key) {
        (TCP | UDP | DCCP | GRE | SCTP | UDP_LITE, Key::Ports(..), Key::Ports(..)) => true,
        (ICMP, Key::Icmp(_, request, _), Key::Icmp(_, answer, _)) => {
            original.source.is_ipv4() && is_answer(&ANSWERS, request, answer)
        }
        (ICMPV6, Key::Icmp(_, request, _), Key::Icmp(_, answer, _)) => {
            original.source.is_ipv6() && is_answer(&ANSWERS_V6, request, answer)
        }
        (TCP | UDP | GRE | SCTP | UDP_LITE | ICMP | ICMPV6, ..) => false,
        // What a kernel does not know has no key. DCCP is such a protocol since its tracking was taken out.
        (_, Key::Nothing, Key::Nothing) => true,
        _ => false,
    };
    is_one_family && is_keyed && original.protocol == reply.protocol
}

/// Types of requests that begin a connection, and of their answers: echo, timestamp, information, address mask.
const ANSWERS: [(u8, u8); 4] = [(8, 0), (13, 14), (15, 16), (17, 18)];
/// Echo and node information.
const ANSWERS_V6: [(u8, u8); 2] = [(128, 129), (139, 140)];

fn is_answer(answers: &[(u8, u8)], request: u8, answer: u8) -> bool {
    answers.contains(&(request, answer))
}
