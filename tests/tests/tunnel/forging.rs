//! Who can send to the tunnel's port reaches nobody, and is counted by what is wrong.

use crate::bed::*;
use cutover_common::tunnel::TunnelCounter;
use cutover_engine::wanted::{Tunnel, WantedReception};
use cutover_tests::frames;
use cutover_tests::wait;
use std::net::{IpAddr, UdpSocket};

/// Next protocols of the Generic Protocol Extension.
const IPV4: u8 = 1;
const IPV6: u8 = 2;
const MPLS: u8 = 5;

/// A datagram of the tunnel, as RFC 7348 and the draft of the extension have it.
fn encapsulated(id: u32, next_protocol: u8, packet: &[u8]) -> Vec<u8> {
    const HAS_ID: u8 = 0x08;
    const HAS_PROTOCOL: u8 = 0x04;
    let mut datagram = vec![HAS_ID | HAS_PROTOCOL, 0, 0, next_protocol];
    datagram.extend((id << 8).to_be_bytes());
    datagram.extend(packet);
    datagram
}

/// A packet to an address, without anything in front of it.
fn packet(to: IpAddr, payload: &[u8]) -> Vec<u8> {
    let from: IpAddr = if to.is_ipv4() { [10, 98, 3, 2].into() } else { "fd98:3::2".parse().unwrap() };
    frames::udp(MAC, from, to, payload).bytes()[14..].to_vec()
}

#[test]
fn what_is_forged_is_dropped_and_counted_by_its_reason() {
    let bed = Bed::new();
    let mut target = bed.target_applier();
    // A second virtual machine arrives here from another host.
    let mut wanted = bed.reception(true);
    let [other_vm, elsewhere]: [IpAddr; 2] = ["10.65.0.3", "10.65.0.9"].map(|it| it.parse().unwrap());
    let tap = bed.target.host.plug("tapport2", "fe:16:3e:00:00:02".parse().unwrap());
    let other = WantedReception {
        tunnel: Tunnel { id: ID + 1, peer: bed.client.address(true) },
        interface: "tapport2".to_owned(),
        ifindex: tap.ifindex(),
        outlet: tap.ifindex(),
        prefixes: prefixes(&[other_vm]),
    };
    wanted.receptions.insert(endpoint("target", 2), other);
    target.want(&wanted);
    target.wait_ready(true);
    wait::until(wait::SOON, "both are ready", || {
        target.report.read().unwrap().receptions.iter().all(|reception| reception.is_ready)
    });

    let [vm4, vm6] = vm();
    let forged = b"forged";
    let send = |site: &Site, is_ipv4: bool, datagram: &[u8]| {
        let to = (bed.target.address(is_ipv4), PORT);
        site.namespace().run(|| {
            let socket = UdpSocket::bind((site.address(is_ipv4), 0)).unwrap();
            socket.send_to(datagram, to).unwrap();
        });
    };
    let (source, client) = (&bed.source, &bed.client);
    let mut not_ip = packet(vm4, forged);
    not_ip[0] = 0x65;
    let cases: [(&str, &Site, bool, Vec<u8>, TunnelCounter); 9] = [
        (
            "another identifier",
            source,
            true,
            encapsulated(ID + 2, IPV4, &packet(vm4, forged)),
            TunnelCounter::ReceiveUnknownTunnel,
        ),
        (
            "no identifier at all",
            source,
            true,
            encapsulated(0, IPV4, &packet(vm4, forged)),
            TunnelCounter::ReceiveUnknownTunnel,
        ),
        (
            "another sender",
            client,
            true,
            encapsulated(ID, IPV4, &packet(vm4, forged)),
            TunnelCounter::ReceiveWrongSource,
        ),
        (
            "its address of the other family",
            source,
            false,
            encapsulated(ID, IPV6, &packet(vm6, forged)),
            TunnelCounter::ReceiveWrongSource,
        ),
        (
            "another one that arrives",
            source,
            true,
            encapsulated(ID, IPV4, &packet(other_vm, forged)),
            TunnelCounter::ReceiveForeignAddress,
        ),
        (
            "the address of nobody",
            source,
            true,
            encapsulated(ID, IPV4, &packet(elsewhere, forged)),
            TunnelCounter::ReceiveForeignAddress,
        ),
        (
            "the host itself",
            source,
            true,
            encapsulated(ID, IPV4, &packet(bed.target.address(true), forged)),
            TunnelCounter::ReceiveForeignAddress,
        ),
        (
            "another protocol",
            source,
            true,
            encapsulated(ID, MPLS, &packet(vm4, forged)),
            TunnelCounter::ReceiveNotIp,
        ),
        ("another version", source, true, encapsulated(ID, IPV4, &not_ip), TunnelCounter::ReceiveNotIp),
    ];
    for (what, site, is_ipv4, datagram, counter) in cases {
        let before = target.dropped(counter);
        let all = || {
            let dropped = target.report.read().unwrap().dropped;
            dropped
                .iter()
                .filter(|(name, _)| name.starts_with("receive"))
                .map(|(_, count)| count)
                .sum::<u64>()
        };
        let all_before = all();
        send(site, is_ipv4, &datagram);
        wait::until(wait::SOON, format_args!("{what} is counted as {counter:?}"), || {
            target.dropped(counter) == before + 1
        });
        assert_eq!(all(), all_before + 1, "{what}: for one reason");
    }
    bed.expect_nothing("forged");

    // Neither does anybody get into a tunnel by sending to the device.
    let route = format!("route add {elsewhere} dev cutover0");
    bed.target.namespace().ip(&route);
    bed.target.namespace().run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        let _ = socket.send_to(forged, (elsewhere, 9));
    });
    wait::until(wait::SOON, "what nobody forwards is counted", || {
        target.dropped(TunnelCounter::ForwardUnknownAddress) == 1
    });

    // What is right arrives.
    for (vm, protocol) in [(vm4, IPV4), (vm6, IPV6)] {
        send(source, true, &encapsulated(ID, protocol, &packet(vm, b"this one is right")));
        bed.expect(b"this one is right");
    }
}
