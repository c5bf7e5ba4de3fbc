//! Payloads of rtnetlink messages: a route that is taken for one that we could have made is written and read as the same.

use super::{address, link, neighbour, policy, route, vxlan};
use netlink_packet_core::Emitable as _;

pub(crate) fn payload(bytes: &[u8]) {
    if let Some(found) = route::decode(bytes) {
        let message = route::encode(&found);
        let mut written = vec![0; message.buffer_len()];
        message.emit(&mut written);
        assert_eq!(route::decode(&written), Some(route::normalised(&found)));
        let place = route::place(bytes).expect("a route of the main table has a place");
        assert_eq!(place, (found.destination, found.metric));
        let seen = route::seen(bytes).expect("it is unicast");
        assert_eq!((seen.ifindex, seen.gateway), (Some(found.ifindex), None));
    }
    policy::fuzz(bytes);
    vxlan::fuzz(bytes);
    let _ = address::decode(bytes);
    if let Some(found) = link::decode(bytes) {
        assert!(!found.name.contains('\0'));
    }
    let _ = neighbour::decode(bytes);
}
