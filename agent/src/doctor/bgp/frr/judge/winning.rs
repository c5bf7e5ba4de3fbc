//! Which route wins where there are two: on the source, on the target, for bgpd, for zebra and for the kernel.

use super::super::super::{KERNEL_METRIC, LOCAL_WINS, REMOTE_WINS};
use super::super::instance::Peer;
use super::super::route_map::Route;
use super::{ADVICE, DISTANCE_SHIFT, Judge};
use crate::doctor::finding::Finding;

/// What every route from bgpd has in the kernel.
const KERNEL_METRIC_OF_BGP: u32 = 20;
/// eBGP, iBGP.
const DISTANCES: (u32, u32) = (20, 200);

impl Judge<'_> {
    fn distance(&self, peer: &Peer, route: &Route) -> u32 {
        let (external, internal) = self.space.distances.unwrap_or(DISTANCES);
        route.distance.unwrap_or(if peer.is_external { external } else { internal })
    }

    /// What bgpd compares first.
    fn rank(&self, route: &Route) -> (u32, u32) {
        (route.weight, route.local_pref.unwrap_or(self.bgp.default_local_pref))
    }

    /// On the source: first bgpd has to prefer the remote route, then zebra.
    pub(super) fn remote_wins(
        &self,
        peer: &Peer,
        (learning, import): (&str, &str),
        local: &Route,
        remote: &Route,
    ) -> Finding {
        let family = self.family;
        let (local, of_peer) = (self.rank(local), self.rank(remote));
        if local >= of_peer {
            return REMOTE_WINS.error(
                format!(
                    "{family}: for bgpd, local normal routes (weight {}, LOCAL_PREF {}) win over elevated ones of {} (weight {}, LOCAL_PREF {})",
                    local.0, local.1, peer.name, of_peer.0, of_peer.1
                ),
                format!("set weight 0 and the two LOCAL_PREFs in {learning}; with eBGP also set local-preference in {import}; {ADVICE}"),
            );
        }
        let (own, other) = (family.normal >> DISTANCE_SHIFT, self.distance(peer, remote));
        if other >= own {
            return REMOTE_WINS.error(
                format!("{family}: for zebra, local normal routes (distance {own}) win over elevated ones of {} (distance {other}), which arrive with LOCAL_PREF {}", peer.name, of_peer.1),
                format!("set distance {} for elevated routes in {import}, {ADVICE}", own - 1),
            );
        }
        REMOTE_WINS.ok(format!("{family}: elevated routes of {} win over local ones", peer.name))
    }

    /// On the target: first zebra has to prefer the local route, then bgpd, unless it tells of both.
    pub(super) fn local_wins(&self, peer: &Peer, local: &Route, remote: &Route) -> Finding {
        let family = self.family;
        let (own, other) = (family.elevated >> DISTANCE_SHIFT, self.distance(peer, remote));
        let (local, of_peer) = (self.rank(local), self.rank(remote));
        if own < other && local > of_peer {
            return LOCAL_WINS
                .ok(format!("{family}: local elevated routes win over normal ones of {}", peer.name));
        }
        if own < other && self.peers.iter().all(|peer| peer.has_all_paths) {
            return LOCAL_WINS.notice(
                format!("{family}: for bgpd, normal routes of {} win over local elevated ones, which are announced beside them (addpath-tx-all-paths)", peer.name),
                "see that all neighbours are told all paths, and take them",
            );
        }
        LOCAL_WINS.error(
            format!(
                "{family}: local elevated routes (distance {own}, LOCAL_PREF {}) do not win over normal ones of {} (distance {other}, LOCAL_PREF {})",
                local.1, peer.name, of_peer.1
            ),
            format!("the LOCAL_PREFs and distances that cutover bgp frr prints, and {family}ElevatedRoutePriority below 2^24"),
        )
    }

    pub(super) fn kernel_metric(&self) -> Finding {
        let (family, elevated) = (self.family, self.family.elevated);
        if elevated < KERNEL_METRIC_OF_BGP {
            return KERNEL_METRIC
                .ok(format!("{family}: elevated routes have a lower metric than those of bgpd"));
        }
        KERNEL_METRIC.notice(
            format!("{family}: routes of bgpd have metric {KERNEL_METRIC_OF_BGP} in the kernel, which wins over an elevated {elevated} until zebra has taken them away, some milliseconds"),
            format!("{family}ElevatedRoutePriority = 10 for all hosts"),
        )
    }
}
