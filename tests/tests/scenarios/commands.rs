//! The command line around a running agent, its exit codes, and what is left after `cleanup`.

#![expect(unsafe_code, reason = "gives up the privileges of a thread")]

use cutover_tests::route_watch::dump_neighbours;
use cutover_tests::scene::{ELEVATED, NORMAL, Node, SOURCE, Scene, TARGET};
use cutover_tests::{Agent, Driver, Lab, Port, frames, wait};
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;

/// W22: such a configuration would take every VM's route away at the end of its first migration.
#[test]
fn w22_an_elevated_priority_that_does_not_win_stops_the_start() {
    for (name, value) in [
        ("IPv4ElevatedRoutePriority", "1024"),
        ("IPv6ElevatedRoutePriority", "2000"),
        ("IPv4NormalRoutePriority", "512"),
    ] {
        let lab = Lab::new();
        let directory = lab.directory();
        let port = Port::new(1);
        let mut node = Node::new(&lab, SOURCE, &directory, &port);
        Driver::new(&directory, &port).bind(SOURCE);
        node.agent.set(name, value);
        node.agent.spawn();
        let status = node.agent.wait_ended();
        assert_eq!(status.code(), Some(78), "{name} = {value}:\n{}", node.agent.log_text());
        node.agent.log().wait(wait::SOON, &["Priority"]);
        for to in port.routed() {
            node.watch.history().assert_never_with(to);
        }
    }
}

#[test]
fn a_configuration_that_cannot_be_parsed_stops_the_start() {
    let lab = Lab::new();
    let mut node = Node::new(&lab, SOURCE, &lab.directory(), &Port::new(1));
    std::fs::write(node.agent.configuration(), "[global\nthis is not = = a file\nneither this\n")
        .expect("a file");
    node.agent.spawn();
    assert_eq!(node.agent.wait_ended().code(), Some(78), "{}", node.agent.log_text());
    let path = node.agent.configuration().display().to_string();
    node.agent.log().wait(wait::SOON, &[&path]);
}

#[test]
fn wrong_usage_exits_with_64_and_a_missing_agent_with_69() {
    let lab = Lab::new();
    let node = Node::new(&lab, SOURCE, &lab.directory(), &Port::new(1));
    assert_eq!(node.agent.run(&["no-such-command"]).status.code(), Some(64));
    assert_eq!(node.agent.run(&["agent", "--no-such-option"]).status.code(), Some(64));
    let output = node.agent.run(&["status"]);
    assert_eq!(output.status.code(), Some(69));
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(text.trim_end().lines().count(), 1, "one line that says what, where and how: {text}");
    for arguments in [&["--help"][..], &["agent", "--help"], &["status", "--help"], &["cleanup", "--help"]] {
        assert!(node.agent.run(arguments).status.success(), "{arguments:?}");
    }
}

#[test]
fn a_second_agent_on_one_run_directory_refuses_to_start() {
    let lab = Lab::new();
    let directory = lab.directory();
    let mut node = Node::new(&lab, SOURCE, &directory, &Port::new(1));
    node.agent.start();
    let path = node.agent.configuration().display().to_string();
    let second = node.agent.run(&["agent", "-c", &path]);
    assert!(!second.status.success());
    assert!(node.agent.has_ended().is_none());
    assert!(node.agent.status().is_object());
}

