//! The endpoints of other hosts that matter here: those of every port that migrates from or to this host.
//!
//! The source's endpoint is evidence of how a migration ended (W34), and the removal of another host's status is a
//! reason to report again (W35). Both come after the migration is gone, so an endpoint is followed for some time after. A host
//! that the port migrated from or to a moment ago removes its status only when the port has come to rest, so these
//! are followed, too.

use super::feed::WatchId;
use cutover_engine::memory::Memory;
use cutover_engine::model::{EndpointKey, LiveMigration, MigrationSource, MigrationTarget};
use cutover_engine::{BootTime, Fact};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// LIMIT: a driver that lost its database or its etcd in the middle of a migration needs minutes, not hours.
const FORGET_AFTER: Duration = Duration::from_secs(600);

/// Which ones, and why.
#[derive(Debug, Default)]
pub(super) struct Others {
    /// By migration.
    named: BTreeMap<String, EndpointKey>,
    /// Sides of all migrations of the cluster, by migration.
    sides: BTreeMap<String, Vec<EndpointKey>>,
    /// Sides of migrations that are over, and since when; nothing if that was not looked at yet.
    former: BTreeMap<EndpointKey, Option<BootTime>>,
    followed: BTreeMap<EndpointKey, Followed>,
}

/// What is known about one of them.
#[derive(Debug, Default)]
pub(super) struct Followed {
    /// Watches of its endpoint and of its status on the present stream.
    pub(super) watches: Vec<WatchId>,
    /// The revision of the status that its host reported when that was last known; 0 if only that is known that there was one.
    status: Option<i64>,
    idle_since: Option<BootTime>,
}

impl Others {
    /// With endpoints that matter although no migration says so, because of the agent's last life, and what is known of their
    /// statuses from then.
    pub(super) fn new(remembered: &Memory) -> Self {
        let mut followed: BTreeMap<_, _> =
            remembered.others().map(|key| (key.clone(), Followed::default())).collect();
        for known in &remembered.statuses_elsewhere {
            followed.entry(known.endpoint.clone()).or_default().status = Some(known.revision);
        }
        Self { followed, ..Self::default() }
    }

    /// The other side of a migration, if this host is one side of it.
    pub(super) fn other_side(host: &str, migration: &LiveMigration) -> Option<EndpointKey> {
        let Some(MigrationTarget::Endpoint(target)) = &migration.target else { return None };
        let Some(MigrationSource::Endpoint(source)) = &migration.source else { return None };
        match (source.host == host, target.host == host) {
            (false, true) => Some(source.clone()),
            (true, false) => Some(target.clone()),
            _ => None,
        }
    }

    /// Takes note of a migration; returns the endpoints that have to be followed from now on.
    pub(super) fn note(&mut self, host: &str, fact: &Fact) -> Vec<EndpointKey> {
        match fact {
            Fact::MigrationRemoved(name) => {
                self.named.remove(name);
                self.end(name);
                Vec::new()
            }
            Fact::MigrationWritten(name, migration) => {
                self.end(name);
                self.sides.insert(name.clone(), migration.endpoints().cloned().collect());
                let Some(other) = Self::other_side(host, migration) else {
                    self.named.remove(name);
                    // A port that was here a moment ago: where it lives from now on matters, too.
                    let mut sides = migration.endpoints();
                    let known = |side: &&EndpointKey| self.followed.keys().any(|key| key.is_same_port(side));
                    return sides.find(known).map_or_else(Vec::new, |side| self.of_port(host, side));
                };
                self.named.insert(name.clone(), other.clone());
                self.of_port(host, &other)
            }
            _ => Vec::new(),
        }
    }

    fn end(&mut self, name: &str) {
        self.former.extend(self.sides.remove(name).into_iter().flatten().map(|side| (side, None)));
    }

