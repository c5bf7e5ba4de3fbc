//! Whether a guest can be reached from somewhere, by asking its echo port. Knows no routes.

use crate::namespace::Namespace;
use crate::vm::ECHO_PORT;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

/// How long one question waits for its answer.
const PATIENCE: Duration = Duration::from_millis(100);

/// Asks once whether the guest at `address` answers to somebody in `from`.
#[must_use]
pub fn answers(from: &Namespace, address: IpAddr) -> bool {
    from.run(|| ask(address).is_ok_and(|answered| answered))
}

fn ask(address: IpAddr) -> std::io::Result<bool> {
    let any: IpAddr =
        if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(SocketAddr::new(address, ECHO_PORT))?;
    socket.send(b"anybody there?")?;
    let mut answer = [0; 64];
    let length = socket.recv(&mut answer)?;
    Ok(&answer[..length] == b"anybody there?")
}
