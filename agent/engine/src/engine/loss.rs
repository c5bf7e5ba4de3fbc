//! What is lost all at once is not given up without an operator's word.
//!
//! With a wrong host name or region, or a cluster that has lost its data, every endpoint of the host is gone in one moment, and
//! the virtual machines go on running. Where a virtual machine has really left, its tap has no carrier any more, or the tap
//! is gone. So endpoints that vanish together, and routes that an earlier life has left, stay as long as their taps have
//! carrier: until the endpoints are back, or until somebody confirms that they are gone. Owns what counts as such a loss.

use super::Engine;
use super::locals::Local;
use crate::fact::Link;
use crate::model::{EndpointKey, Policy};
use crate::notice::Notice;
use crate::time::BootTime;
use crate::view::LossView;
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::sync::Arc;

/// LIMIT: a driver that deletes one endpoint says so on purpose, and so it may be with the last one of a host. With two at the
/// same time that have carrier it is more likely that nobody wanted it.
const TOGETHER_MIN: usize = 2;
/// LIMIT: most of them is four of five, and no fewer than these: a tenant's few ports may be deleted together.
const MOST_MIN: usize = 5;
const MOST_SHARE: usize = 4;

/// How much is gone, and how much is not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Extent {
    lost: usize,
    shown: usize,
    /// Some of it was found to be missing. Nobody saw it being deleted.
    is_found_missing: bool,
}

impl Extent {
    const fn looks_like_a_mistake(self) -> bool {
        let least = if self.is_found_missing { 1 } else { TOGETHER_MIN };
        (self.shown == 0 && self.lost >= least)
            || (self.lost >= MOST_MIN && self.lost >= MOST_SHARE * self.shown)
    }
}

/// What is kept until somebody says so.
#[derive(Clone, Debug, Default)]
pub(super) struct Losses {
    /// Interfaces with carrier and routes of an earlier life, but without an endpoint; nothing before that was looked at.
    leftovers: Option<BTreeSet<u32>>,
    /// How much was told last.
    told: usize,
}

impl Losses {
    pub(super) const fn is_judged(&self) -> bool {
        self.leftovers.is_some()
    }
}

impl Engine {
    /// The endpoint's waiting time is over.
    pub(super) fn give_up(&mut self, now: BootTime, key: &EndpointKey) {
        let Some(local) = self.locals.get(key) else { return };
        if self.is_loss(key, local) && self.extent().looks_like_a_mistake() {
            self.locals.change(key, |local| local.is_suspect = true);
        } else {
            self.remove_local(now, key);
        }
    }

    /// Whether a virtual machine that most probably runs here would lose its routes. One that a migration takes away, or that
    /// has no route anyway, loses nothing.
    fn is_loss(&self, key: &EndpointKey, local: &Local) -> bool {
        let is_running = self.link(&local.endpoint.interface).is_some_and(|link| link.running);
        let machine = &local.machine;
        local.held_since.is_some()
            && is_running
            && machine.elevated().is_some()
            && !machine.may_have_left()
            && !self.is_migrating(key)
    }

    fn extent(&self) -> Extent {
        let lost: Vec<&Local> = self
            .locals
            .active()
            .filter(|(key, local)| self.is_loss(key, local))
            .map(|(_, local)| local)
            .collect();
        let leftovers = match &self.losses.leftovers {
            Some(leftovers) => leftovers.len(),
            None => self.leftovers_with_carrier().len(),
        };
        let shown = self.locals.iter().filter(|(_, local)| self.is_shown(local)).count();
        let is_found_missing = leftovers > 0 || lost.iter().any(|local| local.is_found_missing);
        Extent { lost: lost.len() + leftovers, shown, is_found_missing }
    }

    fn is_shown(&self, local: &Local) -> bool {
        local.held_since.is_none() && self.policy.is_workload(&local.endpoint.interface)
    }

    /// Interfaces on which an earlier life has left routes of ours, and which no endpoint of this life has used.
    fn leftovers_with_carrier(&self) -> BTreeSet<u32> {
        let ours = self.found.routes.iter().filter(|route| route.protocol == self.policy.route_protocol);
        let mut interfaces: BTreeSet<u32> = ours.map(|route| route.ifindex).collect();
        let is_bridge = |link: &&Link| self.policy.bridges.contains(&link.name);
        let bridges = interfaces.iter().filter_map(|ifindex| self.links.get(ifindex)).filter(is_bridge);
        let on_bridges: Vec<u32> =
            bridges.flat_map(|bridge| self.ports_without_an_endpoint(bridge.ifindex)).collect();
        interfaces.retain(|ifindex| self.is_unserved_with_carrier(*ifindex));
        interfaces.extend(on_bridges);
        interfaces
    }

