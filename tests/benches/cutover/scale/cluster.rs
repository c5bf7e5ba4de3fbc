//! A large cluster: its keys, the taps of one of its hosts, and the routes that belong there.

use cutover_common::MacAddr;
use cutover_tests::{Etcd, Host, Lab, Port, datastore};
use ipnet::IpNet;
use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::process::Command;

/// Endpoints of the host.
pub(crate) const LOCAL_ENDPOINTS: usize = 10_000;
/// Endpoints of all hosts.
pub(crate) const ALL_ENDPOINTS: usize = 100_000;

const HOST: &str = "compute1";

/// The cluster, and the host that is measured.
pub(crate) struct Cluster {
    pub(crate) host: Host,
    routes: PathBuf,
}

impl Cluster {
    pub(crate) fn new(lab: &Lab) -> Self {
        Self { host: lab.host(HOST), routes: lab.folder().join("routes") }
    }

    /// How many routes the host should have.
    #[expect(clippy::unused_self, reason = "a property of the cluster")]
    pub(crate) fn routes(&self) -> usize {
        2 * LOCAL_ENDPOINTS
    }

    /// Writes everything that a driver would have written.
    pub(crate) fn fill(&mut self, etcd: &Etcd) {
        datastore::set_ready(etcd, true);
        let hosts = ALL_ENDPOINTS / LOCAL_ENDPOINTS;
        for host in 1..=hosts {
            let pairs = (0..LOCAL_ENDPOINTS).map(|number| {
                let port = port(number);
                let host = format!("compute{host}");
                let key = datastore::endpoint_key(&port, &host);
                (key, port.endpoint_on(&host, "5b1c0000-0000-4000-8000-000000000001").to_string())
            });
            etcd.put_many(pairs.collect());
        }
    }

    /// One tap for each endpoint.
    pub(crate) fn plug(&self) {
        let mut script = String::new();
        for number in 0..LOCAL_ENDPOINTS {
            let (name, mac) = (interface(number), port(number).tap_mac());
            writeln!(script, "tuntap add dev {name} mode tap").expect("a string takes everything");
            writeln!(script, "link set dev {name} address {mac} up").expect("a string takes everything");
        }
        self.host.namespace().ip(&script);
    }

    /// What the agent should do, to be done by iproute2.
    pub(crate) fn ip_batch(&self) -> Command {
        if !self.routes.exists() {
            self.write_routes();
        }
        let mut ip = self.host.namespace().command("ip");
        ip.arg("-batch").arg(&self.routes);
        ip
    }

    fn write_routes(&self) {
        let mut script = String::new();
        for number in 0..LOCAL_ENDPOINTS {
            for to in port(number).addresses {
                writeln!(script, "route add {to} dev {} scope link proto 3 metric 1024", interface(number))
                    .expect("a string takes everything");
            }
        }
        fs::write(&self.routes, script).expect("space on the disk");
    }

    /// Takes routes and neighbours away.
    pub(crate) fn empty(&self) {
        for family in ["-4", "-6"] {
            self.ip(&[family, "route", "flush", "proto", "3"]);
            self.ip(&[family, "neighbour", "flush", "nud", "permanent"]);
        }
    }

    fn ip(&self, arguments: &[&str]) {
        let status = self.host.namespace().command("ip").args(arguments).status().expect("iproute2");
        assert!(status.success(), "ip {arguments:?}: {status}");
    }

    /// A migration to an endpoint of the host.
    #[expect(clippy::unused_self, reason = "something that happens to the cluster")]
    pub(crate) fn migrate(&self, etcd: &Etcd, number: usize) {
        let port = port(number);
        let migration = port.migration("compute2", HOST, &format!("00000000-0000-4000-8000-{number:012}"));
        etcd.put(&datastore::migration_key(&port, HOST), &migration.to_string());
    }
}

/// Name of the tap of an endpoint.
pub(crate) fn interface(number: usize) -> String {
    format!("tap{number:05}")
}

fn port(number: usize) -> Port {
    let low = u16::try_from(number).expect("few enough for an address");
    let [high, octet] = low.to_be_bytes();
    Port {
        workload: format!("5b1c0000-0000-4000-8000-{number:012}"),
        endpoint: format!("9eefb5c7-4786-4f2f-b3c0-{number:012}"),
        interface: interface(number),
        mac: MacAddr([0xfa, 0x16, 0x3e, 1, high, octet]),
        addresses: vec![
            IpNet::from(std::net::IpAddr::from(Ipv4Addr::new(10, 65, high, octet))),
            IpNet::from(std::net::IpAddr::from(Ipv6Addr::new(0xfd00, 0x65, 0, 0, 0, 0, 1, low))),
        ],
        floating: Vec::new(),
        labels: Vec::new(),
    }
}
