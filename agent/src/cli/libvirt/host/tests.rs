//! On the directory datastore, which two hosts share where it says so.

use super::*;
use serde_json::json;
use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;

const UUID: &str = "0f4ac1d2-2b0e-4f69-9a3e-3f0c3d7f0a01";
const OTHER: &str = "0f4ac1d2-2b0e-4f69-9a3e-3f0c3d7f0a02";
const ATTEMPT: &str = "6b2c1f0e-5a3d-4c7b-8e9f-0a1b2c3d4e5f";

struct Site {
    folder: TempDir,
}

impl Site {
    fn new() -> Self {
        let site = Self { folder: tempfile::tempdir().unwrap() };
        fs::create_dir(site.resources()).unwrap();
        site
    }

    fn resources(&self) -> PathBuf {
        self.folder.path().join("resources")
    }

    fn host(&self, name: &str) -> Host {
        let store = store::open_directory(self.resources(), self.folder.path().join("status"));
        Host { name: name.to_owned(), store }
    }

    /// Hosts with an endpoint of a machine, each with the port.
    fn endpoints(&self, uuid: &str) -> Vec<(String, String)> {
        let picture = self.host("anybody").store.look_for_machine(&format!("openstack/{uuid}")).unwrap();
        let mut found: Vec<_> =
            picture.endpoints.into_iter().map(|(key, _)| (key.host, key.endpoint)).collect();
        found.sort();
        found
    }

    fn migrations(&self, uuid: &str) -> Vec<StoredMigration> {
        self.host("anybody").store.look_for_machine(&format!("openstack/{uuid}")).unwrap().migrations
    }

    fn migrations_are(&self, uuid: &str, targets: &[&str]) {
        let names: Vec<String> = self.migrations(uuid).into_iter().map(|found| found.name).collect();
        let is_one = |target: &&str| names.iter().any(|name| name.starts_with(&format!("{target}-")));
        assert!(names.len() == targets.len() && targets.iter().all(is_one), "{names:?}");
    }

    fn remove(&self, kind: &str) {
        for entry in fs::read_dir(self.resources()).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().unwrap().to_str().unwrap().starts_with(kind) {
                fs::remove_file(path).unwrap();
            }
        }
    }
}

fn port(id: &str, address: &str) -> Port {
    Port {
        id: id.to_owned(),
        mac: "52:54:00:00:00:01".parse().unwrap(),
        tap: Some("tap1".to_owned()),
        addresses: [address.parse().unwrap()].into(),
    }
}

fn domain(uuid: &str, ports: Vec<Port>) -> Domain {
    Domain { uuid: uuid.to_owned(), ports, problems: Vec::new() }
}

fn usual() -> Domain {
    domain(UUID, vec![port("p1", "10.65.0.2/32")])
}

fn comes() -> Told {
    Told::Comes(ATTEMPT.to_owned())
}

#[track_caller]
fn start(host: &mut Host, domain: &Domain, told: &Told) {
    for port in &domain.ports {
        host.start(domain, port, told, false).unwrap();
    }
}

fn on<const N: usize>(places: [(&str, &str); N]) -> Vec<(String, String)> {
    places.map(|(host, port)| (host.to_owned(), port.to_owned())).into()
}

#[test]
fn one_that_boots_has_no_migration_and_one_that_may_come_has() {
    for (told, is_elsewhere, has_migration) in [
        (Told::Boots, false, false),
        (Told::Boots, true, true),
        (Told::Nothing, false, true),
        (comes(), false, true),
    ] {
        let site = Site::new();
        if is_elsewhere {
            start(&mut site.host("compute1"), &usual(), &Told::Boots);
        }
        start(&mut site.host("compute2"), &usual(), &told);
        let found = site.migrations(UUID);
        assert_eq!(found.len(), usize::from(has_migration), "{told:?} {is_elsewhere}");
        if has_migration {
            assert_eq!(found[0].migration.source.is_some(), is_elsewhere, "{told:?}");
        }
        assert!(site.endpoints(UUID).contains(&("compute2".to_owned(), "p1".to_owned())));
    }
}

