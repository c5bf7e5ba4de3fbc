//! A key of etcd: what it stands for has a key that stands for the same.

use super::*;

pub(crate) fn key(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for region in ["", "east"] {
        let keys = Keys::new("compute-1", region);
        let Some(found) = keys.parse(text) else { continue };
        let again = match &found {
            Key::Endpoint(endpoint) => keys.endpoint(endpoint),
            Key::Migration(name) => keys.migration(name),
            Key::Configuration(name) => format!("{}{name}", keys.configurations()),
            Key::Cluster => keys.cluster(),
            Key::Status(endpoint) => keys.status(endpoint),
        };
        assert_eq!(keys.parse(&again), Some(found.clone()), "{again}");
        if let Key::Endpoint(endpoint) = &found {
            assert_eq!(check_key(endpoint), Ok(()));
            assert_eq!(Keys::namespace_and_host(text), Some((keys.namespace(), endpoint.host.clone())));
        }
    }
}
