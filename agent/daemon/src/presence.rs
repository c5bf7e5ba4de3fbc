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
use std::os::unix::fs::MetadataExt as _;
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

/// The process number of an agent with this route protocol in the network namespace of the calling thread, if there is one.
///
/// # Errors
/// The sockets of the namespace cannot be read.
pub fn running(route_protocol: u8) -> io::Result<Option<i32>> {
    let prefix = prefix(route_protocol);
    // Everybody may take any name, also one that is no text.
    let listing = fs::read(SOCKETS)?;
    let listing = String::from_utf8_lossy(&listing);
    let sockets: BTreeSet<(&str, &str)> = listing
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').filter(|field| !field.is_empty());
            let (inode, name) = (fields.nth(INODE)?, fields.next()?.strip_prefix('@')?);
            (fields.next().is_none() && name.starts_with(&prefix)).then_some((name, inode))
        })
        .collect();
    for (name, inode) in sockets {
        if let Some(pid) = root_behind(name, inode)? {
            return Ok(Some(pid));
        }
    }
    Ok(None)
}

/// KERNEL: the number of the column (unix_seq_show).
const INODE: usize = 6;

/// Which process of root listens there. Everybody may take such a name, and only root runs agents.
fn root_behind(name: &str, inode: &str) -> io::Result<Option<i32>> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let client = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    match connect(client.as_raw_fd(), &UnixAddr::new_abstract(name.as_bytes())?) {
        Ok(()) => {
            let peer = getsockopt(&client, PeerCredentials)?;
            Ok((peer.uid() == 0).then_some(peer.pid()))
        }
        // LIMIT: nobody takes connections, so after some thousand of them the queue is full. Whose it is has to be told otherwise:
        // somebody else may have filled a queue of his own.
        Err(Errno::EAGAIN) => root_that_made(inode),
        // Nobody listens, or it is a socket of another kind.
        Err(Errno::ECONNREFUSED | Errno::EPROTOTYPE) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Which process has a socket that root has made.
///
/// KERNEL: the file of a socket belongs to whoever made it (sock_alloc), also in the hands of a process of root that inherited it.
fn root_that_made(inode: &str) -> io::Result<Option<i32>> {
    let link = format!("socket:[{inode}]");
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // Processes come and go.
        let Ok(descriptors) = fs::read_dir(entry.path().join("fd")) else { continue };
        let found = descriptors
            .flatten()
            .map(|descriptor| descriptor.path())
            .find(|path| fs::read_link(path).is_ok_and(|target| target.as_os_str() == link.as_str()));
        if let Some(path) = found {
            return Ok(fs::metadata(path).is_ok_and(|metadata| metadata.uid() == 0).then_some(pid));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::own_namespace::in_a_namespace_of_its_own;
    use std::io::BufRead as _;
    use std::os::unix::process::CommandExt as _;

    const PROTOCOL: u8 = 213;

    #[test]
    fn agents_with_one_protocol_are_seen_until_the_last_has_ended() {
        in_a_namespace_of_its_own(|| {
            assert_eq!(running(PROTOCOL).unwrap(), None);
            let [first, second] = [(), ()].map(|()| Presence::show(PROTOCOL).unwrap());
            let own = Some(std::process::id().cast_signed());
            assert_eq!(running(PROTOCOL).unwrap(), own);
            drop(first);
            assert_eq!(running(PROTOCOL).unwrap(), own);
            assert_eq!(running(PROTOCOL + 1).unwrap(), None);
            drop(second);
            assert_eq!(running(PROTOCOL).unwrap(), None);
        });
    }

    #[test]
    fn an_agent_whose_queue_is_full_is_seen() {
        in_a_namespace_of_its_own(|| {
            let _agent = Presence::show(PROTOCOL).unwrap();
            let most: usize =
                fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap().trim().parse().unwrap();
            let own = Some(std::process::id().cast_signed());
            // KERNEL: each connection waits in the queue to be taken, although our end of it is closed.
            let seen: Vec<_> = (0..most + 2).map(|_| running(PROTOCOL).unwrap()).collect();
            assert!(seen.iter().all(|pid| *pid == own), "{:?}", seen.last());
        });
    }

    /// Listens under a name of an agent's as a user that is nobody, and fills its own queue.
    fn pretend(name: &[u8]) -> std::process::Child {
        let script = "use Socket; use Fcntl; $| = 1; my $name = pack_sockaddr_un(qq(\\0) . pack('H*', shift));\n\
            my $server; socket($server, AF_UNIX, SOCK_STREAM, 0) && bind($server, $name) && listen($server, 0) || die $!;\n\
            while (socket(my $client, AF_UNIX, SOCK_STREAM, 0)) {\n\
            fcntl($client, F_SETFL, O_NONBLOCK); connect($client, $name) || last; push @clients, $client }\n\
            print qq(full\\n); sleep 60;";
        let hex: String = name.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut child = std::process::Command::new("perl")
            .args(["-e", script, &hex])
            .stdout(std::process::Stdio::piped())
            .uid(65534)
            .gid(65534)
            .spawn()
            .unwrap();
        let mut line = String::new();
        let output = child.stdout.take().unwrap();
        io::BufReader::new(output).read_line(&mut line).unwrap();
        assert_eq!(line, "full\n");
        child
    }

    #[test]
    fn nobody_but_root_can_pretend_to_be_an_agent() {
        in_a_namespace_of_its_own(|| {
            let name = format!("{}1/1", prefix(PROTOCOL)).into_bytes();
            for name in [name.clone(), [b"\xff\xfe ", &name[..]].concat(), [&name[..], b"\xff"].concat()] {
                let mut child = pretend(&name);
                let seen = running(PROTOCOL);
                child.kill().unwrap();
                child.wait().unwrap();
                assert_eq!(seen.unwrap(), None);
            }
            // A socket of another kind under the name of one.
            let address = UnixAddr::new_abstract(&name).unwrap();
            let other = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::empty(), None).unwrap();
            nix::sys::socket::bind(other.as_raw_fd(), &address).unwrap();
            assert_eq!(running(PROTOCOL).unwrap(), None);
        });
    }
}
