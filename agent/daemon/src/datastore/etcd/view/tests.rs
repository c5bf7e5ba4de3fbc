//! News against a model: whatever comes in whatever order, what was told leads to what is there.

use super::*;
use cutover_engine::model::EndpointKey;
use proptest::prelude::*;

fn key(number: u8) -> EndpointKey {
    EndpointKey {
        host: "h".into(),
        orchestrator: "openstack".into(),
        workload: "openstack/vm".into(),
        endpoint: format!("p{number}"),
    }
}

fn endpoint(number: u8, address: u8, mod_revision: i64) -> (Key, Stored) {
    let name = key(number).to_string();
    let value = format!(
        r#"{{"kind": "WorkloadEndpoint", "apiVersion": "projectcalico.org/v3",
            "metadata": {{"name": "{name}", "namespace": "openstack"}},
            "spec": {{"orchestrator": "openstack", "workload": "vm", "node": "h", "endpoint": "p{number}",
                      "interfaceName": "tap{number}", "ipNetworks": ["10.0.0.{address}/32"]}}}}"#
    );
    (Key::Endpoint(key(number)), Stored { value: value.into(), mod_revision })
}

fn migration(name: &str, uid: &str, mod_revision: i64) -> (Key, Stored) {
    let value = format!(
        r#"{{"kind": "LiveMigration", "apiVersion": "projectcalico.org/v3",
            "metadata": {{"name": "{name}", "namespace": "openstack", "uid": "{uid}"}}, "spec": {{}}}}"#
    );
    (Key::Migration(name.into()), Stored { value: value.into(), mod_revision })
}

fn poison(number: u8, mod_revision: i64) -> (Key, Stored) {
    (Key::Endpoint(key(number)), Stored { value: b"{".to_vec(), mod_revision })
}

/// The facts in few words.
fn words(facts: &[Fact]) -> Vec<String> {
    let word = |fact: &Fact| match fact {
        Fact::EndpointWritten(key, _) => format!("+{}", key.endpoint),
        Fact::EndpointRemoved(key) => format!("-{}", key.endpoint),
        Fact::MigrationWritten(name, _) => format!("+{name}"),
        Fact::MigrationRemoved(name) => format!("-{name}"),
        other => panic!("{other:?}"),
    };
    facts.iter().map(word).collect()
}

fn put(view: &mut View, (key, found): (Key, Stored)) -> Vec<String> {
    let mut news = News::default();
    view.put(&key, &found, &mut news);
    words(&news.facts)
}

fn replace<const N: usize>(view: &mut View, snapshot: [(Key, Stored); N], history: History) -> Vec<String> {
    words(&view.replace(BTreeMap::from(snapshot), history).facts)
}

#[test]
fn a_rewrite_is_told_and_an_event_that_comes_twice_is_not() {
    let mut view = View::default();
    assert_eq!(put(&mut view, endpoint(1, 1, 5)), ["+p1"]);
    assert!(put(&mut view, endpoint(1, 1, 5)).is_empty());
    assert!(put(&mut view, endpoint(1, 2, 4)).is_empty(), "older than what is known");
    assert_eq!(put(&mut view, endpoint(1, 1, 6)), ["+p1"], "an equal rewrite is evidence");
}

#[test]
fn a_removal_that_is_older_than_the_value_removes_nothing() {
    let mut view = View::default();
    put(&mut view, endpoint(1, 1, 5));
    let mut news = News::default();
    view.remove(&Key::Endpoint(key(1)), 5, &mut news);
    assert!(news.facts.is_empty());
    view.remove(&Key::Endpoint(key(1)), 6, &mut news);
    view.remove(&Key::Endpoint(key(1)), 7, &mut news);
    assert_eq!(words(&news.facts), ["-p1"]);
}

#[test]
fn a_snapshot_tells_the_difference_in_the_order_of_a_driver() {
    let mut view = View::default();
    let before = [migration("m1", "u", 1), endpoint(1, 1, 2), endpoint(2, 2, 3), endpoint(3, 3, 4)];
    assert_eq!(replace(&mut view, before, History::Continued), ["+m1", "+p1", "+p2", "+p3"]);
    let after = [migration("m2", "v", 9), endpoint(1, 1, 2), endpoint(3, 3, 8), endpoint(4, 4, 7)];
    assert_eq!(replace(&mut view, after.clone(), History::Continued), ["-m1", "+m2", "+p3", "+p4", "-p2"]);
    assert!(replace(&mut view, after, History::Continued).is_empty());
}

