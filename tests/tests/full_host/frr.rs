//! Ten thousand endpoints at once, beside FRR with a receive buffer of the kernel's default size. zebra's own one holds half of the routes,
//! so that it depends on the machine whether it would overflow.

use cutover_tests::fabric::FRR_PRIORITIES;
use cutover_tests::full_host::FullHost;
use cutover_tests::{Frr, Release};
use serde_json::Value;

/// Of the configuration that is printed, but for the size of the buffer. KERNEL: it doubles what it is given.
const OPTIONS: [&str; 6] = ["-s", "106496", "--v6-rr-semantics", "--retain", "-K", "60"];

#[test]
fn zebra_hears_of_every_route_of_a_full_host() {
    let _turn = super::turn();
    let mut full = FullHost::new(|agent| {
        for family in ["IPv4", "IPv6"] {
            agent.set(&format!("{family}NormalRoutePriority"), FRR_PRIORITIES.normal);
            agent.set(&format!("{family}ElevatedRoutePriority"), FRR_PRIORITIES.elevated);
        }
    });
    // Nobody is there, but zebra passes on what it hears to bgpd.
    let peers = ["--peer", "192.168.77.99", "--peer", "fd00:77::99"];
    let configuration =
        full.agent.run_ok(&[&["bgp", "frr", "--router-id", "192.0.2.1"][..], &peers].concat());
    let namespace = full.host.namespace_shared();
    let frr = Frr::start_with(&full.lab, namespace, &configuration, Release::Frr8, &OPTIONS);
    full.fill_restart_and_empty(frr.zebra_pid(), || {
        ["ip", "ipv6"]
            .map(|family| known(&frr.show(&format!("show {family} route summary json"))))
            .iter()
            .sum()
    });
}

/// Routes that zebra has from the kernel.
fn known(summary: &Value) -> usize {
    let kinds = summary["routes"].as_array().into_iter().flatten();
    let kernel = kinds.filter(|kind| kind["type"] == "kernel");
    kernel.filter_map(|kind| usize::try_from(kind["rib"].as_u64()?).ok()).sum()
}
