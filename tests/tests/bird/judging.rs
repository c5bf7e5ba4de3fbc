//! What every test asks of the routers: the way to the VM, no gaps.

use cutover_tests::fabric::{Fabric, Who, gaps};
use cutover_tests::route_history::History;
use cutover_tests::{probe, wait};
use ipnet::IpNet;
use std::time::Duration;

/// The VM answers to every host.
#[track_caller]
pub(crate) fn assert_answers(fabric: &Fabric) {
    for who in [Who::Source, Who::Target, Who::Third] {
        let host = fabric.router(who).host;
        for to in fabric.port().routed() {
            let answers = || probe::answers(host.namespace(), to.addr());
            wait::until(wait::SOON, format_args!("{to} answers to {}", host.name()), answers);
        }
    }
}

/// LIMIT: between two writes to the kernel, on a loaded machine.
const REPLACED: Duration = Duration::from_millis(100);

/// No moment without a route. BIRD 2.0 changes an IPv6 route by removing it and adding it, one right after the other.
#[track_caller]
pub(crate) fn assert_reachable(name: &str, history: &History, to: IpNet) {
    let gaps = gaps(history, to);
    let is_right = match to {
        IpNet::V4(_) => gaps.is_empty(),
        IpNet::V6(_) => gaps.iter().all(|gap| *gap < REPLACED),
    };
    let is_there = history.moments(to).last().is_some_and(|moment| !moment.routes.is_empty());
    assert!(is_right && is_there, "{name}: no route to {to} for {gaps:?}: {:#?}", history.moments(to));
}
