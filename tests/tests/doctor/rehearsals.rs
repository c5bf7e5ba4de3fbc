//! Configurations, rehearsed with real daemons: those that were judged wrongly once, everything that `cutover bgp` prints, and that with
//! one thing wrong.
//!
//! What is right was seen between two hosts with BIRD 2.0.12 and 1.6.8 and FRR 8.4.4.

use cutover_tests::fabric::{Daemon, FRR_PRIORITIES};
use cutover_tests::site::{self, Seat};
use cutover_tests::{Agent, Bird, Directory, Host, Lab, Release, wait};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

/// Where nothing else is to be found: a host without links but its uplink, and no daemon.
struct Desk {
    agent: Agent,
    host: Host,
    _directory: Directory,
    lab: Lab,
}

type Problems = BTreeSet<(String, String)>;

impl Desk {
    fn new() -> Self {
        let lab = Lab::new();
        let directory = lab.directory();
        let host = lab.host("desk");
        let agent = Agent::new(&lab, &host, &directory).with("InterfacePrefix", "tap");
        Self { agent, host, _directory: directory, lab }
    }

    fn with_priorities_of_frr(mut self) -> Self {
        for family in ["IPv4", "IPv6"] {
            self.agent.set(&format!("{family}NormalRoutePriority"), FRR_PRIORITIES.normal);
            self.agent.set(&format!("{family}ElevatedRoutePriority"), FRR_PRIORITIES.elevated);
        }
        self
    }

    /// What is not as it should be with a file, by check and level.
    #[track_caller]
    fn problems(&self, release: Release, name: &str, text: &str) -> Problems {
        problems(&self.findings(release, name, text))
    }

    #[track_caller]
    fn findings(&self, release: Release, name: &str, text: &str) -> Vec<Value> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let folder = self.lab.folder().join(NUMBER.fetch_add(1, Ordering::Relaxed).to_string());
        fs::create_dir(&folder).expect("space on the disk");
        let file = folder.join(name);
        fs::write(&file, text).expect("space on the disk");
        let file = file.display().to_string();
        let is_frr = Release::FRRS.contains(&release);
        let program = release.program(if is_frr { "bgpd" } else { "bird" });
        let mut arguments =
            vec!["doctor", "--json", if is_frr { "--frr-conf" } else { "--bird-conf" }, &file];
        let place = if is_frr { program.parent().expect("a folder") } else { &program }.display().to_string();
        arguments.extend([if is_frr { "--frr-dir" } else { "--bird" }, &place]);
        let output = self.agent.run(&arguments);
        let report: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
        let findings = report["findings"].as_array().expect("findings").iter();
        let of_bgp =
            |finding: &&Value| finding["check"].as_str().is_some_and(|check| check.starts_with("bgp."));
        findings.filter(of_bgp).cloned().collect()
    }

    /// What `cutover bgp` prints.
    #[track_caller]
    fn printed(&self, arguments: &[&str]) -> String {
        self.agent.run_ok(&[&["bgp"], arguments].concat())
    }

    #[track_caller]
    fn judge(&self, release: Release, name: &str, text: &str, expected: &[(&str, &str)]) {
        let findings = self.findings(release, name, text);
        // It forgets IPv4 routes of VMs when another VM comes, whatever it is configured to do.
        let forgets = (release == Release::Frr107).then_some(&("announces", "error"));
        // This one and 10.3 do so now and then, in another way.
        let is_known = matches!(release, Release::Frr10 | Release::Frr107);
        let expected = expected.iter().chain(forgets).chain(is_known.then_some(&("release", "notice")));
        let expected: Problems =
            expected.map(|(check, level)| ((*check).to_owned(), (*level).to_owned())).collect();
        assert_eq!(problems(&findings), expected, "{release:?} with {text}: {findings:#?}");
    }
}

fn problems(findings: &[Value]) -> Problems {
    let of = |finding: &Value, what: &str| finding[what].as_str().unwrap_or_default().to_owned();
    let bad = findings.iter().filter(|finding| finding["level"] != "ok");
    bad.map(|finding| (of(finding, "check").replace("bgp.", ""), of(finding, "level"))).collect()
}

/// LIMIT: rehearsals wait more than they work, but FRR's daemons need a second of a processor to start.
const AT_ONCE: usize = 3;

/// Several at the same time; each has a stage of its own.
fn each<T: Sync>(cases: &[T], judge: impl Fn(&T) + Sync) {
    for some in cases.chunks(AT_ONCE) {
        thread::scope(|scope| {
            for case in some {
                scope.spawn(|| judge(case));
            }
        });
    }
}