#[test]
fn one_that_boots_does_not_wait_for_the_end_of_a_migration_that_was_left() {
    let site = Site::new();
    let mut host = site.host("compute2");
    start(&mut host, &usual(), &comes());
    start(&mut host, &usual(), &Told::Boots);
    site.migrations_are(UUID, &[]);
    assert_eq!(site.endpoints(UUID), on([("compute2", "p1")]));
}

#[test]
fn the_same_attempt_writes_what_is_missing_and_nothing_anew() {
    let site = Site::new();
    let mut host = site.host("compute2");
    let (domain, told) = (usual(), comes());
    start(&mut host, &domain, &told);
    let key = host.key(&domain, &domain.ports[0]).unwrap();
    let (uid, endpoint) =
        (site.migrations(UUID)[0].migration.uid.clone(), host.store.endpoint(&key).unwrap());
    host.start(&domain, &domain.ports[0], &told, true).unwrap();
    assert_eq!(host.store.endpoint(&key).unwrap(), endpoint);
    // It was broken off between the two, or the answer was lost.
    site.remove("workloadendpoint");
    host.start(&domain, &domain.ports[0], &told, true).unwrap();
    assert_eq!(site.endpoints(UUID), on([("compute2", "p1")]));
    assert_eq!(site.migrations(UUID)[0].migration.uid, uid);
    // Of one that nobody has announced what was begun is gone on with, after its start.
    host.start(&domain, &domain.ports[0], &Told::Boots, true).unwrap();
    assert_eq!(site.migrations(UUID)[0].migration.uid, uid);
    // Another attempt is another migration.
    start(&mut host, &domain, &Told::Comes(ATTEMPT.replace('6', "7")));
    site.migrations_are(UUID, &["compute2"]);
    assert_ne!(site.migrations(UUID)[0].migration.uid, uid);
}

#[test]
fn a_migration_that_was_written_without_an_answer_is_written() {
    let site = Site::new();
    let mut host = site.host("compute2");
    let domain = usual();
    let own = host.key(&domain, &domain.ports[0]).unwrap();
    let document = |uid: &str| migration_document(None, &own, uid);
    host.create_migration(&own, &document("first"), "first").unwrap();
    // The datastore says that it exists.
    host.create_migration(&own, &document("first"), "first").unwrap();
    let refused = host.create_migration(&own, &document("second"), "second");
    assert!(refused.unwrap_err().to_string().contains("exists already"));
}

#[test]
fn ports_of_one_attempt_have_uids_of_their_own() {
    let mac = |text: &str| text.parse().unwrap();
    let uid = uid_of(ATTEMPT, mac("52:54:00:00:00:01"));
    assert_eq!(uid, "6b2c1f0e-5a3d-4c7b-8e9f-525400000001");
    assert_ne!(uid, uid_of(ATTEMPT, mac("52:54:00:00:00:02")));
}

#[test]
fn a_migration_of_another_machine_whose_port_has_the_same_id_is_left_alone() {
    let site = Site::new();
    let mut host = site.host("compute2");
    start(&mut host, &domain(OTHER, vec![port("p1", "10.65.0.3/32")]), &comes());
    start(&mut host, &usual(), &comes());
    site.migrations_are(OTHER, &["compute2"]);
    site.migrations_are(UUID, &["compute2"]);
    host.release(UUID).unwrap();
    site.migrations_are(OTHER, &["compute2"]);
    assert_eq!(site.endpoints(OTHER), on([("compute2", "p1")]));
}

