//! Forwards that are started by the target's word, or because the virtual machine has stopped, before the engine has heard it. Pure.
//!
//! The engine says beforehand which ones are to be ([`WantedForward::awaits_word`], [`WantedForward::awaits_stop`]), and wants the same as soon as it
//! has heard; until then what it wants is older.

use super::plan::Forwards;
use cutover_engine::wanted::{Tunnel, WantedForward};
use cutover_engine::{BootTime, EndpointKey};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// LIMIT: the engine hears of it within milliseconds. One that does not want it by then does not want it.
const ENGINE_WITHIN: Duration = Duration::from_secs(1);

/// A virtual machine has announced itself where it goes, or has stopped here.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Start {
    /// The endpoint of this host that it has left.
    pub endpoint: EndpointKey,
    /// Where to forward.
    pub tunnel: Tunnel,
}

/// What has been started.
#[derive(Debug, Default)]
pub(super) struct Early(BTreeMap<Arc<EndpointKey>, (Tunnel, BootTime)>);

impl Early {
    /// Starts one that waits for it. Returns whether there is one.
    pub(super) fn start(&mut self, wanted: &Forwards, start: Start, now: BootTime) -> bool {
        let endpoint = Arc::new(start.endpoint);
        let waits = wanted.get(&endpoint).is_some_and(|it| it.awaits_word && it.tunnel == start.tunnel);
        if waits {
            self.0.insert(endpoint, (start.tunnel, now));
        }
        waits
    }

    /// What is wanted, with what has been started. What the engine has heard of by now is its own again.
    pub(super) fn over(&mut self, wanted: &Forwards, now: BootTime) -> Forwards {
        self.0.retain(|endpoint, (tunnel, at)| {
            let waits = wanted.get(endpoint).is_some_and(|it| it.awaits_word && it.tunnel == *tunnel);
            waits && now.since(*at) < ENGINE_WITHIN
        });
        let mut forwards = wanted.clone();
        for endpoint in self.0.keys() {
            if let Some(forward) = wanted.get(endpoint) {
                forwards.insert(Arc::clone(endpoint), WantedForward { is_active: true, ..forward.clone() });
            }
        }
        forwards
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint() -> EndpointKey {
        EndpointKey {
            host: "a".into(),
            orchestrator: "openstack".into(),
            workload: "openstack/vm".into(),
            endpoint: "port".into(),
        }
    }

    const TUNNEL: Tunnel =
        Tunnel { id: 7, peer: std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)) };

    fn wanted(is_active: bool, awaits_word: bool) -> Forwards {
        let prefixes = Default::default();
        let forward =
            WantedForward { tunnel: TUNNEL, prefixes, is_active, awaits_word, awaits_stop: awaits_word };
        [(Arc::new(endpoint()), forward)].into()
    }

    fn is_active(forwards: &Forwards) -> bool {
        forwards.values().any(|forward| forward.is_active)
    }

    #[test]
    fn one_that_waits_is_started_until_the_engine_knows() {
        let (mut early, now) = (Early::default(), BootTime(1_000_000_000));
        let start = Start { endpoint: endpoint(), tunnel: TUNNEL };
        assert!(early.start(&wanted(false, true), start, now));
        assert!(is_active(&early.over(&wanted(false, true), now)), "what the engine wants is older");
        assert!(is_active(&early.over(&wanted(true, false), now)));
        assert!(!is_active(&early.over(&wanted(false, true), now)), "it was heard, and is over");
    }

    #[test]
    fn one_that_the_engine_does_not_want_ends() {
        let (mut early, now) = (Early::default(), BootTime(1_000_000_000));
        let start = || Start { endpoint: endpoint(), tunnel: TUNNEL };
        early.start(&wanted(false, true), start(), now);
        assert!(!is_active(&early.over(&wanted(false, false), now)));
        early.start(&wanted(false, true), start(), now);
        assert!(!is_active(&early.over(&wanted(false, true), now + ENGINE_WITHIN)), "it has had its time");
    }

    #[test]
    fn nothing_else_is_started() {
        let now = BootTime(1);
        let other = Tunnel { id: 8, ..TUNNEL };
        for (forwards, tunnel) in [
            (wanted(false, false), TUNNEL),
            (wanted(true, false), TUNNEL),
            (wanted(false, true), other),
            (Forwards::default(), TUNNEL),
        ] {
            assert!(!Early::default().start(&forwards, Start { endpoint: endpoint(), tunnel }, now));
        }
    }
}
