//! The underlay address of this host if no setting names it: the one from which it reaches the datastore.

use super::record::is_of_a_host;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use tokio::net::{UdpSocket, lookup_host};

/// There is none yet, or none at all.
#[derive(Debug, thiserror::Error)]
pub(super) enum AddressError {
    #[error("cannot find out from which address this host reaches {endpoint}: {error}")]
    Unreachable { endpoint: String, error: io::Error },
    #[error(
        "this host reaches the datastore at {endpoint} from {address}, where no other host reaches it: set CutoverPeerAddress to its address in the underlay"
    )]
    OnlyHere { endpoint: String, address: IpAddr },
}

impl AddressError {
    /// Whether it is of no use to try again: settings do not change while the agent runs.
    pub(super) const fn is_final(&self) -> bool {
        matches!(self, Self::OnlyHere { .. })
    }
}

/// Asks the kernel for the way to each member until one leads out of this host. Nothing is sent.
pub(super) async fn toward(endpoints: &[String]) -> Result<IpAddr, AddressError> {
    let mut failed = None;
    for endpoint in endpoints {
        match local(endpoint).await {
            Ok(address) if is_of_a_host(address) && !address.is_loopback() => return Ok(address),
            // One that could not be asked may still lead out.
            Ok(address) => {
                failed.get_or_insert(AddressError::OnlyHere { endpoint: endpoint.clone(), address });
            }
            Err(error) => failed = Some(AddressError::Unreachable { endpoint: endpoint.clone(), error }),
        }
    }
    Err(failed.unwrap_or_else(|| AddressError::Unreachable {
        endpoint: "the datastore".to_owned(),
        error: io::ErrorKind::NotFound.into(),
    }))
}

async fn local(endpoint: &str) -> io::Result<IpAddr> {
    let place = endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest).trim_end_matches('/');
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for to in lookup_host(place).await? {
        let from: SocketAddr = match to {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = UdpSocket::bind(from).await?;
        match socket.connect(to).await {
            Ok(()) => return Ok(socket.local_addr()?.ip()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_datastore_on_this_host_leads_nowhere() {
        for endpoint in ["http://127.0.0.1:2379", "https://127.0.0.1:2379/"] {
            let error = toward(&[endpoint.to_owned()]).await.unwrap_err();
            assert!(error.is_final() && error.to_string().contains("set CutoverPeerAddress"), "{error}");
        }
    }

    #[tokio::test]
    async fn what_cannot_be_asked_may_be_asked_later() {
        let endpoints = ["http://127.0.0.1:2379", "http://nobody.invalid:2379"].map(str::to_owned);
        assert!(!toward(&endpoints).await.unwrap_err().is_final());
    }
}
