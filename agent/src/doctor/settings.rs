//! The settings: everything that `cutover check-config` knows, and what only makes sense together.

use super::finding::{Area, Check, Finding};
use cutover_daemon::settings::{DatastoreType, Loaded, Problem, Settings, Severity};
use std::time::Duration;

pub(super) static FILE: Check = Check {
    area: Area::Settings,
    name: "file",
    wants: "The configuration file can be read and parsed",
    why: "The agent does not start without its settings.",
};
static VALUES: Check = Check {
    area: Area::Settings,
    name: "values",
    wants: "Every value is valid, known and in effect",
    why: "A value that is refused or has no effect is one that somebody wanted and does not have.",
};
static RESOURCES: Check = Check {
    area: Area::Settings,
    name: "resources",
    wants: "FelixConfigurations can be read",
    why: "Settings of the whole cloud come from them; a host that cannot read them differs from the others.",
};
static CONVERGENCE: Check = Check {
    area: Area::Settings,
    name: "convergence-time",
    wants: "Priority stays elevated for at least a few seconds after a migration",
    why: "When it falls back before every host has seen the source's route go, both routes have the same priority, and some traffic goes to where the VM was.",
};
static REPORTING: Check = Check {
    area: Area::Settings,
    name: "reporting",
    wants: "With etcd, endpoint status is reported",
    why: "Neutron tells Nova that a port is ready when the agent reports it; without reports every migration waits for its timeout.",
};

pub(super) static CHECKS: &[&Check] = &[&FILE, &VALUES, &RESOURCES, &CONVERGENCE, &REPORTING];

/// LIMIT: BGP keeps changes back for a few seconds in its default timers; less than this is never enough.
const CONVERGENCE_MIN: Duration = Duration::from_secs(5);

/// The file that says what the settings are is of no use.
pub(super) fn unreadable(reason: &str) -> Finding {
    FILE.error(
        format!("{reason}; what depends on the settings was checked with the built-in ones, or not at all"),
        "mend the file, then run cutover doctor again",
    )
}

pub(super) fn judge(loaded: &Loaded, unusable_resources: &[String]) -> Vec<Finding> {
    let mut findings: Vec<Finding> = loaded.problems.iter().map(problem).collect();
    if findings.is_empty() {
        findings.push(VALUES.ok("every value is valid and in effect"));
    }
    findings.extend(unusable_resources.iter().map(|line| {
        RESOURCES.warning(line.clone(), "mend what it names; cutover check-config shows what is in force")
    }));
    let is_complete = unusable_resources.is_empty();
    findings.extend(
        [convergence(&loaded.settings), reporting(&loaded.settings, is_complete)].into_iter().flatten(),
    );
    findings
}

fn problem(problem: &Problem) -> Finding {
    let (what, origin) = (problem.to_string(), &problem.origin);
    match problem.severity {
        Severity::Notice => VALUES.notice(what, format!("remove it from {origin}, or leave it as it is")),
        Severity::Warning => VALUES.warning(what, format!("correct it in {origin}")),
        Severity::Fatal => {
            VALUES.error(what, format!("correct it in {origin}; the agent does not start until then"))
        }
    }
}

fn convergence(settings: &Settings) -> Option<Finding> {
    let time = settings.live_migration_route_convergence_time;
    (time < CONVERGENCE_MIN).then(|| {
        CONVERGENCE.warning(
            format!("LiveMigrationRouteConvergenceTime is {} s", time.as_secs_f64()),
            "LiveMigrationRouteConvergenceTime = 30",
        )
    })
}

/// The Neutron driver turns it on in a resource, so without those there is nothing to say.
fn reporting(settings: &Settings, is_complete: bool) -> Option<Finding> {
    if settings.datastore_type != DatastoreType::Etcdv3 || settings.reports_endpoints() {
        return None;
    }
    if !is_complete {
        let what = "could not tell whether endpoint status is reported: FelixConfigurations cannot be read";
        return Some(REPORTING.notice(what, "mend the datastore first"));
    }
    Some(REPORTING.error(
        "DatastoreType is etcdv3 and EndpointReportingEnabled is false",
        "EndpointReportingEnabled = true in the file, or endpointReportingEnabled: true in FelixConfiguration default, where the Neutron driver puts it",
    ))
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;
    use cutover_daemon::settings::{Sources, load};
    use std::path::Path;

    fn judged(file: &str) -> Vec<(String, Level)> {
        let sources = Sources::new([], Path::new("felix.cfg"), file.as_bytes(), "host1").unwrap();
        judge(&load(&sources, &[]), &[]).into_iter().map(|f| (f.check.id(), f.level)).collect()
    }

    #[test]
    fn each_problem_is_a_finding_of_its_level() {
        let fine = "DatastoreType = dir\n";
        for (text, expected) in [
            ("", &[("settings.values", Level::Ok)][..]),
            ("IPv4NormalRoutePriority = lots\n", &[("settings.values", Level::Warning)]),
            ("IPv4ElevatedRoutePriority = 1024\n", &[("settings.values", Level::Error)]),
            ("Nonsense = 1\n", &[("settings.values", Level::Notice)]),
            (
                "LiveMigrationRouteConvergenceTime = 1\n",
                &[("settings.values", Level::Ok), ("settings.convergence-time", Level::Warning)],
            ),
        ] {
            let found = judged(&format!("{fine}{text}"));
            let expected: Vec<_> = expected.iter().map(|(id, level)| ((*id).to_owned(), *level)).collect();
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn etcd_wants_reports() {
        let reporting = ("settings.reporting".to_owned(), Level::Error);
        assert!(judged("").contains(&reporting));
        assert!(!judged("EndpointReportingEnabled = true\n").contains(&reporting));
        assert!(!judged("DatastoreType = dir\n").contains(&reporting));
        let sources = Sources::new([], Path::new("felix.cfg"), b"", "host1").unwrap();
        let blind = judge(&load(&sources, &[]), &["no answer".to_owned()]);
        assert!(blind.iter().all(|finding| finding.level < Level::Error), "{blind:?}");
    }
}