#[test]
fn status_tells_what_the_agent_knows() {
    let mut scene = Scene::new();
    let uid = scene.start_migration();
    let name = scene.port.name_on(TARGET);
    let status = scene.target.agent.status();
    assert_eq!(status["hostname"], TARGET);
    assert_eq!(status["in_sync"], true);
    let endpoint = &status["endpoints"][0];
    assert_eq!(endpoint["name"], name);
    assert_eq!(endpoint["interface"], scene.port.interface);
    assert_eq!(endpoint["ifindex"], scene.target.tap().ifindex());
    assert_eq!((&endpoint["role"], &endpoint["state"]), (&"TARGET".into(), &"Target".into()));
    assert_eq!(endpoint["migration_uid"], uid);
    assert_eq!(endpoint["status"], "up");
    assert_eq!(endpoint["routes"], serde_json::json!([]));
    assert!(endpoint["watch"].is_u64());
    assert_eq!(status["kernel_routes"], serde_json::json!([]));

    let mac = scene.port.mac;
    scene.move_vm(|qemu| qemu.send(&frames::rarp(mac)));
    scene.target.wait_metrics(&scene.port, &[ELEVATED]);
    scene.target.wait_state(&scene.port, "Live");
    let endpoint = scene.target.agent.status()["endpoints"][0].clone();
    assert_eq!(endpoint["state"], "Live");
    assert_eq!(endpoint["announcement"], "RARP");
    // The fast path did it, not the route applier after it.
    let taken = endpoint["announced_to_routed_ns"].as_u64().expect("the fast path's time");
    assert!(taken < 1_000_000_000, "{taken} ns");
    let metrics: Vec<u64> = endpoint["routes"]
        .as_array()
        .expect("routes")
        .iter()
        .filter_map(|route| route["metric"].as_u64())
        .collect();
    assert_eq!(metrics, [u64::from(ELEVATED); 2]);
    let table = scene.target.agent.run_ok(&["status"]);
    for part in [name.as_str(), "TARGET", "Live", &scene.port.interface] {
        assert!(table.contains(part), "no {part} in\n{table}");
    }
    let source = scene.source.agent.status()["endpoints"][0].clone();
    assert_eq!((&source["role"], &source["state"]), (&"SOURCE".into(), &"Base".into()));
}

#[test]
fn the_status_socket_is_for_root_only() {
    let lab = Lab::new();
    let mut node = Node::new(&lab, SOURCE, &lab.directory(), &Port::new(1));
    node.agent.start();
    let socket = node.agent.run_dir().join("cutover.sock");
    let metadata = std::fs::metadata(&socket).expect("a socket");
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    // Even where the folders above it are open to everybody.
    for folder in socket.ancestors().skip(1).take_while(|folder| folder.starts_with(lab.folder())) {
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).expect("it is ours");
    }
    assert!(UnixStream::connect(&socket).is_ok());
    let refused = as_nobody(|| UnixStream::connect(&socket).map(drop));
    assert_eq!(refused.expect_err("refused").kind(), io::ErrorKind::PermissionDenied);
}

/// Does something in a thread that is not root.
fn as_nobody<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    const NOBODY: libc::c_long = 65_534;
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                // KERNEL: the bare system call changes this thread only; the one of libc changes all of them.
                // SAFETY: takes three numbers and touches no memory.
                let result = unsafe { libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) };
                assert_eq!(result, 0, "{}", io::Error::last_os_error());
                work()
            })
            .join()
            .expect("the thread does not panic")
    })
}

/// A log that nobody takes any more, as that of a journal that was restarted, costs its lines and nothing else.
#[test]
fn an_agent_that_cannot_log_works_on() {
    let lab = Lab::new();
    let directory = lab.directory();
    let port = Port::new(1);
    let mut node = Node::new(&lab, SOURCE, &directory, &port);
    let (reader, writer) = io::pipe().expect("a pipe");
    drop(reader);
    let full = File::options().write(true).open("/dev/full").expect("every Linux has it");
    for (nth, stderr) in [Stdio::from(writer), Stdio::from(full)].into_iter().enumerate() {
        node.agent.spawn_logging_to(stderr);
        node.agent.wait_answering();
        let driver = Driver::new(&directory, &port);
        driver.bind(SOURCE);
        wait::until(wait::SOON, "the endpoint is known", || node.agent.status_of(&port).is_some());
        assert_eq!(node.agent.terminate().code(), Some(0), "round {nth}");
    }
}

#[test]
fn a_pin_path_that_cannot_be_used_stops_the_start() {
    let lab = Lab::new();
    let mut node = Node::new(&lab, SOURCE, &lab.directory(), &Port::new(1));
    let usable = node.agent.pin_path().to_owned();
    for (path, code) in [(usable.with_extension("dot"), 78), (lab.folder().join("pins"), 78)] {
        node.agent.set("CutoverPinPath", path.display());
        node.agent.spawn();
        let status = node.agent.wait_ended();
        assert_eq!(status.code(), Some(code), "{}:\n{}", path.display(), node.agent.log_text());
        node.agent.log().wait(wait::SOON, &["cutover: ", "CutoverPinPath", &path.display().to_string()]);
        assert!(!path.exists());
    }
    let log = node.agent.log().lines();
    let said = log.last().expect("a line").text.clone();
    assert!(said.contains(&node.agent.configuration().display().to_string()), "where it was set: {said}");
    node.agent.set("CutoverPinPath", usable.display());
}

