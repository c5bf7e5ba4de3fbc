//! Hosts between which BIRD carries the routes, with the configuration that `cutover bgp bird` prints: the two hosts of
//! a [`Scene`] with their agents, a third host, and what is in the middle. For both families. Judges nothing.

use crate::agent::Agent;
use crate::bird::Bird;
use crate::host::Host;
use crate::lab::Lab;
use crate::resources::Port;
use crate::route_history::{History, Route};
use crate::route_watch::RouteWatch;
use crate::scene::Scene;
use crate::wait;
use ipnet::IpNet;
use std::net::IpAddr;
use std::time::Duration;

/// The metric of routes from BGP in the kernel with default priorities: between elevated and normal.
pub const BGP_METRIC: u32 = 768;
/// LIMIT: BIRD needs milliseconds; only failing tests wait this long.
pub const CONVERGED: Duration = Duration::from_secs(15);
/// The convergence time has to be longer than the grace of the source's endpoint. Were the target normal while the source
/// still has a route, the source would go back to that one.
const CONVERGENCE_S: u32 = 4;
const GRACE_S: u32 = 1;
/// The AS of everybody with iBGP, of the ToR with eBGP; the hosts' are the numbers after it.
const AS: u32 = 64512;

/// Who talks to whom.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    /// iBGP, everybody with everybody.
    Mesh,
    /// iBGP, everybody with a route reflector.
    Reflector,
    /// eBGP, everybody with a top-of-rack router, which is also the only link between them.
    Tor,
}

/// A router that has no agent.
#[derive(Debug)]
pub struct Router {
    /// Its daemon.
    pub bird: Bird,
    /// Recording since before the daemon started.
    pub watch: RouteWatch,
    /// The host.
    pub host: Host,
}

/// The hosts. Fields go in this order, the scene with the lab last.
#[derive(Debug)]
pub struct Fabric {
    /// BIRD where the VM runs at first.
    pub source: Bird,
    /// BIRD where it goes.
    pub target: Bird,
    /// A compute host that has nothing to do with the VM.
    pub third: Router,
    /// The reflector or the ToR.
    pub middle: Option<Router>,
    /// Behind the ToR, without BGP.
    pub behind: Option<Host>,
    /// Agents, VM, datastore.
    pub scene: Scene,
    shape: Shape,
}

/// A host on which the VM can run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// Where it runs at first.
    Source,
    /// Where it goes.
    Target,
}

/// Where a kernel sends what is for an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Leads {
    /// To the VM.
    ToTap,
    /// To another host.
    Via(IpAddr),
    /// There is no route.
    Nowhere,
}

/// Where the routes of a moment lead.
#[must_use]
pub fn leads<'a>(routes: impl IntoIterator<Item = &'a Route>) -> Leads {
    let best = routes.into_iter().min_by_key(|route| route.metric);
    best.map_or(Leads::Nowhere, |route| route.gateway.map_or(Leads::ToTap, Leads::Via))
}

/// How long there was no route to `destination`, each time that there was none between two others.
#[must_use]
pub fn gaps(history: &History, destination: IpNet) -> Vec<Duration> {
    let moments = history.moments(destination);
    let gaps = moments.windows(2).filter(|pair| pair[0].routes.is_empty());
    gaps.filter_map(|pair| Some(pair[1].since?.since(pair[0].since?))).collect()
}

impl Fabric {
    /// A fabric in which everybody knows that the VM runs on the source.
    ///
    /// # Panics
    /// When that does not come about.
    #[must_use]
    #[track_caller]
    pub fn new(shape: Shape) -> Self {
        Self::with(shape, |_| {})
    }

    /// As [`Self::new`], with other settings for both agents.
    ///
    /// # Panics
    /// When that does not come about.
    #[must_use]
    #[track_caller]
    pub fn with(shape: Shape, configure: impl Fn(&mut Agent)) -> Self {
        let scene = Scene::with(|agent| {
            agent.set("CutoverEndpointGrace", GRACE_S);
            agent.set("LiveMigrationRouteConvergenceTime", CONVERGENCE_S);
            configure(agent);
        });
        let third = scene.lab.host("compute3");
        let middle = (shape != Shape::Mesh).then(|| scene.lab.host("middle"));
        let behind = (shape == Shape::Tor).then(|| scene.lab.host("behind"));
        let hosts = [&scene.source.host, &scene.target.host, &third];
        for host in hosts.into_iter().chain(&middle) {
            forward(host);
        }
        if let (Some(tor), Some(behind)) = (&middle, &behind) {
            for (host, number) in hosts.into_iter().zip(1..) {
                connect(tor, host, number);
            }
            connect(tor, behind, 9);
        }
        let [source, target, of_third] = [1, 2, 3].map(|number| {
            let text = configuration(&scene.source.agent, shape, number, hosts, middle.as_ref());
            Bird::start(&scene.lab, hosts[usize::from(number) - 1], &text)
        });
        let middle = middle.map(|host| {
            let text =
                if shape == Shape::Tor { tor_configuration() } else { reflector_configuration(&host, hosts) };
            Router::start(&scene.lab, host, &text)
        });
        let watch = RouteWatch::start(third.namespace());
        let third = Router { bird: of_third, watch, host: third };
        let fabric = Self { source, target, third, middle, behind, scene, shape };
        fabric.wait_established();
        fabric.wait_at_source();
        fabric
    }