    /// The endpoints of a port on other hosts that are not followed yet.
    fn of_port(&self, host: &str, port: &EndpointKey) -> Vec<EndpointKey> {
        let sides = self.sides.values().flatten().chain(self.former.keys());
        let of_port = sides.filter(|side| side.is_same_port(port) && side.host != host);
        let new: BTreeSet<_> = of_port.filter(|side| !self.followed.contains_key(*side)).collect();
        new.into_iter().cloned().collect()
    }

    /// Every endpoint that is followed.
    pub(super) fn keys(&self) -> Vec<EndpointKey> {
        self.followed.keys().cloned().collect()
    }

    /// The note about an endpoint; it is followed from now on.
    pub(super) fn follow(&mut self, key: EndpointKey) -> &mut Followed {
        self.followed.entry(key).or_default()
    }

    /// A status of another host is gone. Says whether that is news.
    pub(super) fn status_removed(&mut self, key: &EndpointKey) -> bool {
        self.followed.get_mut(key).is_some_and(|followed| followed.status.take().is_some())
    }

    /// A status of another host was written. Says whether that is news.
    pub(super) fn status_written(&mut self, key: &EndpointKey, revision: i64) -> bool {
        self.followed.get_mut(key).is_some_and(|followed| followed.status.replace(revision) != Some(revision))
    }

    /// A status of another host was read together with its endpoint, of which this is told at the same time if it is news, by the
    /// revision of the endpoint. Says whether the status has to be told as well: one that was told before anybody knew that there
    /// is an endpoint has not counted, but one from before the endpoint was written does not count either.
    pub(super) fn status_read(
        &mut self,
        key: &EndpointKey,
        revision: i64,
        endpoint_told: Option<i64>,
    ) -> bool {
        self.status_written(key, revision) || endpoint_told.is_some_and(|endpoint| endpoint < revision)
    }

    /// A status of another host was written, and is looked at again.
    pub(super) fn status_skipped(&mut self, key: &EndpointKey) {
        if let Some(followed) = self.followed.get_mut(key) {
            followed.status.get_or_insert(0);
        }
    }

