//! How long a packet can be on its way to another host, as the routes of this one say.

use super::inquiry;
use netlink_packet_core::{NLM_F_ACK, Parseable as _};
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteMetric};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use std::io;
use std::net::IpAddr;

const IFLA_MTU: u16 = 4;

/// What the route to `peer` says, or else the interface that it leaves through; nothing if there is no route.
///
/// # Errors
/// When the kernel cannot be asked.
pub(crate) fn mtu_towards(peer: IpAddr) -> io::Result<Option<u32>> {
    let mut message = RouteMessage::default();
    (message.header.address_family, message.header.destination_prefix_length) = match peer {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    message.attributes.push(RouteAttribute::Destination(peer.into()));
    let answers = match inquiry::ask(&RouteNetlinkMessage::GetRoute(message), NLM_F_ACK) {
        Ok(answers) => answers,
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENETUNREACH | libc::EHOSTUNREACH)) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let route = answers.iter().find(|(kind, _)| *kind == libc::RTM_NEWROUTE);
    let Some(route) = route.and_then(|(_, payload)| RouteMessage::parse(payload.as_slice()).ok()) else {
        return Ok(None);
    };
    let (mut mtu, mut ifindex) = (None, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(number) => ifindex = Some(*number),
            RouteAttribute::Metrics(metrics) => {
                mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    match (mtu, ifindex) {
        (None, Some(ifindex)) => of_interface(ifindex),
        (mtu, _) => Ok(mtu),
    }
}

fn of_interface(ifindex: u32) -> io::Result<Option<u32>> {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    let link = inquiry::link(message)?;
    Ok(link.and_then(|link| inquiry::link_number(&link, IFLA_MTU)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_to_oneself_is_as_long_as_the_loopback_says() {
        // KERNEL: every network namespace has one, 65536 by default.
        let mtu = mtu_towards(IpAddr::from([127, 0, 0, 1])).unwrap();
        assert!(mtu.is_some_and(|mtu| mtu >= 1500), "{mtu:?}");
    }
}
