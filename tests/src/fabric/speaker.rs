//! The BGP daemon of a host, whichever it is. Asks BIRD and FRR the same questions; what only one of them can do is asked
//! of that one.

use crate::bird::Bird;
use crate::frr::Frr;
use crate::host::Host;
use crate::lab::Lab;
use crate::release::Release;
use cutover_bgp::PREFERENCE_OF_METRIC_0;
use ipnet::IpNet;

/// Which daemon speaks BGP. As a release, the one that is installed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Daemon {
    /// BIRD.
    Bird,
    /// FRR.
    Frr,
}

impl Daemon {
    /// As `cutover bgp` calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bird => "bird",
            Self::Frr => "frr",
        }
    }
}

impl From<Daemon> for Release {
    fn from(daemon: Daemon) -> Self {
        match daemon {
            Daemon::Bird => Self::Bird2,
            Daemon::Frr => Self::Frr8,
        }
    }
}

/// A daemon of one host, running or not.
#[derive(Debug)]
pub enum Speaker {
    /// BIRD.
    Bird(Bird),
    /// FRR.
    Frr(Frr),
}

/// What a table says about the path that is used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Path {
    /// LOCAL_PREF, of the host's own paths the one that they are told with.
    pub preference: Option<u32>,
    /// Communities as `high:low`.
    pub communities: String,
    /// The AS path, empty inside of the AS.
    pub autonomous_systems: String,
    /// Whether it begins on this host.
    pub is_own: bool,
}

impl Speaker {
    #[track_caller]
    pub(super) fn start(release: Release, lab: &Lab, host: &Host, configuration: &str) -> Self {
        match release.daemon() {
            Daemon::Bird => Self::Bird(Bird::start(lab, host, configuration, release)),
            Daemon::Frr => Self::Frr(Frr::start(lab, host.namespace_shared(), configuration, release)),
        }
    }

    /// Waits until this many sessions are established.
    ///
    /// # Panics
    /// When they are not.
    #[track_caller]
    pub fn wait_established(&self, sessions: usize) {
        match self {
            Self::Bird(bird) => bird.wait_established(sessions),
            Self::Frr(frr) => frr.wait_established(sessions),
        }
    }

    /// The path to `destination` that it uses.
    #[must_use]
    pub fn path(&self, destination: IpNet) -> Option<Path> {
        match self {
            Self::Bird(bird) => bird.best(destination).map(|best| Path {
                preference: best
                    .kernel_metric
                    .map_or(best.local_pref, |metric| Some(PREFERENCE_OF_METRIC_0 - metric)),
                communities: best.communities.replace(['(', ')'], "").replace(',', ":"),
                autonomous_systems: best.autonomous_systems,
                is_own: best.kernel_metric.is_some(),
            }),
            Self::Frr(frr) => frr.best(destination).map(|best| Path {
                preference: best.preference.and_then(|value| u32::try_from(value).ok()),
                communities: best.communities,
                autonomous_systems: best.autonomous_systems,
                is_own: best.is_own,
            }),
        }
    }

    /// FRR.
    ///
    /// # Panics
    /// When it is BIRD.
    #[must_use]
    #[track_caller]
    pub fn frr(&self) -> &Frr {
        let Self::Frr(frr) = self else { panic!("this host has BIRD") };
        frr
    }

    /// BIRD.
    ///
    /// # Panics
    /// When it is FRR.
    #[must_use]
    #[track_caller]
    pub fn bird(&self) -> &Bird {
        let Self::Bird(bird) = self else { panic!("this host has FRR") };
        bird
    }

    /// BIRD.
    ///
    /// # Panics
    /// When it is FRR.
    #[must_use]
    #[track_caller]
    pub fn bird_mut(&mut self) -> &mut Bird {
        let Self::Bird(bird) = self else { panic!("this host has FRR") };
        bird
    }

    /// FRR.
    ///
    /// # Panics
    /// When it is BIRD.
    #[must_use]
    #[track_caller]
    pub fn frr_mut(&mut self) -> &mut Frr {
        let Self::Frr(frr) = self else { panic!("this host has BIRD") };
        frr
    }
}