    /// Endpoints that need not be followed any longer. `matters` says whether one has a port here, given whether there is a status of
    /// it that can be removed, or else whether it exists.
    pub(super) fn expire(
        &mut self,
        now: BootTime,
        matters: impl Fn(&EndpointKey, bool) -> bool,
    ) -> Vec<(EndpointKey, Followed)> {
        self.former.retain(|_, since| now.since(*since.get_or_insert(now)) < FORGET_AFTER);
        for (key, followed) in &mut self.followed {
            let is_migrating = self.sides.values().flatten().any(|side| side.is_same_port(key));
            if is_migrating || matters(key, followed.status.is_some()) {
                followed.idle_since = None;
            } else {
                followed.idle_since.get_or_insert(now);
            }
        }
        let expired: Vec<EndpointKey> = self
            .followed
            .iter()
            .filter(|(_, followed)| followed.idle_since.is_some_and(|since| now.since(since) >= FORGET_AFTER))
            .map(|(key, _)| key.clone())
            .collect();
        expired.into_iter().filter_map(|key| self.followed.remove_entry(&key)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cutover_engine::model::MigrationTarget;

    fn key(host: &str) -> EndpointKey {
        let text = |text: &str| text.to_owned();
        EndpointKey {
            host: text(host),
            orchestrator: text("openstack"),
            workload: text("openstack/vm"),
            endpoint: text("port"),
        }
    }

    fn written(from: &str, to: &str) -> Fact {
        let migration = LiveMigration {
            uid: "u".into(),
            source: Some(MigrationSource::Endpoint(key(from))),
            target: Some(MigrationTarget::Endpoint(key(to))),
        };
        Fact::MigrationWritten(format!("to-{to}"), migration)
    }

    const fn at(seconds: u64) -> BootTime {
        BootTime(seconds * 1_000_000_000)
    }

    #[test]
    fn the_other_side_is_followed_once() {
        let mut others = Others::default();
        assert_eq!(others.note("here", &written("here", "here")), [], "from and to here");
        assert_eq!(others.note("here", &written("here", "b")), [key("b")]);
        others.follow(key("b"));
        assert_eq!(others.note("here", &written("a", "here")), [key("a")]);
        others.follow(key("a"));
        assert_eq!(others.note("here", &written("a", "here")), [], "it is followed already");
    }

    /// It was on its way somewhere else before: that host has a status to remove, too.
    #[test]
    fn hosts_of_earlier_migrations_of_the_port_are_followed() {
        let mut others = Others::default();
        assert_eq!(others.note("here", &written("a", "b")), [], "between strangers");
        others.note("here", &Fact::MigrationRemoved("to-b".into()));
        assert_eq!(others.note("here", &written("a", "here")), [key("a"), key("b")]);
        let mut stranger = written("c", "d");
        if let Fact::MigrationWritten(_, migration) = &mut stranger {
            migration.source = None;
            let port = EndpointKey { endpoint: "another".into(), ..key("d") };
            migration.target = Some(MigrationTarget::Endpoint(port));
        }
        others.note("here", &stranger);
        assert_eq!(others.note("here", &written("a", "here")), [key("a"), key("b")], "of this port only");

        assert!(others.expire(at(10_000), |_, _| false).is_empty());
        others.expire(at(10_600), |_, _| false);
        assert_eq!(others.note("here", &written("a", "here")), [key("a")], "it was long ago");
    }

    #[test]
    fn a_host_of_an_earlier_migration_is_followed_until_the_port_is_at_rest() {
        let mut others = Others::default();
        others.note("here", &written("here", "b"));
        others.follow(key("b"));
        others.note("here", &Fact::MigrationRemoved("to-b".into()));
        others.note("here", &written("here", "c"));
        others.follow(key("c"));
        others.expire(at(10_000), |_, _| false);
        assert!(others.expire(at(20_000), |_, _| false).is_empty());
        others.note("here", &Fact::MigrationRemoved("to-c".into()));
        others.expire(at(30_000), |_, _| false);
        assert_eq!(others.expire(at(30_600), |_, _| false).len(), 2);
    }

    #[test]
    fn it_is_forgotten_long_after_it_stopped_to_matter() {
        let mut others = Others::default();
        others.note("here", &written("a", "here"));
        others.follow(key("a"));
        assert!(others.expire(at(10_000), |_, _| false).is_empty(), "a migration names it");
        others.note("here", &Fact::MigrationRemoved("to-here".into()));
        assert!(others.expire(at(20_000), |_, _| true).is_empty(), "it exists");
        assert!(others.expire(at(30_000), |_, _| false).is_empty());
        assert!(others.expire(at(30_599), |_, _| false).is_empty());
        assert_eq!(others.expire(at(30_600), |_, _| false).len(), 1);
        assert!(others.keys().is_empty());
    }

    #[test]
    fn the_end_of_a_status_is_news_once() {
        let mut others = Others::default();
        others.follow(key("a"));
        assert!(!others.status_removed(&key("a")), "it was never there");
        assert!(others.status_written(&key("a"), 7));
        assert!(!others.status_written(&key("a"), 7), "the same write");
        assert!(!others.status_written(&key("stranger"), 7));
        assert!(others.status_removed(&key("a")));
        assert!(!others.status_removed(&key("a")));
        assert!(!others.status_removed(&key("stranger")));
    }

    /// A member that has fallen behind with one of two watches may send a status before the endpoint that it is about.
    #[test]
    fn a_status_that_was_told_before_its_endpoint_is_told_again_with_it() {
        let mut others = Others::default();
        others.follow(key("a"));
        assert!(others.status_written(&key("a"), 17));
        assert!(others.status_read(&key("a"), 17, Some(13)));
        assert!(!others.status_read(&key("a"), 17, None), "the endpoint is no news");
        assert!(!others.status_read(&key("a"), 17, Some(18)), "the endpoint was created anew");
        assert!(others.status_read(&key("a"), 19, None), "a new status");
    }
}
