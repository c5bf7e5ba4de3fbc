//! Whether this host acknowledges at once what its BGP peers tell: by the sessions that are established, and the kernel's routes to
//! the peers.

use crate::doctor::command::answer;
use crate::doctor::finding::{Area, Check, Finding};
use std::io;

pub(super) static ACKNOWLEDGEMENTS: Check = Check {
    area: Area::Bgp,
    name: "acknowledgements",
    wants: "What peers tell is acknowledged at once (quickack on the route to them)",
    why: "Neither BIRD nor FRR sets TCP_NODELAY: the second of two updates in a row waits until the first one is acknowledged, which the kernel of the peer holds back for up to 40 ms.",
};

/// LIMIT: a mesh may have a hundred sessions; the first ones show what to do.
const NAMED_MAX: usize = 3;

pub(super) fn examine() -> Vec<Finding> {
    let peers = match peers() {
        Ok(peers) => peers,
        Err(error) => {
            let what = format!("could not ask for the BGP sessions that are established: {error}");
            return vec![ACKNOWLEDGEMENTS.notice(what, "install iproute2 (ip and ss)")];
        }
    };
    // A peer to which there is no route any more has no session, either.
    let routes =
        peers.into_iter().filter_map(|peer| Some((answer("ip", &["route", "get", &peer]).ok()?, peer)));
    judge(&routes.map(|(route, peer)| (peer, is_quick(&route))).collect::<Vec<_>>())
}

/// Addresses of the other ends of established sessions.
fn peers() -> io::Result<Vec<String>> {
    let sockets = answer("ss", &["-tnH", "state", "established", "( sport = :179 or dport = :179 )"])?;
    let mut peers: Vec<String> = sockets.lines().filter_map(peer).collect();
    peers.sort();
    peers.dedup();
    Ok(peers)
}

/// The address of the other end of a socket: the last column but for its port, without brackets and interface.
fn peer(line: &str) -> Option<String> {
    let (address, _) = line.split_whitespace().nth(3)?.rsplit_once(':')?;
    let address = address.trim_start_matches('[').trim_end_matches(']');
    // A link-local one is in every route to one, and `ip` wants the interface apart.
    (!address.contains('%')).then(|| address.to_owned())
}

fn is_quick(route: &str) -> bool {
    let words: Vec<&str> = route.split_whitespace().collect();
    words.windows(2).any(|pair| pair == ["quickack", "1"])
}

fn judge(peers: &[(String, bool)]) -> Vec<Finding> {
    let slow: Vec<&str> =
        peers.iter().filter(|(_, is_quick)| !is_quick).map(|(peer, _)| peer.as_str()).collect();
    if peers.is_empty() {
        return Vec::new();
    }
    if slow.is_empty() {
        return vec![ACKNOWLEDGEMENTS.ok("updates of BGP peers are acknowledged at once")];
    }
    let more = slow.len().saturating_sub(NAMED_MAX);
    let named = slow[..slow.len() - more].join(", ");
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    vec![ACKNOWLEDGEMENTS.notice(
        format!("updates of {named}{more} may be acknowledged late: the routes to them have no quickack"),
        "ip route change SUBNET dev DEV proto kernel scope link src ADDRESS quickack 1 on the route to the peers, here and on them (docs/bgp.md)",
    )]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Level;

    /// What ss and ip of iproute2 6.1 print.
    #[test]
    fn answers_are_read() {
        assert_eq!(peer("0      0      192.0.2.1:179   192.0.2.2:40332 ").as_deref(), Some("192.0.2.2"));
        let line = "0      0      [2001:db8::1]:41234   [2001:db8::2]:179 ";
        assert_eq!(peer(line).as_deref(), Some("2001:db8::2"));
        assert_eq!(peer("0      0      [fe80::1]%eth0:41234   [fe80::2]%eth0:179 "), None);
        assert!(is_quick("10.5.0.2 dev d src 10.5.0.1 uid 0 \n    cache quickack 1 \n"));
        assert!(!is_quick("10.5.0.2 dev d src 10.5.0.1 uid 0 \n    cache \n"));
    }

    #[test]
    fn peers_without_quick_acknowledgements_are_named() {
        let peers = |list: &[(&str, bool)]| -> Vec<(String, bool)> {
            list.iter().map(|(peer, is_quick)| ((*peer).to_owned(), *is_quick)).collect()
        };
        assert!(judge(&[]).is_empty());
        assert_eq!(judge(&peers(&[("a", true)]))[0].level, Level::Ok);
        let found = judge(&peers(&[("a", false), ("b", true), ("c", false), ("d", false), ("e", false)]));
        assert_eq!((found.len(), found[0].level), (1, Level::Notice));
        assert!(found[0].what.contains(" a, c, d and 1 more "), "{}", found[0].what);
    }
}
