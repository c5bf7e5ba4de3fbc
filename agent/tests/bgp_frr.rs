//! `cutover bgp frr` as people meet it: priorities from the settings, refusals with the setting to change.

use std::fs;
use std::process::{Command, Output};
use tempfile::TempDir;

const FITTING: &str = "IPv4NormalRoutePriority = 100665344\nIPv4ElevatedRoutePriority = 10\n\
IPv6NormalRoutePriority = 100665344\nIPv6ElevatedRoutePriority = 10\n";
const HOST: &[&str] = &["--as", "64601", "--router-id", "10.0.1.2"];
const PEER: &[&str] = &["--peer", "10.0.1.1"];

/// Runs the command with these settings and a FelixConfiguration in an otherwise empty datastore.
fn frr(settings: &str, resource: &str, arguments: &[&[&str]]) -> Output {
    let directory = TempDir::new().unwrap();
    let (file, resources) = (directory.path().join("felix.cfg"), directory.path().join("resources"));
    fs::create_dir(&resources).unwrap();
    if !resource.is_empty() {
        let document = format!(
            "apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {{name: default}}\nspec: {resource}\n"
        );
        fs::write(resources.join("felix.yaml"), document).unwrap();
    }
    let place = resources.display();
    fs::write(&file, format!("DatastoreType = dir\nCutoverDatastoreDir = {place}\n{settings}")).unwrap();
    Command::new(env!("CARGO_BIN_EXE_cutover"))
        .env_clear()
        .args(["bgp", "frr", "-c"])
        .arg(file)
        .args(arguments.concat())
        .output()
        .unwrap()
}

fn refused(output: &Output, code: i32, part: &str) {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    let text = str::from_utf8(&output.stderr).unwrap();
    assert!(text.starts_with("cutover: ") && text.contains(part) && text.lines().count() == 1, "{text}");
    assert!(output.stdout.is_empty());
}

#[test]
fn priorities_come_from_file_and_datastore() {
    let output = frr(FITTING, "", &[HOST, PEER]);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let text = str::from_utf8(&output.stdout).unwrap();
    assert!(text.contains("\n match metric 10\n") && text.contains("\n match metric 2048\n"));
    let resource = "{ipv4NormalRoutePriority: 117443512, ipv4ElevatedRoutePriority: 12}";
    let output = frr("", resource, &[HOST, PEER]);
    let text = str::from_utf8(&output.stdout).unwrap();
    assert!(text.contains("\n match metric 12\n") && text.contains("\n match metric 3000\n"), "{output:?}");
    assert!(text.contains("\n set distance 6\n"), "{output:?}");
}

#[test]
fn the_default_priorities_work_with_a_warning_that_names_the_setting_to_change() {
    for (peer, setting) in [("10.0.1.1", "IPv4NormalRoutePriority"), ("fd00::1", "IPv6NormalRoutePriority")] {
        let output = frr("", "", &[HOST, &["--peer", peer]]);
        assert!(output.status.success(), "{output:?}");
        let text = str::from_utf8(&output.stderr).unwrap();
        let change = format!("set {setting} = 100665344 ");
        assert!(text.starts_with("cutover: warning: ") && text.contains(&change), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(str::from_utf8(&output.stdout).unwrap().contains("\n! WARNING: "), "{output:?}");
    }
}

/// Nothing listens on port 9 of the loopback: what FelixConfigurations say is not known, and the file says so.
#[test]
fn what_could_not_be_read_is_said_in_the_file() {
    for (daemon, comment) in [("bird", '#'), ("frr", '!')] {
        let output = Command::new(env!("CARGO_BIN_EXE_cutover"))
            .env_clear()
            .env("FELIX_EtcdEndpoints", "http://127.0.0.1:9")
            .args(["bgp", daemon])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = str::from_utf8(&output.stdout).unwrap();
        assert!(text.starts_with(&format!("{comment} WARNING: the settings may not be all")), "{text}");
        assert!(str::from_utf8(&output.stderr).unwrap().starts_with("cutover: warning: "), "{output:?}");
    }
}

#[test]
fn priorities_that_no_numbers_can_carry_are_refused() {
    let far = FITTING.replace("IPv4ElevatedRoutePriority = 10", "IPv4ElevatedRoutePriority = 16777300");
    refused(&frr(&far, "", &[HOST, PEER]), 78, "set IPv4ElevatedRoutePriority = 10 ");
}

/// The command is whole without arguments; what only the operator knows is then a comment to fill in.
#[test]
fn what_is_not_said_is_left_to_fill_in() {
    let output = frr(FITTING, "", &[]);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let text = str::from_utf8(&output.stdout).unwrap();
    assert!(text.contains("\nrouter bgp 64512"), "{text}");
    assert!(text.lines().all(|line| line.trim().starts_with('!') || !line.contains("remote-as ")), "{text}");
}

#[test]
fn arguments_that_do_not_fit_are_refused() {
    for (arguments, part) in [
        (&[HOST, &["--peer", "tor1"]][..], "address@AS"),
        (&[HOST, &["--peer", "10.0.1.1@64512"]], "--peering ebgp"),
        (&[HOST, PEER, &["--peering", "ebgp"]], "--peer 10.0.1.1@NUMBER"),
        (&[HOST, PEER, &["--peering", "ebgp", "--community", "65536:1"]], "65536:1"),
        (&[PEER, &["--as", "0", "--router-id", "10.0.1.2"]], "0 is not in 1.."),
    ] {
        refused(&frr(FITTING, "", arguments), 64, part);
    }
    let only_ipv6 = format!("{FITTING}Ipv6Support = false");
    refused(&frr(&only_ipv6, "", &[HOST, &["--peer", "fd00::1"]]), 64, "Ipv6Support is false");
}