/// Peers of one family alone are worth a notice, which most cases here have.
const ONE_FAMILY: (&str, &str) = ("announces", "notice");

#[test]
fn what_was_judged_wrongly_once_is_judged_rightly_bird() {
    let desk = Desk::new();
    let teller: &[_] = &[ONE_FAMILY, ("into-kernel", "error")];
    let cases = [
        (include_str!("cases/add-paths.bird"), &[ONE_FAMILY, ("local-elevated-wins", "notice")][..]),
        (include_str!("cases/undefined-community.bird"), &[ONE_FAMILY]),
        (include_str!("cases/next-hop-from-ospf.bird"), &[ONE_FAMILY]),
        (include_str!("cases/kernel-protocol-only-learns.bird"), teller),
        (include_str!("cases/session-to-a-vm.bird"), &[ONE_FAMILY]),
        // It depends on addresses.
        (include_str!("cases/function-with-early-locals.bird"), &[ONE_FAMILY]),
    ];
    each(&cases, |(text, expected)| desk.judge(Release::Bird2, "bird.conf", text, expected));
    let both_ends = include_str!("cases/add-paths.bird").replace("add paths on;", "add paths rx;");
    desk.judge(Release::Bird2, "bird.conf", &both_ends, &[ONE_FAMILY, ("local-elevated-wins", "error")]);
}

#[test]
fn what_was_judged_wrongly_once_is_judged_rightly_bird_1() {
    if !Release::Bird16.is_there("rehearsals") {
        return;
    }
    let desk = Desk::new();
    let text = include_str!("cases/bird1-metric-in-import.bird");
    desk.judge(Release::Bird16, "bird.conf", text, &[("kernel-metric", "error")]);
    let in_place = text.replace(
        "export where source = RTS_BGP;",
        "export filter { if source != RTS_BGP then reject; krt_metric = 2147483648 - bgp_local_pref; accept; };",
    );
    desk.judge(Release::Bird16, "bird.conf", &in_place, &[("one-step", "notice")]);
    // BIRD 2 does not read it.
    desk.judge(Release::Bird2, "bird.conf", text, &[("configuration", "error")]);
}

#[test]
fn what_was_judged_wrongly_once_is_judged_rightly_frr() {
    let desk = Desk::new().with_priorities_of_frr();
    for release in Release::FRRS {
        if !release.is_there("rehearsals") {
            continue;
        }
        let cases = [
            (include_str!("cases/frr-datacenter-defaults.frr"), &[ONE_FAMILY][..]),
            (include_str!("cases/frr-prefix-list-out.frr"), &[ONE_FAMILY, ("announces", "error")]),
            (
                include_str!("cases/frr-relative-local-preference.frr"),
                &[ONE_FAMILY, ("remote-elevated-wins", "error")],
            ),
            (include_str!("cases/frr-ip-protocol-map.frr"), &[ONE_FAMILY, ("into-kernel", "error")]),
        ];
        each(&cases, |(text, expected)| desk.judge(release, "frr.conf", text, expected));
        let found = desk.problems(release, "frr.conf", include_str!("cases/frr-graceful-shutdown.frr"));
        assert!(found.contains(&("elevated-announced".into(), "error".into())), "{release:?}: {found:?}");
    }
}

const HOST: &[&str] = &["--as", "64601", "--router-id", "10.0.1.2"];
const MESH: &[&str] = &["--peer", "10.0.1.1", "--peer", "10.0.1.5", "--peer", "2001:db8:0:1::1"];
const TOR: &[&str] = &[
    "--peering",
    "ebgp",
    "--peer",
    "10.0.1.1@64512",
    "--peer",
    "10.0.1.5@64512",
    "--peer",
    "2001:db8:0:1::1@64512",
];

/// What is printed for a release.
fn printed(desk: &Desk, release: Release, peers: &[&str], more: &[&str]) -> String {
    let daemon: &[&str] = match release {
        Release::Bird16 => &["bird1"],
        Release::Bird3 | Release::Bird34 => &["bird", "--bird-version", "3"],
        release if Release::FRRS.contains(&release) => &["frr"],
        _ => &["bird"],
    };
    desk.printed(&[daemon, HOST, peers, more].concat())
}

fn desk_for(release: Release) -> Desk {
    let desk = Desk::new();
    if Release::FRRS.contains(&release) { desk.with_priorities_of_frr() } else { desk }
}

