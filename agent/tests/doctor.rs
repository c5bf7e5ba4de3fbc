//! `cutover doctor` as people and scripts meet it: exit codes, the shape of its JSON, files that are wrong.

mod alone;

use alone::output_alone;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Output};
use tempfile::TempDir;

/// A folder with a good configuration.
struct Site {
    folder: TempDir,
}

impl Site {
    fn new() -> Self {
        let site = Self { folder: tempfile::tempdir().unwrap() };
        fs::create_dir(site.folder.path().join("resources")).unwrap();
        site.configure("");
        site.nova("[compute]\nlive_migration_wait_for_vif_plug = True\n");
        site
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn configure(&self, more: &str) {
        let text = format!(
            "[global]\nDatastoreType = dir\nCutoverDatastoreDir = {}\nCutoverRunDir = {}\n\
             CutoverPinPath = /sys/fs/bpf/cutover-doctor-test\n{more}",
            self.path("resources"),
            self.path("run")
        );
        fs::write(self.path("felix.cfg"), text).unwrap();
    }

    fn nova(&self, text: &str) {
        let hostname = nix::unistd::gethostname().unwrap().to_string_lossy().to_lowercase();
        fs::write(self.path("nova.conf"), format!("[DEFAULT]\nhost = {hostname}\n{text}")).unwrap();
    }

    fn command(&self, binary: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").args(["doctor"]).args(arguments);
        command.args(["-c", &self.path("felix.cfg"), "--nova-conf", &self.path("nova.conf")]);
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        output_alone(&mut self.command(Path::new(env!("CARGO_BIN_EXE_cutover")), arguments))
    }

    /// Exit code and report.
    fn examine(&self) -> (i32, Value) {
        let output = self.run(&["--json"]);
        let report =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
        (output.status.code().unwrap(), report)
    }
}

/// Checks with a finding of this level.
fn checks<'a>(report: &'a Value, level: &str) -> BTreeSet<&'a str> {
    let findings = report["findings"].as_array().unwrap().iter();
    findings
        .filter(|finding| finding["level"] == level)
        .map(|finding| finding["check"].as_str().unwrap())
        .collect()
}

#[test]
fn a_good_host_is_0() {
    let (code, report) = Site::new().examine();
    assert_eq!(code, 0, "{report:#}");
    assert_eq!(checks(&report, "error"), BTreeSet::new());
    for check in ["kernel.programs", "kernel.attaching", "datastore.directory", "nova.wait-for-vif-plug"] {
        assert!(checks(&report, "ok").contains(check), "{check} in {report:#}");
    }
}

#[test]
fn each_wrong_file_is_its_finding_and_its_exit_code() {
    let site = Site::new();
    site.nova("[compute]\nlive_migration_wait_for_vif_plug = False\n");
    let (code, report) = site.examine();
    assert_eq!((code, checks(&report, "error")), (1, ["nova.wait-for-vif-plug"].into()));
    fs::remove_file(site.path("nova.conf")).unwrap();
    let (code, report) = site.examine();
    assert_eq!((code, checks(&report, "error")), (1, ["nova.file"].into()));

    let site = Site::new();
    site.configure("IPv4ElevatedRoutePriority = 2000\n");
    let (code, report) = site.examine();
    assert_eq!((code, checks(&report, "error")), (78, ["settings.values"].into()));
    site.configure("nonsense\n");
    let (code, report) = site.examine();
    assert_eq!((code, checks(&report, "error")), (78, ["settings.file"].into()));
    // The rest is checked all the same.
    assert!(checks(&report, "ok").contains("nova.wait-for-vif-plug"), "{report:#}");

    let site = Site::new();
    fs::write(site.path("resources/bad.yaml"), "kind: [\n").unwrap();
    let (code, report) = site.examine();
    assert_eq!((code, checks(&report, "error")), (1, ["datastore.directory"].into()));
    site.configure("CutoverPinPath = /tmp\n");
    let (_, report) = site.examine();
    assert!(checks(&report, "error").contains("kernel.pin-path"), "{report:#}");
    site.configure("CutoverRunDir = /dev/null\n");
    let (_, report) = site.examine();
    assert!(checks(&report, "error").contains("agent.run-dir"), "{report:#}");
}

/// Programs hold on to this.
#[test]
fn the_shape_of_the_json() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/doctor.md")).unwrap();
    let site = Site::new();
    site.nova("[compute]\nlive_migration_wait_for_vif_plug = False\n");
    let (_, report) = site.examine();
    let names = |value: &Value| -> BTreeSet<String> { value.as_object().unwrap().keys().cloned().collect() };
    let of = |list: &[&str]| -> BTreeSet<String> { list.iter().map(|name| (*name).to_owned()).collect() };
    assert_eq!(names(&report), of(&["errors", "findings", "host", "notices", "warnings"]));
    assert_eq!(report["errors"], 1);
    let order = ["error", "warning", "notice", "ok"];
    let mut worst = 0;
    for finding in report["findings"].as_array().unwrap() {
        assert_eq!(names(finding), of(&["change", "check", "level", "what", "why"]));
        let level = order.iter().position(|level| finding["level"] == *level).unwrap();
        assert!(level >= worst, "the worst come first");
        worst = level;
        assert_eq!(finding["change"].is_null(), finding["level"] == "ok", "{finding}");
        assert!(page.contains(&format!("| `{}` |", finding["check"].as_str().unwrap())), "{finding}");
    }
}

#[test]
fn the_table_says_what_why_and_what_to_change() {
    let site = Site::new();
    site.nova("[compute]\nlive_migration_wait_for_vif_plug = False\n");
    let output = site.run(&[]);
    let (table, error) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    let first = table.split("\n\n").nth(1).unwrap();
    let place = format!("{}:4", site.path("nova.conf"));
    for part in [
        "ERROR    nova.wait-for-vif-plug: ",
        &place,
        "\n         why:    ",
        "\n         change: remove the line ",
    ] {
        assert!(first.contains(part), "{part:?} is not in {table}");
    }
    assert_eq!(error, "cutover: 1 error found; each finding says what to change\n");
}

/// What cannot be looked at is not claimed to be wrong.
#[test]
fn without_root_it_is_77_if_nothing_is_wrong() {
    let site = Site::new();
    let binary = site.folder.path().join("cutover");
    fs::copy(env!("CARGO_BIN_EXE_cutover"), &binary).unwrap();
    fs::create_dir(site.path("run")).unwrap();
    for path in [site.folder.path(), Path::new(&site.path("run"))] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    const NOBODY: u32 = 65_534;
    let output = output_alone(site.command(&binary, &["--json"]).uid(NOBODY).gid(NOBODY));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(checks(&report, "error"), BTreeSet::new(), "{report:#}");
    assert_eq!(output.status.code(), Some(77), "{report:#}");
    assert!(checks(&report, "notice").contains("kernel.programs"), "{report:#}");
}

/// Set CUTOVER_REGENERATE=1 to write the file instead.
#[test]
fn the_committed_page_is_up_to_date() {
    let output = Command::new(env!("CARGO_BIN_EXE_cutover")).args(["doctor", "--markdown"]).output().unwrap();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/doctor.md");
    if std::env::var_os("CUTOVER_REGENERATE").is_some() {
        fs::write(&path, &output.stdout).unwrap();
    }
    let committed = fs::read(&path).unwrap_or_default();
    assert!(
        committed == output.stdout,
        "run CUTOVER_REGENERATE=1 cargo test -p cutover-agent --test doctor the_committed_page"
    );
}
