//! Fabrics of hosts with FRR, for both families: a full mesh, a route reflector, a top-of-rack router.
//!
//! The part of the agent is played by [`Node::install`] and [`Node::remove`], in the agent's order.

use cutover_agent::bgp::{Community, Parameters, Peer, Peering, Priorities, frr};
use cutover_tests::namespace::Namespace;
use cutover_tests::route_watch::Mark;
use cutover_tests::{Frr, Host, Lab, Qemu, RouteWatch, Tap, wait};
use ipnet::IpNet;
use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

/// The priorities that `cutover bgp frr` asks for.
pub(crate) const NORMAL: u32 = 100_665_344;
pub(crate) const ELEVATED: u32 = 10;
/// LOCAL_PREF of both.
pub(crate) const NORMAL_PREFERENCE: u64 = 2_046_818_303;
pub(crate) const ELEVATED_PREFERENCE: u64 = 2_147_483_637;
/// Metric of everything that zebra writes to the kernel.
pub(crate) const ZEBRA: u32 = 20;
/// LIMIT: two daemons wait 50 ms each, a loaded machine adds to it; only failing tests wait this long.
pub(crate) const CONVERGED: Duration = Duration::from_secs(15);
pub(crate) const AS: u32 = 64512;
const VM_MAC: &str = "fa:16:3e:00:00:01";

/// The addresses of the machine that moves.
pub(crate) fn machine() -> [IpNet; 2] {
    ["10.65.0.2/32", "2001:db8::2/128"].map(|address| address.parse().unwrap())
}

/// A compute host.
pub(crate) struct Node {
    pub frr: Frr,
    pub watch: RouteWatch,
    pub qemu: Qemu,
    _tap: Tap,
    pub host: Host,
}

/// Where the best route of a kernel leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Leads {
    /// To the machine.
    ToTap,
    /// To another host.
    Via(IpAddr),
    Nowhere,
}

impl Node {
    fn new(lab: &Lab, host: Host, configuration: &str) -> Self {
        let namespace = host.namespace();
        for path in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
            namespace.set_sysctl(path, "1");
        }
        let tap = host.plug("tapvm1", "fe:16:3e:00:00:01".parse().unwrap());
        let qemu = tap.open();
        for address in machine() {
            namespace.ip(&format!("neigh add {} lladdr {VM_MAC} nud permanent dev tapvm1", address.addr()));
        }
        let watch = RouteWatch::start(namespace);
        let frr = Frr::start(lab, host.namespace_shared(), configuration);
        Self { frr, watch, qemu, _tap: tap, host }
    }

    /// Adds routes to these addresses, as the agent does.
    pub(crate) fn install_all(&self, addresses: impl IntoIterator<Item = IpNet>, metric: u32) {
        self.change("add", addresses, metric);
    }

    /// Removes them.
    pub(crate) fn remove_all(&self, addresses: impl IntoIterator<Item = IpNet>, metric: u32) {
        self.change("del", addresses, metric);
    }

    /// Adds the routes of the machine.
    pub(crate) fn install(&self, metric: u32) {
        self.install_all(machine(), metric);
    }

    /// Removes the routes of the machine.
    pub(crate) fn remove(&self, metric: u32) {
        self.remove_all(machine(), metric);
    }

    fn change(&self, verb: &str, addresses: impl IntoIterator<Item = IpNet>, metric: u32) {
        let lines = addresses.into_iter().map(|to| {
            let family = if to.addr().is_ipv4() { "-4" } else { "-6" };
            (family, format!("route {verb} {to} dev tapvm1 proto 3 scope link metric {metric}\n"))
        });
        let scripts: Vec<(&str, String)> = lines.collect();
        let script: String = scripts.iter().map(|(_, line)| line.as_str()).collect();
        self.host.namespace().ip(&script);
    }

    /// Where the kernel sends what is for `to`, by the route with the lowest metric.
    pub(crate) fn leads(&self, to: IpNet) -> Leads {
        match self.watch.routes_to(to).pop_first() {
            None => Leads::Nowhere,
            Some(route) => route.gateway.map_or(Leads::ToTap, Leads::Via),
        }
    }

    /// The addresses that other hosts know as their next hop to this one.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        let link_local = self.host.namespace().run(|| {
            let addresses = nix::ifaddrs::getifaddrs().expect("addresses").filter_map(|interface| {
                let address = interface.address?.as_sockaddr_in6()?.ip();
                address.is_unicast_link_local().then_some(IpAddr::V6(address))
            });
            addresses.collect::<Vec<_>>()
        });
        [self.host.ipv4().into(), self.host.ipv6().into()].into_iter().chain(link_local).collect()
    }

    /// Whether this host sends what is for the machine to `other`, in both families.
    pub(crate) fn sends_to(&self, other: &Self) -> bool {
        let addresses = other.addresses();
        machine().iter().all(|&to| matches!(self.leads(to), Leads::Via(hop) if addresses.contains(&hop)))
    }

    /// Whether this host delivers to its own tap.
    pub(crate) fn delivers(&self) -> bool {
        machine().iter().all(|&to| self.leads(to) == Leads::ToTap)
    }

    /// Waits until LOCAL_PREF of the path in use is this one in both families.
    #[track_caller]
    pub(crate) fn wait_preference(&self, preference: u64) {
        let name = self.host.name();
        wait::until(CONVERGED, format_args!("{name} uses LOCAL_PREF {preference}"), || {
            let best = machine().map(|to| self.frr.best(to).and_then(|best| best.preference));
            best == [Some(preference); 2]
        });
    }

    /// Checks that since `mark` there was a route to the machine all the time.
    #[track_caller]
    pub(crate) fn assert_never_without(&self, mark: Mark) {
        for to in machine() {
            self.watch.since(mark).assert_never_without(to);
        }
    }
}