    /// Waits until every session is up.
    ///
    /// # Panics
    /// When one is not.
    #[track_caller]
    pub fn wait_established(&self) {
        for bird in [&self.source, &self.target, &self.third.bird] {
            bird.wait_established(if self.shape == Shape::Mesh { 4 } else { 2 });
        }
        if let Some(middle) = &self.middle {
            middle.bird.wait_established(6);
        }
    }

    /// Waits until everybody sends to the source.
    ///
    /// # Panics
    /// When somebody does not.
    #[track_caller]
    pub fn wait_at_source(&self) {
        self.wait_at(Place::Source);
    }

    /// Waits until everybody sends to the target, also the source.
    ///
    /// # Panics
    /// When somebody does not.
    #[track_caller]
    pub fn wait_at_target(&self) {
        self.wait_at(Place::Target);
    }

    #[track_caller]
    fn wait_at(&self, place: Place) {
        for to in self.port().routed() {
            for (name, watch, expected) in self.expected(place, to) {
                if !wait::holds_within(CONVERGED, || leads(&watch.routes_to(to)) == expected) {
                    panic!("{name} has {:#?}, which should lead to {expected:?}", watch.routes_to(to));
                }
            }
        }
    }

    /// Whether everybody sends to the place.
    #[must_use]
    pub fn is_at(&self, place: Place) -> bool {
        self.port().routed().into_iter().all(|to| {
            let everybody = self.expected(place, to);
            everybody.into_iter().all(|(_, watch, expected)| leads(&watch.routes_to(to)) == expected)
        })
    }

    /// Where each router should send what is for the VM.
    fn expected(&self, place: Place, to: IpNet) -> Vec<(&str, &RouteWatch, Leads)> {
        let is_ipv4 = to.addr().is_ipv4();
        let hosts = [(Some(Place::Source), 1), (Some(Place::Target), 2), (None, 3), (None, 4)];
        let there = self.address(place, is_ipv4);
        let expected = hosts.map(|(own, number)| match self.shape {
            _ if own == Some(place) => Leads::ToTap,
            Shape::Tor if number < 4 => Leads::Via(tor_address(number, is_ipv4)),
            _ => Leads::Via(there),
        });
        let watches = self.watches().into_iter().zip(expected);
        watches.map(|((name, watch), expected)| (name, watch, expected)).collect()
    }

    /// Who chooses between source and target for everybody else: the third host for itself, with eBGP the ToR.
    #[must_use]
    pub fn last_hop(&self) -> &Router {
        match (&self.middle, self.shape) {
            (Some(tor), Shape::Tor) => tor,
            _ => &self.third,
        }
    }

    /// The VM's port.
    #[must_use]
    pub fn port(&self) -> &Port {
        &self.scene.port
    }

    /// The recordings of source, target, third host and middle, with names.
    #[must_use]
    pub fn watches(&self) -> Vec<(&str, &RouteWatch)> {
        let nodes = [&self.scene.source, &self.scene.target].map(|node| (node.host.name(), &node.watch));
        let others = std::iter::once(&self.third).chain(&self.middle);
        nodes.into_iter().chain(others.map(|router| (router.host.name(), &router.watch))).collect()
    }

    /// The daemons, in the same order.
    #[must_use]
    pub fn birds(&self) -> Vec<(&str, &Bird)> {
        let nodes = [(&self.scene.source, &self.source), (&self.scene.target, &self.target)];
        let others = std::iter::once(&self.third).chain(&self.middle);
        let nodes = nodes.map(|(node, bird)| (node.host.name(), bird));
        nodes.into_iter().chain(others.map(|router| (router.host.name(), &router.bird))).collect()
    }

