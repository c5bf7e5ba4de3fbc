//! `cutover libvirt hook` as libvirt calls it: with the domain on standard input, on the directory datastore.

use serde_json::Value;
use std::fs;
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const UUID: &str = "0f4ac1d2-2b0e-4f69-9a3e-3f0c3d7f0a01";
/// Of the endpoint on this host and of the migration to it.
const NAME: &str = "compute2-openstack-0f4ac1d2--2b0e--4f69--9a3e--3f0c3d7f0a01-525400000001";

struct Site {
    folder: TempDir,
}

impl Site {
    fn new() -> Self {
        let site = Self { folder: tempfile::tempdir().unwrap() };
        fs::create_dir(site.path("resources")).unwrap();
        let settings = format!(
            "FelixHostname = compute2\nDatastoreType = dir\nCutoverDatastoreDir = {}\nCutoverRunDir = {}\n",
            site.path("resources").display(),
            site.path("run").display()
        );
        fs::write(site.path("felix.cfg"), settings).unwrap();
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("resources")).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn read(&self, file: &str) -> Value {
        serde_norway::from_str(&fs::read_to_string(self.path("resources").join(file)).unwrap()).unwrap()
    }

    fn command(&self, call: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cutover"));
        command.env_clear().args(["libvirt", "hook", "--wait", "0", "-c"]).arg(self.path("felix.cfg"));
        command.args(["--", "vm1"]).args(call);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn call(&self, xml: &str, call: &[&str]) -> Output {
        let mut child = self.command(call).spawn().unwrap();
        child.stdin.take().unwrap().write_all(xml.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        // libvirt would take it for another domain.
        assert!(output.stdout.is_empty(), "{output:?}");
        output
    }

    #[track_caller]
    fn must(&self, xml: &str, call: &[&str]) {
        let output = self.call(xml, call);
        assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]), "{output:?}");
    }

    #[track_caller]
    fn refused(&self, xml: &str, call: &[&str], code: i32, part: &str) {
        let output = self.call(xml, call);
        let text = str::from_utf8(&output.stderr).unwrap();
        assert_eq!((output.status.code(), text.lines().count()), (Some(code), 1), "{output:?}");
        assert!(text.starts_with(&format!("cutover: vm1: {} ", call[0])) && text.contains(part), "{text}");
    }
}

fn domain(tap: &str, address: &str) -> String {
    format!(
        "<domain type='kvm'><name>vm1</name><uuid>{UUID}</uuid>
           <metadata><c:ports xmlns:c='urn:cutover:libvirt:1'>
             <c:port mac='52:54:00:00:00:01'><c:address>{address}</c:address></c:port>
           </c:ports></metadata>
           <devices><interface type='ethernet'><mac address='52:54:00:00:00:01'/>{tap}</interface></devices>
         </domain>"
    )
}

fn usual() -> String {
    domain("<target dev='tap1' managed='no'/>", "10.65.0.2")
}

/// The same domain without the metadata.
fn foreign() -> String {
    usual().replace("urn:cutover:libvirt:1", "urn:other")
}

const MIGRATE: [&str; 3] = ["migrate", "begin", "-"];
const PREPARE: [&str; 3] = ["prepare", "begin", "-"];
const START: [&str; 3] = ["start", "begin", "-"];
const STARTED: [&str; 3] = ["started", "begin", "-"];
const STOPPED: [&str; 3] = ["stopped", "end", "-"];
const RELEASE: [&str; 3] = ["release", "end", "shutdown"];

#[test]
fn a_machine_boots_and_is_shut_down() {
    let site = Site::new();
    site.must(&usual(), &PREPARE);
    assert_eq!(site.files(), [""; 0]);
    site.must(&usual(), &START);
    let file = format!("workloadendpoint-{NAME}.yaml");
    assert_eq!(site.files(), [file.as_str()]);
    let endpoint = site.read(&file);
    assert_eq!(endpoint["spec"]["interfaceName"], "tap1");
    assert_eq!(endpoint["spec"]["node"], "compute2");
    assert_eq!(endpoint["spec"]["mac"], "52:54:00:00:00:01");
    assert_eq!(endpoint["spec"]["ipNetworks"], serde_json::json!(["10.65.0.2/32"]));
    site.must(&usual(), &STARTED);
    // libvirt's daemon is started again.
    site.must(&usual(), &["reconnect", "begin", "-"]);
    assert_eq!(site.read(&file), endpoint, "nothing is written that is there");
    // It has got another address meanwhile.
    site.must(&domain("<target dev='tap1'/>", "10.65.0.9"), &["reconnect", "begin", "-"]);
    assert_eq!(site.read(&file)["spec"]["ipNetworks"], serde_json::json!(["10.65.0.9/32"]));
    site.must(&usual(), &STOPPED);
    assert_eq!(site.files(), [file.as_str()]);
    site.must(&usual(), &RELEASE);
    assert_eq!(site.files(), [""; 0]);
    // It has been called already, or never was.
    site.must(&usual(), &RELEASE);
}