#[test]
fn nothing_is_wrong_with_what_is_printed() {
    let mut releases = [&[Release::Bird16][..], &Release::BIRDS, &Release::FRRS].concat();
    releases.retain(|release| release.is_there("rehearsals"));
    each(&releases, |&release| {
        let desk = desk_for(release);
        let name = if Release::FRRS.contains(&release) { "frr.conf" } else { "bird.conf" };
        // It takes its routes out of the kernel when it is told to end, whatever it is told before.
        let expected: &[_] = if release == Release::Bird34 { &[("restart", "warning")] } else { &[] };
        // A mesh with BIRD 3 is one in which a third host is without a route now and then.
        let races: &[_] = if release.is_bird_3() { &[("release", "notice")] } else { &[] };
        let in_a_mesh = [expected, races].concat();
        desk.judge(release, name, &printed(&desk, release, MESH, &[]), &in_a_mesh);
        desk.judge(release, name, &printed(&desk, release, TOR, &[]), expected);
        if release == Release::Bird16 {
            let text = printed(&desk, release, MESH, &["--family", "ipv6"]);
            desk.judge(release, "bird6.conf", &text, &[]);
        } else if release.daemon() == Release::Bird2.daemon() {
            let text = printed(&desk, release, MESH, &["--kernel-metric", "mapped"]);
            desk.judge(release, name, &text, &[&in_a_mesh[..], &[("one-step", "notice")]].concat());
        }
    });
}

/// A site's own configuration, with what it is told to add.
#[test]
fn nothing_is_wrong_with_what_a_site_has_added() {
    let mut releases = [&[Release::Bird16][..], &Release::BIRDS, &Release::FRRS].concat();
    releases.retain(|release| release.is_there("rehearsals"));
    let peers = ["--peering", "ebgp", "--peer", "10.98.1.1@64512", "--peer", "fd98:1::1@64512", "--snippet"];
    let [ipv4, ipv6] = ["10.98.1.1", "fd98:1::1"].map(str::to_owned);
    let seat = Seat { number: 1, router_id: "10.98.1.2".to_owned(), ipv4, ipv6 };
    each(&releases, |&release| {
        let desk = desk_for(release);
        let name = if Release::FRRS.contains(&release) { "frr.conf" } else { "bird.conf" };
        let text = site::with_snippet(release, &seat, &printed(&desk, release, &peers, &[]));
        // It takes its routes out of the kernel when it is told to end, whatever it is told before.
        let restart = (release == Release::Bird34).then_some(("restart", "warning"));
        // The filter for what comes from the ToR names the network that VMs are in, and refuses others.
        let is_bird = release.daemon() == Daemon::Bird;
        let networks = is_bird.then_some(("into-kernel", "notice"));
        let expected: Vec<_> = restart.into_iter().chain(networks).collect();
        desk.judge(release, name, &text, &expected);
    });
}

/// Sessions that are signed and go to peers that are on no subnet of the host's.
#[test]
fn nothing_is_wrong_with_what_is_printed_for_guarded_sessions() {
    let mut releases = [&[Release::Bird16][..], &Release::BIRDS, &Release::FRRS].concat();
    releases.retain(|release| release.is_there("rehearsals"));
    each(&releases, |&release| {
        let desk = desk_for(release);
        let name = if Release::FRRS.contains(&release) { "frr.conf" } else { "bird.conf" };
        let password = desk.lab.folder().join("password");
        fs::write(&password, "s3cret").expect("space on the disk");
        let password = password.display().to_string();
        let sessions = ["--password-file", &password, "--multihop", "3", "--source", "10.0.1.2"];
        let text = printed(&desk, release, TOR, &sessions);
        let expected: &[_] = if release == Release::Bird34 { &[("restart", "warning")] } else { &[] };
        desk.judge(release, name, &text, expected);
    });
}