/// Sends a packet for each address of the machine from `namespace`, until `here` has both. Nobody else may get one.
#[track_caller]
pub(crate) fn assert_arrives(from: &Namespace, here: &Qemu, not_here: &Qemu) {
    drain(not_here);
    for to in machine() {
        let seen = || {
            from.run(|| send(to.addr()));
            std::iter::from_fn(|| here.receive()).any(|frame| is_for(&frame, to.addr()))
        };
        wait::until(wait::SOON, format_args!("a packet for {to}"), seen);
    }
    let astray = std::iter::from_fn(|| not_here.receive())
        .any(|frame| machine().iter().any(|to| is_for(&frame, to.addr())));
    assert!(!astray, "a packet went where the machine is not");
}

/// Takes everything that has arrived.
pub(crate) fn drain(qemu: &Qemu) {
    while qemu.receive().is_some() {}
}

fn send(to: IpAddr) {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    // Without a route there is an error, which is the packet that does not arrive.
    let _ = UdpSocket::bind(any).and_then(|socket| socket.send_to(b"cutover", (to, 9)));
}

/// Whether a frame carries a UDP packet for `to`.
fn is_for(frame: &[u8], to: IpAddr) -> bool {
    let at = |offset: usize, bytes: &[u8]| frame.get(offset..offset + bytes.len()) == Some(bytes);
    match to {
        IpAddr::V4(to) => at(12, &[8, 0]) && at(23, &[17]) && at(30, &to.octets()),
        IpAddr::V6(to) => at(12, &[0x86, 0xdd]) && at(20, &[17]) && at(38, &to.octets()),
    }
}

/// The host that the machine leaves, the one where it arrives, and one that talks to it.
pub(crate) struct Fabric {
    pub source: Node,
    pub target: Node,
    pub third: Node,
    /// What is between them: the reflector or the ToR.
    pub middle: Option<Middle>,
    _lab: Lab,
}

/// A router that is no compute host.
pub(crate) struct Middle {
    pub frr: Frr,
    pub watch: RouteWatch,
    pub namespace: std::sync::Arc<Namespace>,
}