#[test]
fn a_machine_that_comes_has_a_migration_first() {
    let site = Site::new();
    let (endpoint, migration) =
        (format!("workloadendpoint-{NAME}.yaml"), format!("livemigration-{NAME}.yaml"));
    let mut uids = Vec::new();
    // The second attempt finds what the first one has left that was broken off.
    for _ in 0..2 {
        site.must(&usual(), &MIGRATE);
        site.must(&usual(), &PREPARE);
        site.must(&usual(), &START);
        assert_eq!(site.files(), [migration.as_str(), endpoint.as_str()]);
        let document = site.read(&migration);
        let target = &document["spec"]["target"]["workloadEndpoint"];
        assert_eq!(target["hostname"], "compute2");
        assert_eq!(target["workloadID"], format!("openstack/{UUID}"));
        assert!(document["spec"]["source"].is_null(), "nobody has said where from: {document}");
        uids.push(document["metadata"]["uid"].clone());
        // Nobody reports anything here, and libvirt goes on.
        site.refused(&usual(), &STARTED, 69, "port 525400000001 is not up after 0 s");
        // Called again, it takes nothing for a machine that boots.
        site.refused(&usual(), &STARTED, 69, "port 525400000001 is not up after 0 s");
        assert_eq!(site.files(), [migration.as_str(), endpoint.as_str()]);
        assert_eq!(site.read(&migration)["metadata"]["uid"], uids[uids.len() - 1]);
    }
    assert_ne!(uids[0], uids[1]);
    // It has not come.
    site.must(&usual(), &["release", "end", "failed"]);
    assert_eq!(site.files(), [""; 0]);
    // What was called before counts no more: this one boots.
    site.must(&usual(), &START);
    assert_eq!(site.files(), [endpoint.as_str()]);
}

#[test]
fn where_files_are_shared_the_source_is_named_and_goes_when_its_machine_has_gone() {
    let site = Site::new();
    let settings = fs::read_to_string(site.path("felix.cfg")).unwrap();
    let other = settings.replace("compute2", "compute1");
    let on = |settings: &str| fs::write(site.path("felix.cfg"), settings).unwrap();
    on(&other);
    site.must(&usual(), &START);
    on(&settings);
    site.must(&usual(), &MIGRATE);
    site.must(&usual(), &START);
    assert_eq!(site.files().len(), 3);
    let document = site.read(&format!("livemigration-{NAME}.yaml"));
    assert_eq!(document["spec"]["source"]["workloadEndpoint"]["hostname"], "compute1");
    on(&other);
    site.must(&usual(), &["release", "end", "migrated"]);
    assert_eq!(site.files(), [format!("workloadendpoint-{NAME}.yaml")]);
}

#[test]
fn what_is_none_of_its_business_is_left_alone() {
    let site = Site::new();
    fs::write(site.path("felix.cfg"), "nonsense\n").unwrap();
    for call in [PREPARE, START, STARTED, STOPPED, MIGRATE] {
        site.must(&foreign(), &call);
    }
    site.must(&usual(), &["restore", "begin", "-"]);
    site.must(&usual(), &["flown", "begin", "-"]);
}

#[test]
fn what_could_not_be_done_at_the_start_is_done_when_it_has_started() {
    let site = Site::new();
    let (endpoint, migration) =
        (format!("workloadendpoint-{NAME}.yaml"), format!("livemigration-{NAME}.yaml"));
    let away = |is_away: bool| {
        let (here, there) = (site.path("resources"), site.path("away"));
        if is_away { fs::rename(here, there).unwrap() } else { fs::rename(there, here).unwrap() }
    };
    site.must(&usual(), &PREPARE);
    away(true);
    site.refused(&usual(), &START, 78, "resources: cannot list the directory");
    away(false);
    site.must(&usual(), &STARTED);
    assert_eq!(site.files(), [endpoint.as_str()], "it boots");
    site.must(&usual(), &RELEASE);

    site.must(&usual(), &MIGRATE);
    site.must(&usual(), &PREPARE);
    away(true);
    site.refused(&usual(), &START, 78, "resources: cannot list the directory");
    away(false);
    site.refused(&usual(), &STARTED, 69, "is not up after 0 s");
    assert_eq!(site.files(), [migration.as_str(), endpoint.as_str()], "it comes");
}

