//! BIRD's configuration, which the host's own BIRD rehearses; and the running daemon.

mod running;

use super::{CONFIGURATION, Daemon, Program, RouteShape, VmRoute, rehearsed};
use crate::doctor::finding::Finding;
use crate::doctor::rehearsal::unreadable;
use cutover_daemon::processes::Process;
use std::path::{Path, PathBuf};

/// Where a daemon listens if nobody says otherwise.
const SOCKET: &str = "/run/bird/bird.ctl";
const SOCKET_6: &str = "/run/bird/bird6.ctl";
/// Where distributions have it, for those whose path lacks it.
const PROGRAMS: [&str; 2] = ["/usr/sbin", "/usr/local/sbin"];

/// A daemon that runs: where its configuration is, and where it listens.
pub(super) fn daemon(process: &Process) -> Daemon {
    let of = |option: &str, default: &str| {
        let mut joined = process.arguments.iter().filter_map(|argument| argument.strip_prefix(option));
        let joined = joined.rfind(|value| !value.is_empty());
        PathBuf::from(process.values_of(&[option]).last().copied().or(joined).unwrap_or(default))
    };
    let is_bird_6 = process.name == "bird6";
    let (file, socket) =
        if is_bird_6 { ("/etc/bird/bird6.conf", SOCKET_6) } else { ("/etc/bird/bird.conf", SOCKET) };
    Daemon::Bird {
        file: of("-c", file),
        socket: Some(of("-s", socket)),
        is_bird_6,
        process: Some(process.clone()),
    }
}

/// Which program rehearses: the one that is named, or the one that runs, or the one that is installed. BIRD 1 has one for each family;
/// the name of the file tells which one.
pub(super) fn program(
    named: Option<&Path>,
    process: Option<&Process>,
    is_bird_6: bool,
    file: &Path,
) -> Program {
    let is_bird_6 =
        is_bird_6 || file.file_name().is_some_and(|name| name.to_string_lossy().contains("bird6"));
    let name = if is_bird_6 { "bird6" } else { "bird" };
    // One that is replaced while it runs has another name.
    let running = process.and_then(|process| process.executable.clone());
    let running =
        running.filter(|it| it.file_name().is_some_and(|it| it.to_string_lossy().starts_with("bird")));
    let beside = |program: &Path| Some(program.with_file_name(name)).filter(|it| is_bird_6 && it.exists());
    let installed = || PROGRAMS.iter().map(|folder| Path::new(folder).join(name)).find(|it| it.exists());
    let program = named.map(|named| beside(named).unwrap_or_else(|| named.to_owned()));
    let program = program.or(running).or_else(installed).unwrap_or_else(|| PathBuf::from(name));
    Program::Bird { program, is_bird_6 }
}

/// Rehearses a configuration and, with a socket, asks the daemon.
pub(super) fn examine(
    file: &Path,
    program: Program,
    elsewhere: Option<u32>,
    socket: Option<&Path>,
    wanted: &RouteShape,
    routes: &[VmRoute],
) -> Vec<Finding> {
    let seen = elsewhere.map_or_else(|| file.to_owned(), |pid| root_of(pid, file));
    if let Some(reason) = unreadable(&seen) {
        return vec![CONFIGURATION.error(
            format!("{}: {reason}", file.display()),
            "make it readable, or name the right one with --bird-conf",
        )];
    }
    let is_bird_6 = matches!(program, Program::Bird { is_bird_6: true, .. });
    // Whoever sees other files has other paths.
    let request = super::Request { daemon: elsewhere, ..wanted.request(program, file) };
    let mut findings = rehearsed(&request, wanted);
    let Some(socket) = socket else { return findings };
    let socket =
        elsewhere.map_or_else(|| socket.to_owned(), |pid| root_of(pid, socket)).display().to_string();
    let is_bird_1 = is_bird_6 || running::version(&socket).is_ok_and(|version| version < 2);
    let is_of_daemon = |route: &&VmRoute| !is_bird_1 || route.destination.addr().is_ipv6() == is_bird_6;
    let routes: Vec<VmRoute> = routes.iter().filter(is_of_daemon).copied().collect();
    findings.extend(running::examine(&socket, &routes));
    findings
}

/// A file as a process sees it.
pub(super) fn root_of(pid: u32, file: &Path) -> PathBuf {
    let below = file.strip_prefix("/").unwrap_or(file);
    Path::new("/proc").join(pid.to_string()).join("root").join(below)
}

#[cfg(test)]
mod places {
    use super::*;

    #[test]
    fn options_of_the_daemon_are_read() {
        let process = |name: &str, line: &str| Process {
            name: name.into(),
            arguments: line.split(' ').map(str::to_owned).collect(),
            ..Process::default()
        };
        let bird = |file: &str, socket: &str, is_bird_6| Daemon::Bird {
            file: file.into(),
            socket: Some(socket.into()),
            is_bird_6,
            process: None,
        };
        let daemon = |process: &Process| match daemon(process) {
            Daemon::Bird { file, socket, is_bird_6, .. } => {
                Daemon::Bird { file, socket, is_bird_6, process: None }
            }
            other => other,
        };
        assert_eq!(daemon(&process("bird", "bird -f -u bird")), bird("/etc/bird/bird.conf", SOCKET, false));
        assert_eq!(daemon(&process("bird6", "bird6 -f")), bird("/etc/bird/bird6.conf", SOCKET_6, true));
        assert_eq!(daemon(&process("bird", "bird -f -c /x -s /y")), bird("/x", "/y", false));
        assert_eq!(daemon(&process("bird", "bird -c/x -s/y")), bird("/x", "/y", false));
    }
}
