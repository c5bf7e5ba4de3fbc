//! The numbers by which FRR lets a remote elevated route win over a local normal one, and what is refused
//! because no numbers could, or falls short with those that are set. Pure; [`super::render`] writes them down.

use crate::PREFERENCE_OF_METRIC_0;
use thiserror::Error;

/// How far zebra shifts a kernel metric to get the distance (rt_netlink.c; FRR 8.4, 10.3 and 10.7 alike).
const DISTANCE_SHIFT: u32 = 24;
/// What zebra keeps as the metric.
const METRIC_MASK: u32 = (1 << DISTANCE_SHIFT) - 1;
/// The distance of routes from eBGP peers if nobody sets another one; iBGP's is 200.
const EBGP_DISTANCE: u32 = 20;
/// The metric of every route that zebra writes to the kernel, whatever the protocol.
pub(super) const ZEBRA_METRIC: u32 = 20;
/// The normal priority to take where the one that is set cannot work: distance 6, metric 2048.
///
/// Not 1024 in the low octets: the kernel gives that metric to every IPv6 route that is added without one.
pub(super) const SUGGESTED_NORMAL: u32 = (6 << DISTANCE_SHIFT) + 2048;
/// The elevated priority to take with it: better than zebra's own.
pub(super) const SUGGESTED_ELEVATED: u32 = 10;

/// Why priorities cannot be carried by FRR. `setting` is the one to change.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Refusal {
    /// There is no distance left between an elevated remote route and a normal local one, or none above it.
    #[error(
        "{setting} = {value}: its high octet, which zebra takes for the distance, is {distance}; it must be \
         2 to 19, above that of elevated routes from BGP and below that of normal ones; \
         set {setting} = {SUGGESTED_NORMAL} (6 x 2^24 + 2048) in the FelixConfiguration of all hosts"
    )]
    NormalDistance {
        /// Its name.
        setting: &'static str,
        /// Its value.
        value: u32,
        /// The high octet.
        distance: u32,
    },
    /// The route of the host where the machine runs would lose against one from BGP.
    #[error(
        "{setting} = {value}: its high octet is not 0, so zebra would not prefer it to an elevated route from \
         BGP, and the host where a machine has arrived might never announce it; set {setting} = \
         {SUGGESTED_ELEVATED} in the FelixConfiguration of all hosts"
    )]
    ElevatedWithDistance {
        /// Its name.
        setting: &'static str,
        /// Its value.
        value: u32,
    },
    /// bgpd sees only the low octets, and cannot tell the two apart.
    #[error(
        "{setting} = {value}: bgpd sees only the low three octets of a kernel metric, and those are {low}, the \
         elevated priority; set {setting} = {SUGGESTED_NORMAL} (6 x 2^24 + 2048) in the FelixConfiguration of \
         all hosts"
    )]
    SameMetric {
        /// Its name.
        setting: &'static str,
        /// Its value.
        value: u32,
        /// What is left of it in bgpd.
        low: u32,
    },
    /// zebra would take the agent's routes for its own, and remove them when it starts.
    #[error(
        "DeviceRouteProtocol = {value}: that is FRR's, which would take the agent's routes for its own and remove \
         them when it starts; set DeviceRouteProtocol = 3 in the FelixConfiguration of all hosts"
    )]
    RouteProtocol {
        /// The number.
        value: u8,
    },
}

/// What priorities that FRR can carry leave to be desired. `setting` is the one to change.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Shortcoming {
    /// zebra gives the local normal route the distance 0, and nothing from BGP can win over that.
    #[error(
        "{setting} = {value}: zebra takes the high octet of a kernel metric for the distance, and 0 wins over \
         every route from BGP, so the host that a machine leaves keeps its own route until the migration is \
         completed, and only the other hosts follow at once; \
         set {setting} = {SUGGESTED_NORMAL} (6 x 2^24 + 2048) in the FelixConfiguration of all hosts"
    )]
    KeepsOwnRoute {
        /// Its name.
        setting: &'static str,
        /// Its value.
        value: u32,
    },
}

/// The numbers of one family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Recipe {
    /// Kernel metric of a machine that stays.
    pub normal: u32,
    /// Kernel metric of a machine that has arrived.
    pub elevated: u32,
    /// zebra's distance for the local normal route.
    pub local_distance: u32,
    /// Distance for elevated routes from BGP: just better than that, if there is a better one.
    pub remote_distance: Option<u32>,
    /// What bgpd sees of the normal metric.
    pub normal_seen: u32,
}

