//! What is reported answers to every LiveMigration that there is: one that the agent has not seen keeps it from reporting.

use super::cloud::Cloud;
use cutover_daemon::applier::statuses::Outcome;
use cutover_daemon::applier::statuses::etcd::StatusKeys;
use cutover_daemon::datastore::etcd::{Cluster, Writer};
use cutover_daemon::settings::Settings;
use cutover_tests::scene::{SOURCE, TARGET};
use cutover_tests::wait;
use std::time::Duration;

const UP: &str = "{\"status\":\"up\"}";

/// The keys of the source's statuses, as its agent writes them, with the runtime for it. Within its namespace.
fn with_keys<T: Send>(
    cloud: &Cloud,
    work: impl FnOnce(&tokio::runtime::Runtime, &StatusKeys) -> T + Send,
) -> T {
    let settings = Settings {
        etcd_endpoints: cloud.etcd.endpoints().split(',').map(str::to_owned).collect(),
        ..Settings::default()
    };
    cloud.source.host.namespace().run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let writer = Writer::new(Cluster::new(&settings).expect("a cluster"));
        work(&runtime, &StatusKeys::new(writer, &cloud.keys))
    })
}

#[test]
fn a_step_is_taken_only_if_no_migration_was_written_since() {
    let cloud = Cloud::new();
    let key = cloud.status_key(SOURCE);
    let report = |seen| {
        with_keys(&cloud, |runtime, keys| {
            runtime.block_on(keys.report(key.clone(), UP.into(), seen)).expect("an answer")
        })
    };
    let withdraw = |seen| {
        with_keys(&cloud, |runtime, keys| {
            runtime.block_on(keys.withdraw(key.clone(), seen)).expect("an answer")
        })
    };
    assert_eq!(report(Some(0)), Outcome::Done, "there is no migration");
    assert_eq!(withdraw(Some(0)), Outcome::Done);

    // Of another port, on another host.
    let other = cloud.migration_key(TARGET).replace("port1", "port7");
    cloud.etcd.put(&other, "{}");
    let written = cloud.pair(&other).expect("it was written").modified;
    assert_eq!(report(Some(written - 1)), Outcome::Overtaken);
    assert_eq!(cloud.status(SOURCE), None, "nothing was done");
    assert_eq!(report(Some(written)), Outcome::Done);
    assert_eq!(withdraw(Some(written - 1)), Outcome::Overtaken);
    assert_eq!(cloud.status(SOURCE).as_deref(), Some(UP), "nothing was done");

    // Written again, and other things.
    cloud.etcd.put(&other, "{}");
    assert_eq!(report(Some(written)), Outcome::Overtaken);
    assert_eq!(report(None), Outcome::Done, "who has waited for long enough");
    let written = cloud.pair(&other).expect("it was written").modified;
    cloud.bind(SOURCE);
    assert_eq!(withdraw(Some(written)), Outcome::Done, "an endpoint is none");
    // Nobody can have seen less than that it is gone, and nothing depends on it.
    cloud.etcd.delete(&other);
    assert_eq!(report(Some(0)), Outcome::Done);
}

/// The member that an agent hears of everything from is silent. What it does not know of must not be answered.
#[test]
fn who_hears_nothing_of_a_migration_does_not_report_to_it() {
    let mut cloud = Cloud::with("", 3);
    cloud.source.agent.start_in_sync();
    cloud.wait_status(SOURCE, "up");
    let before = cloud.status_pair(SOURCE);
    let read = cloud.source.agent.log().wait(wait::SOON, &["Datastore read"]).text;
    let endpoints = cloud.etcd.endpoints();
    let member = endpoints.split(',').position(|endpoint| read.contains(endpoint)).expect("one of them");
    cloud.etcd.freeze(member);
    cloud.etcd.wait_answering();
    cloud.announce(SOURCE, TARGET);
    // Of a machine that is not migrated that means that its port is down.
    cloud.source.qemu = None;
    let log = cloud.source.agent.log().mark();
    let gone = || cloud.source.agent.status_of(&cloud.port).is_some_and(|it| it["running"] == false);
    wait::until(wait::SOON, "the agent has noticed", gone);
    let follows = || cloud.source.agent.status_of(&cloud.port).is_some_and(|it| it["role"] == "SOURCE");
    wait::until(Duration::from_secs(60), "another member is followed", follows);
    wait::throughout(Duration::from_secs(2), "nothing is reported", || cloud.status_pair(SOURCE) == before);
    assert_eq!(
        cloud.source.agent.log().since(log).iter().filter(|line| line.text.contains("reported")).count(),
        0
    );
    cloud.etcd.thaw(member);
}
