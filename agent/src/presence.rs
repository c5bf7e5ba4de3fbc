//! The word that an agent runs in a network namespace, whatever its paths are.
//!
//! The agent listens on an abstract Unix socket, which belongs to the network namespace and goes with the process, however
//! it ends. Nobody talks over it. `cutover cleanup` looks for it, because routes are found by their protocol and not by a
//! path. Two agents with different protocols may share a namespace, so the protocol is part of the name; so is what makes
//! the name unique, because one agent never keeps another from starting.

use crate::clock;
use nix::errno::Errno;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, socket};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};

/// KERNEL: the sockets of the thread's network namespace. Abstract names begin with `@` there.
const SOCKETS: &str = "/proc/thread-self/net/unix";

/// An agent that can be seen for as long as this lives.
#[derive(Debug)]
pub struct Presence {
    _listener: UnixListener,
}

impl Presence {
    /// Shows the network namespace of the calling thread that an agent with this route protocol is here.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn show(route_protocol: u8) -> io::Result<Self> {
        let name = format!("{}{}/{}", prefix(route_protocol), std::process::id(), clock::now().0);
        let address = SocketAddr::from_abstract_name(name)?;
        Ok(Self { _listener: UnixListener::bind_addr(&address)? })
    }
}

fn prefix(route_protocol: u8) -> String {
    format!("cutover/agent/{route_protocol}/")
}

/// The process number of an agent with this route protocol in the network namespace of the calling thread, if there is one;
/// 0 if its number cannot be had.
///
/// # Errors
/// The sockets of the namespace cannot be read.
pub fn running(route_protocol: u8) -> io::Result<Option<i32>> {
    let prefix = prefix(route_protocol);
    let listing = fs::read_to_string(SOCKETS)?;
    let names: BTreeSet<&str> = listing
        .lines()
        .filter_map(|line| line.split_ascii_whitespace().last()?.strip_prefix('@'))
        .filter(|name| name.starts_with(&prefix))
        .collect();
    for name in names {
        if let Some(pid) = root_behind(name)? {
            return Ok(Some(pid));
        }
    }
    Ok(None)
}

/// Which process of root listens there. Everybody may take such a name, and only root runs agents.
fn root_behind(name: &str) -> io::Result<Option<i32>> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let client = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    match connect(client.as_raw_fd(), &UnixAddr::new_abstract(name.as_bytes())?) {
        Ok(()) => {
            let peer = getsockopt(&client, PeerCredentials)?;
            Ok((peer.uid() == 0).then_some(peer.pid()))
        }
        // LIMIT: nobody takes connections, so after some thousand of them the queue is full. It is there all the same.
        Err(Errno::EAGAIN) => Ok(Some(0)),
        Err(Errno::ECONNREFUSED) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No protocol of anybody; the namespace is shared with whatever else runs here.
    const PROTOCOL: u8 = 213;

    #[test]
    fn agents_with_one_protocol_are_seen_until_the_last_has_ended() {
        // Only root runs agents.
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        assert_eq!(running(PROTOCOL).unwrap(), None);
        let [first, second] = [(), ()].map(|()| Presence::show(PROTOCOL).unwrap());
        let own = Some(std::process::id().cast_signed());
        assert_eq!(running(PROTOCOL).unwrap(), own);
        drop(first);
        assert_eq!(running(PROTOCOL).unwrap(), own);
        assert_eq!(running(PROTOCOL + 1).unwrap(), None);
        drop(second);
        assert_eq!(running(PROTOCOL).unwrap(), None);
    }

    #[test]
    fn an_agent_whose_queue_is_full_is_seen() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let name = format!("{}{}", prefix(PROTOCOL + 2), std::process::id());
        let _listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let most: usize = fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap().trim().parse().unwrap();
        // KERNEL: each connection waits in the queue to be taken, although our end of it is closed.
        let seen: Vec<_> = (0..most + 2).map(|_| root_behind(&name).unwrap()).collect();
        assert_eq!(seen[0], Some(std::process::id().cast_signed()));
        assert!(seen.iter().all(Option::is_some) && seen.last() == Some(&Some(0)), "{:?}", seen.last());
    }
}
