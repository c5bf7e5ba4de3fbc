//! The binary as people and scripts meet it: exit codes, error lines, `check-config`, `migrate`, `timeline`.

use cutover_daemon::datastore::{Event, dir::Directory};
use cutover_engine::Fact;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;
use tempfile::TempDir;

/// Runs `cutover` with nothing but these variables in its environment.
fn cutover(variables: &[(&str, &str)], arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cutover"));
    command.env_clear().envs(variables.iter().copied()).args(arguments).output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("it was not killed")
}

fn stdout(output: &Output) -> &str {
    str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    str::from_utf8(&output.stderr).unwrap()
}

/// Fails unless the command ended with `expected` and one line about it.
fn refused(output: &Output, expected: i32, part: &str) {
    assert_eq!(code(output), expected, "{output:?}");
    let last = stderr(output).lines().last().unwrap_or_default();
    assert!(last.starts_with("cutover: ") && last.contains(part), "{part:?} is not in {last:?}");
    let is_error = |line: &&str| line.starts_with("cutover: ") && !line.starts_with("cutover: warning: ");
    let errors = stderr(output).lines().filter(is_error);
    assert_eq!(errors.count(), 1, "{output:?}");
}

fn succeeded(output: &Output) {
    assert_eq!(code(output), 0, "{output:?}");
}

