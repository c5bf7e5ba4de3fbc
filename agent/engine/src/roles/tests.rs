//! The scenarios of Felix's role calculator, and the corrections to it.

use super::*;
use crate::selector::Selector;
use proptest::prelude::*;

fn key(host: &str, workload: &str, endpoint: &str) -> EndpointKey {
    EndpointKey {
        host: host.into(),
        orchestrator: "openstack".into(),
        workload: format!("openstack/{workload}"),
        endpoint: endpoint.into(),
    }
}

fn port(host: &str) -> EndpointKey {
    key(host, "vm1", "port1")
}

fn migration(uid: &str, source: &str, target: &str) -> LiveMigration {
    LiveMigration {
        uid: uid.into(),
        source: Some(MigrationSource::Endpoint(port(source))),
        target: Some(MigrationTarget::Endpoint(port(target))),
    }
}

fn role(key: &EndpointKey, migrations: &[LiveMigration]) -> (Role, String) {
    let assignment = assign(key, &BTreeMap::new(), migrations.iter());
    (assignment.role, assignment.uid)
}

#[test]
fn source_and_target_of_one_migration() {
    let migrations = [migration("u1", "a", "b")];
    assert_eq!(role(&port("a"), &migrations), (Role::Source, "u1".into()));
    assert_eq!(role(&port("b"), &migrations), (Role::Target, "u1".into()));
    assert_eq!(role(&port("c"), &migrations), (Role::None, String::new()));
    assert_eq!(role(&port("a"), &[]), (Role::None, String::new()));
}

#[test]
fn the_target_learns_where_it_comes_from() {
    let migrations = [migration("u1", "a", "b")];
    assert_eq!(assign(&port("b"), &BTreeMap::new(), migrations.iter()).source, Some(port("a")));
    assert_eq!(assign(&port("a"), &BTreeMap::new(), migrations.iter()).source, None);
}

#[test]
fn target_wins_over_source_whatever_the_uids() {
    for (there, back) in [("u1", "u2"), ("u2", "u1")] {
        let migrations = [migration(there, "a", "b"), migration(back, "b", "a")];
        assert_eq!(role(&port("a"), &migrations), (Role::Target, back.into()));
        assert_eq!(role(&port("b"), &migrations), (Role::Target, there.into()));
    }
}

#[test]
fn the_greatest_uid_is_reported() {
    let migrations = [migration("u2", "a", "b"), migration("u9", "a", "b"), migration("u1", "a", "b")];
    assert_eq!(role(&port("b"), &migrations), (Role::Target, "u9".into()));
}

#[test]
fn a_migration_to_where_it_comes_from_takes_nothing_away() {
    let migrations = [migration("u1", "a", "a")];
    assert_eq!(role(&port("a"), &migrations), (Role::Source, "u1".into()));
}

#[test]
fn selector_chooses_the_target() {
    let mut selected = migration("u1", "a", "b");
    selected.target = Some(MigrationTarget::Selector(Selector::parse("job == 'x'").unwrap()));
    let labels = |value: &str| BTreeMap::from([("job".to_owned(), value.to_owned())]);
    assert_eq!(assign(&port("c"), &labels("x"), [&selected].into_iter()).role, Role::Target);
    assert_eq!(assign(&port("c"), &labels("y"), [&selected].into_iter()).role, Role::None);
    assert_eq!(assign(&port("a"), &labels("x"), [&selected].into_iter()).role, Role::Source);
}

#[test]
fn a_whole_workload_as_source() {
    let whole = LiveMigration {
        uid: "u1".into(),
        source: Some(MigrationSource::Workload {
            host: "a".into(),
            orchestrator: "openstack".into(),
            workload: "openstack/vm1".into(),
        }),
        target: None,
    };
    for endpoint in ["port1", "port2"] {
        assert_eq!(role(&key("a", "vm1", endpoint), std::slice::from_ref(&whole)).0, Role::Source);
    }
    assert_eq!(role(&key("a", "vm2", "port1"), std::slice::from_ref(&whole)).0, Role::None);
    assert_eq!(role(&key("b", "vm1", "port1"), std::slice::from_ref(&whole)).0, Role::None);
}

#[test]
fn empty_migration_concerns_nobody() {
    let empty = LiveMigration { uid: "u1".into(), source: None, target: None };
    assert_eq!(role(&port("a"), &[empty]), (Role::None, String::new()));
}

proptest! {
    /// No memory and no order: any permutation gives the same role.
    #[test]
    fn order_does_not_matter(
        migrations in prop::collection::vec((0..4u8, 0..3u8, 0..3u8), 0..6),
        seed in any::<prop::sample::Index>(),
    ) {
        let mut list: Vec<_> = migrations
            .iter()
            .map(|(uid, source, target)| migration(&format!("u{uid}"), ["a", "b", "c"][usize::from(*source)], ["a", "b", "c"][usize::from(*target)]))
            .collect();
        let before: Vec<_> = ["a", "b", "c"].iter().map(|host| role(&port(host), &list)).collect();
        if !list.is_empty() {
            let by = seed.index(list.len());
            list.rotate_left(by);
            list.reverse();
        }
        let after: Vec<_> = ["a", "b", "c"].iter().map(|host| role(&port(host), &list)).collect();
        prop_assert_eq!(before, after);
    }
}
