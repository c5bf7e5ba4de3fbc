//! Real files, real notifications.

use super::*;
use cutover_engine::Fact;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

/// LIMIT: far above anything that works; a test that waits this long has failed.
const DEADLINE: Duration = Duration::from_secs(20);

struct Setup {
    directory: TempDir,
    datastore: Directory,
    /// Facts that were received and not yet taken.
    waiting: Vec<Fact>,
    configurations: Vec<Vec<String>>,
}

fn endpoint(name: &str, address: &str) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: WorkloadEndpoint\nmetadata: {{namespace: openstack}}\n\
         spec: {{orchestrator: openstack, workload: vm1, node: host1, endpoint: {name}, interfaceName: tap{name}, ipNetworks: [{address}]}}\n"
    )
}

fn migration(name: &str) -> String {
    format!("apiVersion: projectcalico.org/v3\nkind: LiveMigration\nmetadata: {{name: {name}, uid: u1}}\n")
}

fn configuration(name: &str, normal: u32) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {{name: {name}}}\nspec: {{ipv4NormalRoutePriority: {normal}}}\n"
    )
}

/// `+p1 10.0.0.1/32` for a written endpoint, `-p1`, `+m m1`, `-m m1`, `sync true`.
fn short(fact: &Fact) -> String {
    match fact {
        Fact::EndpointWritten(key, endpoint) => {
            let prefixes: Vec<_> = endpoint.prefixes.iter().map(ToString::to_string).collect();
            format!("+{} {}", key.endpoint, prefixes.join(" "))
        }
        Fact::EndpointRemoved(key) => format!("-{}", key.endpoint),
        Fact::MigrationWritten(name, _) => format!("+m {name}"),
        Fact::MigrationRemoved(name) => format!("-m {name}"),
        Fact::InSync { complete } => format!("sync {complete}"),
        other => panic!("{other:?}"),
    }
}