#[test]
fn wrong_usage_is_64_in_one_line() {
    for (arguments, part) in [
        (&[][..], "no command"),
        (&["fly"], "unrecognized subcommand 'fly'"),
        (&["agent", "--fly"], "--fly"),
        (&["agent", "--json"], "--observe"),
        (&["agent", "--within", "5"], "--observe"),
        (&["status", "extra"], "extra"),
        (&["timeline", "--last", "0"], "--last"),
        (&["timeline", "--json", "--svg", "file"], "--svg"),
        (&["timeline", "--json", "--html", "file"], "--html"),
        (&["timeline", "--with", "file"], "--html"),
        (&["watch"], "standard output is no terminal; use cutover status"),
        (&["migrate"], "no command"),
        (&["libvirt", "hook", "vm1"], "<OPERATION>"),
        (&["libvirt", "hook", "--wait", "21", "vm1", "start", "begin"], "--wait"),
        (&["migrate", "begin", "--port", "p1"], "--to <HOST>"),
        (&["migrate", "complete"], "--port <ID>"),
        (&["migrate", "wait-ready", "--port", "p1", "--timeout", "soon"], "soon"),
        (&["migrate", "wait-ready", "--port", "p1", "--timeout=-1"], "--timeout"),
    ] {
        let output = cutover(&[], arguments);
        refused(&output, 64, part);
        assert_eq!(stderr(&output).lines().count(), 1, "{output:?}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn every_command_has_help() {
    for arguments in [
        &["--help"][..],
        &["agent", "--help"],
        &["status", "--help"],
        &["timeline", "--help"],
        &["watch", "--help"],
        &["check-config", "--help"],
        &["cleanup", "--help"],
        &["doctor", "--help"],
        &["migrate", "--help"],
        &["migrate", "begin", "--help"],
        &["migrate", "wait-ready", "--help"],
        &["migrate", "complete", "--help"],
        &["migrate", "abort", "--help"],
        &["libvirt", "--help"],
        &["libvirt", "hook", "--help"],
        &["libvirt", "follow", "--help"],
    ] {
        let output = cutover(&[], arguments);
        succeeded(&output);
        assert!(stdout(&output).contains("Usage: cutover"), "{arguments:?}");
        assert!(output.stderr.is_empty());
    }
    assert!(stdout(&cutover(&[], &["--version"])).starts_with("cutover "));
}

#[test]
fn wrong_configuration_is_78() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    fs::write(path("syntax"), "[global]\nDatastoreType = dir\nnonsense\n").unwrap();
    fs::write(path("priority"), "DatastoreType = dir\nIPv6ElevatedRoutePriority = 1024\n").unwrap();
    fs::write(path("tls"), format!("DatastoreType = etcdv3\nEtcdCaFile = {}\n", path("ca.pem"))).unwrap();
    for command in [&["agent"][..], &["check-config"], &["cleanup", "--dry-run"], &["status"], &["timeline"]]
    {
        for (file, part) in [
            (path("missing"), "missing: cannot read the configuration file"),
            (path("."), "cannot read the configuration file"),
            (path("syntax"), "syntax: line 3: "),
        ] {
            refused(&cutover(&[], &[command, &["-c", &file]].concat()), 78, part);
        }
    }
    for command in ["agent", "check-config"] {
        let part = "priority:2: IPv6ElevatedRoutePriority";
        refused(&cutover(&[], &[command, "-c", &path("priority")]), 78, part);
    }
    // A file that is not there yet, or only half, may be there when the service manager tries again.
    refused(&cutover(&[], &["agent", "-c", &path("tls")]), 69, "ca.pem: cannot read the file");
    fs::write(path("ca.pem"), "-----BEGIN CERTIFICATE-----\nMIIB").unwrap();
    refused(&cutover(&[], &["agent", "-c", &path("tls")]), 69, "ca.pem: the file is half-written");
    fs::write(path("ca.pem"), "something else\n").unwrap();
    refused(&cutover(&[], &["agent", "-c", &path("tls")]), 78, "ca.pem: there is no certificate in PEM form");
    let missing = path("nowhere");
    let arguments = ["migrate", "complete", "--port", "p", "--datastore-dir", &missing];
    refused(&cutover(&[], &arguments), 78, "nowhere: cannot list the directory");
}

/// What is removed depends on settings that the datastore may say.
#[test]
fn cleanup_refuses_what_it_cannot_tell_from_somebody_elses() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let here = format!("CutoverRunDir = {}\nCutoverPinPath = {}\n", path("run"), path("pins"));
    fs::create_dir(path("resources")).unwrap();
    fs::write(path("resources/broken.yaml"), "kind: [\n").unwrap();
    let files = format!("DatastoreType = dir\nCutoverDatastoreDir = {}\n", path("resources"));
    // Nobody listens on port 1.
    let cluster = "DatastoreType = etcdv3\nEtcdAddr = 127.0.0.1:1\n".to_owned();
    for (datastore, reason) in [(files, "broken.yaml"), (cluster, "127.0.0.1:1")] {
        fs::write(path("cfg"), format!("{datastore}{here}DeviceRouteProtocol = 213\n")).unwrap();
        let arguments = ["cleanup", "--dry-run", "-c", &path("cfg")];
        refused(&cutover(&[], &arguments), 69, reason);
        refused(&cutover(&[], &arguments), 69, "--without-datastore");
        // Without root it goes no further than this.
        let goes_on = |output: Output| matches!(output.status.code(), Some(0 | 77));
        assert!(goes_on(cutover(&[], &[&arguments[..], &["--without-datastore"]].concat())));
        fs::write(path("cfg"), format!("{datastore}{here}DeviceRouteProtocol = 213\nInterfacePrefix = zz\n"))
            .unwrap();
        assert!(goes_on(cutover(&[], &arguments)), "both are said here");
    }
}

#[test]
fn etcd_that_does_not_answer_is_69() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("felix.cfg");
    // Nobody listens on port 1.
    fs::write(&file, "DatastoreType = etcdv3\nEtcdAddr = 127.0.0.1:1\n").unwrap();
    for step in ["wait-ready", "complete", "abort"] {
        let output = cutover(&[], &["migrate", step, "--port", "p", "-c", file.to_str().unwrap()]);
        refused(&output, 69, "etcd http://127.0.0.1:1: cannot read");
    }
}