/// Somebody chose it, so it is the configuration that is wrong.
#[test]
fn a_run_directory_that_cannot_be_made_stops_the_start() {
    let lab = Lab::new();
    let node = Node::new(&lab, SOURCE, &lab.directory(), &Port::new(1));
    let path = lab.folder().join("nowhere.cfg");
    let text = std::fs::read_to_string(node.agent.configuration()).expect("a configuration");
    std::fs::write(&path, format!("{text}CutoverRunDir = /proc/nope\n")).expect("space on the disk");
    let path = path.display().to_string();
    let output = node.agent.run_by_file(&["agent", "-c", &path]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{error}");
    let last = error.lines().last().unwrap_or_default();
    for part in [path.as_str(), "CutoverRunDir", "/proc/nope"] {
        assert!(last.contains(part), "no {part} in {last}");
    }
}

/// Two agents would take each other's announcements from one ring buffer; looking at what is there is fine.
#[test]
fn one_agent_has_the_pins_and_the_run_directory() {
    let lab = Lab::new();
    let mut node = Node::new(&lab, SOURCE, &lab.directory(), &Port::new(1));
    node.agent.start();
    let first = node.agent.configuration().to_owned();
    let text = std::fs::read_to_string(&first).expect("a configuration");
    let run_dir = lab.folder().join("elsewhere").display().to_string();
    let elsewhere = lab.folder().join("elsewhere.cfg");
    std::fs::write(&elsewhere, format!("{text}CutoverRunDir = {run_dir}\n")).expect("space on the disk");
    for configuration in [&first, &elsewhere] {
        let output = node.agent.run(&["agent", "-c", &configuration.display().to_string()]);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains("another agent is running with this"), "{text}");
    }
    let output = node.agent.run(&["cleanup", "--dry-run", "-c", &first.display().to_string()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("would remove map"));
    let output = node.agent.run(&["cleanup", "-c", &first.display().to_string()]);
    assert_eq!(output.status.code(), Some(1));
}

/// Root without what the agent needs, as in a container.
#[test]
fn a_missing_capability_exits_with_77() {
    const CAP_NET_ADMIN: libc::c_ulong = 12;
    const CAP_SYS_ADMIN: libc::c_ulong = 21;
    const CAP_BPF: libc::c_ulong = 39;
    let lab = Lab::new();
    let node = Node::new(&lab, SOURCE, &lab.directory(), &Port::new(1));
    let path = node.agent.configuration().display().to_string();
    for dropped in [&[CAP_NET_ADMIN][..], &[CAP_SYS_ADMIN, CAP_BPF]] {
        let output = without(dropped, || node.agent.run(&["agent", "-c", &path]));
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(77), "{dropped:?}: {text}");
        let last = text.lines().last().unwrap_or_default();
        assert!(last.starts_with("cutover: ") && last.contains("CAP_"), "{text}");
    }
}

/// Does something in a thread whose children cannot have some capabilities.
fn without<T: Send>(dropped: &[libc::c_ulong], work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                for &capability in dropped {
                    // SAFETY: takes numbers and touches no memory; it changes this thread only.
                    let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
                    assert_eq!(result, 0, "{}", io::Error::last_os_error());
                }
                work()
            })
            .join()
            .expect("the thread does not panic")
    })
}

/// `check-config` says what counts and where it comes from.
#[test]
fn check_config_shows_values_and_their_sources() {
    let lab = Lab::new();
    let mut node = Node::new(&lab, SOURCE, &lab.directory(), &Port::new(1));
    node.agent.set("IPv4NormalRoutePriority", 777);
    let path = node.agent.configuration().display().to_string();
    let text = node.agent.run_ok(&["check-config", "-c", &path]);
    let line = text.lines().find(|line| line.contains("IPv4NormalRoutePriority")).expect("every setting");
    assert!(line.contains("777"), "{line}");
    node.agent.set("IPv4ElevatedRoutePriority", 900);
    assert_eq!(node.agent.run(&["check-config", "-c", &path]).status.code(), Some(78));
}