    /// The address that others know as the next hop to a place.
    #[must_use]
    pub fn address(&self, place: Place, is_ipv4: bool) -> IpAddr {
        let (node, number) = match place {
            Place::Source => (&self.scene.source, 1),
            Place::Target => (&self.scene.target, 2),
        };
        match self.shape {
            Shape::Tor => host_address(number, is_ipv4),
            _ => uplink(&node.host, is_ipv4),
        }
    }
}

impl Router {
    #[track_caller]
    fn start(lab: &Lab, host: Host, configuration: &str) -> Self {
        let watch = RouteWatch::start(host.namespace());
        Self { bird: Bird::start(lab, &host, configuration), watch, host }
    }
}

fn uplink(host: &Host, is_ipv4: bool) -> IpAddr {
    if is_ipv4 { host.ipv4().into() } else { host.ipv6().into() }
}

/// The addresses of the link between host `number` and the ToR.
fn host_address(number: u8, is_ipv4: bool) -> IpAddr {
    if is_ipv4 { [10, 98, number, 2].into() } else { [0xfd98, u16::from(number), 0, 0, 0, 0, 0, 2].into() }
}

fn tor_address(number: u8, is_ipv4: bool) -> IpAddr {
    if is_ipv4 { [10, 98, number, 1].into() } else { [0xfd98, u16::from(number), 0, 0, 0, 0, 0, 1].into() }
}

fn forward(host: &Host) {
    for path in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
        host.namespace().set_sysctl(path, "1");
    }
}

/// A cable from the ToR to a host, in place of the lab's bridge, which would be a way around the ToR.
fn connect(tor: &Host, host: &Host, number: u8) {
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
    host.namespace().ip(&[true, false]
        .map(|is_ipv4| format!("route add default via {} dev up0\n", tor_address(number, is_ipv4)))
        .concat());
    let link = format!("host{number}");
    tor.namespace().ip(&format!("link set {link} up\n{tor4} {link}\n{tor6} {link} nodad"));
}

/// What `cutover bgp bird` prints for one of the hosts, from the agents' settings.
#[track_caller]
fn configuration(
    agent: &Agent,
    shape: Shape,
    number: u8,
    hosts: [&Host; 3],
    middle: Option<&Host>,
) -> String {
    let own = hosts[usize::from(number) - 1];
    let both = [true, false];
    let mut arguments: Vec<String> = ["bgp", "bird", "--router-id"].map(str::to_owned).to_vec();
    arguments.push(own.ipv4().to_string());
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

/// What a router in the middle has in any case: its own links, and its kernel gets what it learns.
fn middle_configuration(router_id: &str) -> String {
    let kernel = |digit: u8| {
        format!(
            "protocol kernel kernel{digit} {{ persist; graceful restart; metric {BGP_METRIC}; \
             ipv{digit} {{ import none; export where source = RTS_BGP; }}; }}\n"
        )
    };
    format!(
        "router id {router_id};\nprotocol device {{ scan time 10; }}\nprotocol direct {{ ipv4; ipv6; }}\n{}{}",
        kernel(4),
        kernel(6)
    )
}

/// A reflector needs nothing special: LOCAL_PREF passes.
fn reflector_configuration(own: &Host, hosts: [&Host; 3]) -> String {
    let mut text = middle_configuration(&own.ipv4().to_string());
    for (number, host) in hosts.into_iter().enumerate() {
        for (digit, client) in [(4, uplink(host, true)), (6, uplink(host, false))] {
            text += &format!(
                "protocol bgp client{digit}_{number} {{\n  local as {AS};\n  neighbor {client} as {AS};\n  rr client;\n  \
                 connect delay time 1;\n  connect retry time 1;\n  error wait time 1, 2;\n  graceful restart on;\n  \
                 ipv{digit} {{ import all; export where source = RTS_BGP; }};\n}}\n"
            );
        }
    }
    text
}

/// A ToR prefers what has the community, and passes it on.
fn tor_configuration() -> String {
    let mut text = middle_configuration("10.98.0.1");
    text += "filter hosts {\n  if (65000, 100) ~ bgp_community then preference = 200;\n  accept;\n}\n";
    for number in 1..=3 {
        for (digit, host) in [(4, host_address(number, true)), (6, host_address(number, false))] {
            let theirs = AS + u32::from(number);
            text += &format!(
                "protocol bgp host{digit}_{number} {{\n  local as {AS};\n  neighbor {host} as {theirs};\n  \
                 connect delay time 1;\n  connect retry time 1;\n  error wait time 1, 2;\n  graceful restart on;\n  \
                 ipv{digit} {{ import filter hosts; export where source = RTS_BGP; }};\n}}\n"
            );
        }
    }
    text
}
