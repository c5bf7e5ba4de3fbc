//! A host whose VMs are announced by a real BIRD: with the configuration that `cutover bgp` prints, and with broken ones.

use crate::{only, problems, report, route_out};
use cutover_tests::scene::{NORMAL, Node, SOURCE};
use cutover_tests::{Directory, Driver, Host, Lab, Port, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

/// How long two BIRDs may take to agree.
///
/// LIMIT: only failing tests wait this long.
const SESSION: Duration = Duration::from_secs(30);

/// A BIRD in the namespace of a host.
struct Bird {
    child: Child,
}

impl Bird {
    fn start(lab: &Lab, host: &Host, configuration: &str) -> Self {
        let path = |ending: &str| -> PathBuf { lab.folder().join(format!("{}.bird.{ending}", host.name())) };
        fs::write(path("conf"), configuration).expect("space");
        let mut command = host.namespace().command("bird");
        command.arg("-f").arg("-c").arg(path("conf")).arg("-s").arg(path("ctl"));
        let child =
            command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("Debian's bird2 is installed");
        Self { child }
    }
}

impl Drop for Bird {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        // It may have ended by itself.
        let _ = kill(pid, Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

struct Site {
    node: Node,
    peer: Host,
    _directory: Directory,
    lab: Lab,
}

impl Site {
    /// A host with a running agent and one VM, and another host.
    fn new() -> Self {
        let lab = Lab::new();
        let (directory, port) = (lab.directory(), Port::new(1));
        let mut node = Node::new(&lab, SOURCE, &directory, &port);
        let peer = lab.host("peer");
        node.open();
        route_out(&node.host);
        Driver::new(&directory, &port).bind(SOURCE);
        node.agent.start_in_sync();
        node.wait_metrics(&port, &[NORMAL]);
        node.agent.wait_up(&port);
        Self { node, peer, _directory: directory, lab }
    }

    /// What `cutover bgp bird` prints for one of the hosts.
    fn printed(&self, own: &Host, other: &Host) -> String {
        let (id, peer) = (own.ipv4().to_string(), other.ipv4().to_string());
        let peer_6 = other.ipv6().to_string();
        let arguments =
            ["bgp", "bird", "--as", "65000", "--router-id", &id, "--peer", &peer, "--peer", &peer_6];
        self.node.agent.run_ok(&arguments)
    }

    /// Waits until the doctor finds this and nothing else: sessions take their time.
    #[track_caller]
    fn wait_problems(&self, expected: &[&str]) {
        let mut found = BTreeSet::new();
        let is_so = wait::holds_within(SESSION, || {
            found = problems(&self.node, &[]);
            found == only(expected)
        });
        assert!(is_so, "{found:?}, not {expected:?}: {:#}", report(&self.node, &[]));
    }
}

#[test]
fn what_cutover_prints_is_right_and_what_breaks_it_is_found() {
    let site = Site::new();
    let (own, peer) = (&site.node.host, &site.peer);
    let right = site.printed(own, peer);
    let other = Bird::start(&site.lab, peer, &site.printed(peer, own));
    let bird = Bird::start(&site.lab, own, &right);
    site.wait_problems(&[]);
    let report = report(&site.node, &[]);
    let findings = report["findings"].as_array().expect("findings");
    let running = findings.iter().find(|finding| finding["check"] == "bgp.running").expect("it was asked");
    assert_eq!(running["level"], "ok", "{running}");

    drop(other);
    site.wait_problems(&["bgp.running"]);
    let _other = Bird::start(&site.lab, peer, &site.printed(peer, own));
    site.wait_problems(&[]);
    drop(bird);

    for (edits, expected) in [
        (&[("  metric 768;\n", "")][..], &["bgp.metric-option"][..]),
        // The running daemon says the same as its file.
        (&[("  learn;\n", "")], &["bgp.learns", "bgp.running"]),
        // With add paths it would be told all the same.
        (
            &[("then preference = 250;", "then preference = 90;"), ("    add paths on;\n", "")],
            &["bgp.local-elevated-wins"],
        ),
        (&[("then preference = 200;", "then preference = 100;")], &["bgp.remote-elevated-wins"]),
    ] {
        let mut configuration = right.clone();
        for (from, to) in edits {
            assert!(configuration.contains(from), "{from:?} is not in {configuration}");
            configuration = configuration.replace(from, to);
        }
        let bird = Bird::start(&site.lab, own, &configuration);
        site.wait_problems(expected);
        drop(bird);
    }
}

/// A file can be judged where no daemon runs, as on the machine of somebody who writes it.
#[test]
fn files_can_be_named() {
    let site = Site::new();
    let right = site.printed(&site.node.host, &site.peer);
    let file = site.lab.folder().join("bird.conf");
    let file_name = file.display().to_string();
    fs::write(&file, &right).expect("space");
    assert_eq!(problems(&site.node, &["--bird-conf", &file_name]), only(&[]));
    fs::write(&file, right.replace("  persist;\n  graceful restart;\n", "")).expect("space");
    let found = problems(&site.node, &["--bird-conf", &file_name]);
    assert_eq!(found, only(&["bgp.restart"]), "{right}");
    let found = problems(&site.node, &["--frr-conf", "/nowhere/frr.conf"]);
    assert_eq!(found, only(&["bgp.configuration"]));
}
