//! What the settings of a tap let a guest do: not more than being routed.

use cutover_tests::driver::Pace;
use cutover_tests::namespace::Namespace;
use cutover_tests::scene::{ELEVATED, NORMAL, Node, SOURCE, TARGET};
use cutover_tests::{Driver, Lab, Port, frames, wait};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

/// How long somebody waits for an answer that may not come.
const PATIENCE: Duration = Duration::from_millis(500);

/// A target whose address leads elsewhere until it is here.
fn target() -> (Lab, Driver, Port, Node) {
    let lab = Lab::new();
    let directory = lab.directory();
    let port = Port::new(1);
    let mut node = Node::new(&lab, TARGET, &directory, &port);
    let namespace = node.host.namespace();
    namespace.ip("route add default dev eth0");
    node.agent.set("LiveMigrationRouteConvergenceTime", 1);
    node.agent.start();
    let driver = Driver::new(&directory, &port).at_pace(Pace::IMMEDIATE);
    driver.bind(SOURCE);
    let _uid = driver.start(SOURCE, TARGET);
    node.wait_armed(&port);
    (lab, driver, port, node)
}

/// The ARP answers among what the host sent to the tap, by the address that they are about.
fn answered(tap: &cutover_tests::OpenTap) -> Vec<Ipv4Addr> {
    let frames = std::iter::from_fn(|| tap.receive());
    let is_answer = |frame: &Vec<u8>| frame[12..14] == [0x08, 0x06] && frame[20..22] == [0, 2];
    let sender = |frame: Vec<u8>| Ipv4Addr::new(frame[28], frame[29], frame[30], frame[31]);
    frames.filter(is_answer).map(sender).collect()
}

/// A guest that announces its address with a request would hear from its host that somebody else has it (RFC 5227). What it asks
/// for otherwise, its gateway first of all, is answered.
#[test]
fn nobody_answers_a_guest_for_its_own_address() {
    let (_lab, driver, port, node) = target();
    let std::net::IpAddr::V4(own) = port.ipv4().addr() else { panic!("an IPv4 address") };
    let gateway = Ipv4Addr::new(169, 254, 1, 1);
    let guest = node.tap().open();
    let ask = || {
        guest.send(&frames::arp_probe(port.mac, own));
        guest.send(&frames::garp_request(port.mac, own));
        guest.send(&frames::garp_reply(port.mac, own));
        guest.send(&frames::arp_request(port.mac, own, gateway));
        let mut heard = Vec::new();
        // What is asked for last is answered last.
        wait::until(wait::SOON, "the gateway is answered for", || {
            heard.extend(answered(&guest));
            heard.contains(&gateway)
        });
        assert!(!heard.contains(&own), "{heard:?}");
    };
    // In Target, while the address leads elsewhere.
    assert!(node.has_metrics(&port, &[]));
    ask();
    node.wait_metrics(&port, &[ELEVATED]);
    ask();
    driver.succeed_extended(SOURCE, TARGET);
    node.wait_metrics(&port, &[NORMAL]);
    ask();
}

/// A guest at the other end of a cable, whose packets to 127.0.0.1 go to the host.
fn guest_that_asks_for_loopback(lab: &Lab, port: &Port, node: &Node) -> Namespace {
    let guest = Namespace::create(&format!("{}guest", lab.prefix()));
    node.host.plug_cable(&port.interface, port.tap_mac(), &guest);
    guest.set_sysctl("net/ipv4/conf/eth0/route_localnet", "1");
    guest.set_sysctl("net/ipv4/conf/eth0/rp_filter", "0");
    guest.set_sysctl("net/ipv4/conf/all/rp_filter", "0");
    guest.ip(&format!(
        "addr flush dev lo\nlink set eth0 address {mac}\naddr add {own} dev eth0\n\
         neigh add 169.254.1.1 lladdr {tap} dev eth0 nud permanent\n\
         route add default via 169.254.1.1 dev eth0 onlink",
        mac = port.mac,
        own = port.ipv4(),
        tap = port.tap_mac(),
    ));
    guest
}