#[test]
fn where_no_mark_can_be_written_no_machine_is_taken_for_one_that_boots() {
    let site = Site::new();
    fs::write(site.path("run"), "").unwrap();
    site.refused(&usual(), &MIGRATE, 1, "see CutoverRunDir");
    site.refused(&usual(), &PREPARE, 1, "see CutoverRunDir");
    site.refused(&usual(), &START, 1, "CutoverRunDir cannot be written, so nobody knows");
    assert_eq!(site.files(), [format!("livemigration-{NAME}.yaml"), format!("workloadendpoint-{NAME}.yaml")]);
    site.refused(&usual(), &RELEASE, 1, "see CutoverRunDir");
    assert_eq!(site.files(), [""; 0], "it goes all the same");
}

#[test]
fn the_mark_of_a_machine_that_is_gone_goes_also_if_nothing_else_can() {
    let site = Site::new();
    let marks = || fs::read_dir(site.path("run")).unwrap().count();
    site.must(&usual(), &MIGRATE);
    site.must(&usual(), &PREPARE);
    assert_eq!(marks(), 1);
    fs::remove_dir(site.path("resources")).unwrap();
    site.refused(&usual(), &RELEASE, 78, "resources: cannot list the directory");
    assert_eq!(marks(), 0);
}

#[test]
fn a_machine_is_released_though_its_metadata_are_gone_or_wrong() {
    let site = Site::new();
    let wrong = domain("<target dev='tap1'/>", "nowhere");
    for is_wrong in [false, true] {
        site.must(&usual(), &START);
        assert_eq!(site.files().len(), 1);
        if is_wrong {
            site.refused(&wrong, &RELEASE, 78, "\"nowhere\" is no address");
        } else {
            site.must(&foreign(), &RELEASE);
        }
        assert_eq!(site.files(), [""; 0]);
    }
    // One that never had ports.
    site.must(&foreign(), &RELEASE);
}

#[test]
fn another_id_leaves_no_second_endpoint() {
    let site = Site::new();
    site.must(&usual(), &START);
    let renamed = usual().replace("<c:port mac", "<c:port id='web' mac");
    site.must(&renamed, &["reconnect", "begin", "-"]);
    let name = NAME.replace("-525400000001", "-web");
    assert_eq!(site.files(), [format!("workloadendpoint-{name}.yaml")]);
}

#[test]
fn what_the_agent_would_not_take_is_not_written() {
    let site = Site::new();
    for (address, part) in [
        ("10.65.0.2/24", "has bits beyond its length; write 10.65.0.2 or 10.65.0.0/24"),
        ("127.0.0.1", "a virtual machine cannot have it"),
        ("0.0.0.0/0", "it is every address there is"),
    ] {
        let both = usual().replace(
            "<c:address>10.65.0.2</c:address>",
            &format!("<c:address>10.65.0.2</c:address><c:address>{address}</c:address>"),
        );
        site.refused(&both, &START, 78, part);
        assert_eq!(site.files(), [""; 0]);
    }
}

/// Nobody listens on port 1. An attempt that fails at once is not the last one.
#[test]
fn a_datastore_that_does_not_answer_is_tried_again_and_its_reason_is_said_in_time() {
    let site = Site::new();
    let settings = format!(
        "FelixHostname = compute2\nDatastoreType = etcdv3\nEtcdEndpoints = http://127.0.0.1:1\nCutoverRunDir = {}\n",
        site.path("run").display()
    );
    fs::write(site.path("felix.cfg"), settings).unwrap();
    let started = Instant::now();
    site.refused(&usual(), &START, 69, "etcd http://127.0.0.1:1: cannot ");
    assert!(started.elapsed() > Duration::from_secs(4), "{:?}", started.elapsed());
}

/// Here it is who calls that does not end; a datastore that does not is the same.
#[test]
fn libvirt_is_not_kept_for_ever() {
    let site = Site::new();
    let mut command = site.command(&START);
    let started = Instant::now();
    let mut child = command.spawn().unwrap();
    let _open = child.stdin.take();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(69));
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(text.starts_with("cutover: vm1: start begin: not done within 10 s"), "{text}");
    assert!(text.contains("cutover libvirt hook vm1 reconnect begin"), "{text}");
}

#[test]
fn what_cannot_be_done_is_said_in_one_line() {
    let site = Site::new();
    site.refused("<domain>", &START, 64, "standard input: ");
    site.refused(&domain("", "10.65.0.2"), &START, 78, "has no name yet");
    site.refused(&domain("<target dev='tap1'/>", "nowhere"), &START, 78, "\"nowhere\" is no address");
    fs::remove_dir(site.path("resources")).unwrap();
    site.refused(&usual(), &START, 78, "resources: cannot list the directory");
    fs::write(site.path("felix.cfg"), "nonsense\n").unwrap();
    site.refused(&usual(), &START, 78, "felix.cfg: line 1");
}
