//! What the kernel says when an interface gets IPv6: it is made with the interface, goes and comes with an MTU that is too small
//! for it, and can be switched off and on.

use netlink_packet_core::NlasIterator;

// linux/netconf.h.
const NETCONFA_IFINDEX: u16 = 1;
/// `struct netconfmsg`, padded.
const HEADER_BYTES: usize = 4;

/// The interface of RTM_NEWNETCONF if its settings are new.
///
/// KERNEL: such a message has all settings. One about a changed setting has that one only, and the agent's own changes are
/// notified, too.
pub(super) fn with_new_settings(payload: &[u8]) -> Option<u32> {
    if i32::from(*payload.first()?) != libc::AF_INET6 {
        return None;
    }
    let attributes = NlasIterator::new(payload.get(HEADER_BYTES..)?).collect::<Result<Vec<_>, _>>().ok()?;
    let ifindex = attributes.iter().find(|attribute| attribute.kind() == NETCONFA_IFINDEX)?;
    let settings = attributes.len() - 1;
    // Of all interfaces together it is -1, of future ones -2.
    let ifindex = i32::from_ne_bytes(ifindex.value().try_into().ok()?);
    u32::try_from(ifindex).ok().filter(|_| settings > 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(family: u8, attributes: &[(u16, i32)]) -> Vec<u8> {
        let mut bytes = vec![family, 0, 0, 0];
        for (kind, value) in attributes {
            bytes.extend(8_u16.to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(value.to_ne_bytes());
        }
        bytes
    }

    /// 2 is forwarding, 4 that of multicasts, 5 proxying, 6 what becomes of routes without a link; as Linux 6.18 sends them.
    #[test]
    fn new_settings_are_told_from_changed_ones() {
        let all = [(1, 7), (2, 0), (4, 0), (5, 0), (6, 0)];
        for (family, attributes, expected) in [
            (10, &all[..], Some(7)),
            (2, &all, None),
            (10, &[(1, 7), (5, 1)], None),
            (10, &[(1, 7), (2, 0)], None),
            (10, &[(1, -1), (2, 0), (5, 0)], None),
            (10, &[(2, 0), (5, 0)], None),
        ] {
            assert_eq!(with_new_settings(&message(family, attributes)), expected, "{family} {attributes:?}");
        }
        assert_eq!(with_new_settings(&[]), None);
        assert_eq!(with_new_settings(&[10, 0, 0, 0, 9, 0]), None);
    }
}