    /// A bridge has carrier whoever is gone, so its ports say who runs there: no more of them than there are destinations that nobody asks for,
    /// because a port may be a virtual machine's that never had an endpoint.
    fn ports_without_an_endpoint(&self, bridge: u32) -> Vec<u32> {
        let prefixes = self.locals.iter().flat_map(|(_, local)| &local.endpoint.prefixes);
        let asked_for: BTreeSet<IpNet> = prefixes.map(IpNet::trunc).collect();
        let protocol = self.policy.route_protocol;
        let on_it = self.found.routes.iter().filter(|it| (it.ifindex, it.protocol) == (bridge, protocol));
        let left: BTreeSet<IpNet> =
            on_it.map(|route| route.destination).filter(|to| !asked_for.contains(to)).collect();
        let ports = self.links.values().filter(|link| link.master == Some(bridge));
        let ports = ports.map(|link| link.ifindex).filter(|ifindex| self.is_unserved_with_carrier(*ifindex));
        ports.take(left.len()).collect()
    }

    fn is_unserved_with_carrier(&self, ifindex: u32) -> bool {
        let link = self.links.get(&ifindex);
        !self.served.contains(&ifindex)
            && link.is_some_and(|link| link.running && self.policy.is_workload(&link.name))
    }

    /// What has no carrier any more, or has got an endpoint, is no longer in question.
    pub(super) fn reconsider_losses(&mut self) {
        let suspects = self.locals.active().filter(|(_, local)| local.is_suspect);
        let settled: Vec<Arc<EndpointKey>> = suspects
            .filter(|(key, local)| !self.is_loss(key, local))
            .map(|(key, _)| Arc::clone(key))
            .collect();
        for key in settled {
            self.locals.change(&key, |local| local.is_suspect = false);
        }
        if let Some(leftovers) = self.losses.leftovers.as_ref().filter(|leftovers| !leftovers.is_empty()) {
            // What has appeared since the last time is not yet served.
            let shown = self.locals.iter().filter(|(_, local)| self.is_shown(local));
            let shown: BTreeSet<u32> =
                shown.filter_map(|(_, local)| self.ifindex(&local.endpoint.interface)).collect();
            let left = leftovers.difference(&shown).copied();
            self.losses.leftovers =
                Some(left.filter(|ifindex| self.is_unserved_with_carrier(*ifindex)).collect());
        }
    }

    /// Whether routes that nobody asks for may go. What the last life left is looked at when it could go for the first time.
    pub(super) fn leftovers_may_go(&mut self, now: BootTime) -> bool {
        let is_over = self.in_sync_since.is_some_and(|since| since + self.policy.grace <= now);
        if !self.complete || !is_over {
            return false;
        }
        if !self.losses.is_judged() {
            let leftovers = self.leftovers_with_carrier();
            let is_mistake = !leftovers.is_empty() && self.extent().looks_like_a_mistake();
            self.losses.leftovers = Some(if is_mistake { leftovers } else { BTreeSet::new() });
            self.found.routes.clear();
        }
        self.losses.leftovers.as_ref().is_some_and(BTreeSet::is_empty)
    }

    /// Somebody who knows says that everything that is in question is gone.
    pub(super) fn loss_confirmed(&mut self, now: BootTime) {
        let suspects = self.locals.active().filter(|(_, local)| local.is_suspect);
        let suspects: Vec<_> = suspects.map(|(key, _)| Arc::clone(key)).collect();
        for key in suspects {
            self.remove_local(now, &key);
        }
        if let Some(leftovers) = &mut self.losses.leftovers {
            leftovers.clear();
        }
    }

    pub(super) fn tell_losses(&mut self) {
        let LossView { endpoints, interfaces, .. } = self.losses();
        let count = endpoints.len() + interfaces.len();
        let before = core::mem::replace(&mut self.losses.told, count);
        if count > before {
            let (endpoints, interfaces) = (endpoints.len(), interfaces.len());
            self.notices.push(Notice::LossSuspected { endpoints, interfaces });
        } else if count == 0 && before > 0 {
            self.notices.push(Notice::LossSettled);
        }
    }

    /// What is kept although the datastore does not show it, until somebody confirms that it is gone.
    #[must_use]
    pub fn losses(&self) -> LossView {
        let suspects = self.locals.active().filter(|(_, local)| local.is_suspect);
        let leftovers = self.losses.leftovers.iter().flatten();
        let unusable = self.locals.iter().filter(|(_, local)| {
            local.held_since.is_none() && !self.policy.is_workload(&local.endpoint.interface)
        });
        LossView {
            endpoints: suspects.map(|(key, _)| key.to_string()).collect(),
            interfaces: leftovers.filter_map(|ifindex| Some(self.links.get(ifindex)?.name.clone())).collect(),
            shown_on_other_interfaces: unusable.map(|(_, local)| local.endpoint.interface.clone()).collect(),
        }
    }

    /// How many endpoints would lose their routes to another [`Policy::interface_prefixes`], if that looks like a mistake.
    #[must_use]
    pub fn would_lose(&self, policy: &Policy) -> Option<usize> {
        let (stay, go): (Vec<_>, Vec<_>) = self
            .locals
            .iter()
            .filter(|(_, local)| self.is_shown(local))
            .partition(|(_, local)| policy.is_workload(&local.endpoint.interface));
        let runs = |local: &Local| self.link(&local.endpoint.interface).is_some_and(|link| link.running);
        let lost = go.iter().filter(|(_, local)| runs(local)).count();
        let extent = Extent { lost, shown: stay.len(), is_found_missing: true };
        extent.looks_like_a_mistake().then_some(lost)
    }
}
