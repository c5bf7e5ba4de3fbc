//! One request over HTTP at a time, from a host of the lab, by hand.

use crate::namespace::Namespace;
use crate::wait;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// An answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// The code, such as 200.
    pub code: u16,
    /// What comes after the headers.
    pub body: String,
}

/// Asks for a path with GET. Nothing if nobody listens there, or does not answer.
#[must_use]
pub fn get(namespace: &Namespace, address: SocketAddr, path: &str) -> Option<Answer> {
    namespace.run(|| try_get(address, path)).ok()
}

/// As [`get`], of somebody who has to answer soon.
///
/// # Panics
/// When nobody does.
#[track_caller]
#[must_use]
pub fn get_soon(namespace: &Namespace, address: SocketAddr, path: &str) -> Answer {
    wait::for_some(wait::SOON, format_args!("an answer of {address}{path}"), || get(namespace, address, path))
}

fn try_get(address: SocketAddr, path: &str) -> io::Result<Answer> {
    const PATIENCE: Duration = Duration::from_secs(10);
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // Of a 1.0 client nobody expects to understand pieces of a body.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let no_http = || io::Error::new(io::ErrorKind::InvalidData, "no HTTP");
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(no_http)?;
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(no_http)?;
    Ok(Answer { code, body: body.to_owned() })
}
