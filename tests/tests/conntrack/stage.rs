//! Two hosts with rules like Felix's, a VM that can be moved between them, and a client. The move is one of routes: the VM has a
//! link to each host, and a pause in between is as long as the test likes.

use cutover_daemon::conntrack::{Conntrack, Entries, Injected};
use cutover_tests::felix::Family;
use cutover_tests::firewall;
use cutover_tests::namespace::Namespace;
use cutover_tests::{Host, Lab};
use ipnet::IpNet;
use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

pub(crate) struct Stage {
    pub(crate) client: Host,
    pub(crate) source: Host,
    pub(crate) target: Host,
    pub(crate) vm: Namespace,
    // Last, because it looks for what is left.
    _lab: Lab,
}

pub(crate) fn vm(family: Family) -> IpAddr {
    match family {
        Family::Ipv4 => [10, 65, 0, 2].into(),
        Family::Ipv6 => "fd00:65::2".parse().expect("an address"),
    }
}

pub(crate) fn floating(family: Family) -> IpAddr {
    match family {
        Family::Ipv4 => [203, 0, 113, 5].into(),
        Family::Ipv6 => "fd00:113::5".parse().expect("an address"),
    }
}

/// All addresses of the VM, as the agent knows them.
pub(crate) fn addresses() -> Vec<IpNet> {
    use Family::{Ipv4, Ipv6};
    [vm(Ipv4), vm(Ipv6), floating(Ipv4), floating(Ipv6)].map(IpNet::from).to_vec()
}

/// What goes to a floating address goes to the VM.
const FLOATING: &str = "
table ip floating {
    chain prerouting {
        type nat hook prerouting priority -100;
        ip daddr 203.0.113.5 dnat to 10.65.0.2
    }
    chain postrouting {
        type nat hook postrouting priority 100;
        ip saddr 10.65.0.2 ip daddr 10.65.0.2 snat to 203.0.113.5
    }
}
table ip6 floating {
    chain prerouting {
        type nat hook prerouting priority -100;
        ip6 daddr fd00:113::5 dnat to fd00:65::2
    }
}
";

impl Stage {
    pub(crate) fn new() -> Self {
        let lab = Lab::new();
        let [client, source, target] = ["client", "source", "target"].map(|name| lab.host(name));
        let vm = Namespace::create(&format!("{}vm", lab.prefix()));
        for (host, link) in [(&source, "eth0"), (&target, "eth1")] {
            let namespace = host.namespace();
            namespace.ip(&format!(
                "link add tap type veth peer name {link} netns {vm}\n\
                 addr add 169.254.1.1/32 dev tap\n\
                 addr add fe80::1/64 dev tap nodad\n\
                 link set tap up\n\
                 route add 10.65.0.2/32 dev tap\n\
                 route add fd00:65::2/128 dev tap",
                vm = vm.name()
            ));
            for sysctl in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
                namespace.set_sysctl(sysctl, "1");
            }
            vm.ip(&format!(
                "addr add 10.65.0.2/32 dev {link}\n\
                 addr add fd00:65::2/128 dev {link} nodad\n\
                 link set {link} up\n\
                 route replace 169.254.1.1/32 dev {link}"
            ));
            firewall::filter(namespace, "tap");
            firewall::load(namespace, FLOATING);
        }
        for (host, number) in [(&client, 1), (&source, 2), (&target, 3)] {
            // KERNEL: nobody is asked for a neighbour's address before there is a link-local one that is known to be unique
            // (`ndisc_solicit`), which takes a second.
            host.namespace().ip(&format!("addr add fe80::77:{number}/64 dev eth0 nodad"));
        }
        for namespace in [client.namespace(), source.namespace(), target.namespace(), &vm] {
            for link in ["all", "default"] {
                namespace.set_sysctl(&format!("net/ipv4/conf/{link}/rp_filter"), "0");
            }
        }
        // The client believes what this stage says, and no router.
        for sysctl in ["net/ipv4/conf/all/accept_redirects", "net/ipv4/conf/eth0/accept_redirects"] {
            client.namespace().set_sysctl(sysctl, "0");
        }
        client.namespace().set_sysctl("net/ipv6/conf/eth0/accept_redirects", "0");
        let stage = Self { client, source, target, vm, _lab: lab };
        stage.route_vm("eth0");
        stage.route_client(&stage.source);
        stage
    }

    pub(crate) fn address_of_client(&self, family: Family) -> IpAddr {
        match family {
            Family::Ipv4 => self.client.ipv4().into(),
            Family::Ipv6 => self.client.ipv6().into(),
        }
    }

    /// The network sends to the target from now on.
    pub(crate) fn network_moves(&self) {
        self.route_client(&self.target);
    }

    /// The source forwards what still comes for the VM to the target.
    pub(crate) fn source_forwards(&self) {
        let (ipv4, ipv6) = (self.target.ipv4(), self.target.ipv6());
        self.source
            .namespace()
            .ip(&format!("route replace 10.65.0.2/32 via {ipv4}\nroute replace fd00:65::2/128 via {ipv6}"));
    }

    /// The VM runs on the target from now on.
    pub(crate) fn vm_moves(&self) {
        self.route_vm("eth1");
    }

    /// What the agents do: the source's connections of the VM are made on the target.
    #[track_caller]
    pub(crate) fn hand_over(&self) -> (Entries, Injected) {
        let entries = read(&self.source);
        // As they travel.
        let text = serde_json::to_string(&entries).expect("entries are text");
        let received: Entries = serde_json::from_str(&text).expect("and back");
        assert_eq!(received, entries);
        let injected = inject(&self.target, &received);
        (entries, injected)
    }

    fn route_client(&self, host: &Host) {
        let (ipv4, ipv6) = (host.ipv4(), host.ipv6());
        self.client.namespace().ip(&format!(
            "route replace 10.65.0.2/32 via {ipv4}\n\
             route replace 203.0.113.5/32 via {ipv4}\n\
             route replace fd00:65::2/128 via {ipv6}\n\
             route replace fd00:113::5/128 via {ipv6}"
        ));
    }

    fn route_vm(&self, link: &str) {
        self.vm.ip(&format!(
            "route replace 169.254.1.1/32 dev {link}\n\
             route replace default via 169.254.1.1 dev {link} src 10.65.0.2\n\
             route replace default via fe80::1 dev {link} src fd00:65::2"
        ));
    }
}

pub(crate) fn read(host: &Host) -> Entries {
    host.namespace().run(|| {
        let mut conntrack = Conntrack::open().expect("a socket");
        conntrack.read(&addresses()).expect("the kernel says")
    })
}

/// What the source does before it forwards.
pub(crate) fn loosen(host: &Host, entries: &Entries) -> usize {
    host.namespace()
        .run(|| Conntrack::open().expect("a socket").loosen(&entries.carried).expect("the kernel says"))
}

pub(crate) fn inject(host: &Host, entries: &Entries) -> Injected {
    host.namespace().run(|| {
        let mut conntrack = Conntrack::open().expect("a socket");
        conntrack.inject(&entries.carried, &addresses(), &HashSet::new())
    })
}

pub(crate) fn at(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address, port)
}
