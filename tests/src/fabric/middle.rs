//! Configurations of what is in the middle, a route reflector or a top-of-rack router, for both daemons. They are what
//! docs/bgp-bird.md and docs/bgp-frr.md ask of somebody else's router.

use super::wiring::{AS, PASSWORD, TOR, host_address, identity, uplink};
use super::{BGP_METRIC, Daemon, Manner, Shape};
use crate::host::Host;
use std::net::IpAddr;

/// A host that the middle peers with, once for each family.
struct Neighbour {
    number: u8,
    address: IpAddr,
    autonomous_system: u32,
}

impl Neighbour {
    const fn digit(&self) -> u8 {
        if self.address.is_ipv4() { 4 } else { 6 }
    }
}

/// The configuration of the middle of `shape`, which is not a mesh.
pub(super) fn configuration(
    daemon: Daemon,
    (shape, manner): (Shape, Manner),
    own: &Host,
    hosts: [&Host; 3],
) -> String {
    let neighbours: Vec<Neighbour> = hosts
        .into_iter()
        .zip(1..)
        .flat_map(|(host, number)| {
            [true, false].map(|is_ipv4| match shape {
                Shape::Tor => {
                    let autonomous_system = AS + u32::from(number);
                    let address = match manner {
                        Manner::Guarded => identity(number, is_ipv4),
                        Manner::Whole | Manner::Added => host_address(number, is_ipv4),
                    };
                    Neighbour { number, address, autonomous_system }
                }
                _ => Neighbour { number, address: uplink(host, is_ipv4), autonomous_system: AS },
            })
        })
        .collect();
    match daemon {
        Daemon::Bird => bird((shape, manner), own, &neighbours),
        Daemon::Frr => frr((shape, manner), own, &neighbours),
    }
}

/// A reflector needs nothing special, because LOCAL_PREF passes. A ToR prefers what has the community, and passes it on.
/// Both put what they learn into their kernels.
fn bird((shape, manner): (Shape, Manner), own: &Host, neighbours: &[Neighbour]) -> String {
    let (role, import) = match shape {
        Shape::Tor => ("", "filter hosts"),
        _ => ("rr client; ", "all"),
    };
    let kernel = |digit: u8| {
        format!(
            "protocol kernel kernel{digit} {{ persist; graceful restart; metric {BGP_METRIC}; \
             ipv{digit} {{ import none; export where source = RTS_BGP; }}; }}\n"
        )
    };
    let session = |neighbour: &Neighbour| {
        let Neighbour { number, address, autonomous_system } = neighbour;
        let digit = neighbour.digit();
        let (source, guard) = match manner {
            Manner::Guarded => {
                (format!(" {}", identity(TOR, digit == 4)), format!("multihop 2; password \"{PASSWORD}\"; "))
            }
            Manner::Whole | Manner::Added => <_>::default(),
        };
        format!(
            "protocol bgp host{digit}_{number} {{\n  local{source} as {AS};\n  neighbor {address} as {autonomous_system};\n  \
             {guard}{role}connect delay time 1;\n  connect retry time 1;\n  error wait time 1, 2;\n  graceful restart on;\n  \
             ipv{digit} {{ import {import}; export where source = RTS_BGP; }};\n}}\n"
        )
    };
    // Next hops of sessions between addresses that are on no subnet.
    let ways = |digit: u8| {
        let numbers: &[u8] = if manner == Manner::Guarded { &[1, 2, 3] } else { &[] };
        let way = |&number: &u8| {
            let (to, via) = (identity(number, digit == 4), host_address(number, digit == 4));
            format!(" route {to}/{} via {via};", if digit == 4 { 32 } else { 128 })
        };
        format!("protocol static {{ ipv{digit};{} }}\n", numbers.iter().map(way).collect::<String>())
    };
    format!(
        "router id {};\nprotocol device {{ scan time 10; }}\nprotocol direct {{ ipv4; ipv6; }}\n{}{}{}{}\
         filter hosts {{\n  if (65000, 100) ~ bgp_community then preference = 200;\n  accept;\n}}\n{}",
        own.ipv4(),
        kernel(4),
        kernel(6),
        ways(4),
        ways(6),
        neighbours.iter().map(session).collect::<String>()
    )
}

/// The same.
fn frr((shape, manner): (Shape, Manner), own: &Host, neighbours: &[Neighbour]) -> String {
    let sessions: String = neighbours
        .iter()
        .map(|Neighbour { address, autonomous_system, .. }| {
            let guard = match manner {
                Manner::Guarded => format!(
                    " neighbor {address} ebgp-multihop 2\n neighbor {address} update-source {}\n \
                     neighbor {address} password {PASSWORD}\n",
                    identity(TOR, address.is_ipv4())
                ),
                Manner::Whole | Manner::Added => String::new(),
            };
            format!(
                " neighbor {address} remote-as {autonomous_system}\n neighbor {address} timers connect 1\n{guard}"
            )
        })
        .collect();
    let family = |digit: u8| {
        let own = neighbours.iter().filter(|neighbour| neighbour.digit() == digit);
        let lines = own.map(|Neighbour { address, .. }| match shape {
            Shape::Tor => format!(
                "  neighbor {address} activate\n  neighbor {address} route-map HOSTS in\n  \
                 neighbor {address} route-map ALL out\n"
            ),
            _ => format!("  neighbor {address} activate\n  neighbor {address} route-reflector-client\n"),
        });
        format!(" address-family ipv{digit} unicast\n{} exit-address-family\n", lines.collect::<String>())
    };
    format!(
        "frr defaults traditional\nzebra work-queue 0\n\
         bgp community-list standard ELEVATED seq 5 permit 65000:100\n\
         route-map HOSTS permit 10\n match community ELEVATED\n set local-preference 200\nexit\n\
         route-map HOSTS permit 20\nexit\nroute-map ALL permit 10\nexit\n\
         router bgp {AS}\n bgp router-id {}\n no bgp default ipv4-unicast\n bgp graceful-restart\n coalesce-time 0\n\
         {sessions}{}{}exit\n",
        own.ipv4(),
        family(4),
        family(6),
    )
}
