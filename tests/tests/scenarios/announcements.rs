//! Which frames count, each on a real tap with the real programs (W7, W8).

use cutover_common::MacAddr;
use cutover_tests::driver::Pace;
use cutover_tests::frames::{self, Frame};
use cutover_tests::packet::PacketSocket;
use cutover_tests::scene::{ELEVATED, Node, SOURCE, TARGET};
use cutover_tests::{Agent, Driver, Lab, Port, kernel, wait};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

const STRANGER: MacAddr = MacAddr([0xfa, 0x16, 0x3e, 0xff, 0xff, 0xff]);
/// Much longer than an accepted announcement takes to become a route.
const LONG_ENOUGH: Duration = Duration::from_millis(400);

/// A target whose tap is armed and open.
struct Armed {
    qemu: cutover_tests::OpenTap,
    node: Node,
    port: Port,
    _lab: Lab,
}

impl Armed {
    fn new(port: Port) -> Self {
        Self::with(port, |_| {})
    }

    fn with(port: Port, configure: impl FnOnce(&mut Agent)) -> Self {
        let lab = Lab::new();
        let directory = lab.directory();
        let mut node = Node::new(&lab, TARGET, &directory, &port);
        configure(&mut node.agent);
        node.agent.start();
        let driver = Driver::new(&directory, &port).at_pace(Pace::IMMEDIATE);
        driver.bind(SOURCE);
        let _uid = driver.start(SOURCE, TARGET);
        node.wait_armed(&port);
        let qemu = node.tap().open();
        Self { qemu, node, port, _lab: lab }
    }

    #[track_caller]
    fn accepts(&self, frame: &Frame) {
        assert!(self.node.has_metrics(&self.port, &[]), "live before the announcement");
        self.qemu.send(frame);
        self.node.wait_metrics(&self.port, &[ELEVATED]);
        self.node.wait_state(&self.port, "Live");
    }

    #[track_caller]
    fn ignores(&self, what: &str, send: impl FnOnce()) {
        send();
        wait::throughout(LONG_ENOUGH, what, || self.node.has_metrics(&self.port, &[]));
    }
}

fn ipv4(port: &Port) -> Ipv4Addr {
    match port.ipv4().addr() {
        IpAddr::V4(address) => address,
        IpAddr::V6(_) => unreachable!("an IPv4 prefix"),
    }
}

fn ipv6(port: &Port) -> Ipv6Addr {
    match port.ipv6().addr() {
        IpAddr::V6(address) => address,
        IpAddr::V4(_) => unreachable!("an IPv6 prefix"),
    }
}

#[test]
fn rarp_of_the_hypervisor_counts() {
    let armed = Armed::new(Port::new(1));
    armed.accepts(&frames::rarp(armed.port.mac));
}

#[test]
fn gratuitous_reply_counts() {
    let armed = Armed::new(Port::new(1));
    armed.accepts(&frames::garp_reply(armed.port.mac, ipv4(&armed.port)));
}

/// W7.
#[test]
fn unsolicited_advertisement_of_an_ipv6_only_guest_counts() {
    let mut port = Port::new(1);
    port.addresses.retain(|address| address.addr().is_ipv6());
    let armed = Armed::new(port);
    armed.accepts(&frames::unsolicited_na(armed.port.mac, ipv6(&armed.port)));
}

/// W7.
#[test]
fn unsolicited_advertisement_of_the_link_local_address_counts() {
    let armed = Armed::new(Port::new(1));
    let address = Ipv6Addr::from(armed.port.mac.link_local());
    armed.accepts(&frames::unsolicited_na(armed.port.mac, address));
}

#[test]
fn announcements_in_vlans_count() {
    let armed = Armed::new(Port::new(1));
    armed.accepts(&frames::rarp(armed.port.mac).tagged(0x8100, 5).tagged(0x88a8, 9));
}

/// W7.
#[test]
fn first_frame_counts_when_it_is_asked_for() {
    let armed = Armed::with(Port::new(1), |agent| agent.set("CutoverTrigger", "first-frame"));
    let address = IpAddr::from(ipv4(&armed.port));
    let peer = IpAddr::from([10, 65, 0, 99]);
    armed.ignores("a stranger's first frame", || {
        armed.qemu.send(&frames::udp(STRANGER, address, peer, b"hello"));
    });
    armed.accepts(&frames::udp(armed.port.mac, address, peer, b"hello"));
}

