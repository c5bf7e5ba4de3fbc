//! A small HTTP server: one request a connection, a few connections at once, nothing for long.
//!
//! Owns the listening and the limits; what is answered is said by [`Pages`]. It listens only while that is wanted, follows changed settings,
//! and an address that cannot be had is tried again: nothing else of the agent depends on it.

mod tls;

use super::page::Pages;
use crate::retry::BackOff;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, lookup_host};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tracing::{debug, error, info, warn};

pub(super) use tls::Tls;

/// Where is listened, and how.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Listening {
    /// A name or an address; empty for everywhere.
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: Option<Tls>,
}

/// LIMIT: a few Prometheus servers, a person and a probe. More wait until one of them is done; each costs some tens of kilobytes.
const CONNECTIONS_MAX: usize = 16;
/// LIMIT: from accepting a connection to the last byte of the answer, on a slow line. Prometheus gives up after ten seconds, too.
const CONNECTION: Duration = Duration::from_secs(10);
/// LIMIT: of a request, which is a line and some headers.
const HEADER: Duration = Duration::from_secs(5);
/// LIMIT: that is the least that the library can do with.
const HEADER_BYTES: usize = 8 << 10;
/// LIMIT: Prometheus sends six, a browser some fifteen.
const HEADERS: usize = 48;

/// Serves `pages` while something is wanted. `what` is for the log.
pub(super) async fn run(what: &'static str, mut wanted: watch::Receiver<Option<Listening>>, pages: Pages) {
    let mut troubles = Troubles::default();
    loop {
        let listening = wanted.borrow_and_update().clone();
        let serve = async {
            match &listening {
                None => std::future::pending().await,
                Some(listening) => serve(what, listening, &pages, &mut troubles).await,
            }
        };
        tokio::select! {
            // The sender is gone only while the agent stops.
            changed = wanted.changed() => if changed.is_err() { std::future::pending::<()>().await },
            () = serve => {}
        }
    }
}

/// What was said to be wrong, so that it is said once.
#[derive(Debug, Default)]
struct Troubles {
    bind: Option<String>,
    tls: Option<String>,
}

async fn serve(what: &'static str, listening: &Listening, pages: &Pages, troubles: &mut Troubles) {
    let listener = bind_patiently(what, listening, troubles).await;
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        // ORDER: before the next one is taken, which waits in the kernel until then.
        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // KERNEL: accept(2) also fails for one connection only, or because there are too many files.
                debug!(%error, what, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let acceptor = match listening.tls.as_ref().map(Tls::acceptor).transpose() {
            Ok(acceptor) => acceptor,
            Err(error) => {
                let text = error.to_string();
                if troubles.tls.as_ref() != Some(&text) {
                    error!(
                        error = text,
                        what, "Cannot serve with TLS; connections are closed until that is mended"
                    );
                    troubles.tls = Some(text);
                }
                continue;
            }
        };
        if troubles.tls.take().is_some() {
            info!(what, "Served with TLS again");
        }
        tokio::spawn(connection(stream, acceptor, pages.clone(), permit));
    }
}

async fn connection(
    stream: TcpStream,
    acceptor: Option<tokio_rustls::TlsAcceptor>,
    pages: Pages,
    _permit: OwnedSemaphorePermit,
) {
    let is_local = is_local(&stream);
    let served = async {
        match acceptor {
            None => http(stream, pages, is_local).await,
            Some(acceptor) => match acceptor.accept(stream).await {
                Ok(stream) => http(stream, pages, is_local).await,
                Err(error) => debug!(%error, "no TLS with a client"),
            },
        }
    };
    if tokio::time::timeout(CONNECTION, served).await.is_err() {
        debug!("a client was too slow");
    }
}

/// Whether both ends are on the loopback interface.
fn is_local(stream: &TcpStream) -> bool {
    let ends = [stream.peer_addr(), stream.local_addr()];
    // KERNEL: a socket that has IPv6 and IPv4 shows IPv4 addresses as mapped ones.
    ends.iter().all(|end| end.as_ref().is_ok_and(|end| end.ip().to_canonical().is_loopback()))
}

async fn http(stream: impl AsyncRead + AsyncWrite + Unpin, pages: Pages, is_local: bool) {
    let service = service_fn(move |request| pages.clone().answer(request, is_local));
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADER).keep_alive(false);
    builder.max_headers(HEADERS).max_buf_size(HEADER_BYTES);
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
        debug!(%error, "a client ended early");
    }
}

async fn bind_patiently(what: &'static str, listening: &Listening, troubles: &mut Troubles) -> TcpListener {
    let Listening { host, port, tls } = listening;
    let mut back_off = BackOff::new();
    loop {
        match bind(host, *port).await {
            Ok(listener) => {
                troubles.bind = None;
                let address = listener.local_addr().map_or_else(|_| String::new(), |it| it.to_string());
                info!(%address, tls = tls.is_some(), "Serving {what}");
                return listener;
            }
            Err(error) => {
                let text =
                    format!("cannot listen on {}:{port}: {error}", if host.is_empty() { "*" } else { host });
                if troubles.bind.as_ref() != Some(&text) {
                    warn!(
                        error = text,
                        "Cannot serve {what}; it is tried again, and everything else goes on"
                    );
                    troubles.bind = Some(text);
                }
                tokio::time::sleep(back_off.next_pause()).await;
            }
        }
    }
}

async fn bind(host: &str, port: u16) -> io::Result<TcpListener> {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() {
        // KERNEL: with net.ipv6.bindv6only = 0, which is the default, this one has IPv4 as well.
        return match TcpListener::bind(("::", port)).await {
            Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
                TcpListener::bind(("0.0.0.0", port)).await
            }
            bound => bound,
        };
    }
    // As Go does it: one of the addresses of a name, IPv4 before IPv6.
    let mut addresses: Vec<SocketAddr> = lookup_host((host, port)).await?.collect();
    addresses.sort_by_key(SocketAddr::is_ipv6);
    TcpListener::bind(&addresses[..]).await
}

#[cfg(test)]
mod tests;