#[test]
fn check_config_shows_value_source_and_problems() {
    let directory = tempfile::tempdir().unwrap();
    let (file, resources) = (directory.path().join("felix.cfg"), directory.path().join("resources"));
    fs::create_dir(&resources).unwrap();
    let text = format!(
        "[global]\nDatastoreType = dir\nCutoverDatastoreDir = {}\nIPv4NormalRoutePriority = lots\nFelixHostname = host1\n",
        resources.display()
    );
    fs::write(&file, text).unwrap();
    let configuration = "apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {name: node.host1}\n\
                         spec: {ipv4NormalRoutePriority: 2000, interfacePrefix: tap}\n";
    fs::write(resources.join("own.yaml"), configuration).unwrap();
    fs::write(resources.join("bad.yaml"), "kind: [\n").unwrap();
    let file = file.to_str().unwrap();
    let variables = [("FELIX_LiveMigrationRouteConvergenceTime", "7.5"), ("PATH", "/bin")];

    let output = cutover(&variables, &["check-config", "-c", file]);
    succeeded(&output);
    let row = |name: &str| -> Vec<String> {
        let line = stdout(&output).lines().find(|line| line.split(' ').next() == Some(name)).unwrap();
        line.splitn(3, "  ")
            .flat_map(|part| part.split("  "))
            .map(str::trim)
            .filter(|p| !p.is_empty())
            .map(Into::into)
            .collect()
    };
    assert_eq!(
        row("IPv4NormalRoutePriority"),
        ["IPv4NormalRoutePriority", "2000", "FelixConfiguration node.host1"]
    );
    assert_eq!(row("InterfacePrefix")[1..], ["tap", "FelixConfiguration node.host1"]);
    assert_eq!(row("FelixHostname")[1..], ["host1".to_owned(), format!("{file}:5")]);
    assert_eq!(row("DeviceRouteSourceAddress")[1..], ["-", "built-in"]);
    let convergence = ["7.5", "environment FELIX_LiveMigrationRouteConvergenceTime"];
    assert_eq!(row("LiveMigrationRouteConvergenceTime")[1..], convergence);
    let warnings: Vec<&str> = stdout(&output).lines().filter(|line| line.starts_with("warning: ")).collect();
    assert!(
        warnings[0].contains("felix.cfg:4: IPv4NormalRoutePriority: \"lots\" is not valid"),
        "{warnings:?}"
    );
    assert!(warnings[1].contains("bad.yaml: line "), "{warnings:?}");

    let output = cutover(&variables, &["check-config", "--json", "-c", file]);
    succeeded(&output);
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let setting =
        value["settings"].as_array().unwrap().iter().find(|s| s["name"] == "IPv4NormalRoutePriority");
    assert_eq!(setting.unwrap()["value"], "2000");
    assert_eq!(setting.unwrap()["default"], "1024");
    assert_eq!(value["problems"][0]["severity"], "warning");

    let page = cutover(&[], &["check-config", "--markdown"]);
    let committed =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md"));
    assert!(stdout(&page) == committed.unwrap(), "regenerate it as the test of the page in settings says");
}

/// A directory with one port on host1, and a place for status files.
struct Lab {
    directory: TempDir,
}

const ENDPOINT: &str = "\
# the web server
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: host1-openstack-vm1-p1, namespace: openstack, uid: u11}
spec: {orchestrator: openstack, workload: vm1, node: host1, endpoint: p1, interfaceName: tapp1,
       mac: \"fa:16:3e:00:00:01\", ipNetworks: [10.65.0.2/32]}   # written by hand
";
const NEIGHBOUR: &str = "\
# another one
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {namespace: openstack}
spec: {orchestrator: openstack, workload: vm2, node: host1, endpoint: p2, interfaceName: tapp2, ipNetworks: [10.65.0.3/32]}
";

impl Lab {
    fn new(files: &[(&str, &str)]) -> Self {
        let lab = Self { directory: tempfile::tempdir().unwrap() };
        fs::create_dir_all(lab.directory.path().join("resources/sub")).unwrap();
        for (name, text) in files {
            fs::write(lab.path(name), text).unwrap();
        }
        lab
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join("resources").join(name)
    }

    fn migrate(&self, step: &str, more: &[&str]) -> Output {
        let resources = self.path("");
        let run = self.directory.path().join("run");
        let common = ["migrate", step, "--port", "p1", "--datastore-dir", resources.to_str().unwrap()];
        cutover(&[("FELIX_CUTOVERRUNDIR", run.to_str().unwrap())], &[&common[..], more].concat())
    }

    /// Names and texts of all files.
    fn files(&self) -> BTreeMap<String, String> {
        let files = cutover_daemon::datastore::resource_files(&self.path("")).unwrap();
        let name = |path: &Path| path.strip_prefix(self.path("")).unwrap().to_str().unwrap().to_owned();
        files.iter().map(|path| (name(path), fs::read_to_string(path).unwrap())).collect()
    }

    fn names(&self) -> Vec<String> {
        self.files().into_keys().collect()
    }

    fn report(&self, host: &str, text: &str) {
        let directory = self.directory.path().join("run/status");
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(format!("{host}-openstack-vm1-p1.json")), text).unwrap();
    }
}