#[test]
fn cleanup_takes_everything_away() {
    let mut scene = Scene::new();
    scene.start_migration();
    let mac = scene.port.mac;
    scene.move_vm(|qemu| qemu.send(&frames::rarp(mac)));
    scene.target.wait_metrics(&scene.port, &[ELEVATED]);
    let node = &mut scene.target;
    node.agent.kill();

    let mark = node.watch.mark();
    let listed = node.agent.run_ok(&["cleanup", "--dry-run"]);
    assert!(listed.contains(&node.agent.pin_path().display().to_string()), "{listed}");
    assert!(listed.contains(&scene.port.ipv4().addr().to_string()), "{listed}");
    assert_eq!(node.watch.since(mark).writes_to(node.tap().ifindex()), Vec::<&_>::new(), "--dry-run writes");
    assert!(node.agent.pin_path().exists());

    node.agent.run_ok(&["cleanup"]);
    assert!(node.has_metrics(&scene.port, &[]));
    let neighbours = node.host.namespace().run(dump_neighbours).expect("a dump");
    let tap = node.tap().ifindex();
    let ours: Vec<_> =
        neighbours.iter().filter(|entry| entry.ifindex == tap && entry.mac == Some(mac)).collect();
    assert_eq!(ours, Vec::<&_>::new());
    assert!(!node.agent.pin_path().exists());
    assert_eq!(files_below(node.agent.run_dir()), Vec::<String>::new());
    // Twice does no harm.
    node.agent.run_ok(&["cleanup"]);
}

/// Whatever the paths in its configuration are: the folders of the agent, of others, or none that exist.
#[test]
fn cleanup_leaves_a_running_agent_alone() {
    let scene = Scene::new();
    let uid = scene.start_migration();
    let node = &scene.target;
    let pins = node.agent.pin_path().to_owned();
    let elsewhere = pins.with_file_name(format!("{}x", pins.file_name().expect("a name").display()));
    let run_dir = scene.lab.folder().join("no-such-run");
    let own = node.agent.run_dir().to_owned();
    let before = node.agent.run_ok(&["cleanup", "--dry-run"]);
    let [source, target] = [&scene.source, node].map(|node| node.watch.mark());
    // 3 is that of the agent; nothing but the lock of the pins tells the last one.
    for (run_dir, pin_path, protocol, expected) in [
        (&own, &pins, 3, "is running"),
        (&run_dir, &pins, 3, "is running"),
        (&own, &elsewhere, 3, "is running"),
        (&run_dir, &elsewhere, 3, "DeviceRouteProtocol 3"),
        (&run_dir, &pins, 99, "with these pins"),
        (&own, &elsewhere, 99, "is running"),
    ] {
        let path = scene.lab.folder().join("other.cfg");
        let text = format!(
            "[global]\nInterfacePrefix = tap\nFelixHostname = {TARGET}\nDeviceRouteProtocol = {protocol}\n\
             CutoverRunDir = {}\nCutoverPinPath = {}\n",
            run_dir.display(),
            pin_path.display()
        );
        std::fs::write(&path, text).expect("space on the disk");
        let output = node.agent.run_by_file(&["cleanup", "-c", &path.display().to_string()]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{run_dir:?} {pin_path:?} {protocol}: {error}");
        assert!(error.contains(expected) && error.contains("stop it first"), "{error}");
        assert_eq!(error.trim_end().lines().count(), 1, "{error}");
    }
    assert_eq!(node.agent.run_ok(&["cleanup", "--dry-run"]), before, "nothing is gone");
    // Nor was it gone for a moment.
    let taps = [&scene.source, node].map(|node| node.tap().ifindex());
    assert_eq!(scene.source.watch.since(source).writes_to(taps[0]), Vec::<&_>::new());
    assert_eq!(node.watch.since(target).writes_to(taps[1]), Vec::<&_>::new());
    assert_eq!(node.agent.status_of(&scene.port).expect("it is known")["migration_uid"], uid);
}

/// Two agents may share a namespace if their route protocols differ, and a killed one shows nothing any more.
#[test]
fn cleanup_does_not_mind_an_agent_with_another_protocol() {
    let lab = Lab::new();
    let mut node = Node::new(&lab, SOURCE, &lab.directory(), &Port::new(1));
    let directory = lab.directory();
    let mut other = Agent::named(&lab, &node.host, &directory, "other");
    other.set("DeviceRouteProtocol", 80);
    node.agent.start();
    other.start();
    other.kill();
    other.run_ok(&["cleanup"]);
    assert!(!other.pin_path().exists() && node.agent.pin_path().exists());
}

fn files_below(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path().display().to_string()).collect()
}

