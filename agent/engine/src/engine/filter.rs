//! Felix beside us: an endpoint is not up before Felix lets its packets pass.
//!
//! Owns what is known of Felix's chains, and since when an endpoint waits for them. Only `up` waits; routes, watches and `down`
//! do not, and what was reported before stays.

use super::Engine;
use super::locals::Local;
use crate::chains::{Chains, Pieces};
use crate::model::{Endpoint, EndpointKey};
use crate::notice::Notice;
use crate::time::{BootTime, milliseconds};
use crate::view::FelixView;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// LIMIT: Felix takes milliseconds, a second with hundreds of endpoints, and seconds if its groups have 100,000 members. Whoever
/// waits for longer is told of.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// LIMIT: that many are named one by one; of more at once, as when Felix does not run, the number is said.
const NAMED_AT_ONCE_MAX: usize = 8;

/// An endpoint whose tap is there and whose chains are not.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    since: BootTime,
    told: Told,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Told {
    Nobody,
    ByName,
    AsOneOfMany,
}

pub(super) type WaitingEndpoints = BTreeMap<Arc<EndpointKey>, Waiting>;

impl Engine {
    pub(super) fn chains_seen(&mut self, interface: String, chains: Chains) {
        self.locals.touch_interface(&interface);
        if chains.is_empty() {
            self.chains.remove(&interface);
        } else {
            self.chains.insert(interface, chains);
        }
    }

    /// What of Felix's chains an endpoint needs and does not have.
    fn missing(&self, endpoint: &Endpoint) -> Chains {
        if !self.policy.awaits_chains {
            return Chains::default();
        }
        let seen = self.chains.get(&endpoint.interface).copied().unwrap_or_default();
        let needs = |is_ipv6| endpoint.prefixes.iter().any(|prefix| prefix.addr().is_ipv6() == is_ipv6);
        let of = |is_needed: bool, seen: Pieces| if is_needed { seen.others() } else { Pieces::default() };
        Chains {
            ipv4: of(needs(false), seen.ipv4),
            ipv6: of(self.policy.ipv6_support && needs(true), seen.ipv6),
        }
    }

    /// Whether packets of an endpoint pass, as far as that is Felix's business.
    pub(super) fn passes_filter(&self, local: &Local) -> bool {
        self.missing(&local.endpoint).is_empty()
    }

    /// Notes who waits, and who does not any more. Felix takes the chains of an endpoint away that is gone from the datastore, so one
    /// that is held waits for nothing.
    pub(super) fn keep_waiting(&mut self, now: BootTime, keys: &BTreeSet<Arc<EndpointKey>>) {
        for key in keys {
            let waits = self.locals.get(key).is_some_and(|local| {
                local.held_since.is_none()
                    && self.link(&local.endpoint.interface).is_some()
                    && !self.passes_filter(local)
            });
            if waits {
                let new = Waiting { since: now, told: Told::Nobody };
                self.waiting.entry(Arc::clone(key)).or_insert(new);
            } else if let Some(waiting) = self.waiting.remove(key)
                && waiting.told == Told::ByName
                && self.locals.contains_key(key)
            {
                self.notices.push(Notice::ChainsComplete { endpoint: EndpointKey::clone(key) });
            }
        }
    }

    /// When there is something to say about those that wait.
    pub(super) fn chains_deadline(&self) -> Option<BootTime> {
        let untold = self.waiting.values().filter(|waiting| waiting.told == Told::Nobody);
        untold.map(|waiting| waiting.since + PATIENCE).min()
    }

    /// Says who has waited for too long.
    pub(super) fn tell_waiting(&mut self, now: BootTime) {
        let is_due = |waiting: &Waiting| waiting.told == Told::Nobody && waiting.since + PATIENCE <= now;
        let due: Vec<_> =
            self.waiting.iter().filter(|(_, it)| is_due(it)).map(|(key, _)| Arc::clone(key)).collect();
        let told = if due.len() > NAMED_AT_ONCE_MAX { Told::AsOneOfMany } else { Told::ByName };
        if told == Told::AsOneOfMany {
            self.notices.push(Notice::ChainsMissingOfMany { count: due.len() });
        }
        for key in due {
            if let Some(local) = self.locals.get(&key).filter(|_| told == Told::ByName) {
                self.notices.push(Notice::ChainsMissing {
                    endpoint: EndpointKey::clone(&key),
                    interface: local.endpoint.interface.clone(),
                    missing: self.missing(&local.endpoint),
                });
            }
            if let Some(waiting) = self.waiting.get_mut(&key) {
                waiting.told = told;
            }
        }
    }

    /// What `cutover status` shows of it; nothing where Felix is not beside us.
    pub(super) fn felix_view(&self, key: &EndpointKey, local: &Local, now: BootTime) -> Option<FelixView> {
        self.policy.awaits_chains.then(|| FelixView {
            missing: self.missing(&local.endpoint).names(),
            for_ms: self.waiting.get(key).map(|waiting| milliseconds(now.since(waiting.since))),
        })
    }
}
