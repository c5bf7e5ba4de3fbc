//! Addresses and cables of a fabric, and what each compute host is told about its peers. Starts nothing.

use super::Shape;
use crate::agent::Agent;
use crate::host::Host;
use crate::release::Release;
use std::net::IpAddr;

/// The AS of everybody with iBGP, of the ToR with eBGP; the hosts' are the numbers after it.
pub(super) const AS: u32 = 64512;

/// A host's address on the lab's bridge.
pub(super) fn uplink(host: &Host, is_ipv4: bool) -> IpAddr {
    if is_ipv4 { host.ipv4().into() } else { host.ipv6().into() }
}

/// The address of host `number` on its link to the ToR.
pub(super) fn host_address(number: u8, is_ipv4: bool) -> IpAddr {
    if is_ipv4 { [10, 98, number, 2].into() } else { [0xfd98, u16::from(number), 0, 0, 0, 0, 0, 2].into() }
}

/// The ToR's on the same link.
pub(super) fn tor_address(number: u8, is_ipv4: bool) -> IpAddr {
    if is_ipv4 { [10, 98, number, 1].into() } else { [0xfd98, u16::from(number), 0, 0, 0, 0, 0, 1].into() }
}

/// Makes a router of it.
pub(super) fn forward(host: &Host) {
    for path in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
        host.namespace().set_sysctl(path, "1");
    }
}

/// A cable from the ToR to a host, in place of the lab's bridge, which would be a way around the ToR.
pub(super) fn connect(tor: &Host, host: &Host, number: u8) {
    let address = |ours: IpAddr| format!("addr add {ours}/{} dev", if ours.is_ipv4() { 30 } else { 64 });
    let both = [true, false];
    let [host4, host6] = both.map(|is_ipv4| address(host_address(number, is_ipv4)));
    let [tor4, tor6] = both.map(|is_ipv4| address(tor_address(number, is_ipv4)));
    host.namespace().ip(&format!(
        "link set eth0 down\nlink add up0 type veth peer name host{number} netns {}\nlink set up0 up\n\
         {host4} up0\n{host6} up0 nodad",
        tor.namespace().name(),
    ));
    // Whatever is behind the ToR answers this way.
    host.namespace().ip(&both
        .map(|is_ipv4| format!("route add default via {} dev up0\n", tor_address(number, is_ipv4)))
        .concat());
    let link = format!("host{number}");
    tor.namespace().ip(&format!("link set {link} up\n{tor4} {link}\n{tor6} {link} nodad"));
}

/// The addresses by which others can know a host as their next hop, also the link-local ones.
pub(super) fn addresses(host: &Host) -> Vec<IpAddr> {
    host.namespace().run(|| {
        let addresses = nix::ifaddrs::getifaddrs().expect("addresses");
        let outside = addresses.filter(|interface| {
            !["lo", "tap"].iter().any(|inside| interface.interface_name.starts_with(inside))
        });
        let outside = outside.filter_map(|interface| interface.address);
        outside
            .filter_map(|address| {
                let ipv4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
                ipv4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
            })
            .collect()
    })
}

/// What `cutover bgp` prints for one of the hosts, from the agents' settings.
#[track_caller]
pub(super) fn configuration(
    release: Release,
    agent: &Agent,
    shape: Shape,
    number: u8,
    hosts: [&Host; 3],
    middle: Option<&Host>,
) -> String {
    let own = hosts[usize::from(number) - 1];
    let both = [true, false];
    let mut arguments: Vec<String> =
        ["bgp", release.daemon().name(), "--router-id"].map(str::to_owned).to_vec();
    arguments.push(own.ipv4().to_string());
    if release.is_bird_3() {
        arguments.extend(["--bird-version", "3"].map(str::to_owned));
    }
    let peers: Vec<String> = match (shape, middle) {
        (Shape::Tor, _) => {
            arguments.extend(["--peering", "ebgp", "--as"].map(str::to_owned));
            arguments.push((AS + u32::from(number)).to_string());
            both.map(|is_ipv4| format!("{}@{AS}", tor_address(number, is_ipv4))).to_vec()
        }
        (_, Some(reflector)) => both.map(|is_ipv4| uplink(reflector, is_ipv4).to_string()).to_vec(),
        (_, None) => {
            let others = hosts.into_iter().filter(|host| host.name() != own.name());
            others.flat_map(|host| both.map(|is_ipv4| uplink(host, is_ipv4).to_string())).collect()
        }
    };
    if shape != Shape::Tor {
        arguments.extend(["--as".to_owned(), AS.to_string()]);
    }
    for peer in peers {
        arguments.extend(["--peer".to_owned(), peer]);
    }
    agent.run_ok(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
}
