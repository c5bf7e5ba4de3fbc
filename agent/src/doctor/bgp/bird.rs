//! BIRD's configuration, judged by running its filters on the routes that matter; and the running daemon.

mod code;
mod config;
mod judge;
mod lexer;
mod protocol;
mod run;
mod running;
#[cfg(test)]
mod tests;

use super::{CONFIGURATION, Daemon, VmRoute, Wanted};
use crate::doctor::finding::Finding;
use config::Config;
use cutover_daemon::processes::Process;
use std::path::{Path, PathBuf};

/// Where a daemon listens if nobody says otherwise.
const SOCKET: &str = "/run/bird/bird.ctl";
const SOCKET_6: &str = "/run/bird/bird6.ctl";

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
    Daemon::Bird { file: of("-c", file), socket: Some(of("-s", socket)), is_bird_6 }
}

/// Whether there is a configuration with at least one BGP protocol.
pub(super) fn has_bgp(file: &Path) -> bool {
    file.exists() && Config::read(file).protocols.iter().any(|protocol| protocol.kind == "bgp")
}

/// Judges a configuration and, with a socket, asks the daemon.
pub(super) fn examine(
    file: &Path,
    socket: Option<&Path>,
    is_bird_6: bool,
    wanted: &Wanted,
    routes: &[VmRoute],
) -> Vec<Finding> {
    let config = Config::read(file);
    let mut findings: Vec<Finding> = config
        .unreadable
        .iter()
        .map(|line| {
            CONFIGURATION.error(line.clone(), "make it readable, or name the right one with --bird-conf")
        })
        .collect();
    if !findings.is_empty() {
        return findings;
    }
    let socket = socket.map(|socket| socket.display().to_string());
    let version = socket.as_deref().and_then(|socket| running::version(socket).ok());
    // Each daemon of BIRD 1 has one family; the name of the file tells which one.
    let is_bird_6 =
        is_bird_6 || file.file_name().is_some_and(|name| name.to_string_lossy().contains("bird6"));
    let is_bird_1 = is_bird_6 || version.map_or_else(|| !config.has_channels(), |version| version < 2);
    let mut wanted = wanted.clone();
    if is_bird_1 {
        wanted.families.retain(|family| family.is_ipv6 == is_bird_6);
    }
    findings.push(CONFIGURATION.ok(format!("{} can be read", file.display())));
    findings.extend(judge::judge(&config, is_bird_1, &wanted));
    let is_of_daemon = |route: &&VmRoute| !is_bird_1 || route.destination.addr().is_ipv6() == is_bird_6;
    let routes: Vec<VmRoute> = routes.iter().filter(is_of_daemon).copied().collect();
    findings.extend(socket.map(|socket| running::examine(&socket, &routes)).unwrap_or_default());
    findings
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
        };
        assert_eq!(daemon(&process("bird", "bird -f -u bird")), bird("/etc/bird/bird.conf", SOCKET, false));
        assert_eq!(daemon(&process("bird6", "bird6 -f")), bird("/etc/bird/bird6.conf", SOCKET_6, true));
        assert_eq!(daemon(&process("bird", "bird -f -c /x -s /y")), bird("/x", "/y", false));
        assert_eq!(daemon(&process("bird", "bird -c/x -s/y")), bird("/x", "/y", false));
    }
}