impl Setup {
    fn new(files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            write(&directory.path().join(name), text);
        }
        let datastore = Directory::start(directory.path().to_owned()).unwrap();
        Self { directory, datastore, waiting: Vec::new(), configurations: Vec::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    async fn receive(&mut self) {
        match tokio::time::timeout(DEADLINE, self.datastore.next()).await {
            Ok(Some(Event::Facts(facts))) => self.waiting.extend(facts),
            Ok(Some(Event::Configurations(all))) => {
                self.configurations
                    .push(all.into_iter().map(|c| format!("{} {:?}", c.name, c.spec)).collect());
            }
            other => panic!("{other:?} after {:?}", self.waiting),
        }
    }

    /// The next facts, as many as expected, in their order.
    async fn expect(&mut self, expected: &[&str]) {
        while self.waiting.len() < expected.len() {
            self.receive().await;
        }
        let facts: Vec<_> = self.waiting.drain(..expected.len()).map(|fact| short(&fact)).collect();
        assert_eq!(facts, expected);
    }

    /// The same where it is not known in how many steps files were seen.
    async fn expect_all(&mut self, expected: &[&str]) {
        let mut missing: BTreeSet<String> = expected.iter().map(|fact| (*fact).to_owned()).collect();
        while !missing.is_empty() {
            if self.waiting.is_empty() {
                self.receive().await;
            }
            for fact in std::mem::take(&mut self.waiting) {
                assert!(missing.remove(&short(&fact)), "unexpected {}", short(&fact));
            }
        }
    }

    /// Nothing was sent before this: writes an endpoint of its own and expects it to be the next fact.
    async fn expect_silence(&mut self) {
        let path = self.path("silence.yaml");
        write(&path, &endpoint("silence", "192.0.2.1"));
        self.expect(&["+silence 192.0.2.1/32"]).await;
        fs::remove_file(path).unwrap();
        self.expect(&["-silence"]).await;
    }
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// As careful programs do it.
fn replace(path: &Path, text: &str) {
    let hidden = path.with_file_name(".new");
    fs::write(&hidden, text).unwrap();
    fs::rename(hidden, path).unwrap();
}

/// Whatever their names are: one that is written after another has gone says how a migration ended (W34).
#[tokio::test]
async fn what_happens_in_one_moment_comes_in_the_order_in_which_it_happened() {
    let [first, second] = [endpoint("p1", "10.0.0.1"), endpoint("p2", "10.0.0.2")];
    let mut setup = Setup::new(&[("1.yaml", &first), ("2.yaml", &second)]);
    setup.expect_all(&["+p1 10.0.0.1/32", "+p2 10.0.0.2/32", "sync true"]).await;
    fs::remove_file(setup.path("2.yaml")).unwrap();
    replace(&setup.path("1.yaml"), &first);
    setup.expect(&["-p2", "+p1 10.0.0.1/32"]).await;
    replace(&setup.path("2.yaml"), &second);
    setup.expect(&["+p2 10.0.0.2/32"]).await;
    replace(&setup.path("2.yaml"), &second);
    fs::remove_file(setup.path("1.yaml")).unwrap();
    setup.expect(&["+p2 10.0.0.2/32", "-p1"]).await;
}

#[tokio::test]
async fn everything_that_is_there_comes_in_one_batch() {
    let both = format!("{}---\n{}", endpoint("p1", "10.0.0.1"), migration("m1"));
    let json = r#"{"apiVersion": "projectcalico.org/v3", "kind": "LiveMigration", "metadata": {"name": "m2", "uid": "u2"}}"#;
    let mut setup = Setup::new(&[
        ("both.yaml", &both),
        ("sub/deeper/p2.yml", &endpoint("p2", "10.0.0.2")),
        ("m2.json", json),
        ("default.yaml", &configuration("default", 2000)),
        (".hidden.yaml", "kind: ["),
        (".hidden/p3.yaml", "kind: ["),
        ("notes.txt", "kind: ["),
        ("yaml", "kind: ["),
        ("policy.yaml", "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\n"),
        ("empty.yaml", ""),
        ("comment.yaml", "# nothing yet\n"),
    ]);
    setup.receive().await;
    assert_eq!(setup.configurations.len(), 1);
    assert!(setup.configurations[0][0].starts_with("default "), "{:?}", setup.configurations);
    setup.receive().await;
    assert_eq!(setup.waiting.len(), 5);
    setup.expect(&["+m m1", "+m m2", "+p1 10.0.0.1/32", "+p2 10.0.0.2/32", "sync true"]).await;
}

#[tokio::test]
async fn a_list_of_resources_is_as_good_as_a_file_for_each() {
    let list = |kind: &str, resources: &[String]| {
        let items =
            resources.iter().map(|resource| format!("- {}\n", resource.trim_end().replace('\n', "\n  ")));
        format!("apiVersion: projectcalico.org/v3\nkind: {kind}\nitems:\n{}", items.collect::<String>())
    };
    let endpoints = [endpoint("p1", "10.0.0.1"), endpoint("p2", "10.0.0.2")];
    let mixed = [migration("m1"), configuration("default", 7)];
    let mut setup = Setup::new(&[
        ("a.yaml", &list("WorkloadEndpointList", &endpoints)),
        ("b.yaml", &list("List", &mixed).replacen("projectcalico.org/v3", "v1", 1)),
    ]);
    setup.expect(&["+m m1", "+p1 10.0.0.1/32", "+p2 10.0.0.2/32", "sync true"]).await;
    assert_eq!(setup.configurations.len(), 1);
    assert_eq!(setup.configurations[0].len(), 1, "{:?}", setup.configurations);
    replace(&setup.path("a.yaml"), &list("WorkloadEndpointList", &endpoints[..1]));
    setup.expect(&["-p2", "+p1 10.0.0.1/32"]).await;
    write(&setup.path("a.yaml"), "kind: WorkloadEndpointList\n");
    setup.expect_silence().await;
    assert_eq!(setup.datastore.quarantine().list().len(), 1);
}

#[tokio::test]
async fn an_empty_directory_is_in_sync() {
    let mut setup = Setup::new(&[]);
    setup.expect(&["sync true"]).await;
    assert_eq!(setup.configurations, [Vec::<String>::new()]);
}

#[tokio::test]
async fn files_come_change_move_and_go() {
    let mut setup = Setup::new(&[]);
    setup.expect(&["sync true"]).await;
    let path = setup.path("p1.yaml");
    write(&path, &endpoint("p1", "10.0.0.1"));
    setup.expect(&["+p1 10.0.0.1/32"]).await;
    replace(&path, &endpoint("p1", "10.0.0.2"));
    setup.expect(&["+p1 10.0.0.2/32"]).await;
    // W34: the same content again is evidence, in place or by renaming.
    replace(&path, &endpoint("p1", "10.0.0.2"));
    setup.expect(&["+p1 10.0.0.2/32"]).await;
    write(&path, &endpoint("p1", "10.0.0.2"));
    setup.expect(&["+p1 10.0.0.2/32"]).await;
    // Another name for the same resource is no removal.
    fs::rename(&path, setup.path("renamed.yaml")).unwrap();
    setup.expect(&["+p1 10.0.0.2/32"]).await;
    // Another resource in the same file is one.
    replace(&setup.path("renamed.yaml"), &endpoint("p2", "10.0.0.3"));
    setup.expect(&["-p1", "+p2 10.0.0.3/32"]).await;
    fs::remove_file(setup.path("renamed.yaml")).unwrap();
    setup.expect(&["-p2"]).await;
}

#[tokio::test]
async fn what_only_looks_like_a_write_is_none() {
    let mut setup = Setup::new(&[("p1.yaml", &endpoint("p1", "10.0.0.1"))]);
    setup.expect(&["+p1 10.0.0.1/32", "sync true"]).await;
    let path = setup.path("p1.yaml");
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    fs::read(&path).unwrap();
    fs::hard_link(&path, setup.path(".link")).unwrap();
    fs::create_dir(setup.path("new-directory")).unwrap();
    setup.expect_silence().await;
}

#[tokio::test]
async fn a_batch_has_the_order_of_a_driver() {
    let start =
        format!("{}---\n{}---\n{}", migration("m1"), endpoint("p1", "10.0.0.1"), endpoint("p2", "10.0.0.2"));
    let mut setup = Setup::new(&[("all.yaml", &start)]);
    setup.expect(&["+m m1", "+p1 10.0.0.1/32", "+p2 10.0.0.2/32", "sync true"]).await;
    let end = format!("{}---\n{}", endpoint("p2", "10.0.0.2"), migration("m2"));
    replace(&setup.path("all.yaml"), &end);
    setup.expect(&["-m m1", "+m m2", "-p1", "+p2 10.0.0.2/32"]).await;
}

#[tokio::test]
async fn a_damaged_file_keeps_its_last_good_version() {
    let good = format!("{}---\n{}", endpoint("p1", "10.0.0.1"), endpoint("p2", "10.0.0.2"));
    let mut setup = Setup::new(&[("all.yaml", &good)]);
    setup.expect(&["+p1 10.0.0.1/32", "+p2 10.0.0.2/32", "sync true"]).await;
    let path = setup.path("all.yaml");
    let half = &good[..good.len() - 12];
    for damaged in
        [half, "", "kind: [", "apiVersion: projectcalico.org/v3\nkind: WorkloadEndpoint\n", "\u{0}\u{1}"]
    {
        write(&path, damaged);
        // Nothing else stops: other files are still read, and nothing is said about the damaged one.
        setup.expect_silence().await;
    }
    let mended = endpoint("p1", "10.0.0.9");
    replace(&path, &mended);
    setup.expect(&["-p2", "+p1 10.0.0.9/32"]).await;
}

#[tokio::test]
async fn a_file_that_never_was_good_makes_the_sync_incomplete() {
    let mut setup = Setup::new(&[("bad.yaml", "kind: ["), ("p1.yaml", &endpoint("p1", "10.0.0.1"))]);
    setup.expect(&["+p1 10.0.0.1/32", "sync false"]).await;
    replace(&setup.path("bad.yaml"), &endpoint("p2", "10.0.0.2"));
    setup.expect(&["+p2 10.0.0.2/32", "sync true"]).await;
    write(&setup.path("worse.yaml"), "- ");
    setup.expect(&["sync false"]).await;
    fs::remove_file(setup.path("worse.yaml")).unwrap();
    setup.expect(&["sync true"]).await;
}

#[tokio::test]
async fn strange_files_are_refused_and_do_not_block() {
    let directory = tempfile::tempdir().unwrap();
    let fifo = directory.path().join("fifo.yaml");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    write(&directory.path().join("latin.yaml"), "");
    fs::write(directory.path().join("latin.yaml"), b"# ok\n\xe9\n").unwrap();
    let huge = fs::File::create(directory.path().join("huge.yaml")).unwrap();
    huge.set_len(17 * 1024 * 1024).unwrap();
    let datastore = Directory::start(directory.path().to_owned()).unwrap();
    let mut setup = Setup { directory, datastore, waiting: Vec::new(), configurations: Vec::new() };
    setup.expect(&["sync false"]).await;
    for name in ["fifo.yaml", "latin.yaml", "huge.yaml"] {
        fs::remove_file(setup.path(name)).unwrap();
    }
    setup.expect(&["sync true"]).await;
}

#[tokio::test]
async fn the_first_of_two_definitions_counts() {
    let mut setup =
        Setup::new(&[("a.yaml", &endpoint("p1", "10.0.0.1")), ("b.yaml", &endpoint("p1", "10.0.0.2"))]);
    setup.expect(&["+p1 10.0.0.1/32", "sync true"]).await;
    // A write of the one that does not count says nothing.
    replace(&setup.path("b.yaml"), &endpoint("p1", "10.0.0.3"));
    setup.expect_silence().await;
    fs::remove_file(setup.path("a.yaml")).unwrap();
    setup.expect(&["+p1 10.0.0.3/32"]).await;
    write(&setup.path("a.yaml"), &endpoint("p1", "10.0.0.4"));
    setup.expect(&["+p1 10.0.0.4/32"]).await;
    let twice = format!("{}---\n{}", endpoint("p1", "10.0.0.5"), endpoint("p1", "10.0.0.6"));
    replace(&setup.path("a.yaml"), &twice);
    setup.expect(&["+p1 10.0.0.5/32"]).await;
    fs::remove_file(setup.path("b.yaml")).unwrap();
    setup.expect_silence().await;
}

#[tokio::test]
async fn directories_come_move_and_go() {
    let mut setup = Setup::new(&[]);
    setup.expect(&["sync true"]).await;
    write(&setup.path("a/b/p1.yaml"), &endpoint("p1", "10.0.0.1"));
    setup.expect(&["+p1 10.0.0.1/32"]).await;
    // The new directories are watched, too.
    replace(&setup.path("a/b/p1.yaml"), &endpoint("p1", "10.0.0.2"));
    setup.expect(&["+p1 10.0.0.2/32"]).await;
    let outside = tempfile::tempdir().unwrap();
    fs::rename(setup.path("a/b"), outside.path().join("b")).unwrap();
    setup.expect(&["-p1"]).await;
    // The directory that was moved away is not watched any more.
    replace(&outside.path().join("b/p1.yaml"), &endpoint("p1", "10.0.0.3"));
    setup.expect_silence().await;
    fs::rename(outside.path().join("b"), setup.path("b")).unwrap();
    setup.expect(&["+p1 10.0.0.3/32"]).await;
    fs::remove_dir_all(setup.path("b")).unwrap();
    setup.expect(&["-p1"]).await;
}

#[tokio::test]
async fn the_root_may_be_missing_at_first_and_go_later() {
    let outer = tempfile::tempdir().unwrap();
    let root = outer.path().join("resources");
    let datastore = Directory::start(root.clone()).unwrap();
    let mut setup = Setup { directory: outer, datastore, waiting: Vec::new(), configurations: Vec::new() };
    // ORDER: filled under another name, so that it appears with its content.
    write(&setup.path("prepared/p1.yaml"), &endpoint("p1", "10.0.0.1"));
    fs::rename(setup.path("prepared"), &root).unwrap();
    setup.expect(&["+p1 10.0.0.1/32", "sync true"]).await;
    // A root that goes says nothing about its files; everything stays in force.
    fs::rename(&root, setup.path("away")).unwrap();
    setup.expect(&["sync false"]).await;
    write(&setup.path("new/p2.yaml"), &endpoint("p2", "10.0.0.2"));
    fs::rename(setup.path("new"), &root).unwrap();
    // ORDER: nobody knows what came first, and a write after a removal would be evidence (W34).
    setup.expect(&["+p2 10.0.0.2/32", "-p1", "sync true"]).await;
    // Removed with its files, which is a removal of each, and created again.
    fs::remove_dir_all(&root).unwrap();
    setup.expect_all(&["-p2", "sync false"]).await;
    write(&root.join("p3.yaml"), &endpoint("p3", "10.0.0.3"));
    setup.expect_all(&["+p3 10.0.0.3/32", "sync true"]).await;
}

#[tokio::test]
async fn links_to_files_are_followed_and_links_to_directories_are_not() {
    let outside = tempfile::tempdir().unwrap();
    write(&outside.path().join("p1.txt"), &endpoint("p1", "10.0.0.1"));
    write(&outside.path().join("more/p9.yaml"), &endpoint("p9", "10.0.0.9"));
    let mut setup = Setup::new(&[]);
    setup.expect(&["sync true"]).await;
    std::os::unix::fs::symlink(outside.path().join("more"), setup.path("more")).unwrap();
    std::os::unix::fs::symlink(setup.directory.path(), setup.path("loop")).unwrap();
    std::os::unix::fs::symlink(outside.path().join("nowhere"), setup.path("broken.yaml")).unwrap();
    std::os::unix::fs::symlink(outside.path().join("p1.txt"), setup.path("p1.yaml")).unwrap();
    setup.expect(&["+p1 10.0.0.1/32"]).await;
    fs::remove_file(setup.path("p1.yaml")).unwrap();
    setup.expect(&["-p1"]).await;
}

/// The way in which a mounted ConfigMap changes.
#[tokio::test]
async fn a_swapped_link_changes_all_files_behind_it() {
    let mut setup = Setup::new(&[("..1/p1.yaml", &endpoint("p1", "10.0.0.1"))]);
    setup.expect(&["sync true"]).await;
    std::os::unix::fs::symlink("..1", setup.path("..data")).unwrap();
    std::os::unix::fs::symlink("..data/p1.yaml", setup.path("p1.yaml")).unwrap();
    setup.expect(&["+p1 10.0.0.1/32"]).await;
    write(&setup.path("..2/p1.yaml"), &endpoint("p1", "10.0.0.2"));
    std::os::unix::fs::symlink("..2", setup.path("..data_tmp")).unwrap();
    fs::rename(setup.path("..data_tmp"), setup.path("..data")).unwrap();
    setup.expect(&["+p1 10.0.0.2/32"]).await;
}

#[tokio::test]
async fn configurations_are_sent_as_a_set_when_one_changes() {
    let mut setup = Setup::new(&[("default.yaml", &configuration("default", 2000))]);
    setup.expect(&["sync true"]).await;
    write(&setup.path("own.yaml"), &configuration("node.host1", 3000));
    setup.receive().await;
    // The same again is no change.
    replace(&setup.path("own.yaml"), &configuration("node.host1", 3000));
    setup.expect_silence().await;
    fs::remove_file(setup.path("default.yaml")).unwrap();
    setup.receive().await;
    let names: Vec<Vec<&str>> = setup
        .configurations
        .iter()
        .map(|set| set.iter().map(|text| text.split(' ').next().unwrap()).collect())
        .collect();
    assert_eq!(names, [vec!["default"], vec!["default", "node.host1"], vec!["node.host1"]]);
}

#[tokio::test]
async fn many_files_are_all_seen_however_fast_they_come() {
    const COUNT: usize = 2000;
    let mut setup = Setup::new(&[]);
    setup.expect(&["sync true"]).await;
    for index in 0..COUNT {
        write(
            &setup.path(&format!("{}/p{index}.yaml", index % 7)),
            &endpoint(&format!("p{index}"), "10.0.0.1"),
        );
    }
    let mut seen = BTreeSet::new();
    while seen.len() < COUNT {
        setup.receive().await;
        seen.extend(setup.waiting.drain(..).map(|fact| short(&fact)));
    }
    fs::remove_dir_all(setup.path("3")).unwrap();
    let gone = (0..COUNT).filter(|index| index % 7 == 3).count();
    let mut removed = BTreeSet::new();
    while removed.len() < gone {
        setup.receive().await;
        removed.extend(setup.waiting.drain(..).map(|fact| short(&fact)).filter(|fact| fact.starts_with('-')));
    }
}

#[tokio::test]
async fn dropping_it_ends_the_thread_even_if_nobody_takes_the_events() {
    let mut setup = Setup::new(&[]);
    setup.expect(&["sync true"]).await;
    for round in 0..2 * EVENTS_MAX {
        replace(&setup.path("p1.yaml"), &endpoint("p1", &format!("10.0.0.{round}")));
        // Apart in time, so that each is an event of its own.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let dropped = tokio::task::spawn_blocking(move || drop(setup));
    tokio::time::timeout(DEADLINE, dropped).await.unwrap().unwrap();
}
