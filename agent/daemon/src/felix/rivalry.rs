//! Whether Felix and this agent write the same routes, which neither of them must.
//!
//! Two signs: Felix runs without `RouteSyncDisabled`; a route of ours is deleted by somebody else as soon as it is there.

use super::settings::{self, Felix};
use super::{Observer, Running};
use crate::settings::Settings;
use cutover_engine::BootTime;
use cutover_engine::wanted::WantedRoute;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;
use tokio::sync::watch;

/// LIMIT: a person who deletes a route by hand is slower; two agents that undo each other's routes need milliseconds.
const AT_ONCE: Duration = Duration::from_millis(500);
/// LIMIT: a route that was deleted under our hands is remembered as a sign for so long.
const A_WHILE: Duration = Duration::from_secs(600);
/// LIMIT: going through the processes of a host takes milliseconds.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Which sign.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Kind {
    /// What Felix runs with.
    Settings,
    /// What happens to routes.
    Deletions,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Settings => "its settings",
            Self::Deletions => "deleted routes",
        })
    }
}

/// Routes of ours that came a moment ago. Pure but for the observer that it tells.
#[derive(Debug)]
pub(crate) struct Deletions {
    observer: Observer,
    appeared: BTreeMap<WantedRoute, BootTime>,
}

impl Deletions {
    pub(crate) const fn new(observer: Observer) -> Self {
        Self { observer, appeared: BTreeMap::new() }
    }

    /// A route of ours is there.
    pub(crate) fn appeared(&mut self, route: WantedRoute, now: BootTime) {
        self.appeared.retain(|_, at| now.since(*at) < AT_ONCE);
        self.appeared.insert(route, now);
    }

    /// A route of ours that is wanted is gone, and not by us. With its link, many go at once and none comes back, so one counts only
    /// if it went a moment after it had come.
    pub(crate) fn gone(&mut self, route: &WantedRoute, now: BootTime) {
        let is_at_once = self.appeared.remove(route).is_some_and(|at| now.since(at) < AT_ONCE);
        if is_at_once {
            let WantedRoute { destination, ifindex, metric, .. } = route;
            self.observer.note_deletion(format!(
                "somebody else deletes routes of ours as soon as they are there ({destination} dev {ifindex} metric {metric}): two agents write the routes of this host; set FELIX_ROUTESYNCDISABLED=true in the environment of calico-felix and restart it"
            ));
        }
    }
}

/// What both agents read: the values of the file and of the resources.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Shared {
    /// `RouteSyncDisabled`.
    pub(crate) route_sync_disabled: bool,
    /// `EndpointReportingEnabled`.
    pub(crate) endpoint_reporting_enabled: bool,
}

impl Shared {
    pub(crate) const fn of(settings: &Settings) -> Self {
        Self {
            route_sync_disabled: settings.route_sync_disabled,
            endpoint_reporting_enabled: settings.endpoint_reporting_enabled,
        }
    }
}

/// Looks at what Felix runs with, again and again.
pub(crate) async fn watch_settings(observer: Observer, mut shared: watch::Receiver<Shared>) {
    loop {
        let values = *shared.borrow_and_update();
        let look = tokio::task::spawn_blocking(|| settings::running(Path::new("/proc")));
        if let Ok(running) = look.await {
            observer.note_running(running.iter().map(|felix| settings_of(felix, values)).collect());
            let conflict = running.iter().find_map(|felix| writes_routes(felix, values));
            observer.note_conflict(Kind::Settings, conflict);
        }
        observer.forget_deletion_after(A_WHILE);
        // The sender is gone only while the agent stops.
        let _ = tokio::time::timeout(LOOK_EVERY, shared.changed()).await;
    }
}

pub(super) fn settings_of(felix: &Felix, shared: Shared) -> Running {
    Running {
        pid: felix.pid,
        route_sync_disabled: felix.leaves_routes(shared.route_sync_disabled),
        endpoint_reporting_enabled: felix.reports_endpoints(shared.endpoint_reporting_enabled),
        version: felix.version.clone(),
        mode: felix.mode(),
    }
}

fn writes_routes(felix: &Felix, shared: Shared) -> Option<String> {
    (felix.leaves_routes(shared.route_sync_disabled) == Some(false)).then(|| {
        format!(
            "Felix (process {}) runs without RouteSyncDisabled and this agent with CutoverRole = routes: both write the routes of this host; set FELIX_ROUTESYNCDISABLED=true in the environment of calico-felix and restart it",
            felix.pid
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route() -> WantedRoute {
        let destination = "10.65.0.2/32".parse().unwrap();
        WantedRoute { destination, ifindex: 7, metric: 512, protocol: 3, source: None }
    }

    fn at(ms: u64) -> BootTime {
        BootTime(1_000_000_000_000) + Duration::from_millis(ms)
    }

    #[test]
    fn a_route_that_goes_as_soon_as_it_came_is_a_sign_and_an_old_one_is_none() {
        let observer = Observer::default();
        let mut deletions = Deletions::new(observer.clone());
        deletions.appeared(route(), at(0));
        deletions.gone(&route(), at(600));
        deletions.gone(&route(), at(601));
        assert!(observer.report().conflicts.is_empty(), "a person, or its link");
        deletions.appeared(route(), at(602));
        deletions.gone(&route(), at(605));
        let conflicts = observer.report().conflicts;
        assert!(
            conflicts.len() == 1 && conflicts[0].contains("10.65.0.2/32 dev 7 metric 512"),
            "{conflicts:?}"
        );
    }

    #[test]
    fn felix_has_to_leave_routes_wherever_that_is_said() {
        let felix = |environment: &str| Felix::with_environment(5, environment.as_bytes());
        let shared = |route_sync_disabled| Shared { route_sync_disabled, ..Shared::default() };
        for (environment, in_file, is_conflict) in [
            ("", false, true),
            ("", true, false),
            ("FELIX_RouteSyncDisabled=true\0", false, false),
            ("FELIX_ROUTESYNCDISABLED=false\0", true, true),
        ] {
            let found = writes_routes(&felix(environment), shared(in_file));
            assert_eq!(found.is_some(), is_conflict, "{environment} {in_file}");
        }
        let seen = settings_of(&felix("FELIX_RouteSyncDisabled=true\0"), shared(false));
        let expected = (5, Some(true), Some(false));
        assert_eq!((seen.pid, seen.route_sync_disabled, seen.endpoint_reporting_enabled), expected);
        let unreadable = Felix { pid: 5, ..Felix::default() };
        assert_eq!(settings_of(&unreadable, shared(true)).route_sync_disabled, None);
        assert_eq!(writes_routes(&unreadable, shared(false)), None, "nobody is accused on a guess");
    }
}