impl Recipe {
    /// The numbers for the two priorities; the names are those of the settings that hold them.
    pub(super) fn new(
        (normal_setting, normal): (&'static str, u32),
        (elevated_setting, elevated): (&'static str, u32),
    ) -> Result<Self, Refusal> {
        let local_distance = normal >> DISTANCE_SHIFT;
        let normal_seen = normal & METRIC_MASK;
        if local_distance != 0 && !(2..EBGP_DISTANCE).contains(&local_distance) {
            let setting = normal_setting;
            return Err(Refusal::NormalDistance { setting, value: normal, distance: local_distance });
        }
        if elevated >> DISTANCE_SHIFT != 0 {
            return Err(Refusal::ElevatedWithDistance { setting: elevated_setting, value: elevated });
        }
        if normal_seen == elevated {
            return Err(Refusal::SameMetric { setting: normal_setting, value: normal, low: normal_seen });
        }
        let remote_distance = local_distance.checked_sub(1);
        Ok(Self { normal, elevated, local_distance, remote_distance, normal_seen })
    }

    /// LOCAL_PREF of normal routes.
    pub(super) const fn normal_preference(&self) -> u32 {
        PREFERENCE_OF_METRIC_0 - self.normal
    }

    /// LOCAL_PREF of elevated routes.
    pub(super) const fn elevated_preference(&self) -> u32 {
        PREFERENCE_OF_METRIC_0 - self.elevated
    }

    /// Whether the elevated route wins in the kernel of its own host before zebra has taken the other one away.
    pub(super) const fn wins_at_once(&self) -> bool {
        self.elevated < ZEBRA_METRIC
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(normal: u32, elevated: u32) -> Result<Recipe, Refusal> {
        Recipe::new(("IPv4NormalRoutePriority", normal), ("IPv4ElevatedRoutePriority", elevated))
    }

    #[test]
    fn the_suggestion_works_and_is_ahead_of_zebra() {
        let recipe = recipe(SUGGESTED_NORMAL, SUGGESTED_ELEVATED).unwrap();
        assert_eq!((recipe.local_distance, recipe.remote_distance, recipe.normal_seen), (6, Some(5), 2048));
        assert_eq!(
            (recipe.normal_preference(), recipe.elevated_preference()),
            (2_046_818_303, 2_147_483_637)
        );
        assert!(recipe.wins_at_once());
    }

    #[test]
    fn distances_lie_between_static_routes_and_ebgp() {
        for distance in 0..=127 {
            let normal = (distance << DISTANCE_SHIFT) + 2048;
            match recipe(normal, 512) {
                Ok(Recipe { remote_distance: None, .. }) => assert_eq!(distance, 0),
                Ok(Recipe { remote_distance: Some(remote), local_distance, .. }) => {
                    assert!((2..=19).contains(&distance));
                    assert!(remote >= 1 && remote < local_distance);
                }
                Err(Refusal::NormalDistance { .. }) => assert!(distance == 1 || distance >= 20),
                Err(other) => panic!("{other}"),
            }
        }
    }

    #[test]
    fn refusals_name_the_setting_and_its_new_value() {
        let refused = [
            ((1 << 24) + 2048, 512, "IPv4NormalRoutePriority = 100665344"),
            (SUGGESTED_NORMAL, (1 << 24) + 5, "IPv4ElevatedRoutePriority = 10"),
            (SUGGESTED_NORMAL, 2048, "IPv4NormalRoutePriority = 100665344"),
        ];
        for (normal, elevated, change) in refused {
            let text = recipe(normal, elevated).unwrap_err().to_string();
            assert!(text.contains(&format!("set {change} ")), "{text}");
            assert!(!text.contains('\n'), "{text}");
        }
        let text = Shortcoming::KeepsOwnRoute { setting: "IPv4NormalRoutePriority", value: 1024 }.to_string();
        assert!(text.contains("set IPv4NormalRoutePriority = 100665344 ") && !text.contains('\n'), "{text}");
    }

    #[test]
    fn what_is_not_ahead_of_zebra_is_told() {
        assert!(recipe(SUGGESTED_NORMAL, ZEBRA_METRIC - 1).unwrap().wins_at_once());
        assert!(!recipe(SUGGESTED_NORMAL, ZEBRA_METRIC).unwrap().wins_at_once());
        assert!(!recipe(SUGGESTED_NORMAL, 512).unwrap().wins_at_once());
    }
}