#[test]
fn the_source_does_not_write_again_what_was_removed_because_the_machine_has_gone() {
    let site = Site::new();
    let (mut source, domain) = (site.host("compute1"), usual());
    let plug = |host: &mut Host, told: &Told| host.plug(&domain, &domain.ports[0], told);
    plug(&mut source, &Told::Boots).unwrap();
    assert_eq!(site.endpoints(UUID), on([("compute1", "p1")]));
    plug(&mut source, &Told::Boots).unwrap();
    start(&mut site.host("compute2"), &domain, &comes());
    // Its own is still there.
    plug(&mut source, &Told::Boots).unwrap();
    site.host("compute2").complete(&[UUID.to_owned()].into(), &mut Vec::new()).unwrap();
    let text = plug(&mut source, &Told::Boots).unwrap_err().to_string();
    assert!(text.starts_with("port p1: host compute2 has an endpoint of it"), "{text}");
    assert!(text.contains("resources/workloadendpoint-compute2-"), "what to remove: {text}");
    assert_eq!(site.endpoints(UUID), on([("compute2", "p1")]));
    // One that was announced here is coming back.
    plug(&mut source, &comes()).unwrap();
    site.migrations_are(UUID, &["compute1"]);
}

#[test]
fn everything_of_a_machine_that_is_gone_goes_whatever_its_metadata_say() {
    let site = Site::new();
    let mut host = site.host("compute2");
    let ports = vec![port("p1", "10.65.0.2/32"), port("p2", "10.65.0.4/32")];
    start(&mut host, &domain(UUID, ports.clone()), &Told::Boots);
    start(&mut host, &domain(OTHER, vec![port("p3", "10.65.0.3/32")]), &Told::Boots);
    start(&mut site.host("compute1"), &domain(UUID, ports), &comes());
    site.migrations_are(UUID, &["compute1", "compute1"]);
    host.release(UUID).unwrap();
    site.migrations_are(UUID, &[]);
    assert_eq!(site.endpoints(UUID), on([("compute1", "p1"), ("compute1", "p2")]));
    assert_eq!(site.endpoints(OTHER), on([("compute2", "p3")]));
    host.release(UUID).unwrap();
}

#[test]
fn a_migration_goes_also_where_the_endpoint_was_never_written() {
    let site = Site::new();
    let mut host = site.host("compute2");
    start(&mut host, &usual(), &comes());
    site.remove("workloadendpoint");
    host.release(UUID).unwrap();
    site.migrations_are(UUID, &[]);
}

#[test]
fn a_port_with_another_id_leaves_no_second_endpoint() {
    let site = Site::new();
    let mut host = site.host("compute2");
    start(&mut host, &usual(), &Told::Boots);
    start(&mut site.host("compute1"), &domain(UUID, vec![port("old", "10.65.0.9/32")]), &Told::Boots);
    let renamed = domain(UUID, vec![port("web", "10.65.0.2/32")]);
    host.plug(&renamed, &renamed.ports[0], &Told::Boots).unwrap();
    host.prune(&renamed).unwrap();
    assert_eq!(site.endpoints(UUID), on([("compute1", "old"), ("compute2", "web")]), "another host's stay");
}

#[test]
fn what_the_agent_would_leave_out_is_refused_and_nothing_is_written() {
    let site = Site::new();
    let mut host = site.host("compute2");
    let addresses =
        ["127.0.0.1/32", "224.0.0.5/32", "0.0.0.0/32", "0.0.0.0/0", "255.255.255.255/32", "ff02::1/128"];
    for address in addresses {
        let mut both = port("p1", "10.65.0.2/32");
        both.addresses.insert(address.parse().unwrap());
        for ports in [vec![port("p1", address)], vec![both]] {
            let domain = domain(UUID, ports);
            let failure = host.start(&domain, &domain.ports[0], &comes(), false).unwrap_err();
            let text = failure.to_string();
            assert!(text.starts_with("port p1: ") && text.contains(address), "{text}");
            assert!(text.ends_with("correct the domain's metadata"), "{text}");
        }
    }
    let long = Port { tap: Some("a-name-that-is-too-long".to_owned()), ..port("p1", "10.65.0.2/32") };
    let long = domain(UUID, vec![long]);
    assert!(host.plug(&long, &long.ports[0], &Told::Boots).is_err());
    assert_eq!(fs::read_dir(site.resources()).unwrap().count(), 0);
}

