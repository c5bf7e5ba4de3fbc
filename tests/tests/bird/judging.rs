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

/// LIMIT: between two writes of one daemon to the kernel, or between what two sessions tell, on a loaded machine. A route that
/// only the daemon's next scan of the kernel brings back is away for longer.
const REPLACED: Duration = Duration::from_secs(2);

/// How a router may come to have no route for a moment, although nobody is at fault but its daemon.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Gaps {
    /// BIRD 2.0 changes an IPv6 route by removing it and adding it, one right after the other.
    Ipv6,
    /// A third host in a full mesh with BIRD 3: two sessions race (docs/bgp-bird.md, "Gaps").
    Race,
}

/// Whether these gaps are none, or those of IPv6 routes that are changed.
pub(crate) fn is_replaced(gaps: &[Duration], to: IpNet) -> bool {
    gaps.is_empty() || (to.addr().is_ipv6() && gaps.iter().all(|gap| *gap < REPLACED))
}

/// No moment without a route, but for those that the daemon is known for.
#[track_caller]
pub(crate) fn assert_reachable(name: &str, history: &History, to: IpNet, allowed: Gaps) {
    let gaps = gaps(history, to);
    let is_right = match allowed {
        Gaps::Ipv6 => is_replaced(&gaps, to),
        Gaps::Race => gaps.iter().all(|gap| *gap < REPLACED),
    };
    let is_there = history.moments(to).last().is_some_and(|moment| !moment.routes.is_empty());
    assert!(is_right && is_there, "{name}: no route to {to} for {gaps:?}: {:#?}", history.moments(to));
}