const TARGET_FILES: [&str; 2] =
    ["livemigration-host2-openstack-vm1-p1.yaml", "workloadendpoint-host2-openstack-vm1-p1.yaml"];

/// The message of the only log line that contains `part`, without time and level.
fn log_line<'a>(output: &'a Output, part: &str) -> &'a str {
    let line = stderr(output).lines().find(|line| line.contains(part)).expect(part);
    let (_, message) = line.split_once(" INFO ").expect("an INFO line");
    message.trim_start()
}

#[test]
fn a_migration_from_begin_to_complete() {
    let lab = Lab::new(&[("sub/p1.yaml", ENDPOINT)]);
    let output = lab.migrate("begin", &["--to", "host2"]);
    succeeded(&output);
    let mut expected = TARGET_FILES.to_vec();
    expected.insert(1, "sub/p1.yaml");
    expected.sort_unstable();
    assert_eq!(lab.names(), expected);
    assert_eq!(lab.files()["sub/p1.yaml"], ENDPOINT);

    let migration: serde_json::Value = serde_norway::from_str(&lab.files()[TARGET_FILES[0]]).unwrap();
    let uid = migration["metadata"]["uid"].as_str().unwrap();
    assert_eq!(migration["metadata"]["namespace"], "openstack");
    let side = |host: &str| {
        serde_json::json!({"workloadEndpoint": {"hostname": host, "orchestratorID": "openstack",
            "workloadID": "openstack/vm1", "endpointID": "p1"}})
    };
    assert_eq!(migration["spec"], serde_json::json!({"source": side("host1"), "target": side("host2")}));
    let endpoint: serde_json::Value = serde_norway::from_str(&lab.files()[TARGET_FILES[1]]).unwrap();
    assert_eq!(endpoint["metadata"]["name"], "host2-openstack-vm1-p1");
    assert_eq!(endpoint["spec"]["node"], "host2");
    assert_eq!(endpoint["spec"]["mac"], "fa:16:3e:00:00:01");
    assert_eq!(endpoint["metadata"]["uid"].as_str().unwrap().len(), 36);
    let line = format!("Live migration {uid}: pre-migrate port p1 from host1 to host2");
    assert_eq!(log_line(&output, "pre-migrate"), line);

    lab.report("host1", r#"{"status":"up"}"#);
    lab.report("host2", r#"{"status":"down"}"#);
    let output = lab.migrate("wait-ready", &["--timeout", "0.1"]);
    refused(&output, 69, "not up on host2 after 0.1 s, it is down");
    lab.report("host2", r#"{"status":"up"}"#);
    let output = lab.migrate("wait-ready", &[]);
    succeeded(&output);
    let line = format!("Live migration {uid}: destination port p1 active on host2, notifying Nova");
    assert_eq!(log_line(&output, "notifying"), line);

    let output = lab.migrate("complete", &[]);
    succeeded(&output);
    let line = format!("Live migration {uid}: succeeded, port p1 migrated from host1 to host2");
    assert_eq!(log_line(&output, "succeeded"), line);
    assert_eq!(lab.names(), TARGET_FILES[1..]);

    // And back: the file of the port that was created by the first migration is the source now.
    succeeded(&lab.migrate("begin", &["--to", "host1"]));
    succeeded(&lab.migrate("complete", &[]));
    assert_eq!(lab.names(), ["workloadendpoint-host1-openstack-vm1-p1.yaml"]);
}

/// A status that was left by an earlier stay says nothing about whether the target is ready.
#[test]
fn wait_ready_takes_only_what_was_written_since_the_migration_began() {
    let lab = Lab::new(&[("p1.yaml", ENDPOINT)]);
    lab.report("host2", r#"{"status":"up"}"#);
    let status = fs::File::options()
        .append(true)
        .open(lab.directory.path().join("run/status/host2-openstack-vm1-p1.json"));
    let earlier = std::time::SystemTime::now() - Duration::from_secs(60);
    status.unwrap().set_modified(earlier).unwrap();
    succeeded(&lab.migrate("begin", &["--to", "host2"]));
    let output = lab.migrate("wait-ready", &["--timeout", "0.1"]);
    refused(&output, 69, "nothing is reported since the migration began (before, it was up)");
    lab.report("host2", r#"{"status":"up"}"#);
    succeeded(&lab.migrate("wait-ready", &["--timeout", "10"]));
}

#[test]
fn wait_ready_sees_a_status_that_comes_later() {
    let lab = Lab::new(&[("p1.yaml", ENDPOINT)]);
    succeeded(&lab.migrate("begin", &["--to", "host2"]));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| lab.migrate("wait-ready", &["--timeout", "30"]));
        lab.report("host2", "");
        lab.report("host2", r#"{"status":"up"}"#);
        succeeded(&waiting.join().unwrap());
    });
}

#[test]
fn other_documents_of_a_file_are_kept_byte_by_byte() {
    for (text, rest) in [
        (format!("{ENDPOINT}---\n{NEIGHBOUR}"), format!("---\n{NEIGHBOUR}")),
        (format!("---\n{NEIGHBOUR}---\n{ENDPOINT}"), format!("---\n{NEIGHBOUR}")),
    ] {
        let lab = Lab::new(&[("all.yaml", &text)]);
        fs::set_permissions(lab.path("all.yaml"), std::os::unix::fs::PermissionsExt::from_mode(0o640))
            .unwrap();
        succeeded(&lab.migrate("begin", &["--to", "host2"]));
        assert_eq!(lab.files()["all.yaml"], text);
        succeeded(&lab.migrate("complete", &[]));
        assert_eq!(lab.files()["all.yaml"], rest);
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &fs::metadata(lab.path("all.yaml")).unwrap().permissions(),
        );
        assert_eq!(mode & 0o7777, 0o640);
        let hidden = fs::read_dir(lab.path(""))
            .unwrap()
            .filter(|e| e.as_ref().unwrap().file_name().as_encoded_bytes()[0] == b'.');
        assert_eq!(hidden.count(), 0);
    }
}

#[test]
fn json_files_are_understood() {
    let value: serde_json::Value = serde_norway::from_str(ENDPOINT).unwrap();
    let neighbour: serde_json::Value = serde_norway::from_str(NEIGHBOUR).unwrap();
    let lab = Lab::new(&[("all.json", &format!("{value}\n{neighbour}\n"))]);
    succeeded(&lab.migrate("begin", &["--to", "host2"]));
    succeeded(&lab.migrate("complete", &[]));
    assert_eq!(lab.files()["all.json"].trim(), neighbour.to_string());
}

#[test]
fn an_abort_leaves_the_source_as_it_was() {
    let lab = Lab::new(&[("p1.yaml", ENDPOINT)]);
    succeeded(&lab.migrate("begin", &["--to", "host2"]));
    let output = lab.migrate("abort", &[]);
    succeeded(&output);
    assert!(log_line(&output, "rolled back").contains("stays on host1"));
    assert_eq!(lab.files(), BTreeMap::from([("p1.yaml".to_owned(), ENDPOINT.to_owned())]));
}

#[test]
fn steps_that_do_not_fit_are_refused_and_change_nothing() {
    let lab = Lab::new(&[("p1.yaml", ENDPOINT)]);
    for step in ["wait-ready", "complete", "abort"] {
        refused(&lab.migrate(step, &[]), 1, "port p1 is not being migrated");
    }
    refused(&lab.migrate("begin", &["--to", "host1"]), 64, "is there already");
    refused(
        &lab.migrate("begin", &["--to", "host2", "--from", "host3"]),
        1,
        "no endpoint of port p1 on host3",
    );
    refused(&lab.migrate("begin", &["--to", "a/b"]), 64, "--to");
    assert_eq!(lab.names(), ["p1.yaml"]);

    succeeded(&lab.migrate("begin", &["--to", "host2"]));
    let before = lab.files();
    refused(&lab.migrate("begin", &["--to", "host3"]), 1, "already being migrated");
    assert_eq!(lab.files(), before);

    // An endpoint that has to stay is missing: nothing is removed.
    fs::remove_file(lab.path(TARGET_FILES[1])).unwrap();
    let before = lab.files();
    refused(&lab.migrate("complete", &[]), 1, "has no endpoint on host2");
    assert_eq!(lab.files(), before);
    succeeded(&lab.migrate("abort", &[]));

    // Two hosts have the port and nothing says which one is left.
    fs::write(lab.path("other.yaml"), ENDPOINT.replace("host1", "host3")).unwrap();
    refused(&lab.migrate("begin", &["--to", "host2"]), 64, "host1 and host3; choose one with --from");
    refused(
        &lab.migrate("begin", &["--to", "host3", "--from", "host1"]),
        1,
        "already has an endpoint on host3",
    );
    succeeded(&lab.migrate("begin", &["--to", "host2", "--from", "host3"]));
}

fn short(fact: &Fact) -> String {
    match fact {
        Fact::EndpointWritten(key, _) => format!("+{}", key.host),
        Fact::EndpointRemoved(key) => format!("-{}", key.host),
        Fact::MigrationWritten(..) => "+LM".to_owned(),
        Fact::MigrationRemoved(_) => "-LM".to_owned(),
        other => format!("{other:?}"),
    }
}

/// What an agent sees of each step, in its order. Steps of less than a millisecond may come in one batch.
#[tokio::test]
async fn an_agent_sees_the_writes_of_a_driver() {
    let lab = Lab::new(&[("p1.yaml", ENDPOINT)]);
    let mut datastore = Directory::start(lab.path("")).unwrap();
    let mut seen = Vec::new();
    let mut expect = async |step: &str, more: &[&str], expected: &[&str]| {
        if !step.is_empty() {
            succeeded(&lab.migrate(step, more));
        }
        while seen.len() < expected.len() {
            let next = tokio::time::timeout(Duration::from_secs(20), datastore.next()).await;
            if let Event::Facts(facts) = next.expect("an event in time").unwrap() {
                seen.extend(facts.iter().map(short));
            }
        }
        assert_eq!(seen, expected, "{step} {more:?}");
        seen.clear();
    };
    expect("", &[], &["+host1", "InSync { complete: true }"]).await;
    expect("begin", &["--to", "host2"], &["+LM", "+host2"]).await;
    expect("abort", &[], &["-LM", "-host2", "+host1"]).await;
    expect("begin", &["--to", "host2"], &["+LM", "+host2"]).await;
    expect("abort", &["--with-gap"], &["-LM", "-host1", "-host2", "+host1"]).await;
    expect("begin", &["--to", "host2"], &["+LM", "+host2"]).await;
    expect("complete", &[], &["-LM", "-host1", "+host2"]).await;
    expect("begin", &["--to", "host3"], &["+LM", "+host3"]).await;
    expect("complete", &["--with-gap"], &["-LM", "-host2", "-host3", "+host3"]).await;
}

/// A line of the record, begun so many seconds after the one with number 0.
fn finished(number: u64, uid: &str) -> String {
    let (began_ns, second_ns) = (1_000_000_000_000 * (number + 1), 1_000_000_000);
    let at = |offset_ns: u64| began_ns + offset_ns;
    let line = serde_json::json!({
        "finished_at_unix_seconds": 1_709_210_096 + 1_000 * number,
        "finished_at_unix_ns": (1_709_210_096 + 1_000 * number) * second_ns + 5,
        "boot_id": "a boot",
        "uid": uid,
        "endpoint": "host2-openstack-vm1-p1",
        "source": "host1-openstack-vm1-p1",
        "arrived": true,
        "phases": {"targeted_at": at(0), "armed_at": at(2_000_000), "reported_at": at(5_000_000),
            "announced_at": at(6 * second_ns), "taken_at": at(6 * second_ns + 12_000),
            "routed_at": at(6 * second_ns + 41_000), "role_gone_at": at(7 * second_ns),
            "ended_at": at(37 * second_ns), "kind": 1},
    });
    format!("{line}\n")
}

/// A run directory as an agent of many migrations leaves it when it is gone.
struct Record {
    directory: TempDir,
}

impl Record {
    fn new(migrations: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let text = |numbers: std::ops::Range<u64>| -> String {
            numbers.map(|number| finished(number, &format!("uid-{number}"))).collect()
        };
        let middle = migrations / 2;
        fs::write(directory.path().join("migrations.jsonl.1"), text(0..middle)).unwrap();
        fs::write(directory.path().join("migrations.jsonl"), text(middle..migrations)).unwrap();
        Self { directory }
    }

    fn timeline(&self, arguments: &[&str]) -> Output {
        let run_dir = self.directory.path().to_str().unwrap();
        let variables = [("FELIX_CUTOVERRUNDIR", run_dir), ("FELIX_FELIXHOSTNAME", "host2")];
        cutover(&variables, &[&["timeline"], arguments].concat())
    }

    fn uids(&self, arguments: &[&str]) -> Vec<String> {
        let output = self.timeline(&[arguments, &["--json"]].concat());
        succeeded(&output);
        let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(value["agent_answered"], false);
        let uid = |migration: &serde_json::Value| migration["uid"].as_str().unwrap().to_owned();
        value["migrations"].as_array().unwrap().iter().map(uid).collect()
    }
}

#[test]
fn finished_migrations_are_shown_without_an_agent() {
    let record = Record::new(30);
    let output = record.timeline(&[]);
    succeeded(&output);
    assert!(stderr(&output).contains("cutover.sock: no agent answers: "), "{output:?}");
    assert_eq!(stderr(&output).lines().count(), 1);
    let lines: Vec<_> = stdout(&output).lines().collect();
    assert_eq!(lines.len(), 21, "a header and the last twenty");
    assert!(lines[1].ends_with("uid-10") && lines[20].ends_with("uid-29"), "{lines:?}");
    let cells: Vec<_> = lines[20].split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
    let expected = [
        "2024-02-29T20:37:39Z",
        "host2-openstack-vm1-p1",
        "host1",
        "arrived",
        "RARP",
        "+2.00 ms",
        "+3.00 ms",
        "+6.00 s",
        "+41.0 µs",
        "+1.00 s",
        "+30.0 s",
        "uid-29",
    ];
    assert_eq!(cells, expected);
    assert_eq!(record.uids(&["--last", "2"]), ["uid-28", "uid-29"]);
    assert_eq!(record.uids(&["--last", "100"]).len(), 30);

    let empty = Record::new(0);
    let output = empty.timeline(&[]);
    succeeded(&output);
    assert_eq!(stdout(&output), "no migrations to this host are known\n");
    assert!(empty.uids(&[]).is_empty());
}

#[test]
fn one_migration_is_shown_with_every_phase() {
    let record = Record::new(12);
    let output = record.timeline(&["uid-3"]);
    succeeded(&output);
    let text = stdout(&output);
    assert!(text.starts_with("migration uid-3: arrived, announced by RARP\n"), "{text}");
    assert!(text.contains("2024-02-29T13:24:25.000041Z  +6.00 s      +29.0 µs      routed "), "{text}");
    assert_eq!(record.uids(&["uid-11"]), ["uid-11"]);
    assert_eq!(record.uids(&["uid-1"]), ["uid-1"], "not the ones that only begin like this");
    refused(&record.timeline(&["uid"]), 64, "uid is the beginning of several uids, uid-0 and uid-1");
    refused(
        &record.timeline(&["nobody"]),
        1,
        "no migration nobody; cutover timeline lists those of this host",
    );
    let nowhere = record.timeline(&["uid-3", "--svg", "/proc/no/such/place.svg"]);
    refused(&nowhere, 1, "/proc/no/such/place.svg: cannot write: ");
}

#[test]
fn lines_of_the_record_that_make_no_sense_cost_only_themselves() {
    let record = Record::new(4);
    let path = record.directory.path().join("migrations.jsonl");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("not a record\n{text}{{\"uid\": \"cut o")).unwrap();
    let output = record.timeline(&["--json"]);
    succeeded(&output);
    let warning = stderr(&output).lines().find(|line| line.contains("migrations.jsonl: ")).unwrap();
    assert!(warning.contains("are left out: 2, the first is line 1: "), "{warning}");
    assert_eq!(record.uids(&[]), ["uid-0", "uid-1", "uid-2", "uid-3"]);
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(value["unreadable_lines"], 2);
}

#[test]
fn migrations_can_be_drawn() {
    let record = Record::new(3);
    let path = record.directory.path().join("picture.svg");
    let output = record.timeline(&["--svg", path.to_str().unwrap()]);
    succeeded(&output);
    assert!(output.stdout.is_empty());
    let picture = fs::read_to_string(path).unwrap();
    assert!(picture.starts_with("<?xml") && picture.ends_with("</svg>\n"));
    for number in 0..3 {
        assert!(picture.contains(&format!("migration uid-{number}, began ")), "{number}");
    }
    assert!(picture.contains("Live migrations to host2"));
}

/// A line of the record of what leaves.
fn departed(uid: &str) -> String {
    let second_ns = 1_000_000_000_u64;
    let line = serde_json::json!({
        "ended_at_unix_ns": 1_709_210_096 * second_ns, "boot_id": "another boot", "uid": uid,
        "endpoint": "host1-openstack-vm1-p1", "to": "host2-openstack-vm1-p1", "began_at": 1_000 * second_ns,
        "stopped_at": 1_006 * second_ns, "heard_at": 1_006 * second_ns + 5, "forwarded_at": null, "ended_at": 1_037 * second_ns,
    });
    format!("{line}\n")
}

#[test]
fn records_of_several_hosts_become_one_document() {
    let (target, source) = (Record::new(3), Record::new(0));
    fs::write(source.directory.path().join("departures.jsonl"), departed("uid-1") + &departed("uid-9"))
        .unwrap();
    let json = source.timeline(&["--json"]);
    succeeded(&json);
    let document: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    let phases = document["departures"][0]["phases"].as_array().unwrap();
    let names: Vec<_> = phases.iter().map(|step| step["phase"].as_str().unwrap()).collect();
    assert_eq!(names, ["began", "stopped", "heard", "ended"]);
    assert_eq!(phases[1]["unix_ns"], 1_709_210_065_000_000_000_u64);
    let only: serde_json::Value =
        serde_json::from_slice(&source.timeline(&["uid-9", "--json"]).stdout).unwrap();
    assert_eq!(only["departures"].as_array().map(Vec::len), Some(1));

    let [file, report] = ["host1.json", "report.html"].map(|name| target.directory.path().join(name));
    let text = String::from_utf8(json.stdout).unwrap().replacen("\"host2\"", "\"host1\"", 1);
    fs::write(&file, text).unwrap();
    let (file, report) = (file.to_str().unwrap(), report.to_str().unwrap());
    let written = |arguments: &[&str]| {
        let output = target.timeline(&[&["--html", report][..], arguments].concat());
        succeeded(&output);
        assert!(output.stdout.is_empty());
        fs::read_to_string(report).unwrap()
    };
    let both = written(&["--with", file]);
    assert!(both.starts_with("<!DOCTYPE html>") && both.ends_with("</html>\n"), "{both}");
    assert!(both.contains("<title>4 migrations of 2 hosts"), "{both}");
    for row in [
        "<td>host2</td><td>target</td><th scope=\"row\">announced</th>",
        "<td>host1</td><td>source</td><th scope=\"row\">stopped</th>",
    ] {
        assert!(both.contains(row), "{row} is not in\n{both}");
    }
    assert!(written(&[]).contains("<title>3 migrations of 1 host"));
    assert!(written(&["uid-1", "--with", file]).contains("<title>1 migration of 2 hosts"));
    refused(&target.timeline(&["--html", report, "uid-7"]), 1, "no migration uid-7 is in these records");
    refused(
        &target.timeline(&["--html", report, "--with", report]),
        1,
        "report.html: cannot read the timeline of a host: ",
    );
    refused(
        &target.timeline(&["--html", "/proc/no/such/place.html"]),
        1,
        "/proc/no/such/place.html: cannot write: ",
    );
}