const NAMES: [&str; 3] = ["source", "target", "third"];

impl Fabric {
    /// Every host knows every other one.
    pub(crate) fn mesh() -> Self {
        let lab = Lab::new();
        let hosts = NAMES.map(|name| lab.host(name));
        let addresses: Vec<[IpAddr; 2]> = hosts.iter().map(addresses).collect();
        let nodes = hosts.map(|host| {
            let own = self::addresses(&host);
            let others = addresses.iter().filter(|other| **other != own).flatten();
            let peers = others.map(|&address| Peer { address, autonomous_system: None });
            let parameters = parameters(Peering::Ibgp, AS, &host, peers.collect());
            Node::new(&lab, host, &frr::configuration(&parameters).unwrap())
        });
        Self::ready(lab, nodes, None, 4)
    }

    /// Every host knows the reflector.
    pub(crate) fn reflector() -> Self {
        let lab = Lab::new();
        let hosts = NAMES.map(|name| lab.host(name));
        let reflector = lab.host("reflector");
        let clients: Vec<IpAddr> = hosts.iter().flat_map(addresses).collect();
        let peers: Vec<Peer> =
            addresses(&reflector).map(|address| Peer { address, autonomous_system: None }).to_vec();
        let watch = RouteWatch::start(reflector.namespace());
        let namespace = reflector.namespace_shared();
        let frr =
            Frr::start(&lab, reflector.namespace_shared(), &reflector_configuration(&reflector, &clients));
        let nodes = hosts.map(|host| {
            let parameters = parameters(Peering::Ibgp, AS, &host, peers.clone());
            Node::new(&lab, host, &frr::configuration(&parameters).unwrap())
        });
        Self::ready(lab, nodes, Some(Middle { frr, watch, namespace }), 2)
    }

    /// Every host is in an AS of its own and knows the ToR; the links to it have nothing to do with each other.
    pub(crate) fn tor() -> Self {
        let lab = Lab::new();
        let hosts = NAMES.map(|name| lab.host(name));
        let tor = std::sync::Arc::new(Namespace::create(&format!("{}tor", lab.prefix())));
        for path in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
            tor.set_sysctl(path, "1");
        }
        for (host, number) in hosts.iter().zip(1..) {
            // The bridge of the lab would be a way around the ToR.
            host.namespace().ip(&format!(
                "link set eth0 down\n\
                 link add up0 type veth peer name host{number} netns {tor}\n\
                 link set up0 up\n\
                 addr add 10.98.{number}.2/30 dev up0\n\
                 addr add fd98:{number}::2/64 dev up0 nodad",
                tor = tor.name(),
            ));
            tor.ip(&format!(
                "link set host{number} up\n\
                 addr add 10.98.{number}.1/30 dev host{number}\n\
                 addr add fd98:{number}::1/64 dev host{number} nodad"
            ));
        }
        let watch = RouteWatch::start(&tor);
        let frr = Frr::start(&lab, std::sync::Arc::clone(&tor), &tor_configuration());
        let mut number = 0;
        let nodes = hosts.map(|host| {
            number += 1;
            let peers = [format!("10.98.{number}.1"), format!("fd98:{number}::1")];
            let peer = |text: &String| Peer { address: text.parse().unwrap(), autonomous_system: Some(AS) };
            let parameters = parameters(Peering::Ebgp, AS + number, &host, peers.iter().map(peer).collect());
            Node::new(&lab, host, &frr::configuration(&parameters).unwrap())
        });
        Self::ready(lab, nodes, Some(Middle { frr, watch, namespace: tor }), 2)
    }

    fn ready(lab: Lab, nodes: [Node; 3], middle: Option<Middle>, sessions: usize) -> Self {
        for node in &nodes {
            node.frr.wait_established(sessions);
        }
        let [source, target, third] = nodes;
        Self { source, target, third, middle, _lab: lab }
    }

    /// The machine runs on the source, and all hosts know.
    #[track_caller]
    pub(crate) fn settle(&self) {
        self.source.install(NORMAL);
        for other in [&self.target, &self.third] {
            wait::until(CONVERGED, format_args!("{} knows the machine", other.host.name()), || {
                machine().iter().all(|&to| matches!(other.leads(to), Leads::Via(_)))
            });
        }
    }
}