#[test]
fn each_correction_that_is_taken_away_is_exactly_one_check() {
    use Release::{Bird2, Frr8};
    let cases = [
        (Bird2, MESH, "  learn;\n", "", ("learns", "error")),
        (Bird2, MESH, "  metric 768;\n", "", ("metric-option", "error")),
        (Bird2, MESH, "  persist;\n", "", ("restart", "warning")),
        (
            Bird2,
            TOR,
            "    preference = 150;\n    if krt_metric < 1024 then preference = 250;\n",
            "",
            ("local-elevated-wins", "error"),
        ),
        (Bird2, MESH, "then preference = 200;", "then preference = 120;", ("remote-elevated-wins", "error")),
        (Bird2, MESH, "    export filter cutover_install4;\n", "", ("into-kernel", "error")),
        (Bird2, MESH, "    export filter cutover_export4;\n", "", ("announces", "error")),
        (
            Bird2,
            MESH,
            "  if net.len != 32 || !(ifname ~ \"cali*\" || ifname ~ \"tap*\") then reject;\n",
            "",
            ("only-vms", "warning"),
        ),
        (Frr8, MESH, " bgp graceful-restart\n", "", ("restart", "warning")),
        (Frr8, MESH, "  redistribute kernel route-map CUTOVER-KERNEL4\n", "", ("learns", "error")),
        (Frr8, MESH, " set weight 0\n", "", ("remote-elevated-wins", "error")),
        (Frr8, MESH, " set distance 5\n", "", ("remote-elevated-wins", "error")),
        (Frr8, MESH, " match ip address prefix-list CUTOVER-VM4\n", "", ("only-vms", "warning")),
        (
            Frr8,
            MESH,
            "route-map CUTOVER-IN4 permit 20\n",
            "route-map CUTOVER-IN4 deny 20\n",
            ("into-kernel", "error"),
        ),
        (Frr8, TOR, "  neighbor CUTOVER4 route-map CUTOVER-OUT4 out\n", "", ("announces", "error")),
    ];
    each(&cases, |&(release, peers, from, to, expected)| {
        let desk = desk_for(release);
        let name = if release == Frr8 { "frr.conf" } else { "bird.conf" };
        let text = printed(&desk, release, peers, &[]);
        let from = from.replace("(ifname ~ \"cali*\" || ifname ~ \"tap*\")", "(ifname ~ \"tap*\")");
        assert!(text.contains(&from), "{from:?} is not in {text}");
        desk.judge(release, name, &text.replace(&from, to), &[expected]);
    });
}

/// The daemon ends the session because of what our speaker tells it: that it was told nothing afterwards says nothing.
#[test]
fn a_session_that_does_not_last_has_no_verdict() {
    let desk = Desk::new();
    let text = printed(&desk, Release::Bird2, &["--peer", "10.0.1.1"], &[]);
    let from = "    import filter cutover_import4;\n";
    assert!(text.contains(from), "{from:?} is not in {text}");
    let text = text.replace(from, &format!("{from}    import limit 1 action disable;\n"));
    let findings = desk.findings(Release::Bird2, "bird.conf", &text);
    let says = |it: &Value| it["what"].as_str().unwrap_or_default().contains("did not last");
    assert!(findings.iter().any(|it| it["check"] == "bgp.announces" && says(it)), "{findings:#?}");
    let is_verdict = |it: &Value| it["check"] == "bgp.only-vms" || it["check"] == "bgp.into-kernel";
    assert!(!findings.iter().any(is_verdict), "{findings:#?}");
}

/// Below folders that are empty on the stage, for daemons to write to.
#[test]
fn what_a_configuration_includes_is_there() {
    let desk = Desk::new();
    let folder = desk.lab.folder();
    assert!(folder.starts_with("/tmp") || folder.starts_with("/dev/shm"), "{folder:?} is not empty there");
    let text = printed(&desk, Release::Bird2, MESH, &[]);
    let (filters, peers) = text.split_at(text.find("protocol bgp").expect("peers"));
    fs::create_dir(folder.join("peers")).expect("space");
    fs::write(folder.join("peers/all.conf"), peers).expect("space");
    let text = format!("{filters}\ninclude \"{}/peers/*.conf\";\n", folder.display());
    desk.judge(Release::Bird2, "bird.conf", &text, &[]);
}

#[test]
fn what_is_no_file_is_refused_at_once() {
    let desk = Desk::new();
    let pipe = desk.lab.folder().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    for file in [pipe.to_str().expect("a plain path"), "/dev/zero", "/", "/nonexistent"] {
        for option in ["--bird-conf", "--frr-conf"] {
            let output = desk.agent.run(&["doctor", "--json", option, file]);
            let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
            let mut findings = report["findings"].as_array().expect("findings").iter();
            let is_named = findings.any(|finding| {
                finding["check"] == "bgp.configuration"
                    && finding["level"] == "error"
                    && finding["what"].as_str().unwrap_or_default().starts_with(file)
            });
            assert!(is_named, "{option} {file}: {report:#}");
        }
    }
}