/// Revisions of a restored backup are lower than before, or by chance higher, without anybody having written anything.
#[test]
fn after_another_history_only_values_count() {
    let mut view = View::default();
    replace(&mut view, [endpoint(1, 1, 20), endpoint(2, 2, 21)], History::Continued);
    let restored = [endpoint(1, 1, 5), endpoint(2, 9, 40)];
    assert_eq!(replace(&mut view, restored, History::Replaced), ["+p2"]);
    assert_eq!(put(&mut view, endpoint(1, 1, 6)), ["+p1"], "from there on it is followed");
}

/// The identity and the last revision of a restored cluster may be as before; a value that got older gives it away.
#[test]
fn a_value_that_got_older_means_another_history() {
    let mut view = View::default();
    replace(&mut view, [endpoint(1, 1, 20), endpoint(2, 2, 21)], History::Continued);
    assert!(replace(&mut view, [endpoint(1, 1, 5), endpoint(2, 2, 40)], History::Continued).is_empty());
}

#[test]
fn quarantine_keeps_the_last_good_version_and_says_when_nothing_is_known() {
    let mut view = View::default();
    put(&mut view, endpoint(1, 1, 1));
    assert!(put(&mut view, poison(1, 2)).is_empty());
    assert!(view.is_complete() && view.quarantined() == 1);
    assert!(put(&mut view, poison(2, 3)).is_empty());
    assert!(!view.is_complete() && view.quarantined() == 2);
    assert_eq!(put(&mut view, endpoint(2, 2, 4)), ["+p2"]);
    assert_eq!(put(&mut view, endpoint(1, 1, 5)), ["+p1"]);
    assert!(view.is_complete() && view.quarantined() == 0);
    put(&mut view, poison(3, 6));
    let mut news = News::default();
    view.remove(&Key::Endpoint(key(3)), 7, &mut news);
    assert!(news.facts.is_empty(), "nothing of it was ever told");
    assert!(view.is_complete());
}

#[test]
fn the_first_events_say_that_it_is_in_sync() {
    let mut view = View::default();
    let news = view.replace(BTreeMap::from([endpoint(1, 1, 1)]), History::Continued);
    let events = view.events(news);
    assert!(matches!(&events[..], [Event::Configurations(none), Event::Facts(facts)]
        if none.is_empty() && facts.len() == 2 && facts[1] == Fact::InSync { complete: true }));
    assert!(view.events(News::default()).is_empty());
    let mut news = News::default();
    let (key, found) = poison(2, 2);
    view.put(&key, &found, &mut news);
    assert_eq!(view.events(news), [Event::Facts(vec![Fact::InSync { complete: false }])]);
}

#[test]
fn the_key_counts_when_the_value_says_something_else() {
    let key_of_one = key(1);
    let (key, mut found) = endpoint(1, 1, 1);
    found.value =
        String::from_utf8(found.value).unwrap().replace(r#""node": "h""#, r#""node": "other""#).into();
    let (resource, notices) = interpret(&key, &found.value).unwrap();
    assert!(matches!(resource, Resource::Endpoint(said, _) if said == key_of_one));
    assert!(notices.iter().any(|line| line.contains("the key counts")), "{notices:?}");
    let (_, migration) = migration("m", "u", 1);
    assert!(interpret(&key, &migration.value).is_err());
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, u8),
    Poison(u8),
    Remove(u8),
    /// Everything is read again.
    Read,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u8..4, 0u8..3).prop_map(|(number, address)| Step::Put(number, address)),
        1 => (0u8..4).prop_map(Step::Poison),
        2 => (0u8..4).prop_map(Step::Remove),
        1 => Just(Step::Read),
    ]
}