fn addresses(host: &Host) -> [IpAddr; 2] {
    [host.ipv4().into(), host.ipv6().into()]
}

pub(crate) fn parameters(peering: Peering, number: u32, host: &Host, peers: Vec<Peer>) -> Parameters {
    let priorities = Priorities { normal: NORMAL, elevated: ELEVATED };
    Parameters {
        peering,
        autonomous_system: number,
        router_id: Some(host.ipv4()),
        peers,
        community: Community(65000, 100),
        ipv4: priorities,
        ipv6: Some(priorities),
        route_protocol: 3,
        interface_prefixes: vec!["tap".to_owned()],
    }
}

/// A reflector needs nothing special: LOCAL_PREF passes.
fn reflector_configuration(host: &Host, clients: &[IpAddr]) -> String {
    let family = |digit: u8| {
        let own = clients.iter().filter(|client| client.is_ipv4() == (digit == 4));
        let lines: String = own
            .map(|client| {
                format!("  neighbor {client} activate\n  neighbor {client} route-reflector-client\n")
            })
            .collect();
        format!(" address-family ipv{digit} unicast\n{lines} exit-address-family\n")
    };
    let neighbours: String = clients
        .iter()
        .map(|client| format!(" neighbor {client} remote-as {AS}\n neighbor {client} timers connect 1\n"))
        .collect();
    format!(
        "frr defaults traditional\nzebra work-queue 0\nrouter bgp {AS}\n bgp router-id {}\n \
         no bgp default ipv4-unicast\n bgp graceful-restart\n coalesce-time 0\n{neighbours}{}{}exit\n",
        host.ipv4(),
        family(4),
        family(6),
    )
}

/// A ToR prefers what has the community, and passes it on.
fn tor_configuration() -> String {
    let mut neighbours = String::new();
    let mut families = [String::new(), String::new()];
    for number in 1..=3 {
        let addresses = [format!("10.98.{number}.2"), format!("fd98:{number}::2")];
        for (address, family) in addresses.iter().zip(&mut families) {
            neighbours += &format!(
                " neighbor {address} remote-as {}\n neighbor {address} timers connect 1\n",
                AS + number
            );
            *family += &format!(
                "  neighbor {address} activate\n  neighbor {address} route-map HOSTS in\n  neighbor {address} route-map ALL out\n"
            );
        }
    }
    let [ipv4, ipv6] = families;
    format!(
        "frr defaults traditional\nzebra work-queue 0\n\
         bgp community-list standard ELEVATED seq 5 permit 65000:100\n\
         route-map HOSTS permit 10\n match community ELEVATED\n set local-preference 200\nexit\n\
         route-map HOSTS permit 20\nexit\nroute-map ALL permit 10\nexit\n\
         router bgp {AS}\n bgp router-id 10.98.0.1\n no bgp default ipv4-unicast\n bgp graceful-restart\n coalesce-time 0\n\
         {neighbours} address-family ipv4 unicast\n{ipv4} exit-address-family\n\
         address-family ipv6 unicast\n{ipv6} exit-address-family\nexit\n"
    )
}

/// Waits until both families of a recording lead somewhere by a route of zebra's.
pub(crate) fn sends_through(watch: &RouteWatch, expected: impl Fn(IpAddr) -> bool) -> bool {
    machine().iter().all(|&to| {
        watch
            .routes_to(to)
            .pop_first()
            .is_some_and(|route| route.metric == ZEBRA && route.gateway.is_some_and(&expected))
    })
}