#[test]
fn a_machine_that_runs_here_runs_nowhere_else_and_one_that_does_not_goes_on() {
    let site = Site::new();
    let (mut source, mut target) = (site.host("compute1"), site.host("compute2"));
    let waiting = domain(OTHER, vec![port("p2", "10.65.0.3/32")]);
    for domain in [&usual(), &waiting] {
        start(&mut source, domain, &Told::Boots);
        start(&mut target, domain, &comes());
    }
    let mut done = Vec::new();
    target.complete(&[UUID.to_owned()].into(), &mut done).unwrap();
    assert_eq!(done, ["p1"]);
    site.migrations_are(UUID, &[]);
    assert_eq!(site.endpoints(UUID), on([("compute2", "p1")]));
    site.migrations_are(OTHER, &["compute2"]);
    assert_eq!(site.endpoints(OTHER), on([("compute1", "p2"), ("compute2", "p2")]));
    // The source's own service does not end a migration to somewhere else.
    source.complete(&[OTHER.to_owned()].into(), &mut done).unwrap();
    site.migrations_are(OTHER, &["compute2"]);
}

#[test]
fn a_migration_that_cannot_be_removed_keeps_no_other_and_is_found_again() {
    let site = Site::new();
    let (mut source, mut target) = (site.host("compute1"), site.host("compute2"));
    let second = domain(OTHER, vec![port("p2", "10.65.0.3/32")]);
    for domain in [&usual(), &second] {
        start(&mut source, domain, &Told::Boots);
        start(&mut target, domain, &comes());
    }
    // Somebody has put the one into a list, which is read first.
    let own = target.key(&usual(), &usual().ports[0]).unwrap();
    let found = site.migrations(UUID).remove(0);
    fs::remove_file(&found.place).unwrap();
    let item = migration_document(None, &own, &found.migration.uid);
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": [item] });
    fs::write(site.resources().join("a-list.json"), list.to_string()).unwrap();

    let (running, mut done) = ([UUID.to_owned(), OTHER.to_owned()].into(), Vec::new());
    let text = target.complete(&running, &mut done).unwrap_err().to_string();
    assert!(text.starts_with("port p1: ") && text.contains("is an item of a list"), "{text}");
    assert_eq!(done, ["p2"]);
    site.migrations_are(OTHER, &[]);
    assert_eq!(site.endpoints(UUID), on([("compute2", "p1")]), "what could be done is done");

    // What is left, or has come back, is found by the next attempt, because the migration is there.
    let elsewhere = source.key(&usual(), &usual().ports[0]).unwrap();
    source.put(&elsewhere, &document(&usual().ports[0], &elsewhere).unwrap()).unwrap();
    assert!(target.complete(&running, &mut done).is_err());
    assert_eq!(site.endpoints(UUID), on([("compute2", "p1")]));
}

#[test]
fn a_migration_of_a_machine_that_is_not_here_is_a_stray_until_it_is_given_up() {
    let site = Site::new();
    let (mut source, mut target) = (site.host("compute1"), site.host("compute2"));
    start(&mut source, &usual(), &Told::Boots);
    start(&mut target, &usual(), &comes());
    assert_eq!(target.strays(&[UUID.to_owned()].into()).unwrap(), BTreeSet::new(), "it is here");
    assert_eq!(source.strays(&BTreeSet::new()).unwrap(), BTreeSet::new(), "it goes elsewhere");
    let strays = target.strays(&BTreeSet::new()).unwrap();
    assert_eq!(strays.len(), 1);
    // The next attempt is none that was seen.
    start(&mut target, &usual(), &Told::Comes(ATTEMPT.replace('6', "7")));
    target.abandon(&strays).unwrap();
    site.migrations_are(UUID, &["compute2"]);
    let strays = target.strays(&BTreeSet::new()).unwrap();
    target.abandon(&strays).unwrap();
    site.migrations_are(UUID, &[]);
    assert_eq!(site.endpoints(UUID), on([("compute1", "p1")]));
}
