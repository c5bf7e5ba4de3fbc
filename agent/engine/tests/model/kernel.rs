//! What a host's kernel has: it outlives the agent.

use cutover_engine::fact::Link;
use cutover_engine::wanted::{Tunnel, WantedRoute};
use cutover_engine::{BootTime, Wanted};
use std::collections::{BTreeMap, BTreeSet};

/// What outlives the agent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kernel {
    pub(crate) link: Option<Link>,
    pub(crate) routes: BTreeSet<WantedRoute>,
    /// Generation by interface.
    pub(crate) watches: BTreeMap<u32, u64>,
    /// The first announcement, by generation.
    pub(crate) evidence: BTreeMap<u64, BootTime>,
    /// Where packets for the virtual machine are sent.
    pub(crate) forward: Option<Tunnel>,
    /// What is taken from the tunnel.
    pub(crate) reception: Option<Tunnel>,
}

impl Kernel {
    /// Routes as wanted.
    pub(crate) fn route(&mut self, wanted: &Wanted) {
        let (link, leftovers_may_go) = (self.link.as_ref().map(|link| link.ifindex), wanted.leftovers_may_go);
        let may_stay = |ifindex: u32| {
            !leftovers_may_go && !wanted.known_interfaces.contains(&ifindex) && link == Some(ifindex)
        };
        self.routes.retain(|route| wanted.is_recalled || may_stay(route.ifindex));
        self.routes.extend(wanted.routes.iter());
    }

    /// Watches that are not wanted go, with what they saw.
    pub(crate) fn unwatch(&mut self, wanted: &Wanted) {
        if wanted.is_recalled {
            return;
        }
        let is_wanted = |ifindex: &u32, generation: u64| {
            wanted.watches.get(ifindex).is_some_and(|watch| watch.generation == generation)
        };
        self.watches.retain(|ifindex, generation| is_wanted(ifindex, *generation));
        let watches = &self.watches;
        self.evidence.retain(|generation, _| watches.values().any(|armed| armed == generation));
    }
}
