//! A host's own routes that change without coming or going.

use super::{Fabric, Place};
use crate::wait;
use nix::sys::signal::Signal;
use std::net::IpAddr;
use std::time::Duration;

/// LIMIT: longer than daemons need to change their minds; only a wrong one does within it.
const STAYS: Duration = Duration::from_millis(1_500);

impl Fabric {
    /// The source's agent gives its routes another source address: the kernel replaces each of them by one with the same metric, and nobody
    /// else notices.
    ///
    /// # Panics
    /// When somebody does, or when the routes do not change.
    #[track_caller]
    pub fn change_own_routes_in_place(&mut self) {
        let marks = self.marks();
        let source = &mut self.scene.source;
        let (ipv4, ipv6) = (source.host.ipv4(), source.host.ipv6());
        source.agent.set("DeviceRouteSourceAddress", ipv4);
        source.agent.set("DeviceRouteSourceAddressIPv6", ipv6);
        source.agent.signal(Signal::SIGHUP);
        let metric = self.priorities.normal;
        let is_replaced = || {
            self.port().routed().into_iter().all(|to| {
                let wanted = if to.addr().is_ipv4() { IpAddr::from(ipv4) } else { IpAddr::from(ipv6) };
                let mut routes = self.scene.source.watch.routes_to(to).into_iter();
                routes.all(|route| (route.metric, route.source) == (metric, Some(wanted)))
            })
        };
        wait::until(wait::SOON, "the source's routes have another source address", is_replaced);
        wait::throughout(STAYS, "everybody sends to the source", || self.is_at(Place::Source));
        self.wait_tables(metric);
        for (router, mark) in self.routers().into_iter().zip(marks) {
            let history = router.watch.since(mark);
            self.port().routed().into_iter().for_each(|to| history.assert_never_without(to));
        }
    }
}