proptest! {
    /// Events that are heard or missed, and snapshots in between: what was told is the last good value of all that is there.
    #[test]
    fn what_was_told_leads_to_what_is_there(steps in proptest::collection::vec((step(), any::<bool>()), 0..40)) {
        let mut view = View::default();
        let mut told: BTreeMap<String, String> = BTreeMap::new();
        let mut there: BTreeMap<Key, Stored> = BTreeMap::new();
        let mut good: BTreeMap<String, String> = BTreeMap::new();
        let mut revision = 0;
        let steps = steps.into_iter().chain([(Step::Read, true)]);
        for (step, is_heard) in steps {
            revision += 1;
            let mut news = News::default();
            match step {
                Step::Put(..) | Step::Poison(_) => {
                    let (key, found) = match step {
                        Step::Put(number, address) => endpoint(number, address, revision),
                        Step::Poison(number) => poison(number, revision),
                        _ => unreachable!(),
                    };
                    there.insert(key.clone(), found.clone());
                    if is_heard {
                        view.put(&key, &found, &mut news);
                    }
                }
                Step::Remove(number) => {
                    let key = Key::Endpoint(key(number));
                    there.remove(&key);
                    if is_heard {
                        view.remove(&key, revision, &mut news);
                    }
                }
                Step::Read => news = view.replace(there.clone(), History::Continued),
            }
            for fact in news.facts {
                match fact {
                    Fact::EndpointWritten(key, endpoint) => {
                        told.insert(key.endpoint, endpoint.prefixes.iter().map(ToString::to_string).collect());
                    }
                    Fact::EndpointRemoved(key) => {
                        prop_assert!(told.remove(&key.endpoint).is_some(), "removed what was not there");
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        for (key, found) in &there {
            if let Ok((Resource::Endpoint(key, endpoint), _)) = interpret(key, &found.value) {
                good.insert(key.endpoint, endpoint.prefixes.iter().map(ToString::to_string).collect());
            }
        }
        for (endpoint, prefixes) in &good {
            prop_assert_eq!(told.get(endpoint), Some(prefixes));
        }
        // What is told beyond that is a last good version of something that is there.
        for endpoint in told.keys() {
            prop_assert!(there.keys().any(|key| matches!(key, Key::Endpoint(key) if key.endpoint == *endpoint)));
        }
    }
}

/// Who acts on what was told has acted on all of it by then.
#[test]
fn up_to_where_migrations_are_told_comes_last() {
    let mut view = View::default();
    let mut news =
        view.replace(BTreeMap::from([migration("m", "u1", 5), endpoint(1, 1, 6)]), History::Continued);
    news.migrations_at = Some(9);
    let events = view.events(news);
    assert!(
        matches!(&events[..], [Event::Configurations(_), Event::Facts(_), Event::MigrationsTold(9)]),
        "{events:?}"
    );
    let mut news = News { migrations_at: Some(10), ..News::default() };
    view.put(&Key::Migration("m".into()), &migration("m", "u2", 10).1, &mut news);
    let events = view.events(news);
    assert!(matches!(&events[..], [Event::Facts(_), Event::MigrationsTold(10)]), "{events:?}");
    // One that cannot be read has been seen, too.
    let mut news = News { migrations_at: Some(11), ..News::default() };
    view.put(&Key::Migration("m".into()), &Stored { value: b"{".to_vec(), mod_revision: 11 }, &mut news);
    let events = view.events(news);
    assert!(matches!(&events[..], [Event::MigrationsTold(11)]), "{events:?}");
}

/// An agent that starts writes one status where two things ask for one, its last migration and the removal of another host's status
/// while it was away: they are told in one batch, the removal when the datastore is in sync.
#[test]
fn what_became_of_other_statuses_comes_with_the_snapshot_after_it_is_in_sync() {
    let mut view = View::default();
    let mut news = view.replace(BTreeMap::from([endpoint(1, 1, 6)]), History::Continued);
    let other = EndpointKey { host: "elsewhere".into(), ..key(1) };
    news.statuses.push(Fact::StatusRemovedElsewhere(other.clone()));
    let events = view.events(news);
    let [Event::Configurations(_), Event::Facts(facts)] = &events[..] else { panic!("{events:?}") };
    assert!(
        matches!(
            &facts[..],
            [Fact::EndpointWritten(..), Fact::InSync { .. }, Fact::StatusRemovedElsewhere(key)] if *key == other
        ),
        "{facts:?}"
    );
}
