//! What the client says to a guest while it moves: numbered datagrams to every address, one in each period to each,
//! and one long TCP connection to the first one.

use crate::hypervisor::Guest;
use crate::namespace::Namespace;
use crate::stream::{ByteRecord, ByteStream, DatagramRecord, DatagramStream};
use std::net::IpAddr;
use std::time::Duration;

/// Traffic under way.
#[derive(Debug)]
pub struct Traffic {
    datagrams: Vec<(IpAddr, DatagramStream)>,
    bytes: ByteStream,
}

/// What became of it.
#[derive(Clone, Debug)]
pub struct Heard {
    /// By address.
    pub datagrams: Vec<(IpAddr, DatagramRecord)>,
    /// The TCP connection.
    pub bytes: ByteRecord,
    /// The longest that the client's TCP waited for an acknowledgement before it sent again.
    pub retransmission_timeout: Duration,
}

impl Traffic {
    /// Begins to talk to a guest that answers.
    ///
    /// # Panics
    /// When it does not.
    #[must_use]
    pub fn start(from: &Namespace, guest: &Guest, period: Duration) -> Self {
        let addresses = guest.addresses();
        let bytes = ByteStream::start(from, addresses[0]);
        let stream = |address| (address, DatagramStream::start(from, address, period));
        let datagrams = addresses.into_iter().map(stream).collect();
        Self { datagrams, bytes }
    }

    /// How long the client's TCP waits now for an acknowledgement before it sends again.
    #[must_use]
    pub fn retransmission_timeout(&self) -> Duration {
        self.bytes.retransmission_timeout()
    }

    /// Stops talking.
    ///
    /// # Panics
    /// When the TCP connection broke or lost something.
    #[must_use]
    pub fn finish(self) -> Heard {
        for (_, stream) in &self.datagrams {
            stream.stop();
        }
        let retransmission_timeout = self.bytes.longest_retransmission_timeout();
        let bytes = self.bytes.finish();
        let datagrams =
            self.datagrams.into_iter().map(|(address, stream)| (address, stream.finish())).collect();
        Heard { datagrams, bytes, retransmission_timeout }
    }
}
