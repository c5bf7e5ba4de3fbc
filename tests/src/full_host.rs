//! A host with ten thousand endpoints: their taps, their documents, and an agent that has not been started yet.
//!
//! It forwards already, because switching that on is one write after which the kernel notifies about every interface.

use crate::agent::Agent;
use crate::host::Host;
use crate::lab::Lab;
use crate::listener;
use crate::resources::Port;
use crate::route_watch::dump_routes;
use crate::wait;
use cutover_common::MacAddr;
use ipnet::IpNet;
use serde_json::{Value, json};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// How many.
pub const ENDPOINTS: u16 = 10_000;
/// The agent's routes, one of each family for each of them.
pub const ROUTES: usize = 2 * ENDPOINTS as usize;

const NAME: &str = "compute1";
/// What one file has; the agent refuses files that are too large to be resources.
const ENDPOINTS_OF_A_FILE: usize = 400;
/// LIMIT: for a loaded machine; only failing tests wait this long.
pub const FILLED: Duration = Duration::from_secs(120);

/// The host. Fields go in this order, the lab last.
#[derive(Debug)]
pub struct FullHost {
    /// Its agent.
    pub agent: Agent,
    /// The host.
    pub host: Host,
    /// The lab.
    pub lab: Lab,
}

impl FullHost {
    /// With an agent that has these settings.
    ///
    /// # Panics
    /// Without root.
    #[must_use]
    pub fn new(configure: impl FnOnce(&mut Agent)) -> Self {
        let lab = Lab::new();
        let host = lab.host(NAME);
        for path in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
            host.namespace().set_sysctl(path, "1");
        }
        let ports: Vec<Port> = (0..ENDPOINTS).map(port).collect();
        let names: Vec<_> = ports.iter().map(|port| (port.interface.clone(), port.tap_mac())).collect();
        let _taps = host.plug_many(&names);
        let directory = lab.directory();
        for (number, ports) in ports.chunks(ENDPOINTS_OF_A_FILE).enumerate() {
            let endpoint = |port: &Port| port.endpoint_on(NAME, "5b1c0000-0000-4000-8000-000000000001");
            let items: Vec<Value> = ports.iter().map(endpoint).collect();
            let list = json!({
                "kind": "WorkloadEndpointList", "apiVersion": "projectcalico.org/v3", "metadata": {}, "items": items,
            });
            directory.put_text(&format!("endpoints{number}.json"), &list.to_string());
        }
        let mut agent = Agent::new(&lab, &host, &directory);
        configure(&mut agent);
        Self { agent, host, lab }
    }

    /// How many routes of the agent's the kernel has.
    ///
    /// # Panics
    /// When the kernel cannot be asked.
    #[must_use]
    pub fn in_kernel(&self) -> usize {
        let routes = self.host.namespace().run(dump_routes).expect("a dump");
        routes.iter().filter(|route| route.protocol == 3).count()
    }

    /// Starts the agent, starts it again, and takes away what it left, beside a daemon. After each step the daemon knows as many routes
    /// as there are and has lost nothing.
    ///
    /// # Panics
    /// When that is not so.
    #[track_caller]
    pub fn fill_restart_and_empty(&mut self, daemon: u32, known: impl Fn() -> usize) {
        self.check("before", 0, daemon, &known);
        self.agent.start();
        self.check("started", ROUTES, daemon, &known);
        // Interfaces are prepared after the routes.
        wait::until(FILLED, "the last interface is prepared", || self.is_prepared(ENDPOINTS - 1));
        self.check("prepared", ROUTES, daemon, &known);
        self.agent.kill();
        // Nobody asks for the status of so many while they are read.
        let mark = self.agent.log().mark();
        self.agent.start();
        let _in_sync = self.agent.log().wait_after(mark, FILLED, &["Datastore in sync"]);
        self.check("started again", ROUTES, daemon, &known);
        self.agent.kill();
        let _removed = self.agent.run_ok(&["cleanup", "--without-datastore"]);
        self.check("cleaned up", 0, daemon, &known);
    }

    #[track_caller]
    fn check(&self, when: &str, expected: usize, daemon: u32, known: &impl Fn() -> usize) {
        let knows = || self.in_kernel() == expected && known() == expected;
        let in_time = wait::holds_within(FILLED, knows);
        let (kernel, lost) = (self.in_kernel(), listener::lost(daemon));
        assert!(in_time, "{when}: the daemon knows {}, the kernel has {kernel}, {lost} were lost", known());
        assert_eq!(lost, 0, "{when}: notifications that the daemon lost");
    }

    fn is_prepared(&self, number: u16) -> bool {
        let path = format!("net/ipv4/conf/{}/proxy_arp", port(number).interface);
        self.host.namespace().sysctl(&path).as_deref() == Some("1")
    }
}

fn port(number: u16) -> Port {
    let [high, low] = number.to_be_bytes();
    Port {
        workload: format!("vm{number}"),
        endpoint: format!("port{number}"),
        interface: format!("tap{number:05}"),
        mac: MacAddr([0xfa, 0x16, 0x3e, 9, high, low]),
        addresses: vec![
            IpNet::from(IpAddr::from(Ipv4Addr::new(10, 65, high, low))),
            IpNet::from(IpAddr::from(Ipv6Addr::new(0xfd00, 0x65, 0, 0, 0, 0, 1, number))),
        ],
        floating: Vec::new(),
        labels: Vec::new(),
    }
}