#[test]
fn any_gratuitous_arp_counts_when_validation_is_off() {
    let armed = Armed::with(Port::new(1), |agent| agent.set("CutoverValidation", "any"));
    armed.accepts(&frames::garp_request(STRANGER, [192, 0, 2, 1].into()));
}

/// W8. One after the other on the same armed tap; the genuine one at the end shows that it was armed all along.
#[test]
fn w8_what_only_looks_like_an_announcement_is_ignored() {
    let armed = Armed::new(Port::new(1));
    let (mac, four, six) = (armed.port.mac, ipv4(&armed.port), ipv6(&armed.port));
    let peer = Ipv4Addr::new(10, 65, 0, 99);
    let refused: Vec<(&str, Frame)> = vec![
        ("RARP of another MAC", frames::rarp(STRANGER)),
        ("RARP of another MAC in a frame of the guest's", frames::rarp(STRANGER).from_station(mac)),
        ("GARP of another MAC", frames::garp_request(STRANGER, four)),
        (
            "GARP of another MAC in a frame of the guest's",
            frames::garp_reply(STRANGER, four).from_station(mac),
        ),
        ("GARP for another address", frames::garp_request(mac, peer)),
        ("GARP for 0.0.0.0", frames::garp_request(mac, Ipv4Addr::UNSPECIFIED)),
        ("address probe", frames::arp_probe(mac, four)),
        ("ordinary question", frames::arp_request(mac, four, peer)),
        ("NA for another address", frames::unsolicited_na(mac, "2001:db8::99".parse().expect("an address"))),
        ("solicited NA", frames::neighbour_advertisement(mac, six, six, true, 255)),
        ("NA from beyond a router", frames::neighbour_advertisement(mac, six, six, false, 254)),
        (
            "solicitation",
            frames::neighbour_solicitation(mac, six, "2001:db8::99".parse().expect("an address")),
        ),
        ("duplicate address detection", frames::neighbour_solicitation(mac, Ipv6Addr::UNSPECIFIED, six)),
        ("datagram", frames::udp(mac, four.into(), peer.into(), b"hello")),
        ("cut-off GARP", frames::garp_request(mac, four).truncated(14 + 27)),
        ("cut-off RARP", frames::rarp(mac).truncated(14 + 7)),
        ("cut-off NA", frames::unsolicited_na(mac, six).truncated(14 + 40 + 23)),
    ];
    for (what, frame) in &refused {
        armed.qemu.try_send(frame).unwrap_or_else(|error| panic!("{what}: {error}"));
    }
    armed.ignores("all of them together", || {});
    assert!(armed.node.agent.log().matching(&["to=Live"]).is_empty());
    armed.accepts(&frames::garp_request(mac, four));
}

/// W8. What the host sends towards the guest passes the same tap in the other direction.
#[test]
fn w8_frames_that_the_host_sends_are_ignored() {
    let armed = Armed::new(Port::new(1));
    let mac = armed.port.mac;
    let host = PacketSocket::bind(armed.node.host.namespace(), &armed.port.interface);
    let frame = frames::garp_request(mac, ipv4(&armed.port));
    armed.ignores("sent by the host", || {
        host.send(&frame);
        host.send(&frames::rarp(mac));
    });
    wait::until(wait::SOON, "the frame did pass the tap", || {
        armed.qemu.receive().is_some_and(|passed| passed == frame.bytes())
    });
    armed.accepts(&frame);
}

/// The same program on every hook that this kernel has.
#[test]
fn every_way_to_attach_hears_the_announcement() {
    // Without tcx the agent takes clsact by itself.
    let ways = [if kernel::has_tcx() { "tcx" } else { "auto" }, "tc", "xdp"];
    for way in ways {
        let armed = Armed::with(Port::new(1), |agent| agent.set("CutoverAttach", way));
        armed.ignores(way, || armed.qemu.send(&frames::rarp(STRANGER)));
        armed.accepts(&frames::rarp(armed.port.mac));
    }
}

/// The fast path that spins before it sleeps does the same.
#[test]
fn a_spinning_fast_path_hears_the_announcement() {
    let armed = Armed::with(Port::new(1), |agent| agent.set("CutoverBusyPollMicros", 50));
    armed.ignores("before it", || armed.qemu.send(&frames::rarp(STRANGER)));
    armed.accepts(&frames::garp_request(armed.port.mac, ipv4(&armed.port)));
}
