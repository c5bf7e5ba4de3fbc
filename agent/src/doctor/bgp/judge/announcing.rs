//! What peers are told: of VMs here which routes are elevated, nothing of the host's own, and nothing wrong of other hosts.

use super::super::{ANNOUNCES, ELEVATED_ANNOUNCED, ONLY_VMS, RE_EXPORT, local_pref};
use super::Judge;
use crate::doctor::finding::Finding;
use crate::doctor::rehearsal::observed::{Act, Announcement, Scene, Session};

/// RFC 8326.
const GRACEFUL_SHUTDOWN: u32 = 0xffff_0000;
/// RFC 4271 has no default for LOCAL_PREF; daemons do.
const USUAL_PREFERENCE: u32 = 100;

impl Judge<'_> {
    /// Whether what the peer was told of a VM holds when another one comes.
    pub(super) fn still_announced(&self, number: usize, peer: &Session) -> Finding {
        let (family, name) = (self.family, &peer.name);
        let is_told = |scene: &Scene| scene.told.contains_key(&number);
        if self.scene(Act::Beside, None).is_none_or(is_told) {
            return ANNOUNCES.ok(format!("{family}: routes of VMs are announced to {name}"));
        }
        ANNOUNCES.error(
            format!("{family}: when the interface of another VM comes, {name} is told that routes of VMs are gone"),
            self.advice(
                "a BIRD that keeps what it has learnt".to_owned(),
                "FRR 10.3 or earlier: 10.7 forgets IPv4 routes of VMs whenever any interface changes; CutoverFrrForgets = true shortens that (docs/bgp-frr.md)".to_owned(),
            ),
        )
    }

    /// Whether what the peer is told tells elevated from normal.
    pub(super) fn announced(
        &self,
        peer: &Session,
        normal: &[Announcement],
        elevated: &[Announcement],
    ) -> Finding {
        let (family, name) = (self.family, &peer.name);
        let (Some(normal), Some(elevated)) = (best(normal), best(elevated)) else {
            return ELEVATED_ANNOUNCED
                .notice(format!("{family}: {name} is told nothing"), "see bgp.announces");
        };
        let preference = |it: &Announcement| it.local_pref.unwrap_or(USUAL_PREFERENCE);
        if elevated.communities.contains(&GRACEFUL_SHUTDOWN)
            && (peer.is_external || preference(elevated) == 0)
        {
            return ELEVATED_ANNOUNCED.error(
                format!("{family}: elevated and normal routes are announced to {name} as those of a host that is about to go away, with LOCAL_PREF 0 or as good as that"),
                "no graceful shutdown, if the maintenance is over; and no such community in a filter",
            );
        }
        if is_told(peer, self.is_frr(), normal, elevated) {
            let usual = [family.normal, family.elevated].map(local_pref);
            let told = [normal, elevated].map(|it| i64::from(preference(it)));
            if !peer.is_external && !self.is_frr() && told != usual {
                return ELEVATED_ANNOUNCED.notice(
                    format!(
                        "{family}: {name} is told LOCAL_PREF {} and {}, other hosts use {} and {}",
                        told[0], told[1], usual[0], usual[1]
                    ),
                    "nothing, if all hosts do the same; otherwise bgp_local_pref = 2147483647 - krt_metric;",
                );
            }
            return ELEVATED_ANNOUNCED.ok(format!("{family}: {name} is told which routes are elevated"));
        }
        if peer.is_external {
            return ELEVATED_ANNOUNCED.error(
                format!("{family}: elevated and normal routes are announced alike to {name}"),
                self.advice(
                    format!("if krt_metric < {} then bgp_community.add((65000, 100)); in the export filter of {name}", family.normal),
                    "set community 65000:100 where elevated routes are redistributed".to_owned(),
                ),
            );
        }
        ELEVATED_ANNOUNCED.error(
            format!(
                "{family}: {name} is told LOCAL_PREF {} of elevated routes and {} of normal ones",
                preference(elevated),
                preference(normal)
            ),
            self.advice(
                format!("bgp_local_pref = 2147483647 - krt_metric; in the export filter of {name}"),
                format!(
                    "set local-preference {} where elevated routes are redistributed, and {} for normal ones",
                    local_pref(family.elevated),
                    local_pref(family.normal)
                ),
            ),
        )
    }

    /// Whether a route is announced as a normal one again when its convergence time is over.
    pub(super) fn back(&self, number: usize, peer: &Session, normal: &Scene) -> Option<Finding> {
        let back = self.scene(Act::Back, None)?;
        let [was, is] = [normal, back].map(|scene| scene.told.get(&number).and_then(|told| best(told)));
        (was != is).then(|| {
            ELEVATED_ANNOUNCED.error(
                format!(
                    "{}: {} is told something else than before when a route is normal again",
                    self.family, peer.name
                ),
                "filters that look at the metric that the route has now",
            )
        })
    }

    pub(super) fn only_vms(&self, number: usize, peer: &Session) -> Option<Finding> {
        let default = self
            .observed
            .scenes
            .iter()
            .find(|it| it.act == Act::Default && it.is_ipv6() == self.family.is_ipv6)?;
        let (family, name) = (self.family, &peer.name);
        Some(if default.told.contains_key(&number) {
            ONLY_VMS.warning(
                format!("{family}: the host's default route is announced to {name}"),
                self.advice(
                    "if ifname !~ \"tap*\" then reject; in the export filter, with the prefixes of VMs' interfaces".to_owned(),
                    "match … address prefix-list with only routes to one address, as cutover bgp frr prints it".to_owned(),
                ),
            )
        } else {
            ONLY_VMS.ok(format!("{family}: the default route is not announced to {name}"))
        })
    }

    /// Whether routes of one peer keep their priority towards the others.
    pub(super) fn re_export(&self, from: usize, peer: &Session) -> Vec<Finding> {
        let scenes = (self.scene(Act::RemoteNormal, Some(from)), self.scene(Act::RemoteElevated, Some(from)));
        let (Some(normal), Some(elevated)) = scenes else { return Vec::new() };
        let mut findings = Vec::new();
        for (number, other) in self.peers().filter(|(number, _)| *number != from) {
            let told = |scene: &'_ Scene| scene.told.get(&number).and_then(|told| best(told)).cloned();
            let (family, name) = (self.family, &other.name);
            let is_kept = match (told(normal), told(elevated)) {
                (None, None) | (None, Some(_)) => true,
                (Some(normal), Some(elevated)) => is_told(other, self.is_frr(), &normal, &elevated),
                (Some(_), None) => false,
            };
            findings.push(if is_kept {
                RE_EXPORT.ok(format!("{family}: routes of {} keep their priority towards {name}", peer.name))
            } else {
                RE_EXPORT.warning(
                    format!("{family}: {name} is told elevated routes of {} as normal ones", peer.name),
                    self.advice(
                        format!("if source = RTS_BGP then reject; at the beginning of the export filter of {name}, or on a reflector accept; in place of reject;"),
                        format!("a route-map towards {name} that leaves the priority as it is"),
                    ),
                )
            });
        }
        findings
    }
}

/// What counts of several paths.
pub(super) fn best(told: &[Announcement]) -> Option<&Announcement> {
    told.iter().max_by_key(|it| it.local_pref)
}

/// Whether a peer can tell which one is the elevated one. With FRR, MED does not count: it is compared only between routes from the
/// same AS, which hosts often are not.
fn is_told(peer: &Session, is_frr: bool, normal: &Announcement, elevated: &Announcement) -> bool {
    if !peer.is_external {
        let preference = |it: &Announcement| it.local_pref.unwrap_or(USUAL_PREFERENCE);
        return preference(elevated) > preference(normal);
    }
    let has_more = |a: &Announcement, b: &Announcement| {
        a.communities.iter().any(|it| !b.communities.contains(it))
            || a.more.iter().any(|it| !b.more.contains(it))
    };
    has_more(elevated, normal)
        || elevated.path.len() < normal.path.len()
        || (!is_frr && elevated.med.unwrap_or(0) < normal.med.unwrap_or(0))
}
