//! Whether a guest can be reached from somewhere, by asking its echo port. Knows no routes.

use crate::namespace::Namespace;
use crate::vm::ECHO_PORT;
use crate::wait;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

/// How long one question waits for its answer.
const PATIENCE: Duration = Duration::from_millis(100);

const QUESTION: &[u8] = b"anybody there?";

/// Asks once whether the guest at `address` answers to somebody in `from`.
#[must_use]
pub fn answers(from: &Namespace, address: IpAddr) -> bool {
    from.run(|| ask(address).is_ok_and(|answered| answered))
}

/// Asks again and again, and takes whichever answer comes within `limit`: a guest that is behind with its work may take longer
/// for one than anybody would wait who asks once.
#[must_use]
pub fn answers_within(limit: Duration, from: &Namespace, address: IpAddr) -> bool {
    from.run(|| {
        let deadline = Instant::now() + wait::patient(limit);
        socket_to(address).is_ok_and(|socket| {
            loop {
                // Without a route there is nothing to send to, yet.
                let is_sent = socket.send(QUESTION).is_ok();
                if is_sent && is_answered(&socket) {
                    break true;
                }
                if Instant::now() >= deadline {
                    break false;
                }
                if !is_sent {
                    std::thread::sleep(PATIENCE);
                }
            }
        })
    })
}

fn ask(address: IpAddr) -> std::io::Result<bool> {
    let socket = socket_to(address)?;
    socket.send(QUESTION)?;
    Ok(is_answered(&socket))
}

fn is_answered(socket: &UdpSocket) -> bool {
    let mut answer = [0; 64];
    socket.recv(&mut answer).is_ok_and(|length| &answer[..length] == QUESTION)
}

fn socket_to(address: IpAddr) -> std::io::Result<UdpSocket> {
    let any: IpAddr =
        if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(SocketAddr::new(address, ECHO_PORT))?;
    Ok(socket)
}