/// What `cutover migrate …` says, which has to succeed.
#[track_caller]
fn migrate(node: &Node, arguments: &[&str]) -> String {
    let output = node.agent.run(&[&["migrate"], arguments].concat());
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{arguments:?}: {text}");
    text
}

/// `cutover migrate` in place of Neutron: to the target and back on one directory that two agents share, with
/// the driver's log lines.
#[test]
fn migrate_plays_the_orchestrator() {
    let mut scene = Scene::new();
    let mac = scene.port.mac;
    let port = scene.port.endpoint.clone();
    for (from, to, end) in
        [(SOURCE, TARGET, &["complete"][..]), (TARGET, SOURCE, &["complete", "--with-gap"])]
    {
        let Scene { source, target, vm, port: moving, .. } = &mut scene;
        let (here, there) = if from == SOURCE { (source, target) } else { (target, source) };
        let (here_before, there_before) = (here.watch.mark(), there.watch.mark());

        let begin = migrate(here, &["begin", "--port", &port, "--to", to]);
        assert!(begin.contains(&format!(": pre-migrate port {port} from {from} to {to}\n")), "{begin}");
        let ready = migrate(there, &["wait-ready", "--port", &port, "--timeout", "10"]);
        let active = format!(": destination port {port} active on {to}, notifying Nova\n");
        assert!(ready.contains(&active), "{ready}");

        let arriving = there.tap().open();
        drop(vm.pause());
        arriving.send(&frames::rarp(mac));
        there.wait_metrics(moving, &[ELEVATED]);
        vm.resume(arriving);

        let complete = migrate(here, &[end, &["--port", &port]].concat());
        let succeeded = format!(": succeeded, port {port} migrated from {from} to {to}\n");
        assert!(complete.contains(&succeeded), "{complete}");
        there.wait_metrics(moving, &[NORMAL]);
        here.wait_metrics(moving, &[]);
        for to in moving.routed() {
            let life: [&[u32]; 4] = [&[], &[ELEVATED], &[ELEVATED, NORMAL], &[NORMAL]];
            assert_eq!(there.watch.since(there_before).metrics(to), life, "{to}");
            assert_eq!(here.watch.since(here_before).metrics(to), [vec![NORMAL], vec![]], "{to}");
        }
    }
}

#[test]
fn an_aborted_migration_changes_no_route() {
    let scene = Scene::new();
    let mark = scene.source.watch.mark();
    let port = scene.port.endpoint.clone();
    for gap in [&[][..], &["--with-gap"]] {
        migrate(&scene.source, &["begin", "--port", &port, "--to", TARGET]);
        scene.target.wait_armed(&scene.port);
        let log = scene.target.agent.log().mark();
        migrate(&scene.source, &[&["abort", "--port", &port], gap].concat());
        scene.target.agent.log().wait_after(log, wait::SOON, &["from=Target", "to=Base"]);
    }
    let tap = scene.source.tap().ifindex();
    assert_eq!(scene.source.watch.since(mark).writes_to(tap), Vec::<&_>::new());
    for to in scene.port.routed() {
        scene.target.watch.history().assert_never_with(to);
    }
    // What has not begun cannot end.
    let output = scene.source.agent.run(&["migrate", "complete", "--port", &port]);
    assert_eq!(output.status.code(), Some(1));
}
