//! A record of another host: what is usable says the same when it is written again.

use super::*;

/// One.
#[cfg(test)]
pub(crate) fn sample() -> Vec<u8> {
    let mut key = KEY_PREFIX.to_vec();
    key.extend(0..32);
    let key = PublicKey::new(&key).unwrap();
    Peer { key, address: "192.0.2.1:9911".parse().unwrap(), tunnel_port: 4790 }.text().into_bytes()
}

pub(crate) fn record(bytes: &[u8]) {
    if let Ok(peer) = Peer::read(bytes) {
        assert!(bytes.len() <= TEXT_MAX);
        assert!(peer.address.port() != 0 && peer.tunnel_port != 0);
        assert_eq!(Peer::read(peer.text().as_bytes()), Ok(peer));
    }
}