/// What listens on 127.0.0.1 of a hypervisor trusts whoever gets there.
#[test]
fn a_guest_does_not_reach_loopback_of_its_host() {
    let lab = Lab::new();
    let directory = lab.directory();
    let port = Port::new(1);
    let mut node = Node::new(&lab, SOURCE, &directory, &port);
    node.unplug();
    let guest = guest_that_asks_for_loopback(&lab, &port, &node);
    let namespace = node.host.namespace();
    namespace.ip("link set lo up");
    let setting = format!("net/ipv4/conf/{}/route_localnet", port.interface);
    let (tcp, udp) = namespace.run(|| {
        let udp = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        udp.set_read_timeout(Some(PATIENCE)).expect("a socket");
        (TcpListener::bind("127.0.0.1:0").expect("a socket"), udp)
    });
    let tcp_at = tcp.local_addr().expect("a socket");
    let udp_at = udp.local_addr().expect("a socket");
    let _accepting = std::thread::spawn(move || {
        for connection in tcp.incoming().flatten() {
            let _ = (&connection).write_all(b"private");
        }
    });
    let over_tcp = || {
        guest.run(|| {
            let mut text = String::new();
            let connection = TcpStream::connect_timeout(&tcp_at, PATIENCE);
            connection.is_ok_and(|mut it| it.read_to_string(&mut text).is_ok() && text == "private")
        })
    };
    let over_udp = || {
        guest.run(|| {
            let socket = UdpSocket::bind(SocketAddr::new(port.ipv4().addr(), 0)).expect("a socket");
            socket.send_to(b"let me in", udp_at).is_ok()
        });
        udp.recv(&mut [0; 64]).is_ok()
    };
    // As an earlier agent, or one that was switched off, leaves a tap: the guest can be heard there at all.
    namespace.set_sysctl(&setting, "1");
    namespace.ip(&format!("route add {} dev {}", port.ipv4(), port.interface));
    assert_eq!((over_tcp(), over_udp()), (true, true), "the guest gets there without the agent");

    Driver::new(&directory, &port).bind(SOURCE);
    node.agent.start();
    node.wait_metrics(&port, &[NORMAL]);
    node.agent.wait_up(&port);
    assert_eq!(namespace.sysctl(&setting).as_deref(), Some("0"));
    assert!(!over_tcp(), "over TCP");
    assert!(!over_udp(), "over UDP");
}

/// The host's own IPv6 is somebody else's business where the agent has none to route.
#[test]
fn ipv6_is_left_alone_where_it_is_not_supported() {
    let lab = Lab::new();
    let directory = lab.directory();
    let port = Port::new(1);
    let mut node = Node::new(&lab, SOURCE, &directory, &port);
    let namespace = node.host.namespace_shared();
    let name = port.interface.clone();
    let forwards = ["all", "eth0", name.as_str()].map(|name| format!("net/ipv6/conf/{name}/forwarding"));
    for path in &forwards {
        namespace.set_sysctl(path, "0");
    }
    namespace.set_sysctl("net/ipv4/ip_forward", "0");
    let somebodys = format!("neigh show 2001:db8::77 dev {name}");
    namespace.ip(&format!("neigh add 2001:db8::77 lladdr fa:16:3e:00:00:77 nud permanent dev {name}"));
    node.agent.set("Ipv6Support", "false");
    Driver::new(&directory, &port).bind(SOURCE);
    node.agent.start();
    node.agent.log().wait(wait::SOON, &["interface prepared"]);
    wait::until(wait::SOON, "IPv4 is forwarded", || {
        namespace.sysctl("net/ipv4/ip_forward").as_deref() == Some("1")
    });
    for path in &forwards {
        assert_eq!(namespace.sysctl(path).as_deref(), Some("0"), "{path}");
    }
    let output = namespace.command("ip").args(somebodys.split(' ')).output().expect("ip runs");
    assert!(String::from_utf8_lossy(&output.stdout).contains("PERMANENT"), "{output:?}");

    // What the agent changed for the whole host is set back.
    node.agent.kill();
    node.agent.run_ok(&["cleanup", "--dry-run"]);
    assert_eq!(namespace.sysctl("net/ipv4/ip_forward").as_deref(), Some("1"));
    node.agent.run_ok(&["cleanup"]);
    assert_eq!(namespace.sysctl("net/ipv4/ip_forward").as_deref(), Some("0"));
}