/// Whatever was begun when the doctor was killed.
#[test]
fn a_doctor_that_is_killed_leaves_nobody_behind() {
    let desk = Desk::new();
    for (release, name) in [(Release::Bird2, "bird.conf"), (Release::Frr8, "frr.conf")] {
        let text = printed(&desk_for(release), release, MESH, &[]);
        let file = desk.lab.folder().join(name);
        fs::write(&file, text).expect("space on the disk");
        let file = file.display().to_string();
        let option = if release == Release::Frr8 { "--frr-conf" } else { "--bird-conf" };
        let mut seen = 0;
        for after_ms in [20, 50, 100, 200, 400, 700, 1000, 1500] {
            let mut doctor = desk.agent.spawn_command(&["doctor", option, &file]);
            thread::sleep(Duration::from_millis(after_ms));
            let stages = stages_of(doctor.id());
            seen += stages.len();
            // It may be over on a fast machine.
            let _ = doctor.kill();
            let _ = doctor.wait();
            let mut left = Vec::new();
            let is_clean = wait::holds_within(wait::SOON, || {
                left = processes_in(&stages);
                left.is_empty()
            });
            assert!(is_clean, "{release:?} after {after_ms} ms: {left:?}");
        }
        assert!(seen > 0, "no doctor of {release:?} was killed while there was a stage");
    }
}

/// The process namespaces of the children of a process.
fn stages_of(pid: u32) -> BTreeSet<PathBuf> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let children = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    let children: Vec<String> =
        children.flat_map(|it| it.split(' ').map(str::to_owned).collect::<Vec<_>>()).collect();
    let own = fs::read_link("/proc/self/ns/pid").expect("a process has a namespace");
    let stages = children.iter().filter_map(|child| fs::read_link(format!("/proc/{child}/ns/pid")).ok());
    stages.filter(|stage| *stage != own).collect()
}

/// What still runs in them.
fn processes_in(stages: &BTreeSet<PathBuf>) -> Vec<String> {
    let entries = fs::read_dir("/proc").expect("a process table").flatten();
    let is_in = |entry: &fs::DirEntry| {
        fs::read_link(entry.path().join("ns/pid")).is_ok_and(|stage| stages.contains(&stage))
    };
    let command = |entry: fs::DirEntry| fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
    entries.filter(is_in).map(command).collect()
}

/// The daemon that runs goes on with its session, and kernel and files are as before.
#[test]
fn nothing_of_the_host_is_touched() {
    let desk = Desk::new();
    let text = printed(&desk, Release::Bird2, MESH, &[]);
    let log = desk.lab.folder().join("bird.log");
    let text = format!("log \"{}\" all;\n{text}", log.display());
    let bird = Bird::start(&desk.lab, &desk.host, &text, Release::Bird2);
    let ip = |arguments: &[&str]| {
        let output = desk.host.namespace().command("ip").args(arguments).output().expect("iproute2");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let state = || {
        let mut files: Vec<String> = fs::read_dir(desk.lab.folder())
            .expect("a folder")
            .flatten()
            .filter(|entry| !entry.path().is_dir())
            .map(|entry| format!("{:?} {}", entry.file_name(), entry.metadata().expect("it is there").ino()))
            .collect();
        files.sort();
        let known = bird.ask(&["show", "interfaces"]);
        let kernel = [&["link"][..], &["address"], &["route"], &["-6", "route"]].map(ip);
        (files, known, kernel)
    };
    let has_begun = || bird.ask(&["show", "interfaces"]).contains("fe80:") && log.exists();
    wait::until(wait::SOON, "BIRD knows its link", has_begun);
    let before = state();
    let found = desk.problems(Release::Bird2, "bird.conf", &text);
    assert_eq!((found, state()), (Problems::new(), before));
}

/// The settings were changed, and nobody printed the configuration again.
#[test]
fn old_numbers_are_found() {
    let mut desk = Desk::new();
    let text = printed(&desk, Release::Bird2, TOR, &[]);
    for family in ["IPv4", "IPv6"] {
        desk.agent.set(&format!("{family}NormalRoutePriority"), 500);
        desk.agent.set(&format!("{family}ElevatedRoutePriority"), 300);
    }
    desk.judge(Release::Bird2, "bird.conf", &text, &[("priorities", "error")]);
    let mut desk = Desk::new().with_priorities_of_frr();
    let text = printed(&desk, Release::Frr8, MESH, &[]);
    for family in ["IPv4", "IPv6"] {
        desk.agent.set(&format!("{family}NormalRoutePriority"), (6 << 24) + 3000);
        desk.agent.set(&format!("{family}ElevatedRoutePriority"), 12);
    }
    desk.judge(Release::Frr8, "frr.conf", &text, &[("priorities", "error")]);
}
