//! The real agent with a run directory or pins that somebody else than root can change: it refuses, says what mends that, and does
//! goes on once that was done. Needs root and the BPF file system.

mod alone;

use alone::output_alone;
use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, chown, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

const SOMEBODY: u32 = 1000;

/// A host with a configuration, the parts of which are root's alone.
struct Site {
    folder: TempDir,
    /// In a BPF file system, or a place that is none: there the agent ends after it has taken the run directory.
    pins: PathBuf,
}

impl Site {
    fn with_pins(pins: impl FnOnce(&Path) -> PathBuf) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let site = Self { pins: pins(folder.path()), folder };
        for name in ["resources", "above", "above/run"] {
            fs::DirBuilder::new().mode(0o755).create(site.path(name)).unwrap();
        }
        fs::write(site.path("above/run/state.json"), "{}").unwrap();
        let text = format!(
            "DatastoreType = dir\nCutoverDatastoreDir = {}\nCutoverRunDir = {}\nCutoverPinPath = {}\n",
            site.path("resources").display(),
            site.path("above/run").display(),
            site.pins.display()
        );
        fs::write(site.path("felix.cfg"), text).unwrap();
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cutover"));
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").args(arguments);
        output_alone(command.arg("-c").arg(self.path("felix.cfg")))
    }

    /// What `cutover doctor` says under this name: the level, what it is, and the change.
    fn finding(&self, check: &str) -> [String; 3] {
        let output = self.run(&["doctor", "--json"]);
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let findings = report["findings"].as_array().unwrap().iter();
        let found: Vec<_> = findings.filter(|finding| finding["check"] == check).collect();
        assert_eq!(found.len(), 1, "{check} in {report:#}");
        ["level", "what", "change"].map(|name| found[0][name].as_str().unwrap_or_default().to_owned())
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // Only what a test that failed has left.
        if self.pins.starts_with("/sys") && self.pins.exists() {
            let _ = fs::remove_dir_all(&self.pins);
        }
    }
}

/// The last line of its errors.
fn error(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default().to_owned()
}

/// Does what the error says.
fn mend(error: &str) {
    let (_, command) = error.split_once("then run: ").unwrap_or_else(|| panic!("no command in {error}"));
    assert!(Command::new("sh").args(["-c", command]).status().unwrap().success(), "{command}");
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Refused with these words, until what it says is done; cleanup and doctor say the same.
fn refused_until_mended(site: &Site, (setting, check): (&str, &str), path: &Path, words: &[&str]) {
    let path = path.display().to_string();
    for command in ["agent", "cleanup"] {
        let output = site.run(&[command]);
        let text = error(&output);
        assert_eq!(output.status.code(), Some(78), "{command}: {output:?}");
        for part in [&[setting, path.as_str()], words].concat() {
            assert!(text.contains(part), "{command}: no {part} in {text}");
        }
    }
    let text = error(&site.run(&["agent"]));
    let configuration = site.path("felix.cfg").display().to_string();
    assert!(text.starts_with(&format!("cutover: {configuration}:")), "where it was set: {text}");
    let [level, what, change] = site.finding(check);
    assert_eq!(level, "error");
    assert!(text.contains(&what) && text.ends_with(&change), "{what}, {change}, but the agent says {text}");
    mend(&text);
    assert_eq!(site.finding(check)[0], "ok", "{path} is mended");
}

#[test]
fn a_run_directory_that_others_can_change_is_refused_until_it_is_mended() {
    let site = Site::with_pins(|folder| folder.join("pins"));
    let (above, run) = (site.path("above"), site.path("above/run"));
    let refused = |path: &Path, words: &[&str]| {
        refused_until_mended(&site, ("CutoverRunDir", "agent.run-dir"), path, words);
        // What comes after the run directory is what is wrong with this host now.
        let output = site.run(&["agent"]);
        assert!(error(&output).contains("CutoverPinPath"), "{path:?}: {output:?}");
        assert_eq!(output.status.code(), Some(78));
    };
    set_mode(&run, 0o775);
    refused(&run, &["its group may write to", "owner 0, mode 0775", "chmod go-w "]);
    chown(&run, Some(SOMEBODY), None).unwrap();
    refused(&run, &["belongs to user 1000", "mode 0755", "chown root "]);
    set_mode(&above, 0o777);
    refused(&above, &["everybody may write to", "mode 0777"]);
    chown(&above, Some(SOMEBODY), None).unwrap();
    refused(&above, &["belongs to user 1000", "chown root "]);
    let state = run.join("state.json");
    // An agent that takes the directory sets such a file aside.
    fs::write(&state, "{}").unwrap();
    set_mode(&state, 0o666);
    refused(&state, &["everybody may write to", "mode 0666"]);
    fs::write(&state, "{}").unwrap();
    chown(&state, Some(SOMEBODY), None).unwrap();
    refused(&state, &["belongs to user 1000", "chown root "]);
    // Anybody can make a link in a folder like /tmp.
    fs::rename(&above, site.path("elsewhere")).unwrap();
    symlink("elsewhere", &above).unwrap();
    lchown(&above, Some(SOMEBODY), None).unwrap();
    refused(&above, &["belongs to user 1000", "chown --no-dereference root "]);
}

#[test]
fn the_run_directory_of_todays_hosts_is_taken() {
    let site = Site::with_pins(|folder| folder.join("pins"));
    for mode in [0o700, 0o755, 0o750] {
        set_mode(&site.path("above/run"), mode);
        assert!(error(&site.run(&["agent"])).contains("CutoverPinPath"), "{mode:o}");
    }
    // As /tmp is.
    set_mode(&site.path("above"), 0o1777);
    assert!(error(&site.run(&["agent"])).contains("CutoverPinPath"));
    assert_eq!(site.finding("agent.run-dir")[0], "ok");
}

#[test]
fn pins_that_others_can_change_are_refused_until_they_are_mended() {
    let name = format!("cut{}own", std::process::id());
    let site = Site::with_pins(|_| Path::new("/sys/fs/bpf").join(name));
    let maps = site.pins.join("maps");
    let make = || {
        for folder in [&site.pins, &maps] {
            if !folder.exists() {
                fs::DirBuilder::new().mode(0o700).create(folder).unwrap();
            }
        }
    };
    let refused = |path: &Path, words: &[&str]| {
        refused_until_mended(&site, ("CutoverPinPath", "kernel.pin-path"), path, words);
    };
    make();
    set_mode(&site.pins, 0o770);
    refused(&site.pins, &["its group may write to", "owner 0, mode 0770", "chmod go-w "]);
    chown(&site.pins, Some(SOMEBODY), None).unwrap();
    refused(&site.pins, &["belongs to user 1000", "mode 0750", "chown root "]);
    set_mode(&maps, 0o1777);
    refused(&maps, &["everybody may write to", "mode 1777"]);
    let output = site.run(&["cleanup"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(!site.pins.exists());
}
