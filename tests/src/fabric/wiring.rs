//! Addresses and cables of a fabric, and what each compute host is told about its peers. Starts nothing.

use super::{Manner, Shape};
use crate::agent::Agent;
use crate::host::Host;
use crate::release::Release;
use crate::site::{self, Seat};
use std::fs;
use std::net::IpAddr;

/// The AS of everybody with iBGP, of the ToR with eBGP; the hosts' are the numbers after it.
pub(super) const AS: u32 = 64512;

/// What signs the sessions that are signed. The signs are those that a daemon might take for something else.
pub(super) const PASSWORD: &str = r"a\b'#;!c?|{$";
/// The number of the ToR where hosts have numbers.
pub(super) const TOR: u8 = 100;

/// An address of a router that is on no subnet.
pub(super) fn identity(number: u8, is_ipv4: bool) -> IpAddr {
    if is_ipv4 { [10, 99, 0, number].into() } else { [0xfd99, 0, 0, 0, 0, 0, 0, u16::from(number)].into() }
}

/// Gives each router one, and the ToR a way to those of the hosts; hosts have a default route to it.
pub(super) fn give_identities(tor: &Host, hosts: [&Host; 3]) {
    let both = [true, false];
    for (router, number) in hosts.into_iter().zip(1..).chain([(tor, TOR)]) {
        let address = |is_ipv4| format!("addr add {} dev lo\n", identity(number, is_ipv4));
        let addresses = both.map(address).concat();
        router.namespace().ip(&format!("link set lo up\n{addresses}"));
    }
    for number in 1..=3 {
        let route = |is_ipv4| {
            format!("route add {} via {}\n", identity(number, is_ipv4), host_address(number, is_ipv4))
        };
        tor.namespace().ip(&both.map(route).concat());
    }
}

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
    (shape, manner): (Shape, Manner),
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
            let address = |is_ipv4| match manner {
                Manner::Guarded => identity(TOR, is_ipv4),
                Manner::Whole | Manner::Added => tor_address(number, is_ipv4),
            };
            both.map(|is_ipv4| format!("{}@{AS}", address(is_ipv4))).to_vec()
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
    match manner {
        Manner::Whole => {}
        Manner::Added => arguments.push("--snippet".to_owned()),
        Manner::Guarded => {
            // Beside the file of settings, in the lab's folder.
            let file = agent.configuration().with_extension("password");
            fs::write(&file, format!("{PASSWORD}\n")).expect("space on the disk");
            arguments.extend(["--password-file".to_owned(), file.display().to_string()]);
            arguments.extend(["--multihop", "2"].map(str::to_owned));
            for is_ipv4 in both {
                arguments.extend(["--source".to_owned(), identity(number, is_ipv4).to_string()]);
            }
        }
    }
    let printed = agent.run_ok(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    if manner != Manner::Added {
        return printed;
    }
    let [ipv4, ipv6] = both.map(|is_ipv4| tor_address(number, is_ipv4).to_string());
    site::with_snippet(release, &Seat { number, router_id: own.ipv4().to_string(), ipv4, ipv6 }, &printed)
}
