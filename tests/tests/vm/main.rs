//! Real guests move between hosts with real agents.

use cutover_tests::hypervisor::{Guest, Hypervisor};
use cutover_tests::scene::{ELEVATED, NORMAL, Node, SOURCE, TARGET};
use cutover_tests::{Driver, Lab, Port, probe, wait};

#[test]
fn a_guest_moves() {
    let lab = Lab::new();
    let directory = lab.directory();
    let port = Port::new(1);
    let driver = Driver::new(&directory, &port);
    driver.bind(SOURCE);
    let [source, target] = [SOURCE, TARGET].map(|name| {
        let mut node = Node::new(&lab, name, &directory, &port);
        // KERNEL: a host answers ARP requests for the guest's gateway only if it knows a way there (arp_fwd_proxy).
        node.host.namespace().ip("route add default via 192.168.77.254 dev eth0");
        node.agent.set("LiveMigrationRouteConvergenceTime", 2);
        node.agent.start();
        node
    });
    let guest = Guest::new(&port);
    let t = std::time::Instant::now();
    let on_source = Hypervisor::boot(&lab, &source.host, &guest);
    eprintln!("boot {:?}", t.elapsed());
    source.wait_settled(&port);
    for address in &port.addresses {
        wait::until(wait::SOON, format_args!("{address} answers"), || {
            probe::answers(source.host.namespace(), address.addr())
        });
    }
    let _uid = driver.start(SOURCE, TARGET);
    target.wait_state(&port, "Target");
    target.wait_armed(&port);
    let on_target = Hypervisor::expect_arrival(&lab, &target.host, &guest);
    on_source.begin_migration(&on_target, &target.host, 8 << 20);
    let migrated = on_source.wait_migrated();
    eprintln!("{migrated:?}");
    target.wait_metrics(&port, &[ELEVATED]);
    for event in on_source.qmp().events() {
        eprintln!("S {event:?}");
    }
    for event in on_target.qmp().events() {
        eprintln!("T {event:?}");
    }
    for address in &port.addresses {
        wait::until(wait::SOON, format_args!("{address} answers"), || {
            probe::answers(target.host.namespace(), address.addr())
        });
    }
    driver.succeed(SOURCE, TARGET);
    target.wait_metrics(&port, &[NORMAL]);
    eprintln!("{}", on_target.console());
    eprintln!("{}", target.agent.log_text());
}
