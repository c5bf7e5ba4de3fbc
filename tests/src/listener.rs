//! Another process that is notified of the kernel's changes, as a BGP daemon is: with the default receive buffer, and as slow as a test
//! wants it. It does nothing with what it reads. How much it lost is the kernel's word.

use crate::namespace::Namespace;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::time::Duration;

/// Reads one notification after the other, with a pause after every eighth: a machine that is busy wakes it up late each time.
const PROGRAM: &str = "use Socket; my ($name, $groups, $pause) = @ARGV; $| = 1; $0 = $name; my $kernel;\n\
    socket($kernel, 16, SOCK_RAW, 0) && bind($kernel, pack('SSLL', 16, 0, 0, $groups)) || die $!;\n\
    print qq(ready\\n);\n\
    for (my $count = 1;; $count++) {\n\
    recv($kernel, my $message, 65536, 0); select(undef, undef, undef, $pause) if $pause > 0 && $count % 8 == 0 }";

/// `RTMGRP_IPV4_ROUTE` and `RTMGRP_IPV6_ROUTE` of linux/rtnetlink.h.
pub const OF_ROUTES: u32 = 0x440;
/// `RTMGRP_NEIGH`.
pub const OF_NEIGHBOURS: u32 = 0x4;

/// The listener. It ends with this.
#[derive(Debug)]
pub struct Listener {
    child: Child,
}

impl Listener {
    /// Begins to listen.
    ///
    /// # Panics
    /// When there is no perl.
    #[must_use]
    pub fn start(namespace: &Namespace, groups: u32, pause: Duration) -> Self {
        Self::named("listener", namespace, groups, pause)
    }

    /// The same as a process of this name.
    ///
    /// # Panics
    /// When there is no perl.
    #[must_use]
    pub fn named(name: &str, namespace: &Namespace, groups: u32, pause: Duration) -> Self {
        let mut command = namespace.command("perl");
        command.args(["-e", PROGRAM, name, &groups.to_string(), &pause.as_secs_f64().to_string()]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("perl is there");
        let mut line = String::new();
        let output = child.stdout.take().expect("it was piped");
        BufReader::new(output).read_line(&mut line).expect("a pipe");
        assert_eq!(line, "ready\n");
        Self { child }
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Notifications that it was not given.
    #[must_use]
    pub fn lost(&self) -> u64 {
        lost(self.child.id())
    }

    /// SIGSTOP: it reads nothing any more.
    ///
    /// # Panics
    /// When it has ended.
    pub fn stop(&self) {
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGSTOP).expect("it is ours");
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Notifications that the sockets of a process lost that are notified of something.
///
/// # Panics
/// When the process has none: whoever asks for its losses would take that for none.
#[must_use]
#[track_caller]
pub fn lost(pid: u32) -> u64 {
    let links = fs::read_dir(format!("/proc/{pid}/fd")).expect("the process runs").flatten();
    let links = links.filter_map(|entry| fs::read_link(entry.path()).ok());
    let sockets: Vec<String> = links.map(|link| link.to_string_lossy().into_owned()).collect();
    let listing = fs::read_to_string(format!("/proc/{pid}/net/netlink")).expect("the process runs");
    let rows = listing.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    // sk, Eth, Pid, Groups, Rmem, Wmem, Dump, Locks, Drops, Inode
    let listeners = rows.filter(|row| {
        row.len() == 10
            && row[1] == "0"
            && row[3] != "00000000"
            && sockets.contains(&format!("socket:[{}]", row[9]))
    });
    let losses: Vec<u64> = listeners.map(|row| row[8].parse().expect("a number")).collect();
    assert!(!losses.is_empty(), "process {pid} does not listen:\n{listing}");
    losses.iter().sum()
}
